"""Links on bad networks: from many seeds, there is one link in the end, and what can heal heals."""

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio

from core import limits
from mesh.errors import LinkError
from mesh.link import Link
from mesh.links import Way
from mesh.quic.engine import Kind
from mesh.wire import Address
from tests.support.hop import Path
from tests.support.meeting import Place, let_time_pass, settle
from tests.support.nodes import a_node, a_roster
from tests.support.simnet import Host, SimNet, simulate

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
ANN, BOB = a_node("ann"), a_node("bob")
BOTH = a_roster([ANN, BOB])
PORT = 4_000
MUCH = 1_500_000  # three seconds of sending
LIFE_S = limits.LINK_REST_SECONDS + limits.LINK_TRUST_SECONDS


@dataclass
class Scene:
    """Ann and Bob on their machines."""

    net: SimNet
    places: list[Place]
    hosts: list[Host]
    nursery: trio.Nursery

    @property
    def ann(self) -> Place:
        return self.places[0]

    @property
    def bob(self) -> Place:
        return self.places[1]

    def one_link(self) -> Link:
        """Both have one link, and it is the same; Ann's side of it."""
        (mine,), (yours,) = self.ann.links.all(), self.bob.links.all()
        assert mine.peer.transcript == yours.peer.transcript
        return mine


@asynccontextmanager
async def two(net: SimNet):
    hosts = [net.host("10.0.0.1"), net.host("10.0.0.2")]
    async with trio.open_nursery() as nursery:
        places = []
        for host, node in zip(hosts, (ANN, BOB), strict=True):
            context = {"now_ms": host.now_ms, "chance": net.rng.random}
            places.append(await settle(nursery, host.wire(PORT), node, BOTH, **context))
        yield Scene(net, places, hosts, nursery)
        nursery.cancel_scope.cancel()


def play(scene, *arguments, seed=1, path=None):
    async def main(net):
        with trio.fail_after(100_000):
            await scene(net, *arguments)

    simulate(main, seed, path or Path(delay_s=0.02, bits_per_s=4e6))


# --- one link -------------------------------------------------------------------------------------


@pytest.mark.slow
@EACH
def test_both_dial_at_about_the_same_time_and_one_link_stays(kind):
    async def scene(net):
        async with two(net) as s:

            async def reach(one, other):
                await let_time_pass(net.rng.random() * 0.1)
                with suppress(LinkError):
                    await one.links.reach(other.node.id, [other.way(kind)] * 2)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(reach, s.ann, s.bob)
                nursery.start_soon(reach, s.bob, s.ann)
            await let_time_pass(20)
            link = s.one_link()
            assert await link.request("echo", 1) == (1,)

    for seed in range(40):
        path = Path(delay_s=0.02 * (seed % 5), jitter_s=0.03, loss=0.05 * (seed % 2))
        play(scene, seed=seed, path=path)


async def something_happens(s: Scene) -> None:
    """To one of the two, or between them."""
    rng = s.net.rng
    here = rng.randrange(2)
    place, host, other = s.places[here], s.hosts[here], s.places[1 - here]
    match rng.randrange(7):
        case 0:
            place.links.keep(other.id, [way_to(s, 1 - here)])
        case 1:
            place.links.drop(other.id, "a quarrel")
        case 2:
            s.net.cut([s.hosts[0]], [s.hosts[1]])
        case 3:
            s.net.heal()
        case 4:
            host.move(f"10.{1 + here}.{rng.randrange(250)}.{rng.randrange(250)}")
        case 5:
            place.kill(host)
            await place.ended.wait()
            again = place.node.restarted(str(rng.random()))
            wire = host.wire(PORT)
            s.places[here] = await settle(s.nursery, wire, again, BOTH, now_ms=host.now_ms)
        case 6:
            place.links.nudge()


@pytest.mark.slow
def test_whatever_happens_two_that_keep_each_other_have_one_link_in_the_end():
    async def scene(net):
        async with two(net) as s:
            for _ in range(12):
                await something_happens(s)
                await let_time_pass(net.rng.random() * 20)
            net.heal()
            for here, place in enumerate(s.places):
                place.links.keep(s.places[1 - here].id, [way_to(s, 1 - here)])
            await let_time_pass(2 * limits.REDIAL_SECONDS_MAX)
            link = s.one_link()
            assert await link.request("echo", 1) == (1,)
            for place in s.places:
                assert len(place.links._nursery.child_tasks) == 2  # the link, and who keeps it
                assert place.endpoint.counters.connections == 1

    for seed in range(25):
        play(scene, seed=seed, path=Path(delay_s=0.02, jitter_s=0.01, loss=0.01))


def way_to(s: Scene, which: int) -> Way:
    return Way(Address(s.hosts[which].address, PORT), s.net.rng.choice(list(Kind)))


# --- transfers and what happens to them -----------------------------------------------------------


