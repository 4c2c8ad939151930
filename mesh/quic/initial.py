"""Whether a datagram begins with a whole Initial, of either version: what no noise does.

Anybody can make one, as its keys follow from its header (RFC 9001, 5.2; RFC 9369, 3.3): they hide
nothing and prove nothing but that somebody speaks QUIC. So this can be asked before any engine is
woken; the parts of aioquic used here are its small ones, in C.
"""

import hmac
from typing import NamedTuple

from aioquic._crypto import AEAD, CryptoError, HeaderProtection

from mesh.quic.engine import VERSION_1, VERSION_2
from mesh.quic.header import first_packet_untrusted, sealed_part_untrusted

_HASH = "sha256"
_HASH_BYTES, _KEY_BYTES, _IV_BYTES = 32, 16, 12
_SMALLEST_BYTES = 4 + 16  # a packet number and a sample of what follows it, or a tag


class _Suite(NamedTuple):
    """What one version derives its keys by."""

    salt: bytes
    label: bytes


_SUITES = {
    VERSION_1: _Suite(bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic "),
    VERSION_2: _Suite(bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), b"quicv2 "),
}


def is_sealed_first_packet(data: bytes) -> bool:
    """Whether a datagram may open a connection, and its first packet opens with its own keys."""
    packet = first_packet_untrusted(data)
    if packet is None:
        return False
    start, end = sealed_part_untrusted(data)
    if not start + _SMALLEST_BYTES <= end <= len(data):
        return False
    salt, label = _SUITES[packet.version]
    secret = _expanded(hmac.digest(salt, packet.destination, _HASH), b"client in", _HASH_BYTES)
    key = _expanded(secret, label + b"key", _KEY_BYTES)
    iv = _expanded(secret, label + b"iv", _IV_BYTES)
    protection = HeaderProtection(b"aes-128-ecb", _expanded(secret, label + b"hp", _KEY_BYTES))
    try:
        header, number = protection.remove(data[:end], start)
        AEAD(b"aes-128-gcm", key, iv).decrypt(data[len(header) : end], header, number)
    except CryptoError:
        return False
    return True


def _expanded(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of TLS 1.3 with an empty context (RFC 8446, 7.1); at most one block."""
    name = b"tls13 " + label
    info = size.to_bytes(2) + bytes([len(name)]) + name + b"\0"
    return hmac.digest(secret, info + b"\1", _HASH)[:size]
