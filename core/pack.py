"""Packs: what the vault stores, what is erasure-coded, all that a peer can tell apart.

    salt 32 | sealed header 76 | sealed chunks | sealed index | padding     (core/SPEC.md, Packs)

A pack has exactly one of four sizes, and no byte of it can be told from chance without the vault's
keys: the salt is random, header, index and chunks are sealed under keys that only this salt gives,
and the padding is a keyed stream of it. The same chunks packed again share nothing with it.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from core import limits
from core.crypto import Buffer, Entropy, equal, system_entropy
from core.errors import FormatError, IntegrityError, NewerFormat, WrongKey
from core.hashing import derive, digest
from core.labels import Label
from core.pack_index import (
    CHUNK_ROW_BYTES,
    INDEX_HEAD_BYTES,
    ChunkRow,
    Location,
    MeshPlace,
    PackIndex,
    chunk_row,
    encode,
)
from core.pieces import PIECE_ROW_BYTES, Kind, check_tag_untrusted
from core.seal import (
    SEAL_BYTES,
    SUBKEYS_BYTES,
    ChunkSeal,
    Frame,
    SealKeys,
    open_chunk_untrusted,
    seal_chunk_into,
    seal_into,
    unseal_untrusted,
)
from core.secret import Secret

_VERSION = 1
_HEADER = struct.Struct(">IIII")  # pack_len, index_off, index_len, version
_HEADER_PURPOSE = b"portal pack 2 header"
_INDEX_PURPOSE = b"portal pack 2 index"
CHUNKS_AT = limits.PACK_SALT_BYTES + SEAL_BYTES + _HEADER.size
_EMPTY_BYTES = CHUNKS_AT + SEAL_BYTES + INDEX_HEAD_BYTES

ReadAt = Callable[[int, int], Buffer]


@dataclass(frozen=True, slots=True)
class PackKeys:
    """What packs of one key epoch of one vault are sealed with."""

    dedup: Secret  # K_priv
    pack: Secret  # K_pack
    epoch: int = 0


def pack_name(salt: bytes) -> bytes:
    """What a pack is called in its own vault; peers call it by the root of its shards."""
    return digest(Label.PACK_NAME, salt)


def cost_bytes(frame: Frame) -> int:
    """What a chunk takes of a pack's room: itself and its rows in the index."""
    return frame.sealed_len + CHUNK_ROW_BYTES + len(frame.pieces) * PIECE_ROW_BYTES


def room_bytes(pack_bytes: int) -> int:
    """The room of an empty pack."""
    return pack_bytes - _EMPTY_BYTES


# --- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Pack:
    """A finished pack."""

    data: memoryview
    salt: bytes
    index: PackIndex

    @property
    def name(self) -> bytes:
        """What it is called in its own vault."""
        return pack_name(self.salt)


@dataclass(slots=True, repr=False)
class Slot:
    """A place kept in a pack for one chunk.

    Sealing touches nothing but the place, so the slots of a pack may be sealed on several threads.
    """

    chunk: int
    _out: memoryview
    _frame: Frame
    _seal: ChunkSeal
    sealed: bool = False

    def seal(self) -> None:
        """Write the chunk into its place."""
        seal_chunk_into(self._out, self._frame, self._seal)
        self.sealed = True


