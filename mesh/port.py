"""Sealed datagrams on trio: questions with answers, and what members ask of us.

    answered = await port.ask(node, address, Ping(), timeout_s)     None if there is no answer
    port.on(Gossip, handler)                                        what else members may send

PING and MTU are answered here. The one task waits for the next question to grow too old; what
arrives comes by the endpoint (`arrived` is its `on_datagram`), and handlers must not wait. An
answer is known by who sealed it and by the txid, from wherever it comes: addresses prove nothing.
A question nobody waits for any more keeps its place among REQUESTS_MAX until its time is over.
"""

import math
from collections.abc import Callable

import trio

from core.crypto import Entropy, system_entropy
from core.ids import NodeId
from mesh.clocks import Clocks
from mesh.datagrams import TXID_BYTES, Datagrams, Message
from mesh.errors import NotTrusted
from mesh.messages import Body, Mtu, MtuOk, Ping, Pong
from mesh.requests import Answered, Requests
from mesh.wire import Address

Handler = Callable[[Message, Address], None]


class Port:
    """Asks and answers by datagram; `run` owns its task."""

    def __init__(
        self,
        datagrams: Datagrams,
        send: Callable[[bytes, Address], None],
        now_ms: Callable[[], int],
        load: Callable[[], int],
        entropy: Entropy = system_entropy,
    ) -> None:
        self.clocks = Clocks()
        self._datagrams = datagrams
        self._send = send
        self._now_ms = now_ms
        self._load = load
        self._requests = Requests(entropy=entropy)
        self._entropy = entropy
        self._waiting: dict[bytes, _Answer] = {}
        self._handlers: dict[type[Body], Handler] = {Ping: self._pong, Mtu: self._mtu_ok}
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Give up on questions whose time is over."""
        task_status.started()
        while True:
            due = self._requests.deadline()
            with trio.CancelScope(deadline=math.inf if due is None else due) as self._scope:
                await trio.sleep_forever()
            # Whoever asked waits no longer than that itself: here the table is emptied.
            self._requests.expire(trio.current_time())

    def on(self, kind: type[Body], handler: Handler) -> None:
        """Have messages of this type handled, by a function that does not wait."""
        assert kind not in self._handlers
        self._handlers[kind] = handler

    # --- asking -----------------------------------------------------------------------------------

    async def ask(self, to: NodeId, at: Address, body: Body, timeout_s: float) -> Answered | None:
        """The answer of this member; None if there was none in time, or too many wait already."""
        return await self._ask(
            to, at, type(body), timeout_s, lambda txid: self._sealed(to, body, txid)
        )

    async def probe(self, to: NodeId, at: Address, size_bytes: int, timeout_s: float) -> bool:
        """Whether a datagram of this size arrives there."""

        def seal(txid: bytes) -> bytes | None:
            return self._datagrams.seal_probe(to, size_bytes, txid, self._now_ms())

        answered = await self._ask(to, at, Mtu, timeout_s, seal)
        body = answered.message.body if answered else None
        return isinstance(body, MtuOk) and body.size_bytes == size_bytes

    def tell(self, to: NodeId, at: Address, body: Body, txid: bytes = b"") -> bool:
        """Send without waiting; whether it could be."""
        data = self._sealed(to, body, txid or self._entropy(TXID_BYTES))
        if data is not None:
            self._send(data, at)
        return data is not None

    async def _ask(
        self,
        to: NodeId,
        at: Address,
        kind: type[Body],
        timeout_s: float,
        seal: Callable[[bytes], bytes | None],
    ) -> Answered | None:
        await trio.lowlevel.checkpoint()
        txid = self._requests.ask(to, kind, timeout_s, self._now_ms(), trio.current_time())
        data = seal(txid) if txid is not None else None
        if txid is None or data is None:
            return None
        if (due := self._requests.deadline()) is not None and due < self._scope.deadline:
            self._scope.deadline = due
        self._waiting[txid] = waiting = _Answer()
        try:
            self._send(data, at)
            with trio.move_on_after(timeout_s):
                await waiting.arrived.wait()
        finally:
            del self._waiting[txid]
        return waiting.answered

    def _sealed(self, to: NodeId, body: Body, txid: bytes) -> bytes | None:
        try:
            return self._datagrams.seal(to, body, txid, self._now_ms())
        except NotTrusted:  # it was revoked a moment ago
            return None

    # --- what arrives -----------------------------------------------------------------------------

    def arrived(self, data: bytes, source: Address) -> None:
        """A datagram that is not QUIC; strangers' come to nothing."""
        now, now_ms = trio.current_time(), self._now_ms()
        message = self._datagrams.open_untrusted(data, now_ms, now)
        if message is None:
            return
        if handler := self._handlers.get(type(message.body)):
            handler(message, source)
        elif answered := self._requests.answered(message, now_ms, now):
            offset_ms = self.clocks.sample(message.sender, answered.offset_ms)
            self._datagrams.clock_is(message.sender, offset_ms)
            if waiting := self._waiting.get(message.txid):
                waiting.answered = answered
                waiting.arrived.set()

    def _pong(self, message: Message, source: Address) -> None:
        self.tell(message.sender, source, Pong(source, self._load()), message.txid)

    def _mtu_ok(self, message: Message, source: Address) -> None:
        self.tell(message.sender, source, MtuOk(message.size_bytes), message.txid)


class _Answer:
    """Who waits for one."""

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.answered: Answered | None = None
