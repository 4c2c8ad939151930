import sys

from hypothesis import given
from hypothesis import strategies as st

from core import limits
from mesh.window import Window

SIZE = limits.DATAGRAM_WINDOW_COUNTERS
COUNTERS = st.lists(st.integers(0, 3 * SIZE) | st.integers(2**64 - 50, 2**64 - 1))


@given(COUNTERS)
def test_each_counter_is_accepted_once_and_none_that_is_too_old(counters):
    window, accepted, highest = Window(), set(), -1
    for counter in counters:
        expected = counter not in accepted and counter > highest - SIZE
        assert window.is_new(counter) == expected
        if expected:
            window.accept(counter)
            accepted.add(counter)
            highest = max(highest, counter)
    assert not any(window.is_new(counter) for counter in accepted)


def test_the_edge_of_the_window():
    window = Window()
    window.accept(SIZE)
    assert window.is_new(1)
    assert not window.is_new(0)


def test_the_longest_jump_costs_no_memory():
    window = Window()
    for counter in (0, 2**64 - 1):
        window.accept(counter)
        assert sys.getsizeof(window._bits) < 200
    assert not window.is_new(0)


def test_many_steps_cost_no_memory():
    window = Window()
    for counter in range(0, 50_000, 7):
        window.accept(counter)
    assert sys.getsizeof(window._bits) < 200
