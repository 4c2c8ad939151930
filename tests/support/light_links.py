"""Links without QUIC, for meshes too large to run whole: a thousand nodes in one process.

What mesh/gossip.py asks of links, and no more: notices in their order, watchers, drops. A notice
takes the time its way takes: the sender's uplink, half a round trip of its own for each pair, a
little chance, and the repair of a loss now and then, which delays what comes after it. A suite
that real links pass as well says what else holds (tests/sim/test_light_links.py).
"""

import heapq
import itertools
import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import trio

from core import codec, limits
from core.errors import FormatError, PortalError
from core.ids import NodeId
from mesh.errors import LinkClosed
from mesh.hello import News
from mesh.link import Services
from mesh.roster import Roster

_log = logging.getLogger(__name__)
AROUND_BYTES = 80  # a notice in its frame, its packet and its datagram
ACK_BYTES = 60  # what comes back for it
_AWAY = "out of reach"


@dataclass(frozen=True)
class Terrain:
    """What lies between nodes."""

    one_way_s: tuple[float, float] = (0.020, 0.150)  # one value for each pair
    jitter_s: float = 0.010
    loss: float = 0.01  # of notices: found out and said again after a round trip and a half
    uplink_bits_per_s: float = 20e6


@dataclass
class Said:
    """What a HELLO tells: here, the news."""

    news: News


@dataclass
class Peer:
    """Of a link."""

    node: NodeId
    hello: Said


