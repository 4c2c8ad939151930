"""Reading what is new: files, links and devices become rows, their contents pieces."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from core import limits
from core.buffers import filled_by
from core.crypto import Buffer
from core.errors import LimitExceeded
from core.pieces import Chunk
from core.tree.content import OpenFile, open_file, read_small, read_xattrs
from core.tree.entry import Changed, Entry, EntryType, Report
from core.tree.source import Source
from portal.gather import Gather
from portal.manifest import HOLE, NO_CONTENT, Content, Extent, Row, row_of

TORN = "changed while it was read; its content may be torn"
_EXTENTS_MAX = limits.CUT_LIST_EXTENTS_MAX * (limits.SNAPSHOT_CONTENT_BYTES_MAX // 64)

Chunks = Generator[list[Chunk], None, Row]


@dataclass(slots=True)
class Progress:
    """What a person watching wants to know; written by one thread, read by others."""

    files: int = 0
    directories: int = 0
    others: int = 0
    files_new: int = 0
    files_changed: int = 0
    content_bytes: int = 0
    read_bytes: int = 0
    now: bytes = b""


class Intake:
    """Makes rows of entries by reading them."""

    def __init__(
        self, source: Source, gather: Gather, report: Report, is_recent: Callable[[Entry], bool]
    ) -> None:
        self.progress = Progress()
        self._source = source
        self._gather = gather
        self._report = report
        self._is_recent = is_recent
        self._linked: dict[tuple[int, int, int, int], tuple[Content, Entry, int]] = {}

    def file(self, entry: Entry) -> Chunks:
        """A file of any size; OSError or a PortalError if it cannot be read."""
        known = self._by_another_name(entry)
        if known is not None:
            return known
        self.progress.now = entry.path
        if entry.size > limits.SMALL_FILE_BYTES_MAX:
            return (yield from self._large(entry))
        small = read_small(self._source, entry)
        return self.small(small.entry, small.data, changed=small.changed)

    def small(self, entry: Entry, data: Buffer, *, changed: bool) -> Row:
        """A small file that has been read."""
        if changed:
            self._report(entry.path, Changed(TORN))
        self.progress.read_bytes += len(data)
        content = self._gather.small(data) if data else NO_CONTENT
        return self._row(entry, content, changed=changed)

    def other(self, entry: Entry) -> Row:
        """What has no content: a link, a fifo, a device."""
        return self._row(self.with_xattrs(entry), NO_CONTENT, changed=False)

    def with_xattrs(self, entry: Entry) -> Entry:
        """The entry of something that is not opened, with its attributes."""
        xattrs = read_xattrs(self._source, entry)
        return entry._replace(xattrs=xattrs) if xattrs else entry

    def _row(self, entry: Entry, content: Content, *, changed: bool) -> Row:
        link = link_mark(entry)
        if link:
            self._remember(entry, content)
        recent = changed or self._is_recent(entry)
        return row_of(entry, content, link=link, recent=recent)

    # --- several names of one file ----------------------------------------------------------------

    def _by_another_name(self, entry: Entry) -> Row | None:
        """The row of a file that was read under another name in this run."""
        if entry.nlink < 2:
            return None
        key = _link_key(entry)
        found = self._linked.pop(key, None)
        if found is None:
            return None
        content, read, names_left = found
        if names_left > 1:
            self._linked[key] = content, read, names_left - 1
        entry = entry._replace(xattrs=read.xattrs)
        return row_of(entry, content, link=link_mark(entry), recent=self._is_recent(entry))

    def _remember(self, entry: Entry, content: Content) -> None:
        key = _link_key(entry)
        if key not in self._linked and len(self._linked) < limits.TREE_OWNERS_CACHED_MAX:
            self._linked[key] = content, entry, entry.nlink - 1

    # --- large files ------------------------------------------------------------------------------

    def _large(self, entry: Entry) -> Chunks:
        """Bit by bit: however long it is, little of it is in memory."""
        with open_file(self._source, entry) as file:
            extents = list[Extent]()
            yield from self._stretches(file, extents)
            changed = file.changed()
            if changed:
                self._report(entry.path, Changed(TORN))
            size = sum(extent.length for extent in extents)
            content = self._gather.cuts(extents) if size else NO_CONTENT
            return self._row(file.entry._replace(size=size), content, changed=changed)

    def _stretches(
        self, file: OpenFile, extents: list[Extent]
    ) -> Generator[list[Chunk], None, None]:
        at = 0
        for run in file.extents():
            if run.offset > at:
                extents.append(Extent(run.offset - at, HOLE))
            stretch = _Stretch(file, run.offset, run.length, self.progress)
            if run.length > limits.SMALL_FILE_BYTES_MAX:
                for extent in self._gather.large(stretch.read_into, run.length):
                    extents.append(extent)
                    if self._gather.is_full:
                        yield self._gather.take()
            elif data := stretch.read(run.length):
                extents.append(self._gather.run(data))
            if len(extents) > _EXTENTS_MAX:
                raise LimitExceeded("is in more pieces than a snapshot can name")
            at = stretch.at
        if file.entry.size > at:
            extents.append(Extent(file.entry.size - at, HOLE))

    def stream(self, entry: Entry, read: Callable[[int], bytes]) -> Chunks:
        """What comes through a pipe, as a file; its size is found out."""
        extents = list[Extent]()
        for extent in self._gather.large(filled_by(read)):
            extents.append(extent)
            self.progress.read_bytes += extent.length
            if self._gather.is_full:
                yield self._gather.take()
        size = sum(extent.length for extent in extents)
        content = self._gather.cuts(extents) if size else NO_CONTENT
        self.progress.files, self.progress.content_bytes = 1, size
        self.progress.files_new = 1
        return row_of(entry._replace(size=size), content, recent=True)


class _Stretch:
    """A stretch of a file, read in order."""

    def __init__(self, file: OpenFile, at: int, length: int, progress: Progress) -> None:
        self.at = at
        self._end = at + length
        self._file = file
        self._progress = progress

    def read(self, size: int) -> bytes:
        data = self._file.read_at(self.at, min(size, self._end - self.at))
        self._went_on(len(data))
        return data

    def read_into(self, view: memoryview) -> int:
        count = self._file.read_into(self.at, view[: self._end - self.at])
        self._went_on(count)
        return count

    def _went_on(self, count: int) -> None:
        self.at += count
        self._progress.read_bytes += count


def link_mark(entry: Entry) -> bytes:
    """What all names of one file have in common in a snapshot; empty if it has only one."""
    if entry.nlink < 2 or entry.type is EntryType.DIRECTORY:
        return b""
    return (entry.dev & (1 << 64) - 1).to_bytes(8) + entry.ino.to_bytes(8)


def _link_key(entry: Entry) -> tuple[int, int, int, int]:
    return entry.dev, entry.ino, entry.size, entry.mtime_ns
