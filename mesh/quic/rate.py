"""Congestion control by rate, for the engine whose control can be replaced: "rate" in aioquic.

Controls that halve their window at every loss fall to a twentieth of a path that loses one packet
in a hundred for reasons of its own. This one asks what the path delivers, and how soon:

    bandwidth    the most that was delivered per second, of the last BANDWIDTH_ROUNDS round trips
    delay        the shortest round trip of the last DELAY_SECONDS
    window       gain x bandwidth x delay, and a little more for acknowledgements that come late

    STARTUP      the window grows with what is acknowledged, as slow start does, until deliveries
                 stop growing, sooner if much gets lost. Once a queue shows, it holds at what
                 fits the path: if the queue goes, that was a hiccup; if it stays, it was all
    DRAIN        half a window, until what the start left in the queue is gone
    CRUISE       gains in turn: one delay of more, to see whether there is more; one of less, to
                 take back what that put into the queue; six of just enough
    PROBE_DELAY  no shorter or equal round trip for DELAY_SECONDS, or none near it for LATE_ROUNDS:
                 half a window for a moment, so that the queue, if it is ours, empties and the true
                 delay shows. A path that got longer would else starve at the old one's window

Loss as such changes nothing, except that more than LOSS_MAX of a round says that the path cannot
take it: then what was measured counts for less. `steer` has the bandwidth set the pace, too.

With mesh/quic/aioquic_engine.py the only module that imports aioquic. Importing it registers NAME.
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import (
    K_MICRO_SECOND,
    K_SECOND,
    QuicPacketPacer,
    QuicPacketRecovery,
)

NAME = "rate"

BANDWIDTH_ROUNDS = 10
DELAY_SECONDS = 10.0
PROBE_DELAY_SECONDS = 0.2
LATE_FACTOR = 1.5  # our own queue is shorter
LATE_ROUNDS = 5  # before the samples of better days are forgotten
LATE_PROBES_SECONDS = 2.0  # apart: the queue of others may stay

INITIAL_PACKETS = 32
WINDOW_PACKETS_MIN = 4

STARTUP_LOSS_MAX = 0.08
PATIENT_GAIN = 1.25  # of what was measured while the queue built up, so a little low
STARTUP_ROUNDS_FLAT = 3  # without a quarter more delivered: the path is full
GROWTH_MIN = 1.25
CRUISE_GAINS = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
CRUISE_FROM = 2  # not with more, right after a start
CRUISE_SLACK = 1.1  # samples fall a little short of the path; without slack they would shrink
PROBE_DELAY_GAIN = 0.5
DELAY_SAMPLES = 8  # the least of these is what a queue adds, whatever jitter does to one

STARTUP_PACE = 1.5  # of a window in a round trip: with less it could not double
CRUISE_PACE = 1.02
LATE_SECONDS = 0.002  # what may be made good at once when a timer fires late

LOSS_MAX = 0.05
LOSS_PENALTY = 0.85
LOSS_PACKETS_MIN = 100  # judge no sooner: one of the first ten is chance
ACK_SPREAD_SECONDS = 0.003  # acknowledgements wait for company and for timers
APP_LIMITED_SHARE = 0.7  # of the window: with less under way the application is the limit
APP_LIMITED_SHARE_STARTUP = 0.5  # the window may have doubled since


class Phase(Enum):
    """What it is doing; the module says why."""

    STARTUP = "startup"
    DRAIN = "drain"
    CRUISE = "cruise"
    PROBE_DELAY = "probe delay"


class _Snapshot(NamedTuple):
    """How things stood when a packet was sent."""

    sent_at: float
    delivered_bytes: int  # of the connection, until then
    delivered_at: float  # when the last of them was acknowledged
    first_sent_at: float  # when the packet acknowledged last had been sent
    app_limited: bool


class _Bandwidth:
    """The highest sample of the last rounds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float]] = deque()  # rounds rising, rates falling

    @property
    def bytes_per_s(self) -> float:
        return self._samples[0][1] if self._samples else 0.0

    def add(self, round_number: int, bytes_per_s: float) -> None:
        """A sample: those before it that are not higher will never count again."""
        while self._samples and self._samples[-1][1] <= bytes_per_s:
            self._samples.pop()
        self._samples.append((round_number, bytes_per_s))

    def forget_before(self, round_number: int) -> None:
        """Drop what is too old, but never the last word."""
        while len(self._samples) > 1 and self._samples[0][0] < round_number:
            self._samples.popleft()

    def scale(self, factor: float) -> None:
        """All of it counts for less."""
        self._samples = deque((number, rate * factor) for number, rate in self._samples)

    def clear(self) -> None:
        self._samples.clear()


