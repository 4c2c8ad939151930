"""QUIC over a modelled path in virtual time: the engines without trio, sockets or threads.

Flows share one bottleneck in each direction. Every flow sends one stream as the nodes do, within
the credit its reader gives back (mesh/quic/flow.py), and the reader takes all that comes. Nothing
in here waits: a WAN transfer of a minute takes the seconds of CPU its packets cost.
"""

import heapq
import itertools
from dataclasses import dataclass, field
from random import Random

from core import limits
from core.secret import Secret
from mesh.leaf import Leaf
from mesh.quic import engine, flow
from mesh.quic.engine import Engine, Machine, Terms
from mesh.quic.header import first_packet_untrusted
from mesh.wire import Address
from tests.support.hop import Hop, Path

TICK_S = 0.0005  # timers fire as late as this, as on a machine that does other things, too
EVENTS_MAX = 20_000_000
_BLOCK = bytes(limits.STREAM_WINDOW_BYTES)


@dataclass
class Flow:
    """One sender and its reader, and what was seen of them."""

    engine: Engine
    size: int | None = None  # bytes to send; None: until the time is over
    starts_s: float = 0.0
    ready_s: float | None = None  # when the sender may begin
    done_s: float | None = None  # when the reader has all
    received_bytes: int = 0
    marks: list[tuple[float, int]] = field(default_factory=list)  # time, received so far

    @property
    def mbit_per_s(self) -> float:
        """From the end of the handshake to the last byte read, or read so far."""
        if self.ready_s is None or not self.marks:
            return 0.0
        return self.received_bytes * 8 / 1e6 / (self.marks[-1][0] - self.ready_s)

    def received_between(self, since: float, until: float) -> int:
        """Bytes read in this time."""
        return sum(size for at, size in self.marks if since <= at < until)


class Model:
    """Flows over one path and back."""

    def __init__(self, there: Path, back: Path, seed: int, *, datagram_bytes: int = 1_350) -> None:
        rng = Random(seed)
        self.there, self.back = Hop(there, rng), Hop(back, rng)
        self.now = 0.0
        leaf = Leaf.make(Secret(rng.randbytes(32)), rng.randbytes)
        self.terms = Terms(("portal/1",), leaf, 60.0, datagram_bytes)
        self.senders: list[_Sender] = []
        self._events: list[tuple[float, int, _End, bytes | None]] = []
        self._number = itertools.count()

    def add(self, one: Flow) -> Flow:
        """A flow that begins at its time."""
        number = len(self.senders)
        sender = _Sender(self, one, Address("10.0.0.1", 1_000 + number))
        self.senders.append(sender)
        self.at(one.starts_s, sender, None)
        return one

    def at(self, time: float, end: "_End", data: bytes | None) -> None:
        """Deliver a datagram, or (None) a tick, at a time."""
        heapq.heappush(self._events, (time, next(self._number), end, data))

    def carry(self, hop: Hop, data: bytes, to: "_End") -> None:
        """Send one datagram."""
        for time in hop.send(len(data), self.now):
            self.at(time, to, data)

    def run(self, until_s: float) -> None:
        """Until every flow that has an end reached it, or the time is over."""
        for _ in range(EVENTS_MAX):
            if not self._events or self._events[0][0] > until_s or self._all_done():
                return
            self.now, _, end, data = heapq.heappop(self._events)
            end.take(data)
        raise RuntimeError("the model does not come to an end")

    def _all_done(self) -> bool:
        return all(s.flow.done_s is not None for s in self.senders)


