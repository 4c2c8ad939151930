"""What happens in the node, told to whoever listens.

Each kind of event is a type of node.api's, known before the first is told. Whoever publishes never
waits: a listener has a queue of bounded length, and one that lets it run full is dropped and told
so. To be used from the event loop only; between its awaits nothing here can interleave.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import trio

from core import limits
from core.errors import LimitExceeded
from node import api

SLOW = "slow"
STOPPING = "stopping"


class Listener:
    """The events of one who listens, in `lines`; they end when it is closed."""

    def __init__(self, first: bytes) -> None:
        self._send, self.lines = trio.open_memory_channel[bytes](limits.EVENTS_QUEUED_MAX)
        self._send.send_nowait(first)
        self.why_closed = STOPPING

    def put(self, line: bytes) -> bool:
        """Queue a line; False if there is no room for it."""
        try:
            self._send.send_nowait(line)
        except trio.WouldBlock:
            return False
        return True

    def close(self, why: str) -> None:
        """No more lines follow those that are queued."""
        self.why_closed = why
        self._send.close()


class Events:
    """All listeners, and the kinds of events there are."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._kinds: dict[type[api.Answer], api.EventKind] = {}
        self._listeners: list[Listener] = []
        self._seq = 0
        self._is_closed = False
        self.dropped = 0  # listeners, so far
        self.add_kind("stream.opened", api.StreamOpened)
        self.add_kind("stream.closed", api.StreamClosed)
        self.add_kind("service.changed", api.ServiceChanged)
        self.add_kind("config.reloaded", api.ConfigReloaded)

    @property
    def kinds(self) -> list[api.EventKind]:
        """Those there are, by name."""
        return sorted(self._kinds.values(), key=lambda one: one.kind)

    @property
    def published(self) -> int:
        """How many there were, told or not."""
        return self._seq

    def __len__(self) -> int:
        return len(self._listeners)

    def add_kind(self, kind: str, model: type[api.Answer]) -> None:
        """Let there be events of this type; its docstring says what they mean."""
        assert model not in self._kinds
        assert kind not in {one.kind for one in self._kinds.values()}
        what = (model.__doc__ or "").partition("\n")[0]
        self._kinds[model] = api.EventKind(kind=kind, what=what)

    def publish(self, data: api.Answer) -> None:
        """Tell everybody who listens. Costs next to nothing while nobody does."""
        kind = self._kinds[type(data)]
        self._seq += 1
        if not self._listeners:
            return
        line = self._line(kind, data)
        for listener in [one for one in self._listeners if not one.put(line)]:
            self.dropped += 1
            self._listeners.remove(listener)
            listener.close(SLOW)

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Be told what happens while the block runs."""
        if len(self._listeners) >= limits.EVENT_LISTENERS_MAX:
            raise LimitExceeded(f"{limits.EVENT_LISTENERS_MAX} listen already")
        listener = Listener(self._line(self._kinds[api.StreamOpened], api.StreamOpened()))
        if self._is_closed:
            listener.close(STOPPING)
        else:
            self._listeners.append(listener)
        try:
            yield listener
        finally:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def last_line(self, listener: Listener) -> bytes:
        """What a listener is told behind its last event."""
        closed = api.StreamClosed(why=listener.why_closed)
        return self._line(self._kinds[api.StreamClosed], closed)

    def close(self) -> None:
        """Nothing happens any more; every stream ends behind what is queued for it."""
        self._is_closed = True
        while self._listeners:
            self._listeners.pop().close(STOPPING)

    def _line(self, kind: api.EventKind, data: api.Answer) -> bytes:
        encoded = msgspec.json.encode(data)
        assert len(encoded) <= limits.EVENT_BYTES_MAX
        event = api.Event(
            seq=self._seq, at_s=round(self._now(), 3), kind=kind.kind, data=msgspec.Raw(encoded)
        )
        return msgspec.json.encode(event) + b"\n"
