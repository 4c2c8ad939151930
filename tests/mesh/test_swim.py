"""What one node makes of what it hears and does not hear; without a network."""

import itertools
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.ids import NodeId
from mesh.messages import State, View
from mesh.swim import Change, Outcome, Swim

OWN = NodeId(bytes([200] * 32))
PROBE = limits.PROBE_SECONDS


def node(n):
    return NodeId(n.to_bytes(2) * 16)


A, B, C, D, E = (node(n) for n in range(1, 6))


def a_swim(*nodes, seed=1, now=0.0):
    swim = Swim(OWN, Random(seed).random, now)
    swim.members_are([*nodes, OWN])
    return swim


def all_alive(*nodes, now=0.0, **how):
    swim = a_swim(*nodes, now=now, **how)
    for one in nodes:
        swim.heard(one, now)
    swim.changed()
    return swim


def play(swim, until, there, now=0.0, *, took_s=0.1, helps=True):
    """Look whenever it is due; `there(node, now)` tells who answers. All looks there were."""
    looks = []
    while (due := swim.due()) <= until:
        now = max(now, due)
        for look in swim.looks(now):
            looks.append((now, look.node))
            began = now
            helpers = [h for h in look.helpers if there(h, now)]
            if there(look.node, now):
                swim.heard(look.node, now + took_s)
            elif helpers and helps:
                swim.heard(helpers[0], now + took_s)
            swim.looked(look.node, began, now + took_s, took_s if there(look.node, now) else None)
    return looks


def only(*dead):
    return lambda one, _now: one not in dead


# --- the round ------------------------------------------------------------------------------------


def test_all_are_looked_at_in_turn_one_each_interval_in_a_changing_order():
    members = [node(n) for n in range(1, 21)]
    swim = a_swim(*members)
    looks = play(swim, 40 * PROBE, only())
    times, whom = [at for at, _ in looks], [one for _, one in looks]
    assert set(whom[:20]) == set(whom[20:40]) == set(members)
    assert whom[:20] != whom[20:40]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps == pytest.approx([PROBE] * len(gaps))
    assert 0 <= times[0] <= PROBE
    assert all(state == State.ALIVE for state in swim.states().values())


def test_members_with_a_link_are_not_looked_at_and_without_others_nothing_is_due():
    swim = all_alive(A, B, C)
    swim.linked(A, 1.0)
    swim.linked(B, 1.0)
    assert {one for _, one in play(swim, 20 * PROBE, only())} == {C}
    swim.linked(C, 100.0)
    assert swim.due() == math.inf
    swim.unlinked(B, 200.0)
    assert swim.due() <= 200.0


def test_a_link_that_ended_is_reason_to_look_at_once():
    members = [node(n) for n in range(1, 31)]
    swim = all_alive(*members)
    swim.linked(B, 0.0)
    play(swim, 7.0, only())
    swim.unlinked(B, 7.0)
    assert (7.0, B) in play(swim, 7.0, only(), now=7.0)
    swim.unlinked(B, 8.0)
    assert B not in swim._soon


def test_who_joins_is_looked_at_within_the_round_and_who_leaves_the_mesh_no_more():
    swim = all_alive(A, B)
    swim.members_are([A, C])
    assert B not in swim
    assert swim.state(B) == State.UNKNOWN
    assert swim.state(C) == State.UNKNOWN
    assert len(swim) == 2
    whom = [one for _, one in play(swim, 4 * PROBE, only())]
    assert set(whom) == {A, C}
    assert swim.changed() == [Change(C, State.ALIVE)]
    assert swim.alive == 2


def test_who_is_removed_during_a_look_is_simply_gone():
    swim = all_alive(A, B, C)
    (look,) = swim.looks(PROBE)
    swim.members_are({A, B, C} - {look.node})
    assert swim.looked(look.node, PROBE, PROBE + 1) == Outcome.VOID
    assert swim.alive == len(swim) == 2
    assert swim.due() < math.inf


def test_the_timeout_follows_the_round_trip_within_bounds():
    swim = all_alive(A)
    found = []
    for rtt_s in (0.01, 0.2, 0.4, 5.0):
        for _ in range(60):
            now = swim.due()
            (look,) = swim.looks(now)
            swim.heard(A, now)
            swim.looked(A, now, now, rtt_s)
        found.append(look.timeout_s)
        assert look.help_s >= look.timeout_s + limits.PROBE_HELP_SECONDS
        assert 2 * look.timeout_s + look.help_s >= limits.PROBE_WHOLE_SECONDS_MIN
    assert found == pytest.approx([0.5, 0.8, 1.6, 3.0], rel=0.01)


