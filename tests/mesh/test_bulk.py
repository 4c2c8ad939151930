"""Bulk takes the best lane there is, falls back to the link, and ends with it."""

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import trio

from core import limits
from mesh.bulk import REQUEST, Bulk, _Lanes
from mesh.errors import LinkClosed, LinkError
from mesh.lanes.doors import Doors
from mesh.lanes.memory import Hall, MemoryDoor
from mesh.lanes.offer import Kind, Offer
from mesh.lanes.tcp import TcpDoor
from mesh.lanes.unix import UnixDoor
from mesh.link import PeerFailed
from mesh.paths import Paths, Ways
from mesh.quic.engine import Figures
from mesh.tiers import Lane, Tier
from mesh.udp import UdpWire
from mesh.wire import Address
from tests.support.neighbours import Neighbour, a_neighbour, pass_time, start, until
from tests.support.nodes import a_node, a_roster
from tests.support.wires import Net, in_virtual_time

HERE = b"one machine"
ANN, BOB = a_node("ann", boot=HERE), a_node("bob", boot=HERE)
FAR = a_node("far")
BLOCK = bytes(256 * limits.KIB)


async def count(_link, arguments, stream):
    """Reads to the end and says how much it was, and what it was told."""
    size = 0
    async for data in stream:
        size += len(data)
    await stream.send_all(repr((size, *arguments)).encode())


async def hold(_link, _arguments, stream):
    """Never ends by itself."""
    await stream.receive_some(1)
    await trio.sleep_forever()


@dataclass
class Mover:
    """A node that moves much."""

    place: Neighbour
    doors: Doors
    paths: Paths
    bulk: Bulk


def a_mover(wire, node, roster, doors, hall=None, port=lambda: 0, **clock):
    place = a_neighbour(wire, node, roster, **clock)
    place.links.services.streams.update(count=count, hold=hold)
    paths = Paths(place.links, place.port)
    made = Doors(doors)
    bulk = Bulk(place.links, made, paths, node.speaker.host, port, hall)
    return Mover(place, made, paths, bulk)


@asynccontextmanager
async def linked(other=BOB, *, halls=None, services=None):
    """Ann and another in one process; lanes change hands in memory."""
    near_hall = Hall()
    far_hall = near_hall if halls is None else halls
    net, roster = Net(), a_roster([ANN, other])
    async with trio.open_nursery() as nursery:
        near = a_mover(
            net.wire("10.0.0.1"), ANN, roster, [MemoryDoor(near_hall, ANN.id)], near_hall
        )
        door = MemoryDoor(far_hall, other.id)
        far = a_mover(net.wire("10.0.0.2"), other, roster, [door], far_hall)
        far.place.links.services.streams.update(services or {})
        for one in (near, far):
            await start(nursery, one.place, one.paths, one.bulk)
        link = await near.place.meet(far.place)
        yield SimpleNamespace(near=near, far=far, link=link, nursery=nursery)
        nursery.cancel_scope.cancel()


async def exchange(stream, blocks=4):
    for _ in range(blocks):
        await stream.send_all(BLOCK)
    await stream.send_eof()
    answer = b"".join([data async for data in stream])
    await stream.aclose()
    return answer.decode()


def lane_of(stream):
    """The word for what carries a stream."""
    inner = stream._stream
    return inner.kind.word if hasattr(inner, "lane_id") else "link"


# --- which way it takes ---------------------------------------------------------------------------


def test_within_a_process_it_goes_by_memory():
    async def main():
        async with linked() as scene:
            stream = await scene.near.bulk.open(scene.link, "count", 7, b"x")
            assert lane_of(stream) == "memory"
            assert await exchange(stream) == f"({4 * len(BLOCK)}, 7, b'x')"
            assert "inproc, control and bulk by memory" in scene.near.bulk.explain(scene.link)
            assert not scene.near.paths.of(scene.link).is_busy

    in_virtual_time(main)


