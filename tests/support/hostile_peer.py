"""A peer that has gone through the handshake and then says whatever it likes, in either engine.

It takes the keys its own engine agreed on and seals packets of its own making with them, so what
arrives at the other side is authentic, and wrong.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from aioquic._buffer import Buffer
from aioquic.buffer import encode_uint_var
from aioquic.quic.crypto import CryptoContext, CryptoPair
from aioquic.quic.packet import pull_quic_header
from aioquic.tls import CipherSuite, Epoch

from mesh.quic import engine
from mesh.quic.engine import Kind
from tests.support.engines import ENGINES, FAR, NEAR, TERMS, Two, an_answer

FIRST_NUMBER = 10_000  # of packets; the handshake used the first few
NOISE_SHARE = 0.05
_ONE_RTT = 3  # the epoch of application data, as qh3 numbers them

_EDGES = (0, 1, 2, 3, 4, 7, 63, 64, 100, 400, 2**14, 2**20, 2**22, 2**30, 2**32, 2**62 - 1)
_SUITES = {
    "aes-128-gcm": CipherSuite.AES_128_GCM_SHA256,
    "aes-256-gcm": CipherSuite.AES_256_GCM_SHA384,
    "chacha20-poly1305": CipherSuite.CHACHA20_POLY1305_SHA256,
}


def varint(value: int) -> bytes:
    return encode_uint_var(value)


def stream_frame(stream: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    head = bytes([0x0E | fin]) + varint(stream) + varint(offset) + varint(len(data))
    return head + data


def renamed(first: bytes, cid: bytes) -> bytes:
    """The same first packet of another stranger: under another connection id."""
    rest = Buffer(data=first)
    header = pull_quic_header(rest)
    end = header.packet_length
    assert header.version is not None
    responder, dialler = CryptoPair(), CryptoPair()
    responder.setup_initial(header.destination_cid, is_client=False, version=header.version)
    dialler.setup_initial(cid, is_client=True, version=header.version)
    head, payload, number = responder.decrypt_packet(first[:end], rest.tell(), 0)
    head = head[:5] + bytes([len(cid)]) + cid + head[6 + len(header.destination_cid) :]
    return dialler.encrypt_packet(head, payload, number) + first[end:]


class Hostile(Two):
    """A dialler whose handshake is done, and the answering machine it may now torment."""

    def __init__(self, kind: Kind) -> None:
        self._secrets: list[tuple[str, bytes]] = []
        near = ENGINES[kind].dial(TERMS, FAR, 1.0)
        quic: Any = near._quic  # type: ignore[attr-defined]  # private, as all here
        if kind is Kind.QH3:
            self._overhear(quic)
        far = an_answer(kind, [data for data, _ in near.outgoing(1.0)])
        super().__init__(near, far)
        self.pump()
        if kind is Kind.QH3:
            aead, secret = self._secrets[-1]
            self._seal = CryptoContext()
            self._seal.setup(cipher_suite=_SUITES[aead], secret=secret, version=kind.version)
        else:
            self._seal = quic._cryptos[Epoch.ONE_RTT].send
        self.number = FIRST_NUMBER

    def _overhear(self, quic: Any) -> None:
        call = quic._call_core

        def heard(operation: Any, *arguments: Any) -> Any:
            if operation.__name__ == "install_packet_key":
                direction, epoch, (aead, _), *_, secret, _version = arguments
                if direction == "send" and epoch == _ONE_RTT:
                    self._secrets.append((aead, secret))
            return call(operation, *arguments)

        quic._call_core = heard

    def say(self, payload: bytes, *, skip: int = 0) -> None:
        """Send frames of any kind, as one packet."""
        self.number += 1 + skip
        header = bytes([0x43]) + self.far.cid + self.number.to_bytes(4)
        packet = self._seal.encrypt_packet(header, payload.ljust(4, b"\0"), self.number)
        self.far.receive(packet, len(packet), NEAR, self.now)

    def answers(self, seconds: float = 0.001) -> list[engine.Event]:
        """Time passes, the far side acts on it; what it reports."""
        self.now += seconds
        if (at := self.far.timer()) is not None and at <= self.now:
            self.far.tick(self.now)
        self.far.outgoing(self.now)
        return list(self.far.events())


def wild_frames(rng: Random) -> Iterator[bytes]:
    """Frames without end: mostly well-formed ones that say impossible things, sometimes noise."""
    while True:
        if rng.random() < NOISE_SHARE:
            fields = [varint(rng.choice(_EDGES)) for _ in range(rng.randrange(6))]
            kind = rng.choice((*range(0x20), 0x30, 0x31, 0x40, 0x1337))
            yield varint(kind) + b"".join(fields) + rng.randbytes(rng.choice((0, 1, 8, 40)))
        else:
            yield _a_frame(rng)


def _a_frame(rng: Random) -> bytes:
    stream = varint(rng.choice((0, 0, 4, 8, 40, 1, 2, 3, 2**14)))
    number = varint(rng.choice(_EDGES))
    small = varint(rng.choice((0, 1, 2, 7, 63, 64)))
    data = rng.randbytes(rng.choice((0, 1, 12, 200)))
    offset = varint(rng.choice((0, 0, 1, 100, 2**16, 2**21, 2**22 - 200, 2**22, 2**62 - 1)))
    cid = rng.randbytes(rng.choice((8, 8, 20, 0, 21)))
    return rng.choice(
        (
            b"\x01",
            b"\x02" + number + small + b"\0" + small,
            b"\x02" + varint(3) + small + b"\x01\0\0\0",
            b"\x04" + stream + number + offset,
            b"\x05" + stream + number,
            b"\x06" + offset + varint(len(data)) + data,
            b"\x0e" + stream + offset + varint(len(data)) + data,
            b"\x0f" + stream + offset + varint(len(data)) + data,
            b"\x10" + number,
            b"\x11" + stream + number,
            b"\x12" + small,
            b"\x14" + number,
            b"\x15" + stream + number,
            b"\x16" + small,
            b"\x18" + small + small + bytes([len(cid)]) + cid + rng.randbytes(16),
            b"\x19" + small,
            b"\x1a" + rng.randbytes(8),
            b"\x1b" + rng.randbytes(8),
            b"\x1c" + number + b"\0" + varint(len(data)) + data,
            b"\x1d" + number + varint(len(data)) + data,
        )
    )
