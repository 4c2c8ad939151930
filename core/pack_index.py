"""What a pack says about itself: its chunks and their pieces (core/SPEC.md, Pack index).

    u8 version = 1 | 3 zeros | u32 chunk_count | u32 piece_count
    chunk row 116: u32 sealed_len | u32 plain_len | u32 piece_count | u32 epoch
                   u8 kind | u8 domain | 2 zeros | tag 32 | chunk_key 32 | root 32
    piece row 36:  tag 32 | u8 kind | u24 length

Chunks lie one after the other in the pack and pieces in their bundle, so offsets are sums and
nothing can overlap. Fixed rows, because a pack may hold twenty thousand small files.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Self

from core import limits
from core.crypto import Buffer
from core.errors import FormatError, LimitExceeded, NewerFormat
from core.pieces import PIECE_ROW_BYTES, Domain, Kind
from core.seal import CHUNK_OVERHEAD_BYTES
from core.secret import Secret

_VERSION = 1
_HEAD = struct.Struct(">BBHII")
_CHUNK = struct.Struct(">IIIIBBH32s32s32s")
_PIECE = struct.Struct(">32sI")
_PIECE_WORDS = _PIECE.size // 4
_LENGTH_BITS = 24
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1
_NO_HASH = bytes(limits.HASH_BYTES)

INDEX_HEAD_BYTES = _HEAD.size
CHUNK_ROW_BYTES = _CHUNK.size


@dataclass(frozen=True, slots=True)
class MeshPlace:
    """What the vault remembers of a chunk in the mesh domain.

    Its key comes from a committee; losing the committee must never lose the data.
    """

    epoch: int
    chunk_key: Secret
    root: bytes


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One chunk of a pack. `mesh` is None in the private domain."""

    offset: int
    sealed_len: int
    plain_len: int
    kind: Kind
    tag: bytes
    epoch: int
    piece_first: int
    piece_count: int
    mesh: MeshPlace | None = None

    @property
    def domain(self) -> Domain:
        """Among whom this chunk is recognised."""
        return Domain.MESH if self.mesh else Domain.PRIVATE


class Location(NamedTuple):
    """Where a piece lies in a pack."""

    tag: bytes
    kind: Kind
    chunk: int
    offset: int
    length: int


def chunk_row(row: ChunkRow) -> bytes:
    """The row of one chunk; its offset and its first piece are implied by the rows before it."""
    key, root = (row.mesh.chunk_key.reveal(), row.mesh.root) if row.mesh else (_NO_HASH, _NO_HASH)
    lengths = (row.sealed_len, row.plain_len, row.piece_count)
    return _CHUNK.pack(*lengths, row.epoch, row.kind, row.domain, 0, row.tag, key, root)


