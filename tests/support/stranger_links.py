"""A writer and reader of HELLOs and sealed datagrams made from mesh/SPEC.md alone.

It shares no code with mesh, only libraries anybody has and the notation of core/SPEC.md.
"""

import msgpack
import nacl.bindings
import nacl.signing
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.support.stranger_keys import dk, fields, h


def sign(seed: bytes, label: str, row: list[object]) -> bytes:
    payload = msgpack.packb(row)
    name = label.encode()
    framed = b"portal-node-sig-v1\0" + bytes([len(name)]) + name + len(payload).to_bytes(8)
    return nacl.signing.SigningKey(seed).sign(framed + payload).signature


def hello_frame(
    seed: bytes, transport: str, mesh: bytes, to: bytes, leaf_der: bytes, hello: list[object]
) -> bytes:
    """What an initiator sends."""
    data = msgpack.packb(hello)
    row = [1, transport, mesh, to, h("leaf hash", leaf_der), data]
    frame: bytes = msgpack.packb([data, sign(seed, "auth-i", row)])
    return frame


def answer_frame(seed: bytes, transport: str, first: bytes, hello: list[object]) -> bytes:
    """What a responder sends."""
    said, proof = fields(first)
    assert isinstance(said, bytes)
    assert isinstance(proof, bytes)
    data = msgpack.packb(hello)
    row = [1, transport, h("hello", said + proof), data]
    frame: bytes = msgpack.packb([data, sign(seed, "auth-r", row)])
    return frame


def transcript(first: bytes, second: bytes) -> bytes:
    """The name of all that was said."""
    parts = [*fields(first), *fields(second)]
    return h("hello", b"".join(part for part in parts if isinstance(part, bytes)))


def datagram_key(
    own_secret: bytes, their_public: bytes, mesh: bytes, ids: tuple[bytes, bytes], session: bytes
) -> bytes:
    """The key of what the first of `ids` sends the second."""
    shared = nacl.bindings.crypto_scalarmult(own_secret, their_public)
    return dk("datagram", b"".join((shared, mesh, *ids, session)))


def sealed(key: bytes, sender: bytes, session: bytes, counter: int, row: list[object]) -> bytes:
    """A datagram."""
    payload: bytes = msgpack.packb(row)
    return sealed_bytes(key, sender, session, counter, payload)


def sealed_bytes(key: bytes, sender: bytes, session: bytes, counter: int, payload: bytes) -> bytes:
    """A datagram that may hold anything."""
    header = b"\x13p\x01" + sender + session + counter.to_bytes(8)
    nonce = bytes(4) + counter.to_bytes(8)
    return header + ChaCha20Poly1305(key).encrypt(nonce, payload, header)
