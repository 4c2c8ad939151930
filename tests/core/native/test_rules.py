import pytest

from core import limits
from core.errors import FormatError
from core.native.rules import GearRule, SeqCdcRule
from core.secret import Secret

GEAR_KEY, SEQCDC_KEY = Secret(bytes(range(256)) * 8), Secret(bytes(range(48)))
BIG = limits.CHUNKER_BYTES_MAX


@pytest.mark.parametrize(
    "sizes",
    [(0, 100), (63, 100), (-1, 100), (101, 100), (64, BIG + 1), (BIG, BIG + 1), (64, 1 << 64)],
)
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(FormatError):
        SeqCdcRule(*sizes, SEQCDC_KEY)
    with pytest.raises(FormatError):
        GearRule(sizes[0], sizes[0], sizes[1], 1, 2, GEAR_KEY)


@pytest.mark.parametrize("normal", [63, 64, 99, 201, -5])
def test_the_normal_size_lies_between_min_and_max(normal):
    with pytest.raises(FormatError):
        GearRule(100, normal, 200, 1, 2, GEAR_KEY)


@pytest.mark.parametrize("found", [(-1, 5), (5, 4), (1, 1 << 64)])
def test_limits_that_make_no_sense_are_refused(found):
    with pytest.raises(FormatError):
        GearRule(100, 150, 200, *found, GEAR_KEY)


def test_material_of_another_length_is_refused():
    with pytest.raises(FormatError):
        GearRule(100, 150, 200, 1, 2, SEQCDC_KEY)
    with pytest.raises(FormatError):
        SeqCdcRule(100, 200, GEAR_KEY)


def test_the_extremes_are_taken():
    SeqCdcRule(64, 64, SEQCDC_KEY)
    GearRule(64, 64, BIG, 0, (1 << 64) - 1, GEAR_KEY)


def test_material_is_read_as_the_specification_says():
    table = GearRule(64, 64, 64, 0, 0, GEAR_KEY).table()
    assert len(table) == 256
    assert table[0] == 0x0706050403020100
    first, second, start, multipliers = SeqCdcRule(64, 64, SEQCDC_KEY).numbers()
    assert (first, second) == (0x0101, 0x0303)  # 0x0100 and 0x0302, made odd
    assert start == 0x0F0E0D0C0B0A0908
    assert multipliers[0] == 0x1716151413121111
    assert all(number & 1 for number in (first, second, *multipliers))


def test_rules_do_not_show_their_keys():
    for rule in (GearRule(64, 64, 64, 0, 0, GEAR_KEY), SeqCdcRule(64, 64, SEQCDC_KEY)):
        assert "material=<secret" in repr(rule)
