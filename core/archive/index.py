"""Where the chunks of an archive lie: 56 bytes each (core/SPEC.md, Archive).

     0 32  tag            40  4  stored length        48  1  kind
    32  8  offset         44  4  content length       49  7  0

The index is kept as the bytes it is; an entry is read when it is asked for.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

from core import limits, merkle
from core.archive.header import ENTRY_BYTES
from core.crypto import Buffer
from core.errors import FormatError
from core.hashing import digest
from core.labels import Label
from core.pieces import Kind
from core.seal import CHUNK_OVERHEAD_BYTES

_ENTRY = struct.Struct(">32sQIIB7s")
_ZEROS = bytes(7)
assert _ENTRY.size == ENTRY_BYTES


class Entry(NamedTuple):
    """One chunk."""

    tag: bytes
    offset: int
    stored_len: int
    plain_len: int
    kind: Kind

    def to_bytes(self) -> bytes:
        """Its 56 bytes."""
        fields = (self.tag, self.offset, self.stored_len, self.plain_len, self.kind)
        return _ENTRY.pack(*fields, _ZEROS)

    @classmethod
    def read_untrusted(cls, data: Buffer) -> Self:
        """An entry whose lengths are within bounds; that it lies inside the file is not checked."""
        tag, offset, stored_len, plain_len, kind, zeros = _ENTRY.unpack(data)
        overhead = CHUNK_OVERHEAD_BYTES
        most = limits.ARCHIVE_CHUNK_BYTES_MAX
        if zeros != _ZEROS or plain_len > most or stored_len > most + overhead:
            raise FormatError("an index entry out of bounds")
        return cls(tag, offset, stored_len, plain_len, Kind.read_untrusted(kind))


class Index:
    """All entries, in the order of their numbers."""

    def __init__(self, data: Buffer) -> None:
        assert len(data) % ENTRY_BYTES == 0
        self.data = memoryview(data)

    def __len__(self) -> int:
        return len(self.data) // ENTRY_BYTES

    def entry_untrusted(self, number: int) -> Entry:
        """Entry `number`; FormatError if there is none."""
        if not 0 <= number < len(self):
            raise FormatError(f"the archive has no chunk {number}")
        return Entry.read_untrusted(self.raw(number))

    def raw(self, number: int) -> memoryview:
        """The bytes of one entry."""
        return self.data[number * ENTRY_BYTES : (number + 1) * ENTRY_BYTES]

    def hash(self) -> bytes:
        """What the header says about the whole index."""
        return digest(Label.ARCHIVE_INDEX, self.data)

    def tree(self) -> merkle.Tree:
        """The tree whose root the header holds: for proofs of single chunks."""
        return merkle.Tree.over_items(Label.ARCHIVE_ENTRY, self._raw_entries())

    def _raw_entries(self) -> Iterator[memoryview]:
        return (self.raw(number) for number in range(len(self)))
