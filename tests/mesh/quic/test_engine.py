"""The contract of the seam, held by both engines: nothing here knows which one it drives."""

from dataclasses import replace

import pytest

from core import limits
from core.errors import FormatError
from mesh.leaf import Leaf, node_of_untrusted
from mesh.quic import engine
from mesh.quic.engine import Closed, Data, IdIssued, IdRetired, Kind, Ready, Reset, Stopped
from mesh.quic.header import first_packet_untrusted
from mesh.wire import Address
from tests.support.engines import EACH, ENGINES, FAR, NEAR, TERMS, Two, a_dial, an_answer
from tests.support.wires import a_leaf

ELSEWHERE = Address("203.0.113.1", 1)
OTHER = {Kind.QH3: Kind.AIOQUIC, Kind.AIOQUIC: Kind.QH3}


def told(machine, *kinds):
    return [event for event in machine.events() if isinstance(event, kinds)]


@EACH
def test_a_handshake_names_the_responder_and_the_protocol(kind):
    two = Two.connected(kind)
    assert told(two.near, Ready) == [Ready("portal/1", TERMS.leaf.der)]
    assert told(two.far, Ready) == [Ready("portal/1", b"")]
    assert two.near.peer == FAR
    assert two.far.peer == NEAR
    assert two.near.kind is two.far.kind is ENGINES[kind].kind is kind
    figures = two.near.figures()
    assert figures.rtt_s > 0
    assert figures.window_bytes > 0
    assert figures.lost == 0


@EACH
def test_a_leaf_without_its_key_fails(kind):
    # The certificate of one node, the key of another: what a thief of certificates has.
    mixed = Leaf(a_leaf("victim").der, a_leaf("thief").key)
    try:
        two = Two.connected(kind, TERMS, replace(TERMS, leaf=mixed))
    except (ValueError, FormatError):
        return  # the engine does not even begin with it
    two.pump(50, 0.1)
    assert not told(two.near, Ready)
    assert not told(two.far, Ready)


@EACH
def test_a_thief_who_forces_its_engine_still_fails(kind):
    """The responder's own check is out of the way: the dialler must see it."""
    victim, thief = a_leaf("victim"), a_leaf("thief")
    near, first = a_dial(kind)
    packet = first_packet_untrusted(first[0])
    far = ENGINES[kind].answer(replace(TERMS, leaf=thief), packet.destination, None)
    settings = far._quic._configuration
    if kind is Kind.QH3:
        from qh3.tls import load_pem_x509_certificates

        settings.certificate = load_pem_x509_certificates(victim.pem)[0]
    else:
        settings.certificate = victim.objects()[0]
    for data in first:
        far.receive(data, len(data), NEAR, 1.0)
    two = Two(near, far)
    two.pump()
    [end] = told(near, Ready, Closed)
    assert end == Closed(0x100 + 51, end.reason), "the TLS alert decrypt_error"
    assert not told(far, Ready)


@EACH
def test_the_leaf_is_the_one_the_responder_was_given(kind):
    leaf = a_leaf("responder")
    two = Two.connected(kind, TERMS, replace(TERMS, leaf=leaf))
    [ready] = told(two.near, Ready)
    assert ready.leaf == leaf.der
    assert node_of_untrusted(ready.leaf) == node_of_untrusted(leaf.der)


@EACH
def test_an_engine_answers_its_own_version_only(kind):
    _, first = a_dial(OTHER[kind])
    far = ENGINES[kind].answer(TERMS, bytes(8), None)
    for data in first:
        far.receive(data, len(data), NEAR, 1.0)
    assert far.is_idle
    assert far.outgoing(1.0) == []
    _, own = a_dial(kind)
    assert not an_answer(kind, own).is_idle


@EACH
def test_no_common_protocol_ends_it_at_both_sides(kind):
    two = Two.connected(kind, replace(TERMS, alpns=("other/1",)))
    [near], [far] = told(two.near, Ready, Closed), told(two.far, Ready, Closed)
    assert isinstance(near, Closed)
    assert isinstance(far, Closed)
    alerts = {0x100 + 40, 0x100 + 120}  # handshake_failure, no_application_protocol
    assert near.code == far.code
    assert near.code in alerts


