# The Python kernel against the specification read word by word: no rolling, no blocks.

import struct
from collections import Counter
from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.native import fallback
from core.native.rules import GearRule, SeqCdcRule
from core.secret import Secret
from tests.support.cuttable import cuttable, random_bytes

MASK = (1 << 64) - 1
MATERIAL = random_bytes(48, "seqcdc material")
TABLE = random_bytes(2048, "gear material")


def plain_value(data, end):
    first, second = (n | 1 for n in struct.unpack("<HH", MATERIAL[:4]))
    low, high = struct.unpack("<HH", data[end - 4 : end])
    value = (first * low + second * high) % 65536
    return value - 65536 if value >= 32768 else value


def is_candidate(data, at):
    def rises(end):
        return plain_value(data, end) > plain_value(data, end - 1)

    return all(rises(at - back) for back in range(5)) and not rises(at - 5)


def plain_rank(data, end):
    rank, *multipliers = struct.unpack("<5Q", MATERIAL[8:])
    for word, multiplier in zip(
        struct.unpack("<4Q", data[end - 32 : end]), multipliers, strict=True
    ):
        rank = ((rank ^ word) * (multiplier | 1)) & MASK
        rank ^= rank >> 32
    return rank


def plain_seqcdc(data, low, high):
    """The first chunk's length, all of `data` being there."""
    if len(data) <= low:
        return len(data)
    end = min(len(data), high)
    candidates = [at for at in range(low, end) if is_candidate(data, at)]
    return min(candidates, key=lambda at: plain_rank(data, at), default=end)


def plain_gear(data, low, normal, high, strict, loose):
    """The first chunk's length, all of `data` being there."""
    if len(data) <= low:
        return len(data)
    table = struct.unpack("<256Q", TABLE)
    end = min(len(data), high)
    for at in range(low, end):
        value = sum(table[data[at - 1 - k]] << k for k in range(64)) & MASK
        if value < (strict if at < normal else loose):
            return at
    return end


def chunk_lengths(cuts):
    return [b - a for a, b in zip([0, *cuts], cuts, strict=False)]


@settings(max_examples=40)
@given(cuttable(2500), st.integers(64, 500), st.integers(0, 1200))
def test_seqcdc_cuts_where_the_specification_says(data, low, span):
    scan = fallback.seqcdc(SeqCdcRule(low, low + span, Secret(MATERIAL)))
    expected, at = [], 0
    while at < len(data):
        at += plain_seqcdc(data[at:], low, low + span)
        expected.append(at)
    assert scan(data, True) == expected
    # Before the end is known, a chunk is decided once max bytes of it are there.
    starts = [0, *expected]
    decided = [e for s, e in zip(starts, expected, strict=False) if len(data) - s >= low + span]
    assert scan(data, False) == decided


@given(cuttable(1500), st.integers(64, 300), st.integers(0, 300), st.integers(0, 600))
def test_gear_cuts_where_the_specification_says(data, low, more, span):
    normal, high = low + more, low + more + span
    limits = MASK // 500, MASK // 40
    scan = fallback.gear(GearRule(low, normal, high, *limits, Secret(TABLE)))
    expected, decided, at = [], [], 0
    while at < len(data):
        length = plain_gear(data[at:], low, normal, high, *limits)
        # A cut short of the end of the data, or at max, does not depend on what follows.
        if len(data) - at > length or length == high:
            decided.append(at + length)
        at += length
        expected.append(at)
    assert scan(data, True) == expected
    assert scan(data, False) == decided


def test_a_block_border_hides_no_candidate():
    # A ramp whose step makes candidates dense, one of them at the last position of a block.
    border = 64 + fallback._BLOCK - 1
    ramps = (bytes(i * step & 255 for i in range(20_000)) for step in range(1, 256))
    data = next(ramp for ramp in ramps if is_candidate(ramp, border))
    rule = SeqCdcRule(64, 20_000, Secret(MATERIAL))
    first, second, *_ = rule.numbers()
    found = [
        at
        for begin in range(64, 20_000, fallback._BLOCK)
        for at in fallback._candidates(
            memoryview(data), begin, min(begin + fallback._BLOCK, 20_000), first, second
        )
    ]
    assert border in found
    assert found == [at for at in range(64, 20_000) if is_candidate(data, at)]


@given(cuttable(12_000))
def test_entropy_is_that_of_the_sample(data):
    sample = fallback.sample(data)
    assert len(sample) == min(len(data), 4096)
    counts = Counter(sample).values()
    exact = -sum(n / len(sample) * log2(n / len(sample)) for n in counts) if sample else 0
    assert abs(fallback.entropy_mbits(data) - exact * 1000) <= 1.1


def test_the_sample_reaches_from_the_first_to_the_last_bytes():
    strips = bytearray(256 + 15 * 1_000)
    for strip in range(16):
        strips[strip * 1_000 : strip * 1_000 + 256] = bytes([strip + 1]) * 256
    expected = b"".join(bytes([strip + 1]) * 256 for strip in range(16))
    assert fallback.sample(strips) == expected


@pytest.mark.parametrize(
    ("data", "mbits"),
    [(b"", 0), (b"a", 0), (bytes(5000), 0), (b"ab" * 3000, 1000), (bytes(range(256)) * 16, 8000)],
)
def test_entropy_of_known_data(data, mbits):
    assert fallback.entropy_mbits(data) == mbits


def test_random_bytes_pass_for_incompressible():
    assert 7_930 < fallback.entropy_mbits(random_bytes(1 << 20)) < 7_975
