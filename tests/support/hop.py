"""One direction of a path, as arithmetic: what becomes of a datagram that is sent now.

    sent -> too large? -> queue (drop-tail) -> bottleneck -> lost? -> delay, jitter -> arrives
                                                                      held back? twice?

A hop holds no datagrams. It says when each arrives, if at all, and the caller delivers them, be it
in trio's virtual time (tests/support/simnet.py) or without trio (tests/support/links_model.py).
"""

import math
from dataclasses import dataclass
from random import Random

HEADER_BYTES = 28  # IPv4 and UDP: they take their time on the line, too


@dataclass(frozen=True, slots=True)
class Path:
    """What one direction is like. Chances are of each datagram, from 0 to 1."""

    delay_s: float = 0.0
    jitter_s: float = 0.0  # more delay, up to this; nobody overtakes because of it
    loss: float = 0.0
    doubled: float = 0.0
    held: float = 0.0  # reordered: these come `held_s` later, and others overtake them
    held_s: float = 0.01
    bits_per_s: float = math.inf
    queue_bytes: float = math.inf  # what waits for the bottleneck, headers included
    datagram_bytes_max: int = 65_507  # larger ones vanish, as where fragments are dropped


@dataclass(slots=True)
class Count:
    """What became of the datagrams."""

    sent: int = 0
    too_large: int = 0
    overflowed: int = 0
    lost: int = 0
    doubled: int = 0
    arrived: int = 0
    queued_bytes_max: float = 0.0


class Hop:
    """A path's one direction at work."""

    def __init__(self, path: Path, rng: Random) -> None:
        self.path = path
        self.count = Count()
        self._rng = rng
        self._free_at = 0.0  # when the bottleneck has sent all it was given
        self._last_at = 0.0  # when the last datagram that kept its place arrives

    def queued_bytes(self, now: float) -> float:
        """What has not passed the bottleneck yet."""
        if math.isinf(self.path.bits_per_s):
            return 0.0
        return max(0.0, self._free_at - now) * self.path.bits_per_s / 8

    def send(self, size: int, now: float) -> tuple[float, ...]:
        """When a datagram of this size arrives: once, never, or twice."""
        path, count, chance = self.path, self.count, self._rng.random
        count.sent += 1
        if size > path.datagram_bytes_max:
            count.too_large += 1
            return ()
        if (passed_at := self._pass_bottleneck(size + HEADER_BYTES, now)) is None:
            count.overflowed += 1
            return ()
        if path.loss and chance() < path.loss:
            count.lost += 1
            return ()
        at = passed_at + path.delay_s + (path.jitter_s * chance() if path.jitter_s else 0.0)
        if path.held and chance() < path.held:
            at += path.held_s
        else:
            self._last_at = at = max(at, self._last_at)
        count.arrived += 1
        if path.doubled and chance() < path.doubled:
            count.doubled += 1
            return at, at + path.held_s
        return (at,)

    def _pass_bottleneck(self, size: int, now: float) -> float | None:
        """When its last byte has left the queue; None if the queue is full."""
        if math.isinf(self.path.bits_per_s):
            return now
        queued = self.queued_bytes(now)
        if queued + size > self.path.queue_bytes:
            return None
        self.count.queued_bytes_max = max(self.count.queued_bytes_max, queued + size)
        self._free_at = max(now, self._free_at) + size * 8 / self.path.bits_per_s
        return self._free_at
