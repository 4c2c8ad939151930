"""Reading many small files at once, which costs a fraction of reading them one by one.

The plain case is a regular file, unchanged since it was looked at, without attributes. It is read
in one call with all others like it; everything else goes the way of `read_small`, which knows what
to do with it.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator

from core import limits
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
    batch = _ReadBatch(source)
    try:
        for entry in entries:
            wanted = is_wanted(entry)
            if not batch.fits(entry.size if wanted else 0):
                full, batch = batch, _ReadBatch(source)
                yield full
            batch.add(entry, wanted=wanted)
        if len(batch):
            full, batch = batch, _ReadBatch(source)
            yield full
    finally:
        batch.let_go()


class _ReadBatch(Batch):
    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._euid = os.geteuid()
        self._entries = list[tuple[Entry, bool, bool]]()  # and: wanted, part of the call
        self._results, self._data = bytearray(), bytearray()

    def add(self, entry: Entry, *, wanted: bool) -> None:
        self._entries.append((entry, wanted, wanted and self._is_requested(entry)))
        self.count()

    def _is_requested(self, entry: Entry) -> bool:
        """Whether it is part of the call; what has no place is asked for once more later."""
        if entry.size > limits.TREE_SMALL_FILE_BYTES_MAX:
            return False
        try:
            holder, name = self._source.place(entry.path)
            request = WANTED.pack(
                *(self.hold(holder, entry.path), self._euid in {0, entry.uid}),
                *(entry.dev, entry.ino, entry.size, entry.mtime_ns, entry.ctime_ns),
            )
        except (OSError, PortalError, struct.error):  # struct: a time that no request can hold
            return False
        self.requests += request
        self.names.append(name)
        self.bytes += entry.size
        return True

    def call(self) -> None:
        self._results, self._data = kernel().read_files(self.requests, self.names, self.bytes)

    def contents(self) -> Iterator[tuple[Entry, Read | None]]:
        in_the_call, at = iter(self._results), 0
        with memoryview(self._data) as view:
            for entry, wanted, requested in self._entries:
                if requested and next(in_the_call) == PLAIN:
                    content = bytes(view[at : at + entry.size])
                    yield entry, Small(entry, content, changed=False)
                elif wanted:
                    yield entry, _one(self._source, entry)
                else:
                    yield entry, None
                at += entry.size if requested else 0


def _one(source: Source, entry: Entry) -> Read:
    try:
        return read_small(source, entry)
    except (OSError, PortalError) as e:
        return e
