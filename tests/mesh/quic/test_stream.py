"""A stream in both engines: what trio asks of streams, credit, and every way one ends."""

import pytest
import trio
from trio.testing import check_half_closeable_stream, check_two_way_stream

from core import limits
from mesh.quic import flow
from tests.support.engines import EACH
from tests.support.wires import Pair, a_pair, in_virtual_time, read_all, streams

WINDOW = limits.STREAM_WINDOW_BYTES
SMALL_WINDOW_BYTES = 32 * limits.KIB


def with_streams(kind, test):
    """Run `test(pair, near, far)` with both ends of a stream."""

    async def main():
        async with a_pair(kind) as pair:
            await test(pair, *await streams(pair))

    in_virtual_time(main)


async def settle(pair: Pair) -> None:
    """Until nothing is under way any more."""
    with trio.move_on_after(1.0):
        await trio.sleep_forever()


@EACH
@pytest.mark.slow
@pytest.mark.parametrize("check", [check_two_way_stream, check_half_closeable_stream])
@pytest.mark.parametrize("clogged", [False, True])
def test_it_is_a_stream_as_trio_knows_them(kind, check, clogged, monkeypatch):
    # A small window is full as a large one is, and sooner: time stands still until then.
    monkeypatch.setattr(limits, "STREAM_WINDOW_BYTES", SMALL_WINDOW_BYTES)
    monkeypatch.setattr(flow, "_GRANT_BYTES", SMALL_WINDOW_BYTES // 4)

    async def main():
        async with a_pair(kind) as pair:

            async def maker():
                return await streams(pair)

            async def clogged_maker():
                both = await streams(pair)
                for one in both:
                    await one.send_all(bytes(one._credit.left))
                return both

            await check(maker, clogged_maker if clogged else None)

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_an_unread_stream_stops_its_sender_at_one_window(kind):
    async def test(pair, near, far):
        sent = 0
        with trio.move_on_after(5):
            while True:
                await near.send_all(bytes(10_000))
                sent += 10_000
        await settle(pair)
        assert WINDOW - 20_000 < sent <= WINDOW
        assert far.unread_bytes == WINDOW - 1, "that and no more is kept; one byte was read"
        assert near._credit.left == 0
        before = pair.net.seen
        pair.net.seen = before = []
        await settle(pair)
        assert not before, "and nothing goes back and forth meanwhile"
        assert len(await far.receive_some(10)) == 10, "the connection is alive"

    with_streams(kind, test)


@EACH
@pytest.mark.slow
def test_a_stream_that_is_read_has_no_end(kind):
    async def test(pair, near, far):
        size = 3 * WINDOW + 17
        got = 0

        async def read():
            nonlocal got
            while data := await far.receive_some(100_000):
                assert len(data) <= 100_000
                got += len(data)
                assert far.unread_bytes <= WINDOW

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await near.send_all(bytes(size))
            await near.send_eof()
        assert got == size
        assert len(pair.near._streams) == len(pair.far._streams) == 1

    with_streams(kind, test)


@EACH
def test_bytes_arrive_as_they_were_sent(kind):
    async def test(pair, near, far):
        whole = bytes(range(256)) * 400
        async with trio.open_nursery() as nursery:

            async def send(stream, step):
                for at in range(0, len(whole), step):
                    await stream.send_all(memoryview(whole)[at : at + step])
                await stream.send_eof()

            nursery.start_soon(send, near, 999)
            nursery.start_soon(send, far, 40_000)
            assert await read_all(far) == whole
            assert await read_all(near) == whole

    with_streams(kind, test)


@EACH
def test_what_arrived_before_a_break_is_read_first(kind):
    async def test(pair, near, far):
        await near.send_all(b"the last words")
        await settle(pair)
        pair.near.close(5, "enough")
        await pair.far.over.wait()
        assert await far.receive_some(4) == b"the "
        assert await far.receive_some() == b"last words"
        with pytest.raises(trio.BrokenResourceError, match="enough"):
            await far.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="enough"):
            await far.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        await far.send_eof()
        await far.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await far.receive_some()

    with_streams(kind, test)


@EACH
def test_a_reset_breaks_the_reader(kind):
    async def test(pair, near, far):
        near._owner.machine.reset(near.number, 0)
        near._owner.flush()
        with pytest.raises(trio.BrokenResourceError, match="gave up"):
            await read_all(far)
        await far.send_all(b"the other direction lives")
        assert await near.receive_some() == b"the other direction lives"

    with_streams(kind, test)


@EACH
def test_a_reader_that_leaves_breaks_the_sender(kind):
    async def test(pair, near, far):
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError, match="closed this stream"):
            while True:
                await near.send_all(bytes(1_000))
        with pytest.raises(trio.BrokenResourceError):
            await near.wait_send_all_might_not_block()
        assert await near.receive_some() == b""

    with_streams(kind, test)


@EACH
@pytest.mark.slow
def test_waiting_senders_and_readers_wake_when_it_ends(kind):
    async def test(pair, near, far):
        outcomes = []

        async def fail(call, *arguments):
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)) as caught:
                await call(*arguments)
            outcomes.append(caught.type)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, near.send_all, bytes(WINDOW + 1))
            nursery.start_soon(fail, near.receive_some)
            await settle(pair)
            await near.aclose()
        assert outcomes == [trio.ClosedResourceError] * 2
        outcomes.clear()
        async with trio.open_nursery() as nursery:
            one = await pair.near.open_stream()
            nursery.start_soon(fail, one.send_all, bytes(WINDOW + 1))
            nursery.start_soon(fail, one.receive_some)
            await settle(pair)
            pair.far.close()
        assert outcomes == [trio.BrokenResourceError] * 2

    with_streams(kind, test)


@EACH
@pytest.mark.slow
def test_two_tasks_do_not_share_a_direction(kind):
    async def test(pair, near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await settle(pair)
            with pytest.raises(trio.BusyResourceError):
                await near.receive_some()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(WINDOW + 1))
            await settle(pair)
            with pytest.raises(trio.BusyResourceError):
                await near.send_all(b"x")
            with pytest.raises(trio.BusyResourceError):
                await near.send_eof()
            nursery.cancel_scope.cancel()
        await far.aclose()

    with_streams(kind, test)


@EACH
def test_sizes_that_make_no_sense(kind):
    async def test(pair, near, far):
        for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
            with pytest.raises(error):
                await near.receive_some(wrong)
        await near.send_all(b"")
        await near.send_all(b"x")
        assert await far.receive_some(1) == b"x"

    with_streams(kind, test)


@EACH
@pytest.mark.slow
def test_streams_come_and_go_without_a_trace(kind):
    """Ended in every way there is, many more of them than may be open at once."""

    async def main():
        async with a_pair(kind) as pair:
            for number in range(300):
                near, far = await streams(pair)
                await near.send_all(bytes(3_000))
                if number % 3 == 0:
                    await near.aclose()
                    await far.aclose()
                elif number % 3 == 1:
                    await far.aclose()
                    await near.aclose()
                else:
                    await near.send_eof()
                    await far.send_eof()
                    await read_all(near)
                    await read_all(far)
                    await near.aclose()
                    await far.aclose()
            await settle(pair)
            for connection in (pair.near, pair.far):
                assert connection._streams == {}
                assert connection._ours == 0
                if kind.value == "aioquic":
                    assert len(connection.machine._quic._streams) <= 2
            assert pair.near.closed is None

    in_virtual_time(main)
