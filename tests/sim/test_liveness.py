"""Fifty members and a thousand that look after each other by datagram, in virtual time."""

from collections import Counter
from functools import partial

import pytest
import trio

from core import limits
from mesh.messages import Probed, ProbeFor, State, Told, View
from tests.support.fleets import a_fleet
from tests.support.hop import Path
from tests.support.neighbours import pass_time
from tests.support.simnet import simulate

COUNT = 50
LINE = Path(delay_s=0.03, jitter_s=0.01, loss=0.05)
QUIET = Path(delay_s=0.03)
DEAD_WITHIN_S = 120  # at everybody, of fifty


def play(scene, *, count=COUNT, path=LINE, seed=1, **how):
    simulate(partial(a_fleet, count=count, scene=scene, **how), seed, path)


def crash(fleet, n=3):
    gone = fleet.all.pop(n)
    gone.crash()
    return gone


def noticed(fleet):
    """How often anybody came to see somebody in each state."""
    return Counter(state for one in fleet.all for _, _, state in one.noticed)


async def nobody_dies(fleet, seconds):
    await pass_time(seconds)
    assert noticed(fleet)[State.DEAD] == 0
    assert not any(ship.unwell() for ship in fleet.all)


@pytest.mark.slow
def test_nobody_dies_of_lost_datagrams():
    play(partial(nobody_dies, seconds=250), path=Path(delay_s=0.03, jitter_s=0.01, loss=0.1))


@pytest.mark.deep
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nobody_dies_of_lost_datagrams_in_an_hour(seed):
    play(partial(nobody_dies, seconds=3_600), seed=seed)


@pytest.mark.slow
def test_it_costs_hardly_anything_while_nothing_happens():
    async def scene(fleet):
        await pass_time(100)
        per_second = [count / 100 for count in fleet.sent.values()]
        assert len(per_second) == COUNT
        assert sum(per_second) / COUNT <= 0.41
        assert max(per_second) <= 0.5
        assert noticed(fleet) == {}

    play(scene, path=QUIET)


@pytest.mark.slow
def test_a_crash_is_known_to_all_in_two_minutes_and_so_is_the_return():
    async def scene(fleet):
        await pass_time(20)
        gone = crash(fleet)
        await fleet.until(lambda: fleet.all_say(gone, State.DEAD), DEAD_WITHIN_S)
        assert noticed(fleet)[State.DEAD] == len(fleet.all)
        fleet.forget_the_past()
        await pass_time(30)
        assert noticed(fleet) == {}
        gone = await fleet.restart(gone)
        await fleet.until(lambda: fleet.all_say(gone, State.ALIVE), 60)
        await fleet.until(lambda: len(gone.noticed) == len(fleet.all) - 1, 300)
        assert not gone.unwell()

    play(scene)


@pytest.mark.slow
def test_nobody_is_dead_before_it_was_suspected_for_long_enough():
    async def scene(fleet):
        gone = crash(fleet)
        await fleet.until(lambda: fleet.all_say(gone, State.DEAD), DEAD_WITHIN_S)
        for ship in fleet.all:
            (suspected, _, first), (died, _, last) = ship.noticed
            assert (first, last) == (State.SUSPECT, State.DEAD)
            assert died - suspected >= ship.liveness.swim.suspicion_s()

    play(scene, count=20)


@pytest.mark.slow
def test_a_partition_is_seen_on_both_sides_and_heals():
    async def scene(fleet):
        ones, others = fleet.all[:8], fleet.all[8:]
        fleet.net.cut([v.host for v in ones], [v.host for v in others])

        def is_split():
            return all(
                set(ship.unwell()) == {other.id for other in beyond}
                and set(ship.unwell().values()) == {State.DEAD}
                for side, beyond in ((ones, others), (others, ones))
                for ship in side
            )

        took_s = await fleet.until(is_split, 600)
        assert took_s > ones[0].liveness.swim.suspicion_s()
        fleet.net.heal()
        await fleet.until(lambda: not any(v.unwell() for v in fleet.all), 120)

    play(scene, count=16)


