"""Memory for reading that is used again: fresh memory costs more than what is read into it.

A part that was handed out is free when nobody looks at it any more, which Python knows: a buffer
with a view on it anywhere cannot change its length. So nothing has to be given back by hand, and
what is still looked at is never written to again.
"""

import threading
from collections.abc import Callable

from core import limits
from core.crypto import Buffer

_ALIGNED_BYTES = 64  # as the vector code of hashes likes it


class Buffers:
    """Hands out parts of a few large buffers; threads may share it."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._kept: list[bytearray] = []
        self._current = bytearray()
        self._at = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> memoryview:
        """Room for so many bytes, holding anything; free again when all views of it are gone."""
        if size > self._size:
            return memoryview(bytearray(size))
        with self._lock:
            if self._at + size > len(self._current):
                self._current, self._at = self._free(), 0
            view = memoryview(self._current)[self._at : self._at + size]
            self._at += -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
            return view

    def _free(self) -> bytearray:
        for buffer in self._kept:
            if not is_looked_at(buffer):
                return buffer
        buffer = bytearray(self._size)
        if len(self._kept) < limits.READ_BUFFERS_KEPT_MAX:
            self._kept.append(buffer)
        return buffer


class Joined:
    """Pieces one after the other, copied as they come: what they lay in may be used again."""

    def __init__(self, buffers: Buffers, size_target: int) -> None:
        self.count = 0
        self.size = 0
        self._buffers = buffers
        self._target = size_target
        self._room = memoryview(b"")

    def add(self, data: Buffer) -> None:
        """One more. Whoever keeps to the target never has them copied twice."""
        end = self.size + len(data)
        if end > len(self._room) or not self.count:
            room = self._buffers.take(max(end, self._target))
            room[: self.size] = self._room[: self.size]
            self._room = room
        self._room[self.size : end] = data
        self.count += 1
        self.size = end

    def take(self) -> memoryview:
        """All of them, and begin anew."""
        whole = self._room[: self.size].toreadonly()
        self._room, self.count, self.size = memoryview(b""), 0, 0
        return whole


def filled_by(read: Callable[[int], bytes]) -> Callable[[memoryview], int]:
    """For a stream that only gives bytes: how to have them put somewhere."""

    def read_into(view: memoryview) -> int:
        data = read(len(view))
        view[: len(data)] = data
        return len(data)

    return read_into


def is_looked_at(buffer: bytearray) -> bool:
    """Whether there is a view of the buffer anywhere."""
    try:
        buffer.pop()
    except BufferError:
        return True
    buffer.append(0)
    return False
