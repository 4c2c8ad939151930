"""Writing many small files at once, each of which appears whole and with all its metadata."""

from collections.abc import Iterator
from typing import NamedTuple

from core.native import kernel
from core.native.rows import GIVEN, PLAIN
from core.tree.batch import Batch
from core.tree.entry import Entry
from core.tree.writer import Buffer


class Plain(NamedTuple):
    """Where a file belongs and what it is to be, when there is nothing special about it."""

    holder: int
    name: bytes
    mode: int
    owned: int  # whether it is given to this user and group
    uid: int
    gid: int


class WriteBatch(Batch):
    """Takes files in and writes those that are plain."""

    def __init__(self) -> None:
        super().__init__()
        self._files = list[tuple[Entry, Buffer, bool]]()
        self._contents = list[Buffer]()
        self._results = bytearray()

    def add(self, entry: Entry, data: Buffer, plain: Plain | None) -> None:
        """Take a file in; one that is not plain only keeps its place among the others."""
        self._files.append((entry, data, plain is not None))
        self.count()
        if plain is not None:
            held = self.hold(plain.holder, entry.path.rpartition(b"/")[0])
            self.requests += GIVEN.pack(
                *(held, plain.mode, entry.mtime_ns, len(data)),
                *(plain.owned, plain.uid, plain.gid),
            )
            self.names.append(plain.name)
            self._contents.append(data)
            self.bytes += len(data)

    def call(self) -> None:
        """Write them."""
        contents = b"".join(self._contents)
        self._contents.clear()
        self._results = kernel().write_files(self.requests, self.names, contents)

    def outcome(self) -> Iterator[tuple[Entry, Buffer, bool]]:
        """Every file in the order they came, and whether it is there now."""
        in_the_call = iter(self._results)
        for entry, data, is_plain in self._files:
            yield entry, data, is_plain and next(in_the_call) == PLAIN