@pytest.mark.slow
def test_who_is_cut_off_judges_nobody_and_is_judged():
    async def scene(fleet):
        alone = fleet.all[7]
        fleet.net.isolate(alone.host)
        others = [v for v in fleet.all if v is not alone]
        await fleet.until(lambda: fleet.all_say(alone, State.DEAD, others), DEAD_WITHIN_S)
        await pass_time(200)
        assert noticed(fleet) == {State.SUSPECT: len(others), State.DEAD: len(others)}
        assert alone.noticed == []
        assert alone.liveness.swim.is_alone
        fleet.sent.clear()
        await pass_time(100)
        assert fleet.sent[alone.host.address] < 30
        fleet.net.heal()
        await fleet.until(lambda: fleet.all_say(alone, State.ALIVE), 60)
        await fleet.until(lambda: alone.liveness.swim.health == 0, 120)
        assert alone.noticed == []

    play(scene, count=20, path=QUIET)


def lie(fleet, liar, about, state):
    """Tell everybody something all the time, and pretend to help."""

    def pretend(message, source):
        old = liar.one.port.sealed(message.sender, Probed(), message.txid)
        for proof in (b"he is well", old):
            liar.one.port.tell(message.sender, source, Probed(proof), message.txid)

    liar.one.port._handlers[ProbeFor] = pretend

    async def work():
        while True:
            for other in fleet.all:
                views = [View(one.id, state) for one in about(other)][: limits.VIEWS_TOLD_MAX]
                if other is not liar:
                    liar.one.port.tell(other.id, fleet.at[other.id], Told(tuple(views)))
            await pass_time(1)

    fleet.nursery.start_soon(work)


@pytest.mark.slow
@pytest.mark.parametrize("state", [State.SUSPECT, State.DEAD])
def test_a_liar_kills_nobody_and_costs_each_a_bounded_number_of_looks(state):
    async def scene(fleet):
        liar, victims = fleet.all[0], fleet.all[5:10]
        lie(fleet, liar, lambda other: [v for v in victims if v is not other], state)
        await pass_time(100)
        assert noticed(fleet) == {}
        honest = [v.host.address for v in fleet.all if v is not liar and v not in victims]
        most = max(fleet.sent[address] for address in honest) / 100
        assert most <= 0.4 + len(victims) / limits.LOOK_AGAIN_SECONDS + 0.2

    play(scene, count=20, path=QUIET)


@pytest.mark.slow
def test_a_liar_keeps_nobody_alive():
    async def scene(fleet):
        gone = crash(fleet)
        lie(fleet, fleet.all[0], lambda _: [gone], State.ALIVE)
        honest = fleet.all[1:]
        await fleet.until(lambda: fleet.all_say(gone, State.DEAD, honest), DEAD_WITHIN_S)
        await pass_time(60)
        assert fleet.all_say(gone, State.DEAD, honest)

    play(scene, count=5, path=QUIET)


@pytest.mark.slow
def test_who_goes_in_good_order_is_dead_at_once_for_some_and_soon_for_all():
    async def scene(fleet):
        gone = fleet.all.pop(3)
        gone.liveness.leave()
        gone.crash()
        told = [v for v in fleet.all if v.liveness.state(gone.id) == State.DEAD]
        assert told == []
        await pass_time(0.5)
        told = [v for v in fleet.all if v.liveness.state(gone.id) == State.DEAD]
        assert len(told) == limits.VIEWS_FANOUT
        assert {s for v in told for _, _, s in v.noticed} == {State.DEAD}
        await fleet.until(lambda: fleet.all_say(gone, State.DEAD), DEAD_WITHIN_S)

    play(scene, count=20, path=QUIET)


@pytest.mark.deep
def test_a_thousand_members_know_of_a_death_soon():
    async def scene(fleet):
        await pass_time(20)
        fleet.forget_the_past()
        gone, began = crash(fleet), trio.current_time()
        await fleet.until(
            lambda: all(v.liveness.state(gone.id) != State.ALIVE for v in fleet.all), 60
        )
        all_suspect_s = trio.current_time() - began
        await fleet.until(lambda: fleet.all_say(gone, State.DEAD), 180)
        all_dead_s = trio.current_time() - began
        each = sum(fleet.sent.values()) / len(fleet.all)
        print(f"\nall suspect {all_suspect_s:.0f} s, all dead {all_dead_s:.0f} s, {each:.0f} sent")
        assert each / all_dead_s <= 2
        assert noticed(fleet)[State.DEAD] == len(fleet.all)

    play(scene, count=1_000, path=Path(delay_s=0.03, jitter_s=0.01, loss=0.02))
