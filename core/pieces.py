"""What is deduplicated and what is sealed (core/SPEC.md, Pieces and chunks).

A piece is a cut of a large file, a whole small file or a metadata object, named by its tag. A chunk
is what is sealed at once: one large piece, or a bundle of small ones, each keeping its own tag.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import NamedTuple, Self, overload

from core import hashing, limits
from core.buffers import Buffers, Joined
from core.crypto import Buffer
from core.errors import IntegrityError, NewerFormat
from core.secret import Secret


@unique
class Kind(IntEnum):
    """What some content is. It is hashed into the tag and sealed into the frame: kinds never meet.

    A number may be added, never given to something else.
    """

    CUT = 1
    SMALL_FILE = 2
    BUNDLE = 3  # a chunk, never a piece
    DIRECTORY = 4
    SNAPSHOT = 5
    CUT_LIST = 6  # the tags of a file of very many cuts
    FILE_TABLE = 7  # a part of an archive's table of files

    @classmethod
    def read_untrusted(cls, number: int) -> Self:
        """The kind of this number."""
        try:
            return cls(number)
        except ValueError as e:
            raise NewerFormat(f"holds content of kind {number}, unknown to this Portal") from e


@unique
class Domain(IntEnum):
    """Among whom equal content is recognised."""

    PRIVATE = 1  # this vault
    MESH = 2  # the paired users, by a key they evaluate together

    @classmethod
    def read_untrusted(cls, number: int) -> Self:
        """The domain of this number."""
        try:
            return cls(number)
        except ValueError as e:
            raise NewerFormat(f"sealed in domain {number}, unknown to this Portal") from e


class Piece(NamedTuple):
    """One piece inside a chunk. Pieces lie in order without gaps, so lengths are enough."""

    tag: bytes
    kind: Kind
    length: int


_ROW = struct.Struct(">32sI")  # tag, u8 kind, u24 length: a row of a pack's index, too
_LENGTH_BITS = 24
PIECE_ROW_BYTES = _ROW.size


def piece_row(tag: bytes, kind: Kind, length: int) -> bytes:
    """A piece as one row of 36 bytes."""
    return _ROW.pack(tag, kind << _LENGTH_BITS | length)


class Pieces(Sequence[Piece]):
    """The pieces of a bundle as their rows: a fifth of the memory of as many objects."""

    __slots__ = ("rows",)

    def __init__(self, rows: bytes) -> None:
        self.rows = rows

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Self:
        """Of pieces that are at hand."""
        return cls(b"".join([piece_row(*piece) for piece in pieces]))

    def __len__(self) -> int:
        return len(self.rows) // _ROW.size

    @overload
    def __getitem__(self, at: int) -> Piece: ...
    @overload
    def __getitem__(self, at: slice) -> "list[Piece]": ...
    def __getitem__(self, at: int | slice) -> "Piece | list[Piece]":
        """One of them, or several."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        tag, word = _ROW.unpack_from(self.rows, at % len(self) * _ROW.size)
        return Piece(tag, Kind(word >> _LENGTH_BITS), word & (1 << _LENGTH_BITS) - 1)


NO_PIECES = Pieces(b"")


@dataclass(frozen=True, slots=True, repr=False)
class Chunk:
    """The content to be sealed at once; `pieces` is empty when it is a single piece."""

    kind: Kind
    tag: bytes
    data: Buffer
    pieces: Pieces = NO_PIECES

    @classmethod
    def of_piece(cls, kind: Kind, data: Buffer, tag: bytes | None = None) -> Self:
        """A chunk of one piece; `tag` when it is known already."""
        return cls(kind, tag or hashing.tag(kind, data), data)

    @classmethod
    def of_bundle(cls, data: Buffer, pieces: Iterable[Piece]) -> Self:
        """A chunk of several pieces, whose contents are joined in `data`."""
        rows = Pieces.of(pieces)
        assert sum(piece.length for piece in rows) == len(data)
        return cls(Kind.BUNDLE, hashing.tag(Kind.BUNDLE, data), data, rows)


def check_tag_untrusted(kind: int, tag: bytes, data: Buffer) -> None:
    """Pass if this is the content of that name; the last check before bytes are handed out."""
    if hashing.tag(kind, data) != tag:
        raise IntegrityError("content does not match its tag")


def index_key(index_secret: Secret, kind: Kind, domain: Domain, epoch: int, tag: bytes) -> bytes:
    """What a piece is called in the local index: KH(K_idx, kind || domain || u32 epoch || tag)."""
    return hashing.keyed(index_secret.reveal(), index_key_prefix(kind, domain, epoch) + tag)


def index_key_prefix(kind: Kind, domain: Domain = Domain.PRIVATE, epoch: int = 0) -> bytes:
    """What stands before the tag in an index key: for those who name very many pieces."""
    return bytes((kind, domain)) + epoch.to_bytes(4)


class Bundler:
    """Joins small pieces, in the order they come, into chunks of about 1 MiB."""

    def __init__(self, bytes_target: int = limits.BUNDLE_BYTES_TARGET) -> None:
        self._bytes_target = bytes_target
        self._joined = Joined(Buffers(bytes_target), bytes_target)
        self._rows: list[bytes] = []
        self._only: Piece | None = None  # while there is one

    def fits(self, size: int) -> bool:
        """Whether a piece of this size may still be added; an empty bundle takes any."""
        if not self._rows:
            return True
        has_room = self._joined.size + size <= self._bytes_target
        return has_room and len(self._rows) < limits.BUNDLE_PIECES_MAX

    def add(self, kind: Kind, data: Buffer, tag: bytes | None = None) -> Piece:
        """Put a piece in; the caller has asked `fits` and taken the bundle when it was full."""
        assert kind is not Kind.BUNDLE
        assert self.fits(len(data))
        piece = Piece(tag or hashing.tag(kind, data), kind, len(data))
        self._only = None if self._rows else piece
        self._rows.append(piece_row(*piece))
        self._joined.add(data)
        return piece

    def take(self) -> Chunk | None:
        """What was gathered, and begin anew; a single piece goes as a chunk of its own."""
        rows, only, data = self._rows, self._only, self._joined.take()
        self._rows, self._only = [], None
        if not rows:
            return None
        if only is not None:
            return Chunk(only.kind, only.tag, data)
        return Chunk(Kind.BUNDLE, hashing.tag(Kind.BUNDLE, data), data, Pieces(b"".join(rows)))