# --- suspicion ------------------------------------------------------------------------------------


def test_who_does_not_answer_while_others_do_is_suspected_and_then_dead():
    swim = all_alive(*(node(n) for n in range(1, 11)))
    dead = node(4)
    looks = play(swim, 300.0, only(dead))
    assert swim.changed() == [Change(dead, State.SUSPECT), Change(dead, State.DEAD)]
    at = [when for when, one in looks if one == dead][: 1 + limits.SUSPICION_LOOKS]
    assert swim.suspicion_s() <= at[-1] - at[0] <= swim.suspicion_s() + 3


@pytest.mark.parametrize(("others", "seconds"), [(1, 14.3), (9, 31.2), (49, 51.2), (999, 90.0)])
def test_a_suspicion_lasts_longer_the_more_there_are(others, seconds):
    swim = a_swim(*(node(n) for n in range(1, others + 1)))
    assert swim.suspicion_s() == pytest.approx(seconds, abs=0.1)


def test_any_word_ends_a_suspicion_at_once_and_death_as_well():
    swim = all_alive(A, B, C)
    play(swim, 20.0, only(B))
    assert swim.state(B) == State.SUSPECT
    swim.heard(B, 20.0)
    assert swim.state(B) == State.ALIVE
    play(swim, 120.0, only(B), now=20.0)
    assert swim.state(B) == State.DEAD
    swim.heard(B, 120.0)
    assert swim.state(B) == State.ALIVE


def test_the_dead_are_looked_at_in_turn_with_little_help():
    swim = all_alive(A, B, C, D)
    play(swim, 200.0, only(B))
    assert swim.state(B) == State.DEAD
    rounds = []
    while B not in {look.node for look in rounds} and len(rounds) < 20:
        now = swim.due()
        for look in swim.looks(now):
            rounds.append(look)
            if look.node != B:
                swim.heard(look.node, now)
            swim.looked(look.node, now, now)
    assert len(rounds) <= 8
    assert len(next(look for look in rounds if look.node == B).helpers) == 1
    assert swim.health == 0
    play(swim, 400.0, only(), now=now)
    assert swim.state(B) == State.ALIVE


def test_nobody_can_hurry_a_suspicion():
    swim = all_alive(*(node(n) for n in range(1, 11)))
    dead, liar = node(4), node(7)
    now, began, whole_s = 0.0, None, swim.suspicion_s()
    for _ in range(200):
        if swim.state(dead) == State.DEAD:
            break
        now = swim.due()
        for look in swim.looks(now):
            swim.heard(node(9), now)
            if look.node != dead:
                swim.heard(look.node, now)
            swim.looked(look.node, now, now)
        if swim.state(dead) == State.SUSPECT:
            began = began or now
            swim.told(liar, [View(dead, State.ALIVE)], now)  # so that it is looked at again
    assert swim.state(dead) == State.DEAD
    assert now - began >= whole_s


# --- we may be the ones ---------------------------------------------------------------------------


def test_who_hears_nobody_judges_nobody_and_becomes_patient():
    members = [node(n) for n in range(1, 11)]
    swim = all_alive(*members)
    looks = play(swim, 3_600.0, only(*members))
    assert swim.changed() == []
    assert swim.is_alone
    assert swim.health == limits.HEALTH_MAX
    slowest = (1 + limits.HEALTH_MAX) * PROBE
    last = [at for at, _ in looks][-20:]
    assert [b - a for a, b in itertools.pairwise(last)] == pytest.approx([slowest] * 19)
    swim.heard(members[0], 3_600.0)
    assert not swim.is_alone
    assert swim.health == 0
    assert swim.due() <= 3_600.0 + PROBE
    play(swim, 4_000.0, only(), now=3_600.0)
    assert swim.changed() == []


def test_a_suspicion_stands_still_while_we_are_cut_off():
    members = [node(n) for n in range(1, 11)]
    swim = all_alive(*members)
    dead = node(4)
    now = 0.0
    while swim.state(dead) != State.SUSPECT and now < 100:
        now += 1
        play(swim, now, only(dead), now=now - 1)
    play(swim, now + 10_000, only(*members), now=now)
    assert swim.state(dead) == State.SUSPECT
    assert [one for one, state in swim.states().items() if state != State.ALIVE] == [dead]
    swim.heard(members[0], now + 10_000)
    play(swim, now + 10_000 + swim.suspicion_s() / 2, only(dead), now=now + 10_000)
    assert swim.state(dead) == State.SUSPECT
    play(swim, now + 10_200, only(dead), now=now + 10_000)
    assert swim.state(dead) == State.DEAD


