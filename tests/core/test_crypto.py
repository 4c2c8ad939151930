import hashlib
import hmac

import pytest

from core import crypto, limits
from core.errors import FormatError, IntegrityError, LimitExceeded
from core.labels import SignLabel
from core.secret import Secret
from tests.support.entropy import fixed_entropy

CONTEXT = SignLabel.DEVICE_CERT


def wycheproof(data):
    for group in data["testGroups"]:
        for test in group["tests"]:
            yield group, test


def test_wycheproof_chacha20_poly1305(official):
    data = official("wycheproof-chacha20_poly1305_test.json")
    ran = 0
    for group, test in wycheproof(data):
        key, nonce, aad, text, sealed = (
            bytes.fromhex(test[name]) for name in ("key", "iv", "aad", "msg", "ct")
        )
        sealed += bytes.fromhex(test["tag"])
        ran += 1
        if group["ivSize"] != 96:
            assert test["result"] == "invalid"
            with pytest.raises(ValueError, match="12 bytes"):
                crypto.aead_seal(key, nonce, text, aad)
        elif test["result"] == "invalid":
            with pytest.raises(IntegrityError):
                crypto.aead_open(key, nonce, sealed, aad)
        else:
            assert crypto.aead_seal(key, nonce, text, aad) == sealed
            assert crypto.aead_open(key, nonce, sealed, aad) == text
    assert ran == data["numberOfTests"] == 325


def test_wycheproof_ed25519(official):
    data = official("wycheproof-ed25519_test.json")
    results = [
        (
            test["tcId"],
            test["result"] == "valid",
            crypto.signature_is_valid(
                bytes.fromhex(group["publicKey"]["pk"]),
                bytes.fromhex(test["msg"]),
                bytes.fromhex(test["sig"]),
            ),
        )
        for group, test in wycheproof(data)
    ]
    assert len(results) == data["numberOfTests"] == 151
    assert [number for number, expected, found in results if expected != found] == []


def test_wycheproof_x25519(official):
    data = official("wycheproof-x25519_test.json")
    ran = refused = 0
    for _, test in wycheproof(data):
        private, public = Secret(bytes.fromhex(test["private"])), bytes.fromhex(test["public"])
        ran += 1
        if set(test["shared"]) <= {"0"}:  # a low-order point: the secret would be known to all
            refused += 1
            with pytest.raises(IntegrityError):
                crypto.x25519_shared(private, public)
        else:
            assert crypto.x25519_shared(private, public).reveal().hex() == test["shared"]
    assert ran == data["numberOfTests"] == 518
    assert refused > 0


def test_wycheproof_hkdf_sha256(official):
    # Portal derives with BLAKE3; HKDF is what the library's HPKE stands on.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    data = official("wycheproof-hkdf_sha256_test.json")
    ran = 0
    for _, test in wycheproof(data):
        ikm, salt, info = (bytes.fromhex(test[name]) for name in ("ikm", "salt", "info"))
        ran += 1
        if test["result"] == "invalid":
            with pytest.raises(ValueError, match="derive"):
                HKDF(SHA256(), test["size"], salt, info).derive(ikm)
        else:
            assert HKDF(SHA256(), test["size"], salt, info).derive(ikm).hex() == test["okm"]
    assert ran == data["numberOfTests"] == 86


def test_rfc_values(golden):
    vectors = golden("rfc.json")
    case = vectors["rfc8439 2.8.2"]
    key, nonce, aad, sealed = (bytes.fromhex(case[n]) for n in ("key", "nonce", "aad", "sealed"))
    assert crypto.aead_open(key, nonce, sealed, aad) == case["text"].encode()
    assert crypto.aead_seal(key, nonce, case["text"].encode(), aad) == sealed
    for case in vectors["rfc8032 7.1"]:
        public, message, signature = (bytes.fromhex(case[n]) for n in ("pk", "msg", "sig"))
        assert crypto.SigningKey(Secret(bytes.fromhex(case["seed"]))).public == public
        assert crypto.signature_is_valid(public, message, signature)
        assert not crypto.signature_is_valid(public, message + b"x", signature)
    case = vectors["rfc7748 6.1"]
    alice, bob = (Secret(bytes.fromhex(case[n])) for n in ("alice", "bob"))
    assert crypto.x25519_public(alice).hex() == case["alice public"]
    assert crypto.x25519_shared(bob, crypto.x25519_public(alice)).reveal().hex() == case["shared"]


def test_rfc9106_argon2id(golden):
    # The RFC's example uses less memory than Portal allows and two inputs Portal does not use, so
    # it asks the library; the second value is Portal's own call, agreed by another implementation.
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    case = golden("rfc.json")["rfc9106 5.3"]
    kdf = Argon2id(
        salt=bytes.fromhex(case["salt"]),
        length=32,
        iterations=3,
        lanes=4,
        memory_cost=32,
        ad=bytes.fromhex(case["ad"]),
        secret=bytes.fromhex(case["secret"]),
    )
    assert kdf.derive(bytes.fromhex(case["password"])).hex() == case["tag"]
    ours = crypto.argon2id(
        Secret(b"portal"), b"portal self test", memory_kib=19 * 1024, passes=2, lanes=1
    )
    assert ours.reveal().hex() == golden("rfc.json")["argon2id portal"]


def test_small_order_and_non_canonical_ed25519_keys_are_refused(golden):
    vectors = golden("rfc.json")["ed25519 bad keys"]
    assert len(vectors) >= 12
    for text in vectors:
        public = bytes.fromhex(text)
        with pytest.raises(FormatError):
            crypto.check_public_key_untrusted(public)
        # R = the key itself or the identity, S = 0: verifies under a small-order key in lax code.
        for r in (public, bytes([1]) + bytes(31)):
            assert not crypto.signature_is_valid(public, b"anything", r + bytes(32))
    for size in (0, 31, 33):
        with pytest.raises(FormatError):
            crypto.check_public_key_untrusted(bytes(size))
    good = crypto.SigningKey(Secret(bytes(32))).public
    crypto.check_public_key_untrusted(good)


