"""Paths are asked while there are links, seldom when idle; what is found serves the next dial."""

import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio

from core import limits
from mesh.engine_choice import EngineChoice
from mesh.errors import LinkClosed
from mesh.hello import Engines
from mesh.path_mtu import SIZES_BYTES
from mesh.paths import Paths, Ways, tier_of
from mesh.quic.engine import Figures, Kind
from mesh.quic.header import is_quic
from mesh.tiers import Tier
from mesh.wire import Address
from tests.support.neighbours import a_neighbour, pass_time, start, until
from tests.support.nodes import a_node, a_roster
from tests.support.wires import Net, in_virtual_time

ANN, BOB = a_node("ann"), a_node("bob")


class Wire:
    """What the network sees: sealed datagrams of Ann, small ones and probes, and when."""

    def __init__(self):
        self.pings = []
        self.deaf = False  # sealed datagrams do not arrive
        self.largest = 10_000

    def hook(self, data, source, _to):
        if not is_quic(data) and source.host == "10.0.0.1" and len(data) < 200:
            self.pings.append(trio.current_time())
        lost = (self.deaf and not is_quic(data)) or len(data) > self.largest
        return [] if lost else [(data, source)]


@asynccontextmanager
async def linked(bob=BOB, seen=None):
    wire = Wire()
    net, roster = Net(hook=wire.hook), a_roster([ANN, bob])
    async with trio.open_nursery() as nursery:
        near = a_neighbour(net.wire("10.0.0.1"), ANN, roster)
        far = a_neighbour(net.wire("10.0.0.2"), bob, roster)
        paths = Paths(near.links, near.port, seen=seen or (lambda *_: None))
        await start(nursery, near, paths)
        await start(nursery, far)
        near.links.keep(far.id, [])
        link = await near.meet(far)
        yield SimpleNamespace(
            net=net, wire=wire, near=near, far=far, paths=paths, link=link, nursery=nursery
        )
        nursery.cancel_scope.cancel()


# --- asking ---------------------------------------------------------------------------------------


def test_a_path_is_asked_seldom_while_idle_and_often_while_bulk_moves():
    async def main():
        async with linked() as scene:
            await pass_time(4 * limits.PATH_PING_IDLE_SECONDS + 10)
            pings = scene.wire.pings
            assert 3 <= len([at for at in pings if at > 10]) <= 4
            ways = scene.paths.of(scene.link)
            ways.begin()
            pings.clear()
            await pass_time(30)
            assert 10 <= len(pings) <= 11
            ways.end()
            await pass_time(limits.PATH_PING_BUSY_SECONDS)
            pings.clear()
            await pass_time(100)
            assert len(pings) <= 5

    in_virtual_time(main)


def test_while_bulk_moves_the_link_sees_sooner_that_nobody_is_there():
    async def main():
        for is_busy in (True, False):
            async with linked() as scene:
                ways = scene.paths.of(scene.link)
                if is_busy:
                    ways.begin()
                scene.net.hook = lambda *_: []
                began = trio.current_time()
                await scene.link.over.wait()
                took_s = trio.current_time() - began
                soon_s = limits.LINK_SILENCE_SECONDS + limits.LINK_TRUST_SECONDS + 0.1
                assert (took_s <= soon_s) is is_busy
                if is_busy:
                    ways.end()
                assert not scene.link._beside

    in_virtual_time(main)


def test_streams_that_come_and_go_do_not_make_it_ask_more_often():
    async def main():
        async with linked() as scene:
            await pass_time(30)
            scene.wire.pings.clear()
            ways = scene.paths.of(scene.link)
            for _ in range(1_000):
                ways.begin()
                ways.end()
                await pass_time(0.01)
            assert len(scene.wire.pings) <= 10 / limits.PATH_PING_BUSY_SECONDS + 2

    in_virtual_time(main)


