"""Looks, help and goodbyes between a few; with links, in whole meshes. Many are in tests/sim."""

from dataclasses import replace
from functools import partial

import pytest
import trio

from core import codec, limits
from core.errors import FormatError, PortalError
from core.ids import NodeId
from mesh.messages import Behalf, Probe, Probed, ProbeFor, ProbeOk, State, Told, View
from mesh.presence import Standing
from tests.support.fleets import a_fleet
from tests.support.hop import Path
from tests.support.meshes import a_town
from tests.support.neighbours import pass_time
from tests.support.simnet import simulate

LINE = Path(delay_s=0.02)
NAMES = ["ann", "bob", "cyd", "dan"]
GRACE_S = 3_600  # in these tests


@pytest.fixture(autouse=True)
def _short_days(monkeypatch):
    monkeypatch.setattr(limits, "GRACE_SECONDS_MIN", GRACE_S)


def play(scene, *, count=5, path=LINE, seed=1, **how):
    simulate(partial(a_fleet, count=count, scene=scene, **how), seed, path)


def in_town(scene, names=NAMES, path=LINE, seed=1):
    simulate(partial(a_town, names=names, scene=scene), seed, path)


def put(ship, to, body, timeout_s=1.0):
    """Ask by hand."""
    port, at = ship.one.port, to.one.endpoint.local
    return port.ask(to.id, at, body, timeout_s)


# --- looks ----------------------------------------------------------------------------------------


def test_whoever_starts_finds_all_who_are_there_and_those_who_are_not():
    async def scene(fleet):
        assert fleet.all_say(fleet.all[0], State.UNKNOWN)
        fleet.all.pop().crash()
        await pass_time(100)
        for ship in fleet.all:
            assert list(ship.unwell().values()) == [State.DEAD]
            # Nobody was seen to die, so nobody is told.
            assert not ship.liveness.swim.has_news

    play(scene, all_know=False)


@pytest.mark.slow
def test_a_helper_brings_the_word_of_whom_we_cannot_reach():
    async def scene(fleet):
        one, other, *_ = fleet.all
        fleet.net.cut([one.host], [other.host])
        await pass_time(300)
        assert one.noticed == other.noticed == []
        assert one.liveness.swim.health == 0

    play(scene)


@pytest.mark.slow
def test_who_is_back_is_seen_by_the_only_one_who_cannot_reach_it():
    async def scene(fleet):
        one, other, *_ = fleet.all
        other.crash()
        await fleet.until(lambda: fleet.all_say(other, State.DEAD), 120)
        fleet.net.cut([one.host], [other.host])
        fleet.all.remove(other)
        other = await fleet.restart(other)
        for ship in fleet.all:
            ship.liveness.swim._news.clear()  # nobody tells
        await fleet.until(lambda: one.liveness.state(other.id) == State.ALIVE, 120)

    play(scene)


def test_a_helper_asks_and_passes_on_what_was_sealed_for_the_asker():
    async def scene(fleet):
        one, other, helper = fleet.all[:3]
        with one.one.port.question(other.id, Probe, 2) as question:
            asking = ProbeFor(Behalf(other.id, question.txid))
            answered = await put(one, helper, asking)
            body = answered.message.body
            assert isinstance(body, Probed)
            assert len(body.proof) <= limits.PROBE_PROOF_BYTES_MAX
            assert helper.one.datagrams.open_untrusted(body.proof, 0, 0.0) is None
            assert question.answered is None
            one.one.port.arrived(body.proof, helper.one.endpoint.local)
            assert question.answered.message.sender == other.id
            assert question.answered.message.body == ProbeOk()

    play(scene)


def test_a_helper_that_hears_nothing_says_so():
    async def scene(fleet):
        one, other, helper = fleet.all[:3]
        other.crash()
        began = trio.current_time()
        answered = await put(one, helper, ProbeFor(Behalf(other.id, b"question")), 3)
        assert answered.message.body == Probed()
        assert trio.current_time() - began == pytest.approx(limits.PROBE_HELP_SECONDS, abs=0.1)

    play(scene)