class PackWriter:
    """Fills one pack. Chunks keep the order in which they were added.

    `buffer` may be that of a pack that was written and is done with: fresh pages cost a tenth of
    the sealing, and every byte is written anew.
    """

    def __init__(
        self,
        keys: PackKeys,
        pack_bytes: int = limits.PACK_SIZES_BYTES[-1],
        *,
        entropy: Entropy = system_entropy,
        buffer: bytearray | None = None,
    ) -> None:
        assert pack_bytes in limits.PACK_SIZES_BYTES
        self._keys = keys
        self._salt = entropy(limits.PACK_SALT_BYTES)
        self._out = bytearray(pack_bytes) if buffer is None else buffer
        assert len(self._out) == pack_bytes
        self._end = CHUNKS_AT
        self._room = room_bytes(pack_bytes)
        self._chunk_rows: list[bytes] = []
        self._bundle_rows: list[bytes] = []
        self._slots: list[Slot] = []

    @property
    def room_bytes(self) -> int:
        """How much is left for chunks and their rows, see `cost_bytes`."""
        return self._room

    def fits(self, cost: int) -> bool:
        """Whether a chunk of this cost may still be added."""
        return cost <= self._room

    def reserve(self, frame: Frame) -> Slot:
        """Keep a place for a chunk; it is to be sealed before the pack is finished."""
        out = self._place(frame, frame.sealed_len, None)
        seal = ChunkSeal.private(self._keys.dedup, frame.tag, self._salt)
        slot = Slot(len(self._chunk_rows) - 1, out, frame, seal)
        self._slots.append(slot)
        return slot

    def add(self, frame: Frame) -> int:
        """Seal a chunk into the pack; gives its number there."""
        slot = self.reserve(frame)
        slot.seal()
        return slot.chunk

    def add_mesh(self, frame: Frame, sealed: Buffer, place: MeshPlace) -> int:
        """Put in a chunk that is already sealed for the mesh domain; gives its number."""
        self._place(frame, len(sealed), place)[:] = sealed
        return len(self._chunk_rows) - 1

    def finish(self) -> Pack:
        """Write header, index and padding. The writer is used up."""
        assert all(slot.sealed for slot in self._slots)
        data = encode(self._chunk_rows, self._bundle_rows)
        # Reading our own index back costs little, and no pack leaves with one that cannot be read.
        index = PackIndex.decode_untrusted(data, CHUNKS_AT)
        assert index.chunks_end == self._end
        _close(self._out, self._keys, self._salt, index)
        return Pack(memoryview(self._out).toreadonly(), self._salt, index)

    def _place(self, frame: Frame, sealed_len: int, mesh: MeshPlace | None) -> memoryview:
        cost = cost_bytes(frame) + sealed_len - frame.sealed_len
        assert self.fits(cost)
        row = ChunkRow(
            offset=self._end,
            sealed_len=sealed_len,
            plain_len=frame.plain_len,
            kind=frame.kind,
            tag=frame.tag,
            epoch=mesh.epoch if mesh else self._keys.epoch,
            piece_first=0,
            piece_count=len(frame.pieces),
            mesh=mesh,
        )
        self._chunk_rows.append(chunk_row(row))
        self._bundle_rows.append(frame.pieces.rows)
        self._room -= cost
        self._end += sealed_len
        return memoryview(self._out)[row.offset : self._end]


def rebuild(
    keys: PackKeys, pack_bytes: int, salt: bytes, index: PackIndex, chunks: Sequence[Buffer]
) -> bytearray:
    """The pack again, bit for bit, from its salt, its index and its sealed chunks."""
    out = bytearray(pack_bytes)
    for row, sealed in zip(index.chunks, chunks, strict=True):
        out[row.offset : row.offset + row.sealed_len] = sealed
    assert len(out) == pack_bytes
    _close(out, keys, salt, index)
    return out


def _close(out: bytearray, keys: PackKeys, salt: bytes, index: PackIndex) -> None:
    """Everything but the chunks, all of it a function of keys, salt and index."""
    header_keys, index_keys = _pack_subkeys(keys.pack, salt)
    index_off, index_len = index.chunks_end, len(index.data) + SEAL_BYTES
    end = index_off + index_len
    header = _HEADER.pack(len(out), index_off, index_len, _VERSION)
    view = memoryview(out)
    view[: len(salt)] = salt
    seal_into(view[len(salt) : CHUNKS_AT], header_keys, _HEADER_PURPOSE, (header,))
    seal_into(view[index_off:end], index_keys, _INDEX_PURPOSE, (index.data,))
    view[end:] = _padding(keys.pack, salt, len(out) - end)


def _pack_subkeys(pack: Secret, salt: bytes) -> tuple[SealKeys, SealKeys]:
    subkeys = derive(Label.PACK_SUBKEYS, pack.reveal() + salt, 2 * SUBKEYS_BYTES)
    return SealKeys.split(subkeys[:SUBKEYS_BYTES]), SealKeys.split(subkeys[SUBKEYS_BYTES:])


def _padding(pack: Secret, salt: bytes, size: int) -> bytes:
    return derive(Label.PACK_PADDING, pack.reveal() + salt, size)


# --- reading --------------------------------------------------------------------------------------


def reader_of(data: Buffer) -> ReadAt:
    """Reads a pack that is in memory, or mapped into it."""
    view = memoryview(data)
    return lambda offset, size: view[offset : offset + size]