def test_a_signature_covers_its_label_its_length_and_every_byte():
    key = crypto.SigningKey(Secret(fixed_entropy("sign")(32)))
    signature = key.sign(CONTEXT, b"payload")
    crypto.verify(key.public, CONTEXT, b"payload", signature)
    framed = b"portal-node-sig-v1\0\x0bdevice-cert" + (7).to_bytes(8) + b"payload"
    assert crypto.signature_is_valid(key.public, framed, signature)
    assert not crypto.signature_is_valid(key.public, b"payload", signature)
    for i in range(len(signature)):
        bad = bytearray(signature)
        bad[i] ^= 1
        with pytest.raises(IntegrityError):
            crypto.verify(key.public, CONTEXT, b"payload", bytes(bad))
    for bad_signature in (signature[:-1], signature + b"\0", b""):
        with pytest.raises(IntegrityError):
            crypto.verify(key.public, CONTEXT, b"payload", bad_signature)
    other = crypto.SigningKey(Secret(bytes(32)))
    with pytest.raises(IntegrityError):
        crypto.verify(other.public, CONTEXT, b"payload", signature)
    assert other.public.hex()[:8] in repr(other)


def test_an_x25519_key_of_the_wrong_size_is_a_format_error():
    with pytest.raises(FormatError):
        crypto.x25519_shared(Secret(bytes(range(32))), bytes(31))


@pytest.mark.parametrize(
    ("memory_kib", "passes", "lanes"),
    [
        (2**32, 3, 4),  # 4 TiB
        (limits.ARGON2_MEMORY_KIB_MAX + 1, 3, 4),
        (limits.ARGON2_MEMORY_KIB_MIN - 1, 3, 4),
        (64 * 1024, 1, 4),  # one pass over little memory
        (64 * 1024, 0, 4),
        (64 * 1024, 17, 4),
        (64 * 1024, 3, 0),
        (64 * 1024, 3, 17),
    ],
)
def test_argon2_bombs_and_downgrades_are_refused_before_memory_is_taken(memory_kib, passes, lanes):
    with pytest.raises(LimitExceeded):
        crypto.argon2id(Secret(b"x"), bytes(16), memory_kib=memory_kib, passes=passes, lanes=lanes)


def test_equal():
    assert crypto.equal(b"abc", b"abc")
    assert not crypto.equal(b"abc", b"abd")
    assert len(crypto.system_entropy(32)) == 32


# --- HPKE -----------------------------------------------------------------------------------------


def opened_by_hand(seed, sealed, info):
    """HPKE base mode: MLKEM768-X25519 (0x647a), HKDF-SHA256, ChaCha20-Poly1305, step by step."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    suite = b"HPKE" + bytes.fromhex("647a 0001 0003")
    lattice, curve, box = sealed[:1_088], sealed[1_088:1_120], sealed[1_120:]
    own = X25519PrivateKey.from_private_bytes(seed[:32])
    shared = MLKEM768PrivateKey.from_seed_bytes(seed[32:]).decapsulate(lattice)
    shared += own.exchange(X25519PublicKey.from_public_bytes(curve))
    shared += curve + own.public_key().public_bytes_raw() + b"\\.//^\\"
    secret = hashlib.sha3_256(shared).digest()

    def extract(salt, label, material):
        words = b"HPKE-v1" + suite + label + material
        return hmac.new(salt or bytes(32), words, hashlib.sha256).digest()

    def expand(key, label, context, size):
        words = size.to_bytes(2) + b"HPKE-v1" + suite + label + context
        return hmac.new(key, words + b"\1", hashlib.sha256).digest()[:size]

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    key = extract(secret, b"secret", b"")
    cipher = ChaCha20Poly1305(expand(key, b"key", context, 32))
    return cipher.decrypt(expand(key, b"base_nonce", context, 12), box, b"")


SEED = bytes(range(96))


def test_what_is_sealed_to_a_seed_is_opened_by_it_and_by_the_books():
    public = crypto.hpke_public(Secret(SEED))
    assert len(public) == limits.KEM_PUBLIC_BYTES
    sealed = crypto.hpke_seal(public, b"data", b"what for")
    assert crypto.hpke_open(Secret(SEED), sealed, b"what for") == b"data"
    assert opened_by_hand(SEED, sealed, b"what for") == b"data"
    assert crypto.hpke_seal(public, b"data", b"what for") != sealed


def test_nobody_else_opens_it_nor_for_anything_else():
    sealed = crypto.hpke_seal(crypto.hpke_public(Secret(SEED)), b"data", b"what for")
    changed = bytearray(sealed)
    for at in (0, 1_100, -1):
        changed[at] ^= 1
        with pytest.raises(IntegrityError):
            crypto.hpke_open(Secret(SEED), bytes(changed), b"what for")
        changed[at] ^= 1
    for seed, data, info in (
        (SEED, sealed, b"else"),
        (SEED[::-1], sealed, b"what for"),
        (SEED, sealed[:1_119], b"what for"),
        (SEED, b"", b"what for"),
    ):
        with pytest.raises(IntegrityError):
            crypto.hpke_open(Secret(seed), data, info)


def test_what_is_no_key_is_not_sealed_to():
    public = crypto.hpke_public(Secret(SEED))
    for bad in (b"", public[:-1], b"\xff" * len(public), public[:1_184] + bytes(32)):
        with pytest.raises(FormatError):
            crypto.hpke_seal(bad, b"data", b"what for")
