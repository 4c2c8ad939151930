"""One stream of a connection, as trio knows streams: who sends waits for who reads.

A stream ends like a file: `send_eof` in one direction, `aclose` in both. What breaks it otherwise
(the peer's reset, the connection's end) is a trio.BrokenResourceError once all that had arrived
before is read.
"""

from collections import deque
from operator import index
from typing import Protocol

import trio

from core import limits
from mesh.quic.engine import Machine
from mesh.quic.flow import ReceiveCredit, SendCredit

_READ_BYTES = 256 * limits.KIB
_SMALL_BYTES = 1_024  # what arrives in smaller pieces is joined
_GONE = 0  # the code of every reset: the reasons travel in frames, where somebody reads them


class OneAtATime:
    """A part of a stream that two tasks must not use at once: their bytes would mix."""

    def __init__(self, complaint: str) -> None:
        self._complaint = complaint
        self.busy = False

    def __enter__(self) -> None:
        if self.busy:
            raise trio.BusyResourceError(self._complaint)
        self.busy = True

    def __exit__(self, *_exception: object) -> None:
        self.busy = False


class Owner(Protocol):
    """What a stream needs of its connection."""

    @property
    def machine(self) -> Machine:
        """The engine's side of it."""

    def flush(self) -> None:
        """Send what the engine has to say."""

    def grant(self, stream: int, more: int) -> None:
        """Give the peer credit."""

    def forget(self, stream: int) -> None:
        """Both directions are over."""


class QuicStream(trio.abc.HalfCloseableStream):
    """Bytes both ways, in order, between two nodes."""

    def __init__(self, owner: Owner, number: int, *, sends: bool = True) -> None:
        self.number = number
        self._owner = owner
        self._credit = SendCredit()
        self._taken = ReceiveCredit()
        self._chunks: deque[bytes] = deque()
        self._unread_bytes = 0
        self._receive_over = False  # no more will arrive: at an end, or broken
        self._broken: str | None = None  # why what arrived is not all
        self._send_over = not sends
        self._send_broken: str | None = None
        self._closed = False
        self._forgotten = False
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()
        self._sending = OneAtATime("another task is sending on this stream")
        self._receiving = OneAtATime("another task is receiving from this stream")

    @property
    def unread_bytes(self) -> int:
        """What has arrived and waits for a reader."""
        return self._unread_bytes

    # --- sending ----------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Hand over all of it; waits while the peer has a window's worth to read."""
        with self._sending:
            self._check_can_send()
            await trio.lowlevel.checkpoint()
            self._check_can_send()
            view = memoryview(data).cast("B")
            while view.nbytes:
                await self._has_credit()
                part, view = view[: self._credit.left], view[self._credit.left :]
                self._credit.left -= len(part)
                self._owner.machine.send(self.number, bytes(part))
                self._owner.flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the peer would take a byte."""
        with self._sending:
            self._check_can_send()
            await trio.lowlevel.checkpoint()
            await self._has_credit()

    async def wait_for_credit(self, size: int) -> None:
        """Wait until the peer would take so many bytes at once.

        What is sent then goes out whole or, when the sender is cancelled, not at all.
        """
        with self._sending:
            self._check_can_send()
            await trio.lowlevel.checkpoint()
            await self._has_credit(size)

    async def send_eof(self) -> None:
        """Say that this was all; receiving goes on."""
        with self._sending:
            if self._closed:
                raise trio.ClosedResourceError
            await trio.lowlevel.checkpoint()
            self._finish_sending()

    async def _has_credit(self, size: int = 1) -> None:
        self._check_can_send()
        while self._credit.left < size:
            await self._writable.park()
            self._check_can_send()

    def _check_can_send(self) -> None:
        if self._closed or (self._send_over and not self._send_broken):
            raise trio.ClosedResourceError
        if self._send_broken:
            raise trio.BrokenResourceError(self._send_broken)

    def _finish_sending(self) -> None:
        if not self._send_over:
            self._send_over = True
            self._owner.machine.send(self.number, b"", fin=True)
            self._owner.flush()
            self._forget_if_over()

    # --- receiving --------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has arrived, up to `max_bytes`; nothing at the end."""
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            if self._closed:
                raise trio.ClosedResourceError
            await trio.lowlevel.checkpoint()
            while not self._chunks:
                if self._closed:
                    raise trio.ClosedResourceError
                if self._broken:
                    raise trio.BrokenResourceError(self._broken)
                if self._receive_over:
                    return b""
                await self._readable.park()
            return self._take(max_bytes or _READ_BYTES)

    def _take(self, size_max: int) -> bytes:
        parts, size = [], 0
        while self._chunks and size < size_max:
            chunk = self._chunks.popleft()
            if size + len(chunk) > size_max:
                self._chunks.appendleft(chunk[size_max - size :])
                chunk = chunk[: size_max - size]
            parts.append(chunk)
            size += len(chunk)
        self._unread_bytes -= size
        if not self._receive_over and (more := self._taken.consumed(size)):
            self._owner.grant(self.number, more)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # --- both -------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Say that this was all, and that no more is wanted.

        Closed by force (trio.aclose_forcefully, or when cancelled) it was not all: what is under
        way is given up, and the peer does not take its end for the end.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._chunks.clear()
        self._unread_bytes = 0
        self._wake()
        try:
            await trio.lowlevel.checkpoint()
            self._finish_sending()
        finally:
            self._give_up()

    def _give_up(self) -> None:
        """End what has not ended."""
        if not self._send_over:
            self._send_over = True
            self._owner.machine.reset(self.number, _GONE)
        if not self._receive_over:
            self._receive_over = True
            self._owner.machine.stop(self.number, _GONE)
        self._owner.flush()
        self._forget_if_over()

    def _forget_if_over(self) -> None:
        if self._send_over and self._receive_over and not self._forgotten:
            self._forgotten = True
            self._owner.forget(self.number)

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()

    # --- what the connection tells ----------------------------------------------------------------

    def arrived_untrusted(self, data: bytes, *, fin: bool) -> None:
        """Bytes of the peer; LimitExceeded if it had no credit for them."""
        self._taken.arrived_untrusted(len(data))
        if not self._receive_over:
            if data:
                self._unread_bytes += len(data)
                if self._chunks and len(self._chunks[-1]) + len(data) <= _SMALL_BYTES:
                    data = self._chunks.pop() + data  # many small ones cost far more than they hold
                self._chunks.append(data)
            self._receive_over = fin
            self._readable.unpark_all()
        self._forget_if_over()

    def granted_untrusted(self, more: int) -> None:
        """The peer has read."""
        self._credit.raise_untrusted(more)
        self._writable.unpark_all()

    def was_reset(self) -> None:
        """The peer gave up sending."""
        if not self._receive_over:
            self._broken, self._receive_over = "the peer gave up this stream", True
        self._wake()
        self._forget_if_over()

    def was_stopped(self) -> None:
        """The peer wants no more."""
        if not self._send_over:
            self._send_broken, self._send_over = "the peer closed this stream", True
        self._wake()
        self._forget_if_over()

    def broke(self, reason: str) -> None:
        """The connection is over."""
        if not self._receive_over:
            self._broken, self._receive_over = reason, True
        if not self._send_over:
            self._send_broken, self._send_over = reason, True
        self._wake()
