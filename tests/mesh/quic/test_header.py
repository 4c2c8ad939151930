from hypothesis import given
from hypothesis import strategies as st

from core import limits
from mesh.quic.engine import VERSION_1, VERSION_2, FirstPacket, Kind
from mesh.quic.header import (
    INITIAL_BYTES_MIN,
    destination_untrusted,
    first_packet_untrusted,
    is_quic,
    is_train,
)
from tests.support.engines import EACH, a_dial

CID = b"12345678"
WIDE = st.binary(max_size=60)


def an_initial(
    version: int = VERSION_1,
    destination: bytes = CID,
    source: bytes = b"abcdefgh",
    token: bytes = b"",
    first: int | None = None,
) -> bytes:
    kind = {VERSION_1: 0xC0, VERSION_2: 0xD0}.get(version, 0xC0) if first is None else first
    ids = bytes([len(destination)]) + destination + bytes([len(source)]) + source
    length = bytes([len(token)]) if len(token) < 64 else (0x4000 + len(token)).to_bytes(2)
    head = bytes([kind]) + version.to_bytes(4) + ids + length + token
    return head.ljust(INITIAL_BYTES_MIN, b"\0")


@EACH
def test_the_first_packet_of_each_engine_is_read(kind):
    machine, datagrams = a_dial(kind)
    packet = first_packet_untrusted(datagrams[0])
    assert packet is not None
    assert (packet.version, packet.token) == (kind.version, b"")
    assert packet.source == machine.cid
    assert destination_untrusted(datagrams[0]) == packet.destination
    assert is_quic(datagrams[0])


def test_every_field_of_an_initial():
    assert first_packet_untrusted(an_initial(token=b"t" * 65)) == FirstPacket(
        VERSION_1, CID, b"abcdefgh", b"t" * 65
    )
    assert first_packet_untrusted(an_initial(VERSION_2)) is not None


def test_what_opens_no_connection():
    whole = an_initial()
    assert first_packet_untrusted(whole[:-1]) is None, "too short for a first datagram"
    assert first_packet_untrusted(an_initial(0x00000002)) is None, "a version nobody speaks"
    assert first_packet_untrusted(an_initial(0)) is None, "version negotiation"
    assert first_packet_untrusted(an_initial(VERSION_1, first=0xD0)) is None, "0-RTT"
    assert first_packet_untrusted(an_initial(VERSION_2, first=0xC0)) is None, "a Retry in version 2"
    assert first_packet_untrusted(an_initial(first=0x40)) is None, "a short header"
    assert first_packet_untrusted(an_initial(first=0x80)) is None, "without the fixed bit"
    assert first_packet_untrusted(an_initial(destination=CID[:7])) is None
    assert first_packet_untrusted(an_initial(destination=bytes(21))) is None
    assert first_packet_untrusted(an_initial(source=bytes(21))) is None
    most = limits.RETRY_TOKEN_BYTES_MAX
    assert first_packet_untrusted(an_initial(token=bytes(most))) is not None
    assert first_packet_untrusted(an_initial(token=bytes(most + 1))) is None


def test_a_short_packet_is_for_the_id_in_it():
    packet = b"\x40" + CID + b"sealed"
    assert destination_untrusted(packet) == CID
    assert destination_untrusted(packet[:8]) is None
    assert destination_untrusted(b"\xc0" + bytes(4) + b"\x09" + CID) is None, "truncated"
    assert destination_untrusted(b"\xc0" + bytes(4) + b"\x08" + CID) == CID
    assert destination_untrusted(b"\xc0" + bytes(4) + b"\x15" + bytes(40)) is None, "too long"


def test_what_is_sealed_is_no_quic():
    assert not is_quic(b"")
    assert not is_quic(b"\x40" + CID[:7])
    assert is_quic(b"\x40" + CID)
    assert not is_quic(b"\x13p\x01" + bytes(100))


def test_a_train_is_for_one_connection():
    one, other = b"\x40" + CID + b"1", b"\x41" + CID + b"2"
    size = len(one)
    assert is_train(one + other + other[:-1], size)
    assert not is_train(one + b"\x40" + CID[::-1] + b"3", size), "another connection"
    assert not is_train(one + b"\xc0" + CID + b"2", size), "a long header"
    assert not is_train(one + other[:5], size), "too short to say"
    sealed = b"\x13p\x01" + bytes(30)
    assert not is_train(sealed + sealed, len(sealed)), "sealed datagrams are opened one by one"


@given(st.binary(max_size=1_500), st.integers(1, 1_500))
def test_nothing_in_here_raises(data, size):
    first_packet_untrusted(data)
    if is_quic(data):
        destination_untrusted(data)
    if data:
        is_train(data, size)


@given(st.integers(0x80, 0xFF), st.integers(0, 255), st.integers(0, 255), WIDE)
def test_lengths_that_lie_are_no_packets(first, one, two, rest):
    for version in (VERSION_1, VERSION_2):
        head = bytes([first]) + version.to_bytes(4) + bytes([one]) + rest + bytes([two]) + rest
        packet = first_packet_untrusted(head.ljust(INITIAL_BYTES_MIN, b"\xff"))
        if packet is not None:
            assert len(packet.destination) == one
            assert len(packet.token) <= limits.RETRY_TOKEN_BYTES_MAX


def test_versions_are_those_of_the_rfcs():
    assert Kind.QH3.version == 1
    assert Kind.AIOQUIC.version == 0x6B3343CF
