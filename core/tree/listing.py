"""A directory looked at as a whole: its names in order, and a row of fixed length about each.

The rows of a directory are one piece of memory: whoever kept the ones of last time compares all of
them at once and makes no object for what did not change.
"""

from collections.abc import Iterator

from core.native import kernel
from core.native.rows import ROW, Listed, Row


class Listing:
    """What a directory held. `rows` and `names` have the same order, that of names as bytes."""

    __slots__ = ("_devs", "_joined", "_names", "dev", "rows")

    def __init__(self, listed: Listed) -> None:
        self.dev = listed.dev  # of the directory
        self.rows = listed.rows  # ROW.size bytes for each name, see core/native/rows.py
        self._devs = listed.devs
        self._joined = listed.names
        self._names: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.rows) // ROW.size

    @property
    def joined_names(self) -> bytes:
        """All names in one, with a NUL behind each."""
        return self._joined

    @property
    def names(self) -> list[bytes]:
        """The names, taken apart when they are asked for."""
        if self._names is None:
            self._names = self._joined.split(b"\0")
            del self._names[-1]  # what is behind the last NUL
        return self._names

    def row(self, index: int) -> Row:
        """What is known about one name."""
        return Row._make(ROW.unpack_from(self.rows, index * ROW.size))

    def every_row(self) -> Iterator[Row]:
        """What is known about all of them."""
        return map(Row._make, ROW.iter_unpack(self.rows))

    @property
    def is_mixed(self) -> bool:
        """Whether something is mounted on one of the names."""
        return bool(self._devs)

    def dev_of(self, index: int) -> int:
        """The device one name lies on: not the directory's where something is mounted."""
        return self._devs[index] if self._devs else self.dev


def list_directory(fd: int) -> Listing:
    """Everything an open directory holds, in one call without Python's lock. OSError if it fails.

    What cannot be looked at has a row that says so. One thread at a time for one descriptor, since
    reading moves its position.
    """
    return Listing(kernel().list_directory(fd))
