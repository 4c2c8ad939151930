"""Many members that look after each other by datagram alone: no links, in virtual time."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

import trio

from core.ids import NodeId
from mesh.liveness import Around, Liveness
from mesh.messages import State
from mesh.roster import StaticRoster
from mesh.wire import Address
from tests.support.neighbours import Neighbour, a_neighbour, pass_time, start
from tests.support.nodes import Node, a_node, a_roster
from tests.support.simnet import Datagram, Host, SimNet

PORT = 4_000


@dataclass
class Ship:
    """One member, where it lives, and what it noticed."""

    host: Host
    one: Neighbour
    liveness: Liveness
    saved: list[bytes]
    noticed: list[tuple[float, NodeId, State]] = field(default_factory=list)

    @property
    def id(self) -> NodeId:
        """Who it is."""
        return self.one.id

    def crash(self) -> None:
        """It is gone without a word."""
        self.one.scope.cancel()
        self.host.crash()

    def unwell(self) -> dict[NodeId, State]:
        """Who does not look alive to it."""
        return {n: s for n, s in self.liveness.swim.states().items() if s != State.ALIVE}


@dataclass
class Fleet:
    """All of them."""

    net: SimNet
    nursery: trio.Nursery
    roster: StaticRoster
    at: dict[NodeId, Address] = field(default_factory=dict)
    all: list[Ship] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)  # datagrams, by the host of the sender

    async def settle(self, node: Node, host: Host | None = None) -> Ship:
        """One more, at work."""
        host = host or self.net.host()
        wire = host.wire(PORT)
        self.at[node.id] = wire.local
        neighbour = a_neighbour(wire, node, self.roster, clock=host.now_ms)
        saved: list[bytes] = []

        async def save(data: bytes) -> None:
            await trio.lowlevel.checkpoint()
            saved.append(data)

        around = Around(
            own=node.id,
            members=lambda: list(self.at),
            addresses=lambda other: [self.at[other]],
            is_on_line=lambda: True,
            now_ms=host.now_ms,
            chance=self.net.rng.random,
        )
        liveness = Liveness(neighbour.port, neighbour.links, around, save)
        ship = Ship(host, neighbour, liveness, saved)
        liveness.watch(lambda n, s: ship.noticed.append((trio.current_time(), n, s)))
        await start(self.nursery, neighbour, liveness)
        self.all.append(ship)
        return ship

    async def restart(self, who: Ship) -> Ship:
        """The same member, in a new process."""
        return await self.settle(who.one.node.restarted(), who.host)

    def forget_the_past(self) -> None:
        """Count anew from here."""
        self.sent.clear()
        for ship in self.all:
            ship.noticed.clear()

    async def until(self, holds: Callable[[], bool], within_s: float) -> float:
        """Wait for it, looking every half second; how long it took."""
        began = trio.current_time()
        while not holds():
            assert trio.current_time() - began < within_s, "it did not come about"
            await pass_time(0.5)
        return trio.current_time() - began

    def all_say(self, who: Ship, state: State, by: Iterable[Ship] | None = None) -> bool:
        """Whether this one looks so to all of them."""
        return all(v.liveness.state(who.id) == state for v in by or self.all if v is not who)


@cache
def _nodes(count: int) -> tuple[Node, ...]:
    return tuple(a_node(f"ship {n}", "the fleet") for n in range(count))


async def a_fleet(
    net: SimNet,
    count: int,
    scene: Callable[[Fleet], Awaitable[None]],
    *,
    all_know: bool = True,
) -> None:
    """So many members, who know already that the others are alive."""
    nodes = _nodes(count)
    roster = a_roster(nodes)
    async with trio.open_nursery() as nursery:
        fleet = Fleet(net, nursery, roster)
        net.taps.append(_counter(fleet))
        hosts = [net.host() for _ in nodes]
        for node, host in zip(nodes, hosts, strict=True):
            fleet.at[node.id] = Address(host.address, PORT)
        for node, host in zip(nodes, hosts, strict=True):
            await fleet.settle(node, host)
        if all_know:
            for ship in fleet.all:
                for node in nodes:
                    ship.liveness.swim.heard(node.id, trio.current_time())
                ship.liveness.swim.changed()
        await scene(fleet)
        nursery.cancel_scope.cancel()


def _counter(fleet: Fleet) -> Callable[[Datagram], Iterable[Datagram]]:
    def count(datagram: Datagram) -> Iterable[Datagram]:
        fleet.sent[datagram.source.host] += 1
        return [datagram]

    return count
