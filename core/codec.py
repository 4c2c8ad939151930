"""Canonical MessagePack arrays, and the typed reading of their fields. The only msgpack import.

Allowed: arrays, unsigned and negative integers, bytes, text, booleans, nil. No maps, floats or
extensions, so there is one encoding of a value and `decode_untrusted` refuses any other.
"""

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import msgpack

from core import limits
from core.errors import FormatError, LimitExceeded, NewerFormat

Row = tuple[object, ...]

# Spelled out, because what str.isprintable says depends on the Unicode version of this Python, and
# what one device signs every other has to read: controls and line breaks, blanks other than the
# space, what is invisible or turns the direction of text, and what is for private use or no
# character. Characters that are assigned one day are let through.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e"
    r"\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ud800-\uf8ff\ufdd0-\ufdef\ufeff"
    r"\ufff0-\ufffb\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U0010ffff]"
)

_SCALARS = {int, bytes, str, bool, type(None)}
_ALLOWED = {tuple, *_SCALARS}


def encode(row: Sequence[object]) -> bytes:
    """The one encoding of a row of fields."""
    packed: bytes = msgpack.packb(row, use_bin_type=True)
    return packed


def decode_untrusted(data: bytes, *, bytes_max: int = limits.CODEC_BYTES_MAX) -> Row:
    """The row in `data`, as nested tuples.

    Of the smallest elements, arrays of one, it takes 35 times the length of `data` in memory, and a
    quarter of a second per MiB; give a tighter `bytes_max` where strangers are listened to.
    """
    if len(data) > bytes_max:
        raise LimitExceeded(f"{len(data)} bytes where {bytes_max} are allowed")
    try:
        # A first pass that builds nothing: a header may claim 2^32 elements, but once this pass
        # has gone through, every claimed element is known to be there.
        walker = msgpack.Unpacker(max_buffer_size=max(1, len(data)))
        walker.feed(data)
        walker.skip()
        complete = walker.tell() == len(data)
        value = msgpack.unpackb(data, **_STRICT) if complete else None
        canonical = isinstance(value, tuple) and encode(value) == data
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as e:
        raise FormatError("not a well-formed structure") from e
    if not isinstance(value, tuple) or not canonical:
        raise FormatError("not a structure in its one canonical form")
    _check_shape(value, limits.CODEC_DEPTH_MAX)
    return value


def _refuse_map(_pairs: object) -> NoReturn:
    raise ValueError("maps are not used")


_STRICT: dict[str, Any] = {
    "use_list": False,
    "raw": False,
    "strict_map_key": True,
    "object_pairs_hook": _refuse_map,
    "max_ext_len": 0,
}


def _check_shape(row: Row, depth_left: int) -> None:
    if depth_left == 0:
        raise LimitExceeded(f"nested deeper than {limits.CODEC_DEPTH_MAX}")
    types = set(map(type, row))
    if not types <= _ALLOWED:
        raise FormatError("holds a kind of value that is not used here")
    if tuple in types:
        for field in row:
            if isinstance(field, tuple):
                _check_shape(field, depth_left - 1)


# --- typed fields: the name is what an error message says ----------------------------------------


def as_row(value: object, fields: int, name: str) -> Row:
    """An array of exactly so many fields."""
    if not isinstance(value, tuple) or len(value) != fields:
        raise FormatError(f"{name} is not an array of {fields} fields")
    return value


def as_versioned_row(value: Row, version: int, fields: int, name: str) -> Row:
    """An array whose first field is a version this program knows."""
    found = as_uint(value[0] if value else None, 16, f"version of {name}")
    if found > version:
        raise NewerFormat(f"{name} has version {found}; this Portal reads up to {version}")
    if found != version:
        raise FormatError(f"{name} has version {found}, which never existed")
    return as_row(value, fields, name)


def as_rows(value: object, count_max: int, name: str) -> Row:
    """An array of any length up to a bound."""
    if not isinstance(value, tuple):
        raise FormatError(f"{name} is not an array")
    if len(value) > count_max:
        raise LimitExceeded(f"{name} has {len(value)} entries where {count_max} are allowed")
    return value


def as_uint(value: object, bits: int, name: str) -> int:
    """An unsigned integer that fits `bits`."""
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise FormatError(f"{name} is not a u{bits}")
    return value


def as_bytes(value: object, name: str, *, size: int | None = None, size_max: int = 0) -> bytes:
    """Bytes of exactly `size`, or of at most `size_max`."""
    if not isinstance(value, bytes):
        raise FormatError(f"{name} is not bytes")
    if size is not None and len(value) != size:
        raise FormatError(f"{name} has {len(value)} bytes instead of {size}")
    if size is None and len(value) > size_max:
        raise LimitExceeded(f"{name} has {len(value)} bytes where {size_max} are allowed")
    return value


def as_text(value: object, size_max: int, name: str) -> str:
    """Printable text of at most `size_max` UTF-8 bytes: safe to show on a terminal."""
    if not isinstance(value, str) or _UNPRINTABLE.search(value):
        raise FormatError(f"{name} is not printable text")
    if len(value.encode()) > size_max:
        raise LimitExceeded(f"{name} is longer than {size_max} bytes")
    return value