def encode(chunk_rows: Sequence[bytes], bundle_rows: Sequence[bytes]) -> bytes:
    """The index made of such rows; `bundle_rows` are those of each chunk, in the same order."""
    pieces = b"".join(bundle_rows)
    head = _HEAD.pack(_VERSION, 0, 0, len(chunk_rows), len(pieces) // PIECE_ROW_BYTES)
    return b"".join((head, *chunk_rows, pieces))


@dataclass(frozen=True, slots=True, repr=False)
class PackIndex:
    """An index that has been read and checked; `data` are its bytes, to be kept or sealed."""

    data: bytes
    chunks: tuple[ChunkRow, ...]
    chunks_end: int
    _starts: tuple[int, ...]  # where each piece lies in the joined contents of all bundles
    _kinds: dict[int, Kind]

    @classmethod
    def decode_untrusted(cls, data: Buffer, chunks_at: int) -> Self:
        """Read an index whose first chunk lies at `chunks_at` in its pack."""
        data = bytes(data)
        if len(data) < _HEAD.size:
            raise FormatError("an index is cut short")
        version, zero, zeros, chunk_count, piece_count = _HEAD.unpack_from(data)
        if version > _VERSION:
            raise NewerFormat
        if version != _VERSION or zero or zeros:
            raise FormatError("not an index of a pack")
        pieces_at = _HEAD.size + chunk_count * _CHUNK.size
        if len(data) != pieces_at + piece_count * _PIECE.size:
            raise FormatError("an index of another length than it says")
        words = struct.unpack_from(f">{piece_count * _PIECE_WORDS}I", data, pieces_at)
        words = words[_PIECE_WORDS - 1 :: _PIECE_WORDS]
        starts = tuple(accumulate([word & _LENGTH_MASK for word in words], initial=0))
        kinds = {n: Kind.read_untrusted(n) for n in {word >> _LENGTH_BITS for word in words}}
        if Kind.BUNDLE in kinds:
            raise FormatError("a bundle inside a bundle")
        rows, chunks_end = _read_chunks_untrusted(data[:pieces_at], chunks_at, starts)
        return cls(data, rows, chunks_end, starts, kinds)

    @property
    def piece_count(self) -> int:
        """How many pieces lie here, bundled or alone."""
        alone = sum(1 for row in self.chunks if not row.piece_count)
        return alone + len(self._starts) - 1

    def pieces(self, chunk: int) -> Iterator[Location]:
        """The pieces of one chunk, in order."""
        row = self.chunks[chunk]
        if not row.piece_count:
            yield Location(row.tag, row.kind, chunk, 0, row.plain_len)
            return
        first, end = row.piece_first, row.piece_first + row.piece_count
        starts, kinds, base = self._starts, self._kinds, self._starts[first]
        at = _HEAD.size + len(self.chunks) * _CHUNK.size
        rows = memoryview(self.data)[at + first * _PIECE.size : at + end * _PIECE.size]
        for number, (tag, word) in enumerate(_PIECE.iter_unpack(rows), first):
            kind, length = kinds[word >> _LENGTH_BITS], word & _LENGTH_MASK
            yield Location(tag, kind, chunk, starts[number] - base, length)

    def all_pieces(self) -> Iterator[Location]:
        """Every piece of the pack: what the local index is rebuilt from."""
        for chunk in range(len(self.chunks)):
            yield from self.pieces(chunk)


def _read_chunks_untrusted(
    data: bytes, chunks_at: int, starts: Sequence[int]
) -> tuple[tuple[ChunkRow, ...], int]:
    rows = []
    offset, piece = chunks_at, 0
    for fields in _CHUNK.iter_unpack(memoryview(data)[_HEAD.size :]):
        row = _read_chunk_untrusted(fields, offset, piece)
        offset += row.sealed_len
        piece += row.piece_count
        if piece >= len(starts):
            raise FormatError("a chunk with more pieces than there are")
        if row.piece_count and starts[piece] - starts[row.piece_first] != row.plain_len:
            raise FormatError("the pieces of a bundle do not add up to it")
        rows.append(row)
    if piece != len(starts) - 1:
        raise FormatError("pieces that belong to no chunk")
    return tuple(rows), offset


def _read_chunk_untrusted(fields: tuple[Any, ...], offset: int, piece_first: int) -> ChunkRow:
    sealed_len, plain_len, piece_count, epoch, kind, domain, zeros, tag, key, root = fields
    kind, domain = Kind.read_untrusted(kind), Domain.read_untrusted(domain)
    if zeros:
        raise FormatError("reserved bytes of an index are not zero")
    if plain_len > limits.CHUNK_PLAIN_BYTES_MAX or piece_count > limits.BUNDLE_PIECES_MAX:
        raise LimitExceeded(f"a chunk of {plain_len} bytes and {piece_count} pieces")
    if sealed_len < CHUNK_OVERHEAD_BYTES or (kind is Kind.BUNDLE) != (piece_count > 0):
        raise FormatError("an impossible chunk in an index")
    mesh = None
    if domain is Domain.MESH:
        mesh = MeshPlace(epoch, Secret(key), root)
    elif key != _NO_HASH or root != _NO_HASH:
        raise FormatError("a chunk of the private domain with fields of the mesh domain")
    return ChunkRow(offset, sealed_len, plain_len, kind, tag, epoch, piece_first, piece_count, mesh)
