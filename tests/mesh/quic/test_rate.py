import heapq
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from aioquic.quic.congestion.base import create_congestion_control
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.tls import Epoch

from mesh.quic import rate
from mesh.quic.rate import Phase, RateControl
from tests.support.hop import Hop, Path

PACKET_BYTES = 1_350
ACK_DELAY_S = 0.001


def packet(number: int, now: float, epoch: Epoch = Epoch.ONE_RTT) -> QuicSentPacket:
    return QuicSentPacket(
        epoch=epoch,
        in_flight=True,
        is_ack_eliciting=True,
        is_crypto_packet=False,
        packet_number=number,
        packet_type=QuicPacketType.ONE_RTT,
        sent_time=now,
        sent_bytes=PACKET_BYTES,
    )


class Sender:
    """A control, its pacer and a path: what aioquic does with them, without its packets."""

    def __init__(self, path: Path, *, seed: int = 1):
        self.hop = Hop(path, Random(seed))
        self._back_s = path.delay_s
        self.control = RateControl(max_datagram_size=PACKET_BYTES)
        self.pacer = rate.RatePacer(self.control, max_datagram_size=PACKET_BYTES)
        self._app = (float("inf"), 0.0, 0)  # how fast it has something to send, since when
        self.now = 0.0
        self.sent = 0
        self.acked_bytes = 0
        self.delay_max_s = 0.0
        self.phases = [Phase.STARTUP]
        self.windows: list[tuple[float, int]] = []
        self._pending: dict[int, QuicSentPacket] = {}
        self._arrivals: list[tuple[float, int]] = []
        self._srtt_s = 0.0

    def offer(self, bits_per_s: float = float("inf")) -> None:
        """From now on the application has this much to send."""
        self._app = bits_per_s, self.now, self.sent

    def _has_data(self) -> bool:
        bits_per_s, since, sent = self._app
        return (self.sent - sent) * PACKET_BYTES * 8 <= bits_per_s * (self.now - since)

    def run(self, seconds: float) -> float:
        """Mbit/s acknowledged in this time."""
        until, before = self.now + seconds, self.acked_bytes
        while self.now < until:
            self.now += 0.0005
            self._acknowledge()
            self._send()
        return (self.acked_bytes - before) * 8 / 1e6 / seconds

    def _send(self) -> None:
        while self.control.bytes_in_flight + PACKET_BYTES <= self.control.congestion_window:
            if not self._has_data() or self.pacer.next_send_time(self.now) is not None:
                return
            one = packet(self.sent, self.now)
            self._pending[self.sent] = one
            self.control.on_packet_sent(packet=one)
            self.pacer.update_after_send(self.now)
            for at in self.hop.send(PACKET_BYTES, self.now):
                heapq.heappush(self._arrivals, (at + self._back_s, self.sent))
            self.sent += 1

    def _acknowledge(self) -> None:
        numbers = []
        while self._arrivals and self._arrivals[0][0] <= self.now:
            numbers.append(heapq.heappop(self._arrivals)[1])
        acked = [self._pending.pop(number) for number in sorted(numbers) if number in self._pending]
        if not acked:
            return
        for one in acked:
            self.acked_bytes += one.sent_bytes
            self.control.on_packet_acked(now=self.now, packet=one)
        rtt = self.now - acked[-1].sent_time
        self.delay_max_s = max(self.delay_max_s, rtt)
        self._srtt_s += (rtt - self._srtt_s) / 8 if self._srtt_s else rtt
        self.control.on_rtt_measurement(now=self.now, rtt=rtt)
        lost = [n for n in self._pending if n < acked[-1].packet_number - 3]
        if lost:
            packets = [self._pending.pop(n) for n in lost]
            self.control.on_packets_lost(now=self.now, packets=packets)
        self.pacer.update_rate(self.control.congestion_window, self._srtt_s)
        self.windows.append((self.now, self.control.congestion_window))
        if self.control.phase is not self.phases[-1]:
            self.phases.append(self.control.phase)


def wan(mbit_per_s=20, rtt_s=0.04, queue=1.0, **more) -> Path:
    path_bytes = mbit_per_s * 1e6 / 8 * rtt_s
    return Path(
        delay_s=rtt_s / 2, bits_per_s=mbit_per_s * 1e6, queue_bytes=queue * path_bytes, **more
    )


def test_aioquic_makes_it_by_its_name():
    made = create_congestion_control(rate.NAME, max_datagram_size=PACKET_BYTES)
    assert isinstance(made, RateControl)
    assert made.congestion_window == rate.INITIAL_PACKETS * PACKET_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(("mbit_per_s", "rtt_s"), [(1, 0.01), (2, 0.15), (20, 0.01), (20, 0.15)])
