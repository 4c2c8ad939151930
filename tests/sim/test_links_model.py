import pytest

from core import limits
from mesh.quic.aioquic_engine import AioquicEngine
from mesh.quic.qh3_engine import Qh3Engine
from tests.support.hop import Path
from tests.support.links_model import Flow, Model

ENGINES = pytest.mark.parametrize("engine", [Qh3Engine(), AioquicEngine()], ids=["qh3", "aioquic"])
MBIT_PER_S = 20


def line(loss=0.0) -> Path:
    return Path(
        delay_s=0.02, loss=loss, bits_per_s=MBIT_PER_S * 1e6, queue_bytes=MBIT_PER_S * 5_000
    )


@ENGINES
@pytest.mark.slow
def test_a_transfer_takes_what_the_line_takes(engine):
    model = Model(line(), line(), seed=1)
    one = model.add(Flow(engine, 3 * limits.MIB))
    model.run(until_s=10)
    assert one.received_bytes == 3 * limits.MIB
    assert one.ready_s >= 0.04
    assert 0.75 * MBIT_PER_S <= one.mbit_per_s <= MBIT_PER_S
    assert model.there.count.queued_bytes_max <= MBIT_PER_S * 5_000


@ENGINES
@pytest.mark.slow
def test_two_flows_share_one_line(engine):
    model = Model(line(), line(), seed=1)
    flows = [model.add(Flow(engine, None, starts_s=start)) for start in (0.0, 0.5)]
    model.run(until_s=6)
    got = [one.received_between(3, 6) for one in flows]
    assert 0.8 * MBIT_PER_S <= sum(got) * 8 / 1e6 / 3 <= MBIT_PER_S
    assert min(got) >= 0.3 * sum(got)
    assert flows[1].received_between(0, 0.5) == 0


@pytest.mark.slow
def test_the_engine_with_our_control_survives_random_loss():
    model = Model(line(loss=0.01), line(loss=0.01), seed=1)
    one = model.add(Flow(AioquicEngine(), 4 * limits.MIB))
    model.run(until_s=10)
    assert model.there.count.lost > 10
    assert one.mbit_per_s >= 0.7 * MBIT_PER_S


@ENGINES
@pytest.mark.slow
def test_one_seed_gives_one_figure(engine):
    def figure(seed: int) -> float:
        model = Model(line(loss=0.02), line(), seed)
        one = model.add(Flow(engine, 200_000))
        model.run(until_s=20)
        return one.done_s

    assert figure(1) == figure(1) != figure(2)


def test_it_ends_at_its_time():
    model = Model(line(), line(), seed=1)
    one = model.add(Flow(Qh3Engine(), None))
    model.run(until_s=0.5)
    assert model.now <= 0.5
    assert one.done_s is None
    assert one.received_bytes > 0
