from hypothesis import given
from hypothesis import strategies as st

from mesh.budget import Budget


def test_two_seconds_worth_at_once_and_then_so_many_a_second():
    budget = Budget(10, 5.0)
    assert sum(budget.take(5.0) for _ in range(100)) == 20
    assert sum(budget.take(6.0) for _ in range(100)) == 10
    assert sum(budget.take(1_000.0) for _ in range(100)) == 20


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing():
    budget = Budget(10, 100.0)
    assert budget.take(50.0)
    assert sum(budget.take(100.0) for _ in range(100)) == 19
    assert not any(budget.take(now) for now in (50.0, 99.0, 0.0))
    assert sum(budget.take(101.0) for _ in range(100)) == 10


@given(st.lists(st.floats(0, 1), max_size=200))
def test_never_more_than_was_granted(pauses):
    budget, now, taken = Budget(20, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += sum(budget.take(now) for _ in range(5))
    assert taken <= 40 + 20 * now + 1e-6
