from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from core import limits
from mesh.errors import LinkClosed, LinkError, Unreachable
from mesh.lanes import tls
from mesh.lanes.doors import Doors, NoDoor
from mesh.lanes.offer import Kind, Offer
from mesh.lanes.opening import Reach
from mesh.lanes.tcp import TcpDoor
from tests.support.lanes import HERE, House, in_house, is_gone, open_files, travelled

every_kind = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.word)


async def spoken(house):
    """A connection on which a preface is the next thing to say."""
    stream = await house.connected()
    if house.kind is Kind.TCP:
        return await tls.handshake(stream, tls.connecting(), server_side=False)
    return stream


async def says(house, preface):
    """Whether a stranger who says this is sent away without a byte."""
    async with await spoken(house) as stream:
        await stream.send_all(preface)
        return await is_gone(stream)


def in_virtual_time(kind, folder, test):
    async def main():
        with trio.fail_after(60):
            async with House(kind, folder).open() as house:
                await test(house)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


@every_kind
def test_a_wrong_token_gets_nothing_and_spoils_nothing(kind, tmp_path):
    async def test(house):
        with house.doors.offer("link", [kind], house.addresses) as offered:
            lane_id = offered.offer.lane_id
            for preface in (bytes(48), lane_id + bytes(32)):
                assert await says(house, preface)
            assert house.refusals == ["WRONG_TOKEN"] * 2
            theirs = await house.doors.open("link", offered.offer, house.reach)
            async with theirs, await offered.lane() as ours:
                assert ours.lane_id == theirs.lane_id == lane_id

    in_house(kind, tmp_path, test)


@every_kind
def test_a_token_works_once(kind, tmp_path):
    async def test(house):
        with (
            house.doors.offer("link", [kind], house.addresses) as offered,
            house.doors.offer("link", [kind], house.addresses),  # so that somebody is let in
        ):
            offer = travelled(offered.offer)
            async with await house.doors.open("link", offer, house.reach):
                with pytest.raises(Unreachable, match="refused"):
                    await house.doors.open("link", offer, house.reach)
                assert await says(house, offer.preface())
                async with await offered.lane():
                    pass
        assert house.refusals == ["WRONG_TOKEN"] * 2

    in_house(kind, tmp_path, test)


@every_kind
def test_a_token_is_worth_nothing_after_its_link(kind, tmp_path):
    async def test(house):
        with (
            house.doors.offer("link", [kind], house.addresses) as offered,
            house.doors.offer("another", [kind], house.addresses) as other,
        ):
            house.doors.drop("link")
            with pytest.raises(Unreachable):
                await house.doors.open("there", offered.offer, house.reach)
            with pytest.raises(LinkClosed):
                await offered.lane()
            theirs = await house.doors.open("there", other.offer, house.reach)
            async with theirs, await other.lane():
                pass

    in_house(kind, tmp_path, test)


@every_kind
def test_tokens_of_two_links_are_not_mixed_up(kind, tmp_path):
    async def test(house):
        with (
            house.doors.offer("ann", [kind], house.addresses) as anns,
            house.doors.offer("ben", [kind], house.addresses) as bens,
        ):
            crossed = anns.offer.lane_id + bens.offer.token.reveal()
            assert await says(house, crossed)
            bens_lane = await house.doors.open("there", bens.offer, house.reach)
            anns_lane = await house.doors.open("there", anns.offer, house.reach)
            house.doors.drop("ben")
            async with anns_lane, bens_lane, await anns.lane() as ours:
                await anns_lane.send_all(b"hers")
                assert await ours.receive_some() == b"hers"
                with pytest.raises(trio.BrokenResourceError):
                    await (await bens.lane()).receive_some()

    in_house(kind, tmp_path, test)


@every_kind
def test_with_nothing_on_offer_nobody_is_even_greeted(kind, tmp_path):
    async def test(house):
        async with await house.connected() as stream:
            assert await is_gone(stream)
        assert house.refusals == ["UNWANTED"]
        assert house.doors.refused.total() == 1

    in_house(kind, tmp_path, test)


