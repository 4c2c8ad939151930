"""A link: what two nodes that trust each other say over one connection (mesh/SPEC.md, Frames).

    request     a question with an answer        answer = await link.request("ops.want", vector)
    notice      something told                   await link.notify("ops", new)
    stream      bytes both ways, for one kind    stream = await link.open_stream("shards")

All small things share one stream, so they keep their order and none is lost while the link lives.
Every other stream begins with a frame that says what it is for. Whoever serves a link gives it
`Services`, the tables of what a peer may ask; the tasks that serve live in the link's own nursery
and end with it. What fails in a service is told to the peer as a word and to nobody else's harm.

Frames go out whole or not at all, so a caller may be cancelled at any time. The task that reads
them never waits for the peer, so two nodes that ask each other much do not wait for each other.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar, cast

import trio

from core import codec, limits
from core.errors import FormatError, LimitExceeded, PortalError
from core.ids import NodeId
from mesh import frames
from mesh.errors import LinkClosed, LinkError
from mesh.frames import Frame, FrameType
from mesh.hello import Peer
from mesh.quic.connection import VIOLATION, Connection
from mesh.quic.stream import QuicStream

_log = logging.getLogger(__name__)
_WORD_BYTES_MAX = 64
_UNKNOWN = "unknown"
_FAILED = "failed"
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

Answer = Callable[["Link", codec.Row], Awaitable[Sequence[object]]]
Note = Callable[["Link", codec.Row], Awaitable[None]]
Serve = Callable[["Link", codec.Row, trio.abc.HalfCloseableStream], Awaitable[None]]


class PeerFailed(LinkError):
    """The peer could not do this."""

    def __init__(self, word: str) -> None:
        super().__init__(f"the peer answers: {word}")
        self.word = word


@dataclass(frozen=True, slots=True)
class Services:
    """What peers may ask of this node, by name.

    A request may take its time: it has a task of its own. A notice is taken before the next frame
    is read, so it must not ask the peer anything. A stream is closed when its service returns.
    To say no, raise PeerFailed with a word for the peer.
    """

    requests: dict[str, Answer] = field(default_factory=dict)
    notices: dict[str, Note] = field(default_factory=dict)
    streams: dict[str, Serve] = field(default_factory=dict)


class Link:
    """One authenticated connection to one node; `run` serves it and owns its tasks."""

    def __init__(
        self,
        connection: Connection,
        control: QuicStream,
        peer: Peer,
        services: Services,
    ) -> None:
        self.connection = connection
        self.peer = peer  # as it was when the link was made; what it may do now, the roster says
        self.wanted = False  # whether this node wants to keep it, used or not
        self._word = ""
        self._control = control
        self._services = services
        self._turn = trio.Lock()  # of sending frames
        self._number = 0
        self._waiting: dict[int, _Waiting] = {}
        self._room = trio.CapacityLimiter(limits.LINK_REQUESTS_MAX)
        self._answering = 0  # requests of the peer
        self._serving = 0  # streams and lanes of the peer
        self._owes_pong = False
        self._heard = trio.Event()
        self._asked = trio.Event()
        self._heard_at = self._used_at = trio.current_time()
        self._said_at = -math.inf  # the first thing since we heard of the peer
        self._beside = 0  # what is under way beside it: lanes of ours
        self._rest = trio.CancelScope()  # until the peer has been silent for too long

    @property
    def node(self) -> NodeId:
        """Who is at the other end."""
        return self.peer.node

    @property
    def over(self) -> trio.Event:
        """Set when it has ended."""
        return self.connection.over

    @property
    def word(self) -> str:
        """Why it ended, when it has: the word of who closed it."""
        closed = self.connection.closed
        return self._word or (closed.reason if closed else "")

    @property
    def heard_at(self) -> float:
        """When the peer said something last, by trio's clock."""
        return self._heard_at

    @property
    def is_used(self) -> bool:
        """Whether anything is under way on it."""
        streams = self.connection.streams_open - 1  # all but the control stream
        return bool(streams > 0 or self._serving or self._answering or self._waiting)

    @property
    def _is_needed(self) -> bool:
        """What the peer is told: of lanes beside the link only the side that serves them knows."""
        return self.wanted or self.is_used

    # --- what callers do --------------------------------------------------------------------------

    async def request(self, name: str, *arguments: object) -> codec.Row:
        """Ask, and wait for the answer; PeerFailed if there is none to have."""
        async with self._room:
            self._check_open()
            self._number += 1
            number = self._number
            self._waiting[number] = waiting = _Waiting()
            self._said()
            try:
                await self._send(FrameType.REQUEST, number, name, arguments)
                await waiting.done.wait()
            finally:
                del self._waiting[number]
                self._used_at = trio.current_time()
        if waiting.word is not None:
            raise PeerFailed(waiting.word)
        if waiting.result is None:
            raise self._closed()
        return waiting.result

    async def notify(self, name: str, *arguments: object) -> None:
        """Tell; the peer may not listen."""
        self._check_open()
        self._used_at = trio.current_time()
        self._said()
        await self._send(FrameType.NOTICE, name, arguments)

    async def open_stream(self, kind: str, *arguments: object) -> QuicStream:
        """A stream the peer serves by its kind.

        If it ends, that is all the peer sent; if the peer gave up, it is a BrokenResourceError.
        """
        opening = frames.encode(FrameType.OPEN, kind, arguments)
        self._check_open()
        self._used_at = trio.current_time()
        stream = await self.connection.open_stream()
        self._said()
        try:
            await stream.send_all(opening)
        except BaseException as e:
            await trio.aclose_forcefully(stream)
            if isinstance(e, _BROKEN):
                raise self._closed() from e
            raise
        return stream

    def close(self, word: str) -> None:
        """End it now; the peer is told the word."""
        self._close(0, word)

    def _close(self, code: int, word: str) -> None:
        if not self.over.is_set():
            self._word = word
            self.connection.close(code, word)

    def ask(self) -> None:
        """See now whether the peer is still there, without waiting for it to fall silent."""
        self._asked.set()

    def _check_open(self) -> None:
        if self.over.is_set():
            raise self._closed()

    def _closed(self) -> LinkClosed:
        return LinkClosed(where=self.node.short(), hint="it is dialled again when needed")

    async def _send(self, kind: FrameType, *fields: object) -> None:
        await self._put(frames.encode(kind, *fields))

    async def _put(self, data: bytes) -> None:
        async with self._turn:
            try:
                await self._control.wait_for_credit(len(data))
                await self._control.send_all(data)
            except _BROKEN as e:
                self.close("broken")
                raise self._closed() from e

    # --- serving ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the peer until the link ends, for whatever reason; `word` says which."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, nursery)
                nursery.start_soon(self._take_streams, nursery)
                nursery.start_soon(self._watch)
                await self.over.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.close("this node is going away")
            for waiting in self._waiting.values():
                waiting.done.set()

    async def _listen(self, nursery: trio.Nursery) -> None:
        try:
            while not self.over.is_set():  # nothing is served of a peer that was cut off
                frame = await read_frame(self._control)
                if frame is None:
                    self.close("hung up")
                    return
                self._heard_at = trio.current_time()
                self._heard.set()
                await self._take_untrusted(frame, nursery)
        except _BROKEN:
            self.close("broken")
        except FormatError as e:
            _log.warning("cut off %s: it sent what is not understood: %s", self.node.short(), e)
            self._close(VIOLATION, "malformed")

    async def _take_untrusted(self, frame: Frame, nursery: trio.Nursery) -> None:
        match frame.kind:
            case FrameType.REQUEST:
                number, name, arguments = _request_untrusted(frame)
                self._used_at = self._heard_at
                if self._answering < limits.LINK_SERVED_MAX:
                    self._answering += 1
                    self._stir()
                    nursery.start_soon(self._answer, number, name, arguments)
                else:  # only a peer that asks more than is allowed waits for its own reading here
                    await self._reply(frames.encode(FrameType.FAILURE, number, "busy"))
            case FrameType.ANSWER | FrameType.FAILURE:
                self._settle_untrusted(frame)
            case FrameType.NOTICE:
                name, arguments = _named_untrusted(frame.row_untrusted(2))
                self._used_at = self._heard_at
                if note := self._services.notices.get(name):
                    await self._attempt(f"told {name}", note(self, arguments))
            case FrameType.PING | FrameType.PONG:
                (wanted,) = frame.row_untrusted(1)
                if not isinstance(wanted, bool):
                    raise FormatError("a wish that is neither yes nor no")
                if wanted:
                    self._used_at = self._heard_at
                if frame.kind == FrameType.PING and not self._owes_pong:
                    self._owes_pong = True
                    nursery.start_soon(self._pong)

    def _settle_untrusted(self, frame: Frame) -> None:
        number, result = frame.row_untrusted(2)
        waiting = self._waiting.get(codec.as_uint(number, 64, "a number"))
        if frame.kind == FrameType.ANSWER:
            row = codec.as_rows(result, limits.LINK_FRAME_BYTES_MAX, "the answer")
            if waiting is not None and not waiting.done.is_set():
                waiting.result = row
                waiting.done.set()
        else:
            word = codec.as_text(result, _WORD_BYTES_MAX, "the word")
            if waiting is not None and not waiting.done.is_set():
                waiting.word = word
                waiting.done.set()

    async def _answer(self, number: int, name: str, arguments: codec.Row) -> None:
        try:
            work = self._answered(number, name, arguments)
            data, word = await self._attempt(f"asked for {name}", work)
            await self._reply(data or frames.encode(FrameType.FAILURE, number, word))
        finally:
            self._answering -= 1

    async def _answered(self, number: int, name: str, arguments: codec.Row) -> bytes:
        answer = self._services.requests.get(name)
        if answer is None:
            raise PeerFailed(_UNKNOWN)
        result = await answer(self, arguments)
        try:
            return frames.encode(FrameType.ANSWER, number, result)
        except LimitExceeded as e:  # the fault is ours, not that of who asked
            raise LinkError(f"the answer is too long: {e.what}") from e

    async def _reply(self, data: bytes) -> None:
        with suppress(LinkClosed):  # then nobody waits for it any more
            await self._put(data)

    async def _attempt(self, what: str, work: Awaitable[T]) -> tuple[T | None, str]:
        """Do what a peer asked for; if it fails that is told, and ends nothing but this.

        What came of it, and a word for the peer that is empty if all went well.
        """
        result, words = None, []
        who = self.node.short()
        try:
            result = await work
        except* PeerFailed as e:  # what a service raises to say no
            words.append(_first(e).word)
        except* FormatError as e:
            _log.warning("%s %s: what it sent is not understood: %s", who, what, _first(e))
            words.append("malformed")
        except* (PortalError, OSError) as e:
            _log.warning("%s %s, which failed: %s", who, what, _first(e))
            words.append(_FAILED)
        except* (*_BROKEN, trio.EndOfChannel, trio.TooSlowError) as e:
            _log.debug("%s %s, which was broken off: %s", who, what, _first(e))
            words.append(_FAILED)
        return result, words[0] if words else ""

    async def _pong(self) -> None:
        try:
            await self._reply(frames.encode(FrameType.PONG, self._is_needed))
        finally:
            self._owes_pong = False

    async def _take_streams(self, nursery: trio.Nursery) -> None:
        try:
            while True:
                stream = await self.connection.accept_stream()
                self._serving += 1
                nursery.start_soon(self._serve, stream)
        except (LinkError, trio.EndOfChannel):
            self.close("broken")

    async def _serve(self, stream: QuicStream) -> None:
        self._used_at = trio.current_time()
        self._stir()
        try:
            opening, _ = await self._attempt("opened a stream", _opening_untrusted(stream))
            if opening is not None:
                await self.serve_stream(*opening, stream)
        finally:
            self._serving -= 1
            self._used_at = trio.current_time()
            await trio.aclose_forcefully(stream)

    async def serve_stream(
        self, kind: str, arguments: codec.Row, stream: trio.abc.HalfCloseableStream
    ) -> None:
        """Let whoever serves this kind have the stream, however it came here; then it is closed.

        If the service fails it is closed by force: the peer must not take that for the end.
        """
        self._serving += 1
        try:
            await self._attempt(f"opened {kind}", self._served(kind, arguments, stream))
        finally:
            self._serving -= 1
            await trio.aclose_forcefully(stream)

    async def _served(
        self, kind: str, arguments: codec.Row, stream: trio.abc.HalfCloseableStream
    ) -> None:
        serve = self._services.streams.get(kind)
        if serve is None:
            _log.info("%s opened a stream nobody serves: %s", self.node.short(), kind)
            raise PeerFailed(_UNKNOWN)
        await serve(self, arguments, stream)
        await stream.aclose()

    # --- keeping it -------------------------------------------------------------------------------

    def lean(self, *, on: bool) -> None:
        """Something beside it hangs on it (or no more): it notices sooner that nobody is there."""
        self._beside += 1 if on else -1
        self._stir()

    def _said(self) -> None:
        """Whoever says something cannot wait long to learn that nobody is there."""
        if self._said_at <= self._heard_at:
            self._said_at = trio.current_time()
            self._stir()

    def _stir(self) -> None:
        """A link that was at rest is in use: look after it sooner."""
        self._rest.deadline = min(self._rest.deadline, self._quiet_until())

    def _quiet_until(self) -> float:
        """When the peer has been silent for too long."""
        if self._said_at > self._heard_at:
            return self._said_at + limits.LINK_ANSWER_SECONDS
        if self.is_used or self._beside:
            return self._heard_at + limits.LINK_SILENCE_SECONDS
        dialled = self.connection.dialled
        rest_s = limits.LINK_REST_DIALLER_SECONDS if dialled else limits.LINK_REST_SECONDS
        return self._heard_at + rest_s

    async def _watch(self) -> None:
        """Ask whether the peer is still there, when it has been silent; end what nobody uses."""
        while True:
            with trio.CancelScope(deadline=self._quiet_until()) as self._rest:
                await self._asked.wait()
            is_asked, self._asked = self._asked.is_set(), trio.Event()
            now = trio.current_time()
            if self._said_at > self._heard_at and not self.connection.figures().in_flight_bytes:
                self._heard_at = self._said_at  # it has acknowledged all of it: it was there
            if not is_asked and now < self._quiet_until():
                continue
            if self._is_needed:
                self._used_at = now
            if now - self._used_at > limits.LINK_UNUSED_SECONDS:
                self.close("unused")
                return
            if not await self._is_there():
                self.close("silent")
                return

    async def _is_there(self) -> bool:
        """Whether the peer says anything; asked several times, as the first may get lost."""
        self._heard = trio.Event()
        with trio.move_on_after(limits.LINK_TRUST_SECONDS):
            while not self._heard.is_set():
                with trio.move_on_after(limits.LINK_PING_SECONDS):
                    try:
                        await self._send(FrameType.PING, self._is_needed)
                    except LinkClosed:
                        return False
                    await self._heard.wait()
        return self._heard.is_set()


