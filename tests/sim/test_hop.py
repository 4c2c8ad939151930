from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.hop import HEADER_BYTES, Hop, Path

SIZE = 1_000


def hop(seed=1, **path) -> Hop:
    return Hop(Path(**path), Random(seed))


def test_a_bare_path_delays_and_nothing_else():
    one = hop(delay_s=0.25)
    assert [one.send(SIZE, now) for now in (0.0, 0.0, 3.0)] == [(0.25,), (0.25,), (3.25,)]
    assert (one.count.sent, one.count.arrived) == (3, 3)


def test_a_bottleneck_sends_one_after_the_other():
    one = hop(delay_s=1.0, bits_per_s=8 * (SIZE + HEADER_BYTES))
    assert [one.send(SIZE, 0.0) for _ in range(3)] == [(2.0,), (3.0,), (4.0,)]
    assert one.send(SIZE, 10.0) == (12.0,)


def test_a_full_queue_drops_what_comes_last():
    one = hop(bits_per_s=8 * (SIZE + HEADER_BYTES), queue_bytes=2 * (SIZE + HEADER_BYTES))
    assert [one.send(SIZE, 0.0) for _ in range(3)] == [(1.0,), (2.0,), ()]
    assert one.queued_bytes(1.0) == pytest.approx(SIZE + HEADER_BYTES)
    assert one.send(SIZE, 1.0) == (3.0,)
    assert one.count.overflowed == 1
    assert one.count.queued_bytes_max == pytest.approx(2 * (SIZE + HEADER_BYTES))


def test_what_is_too_large_vanishes_and_takes_no_time():
    one = hop(bits_per_s=8 * (SIZE + HEADER_BYTES), datagram_bytes_max=SIZE)
    assert one.send(SIZE + 1, 0.0) == ()
    assert one.send(SIZE, 0.0) == (1.0,)
    assert one.count.too_large == 1


@pytest.mark.parametrize("loss", [0.001, 0.01, 0.3])
def test_as_many_are_lost_as_was_said(loss):
    one = hop(loss=loss)
    count = 20_000
    arrived = sum(len(one.send(SIZE, 0.0)) for _ in range(count))
    spread = 4 * (count * loss * (1 - loss)) ** 0.5
    assert abs(count - arrived - count * loss) <= spread
    assert one.count.lost == count - arrived


def test_losses_come_after_the_bottleneck():
    one = hop(loss=0.5, bits_per_s=8 * (SIZE + HEADER_BYTES), queue_bytes=1e9)
    arrivals = [at for _ in range(100) for at in one.send(SIZE, 0.0)]
    assert arrivals
    assert all(at == round(at) for at in arrivals)
    assert one.queued_bytes(0.0) == pytest.approx(100 * (SIZE + HEADER_BYTES))


def test_jitter_delays_but_nobody_overtakes():
    one = hop(delay_s=0.1, jitter_s=0.05)
    delays = []
    last = 0.0
    for number in range(1_000):
        now = number * 0.001
        (at,) = one.send(SIZE, now)
        assert at >= last
        last = at
        delays.append(at - now)
    assert min(delays) >= 0.1
    assert max(delays) <= 0.15
    assert max(delays) - min(delays) > 0.01


def test_who_is_held_back_is_overtaken():
    one = hop(delay_s=0.1, held=0.1, held_s=0.05)
    arrivals = [one.send(SIZE, number * 0.001)[0] for number in range(1_000)]
    late = sum(later < before for before, later in pairwise(arrivals))
    assert 60 <= late <= 140


def test_some_come_twice():
    one = hop(doubled=0.1, held_s=0.01)
    arrivals = [one.send(SIZE, 1.0) for _ in range(1_000)]
    assert {len(times) for times in arrivals} == {1, 2}
    assert 60 <= one.count.doubled <= 140


def test_a_path_may_change_under_way():
    one = hop(delay_s=0.1)
    one.path = replace(one.path, loss=1.0)
    assert one.send(SIZE, 0.0) == ()


@given(
    seed=st.integers(0, 2**32),
    sends=st.lists(st.tuples(st.integers(0, 2_000), st.floats(0, 0.1)), max_size=60),
    loss=st.sampled_from([0.0, 0.1]),
    held=st.sampled_from([0.0, 0.2]),
    queue=st.integers(0, 20_000),
)
def test_whatever_is_sent_the_sums_are_right(seed, sends, loss, held, queue):
    path = Path(0.01, 0.003, loss, 0.1, held, 0.02, 1e6, queue, 1_500)
    ways = [Hop(path, Random(seed)) for _ in range(2)]
    now = 0.0
    for size, pause in sends:
        now += pause
        times, same = (way.send(size, now) for way in ways)
        assert times == same  # from one seed, one fate
        for at in times:
            assert at >= now + path.delay_s + (size + HEADER_BYTES) * 8 / path.bits_per_s - 1e-9
        assert ways[0].queued_bytes(now) <= queue + 1e-6
    count = ways[0].count
    assert count.sent == len(sends)
    assert count.sent == count.arrived + count.lost + count.overflowed + count.too_large
