"""Noise and bent packets, in virtual time: nothing breaks, answers or grows, in both engines."""

from random import Random

import pytest

from core import limits
from tests.support.engines import EACH
from tests.support.memory import resident_bytes
from tests.support.noise import Noise
from tests.support.wires import a_pair, in_virtual_time, talks

FUZZED = 5_000
MILLION = 1_000_000
KINDS = 20_000


def fuzz(kind, count):
    async def main():
        async with a_pair(kind, idle_s=100_000) as pair:
            noise = Noise(pair.net, Random(3))
            await noise.capture(pair, min(count, KINDS))
            await noise.blow(pair, 500)
            before = resident_bytes()
            assert await noise.blow(pair, count) == 0, "what is not authentic is not answered"
            assert resident_bytes() - before < 16 * limits.MIB
            await talks(pair)
            assert pair.near.closed is pair.far.closed is None
            assert pair.far_end.counters.strangers_dropped > 0
            assert len(pair.far_end._alive) == 1

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_fuzzed_datagrams_are_not_answered_and_leave_no_trace(kind):
    fuzz(kind, FUZZED)


@EACH
@pytest.mark.deep
def test_a_million_fuzzed_datagrams(kind):
    fuzz(kind, MILLION)
