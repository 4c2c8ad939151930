"""Reading an archive, its index by memory map: any file or bytes without the rest of it.

What is opened is checked: the header by its seal or hash, the index by the hash in the header, a
chunk by the tag in the index, each before a byte of it is used.
"""

import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from core import limits
from core.archive.header import HEADER_BYTES, Body, Head
from core.archive.index import Entry, Index
from core.archive.keys import ArchiveKeys, Lock, Opener
from core.archive.table import Extent, Segment, Stored
from core.buffers import Buffers
from core.crypto import Buffer
from core.errors import FormatError, IntegrityError, PortalError, WrongKey
from core.hashing import digest
from core.labels import Label
from core.merkle import root_of_proof_untrusted
from core.pieces import Kind
from core.seal import ChunkSeal, open_chunk_untrusted, open_frame_untrusted, unseal_untrusted
from core.tree.entry import EntryType

INDEX_PURPOSE = b"portal archive 1 index"
_CHUNKS_KEPT = 8
_ZEROS = memoryview(bytes(limits.MIB))


class ArchiveReader:
    """An open archive. Threads may share it."""

    def __init__(self, data: memoryview, head: Head, body: Body, keys: ArchiveKeys | None) -> None:
        self.head = head
        self.body = body
        self._data = data
        self._file: int | None = None  # where chunks are read from, instead of `data`
        self._buffers = Buffers(limits.READ_BUFFER_BYTES)
        self._keys = keys
        sealed = data[body.index_off :]
        raw = sealed if keys is None else unseal_untrusted(sealed, keys.index, INDEX_PURPOSE)
        self.index = Index(raw)
        if self.index.hash() != body.index_hash:
            raise IntegrityError("the archive's index was changed")
        # Not an lru_cache of a method: a reader would hold itself, and its file, for some time.
        self._kept: OrderedDict[int, memoryview] = OrderedDict()
        self._keeping = threading.Lock()

    @classmethod
    def open_untrusted(cls, data: memoryview, openers: Sequence[Opener] = ()) -> Self:
        """Open these bytes; `openers` are tried where they fit the lock."""
        head = Head.read_untrusted(data)
        if head.lock is Lock.NONE:
            return cls(data, head, Body.open_untrusted(data, head, None), None)
        fitting = [opener for opener in openers if opener.lock is head.lock]
        for opener in fitting:
            secret = opener.secret_untrusted(head.salt, head.cost)
            keys = ArchiveKeys.derive(secret, head.salt)
            with suppress(WrongKey):
                return cls(data, head, Body.open_untrusted(data, head, keys), keys)
        name = head.lock.name.lower().replace("_", " ")
        which = f"another {name} than was given" if fitting else f"a {name}"
        asked = fitting and head.lock is Lock.PASSPHRASE
        hint = "check the spelling" if asked else _HINTS[head.lock]
        raise WrongKey(f"the archive is locked with {which}", hint=hint)

    @classmethod
    def open_file(cls, path: Path, openers: Sequence[Opener] = ()) -> Self:
        """Map the file and open it; every error names it."""
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise FormatError("an empty file is no archive", where=str(path))
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            try:
                reader = cls.open_untrusted(memoryview(mapped), openers)
            except PortalError as e:
                raise e.at(str(path)) from e.__cause__
            reader._file = os.dup(file.fileno())  # noqa: SLF001 - our own
        weakref.finalize(reader, os.close, reader._file)  # noqa: SLF001
        return reader

    # --- chunks -----------------------------------------------------------------------------------

    def chunk_untrusted(self, number: int) -> memoryview:
        """The content of one chunk, checked against its tag."""
        entry = self.index.entry_untrusted(number)
        stored = self._stored_untrusted(entry)
        return open_stored_untrusted(stored, entry, self._keys, self.head.salt)

    def kept_chunk_untrusted(self, number: int) -> memoryview:
        """The same; the last few are kept for who asks again."""
        with self._keeping:
            plain = self._kept.get(number)
        if plain is None:
            plain = self.chunk_untrusted(number)
        with self._keeping:
            self._kept[number] = plain
            self._kept.move_to_end(number)
            if len(self._kept) > _CHUNKS_KEPT:
                self._kept.popitem(last=False)
        return plain

    def _stored_untrusted(self, entry: Entry) -> memoryview:
        end = entry.offset + entry.stored_len
        if not HEADER_BYTES <= entry.offset <= end <= self.body.index_off:
            raise FormatError("a chunk outside the archive's data")
        if self._file is None:
            return self._data[entry.offset : end]
        # Not through the map: what was checked must not change before it is used.
        room = self._buffers.take(entry.stored_len)
        at = 0
        while at < len(room):
            try:
                count = os.preadv(self._file, (room[at:],), entry.offset + at)
            except OSError as e:  # a bad sector: the other chunks are still good
                what = f"a chunk of the archive cannot be read: {e.strerror}"
                raise IntegrityError(what) from e
            if count == 0:
                raise FormatError("the archive has become shorter")
            at += count
        return room.toreadonly()

    # --- files ------------------------------------------------------------------------------------

    def segments_untrusted(self) -> Iterator[Segment]:
        """The table of files, part by part."""
        first = self.body.chunk_count - self.body.table_chunks
        count = 0
        for number in range(first, self.body.chunk_count):
            if self.index.entry_untrusted(number).kind is not Kind.FILE_TABLE:
                raise FormatError("the archive's table lies elsewhere than its header says")
            segment = Segment.decode_untrusted(bytes(self.chunk_untrusted(number)))
            count += len(segment)
            yield segment
        if count != self.body.entry_count:
            raise FormatError("the archive's table is not as long as its header says")

    def entries_untrusted(self) -> Iterator[Stored]:
        """Every file, in the order they were put in."""
        for segment in self.segments_untrusted():
            yield from segment.entries_untrusted()

    def find_untrusted(self, path: bytes) -> Stored | None:
        """The file of this path, or the one it is a hard link to."""
        found = self._called_untrusted(path)
        if found is not None and found.link is not None:
            found = self._called_untrusted(found.link)
            if found is None or found.link is not None:
                raise FormatError("a hard link to what the archive does not hold")
        return found if found is not None and found.entry.type is EntryType.FILE else None

    def _called_untrusted(self, path: bytes) -> Stored | None:
        for segment in self.segments_untrusted():
            if path in segment.paths:
                return segment.entry_untrusted(segment.paths.index(path))
        return None

    def content_untrusted(self, stored: Stored) -> Iterator[memoryview]:
        """The bytes of a file, a part at a time; a hole comes as zeros, never many at once."""
        for extent in stored.extents:
            if not extent.is_hole:
                yield self.extent_untrusted(extent)
                continue
            for start in range(0, extent.length, len(_ZEROS)):
                yield _ZEROS[: extent.length - start]

    def extent_untrusted(self, extent: Extent) -> memoryview:
        """The bytes of a part of a file that is no hole."""
        return self.part_untrusted(self.kept_chunk_untrusted(extent.chunk), extent)

    def part_untrusted(self, chunk: memoryview, extent: Extent) -> memoryview:
        """An extent of a chunk that was opened already."""
        end = extent.offset + extent.length
        if end > len(chunk):
            raise FormatError("a file's part lies outside its chunk")
        return chunk[extent.offset : end]

    # --- proofs -----------------------------------------------------------------------------------

    def prove(self, number: int) -> tuple[bytes, bytes]:
        """Entry and proof: enough to show one chunk to someone who has the root and the count."""
        return bytes(self.index.raw(number)), self.index.tree().proof(number)


