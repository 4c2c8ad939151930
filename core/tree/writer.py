"""A file on its way: it has no name until it is whole, and then all of it at once."""

import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from core.errors import FormatError
from core.tree.entry import Entry
from core.tree.paths import shown

Buffer = bytes | bytearray | memoryview


class FileWriter:
    """A file of any size, written at offsets in any order; what is never written is a hole.

    As a context manager it is published at the end, or discarded after an exception.
    """

    def __init__(
        self,
        fd: int,
        entry: Entry,
        publish: Callable[[int], bool],
        discard: Callable[[], None],
    ) -> None:
        self.fd = fd
        self.entry = entry
        self.published = False
        self._publish = publish
        self._discard = discard
        self._end = 0

    def write_at(self, offset: int, data: Buffer) -> None:
        """Put these bytes there. FormatError beyond the size that the entry announced."""
        end = offset + len(data)
        if offset < 0 or end > self.entry.size:
            raise FormatError("holds more than its size says", where=shown(self.entry.path))
        write_all(self.fd, data, offset)
        self._end = max(self._end, end)

    def publish(self) -> bool:
        """Give it its length, metadata and name; false if what is there by now wins."""
        try:
            if self._end < self.entry.size:
                os.ftruncate(self.fd, self.entry.size)
            self.published = self._publish(self.fd)
        except BaseException:
            self.discard()
            raise
        self._close()
        return self.published

    def discard(self) -> None:
        """Leave nothing of it."""
        if self.fd >= 0:
            try:
                self._discard()
            finally:
                self._close()

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        elif self.fd >= 0:
            self.publish()


def write_all(fd: int, data: Buffer, offset: int = 0) -> None:
    """Every byte, however few the system takes at a time."""
    done = os.pwrite(fd, data, offset)
    if done < len(data):
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)
