"""A stream that measures what moves on it, in slices of about a second.

A slice tells what the way can carry if most of its time went into waiting for the way. Whether the
one at the other end was slow instead cannot be seen from here; then all ways look alike, and the
cheapest is taken. Small talk tells nothing: slices of less than LANE_SAMPLE_BYTES_MIN are left out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from core import limits
from mesh.quality import SLICE_SECONDS

_MOST_OF_IT = 0.5

Moved = Callable[[int, float, bool], None]  # bytes, seconds, whether the way was the bottleneck


class Slices:
    """One direction: tells of each slice."""

    def __init__(self, moved: Moved) -> None:
        self._moved = moved
        self._began: float | None = None
        self._until = 0.0
        self._bytes = 0
        self._waited_s = 0.0

    def add(self, size: int, before: float, now: float) -> None:
        """So many bytes took from `before` to `now`."""
        if self._began is None or before - self._until > SLICE_SECONDS:
            self._began, self._bytes, self._waited_s = before, 0, 0.0  # nobody wanted to move more
        self._until = now
        self._bytes += size
        self._waited_s += now - before
        if now - self._began >= SLICE_SECONDS:
            self.end()

    def end(self) -> None:
        """Tell what there is."""
        if self._began is not None and self._bytes >= limits.LANE_SAMPLE_BYTES_MIN:
            took_s = self._until - self._began
            busy = self._waited_s > took_s * _MOST_OF_IT
            self._moved(self._bytes, took_s, busy)
        self._began = None


class MeteredStream(trio.abc.HalfCloseableStream):
    """Somebody's stream; `over` is called once when it is closed, with whether it had broken."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        sent: Moved,
        received: Moved,
        over: Callable[[bool], None],
    ) -> None:
        self._stream = stream
        self._sent = Slices(sent)
        self._received = Slices(received)
        self._over: Callable[[bool], None] | None = over
        self._broke = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream."""
        before = trio.current_time()
        with self._watched():
            await self._stream.send_all(data)
        self._sent.add(memoryview(data).nbytes, before, trio.current_time())

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the stream."""
        before = trio.current_time()
        with self._watched():
            data = await self._stream.receive_some(max_bytes)
        now = trio.current_time()
        if now - before > SLICE_SECONDS:  # the peer had nothing to say
            self._received.end()
        else:
            self._received.add(len(data), before, now)
        return data

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream."""
        with self._watched():
            await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the stream."""
        with self._watched():
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """As the stream."""
        try:
            await self._stream.aclose()
        finally:
            if self._over is not None:
                over, self._over = self._over, None
                self._sent.end()
                self._received.end()
                over(self._broke)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except trio.BrokenResourceError:
            self._broke = True
            raise