def lock_of_untrusted(path: Path) -> Lock:
    """How the archive at `path` is locked; every error names it."""
    with path.open("rb") as file:
        data = file.read(HEADER_BYTES)
    try:
        return Head.read_untrusted(data).lock
    except PortalError as e:
        raise e.at(str(path)) from e.__cause__


def open_stored_untrusted(
    stored: Buffer, entry: Entry, keys: ArchiveKeys | None, salt: bytes
) -> memoryview:
    """The content of a chunk, from its bytes in the file and its entry in the index."""
    most = limits.ARCHIVE_CHUNK_BYTES_MAX
    if keys is None:
        plain = open_frame_untrusted(stored, entry.kind, entry.tag, plain_bytes_max=most)
    else:
        seal = ChunkSeal.private(keys.dedup, entry.tag, salt)
        plain = open_chunk_untrusted(stored, seal, entry.kind, entry.tag, plain_bytes_max=most)
    if len(plain) != entry.plain_len:
        raise IntegrityError("a chunk is not as long as the index says")
    return plain


def verify_entry_untrusted(root: bytes, count: int, number: int, raw: bytes, proof: bytes) -> Entry:
    """The entry, if the proof leads from it to the root of an archive of `count` chunks."""
    leaf = digest(Label.ARCHIVE_ENTRY, raw)
    if root_of_proof_untrusted(count, number, leaf, proof) != root:
        raise IntegrityError(f"the proof for chunk {number} does not lead to the root")
    return Entry.read_untrusted(raw)


_HINTS = {
    Lock.PASSPHRASE: "it will be asked for on a terminal",
    Lock.KEY_FILE: "--key-file FILE",
    Lock.VAULT: "--recipient vault, on a device of that vault",
}
