"""Names that stand one behind the other in a directory and need no look at each of them.

Most of a tree is directories and small files of one name. They go together, as the rows a listing
gave, from the walk to the table of an archive; an entry is made only of what turns out to be
something else.
"""

from collections.abc import Iterator

from core.native.rows import ROW, Row
from core.tree.entry import Entry, entry_of_row


class Stretch:
    """Files and directories of one directory, in the order of a walk; at least one.

    All lie on the device of the directory. Only the last may be a directory: what it holds is next.
    """

    __slots__ = ("bytes", "dev", "directory", "names", "prefix", "rows", "sizes")

    def __init__(
        self,
        prefix: bytes,
        names: list[bytes],
        rows: bytes,
        sizes: list[int],
        dev: int,
        directory: bytes | None = None,
    ) -> None:
        self.prefix = prefix  # what makes paths of names
        self.names = names
        self.rows = rows  # ROW.size bytes for each name, see core/native/rows.py
        self.sizes = sizes  # as the rows say
        self.bytes = sum(sizes)
        self.dev = dev
        self.directory = directory  # the path of the directory it ends with, if it does

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> list[bytes]:
        """The path of each."""
        prefix = self.prefix
        return [prefix + name for name in self.names]

    def entries(self) -> Iterator[Entry]:
        """Each of them by itself."""
        for path, row in zip(self.paths, ROW.iter_unpack(self.rows), strict=True):
            yield entry_of_row(path, Row._make(row), self.dev)

    def split(self, count: int) -> "tuple[Stretch, Stretch]":
        """So many of them, and the rest."""
        names, rows, sizes, at = self.names, self.rows, self.sizes, count * ROW.size
        first = Stretch(self.prefix, names[:count], rows[:at], sizes[:count], self.dev)
        rest = names[count:], rows[at:], sizes[count:]
        return first, Stretch(self.prefix, *rest, self.dev, self.directory)
