"""New pieces on their way into a vault: asked whether they are known, bundled, cut, listed."""

from collections.abc import Callable, Iterable, Iterator

from core import limits
from core.chunking import Chunker
from core.crypto import Buffer
from core.hashing import tag as tag_of
from core.pieces import Bundler, Chunk, Kind
from portal.manifest import Content, Extent, Form, Row, encode_extents, encode_part, split_parts

Known = Callable[[Kind, bytes], bool]


class Gather:
    """Takes contents and gives chunks; `chunks` are to be taken whenever `is_full`.

    Directories and files go into different bundles: who looks through a snapshot opens no contents.
    """

    def __init__(self, known: Known, chunker: Chunker) -> None:
        self.new_bytes = 0
        self._known = known
        self._chunker = chunker
        self._chunks: list[Chunk] = []
        self._chunks_bytes = 0
        self._files = Bundler()
        self._lists = Bundler()

    @property
    def is_full(self) -> bool:
        """Whether there are enough chunks to be worth a trip to other threads."""
        return self._chunks_bytes >= limits.THREAD_HOP_BYTES

    def take(self) -> list[Chunk]:
        """The chunks there are now."""
        chunks, self._chunks, self._chunks_bytes = self._chunks, [], 0
        return chunks

    def finish(self) -> list[Chunk]:
        """The last ones."""
        self._close(self._files)
        self._close(self._lists)
        return self.take()

    # --- contents -------------------------------------------------------------------------------

    def small(self, data: Buffer) -> Content:
        """A small file."""
        return Content(Form.SMALL, self._small(self._files, Kind.SMALL_FILE, data))

    def large(
        self, read_into: Callable[[memoryview], int], size: int | None = None
    ) -> Iterator[Extent]:
        """A stream, cut; the caller takes chunks while it goes on."""
        for piece in self._chunker.split(read_into, size):
            tag = tag_of(Kind.CUT, piece)
            if not self._known(Kind.CUT, tag):
                self._put(Chunk.of_piece(Kind.CUT, piece, tag))
                self.new_bytes += len(piece)
            yield Extent(len(piece), tag)

    def run(self, data: Buffer) -> Extent:
        """A short stretch of a file with holes: no file of its own, but as small as one."""
        return Extent(len(data), self._small(self._files, Kind.CUT, data))

    def cuts(self, extents: list[Extent]) -> Content:
        """What names a file of these stretches: the list itself, or lists of it."""
        if len(extents) <= limits.CUT_LIST_EXTENTS_MAX:
            return Content(Form.CUTS, encode_extents(extents))
        step = limits.CUT_LIST_EXTENTS_MAX
        upper = []
        for at in range(0, len(extents), step):
            below = extents[at : at + step]
            tag = self._small(self._lists, Kind.CUT_LIST, encode_extents(below))
            upper.append(Extent(sum(extent.length for extent in below), tag))
        return Content(Form.CUT_LISTS, encode_extents(upper))

    def part(self, rows: list[Row]) -> bytes:
        """A piece of a directory; gives its tag."""
        return self._small(self._lists, Kind.DIRECTORY, encode_part(rows))

    def directory(self, parts: list[bytes]) -> Content:
        """What names a directory of these pieces."""
        step = limits.SNAPSHOT_CONTENT_BYTES_MAX // limits.HASH_BYTES // 2
        if len(parts) <= step:
            return Content(Form.PARTS, b"".join(parts))
        upper = [
            self._small(self._lists, Kind.CUT_LIST, b"".join(parts[at : at + step]))
            for at in range(0, len(parts), step)
        ]
        return Content(Form.PART_LISTS, b"".join(upper))

    def directory_of(self, rows: Iterable[Row]) -> Content:
        """The same from its rows."""
        return self.directory([self.part(part) for part in split_parts(rows)])

    def record(self, data: bytes) -> None:
        """The record of the snapshot itself, so that it can be found without a head."""
        self._small(self._lists, Kind.SNAPSHOT, data)

    # --- how ------------------------------------------------------------------------------------

    def _small(self, bundler: Bundler, kind: Kind, data: Buffer) -> bytes:
        tag = tag_of(kind, data)
        if self._known(kind, tag):
            return tag
        if not bundler.fits(len(data)):
            self._close(bundler)
        bundler.add(kind, data, tag)
        self.new_bytes += len(data)
        return tag

    def _close(self, bundler: Bundler) -> None:
        chunk = bundler.take()
        if chunk is not None:
            self._put(chunk)

    def _put(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._chunks_bytes += len(chunk.data)
