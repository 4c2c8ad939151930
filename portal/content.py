"""The bytes of a file in a snapshot, any part of them (portal/SPEC.md, Reading snapshots).

Only the chunks that are asked for are opened, and every piece is checked against its tag. Lists of
cuts are read as they are needed: a file of any length takes little memory.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate

from core import limits
from core.crypto import Buffer
from core.errors import FormatError, IntegrityError, UsageError
from core.hashing import tag as tag_of
from core.pieces import Kind
from core.tree.content import open_file as open_on_disk
from core.tree.entry import Changed, Entry
from core.tree.paths import shown
from core.tree.source import Source
from portal.manifest import HOLE, Content, Extent, Form, Node, extents_untrusted
from portal.reader import Reader

_ZEROS = bytes(1 << 20)


def extents_of(reader: Reader, content: Content) -> Iterator[Extent]:
    """The stretches of a file in order, one list of them in memory at a time.

    A small file is one stretch of unknown kind: ask `Form` first.
    """
    if content.form is Form.CUTS:
        yield from extents_untrusted(content.data)
    elif content.form is Form.CUT_LISTS:
        for upper in extents_untrusted(content.data):
            yield from _list_untrusted(reader, upper)


def _list_untrusted(reader: Reader, upper: Extent) -> list[Extent]:
    below = extents_untrusted(bytes(reader.piece_untrusted(Kind.CUT_LIST, upper.tag)))
    if sum(extent.length for extent in below) != upper.length:
        raise FormatError("a list of cuts does not add up to what it stands for")
    return below


class FileContent:
    """A file of a snapshot, open for reading."""

    def __init__(self, reader: Reader, node: Node) -> None:
        entry, content = node.entry, node.content
        if content.form in {Form.PARTS, Form.PART_LISTS}:
            raise UsageError("is a directory", where="/" + shown(entry.path))
        self.size = entry.size
        self._reader = reader
        self._content = content
        uppers = [Extent(entry.size, content.data)] if content.form is Form.SMALL else []
        if content.form in {Form.CUTS, Form.CUT_LISTS}:
            uppers = extents_untrusted(content.data)
            if sum(extent.length for extent in uppers) != entry.size:
                raise FormatError("the cuts of a file do not add up to it")
        self._uppers = uppers
        self._starts = list(accumulate((extent.length for extent in uppers), initial=0))

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[Buffer]:
        """The bytes from `start` up to `end`, bit by bit; holes are zeros.

        What is given is valid for good, and shared: it is not to be written to.
        """
        end = self.size if end is None else min(end, self.size)
        for at, extent in self._extents(start, end):
            low, high = max(start - at, 0), min(end - at, extent.length)
            if extent.tag == HOLE:
                for begin in range(low, high, len(_ZEROS)):
                    yield memoryview(_ZEROS)[: min(len(_ZEROS), high - begin)]
                continue
            piece = self._piece_untrusted(extent)
            if low < high:
                yield piece[low:high]

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes at an offset, fewer only at the end."""
        return b"".join(self.chunks(offset, offset + size))

    def data_extents(self) -> Iterator[tuple[int, int]]:
        """Where there are bytes and no hole: offset and length, neighbours joined."""
        start = end = 0
        for at, extent in self._extents(0, self.size):
            if extent.tag == HOLE:
                continue
            if at != end:
                if end > start:
                    yield start, end - start
                start = at
            end = at + extent.length
        if end > start:
            yield start, end - start

    def _extents(self, start: int, end: int) -> Iterator[tuple[int, Extent]]:
        """Those that touch a range, each with its offset."""
        if start >= end:
            return
        first = bisect_right(self._starts, start) - 1
        lists = self._content.form is Form.CUT_LISTS
        for number in range(max(first, 0), len(self._uppers)):
            at, upper = self._starts[number], self._uppers[number]
            for extent in _list_untrusted(self._reader, upper) if lists else (upper,):
                if at >= end:
                    return
                if at + extent.length > start:
                    yield at, extent
                at += extent.length

    def _piece_untrusted(self, extent: Extent) -> memoryview:
        kind = Kind.SMALL_FILE if self._content.form is Form.SMALL else Kind.CUT
        piece = self._reader.piece_untrusted(kind, extent.tag)
        if len(piece) != extent.length:
            raise IntegrityError("a piece is not as long as the file says")
        return piece


def open_file(reader: Reader, node: Node) -> FileContent:
    """A file of a snapshot; UsageError for a directory."""
    return FileContent(reader, node)


def cat(
    reader: Reader,
    node: Node,
    write: Callable[[Buffer], object],
    *,
    start: int = 0,
    end: int | None = None,
) -> int:
    """Give a file, or a stretch of it, to a writer; how many bytes it was."""
    done = 0
    for data in open_file(reader, node).chunks(start, end):
        write(data)
        done += len(data)
    return done


def is_same_on_disk(reader: Reader, node: Node, source: Source, found: Entry) -> bool:
    """Whether a file on the disk has this content: it is read and compared by its tags.

    `found`: what it looked like just now. OSError and Changed if it cannot be read.
    """
    if found.size != node.entry.size:
        return False
    form, data = node.content
    with open_on_disk(source, found) as file:
        if form is Form.SMALL:
            return tag_of(Kind.SMALL_FILE, file.read(node.entry.size)) == data
        for length, tag in extents_of(reader, node.content):
            if not (
                _is_zeros(file.read, length) if tag == HOLE else _is_cut(file.read, length, tag)
            ):
                return False
        if file.changed():
            raise Changed("changed while it was compared", where=shown(found.path))
    return True


def _is_cut(read: Callable[[int], bytes], length: int, tag: bytes) -> bool:
    if length > limits.CHUNK_PLAIN_BYTES_MAX:
        return False  # no cut is as long
    data = read(length)
    return len(data) == length and tag_of(Kind.CUT, data) == tag


def _is_zeros(read: Callable[[int], bytes], length: int) -> bool:
    while length:
        data = read(min(length, len(_ZEROS)))
        if not data or data != _ZEROS[: len(data)]:
            return False
        length -= len(data)
    return True