@dataclass
class Count:
    """What a node has sent and got."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


class LightNet:
    """Carries notices; `run` is to be started."""

    def __init__(self, rng: Random, terrain: Terrain = Terrain()) -> None:
        self.rng = rng
        self.terrain = terrain
        self.nursery: trio.Nursery | None = None
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as self.nursery:
            task_status.started()
            while True:
                due = self._due[0][0] if self._due else math.inf
                with trio.CancelScope(deadline=due) as self._scope:
                    await trio.sleep_forever()
                now = trio.current_time()
                while self._due and self._due[0][0] <= now:
                    heapq.heappop(self._due)[2]()

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._due, (when, next(self._numbers), do))
        self._scope.deadline = min(self._scope.deadline, when)

    def connect(self, one: "LightLinks", other: "LightLinks") -> "tuple[LightLink, LightLink]":
        """Link two nodes; `one` has dialled. Refused if either does not let the other in."""
        if one.roster.member(other.node) is None or other.roster.member(one.node) is None:
            raise LinkClosed("refused")
        way_s = self.rng.uniform(*self.terrain.one_way_s)
        said = [Peer(side.node, Said(side.news())) for side in (one, other)]
        near, far = LightLink(one, said[1], way_s), LightLink(other, said[0], way_s)
        near.far, far.far = far, near
        one.adopt(near)
        other.adopt(far)
        return near, far


class LightLinks:
    """The links of one node."""

    def __init__(
        self, net: LightNet, node: NodeId, roster: Roster, news: Callable[[], News] = News
    ) -> None:
        self.services = Services()
        self.net = net
        self.node = node
        self.roster = roster
        self.news = news
        self.count = Count()
        self.free_at = -math.inf  # when the uplink has sent all it was given
        self._links: dict[NodeId, LightLink] = {}
        self._watchers: list[Callable[[LightLink, bool], None]] = []

    def all(self) -> "list[LightLink]":
        """The links there are."""
        return [link for link in self._links.values() if not link.over.is_set()]

    def get(self, node: NodeId) -> "LightLink | None":
        """The link to a node, if there is one."""
        link = self._links.get(node)
        return link if link is not None and not link.over.is_set() else None

    def watch(self, watcher: "Callable[[LightLink, bool], None]") -> None:
        """Be told of every link that comes and goes."""
        self._watchers.append(watcher)

    def drop(self, node: NodeId, word: str) -> None:
        """End what there is with this node, at once."""
        if link := self._links.get(node):
            link.close(word)

    def adopt(self, link: "LightLink") -> None:
        """Make it the link to its node; the one there goes."""
        if there := self.get(link.node):
            there.close("replaced by a newer link")
        self._links[link.node] = link
        for watcher in self._watchers:
            watcher(link, True)

    def retire(self, link: "LightLink") -> None:
        """Take an ended link from the table."""
        if self._links.get(link.node) is link:
            del self._links[link.node]
            for watcher in self._watchers:
                watcher(link, False)


@dataclass(eq=False)
class LightLink:
    """One side of a link."""

    owner: LightLinks
    peer: Peer
    way_s: float
    over: trio.Event = field(default_factory=trio.Event)
    wanted: bool = True
    word: str = ""
    is_used: bool = False

    def __post_init__(self) -> None:
        self.far: LightLink
        self._arrived_at = -math.inf  # what was sent last will have arrived then
        self._inbox: deque[tuple[str, codec.Row, int]] = deque()
        self._is_read = False
        self._unread_bytes = 0  # of ours, under way or waiting there
        self._room = trio.lowlevel.ParkingLot()

    @property
    def node(self) -> NodeId:
        """Who is at the other end."""
        return self.peer.node

    async def notify(self, name: str, *arguments: object) -> None:
        """Tell."""
        await trio.lowlevel.checkpoint()
        size = sum(len(part) for part in arguments if isinstance(part, bytes)) + AROUND_BYTES
        while not self.over.is_set() and self._unread_bytes > limits.STREAM_WINDOW_BYTES:
            await self._room.park()
        if self.over.is_set():
            raise LinkClosed(where=self.node.short())
        self._unread_bytes += size
        self._count(size)
        self._at_the_other_end(size, lambda: self.far.arrives(name, arguments, size))

    def close(self, word: str) -> None:
        """End it now; the peer is told the word."""
        if not self.over.is_set():
            self._end(word)
            self._at_the_other_end(AROUND_BYTES, lambda: self.far._end(word))

    def _end(self, word: str) -> None:
        if not self.over.is_set():
            self.word = word
            self.over.set()
            self._inbox.clear()
            self._room.unpark_all()
            self.owner.retire(self)

    # --- the way there ----------------------------------------------------------------------------

    def _at_the_other_end(self, size: int, do: Callable[[], None]) -> None:
        net, owner = self.owner.net, self.owner
        terrain, now = net.terrain, trio.current_time()
        owner.free_at = max(now, owner.free_at) + size * 8 / terrain.uplink_bits_per_s
        took_s = self.way_s + net.rng.random() * terrain.jitter_s
        if net.rng.random() < terrain.loss:
            took_s += 3 * self.way_s
        self._arrived_at = max(self._arrived_at, owner.free_at + took_s)  # in order
        net.at(self._arrived_at, do)

    def _count(self, size: int) -> None:
        ours, theirs = self.owner.count, self.far.owner.count
        ours.sent += 1
        ours.sent_bytes += size
        ours.received_bytes += ACK_BYTES
        theirs.received += 1
        theirs.received_bytes += size
        theirs.sent_bytes += ACK_BYTES

    def arrives(self, name: str, arguments: codec.Row, size: int) -> None:
        """A notice of the other side."""
        if self.over.is_set():
            return
        self._inbox.append((name, arguments, size))
        if not self._is_read and self.owner.net.nursery is not None:
            self._is_read = True
            self.owner.net.nursery.start_soon(self._read)

    async def _read(self) -> None:
        """One after the other, as they came."""
        while self._inbox:
            name, arguments, size = self._inbox.popleft()
            self.far.was_read(size)
            note = self.owner.services.notices.get(name)
            try:
                if note is not None:
                    await note(self, arguments)  # type: ignore[arg-type]  # as if it were a Link
            except (FormatError, PortalError) as e:
                _log.warning("%s told %s, which failed: %s", self.node.short(), name, e)
        self._is_read = False

    def was_read(self, size: int) -> None:
        """The peer has taken so much of ours."""
        self._unread_bytes -= size
        self._room.unpark_all()


def part(one: LightLinks) -> None:
    """A node is out of reach: its links end on both sides, without a word."""
    for link in one.all():
        link._end(_AWAY)
        link.far._end(_AWAY)
