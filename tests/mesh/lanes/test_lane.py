# One suite for lanes of every kind; what is special to one is in the test of its module.

from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing

from core import limits
from mesh.lanes.lane import Held, Lane, Raw, read_exactly
from mesh.lanes.memory import memory_pair
from mesh.lanes.offer import Kind
from mesh.quic.stream import OneAtATime
from tests.support.lanes import in_house, open_files

pytestmark = pytest.mark.slow
every_kind = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.word)


async def clogged(make):
    """Two ends of which neither can send any more."""
    one, other = await make()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill, one)
        nursery.start_soon(fill, other)
        await trio.testing.wait_all_tasks_blocked(0.02)
        nursery.cancel_scope.cancel()
    return one, other


async def fill(stream):
    while True:
        await stream.send_all(bytes(64 * limits.KIB))


@every_kind
def test_a_lane_is_a_stream_that_closes_in_halves(kind, tmp_path):
    async def test(house):
        # A cancelled send may have sent half a TLS record: tests/mesh/lanes/test_tls.py clogs that.
        full = None if kind is Kind.TCP else partial(clogged, house.pair)
        await trio.testing.check_half_closeable_stream(house.pair, full)

    in_house(kind, tmp_path, test)


@every_kind
def test_many_bytes_come_through_both_ways_at_once(kind, tmp_path):
    blocks = [bytes([n]) * (n * 40_961 + 1) for n in range(40)]
    expected = b"".join(blocks)

    async def send(lane):
        for block in blocks:
            await lane.send_all(block)
        await lane.send_eof()

    async def receive(lane, into, size):
        while part := await lane.receive_some(size):
            assert size is None or len(part) <= size
            into += part

    async def test(house):
        ours, theirs = await house.pair()
        heard = {ours: bytearray(), theirs: bytearray()}
        async with ours, theirs, trio.open_nursery() as nursery:
            for lane, size in ((ours, None), (theirs, 99_991)):
                nursery.start_soon(send, lane)
                nursery.start_soon(receive, lane, heard[lane], size)
        assert all(got == expected for got in heard.values())
        assert ours.lane_id == theirs.lane_id
        assert ours.kind is theirs.kind is kind

    in_house(kind, tmp_path, test)


@every_kind
def test_the_other_half_goes_on_after_an_end(kind, tmp_path):
    async def test(house):
        ours, theirs = await house.pair()
        async with ours, theirs:
            await theirs.send_all(b"question")
            await ours.send_all(b"something already on its way")
            await trio.testing.wait_all_tasks_blocked()
            await theirs.send_eof()
            assert await read_exactly(ours, 8) == b"question"
            assert await ours.receive_some() == b""
            await ours.send_all(b"answer")
            await ours.send_eof()
            got = b""
            while part := await theirs.receive_some(5):
                got += part
            assert got == b"something already on its wayanswer"
            with pytest.raises(trio.ClosedResourceError):
                await theirs.send_all(b"more")

    in_house(kind, tmp_path, test)


@every_kind
def test_who_sends_waits_for_who_does_not_read(kind, tmp_path):
    async def test(house):
        ours, theirs = await house.pair()
        sent = 0

        async def send():
            nonlocal sent
            while True:
                await ours.send_all(bytes(64 * limits.KIB))
                sent += 64 * limits.KIB

        async with ours, theirs, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.05)
            stopped_at = sent
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert sent == stopped_at < 16 * limits.MIB  # what a kernel may keep, and no more
            await read_exactly(theirs, sent)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert sent > stopped_at
            nursery.cancel_scope.cancel()

    in_house(kind, tmp_path, test)


@every_kind
def test_a_link_that_ends_cuts_its_lanes_at_once_and_no_others(kind, tmp_path):
    outcomes = []

    async def use(method, *args):
        try:
            await method(*args)
        except trio.BrokenResourceError:
            outcomes.append("broken")

    async def test(house):
        ours, theirs = await house.pair("a link")
        kept, other = await house.pair("another link")
        async with ours, theirs, kept, other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(use, ours.receive_some)
                nursery.start_soon(use, fill, ours)
                await trio.testing.wait_all_tasks_blocked(0.02)
                house.doors.drop("a link")
            assert outcomes == ["broken"] * 2
            await use(ours.send_all, b"still")
            await use(ours.send_eof)
            await use(ours.wait_send_all_might_not_block)
            assert outcomes == ["broken"] * 5
            await kept.send_all(b"here")
            assert await other.receive_some() == b"here"

    in_house(kind, tmp_path, test)


@every_kind
def test_the_side_that_opened_cuts_too(kind, tmp_path):
    async def test(house):
        ours, theirs = await house.pair()
        async with ours, theirs:
            house.doors.drop("the link's other end")
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()

    in_house(kind, tmp_path, test)


@every_kind
def test_lanes_end_when_the_doors_do(kind, tmp_path):
    lanes = []

    async def test(house):
        lanes.extend(await house.pair())

    in_house(kind, tmp_path, test)

    async def ended():
        for lane in lanes:
            with pytest.raises(trio.BrokenResourceError):
                await lane.send_all(b"x")

    trio.run(ended)


@every_kind
def test_cancelled_in_the_middle_it_leaves_nothing_behind(kind, tmp_path):
    async def test(house):
        before = open_files()
        async with trio.open_nursery() as nursery:
            ours, theirs = await house.pair()

            async def use(lane, work):
                with suppress(trio.BrokenResourceError):  # by the other, who is cancelled first
                    async with lane:
                        await work(lane)

            nursery.start_soon(use, ours, fill)
            nursery.start_soon(use, theirs, lambda lane: lane.receive_some(1))
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert open_files() == before
        assert len(house.doors._held) == 0

    in_house(kind, tmp_path, test)


def test_what_is_held_is_cut_once_and_only_with_its_link():
    cut = []
    held = Held()
    forget = held.add("one", lambda: cut.append("a"))
    held.add("one", lambda: cut.append("b"))
    held.add("two", lambda: cut.append("c"))
    forget()
    forget()
    assert len(held) == 2
    held.drop("one")
    held.drop("one")
    assert cut == ["b"]
    held.drop_all()
    assert cut == ["b", "c"]
    assert len(held) == 0


def test_a_lane_closed_by_its_user_says_so():
    async def main():
        stream, _ = memory_pair()
        lane = Lane(bytes(16), Kind.MEMORY, Raw(stream, stream.cut))
        await lane.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await lane.send_all(b"x")
        assert repr(lane) == "<memory lane 00000000>"

    trio.run(main)


def test_reading_exactly_takes_nothing_behind():
    async def main():
        one, other = memory_pair()
        await one.send_all(b"ab")
        await one.send_all(b"cdef")
        await one.send_eof()
        assert await read_exactly(other, 3) == b"abc"
        assert await other.receive_some() == b"def"
        with pytest.raises(trio.BrokenResourceError):
            await read_exactly(other, 1)

    trio.run(main)


def test_one_at_a_time():
    turn = OneAtATime("taken")
    with turn, pytest.raises(trio.BusyResourceError, match="taken"), turn:
        pass
    with turn:
        assert turn.busy
    assert not turn.busy