@EACH
def test_bytes_arrive_in_order_and_a_stream_ends(kind):
    two = Two.connected(kind)
    stream, one_way = two.near.open_stream(), two.near.open_stream(one_way=True)
    assert (stream, one_way) == (0, 2)
    two.near.send(stream, b"first")
    two.near.send(stream, b"second", fin=True)
    two.near.send(one_way, b"aside")
    two.pump()
    events = told(two.far, Data)
    assert b"".join(e.data for e in events if e.stream == stream) == b"firstsecond"
    assert [e.fin for e in events if e.stream == stream][-1]
    assert [e for e in events if e.stream == one_way] == [Data(one_way, b"aside", False)]
    two.far.send(stream, b"back", fin=True)
    two.pump()
    assert told(two.near, Data) == [Data(stream, b"back", True)]


@EACH
def test_resets_and_stops_reach_the_peer(kind):
    two = Two.connected(kind)
    stream = two.near.open_stream()
    two.near.send(stream, b"begun")
    two.pump()
    two.near.reset(stream, 7)
    two.near.stop(stream, 8)
    two.pump()
    assert set(told(two.far, Reset, Stopped)) == {Reset(stream, 7), Stopped(stream, 8)}


@EACH
def test_calls_that_come_too_late_say_nothing(kind):
    two = Two.connected(kind)
    stopped, finished, ours = (two.near.open_stream() for _ in range(3))
    two.near.send(stopped, b"1")
    two.near.send(finished, b"2", fin=True)
    two.pump()
    two.far.stop(stopped, 0)
    two.far.send(finished, b"", fin=True)
    two.pump()
    list(two.near.events())
    for stream in (stopped, finished):  # the peer has ended them; nobody has told us yet
        two.near.send(stream, b"late")
        two.near.send(stream, b"", fin=True)
        two.near.reset(stream, 0)
        two.near.stop(stream, 0)
    two.near.send(ours, b"", fin=True)
    two.near.send(ours, b"after the end")
    two.near.stop(400, 0)
    two.pump()
    assert not told(two.near, Closed)
    two.far.close(0, "over")
    two.pump()
    assert told(two.near, Closed) == [Closed(0, "over")]
    two.near.send(ours, b"to nobody")
    two.near.reset(ours, 0)
    two.near.stop(ours, 0)
    two.near.close(0, "again")
    assert not told(two.near, Closed)


@EACH
def test_an_end_is_told_at_once_and_once(kind):
    two = Two.connected(kind)
    list(two.near.events())
    list(two.far.events())
    two.near.close(0x142, "a reason \x1b[2J" + "x" * 500)
    two.pump(1)
    [end] = told(two.far, Closed)
    assert end.code == 0x142
    assert end.reason.startswith("a reason ?[2J")
    assert len(end.reason) <= 200
    two.pump(20, 1.0)
    assert not told(two.far, Closed)
    assert two.far.timer() is None
    assert two.near.timer() is None


@EACH
def test_silence_ends_it_after_the_idle_time(kind):
    two = Two.connected(kind, replace(TERMS, idle_s=5.0), replace(TERMS, idle_s=60.0))
    list(two.near.events())
    until = two.near.timer()
    while (at := two.near.timer()) is not None:
        assert at <= two.now + 5.1
        two.now = at
        two.near.tick(two.now)
        two.near.outgoing(two.now)
    assert until is not None
    [end] = told(two.near, Closed)
    assert "dle timeout" in end.reason


@EACH
def test_names_are_issued_and_retired(kind):
    two = Two.connected(kind)
    issued = {event.cid for event in told(two.far, IdIssued)}
    assert issued
    assert all(len(cid) == 8 for cid in issued)
    two.near._quic.change_connection_id()
    two.near.send(two.near.open_stream(), b"under a new name")
    for data, _ in two.near.outgoing(two.now):
        assert data[1:9] in issued
        two.far.receive(data, len(data), NEAR, two.now)
    events = list(two.far.events())
    [retired] = [e.cid for e in events if isinstance(e, IdRetired)]
    assert retired not in issued
    assert [e.data for e in events if isinstance(e, Data)] == [b"under a new name"]


