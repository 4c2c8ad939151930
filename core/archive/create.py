"""Making an archive of trees: walk, read, cut or bundle, compress, seal and write, all at once."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core import limits
from core.archive.builder import Builder, Job, Totals
from core.archive.keys import Opener
from core.archive.table import Extent, Stored
from core.archive.writer import ArchiveWriter
from core.chunking import DEFAULT_ARCHIVE, Chunker, params_untrusted
from core.compress import Mode
from core.crypto import Buffer
from core.errors import LimitExceeded, PortalError
from core.pipeline import flow
from core.seal import Frame
from core.tree.content import Small, open_file, read_small, read_xattrs
from core.tree.entry import Changed, Entry, EntryType, Report
from core.tree.read_batch import Read, read_ahead
from core.tree.source import Root, Source
from core.tree.walk import Exclude, LinkGroups, nothing, walk

LARGE_FILE_BYTES = 512 * limits.KIB
_TORN = "changed while it was read; its content may be torn"
_Written = tuple[int, Frame, Sequence[Buffer]]


@dataclass(slots=True)
class Progress:
    """What a person watching wants to know; written by one thread, read by another."""

    files: int = 0
    read_bytes: int = 0
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
    """One run: `await create(path, roots)`; `progress` may be looked at meanwhile."""

    def __init__(
        self, options: Options, report: Report, watch: Callable[[], None] = lambda: None
    ) -> None:
        self.progress = Progress()
        self._watch = watch
        self._options = options
        self._report = report

    async def create(self, path: Path, roots: Sequence[Root]) -> Made:
        """Make the archive. Interrupted, it leaves what `resume` can use, under another name."""
        options = self._options
        writer = ArchiveWriter(path, options.opener, options.mode)
        try:
            known = writer.resume(options.opener) if options.resume else writer.begin()
            builder = Builder(_chunker(writer), known)
            with Source(roots, self._report) as source:
                await flow(
                    self._jobs(source, builder, writer.own_files()),
                    lambda job: self._store(writer, job),
                    lambda done: self._write(writer, done),
                    size_of=lambda job: len(job.chunk.data),
                    threads=options.threads,
                )
            table = [writer.frame(chunk) for chunk in builder.table]
            totals = builder.totals
            size = writer.finish(table, totals.entries, totals.content_bytes)
        finally:
            writer.close()
        return Made(totals, size)

    def _store(self, writer: ArchiveWriter, job: Job) -> _Written:
        frame = writer.frame(job.chunk)
        return job.number, frame, writer.stored(frame)

    def _write(self, writer: ArchiveWriter, done: _Written) -> None:
        self.progress.stored_bytes += writer.write(*done)

    def _jobs(
        self, source: Source, builder: Builder, own_files: set[tuple[int, int]]
    ) -> Iterator[list[Job]]:
        """The chunks of everything, a few MiB at a time."""
        options, links = self._options, LinkGroups()
        entries = walk(source, exclude=options.exclude, one_file_system=options.one_file_system)
        kept = (entry for entry in entries if (entry.dev, entry.ino) not in own_files)
        for entry, small in read_ahead(source, kept, _is_small):
            first = links.first_of(entry)
            try:
                if first is not None:
                    stored = Stored(entry, (), first)
                elif small is not None:
                    stored = self._small(builder, small)
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
                continue
            builder.entry(stored)
            self.progress.files += 1
            self.progress.now = entry.path
            self._watch()
            if builder.jobs_bytes >= limits.THREAD_HOP_BYTES:
                yield builder.take_jobs()
        builder.finish()
        yield builder.take_jobs()

    def _small(self, builder: Builder, small: Read) -> Stored:
        if not isinstance(small, Small):
            raise small
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
            extents, at = list[Extent](), 0
            for run in file.extents():
                extents += builder.hole(run.offset - at)
                reader = _Run(file.read_at, run.offset, run.length, self.progress)
                if run.length >= LARGE_FILE_BYTES:
                    for extent in builder.large(reader.read):
                        extents.append(extent)
                        if len(extents) > limits.ARCHIVE_FILE_EXTENTS_MAX:
                            raise LimitExceeded("too long for one archive")
                        if builder.jobs_bytes >= limits.THREAD_HOP_BYTES:
                            self._watch()
                            yield builder.take_jobs()
                elif data := reader.read(run.length):
                    extents.append(builder.small(data))
                at = reader.at
            extents += builder.hole(max(0, file.entry.size - at))
            if file.changed():
                self._report(entry.path, Changed(_TORN))
            size = sum(extent.length for extent in extents)
            return Stored(file.entry._replace(size=size), tuple(extents))


def _is_small(entry: Entry) -> bool:
    """Whether to read it ahead. Not if it has several names: its turn may never come."""
    is_file = entry.type is EntryType.FILE and entry.nlink == 1
    return is_file and entry.size < LARGE_FILE_BYTES


class _Run:
    """A stretch of a file as a stream."""

    def __init__(
        self, read_at: Callable[[int, int], bytes], at: int, length: int, progress: Progress
    ) -> None:
        self.at = at
        self._end = at + length
        self._read_at = read_at
        self._progress = progress

    def read(self, size: int) -> bytes:
        data = self._read_at(self.at, min(size, self._end - self.at))
        self.at += len(data)
        self._progress.read_bytes += len(data)
        return data


def _chunker(writer: ArchiveWriter) -> Chunker:
    return Chunker(params_untrusted(DEFAULT_ARCHIVE), writer.chunker_key)