def test_help_is_bounded_and_for_members_only():
    async def scene(fleet):
        one, other, helper, fourth, _ = fleet.all
        other.crash()
        asking = ProbeFor(Behalf(other.id, b"question"))
        port, at = one.one.port, helper.one.endpoint.local
        for _ in range(20):
            port.tell(helper.id, at, asking)
        for node in (one.id, helper.id, NodeId(bytes(32))):
            port.tell(helper.id, at, ProbeFor(Behalf(node, b"question")))
        await pass_time(0.1)
        assert helper.liveness._helping[one.id] == limits.PROBES_SERVED_SENDER_MAX
        assert await put(fourth, helper, asking, 3)
        await pass_time(2)
        assert not helper.liveness._helping

    play(scene)


def test_nobody_seals_for_strangers():
    async def scene(fleet):
        one, other = fleet.all[:2]
        for node in (NodeId(bytes(32)), other.id):
            answered = await put(one, other, Probe(Behalf(node, b"question")))
            assert answered.message.body.proof == b""
        answered = await put(one, other, Probe(Behalf(one.id, b"question")))
        assert answered.message.body.proof

    play(scene)


def test_a_proof_that_was_kept_back_brings_nobody_back():
    async def scene(fleet):
        one, other, liar = fleet.all[:3]
        kept = []
        for n in range(5):
            question = Probe(Behalf(one.id, bytes([n] * 8)))
            kept.append((await put(liar, other, question)).message.body.proof)
        other.crash()
        await fleet.until(lambda: one.liveness.state(other.id) == State.DEAD, 100)
        for proof in kept:
            one.one.port.arrived(proof, liar.one.endpoint.local)
        assert one.liveness.state(other.id) == State.DEAD

    play(scene)


def test_the_second_address_is_tried_and_remembered():
    async def scene(fleet):
        one, other = fleet.all
        nowhere = other.one.endpoint.local._replace(port=9)
        true = [nowhere, other.one.endpoint.local]
        vars(one.liveness)["_around"] = replace_addresses(one, lambda _node: true)
        await pass_time(60)
        assert one.noticed == []
        assert one.liveness._addresses(other.id) == true[::-1]

    play(scene, count=2)


def replace_addresses(ship, addresses):
    return replace(ship.liveness._around, addresses=addresses)


def test_without_any_address_helpers_are_asked_at_once():
    async def scene(fleet):
        one, other = fleet.all[:2]
        known = one.liveness._around.addresses
        around = replace_addresses(one, lambda node: [] if node == other.id else known(node))
        vars(one.liveness)["_around"] = around
        await pass_time(100)
        assert one.noticed == []

    play(scene)


@pytest.mark.slow
def test_too_many_questions_under_way_blame_nobody():
    async def scene(fleet):
        one = fleet.all[0]
        one.one.port._requests._count_max = 0
        await pass_time(200)
        assert one.noticed == []
        assert one.liveness.swim._under_way == 0
        assert not one.liveness.outcomes

    play(scene)


# --- words ----------------------------------------------------------------------------------------


def test_a_member_that_is_removed_is_not_looked_at_and_its_word_is_nothing():
    async def scene(fleet):
        one, gone, *others = fleet.all
        standings = []
        one.liveness.watch_standings(lambda node, standing: standings.append((node, standing)))
        fleet.roster.remove(gone.id)
        del fleet.at[gone.id]
        for ship in fleet.all:
            ship.liveness.members_changed()
        assert one.liveness.state(gone.id) == State.UNKNOWN
        assert one.liveness.standing(gone.id) == Standing.LOST
        assert standings == [(gone.id, Standing.LOST)]
        await pass_time(50)
        assert one.liveness.standing(others[0].id) == Standing.PRESENT
        assert one.liveness.standing(one.id) == Standing.PRESENT
        assert one.liveness.state(one.id) == State.ALIVE
        assert gone.id not in one.liveness.swim

    play(scene)


def test_goodbye_is_believed_of_oneself_only():
    async def scene(fleet):
        one, going, liar, other, _ = fleet.all
        at = one.one.endpoint.local
        views = (View(other.id, State.DEAD), View(liar.id, State.ALIVE))
        liar.one.port.tell(one.id, at, Told(views))
        going.one.port.tell(one.id, at, Told((View(going.id, State.DEAD),)))
        await pass_time(0.1)
        assert one.unwell() == {going.id: State.DEAD}

    play(scene)