@pytest.mark.slow
def test_to_a_node_elsewhere_it_goes_over_the_link():
    """It has no door that a lane could come in by, and says so once."""

    async def main():
        async with linked(FAR) as scene:
            scene.near.place.links.keep(FAR.id, [])
            asked = []
            offer = scene.far.place.links.services.requests[REQUEST]

            async def told(link, arguments):
                asked.append(arguments[0])
                return await offer(link, arguments)

            scene.far.place.links.services.requests[REQUEST] = told
            for _ in range(3):
                stream = await scene.near.bulk.open(scene.link, "count")
                assert lane_of(stream) == "link"
                assert await exchange(stream) == f"({4 * len(BLOCK)},)"
            assert asked == [(int(Kind.TCP),)]
            await pass_time(limits.LANE_AGAIN_SECONDS + 1)
            await exchange(await scene.near.bulk.open(scene.link, "count"))
            assert len(asked) == 2  # after some minutes it is asked again

    in_virtual_time(main)


def test_a_peer_without_lanes_is_no_trouble():
    async def main():
        async with linked() as scene:
            del scene.far.place.links.services.requests[REQUEST]
            stream = await scene.near.bulk.open(scene.link, "count")
            assert lane_of(stream) == "link"
            assert await exchange(stream) == f"({4 * len(BLOCK)},)"

    in_virtual_time(main)


def test_another_process_of_this_machine_has_no_way_in_memory():
    async def main():
        async with linked(halls=Hall()) as scene:
            stream = await scene.near.bulk.open(scene.link, "count")
            assert lane_of(stream) == "link"
            assert await exchange(stream) == f"({4 * len(BLOCK)},)"

    in_virtual_time(main)


def test_a_stream_nobody_serves_breaks_and_the_lane_is_tried_again():
    async def main():
        async with linked() as scene:
            stream = await scene.near.bulk.open(scene.link, "nothing of that kind")
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(bytes(8 * limits.MIB))
            await stream.aclose()
            assert await exchange(await scene.near.bulk.open(scene.link, "count"))

    in_virtual_time(main)


@pytest.mark.parametrize("door", ["unix", "tcp"])
def test_over_real_sockets(door, tmp_path):
    """The same machine: a Unix socket; if not, TLS over TCP."""

    def clock():
        return int(time.time() * 1_000)

    async def main():
        other = BOB if door == "unix" else FAR
        roster = a_roster([ANN, other])
        tcp = TcpDoor(host="127.0.0.1")
        folder = tmp_path / "run"
        folder.mkdir()
        async with trio.open_nursery() as nursery:
            near = a_mover(UdpWire.bind("127.0.0.1", 0), ANN, roster, [], clock=clock)
            far = a_mover(
                *(UdpWire.bind("127.0.0.1", 0), other, roster, [tcp, UnixDoor(folder)]),
                port=lambda: tcp.port, clock=clock,
            )  # fmt: skip
            for one in (near, far):
                await start(nursery, one.place, one.paths, one.bulk)
            link = await near.place.meet(far.place)
            stream = await near.bulk.open(link, "count", 1)
            assert lane_of(stream) == door
            assert await exchange(stream, 40) == f"({40 * len(BLOCK)}, 1)"
            held = await near.bulk.open(link, "hold")
            near.place.links.drop(other.id, "revoked")
            with pytest.raises(trio.BrokenResourceError):
                await held.send_all(bytes(64 * limits.MIB))
            nursery.cancel_scope.cancel()

    trio.run(main)


# --- the end --------------------------------------------------------------------------------------


