"""The primitives, and the only module that imports nacl and cryptography.

ChaCha20-Poly1305 and Argon2id come from `cryptography` (twice the AEAD speed of PyNaCl), Ed25519
and X25519 from libsodium by PyNaCl: `cryptography` accepts forged signatures under small-order
public keys, libsodium refuses them. Nothing here is home-made; this file binds, checks lengths and
turns every library's failure into ours. Each is imported when it is first needed: who packs an
archive without a lock waits for none of them.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from core import limits
from core.errors import FormatError, IntegrityError, LimitExceeded, PortalError
from core.labels import SignLabel
from core.secret import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

Entropy = Callable[[int], bytes]
Buffer = bytes | bytearray | memoryview

_SIGN_PREFIX = b"portal-node-sig-v1\x00"


def system_entropy(size: int) -> bytes:
    """Random bytes from the kernel; the default of everything that takes `entropy`."""
    return os.urandom(size)


def equal(a: bytes, b: bytes) -> bool:
    """Whether two byte strings are equal, in time that does not depend on where they differ."""
    import hmac

    return hmac.compare_digest(a, b)


# --- ChaCha20-Poly1305 (RFC 8439) -----------------------------------------------------------------


def aead_seal(key: bytes, nonce: bytes, data: Buffer, aad: bytes) -> bytes:
    """Ciphertext and tag. The caller's format guarantees that (key, nonce) never repeats."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key).encrypt(nonce, data, aad)


def aead_seal_into(key: bytes, nonce: bytes, data: Buffer, aad: bytes, out: Buffer) -> None:
    """Seal into `out`, which has the room of the data and the tag and does not overlap the data."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    written = ChaCha20Poly1305(key).encrypt_into(nonce, data, aad, out)
    assert written == len(data) + limits.AEAD_TAG_BYTES == len(out)


def aead_open(key: bytes, nonce: bytes, sealed: Buffer, aad: bytes) -> bytes:
    """The plaintext, or IntegrityError."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, aad)
    except InvalidTag as e:
        raise IntegrityError from e


# --- Ed25519 --------------------------------------------------------------------------------------


def _framed(label: SignLabel, payload: bytes) -> bytes:
    # SIG(ctx, p): both lengths inside, so no (label, payload) pair reads as another.
    name = label.value.encode()
    size = len(payload).to_bytes(8)
    return b"".join((_SIGN_PREFIX, bytes([len(name)]), name, size, payload))


class SigningKey:
    """An Ed25519 key pair from its 32-byte seed."""

    __slots__ = ("_expanded", "public")

    def __init__(self, seed: Secret) -> None:
        import nacl.bindings as sodium

        public, expanded = sodium.crypto_sign_seed_keypair(seed.reveal())
        self.public: bytes = public
        self._expanded = Secret(expanded)

    def sign(self, label: SignLabel, payload: bytes) -> bytes:
        """A 64-byte signature over SIG(label, payload); raw bytes are never signed."""
        import nacl.bindings as sodium

        signed: bytes = sodium.crypto_sign(_framed(label, payload), self._expanded.reveal())
        return signed[: limits.SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"<signing key of {self.public.hex()[:8]}>"


def verify(public: bytes, label: SignLabel, payload: bytes, signature: bytes) -> None:
    """Pass, or raise IntegrityError: the only way a signature is checked in Portal."""
    if not signature_is_valid(public, _framed(label, payload), signature):
        raise IntegrityError(f"the signature on this {label.value} does not verify")


def signature_is_valid(public: bytes, message: bytes, signature: bytes) -> bool:
    """Plain RFC 8032 verification, without small-order or non-canonical keys (for vectors)."""
    import nacl.bindings as sodium
    from nacl.exceptions import CryptoError

    if len(public) != limits.KEY_BYTES or len(signature) != limits.SIGNATURE_BYTES:
        return False
    if not sodium.crypto_core_ed25519_is_valid_point(public):
        return False
    try:
        sodium.crypto_sign_open(signature + message, public)
    except CryptoError:
        return False
    return True


def check_public_key_untrusted(public: bytes) -> None:
    """Refuse, before it is stored, an Ed25519 key under which signatures could be forged."""
    import nacl.bindings as sodium

    size_is_right = len(public) == limits.KEY_BYTES
    if not size_is_right or not sodium.crypto_core_ed25519_is_valid_point(public):
        raise FormatError("not a usable Ed25519 public key")


# --- X25519 ---------------------------------------------------------------------------------------


def x25519_public(secret: Secret) -> bytes:
    """The public half of an X25519 secret."""
    import nacl.bindings as sodium

    public: bytes = sodium.crypto_scalarmult_base(secret.reveal())
    return public


def x25519_shared(secret: Secret, public: bytes) -> Secret:
    """The raw shared secret, to be fed to a key derivation; low-order points are refused."""
    import nacl.bindings as sodium
    from nacl.exceptions import CryptoError

    if len(public) != limits.KEY_BYTES:
        raise FormatError("not an X25519 public key")
    try:
        return Secret(sodium.crypto_scalarmult(secret.reveal(), public))
    except (CryptoError, RuntimeError) as e:
        raise IntegrityError("this X25519 public key gives no secret") from e


# --- HPKE (RFC 9180) with ML-KEM-768 and X25519 ---------------------------------------------------

_HPKE_SEED_BYTES = 96


def hpke_public(seed: Secret) -> bytes:
    """The public half of a sharing seed: ML-KEM-768 (1,184 bytes) || X25519 (32)."""
    assert len(seed) == _HPKE_SEED_BYTES
    from cryptography.hazmat.primitives.asymmetric.mlkem import (
        MLKEM768PrivateKey,
    )

    raw = seed.reveal()
    lattice = MLKEM768PrivateKey.from_seed_bytes(raw[limits.KEY_BYTES :])
    curve = x25519_public(Secret(raw[: limits.KEY_BYTES]))
    return lattice.public_key().public_bytes_raw() + curve


def hpke_seal(public: bytes, data: bytes, info: bytes) -> bytes:
    """Encapsulated key, ciphertext and tag, for whoever has the seed; `info` ties it to its use."""
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric.mlkem import (
        MLKEM768PublicKey,
    )
    from cryptography.hazmat.primitives.asymmetric.x25519 import (
        X25519PublicKey,
    )

    if len(public) != limits.KEM_PUBLIC_BYTES:
        raise FormatError("not a key to seal to")
    split = limits.KEM_PUBLIC_BYTES - limits.KEY_BYTES
    try:
        key = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:split]),
            X25519PublicKey.from_public_bytes(public[split:]),
        )
        return _hpke_suite().encrypt(data, key, info)
    except ValueError as e:
        raise FormatError("not a key to seal to") from e