# --- absences -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_is_gone_for_long_is_lost_until_it_is_back_and_all_of_it_is_kept():
    async def scene(fleet):
        one, gone, _ = fleet.all
        turned = []
        one.liveness.watch_standings(
            lambda node, standing: turned.append((trio.current_time(), node, standing))
        )
        gone.crash()
        await fleet.until(lambda: one.liveness.standing(gone.id) == Standing.AWAY, 100)
        one.saved.clear()
        await pass_time(GRACE_S - 100)
        assert 5 <= len(one.saved) <= 7
        await pass_time(500)
        assert [standing for *_, standing in turned] == [Standing.AWAY, Standing.LOST]
        assert turned[1][0] - turned[0][0] == pytest.approx(
            GRACE_S, abs=limits.PRESENCE_STEP_SECONDS
        )
        fleet.all.remove(gone)
        await fleet.restart(gone)
        await fleet.until(lambda: one.liveness.standing(gone.id) == Standing.PRESENT, 60)
        await pass_time(120)
        (_, rows) = codec.decode_untrusted(one.saved[-1])
        row = next(row for row in rows if row[0] == gone.id)
        assert row[2] == 0
        assert row[3] == (pytest.approx(GRACE_S + 400, abs=100),)

    play(scene, count=3)


@pytest.mark.slow
def test_who_is_cut_off_counts_no_absence():
    async def scene(fleet):
        one, gone, other = fleet.all
        gone.crash()
        await fleet.until(lambda: one.liveness.standing(gone.id) == Standing.AWAY, 100)
        fleet.net.isolate(one.host)
        await pass_time(2 * GRACE_S)
        assert one.liveness.presence.absent_s(gone.id) < 300
        assert one.liveness.standing(other.id) == Standing.PRESENT

    play(scene, count=3)


@pytest.mark.slow
@pytest.mark.parametrize(("has_address", "standing"), [(True, "lost"), (False, "away")])
def test_of_two_nodes_absence_counts_while_this_machine_has_an_address(has_address, standing):
    async def scene(fleet):
        one, gone = fleet.all
        around = replace(one.liveness._around, is_on_line=lambda: has_address)
        vars(one.liveness)["_around"] = around
        gone.crash()
        await pass_time(1.1 * GRACE_S)
        assert one.liveness.standing(gone.id).value == standing

    play(scene, count=2)


@pytest.mark.slow
def test_what_was_known_goes_on_after_a_restart_and_is_written_at_the_end():
    async def scene(fleet):
        one, gone, _ = fleet.all
        gone.crash()
        await pass_time(1_500)
        one.saved.clear()
        one.one.scope.cancel()
        await pass_time(1)
        (data,) = one.saved
        one.host.crash()
        again = await fleet.restart(one)
        again.liveness.remember_untrusted(data)
        assert again.liveness.standing(gone.id) == Standing.AWAY
        assert again.liveness.presence.absent_s(gone.id) == pytest.approx(1_450, abs=60)
        with pytest.raises(FormatError):
            again.liveness.remember_untrusted(data[:-1])

    play(scene, count=3)


@pytest.mark.slow
def test_a_disk_that_is_full_costs_patience_only(caplog):
    async def scene(fleet):
        one, gone, _ = fleet.all
        errors = iter([OSError(28, "No space left on device"), PortalError("no")])

        async def full(_data):
            await trio.lowlevel.checkpoint()
            raise next(errors)

        one.liveness._save = full
        gone.crash()
        await pass_time(1_000)
        assert one.liveness.state(gone.id) == State.DEAD
        assert "could not be written" in caplog.text
        assert next(errors, None) is None

        async def written(data):
            await trio.lowlevel.checkpoint()
            one.saved.append(data)

        one.saved.clear()
        one.liveness._save = written
        await pass_time(700)
        assert one.saved

    play(scene, count=3)


# --- with links -----------------------------------------------------------------------------------


def seen_by(town, node):
    return {seat.mesh.liveness.state(node) for seat in town.seats if seat.node != node}


async def linked(town):
    await town.until(lambda: all(len(seat.linked()) == len(NAMES) - 1 for seat in town.seats))


