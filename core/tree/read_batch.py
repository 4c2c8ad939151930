"""Reading many small files at once, which costs a fraction of reading them one by one.

The plain case is a regular file, unchanged since it was looked at, without attributes; or a
directory without them. It is done in one call with all others like it; everything else is left to
`read_small` and `read_xattrs`, which know what to do with it.
"""

import re
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from typing import NamedTuple

from core import limits
from core.buffers import Buffers
from core.errors import PortalError
from core.native import kernel
from core.native.rows import FOLDER, PLAIN, ROW, SIZES, Row, column
from core.tree.batch import Batch, one_ahead
from core.tree.content import Small, read_small
from core.tree.entry import Entry, entry_of_row, row_of_file
from core.tree.source import Source
from core.tree.stretch import Stretch

_RUN = re.compile(rb"\x%02x+|[^\x%02x]" % (PLAIN, PLAIN))  # plain ones together, others alone
Read = Small | OSError | PortalError


class Plain(NamedTuple):
    """Files that are as they were when they were looked at, and directories; no attributes."""

    paths: list[bytes]
    rows: bytes
    contents: list[memoryview]  # of each; empty for directories

    @property
    def bytes(self) -> int:
        """How much all contents are."""
        return sum(column(self.rows, SIZES))

    def part(self, first: int, end: int) -> "Plain":
        """Some of them."""
        rows = self.rows[first * ROW.size : end * ROW.size]
        return Plain(self.paths[first:end], rows, self.contents[first:end])


def room() -> Buffers:
    """Memory for batches: worth keeping where few files are read at a time."""
    return Buffers(limits.TREE_BATCH_BYTES_MAX + 1)


def read_many(
    source: Source, files: Iterable[Entry], buffers: Buffers | None = None
) -> Iterator[Read]:
    """What `read_small` gives or raises for each of many files, in their order.

    Files that are as they were when they were looked at, nearly all, are read many in one call.
    """
    waiting = deque[Entry]()
    for found in read_ahead(source, _stretches(source, files, waiting), buffers):
        if isinstance(found, Plain):
            for data in found.contents:
                yield Small(waiting.popleft(), data, changed=False)
        else:
            yield _one(source, waiting.popleft())


def _one(source: Source, entry: Entry) -> Read:
    try:
        return read_small(source, entry)
    except (OSError, PortalError) as e:
        return e


def _stretches(
    source: Source, files: Iterable[Entry], waiting: deque[Entry]
) -> Iterator[Stretch | Entry]:
    """Files as they lie in their directories; each is put to those that wait."""

    def place(entry: Entry) -> tuple[bytes, int, bytes]:
        above, slash, _ = entry.path.rpartition(b"/")  # the root itself may be another one's file
        return above + slash, entry.dev, entry.path if entry.path in source.roots else b""

    for (prefix, dev, _), group in groupby(files, place):
        entries = list(group)
        waiting.extend(entries)
        try:
            rows = b"".join(map(row_of_file, entries))
        except struct.error:
            yield from entries
        else:
            names = [entry.path[len(prefix) :] for entry in entries]
            yield Stretch(prefix, names, rows, [entry.size for entry in entries], dev)


def read_ahead(
    source: Source, found: Iterable[Stretch | Entry], buffers: Buffers | None = None
) -> Iterator[Plain | Entry]:
    """Everything a walk found: read, if it is plain; else an entry that is to be read by itself.

    The next ones are read while the caller works on those before. So `found` runs ahead, too, by
    two batches at most.
    """
    for batch in one_ahead(_batches(source, found, buffers or room())):
        yield from batch.outcome()


def _batches(
    source: Source, found: Iterable[Stretch | Entry], buffers: Buffers
) -> Iterator["_ReadBatch"]:
    batch = _ReadBatch(source, buffers)
    try:
        for part in found:
            rest = batch.add(part)
            while rest is not None:
                full, batch = batch, _ReadBatch(source, buffers)
                yield full
                rest = batch.add(rest)
        if len(batch):
            full, batch = batch, _ReadBatch(source, buffers)
            yield full
    finally:
        batch.let_go()


class _ReadBatch(Batch):
    def __init__(self, source: Source, buffers: Buffers) -> None:
        super().__init__()
        self._source = source
        self._buffers = buffers
        self._paths, self._rows, self._sizes = list[bytes](), bytearray(), list[int]()
        self._alone = list[tuple[int, Entry]]()  # and how many of the others stand before it
        self._devs = list[int]()
        self._results, self._data = bytearray(), memoryview(b"")

    def add(self, found: Stretch | Entry) -> Stretch | Entry | None:
        """Take in what there is room for; gives the rest."""
        if isinstance(found, Entry):
            if not self.fits(0):
                return found
            self._add_alone(found)
            return None
        if self.fits(found.bytes, len(found)):
            self._add(found)
            return None
        if not self.fits(found.sizes[0]):
            return found
        room = limits.TREE_BATCH_BYTES_MAX - self.bytes
        fitting = min(bisect_right(list(accumulate(found.sizes)), room), self.files_left)
        first, rest = found.split(max(fitting, 1))  # what is larger than a batch may go alone
        self._add(first)
        return rest

    def _add_alone(self, entry: Entry) -> None:
        self._alone.append((len(self._paths), entry))
        self.count(1)

    def _add(self, stretch: Stretch) -> None:
        try:
            held, names = self._place(stretch)
            self.requests += FOLDER.pack(held, len(names), stretch.dev)
        except (OSError, PortalError, struct.error):  # struct: a device that no request can hold
            for entry in stretch.entries():  # why it has no place is said of each
                self._add_alone(entry)
            return
        self.names += names
        self._paths += stretch.paths
        self._rows += stretch.rows
        self._sizes += stretch.sizes
        self.count(len(names))
        self.bytes += stretch.bytes
        self._devs += [stretch.dev] * len(names)

    def _place(self, stretch: Stretch) -> tuple[int, list[bytes]]:
        """The directory of names, and what they are called in there."""
        held = self.held(stretch.prefix)
        if held is not None:
            return held, stretch.names
        source, path = self._source, stretch.prefix + stretch.names[0]
        holder, name = source.place(path)
        if path in source.roots or path in source.above:  # lies where no other path says
            return self.hold(holder, path), [name]
        return self.hold(holder, stretch.prefix), stretch.names

    def call(self) -> None:
        self._data = self._buffers.take(self.bytes + 1)
        rows = bytes(self._rows)
        self._results = kernel().read_files(self.requests, rows, self.names, self._data)

    def outcome(self) -> Iterator[Plain | Entry]:
        """What became of everything, in order; as much of it together as can be."""
        data = self._data.toreadonly()
        ends = accumulate(self._sizes)
        contents = [data[end - size : end] for end, size in zip(ends, self._sizes, strict=True)]
        first = 0
        for end, entry in self._alone:
            yield from self._read(first, end, contents)
            yield entry
            first = end
        yield from self._read(first, len(self._paths), contents)

    def _read(self, first: int, end: int, contents: list[memoryview]) -> Iterator[Plain | Entry]:
        for run in _RUN.finditer(self._results, first, end):
            at, to = run.span()
            rows = bytes(self._rows[at * ROW.size : to * ROW.size])
            if self._results[at] == PLAIN:
                yield Plain(self._paths[at:to], rows, contents[at:to])
            else:
                row = Row._make(ROW.unpack(rows))
                yield entry_of_row(self._paths[at], row, self._devs[at])
