"""Reading many small files at once, which costs a fraction of reading them one by one.

The plain case is a regular file, unchanged since it was looked at, without attributes. It is read
in one call with all others like it; everything else goes the way of `read_small`, which knows what
to do with it.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator

from core import limits
from core.buffers import Buffers
from core.errors import PortalError
from core.native import kernel
from core.native.rows import PLAIN, WANTED
from core.tree.batch import Batch, one_ahead
from core.tree.content import Small, read_small
from core.tree.entry import Entry
from core.tree.source import Source

Read = Small | OSError | PortalError


def read_many(source: Source, entries: Iterable[Entry]) -> Iterator[Read]:
    """What `read_small` gives or raises for each of many files, in their order.

    Files that are as they were when they were looked at, nearly all, are read many in one call.
    """
    for _, read in read_ahead(source, entries, lambda _: True):
        assert read is not None
        yield read


def read_ahead(
    source: Source, entries: Iterable[Entry], is_wanted: Callable[[Entry], bool]
) -> Iterator[tuple[Entry, Read | None]]:
    """Every entry, with its content if it is a small file that is wanted.

    The next ones are read while the caller works on those before. So `entries` runs ahead, too, by
    two batches at most.
    """
    for batch in one_ahead(_batches(source, entries, is_wanted)):
        yield from batch.contents()


def _batches(
    source: Source, entries: Iterable[Entry], is_wanted: Callable[[Entry], bool]
) -> Iterator["_ReadBatch"]:
    buffers = Buffers(limits.TREE_BATCH_BYTES_MAX + 1)
    batch = _ReadBatch(source, buffers)
    try:
        for entry in entries:
            wanted = is_wanted(entry)
            if not batch.fits(entry.size if wanted else 0):
                full, batch = batch, _ReadBatch(source, buffers)
                yield full
            batch.add(entry, wanted=wanted)
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
        self._euid = os.geteuid()
        self._above: bytes | None = None  # the directory of the latest, and the one that holds it
        self._holder = -1
        self._entries = list[tuple[Entry, bool, bool]]()  # and: wanted, part of the call
        self._results, self._data = bytearray(), memoryview(b"")

    def add(self, entry: Entry, *, wanted: bool) -> None:
        self._entries.append((entry, wanted, wanted and self._is_requested(entry)))
        self.count()

    def _is_requested(self, entry: Entry) -> bool:
        """Whether it is part of the call; what has no place is asked for once more later."""
        path, size = entry.path, entry.size
        if size > limits.TREE_SMALL_FILE_BYTES_MAX:
            return False
        above, _, name = path.rpartition(b"/")
        try:
            if above != self._above or path in self._source.roots:
                holder, name = self._source.place(path)
                self._holder, self._above = self.hold(holder, path), above
            spare_atime = self._euid in (0, entry.uid)
            self.requests += WANTED.pack(
                *(self._holder, spare_atime, entry.dev, entry.ino),
                *(size, entry.mtime_ns, entry.ctime_ns),
            )
        except (OSError, PortalError, struct.error):  # struct: a time that no request can hold
            return False
        self.names.append(name)
        self.bytes += size
        return True

    def call(self) -> None:
        self._data = self._buffers.take(self.bytes + 1)
        self._results = kernel().read_files(self.requests, self.names, self._data)

    def contents(self) -> Iterator[tuple[Entry, Read | None]]:
        in_the_call, at, data = iter(self._results), 0, self._data.toreadonly()
        for entry, wanted, requested in self._entries:
            if not requested:
                yield entry, _one(self._source, entry) if wanted else None
                continue
            end = at + entry.size
            if next(in_the_call) == PLAIN:
                yield entry, Small(entry, data[at:end], changed=False)
            else:
                yield entry, _one(self._source, entry)
            at = end


def _one(source: Source, entry: Entry) -> Read:
    try:
        return read_small(source, entry)
    except (OSError, PortalError) as e:
        return e
