"""What is known of a path to a peer by measuring: round trips, loss, goodput, and trust.

srtt, rttvar   as TCP smooths them (RFC 6298), from answered pings
loss           of pings, as an EWMA; of packets, only while the path is not filled by ourselves
goodput        EWMA over one-second slices in which the lane was the bottleneck
trust          ends when a ping waits 6.5 s; comes back after three answers in a row
"""

from dataclasses import dataclass, field

TRUST_SECONDS = 6.5
ANSWERS_TO_TRUST_AGAIN = 3
FORGIVEN_SECONDS = 600.0  # from one loss of trust to the next; then the former ones do not count
SLICE_SECONDS = 1.0
_GOODPUT_WEIGHT = 0.2
_LOSS_WEIGHT = 0.05
_RTT_WEIGHT = 1 / 8
_RTTVAR_WEIGHT = 1 / 4


@dataclass(slots=True)
class Quality:
    """Of one path."""

    srtt_s: float | None = None  # nothing was answered yet
    rttvar_s: float = 0.0
    loss: float = 0.0  # of pings
    losses_of_trust: int = 0  # one soon after the other
    distrusted_at: float | None = None  # when trust last ended
    _trusted: bool = field(default=False, init=False)
    _unanswered_since: float | None = field(default=None, init=False)
    _in_a_row: int = field(default=0, init=False)

    def asked(self, now: float) -> None:
        """A ping left."""
        if self._unanswered_since is None:
            self._unanswered_since = now

    def answered(self, rtt_s: float, now: float) -> None:
        """A ping was answered."""
        self._notice(now)
        self._unanswered_since = None
        self._in_a_row += 1
        if self.distrusted_at is None or self._in_a_row >= ANSWERS_TO_TRUST_AGAIN:
            self._trusted = True
        self.loss += _LOSS_WEIGHT * (0.0 - self.loss)
        if self.srtt_s is None:
            self.srtt_s, self.rttvar_s = rtt_s, rtt_s / 2
        else:
            self.rttvar_s += _RTTVAR_WEIGHT * (abs(self.srtt_s - rtt_s) - self.rttvar_s)
            self.srtt_s += _RTT_WEIGHT * (rtt_s - self.srtt_s)

    def missed(self, now: float) -> None:
        """A ping was given up."""
        self._notice(now)
        self._in_a_row = 0
        self.loss += _LOSS_WEIGHT * (1.0 - self.loss)

    def is_trusted(self, now: float) -> bool:
        """Whether it answers."""
        self._notice(now)
        return self._trusted

    def _notice(self, now: float) -> None:
        """Trust ends when its time has come, not when somebody looks."""
        since = self._unanswered_since
        if self._trusted and since is not None and now - since >= TRUST_SECONDS:
            self._trusted = False
            self._in_a_row = 0
            lost_at = since + TRUST_SECONDS
            if self.distrusted_at is None or lost_at - self.distrusted_at >= FORGIVEN_SECONDS:
                self.losses_of_trust = 0
            self.losses_of_trust += 1
            self.distrusted_at = lost_at


@dataclass(slots=True)
class Goodput:
    """Of one lane, by real transfers."""

    bytes_per_s: float | None = None  # nothing was moved yet

    def slice(self, moved_bytes: int, seconds: float, *, was_bottleneck: bool) -> None:
        """One stretch of a transfer; where something else was slow it tells only "at least"."""
        if seconds < SLICE_SECONDS / 2:
            return
        rate = moved_bytes / seconds
        if self.bytes_per_s is None:
            self.bytes_per_s = rate if was_bottleneck else None
        elif was_bottleneck:
            self.bytes_per_s += _GOODPUT_WEIGHT * (rate - self.bytes_per_s)
        else:
            self.bytes_per_s = max(rate, self.bytes_per_s)


_LOSS_MEMORY_PACKETS = 50_000
_LOSS_PACKETS_MIN = 2_000
_QUEUE_FACTOR = 1.5
_QUEUE_SECONDS = 0.005


@dataclass(slots=True)
class PacketLoss:
    """The share of packets a path loses by itself, not because we fill it.

    A slice whose round trip is well above the smallest one has a queue: what it loses is
    congestion, which every controller brings about, and tells nothing of the path.
    """

    _sent: float = 0.0
    _lost: float = 0.0
    _rtt_min_s: float | None = None

    def slice(self, sent: int, lost: int, rtt_s: float) -> None:
        """What an engine counted since the last time."""
        if self._rtt_min_s is None or rtt_s < self._rtt_min_s:
            self._rtt_min_s = rtt_s
        if rtt_s > self._rtt_min_s * _QUEUE_FACTOR + _QUEUE_SECONDS:
            return
        keep = max(0.0, 1 - sent / _LOSS_MEMORY_PACKETS)
        self._sent = self._sent * keep + sent
        self._lost = self._lost * keep + min(lost, sent)

    @property
    def share(self) -> float | None:
        """Lost of sent; nothing while too few were sent to tell."""
        return self._lost / self._sent if self._sent >= _LOSS_PACKETS_MIN else None
