"""One QUIC connection on trio: streams of ours and of the peer's, until either side ends it.

It has no task of its own. The endpoint feeds the engine and calls `handle`; what happened goes to
the streams and wakes who waits there. Nothing is proved about the peer yet but that it holds the
leaf's key: mesh/links.py does the rest before anybody else gets to see a connection.
"""

from collections.abc import Callable

import trio

from core import limits
from core.errors import FormatError
from mesh.errors import LinkClosed
from mesh.quic import engine, flow
from mesh.quic.engine import Event, Figures, Machine
from mesh.quic.stream import QuicStream
from mesh.wire import Address

VIOLATION = 0x100  # our codes of a closed connection begin here
_ONE_WAY = 2
_TAKEN_MAX = 2 * limits.STREAMS_MAX
_TOO_MUCH = "more than a stranger may say"


class Connection:
    """What an endpoint dials and answers."""

    def __init__(
        self, machine: Machine, flush: Callable[["Connection"], None], *, dialled: bool
    ) -> None:
        self.machine = machine
        self.dialled = dialled
        self.alpn = ""
        self.leaf = b""
        self.ready = trio.Event()  # set when the handshake is over, or the connection is
        self.over = trio.Event()
        self.closed: engine.Closed | None = None
        self.cids = {machine.cid}
        self._flush = flush
        self._streams: dict[int, QuicStream] = {}
        self.number = 0  # in the endpoint's tables
        self._granting: int | None = None  # the stream our grants go on
        self._grants = flow.Grants()
        self._next_of_peer = 1 if dialled else 0
        self._ours = 0  # streams we opened that are not over
        self._room = trio.lowlevel.ParkingLot()
        self._received_bytes = 0  # on streams
        self._datagrams_bytes = 0
        self._received_bytes_max: int | None = None
        self._arrivals, self._accepted = trio.open_memory_channel[QuicStream](_TAKEN_MAX)

    @property
    def peer(self) -> Address | None:
        """Where the other end is at present; it may move."""
        return self.machine.peer

    @property
    def streams_open(self) -> int:
        """Streams of both sides that are not over."""
        return len(self._streams)

    def figures(self) -> Figures:
        """What the engine knows of the path."""
        return self.machine.figures()

    # --- what a link does -------------------------------------------------------------------------

    async def open_stream(self) -> QuicStream:
        """A new stream; waits while too many of ours are open."""
        await trio.lowlevel.checkpoint()
        while self._ours >= limits.STREAMS_MAX and self.closed is None:
            await self._room.park()
        self._check_open()
        number = self.machine.open_stream()
        self._ours += 1
        self._streams[number] = stream = QuicStream(self, number)
        return stream

    def limit_received(self, bytes_max: int | None) -> None:
        """How much the peer may send in all from the beginning on, until it has proved itself."""
        self._received_bytes_max = bytes_max
        if self._received_too_much():
            self.close(VIOLATION, _TOO_MUCH)

    def _received_too_much(self) -> bool:
        most = self._received_bytes_max
        return most is not None and (
            self._received_bytes > most
            # What waits behind holes counts as well: in crumbs it takes more room than it weighs.
            or self._datagrams_bytes > limits.STRANGER_DATAGRAMS_BYTES_MAX
        )

    async def accept_stream(self) -> QuicStream:
        """The next stream the peer opens."""
        try:
            return await self._accepted.receive()
        except trio.EndOfChannel:
            self._check_open()
            raise

    def close(self, code: int = 0, reason: str = "") -> None:
        """End it: whatever is under way is lost."""
        if self.closed is None:
            self.machine.close(code, reason)
            self.flush()
            self._end(engine.Closed(code, reason or "closed by this node"))

    def abandon(self, reason: str) -> None:
        """End it here, without a word to the peer."""
        self._end(engine.Closed(VIOLATION, reason))

    def _check_open(self) -> None:
        if self.closed is not None:
            raise LinkClosed(f"the connection has ended: {self.closed.reason or 'no reason given'}")

    # --- what streams need ------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what the engine has to say."""
        self._flush(self)

    def grant(self, stream: int, more: int) -> None:
        """Give the peer credit."""
        if self.closed is None:
            if self._granting is None:
                self._granting = self.machine.open_stream(one_way=True)
            self.machine.send(self._granting, flow.grant(stream, more))
            self.flush()

    def forget(self, stream: int) -> None:
        """Both directions of a stream are over."""
        if self._streams.pop(stream, None) is not None and self._is_ours(stream):
            self._ours -= 1
            self._room.unpark()

    # --- what the endpoint tells ------------------------------------------------------------------

    def receive_untrusted(
        self, data: bytes, segment_bytes: int, source: Address, now: float
    ) -> None:
        """Datagrams of the peer, or of somebody who has its connection id."""
        self._datagrams_bytes += len(data)
        if self._received_too_much():
            self.close(VIOLATION, _TOO_MUCH)
        else:
            self.machine.receive(data, segment_bytes, source, now)

    def handle(self) -> list[Event]:
        """Take what happened from the engine to the streams; the rest is for the endpoint."""
        rest: list[Event] = []
        for event in self.machine.events():
            try:
                if not self._handle(event):
                    rest.append(event)
            except FormatError as e:
                self.close(VIOLATION, e.what)
        return rest

    def _handle(self, event: Event) -> bool:
        if self.closed is not None and not isinstance(event, engine.IdIssued | engine.IdRetired):
            return True  # it came with what made us close
        match event:
            case engine.Data(number, data, fin):
                self._data_untrusted(number, data, fin=fin)
            case engine.Reset(number, _):
                if stream := self._stream_untrusted(number):
                    stream.was_reset()
            case engine.Stopped(number, _):
                if stream := self._stream_untrusted(number):
                    stream.was_stopped()
            case engine.Ready(alpn, leaf):
                self.alpn, self.leaf = alpn, leaf
                self.ready.set()
            case engine.Closed():
                self._end(event)
            case _:
                return False
        return True

    def _data_untrusted(self, number: int, data: bytes, *, fin: bool) -> None:
        if number & _ONE_WAY:
            if number != (3 if self.dialled else 2):
                raise FormatError("a one-way stream that means nothing here")
            for stream_number, more in self._grants.feed_untrusted(data):
                if stream := self._streams.get(stream_number):
                    stream.granted_untrusted(more)
            return
        self._received_bytes += len(data)
        if self._received_too_much():
            raise FormatError(_TOO_MUCH)
        if stream := self._stream_untrusted(number):
            stream.arrived_untrusted(data, fin=fin)

    def _stream_untrusted(self, number: int) -> QuicStream | None:
        """The stream of this number, new ones included; None if it is over."""
        if not self._is_ours(number) and not number & _ONE_WAY:
            while self._next_of_peer <= number:  # a later stream opens those before it
                self._take_stream_untrusted(self._next_of_peer)
                self._next_of_peer += 4
        return self._streams.get(number)

    def _take_stream_untrusted(self, number: int) -> None:
        self._streams[number] = stream = QuicStream(self, number)
        if len(self._streams) - self._ours > _TAKEN_MAX:
            raise FormatError("more streams than a peer may open")
        try:
            self._arrivals.send_nowait(stream)
        except trio.WouldBlock:
            raise FormatError("more streams than a peer may open") from None

    def _is_ours(self, number: int) -> bool:
        return bool(number & 1) != self.dialled

    def _end(self, closed: engine.Closed) -> None:
        if self.closed is None:
            self.closed = closed
            for stream in list(self._streams.values()):
                stream.broke(f"the connection has ended: {closed.reason or 'no reason given'}")
            self._streams.clear()
            self._room.unpark_all()
            self._arrivals.close()
            self.ready.set()
            self.over.set()
