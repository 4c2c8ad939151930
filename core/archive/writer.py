"""Writing an archive: chunks as they come, then the table, the index, and last the header.

The file grows as `NAME.partial` and gets its name when it is whole and on the disk. Beside it
`NAME.journal` lists the chunks written so far, sealed like the archive; after an interruption
`resume` takes every chunk that is really there as known, so that only the rest is done again.

    journal = the archive's first 48 bytes || records
    record  = index entry, sealed if the archive is
"""

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from core import envelope, limits
from core.archive.header import ENTRY_BYTES, HEADER_BYTES, Body, Head
from core.archive.index import Entry, Index
from core.archive.keys import ArchiveKeys, Lock, Opener
from core.archive.reader import INDEX_PURPOSE, open_stored_untrusted
from core.compress import Mode
from core.crypto import Buffer, Entropy, system_entropy
from core.errors import FormatError, IntegrityError, PortalError, UsageError, WrongKey
from core.files import sync_directory
from core.labels import EnvelopeKind
from core.pieces import Chunk
from core.seal import SEAL_BYTES, ChunkSeal, Frame, prepare, seal_chunk_into, seal_into
from core.secret import Secret

_JOURNAL = EnvelopeKind.ARCHIVE_JOURNAL
_HEAD_BYTES = 48
_MODES = (Mode.AUTO, Mode.OFF, Mode.LZ4, Mode.ZSTD, Mode.FAST, Mode.SMALLEST)  # by number


