import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.engine_choice import EngineChoice
from mesh.quic.engine import Kind

BOTH = [Kind.QH3, Kind.AIOQUIC]


def run(choice, loss, rtt_s=0.04, rate=10**6, seconds=300, start=0.0, sent=1_000, seed=1):
    rng = random.Random(seed)
    for n in range(seconds):
        lost = sum(rng.random() < loss for _ in range(sent)) if loss else 0
        choice.slice(sent, lost, rtt_s, rate, start + n)
    return choice.kind


def test_qh3_is_the_default_and_what_only_one_speaks_is_used():
    assert EngineChoice(BOTH).kind is Kind.QH3
    assert EngineChoice([]).kind is Kind.QH3
    for kind in BOTH:
        choice = EngineChoice([kind])
        assert run(choice, 0.01) is kind
        assert choice.switches == 0


@pytest.mark.parametrize(
    ("loss", "rtt_s", "rate", "kind"),
    [
        (0.01, 0.040, 500_000, Kind.AIOQUIC),
        (0.001, 0.040, 500_000, Kind.AIOQUIC),
        (0.0001, 0.040, 500_000, Kind.QH3),
        (0.0, 0.040, 500_000, Kind.QH3),
        (0.01, 0.009, 500_000, Kind.QH3),
        (0.01, 0.040, 20_000_000, Kind.QH3),
    ],
)
def test_aioquic_is_for_paths_that_lose_and_are_long(loss, rtt_s, rate, kind):
    assert run(EngineChoice(BOTH), loss, rtt_s, rate) is kind


def test_when_the_path_is_good_again_so_is_qh3():
    choice = EngineChoice(BOTH)
    assert run(choice, 0.01) is Kind.AIOQUIC
    assert run(choice, 0.0003, start=1_000.0, seconds=1_000) is Kind.AIOQUIC  # neither good nor bad
    assert run(choice, 0.0, start=3_000.0) is Kind.QH3
    assert choice.switches == 2
    assert choice.explain().startswith("qh3, 0.0")


def test_losses_by_a_full_queue_are_no_reason():
    choice = EngineChoice(BOTH)
    for n in range(600):
        full = n % 2
        choice.slice(1_000, 20 * full, 0.09 if full else 0.02, 10**6, float(n))
    assert choice.kind is Kind.QH3


def test_a_few_packets_are_no_reason():
    choice = EngineChoice(BOTH)
    for n in range(10):
        choice.slice(10, 1, 0.04, 10**6, float(n))
    assert choice.kind is Kind.QH3
    assert choice.explain() == "qh3"


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([0.0001, 0.0002, 0.0003, 0.0005, 0.001]))
def test_noise_makes_engines_not_take_turns(seed, loss):
    choice, rng = EngineChoice(BOTH), random.Random(seed)
    for n in range(3_600):
        lost = sum(rng.random() < loss * 100 for _ in range(10))
        choice.slice(1_000, lost, 0.04 * rng.uniform(0.9, 1.2), 10**6, float(n))
    assert choice.switches <= 6


def test_changes_are_two_minutes_apart():
    choice, changes = EngineChoice(BOTH), []
    for n in range(2_000):
        before = choice.kind
        choice.slice(20_000, 2_000 * (before is Kind.QH3), 0.04, 10**6, float(n))
        if choice.kind is not before:
            changes.append(n)
    assert len(changes) > 3
    assert all(late - early >= 120 for early, late in pairwise(changes))