class RateControl(QuicCongestionControl):
    """The window of one connection. aioquic calls the `on_` methods and reads the rest."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._packet_bytes = max_datagram_size
        self._least_bytes = WINDOW_PACKETS_MIN * max_datagram_size
        self.congestion_window = INITIAL_PACKETS * max_datagram_size
        self.phase = Phase.STARTUP
        # Packet numbers begin anew in every epoch.
        self._sent: dict[tuple[Any, int], _Snapshot] = {}
        self._delivered_bytes = 0
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._newest: _Snapshot | None = None  # of what was acknowledged since the last sample
        self._bandwidth = _Bandwidth()
        self.delay_s: float | None = None
        self._delay_at = 0.0  # when a round trip was last as short
        # Rounds: one is over when a packet is acknowledged that was sent after the last one ended.
        self._round = 0
        self._telling_rounds = 0  # those in which the window was the limit
        self._round_ends_bytes = 0
        self._round_app_limited = False
        self._peak_bytes = 0  # the most under way at once in this round
        self._last_peak_bytes = 0
        self._recent_delays_s: deque[float] = deque(maxlen=DELAY_SAMPLES)
        # Startup.
        self._full_bytes_per_s = 0.0
        self._flat_rounds = 0
        self._patient_since: int | None = None  # the round in which the queue was seen to grow
        # Cruise and the probe for the delay.
        self._gain = CRUISE_FROM
        self._gain_since = 0.0
        self._probe_until: float | None = None
        self._probed_at = 0.0
        self._late_rounds = 0
        # Losses since they were last judged.
        self._judged_bytes = 0
        self._lost_bytes = 0

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """What the path delivers."""
        return self._bandwidth.bytes_per_s

    def pace_bytes_per_s(self, even_bytes_per_s: float) -> float:
        """How fast to send; `even` is a window over a round trip."""
        if self._is_growing():
            return STARTUP_PACE * even_bytes_per_s
        gain = CRUISE_GAINS[self._gain] if self.phase is Phase.CRUISE else 1.0
        return gain * CRUISE_PACE * self.bandwidth_bytes_per_s or even_bytes_per_s

    # --- what aioquic tells -----------------------------------------------------------------------

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        """Remember how things stand, for the sample its acknowledgement gives."""
        assert packet.sent_time is not None
        now = packet.sent_time
        if not self.bytes_in_flight:  # after a rest, time counts from here
            self._delivered_at = self._first_sent_at = now
        self.bytes_in_flight += packet.sent_bytes
        self._peak_bytes = max(self._peak_bytes, self.bytes_in_flight)
        self._sent[packet.epoch, packet.packet_number] = _Snapshot(
            now,
            self._delivered_bytes,
            self._delivered_at,
            self._first_sent_at,
            self._is_app_limited(),
        )

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """Count it; `on_rtt_measurement` follows once for all that were acknowledged together."""
        self.bytes_in_flight -= packet.sent_bytes
        self._delivered_bytes += packet.sent_bytes
        self._judged_bytes += packet.sent_bytes
        self._delivered_at = now
        snapshot = self._sent.pop((packet.epoch, packet.packet_number), None)
        if snapshot is not None and (
            self._newest is None or snapshot.sent_at >= self._newest.sent_at
        ):
            self._newest = snapshot
        if self._is_growing() and not self._is_app_limited():
            self.congestion_window += packet.sent_bytes

    def on_packets_lost(
        self,
        *,
        now: float,  # noqa: ARG002 -- the name is aioquic's
        packets: Iterable[QuicSentPacket],
    ) -> None:
        """Count them; a round's end judges."""
        for packet in packets:
            self._lost_bytes += packet.sent_bytes
            self._judged_bytes += packet.sent_bytes
            self._forget(packet)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        """Nothing is known of them but that they are under way no more."""
        for packet in packets:
            self._forget(packet)

    def on_persistent_congestion(self) -> None:
        """Nothing came through for several round trips: begin again, knowing only the delay."""
        self._bandwidth.clear()
        self._newest = None
        self._start()
        self.congestion_window = self._least_bytes

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """Packets were acknowledged: sample, and set the window, from which the pace follows."""
        self._measure_delay(now, rtt)
        newest, self._newest = self._newest, None
        if newest is None:
            return
        self._sample(newest)
        if newest.delivered_bytes >= self._round_ends_bytes:
            self._end_round()
        self._advance(now)
        self._set_window()

    def get_log_data(self) -> dict[str, Any]:
        """What aioquic's own log shows of it."""
        return {
            **super().get_log_data(),
            "rate-phase": self.phase.value,
            "rate-bandwidth": round(self.bandwidth_bytes_per_s),
        }

    # --- measuring --------------------------------------------------------------------------------

    def _forget(self, packet: QuicSentPacket) -> None:
        self.bytes_in_flight -= packet.sent_bytes
        self._sent.pop((packet.epoch, packet.packet_number), None)

    def _is_growing(self) -> bool:
        return self.phase is Phase.STARTUP and self._patient_since is None

    def _is_app_limited(self) -> bool:
        """Whether less than the window was under way at every moment of this round and the last."""
        starting = self.phase is Phase.STARTUP
        share = APP_LIMITED_SHARE_STARTUP if starting else APP_LIMITED_SHARE
        peak = max(self._peak_bytes, self._last_peak_bytes)
        return peak < share * self.congestion_window

    def _measure_delay(self, now: float, rtt: float) -> None:
        # With little under way no queue is ours: what is measured then is the delay as it is now.
        stale = now - self._delay_at > DELAY_SECONDS
        calm = self.bytes_in_flight <= PROBE_DELAY_GAIN * self._path_bytes()
        if self.delay_s is None or rtt <= self.delay_s or (stale and calm):
            self.delay_s, self._delay_at = rtt, now
        self._recent_delays_s.append(rtt)

    def _sample(self, newest: _Snapshot) -> None:
        # Over the longer of the two times: acknowledgements may come bunched, and packets, too.
        sending_s = newest.sent_at - newest.first_sent_at
        arriving_s = self._delivered_at - newest.delivered_at
        self._first_sent_at = newest.sent_at
        interval_s = max(sending_s, arriving_s)
        if interval_s > 0:
            rate = (self._delivered_bytes - newest.delivered_bytes) / interval_s
            if not newest.app_limited or rate > self.bandwidth_bytes_per_s:
                self._bandwidth.add(self._telling_rounds, rate)
        self._round_app_limited = newest.app_limited

    def _path_bytes(self) -> float:
        """What fits on the path without waiting anywhere."""
        return self.bandwidth_bytes_per_s * (self.delay_s or 0.0)

    # --- deciding ---------------------------------------------------------------------------------

    def _end_round(self) -> None:
        self._round += 1
        self._round_ends_bytes = self._delivered_bytes
        self._last_peak_bytes, self._peak_bytes = self._peak_bytes, self.bytes_in_flight
        if not self._round_app_limited:  # a round that asks for little tells nothing
            self._telling_rounds += 1
            self._bandwidth.forget_before(self._telling_rounds - BANDWIDTH_ROUNDS)
        lossy = self._judge_losses()
        self._late_rounds = self._late_rounds + 1 if self._is_late() else 0
        if self.phase is Phase.STARTUP:
            is_flat = self._is_flat()
            # Losses while deliveries still grow are chance: a full path would not let them.
            if is_flat or (lossy and self._flat_rounds):
                self.phase = Phase.DRAIN

    def _judge_losses(self) -> bool:
        """Whether too much was lost to go on as before."""
        if self._judged_bytes < LOSS_PACKETS_MIN * self._packet_bytes:
            return False
        share = self._lost_bytes / self._judged_bytes
        self._lost_bytes = self._judged_bytes = 0
        if self.phase is Phase.STARTUP:
            return share > STARTUP_LOSS_MAX
        if share > LOSS_MAX:
            self._bandwidth.scale(LOSS_PENALTY)
        return False

    def _is_flat(self) -> bool:
        """Whether deliveries have stopped growing."""
        if self.bandwidth_bytes_per_s >= self._full_bytes_per_s * GROWTH_MIN:
            self._full_bytes_per_s = self.bandwidth_bytes_per_s
            self._flat_rounds = 0
        elif self._is_growing() and not self._round_app_limited:
            self._flat_rounds += 1
        return self._flat_rounds >= STARTUP_ROUNDS_FLAT

    def _watch_queue(self) -> None:
        """The start ends where the queue begins, unless that was a hiccup."""
        if not self._queue_grew():
            self._patient_since = None
        elif self._patient_since is None:
            self._patient_since = self._round
        elif self._round > self._patient_since + 1:
            self.phase = Phase.DRAIN

    def _queue_grew(self) -> bool:
        delay_s = self.delay_s or 0.0
        return self._recent_delay_s() > delay_s + min(max(delay_s / 8, 0.004), 0.016)

    def _is_late(self) -> bool:
        return self._recent_delay_s() > LATE_FACTOR * (self.delay_s or 0.0) + ACK_SPREAD_SECONDS

    def _recent_delay_s(self) -> float:
        """What nobody came under lately; 0 if too few came."""
        few = len(self._recent_delays_s) < DELAY_SAMPLES
        return 0.0 if few else min(self._recent_delays_s)

    def _advance(self, now: float) -> None:
        """To the next phase or gain, if its time has come."""
        delay_s = self.delay_s or 0.0
        if self.phase is Phase.STARTUP:
            self._watch_queue()
        elif self.phase is Phase.DRAIN:
            if self.bytes_in_flight <= max(CRUISE_SLACK * self._path_bytes(), self._least_bytes):
                self._cruise(now)
        elif self.phase is Phase.CRUISE:
            late = self._late_rounds >= LATE_ROUNDS and now - self._probed_at > LATE_PROBES_SECONDS
            if late or now - self._delay_at > DELAY_SECONDS:
                self.phase, self._probe_until = Phase.PROBE_DELAY, None
            elif now - self._gain_since > delay_s:
                self._gain, self._gain_since = (self._gain + 1) % len(CRUISE_GAINS), now
        elif self.phase is Phase.PROBE_DELAY:
            self._probe_delay(now, delay_s)

    def _probe_delay(self, now: float, delay_s: float) -> None:
        if self._probe_until is None:
            half = PROBE_DELAY_GAIN * self._path_bytes() + self._slack_bytes()
            if self.bytes_in_flight <= max(half, self._least_bytes):
                self._probe_until = now + max(PROBE_DELAY_SECONDS, delay_s)
                self._recent_delays_s.clear()
        elif now >= self._probe_until:
            self.delay_s, self._delay_at = min(self._recent_delays_s, default=delay_s), now
            self._probed_at, self._late_rounds = now, 0
            self._cruise(now)

    def _cruise(self, now: float) -> None:
        self.phase, self._gain, self._gain_since = Phase.CRUISE, CRUISE_FROM, now
        self._lost_bytes = self._judged_bytes = 0  # what the start lost is paid for

    def _start(self) -> None:
        self.phase = Phase.STARTUP
        self._full_bytes_per_s = 0.0
        self._flat_rounds = 0
        self._patient_since = None

    def _slack_bytes(self) -> float:
        return self.bandwidth_bytes_per_s * ACK_SPREAD_SECONDS + 3 * self._packet_bytes

    def _set_window(self) -> None:
        path = self._path_bytes()
        if not path or self._is_growing():
            return
        if self.phase is Phase.STARTUP:
            window = PATIENT_GAIN * path
        elif self.phase is Phase.CRUISE:
            window = CRUISE_GAINS[self._gain] * CRUISE_SLACK * path + self._slack_bytes()
        else:
            window = PROBE_DELAY_GAIN * path
        self.congestion_window = max(self._least_bytes, int(window))


