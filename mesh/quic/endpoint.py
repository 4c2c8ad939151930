"""One socket, all connections: packets find their engine, engines find the time.

    wire -> route by connection id -> engine -> streams;   anything to say -> one flush per batch
         '-> a first packet: new connection, or Retry      sealed datagrams -> `on_datagram`

Two tasks do it all: one waits for the wire, one for the next timer; a third waits for the socket
when it is full. A stranger costs nothing that lasts: a packet that no engine understands leaves no
trace, handshakes are bounded in number and time, and under load an address is proved (Retry) before
anything is remembered (mesh/quic/admission.py). Nothing is answered that is not a first packet of a
version we speak.

One connection is touched by one task at a time: nothing here awaits between a packet and what
becomes of it.
"""

import ipaddress
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count

import trio

from core import limits
from core.crypto import Entropy, system_entropy
from mesh.errors import Unreachable
from mesh.leaf import Leaf
from mesh.quic import engine
from mesh.quic.admission import Admission, Challenge, Counters
from mesh.quic.connection import VIOLATION, Connection
from mesh.quic.engine import Kind, Terms
from mesh.quic.header import destination_untrusted, first_packet_untrusted, is_quic, is_train
from mesh.quic.initial import is_sealed_first_packet
from mesh.quic.qh3_engine import Qh3Engine
from mesh.quic.timers import Timers
from mesh.wire import Address, Arrival, Wire

ALPN_LINK = "portal/1"
ALPN_PAIR = "portal-pair/1"

_PORTS = 65_536
_BREATH_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Setup:
    """What an endpoint is told once."""

    leaf: Leaf
    engines: frozenset[Kind] = frozenset(Kind)
    alpns: tuple[str, ...] = (ALPN_LINK,)
    idle_s: float = limits.LINK_IDLE_SECONDS
    datagram_bytes: int = limits.DATAGRAM_BYTES_DEFAULT
    entropy: Entropy = field(default=system_entropy, repr=False)


