"""All links of a node: one per peer, made once, kept, dropped at once; in both engines."""

import logging
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
import trio

from core import limits
from mesh import greeting
from mesh.errors import LinkError, NotTrusted, TurnedAway, Unreachable
from mesh.hello import Refusal, Refused
from mesh.links import Context, Links, Way
from mesh.quic.endpoint import Endpoint, Setup
from mesh.quic.engine import Kind
from mesh.wire import Address
from tests.support.hop import Path
from tests.support.linking import ANN, BOB, BOTH, RTT_S, one_link, play, two, ups
from tests.support.meeting import NOW_MS, Hand, let_time_pass, settle, simple
from tests.support.nodes import a_node, a_roster
from tests.support.wires import an_endpoint

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
CYD = a_node("cyd")
NOWHERE = Address("10.9.9.9", 9)


# --- reaching -------------------------------------------------------------------------------------


@EACH
def test_of_many_callers_one_dials_and_all_get_the_link(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            got = []

            async def reach():
                got.append(await ann.links.reach(BOB.id, [bob.way(kind)]))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(reach)
            assert len({id(link) for link in got}) == 1
            assert len(got) == 20
            assert ups(ann) == ups(bob) == 1
            assert ann.links.get(BOB.id) is got[0]
            assert await ann.links.reach(BOB.id, []) is got[0]
            one_link(ann, bob)

    play(scene)


@EACH
def test_a_dead_address_costs_little_when_another_works(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            began = trio.current_time()
            await ann.links.reach(BOB.id, [Way(NOWHERE, kind), bob.way(kind)])
            took = trio.current_time() - began
            assert limits.DIAL_STAGGER_SECONDS < took < limits.DIAL_STAGGER_SECONDS + 5 * RTT_S

    play(scene)


@EACH
@pytest.mark.slow
def test_ways_that_all_work_make_one_link_however_long_they_are(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            await ann.links.reach(BOB.id, [bob.way(kind)] * 5)
            await let_time_pass(10)
            one_link(ann, bob)
            assert ups(ann) == ups(bob) == 1

    for delay_s in (0.01, 0.1, 0.13, 0.2, 0.3, 0.5):
        play(scene, path=Path(delay_s=delay_s))


def test_no_more_ways_are_tried_than_allowed():
    async def scene(net):
        async with two(net) as (ann, bob):
            ways = [Way(NOWHERE)] * limits.DIAL_WAYS_MAX + [bob.way(Kind.QH3)]
            with pytest.raises(Unreachable):
                await ann.links.reach(BOB.id, ways)

    play(scene)


@EACH
def test_where_nobody_answers_it_is_unreachable_in_bounded_time(kind):
    async def scene(net):
        async with two(net) as (ann, _):
            began = trio.current_time()
            with pytest.raises(Unreachable, match="no answer") as failure:
                await ann.links.reach(BOB.id, [Way(NOWHERE, kind)] * 3)
            assert failure.value.retryable
            assert trio.current_time() - began < 2 * limits.HANDSHAKE_SECONDS
            with pytest.raises(Unreachable):
                await ann.links.reach(BOB.id, [])
            assert not ann.links._dials

    play(scene)


@EACH
def test_whoever_is_not_trusted_is_another_matter(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            cyd = await settle(
                bob_nursery(bob), net.wire("10.0.0.3"), CYD, a_roster([ANN, BOB, CYD])
            )
            with pytest.raises(Refused) as failure:  # Ann does not know Cyd, and says nothing
                await ann.links.reach(CYD.id, [cyd.way(kind)])
            assert failure.value.reason == Refusal.NOT_MEMBER
            with pytest.raises(Refused) as failure:
                await ann.links.reach(ANN.id, [ann.way(kind)])
            assert failure.value.reason == Refusal.ITSELF
            with pytest.raises(TurnedAway, match="does not let this node in: refused") as told:
                await cyd.links.reach(ANN.id, [Way(NOWHERE, kind), ann.way(kind)])
            assert not told.value.retryable
            assert cyd.links.turned_away_by == {ANN.id: "refused"}
            assert not ann.links.turned_away_by
            with pytest.raises(Refused, match="another node"):
                await cyd.links.reach(ANN.id, [bob.way(kind)])
            with pytest.raises(Unreachable):  # an old address, where somebody else lives now
                await cyd.links.reach(ANN.id, [bob.way(kind), Way(NOWHERE, kind)])
            assert not (ann.seen)
            assert not (bob.seen)
            assert not (cyd.seen)
            cyd.links.forget(ANN.id)
            assert not cyd.links.turned_away_by

    def bob_nursery(place):
        return place.links._nursery

    play(scene)


@EACH
def test_whoever_comes_to_us_meanwhile_is_reached_as_well(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            async with trio.open_nursery() as nursery:

                async def reach():
                    link = await bob.links.reach(ANN.id, [Way(NOWHERE, kind)])
                    assert link.node == ANN.id
                    assert trio.current_time() < 1

                nursery.start_soon(reach)
                await let_time_pass(0.1)
                await ann.links.reach(BOB.id, [bob.way(kind)])
            one_link(ann, bob)

    play(scene)


def test_before_and_after_its_time_nobody_is_reached():
    async def scene(net):
        endpoint = Endpoint(net.wire("10.0.0.1"), Setup(ANN.leaf), lambda _data, _source: None)
        context = Context(ANN.speaker, ANN.leaf.der, BOTH, lambda: NOW_MS)
        links = Links(endpoint, context, simple())
        with pytest.raises(Unreachable, match="not running"):
            await links.reach(BOB.id, [Way(NOWHERE)])
        async with two_of(net) as bob:
            links.keep(BOB.id, [bob.way(Kind.QH3)])  # before it runs
            async with trio.open_nursery() as nursery:
                await nursery.start(endpoint.run)
                await nursery.start(links.run)
                await bob.told(is_up=True)
                nursery.cancel_scope.cancel()
            assert links.all() == []
            links.keep(CYD.id, [])
            links.nudge()
            links.drop(BOB.id, "gone")
            with pytest.raises(Unreachable, match="not running"):
                await links.reach(BOB.id, [bob.way(Kind.QH3)])
            assert (await bob.told(is_up=False)).word

    @asynccontextmanager
    async def two_of(net):
        async with trio.open_nursery() as nursery:
            yield await settle(nursery, net.wire("10.0.0.2"), BOB, BOTH)
            nursery.cancel_scope.cancel()

    play(scene)


# --- one link per node ----------------------------------------------------------------------------


@EACH
def test_when_both_dial_at_once_one_link_stays(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ann.links.reach, BOB.id, [bob.way(kind)])
                nursery.start_soon(bob.links.reach, ANN.id, [ann.way(kind)])
            await let_time_pass(1)
            one_link(ann, bob)
            assert ann.links.all()[0].connection.dialled  # by the smaller id

    play(scene)


@EACH
def test_a_peer_that_was_started_anew_replaces_its_dead_link_at_once(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            await ann.links.reach(BOB.id, [bob.way(kind)])
            await let_time_pass(1)
            ann.kill(net.host("10.0.0.1"))
            again = ANN.restarted()
            async with trio.open_nursery() as nursery:
                anew = await settle(nursery, net.wire("10.0.0.1"), again, BOTH)
                began = trio.current_time()
                link = await anew.links.reach(BOB.id, [bob.way(kind)])
                assert await link.request("echo", 1) == (1,)
                assert trio.current_time() - began < 1
                one_link(anew, bob)
                assert [is_up for _, is_up in bob.seen] == [True, False, True]
                assert "newer" in bob.seen[1][0].word
                nursery.cancel_scope.cancel()

    play(scene)


@EACH
def test_a_peer_started_anew_gets_in_though_its_dead_link_was_dialled_from_here(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            await ann.links.reach(BOB.id, [bob.way(kind)])  # the smaller id: else this one stays
            await let_time_pass(1)
            bob.kill(net.host("10.0.0.2"))
            async with trio.open_nursery() as nursery:
                wire = net.wire("10.0.0.2")
                anew = await settle(nursery, wire, BOB.restarted(), BOTH)
                await anew.links.reach(ANN.id, [ann.way(kind)])
                await let_time_pass(1)
                one_link(anew, ann)
                nursery.cancel_scope.cancel()

    play(scene)


@EACH
def test_a_peer_that_dials_again_gets_its_new_link(kind):
    async def scene(net):
        async with two(net) as (_, bob):
            async with trio.open_nursery() as nursery:
                caller = an_endpoint(net.wire("10.0.0.7"))
                await nursery.start(caller.run)
                for count in (1, 2, 3):
                    hand = await Hand.dial(caller, bob, ANN, BOTH, kind)
                    assert await hand.hear()
                    link = await bob.told(is_up=True, count=count)
                    assert bob.links.all() == [link]
                nursery.cancel_scope.cancel()
            assert [is_up for _, is_up in bob.seen][:5] == [True, False, True, False, True]

    play(scene)


def test_watchers_see_every_link_come_once_and_go_once_the_old_before_the_new():
    async def scene(net):
        async with two(net) as (ann, bob):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ann.links.reach, BOB.id, [bob.way(Kind.QH3)])
                nursery.start_soon(bob.links.reach, ANN.id, [ann.way(Kind.QH3)])
            await let_time_pass(1)
            ann.links.all()[0].close("done")
            await let_time_pass(1)
        for place in (ann, bob):
            live = None
            for link, is_up in place.seen:
                assert live is (None if is_up else link)
                live = link if is_up else None
            assert live is None

    play(scene)


# --- dropping -------------------------------------------------------------------------------------


@EACH
def test_dropped_means_now(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            link = await ann.links.reach(BOB.id, [bob.way(kind)])
            ann.links.keep(BOB.id, [bob.way(kind)])
            await let_time_pass(1)
            ann.links.drop(BOB.id, "revoked")
            # No await since: it is over for everybody.
            assert link.over.is_set()
            assert ann.links.get(BOB.id) is None
            assert ann.links.all() == []
            assert ann.seen[-1] == (link, False)
            assert (await bob.told(is_up=False)).word == link.word == "revoked"
            await let_time_pass(200)
            assert ups(ann) == 1  # nothing dials again
            ann.links.drop(BOB.id, "again")
            ann.links.drop(CYD.id, "never heard of")

    play(scene)


@EACH
@pytest.mark.slow
def test_no_link_comes_after_a_drop_whenever_it_happens(kind):
    async def scene(net, at_s):
        async with two(net) as (ann, bob):

            async def reach():
                with pytest.raises(NotTrusted, match="ended here"):
                    link = await ann.links.reach(BOB.id, [bob.way(kind)])
                    assert link.over.is_set() is (trio.current_time() >= at_s)
                    raise NotTrusted("it was ended here, having been there")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(reach)
                nursery.start_soon(ann.links.reach, BOB.id, [bob.way(kind)]) if at_s > 1 else None
                await let_time_pass(at_s)
                ann.links.drop(BOB.id, "revoked")
                assert ann.links.all() == []
            came = ups(ann)
            await let_time_pass(1)
            assert ups(ann) == came
            assert ann.links.all() == bob.links.all() == []
            # And whoever is let in again is reached again.
            await ann.links.reach(BOB.id, [bob.way(kind)])

    for step in range(0, 60, 3):
        play(scene, step / 1000 + 0.0001)


@EACH
@pytest.mark.slow
def test_who_is_removed_while_saying_who_it_is_does_not_get_in(kind):
    async def scene(net, at_s):
        async with trio.open_nursery() as nursery:
            roster = a_roster([ANN, BOB])
            bob = await settle(nursery, net.wire("10.0.0.2"), BOB, roster)
            ann = await settle(nursery, net.wire("10.0.0.1"), ANN, BOTH)
            with trio.move_on_after(2):
                async with trio.open_nursery() as reaching:

                    async def reach():
                        with suppress(LinkError):
                            await ann.links.reach(BOB.id, [bob.way(kind)])

                    reaching.start_soon(reach)
                    await let_time_pass(at_s)
                    roster.remove(ANN.id)
                    bob.links.drop(ANN.id, "revoked")
                    came = ups(bob)
            await let_time_pass(5)
            assert ups(bob) == came
            assert bob.links.all() == ann.links.all() == []
            nursery.cancel_scope.cancel()

    for step in range(0, 60, 5):
        play(scene, step / 1000 + 0.0001)


class Fickle:
    """A roster that knows everybody once."""

    def __init__(self):
        self.mesh_id = BOTH.mesh_id
        self._left = {node.id: node.member for node in (ANN, BOB)}

    def member(self, node):
        return self._left.pop(node, None)


@EACH
def test_what_the_roster_says_last_counts(kind):
    async def scene(net):
        async with trio.open_nursery() as nursery:
            bob = await settle(nursery, net.wire("10.0.0.2"), BOB, Fickle())
            ann = await settle(nursery, net.wire("10.0.0.1"), ANN, BOTH)
            link = await ann.links.reach(BOB.id, [bob.way(kind)])
            await link.over.wait()
            assert link.word == "refused"
            assert bob.seen == []
            nursery.cancel_scope.cancel()

    play(scene)


@EACH
def test_a_drop_in_the_moment_a_dial_succeeds_wins(kind, monkeypatch):
    async def scene(net):
        async with two(net) as (ann, bob):

            async def introduce(*arguments):
                result = await greeting.introduce(*arguments)
                ann.links.drop(BOB.id, "revoked")
                return result

            fake = SimpleNamespace(**{**vars(greeting), "introduce": introduce})
            monkeypatch.setattr("mesh.links.greeting", fake)
            with pytest.raises(NotTrusted, match="ended here: revoked"):
                await ann.links.reach(BOB.id, [bob.way(kind)])
            await let_time_pass(1)
            assert ann.seen == ann.links.all() == bob.links.all() == []

    play(scene)
    monkeypatch.undo()


# --- the end --------------------------------------------------------------------------------------


@EACH
def test_when_it_ends_nothing_stays_and_peers_are_told(kind):
    async def scene(net):
        async with two(net) as (ann, bob):
            link = await ann.links.reach(BOB.id, [bob.way(kind)])
            ann.links.keep(CYD.id, [Way(NOWHERE, kind)])
            stream = await link.open_stream("count")
            await ann.stop()
            assert link.over.is_set()
            assert ann.links.all() == []
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"more")
            await bob.told(is_up=False)
            await let_time_pass(30)
            assert bob.endpoint.counters.connections == 0
            assert not bob.links._nursery.child_tasks

    play(scene)


def test_links_end_with_their_endpoint():
    async def scene(net):
        async with trio.open_nursery() as nursery:
            bob = await settle(nursery, net.wire("10.0.0.2"), BOB, BOTH)
            endpoint = Endpoint(net.wire("10.0.0.1"), Setup(ANN.leaf), lambda _data, _source: None)
            context = Context(ANN.speaker, ANN.leaf.der, BOTH, lambda: NOW_MS)
            links = Links(endpoint, context, simple())
            links.keep(BOB.id, [bob.way(Kind.QH3)])
            running = await nursery.start(in_a_scope, endpoint.run)
            async with trio.open_nursery() as own:
                await own.start(links.run)
                await bob.told(is_up=True)
                running.cancel()
            nursery.cancel_scope.cancel()

    async def in_a_scope(run, task_status):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(run)
                task_status.started(scope)

    play(scene)


@EACH
def test_the_log_tells_of_links_and_not_of_those_who_only_tried(caplog, kind):
    caplog.set_level(logging.INFO, "mesh.links")

    async def scene(net):
        async with two(net) as (ann, bob):
            link = await ann.links.reach(BOB.id, [bob.way(kind)])
            link.close("done")
            await bob.told(is_up=False)
            with pytest.raises(Unreachable):
                await ann.links.reach(BOB.id, [Way(NOWHERE, kind)])

    play(scene)
    lines = [record.getMessage() for record in caplog.records if record.name == "mesh.links"]
    assert sorted(lines) == sorted(
        f"link to {node.id.short()} {word}"
        for node in (ANN, BOB)
        for word in (f"({node.name}) is up", "is down: done")
    )