def test_trust_ends_when_nobody_answers_and_comes_back():
    async def main():
        async with linked() as scene:
            ways = scene.paths.of(scene.link)
            await pass_time(10)
            assert "does not answer" not in ways.tiers.explain(trio.current_time())
            scene.wire.deaf = True
            await pass_time(limits.PATH_PING_IDLE_SECONDS + 7)
            assert "does not answer" in ways.tiers.explain(trio.current_time())
            assert scene.link in scene.near.links.all()
            scene.wire.deaf = False
            await pass_time(3 * limits.PATH_PING_BUSY_SECONDS + 1)
            assert "does not answer" not in ways.tiers.explain(trio.current_time())

    in_virtual_time(main)


def test_when_the_table_of_questions_is_full_it_does_not_spin():
    async def main():
        async with linked() as scene:
            asked = []

            async def ask(*_):
                asked.append(trio.current_time())
                await trio.lowlevel.checkpoint()

            scene.near.port.ask = ask
            await pass_time(100)
            assert len(asked) <= 100 / limits.PATH_PING_BUSY_SECONDS + 1

    in_virtual_time(main)


def test_nothing_is_asked_when_the_link_is_gone():
    async def main():
        async with linked() as scene:
            scene.near.links.drop(BOB.id, "gone")
            await pass_time(5)
            scene.wire.pings.clear()
            await pass_time(1_000)
            assert scene.wire.pings == []
            assert not scene.paths._ways
            assert not scene.paths._nursery.child_tasks
            with pytest.raises(LinkClosed):
                scene.paths.of(scene.link)
            assert not scene.paths._ways

    in_virtual_time(main)


def test_links_that_were_there_before_are_measured_as_well():
    async def main():
        net, roster = Net(), a_roster([ANN, BOB])
        async with trio.open_nursery() as nursery:
            near = await start(nursery, a_neighbour(net.wire("10.0.0.1"), ANN, roster))
            far = await start(nursery, a_neighbour(net.wire("10.0.0.2"), BOB, roster))
            link = await near.meet(far)
            paths = Paths(near.links, near.port)
            assert paths.of(link)
            await nursery.start(paths.run)
            await until(lambda: paths.datagram_bytes(far.endpoint.local))
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@pytest.mark.slow
def test_a_connection_that_moved_is_another_path():
    async def main():
        async with linked() as scene:
            scene.near.links.drop(BOB.id, "the other way round")
            await pass_time(1)
            await scene.far.meet(scene.near)
            ways = scene.paths.of(link := scene.near.links.get(BOB.id))
            link.wanted = True
            before = ways.network
            scene.far.wire.moves("10.0.0.77", 77)
            await until(lambda: link.connection.peer.host == "10.0.0.77", 60)
            await pass_time(limits.PATH_PING_IDLE_SECONDS + 1)
            assert ways.network != before
            assert ways.network.remote == Address("10.0.0.77", 77)
            assert "10.0.0.2" not in ways.tiers.explain(trio.current_time())

    in_virtual_time(main)


def test_peers_tell_where_they_see_us():
    told = []

    async def main():
        async with linked(seen=lambda link, address: told.append((link.node, address))):
            await pass_time(5)

    in_virtual_time(main)
    assert told[0] == (BOB.id, Address("10.0.0.1", 1_000))


def test_while_bulk_moves_the_link_is_not_unused(caplog):
    async def main():
        async with linked() as scene:
            scene.near.links.forget(BOB.id)
            ways = scene.paths.of(scene.link)
            ways.begin()
            await pass_time(4 * limits.LINK_UNUSED_SECONDS)
            assert not scene.link.over.is_set()
            ways.end()
            await pass_time(2 * limits.LINK_UNUSED_SECONDS)
            assert scene.link.over.is_set()
            assert scene.link.word == "unused"

    with caplog.at_level(logging.WARNING):
        in_virtual_time(main)
    assert not caplog.records


def test_a_network_is_local_or_not():
    assert tier_of(Address("192.168.1.1", 1)) is Tier.LAN
    assert tier_of(Address("8.8.8.8", 1)) is Tier.DIRECT
    assert tier_of(None) is Tier.DIRECT


