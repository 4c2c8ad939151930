"""Encrypted streams read and written from core/SPEC.md alone: it shares no code with core.

What it cannot read, the specification does not say; what it can write that the Encryptor would not,
only somebody with the key could make.
"""

import struct

import lz4.block  # type: ignore[import-untyped]  # the package ships no types
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.support.stranger import dk

COMPRESSED, ENCRYPTED, FINAL = 1, 2, 4


def epoch_keys(key: bytes, header: bytes, epoch: int) -> tuple[bytes, bytes]:
    """The key of an epoch, and the prefix of its nonces."""
    secret = dk("stream subkeys", key + header[8:32], 64)[:32]
    keys = dk("stream epoch", secret + epoch.to_bytes(8), 36)
    return keys[:32], keys[32:]


def seal_frame(
    key: bytes,
    header: bytes,
    sequence: int,
    payload: bytes,
    flags: int,
    *,
    epoch: int = 0,
    length: int | None = None,
    zero: int = 0,
) -> bytes:
    """A frame, also one that no Encryptor makes."""
    length = len(payload) if length is None else length
    head = struct.pack(">QIHH", sequence, length, flags, zero)
    secret, prefix = epoch_keys(key, header, epoch)
    nonce = prefix + sequence.to_bytes(8)
    return head + ChaCha20Poly1305(secret).encrypt(nonce, payload, header + head)


def open_stream(key: bytes, stream: bytes) -> list[bytes]:
    """The content of every frame of a stream that fits one epoch."""
    header, rest = stream[:64], stream[64:]
    assert (header[:6], header[7]) == (b"PTWS\x01\x01", 0)
    assert header[32:] == dk("stream subkeys", key + header[8:32], 64)[32:]
    secret, prefix = epoch_keys(key, header, 0)
    out: list[bytes] = []
    flags = 0
    while not flags & FINAL:
        sequence, length, flags, zero = struct.unpack(">QIHH", rest[:16])
        assert (sequence, zero, flags & ~5) == (len(out), 0, ENCRYPTED)
        assert length <= 1 << header[6]
        nonce, end = prefix + sequence.to_bytes(8), 16 + length + 16
        plain = ChaCha20Poly1305(secret).decrypt(nonce, rest[16:end], header + rest[:16])
        out.append(expand(plain) if flags & COMPRESSED else plain)
        rest = rest[end:]
    assert not rest
    return out


def expand(payload: bytes) -> bytes:
    """What a compressed payload stands for."""
    codec, plain_len = struct.unpack(">BI", payload[:5])
    if codec == 1:
        plain = zstandard.decompress(payload[5:], max_output_size=plain_len)
    else:
        plain = lz4.block.decompress(payload[5:], uncompressed_size=plain_len)
    assert len(plain) == plain_len
    return bytes(plain)