@pytest.mark.slow
def test_linked_members_are_alive_and_not_looked_at():
    async def scene(town):
        await linked(town)
        assert {state for seat in town.seats for state in seen_by(town, seat.node)} == {State.ALIVE}
        kinds = []
        for seat in town.seats:
            for kind, handle in list(seat.mesh.port._handlers.items()):
                seat.mesh.port._handlers[kind] = lambda m, s, h=handle, k=kind: (
                    kinds.append(k), h(m, s)
                )  # fmt: skip
        await pass_time(120)
        assert kinds
        assert not {Probe, ProbeFor, Told} & set(kinds)

    in_town(scene)


def test_a_link_to_one_that_is_news_here_counts_once_it_is_a_member():
    async def scene(fleet):
        one, new, _ = fleet.all
        known = dict(fleet.at)
        del fleet.at[new.id]
        one.liveness.members_changed()
        await one.one.meet(new.one)
        assert one.liveness.state(new.id) == State.UNKNOWN
        fleet.at = known
        one.liveness.members_changed()
        assert one.liveness.state(new.id) == State.ALIVE
        assert one.liveness.swim._members[new.id].is_linked

    play(scene, count=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))  # whatever ends first
def test_a_node_that_ends_says_so_and_all_know_at_once(seed):
    async def scene(town):
        await linked(town)
        gone = town.seats.pop()
        gone.scope.cancel()
        await pass_time(0.2)
        assert seen_by(town, gone.node) == {State.DEAD}
        assert gone.files.presence

    in_town(scene, seed=seed)


@pytest.mark.slow
def test_a_machine_that_loses_power_is_dead_within_two_minutes():
    async def scene(town):
        await linked(town)
        gone = town.seats.pop()
        town.net.isolate(gone.host)
        gone.scope.cancel()
        await pass_time(10)
        assert seen_by(town, gone.node) == {State.ALIVE}
        await town.until(lambda: seen_by(town, gone.node) == {State.DEAD}, within_s=120)

    in_town(scene)


@pytest.mark.slow
def test_with_links_as_well_who_is_cut_off_judges_nobody():
    async def scene(town):
        await linked(town)
        ann, *others = town.seats
        noticed = []
        ann.mesh.liveness.watch(lambda node, state: noticed.append((node, state)))
        town.net.isolate(ann.host)
        await town.until(lambda: seen_by(town, ann.node) == {State.DEAD}, within_s=120)
        assert not ann.linked()
        await pass_time(200)
        assert noticed == []
        assert {seat.mesh.liveness.state(others[0].node) for seat in town.seats} == {State.ALIVE}
        town.net.heal()
        await town.until(lambda: seen_by(town, ann.node) == {State.ALIVE}, within_s=60)
        await linked(town)
        assert noticed == []

    in_town(scene)


@pytest.mark.slow
def test_who_is_heard_again_is_dialled_at_once(monkeypatch):
    monkeypatch.setattr(limits, "REDIAL_SECONDS_MAX", 10_000)

    async def scene(town):
        ann, bob = town.seats
        await town.until(ann.linked)
        town.net.cut([ann.host], [bob.host])
        await pass_time(2_000)  # each dials the other with much patience only
        assert seen_by(town, ann.node) == seen_by(town, bob.node) == {State.DEAD}
        town.net.heal()
        await town.until(ann.linked, within_s=limits.PROBE_SECONDS + 2)

    in_town(scene, names=["ann", "bob"])


@pytest.mark.slow
def test_what_is_told_of_a_linked_member_makes_its_link_speak():
    async def scene(town):
        await linked(town)
        ann, bob, cyd, _ = town.seats
        town.net.cut([ann.host], [bob.host])
        began = trio.current_time()
        cyd.mesh.port.tell(ann.node, ann.mesh.local, Told((View(bob.node, State.SUSPECT),)))
        await town.until(lambda: bob.node not in ann.linked())
        assert trio.current_time() - began < limits.LINK_TRUST_SECONDS + 0.5
        await pass_time(200)  # and helpers bring its word
        assert ann.mesh.liveness.state(bob.node) == State.ALIVE

    in_town(scene)
