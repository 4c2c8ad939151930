"""Sealed datagrams on trio: questions with answers, and what members ask of us.

    answered = await port.ask(node, address, Ping(), timeout_s)     None if there is no answer
    with port.question(node, Ping, timeout_s) as question: ...      the same, said in any way
    port.on(Told, handler)                                          what else members may send

PING and MTU are answered here. The one task waits for the next question to grow too old; what
arrives comes by the endpoint (`arrived` is its `on_datagram`), and handlers must not wait. An
answer is known by who sealed it and by the txid, from wherever it comes: addresses prove nothing.
A question nobody waits for any more keeps its place among REQUESTS_MAX until its time is over.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from core.crypto import Entropy, system_entropy
from core.ids import NodeId
from mesh.clocks import Clocks
from mesh.datagrams import Datagrams, Message
from mesh.errors import NotTrusted
from mesh.messages import TXID_BYTES, Body, Mtu, MtuOk, Ping, Pong
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
        entropy: Entropy = system_entropy,
    ) -> None:
        self.clocks = Clocks()
        self._datagrams = datagrams
        self._send = send
        self._now_ms = now_ms
        self._requests = Requests(entropy=entropy)
        self._entropy = entropy
        self._waiting: dict[bytes, Question] = {}
        self._listeners: list[Callable[[NodeId], None]] = []
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

    def listen(self, listener: Callable[[NodeId], None]) -> None:
        """Be told whenever a member says anything.

        An answer nobody waits for is not told: whoever carries those for others may have kept it.
        """
        self._listeners.append(listener)

    # --- asking -----------------------------------------------------------------------------------

    async def ask(self, to: NodeId, at: Address, body: Body, timeout_s: float) -> Answered | None:
        """The answer of this member; None if there was none in time, or too many wait already."""
        return await self._ask(
            to, at, type(body), timeout_s, lambda txid: self.sealed(to, body, txid)
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
        data = self.sealed(to, body, txid or self._entropy(TXID_BYTES))
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
        with self.question(to, kind, timeout_s) as question:
            data = seal(question.txid) if question is not None else None
            if question is None or data is None:
                return None
            self._send(data, at)
            await question.wait(timeout_s)
            return question.answered

    @contextmanager
    def question(
        self, to: NodeId, kind: type[Body], timeout_s: float
    ) -> "Iterator[Question | None]":
        """A question to be sent with `tell` and its txid, in as many ways as may help.

        Its answer is heard within the block, and counts once; None if too many wait already.
        """
        txid = self._requests.ask(to, kind, timeout_s, self._now_ms(), trio.current_time())
        if txid is None:
            yield None
            return
        if (due := self._requests.deadline()) is not None and due < self._scope.deadline:
            self._scope.deadline = due
        self._waiting[txid] = question = Question(txid)
        try:
            yield question
        finally:
            del self._waiting[txid]

    def sealed(self, to: NodeId, body: Body, txid: bytes) -> bytes | None:
        """A datagram for a member, to be carried there in any way; None if it is none."""
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
            self._heard(message.sender)
            handler(message, source)
        elif answered := self._requests.answered(message, now_ms, now):
            self._heard(message.sender)
            offset_ms = self.clocks.sample(message.sender, answered.offset_ms)
            self._datagrams.clock_is(message.sender, offset_ms)
            if waiting := self._waiting.get(message.txid):
                waiting.answered = answered
                waiting.arrived.set()

    def _heard(self, sender: NodeId) -> None:
        for listener in self._listeners:
            listener(sender)

    def _pong(self, message: Message, source: Address) -> None:
        self.tell(message.sender, source, Pong(source), message.txid)

    def _mtu_ok(self, message: Message, source: Address) -> None:
        self.tell(message.sender, source, MtuOk(message.size_bytes), message.txid)


class Question:
    """Somebody waits for its answer."""

    def __init__(self, txid: bytes) -> None:
        self.txid = txid
        self.arrived = trio.Event()
        self.answered: Answered | None = None

    async def wait(self, seconds: float) -> bool:
        """Wait so long at most; whether there is an answer."""
        with trio.move_on_after(seconds):
            await self.arrived.wait()
        return self.answered is not None
