"""A mesh of a thousand members in one process, in virtual time: real lists of members and gossip.

Links are light (tests/support/light_links.py), between the neighbours that nodes choose for
themselves (mesh/neighbours.py). What computing takes does not count in virtual time; writing does.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from random import Random

import trio

from core.ids import NodeId
from mesh.gossip import Gossip
from mesh.members.authoring import Author
from mesh.members.bodies import Kind
from mesh.members.membership import Changes, Membership
from mesh.neighbours import neighbours
from tests.support.copies import copy_of
from tests.support.light_links import LightLinks, LightNet, Terrain, part
from tests.support.memberships import Person, a_large_mesh, person
from tests.support.simnet import virtual_clock

WRITE_SECONDS = 0.005  # an append that is synced
SETTLE_SECONDS = 5


@dataclass
class Villager:
    """One member's node."""

    who: Person
    membership: Membership
    links: LightLinks
    gossip: Gossip
    heard_at: dict[bytes, float] = field(default_factory=dict)  # operations, once on disk

    @property
    def node(self) -> NodeId:
        """Its name."""
        return self.who.node

    @property
    def author(self) -> Author:
        """Its pen."""
        return Author(self.membership, self.who.device)

    def heed(self, changes: Changes) -> None:
        """What it wrote to its disk."""
        self.heard_at |= dict.fromkeys([op.id for op in changes.added], trio.current_time())


@dataclass
class Village:
    """All of them; `wanted` are the pairs that want a link."""

    net: LightNet
    villagers: dict[NodeId, Villager]
    founder: NodeId
    wanted: list[tuple[NodeId, NodeId]]

    def connect(self, pairs: Iterable[tuple[NodeId, NodeId]]) -> None:
        """Make links."""
        for pair in pairs:
            near, far = map(self.villagers.get, pair)
            if near is not None and far is not None:  # else it was put out
                self.net.connect(near.links, far.links)

    def away(self, nodes: Iterable[NodeId]) -> None:
        """These are out of reach."""
        for node in nodes:
            part(self.villagers[node].links)

    def back(self, nodes: set[NodeId]) -> None:
        """These are there again."""
        self.connect(pair for pair in self.wanted if nodes & set(pair))

    async def write(self, node: NodeId, write: Callable[[Author], Changes]) -> tuple[bytes, float]:
        """Somebody writes an operation; its id, and when."""
        villager, at = self.villagers[node], trio.current_time()
        changes = write(villager.author)
        await villager.gossip.publish(changes)
        return changes.added[0].id, at

    async def until_known(
        self, op_id: bytes, since: float, among: Iterable[NodeId] | None = None
    ) -> float:
        """Wait until all of them have it on disk; when the last one had, after `since`."""
        them = [self.villagers[node] for node in among or self.villagers]
        await until(lambda: all(op_id in one.heard_at for one in them))
        return max(one.heard_at[op_id] for one in them) - since

    def counts(self) -> tuple[int, int, int]:
        """Notices, bytes, and the most bytes of one node, since they were counted last."""
        found = [villager.links.count for villager in self.villagers.values()]
        for villager in self.villagers.values():
            villager.links.count = type(villager.links.count)()
        return (
            sum(count.sent for count in found),
            sum(count.sent_bytes for count in found),
            max(count.sent_bytes + count.received_bytes for count in found),
        )


async def until(holds: Callable[[], bool], within_s: float = 300) -> None:
    """Wait for it, in virtual time."""
    with trio.fail_after(within_s):
        while not holds():
            await pass_time(0.01)


async def pass_time(seconds: float) -> None:
    """Let others work."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


async def _save(_changes: Changes) -> None:
    await pass_time(WRITE_SECONDS)


@cache
def history(members: int) -> tuple[Membership, list[Person]]:
    """An ordinary life that leaves so many active members, and who they are."""
    operations = a_large_mesh(2 * members + members // 8 + 60)
    whole = Membership.begin_untrusted(operations[0])
    assert not whole.receive_untrusted(operations[1:]).refused
    size, count = 1, 1
    while count < members:
        kind = whole.set.ops[size].kind
        count += (kind == Kind.ADMIT) - (kind == Kind.REVOKE_USER)
        size += 1
    membership = Membership.begin_untrusted(operations[0])
    membership.receive_untrusted(operations[1:size])
    names = ["founder", *(f"p{n}" for n in range(len(operations)))]
    people: dict[NodeId, Person] = {}
    for name in names:
        if len(people) == len(membership.state.members):
            break
        who = person(name)
        if who.node in membership.state.members:
            people[who.node] = who
    active = [people[member.node] for member in membership.members() if member.is_active]
    assert len(active) == members
    return membership, active


def play(
    members: int, scene: Callable[[Village], Awaitable[None]], *, terrain: Terrain, seed: int = 1
) -> None:
    """Run `scene(village)`, all linked and quiet at its beginning."""
    trio.run(live, members, scene, terrain, seed, clock=virtual_clock())


async def live(
    members: int, scene: Callable[[Village], Awaitable[None]], terrain: Terrain, seed: int
) -> None:
    """The whole of it."""
    first, people = history(members)
    rng = Random(seed)
    net = LightNet(rng, terrain)
    async with trio.open_nursery() as nursery:
        await nursery.start(net.run)
        villagers = {}
        for who in people:
            membership = copy_of(first)
            links = LightLinks(net, who.node, membership.roster(), membership.news)
            gossip = Gossip(links, membership, _save, rng.random)  # type: ignore[arg-type]  # as light as they are
            villagers[who.node] = villager = Villager(who, membership, links, gossip)
            gossip.watch(villager.heed)
            await nursery.start(gossip.run)
        village = Village(net, villagers, person("founder").node, chosen_links(first))
        village.connect(village.wanted)
        await pass_time(SETTLE_SECONDS)
        village.counts()
        await scene(village)
        nursery.cancel_scope.cancel()


def chosen_links(membership: Membership) -> list[tuple[NodeId, NodeId]]:
    """The pairs of which one wants a link: both do."""
    names = {m.node: m.dht_id for m in membership.members() if m.is_active}
    pairs = set()
    for node, dht_id in names.items():
        others = {other: name for other, name in names.items() if other != node}
        pairs |= {(min(node, other), max(node, other)) for other in neighbours(dht_id, others)}
    return sorted(pairs)