def test_helpers_that_do_not_answer_either_make_it_our_failure():
    swim = all_alive(A, B, C, D)
    looks = play(swim, 6 * PROBE, only(B), helps=False)
    assert B in {one for _, one in looks}
    assert swim.state(B) == State.ALIVE
    play(swim, 300.0, only(B), now=6 * PROBE)
    assert swim.state(B) == State.DEAD


@pytest.mark.parametrize(
    ("heard_at", "outcome"), [(9.9, Outcome.VOID), (10.0, Outcome.FAILED), (12.0, Outcome.FAILED)]
)
def test_only_what_is_heard_during_the_look_shows_that_others_hear_us(heard_at, outcome):
    swim = all_alive(A, B)
    (look,) = swim.looks(10.0)
    swim.heard(B if look.node == A else A, heard_at)
    assert swim.looked(look.node, 10.0, 13.0) == outcome


def test_of_two_nodes_each_must_judge_by_itself():
    swim = all_alive(A)
    play(swim, 60.0, only(A))
    assert swim.changed() == [Change(A, State.SUSPECT), Change(A, State.DEAD)]
    assert swim.health == 0


def test_a_failure_that_others_confirm_shows_that_we_are_heard():
    swim = all_alive(A, B)
    swim.health = 4
    (look,) = swim.looks(10.0)
    swim.heard(B if look.node == A else A, 11.0)
    assert swim.looked(look.node, 10.0, 13.0) == Outcome.FAILED
    assert swim.health == 3


def test_health_returns_step_by_step_with_each_answer():
    members = [node(n) for n in range(1, 11)]
    swim = all_alive(*members)
    swim.health = 4
    play(swim, 5 * PROBE, only())
    assert swim.health < 4
    play(swim, 100 * PROBE, only(), now=5 * PROBE)
    assert swim.health == 0


# --- what others say ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.SUSPECT, State.DEAD])
def test_what_others_say_makes_us_look_and_changes_nothing(state):
    swim = all_alive(*(node(n) for n in range(1, 31)))
    swim.told(node(2), [View(node(9), state)], 0.0)
    assert swim.due() == 0.0
    assert [look.node for look in swim.looks(0.0) if look.node == node(9)] == [node(9)]
    assert swim.changed() == []
    assert not swim.has_news


def test_the_same_rumour_makes_us_look_once_in_a_while_and_all_of_them_at_a_bounded_rate():
    members = [node(n) for n in range(1, 101)]
    swim = all_alive(*members)
    looks, now = [], 0.0
    while now < 100:
        now += 0.25
        for n in range(0, 96, 16):
            swim.told(members[n - 1], [View(one, State.DEAD) for one in members[n : n + 16]], now)
        for look in swim.looks(now):
            looks.append(look.node)
            swim.heard(look.node, now)
            swim.looked(look.node, now, now)
    assert len(looks) <= 100 / PROBE + 100 * limits.LOOKS_PER_SECOND + 5
    assert max(map(looks.count, members)) <= 100 / limits.LOOK_AGAIN_SECONDS + 2
    assert swim.changed() == []


def test_what_is_told_right_after_a_look_is_looked_at_when_it_may_be_again():
    swim = all_alive(*(node(n) for n in range(1, 31)))
    for now in (0.0, 1.0, 2.0):
        swim.told(node(2), [View(node(9), State.SUSPECT)], now)
        for look in swim.looks(now):
            swim.heard(look.node, now)
            swim.looked(look.node, now, now)
    looks = play(swim, 30.0, only(), now=2.0)
    assert [at for at, one in looks if one == node(9)] == [limits.LOOK_AGAIN_SECONDS]


def test_that_somebody_lives_is_looked_at_only_if_we_doubt_it():
    swim = all_alive(*(node(n) for n in range(1, 11)))
    swim.told(A, [View(B, State.ALIVE), View(node(99), State.DEAD), View(A, State.ALIVE)], 0.0)
    assert not swim._soon
    play(swim, 200.0, only(B))
    assert swim.state(B) == State.DEAD
    swim.told(A, [View(B, State.DEAD)], 200.0)
    assert not swim._soon
    swim.told(A, [View(B, State.ALIVE)], 200.0)
    assert list(swim._soon) == [B]
    assert swim.state(B) == State.DEAD


def test_of_itself_a_member_is_believed_that_it_goes():
    swim = all_alive(A, B, C)
    swim.told(A, [View(A, State.DEAD)], 0.0)
    assert swim.changed() == [Change(A, State.DEAD)]
    assert swim.views() == (View(A, State.DEAD),)
    swim.heard(A, 1.0)
    assert swim.changed() == [Change(A, State.ALIVE)]