class ArchiveWriter:
    """One archive being written. `stored` may run on any thread, the rest on one at a time."""

    def __init__(
        self, path: Path, opener: Opener | None, mode: Mode, entropy: Entropy = system_entropy
    ) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._journal_path = path.with_name(path.name + ".journal")
        self._mode = mode
        self._entries: dict[int, Entry] = {}
        self._end = HEADER_BYTES
        salt = entropy(limits.ARCHIVE_SALT_BYTES)
        self._set_head(Head.for_opener(opener, salt), opener)
        self._file = -1
        self._journal = -1

    def _set_head(self, head: Head, opener: Opener | None) -> None:
        self._head = head
        self._keys = None
        if opener is not None:
            secret = opener.secret_untrusted(head.salt, head.cost)
            self._keys = ArchiveKeys.derive(secret, head.salt)

    # --- beginning --------------------------------------------------------------------------------

    @property
    def chunker_key(self) -> Secret:
        """The chunker's secret input: the salt where nothing is secret."""
        salt = self._head.salt
        return Secret(salt) if self._keys is None else self._keys.chunker

    def begin(self) -> dict[bytes, int]:
        """Start anew; an older attempt at the same archive is given up. Nothing is known yet."""
        self._claim()
        os.ftruncate(self._file, 0)
        os.ftruncate(self._file, HEADER_BYTES)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._journal = os.open(self._journal_path, flags, 0o600)
        os.write(self._journal, self._head.to_bytes())
        return {}

    def resume(self, opener: Opener | None) -> dict[bytes, int]:
        """Go on where an interrupted run ended; gives the numbers of the chunks there, by tag."""
        if not (self._partial.exists() and self._journal_path.exists()):
            return self.begin()
        self._claim()
        try:
            known = self._taken_up(opener)
        except BaseException:
            self.close()
            raise
        if known is None:
            self.close()
            return self.begin()
        return known

    def _taken_up(self, opener: Opener | None) -> dict[bytes, int] | None:
        """What is there; nothing if the journal is none."""
        self._journal = os.open(self._journal_path, os.O_RDWR | os.O_CLOEXEC)
        journal = _read_whole(self._journal)
        try:
            head = Head.read_untrusted(journal[:_HEAD_BYTES].ljust(HEADER_BYTES, b"\1"))
        except FormatError:
            return None
        if head.lock != (opener.lock if opener else Lock.NONE):
            what = "the interrupted archive is locked in another way"
            raise UsageError(what, where=str(self._path))
        self._set_head(head, opener)
        known, kept = self._salvage(journal[_HEAD_BYTES:])
        os.ftruncate(self._journal, _HEAD_BYTES + kept)
        os.lseek(self._journal, 0, os.SEEK_END)
        os.ftruncate(self._file, self._end)
        _write_all(self._file, (bytes(HEADER_BYTES),), 0)  # it may have come as far as its header
        return known

    def _claim(self) -> None:
        """Open the growing file for this process alone; the lock goes with the process."""
        self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between open and lock whoever held it may have finished and given it its name.
            is_ours = os.path.samestat(os.fstat(self._file), self._partial.stat())
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:
            self.close()
            raise UsageError("is being made by another process", where=str(self._path))

    def _salvage(self, records: bytes) -> tuple[dict[bytes, int], int]:
        known: dict[bytes, int] = {}
        size = ENTRY_BYTES + (envelope.OVERHEAD_BYTES if self._keys else 0)
        there = os.fstat(self._file).st_size
        kept = 0
        for at in range(0, len(records) - size + 1, size):
            try:
                entry = self._journaled_untrusted(records[at : at + size])
                if entry.tag in known or entry.offset + entry.stored_len > there:
                    break  # written twice, or not written to its end
                stored = os.pread(self._file, entry.stored_len, entry.offset)
                open_stored_untrusted(stored, entry, self._keys, self._head.salt)
            except WrongKey:
                if not known:
                    raise
                break
            except (FormatError, IntegrityError):
                break
            known[entry.tag] = len(self._entries)
            self._entries[len(self._entries)] = entry
            self._end = max(self._end, entry.offset + entry.stored_len)
            kept = at + size
        return known, kept

    def _journaled_untrusted(self, record: bytes) -> Entry:
        if self._keys is not None:
            record = envelope.open_untrusted(self._keys.journal, _JOURNAL, record)
        return Entry.read_untrusted(record)

    # --- chunks -----------------------------------------------------------------------------------

    def frame(self, chunk: Chunk) -> Frame:
        """The chunk compressed."""
        return prepare(chunk, self._mode)

    def stored(self, frame: Frame) -> Sequence[Buffer]:
        """The bytes of a chunk as they will lie in the file."""
        if self._keys is None:
            return (frame.head(), frame.data)
        out = bytearray(frame.sealed_len)
        seal = ChunkSeal.private(self._keys.dedup, frame.tag, self._head.salt)
        seal_chunk_into(memoryview(out), frame, seal)
        return (out,)

    def write(
        self, number: int, frame: Frame, stored: Sequence[Buffer], *, journal: bool = True
    ) -> int:
        """Put a chunk behind the last one; gives how many bytes that took."""
        assert number not in self._entries
        size = sum(map(len, stored))
        entry = Entry(frame.tag, self._end, size, frame.plain_len, frame.kind)
        _write_all(self._file, stored, self._end)
        self._entries[number] = entry
        self._end += size
        if journal:
            record = entry.to_bytes()
            if self._keys is not None:
                record = envelope.seal(self._keys.journal, _JOURNAL, record)
            os.write(self._journal, record)
        return size

    # --- ending -----------------------------------------------------------------------------------

    def finish(self, table: Sequence[Frame], entry_count: int, content_bytes: int) -> int:
        """Write what is missing and give the file its name; gives its length."""
        table_off = self._end
        for frame in table:
            self.write(len(self._entries), frame, self.stored(frame), journal=False)
        index = Index(b"".join(self._entries[n].to_bytes() for n in range(len(self._entries))))
        index_off = self._end
        raw: Buffer = index.data
        if self._keys is not None:
            raw = bytearray(len(index.data) + SEAL_BYTES)
            seal_into(memoryview(raw), self._keys.index, INDEX_PURPOSE, (index.data,))
        _write_all(self._file, (raw,), index_off)
        body = Body(
            archive_len=index_off + len(raw),
            index_off=index_off,
            table_off=table_off,
            chunk_count=len(index),
            table_chunks=len(table),
            entry_count=entry_count,
            content_bytes=content_bytes,
            compression=_MODES.index(self._mode),
            root=index.tree().root,
            index_hash=index.hash(),
        )
        os.fsync(self._file)
        _write_all(self._file, (body.sealed(self._head, self._keys),), 0)
        os.fsync(self._file)
        if os.path.lexists(self._path):
            raise UsageError(
                "exists by now; what was made stays beside it", where=str(self._partial)
            )
        self._partial.rename(self._path)
        sync_directory(self._path.parent)
        self.close()
        self._journal_path.unlink(missing_ok=True)
        return body.archive_len

    @property
    def is_empty(self) -> bool:
        """Whether no chunk was written yet."""
        return not self._entries

    def own_files(self) -> set[tuple[int, int]]:
        """What is being written, by device and inode: nothing that belongs into an archive."""
        found = map(os.fstat, (self._file, self._journal))
        return {(stat.st_dev, stat.st_ino) for stat in found}

    def close(self) -> None:
        """Let go of the files; an unfinished archive stays for `resume`."""
        for fd in (self._file, self._journal):
            if fd >= 0:
                os.close(fd)
        self._file = self._journal = -1

    def discard(self) -> None:
        """Remove an unfinished archive."""
        self.close()
        for path in (self._partial, self._journal_path):
            with suppress(FileNotFoundError):
                path.unlink()


def _write_all(fd: int, parts: Sequence[Buffer], offset: int) -> None:
    views = [memoryview(part) for part in parts if len(part)]
    while views:
        written = os.pwritev(fd, views, offset)
        offset += written
        while views and written >= len(views[0]):
            written -= len(views[0])
            del views[0]
        if written:
            views[0] = views[0][written:]


def _read_whole(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > limits.ARCHIVE_INDEX_BYTES_MAX:
        raise PortalError("the journal of the interrupted archive is too large")
    return os.pread(fd, size, 0)