@dataclass(slots=True)
class _Waiting:
    """A request under way; neither result nor word when done: the link ended."""

    done: trio.Event = field(default_factory=trio.Event)
    result: codec.Row | None = None
    word: str | None = None


async def read_frame(
    stream: trio.abc.ReceiveStream, bytes_max: int = limits.LINK_FRAME_BYTES_MAX
) -> Frame | None:
    """The next frame of a stream; None at its end."""
    head = await _exactly(stream, frames.LENGTH_BYTES)
    if not head:
        return None
    data = await _exactly(stream, frames.length_untrusted(head, bytes_max))
    return frames.read_untrusted(data)


async def _exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """So many bytes; none at the end."""
    data = bytearray()
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        if not part:
            if data:
                raise FormatError("the stream ends in the middle of a frame")
            break
        data += part
    return bytes(data)


async def _opening_untrusted(stream: trio.abc.ReceiveStream) -> tuple[str, codec.Row]:
    """What a stream of the peer is for."""
    with trio.fail_after(limits.HANDSHAKE_SECONDS):
        frame = await read_frame(stream, limits.STREAM_OPENING_BYTES_MAX)
    if frame is None or frame.kind != FrameType.OPEN:
        raise FormatError("a stream that does not say what it is for")
    return _named_untrusted(frame.row_untrusted(2))


def _first(group: BaseExceptionGroup[E]) -> E:
    """One of several things that went wrong at once: enough to be told."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cast("E", error)


def _request_untrusted(frame: Frame) -> tuple[int, str, codec.Row]:
    number, *named = frame.row_untrusted(3)
    return codec.as_uint(number, 64, "a number"), *_named_untrusted(tuple(named))


def _named_untrusted(row: codec.Row) -> tuple[str, codec.Row]:
    name, arguments = row
    return (
        codec.as_text(name, _WORD_BYTES_MAX, "the name"),
        codec.as_rows(arguments, limits.LINK_FRAME_BYTES_MAX, "the arguments"),
    )
