import math

from hypothesis import given
from hypothesis import strategies as st

from mesh.quic.timers import Timers


def test_the_earliest_time_counts():
    timers = Timers()
    assert timers.next_at == math.inf
    timers.set(1, 5.0)
    timers.set(2, 3.0)
    timers.set(1, 7.0)
    assert timers.next_at == 3.0
    assert timers.take_due(2.9) == []
    assert timers.take_due(3.0) == [2]
    assert timers.next_at == 5.0, "a later time does not replace an earlier one"
    timers.set(1, 4.0)
    assert timers.take_due(6.0) == [1]
    assert timers.next_at == math.inf, "and what was replaced does not come again"


def test_who_is_forgotten_is_not_woken():
    timers = Timers()
    timers.set(1, 5.0)
    timers.set(2, 6.0)
    timers.forget(1)
    timers.forget(3)
    assert timers.next_at == 6.0
    assert timers.take_due(10.0) == [2]
    assert len(timers) == 0


def test_what_is_taken_may_be_set_again():
    timers = Timers()
    timers.set(1, 1.0)
    assert timers.take_due(1.0) == [1]
    timers.set(1, 2.0)
    assert timers.take_due(2.0) == [1]


def test_it_never_outgrows_its_users():
    timers = Timers()
    for step in range(10_000):
        for number in range(10):
            timers.set(number, 100_000.0 - step)
            timers.set(number, 200_000.0)
    assert len(timers) == 10
    assert len(timers._heap) <= 2 * 10 + 64
    for number in range(10):
        timers.forget(number)
    assert timers.next_at == math.inf
    assert not timers._heap


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 5), st.floats(0, 100)),
            st.tuples(st.just("forget"), st.integers(0, 5), st.just(0.0)),
            st.tuples(st.just("take"), st.just(0), st.floats(0, 100)),
        ),
        max_size=300,
    )
)
def test_it_does_what_a_dictionary_would(steps):
    timers, oracle = Timers(), {}
    for what, number, at in steps:
        if what == "set":
            timers.set(number, at)
            oracle[number] = min(at, oracle.get(number, math.inf))
        elif what == "forget":
            timers.forget(number)
            oracle.pop(number, None)
        else:
            due = sorted(oracle, key=lambda one: (oracle[one], one))
            due = [one for one in due if oracle[one] <= at]
            assert timers.take_due(at) == due
            for one in due:
                del oracle[one]
        assert timers.next_at == min(oracle.values(), default=math.inf)
