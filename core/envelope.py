"""`PNM1`, the one randomised envelope: small secrets sealed under a long-lived key.

     0  4  "PNM1"
     4  1  suite = 1
     5  1  kind          EnvelopeKind
     6  2  key_epoch     u16
     8 24  salt          random
    32 32  commitment    k_com
    64  n  ciphertext || 16-byte tag

    sub = DK("meta subkeys", key || salt || u8 kind, 64);  k_enc = sub[0:32];  k_com = sub[32:64]
    ChaCha20-Poly1305(k_enc, nonce = 12 zero bytes, aad = bytes 0..63 || caller's aad)

Every message has a key of its own, so the zero nonce never repeats under one. The commitment makes
a ciphertext open under one key only; it is compared before anything is decrypted.
"""

from core import limits
from core.crypto import Entropy, aead_open, aead_seal, equal, system_entropy
from core.errors import FormatError, NewerFormat, WrongKey
from core.hashing import derive
from core.labels import EnvelopeKind, Label
from core.secret import Secret

_MAGIC = b"PNM1"
_SUITE = 1
_SALT = slice(8, 32)
_COMMITMENT = slice(32, 64)
_HEADER_BYTES = 64
_ZERO_NONCE = bytes(limits.AEAD_NONCE_BYTES)

OVERHEAD_BYTES = _HEADER_BYTES + limits.AEAD_TAG_BYTES


def seal(
    key: Secret,
    kind: EnvelopeKind,
    plaintext: bytes,
    *,
    aad: bytes = b"",
    key_epoch: int = 0,
    entropy: Entropy = system_entropy,
) -> bytes:
    """Seal under a fresh salt; `aad` binds what lies around the envelope."""
    prefix = _MAGIC + bytes([_SUITE, kind.value]) + key_epoch.to_bytes(2)
    salt = entropy(24)
    assert len(salt) == 24
    k_enc, k_com = _subkeys(key, salt, kind)
    header = prefix + salt + k_com
    return header + aead_seal(k_enc, _ZERO_NONCE, plaintext, header + aad)


def open_untrusted(key: Secret, kind: EnvelopeKind, sealed: bytes, *, aad: bytes = b"") -> bytes:
    """The plaintext; WrongKey if sealed under another key, IntegrityError if changed since."""
    check_untrusted(kind, sealed)
    header = sealed[:_HEADER_BYTES]
    k_enc, k_com = _subkeys(key, header[_SALT], kind)
    if not equal(k_com, header[_COMMITMENT]):
        raise WrongKey
    return aead_open(k_enc, _ZERO_NONCE, sealed[_HEADER_BYTES:], header + aad)


def check_untrusted(kind: EnvelopeKind, sealed: bytes) -> None:
    """Whether these bytes have the shape of an envelope of this kind; no key needed."""
    if len(sealed) < OVERHEAD_BYTES or sealed[:4] != _MAGIC:
        raise FormatError("not a sealed envelope")
    if sealed[4] != _SUITE:
        raise NewerFormat(f"sealed with suite {sealed[4]}; this Portal knows suite {_SUITE}")
    if sealed[5] != kind.value:
        raise FormatError("an envelope of another kind")


def key_epoch_untrusted(sealed: bytes) -> int:
    """The epoch of the key it says it was sealed under; a hint until it opens."""
    if len(sealed) < OVERHEAD_BYTES:
        raise FormatError("not a sealed envelope")
    return int.from_bytes(sealed[6:8])


def _subkeys(key: Secret, salt: bytes, kind: EnvelopeKind) -> tuple[bytes, bytes]:
    sub = derive(Label.META_SUBKEYS, key.reveal() + salt + bytes([kind.value]), 64)
    return sub[:32], sub[32:]
