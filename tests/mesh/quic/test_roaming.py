from hypothesis import given
from hypothesis import strategies as st

from core import limits
from mesh.quic.roaming import Roaming
from mesh.wire import Address

HOME, ELSEWHERE, THIRD = (Address(f"192.0.2.{number}", 1) for number in (1, 2, 3))
SILENCE = limits.MOVE_SILENCE_SECONDS
PROOF = limits.MOVE_PROOF_SECONDS


def a_trial() -> Roaming:
    roaming = Roaming(HOME, may_move=True)
    roaming.heard_home(10.0)
    assert roaming.heard_elsewhere(ELSEWHERE, 100, 10.0 + SILENCE)
    return roaming


def test_while_home_is_heard_nothing_moves():
    roaming = Roaming(HOME, may_move=True)
    roaming.heard_home(10.0)
    assert not roaming.heard_elsewhere(ELSEWHERE, 1_000, 10.0 + SILENCE - 0.01)
    assert roaming.to == HOME
    assert roaming.may_send(10**6, 10.0)


def test_a_proof_makes_the_other_place_home():
    roaming = a_trial()
    assert roaming.to == ELSEWHERE
    assert roaming.home == HOME
    roaming.was_proved()
    assert roaming.to == roaming.home == ELSEWHERE
    assert roaming.may_send(10**6, 100.0)
    assert not roaming.heard_elsewhere(HOME, 100, 10.0 + SILENCE + 0.01), "it was heard just now"


def test_home_ends_the_trial():
    roaming = a_trial()
    roaming.heard_home(10.5)
    assert roaming.to == HOME
    roaming.was_proved()
    assert roaming.home == HOME, "too late"


def test_time_ends_the_trial():
    roaming = a_trial()
    assert not roaming.heard_elsewhere(THIRD, 100, 10.0 + SILENCE + PROOF - 0.1), "one at a time"
    assert roaming.may_send(1_000, 10.0 + SILENCE + PROOF)
    assert roaming.to == HOME
    assert roaming.heard_elsewhere(THIRD, 100, 20.0)


def test_what_is_not_proved_gets_no_more_than_three_times_what_came():
    roaming = a_trial()
    assert roaming.may_send(250, 10.5)
    assert not roaming.may_send(51, 10.5)
    assert not roaming.heard_elsewhere(ELSEWHERE, 100, 10.6), "it was asked already"
    assert roaming.may_send(290, 10.6)
    assert not roaming.may_send(20, 10.6)


def test_who_was_dialled_stays():
    roaming = Roaming(HOME, may_move=False)
    assert not roaming.heard_elsewhere(ELSEWHERE, 100, 100.0)
    assert roaming.to == HOME


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["home", "elsewhere", "third", "proof", "send"]),
            st.integers(1, 1_350),
            st.floats(0, 2),
        ),
        max_size=200,
    )
)
def test_nothing_unproved_gets_more_than_it_may(steps):
    roaming, now, got = Roaming(HOME, may_move=True), 1.0, {ELSEWHERE: 0, THIRD: 0}
    sent, proved = dict(got), {HOME}
    for what, size, passes in steps:
        now += passes
        if what == "home":
            roaming.heard_home(now)
        elif what == "proof":
            roaming.was_proved()
            proved.add(roaming.home)
        elif what == "send":
            if roaming.may_send(size, now) and roaming.to not in proved:
                sent[roaming.to] += size
        else:
            source = ELSEWHERE if what == "elsewhere" else THIRD
            if source != roaming.home:
                got[source] += size
                roaming.heard_elsewhere(source, size, now)
    for place, size in got.items():
        assert sent[place] <= 3 * size