# --- the largest datagram -------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [1_299, 1_480, 9_000])
def test_the_largest_datagram_is_found_for_the_next_dial(largest):
    async def main():
        async with linked() as scene:
            scene.wire.largest = largest
            there = scene.far.endpoint.local
            assert scene.paths.datagram_bytes(there) is None
            await until(lambda: scene.paths.datagram_bytes(there))
            found = max(size for size in SIZES_BYTES if size <= largest)
            assert scene.paths.datagram_bytes(there) == found
            scene.near.links.drop(BOB.id, "again")
            way = replace(scene.far.way(), datagram_bytes=found)
            sizes = []
            scene.net.hook = lambda data, source, to: (
                sizes.append(len(data)) or scene.wire.hook(data, source, to)
            )
            link = await scene.near.links.reach(BOB.id, [way])

            async def read(_link, _arguments, stream):
                async for _ in stream:
                    pass

            scene.far.links.services.streams["x"] = read
            stream = await link.open_stream("x")
            await stream.send_all(bytes(500_000))
            await stream.aclose()
            await pass_time(3)
            assert max(sizes) > found - 60
            assert max(sizes) <= found

    in_virtual_time(main)


def test_a_link_that_fell_silent_makes_the_size_doubtful():
    async def main():
        async with linked() as scene:
            there = scene.far.endpoint.local
            await until(lambda: scene.paths.datagram_bytes(there) == 8_972)
            scene.net.hook = lambda *_: []
            await until(scene.link.over.is_set)
            assert scene.link.word == "silent"
            assert scene.paths.datagram_bytes(there) is None
            scene.net.hook = scene.wire.hook
            await scene.near.meet(scene.far)
            await until(lambda: scene.paths.datagram_bytes(there) == 8_952)

    in_virtual_time(main)


@pytest.mark.slow
def test_a_search_that_ended_is_left_alone():
    async def main():
        async with linked() as scene:
            there = scene.far.endpoint.local
            await until(lambda: scene.paths.datagram_bytes(there))
            probes = []
            scene.net.hook = lambda data, source, _to: (
                (probes.append(data) if len(data) > 1_350 else None) or [(data, source)]
            )
            await pass_time(3_600)
            assert probes == []

    in_virtual_time(main)


# --- the engine -----------------------------------------------------------------------------------


def ways_of_a_lossy_path():
    figures = [Figures(0.04, 0, 0, 0)]
    connection = SimpleNamespace(peer=Address("8.8.8.8", 1), figures=lambda: figures[-1])
    return Ways(SimpleNamespace(connection=connection)), figures


def test_an_engine_that_suits_a_lossy_path_is_found():
    async def main():
        ways, figures = ways_of_a_lossy_path()
        choice = EngineChoice(list(Kind))
        for _ in range(60):
            await pass_time(limits.PATH_PING_BUSY_SECONDS)
            ways.sent(1_500_000)
            figures.append(figures[-1]._replace(lost=figures[-1].lost + 11))  # one percent
            ways.look(choice)
        assert choice.kind is Kind.AIOQUIC
        assert "0.99%" in choice.explain()

    in_virtual_time(main)


def test_a_path_on_which_nothing_moves_tells_nothing():
    async def main():
        ways, figures = ways_of_a_lossy_path()
        choice = EngineChoice(list(Kind))
        for _ in range(60):
            await pass_time(limits.PATH_PING_IDLE_SECONDS)
            figures.append(figures[-1]._replace(lost=figures[-1].lost + 11))
            ways.look(choice)
        assert choice.kind is Kind.QH3

    in_virtual_time(main)


@pytest.mark.parametrize("engines", [Engines.QH3, Engines.AIOQUIC, Engines.QH3 | Engines.AIOQUIC])
def test_only_what_both_speak_is_ever_preferred(engines):
    bob = replace(BOB, speaker=replace(BOB.speaker, engines=engines))

    async def main():
        async with linked(bob) as scene:
            await pass_time(5)
            expected = Kind.AIOQUIC if engines == Engines.AIOQUIC else Kind.QH3
            assert scene.paths.kind(bob.id) is expected
            choice = scene.paths._engines[bob.id]
            assert choice._has_choice == (engines == Engines.QH3 | Engines.AIOQUIC)

    in_virtual_time(main)
