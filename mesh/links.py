"""All links of a node, in one nursery: made, answered, kept, ended (mesh/SPEC.md, Links).

    reach(node, addresses)    a link: the one there is, or the first address that answers and proves
    keep(node, addresses)     the same for ever: dialled again, ever more patiently, until forgotten
    drop(node, word)          end it at once, and every attempt under way: it may not connect

Between two nodes there is one link. When both have dialled at the same moment, the one dialled by
the smaller NodeID stays; when a peer has started anew (its incarnation differs), the newer one
stays, as the older leads to a process that is gone. Nothing of a caller is served before AUTH.

Everything that changes the table of links is synchronous, so what is looked up is true until the
next await: a node that was dropped has no link, and none comes that was under way.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import trio

from core import limits
from core.crypto import Entropy, system_entropy
from core.errors import FormatError, PortalError
from core.ids import NodeId
from mesh import greeting
from mesh.errors import LinkError, NotTrusted, TurnedAway, Unreachable
from mesh.hello import Initiator, News, Refusal, Refused, Responder, Said, Speaker
from mesh.link import Link, Services
from mesh.quic.connection import VIOLATION, Connection
from mesh.quic.endpoint import ALPN_LINK, Endpoint
from mesh.quic.engine import Kind
from mesh.roster import Roster
from mesh.wire import Address

_log = logging.getLogger(__name__)
_DOUBLINGS_MAX = 16
_NOT_NOW = "not now"
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to try: an address, and the engine to speak there."""

    address: Address
    kind: Kind = Kind.QH3
    datagram_bytes: int | None = None  # the largest that is known to arrive; None: what fits most


@dataclass(frozen=True, slots=True)
class Context:
    """What links need from whoever runs them."""

    own: Speaker
    leaf: bytes
    roster: Roster
    now_ms: Callable[[], int]
    news: Callable[[], News] = News
    chance: Callable[[], float] = lambda: 1.0  # in [0, 1): spreads what would happen at once
    entropy: Entropy = field(default=system_entropy, repr=False)


