"""Who is where: address records kept, passed on, and followed (mesh/SPEC.md, Records).

    a link comes up         each side asks for the records it misses
    our addresses change    a new record of ours goes to every link, and from there to everybody;
                            the same when we offer others more or less room
    ways(node)              what to dial: the last address that worked, then by the record

Our own addresses are those the kernel would send from, and those peers say they see; of these the
ones that most linked peers tell, so that a single liar does not speak for all.

Each link has a task that sends, and a list of nodes whose records it is owed: however often a
record changes while a link is slow, it gets the newest one, once. What changes all the time is
passed on once a second.

    REQUEST "records"  [after, until, [[node, seq]...]]  ->  [[record...]]   of nodes in between
    NOTICE  "record"   [record]
"""

import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import trio

from core import codec, limits
from core.errors import FormatError, IntegrityError, NewerFormat, PortalError
from core.ids import NodeId
from mesh.budget import Budget
from mesh.errors import LinkError
from mesh.hello import Engines
from mesh.link import Link
from mesh.links import Context, Links, Way
from mesh.quic.engine import Kind
from mesh.records import Place, PlaceKind, Record, RecordBook, in_order, kept_places
from mesh.wire import Address

_log = logging.getLogger(__name__)
REQUEST = "records"
NOTICE = "record"
_EVERYWHERE = 32
# Nothing is sent there: the kernel only tells which address it would send from.
_FAR_AWAY = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


@dataclass(slots=True)
class _Talk:
    """With one peer, while its link lives."""

    link: Link
    owed: dict[NodeId, None] = field(default_factory=dict)  # whose records it shall get
    news: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    checks: Budget = field(
        default_factory=lambda: Budget(limits.RECORDS_CHECKED_PER_SECOND, trio.current_time())
    )


@dataclass(frozen=True, slots=True)
class Hints:
    """What others measure of the ways to a node, for the next connection."""

    kind: Callable[[NodeId], Kind | None] = lambda _node: None
    datagram_bytes: Callable[[Address], int | None] = lambda _address: None


