"""First packets of both versions are told from noise, as both engines make and read them."""

import subprocess
import sys

import pytest
from aioquic._buffer import Buffer
from aioquic._crypto import CryptoError
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import pull_quic_header
from hypothesis import given
from hypothesis import strategies as st

from mesh.quic.engine import Kind
from mesh.quic.header import INITIAL_BYTES_MIN, first_packet_untrusted
from mesh.quic.initial import is_sealed_first_packet
from tests.support.engines import EACH, a_dial
from tests.support.home import REPOSITORY

FIRST = {kind: a_dial(kind)[1][0] for kind in Kind}


def by_the_reference(data: bytes) -> bool:
    """What aioquic itself makes of it."""
    rest = Buffer(data=data)
    try:
        header = pull_quic_header(rest)
        crypto = CryptoPair()
        version = header.version or 0
        crypto.setup_initial(header.destination_cid, is_client=False, version=version)
        crypto.decrypt_packet(data[: header.packet_length], rest.tell(), 0)
    except (ValueError, CryptoError):
        return False
    return True


@EACH
def test_first_packets_of_both_versions_are_told_from_noise(kind):
    for data in a_dial(kind)[1]:
        assert is_sealed_first_packet(data)
        assert is_sealed_first_packet(data + b"what came with it")
        for at in range(0, 260, 7):
            spoiled = bytearray(data)
            spoiled[at] ^= 0x01
            assert not is_sealed_first_packet(bytes(spoiled))
        short = range(0, INITIAL_BYTES_MIN, 7)
        assert not any(is_sealed_first_packet(data[:size]) for size in short)


@given(st.sampled_from(Kind), st.integers(0, 1_400), st.integers(0, 255), st.integers(0, 60))
def test_it_says_what_the_reference_says(kind, at, value, cut):
    data = bytearray(FIRST[kind])
    if at < len(data):
        data[at] = value
    spoiled = bytes(data[: len(data) - cut])
    is_first = first_packet_untrusted(spoiled) is not None
    assert is_sealed_first_packet(spoiled) == (is_first and by_the_reference(spoiled))


@given(st.binary(min_size=6, max_size=80))
def test_a_header_of_anything_raises_nothing(head):
    for kind in Kind:
        start = bytes([0xC0 if kind is Kind.QH3 else 0xD0]) + kind.version.to_bytes(4) + head
        assert not is_sealed_first_packet(start + bytes(INITIAL_BYTES_MIN))


@pytest.mark.slow
def test_a_node_loads_the_reference_engine_only_when_it_is_needed():
    says = (
        "import sys, mesh.mesh\n"
        "from mesh.quic.endpoint import engine_of\n"
        "from mesh.quic.engine import Kind\n"
        "heavy = ('aioquic.tls', 'aioquic.quic.connection', 'mesh.quic.rate')\n"
        "print([name in sys.modules for name in heavy])\n"
        "engine_of(Kind.QH3), engine_of(Kind.AIOQUIC)\n"
        "print([name in sys.modules for name in heavy])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", says], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[False, False, False]", "[True, True, True]"]