def test_lanes_end_with_their_link_in_the_same_turn():
    async def main():
        async with linked() as scene:
            stream = await scene.near.bulk.open(scene.link, "hold")
            await stream.send_all(b"!")
            await pass_time(1)
            (there,) = scene.far.bulk._served
            assert len(scene.far.doors._held) == len(scene.near.doors._held) == 1
            # What a removal does, on either side:
            scene.far.place.links.drop(ANN.id, "revoked")
            assert there.over.is_set()
            assert len(scene.far.doors._held) == 0
            assert not scene.far.bulk._served
            assert await stream.receive_some() == b""
            await until(scene.link.over.is_set)
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            await pass_time(1)
            assert not scene.far.bulk._nursery.child_tasks - {
                task for task in scene.far.bulk._nursery.child_tasks if "Doors" in task.name
            }
            with pytest.raises(LinkClosed):
                await scene.near.bulk.open(scene.link, "count")
            assert not scene.near.bulk._lanes

    in_virtual_time(main)


def test_a_service_that_does_not_look_at_its_lane_ends_with_the_link_as_well():
    ended = []

    async def stubborn(_link, _arguments, _stream):
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def main():
        async with linked(services={"stubborn": stubborn}) as scene:
            await scene.near.bulk.open(scene.link, "stubborn")
            await pass_time(1)
            scene.near.place.links.drop(BOB.id, "gone")
            await pass_time(1)
            assert ended == [True]

    in_virtual_time(main)


def test_a_transfer_is_not_cut_because_the_link_itself_is_unused():
    async def main():
        async with linked() as scene:
            stream = await scene.near.bulk.open(scene.link, "count")
            for _ in range(60):
                await stream.send_all(BLOCK)
                await pass_time(10)
            assert await exchange(stream, 0) == f"({60 * len(BLOCK)},)"
            await pass_time(2 * limits.LINK_UNUSED_SECONDS)
            assert scene.link.over.is_set()

    in_virtual_time(main)


def test_a_lane_that_is_killed_in_the_middle_is_left_alone_for_a_while():
    async def main():
        async with linked() as scene:
            scene.near.place.links.keep(BOB.id, [])
            stream = await scene.near.bulk.open(scene.link, "hold")
            await stream.send_all(b"!")
            await pass_time(1)
            (link,) = scene.far.bulk._served
            scene.far.doors.drop(link)  # the lane, not the link
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(bytes(8 * limits.MIB))
            await stream.aclose()
            assert lane_of(await scene.near.bulk.open(scene.link, "count")) == "link"
            await pass_time(limits.LANE_AGAIN_SECONDS + 1)
            assert lane_of(await scene.near.bulk.open(scene.link, "count")) == "memory"

    in_virtual_time(main)


def test_before_and_after_its_time_no_lane_is_promised():
    async def main():
        async with linked() as scene:
            scene.far.bulk._nursery = None
            with pytest.raises(PeerFailed, match="no_lane"):
                await scene.link.request(REQUEST, (3,), "count", ())

    in_virtual_time(main)


# --- hostile members ------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_wants_a_thousand_lanes_gets_a_few_and_the_others_are_busy():
    async def main():
        async with linked() as scene:
            got = [await scene.near.bulk.open(scene.link, "hold") for _ in range(20)]
            words = [lane_of(stream) for stream in got]
            assert words == ["memory"] * limits.LANES_SERVED_MAX + ["link"] * 4
            for _ in range(1_000):
                with pytest.raises(PeerFailed, match="busy"):
                    await scene.link.request(REQUEST, (3,), "hold", ())
            assert sum(map(len, scene.far.bulk._served.values())) == limits.LANES_SERVED_MAX

    in_virtual_time(main)


def test_when_there_is_room_again_lanes_are_had_again():
    async def main():
        async with linked() as scene:
            got = [await scene.near.bulk.open(scene.link, "count") for _ in range(17)]
            assert lane_of(got[-1]) == "link"
            for stream in got:
                await exchange(stream, 0)
            await until(lambda: not scene.far.bulk._served)
            assert lane_of(await scene.near.bulk.open(scene.link, "count")) == "memory"

    in_virtual_time(main)