class Whereabouts:
    """Keeps the book and our own record; `run` owns the tasks."""

    def __init__(
        self,
        links: Links,
        context: Context,
        save: Callable[[bytes], Awaitable[None]],
        own: Callable[[], Iterable[Place]],
        hints: Hints = Hints(),
    ) -> None:
        self.book = RecordBook(context.roster)
        self._links = links
        self._context = context
        self._now_ms = context.now_ms
        self._save = save
        self._own = own
        self._measured = hints
        self._record: Record | None = None
        self._offer_bytes = 0
        self._last_seq = 0  # of a record of ours, be it known only from others
        self._seen: dict[Link, Address] = {}  # where linked peers see us
        self._worked: dict[NodeId, Address] = {}
        self._hints: dict[NodeId, tuple[Address, ...]] = {}  # what else was told, by an invite
        self._talks: dict[Link, _Talk] = {}
        self._budgets: dict[NodeId, Budget] = {}  # one of each member
        self._late: dict[NodeId, None] = {}  # passed on with the next second
        self._is_late = trio.Event()
        self._changed = trio.Event()
        self._watchers: list[Callable[[NodeId], None]] = []
        self._nursery: trio.Nursery | None = None
        links.services.requests[REQUEST] = self._answer
        links.services.notices[NOTICE] = self._hear
        links.watch(self._link_changed)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; our own record is made anew as it ages, and when it changes."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keep)
                nursery.start_soon(self._pass_on_late)
                for link in self._links.all():
                    self._begin(link, nursery)
                self.refresh()
                task_status.started()
                while True:
                    with trio.move_on_after(limits.RECORD_TTL_SECONDS / 3):
                        await trio.sleep_forever()
                    self._renew()
        finally:
            self._nursery = None
            if self._changed.is_set():
                with trio.CancelScope(shield=True):
                    await self._write()

    # --- our own ----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look at our own addresses; if they are others than before, everybody is told."""
        if self._record is None or self._record.places != self._places():
            self._renew()

    def offer(self, offer_bytes: int) -> None:
        """What we would keep for others; if it is another size than before, everybody is told."""
        if offer_bytes != self._offer_bytes:
            self._offer_bytes = offer_bytes
            if self._record is not None:  # else the first one says it
                self._renew()

    def saw(self, link: Link, address: Address) -> None:
        """A linked peer says where it sees us."""
        if link in self._talks and self._seen.get(link) != address:
            self._seen[link] = address
            self.refresh()

    def _places(self) -> tuple[Place, ...]:
        said = Counter(self._seen.values()).most_common(limits.RECORD_SEEN_MAX)
        seen = [Place(PlaceKind.SEEN, address) for address, _ in said]
        return kept_places([*self._own(), *seen])

    def _renew(self) -> None:
        """Make a record that replaces all we have made before."""
        own, now_ms = self._context.own, self._now_ms()
        if known := self.book.of(own.node, now_ms):
            self._last_seq = max(self._last_seq, known.seq)
        mesh = self._context.roster.mesh_id
        self._record = Record.make(
            own.key,
            mesh,
            self._places(),
            own.engines,
            now_ms=now_ms,
            last_seq=self._last_seq,
            offer_bytes=self._offer_bytes,
        )
        self._last_seq = self._record.seq
        self.book.put(self._record)
        self._spread(self._record, None)

    # --- others -----------------------------------------------------------------------------------

    def watch(self, watcher: Callable[[NodeId], None]) -> None:
        """Be told of every node of whose place more is known."""
        self._watchers.append(watcher)

    def hint(self, node: NodeId, addresses: Iterable[Address]) -> None:
        """Addresses of a node that came another way."""
        self._hints[node] = tuple(addresses)[: limits.RECORD_PLACES_MAX]

    def ways(self, node: NodeId) -> list[Way]:
        """What to dial to reach a node, the most promising first."""
        if self._context.roster.member(node) is None:
            return []
        record = self.book.of(node, self._now_ms())
        places = list(record.places) if record else []
        places += [Place(PlaceKind.SET, address) for address in self._hints.get(node, ())]
        worked = self._worked.get(node)
        if worked is not None:
            places.append(Place(PlaceKind.SEEN, worked))
        own = [place.address for place in self._own()]
        kind = self._kind(node, record)
        found = in_order(places, own, worked)
        sizes = [self._measured.datagram_bytes(address) for address in found]
        ways = [Way(address, kind, size) for address, size in zip(found, sizes, strict=True)]
        # A size that was true may have become too large: then the same address with the usual one.
        usual = [Way(way.address, kind) for way in ways if way.datagram_bytes is not None]
        return [*ways[: limits.DIAL_WAYS_MAX - len(usual)], *usual]

    def _kind(self, node: NodeId, record: Record | None) -> Kind:
        if record is not None and Engines.QH3 not in record.engines:
            return Kind.AIOQUIC
        measured = self._measured.kind(node)
        speaks = record is None or Engines.AIOQUIC in record.engines
        return measured if measured is not None and speaks else Kind.QH3

    def _link_changed(self, link: Link, is_up: bool) -> None:  # noqa: FBT001 - as links tell it
        if not is_up:
            self._seen.pop(link, None)
            if talk := self._talks.pop(link, None):
                talk.scope.cancel()
            return
        if link.connection.dialled and link.connection.peer is not None:
            self._worked[link.node] = link.connection.peer
        if self._nursery is not None:
            self._begin(link, self._nursery)

    def _begin(self, link: Link, nursery: trio.Nursery) -> None:
        talk = self._talks[link] = _Talk(link)
        nursery.start_soon(self._serve, talk)
        if (seen := link.peer.hello.seen) is not None:
            self.saw(link, seen)

    async def _serve(self, talk: _Talk) -> None:
        with talk.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, talk)
                nursery.start_soon(self._ask, talk)

    # --- asking and being asked -------------------------------------------------------------------

    async def _ask(self, talk: _Talk) -> None:
        """Page by page of the nodes we know; and again where an answer had no room for all."""
        after = b""
        try:
            while True:
                held = [one for one in self.book.numbers(self._now_ms()) if one[0] > after]
                page = held[: limits.RECORD_NUMBERS_MAX]
                until = bytes(page[-1][0]) if len(page) < len(held) else b""
                answer = await talk.link.request(REQUEST, after, until, page)
                found = codec.as_row(answer, 1, "the records")[0]
                records = codec.as_rows(found, limits.RECORDS_TOLD_MAX, "the records")
                news = sum([await self._take_untrusted(one, talk) for one in records])
                if len(records) == limits.RECORDS_TOLD_MAX and news:
                    continue  # there is more
                if not until:
                    return
                after = until
        except LinkError:
            pass
        except FormatError as e:
            _log.warning("records of %s are not understood: %s", talk.link.node.short(), e)

    async def _answer(self, _link: Link, arguments: codec.Row) -> tuple[object, ...]:
        after, until, numbers = codec.as_row(arguments, 3, "the question for records")
        after = codec.as_bytes(after, "where to begin", size_max=_EVERYWHERE)
        until = codec.as_bytes(until, "where to end", size_max=_EVERYWHERE)
        missing = self.book.newer_than_untrusted(numbers, self._now_ms(), after, until)
        return (missing[: limits.RECORDS_TOLD_MAX],)

    async def _hear(self, link: Link, arguments: codec.Row) -> None:
        (record,) = codec.as_row(arguments, 1, "a record")
        if talk := self._talks.get(link):
            await self._take_untrusted(record, talk)

    async def _take_untrusted(self, value: object, talk: _Talk) -> bool:
        """Whether it was news. Who sends more than can be checked is read more slowly."""
        data = codec.as_bytes(value, "a record", size_max=limits.RECORD_BYTES_MAX)
        while not talk.checks.take(trio.current_time()):
            with trio.move_on_after(1 / limits.RECORDS_CHECKED_PER_SECOND):
                await trio.sleep_forever()
        try:
            self._heed_own_untrusted(data)
            record = self.book.take_untrusted(data, self._now_ms())
        except IntegrityError as e:
            talk.link.close("forged")  # nobody honest ever took it
            raise FormatError("a record that its node has not signed") from e
        if record is None:
            return False
        worked = self._worked.get(record.node)
        if worked is not None and worked not in {place.address for place in record.places}:
            del self._worked[record.node]  # it has moved since
        self._spread(record, talk)
        for watcher in self._watchers:
            watcher(record.node)
        return True

    def _heed_own_untrusted(self, data: bytes) -> None:
        """A record of ours that we do not remember, and that is newer: then ours must be newer."""
        own = self._context.own.node
        if bytes(own) not in data:
            return
        try:
            record = Record.read_untrusted(data)
        except NewerFormat:
            return
        is_ours = record.node == own and record.mesh == self._context.roster.mesh_id
        if is_ours and self._record is not None and record.data != self._record.data:
            if record.seq < self._record.seq:
                return
            record.check_untrusted()
            self._last_seq = max(self._last_seq, record.seq)
            self._renew()

    # --- passing on -------------------------------------------------------------------------------

    def _spread(self, record: Record, source: _Talk | None) -> None:
        self._changed.set()
        if record.node in self._late:
            return
        if self._may_pass_on(record.node, trio.current_time()):
            self._owe(record.node, source)
        else:
            self._late[record.node] = None
            self._is_late.set()

    def _may_pass_on(self, node: NodeId, now: float) -> bool:
        budget = self._budgets.get(node)
        if budget is None:
            self._forget_strangers()
            budget = self._budgets[node] = Budget(limits.RECORDS_PER_SECOND, now)
        return budget.take(now)

    def _owe(self, node: NodeId, source: _Talk | None) -> None:
        for talk in self._talks.values():
            if talk is not source and talk.link.node != node:
                talk.owed[node] = None
                talk.news.set()

    async def _pass_on_late(self) -> None:
        while True:
            await self._is_late.wait()
            with trio.move_on_after(1 / limits.RECORDS_PER_SECOND):
                await trio.sleep_forever()
            now = trio.current_time()
            for node in [node for node in self._late if self._may_pass_on(node, now)]:
                del self._late[node]
                self._owe(node, None)
            if not self._late:
                self._is_late = trio.Event()

    async def _send(self, talk: _Talk) -> None:
        try:
            while True:
                await talk.news.wait()
                talk.news = trio.Event()
                while talk.owed:
                    node = next(iter(talk.owed))
                    del talk.owed[node]
                    if record := self.book.of(node, self._now_ms()):
                        await talk.link.notify(NOTICE, record.data)
        except LinkError:
            pass  # it asks when there is a link again

    def _forget_strangers(self) -> None:
        """Whoever is no member any more; as often as somebody new comes."""
        member = self._context.roster.member
        for table in (self._budgets, self._worked, self._hints):
            for node in [node for node in table if member(node) is None]:
                del table[node]

    async def _keep(self) -> None:
        """Write the book now and then; without the file, peers tell everything again."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._write()
            with trio.move_on_after(limits.RECORDS_SAVE_SECONDS):
                await trio.sleep_forever()

    async def _write(self) -> None:
        try:
            await self._save(self.book.dump(self._now_ms()))
        except (PortalError, OSError) as e:
            _log.warning("where others are could not be written: %s", e)


def own_addresses(port: int) -> list[Address]:
    """The addresses the kernel would send from, with the port we listen at."""
    found = []
    for family, host in _FAR_AWAY:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((host, 1))
                found.append(Address(probe.getsockname()[0], port))
        except OSError:
            continue  # no route, or not even the protocol: this machine has no such addresses
    return found
