"""From files to chunks and table: dedup, bundling, and where each byte of each file will lie.

Pure; what it makes is hashed, compressed, sealed and written elsewhere, on other threads. A chunk
gets its number when it is about to be written, by its tag. Until then files refer to it by a
provisional number, and a part of the table is encoded when all of its own are settled. One thread
puts content in and another may ask for numbers: what both touch, they touch in single steps.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from core import limits
from core.archive.table import HOLE, HOLE_BYTES_MAX, Extent, Numbers, Segment, Stored
from core.buffers import Buffers, Joined
from core.chunking import Chunker
from core.crypto import Buffer
from core.hashing import tags
from core.pieces import Chunk, Kind
from core.tree.read_batch import Plain

LARGE_FILE_BYTES = 512 * limits.KIB


@dataclass(frozen=True, slots=True)
class Job:
    """A chunk that may have to be written; files know it by this provisional number."""

    provisional: int
    kind: Kind
    data: Buffer
    tag: bytes | None  # not known yet: whoever writes the chunk may as well compute it

    def chunk(self) -> Chunk:
        """The chunk itself."""
        return Chunk.of_piece(self.kind, self.data, self.tag)


@dataclass(slots=True)
class Totals:
    """What has gone in so far."""

    entries: int = 0
    content_bytes: int = 0
    new_bytes: int = 0  # after dedup, before compression; when the table is whole


class Builder:
    """Takes files one after the other; `take_jobs` gives the chunks they became."""

    def __init__(self, chunker: Chunker, known: dict[bytes, int]) -> None:
        self.totals = Totals()
        self.jobs: list[Job] = []
        self.jobs_bytes = 0
        self.table: list[Chunk] = []
        self._chunker = chunker
        self._numbers = known  # tag of a chunk -> its number
        self._next_number = len(known)
        self._cut_bytes = 0  # that got numbers
        self._settled: array[int] = array("I")  # provisional number -> number
        self._small: dict[bytes, Numbers] = {}  # tag of a small piece -> where it lies
        self._bundle = self._provisional()
        target = limits.ARCHIVE_BUNDLE_BYTES_TARGET
        self._bundled = Joined(Buffers(target), target)
        self._bundle_tag = b""  # of the piece that came last
        self._segment = Segment()
        self._unsettled: list[Segment] = []

    # --- content --------------------------------------------------------------------------------

    def small(self, data: Buffer) -> Extent:
        """Put a small content in; the same content lies in one place only."""
        return Extent(*self.smalls((data,))[0])

    def smalls(self, contents: Sequence[Buffer]) -> list[Numbers]:
        """Put several in."""
        extents, known, bundled = list[Numbers](), self._small, self._bundled
        for tag, data in zip(tags(Kind.SMALL_FILE, contents), contents, strict=True):
            extent = known.get(tag)
            if extent is None:
                size, at = len(data), bundled.size
                full = at + size > limits.ARCHIVE_BUNDLE_BYTES_TARGET
                if full or bundled.count >= limits.BUNDLE_PIECES_MAX:
                    self._close_bundle()
                    at = 0
                self._bundle_tag = tag
                extent = known[tag] = (self._bundle, at, size)
                bundled.add(data)
                self.totals.new_bytes += size
            extents.append(extent)
        return extents

    def large(
        self, read_into: Callable[[memoryview], int], size: int | None = None
    ) -> Iterator[Extent]:
        """Put a stream in, cut by content; the caller takes jobs while it goes on."""
        for piece in self._chunker.split(read_into, size):
            provisional = self._provisional()
            self._job(provisional, Kind.CUT, piece, None)
            yield Extent(provisional, 0, len(piece))

    @staticmethod
    def hole(size: int) -> list[Extent]:
        """A run of zeros that takes no room."""
        whole, rest = divmod(size, HOLE_BYTES_MAX)
        sizes = [HOLE_BYTES_MAX] * whole + ([rest] if rest else [])
        return [Extent(HOLE, 0, size) for size in sizes]

    # --- the table ------------------------------------------------------------------------------

    def entry(self, stored: Stored) -> None:
        """Put a line into the table; its extents are those the calls above gave."""
        self._segment.add(stored)
        self._added(1, stored.entry.size if stored.link is None else 0)

    def plain(self, found: Plain) -> None:
        """Put files and directories in that there is nothing special about, contents and lines."""
        count = len(found.paths)
        if count > 1 and not self._segment.has_room_for(found.paths):
            self.plain(found.part(0, count // 2))
            self.plain(found.part(count // 2, count))
            return
        extents = self.smalls([data for data in found.contents if data])
        self._segment.add_rows(found.paths, found.rows, extents)
        self._added(count, found.bytes)

    def _added(self, count: int, content_bytes: int) -> None:
        self.totals.entries += count
        self.totals.content_bytes += content_bytes
        if self._segment.full:
            self._unsettled.append(self._segment)
            self._segment = Segment()
            self._encode_settled()

    def finish(self) -> None:
        """Close what is open: the last jobs are there afterwards."""
        self._close_bundle()
        if len(self._segment):
            self._unsettled.append(self._segment)
            self._segment = Segment()
        self._encode_settled()

    def whole_table(self) -> list[Chunk]:
        """The table, when it is finished and every chunk has its number."""
        self._encode_settled()
        assert not self._unsettled
        self.totals.new_bytes += self._cut_bytes
        self._cut_bytes = 0
        return self.table

    def take_jobs(self) -> list[Job]:
        """The chunks made since the last call."""
        jobs, self.jobs, self.jobs_bytes = self.jobs, [], 0
        return jobs

    # --- numbers --------------------------------------------------------------------------------

    def is_known(self, tag: bytes) -> bool:
        """Whether a chunk of this tag has its number: nobody need compress it again."""
        return tag in self._numbers

    def number_of(self, job: Job, tag: bytes) -> int | None:
        """The number under which the job is to be written; None if its content is there already.

        Asked once for each job, in the order they came.
        """
        number = self._numbers.get(tag)
        if number is not None:
            self._settled[job.provisional] = number
            return None
        number = self._numbers[tag] = self._settled[job.provisional] = self._next_number
        self._next_number += 1
        if job.kind is Kind.CUT:
            self._cut_bytes += len(job.data)
        return number

    def _provisional(self) -> int:
        self._settled.append(HOLE)
        return len(self._settled) - 1

    def _job(self, provisional: int, kind: Kind, data: Buffer, tag: bytes | None) -> None:
        self.jobs.append(Job(provisional, kind, data, tag))
        self.jobs_bytes += len(data)

    def _close_bundle(self) -> None:
        count, data = self._bundled.count, self._bundled.take()
        if not count:
            return
        if count == 1:
            self._job(self._bundle, Kind.SMALL_FILE, data, self._bundle_tag)
        else:
            self._job(self._bundle, Kind.BUNDLE, data, None)
        self._bundle = self._provisional()

    def _encode_settled(self) -> None:
        while self._unsettled:
            segment, settled = self._unsettled[0], self._settled
            numbers = array("I", [HOLE if c == HOLE else settled[c] for c in segment.chunks])
            if numbers.count(HOLE) > segment.chunks.count(HOLE):
                return  # a chunk has no number yet
            data = replace(segment, chunks=numbers).encode()
            self.table.append(Chunk.of_piece(Kind.FILE_TABLE, data))
            del self._unsettled[0]
