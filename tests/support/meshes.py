"""Whole meshes in one process, on a simulated network in virtual time."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from core.ids import NodeId
from mesh.members.membership import Changes, Membership
from mesh.mesh import Mesh, Own
from mesh.records import Place, PlaceKind
from tests.support.memberships import Person, Replica, found, person
from tests.support.simnet import Host, SimNet

PORT = 4_000


@dataclass
class Files:
    """What a node kept: in the order in which it did."""

    members: list[Changes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    presence: list[bytes] = field(default_factory=list)
    drafts: list[bytes] = field(default_factory=list)

    async def save_members(self, changes: Changes) -> None:
        await trio.lowlevel.checkpoint()
        self.members.append(changes)

    async def save_records(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.records.append(data)

    async def save_presence(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.presence.append(data)

    async def save_drafts(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.drafts.append(data)


@dataclass
class Seat:
    """One person's node: where it is and what it knows."""

    who: Person
    host: Host
    mesh: Mesh
    files: Files
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def node(self) -> NodeId:
        return self.who.node

    def linked(self) -> set[NodeId]:
        return {link.node for link in self.mesh.links.all()}

    def replica(self) -> Replica:
        """To write in its membership."""
        return Replica(self.who, self.mesh.membership)


@dataclass
class Town:
    """All of them."""

    net: SimNet
    nursery: trio.Nursery
    seats: list[Seat] = field(default_factory=list)

    async def settle(self, who: Person, membership: Membership) -> Seat:
        """One more node, running."""
        host = self.net.host()
        wire = host.wire(PORT)

        def places() -> list[Place]:
            return [Place(PlaceKind.LOCAL, wire.local)]

        device = who.devices[0]
        own = Own(
            keys=device.keys,
            cert=device.cert,
            boot_id=who.name.encode(),
            now_ms=host.now_ms,
            places=places,
            chance=self.net.rng.random,
        )
        files = Files()
        seat = Seat(who, host, Mesh(wire, own, membership, files), files)
        self.seats.append(seat)
        await self.nursery.start(self._run, seat)
        return seat

    async def _run(self, seat: Seat, *, task_status: trio.TaskStatus[None]) -> None:
        with seat.scope:
            await seat.mesh.run(task_status=task_status)

    async def until(self, holds: Callable[[], bool], within_s: float = 60) -> float:
        """Wait for it, in virtual time; how long it took."""
        began = trio.current_time()
        while not holds():
            assert trio.current_time() - began < within_s, "it did not come about"
            with trio.move_on_after(0.01):
                await trio.sleep_forever()
        return trio.current_time() - began


async def a_town(
    net: SimNet, names: Sequence[str], scene: Callable[[Town], Awaitable[None]]
) -> None:
    """A mesh of these people; all know where the first one is, and no more."""
    people = [person(name) for name in names]
    first = found(people[0])
    for who in people[1:]:
        first.bring(who)
    async with trio.open_nursery() as nursery:
        town = Town(net, nursery)
        for who in people:
            await town.settle(who, first.of(who).membership)
        meet(town.seats[0], town.seats[1:])
        await scene(town)
        nursery.cancel_scope.cancel()


def meet(known: Seat, others: Sequence[Seat]) -> None:
    """Tell these where that one is."""
    for seat in others:
        seat.mesh.whereabouts.hint(known.node, [known.mesh.local])
        seat.mesh.keep_links()
