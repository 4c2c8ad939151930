"""Doors of every kind, and lanes through them: what tests of lanes lean on."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from core import codec
from core.hashing import digest
from core.ids import NodeId
from core.labels import Label
from mesh.lanes.doors import Doors, NoDoor, Refused
from mesh.lanes.lane import Door, Lane
from mesh.lanes.memory import Hall, MemoryDoor
from mesh.lanes.offer import Kind, Offer
from mesh.lanes.opening import Reach
from mesh.lanes.tcp import TcpDoor
from mesh.lanes.unix import UnixDoor
from mesh.wire import Address

HERE = "127.0.0.1"
_PATIENCE_S = 60  # with a test that would never end
NODE = NodeId(digest(Label.TEXT_CHECK, b"a node with doors"))


class House:
    """One node with a door of one kind, and all that its peer knows of it."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self.events: list[Refused | NoDoor] = []
        self.hall = Hall()
        self.door: Door[Any]
        match kind:
            case Kind.TCP:
                self.door = TcpDoor(host=HERE)
            case Kind.UNIX:
                self.door = UnixDoor(folder)
            case Kind.MEMORY:
                self.door = MemoryDoor(self.hall, NODE)
        self.doors = Doors([self.door], self.events.append)
        self.reach = Reach(frozenset({HERE}), same_host=True, hall=self.hall)

    @property
    def addresses(self) -> list[Address]:
        return [Address(HERE, self.door.port)] if isinstance(self.door, TcpDoor) else []

    @property
    def refusals(self) -> list[str]:
        return [event.why.name for event in self.events if isinstance(event, Refused)]

    @asynccontextmanager
    async def open(self) -> AsyncIterator["House"]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.doors.run)
            yield self
            nursery.cancel_scope.cancel()

    async def pair(self, link: str = "a link") -> tuple[Lane, Lane]:
        """Two ends of a lane; the first is of the node with the door."""
        ends: list[Lane] = []
        with self.doors.offer(link, [self.kind], self.addresses) as offered:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._open, travelled(offered.offer), ends)
                ends.insert(0, await offered.lane())
        return ends[0], ends[1]

    async def _open(self, offer: Offer, ends: list[Lane]) -> None:
        ends.append(await self.doors.open("the link's other end", offer, self.reach))

    async def connected(self) -> trio.abc.Stream:
        """A connection to the door that has said nothing yet."""
        match self.door:
            case TcpDoor(port=port):
                return await trio.open_tcp_stream(HERE, port)
            case UnixDoor(path=path):
                return await trio.open_unix_socket(path)
            case _:
                return self.hall.connect(NODE)


def travelled(offer: Offer) -> Offer:
    """As the peer reads it."""
    return Offer.read_untrusted(codec.decode_untrusted(codec.encode(offer.row())))


def in_house(kind: Kind, folder: Path, test: Callable[[House], Awaitable[None]]) -> None:
    """Run a test with the doors open."""

    async def main() -> None:
        with trio.fail_after(_PATIENCE_S):
            async with House(kind, folder).open() as house:
                await test(house)

    trio.run(main)


async def is_gone(stream: trio.abc.Stream) -> bool:
    """Whether the other side closes without having said a byte."""
    try:
        return await stream.receive_some(1) == b""
    except trio.BrokenResourceError:
        return True


def open_files() -> int:
    """File descriptors of this process; what earlier tests have left in cycles is gone first."""
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))