class _End:
    """One machine, and what drives it."""

    machine: Machine | None = None
    other: "_End"

    def __init__(self, model: Model, one: Flow, address: Address, hop: Hop) -> None:
        self.model = model
        self.flow = one
        self.address = address
        self._hop = hop
        self._due: float | None = None

    def take(self, data: bytes | None) -> None:
        """A datagram, or the time for a tick."""
        now = self.model.now
        if data is not None:
            self.arrived(data)
        elif self._due is None or self._due > now:
            return  # an older tick, re-armed since
        elif self.machine is not None:
            self._due = None
            if (at := self.machine.timer()) is not None and at <= now:
                self.machine.tick(now)
        self.serve()

    def arrived(self, data: bytes) -> None:
        assert self.machine is not None
        self.machine.receive(data, len(data), self.other.address, self.model.now)

    def serve(self) -> None:
        """Events in, datagrams out, timer set: what an endpoint does after each batch."""
        machine = self.machine
        if machine is None:
            return
        for event in machine.events():
            self.handle(event)
        while datagrams := machine.outgoing(self.model.now):
            for data, _ in datagrams:
                self.model.carry(self._hop, data, self.other)
            if len(datagrams) < limits.UDP_TRAIN_SEGMENTS_MAX:
                break
        if (at := machine.timer()) is not None:
            due = max(at, self.model.now) + TICK_S
            if self._due is None or due < self._due or self._due <= self.model.now:
                self._due = due
                self.model.at(due, self, None)

    def handle(self, event: engine.Event) -> None:
        raise NotImplementedError

    def figures(self) -> engine.Figures:
        """What its engine knows of the path."""
        assert self.machine is not None
        return self.machine.figures()


class _Sender(_End):
    def __init__(self, model: Model, one: Flow, address: Address) -> None:
        super().__init__(model, one, address, model.there)
        self.other = _Reader(model, one, self)
        self._credit = flow.SendCredit()
        self._grants = flow.Grants()
        self._left = one.size
        self._stream: int | None = None

    def take(self, data: bytes | None) -> None:
        if self.machine is None:
            to = self.other.address
            self.machine = self.flow.engine.dial(self.model.terms, to, self.model.now)
            self.serve()
        else:
            super().take(data)

    def handle(self, event: engine.Event) -> None:
        match event:
            case engine.Ready():
                self.flow.ready_s = self.model.now
                assert self.machine is not None
                self._stream = self.machine.open_stream()
                self._feed()
            case engine.Data(_, data, _):
                for _, more in self._grants.feed_untrusted(data):
                    self._credit.raise_untrusted(more)
                self._feed()
            case engine.Closed(code, reason):
                raise RuntimeError(f"the sender's connection ended: {code} {reason}")

    def _feed(self) -> None:
        size = self._credit.left if self._left is None else min(self._credit.left, self._left)
        if size:
            assert self.machine is not None
            assert self._stream is not None
            self._credit.left -= size
            self._left = None if self._left is None else self._left - size
            self.machine.send(self._stream, _BLOCK[:size], fin=self._left == 0)


class _Reader(_End):
    def __init__(self, model: Model, one: Flow, sender: _Sender) -> None:
        super().__init__(model, one, Address("10.0.0.2", 4_000), model.back)
        self.other = sender
        self._credit = flow.ReceiveCredit()
        self._granting: int | None = None

    def arrived(self, data: bytes) -> None:
        if self.machine is None:
            first = first_packet_untrusted(data)
            if first is None:
                return
            self.machine = self.flow.engine.answer(self.model.terms, first.destination, None)
        super().arrived(data)

    def handle(self, event: engine.Event) -> None:
        match event:
            case engine.Data(stream, data, fin):
                self._credit.arrived_untrusted(len(data))
                self.flow.received_bytes += len(data)
                self.flow.marks.append((self.model.now, len(data)))
                if more := self._credit.consumed(len(data)):
                    self._grant(stream, more)
                if fin:
                    self.flow.done_s = self.model.now
            case engine.Closed(code, reason):
                raise RuntimeError(f"the reader's connection ended: {code} {reason}")

    def _grant(self, stream: int, more: int) -> None:
        assert self.machine is not None
        if self._granting is None:
            self._granting = self.machine.open_stream(one_way=True)
        self.machine.send(self._granting, flow.grant(stream, more))