def test_it_finds_the_bandwidth_and_the_delay(mbit_per_s, rtt_s):
    sender = Sender(wan(mbit_per_s, rtt_s, queue=4))
    sender.run(5)
    assert sender.control.phase is Phase.CRUISE
    assert sender.control.bandwidth_bytes_per_s * 8e-6 == pytest.approx(mbit_per_s, rel=0.06)
    packet_s = (PACKET_BYTES + 28) * 8 / (mbit_per_s * 1e6)
    assert rtt_s <= sender.control.delay_s <= rtt_s + 4 * packet_s + 0.002
    assert sender.run(3) > 0.93 * mbit_per_s * PACKET_BYTES / (PACKET_BYTES + 28)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "least"), [(0.001, 0.93), (0.01, 0.92), (0.03, 0.88)])
def test_random_loss_costs_what_is_lost_and_little_more(loss, least):
    sender = Sender(wan(loss=loss))
    sender.run(2)
    assert sender.run(4) > least * 20


def test_the_start_ends_where_the_queue_begins():
    sender = Sender(wan())
    sender.run(2)
    assert sender.control.phase is Phase.CRUISE
    assert sender.hop.count.overflowed < 40  # of 74 that fit the path, and as many the queue
    deep = Sender(wan(queue=20))
    deep.run(2)
    assert deep.delay_max_s < 3 * 0.04


def test_the_start_doubles_in_each_round():
    sender = Sender(wan(mbit_per_s=1_000))
    sender.run(0.2)
    windows = [max(w for at, w in sender.windows if at <= end) for end in (0.05, 0.1, 0.15, 0.2)]
    for before, after in pairwise(windows):
        assert 1.5 <= after / before <= 3


@pytest.mark.slow
def test_a_hiccup_does_not_end_the_start():
    sender = Sender(wan(mbit_per_s=200))
    sender.run(0.06)
    sender.hop.path = replace(sender.hop.path, delay_s=0.035)  # ten more on the way there
    sender.run(0.03)
    sender.hop.path = replace(sender.hop.path, delay_s=0.02)
    assert sender.control.phase is Phase.STARTUP
    sender.run(1.5)
    assert sender.control.bandwidth_bytes_per_s * 8e-6 > 180


def test_cruising_asks_for_more_and_takes_it_back():
    sender = Sender(wan())
    sender.run(2)
    at = len(sender.windows)
    sender.run(1)
    windows = sorted({round(w / sender.control._path_bytes(), 1) for _, w in sender.windows[at:]})
    assert windows[-1] > 1.4
    assert windows[0] < 1.0


@pytest.mark.slow
def test_more_bandwidth_is_found_and_less_is_believed():
    sender = Sender(wan(mbit_per_s=20, queue=4))
    sender.run(3)
    sender.hop.path = replace(sender.hop.path, bits_per_s=60e6)
    sender.run(4)
    assert sender.run(1) > 50
    sender.hop.path = replace(sender.hop.path, bits_per_s=10e6)
    sender.run(6)
    assert sender.control.bandwidth_bytes_per_s * 8e-6 < 11.5
    assert sender.run(1) > 8.5


@pytest.mark.slow
def test_a_longer_path_is_believed_after_a_probe():
    sender = Sender(wan(mbit_per_s=20, queue=4))
    sender.run(3)
    sender.hop.path = replace(sender.hop.path, delay_s=0.08)
    assert sender.run(1) < 15  # the window is still that of the short path
    sender.run(3)
    assert Phase.PROBE_DELAY in sender.phases
    assert sender.control.delay_s == pytest.approx(0.1, rel=0.1)
    sender.run(2)
    assert sender.run(2) > 17


@pytest.mark.slow
def test_a_probe_ends_and_costs_little():
    sender = Sender(wan(mbit_per_s=20))
    sender.run(2)
    # From now on a standing queue of others hides the true delay.
    sender.hop.path = replace(sender.hop.path, delay_s=0.022)
    assert sender.run(28) > 17
    assert 1 <= sender.phases.count(Phase.PROBE_DELAY) <= 3
    assert sender.control.phase in {Phase.CRUISE, Phase.PROBE_DELAY}


@pytest.mark.slow
def test_an_application_that_sends_little_does_not_make_the_path_small():
    sender = Sender(wan())
    sender.run(2)
    sender.offer(1e6)
    sender.run(5)
    assert sender.control.bandwidth_bytes_per_s * 8e-6 > 18.5
    sender.offer()
    assert sender.run(0.5) > 17


def test_a_start_without_anything_to_send_waits():
    sender = Sender(wan())
    sender.offer(0.5e6)
    sender.run(3)
    window = sender.control.congestion_window
    assert window < 3 * rate.INITIAL_PACKETS * PACKET_BYTES
    sender.offer()
    sender.run(1)
    assert sender.run(1) > 17


