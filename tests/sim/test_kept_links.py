"""Kept links: dialled again with patience, at once when something changes, wanted by both."""

import itertools

import pytest
import trio

from core import limits
from mesh.links import Way
from mesh.quic.engine import Kind
from mesh.wire import Address
from tests.support.linking import ANN, BOB, BOTH, one_link, play, two
from tests.support.meeting import let_time_pass, settle
from tests.support.nodes import a_node
from tests.support.simnet import SimNet

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
CYD = a_node("cyd")
NOWHERE = Address("10.9.9.9", 9)


def tries(net: SimNet, to: Address) -> list[float]:
    """When somebody began to dial this address."""
    began: list[float] = []
    last: dict[bytes, bool] = {}

    def tap(datagram):
        if datagram.to == to and datagram.data[0] & 0x80:
            cid = datagram.data[6:14]
            if cid not in last:
                last[cid] = True
                began.append(trio.current_time())
        return [datagram]

    net.taps.append(tap)
    return began


@EACH
def test_it_is_dialled_again_ever_more_patiently(kind):
    async def scene(net):
        began = tries(net, NOWHERE)
        async with two(net) as (ann, _):
            ann.links.keep(BOB.id, [Way(NOWHERE, kind)])
            await let_time_pass(1_000)
            gaps = [b - a - limits.HANDSHAKE_SECONDS for a, b in itertools.pairwise(began)]
            assert gaps[:9] == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60], abs=0.01)
            before = len(began)
            ann.links.nudge()
            await let_time_pass(0.001)
            assert len(began) == before + 1  # at once
            await let_time_pass(limits.HANDSHAKE_SECONDS + 0.4)
            assert len(began) == before + 1
            await let_time_pass(0.2)
            assert len(began) == before + 2  # and patience starts anew

    play(scene)


def test_how_long_it_waits_is_left_to_chance():
    chances = iter([0.0, 0.5, 0.25, *[0.9] * 100])

    async def scene(net):
        began = tries(net, NOWHERE)
        async with two(net, chance=lambda: next(chances)) as (ann, _):
            ann.links.keep(BOB.id, [Way(NOWHERE)])
            await let_time_pass(30)
            gaps = [b - a - limits.HANDSHAKE_SECONDS for a, b in itertools.pairwise(began)]
            assert gaps[:3] == pytest.approx([0, 0.5, 0.5], abs=0.01)

    play(scene)


@EACH
def test_new_ways_count_at_once_also_while_old_ones_are_tried(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            ann.links.keep(BOB.id, [Way(NOWHERE, kind)])
            await let_time_pass(200)  # patience has grown
            while not ann.links._dials:
                await let_time_pass(0.5)
            ann.links.keep(BOB.id, [bob.way(kind)])  # a try is under way
            await let_time_pass(limits.HANDSHAKE_SECONDS + 0.2)
            one_link(ann, bob)

    play(scene)


@EACH
def test_a_kept_link_comes_back_when_the_peer_does(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            ann.links.keep(BOB.id, [bob.way(kind)])
            link = await ann.told(is_up=True)
            assert link.wanted
            way = bob.address
            await bob.stop()
            assert (await ann.told(is_up=False)).word == "this node is going away"
            await let_time_pass(100)
            async with trio.open_nursery() as nursery:
                wire = net.wire(way.host, way.port)
                await settle(nursery, wire, BOB.restarted(), BOTH)
                with trio.fail_after(limits.REDIAL_SECONDS_MAX + 1):
                    link = await ann.told(is_up=True, count=2)
                assert link.wanted
                nursery.cancel_scope.cancel()

    play(scene)


@EACH
@pytest.mark.slow
def test_when_both_keep_each_other_there_is_one_link_and_forgetting_lets_it_go(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            ann.links.keep(BOB.id, [bob.way(kind)])
            bob.links.keep(ANN.id, [ann.way(kind)])
            await let_time_pass(10)
            one_link(ann, bob)
            (link,), (there,) = ann.links.all(), bob.links.all()
            assert link.wanted
            assert there.wanted
            ann.links.forget(BOB.id)
            assert not link.wanted
            await let_time_pass(1_000)
            assert ann.links.all() == [link]  # Bob still wants it
            bob.links.forget(ANN.id)
            await let_time_pass(2 * limits.LINK_UNUSED_SECONDS)
            assert ann.links.all() == bob.links.all() == []
            await let_time_pass(200)
            assert ann.links.all() == []

    play(scene)


@EACH
@pytest.mark.slow
def test_a_link_that_is_there_can_be_kept(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            link = await bob.links.reach(ANN.id, [ann.way(kind)])
            del link
            await let_time_pass(1)
            ann.links.keep(BOB.id, [])
            (there,) = ann.links.all()
            assert there.wanted
            await let_time_pass(1_000)
            assert ann.links.all() == [there]

    play(scene)


@EACH
def test_a_nudge_shows_which_links_are_dead(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            ann.links.keep(BOB.id, [bob.way(kind)])
            link = await ann.told(is_up=True)
            net.cut([net.host("10.0.0.1")], [net.host("10.0.0.2")])
            began = trio.current_time()
            ann.links.nudge()
            await ann.told(is_up=False)
            assert link.word == "silent"
            assert trio.current_time() - began < limits.LINK_TRUST_SECONDS + 0.1

    play(scene)


@EACH
def test_one_that_is_there_again_is_dialled_at_once(kind):
    async def scene(net):
        began = tries(net, NOWHERE)
        async with two(net) as (ann, bob):
            ann.links.keep(BOB.id, [Way(NOWHERE, kind)])
            await let_time_pass(1_000)
            before = len(began)
            ann.links.nudge_one(ANN.id)  # not kept
            await let_time_pass(0.001)
            assert len(began) == before
            ann.links.nudge_one(BOB.id)
            await let_time_pass(0.001)
            assert len(began) == before + 1
            assert bob.links.all() == []

    play(scene)