@every_kind
def test_an_offer_lasts_only_so_long(kind, tmp_path):
    async def test(house):
        with house.doors.offer("link", [kind], house.addresses) as offered:
            with pytest.raises(Unreachable, match="in time"):
                await offered.lane()
            async with await house.connected() as stream:
                assert await is_gone(stream)
        assert house.refusals == ["UNWANTED"]

    in_virtual_time(kind, tmp_path, test)


@every_kind
def test_an_offer_ends_with_its_block(kind, tmp_path):
    async def test(house):
        with house.doors.offer("link", [kind], house.addresses) as offered:
            pass
        with pytest.raises(Unreachable):
            await house.doors.open("there", offered.offer, house.reach)
        assert len(house.doors._offers) == len(house.doors._waiting) == 0

    in_house(kind, tmp_path, test)


@pytest.mark.parametrize("is_there", [True, False])
@every_kind
def test_a_lane_nobody_took_is_cut(kind, is_there, tmp_path):
    async def test(house):
        with house.doors.offer("link", [kind], house.addresses) as offered:
            lane = await house.doors.open("there", offered.offer, house.reach)
            if is_there:
                await trio.testing.wait_all_tasks_blocked(0.01)
        async with lane:
            assert await is_gone(lane)

    in_house(kind, tmp_path, test)


@every_kind
def test_who_never_says_a_token_is_not_waited_for(kind, tmp_path):
    async def test(house):
        with house.doors.offer("link", [kind], house.addresses) as offered:
            async with await spoken(house) as silent, await spoken(house) as slow:
                await slow.send_all(offered.offer.preface()[:47])
                began = trio.current_time()
                assert await is_gone(silent)
                assert await is_gone(slow)
                assert trio.current_time() - began == limits.LANE_TOKEN_SECONDS
        assert house.refusals == ["TOO_SLOW"] * 2
        assert len(house.doors._strangers) == 0

    in_virtual_time(kind, tmp_path, test)


@every_kind
@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(47), b"\x16\x03\x01\xff"])
def test_whoever_says_something_else_or_leaves_is_gone(kind, words, tmp_path):
    async def test(house):
        before = open_files()
        with house.doors.offer("link", [kind], house.addresses):
            async with await house.connected() as stream:
                await stream.send_all(words)
                await stream.send_eof()
                assert await is_gone(stream)
        assert house.refusals == ["BROKEN"]
        await trio.testing.wait_all_tasks_blocked()
        assert open_files() == before

    in_house(kind, tmp_path, test)


@pytest.mark.slow
@every_kind
def test_a_thousand_silent_strangers_keep_nobody_out(kind, tmp_path):
    async def test(house):
        before = open_files()
        with house.doors.offer("link", [kind], house.addresses) as offered:
            async with AsyncExitStack() as crowd:
                for _ in range(1_000):
                    await crowd.enter_async_context(await house.connected())
                    await trio.testing.wait_all_tasks_blocked()
                most = limits.LANE_STRANGERS_PER_SOURCE_MAX
                most = most if kind is Kind.TCP else limits.LANE_STRANGERS_MAX
                assert len(house.doors._strangers) == most
                assert house.refusals.count("CROWDED") == 1_000 - most
                theirs = await house.doors.open("there", offered.offer, house.reach)
                async with theirs, await offered.lane():
                    pass
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert open_files() == before

    in_house(kind, tmp_path, test)


def test_doors_that_cannot_open_stay_closed_and_the_others_do_not(tmp_path):
    async def main():
        first = TcpDoor(host=HERE)
        with first.listening():
            events = []
            taken, free = TcpDoor(first.port, HERE), TcpDoor(host=HERE)
            doors = Doors([taken, free], events.append)
            async with trio.open_nursery() as nursery:
                await nursery.start(doors.run)
                assert list(doors.kinds) == [Kind.TCP]
                assert free.port != first.port
                nursery.cancel_scope.cancel()
        assert [type(event) for event in events] == [NoDoor]
        assert not doors.kinds

    trio.run(main)