def test_all_peers_together_get_so_many_lanes(monkeypatch):
    monkeypatch.setattr(limits, "LANES_SERVED_TOTAL_MAX", 5)

    async def main():
        async with linked() as scene:
            got = [await scene.near.bulk.open(scene.link, "hold") for _ in range(7)]
            assert [lane_of(stream) for stream in got] == ["memory"] * 5 + ["link"] * 2

    in_virtual_time(main)


def test_offers_that_nobody_takes_are_withdrawn_and_block_nobody_for_long():
    async def main():
        async with linked() as scene:
            for _ in range(limits.LANES_SERVED_MAX):
                (row,) = await scene.link.request(REQUEST, (3,), "count", ())
                assert Offer.read_untrusted(row)
            with pytest.raises(PeerFailed, match="busy"):
                await scene.link.request(REQUEST, (3,), "count", ())
            await pass_time(limits.LANE_OFFER_SECONDS + 1)
            assert not scene.far.bulk._served
            assert lane_of(await scene.near.bulk.open(scene.link, "count")) == "memory"

    in_virtual_time(main)


def test_an_offer_at_somebody_elses_address_is_not_followed(monkeypatch):
    async def main():
        async with linked(FAR) as scene:
            made = []
            monkeypatch.setattr(
                "mesh.lanes.tcp.connect", lambda way: made.append(way) or pytest.fail("followed")
            )

            async def lies(_link, _arguments):
                way = (1, bytes([192, 0, 2, 1, 0, 80]), bytes(32))
                return ((1, bytes(16), bytes(32), 10, (way,)),)

            scene.far.place.links.services.requests[REQUEST] = lies
            stream = await scene.near.bulk.open(scene.link, "count")
            assert lane_of(stream) == "link"
            assert await exchange(stream) == f"({4 * len(BLOCK)},)"
            assert made == []

    in_virtual_time(main)


@pytest.mark.parametrize("answer", [(), (1,), ((1, 2),), (b"", b"")])
def test_an_offer_that_is_none_is_no_trouble(answer):
    async def main():
        async with linked() as scene:

            async def lies(_link, _arguments):
                return answer

            scene.far.place.links.services.requests[REQUEST] = lies
            stream = await scene.near.bulk.open(scene.link, "count")
            assert await exchange(stream) == f"({4 * len(BLOCK)},)"

    in_virtual_time(main)


@pytest.mark.parametrize(
    "wish",
    [
        (),
        ((3,), "count"),
        ((3,), b"count", ()),
        (("x",), "count", ()),
        ((True,), "count", ()),
        ((3,) * 17, "count", ()),
        ((3,), "c" * 65, ()),
        ((3,), "count", (bytes(limits.STREAM_OPENING_BYTES_MAX),)),
    ],
)
def test_a_wish_that_is_none_is_refused(wish):
    async def main():
        async with linked() as scene:
            with pytest.raises(PeerFailed, match="malformed"):
                await scene.link.request(REQUEST, *wish)
            assert not scene.far.bulk._served

    in_virtual_time(main)


def test_lanes_of_kinds_nobody_knows_cannot_be_had():
    async def main():
        async with linked() as scene:
            with pytest.raises(PeerFailed, match="no_lane"):
                await scene.link.request(REQUEST, (99,), "count", ())

    in_virtual_time(main)


def test_a_link_that_ends_while_a_lane_is_asked_for_says_so():
    async def main():
        async with linked() as scene:

            async def never(_link, _arguments):
                await trio.sleep_forever()

            scene.far.place.links.services.requests[REQUEST] = never
            with pytest.raises(LinkError):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(scene.near.bulk.open, scene.link, "count")
                    await pass_time(1)
                    scene.link.close("gone")

    with pytest.raises(BaseExceptionGroup):
        in_virtual_time(main)


# --- choosing -------------------------------------------------------------------------------------


