"""One node's part in one mesh: everything of this room, put together and run in one nursery.

    wire -> endpoint -> links -> gossip -> drafting   who belongs; what admins sign together
              '-> port -> paths     '-> whereabouts     who is where
                  '-> liveness      '-> bulk            much data, by lanes

A link is kept to every member whose address is known, as long as they are few; with more members
than LINKS_KEPT_MAX some are chosen (mesh/neighbours.py), and others dialled when they are needed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import trio

from core import limits
from core.crypto import Entropy, system_entropy
from core.ids import NodeId
from core.keys import DeviceKeys
from mesh.bulk import Bulk
from mesh.datagrams import Datagrams
from mesh.drafting import Drafting
from mesh.gate import Gate
from mesh.gossip import Gossip
from mesh.hello import Engines, Speaker, host_tag
from mesh.lanes.doors import Doors
from mesh.lanes.tcp import TcpDoor
from mesh.lanes.unix import UnixDoor
from mesh.leaf import Leaf
from mesh.link import Link, Services
from mesh.links import Context, Links
from mesh.liveness import Around, Liveness
from mesh.members.authoring import Author
from mesh.members.membership import Changes, Membership
from mesh.neighbours import neighbours
from mesh.paths import Paths
from mesh.port import Port
from mesh.quic.connection import Connection
from mesh.quic.endpoint import ALPN_LINK, ALPN_PAIR, Endpoint, Setup
from mesh.quic.engine import Kind
from mesh.recollection import Recollection
from mesh.records import Place
from mesh.whereabouts import Hints, Whereabouts
from mesh.wire import Address, Wire

_ENGINES = {Kind.QH3: Engines.QH3, Kind.AIOQUIC: Engines.AIOQUIC}


class Keeper(Protocol):
    """Where a node keeps what it learns."""

    async def save_members(self, changes: Changes) -> None:
        """Keep operations, for good, before anybody acts on them."""

    async def save_records(self, data: bytes) -> None:
        """Keep the addresses of others; losing them costs time."""

    async def save_presence(self, data: bytes) -> None:
        """Keep who was away for how long; losing it costs patience."""

    async def save_drafts(self, data: bytes) -> None:
        """Keep what admins are to sign; losing it costs a signature."""


@dataclass(frozen=True, slots=True)
class Own:
    """What a mesh needs to know of this node."""

    keys: DeviceKeys = field(repr=False)
    cert: bytes = field(repr=False)
    boot_id: bytes  # names the running system
    now_ms: Callable[[], int]
    places: Callable[[], Iterable[Place]]  # where it can be found
    tcp: TcpDoor | None = None  # where lanes come in
    unix: UnixDoor | None = None
    engines: frozenset[Kind] = frozenset(Kind)
    chance: Callable[[], float] = lambda: 0.5
    entropy: Entropy = field(default=system_entropy, repr=False)


class Mesh:
    """Runs a node's links to one mesh; `run` owns every task."""

    def __init__(
        self, wire: Wire, own: Own, membership: Membership, keeper: Keeper, *, is_whole: bool = True
    ) -> None:
        self.membership = membership
        self.own = own
        roster = membership.roster()
        now_ms, now = own.now_ms(), trio.current_time()
        self._datagrams = Datagrams(own.keys, roster, now_ms, now, entropy=own.entropy)
        self.leaf = Leaf.make(own.keys.sign_seed, own.entropy)
        tag = host_tag(own.boot_id, membership.mesh_id)
        speaker = Speaker(
            key=own.keys.signing_key(),
            cert=own.cert,
            engines=Engines(sum(_ENGINES[kind] for kind in own.engines)),
            host=tag,
            incarnation=self._datagrams.session,
        )
        setup = Setup(self.leaf, own.engines, alpns=(ALPN_LINK, ALPN_PAIR), entropy=own.entropy)
        self.endpoint = Endpoint(wire, setup, self._datagram_arrived)
        self.port = Port(self._datagrams, self.endpoint.send_datagram, own.now_ms, own.entropy)
        context = Context(
            own=speaker,
            leaf=self.leaf.der,
            roster=roster,
            now_ms=own.now_ms,
            news=membership.news,
            chance=own.chance,
            entropy=own.entropy,
        )
        self.services = Services()
        self.links = Links(self.endpoint, context, self.services, self._serve_stranger)
        self.paths = Paths(self.links, self.port, own.engines, self._seen)
        self.past = Recollection(membership, self.node, is_whole=is_whole, near=self._near)
        self.gossip = Gossip(self.links, membership, keeper.save_members, own.chance, self.past)
        hints = Hints(self.paths.kind, self.paths.datagram_bytes)
        self.whereabouts = Whereabouts(self.links, context, keeper.save_records, own.places, hints)
        doors = Doors([door for door in (own.tcp, own.unix) if door is not None])
        self.bulk = Bulk(self.links, doors, self.paths, tag, self._tcp_port)
        self.author = Author(membership, speaker.key, self.past.check)
        self.liveness = Liveness(self.port, self.links, self._around(), keeper.save_presence)
        self.drafting = Drafting(
            self.links,
            self.author,
            self.gossip,
            keeper.save_drafts,
            own.now_ms,
            self.whereabouts.ways,
        )
        self.gate = Gate(self.author, self.leaf.der, self.gossip, own.now_ms, own.entropy)
        self._kept: set[NodeId] = set()
        self.links.watch(self._link_changed)
        self.gossip.watch(lambda _changes: self._members_changed())
        self.whereabouts.watch(self._moved)

    @property
    def node(self) -> NodeId:
        """This node."""
        return self.own.keys.node_id()

    @property
    def local(self) -> Address:
        """Where it listens."""
        return self.endpoint.local

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every peer is told."""
        parts = (self.endpoint, self.port, self.links, self.paths, self.gossip, self.bulk)
        async with trio.open_nursery() as nursery:
            for part in (*parts, self.whereabouts, self.liveness, self.drafting):
                await nursery.start(part.run)
            self.keep_links()
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                # All are cancelled at one moment, and this one at once: the endpoint still waits
                # for its own tasks, and its wire takes what is said now.
                self.liveness.leave()

    def _around(self) -> Around:
        def members() -> list[NodeId]:
            return [member.node for member in self.membership.members() if member.is_active]

        def addresses(node: NodeId) -> list[Address]:
            return [way.address for way in self.whereabouts.ways(node)]

        own = self.own
        return Around(
            own=self.node,
            members=members,
            addresses=addresses,
            is_on_line=lambda: any(True for _ in own.places()),
            now_ms=own.now_ms,
            chance=own.chance,
        )

    # --- who is linked ----------------------------------------------------------------------------

    def keep_links(self) -> None:
        """Look at who belongs and where they are, and keep links accordingly."""
        wanted = self._wanted()
        for node in self._kept - wanted:
            self.links.forget(node)
        for node in wanted:
            if ways := self.whereabouts.ways(node):
                self.links.keep(node, ways)
        self._kept = wanted

    def _members_changed(self) -> None:
        self.keep_links()
        self.liveness.members_changed()

    def _moved(self, node: NodeId) -> None:
        """More is known of where somebody is."""
        if node in self._kept and (ways := self.whereabouts.ways(node)):
            self.links.keep(node, ways)

    def _near(self) -> set[NodeId]:
        """Those to whom there should be a link."""
        others = self._others()
        own = others.pop(self.node, b"")  # none: we are put out, and nobody lets us in
        return neighbours(own, others)

    def _others(self) -> dict[NodeId, bytes]:
        return {m.node: m.dht_id for m in self.membership.members() if m.is_active}

    def _wanted(self) -> set[NodeId]:
        others = self._others()
        others.pop(self.node, None)
        chosen, known = self._near(), self.whereabouts.ways
        if not any(map(known, chosen)):  # whoever can be reached knows where they are
            chosen |= set(islice(filter(known, others), limits.LINK_RINGS))
        return chosen

    def _link_changed(self, link: Link, is_up: bool) -> None:  # noqa: FBT001 - as links tell it
        if is_up:
            self._datagrams.met(link.peer)

    # --- what the parts ask -----------------------------------------------------------------------

    async def _serve_stranger(self, connection: Connection) -> None:
        await self.gate.serve(connection)

    def _datagram_arrived(self, data: bytes, source: Address) -> None:
        self.port.arrived(data, source)

    def _seen(self, link: Link, address: Address) -> None:
        self.whereabouts.saw(link, address)

    def _tcp_port(self) -> int:
        return self.own.tcp.port if self.own.tcp is not None else 0
