"""From files to chunks and table: dedup, bundling, and where each byte of each file will lie.

Pure and single-threaded; what it makes is compressed, sealed and written elsewhere. A chunk gets
its number when its tag is known, which for a bundle is when it is full: until then files refer to
it by a provisional number, and a part of the table is encoded when all of its own are settled.
"""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from core import limits
from core.archive.table import HOLE, HOLE_BYTES_MAX, Extent, Segment, Stored
from core.buffers import Buffers, Joined
from core.chunking import Chunker
from core.crypto import Buffer
from core.hashing import tag as tag_of
from core.pieces import Chunk, Kind

LARGE_FILE_BYTES = 512 * limits.KIB


@dataclass(frozen=True, slots=True)
class Job:
    """A chunk that is to be written under this number."""

    number: int
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
    new_bytes: int = 0  # after dedup, before compression


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
        self._settled: array[int] = array("I")  # provisional number -> number
        self._is_resumed = bool(known)
        self._small: dict[bytes, Extent] = {}  # tag of a small piece -> where it lies
        self._bundle = self._provisional()
        target = limits.ARCHIVE_BUNDLE_BYTES_TARGET
        self._bundled = Joined(Buffers(target), target)
        self._bundle_tag = b""  # of the piece that came last
        self._segment = Segment()
        self._unsettled: list[Segment] = []

    # --- content --------------------------------------------------------------------------------

    def small(self, data: Buffer) -> Extent:
        """Put a small content in; the same content lies in one place only."""
        tag = tag_of(Kind.SMALL_FILE, data)
        found = self._small.get(tag)
        if found is not None:
            return found
        size = len(data)
        full = self._bundled.size + size > limits.ARCHIVE_BUNDLE_BYTES_TARGET
        if full or self._bundled.count >= limits.BUNDLE_PIECES_MAX:
            self._close_bundle()
        self._bundle_tag = tag
        extent = self._small[tag] = Extent(self._bundle, self._bundled.size, size)
        self._bundled.add(data)
        self.totals.new_bytes += size
        return extent

    def large(
        self, read_into: Callable[[memoryview], int], size: int | None = None
    ) -> Iterator[Extent]:
        """Put a stream in, cut by content; the caller takes jobs while it goes on."""
        for piece in self._chunker.split(read_into, size):
            tag = tag_of(Kind.CUT, piece)
            number = self._numbers.get(tag)
            if number is None:
                number = self._job(Kind.CUT, piece, tag)
                self.totals.new_bytes += len(piece)
            yield Extent(self._provisional(number), 0, len(piece))

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
        self.totals.entries += 1
        if stored.link is None:
            self.totals.content_bytes += stored.entry.size
        if self._segment.full:
            self._unsettled.append(self._segment)
            self._segment = Segment()
            self._encode_settled()

    def finish(self) -> None:
        """Close what is open: the last jobs and the whole table are there afterwards."""
        self._close_bundle()
        if len(self._segment):
            self._unsettled.append(self._segment)
            self._segment = Segment()
        self._encode_settled()
        assert not self._unsettled

    def take_jobs(self) -> list[Job]:
        """The chunks made since the last call."""
        jobs, self.jobs, self.jobs_bytes = self.jobs, [], 0
        return jobs

    # --- numbers --------------------------------------------------------------------------------

    def _provisional(self, number: int = HOLE) -> int:
        """A provisional number, settled at once if the number is known."""
        self._settled.append(number)
        return len(self._settled) - 1

    def _job(self, kind: Kind, data: Buffer, tag: bytes | None) -> int:
        number = self._next_number
        self._next_number += 1
        if tag is not None:
            self._numbers[tag] = number
        self.jobs.append(Job(number, kind, data, tag))
        self.jobs_bytes += len(data)
        return number

    def _close_bundle(self) -> None:
        count, data = self._bundled.count, self._bundled.take()
        if not count:
            return
        if count == 1:
            number = self._bundle_number(Kind.SMALL_FILE, data, self._bundle_tag)
        else:
            # Two bundles of one run cannot be equal, since no piece is in both.
            tag = tag_of(Kind.BUNDLE, data) if self._is_resumed else None
            number = self._bundle_number(Kind.BUNDLE, data, tag)
        self._settled[self._bundle] = number
        self._bundle = self._provisional()

    def _bundle_number(self, kind: Kind, data: Buffer, tag: bytes | None) -> int:
        number = self._numbers.get(tag) if tag is not None else None
        return self._job(kind, data, tag) if number is None else number

    def _encode_settled(self) -> None:
        while self._unsettled:
            segment, settled = self._unsettled[0], self._settled
            numbers = [HOLE if c == HOLE else settled[c] for c in segment.chunks]
            if self._bundle_is_open_in(segment):
                return
            data = replace(segment, chunks=array("I", numbers)).encode()
            self.table.append(Chunk.of_piece(Kind.FILE_TABLE, data))
            del self._unsettled[0]

    def _bundle_is_open_in(self, segment: Segment) -> bool:
        return bool(self._bundled.size) and self._bundle in segment.chunks