def test_who_doubts_us_is_shown_that_we_are():
    swim = all_alive(*(node(n) for n in range(1, 11)))
    swim.told(C, [View(OWN, State.SUSPECT)], 0.0)
    assert list(swim._soon) == [C]


def test_of_linked_members_the_link_is_to_be_asked():
    swim = all_alive(A, B, C)
    swim.linked(B, 0.0)
    rumour = [View(B, State.SUSPECT), View(C, State.SUSPECT)]
    assert swim.told(A, rumour, 1.0) == [B]
    assert list(swim._soon) == [C]
    assert swim.told(A, rumour, 2.0) == []
    assert swim.told(A, rumour, 1.0 + limits.LOOK_AGAIN_SECONDS) == [B]


def test_a_look_that_fails_changes_nothing_for_who_is_linked_meanwhile():
    swim = all_alive(A, B, C)
    now = swim.due()
    (look,) = swim.looks(now)
    swim.linked(look.node, now)
    swim._members[look.node].heard_at = -1.0
    swim.heard(next(one for one in (A, B, C) if one != look.node), now)
    swim.looked(look.node, now, now + 3)
    assert swim.changed() == []
    assert swim.health == 0


# --- what we tell ---------------------------------------------------------------------------------


def test_our_own_changes_are_told_a_few_times_and_what_we_found_at_the_start_is_not():
    members = [node(n) for n in range(1, 51)]
    swim = a_swim(*members)
    play(swim, 600.0, only(B))
    assert swim.state(B) == State.DEAD
    assert not swim.has_news
    swim.heard(B, 600.0)
    told = 0
    while swim.has_news and told < 100:
        assert swim.views() == (View(B, State.ALIVE),)
        told += 1
        assert swim.views(is_answer=True) in {(), (View(B, State.ALIVE),)}
    assert told == 4 * 2
    assert swim.views() == ()


def test_what_was_told_least_comes_first_and_the_newest_state_counts():
    members = [node(n) for n in range(1, 51)]
    swim = all_alive(*members)
    for one in members[:20]:
        swim.left(one)
    first, second = swim.views(), swim.views()
    assert len(first) == len(second) == limits.VIEWS_TOLD_MAX
    assert {view.node for view in first} | {view.node for view in second} == set(members[:20])
    swim.heard(members[0], 1.0)
    said = [view for _ in range(10) for view in swim.views()]
    assert State.DEAD not in {state for one, state in said if one == members[0]}


def test_helpers_are_chosen_by_chance_among_the_living():
    members = [node(n) for n in range(1, 31)]
    swim = all_alive(*members)
    for one in members[:20]:
        swim.left(one)
    chosen = [swim.some_alive(3, without=members[25]) for _ in range(200)]
    assert all(len(set(three)) == 3 for three in chosen)
    assert {one for three in chosen for one in three} == set(members[20:]) - {members[25]}
    assert set(swim.some_alive(99)) == set(members[20:])


# --- whatever happens -----------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["heard", "told", "linked", "unlinked", "members", "look", "end", "left"]),
        st.integers(1, 6),
        st.integers(0, 3),
        st.floats(0, 30),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_it_keeps_count_and_hearsay_never_judges(steps):
    swim, now, under_way = a_swim(*(node(n) for n in range(1, 7))), 0.0, []
    for what, n, number, seconds in steps:
        now, before = now + seconds, swim.states()
        if what == "heard":
            swim.heard(node(n), now)
        elif what == "told":
            swim.told(node(number + 1), [View(node(n), State(number))], now)
            changed = {one for one, state in swim.states().items() if before[one] != state}
            assert changed <= ({node(n)} if n == number + 1 else set())
        elif what == "members":
            swim.members_are(node(m) for m in range(1, n + 1))
        elif what == "look":
            under_way += [(look.node, now) for look in swim.looks(now)]
            assert swim.due() > now
        elif what == "end" and under_way:
            swim.looked(*under_way.pop(0), now)
        elif what in {"linked", "unlinked"}:
            getattr(swim, what)(node(n), now)
        elif what == "left":
            swim.left(node(n))
        assert swim.alive == sum(state == State.ALIVE for state in swim.states().values())
        assert swim._under_way == len(under_way) <= limits.PROBES_MAX
        assert 0 <= swim.health <= limits.HEALTH_MAX
        assert set(swim._soon) <= set(swim.states())
        assert all(view.state != State.UNKNOWN for view in swim.views())