def hpke_open(seed: Secret, sealed: bytes, info: bytes) -> bytes:
    """What was sealed to this seed's public half, or IntegrityError."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric.mlkem import (
        MLKEM768PrivateKey,
    )
    from cryptography.hazmat.primitives.asymmetric.x25519 import (
        X25519PrivateKey,
    )

    assert len(seed) == _HPKE_SEED_BYTES
    raw = seed.reveal()
    key = hpke.MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(raw[limits.KEY_BYTES :]),
        X25519PrivateKey.from_private_bytes(raw[: limits.KEY_BYTES]),
    )
    try:
        return _hpke_suite().decrypt(sealed, key, info)
    except (InvalidTag, ValueError) as e:
        raise IntegrityError("this was not sealed for us, or was changed") from e


def _hpke_suite() -> "Suite":
    from cryptography.hazmat.primitives.hpke import (
        AEAD,
        KDF,
        KEM,
        Suite,
    )

    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


# --- Argon2id (RFC 9106) --------------------------------------------------------------------------


def check_argon2_untrusted(memory_kib: int, passes: int, lanes: int) -> None:
    """Bounds on what a file may ask of us, before a byte is allocated."""
    memory_ok = limits.ARGON2_MEMORY_KIB_MIN <= memory_kib <= limits.ARGON2_MEMORY_KIB_MAX
    one_pass_ok = passes == 1 and memory_kib >= limits.ARGON2_ONE_PASS_MEMORY_KIB_MIN
    passes_ok = limits.ARGON2_PASSES_MIN <= passes <= limits.ARGON2_PASSES_MAX or one_pass_ok
    if not memory_ok or not passes_ok or not 1 <= lanes <= limits.ARGON2_LANES_MAX:
        raise LimitExceeded(
            f"Argon2id with {memory_kib} KiB, {passes} passes, {lanes} lanes is out of bounds"
        )


def argon2id(secret: Secret, salt: bytes, *, memory_kib: int, passes: int, lanes: int) -> Secret:
    """A 32-byte key from a passphrase, slowly."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    check_argon2_untrusted(memory_kib, passes, lanes)
    kdf = Argon2id(
        salt=salt, length=limits.KEY_BYTES, iterations=passes, lanes=lanes, memory_cost=memory_kib
    )
    try:
        return Secret(kdf.derive(secret.reveal()))
    except MemoryError as e:
        raise PortalError(
            f"not enough memory for Argon2id with {memory_kib // 1024} MiB",
            hint="close other programs, or use another way to unlock",
        ) from e
