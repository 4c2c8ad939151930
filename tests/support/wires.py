"""Wires in memory, with hooks: what was sent can be lost, doubled, bent or sent from elsewhere."""

import heapq
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import trio
from trio.testing import MockClock

from core.secret import Secret
from mesh.leaf import Leaf
from mesh.quic.connection import Connection
from mesh.quic.endpoint import Endpoint, Setup
from mesh.quic.engine import Kind
from mesh.wire import Address, Arrival
from tests.support.entropy import fixed_entropy

BATCH = 32
T = TypeVar("T")

# What becomes of a datagram: the bytes that arrive, and where they seem to come from.
Hook = Callable[[bytes, Address, Address], Iterable[tuple[bytes, Address]]]


def passed(data: bytes, source: Address, _to: Address) -> Iterable[tuple[bytes, Address]]:
    """A network without faults."""
    return [(data, source)]


@dataclass
class Net:
    """Everything arrives `delay_s` later, in order, unless `hook` decides otherwise."""

    delay_s: float = 0.001
    hook: Hook = passed
    wires: dict[Address, "MemoryWire"] = field(default_factory=dict)
    seen: list[tuple[bytes, Address, Address]] | None = None  # a list: remember what was sent
    _ports: "count[int]" = field(default_factory=lambda: count(1_000))

    def wire(self, host: str = "10.0.0.1", port: int | None = None) -> "MemoryWire":
        """A new one."""
        wire = MemoryWire(self, Address(host, port or next(self._ports)))
        self.wires[wire.local] = wire
        return wire

    def carry(self, data: bytes, source: Address, to: Address) -> None:
        """Take a datagram on its way."""
        if self.seen is not None:
            self.seen.append((data, source, to))
        for arriving, apparent in self.hook(data, source, to):
            self.deliver(arriving, apparent, to)

    def deliver(self, data: bytes, source: Address, to: Address) -> None:
        """Put it where it is to arrive, if anybody is there."""
        if (wire := self.wires.get(to)) is not None:
            wire.put(Arrival(data, max(1, len(data)), source))


class MemoryWire:
    """One end; `room` says how much it takes before it is full."""

    def __init__(self, net: Net, local: Address) -> None:
        self.local = self.outside = local
        self.room = math.inf
        self.wakes = 0  # how often somebody came to fetch
        self.sends = 0
        self.waits = 0
        self._net = net
        self._inbox: list[tuple[float, int, Arrival]] = []
        self._numbers = count()
        self._arrived = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._emptied = trio.lowlevel.ParkingLot()

    def moves(self, host: str, port: int) -> None:
        """From now on the others see it elsewhere, as behind a NAT that forgot."""
        del self._net.wires[self.outside]
        self.outside = Address(host, port)
        self._net.wires[self.outside] = self

    def put(self, arrival: Arrival, delay_s: float | None = None) -> None:
        at = trio.current_time() + (self._net.delay_s if delay_s is None else delay_s)
        heapq.heappush(self._inbox, (at, next(self._numbers), arrival))
        self._scope.deadline = min(self._scope.deadline, at)

    async def receive(self) -> list[Arrival]:
        self.wakes += 1
        while True:
            now = trio.current_time()
            batch: list[Arrival] = []
            while self._inbox and self._inbox[0][0] <= now and len(batch) < BATCH:
                batch.append(heapq.heappop(self._inbox)[2])
            if batch:
                await trio.lowlevel.checkpoint()
                return batch
            due = self._inbox[0][0] if self._inbox else math.inf
            with trio.CancelScope(deadline=due) as self._scope:
                await self._arrived.park()

    def send(self, datagrams: Sequence[bytes], to: Address) -> int:
        self.sends += 1
        taken = int(min(len(datagrams), self.room))
        self.room -= taken
        for data in datagrams[:taken]:
            self._net.carry(data, self.outside, to)
        return taken

    def empty(self, room: float) -> None:
        """The network took what was there: there is room again."""
        self.room = room
        self._emptied.unpark_all()

    async def writable(self) -> None:
        self.waits += 1
        await trio.lowlevel.checkpoint()
        while not self.room:
            await self._emptied.park()

    def close(self) -> None:
        self._net.wires.pop(self.outside, None)


def a_leaf(name: str) -> Leaf:
    """The certificate of a made-up node."""
    entropy = fixed_entropy(name)
    return Leaf.make(Secret(entropy(32)), entropy)


def in_virtual_time(main: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run it; waiting takes no time."""
    return trio.run(main, *args, clock=MockClock(autojump_threshold=0))


def an_endpoint(wire: MemoryWire, name: str = "", **setup: Any) -> Endpoint:
    """One on this wire, with a certificate of its own."""
    heard: list[tuple[bytes, Address]] = []
    leaf = a_leaf(name or str(wire.local))
    endpoint = Endpoint(wire, Setup(leaf, **setup), lambda *datagram: heard.append(datagram))
    endpoint.heard = heard  # type: ignore[attr-defined]  # for the test to look at
    return endpoint


@dataclass
class Pair:
    """Two endpoints and a connection between them: `near` dialled `far`."""

    net: Net
    near_wire: MemoryWire
    far_wire: MemoryWire
    near_end: Endpoint
    far_end: Endpoint
    near: Connection
    far: Connection
    nursery: trio.Nursery


@asynccontextmanager
async def a_pair(kind: Kind, net: Net | None = None, **setup: Any) -> AsyncIterator[Pair]:
    """A connection; afterwards both endpoints end."""
    net = net or Net()
    near_wire, far_wire = net.wire("10.0.0.1"), net.wire("10.0.0.2")
    near_end, far_end = an_endpoint(near_wire, **setup), an_endpoint(far_wire, **setup)
    async with trio.open_nursery() as nursery:
        await nursery.start(near_end.run)
        await nursery.start(far_end.run)
        near = await near_end.dial(far_wire.local, kind)
        far = await far_end.accept()
        yield Pair(net, near_wire, far_wire, near_end, far_end, near, far, nursery)
        nursery.cancel_scope.cancel()


async def streams(pair: Pair) -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
    """A stream, seen from both ends; its first byte has been read."""
    near = await pair.near.open_stream()
    await near.send_all(b"!")
    far = await pair.far.accept_stream()
    assert await far.receive_some(1) == b"!"
    return near, far


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """To its end."""
    return b"".join([data async for data in stream])


async def lapse(seconds: float) -> None:
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


def assert_empty(endpoint: Endpoint) -> None:
    """No connection has left anything behind."""
    assert endpoint._alive == {}
    assert endpoint._by_cid == {}
    assert len(endpoint._timers) == 0
    assert endpoint._timers.next_at == math.inf
    assert len(endpoint._admission) == 0
    assert endpoint._waiting == {}
    assert endpoint._stuck == []
    assert endpoint.counters.connections == 0


async def talks(pair: Pair, size: int = 50_000) -> None:
    """Bytes go both ways."""
    near, far = await streams(pair)
    async with trio.open_nursery() as nursery:

        async def send(stream: trio.abc.HalfCloseableStream) -> None:
            await stream.send_all(bytes(size))
            await stream.send_eof()

        nursery.start_soon(send, near)
        nursery.start_soon(send, far)
        assert len(await read_all(far)) == size
        assert len(await read_all(near)) == size
    await near.aclose()
    await far.aclose()