def lanes_of(here=()):
    figures = Figures(0.04, 0, 0, 0)
    connection = SimpleNamespace(peer=Address("8.8.8.8", 1), figures=lambda: figures)
    ways = Ways(SimpleNamespace(connection=connection))
    return _Lanes(ways, Lane.QH3, here), connection


async def measured(lanes, route, mbit_per_s, seconds=4):
    """So many seconds of a transfer."""
    for _ in range(seconds):
        await pass_time(1)
        size = int(mbit_per_s * 125_000)
        now = trio.current_time()
        lanes.ways.tiers.moved(route, size, 1.0, now, was_bottleneck=True)


def test_a_lane_nothing_is_known_of_gets_a_stream_now_and_then():
    async def main():
        lanes, _ = lanes_of()
        first = lanes.choose(trio.current_time())
        assert first.lane is Lane.TCP  # the cheaper one
        assert lanes.choose(trio.current_time()) == first  # until it is measured
        await measured(lanes, first, 30)
        tried = [lanes.choose(trio.current_time()) for _ in range(5)]
        assert [route.lane for route in tried] == [Lane.QH3, *[Lane.TCP] * 4]
        await pass_time(limits.LANE_TRIAL_SECONDS)
        assert lanes.choose(trio.current_time()).lane is Lane.QH3
        await measured(lanes, tried[0], 80)
        await pass_time(limits.LANE_TRIAL_SECONDS)
        assert lanes.choose(trio.current_time()).lane is Lane.QH3  # it is better, and held

    in_virtual_time(main)


def test_a_cheaper_lane_that_comes_later_is_tried_and_taken():
    async def main():
        lanes, _ = lanes_of()
        tcp = lanes.choose(trio.current_time())
        lanes.failed(tcp, trio.current_time())
        quic = lanes.choose(trio.current_time())
        assert quic.lane is Lane.QH3
        await measured(lanes, quic, 80)
        assert lanes.choose(trio.current_time()) == quic
        await pass_time(limits.LANE_AGAIN_SECONDS)
        assert lanes.choose(trio.current_time()) == tcp  # once, to see
        assert lanes.choose(trio.current_time()) == quic
        await measured(lanes, tcp, 80)
        assert lanes.choose(trio.current_time()) == tcp

    in_virtual_time(main)


def test_within_the_machine_it_is_always_the_better_one():
    async def main():
        lanes, _ = lanes_of([Kind.UNIX, Kind.MEMORY])
        memory = lanes.choose(trio.current_time())
        assert memory.path.tier is Tier.INPROC
        await measured(lanes, memory, 10)
        lanes.failed(memory, trio.current_time())
        unix = lanes.choose(trio.current_time())
        assert unix.path.tier is Tier.UNIX
        await measured(lanes, unix, 10)
        assert {lanes.choose(trio.current_time()) for _ in range(5)} == {unix}

    in_virtual_time(main)


def test_the_link_itself_never_counts_as_failed():
    async def main():
        lanes, _ = lanes_of()
        lanes.failed(lanes.choose(trio.current_time()), trio.current_time())
        own = lanes.choose(trio.current_time())
        lanes.failed(own, trio.current_time())
        lanes.failed(None, trio.current_time())
        assert lanes.choose(trio.current_time()) == own == lanes.of_link
        assert lanes.kind_of(own) is None

    in_virtual_time(main)


def test_when_the_connection_moves_lanes_lead_to_the_new_address():
    async def main():
        lanes, connection = lanes_of([Kind.UNIX])
        unix = lanes.choose(trio.current_time())
        lanes.failed(unix, trio.current_time())
        connection.peer = Address("9.9.9.9", 9)
        route = lanes.choose(trio.current_time())
        assert route.path.remote == Address("9.9.9.9", 9)
        assert lanes.kind_of(route) is Kind.TCP
        await pass_time(limits.LANE_AGAIN_SECONDS)
        assert lanes.choose(trio.current_time()) == unix

    in_virtual_time(main)
