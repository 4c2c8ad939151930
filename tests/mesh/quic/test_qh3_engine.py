"""What only the fast engine does, and every private part of qh3 that is leaned on."""

from dataclasses import replace

import pytest
from qh3.quic.connection import QuicConnection, QuicConnectionError
from qh3.tls import SignatureAlgorithm

from core import limits
from mesh.quic.engine import Closed, Data, Figures, Kind
from mesh.quic.header import first_packet_untrusted
from mesh.quic.qh3_engine import Qh3Engine, Qh3Machine
from mesh.wire import Address
from tests.support.engines import FAR, NEAR, TERMS, Two, a_dial, an_answer

KIND = Kind.QH3


def test_the_private_parts_leaned_on_are_there():
    machine = Qh3Engine().answer(TERMS, b"original", None)
    assert machine._quic._core is None, "before the first packet"
    assert machine._quic._close_event is None
    two = Two.connected(KIND)
    core = two.near._quic._core
    assert core.received_authenticated_packet is True
    report = core.receive_gro_buffer(b"\x40" + bytes(50), 1_200, ("192.0.2.1", 443), two.now)
    assert report == (1, 51, 0, 0, 1, 0), "the third is what was authentic"
    assert two.near._quic._handshake_complete is True
    assert core.poll_transmit(two.now) is None
    for figure in (core.smoothed_rtt, core.loss_total, core.congestion_window):
        assert figure >= 0
    assert core.bytes_in_flight == 0
    two.near.close(3, "why")
    event = two.near._quic._close_event
    assert (event.error_code, event.reason_phrase) == (3, "why")
    assert issubclass(QuicConnectionError, Exception)


def test_a_machine_nobody_called_yet_knows_nothing():
    machine = Qh3Engine().answer(TERMS, b"original", None)
    assert isinstance(machine, Qh3Machine)
    assert machine.is_idle
    assert machine.peer is None
    assert machine.figures() == Figures(0.0, 0, 0, 0)
    assert machine.outgoing(1.0) == []
    assert machine.timer() is None
    assert list(machine.events()) == []


def test_keys_of_nodes_are_the_only_keys():
    machine, _ = a_dial(KIND)
    assert machine._quic.configuration.signature_algorithms == [SignatureAlgorithm.ED25519]


def test_its_own_probes_are_off():
    two = Two.connected(KIND, replace(TERMS, datagram_bytes=1_300), TERMS)
    assert two.near._quic.configuration.probe_datagram_size is False
    for _ in range(50):
        two.now += 0.05
        two.near.send(0, bytes(5_000))
        for data, _ in two.near.outgoing(two.now):
            assert len(data) <= 1_300
            two.far.receive(data, len(data), NEAR, two.now)
        for data, _ in two.far.outgoing(two.now):
            two.near.receive(data, len(data), FAR, two.now)


def test_at_most_a_train_at_a_time():
    two = Two.connected(KIND)
    stream = two.near.open_stream()
    while two.near.figures().window_bytes < 4_000_000:
        two.near.send(stream, bytes(200_000))
        two.pump(4)
    two.near.send(stream, bytes(2_000_000))
    sizes = []
    for _ in range(100):
        two.now += 0.01
        sizes.append(len(two.near.outgoing(two.now)))
        two.pump(1)
    assert max(sizes) == limits.UDP_TRAIN_SEGMENTS_MAX


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1%3"])
def test_addresses_of_all_kinds_come_back_as_they_went(host):
    to = Address(host, 7)
    machine = Qh3Engine().dial(TERMS, to, 1.0)
    assert machine.peer == to
    first = machine.outgoing(1.0)
    assert {address for _, address in first} == {to}
    packet = first_packet_untrusted(first[0][0])
    far = Qh3Engine().answer(TERMS, packet.destination, None)
    for data, _ in first:
        far.receive(data, len(data), to, 1.0)
    back = far.outgoing(1.0)
    assert {address for _, address in back} == {to}
    for data, _ in back:
        machine.receive(data, len(data), to, 1.01)
    for data, _ in machine.outgoing(1.01):
        far.receive(data, len(data), to, 1.02)
    assert far.peer == to
    assert any(type(event).__name__ == "Ready" for event in far.events())