def test_who_waits_for_a_lane_is_told_when_the_doors_close(tmp_path):
    async def main():
        told = []

        async def wait(house):
            with house.doors.offer("link", [Kind.MEMORY]) as offered:
                try:
                    await offered.lane()
                except LinkClosed:
                    told.append(trio.current_time())

        house = House(Kind.MEMORY, tmp_path)
        async with trio.open_nursery() as nursery, house.open():
            nursery.start_soon(wait, house)
            await trio.testing.wait_all_tasks_blocked()
            closed = trio.current_time()
        assert told == [closed]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_a_node_without_doors_opens_lanes_and_offers_none(tmp_path):
    async def test(house):
        guest = Doors()
        async with trio.open_nursery() as nursery:
            await nursery.start(guest.run)
            with pytest.raises(Unreachable), guest.offer("link", list(Kind)):
                pass
            with house.doors.offer("link", [Kind.MEMORY]) as offered:
                lane = await guest.open("link", offered.offer, house.reach)
                assert await offered.lane()
                guest.drop("link")
                with pytest.raises(trio.BrokenResourceError):
                    await lane.send_all(b"x")
            nursery.cancel_scope.cancel()

    in_house(Kind.MEMORY, tmp_path, test)


def test_a_link_that_ends_while_its_lane_opens_has_no_lane(tmp_path):
    async def test(house):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host=HERE)
            places = [house.addresses[0]._replace(port=listener.socket.getsockname()[1])]
            with house.doors.offer("link", [Kind.TCP], places) as offered:
                nursery.start_soon(closed, house, offered.offer)
                async with listener, await listener.accept():
                    house.doors.drop("there")

    async def closed(house, offer):
        with pytest.raises(LinkClosed):
            await house.doors.open("there", offer, house.reach)

    in_house(Kind.TCP, tmp_path, test)


def test_a_link_that_ends_just_as_its_lane_opens_has_no_lane(tmp_path, monkeypatch):
    async def test(house):
        async def open_lane(offer, reach):
            lane = await real(offer, reach)
            house.doors.drop("there")  # before whoever asked gets its turn
            return lane

        from mesh.lanes import doors

        real = doors.open_lane
        monkeypatch.setattr(doors, "open_lane", open_lane)
        with house.doors.offer("link", [Kind.MEMORY]) as offered:
            with pytest.raises(LinkClosed):
                await house.doors.open("there", offered.offer, house.reach)
            async with await offered.lane() as ours:
                assert await is_gone(ours)

    in_house(Kind.MEMORY, tmp_path, test)


def test_a_peer_that_takes_no_answer_has_no_lane(tmp_path):
    # It shows its token and leaves; whoever waits for the lane is told at once.
    async def test(house):
        with house.doors.offer("link", [Kind.MEMORY]) as offered:
            stream = await house.connected()
            await stream.send_all(offered.offer.preface())
            await stream.aclose()
            with pytest.raises(LinkError, match="broke"):
                await offered.lane()
        assert len(house.doors._held) == 0

    in_house(Kind.MEMORY, tmp_path, test)


def test_so_many_offers_and_no_more(tmp_path):
    async def test(house):
        async with AsyncExitStack() as stack:
            for _ in range(limits.LANE_OFFERS_MAX):
                stack.enter_context(house.doors.offer("link", [Kind.MEMORY]))
            with pytest.raises(LinkError), house.doors.offer("link", [Kind.MEMORY]):
                pass
        with house.doors.offer("link", [Kind.MEMORY]) as offered:
            assert isinstance(offered.offer, Offer)
            assert Reach().order(offered.offer) == []

    in_house(Kind.MEMORY, tmp_path, test)