@asynccontextmanager
async def sending(s: Scene, kind: Kind):
    """A transfer from Ann to Bob under way, and how it ended: what was counted, or what broke."""
    s.ann.links.keep(BOB.id, [s.bob.way(kind)])
    link = await s.ann.told(is_up=True)
    result: list[object] = []
    some = trio.Event()

    async def send():
        stream = await link.open_stream("count")
        try:
            for _ in range(MUCH // 100_000):
                await stream.send_all(bytes(100_000))
                some.set()
            await stream.send_eof()
            result.append(int.from_bytes(await stream.receive_some()))
        except trio.BrokenResourceError as e:
            result.append(e)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await some.wait()
        await let_time_pass(0.3)
        assert not result
        yield link, result


@EACH
@pytest.mark.slow
@pytest.mark.parametrize("how", ["move", "rebind"])
def test_when_the_dialler_moves_the_transfer_goes_on(kind, how):
    async def scene(net):
        async with two(net) as s:
            async with sending(s, kind) as (link, result):
                if how == "move":
                    s.hosts[0].move("10.7.7.7")
                    s.ann.links.nudge()  # as whoever watches the network does
                else:
                    s.ann.wire.rebind(5_555)
            assert result == [MUCH]
            assert s.one_link() is link
            moved = Address("10.7.7.7", PORT) if how == "move" else Address("10.0.0.1", 5_555)
            assert s.bob.links.all()[0].connection.peer == moved

    play(scene)


@EACH
@pytest.mark.slow
def test_when_the_responder_moves_the_link_ends_and_new_ways_heal_it(kind):
    async def scene(net):
        async with two(net) as s:
            async with sending(s, kind) as (link, result):
                s.hosts[1].move("10.7.7.7")
                began = trio.current_time()
            assert isinstance(result[0], trio.BrokenResourceError)
            assert trio.current_time() - began < LIFE_S + 1
            await let_time_pass(100)
            assert s.ann.links.all() == []
            began = trio.current_time()
            s.ann.links.keep(BOB.id, [Way(Address("10.7.7.7", PORT), kind)])
            await s.ann.told(is_up=True, count=2)
            assert trio.current_time() - began < limits.HANDSHAKE_SECONDS
            assert s.one_link() is not link

    play(scene)


@EACH
@pytest.mark.slow
def test_the_moved_side_may_heal_it_as_well(kind):
    async def scene(net):
        async with two(net) as s:
            s.bob.links.keep(ANN.id, [s.ann.way(kind)])
            async with sending(s, kind) as (link, result):
                s.hosts[1].move("10.7.7.7")
                s.bob.links.nudge()
            assert isinstance(result[0], trio.BrokenResourceError) or result == [MUCH]
            await let_time_pass(2 * LIFE_S)
            assert await s.one_link().request("echo", 1) == (1,)
            del link

    play(scene)


@EACH
@pytest.mark.slow
def test_a_cut_of_five_seconds_heals_and_the_transfer_goes_on(kind):
    async def scene(net):
        async with two(net) as s:
            async with sending(s, kind) as (link, result):
                net.cut([s.hosts[0]], [s.hosts[1]])
                await let_time_pass(5)
                net.heal()
            assert result == [MUCH]
            assert s.one_link() is link

    play(scene)


@EACH
@pytest.mark.slow
@pytest.mark.parametrize("at_s", [0, 4, 9, 9.9, 10.2, 12, 15])
def test_a_cut_of_five_seconds_does_not_end_an_idle_link(kind, at_s):
    async def scene(net):
        async with two(net) as s:
            s.ann.links.keep(BOB.id, [s.bob.way(kind)])
            link = await s.ann.told(is_up=True)
            await let_time_pass(at_s)
            net.cut([s.hosts[0]], [s.hosts[1]])
            await let_time_pass(5)
            net.heal()
            await let_time_pass(60)
            assert s.one_link() is link
            assert len(s.ann.seen) == 1

    play(scene)


@EACH
@pytest.mark.slow
def test_a_longer_cut_ends_the_link_and_it_comes_back_by_itself(kind):
    async def scene(net):
        async with two(net) as s:
            async with sending(s, kind) as (link, result):
                net.cut([s.hosts[0]], [s.hosts[1]])
                began = trio.current_time()
            assert isinstance(result[0], trio.BrokenResourceError)
            assert trio.current_time() - began < LIFE_S + 1
            await let_time_pass(120)
            assert s.ann.links.all() == s.bob.links.all() == []
            net.heal()
            began = trio.current_time()
            await s.ann.told(is_up=True, count=2)
            assert trio.current_time() - began < limits.REDIAL_SECONDS_MAX + 1
            assert s.one_link() is not link

    play(scene)


@EACH
@pytest.mark.slow
def test_a_peer_that_dies_in_a_transfer_is_found_dead_and_back_when_it_is_back(kind):
    async def scene(net):
        async with two(net) as s:
            async with sending(s, kind) as (_, result):
                s.bob.kill(s.hosts[1])
                began = trio.current_time()
            assert isinstance(result[0], trio.BrokenResourceError)
            assert trio.current_time() - began < LIFE_S + 1
            again = BOB.restarted()
            s.places[1] = await settle(s.nursery, s.hosts[1].wire(PORT), again, BOTH)
            await s.ann.told(is_up=True, count=2)
            assert await s.one_link().request("echo", 1) == (1,)

    play(scene)


@EACH
def test_the_same_seed_gives_the_same_links(kind):
    def digest(seed):
        async def main(net):
            async with two(net) as s:
                s.ann.links.keep(BOB.id, [s.bob.way(kind)])
                s.bob.links.keep(ANN.id, [s.ann.way(kind)])
                await let_time_pass(100)
                return len(s.ann.seen), s.one_link().connection.dialled

        return simulate(main, seed, Path(delay_s=0.02, jitter_s=0.02, loss=0.1))

    assert digest(5) == digest(5)
