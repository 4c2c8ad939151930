"""The first 256 bytes of an archive (core/SPEC.md, Archive).

     0  4  "WARP"            8  4  Argon2id memory KiB     16 32  salt
     4  1  version = 1      12  2  passes                  48     body, sealed or with a hash
     5  1  lock             14  2  lanes
     6  2  0

The body is written last. Until then the file begins with zeros and is no archive.
"""

import struct
from dataclasses import dataclass
from typing import Self

from core import limits
from core.archive.keys import ArchiveKeys, Lock, Opener
from core.crypto import Buffer, check_argon2_untrusted
from core.errors import FormatError, IntegrityError, NewerFormat
from core.hashing import digest
from core.labels import Label
from core.seal import SEAL_BYTES, seal_into, unseal_untrusted
from core.slots import Argon2Cost

HEADER_BYTES = 256
ENTRY_BYTES = 56
MAGIC = b"WARP"
_VERSION = 1
_HEAD = struct.Struct(">4sBBHIHH32s")
_BODY = struct.Struct(">QQQQIQQI32s32s")
_PURPOSE = b"portal archive 1 header"
_SEALED_BODY_BYTES = HEADER_BYTES - _HEAD.size - SEAL_BYTES
_PLAIN_BODY_BYTES = HEADER_BYTES - _HEAD.size - limits.HASH_BYTES


@dataclass(frozen=True, slots=True)
class Head:
    """What stands in clear: how it is locked."""

    lock: Lock
    cost: Argon2Cost | None
    salt: bytes

    @classmethod
    def for_opener(cls, opener: Opener | None, salt: bytes) -> Self:
        """The head of a new archive."""
        return cls(Lock.NONE, None, salt) if opener is None else cls(opener.lock, opener.cost, salt)

    def to_bytes(self) -> bytes:
        """The first 48 bytes."""
        cost = (self.cost.memory_kib, self.cost.passes, self.cost.lanes) if self.cost else (0, 0, 0)
        return _HEAD.pack(MAGIC, _VERSION, self.lock, 0, *cost, self.salt)

    @classmethod
    def read_untrusted(cls, data: Buffer) -> Self:
        """The head of what claims to be an archive."""
        if len(data) < HEADER_BYTES:
            raise FormatError("too short to be an archive")
        magic, version, lock, zero, *numbers, salt = _HEAD.unpack_from(data)
        if bytes(data[:HEADER_BYTES]) == bytes(HEADER_BYTES):
            raise FormatError("an archive that was never finished", hint="create it with --resume")
        if magic != MAGIC:
            raise FormatError("not a warp archive")
        if version > _VERSION:
            raise NewerFormat(f"an archive of version {version}; this warp reads {_VERSION}")
        if version != _VERSION or zero:
            raise FormatError("not a warp archive of any version")
        if lock not in set(Lock):
            raise NewerFormat(f"an archive with lock {lock}, unknown to this warp")
        cost = None
        if lock == Lock.PASSPHRASE:
            check_argon2_untrusted(*numbers)
            cost = Argon2Cost(*numbers)
        elif any(numbers):
            raise FormatError("an archive with parameters that belong to a passphrase")
        return cls(Lock(lock), cost, salt)


@dataclass(frozen=True, slots=True)
class Body:
    """Where everything lies, and the hashes that stand for it."""

    archive_len: int
    index_off: int
    table_off: int
    chunk_count: int
    table_chunks: int  # the last of the chunks
    entry_count: int
    content_bytes: int  # of all files, as a person counts them
    compression: int  # the mode it was made with; for show
    root: bytes  # Merkle root over the index entries
    index_hash: bytes

    def sealed(self, head: Head, keys: ArchiveKeys | None) -> bytes:
        """The whole header."""
        first = head.to_bytes()
        fields = (getattr(self, name) for name in self.__slots__)
        body = _BODY.pack(*fields)
        if keys is None:
            plain = first + body.ljust(_PLAIN_BODY_BYTES, b"\0")
            return plain + digest(Label.ARCHIVE_HEADER, plain)
        out = bytearray(HEADER_BYTES)
        rest = body.ljust(_SEALED_BODY_BYTES, b"\0")
        out[: len(first)] = first
        seal_into(memoryview(out)[len(first) :], keys.header, _PURPOSE + first, (rest,))
        return bytes(out)

    @classmethod
    def open_untrusted(cls, data: Buffer, head: Head, keys: ArchiveKeys | None) -> Self:
        """The body of a header; WrongKey if it is locked with another key."""
        header = bytes(data[:HEADER_BYTES])
        if keys is None:
            plain, check = header[: -limits.HASH_BYTES], header[-limits.HASH_BYTES :]
            if digest(Label.ARCHIVE_HEADER, plain) != check:
                raise IntegrityError("the archive's header was changed")
            rest = plain[_HEAD.size :]
        else:
            purpose = _PURPOSE + header[: _HEAD.size]
            rest = unseal_untrusted(header[_HEAD.size :], keys.header, purpose)
        body = cls(*_BODY.unpack_from(rest))
        if any(rest[_BODY.size :]):
            raise FormatError("an archive's header with something after its end")
        body._check_untrusted(len(data), locked=head.lock is not Lock.NONE)
        return body

    def index_bytes(self, *, locked: bool) -> int:
        """How long the index is in the file."""
        return self.chunk_count * ENTRY_BYTES + (SEAL_BYTES if locked else 0)

    def _check_untrusted(self, size: int, *, locked: bool) -> None:
        if size != self.archive_len:
            what = "cut short" if size < self.archive_len else "followed by something else"
            raise FormatError(f"the archive is {what}: {size} bytes instead of {self.archive_len}")
        if self.chunk_count * ENTRY_BYTES > limits.ARCHIVE_INDEX_BYTES_MAX:
            raise FormatError("the archive's index is too large")
        index_end = self.index_off + self.index_bytes(locked=locked)
        ordered = HEADER_BYTES <= self.table_off <= self.index_off <= index_end
        if not ordered or index_end != size or self.table_chunks > self.chunk_count:
            raise FormatError("the parts of the archive do not fit together")
