import resource
import struct
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, limits
from core.errors import FormatError, LimitExceeded, NewerFormat
from tests.support.damage import damaged

SCALARS = (
    st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20) | st.booleans()
) | st.none()
ROWS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=6).map(tuple), max_leaves=30)
ROW = st.lists(ROWS, max_size=6).map(tuple)


@given(ROW)
def test_round_trip(row):
    assert codec.decode_untrusted(codec.encode(row)) == row


@given(ROW)
def test_damage_gives_another_canonical_value_or_a_format_error(row):
    data = codec.encode(row)
    for how, bad in damaged(data):
        try:
            value = codec.decode_untrusted(bad)
        except FormatError:
            continue
        assert codec.encode(value) == bad, how


@given(st.binary(max_size=200))
def test_any_bytes_give_a_canonical_value_or_a_format_error(data):
    try:
        value = codec.decode_untrusted(data)
    except FormatError:
        return
    assert codec.encode(value) == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "nothing"),
        (b"\x05", "not an array at the top"),
        (b"\x91\xcc\x05", "an integer in two bytes that fits one"),
        (b"\x91\xdc\x00\x00", "an array header longer than needed"),
        (b"\x91\xc5\x00\x01x", "a bin header longer than needed"),
        (b"\x91\xca\x00\x00\x00\x00", "a float"),
        (b"\x91\xcb" + bytes(8), "a double"),
        (b"\x91\x80", "a map"),
        (b"\x91\x81\x01\x02", "a map with an entry"),
        (b"\x91\xd4\x01\x00", "an extension"),
        (b"\x91\xd6\xff\x00\x00\x00\x00", "a timestamp"),
        (b"\x91\xc1", "the reserved byte"),
        (b"\x91\xa1\xff", "text that is not UTF-8"),
        (b"\x90\x90", "two values"),
        (b"\x92\x01", "a missing element"),
    ],
)
def test_everything_but_the_one_form_is_refused(data, why):
    with pytest.raises(FormatError):
        codec.decode_untrusted(data)
    assert why


@pytest.mark.parametrize(
    "header", [b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff"]
)
def test_a_claimed_size_takes_no_memory(header):
    # 600 nested arrays, each claiming as many elements as there are bytes, would be gigabytes.
    nested = (b"\xdd" + struct.pack(">I", 500_000)) * 400 + bytes(500_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (b"\x91" + header + b"abc", nested):
        with pytest.raises(FormatError):
            codec.decode_untrusted(data)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 100 * limits.KIB


def test_depth_and_length_are_bounded():
    with pytest.raises(LimitExceeded):
        codec.decode_untrusted(b"\x91" * limits.CODEC_DEPTH_MAX + b"\x90")
    codec.decode_untrusted(b"\x91" * (limits.CODEC_DEPTH_MAX - 1) + b"\x90")
    for depth in (600, 1_100, 100_000):
        with pytest.raises(FormatError):
            codec.decode_untrusted(b"\x91" * depth + b"\x90")
    with pytest.raises(LimitExceeded):
        codec.decode_untrusted(bytes(11), bytes_max=10)


def test_typed_fields():
    assert codec.as_uint(255, 8, "n") == 255
    assert codec.as_bytes(b"ab", "b", size=2) == b"ab"
    assert codec.as_bytes(b"ab", "b", size_max=2) == b"ab"
    assert codec.as_text("Grüße 猫", 20, "t") == "Grüße 猫"
    assert codec.as_row((1, 2), 2, "r") == (1, 2)
    assert codec.as_rows((1, 2), 2, "r") == (1, 2)
    assert codec.as_versioned_row((1, 2), 1, 2, "r") == (1, 2)


@pytest.mark.parametrize(
    "read",
    [
        lambda: codec.as_uint(256, 8, "n"),
        lambda: codec.as_uint(-1, 8, "n"),
        lambda: codec.as_uint(True, 8, "n"),
        lambda: codec.as_uint("1", 8, "n"),
        lambda: codec.as_bytes("ab", "b", size=2),
        lambda: codec.as_bytes(b"abc", "b", size=2),
        lambda: codec.as_bytes(b"abc", "b", size_max=2),
        lambda: codec.as_text(b"ab", 2, "t"),
        lambda: codec.as_text("a\x1b[2J", 20, "t"),
        lambda: codec.as_text("a\nb", 20, "t"),
        lambda: codec.as_text("a\u202eb", 20, "t"),
        lambda: codec.as_text("a\xa0b", 20, "t"),
        lambda: codec.as_text("\U000e0041", 20, "t"),
        lambda: codec.as_text("ü" * 11, 20, "t"),
        lambda: codec.as_row((1,), 2, "r"),
        lambda: codec.as_row(b"12", 2, "r"),
        lambda: codec.as_rows((1, 2, 3), 2, "r"),
        lambda: codec.as_rows(None, 2, "r"),
        lambda: codec.as_versioned_row((0, 2), 1, 2, "r"),
        lambda: codec.as_versioned_row((), 1, 2, "r"),
        lambda: codec.as_versioned_row((1, 2, 3), 1, 2, "r"),
    ],
)
def test_fields_of_another_shape_are_format_errors(read):
    with pytest.raises(FormatError):
        read()


def test_what_is_printable_does_not_depend_on_the_unicode_version_of_this_python():
    def reads(char):
        try:
            return codec.as_text(char, 4, "t") == char
        except FormatError:
            return False

    for char in map(chr, [*range(0x30000), *range(0xE0000, 0x110000)]):
        if unicodedata.category(char) != "Cn":
            assert reads(char) == char.isprintable(), hex(ord(char))
    assert reads("\U0003abcd")  # no character yet; a device may be called so one day


def test_a_newer_version_is_told_apart_whatever_follows_it():
    with pytest.raises(NewerFormat):
        codec.as_versioned_row((2, "something", "new"), 1, 2, "r")