class PackReader:
    """Reads one pack piece by piece; what is not asked for is not touched."""

    def __init__(self, read_at: ReadAt, keys: PackKeys, salt: bytes, index: PackIndex) -> None:
        """For a pack whose index is at hand already; `open_untrusted` reads it from the pack."""
        self._read_at = read_at
        self._keys = keys
        self.salt = salt
        self.index = index

    @classmethod
    def open_untrusted(
        cls, read_at: ReadAt, pack_bytes: int, keys: PackKeys, *, name: bytes | None = None
    ) -> Self:
        """Read header and index of a pack of this length.

        WrongKey when it was not sealed under these keys; `name` refuses a pack that lies under
        another pack's name.
        """
        if pack_bytes not in limits.PACK_SIZES_BYTES:
            raise FormatError(f"a pack never has {pack_bytes} bytes")
        head = bytes(_read_untrusted(read_at, 0, CHUNKS_AT))
        salt = head[: limits.PACK_SALT_BYTES]
        if name is not None and not equal(pack_name(salt), name):
            raise IntegrityError("another pack than its name says")
        header_keys, index_keys = _pack_subkeys(keys.pack, salt)
        header = unseal_untrusted(head[limits.PACK_SALT_BYTES :], header_keys, _HEADER_PURPOSE)
        length, index_off, index_len, version = _HEADER.unpack(header)
        if version > _VERSION:
            raise NewerFormat
        end = index_off + index_len
        if version != _VERSION or length != pack_bytes or index_off < CHUNKS_AT or end > length:
            raise FormatError("the header of a pack does not fit it")
        sealed = _read_untrusted(read_at, index_off, index_len)
        try:
            data = unseal_untrusted(sealed, index_keys, _INDEX_PURPOSE)
        except WrongKey as e:
            raise IntegrityError("the index of a pack was changed since it was sealed") from e
        index = PackIndex.decode_untrusted(data, CHUNKS_AT)
        if index.chunks_end != index_off:
            raise FormatError("the index of a pack does not fit it")
        if any(row.mesh is None and row.epoch != keys.epoch for row in index.chunks):
            raise FormatError("a chunk of another key epoch than its pack")
        return cls(read_at, keys, salt, index)

    @property
    def name(self) -> bytes:
        """What this pack is called in its own vault."""
        return pack_name(self.salt)

    def sealed_chunk_untrusted(self, chunk: int) -> Buffer:
        """One chunk as it lies here, unchecked."""
        row = self.index.chunks[chunk]
        return _read_untrusted(self._read_at, row.offset, row.sealed_len)

    def chunk_untrusted(self, chunk: int) -> memoryview:
        """The content of one chunk, checked against its tag."""
        row = self.index.chunks[chunk]
        sealed = self.sealed_chunk_untrusted(chunk)
        try:
            plain = open_chunk_untrusted(
                sealed, self._seal(row), row.kind, row.tag, plain_bytes_max=row.plain_len
            )
        except WrongKey as e:
            # The index, sealed under the same keys, has opened: it is not the key that is wrong.
            raise IntegrityError(f"chunk {chunk} was changed since it was sealed") from e
        if len(plain) != row.plain_len:
            raise FormatError(f"chunk {chunk} is not as long as the index says")
        return plain

    def piece_untrusted(self, location: Location) -> memoryview:
        """The content of one piece, checked against its tag; the location may be stale."""
        tag, kind, chunk, offset, length = location
        if not 0 <= chunk < len(self.index.chunks):
            raise IntegrityError("a piece is said to lie in a chunk that this pack lacks")
        row = self.index.chunks[chunk]
        if not row.piece_count and (tag, kind, offset, length) != _whole(row):
            raise IntegrityError("a piece is said to lie in a chunk that is another piece")
        piece = self.chunk_untrusted(chunk)[offset : offset + length]
        if row.piece_count:
            check_tag_untrusted(kind, tag, piece)
        return piece

    def verify_whole_untrusted(self, pack_bytes: int) -> None:
        """Open every chunk, check every piece, compare the padding: every byte is accounted for."""
        for chunk, row in enumerate(self.index.chunks):
            plain = self.chunk_untrusted(chunk)
            if row.piece_count:
                for tag, kind, _, offset, length in self.index.pieces(chunk):
                    check_tag_untrusted(kind, tag, plain[offset : offset + length])
        end = self.index.chunks_end + len(self.index.data) + SEAL_BYTES
        padding = _read_untrusted(self._read_at, end, pack_bytes - end)
        if not equal(bytes(padding), _padding(self._keys.pack, self.salt, pack_bytes - end)):
            raise IntegrityError("the padding of a pack was changed")

    def _seal(self, row: ChunkRow) -> ChunkSeal:
        if row.mesh:
            return ChunkSeal.mesh(row.mesh.chunk_key)
        return ChunkSeal.private(self._keys.dedup, row.tag, self.salt)


def _whole(row: ChunkRow) -> tuple[bytes, Kind, int, int]:
    return row.tag, row.kind, 0, row.plain_len


def _read_untrusted(read_at: ReadAt, offset: int, size: int) -> Buffer:
    data = read_at(offset, size)
    if len(data) != size:
        raise FormatError("a pack is cut short")
    return data
