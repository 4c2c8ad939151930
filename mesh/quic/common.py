"""What both engines share: their connections have the same methods and events of the same names.

Both queue and count in a `quic` object; what they do differently is in mesh/quic/qh3_engine.py and
mesh/quic/aioquic_engine.py. Our own calls never fail here: a stream or connection that is over
already takes no more bytes, and says nothing.

The libraries' own log stays shut: a peer's faults are told once, in the reason of the close.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from core import limits
from mesh.quic import engine
from mesh.quic.engine import Event, Terms
from mesh.wire import Address

_REASON_CHARS_MAX = 200
_INTERNAL_ERROR = 0x01

logging.getLogger("quic").setLevel(logging.CRITICAL + 1)

# By the names both libraries give their events.
_TRANSLATE: dict[str, Callable[[Any], Event]] = {
    "StreamDataReceived": lambda e: engine.Data(e.stream_id, e.data, e.end_stream),
    "StreamReset": lambda e: engine.Reset(e.stream_id, e.error_code),
    "StopSendingReceived": lambda e: engine.Stopped(e.stream_id, e.error_code),
    "ConnectionIdIssued": lambda e: engine.IdIssued(e.connection_id),
    "ConnectionIdRetired": lambda e: engine.IdRetired(e.connection_id),
}


def plain(reason: str) -> str:
    """What a peer gave as its reason, fit to be shown."""
    return "".join(c if c.isprintable() else "?" for c in reason[:_REASON_CHARS_MAX])


def configuration(kind: Any, terms: Terms, *, is_client: bool) -> Any:
    """The settings both engines know, in an object of the engine's own class."""
    return kind(
        is_client=is_client,
        alpn_protocols=list(terms.alpns),
        idle_timeout=terms.idle_s,
        max_datagram_size=terms.datagram_bytes,
        max_data=limits.CONNECTION_WINDOW_BYTES,
        max_stream_data=2 * limits.STREAM_WINDOW_BYTES,  # credit ends before: mesh/quic/flow.py
        server_name="portal",  # the same from everybody; names prove nothing here
    )


class Common:
    """A connection of either engine; `quic` is the library's."""

    # What the library raises when a call comes too late, or a peer's bytes are beyond it.
    refusals: tuple[type[Exception], ...] = (ValueError, RuntimeError)

    def __init__(self, quic: Any) -> None:
        self._quic = quic
        self._is_over = False
        self._failure: engine.Closed | None = None
        self._is_dead = False  # it failed, and could not even end

    @property
    def cid(self) -> bytes:
        """The first name the peer addresses it by."""
        cid: bytes = self._quic.host_cid
        return cid

    def receive(self, data: bytes, segment_bytes: int, source: Address, now: float) -> None:
        """Take datagrams of one sender, in the shape of mesh.wire.Arrival."""
        try:
            self._receive(data, segment_bytes, source, now)
        except self.refusals as e:
            self._fail(e)

    def outgoing(self, now: float) -> list[tuple[bytes, Address]]:
        """Some datagrams that may go now."""
        while not self._is_dead:
            try:
                return self._outgoing(now)
            except self.refusals as e:
                self._fail(e)  # and say so, once
        return []

    def events(self) -> Iterator[Event]:
        """What happened since the last time; the end at once, though the engine lingers."""
        while (event := self._quic.next_event()) is not None:
            if type(event).__name__ == "HandshakeCompleted":
                yield engine.Ready(event.alpn_protocol or "", self.leaf())
            elif translate := _TRANSLATE.get(type(event).__name__):
                yield translate(event)
            else:
                self._noticed(event)
        if not self._is_over and (end := self._end()) is not None:
            self._is_over = True
            yield end

    def timer(self) -> float | None:
        """When `tick` wants to be called; None: the engine is done with it."""
        at: float | None = self._quic.get_timer() if not self._is_dead else None
        return at

    def tick(self, now: float) -> None:
        """The time has come."""
        try:
            self._quic.handle_timer(now)
        except self.refusals as e:
            self._fail(e)

    def open_stream(self, *, one_way: bool = False) -> int:
        """The number of a new stream."""
        stream: int = self._quic.get_next_available_stream_id(is_unidirectional=one_way)
        self._quic.send_stream_data(stream, b"")
        return stream

    def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        """Queue bytes of a stream."""
        self._quietly(self._quic.send_stream_data, stream, data, fin)

    def reset(self, stream: int, code: int) -> None:
        """Give up sending on a stream."""
        self._quietly(self._quic.reset_stream, stream, code)

    def stop(self, stream: int, code: int) -> None:
        """Tell the peer that no more of a stream is wanted."""
        self._quietly(self._quic.stop_stream, stream, code)

    def close(self, code: int, reason: str) -> None:
        """End the connection."""
        self._quietly(self._quic.close, code, None, reason)

    def leaf(self) -> bytes:
        """DER of the peer's certificate; empty at the responder."""
        raise NotImplementedError

    def _receive(self, data: bytes, segment_bytes: int, source: Address, now: float) -> None:
        raise NotImplementedError

    def _outgoing(self, now: float) -> list[tuple[bytes, Address]]:
        return [(data, Address(*to)) for data, to in self._quic.datagrams_to_send(now)]

    def _quietly(self, call: Callable[..., None], *arguments: object) -> None:
        """A call that comes too late, on a stream the peer has ended, is no fault of ours."""
        if not self._is_over:
            with suppress(*self.refusals):
                call(*arguments)

    def _noticed(self, event: Any) -> None:
        """An event that means nothing to anybody else."""

    def _end(self) -> engine.Closed | None:
        if (event := self._quic._close_event) is not None:
            return engine.Closed(int(event.error_code), plain(event.reason_phrase))
        return self._failure

    def _fail(self, error: Exception) -> None:
        """The engine cannot go on; it may say so once, then it falls silent."""
        self._is_dead = self._failure is not None
        if self._failure is None:
            self._failure = engine.Closed(_INTERNAL_ERROR, plain(str(error)))
            try:
                self._quic.close(_INTERNAL_ERROR, 0, self._failure.reason)
            except self.refusals:
                self._is_dead = True
