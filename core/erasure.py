"""Reed-Solomon shards: any k of n give the object back (core/SPEC.md, Erasure code).

The arithmetic is ISA-L's, in the library that PyECLib's wheel brings, with the same matrix as
PyECLib's `isa_l_rs_cauchy`: the bytes are equal, and a test holds them to it. ISA-L is called
itself because PyECLib wants the object padded in one piece, a header of 80 bytes before every shard
and the interpreter lock. Without those, coding takes half the time, and threads share the work.

A code repairs what is missing, never what is wrong: one wrong shard gives wrong bytes. What comes
from outside goes through core.shards, which lets no unchecked shard this far.
"""

import ctypes
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, unique
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from core import limits
from core.crypto import Buffer
from core.errors import FormatError, LimitExceeded, NewerFormat, NotEnoughShards, Unavailable

_ALIGN = limits.SHARD_ALIGN_BYTES

# --- which code -----------------------------------------------------------------------------------


@unique
class Codec(IntEnum):
    """How shards are made; the number is part of every profile."""

    COPIES = 0  # k = 1: each shard is the padded object
    CAUCHY = 1  # k data shards, then parity by a Cauchy matrix over GF(2^8), polynomial 0x11d


@dataclass(frozen=True, slots=True)
class Code:
    """Any `k` of `n` shards give the object back; written k/n."""

    k: int
    n: int

    def __post_init__(self) -> None:
        assert self._exists(self.k, self.n)

    @staticmethod
    def _exists(k: int, n: int) -> bool:
        # Without parity there is nothing to compute, and PyECLib has no such code either.
        return (1 <= k < n or k == n == 1) and n <= limits.SHARDS_MAX

    @classmethod
    def read_untrusted(cls, codec: int, k: int, n: int) -> Self:
        """A code out of the three numbers of a profile."""
        if codec not in set(Codec):
            raise NewerFormat(f"coded with number {codec}, which this Portal does not know")
        if not cls._exists(k, n) or (codec == Codec.COPIES) != (k == 1):
            raise FormatError(f"there is no code {k}/{n} of kind {codec}")
        return cls(k, n)

    @property
    def codec(self) -> Codec:
        """How its shards are made."""
        return Codec.COPIES if self.k == 1 else Codec.CAUCHY

    @property
    def spare(self) -> int:
        """How many shards may be lost."""
        return self.n - self.k

    def shard_len(self, object_len: int) -> int:
        """The length of every shard of an object."""
        return -(-object_len // (self.k * _ALIGN)) * _ALIGN

    def __str__(self) -> str:
        return f"{self.k}/{self.n}"


PRESETS = (Code(4, 6), Code(6, 9), Code(10, 14), Code(16, 20))

# Up to so many peers: this code. One peer stays spare, so a lost shard has a place to be rebuilt.
_BY_PEERS = (
    (1, Code(1, 1)),
    (3, Code(1, 2)),
    (5, Code(1, 3)),
    (7, Code(2, 5)),
    (8, Code(3, 7)),
    (10, Code(4, 8)),
    (12, Code(5, 10)),
    (16, Code(7, 12)),
    (26, Code(10, 16)),
)
_BY_MANY_PEERS = Code(16, 26)
DEFAULTS = (*(code for _, code in _BY_PEERS), _BY_MANY_PEERS)


def default_code(peers: int) -> Code:
    """The code for a mesh with so many peers (failure domains) beside the owner."""
    assert peers >= 1
    return next((code for peers_max, code in _BY_PEERS if peers <= peers_max), _BY_MANY_PEERS)


# --- objects to shards and back -------------------------------------------------------------------


def encode(data: Buffer, code: Code) -> list[memoryview]:
    """The n shards of an object, read-only. Data shards are views of `data` where it is `bytes`."""
    _check_object_len_untrusted(memoryview(data).nbytes)
    source = data if type(data) is bytes else bytes(data)
    size = code.shard_len(len(source))
    whole = len(source) // size
    tail = source[whole * size :].ljust((code.k - whole) * size, b"\0")
    shards = _slices(source, size, whole) + _slices(tail, size, code.k - whole)
    if code.codec is Codec.COPIES:
        return shards * code.n
    starts = [*_starts(_address(source), size, whole)]
    starts += _starts(_address(tail), size, code.k - whole)
    parity = tuple(range(code.k, code.n))
    made = _combined(_tables(code, tuple(range(code.k)), parity), size, starts)
    return shards + _slices(made, size, len(parity))


def rebuild(shards: Mapping[int, Buffer], code: Code, wanted: Iterable[int]) -> dict[int, Buffer]:
    """The `wanted` shards, from any k; those among the given ones are handed back as they are."""
    size = _check_shards_untrusted(shards, code)
    if len(shards) < code.k:
        raise NotEnoughShards(f"{len(shards)} shards survive where {code.k} are needed")
    wanted = sorted(set(wanted))
    _check_indexes_untrusted(wanted, code)
    have = tuple(sorted(shards)[: code.k])  # data shards first: they need the least work
    missing = tuple(i for i in wanted if i not in shards)
    rebuilt = {i: shards[i] for i in wanted if i in shards}
    if code.codec is Codec.COPIES:
        rebuilt |= dict.fromkeys(missing, shards[have[0]])
    elif missing:
        sources = [bytes(shards[i]) for i in have]  # no copy where it is bytes already
        made = _combined(_tables(code, have, missing), size, list(map(_address, sources)))
        rebuilt |= zip(missing, _slices(made, size, len(missing)), strict=True)
    return rebuilt


def decode(shards: Mapping[int, Buffer], code: Code, object_len: int) -> bytes:
    """The object, from any k of its shards by index."""
    _check_object_len_untrusted(object_len)
    size = code.shard_len(object_len)
    if any(len(shard) != size for shard in shards.values()):
        raise FormatError(f"a shard of this object has {size} bytes")
    whole, rest = divmod(object_len, size)
    data = rebuild(shards, code, range(whole + (rest > 0)))  # what lies behind is all padding
    parts = [data[i] for i in range(whole)]
    return b"".join([*parts, memoryview(data[whole])[:rest]] if rest else parts)


def _check_object_len_untrusted(size: int) -> None:
    if not 1 <= size <= limits.OBJECT_BYTES_MAX:
        raise LimitExceeded(f"an object of {size} bytes cannot be coded")


def _check_indexes_untrusted(indexes: Iterable[int], code: Code) -> None:
    for i in indexes:
        if not 0 <= i < code.n:
            raise FormatError(f"a code {code} has no shard {i}")


def _check_shards_untrusted(shards: Mapping[int, Buffer], code: Code) -> int:
    """Their common length. The library is handed addresses: this is what keeps it in bounds."""
    _check_indexes_untrusted(shards, code)
    sizes = {len(shard) for shard in shards.values()}
    size = min(sizes, default=_ALIGN)
    if len(sizes) > 1 or size % _ALIGN or not 1 <= size <= limits.OBJECT_BYTES_MAX:
        raise FormatError("shards of one object have one length, a multiple of 64")
    return size


def _slices(data: bytes | bytearray, size: int, count: int) -> list[memoryview]:
    view = memoryview(data).toreadonly()
    return [view[i * size : (i + 1) * size] for i in range(count)]


# --- ISA-L ----------------------------------------------------------------------------------------

_Tables = ctypes.Array[ctypes.c_ubyte]
_TABLE_BYTES = 32  # what ISA-L makes of one coefficient


def _address(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def _starts(first: int, size: int, count: int) -> range:
    return range(first, first + count * size, size)


def _combined(tables: _Tables, size: int, starts: list[int]) -> bytearray:
    """Linear combinations of the shards that begin at `starts`, one after the other.

    The caller keeps the shards alive. The interpreter lock is free while this works.
    """
    k = len(starts)
    count = len(tables) // (_TABLE_BYTES * k)
    made = bytearray(count * size)
    held = ctypes.c_char.from_buffer(made)  # while this lives, `made` cannot move
    sources = (ctypes.c_void_p * k)(*starts)
    targets = (ctypes.c_void_p * count)(*_starts(ctypes.addressof(held), size, count))
    _isal().ec_encode_data(size, k, count, tables, sources, targets)
    return made


@lru_cache(maxsize=256)
def _tables(code: Code, have: tuple[int, ...], wanted: tuple[int, ...]) -> _Tables:
    """The coefficients that turn shards `have` into shards `wanted`, as ISA-L wants them."""
    rows = b"".join(_coefficients(code, have, wanted))
    tables = (ctypes.c_ubyte * (_TABLE_BYTES * len(rows)))()
    _isal().ec_init_tables(code.k, len(wanted), rows, tables)
    return tables


def _coefficients(code: Code, have: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[bytes]:
    k, mul = code.k, _isal().gf_mul
    matrix = _matrix(code)
    inverse = _inverse(b"".join(matrix[i] for i in have), k)
    for i in wanted:
        if i < k:
            yield inverse[i]
            continue
        row = bytearray(k)
        for factor, line in zip(matrix[i], inverse, strict=True):
            for column in range(k):
                row[column] ^= mul(factor, line[column])
        yield bytes(row)


@cache
def _matrix(code: Code) -> list[bytes]:
    """Row i says how shard i is made of the data shards."""
    matrix = ctypes.create_string_buffer(code.n * code.k)
    _isal().gf_gen_cauchy1_matrix(matrix, code.n, code.k)
    return [matrix.raw[i * code.k : (i + 1) * code.k] for i in range(code.n)]


def _inverse(square: bytes, k: int) -> list[bytes]:
    inverse = ctypes.create_string_buffer(k * k)
    singular = _isal().gf_invert_matrix(ctypes.create_string_buffer(square, k * k), inverse, k)
    assert not singular  # every square part of such a matrix has an inverse: that is the choice
    return [inverse.raw[i * k : (i + 1) * k] for i in range(k)]


@cache
def _isal() -> Any:
    """ISA-L, asked one known answer before it is believed."""
    for name in _library_names():
        try:
            library = ctypes.CDLL(name)
            _declare(library)
        except (OSError, AttributeError):  # not there, or something else of that name
            continue
        if not _answers_rightly(library):
            raise Unavailable(f"{name} computes wrong shards", hint="reinstall pyeclib")
        return library
    raise Unavailable("ISA-L was not found", hint="install pyeclib from its wheel")


def _library_names() -> Iterator[str]:
    module = find_spec("pyeclib_c")
    if module and module.origin:
        yield str(Path(module.origin).parent / "pyeclib.libs" / "libisal-pyeclib.so.2")
    # A PyECLib that was built on this machine uses the system's.
    yield from ("libisal.so.2", "libisal.2.dylib")


def _declare(library: ctypes.CDLL) -> None:
    number, byte, data = ctypes.c_int, ctypes.c_ubyte, ctypes.c_void_p
    library.gf_mul.argtypes, library.gf_mul.restype = [byte, byte], byte
    library.gf_gen_cauchy1_matrix.argtypes = [data, number, number]
    library.gf_invert_matrix.argtypes = [data, data, number]
    library.ec_init_tables.argtypes = [number, number, data, data]
    library.ec_encode_data.argtypes = [number, number, number, data, data, data]


def _answers_rightly(library: ctypes.CDLL) -> bool:
    # Code 2/5 over shards of ones and of twos; computed by hand.
    matrix = ctypes.create_string_buffer(10)
    library.gf_gen_cauchy1_matrix(matrix, 5, 2)
    tables = ctypes.create_string_buffer(_TABLE_BYTES * 6)
    library.ec_init_tables(2, 3, matrix.raw[4:], tables)
    ones, twos, made = b"\1" * _ALIGN, b"\2" * _ALIGN, ctypes.create_string_buffer(3 * _ALIGN)
    sources = (ctypes.c_void_p * 2)(_address(ones), _address(twos))
    targets = (ctypes.c_void_p * 3)(*_starts(ctypes.addressof(made), _ALIGN, 3))
    library.ec_encode_data(_ALIGN, 2, 3, tables, sources, targets)
    return (
        matrix.raw.hex() == "010000018ef4f48e47a7"
        and made.raw == b"\x7b" * _ALIGN + b"\xf5" * _ALIGN + b"\x14" * _ALIGN
    )