def test_what_its_core_cannot_do_ends_the_connection(monkeypatch):
    two = Two.connected(KIND)
    list(two.far.events())

    def fail(*_arguments):
        raise RuntimeError("packet builder capacity exhausted")

    class Broken:
        def __init__(self, core):
            self._core = core
            self.poll_transmit = fail

        def __getattr__(self, name):
            return getattr(self._core, name)

    monkeypatch.setattr(two.far._quic, "_core", Broken(two.far._quic._core))
    assert two.far.outgoing(two.now) == []
    [end] = [event for event in two.far.events() if isinstance(event, Closed)]
    assert end.reason == "packet builder capacity exhausted"
    assert two.far.outgoing(two.now) == []
    assert two.far.timer() is None, "it is not asked again and again"


def test_a_hello_in_two_packets_may_arrive_backwards():
    machine, first = a_dial(KIND)
    assert len(first) == 2, "a post-quantum key share does not fit one"
    two = Two(machine, an_answer(KIND, first[::-1]))
    two.pump()
    two.near.send(two.near.open_stream(), b"x")
    two.pump()
    assert [e.data for e in two.far.events() if isinstance(e, Data)] == [b"x"]


ELSEWHERE = Address("203.0.113.1", 1)


def say(two: Two, source: Address, data: bytes = b"x") -> None:
    two.near.send(0, data)
    for packet, _ in two.near.outgoing(two.now):
        two.far.receive(packet, len(packet), source, two.now)


def test_while_the_peer_is_heard_copies_draw_nothing_elsewhere():
    two = Two.connected(KIND)
    two.near.open_stream()
    for _ in range(20):
        say(two, ELSEWHERE)
        assert {to for _, to in two.far.outgoing(two.now)} <= {NEAR}
        two.far.receive(b"\x40" + bytes(40), 41, NEAR, two.now)
        two.now += limits.MOVE_SILENCE_SECONDS / 2
    assert two.far.peer == NEAR
    data = b"".join(e.data for e in two.far.events() if isinstance(e, Data))
    assert data == b"x" * 20, "what they bring is read all the same"


def test_a_peer_that_falls_silent_and_comes_from_elsewhere_has_moved():
    two = Two.connected(KIND)
    two.near.open_stream()
    two.now += limits.MOVE_SILENCE_SECONDS
    say(two, ELSEWHERE)
    assert two.far.peer == ELSEWHERE
    assert two.far._roaming.home == NEAR, "not proved yet"
    for _ in range(5):
        two.now += 0.01
        for data, to in two.far.outgoing(two.now):
            assert to == ELSEWHERE
            two.near.receive(data, len(data), FAR, two.now)
        for data, _ in two.near.outgoing(two.now):
            two.far.receive(data, len(data), ELSEWHERE, two.now)
    list(two.far.events())
    assert two.far._roaming.home == ELSEWHERE


def test_who_answers_a_dial_does_not_move():
    two = Two.connected(KIND)
    two.near.open_stream()
    say(two, NEAR)
    two.now += limits.MOVE_SILENCE_SECONDS
    two.far.send(0, b"from elsewhere")
    for data, _ in two.far.outgoing(two.now):
        two.near.receive(data, len(data), ELSEWHERE, two.now)
    assert two.near.peer == FAR
    assert {to for _, to in two.near.outgoing(two.now + 0.1)} == {FAR}


def test_the_versions_pinned_are_those_installed():
    import importlib.metadata

    assert importlib.metadata.version("qh3").startswith("2.1.")
    assert QuicConnection.__module__ == "qh3.quic.connection"
