"""Making an archive of trees: walk, read, cut or bundle, compress, seal and write, all at once."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from core import limits
from core.archive.builder import Builder, Job, Totals
from core.archive.keys import Opener
from core.archive.table import HOLE_BYTES_MAX, Extent, Stored
from core.archive.tar_intake import TarIntake, bare
from core.archive.writer import ArchiveWriter
from core.chunking import DEFAULT_ARCHIVE, Chunker, params_untrusted
from core.compress import Mode
from core.crypto import Buffer
from core.errors import LimitExceeded, PortalError
from core.flow import Flow
from core.seal import Frame
from core.tree.content import Extent as Run
from core.tree.content import Small, open_file, read_small, read_xattrs
from core.tree.entry import Changed, Entry, EntryType, Report
from core.tree.read_batch import Plain, read_ahead
from core.tree.source import Root, Source
from core.tree.stretch import Stretch
from core.tree.walk import Exclude, LinkGroups, nothing, walk

LARGE_FILE_BYTES = 512 * limits.KIB
_FILES_PER_LOOK = 32  # at the progress: looking costs as much as a small file
_TORN = "changed while it was read; its content may be torn"
_Prepared = tuple[Job, bytes, Frame | None, Sequence[Buffer]]
_Jobs = Callable[[Builder, set[tuple[int, int]]], Iterator[list[Job]]]


class _Readable(Protocol):
    """A file whose parts are read in order."""

    entry: Entry  # with the length it turned out to have

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes at this offset, fewer only at the end."""

    def read_into(self, offset: int, view: memoryview) -> int:
        """Put bytes from this offset there; how many, 0 at the end."""


@dataclass(slots=True)
class Progress:
    """What a person watching wants to know; written by one thread, read by another."""

    files: int = 0
    read_bytes: int = 0
    total_bytes: int = 0  # to be read in all, once the walk has seen everything; 0 until then
    stored_bytes: int = 0
    now: bytes = b""


@dataclass(frozen=True, slots=True)
class Options:
    """How an archive is to be made."""

    opener: Opener | None = None
    mode: Mode = Mode.AUTO
    threads: int | None = None
    resume: bool = False
    exclude: Exclude = nothing
    one_file_system: bool = False


@dataclass(slots=True)
class Made:
    """What was made."""

    totals: Totals
    archive_bytes: int = 0


