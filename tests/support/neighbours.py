"""Nodes with all that stands on links: datagrams, paths, lanes, members, records. Virtual time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from core.device_cert import DeviceCert
from core.ids import NodeId
from mesh.datagrams import Datagrams
from mesh.hello import Engines, News, Speaker
from mesh.leaf import Leaf
from mesh.link import Link, Services
from mesh.links import Context, Links, Way
from mesh.port import Port
from mesh.quic.endpoint import Endpoint, Setup
from mesh.quic.engine import Kind
from mesh.roster import Roster
from mesh.wire import Wire
from tests.support.entropy import fixed_entropy
from tests.support.memberships import Person
from tests.support.nodes import Node

NOW_MS = 1_800_000_000_000


def now_ms() -> int:
    """The wall clock of all: it goes with virtual time."""
    return NOW_MS + round(trio.current_time() * 1_000)


async def pass_time(seconds: float) -> None:
    """Let everybody else work for so long."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


async def until(is_so: Callable[[], object], seconds: float = 60) -> float:
    """Wait until it is so, looking every few milliseconds; when that was. Not for ever."""
    with trio.fail_after(seconds):
        while not is_so():
            await pass_time(0.005)
    return trio.current_time()


@dataclass
class Neighbour:
    """A node at work, and what it is made of."""

    node: Node
    context: Context
    wire: Wire
    endpoint: Endpoint
    links: Links
    datagrams: Datagrams
    port: Port
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def id(self) -> NodeId:
        """Who it is."""
        return self.node.id

    def way(self, kind: Kind = Kind.QH3) -> Way:
        """How others reach it."""
        return Way(self.endpoint.local, kind)

    async def meet(self, other: "Neighbour", kind: Kind = Kind.QH3) -> Link:
        """Our side of a link, once both have it."""
        link = await self.links.reach(other.id, [other.way(kind)])
        await until(lambda: other.links.get(self.id))
        return link


def a_neighbour(
    wire: Wire,
    node: Node,
    roster: Roster,
    *,
    clock: Callable[[], int] = now_ms,
    news: Callable[[], News] = News,
) -> Neighbour:
    """One that `start` sets to work; before, services can be added."""
    context = Context(node.speaker, node.leaf.der, roster, clock, news)
    first = iter([node.speaker.incarnation])
    rest = fixed_entropy(f"{node.name}: datagrams")
    datagrams = Datagrams(
        node.device, roster, clock(), trio.current_time(),
        entropy=lambda size: next(first, None) or rest(size),
    )  # fmt: skip
    port = Port(datagrams, lambda data, to: endpoint.send_datagram(data, to), clock)  # noqa: PLW0108 - of an endpoint that is made with it
    endpoint = Endpoint(wire, Setup(node.leaf), port.arrived)
    links = Links(endpoint, context, Services({}, {}, {}))
    links.watch(lambda link, is_up: datagrams.met(link.peer) if is_up else None)
    return Neighbour(node, context, wire, endpoint, links, datagrams, port)


async def start(nursery: trio.Nursery, one: Neighbour, *more: object) -> Neighbour:
    """Run it, and services on top of it (whatever has a `run`), until its scope is cancelled."""

    async def live(task_status: trio.TaskStatus[None]) -> None:
        with one.scope:
            async with trio.open_nursery() as own:
                for service in (one.endpoint, one.port, *more, one.links):
                    await own.start(service.run)  # type: ignore[attr-defined]  # see above
                task_status.started()

    await nursery.start(live)
    return one


_made: dict[bytes, Node] = {}


def node_of(who: Person, n: int = 0) -> Node:
    """A device of somebody in a membership, as a node."""
    device = who.devices[n]
    if device.node not in _made:
        _made[device.node] = _node(who, n)
    return _made[device.node]


def _node(who: Person, n: int) -> Node:
    device = who.devices[n]
    speaker = Speaker(
        key=device.key,
        cert=device.cert,
        engines=Engines.QH3 | Engines.AIOQUIC,
        host=bytes(32),
        incarnation=fixed_entropy(f"{who.name} {n}: incarnation")(16),
    )
    leaf = Leaf.make(device.keys.sign_seed, fixed_entropy(f"{who.name} {n}: leaf"))
    cert = DeviceCert.open_untrusted(device.cert)
    return Node(f"{who.name} {n}", None, device.keys, cert, leaf, speaker)  # type: ignore[arg-type]  # nobody asks for the root
