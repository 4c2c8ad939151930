"""Nodes that meet: each with its endpoint and its links, on a simulated network or a real one."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import trio

from core.ids import NodeId
from mesh.frames import LENGTH_BYTES, Frame
from mesh.hello import Initiator, Said
from mesh.link import Link, Services, read_frame
from mesh.links import Context, Links, Way
from mesh.quic.connection import Connection
from mesh.quic.endpoint import Endpoint, Setup
from mesh.quic.engine import Kind
from mesh.quic.stream import QuicStream
from mesh.roster import Roster
from mesh.wire import Address, Wire
from tests.support.nodes import Node
from tests.support.simnet import Host

NOW_MS = 1_800_000_000_000
TRANSPORT = "quic portal/1"


async def let_time_pass(seconds: float) -> None:
    """In virtual time only: everything that happens meanwhile happens."""
    assert trio.lowlevel.current_clock().__class__.__name__ == "MockClock"
    with trio.move_on_after(seconds):
        await trio.Event().wait()


async def echo(_link: Link, arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Answers what it was asked."""
    return arguments


async def count_bytes(
    _link: Link, _arguments: tuple[object, ...], stream: trio.abc.HalfCloseableStream
) -> None:
    """Reads to the end and says how much it was."""
    size = 0
    async for data in stream:
        size += len(data)
    await stream.send_all(size.to_bytes(8))


def simple() -> Services:
    """A little of each."""
    return Services({"echo": echo}, {}, {"count": count_bytes})


@dataclass
class Place:
    """A node at work."""

    node: Node
    wire: Wire
    endpoint: Endpoint
    links: Links
    scope: trio.CancelScope
    ended: trio.Event
    seen: list[tuple[Link, bool]] = field(default_factory=list)  # what watchers were told
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def id(self) -> NodeId:
        """Who it is."""
        return self.node.id

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.endpoint.local

    def way(self, kind: Kind) -> Way:
        """How others reach it."""
        return Way(self.address, kind)

    async def stop(self) -> None:
        """End it, as a process ends that is asked to; every peer is told."""
        self.scope.cancel()
        await self.ended.wait()

    def kill(self, host: Host) -> None:
        """End it as a machine that loses power: nobody is told."""
        self.scope.cancel()
        host.crash()

    async def told(self, *, is_up: bool, count: int = 1) -> Link:
        """Wait until so many links have come (or gone) in all; the last of them."""
        while True:
            links = [link for link, was_up in self.seen if was_up is is_up]
            if len(links) >= count:
                return links[count - 1]
            await self.changed.wait()

    def tell(self, link: Link, *, is_up: bool) -> None:
        """What its links call."""
        self.seen.append((link, is_up))
        self.changed.set()
        self.changed = trio.Event()


async def settle(
    nursery: trio.Nursery,
    wire: Wire,
    node: Node,
    roster: Roster,
    services: Services | None = None,
    now_ms: Callable[[], int] = lambda: NOW_MS,
    **context: object,
) -> Place:
    """Start a node on this wire, in this nursery."""
    endpoint = Endpoint(wire, Setup(node.leaf), lambda _data, _source: None)
    own = Context(node.speaker, node.leaf.der, roster, now_ms, **context)  # type: ignore[arg-type]  # what Context takes
    links = Links(endpoint, own, services or simple())
    place = Place(node, wire, endpoint, links, trio.CancelScope(), trio.Event())
    links.watch(lambda link, is_up: place.tell(link, is_up=is_up))

    async def live(task_status: trio.TaskStatus[None]) -> None:
        try:
            with place.scope:
                async with trio.open_nursery() as own_nursery:
                    await own_nursery.start(endpoint.run)
                    await own_nursery.start(links.run)
                    task_status.started()
        finally:
            place.ended.set()

    await nursery.start(live)
    return place


class Hand:
    """A peer that plays its part frame by frame, as far as a test wants it to."""

    def __init__(self, connection: Connection, control: QuicStream) -> None:
        self.connection = connection
        self.control = control

    @classmethod
    async def dial(
        cls,
        endpoint: Endpoint,
        to: Place,
        node: Node,
        roster: Roster,
        kind: Kind,
        *,
        now_ms: int = NOW_MS,
    ) -> "Hand":
        """One that has said a true HELLO as `node`; what comes back is not read yet."""
        connection = await endpoint.dial(to.address, kind)
        asked = Initiator(node.speaker, roster, to.node.id, TRANSPORT)
        hello = asked.hello_untrusted(connection.leaf, Said(), now_ms)
        control = await connection.open_stream()
        hand = cls(connection, control)
        await hand.say(1, hello)
        return hand

    async def say(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Send a frame that may be anything."""
        length = 2 + len(body)
        await self.control.send_all(length.to_bytes(LENGTH_BYTES) + bytes([kind, flags]) + body)

    async def hear(self) -> Frame | None:
        """The next frame of the other side."""
        return await read_frame(self.control)


def elsewhere(node: Node, **said: object) -> Node:
    """The same node, saying something else of itself."""
    return replace(node, speaker=replace(node.speaker, **said))  # type: ignore[arg-type]  # what Speaker takes