@EACH
def test_no_ticket_is_ever_given(kind):
    two = Two.connected(kind)
    tls = two.far._quic.tls
    assert two.far._quic._session_ticket_handler is None
    assert two.far._quic._session_ticket_fetcher is None
    assert tls.new_session_ticket_cb is None
    assert two.near._quic.configuration.session_ticket is None
    two.near.send(two.near.open_stream(), b"x")
    two.pump(20, 0.1)
    assert not two.far._quic.tls.session_resumed
    assert not two.far._quic.tls.early_data_accepted


@EACH
def test_a_train_is_as_good_as_its_datagrams(kind):
    two = Two.connected(kind)
    list(two.far.events())
    two.near.send(two.near.open_stream(), bytes(20_000), fin=True)
    datagrams = [data for data, _ in two.near.outgoing(two.now)]
    size = len(datagrams[1])
    equal = [data for data in datagrams if len(data) == size]
    assert len(equal) > 3
    two.far.receive(b"".join(equal), size, NEAR, two.now)
    for data in datagrams:
        if len(data) != size:
            two.far.receive(data, len(data), NEAR, two.now)
    assert sum(len(e.data) for e in told(two.far, Data)) > 3_000


@EACH
def test_a_stranger_gets_little_for_one_packet(kind):
    _, first = a_dial(kind)
    far = an_answer(kind, first)
    received = sum(len(data) for data in first)
    sent, now = 0, 1.0
    while (at := far.timer()) is not None and now < 60:
        sent += sum(len(data) for data, _ in far.outgoing(now))
        now = max(at, now + 0.001)
        far.tick(now)
    assert sent, "it does answer"
    assert sent <= 3 * received


@EACH
def test_a_lone_copy_from_elsewhere_harms_nothing(kind):
    two = Two.connected(kind)
    two.near.open_stream()
    list(two.far.events())
    two.now += limits.MOVE_SILENCE_SECONDS
    two.near.send(0, b"x")
    [(copied, _)] = two.near.outgoing(two.now)
    two.far.receive(copied, len(copied), ELSEWHERE, two.now)
    astray, got = 0, bytearray()
    for number in range(300):
        two.now += 0.05
        two.far.send(0, bytes(1_000)) if number % 10 == 0 else None
        for machine in (two.near, two.far):
            if machine.timer() <= two.now:
                machine.tick(two.now)
        for data, to in two.far.outgoing(two.now):
            astray += len(data) if to == ELSEWHERE else 0
            if to == NEAR:
                two.near.receive(data, len(data), FAR, two.now)
        for data, _ in two.near.outgoing(two.now):
            two.far.receive(data, len(data), NEAR, two.now)
        got += b"".join(e.data for e in two.near.events() if isinstance(e, Data))
    assert len(got) == 30_000
    assert astray <= 3 * len(copied)
    assert two.far.peer == NEAR


@EACH
def test_an_engine_that_breaks_says_so_once_and_falls_silent(kind, monkeypatch):
    two = Two.connected(kind)
    list(two.far.events())
    broken = two.far.refusals[-1]

    def fail(*_arguments, **_named):
        raise broken("wires crossed") if broken is not Broken else broken(1, 0, "wires crossed")

    from qh3.quic.connection import QuicConnectionError as Broken

    monkeypatch.setattr(two.far._quic, "receive_datagram", fail)
    two.far.receive(b"\x40" + bytes(40), 41, NEAR, two.now)
    [end] = told(two.far, Closed)
    assert end.code == 1
    assert "wires crossed" in end.reason
    assert two.far.outgoing(two.now), "the peer is told"
    two.far.receive(b"\x40" + bytes(40), 41, NEAR, two.now)
    assert two.far.timer() is None
    assert two.far.outgoing(two.now) == []
    assert not told(two.far, Closed)


@pytest.mark.parametrize("name", [kind.value for kind in Kind])
def test_kinds_have_the_names_people_configure(name):
    assert Kind(name).value == name
    assert {kind.version for kind in Kind} == {engine.VERSION_1, engine.VERSION_2}
