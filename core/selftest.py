"""Known answers, asked of every primitive before it is trusted with a key; a few milliseconds.

A broken build, a swapped library or a bad memory bank shows here first. The full official vectors
are in the tests; this is one answer each, on the machine where it matters.
"""

from collections.abc import Callable

from core import crypto, erasure, hashing
from core.errors import IntegrityError, PortalError
from core.labels import Label, SignLabel
from core.secret import Secret

_BLAKE3_KEY = b"whats the Elvish word for friend"


def run() -> list[str]:
    """The names of the checks that passed; raises on the first that does not."""
    for name, check in _CHECKS.items():
        if not check():
            raise PortalError(
                f"self-test failed: {name} gives a wrong answer on this machine",
                hint="reinstall Portal; if it stays, test the memory",
            )
    return list(_CHECKS)


def _blake3() -> bool:
    # Official vectors, input length 1.
    keyed = "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"
    # Our own context string over nothing: what every constant key is made of.
    constant = "98fc8169c4d2b4dcd490be003a6c301e"
    return (
        hashing.keyed(_BLAKE3_KEY, b"\0").hex() == keyed
        and hashing.constant_key(Label.MERKLE_LEAF)[:16].hex() == constant
    )


def _chacha20_poly1305() -> bool:
    # RFC 8439, 2.8.2.
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it."
    )
    key = bytes(range(0x80, 0xA0))
    nonce = bytes.fromhex("070000004041424344454647")
    aad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    sealed = crypto.aead_seal(key, nonce, text, aad)
    if sealed[-16:].hex() != "1ae10b594f09e26a7e902ecbd0600691":
        return False
    try:
        crypto.aead_open(key, nonce, sealed[:-1] + bytes([sealed[-1] ^ 1]), aad)
    except IntegrityError:
        return crypto.aead_open(key, nonce, sealed, aad) == text
    return False


def _ed25519() -> bool:
    # RFC 8032, 7.1, test 2; then the identity as public key, under which anything would verify.
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    identity = bytes([1]) + bytes(31)
    key = crypto.SigningKey(Secret(seed))
    crypto.verify(key.public, SignLabel.DEVICE_CERT, b"x", key.sign(SignLabel.DEVICE_CERT, b"x"))
    return (
        key.public == public
        and crypto.signature_is_valid(public, b"\x72", signature)
        and not crypto.signature_is_valid(public, b"\x73", signature)
        and not crypto.signature_is_valid(identity, b"\x72", identity + bytes(32))
    )


def _x25519() -> bool:
    # RFC 7748, 5.2, first vector.
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    out = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    return crypto.x25519_shared(Secret(scalar), point).reveal().hex() == out


def _argon2id() -> bool:
    # Our own: the smallest parameters a keystore may carry.
    out = crypto.argon2id(
        Secret(b"portal"), b"portal self test", memory_kib=19 * 1024, passes=2, lanes=1
    )
    return out.reveal().hex() == (
        "0438b504b4ef16571b3ab22ba3a8df348aeff0bc14539d90c40fe65c384e5ae0"
    )


def _erasure_code() -> bool:
    # Two data shards of ones and twos, their parity, and the data again from parity alone.
    data = bytes([1]) * 64 + bytes([2]) * 64
    code = erasure.Code(2, 5)
    shards = erasure.encode(data, code)
    return [bytes(shard) for shard in shards] == [
        bytes([n]) * 64 for n in (0x01, 0x02, 0x7B, 0xF5, 0x14)
    ] and erasure.decode({2: shards[2], 4: shards[4]}, code, len(data)) == data


_CHECKS: dict[str, Callable[[], bool]] = {
    "BLAKE3": _blake3,
    "ChaCha20-Poly1305": _chacha20_poly1305,
    "Ed25519": _ed25519,
    "X25519": _x25519,
    "Argon2id": _argon2id,
    "Reed-Solomon": _erasure_code,
}
