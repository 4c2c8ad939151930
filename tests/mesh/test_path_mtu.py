import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from mesh.path_mtu import BLACK_HOLE_LOSSES, SIZES_BYTES, PathMtu, PathMtus

AGAIN = limits.PATH_MTU_AGAIN_SECONDS


def search(mtu, carries, now=0.0, seconds=60, loss=0.0, rng=None):
    """Probe a path that carries so much and loses some; how many probes it took."""
    probes, end = 0, now + seconds
    while now < end:
        size = mtu.probe(now)
        if size is not None:
            probes += 1
            if size <= carries and (rng is None or rng.random() >= loss):
                mtu.acked(size, now)
                continue
        when = mtu.timer(now)
        if when is None or when >= end:
            break
        assert when > now
        now = when
    return probes


def test_every_path_carries_1200_bytes():
    assert PathMtu().best == 1_200 == limits.DATAGRAM_BYTES_MAX
    assert SIZES_BYTES[-1] == limits.DATAGRAM_PROBE_BYTES_MAX
    assert list(SIZES_BYTES) == sorted(set(SIZES_BYTES))


@given(st.integers(1_200, 10_000))
def test_the_largest_size_that_passes_is_found(carries):
    mtu = PathMtu()
    probes = search(mtu, carries)
    assert mtu.best == max(size for size in SIZES_BYTES if size <= carries)
    assert probes <= len(SIZES_BYTES) + limits.PATH_MTU_TRIES


@given(st.integers(0, 2**32), st.integers(1_200, 10_000))
def test_loss_is_no_proof(seed, carries):
    mtu, rng = PathMtu(), random.Random(seed)
    best = max(size for size in SIZES_BYTES if size <= carries)
    now = 0.0
    while mtu.best < best and now < 20 * AGAIN:
        search(mtu, carries, now, AGAIN, 0.3, rng)
        assert mtu.best <= best
        now += AGAIN
    assert mtu.best == best


def test_one_probe_at_a_time_and_three_of_a_size():
    mtu = PathMtu()
    sent = [(now / 4, mtu.probe(now / 4)) for now in range(40)]
    assert [probe for probe in sent if probe[1]] == [(0.0, 1_280), (1.0, 1_280), (2.0, 1_280)]
    assert mtu.timer(10.0) == 3.0 + AGAIN
    assert mtu.probe(3.0 + AGAIN) == 1_280


def test_an_answer_that_is_late_counts_and_one_to_nothing_does_not():
    mtu = PathMtu()
    assert not mtu.acked(1_280, 0.0)
    for now in range(10):
        mtu.probe(float(now))
    assert not mtu.acked(1_350, 10.0)
    assert not mtu.acked(1_200, 10.0)
    assert mtu.acked(1_280, 10.0)
    assert mtu.best == 1_280
    assert not mtu.acked(1_280, 10.0)
    assert mtu.probe(10.0) == 1_350


def test_larger_sizes_are_tried_again_after_a_while():
    mtu = PathMtu()
    search(mtu, 1_372)
    assert search(mtu, 1_472, 100.0, AGAIN - 200) == 0
    search(mtu, 1_472, AGAIN + 100.0)
    assert mtu.best == 1_472


def test_a_path_without_an_end_is_asked_no_more():
    mtu = PathMtu()
    search(mtu, 10_000)
    assert mtu.best == SIZES_BYTES[-1]
    assert mtu.timer(99.0) is None
    assert mtu.probe(10**9) is None
    assert not mtu.acked(SIZES_BYTES[-1], 10**9)


def test_a_socket_that_refuses_is_believed():
    mtu = PathMtu()
    size = mtu.probe(0.0)
    while size != 1_452:
        mtu.acked(size, 0.0)
        size = mtu.probe(0.0)
    mtu.too_large(1_452, 0.0)
    assert mtu.best == 1_444
    assert mtu.probe(1.0) is None
    mtu.too_large(1_300, 2.0)  # the route has changed
    assert mtu.best == 1_200
    search(mtu, 10_000, 2.0)
    assert mtu.best == 1_280
    mtu.too_large(1_200, 2.0)
    assert mtu.best == 1_280


def test_a_black_hole_is_left_at_once():
    mtu = PathMtu()
    search(mtu, 1_472)
    for _ in range(3):
        for _ in range(BLACK_HOLE_LOSSES - 1):
            mtu.lost(1_472, 100.0)
        mtu.delivered(1_472)
    mtu.delivered(1_200)
    mtu.lost(1_200, 100.0)
    assert mtu.best == 1_472
    for _ in range(BLACK_HOLE_LOSSES):
        mtu.lost(1_472, 100.0)
        mtu.delivered(1_200)
    assert mtu.best == 1_200
    search(mtu, 1_372, 100.0)
    assert mtu.best == 1_372


def test_an_end_may_be_set():
    mtu = PathMtu(1_400)
    search(mtu, 10_000)
    assert mtu.best == 1_372


EVENTS = st.tuples(
    st.sampled_from(["probe", "acked", "too_large", "lost", "delivered"]),
    st.sampled_from([*SIZES_BYTES, 1_199, 1_300, 9_999]),
    st.floats(0, 700),
)


@given(st.lists(EVENTS))
def test_whatever_happens_the_size_is_one_that_was_answered(events):
    mtu, now, probed = PathMtu(), 0.0, {1_200}
    for event, size, later in events:
        now += later
        if event == "probe":
            probed.add(mtu.probe(now))
        elif event == "delivered":
            mtu.delivered(size)
        else:
            getattr(mtu, event)(size, now)
        assert mtu.best in probed
        when = mtu.timer(now)
        assert when is None or when >= 0


def test_knowledge_of_paths_is_kept_and_bounded():
    paths = PathMtus[str](2)
    search(paths.of("a"), 1_472)
    search(paths.of("b"), 1_472)
    assert paths.of("a").best == 1_472
    paths.of("c")
    assert paths.of("a").best == 1_472
    assert paths.of("b").best == 1_200


@pytest.mark.parametrize("size", [1_199, 1_200])
def test_what_is_always_small_enough_is_no_news(size):
    mtu = PathMtu()
    search(mtu, 1_472)
    mtu.too_large(size, 0.0)
    for _ in range(100):
        mtu.lost(size, 0.0)
    assert mtu.best == 1_472
