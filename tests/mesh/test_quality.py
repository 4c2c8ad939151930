import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.quality import Goodput, PacketLoss, Quality


def test_round_trips_are_smoothed_as_tcp_does_it():
    quality = Quality()
    assert not quality.is_trusted(0.0)
    quality.answered(0.1, 0.0)
    assert (quality.srtt_s, quality.rttvar_s) == (0.1, 0.05)
    quality.answered(0.2, 1.0)
    assert quality.rttvar_s == pytest.approx(0.05 + (0.1 - 0.05) / 4)
    assert quality.srtt_s == pytest.approx(0.1 + 0.1 / 8)


def test_trust_ends_after_six_and_a_half_seconds_without_an_answer():
    quality = Quality()
    quality.answered(0.1, 0.0)
    assert quality.is_trusted(1_000.0)  # nobody asked
    for at in (1_000.0, 1_003.0, 1_006.0):
        quality.asked(at)
    assert quality.is_trusted(1_006.49)
    assert not quality.is_trusted(1_006.5)
    assert quality.distrusted_at == 1_006.5


def test_an_answer_in_time_keeps_trust_and_one_too_late_does_not():
    quality = Quality()
    quality.answered(0.1, 0.0)
    for at in (0.0, 6.0, 12.0):
        quality.asked(at)
        quality.answered(6.0, at + 6.0)
    assert quality.is_trusted(18.0)
    quality.asked(18.0)
    quality.answered(7.0, 25.0)
    assert not quality.is_trusted(25.0)
    assert quality.distrusted_at == 24.5


def test_trust_comes_back_after_three_answers_in_a_row():
    quality = Quality()
    quality.answered(0.1, 0.0)
    quality.asked(0.0)
    assert not quality.is_trusted(10.0)
    for answers in ([True, True], [False], [True, True], [False], [True, True, True]):
        assert not quality.is_trusted(10.0)
        for answered in answers:
            quality.answered(0.1, 10.0) if answered else quality.missed(10.0)
    assert quality.is_trusted(10.0)
    assert quality.losses_of_trust == 1
    quality.missed(11.0)
    assert quality.is_trusted(11.0)  # one ping alone ends nothing


def test_losses_of_trust_are_counted_and_forgiven():
    quality, counts = Quality(), []
    for at in (0.0, 100.0, 690.0, 1_300.0, 1_400.0):
        for _ in range(3):
            quality.answered(0.1, at)
        quality.asked(at)
        assert not quality.is_trusted(at + 10)
        counts.append(quality.losses_of_trust)
    assert counts == [1, 2, 3, 1, 2]


def test_loss_of_pings_is_a_moving_share():
    quality, rng = Quality(), random.Random(1)
    for n in range(2_000):
        quality.missed(float(n)) if rng.random() < 0.2 else quality.answered(0.1, float(n))
    assert 0.05 < quality.loss < 0.4
    for n in range(200):
        quality.answered(0.1, 2_000.0 + n)
    assert quality.loss < 0.001


def test_goodput_is_what_the_lane_itself_allows():
    goodput = Goodput()
    goodput.slice(10, 1.0, was_bottleneck=False)
    goodput.slice(10**9, 0.1, was_bottleneck=True)
    assert goodput.bytes_per_s is None
    goodput.slice(100, 1.0, was_bottleneck=True)
    goodput.slice(200, 1.0, was_bottleneck=True)
    assert goodput.bytes_per_s == pytest.approx(120)
    goodput.slice(10, 1.0, was_bottleneck=False)
    assert goodput.bytes_per_s == pytest.approx(120)
    goodput.slice(500, 1.0, was_bottleneck=False)  # it can do at least this
    assert goodput.bytes_per_s == pytest.approx(500)


def test_too_few_packets_tell_no_loss():
    loss = PacketLoss()
    loss.slice(1_900, 95, 0.02)
    assert loss.share is None
    loss.slice(500, 25, 0.02)
    assert loss.share == pytest.approx(0.05)


def test_what_is_lost_while_the_queue_is_full_does_not_count():
    loss = PacketLoss()
    for _ in range(10):
        loss.slice(1_000, 0, 0.020)
        loss.slice(1_000, 200, 0.080)
    assert loss.share == 0.0


def test_old_losses_are_forgotten():
    loss = PacketLoss()
    loss.slice(10_000, 1_000, 0.02)
    for _ in range(300):
        loss.slice(2_000, 0, 0.02)
    assert loss.share is not None
    assert loss.share < 0.0001


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 5))))
def test_a_share_is_a_share_whatever_is_counted(slices):
    loss = PacketLoss()
    for sent, lost, rtt_s in slices:
        loss.slice(sent, lost, rtt_s)
    assert loss.share is None or 0 <= loss.share <= 1
