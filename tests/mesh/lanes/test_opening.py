import pytest
import trio
import trio.testing

from core import limits
from core.crypto import system_entropy
from core.ids import NodeId
from mesh.errors import NotTrusted, Unreachable
from mesh.lanes.memory import Hall
from mesh.lanes.offer import Kind, MemoryWay, Offer, TcpWay, UnixWay
from mesh.lanes.opening import Reach, open_lane
from mesh.lanes.tcp import TcpDoor
from mesh.wire import Address
from tests.support.lanes import HERE, NODE, open_files

TCP = TcpWay(Address("192.0.2.1", 443), b"h" * 32)
UNIX = UnixWay("/run/lanes.sock")
MEMORY = MemoryWay(NODE)
OFFER = Offer.make([TCP, UNIX, MEMORY], system_entropy)


@pytest.mark.parametrize(
    ("reach", "ways"),
    [
        (Reach(), []),
        (Reach(frozenset({"192.0.2.2"})), []),
        (Reach(frozenset({"192.0.2.1"})), [TCP]),
        (Reach(same_host=True), [UNIX]),
        (Reach(hall=Hall()), [MEMORY]),
        (Reach(frozenset({"192.0.2.1"}), same_host=True, hall=Hall()), [MEMORY, UNIX, TCP]),
    ],
)
def test_only_ways_to_where_the_peer_is_are_tried_nearest_first(reach, ways):
    assert reach.order(OFFER) == ways


def in_virtual_time(test):
    async def main():
        with trio.fail_after(300):
            await test()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_no_way_is_unreachable():
    async def main():
        with pytest.raises(Unreachable, match="no way"):
            await open_lane(OFFER, Reach())

    in_virtual_time(main)


def answering(answer, node=NODE):
    """A hall with a node that says `answer` to a token, or says nothing."""
    hall = Hall()
    tokens = []

    async def serve(*, task_status):
        with hall.listening(node) as arriving:
            task_status.started()
            async for stream in arriving:
                tokens.append(await stream.receive_some())
                if answer is not None:
                    await stream.send_all(answer)
                    await stream.send_eof()

    return hall, serve, tokens


@pytest.mark.parametrize("answer", [bytes(32), b"no", b""])
def test_who_does_not_know_the_token_gets_no_lane(answer):
    async def main():
        hall, serve, tokens = answering(answer)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            error = NotTrusted if len(answer) == 32 else Unreachable
            with pytest.raises(error):
                await open_lane(OFFER, Reach(hall=hall))
            nursery.cancel_scope.cancel()
        assert tokens == [OFFER.preface()]

    in_virtual_time(main)


def test_a_token_is_shown_once_even_if_other_ways_are_left():
    async def main():
        other = NodeId(b"o" * 32)
        hall, serve, tokens = answering(b"")
        offer = Offer.make([MEMORY, MemoryWay(other)], system_entropy)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            with hall.listening(other) as arriving:
                with pytest.raises(Unreachable, match="refused"):
                    await open_lane(offer, Reach(hall=hall))
                with pytest.raises(trio.WouldBlock):
                    arriving.receive_nowait()
            nursery.cancel_scope.cancel()
        assert len(tokens) == 1

    in_virtual_time(main)


def test_a_way_that_leads_nowhere_is_left_for_the_next():
    async def main():
        hall, serve, _ = answering(OFFER.answer())
        away = MemoryWay(NodeId(b"a" * 32))
        offer = Offer(OFFER.lane_id, OFFER.token, 10, (away, UNIX, MEMORY))
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            lane = await open_lane(offer, Reach(same_host=True, hall=hall))
            assert lane.kind is Kind.MEMORY
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


def test_silence_is_waited_for_as_long_as_the_offer_lasts():
    async def main():
        hall, serve, _ = answering(None)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            began = trio.current_time()
            with pytest.raises(Unreachable, match="in time"):
                await open_lane(OFFER, Reach(hall=hall))
            assert trio.current_time() - began == limits.LANE_OFFER_SECONDS
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


def test_a_port_that_says_nothing_is_waited_for_shortly_and_leaves_nothing():
    async def main():
        (listener,) = await trio.open_tcp_listeners(0, host=HERE)
        port = listener.socket.getsockname()[1]
        before = open_files()
        (way,) = TcpDoor(host=HERE).ways([Address(HERE, port)])
        async with listener:
            began = trio.current_time()
            with pytest.raises(Unreachable):
                await open_lane(Offer.make([way], system_entropy), Reach(frozenset({HERE})))
            assert trio.current_time() - began == limits.LANE_CONNECT_SECONDS
            assert open_files() == before

    in_virtual_time(main)