class Links:
    """Makes, answers and keeps links; `run` owns every task of them."""

    def __init__(
        self,
        endpoint: Endpoint,
        context: Context,
        services: Services,
        pair: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> None:
        self.services = services
        self._endpoint = endpoint
        self._context = context
        self._pair = pair  # who serves strangers that come with an invite
        self._responder = Responder(context.own, context.roster, context.leaf, context.entropy)
        self._links: dict[NodeId, Link] = {}
        self._dials: dict[NodeId, _Dial] = {}
        self._kept: dict[NodeId, _Kept] = {}
        self._dialling = trio.CapacityLimiter(limits.DIALS_MAX)
        self._greeting = _Crowd()
        self._pairing = _Crowd()
        self._nursery: trio.Nursery | None = None
        self._watchers: list[Callable[[Link, bool], None]] = []
        self.turned_away_by: dict[NodeId, str] = {}  # who did not let us in, and why

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every link is closed."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for node, kept in self._kept.items():
                    nursery.start_soon(self._keep, node, kept)
                task_status.started()
                with suppress(trio.EndOfChannel):  # the endpoint has ended, and so all its links
                    while True:
                        connection = await self._endpoint.accept()
                        nursery.start_soon(self._answer, connection)
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None

    # --- what others ask for ----------------------------------------------------------------------

    def all(self) -> list[Link]:
        """The links there are."""
        return [link for link in self._links.values() if not link.over.is_set()]

    def get(self, node: NodeId) -> Link | None:
        """The link to a node, if there is one."""
        link = self._links.get(node)
        return link if link is not None and not link.over.is_set() else None

    def watch(self, watcher: Callable[[Link, bool], None]) -> None:
        """Be told of every link that comes (True) and goes (False), in this order, once each.

        Of two links to one node the older one goes before the newer one comes.
        """
        self._watchers.append(watcher)

    async def reach(self, node: NodeId, ways: Sequence[Way]) -> Link:
        """The link there is, or a new one; of several callers one dials and all get the link."""
        await trio.lowlevel.checkpoint()
        if link := self.get(node):
            return link
        if node == self._context.own.node:
            raise Refused(Refusal.ITSELF)
        if self._context.roster.member(node) is None:
            raise Refused(Refusal.NOT_MEMBER)
        if self._nursery is None:
            raise Unreachable("this node is not running", where=node.short())
        dial = self._dials.get(node)
        if dial is None:
            dial = self._dials[node] = _Dial(_unreachable(node))
            self._nursery.start_soon(self._dial, node, _some(ways), dial)
        await dial.done.wait()
        if dial.link is None:
            raise dial.failure
        return dial.link

    def keep(self, node: NodeId, ways: Sequence[Way]) -> None:
        """Have a link to this node whenever it can be had; new ways replace the old ones."""
        if kept := self._kept.get(node):
            kept.ways = _some(ways)
            kept.nudged.set()
            return
        kept = self._kept[node] = _Kept(_some(ways))
        if link := self.get(node):
            link.wanted = True
        if self._nursery is not None:
            self._nursery.start_soon(self._keep, node, kept)

    def forget(self, node: NodeId) -> None:
        """Do not keep a link to this node any more; the one there is ends when it is not used."""
        self.turned_away_by.pop(node, None)
        if kept := self._kept.pop(node, None):
            kept.scope.cancel()
        if link := self.get(node):
            link.wanted = False

    def nudge(self) -> None:
        """The network has changed: try now what waits for its turn, and see which links live on."""
        for kept in self._kept.values():
            kept.nudged.set()
        for link in self.all():
            link.ask()

    def nudge_one(self, node: NodeId) -> None:
        """This node is there again: if its link is kept, try now."""
        if kept := self._kept.get(node):
            kept.nudged.set()

    def drop(self, node: NodeId, word: str) -> None:
        """End what there is with this node, at once: it does not belong here any more."""
        self.forget(node)
        if dial := self._dials.pop(node, None):
            dial.failure = NotTrusted(f"the link was ended here: {word}", where=node.short())
            dial.scope.cancel()
        if link := self._links.get(node):
            link.close(word)
            self._retire(link)

    # --- dialling ---------------------------------------------------------------------------------

    async def _dial(self, node: NodeId, ways: Sequence[Way], dial: "_Dial") -> None:
        """Try all ways, one shortly after the other; the first that proves itself is the link."""
        try:
            with dial.scope:
                async with self._dialling, trio.open_nursery() as nursery:
                    for i, way in enumerate(ways):
                        delay_s = i * limits.DIAL_STAGGER_SECONDS
                        nursery.start_soon(self._try, node, way, delay_s, dial, nursery)
        finally:
            if self._dials.get(node) is dial:
                del self._dials[node]
                dial.link = dial.link or self.get(node)  # meanwhile the peer may have come to us
                dial.failure = min(dial.failures, key=_weight, default=dial.failure)
            dial.done.set()

    async def _try(
        self, node: NodeId, way: Way, delay_s: float, dial: "_Dial", others: trio.Nursery
    ) -> None:
        with trio.move_on_after(delay_s):
            await trio.sleep_forever()
        try:
            connection = await self._endpoint.dial(
                way.address, way.kind, datagram_bytes=way.datagram_bytes
            )
            link = await self._introduce(connection, node, dial.turn)
            if dial.scope.cancel_called:  # dropped just now
                link.close(_NOT_NOW)
                return
            dial.link = self._adopt(link)
        except LinkError as e:
            _log.debug("no link to %s at %s: %s", node.short(), way.address, e)
            dial.failures.append(e)
            if isinstance(e, TurnedAway) and node not in self.turned_away_by:
                self.turned_away_by[node] = e.word
                _log.warning("%s does not let this node in: %s", node.short(), e.word)
        else:
            others.cancel_scope.cancel()

    async def _introduce(self, connection: Connection, node: NodeId, turn: trio.Lock) -> Link:
        """AUTH, as the side that dialled.

        One HELLO at a time: the peer keeps the link that was proved last, and so do we.
        """
        context = self._context
        asked = Initiator(context.own, context.roster, node, greeting.TRANSPORT, context.entropy)
        said = Said(news=context.news(), seen=connection.peer)
        is_known = False
        try:
            async with turn:
                control, peer = await greeting.introduce(connection, asked, said, context.now_ms())
            is_known = True
        finally:
            if not is_known:
                connection.close(VIOLATION, greeting.STRANGER)
        return Link(connection, control, peer, self.services)

    # --- answering --------------------------------------------------------------------------------

    async def _answer(self, connection: Connection) -> None:
        if connection.alpn == ALPN_LINK:
            with self._greeting.place(connection):
                await self._greet(connection)
        elif self._pair is not None:
            with self._pairing.place(connection):
                await self._serve_stranger(connection, self._pair)
        else:
            connection.close()

    async def _greet(self, connection: Connection) -> None:
        """AUTH, as the side that was dialled."""
        context = self._context
        said = Said(news=context.news(), seen=connection.peer)
        peer = connection.peer
        try:
            control, known = await greeting.greet(
                connection, self._responder, said, context.now_ms()
            )
            self._adopt(Link(connection, control, known, self.services))
        except Refused as e:
            # A member that is refused is worth a person's look; strangers are the weather.
            level = logging.INFO if e.reason.told == greeting.STRANGER else logging.WARNING
            _log.log(level, "refused %s: %s", peer, e)
            await self._let_go(connection)
        except FormatError as e:
            _log.info("refused %s: %s", peer, e)
            await self._let_go(connection)
        except LinkError as e:
            _log.debug("%s: %s", peer, e)
            connection.close(VIOLATION, greeting.STRANGER)
        except trio.Cancelled:
            connection.close(0, _NOT_NOW)
            raise

    async def _let_go(self, connection: Connection) -> None:
        """Close, once the refusal had time to be read."""
        try:
            with trio.move_on_after(limits.REFUSAL_SECONDS):
                await connection.over.wait()
        finally:
            connection.close(VIOLATION, greeting.STRANGER)

    async def _serve_stranger(
        self, connection: Connection, pair: Callable[[Connection], Awaitable[None]]
    ) -> None:
        try:
            await pair(connection)
        except* (PortalError, *_BROKEN) as e:
            _log.info("%s did not pair: %s", connection.peer, e.exceptions[0])
        finally:
            connection.close()

    # --- the one link per node --------------------------------------------------------------------

    def _adopt(self, link: Link) -> Link:
        """Make it the link to its node, unless the one there stays; Refused if none may be."""
        node = link.node
        if self._context.roster.member(node) is None or self._nursery is None:
            link.close(greeting.STRANGER)  # removed while it said who it is
            raise Refused(Refusal.NOT_MEMBER)
        if there := self.get(node):
            if not self._replaces(link, there):
                link.close("there is a link already")
                return there
            there.close("replaced by a newer link")
        if gone := self._links.get(node):
            self._retire(gone)
        link.wanted = node in self._kept
        self._links[node] = link
        self.turned_away_by.pop(node, None)
        self._nursery.start_soon(self._serve, link)
        if (dial := self._dials.get(node)) and not dial.turn.locked():
            dial.scope.cancel()  # it has not said a word yet, and need not
        _log.info("link to %s (%s) is up", node.short(), link.peer.member.name)
        self._tell(link, is_up=True)
        return link

    def _replaces(self, link: Link, there: Link) -> bool:
        if link.peer.hello.incarnation != there.peer.hello.incarnation:
            return True
        if link.connection.dialled == there.connection.dialled:
            return True  # whoever dialled had a reason to do it again
        ours_is_smaller = self._context.own.node < link.node
        return link.connection.dialled == ours_is_smaller

    async def _serve(self, link: Link) -> None:
        try:
            await link.run()
        finally:
            self._retire(link)

    def _retire(self, link: Link) -> None:
        """Take an ended link from the table."""
        if self._links.get(link.node) is link:
            del self._links[link.node]
            _log.info("link to %s is down: %s", link.node.short(), link.word)
            self._tell(link, is_up=False)

    def _tell(self, link: Link, *, is_up: bool) -> None:
        for watcher in self._watchers:
            watcher(link, is_up)

    # --- keeping ----------------------------------------------------------------------------------

    async def _keep(self, node: NodeId, kept: "_Kept") -> None:
        failures = 0
        with kept.scope:
            while True:
                kept.nudged = trio.Event()  # before trying: what changes meanwhile counts
                try:
                    link = await self.reach(node, kept.ways)
                    since = trio.current_time()
                    await link.over.wait()
                    if trio.current_time() - since > limits.REDIAL_SECONDS_MAX:
                        failures = 0  # it held for a while
                except LinkError as e:
                    _log.debug("%s is not reached: %s", node.short(), e)
                wait_s = min(limits.REDIAL_SECONDS_MIN * 2**failures, limits.REDIAL_SECONDS_MAX)
                failures = min(failures + 1, _DOUBLINGS_MAX)
                with trio.move_on_after(wait_s * self._context.chance()):
                    await kept.nudged.wait()
                    failures = 0


def _some(ways: Sequence[Way]) -> Sequence[Way]:
    return tuple(ways[: limits.DIAL_WAYS_MAX])


def _weight(failure: LinkError) -> int:
    """Of several failures the lightest is told: the node's own word, not that at an old address."""
    if isinstance(failure, Refused) and failure.reason == Refusal.WRONG_NODE:
        return 2
    return 0 if isinstance(failure, NotTrusted) else 1


def _unreachable(node: NodeId) -> LinkError:
    return Unreachable(where=node.short(), hint="no address of it is known to work")


@dataclass(slots=True)
class _Dial:
    """An attempt to reach a node; when done it has the link, or the failure stands."""

    failure: LinkError
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    turn: trio.Lock = field(default_factory=trio.Lock)  # of those who have come through to a peer
    done: trio.Event = field(default_factory=trio.Event)
    link: Link | None = None
    failures: list[LinkError] = field(default_factory=list)


@dataclass(slots=True)
class _Kept:
    """A node whose link is wanted."""

    ways: Sequence[Way]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    nudged: trio.Event = field(default_factory=trio.Event)


class _Crowd:
    """Connections of strangers; when they are too many, whoever has taken longest has to go.

    So nobody keeps others out by taking a place and saying nothing.
    """

    def __init__(self) -> None:
        self._places: dict[Connection, None] = {}

    @contextmanager
    def place(self, connection: Connection) -> Iterator[None]:
        """Room for one."""
        if len(self._places) >= limits.STRANGERS_MAX:
            slowest = next(iter(self._places))
            del self._places[slowest]
            slowest.close(VIOLATION, "busy")
        self._places[connection] = None
        try:
            yield
        finally:
            self._places.pop(connection, None)
