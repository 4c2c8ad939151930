"""Sorted tables in the cache: looked up where they lie, nothing of them in memory.

    "PTVT" | u8 version=1 | u8 bits | u16 row_bytes | u64 count | u32 note_len | note
    | u32 starts[2^bits + 1] | seal 32 = KH(K_cache, all before) | rows, sorted

Little-endian: a table never leaves its machine. Rows begin with a key of 16 bytes that is as good
as random, so its first bits say where to look: `starts` has the number of the first row of each
value. A table that is damaged, foreign or of another version is worth nothing and is made anew.
"""

import mmap
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from core import limits
from core.errors import FormatError
from core.hashing import keyed

KEY_BYTES = 16
_MAGIC = b"PTVT"
_VERSION = 1
_HEAD = struct.Struct("<4sBBHQI")
_ROWS_PER_START = 8
_BITS_MAX = 20
_NOTE_BYTES_MAX = 16 * limits.MIB


class Table:
    """A table that is open; `find` gives the rows of a key."""

    def __init__(self, path: Path, key: bytes) -> None:
        """FormatError for a table that is not whole or not ours, OSError if it is gone."""
        self.path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not _HEAD.size < size <= limits.TABLE_BYTES_MAX:
                raise FormatError("not a table", where=str(path))
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        try:
            self._read_head_untrusted(size, key)
        except BaseException:
            self._map.close()
            raise

    def _read_head_untrusted(self, size: int, key: bytes) -> None:
        magic, version, bits, self.row_bytes, self.count, note_len = _HEAD.unpack_from(self._map)
        if magic != _MAGIC or version != _VERSION or bits > _BITS_MAX:
            raise FormatError("not a table of this version", where=str(self.path))
        starts_at = _HEAD.size + note_len
        sealed_to = starts_at + 4 * ((1 << bits) + 1)
        self._rows_at = sealed_to + limits.HASH_BYTES
        if note_len > _NOTE_BYTES_MAX or self._rows_at + self.count * self.row_bytes != size:
            raise FormatError("a table of another length than it says", where=str(self.path))
        if keyed(key, self._map[:sealed_to]) != self._map[sealed_to : self._rows_at]:
            raise FormatError("a damaged table", where=str(self.path))
        self.note = self._map[_HEAD.size : starts_at]
        self._starts = array("I", self._map[starts_at:sealed_to])
        self._shift = 32 - bits

    def find(self, key: bytes) -> Iterator[bytes]:
        """Every row of this key."""
        size, base = self.row_bytes, self._rows_at
        at = int.from_bytes(key[:4]) >> self._shift
        start, end = base + self._starts[at] * size, base + self._starts[at + 1] * size
        found = self._map.find(key, start, end)
        while found >= 0:
            if (found - base) % size == 0:
                yield self._map[found : found + size]
            found = self._map.find(key, found + 1, end)

    def rows(self) -> Iterator[bytes]:
        """All of them, in order."""
        size = self.row_bytes
        for at in range(self._rows_at, self._rows_at + self.count * size, size):
            yield self._map[at : at + size]

    def close(self) -> None:
        """Let it go."""
        self._map.close()


def write_table(path: Path, key: bytes, rows: Sequence[bytes], row_bytes: int, note: bytes) -> None:
    """Make the table of these rows, sorted already; it appears whole or not at all.

    It is not synced: after a power failure it is damaged at worst, and noticed.
    """
    bits = min(_BITS_MAX, max(0, (len(rows) // _ROWS_PER_START).bit_length()))
    shift = 32 - bits
    counts = [0] * (1 << bits)
    for row in rows:
        counts[int.from_bytes(row[:4]) >> shift] += 1
    starts = array("I", accumulate(counts, initial=0))
    head = _HEAD.pack(_MAGIC, _VERSION, bits, row_bytes, len(rows), len(note)) + note
    head += starts.tobytes()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb", buffering=1 << 20) as file:
            file.write(head)
            file.write(keyed(key, head))
            file.writelines(rows)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
