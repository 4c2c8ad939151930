import logging
from random import Random

import pytest

from core import limits
from mesh.quic import common, engine
from mesh.quic.engine import Closed, Data, Kind
from tests.support.early_data import CarelessResponder, early_flight
from tests.support.engines import EACH, FAR, NEAR, TERMS, Two, a_dial, an_answer
from tests.support.hostile_peer import Hostile, stream_frame, varint, wild_frames
from tests.support.memory import resident_bytes

HOSTILE_PEERS = 60
HOSTILE_PEERS_DEEP = 5_000
FRAMES_EACH = 40


def test_reasons_are_fit_to_be_shown():
    assert common.plain("a word") == "a word"
    assert common.plain("\x1b[2Jgone\n") == "?[2Jgone?"
    assert len(common.plain("x" * 10_000)) == 200


@EACH
def test_the_libraries_log_nothing(kind, caplog):
    caplog.set_level(logging.DEBUG)
    two = Two.connected(kind)
    two.near.close(1, "whatever a peer likes to have in our log")
    two.pump()
    hostile = Hostile(kind)
    hostile.say(b"\x3f" * 20)
    hostile.answers()
    assert not caplog.records


@EACH
def test_both_engines_are_set_up_alike(kind):
    machine, first = a_dial(kind)
    settings = machine._quic.configuration
    assert settings.alpn_protocols == ["portal/1"]
    assert settings.idle_timeout == TERMS.idle_s
    assert settings.max_datagram_size == TERMS.datagram_bytes
    assert settings.max_data == limits.CONNECTION_WINDOW_BYTES
    assert settings.server_name == "portal", "the same from everybody"
    assert [int(version) for version in settings.supported_versions] == [kind.version]
    assert all(1_200 <= len(data) <= TERMS.datagram_bytes for data in first)


@EACH
def test_no_datagram_is_larger_than_agreed(kind):
    two = Two.connected(kind)
    for size in (100_000, 3):
        two.near.send(two.near.open_stream(), bytes(size), fin=True)
        for _ in range(20):
            two.now += 0.01
            for data, _ in two.near.outgoing(two.now):
                assert len(data) <= TERMS.datagram_bytes
                two.far.receive(data, len(data), NEAR, two.now)
            for data, _ in two.far.outgoing(two.now):
                two.near.receive(data, len(data), FAR, two.now)


def torment(kind: Kind, peers: int) -> None:
    """Peers that are through the handshake and say whatever they like, until they are cut off."""
    rng = Random(5)
    ends = 0
    for _ in range(peers):
        hostile = Hostile(kind)
        hostile.far.open_stream()
        hostile.far.open_stream(one_way=True)
        list(hostile.far.events())
        for _, frames in zip(range(FRAMES_EACH), wild_frames(rng), strict=False):
            hostile.say(frames, skip=rng.choice((0, 0, 0, 1, 100)))
            if any(isinstance(event, Closed) for event in hostile.answers(0.01)):
                ends += 1
                break
        assert hostile.far._failure is None, "the engine has an answer to everything"
        hostile.answers(60.0)
        hostile.answers(60.0)
        assert hostile.far.timer() is None
    assert ends > peers // 2


@EACH
@pytest.mark.slow
def test_an_authentic_peer_may_say_anything(kind):
    torment(kind, HOSTILE_PEERS)


@EACH
@pytest.mark.deep
def test_many_authentic_peers_may_say_anything(kind):
    torment(kind, HOSTILE_PEERS_DEEP)


def fill(hostile: Hostile, stream: int, start: int, until: int) -> tuple[int, Closed | None]:
    """Send a part of a stream; how much was sent when the other side ended it."""
    piece = 1_200
    for at in range(start, until, piece):
        hostile.say(stream_frame(stream, at, bytes(piece)))
        if at // piece % 50 == 0:
            for event in hostile.answers(0.0005):
                if isinstance(event, Closed):
                    return at - start, event
    return until - start, None


@EACH
@pytest.mark.slow
def test_what_waits_behind_a_hole_is_bounded(kind):
    hostile = Hostile(kind)
    sent, end = fill(hostile, 0, 1, 10 * limits.MIB)
    assert end is not None
    assert end.code == 3, "FLOW_CONTROL_ERROR"
    assert sent <= 2 * limits.STREAM_WINDOW_BYTES + 100_000


@EACH
@pytest.mark.slow
def test_after_a_long_transfer_a_hole_keeps_no_more_than_before(kind):
    hostile = Hostile(kind)
    size = 30 * limits.MIB // 1_200 * 1_200
    assert fill(hostile, 0, 0, size) == (size, None)
    assert not any(isinstance(event, Closed) for event in hostile.answers(0.01))
    sent, end = fill(hostile, 0, size + 1, size + 10 * limits.MIB)
    assert end is not None
    assert sent <= 2 * limits.STREAM_WINDOW_BYTES + 100_000


@EACH
@pytest.mark.slow
def test_holes_in_many_streams_are_bounded_together(kind):
    hostile = Hostile(kind)
    kept = 0
    for stream in range(0, 400, 4):
        sent, end = fill(hostile, stream, 1, 2 * limits.STREAM_WINDOW_BYTES - 2_000)
        kept += sent
        if end is not None:
            break
    assert end is not None
    assert kept <= limits.CONNECTION_WINDOW_BYTES + 100_000


@EACH
@pytest.mark.slow
def test_what_a_reset_lets_go_is_let_go(kind):
    """A peer that lets us keep a window, resets, and does so again on the next stream."""
    hostile = Hostile(kind)
    size = 2 * limits.STREAM_WINDOW_BYTES - 2_000
    before = resident_bytes()
    for stream in range(0, 80, 4):
        sent, end = fill(hostile, stream, 1, size)
        if end is not None:
            break
        hostile.say(b"\x04" + varint(stream) + b"\0" + varint(sent + 1_200))
        hostile.answers()
    assert resident_bytes() - before < 2 * limits.CONNECTION_WINDOW_BYTES
    if kind is Kind.AIOQUIC:  # keeps what was reset until its own side ends: so it counts
        kept = sum(len(s.receiver._buffer) for s in hostile.far._quic._streams.values())
        assert kept <= limits.CONNECTION_WINDOW_BYTES


@EACH
@pytest.mark.slow
def test_twenty_thousand_gaps_between_packets_leave_no_trace(kind):
    hostile = Hostile(kind)
    for number in range(20_000):
        hostile.say(b"\x01", skip=1)
        if number % 10 == 0:
            assert not any(isinstance(event, Closed) for event in hostile.answers(0.0001))
    assert max((len(data) for data, _ in hostile.far.outgoing(hostile.now + 1)), default=0) <= 1_350


@EACH
def test_early_data_never_arrives(kind):
    """A dialler with a ticket of another time sends before the handshake is over."""
    careless = CarelessResponder(kind)
    flight = early_flight(careless)
    far = an_answer(kind, flight)
    assert not far.is_idle
    assert not [event for event in far.events() if isinstance(event, Data | engine.Ready)]
    assert far.outgoing(1.0), "it goes on with a whole handshake"
    if kind is Kind.AIOQUIC:  # what happens to those who do take tickets
        names = []
        taken = careless.answer(flight)
        while (event := taken.next_event()) is not None:
            names.append(type(event).__name__)
        assert "StreamDataReceived" in names
        assert "HandshakeCompleted" not in names
