"""Lanes between nodes of one process: bytes change hands without a copy.

A `Hall` is where such nodes find each other; who makes them makes it and passes it on. `bytes` are
handed over as they are; what could still change under the reader is copied once. A sender waits
until at most LANE_MEMORY_BYTES of what it sent are unread.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from core import limits
from core.errors import PortalError
from core.ids import NodeId
from mesh.errors import Unreachable
from mesh.lanes.lane import Buffer, Door, Raw
from mesh.lanes.offer import Kind, MemoryWay
from mesh.quic.stream import OneAtATime
from mesh.wire import Address


class _Pipe:
    """One direction."""

    def __init__(self) -> None:
        self._chunks: deque[bytes | memoryview] = deque()
        self._unread_bytes = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._sending = OneAtATime("another task is sending on this lane")
        self._receiving = OneAtATime("another task is receiving from this lane")
        self._finished = False  # by who sends
        self._left = False  # by who reads

    async def send(self, data: Buffer) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._room()
            if data:
                self._chunks.append(data if isinstance(data, bytes) else bytes(data))
                self._unread_bytes += len(self._chunks[-1])
                self._changed.unpark_all()
                await self._room()
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_for_room(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            await self._room()

    async def _room(self) -> None:
        while True:
            if self._finished:
                raise trio.ClosedResourceError("this direction of the lane was closed")
            if self._left:
                raise trio.BrokenResourceError("the peer has closed the lane")
            if self._unread_bytes <= limits.LANE_MEMORY_BYTES:
                return
            await self._changed.park()

    async def receive(self, max_bytes: int | None) -> bytes:
        with self._receiving:
            await trio.lowlevel.checkpoint()
            while True:
                if self._left:
                    raise trio.ClosedResourceError("this lane was closed")
                if self._chunks or self._finished:
                    break
                await self._changed.park()
            data = self._next(max_bytes) if self._chunks else b""
            self._changed.unpark_all()
            return data

    def _next(self, max_bytes: int | None) -> bytes:
        chunk = self._chunks.popleft()
        if max_bytes is not None and len(chunk) > max_bytes:
            rest = memoryview(chunk)
            self._chunks.appendleft(rest[max_bytes:])
            chunk = rest[:max_bytes]
        self._unread_bytes -= len(chunk)
        return chunk if isinstance(chunk, bytes) else bytes(chunk)

    @property
    def sends(self) -> bool:
        return self._sending.busy

    def finish(self) -> None:
        self._finished = True
        self._changed.unpark_all()

    def leave(self) -> None:
        self._left = True
        self._chunks.clear()
        self._changed.unpark_all()


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a pair."""

    def __init__(self, sends: _Pipe, receives: _Pipe) -> None:
        self._sends = sends
        self._receives = receives
        self._closed = False

    async def send_all(self, data: Buffer) -> None:
        """Hand it over, and wait while too much is unread."""
        await self._sends.send(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await self._sends.wait_for_room()

    async def send_eof(self) -> None:
        """Nothing more comes from here."""
        if self._sends.sends:
            raise trio.BusyResourceError("another task is sending on this lane")
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("this lane was closed")
        self._sends.finish()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What the peer sent at once, or as much of it."""
        if max_bytes is not None and not isinstance(max_bytes, int):
            raise TypeError("max_bytes is a number of bytes")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes is at least 1")
        return await self._receives.receive(max_bytes)

    async def aclose(self) -> None:
        """End both directions; what was sent can still be read."""
        self.cut()
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        """The same, at once."""
        self._closed = True
        self._sends.finish()
        self._receives.leave()


def memory_pair() -> tuple[MemoryStream, MemoryStream]:
    """Two ends of one stream."""
    one, other = _Pipe(), _Pipe()
    return MemoryStream(one, other), MemoryStream(other, one)


class Hall:
    """The nodes of this process that take lanes."""

    def __init__(self) -> None:
        self._doors: dict[NodeId, trio.MemorySendChannel[MemoryStream]] = {}

    @contextmanager
    def listening(self, node: NodeId) -> Iterator[trio.MemoryReceiveChannel[MemoryStream]]:
        """Be found here while the block runs."""
        if node in self._doors:
            raise PortalError(f"node {node.short()} is in this hall already")
        into, out = trio.open_memory_channel[MemoryStream](limits.LANE_BACKLOG_MAX)
        self._doors[node] = into
        try:
            yield out
        finally:
            del self._doors[node]
            into.close()
            with out:
                _send_away(out)

    def connect(self, node: NodeId) -> MemoryStream:
        """A stream to this node; Unreachable if it is not here or takes nobody."""
        door = self._doors.get(node)
        if door is None:
            raise Unreachable("this node is not in this process")
        ours, theirs = memory_pair()
        try:
            door.send_nowait(theirs)
        except (trio.WouldBlock, trio.BrokenResourceError):
            raise Unreachable("this node takes no connections now") from None
        return ours


def _send_away(waiting: trio.MemoryReceiveChannel[MemoryStream]) -> None:
    while True:
        try:
            waiting.receive_nowait().cut()
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            return


class _Listener(trio.abc.Listener[MemoryStream]):
    def __init__(self, arriving: trio.MemoryReceiveChannel[MemoryStream]) -> None:
        self._arriving = arriving

    async def accept(self) -> MemoryStream:
        return await self._arriving.receive()

    async def aclose(self) -> None:
        _send_away(self._arriving)
        await self._arriving.aclose()


class MemoryDoor(Door[MemoryStream]):
    """A node's place in a hall."""

    kind = Kind.MEMORY

    def __init__(self, hall: Hall, node: NodeId) -> None:
        self._hall = hall
        self._node = node

    @contextmanager
    def listening(self) -> Iterator[Sequence[trio.abc.Listener[MemoryStream]]]:
        """Be found in the hall."""
        with self._hall.listening(self._node) as arriving:
            yield [_Listener(arriving)]

    def ways(self, _addresses: Sequence[Address]) -> Sequence[MemoryWay]:
        """The node's name."""
        return [MemoryWay(self._node)]

    def source(self, _stream: MemoryStream) -> None:
        """All of one process are one."""

    async def secure(self, stream: MemoryStream) -> Raw:
        """Nobody else hears it."""
        return _raw(stream)


def connect(way: MemoryWay, hall: Hall) -> Raw:
    """A stream to a node of this process."""
    return _raw(hall.connect(way.node))


def _raw(stream: MemoryStream) -> Raw:
    return Raw(stream, stream.cut)
