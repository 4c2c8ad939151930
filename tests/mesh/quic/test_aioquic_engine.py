"""What only the reference engine does, and every private part of aioquic that is leaned on."""

import importlib.metadata
import inspect
import itertools

import pytest
from aioquic import tls
from aioquic.quic.connection import QuicConnection, QuicConnectionState

from core import limits
from mesh.leaf import der_of
from mesh.quic.aioquic_engine import AioquicEngine, AioquicMachine
from mesh.quic.engine import Closed, Data, Figures, Kind
from mesh.quic.rate import RateControl, RatePacer
from tests.support.engines import FAR, NEAR, TERMS, Two, a_dial
from tests.support.hostile_peer import Hostile, stream_frame

KIND = Kind.AIOQUIC


def test_the_version_pinned_is_the_one_installed():
    assert importlib.metadata.version("aioquic").startswith("1.7.")


def test_the_private_parts_leaned_on_are_there():
    def parameters(method):
        return list(inspect.signature(method).parameters)

    assert parameters(QuicConnection._initialize) == ["self", "peer_cid"]
    limits_of_streams = ["self", "builder", "space", "stream"]
    assert parameters(QuicConnection._write_stream_limits) == limits_of_streams
    assert parameters(QuicConnection._write_connection_limits) == ["self", "builder", "space"]
    two = Two.connected(KIND)
    quic = two.near._quic
    assert quic.tls._signature_algorithms == [tls.SignatureAlgorithm.ED25519]
    assert quic.tls._supported_groups == [tls.Group.X25519]
    assert der_of(quic.tls._peer_certificate) == TERMS.leaf.der
    assert quic._state is QuicConnectionState.CONNECTED
    assert (quic._local_max_data.value, quic._local_max_data.used) == (
        limits.CONNECTION_WINDOW_BYTES,
        0,
    )
    assert quic._loss._rtt_smoothed > 0
    assert quic._close_event is None
    stream = two.near.open_stream()
    two.near.send(stream, b"x")
    two.pump()
    receiver = two.far._quic._streams[stream].receiver
    assert receiver.starting_offset() == receiver.highest_offset == 1
    assert len(receiver._buffer) == len(receiver._ranges) == 0
    two.near.close(3, "why")
    assert (quic._close_event.error_code, quic._close_event.reason_phrase) == (3, "why")


def test_a_machine_nobody_called_yet_knows_nothing():
    machine = AioquicEngine().answer(TERMS, b"original", None)
    assert isinstance(machine, AioquicMachine)
    assert machine.is_idle
    assert machine.peer is None
    figures = machine.figures()
    assert isinstance(figures, Figures)
    assert figures.in_flight_bytes == figures.lost == 0
    assert list(machine.events()) == []


def test_the_control_is_ours():
    two = Two.connected(KIND)
    for machine in (two.near, two.far):
        assert isinstance(machine._quic._loss._cc, RateControl)
        assert isinstance(machine._quic._loss._pacer, RatePacer)


def test_what_is_lost_is_counted():
    two = Two.connected(KIND)
    stream = two.near.open_stream()
    two.near.send(stream, bytes(100_000), fin=True)
    sent = 0
    got = bytearray()
    for _ in range(400):
        two.now += 0.005
        for data, _ in two.near.outgoing(two.now):
            sent += 1
            if sent % 7:
                two.far.receive(data, len(data), NEAR, two.now)
        for data, _ in two.far.outgoing(two.now):
            two.near.receive(data, len(data), FAR, two.now)
        for machine in (two.near, two.far):
            if machine.timer() <= two.now:
                machine.tick(two.now)
        got += b"".join(e.data for e in two.far.events() if isinstance(e, Data))
    assert len(got) == 100_000
    assert sent // 8 - 2 <= two.near.figures().lost <= sent // 7 + 2


def test_a_silent_path_is_tried_again_before_the_link_is_given_up():
    two = Two.connected(KIND)
    two.near._quic._loss._rtt_smoothed = 0.3  # as on a busy machine
    stream = two.near.open_stream()
    two.near.send(stream, bytes(10_000_000))
    tried = []
    while len(tried) < 20:  # the cable is cut
        two.now += 0.01
        if two.near.outgoing(two.now):
            tried.append(two.now)
        if two.near.timer() <= two.now:
            two.near.tick(two.now)
    apart = [after - before for before, after in itertools.pairwise(tried)]
    assert max(apart) <= limits.PROBE_SECONDS_MAX + 0.02
    assert min(apart[-5:]) > limits.PROBE_SECONDS_MAX / 2 - 0.02  # and not too often


@pytest.mark.slow
def test_windows_slide_with_what_is_delivered():
    hostile = Hostile(KIND)
    window = hostile.far._quic._configuration.max_stream_data
    piece = 1_200
    for at in range(0, 3 * window, piece):
        hostile.say(stream_frame(0, at, bytes(piece)))
        if at // piece % 20 == 0:
            hostile.answers(0.001)
            stream = hostile.far._quic._streams[0]
            delivered = stream.receiver.starting_offset()
            given = stream.max_stream_data_local - delivered
            assert window * 3 // 4 - 20 * piece <= given <= window
            limit = hostile.far._quic._local_max_data
            left = limit.value - limit.used
            assert left <= limits.CONNECTION_WINDOW_BYTES
            assert left >= limits.CONNECTION_WINDOW_BYTES * 3 // 4 - 20 * piece


def test_a_stream_in_crumbs_is_cut_off():
    hostile = Hostile(KIND)
    at = 1
    ends = []
    while not ends:
        crumbs = b""
        while len(crumbs) < 1_200:
            crumbs += stream_frame(0, at, b"x")
            at += 2
        hostile.say(crumbs)
        ends = [event for event in hostile.answers() if isinstance(event, Closed)]
    assert ends[0].reason == "a stream in crumbs"
    assert at // 2 <= limits.STREAM_HOLES_MAX + 300


def test_honest_losses_are_no_crumbs():
    """Every other packet of a whole window is late: that is as bad as an honest path gets."""
    hostile = Hostile(KIND)
    piece = 1_200
    offsets = list(range(0, limits.STREAM_WINDOW_BYTES, piece))
    for at in (*offsets[1::2], *offsets[::2]):
        hostile.say(stream_frame(0, at, bytes(piece)))
    events = hostile.answers()
    assert not [event for event in events if isinstance(event, Closed)]
    assert sum(len(e.data) for e in events if isinstance(e, Data)) == len(offsets) * piece


@pytest.mark.parametrize("kind", [KIND])
def test_a_hello_of_its_own_fits_one_packet(kind):
    assert len(a_dial(kind)[1]) == 1
