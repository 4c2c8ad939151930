"""Taking files out of an archive: chunk by chunk, opened on every core, put in place by one thread.

Files that lie whole in one chunk are taken together when it is open, and those of the next chunk
are taken while they are being written; files of several chunks come one after the other. What
cannot be restored is reported and the rest goes on.
"""

import errno
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from core import limits
from core.archive.reader import ArchiveReader
from core.archive.table import HOLE, Extent, Segment, Stored
from core.errors import FormatError, IntegrityError, PortalError
from core.flow import Flow
from core.tree.entry import Entry, EntryType, Report
from core.tree.matching import Select, everything
from core.tree.restore import Target
from core.tree.writer import FileWriter

_Files = list[tuple[Entry, memoryview]]

_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


@dataclass(slots=True)
class Restored:
    """What was done, and is being done."""

    entries: int = 0
    content_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """What one chunk gives to one file, or nothing but the file's beginning or end."""

    stored: Stored
    extent: Extent
    offset: int  # in the file
    first: bool = True
    last: bool = True


@dataclass(slots=True)
class Job:
    """A chunk to open and the parts of files in it. Without a chunk: names that need none."""

    chunk: int
    parts: list[Part]
    data: memoryview | None = None
    error: PortalError | None = None


class Extraction:
    """One run: `extract()`, once; `restored` may be looked at meanwhile."""

    def __init__(
        self,
        reader: ArchiveReader,
        target: Target,
        report: Report,
        select: Select = everything,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.restored = Restored()
        self._reader = reader
        self._target = target
        self._report = report
        self._select = select
        self._watch = watch
        self._links: list[Stored] = []
        self._linked_to: dict[bytes, Stored | None] = {}
        self._open: FileWriter | None = None
        self._under_way = deque[tuple[_Files, Iterator[bool | OSError | PortalError]]]()

    def extract(self, threads: int | None = None) -> None:
        """Restore everything that is selected; hard links come last, when their files are there."""
        for segment in self._reader.segments_untrusted():
            self._linked_to |= dict.fromkeys(segment.link_targets(), None)
        try:
            Flow(
                self._jobs(),
                self._opened,
                self._write,
                size_of=self._size_of,
                threads=threads,
            ).run()
            self._await_written()
            for stored in self._links:
                self._each(stored.entry, partial(self._link, stored))
        finally:
            self._end()

    def _end(self) -> None:
        """Directories get their metadata when nothing is written into them any more."""
        if self._open is not None:
            self._open.discard()
        try:
            self._await_written()
        finally:
            self._target.finish()

    # --- what to do -----------------------------------------------------------------------------

    def _jobs(self) -> Iterator[list[Job]]:
        for segment in self._reader.segments_untrusted():
            yield from self._jobs_of(segment)

    def _jobs_of(self, segment: Segment) -> Iterator[list[Job]]:
        bare, whole, long = list[Part](), list[Part](), list[Stored]()
        for stored in segment.entries_untrusted():
            entry = stored.entry
            if entry.path in self._linked_to:
                stored = stored._replace(entry=entry._replace(nlink=2))  # noqa: PLW2901
                self._linked_to[entry.path] = stored
            if not self._select(entry.path):
                continue
            if stored.link is not None:
                self._links.append(stored)
            elif len(stored.extents) == 1 and stored.extents[0].chunk != HOLE:
                whole.append(Part(stored, stored.extents[0], 0))
            elif stored.extents:
                long.append(stored)
            else:
                bare.append(Part(stored, Extent(HOLE, 0, 0), 0))
        yield [Job(HOLE, bare)]
        whole.sort(key=lambda part: part.extent.chunk)
        for chunk, parts in groupby(whole, key=lambda part: part.extent.chunk):
            yield [Job(chunk, list(parts))]
        for stored in long:
            yield from ([Job(part.extent.chunk, [part])] for part in _parts_of(stored))

    def _size_of(self, job: Job) -> int:
        if job.chunk == HOLE:
            return 0
        try:
            return self._reader.index.entry_untrusted(job.chunk).plain_len
        except FormatError:
            return 0  # opening it will say why

    def _opened(self, job: Job) -> Job:
        if job.chunk != HOLE:
            try:
                job.data = self._reader.chunk_untrusted(job.chunk)
            except (FormatError, IntegrityError) as e:
                job.error = e
        return job

    # --- doing it -------------------------------------------------------------------------------

    def _write(self, job: Job) -> None:
        files: _Files = []
        for part in job.parts:
            self._each(part.stored.entry, partial(self._part, job, part, files))
            self._watch()
        if files:
            self._under_way.append((files, self._target.small_files_later(files)))
            self._await_written(limits.RESTORE_JOBS_WRITTEN_MAX)

    def _await_written(self, left: int = 0) -> None:
        """Draw what came of small files that are being written, but for the last few chunks."""
        while len(self._under_way) > left:
            files, results = self._under_way.popleft()
            for (entry, _), done in zip(files, results, strict=True):
                if done is True:
                    self.restored.entries += 1
                elif done is not False:
                    self._went_wrong(entry, done)
                self._watch()

    def _each(self, entry: Entry, work: Callable[[], bool]) -> None:
        """One entry; its faults are reported, the machine's end the run."""
        try:
            if work():
                self.restored.entries += 1
        except (OSError, PortalError) as e:
            self._went_wrong(entry, e)

    def _went_wrong(self, entry: Entry, error: OSError | PortalError) -> None:
        if isinstance(error, OSError) and error.errno in _FATAL:
            raise error
        self._report(entry.path, error)

    def _part(self, job: Job, part: Part, files: _Files) -> bool:
        """Whether it is restored now; a file that is whole joins `files`, to be written soon."""
        entry = part.stored.entry
        data = memoryview(b"")
        if job.error is not None:
            self._give_up(part)
            raise job.error
        if job.data is not None:
            try:
                data = self._reader.part_untrusted(job.data, part.extent)
            except FormatError:
                self._give_up(part)
                raise
        self.restored.content_bytes += len(data)
        if entry.type is not EntryType.FILE:
            return self._bare(entry)
        if part.first and part.last and len(data) == entry.size:
            files.append((entry, data))
            return False
        return self._long_part(part, data)

    def _bare(self, entry: Entry) -> bool:
        if entry.type is EntryType.DIRECTORY:
            return self._target.directory(entry)
        if entry.type is EntryType.SYMLINK:
            return self._target.symlink(entry)
        return self._target.special(entry)

    def _long_part(self, part: Part, data: memoryview) -> bool:
        if part.first:
            self._open = self._target.file(part.stored.entry)
        writer = self._open
        if writer is None or writer.entry.path != part.stored.entry.path:
            return False  # what is there wins, or it was given up
        try:
            if len(data):
                writer.write_at(part.offset, data)
            if not part.last:
                return False
            self._open = None
            return writer.publish()
        except BaseException:
            self._give_up(part)
            raise

    def _give_up(self, part: Part) -> None:
        if self._open is not None and self._open.entry.path == part.stored.entry.path:
            self._open.discard()
            self._open = None

    def _link(self, stored: Stored) -> bool:
        """Another name; where it cannot be linked the content is restored once more."""
        assert stored.link is not None
        first = self._linked_to.get(stored.link)
        if first is None or first.link is not None:
            raise FormatError("a hard link to what the archive does not hold")
        if self._select(stored.link):
            try:
                return self._target.link(stored.entry, stored.link)
            except OSError as e:
                if e.errno not in {errno.EXDEV, errno.EMLINK, errno.EPERM}:
                    raise
        return self._copy(first._replace(entry=first.entry._replace(path=stored.entry.path)))

    def _copy(self, stored: Stored) -> bool:
        if not stored.extents and stored.entry.type is not EntryType.FILE:
            return self._bare(stored.entry)
        writer = self._target.file(stored.entry)
        if writer is None:
            return False
        with writer:
            for part in _parts_of(stored):
                if part.extent.chunk != HOLE:
                    writer.write_at(part.offset, self._reader.extent_untrusted(part.extent))
        return writer.published


def _parts_of(stored: Stored) -> Iterator[Part]:
    offset = 0
    final = len(stored.extents) - 1
    for number, extent in enumerate(stored.extents):
        yield Part(stored, extent, offset, number == 0, number == final)
        offset += extent.length