@pytest.mark.slow
def test_what_the_path_cannot_take_is_not_sent_for_long():
    sender = Sender(wan(queue=0.1))
    sender.run(3)
    before = replace(sender.hop.count)
    sender.run(5)
    after = sender.hop.count
    assert (after.overflowed - before.overflowed) / (after.sent - before.sent) < 0.1


def test_a_lossy_round_makes_the_samples_count_less():
    sender = Sender(wan())
    sender.run(2)
    before = sender.control.bandwidth_bytes_per_s
    sender.hop.path = replace(sender.hop.path, loss=0.3)
    sender.run(0.3)
    assert sender.control.bandwidth_bytes_per_s < before * 0.9
    sender.hop.path = replace(sender.hop.path, loss=0.0)
    sender.run(3)
    assert sender.control.bandwidth_bytes_per_s > before * 0.95


def test_a_dozen_first_packets_do_not_judge_the_path():
    sender = Sender(wan(loss=0.03), seed=5)
    sender.run(0.1)
    assert sender.hop.count.lost
    assert sender.control.phase is Phase.STARTUP


def test_a_start_that_loses_too_much_ends():
    sender = Sender(wan(mbit_per_s=10, queue=0.2))
    sender.run(1)
    assert sender.phases[0] is Phase.STARTUP
    assert sender.control.phase is not Phase.STARTUP
    assert sender.hop.count.overflowed / sender.hop.count.sent < 0.5


def test_an_outage_begins_again_from_a_small_window():
    sender = Sender(wan())
    sender.run(2)
    delay_s = sender.control.delay_s
    sender.control.on_persistent_congestion()
    assert sender.control.phase is Phase.STARTUP
    assert sender.control.congestion_window == rate.WINDOW_PACKETS_MIN * PACKET_BYTES
    assert sender.control.delay_s == delay_s
    sender.run(2)
    assert sender.run(1) > 18


def test_packets_of_different_epochs_with_one_number_are_different():
    control = RateControl(max_datagram_size=PACKET_BYTES)
    first, second = packet(0, 1.0, Epoch.INITIAL), packet(0, 1.01, Epoch.HANDSHAKE)
    control.on_packet_sent(packet=first)
    control.on_packet_sent(packet=second)
    assert control.bytes_in_flight == 2 * PACKET_BYTES
    control.on_packets_expired(packets=[first])
    control.on_packet_acked(now=1.05, packet=second)
    control.on_rtt_measurement(now=1.05, rtt=0.04)
    assert control.bytes_in_flight == 0
    assert not control._sent
    assert control.bandwidth_bytes_per_s == pytest.approx(PACKET_BYTES / 0.05)


def test_nothing_is_kept_of_packets_that_are_over():
    sender = Sender(wan(loss=0.02))
    sender.run(3)
    assert sender.control._sent.keys() == {(Epoch.ONE_RTT, n) for n in sender._pending}
    assert sender.control.bytes_in_flight == len(sender._pending) * PACKET_BYTES
    assert len(sender.control._bandwidth._samples) <= rate.BANDWIDTH_ROUNDS + 1


def test_the_pacer_makes_good_for_a_late_timer_and_for_no_more():
    control = RateControl(max_datagram_size=PACKET_BYTES)
    control._bandwidth.add(0, 50e6)  # 37 packets a millisecond
    control._cruise(0.0)
    pacer = rate.RatePacer(control, max_datagram_size=PACKET_BYTES)
    pacer.update_rate(10_000_000, 0.04)
    burst = 0
    while pacer.next_send_time(1.0) is None:
        pacer.update_after_send(1.0)
        burst += 1
    assert 70 <= burst <= 80


def test_slow_paths_get_no_bursts():
    control = RateControl(max_datagram_size=PACKET_BYTES)
    control._bandwidth.add(0, 125_000)
    control._cruise(0.0)
    pacer = rate.RatePacer(control, max_datagram_size=PACKET_BYTES)
    pacer.update_rate(10_000, 0.04)
    burst = 0
    while pacer.next_send_time(1.0) is None:
        pacer.update_after_send(1.0)
        burst += 1
    assert burst <= 3


def a_recovery() -> QuicPacketRecovery:
    return QuicPacketRecovery(
        congestion_control_algorithm=rate.NAME,
        initial_rtt=0.1,
        max_datagram_size=PACKET_BYTES,
        peer_completed_address_validation=True,
        send_probe=lambda: None,
    )


def test_steering_gives_a_connection_the_pacer():
    recovery = a_recovery()
    rate.steer(recovery, PACKET_BYTES)
    assert isinstance(recovery._pacer, rate.RatePacer)
    assert recovery._pacer._control is recovery._cc