class RatePacer(QuicPacketPacer):
    """Sends as evenly as the control says, where aioquic's own spreads a window over a round trip.

    That one is slow to start (the window doubles only once all of it is out) and after a queue
    (the smoothed round trip remembers it). It saves up too little to make good for a timer that
    fires a millisecond late, and forgives what was sent too early. `bucket_time` may be a debt.
    """

    def __init__(self, control: RateControl, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._control = control

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override]  # theirs too
        """When the next packet may go; None for now."""
        if self.packet_time is None:
            return None
        self.update_bucket(now=now)
        return None if self.bucket_time > -K_MICRO_SECOND else now - self.bucket_time

    def update_after_send(self, now: float) -> None:
        """A packet went."""
        if self.packet_time is not None:
            self.update_bucket(now=now)
            self.bucket_time -= self.packet_time

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """The pace after what was acknowledged or lost."""
        even = congestion_window / max(smoothed_rtt, K_MICRO_SECOND)
        packet_s = self._max_datagram_size / max(1.0, self._control.pace_bytes_per_s(even))
        self.packet_time = max(K_MICRO_SECOND, min(packet_s, K_SECOND))
        self.bucket_max = max(self.packet_time, LATE_SECONDS)
        self.bucket_time = max(-self.packet_time, min(self.bucket_time, self.bucket_max))


def steer(recovery: QuicPacketRecovery, packet_bytes: int) -> None:
    """Have the rate control of a connection set its pace, too."""
    control = recovery._cc  # noqa: SLF001 -- aioquic has no other door
    assert isinstance(control, RateControl)
    recovery._pacer = RatePacer(control, max_datagram_size=packet_bytes)  # noqa: SLF001


register_congestion_control(NAME, RateControl)
