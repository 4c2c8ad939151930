from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.ids import NodeId
from mesh.clocks import Clocks


def node(n):
    return NodeId(bytes([n]) * 32)


def test_the_median_counts_and_old_samples_do_not():
    clocks = Clocks()
    assert clocks.offset_ms(node(1)) == 0
    for offset in (10, 12, 90_000):
        clocks.sample(node(1), offset)
    assert clocks.offset_ms(node(1)) == 12
    for _ in range(limits.CLOCK_SAMPLES_KEPT):
        assert clocks.sample(node(1), -7) in {12, 10, -7}
    assert clocks.offset_ms(node(1)) == -7
    assert clocks.offset_ms(node(2)) == 0


@given(st.lists(st.integers(-20, 20), min_size=9, max_size=15), st.integers(-(10**9), 10**9))
def test_a_few_wild_samples_change_nothing(honest, wild):
    clocks = Clocks()
    for offset in [*honest, *[wild] * 4]:
        clocks.sample(node(1), offset)
    assert min(honest) <= clocks.offset_ms(node(1)) <= max(honest)


def test_our_own_clock_is_wrong_if_most_say_so():
    clocks = Clocks()
    clocks.sample(node(1), 60_000)
    clocks.sample(node(2), 60_100)
    assert clocks.own_error_ms() == 0
    clocks.sample(node(3), 5)
    assert clocks.own_error_ms() == -60_000


def test_only_the_peers_heard_last_are_kept():
    clocks = Clocks(2)
    for n in (1, 2, 1, 3):
        clocks.sample(node(n), n)
    assert [clocks.offset_ms(node(n)) for n in (1, 2, 3)] == [1, 0, 3]