class Creation:
    """One run: `create(path, roots)`; `progress` may be looked at meanwhile."""

    def __init__(
        self, options: Options, report: Report, watch: Callable[[], None] = lambda: None
    ) -> None:
        self.progress = Progress()
        self._watch = watch
        self._options = options
        self._report = report
        self._awaited_bytes = 0  # of what the walk has seen, and whose turn has not come
        self._is_all_seen = False

    def create(self, path: Path, roots: Sequence[Root]) -> Made:
        """Make the archive. Interrupted, it leaves what `resume` can use, under another name."""
        with Source(roots, self._report) as source:
            return self._make(path, partial(self._jobs, source))

    def create_from_tar(self, path: Path, read: Callable[[int], bytes]) -> Made:
        """Make the archive of what a tar stream holds.

        `read` gives as many bytes as it is asked for, fewer only at the end of the stream.
        """
        return self._make(path, partial(self._jobs_of_tar, read))

    def _make(self, path: Path, jobs_of: _Jobs) -> Made:
        options = self._options
        writer = ArchiveWriter(path, options.opener, options.mode)
        try:
            known = writer.resume(options.opener) if options.resume else writer.begin()
            try:
                return self._fill(writer, Builder(_chunker(writer), known), jobs_of)
            except BaseException:
                if writer.is_empty:  # nothing to go on with
                    writer.discard()
                raise
        finally:
            writer.close()

    def _fill(self, writer: ArchiveWriter, builder: Builder, jobs_of: _Jobs) -> Made:
        Flow(
            jobs_of(builder, writer.own_files()),
            lambda job: self._prepare(writer, builder, job),
            lambda prepared: self._write(writer, builder, *prepared),
            size_of=lambda job: len(job.data),
            threads=self._options.threads,
        ).run()
        table = [writer.frame(chunk) for chunk in builder.whole_table()]
        totals = builder.totals
        size = writer.finish(table, totals.entries, totals.content_bytes)
        return Made(totals, size)

    @staticmethod
    def _prepare(writer: ArchiveWriter, builder: Builder, job: Job) -> _Prepared:
        chunk = job.chunk()
        if builder.is_known(chunk.tag):
            return job, chunk.tag, None, ()
        frame = writer.frame(chunk)
        return job, chunk.tag, frame, writer.stored(frame)

    def _write(
        self,
        writer: ArchiveWriter,
        builder: Builder,
        job: Job,
        tag: bytes,
        frame: Frame | None,
        stored: Sequence[Buffer],
    ) -> None:
        number = builder.number_of(job, tag)
        if number is not None:  # an equal one may have come while this one was prepared
            assert frame is not None
            self.progress.stored_bytes += writer.write(number, frame, stored)

    def _jobs(
        self, source: Source, builder: Builder, own_files: set[tuple[int, int]]
    ) -> Iterator[list[Job]]:
        """The chunks of everything, a few MiB at a time."""
        options, links = self._options, LinkGroups()
        found = walk(
            source,
            exclude=options.exclude,
            own=own_files,
            one_file_system=options.one_file_system,
            small_bytes_max=LARGE_FILE_BYTES - 1,
        )
        for part in read_ahead(source, self._seen(found)):
            if self._is_all_seen:
                self.progress.total_bytes = self.progress.read_bytes + self._awaited_bytes
            if isinstance(part, Plain):
                self._plain(builder, part)
            else:
                self._awaited_bytes -= part.size
                yield from self._alone(source, builder, links, part)
            if builder.jobs_bytes >= limits.THREAD_HOP_BYTES:
                yield builder.take_jobs()
        builder.finish()
        yield builder.take_jobs()

    def _seen(self, found: Iterator[Stretch | Entry]) -> Iterator[Stretch | Entry]:
        """The same, counting what is still to be read."""
        for part in found:
            self._awaited_bytes += part.bytes if isinstance(part, Stretch) else part.size
            yield part
        self._is_all_seen = True

    def _plain(self, builder: Builder, found: Plain) -> None:
        self._awaited_bytes -= found.bytes
        self.progress.read_bytes += found.bytes
        builder.plain(found)
        self._came(len(found.paths), found.paths[-1])

    def _alone(
        self, source: Source, builder: Builder, links: LinkGroups, entry: Entry
    ) -> Generator[list[Job], None, None]:
        """What is not as most are: it is read by itself, or needs no reading."""
        first = links.first_of(entry) if entry.nlink > 1 else None
        try:
            if first is not None:
                stored = Stored(entry, (), first)
            elif entry.type is not EntryType.FILE:
                stored = Stored(entry._replace(xattrs=read_xattrs(source, entry)))
            elif entry.size >= LARGE_FILE_BYTES:
                stored = yield from self._large(source, builder, entry)
            else:
                stored = self._small(builder, read_small(source, entry))
        except (OSError, PortalError) as e:
            if first is None:
                links.forget(entry)
            self._report(entry.path, e)
        else:
            if entry.nlink > 1 and stored.entry.hard_link != entry.hard_link:
                links.forget(entry)  # another file has taken this name
            self._take_in(builder, stored)

    def _jobs_of_tar(
        self, read: Callable[[int], bytes], builder: Builder, _own_files: set[tuple[int, int]]
    ) -> Iterator[list[Job]]:
        """The chunks of what comes in a tar stream."""
        intake = TarIntake(read, self._options.exclude, self._report)
        for member in intake.members_untrusted():
            stored = bare(member)
            if stored is None:
                content = intake.content(member)
                stored = yield from self._content(builder, content, member.extents)
            self._take_in(builder, stored)
            if builder.jobs_bytes >= limits.THREAD_HOP_BYTES:
                yield builder.take_jobs()
        builder.finish()
        yield builder.take_jobs()

    def _take_in(self, builder: Builder, stored: Stored) -> None:
        builder.entry(stored)
        self._came(1, stored.entry.path)

    def _came(self, count: int, latest: bytes) -> None:
        looks = self.progress.files // _FILES_PER_LOOK
        self.progress.files += count
        self.progress.now = latest
        if self.progress.files // _FILES_PER_LOOK > looks:
            self._watch()

    def _small(self, builder: Builder, small: Small) -> Stored:
        if small.changed:
            self._report(small.entry.path, Changed(_TORN))
        self.progress.read_bytes += len(small.data)
        extents = (builder.small(small.data),) if small.data else ()
        return Stored(small.entry, extents)

    def _large(
        self, source: Source, builder: Builder, entry: Entry
    ) -> Generator[list[Job], None, Stored]:
        """A file bit by bit: however long it is, little of it is in memory."""
        with open_file(source, entry) as file:
            stored = yield from self._content(builder, file, file.extents())
            if file.changed():
                self._report(entry.path, Changed(_TORN))
            return stored

    def _content(
        self, builder: Builder, file: _Readable, runs: Iterable[Run]
    ) -> Generator[list[Job], None, Stored]:
        """Put a file in that may have holes; one that ends early is as long as what was there."""
        extents, at = list[Extent](), 0
        if file.entry.size // HOLE_BYTES_MAX > limits.ARCHIVE_FILE_EXTENTS_MAX:
            raise LimitExceeded("too long for one archive")
        for run in runs:
            extents += builder.hole(run.offset - at)
            reader = _Run(file, run.offset, run.length, self.progress)
            if run.length >= LARGE_FILE_BYTES:
                for extent in builder.large(reader.read_into, run.length):
                    extents.append(extent)
                    if len(extents) > limits.ARCHIVE_FILE_EXTENTS_MAX:
                        raise LimitExceeded("too long for one archive")
                    if builder.jobs_bytes >= limits.THREAD_HOP_BYTES:
                        self._watch()
                        yield builder.take_jobs()
            elif data := reader.read(run.length):
                extents.append(builder.small(data))
                if builder.jobs_bytes >= limits.THREAD_HOP_BYTES:
                    self._watch()
                    yield builder.take_jobs()
            at = reader.at
        extents += builder.hole(max(0, file.entry.size - at))
        size = sum(extent.length for extent in extents)
        return Stored(file.entry._replace(size=size), tuple(extents))


class _Run:
    """A stretch of a file as a stream."""

    def __init__(self, file: _Readable, at: int, length: int, progress: Progress) -> None:
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


def _chunker(writer: ArchiveWriter) -> Chunker:
    return Chunker(params_untrusted(DEFAULT_ARCHIVE), writer.chunker_key)