class Endpoint:
    """Dials and answers; `run` does the work and owns it."""

    def __init__(
        self, wire: Wire, setup: Setup, on_datagram: Callable[[bytes, Address], None]
    ) -> None:
        self.counters = Counters()
        self._wire = wire
        self._setup = setup
        self._on_datagram = on_datagram
        self._admission = Admission(setup.entropy, self.counters)
        self._kinds = {kind.version: kind for kind in setup.engines}
        self._has_ended = False
        self._by_cid: dict[bytes, Connection] = {}
        self._alive: dict[int, Connection] = {}
        self._numbers = count(1)
        self._timers = Timers()
        self._timer_scope = trio.CancelScope()
        self._stuck: list[tuple[Sequence[bytes], Address]] = []  # what a full socket did not take
        self._waiting: dict[Connection, None] = {}  # who has more to send then
        self._is_stuck = trio.Event()
        self._answered, self._accepted = trio.open_memory_channel[Connection](limits.HANDSHAKES_MAX)

    @property
    def local(self) -> Address:
        """Where it listens."""
        return self._wire.local

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every peer is told."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._drain)
                task_status.started()
        finally:
            self._has_ended = True
            for connection in list(self._alive.values()):
                connection.close(0, "this node is going away")
                self._remove(connection)
            self._answered.close()
            self._wire.close()

    async def dial(
        self, to: Address, kind: Kind, alpn: str = ALPN_LINK, datagram_bytes: int | None = None
    ) -> Connection:
        """A connection to whoever answers there; who that is, is for the caller to find out."""
        if (why := self._cannot_dial(to, kind)) is not None:
            raise Unreachable(why, where=str(to))
        terms = self._terms((alpn,), datagram_bytes)
        machine = engine_of(kind).dial(terms, to, trio.current_time())
        connection = self._added(Connection(machine, self._flush, dialled=True))
        self._flush(connection)
        try:
            with trio.move_on_after(limits.HANDSHAKE_SECONDS):
                await connection.ready.wait()
        finally:
            closed = connection.closed
            if not connection.alpn:  # it was refused, is too slow, or we were cancelled
                connection.close(0, "given up")
        if not connection.alpn:
            why = closed.reason if closed and closed.reason else "no answer"
            raise Unreachable(f"no connection: {why}", where=str(to))
        return connection

    def _cannot_dial(self, to: Address, kind: Kind) -> str | None:
        host, _, zone = to.host.partition("%")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return "not an IP address"
        if zone and not zone.isdecimal():
            return "which link, is said by the number of the interface"
        if not 0 < to.port < _PORTS:
            return "not a port"
        if kind not in self._setup.engines:
            return f"the engine {kind.value} is switched off here"
        return "this node is going away" if self._has_ended else None

    async def accept(self) -> Connection:
        """The next connection somebody else made; nothing is known of them yet.

        trio.EndOfChannel when the endpoint has ended.
        """
        return await self._accepted.receive()

    def send_datagram(self, data: bytes, to: Address) -> None:
        """Send a datagram of our own beside the connections; a full socket loses it."""
        if not self._stuck:
            self._wire.send((data,), to)

    # --- receiving --------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            arrivals = await self._wire.receive()
            now = trio.current_time()
            touched: dict[Connection, None] = {}
            for arrival in arrivals:
                for connection in self._route(arrival, now):
                    touched[connection] = None
            for connection in touched:
                self._settle(connection)

    def _route(self, arrival: Arrival, now: float) -> Iterator[Connection]:
        for data in _trains(arrival):
            if not is_quic(data):
                self._on_datagram(data, arrival.source)
                continue
            cid = destination_untrusted(data)
            connection = self._by_cid.get(cid) if cid is not None else None
            if connection is not None:
                connection.receive_untrusted(data, arrival.segment_bytes, arrival.source, now)
            else:
                connection = self._first(data, arrival.source, now)
            if connection is not None:
                yield connection

    def _first(self, data: bytes, source: Address, now: float) -> Connection | None:
        """A new connection, if these bytes open one."""
        packet = first_packet_untrusted(data)
        kind = self._kinds.get(packet.version) if packet else None
        if packet is None or kind is None or not is_sealed_first_packet(data):
            self.counters.strangers_dropped += 1
            return None
        if len(self._alive) >= limits.CONNECTIONS_MAX:
            self.counters.refused_busy += 1
            return None
        verdict = self._admission.judge_untrusted(packet, source, now)
        if isinstance(verdict, Challenge):
            self.send_datagram(engine_of(kind).retry(packet, *verdict), source)
        if verdict is None or isinstance(verdict, Challenge):
            return None
        machine = engine_of(kind).answer(self._terms(self._setup.alpns), *verdict)
        machine.receive(data, len(data), source, now)
        if machine.is_idle:  # the engine sees no first packet in it
            self.counters.strangers_dropped += 1
            return None
        connection = self._added(Connection(machine, self._flush, dialled=False))
        connection.cids.add(packet.destination)
        self._by_cid[packet.destination] = connection
        self._timers.set(
            connection.number, self._admission.began(connection.number, verdict, source, now)
        )
        return connection

    def _settle(self, connection: Connection) -> None:
        """See what happened in an engine, and say what it has to say."""
        for event in connection.handle():
            if isinstance(event, engine.IdIssued) and connection.number in self._alive:
                connection.cids.add(event.cid)
                self._by_cid[event.cid] = connection
            elif isinstance(event, engine.IdRetired):
                connection.cids.discard(event.cid)
                self._by_cid.pop(event.cid, None)
        if connection.ready.is_set() and self._admission.ended(connection.number):
            if connection.alpn and connection.closed is None:
                self._hand_over(connection)
            else:
                self.counters.handshakes_failed += 1
        self._flush(connection)

    def _hand_over(self, connection: Connection) -> None:
        try:
            self._answered.send_nowait(connection)
        except trio.WouldBlock:
            self.counters.refused_busy += 1
            connection.close(VIOLATION, "busy")

    # --- sending ----------------------------------------------------------------------------------

    def _flush(self, connection: Connection) -> None:
        now = trio.current_time()
        while not self._stuck:
            datagrams = connection.machine.outgoing(now)
            self._send(datagrams)
            if len(datagrams) < limits.UDP_TRAIN_SEGMENTS_MAX:
                break
        if self._stuck:
            self._waiting[connection] = None
            self._is_stuck.set()
        self._arm(connection, now)

    def _send(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        start = 0
        while start < len(datagrams):
            to = datagrams[start][1]
            end = start + 1
            while end < len(datagrams) and datagrams[end][1] == to:
                end += 1
            self._offer([data for data, _ in datagrams[start:end]], to)
            start = end

    def _offer(self, datagrams: Sequence[bytes], to: Address) -> None:
        taken = 0 if self._stuck else self._wire.send(datagrams, to)
        if taken < len(datagrams):
            self._stuck.append((datagrams[taken:], to))

    async def _drain(self) -> None:
        """When the socket is full: wait for it, then go on where sending stopped."""
        while True:
            await self._is_stuck.wait()
            await self._wire.writable()
            stuck, self._stuck = self._stuck, []
            for datagrams, to in stuck:
                self._offer(datagrams, to)
            waiting, self._waiting = self._waiting, {}
            self._is_stuck = trio.Event()
            if self._stuck:
                self._is_stuck.set()
            for connection in waiting:
                self._flush(connection)

    # --- time -------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._timers.next_at) as self._timer_scope:
                await trio.sleep_forever()
            now = trio.current_time()
            for number in self._timers.take_due(now):
                if (connection := self._alive.get(number)) is not None:
                    self._wake(connection, now)

    def _wake(self, connection: Connection, now: float) -> None:
        until = self._admission.until(connection.number)
        if until is not None and until <= now:
            # Without a word: whether anybody is there, is not known.
            connection.abandon("the handshake takes too long")
            self._remove(connection)
            return
        at = connection.machine.timer()
        if at is not None and at <= now:
            connection.machine.tick(now)
        self._settle(connection)

    def _arm(self, connection: Connection, now: float) -> None:
        at = connection.machine.timer()
        if at is None:
            self._remove(connection)
        elif connection.number in self._alive:
            if connection in self._waiting:
                at = math.inf  # what is due cannot be sent; `_drain` comes back to it
            elif at <= now:
                at = now + _BREATH_SECONDS  # it had its turn: whatever it wants, not at once
            until = self._admission.until(connection.number)
            self._timers.set(connection.number, at if until is None else min(at, until))
            scope = self._timer_scope
            scope.deadline = min(scope.deadline, self._timers.next_at)

    # --- the table of connections -----------------------------------------------------------------

    def _added(self, connection: Connection) -> Connection:
        connection.number = next(self._numbers)
        self._alive[connection.number] = connection
        self._by_cid[connection.machine.cid] = connection
        self.counters.connections = len(self._alive)
        return connection

    def _remove(self, connection: Connection) -> None:
        """The engine has nothing left to wait for: the connection is history."""
        if self._alive.pop(connection.number, None) is None:
            return
        for cid in connection.cids:
            if self._by_cid.get(cid) is connection:
                del self._by_cid[cid]
        self._timers.forget(connection.number)
        self._waiting.pop(connection, None)
        self.counters.connections = len(self._alive)
        if self._admission.ended(connection.number):
            self.counters.handshakes_failed += 1
        connection.handle()  # what it said last
        connection.close()

    def _terms(self, alpns: tuple[str, ...], datagram_bytes: int | None = None) -> Terms:
        setup = self._setup
        return Terms(alpns, setup.leaf, setup.idle_s, datagram_bytes or setup.datagram_bytes)


@cache
def engine_of(kind: Kind) -> engine.Engine:
    """The engine of this kind. The reference is loaded when it is first needed: many never do."""
    if kind is Kind.QH3:
        return Qh3Engine()
    from mesh.quic.aioquic_engine import AioquicEngine  # noqa: PLC0415 - see above

    return AioquicEngine()


def _trains(arrival: Arrival) -> Iterator[bytes]:
    """The datagrams of an arrival, together as far as they are for one connection."""
    data, size, _ = arrival
    if len(data) <= size or is_train(data, size):
        yield data
    else:
        for start in range(0, len(data), size):
            yield data[start : start + size]
