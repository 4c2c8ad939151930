import pytest

from core import crypto, erasure, hashing, selftest
from core.errors import PortalError


def test_every_primitive_answers():
    assert selftest.run() == [
        "BLAKE3",
        "ChaCha20-Poly1305",
        "Ed25519",
        "X25519",
        "Argon2id",
        "Reed-Solomon",
    ]


@pytest.mark.parametrize(
    ("module", "function", "wrong", "name"),
    [
        (hashing, "keyed", lambda *_: bytes(32), "BLAKE3"),
        (crypto, "aead_seal", lambda *_: bytes(64), "ChaCha20"),
        (crypto, "aead_open", lambda *_: b"accepts anything", "ChaCha20"),
        (crypto, "signature_is_valid", lambda *_: True, "Ed25519"),
        (crypto, "x25519_shared", lambda *_: crypto.Secret(bytes(32)), "X25519"),
        (erasure, "decode", lambda *_: bytes(128), "Reed-Solomon"),
        (crypto, "argon2id", lambda *_, **__: crypto.Secret(bytes(32)), "Argon2id"),
    ],
)
def test_a_primitive_that_lies_is_named(monkeypatch, module, function, wrong, name):
    monkeypatch.setattr(module, function, wrong)
    with pytest.raises(PortalError, match=name):
        selftest.run()
