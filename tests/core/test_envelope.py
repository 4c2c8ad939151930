import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import envelope
from core.errors import FormatError, IntegrityError, NewerFormat, WrongKey
from core.labels import EnvelopeKind
from core.secret import Secret
from tests.support.damage import assert_all_refused
from tests.support.entropy import fixed_entropy

KEY = Secret(bytes(range(32)))
SLOT = EnvelopeKind.KEY_SLOT


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_round_trip(plaintext, aad):
    sealed = envelope.seal(KEY, SLOT, plaintext, aad=aad, key_epoch=7)
    assert envelope.open_untrusted(KEY, SLOT, sealed, aad=aad) == plaintext
    assert envelope.key_epoch_untrusted(sealed) == 7
    assert len(sealed) == len(plaintext) + envelope.OVERHEAD_BYTES


def test_the_same_text_never_looks_the_same():
    assert envelope.seal(KEY, SLOT, b"x")[8:] != envelope.seal(KEY, SLOT, b"x")[8:]


def test_golden(golden):
    case = golden("keys.json")["envelope"]
    sealed = envelope.seal(
        Secret(bytes.fromhex(case["key"])),
        EnvelopeKind(case["kind"]),
        case["text"].encode(),
        aad=case["aad"].encode(),
        key_epoch=case["epoch"],
        entropy=lambda size: bytes.fromhex(case["salt"])[:size],
    )
    assert sealed.hex() == case["sealed"]


def test_every_damage_is_refused():
    sealed = envelope.seal(KEY, SLOT, b"forty-two", aad=b"a", entropy=fixed_entropy("env"))
    assert_all_refused(lambda b: envelope.open_untrusted(KEY, SLOT, b, aad=b"a"), sealed)


def test_another_key_kind_or_context_does_not_open_it():
    sealed = envelope.seal(KEY, SLOT, b"x", aad=b"a")
    with pytest.raises(WrongKey):  # by the commitment, before anything is decrypted
        envelope.open_untrusted(Secret(bytes(32)), SLOT, sealed, aad=b"a")
    with pytest.raises(IntegrityError):
        envelope.open_untrusted(KEY, SLOT, sealed, aad=b"b")
    with pytest.raises(FormatError):
        envelope.open_untrusted(KEY, EnvelopeKind.KEYSTORE_PAYLOAD, sealed, aad=b"a")
    relabelled = bytearray(sealed)
    relabelled[5] = EnvelopeKind.KEYSTORE_PAYLOAD.value
    with pytest.raises(WrongKey):
        kind = EnvelopeKind.KEYSTORE_PAYLOAD
        envelope.open_untrusted(KEY, kind, bytes(relabelled), aad=b"a")


def test_a_wrong_key_is_found_before_the_cipher_runs(monkeypatch):
    sealed = envelope.seal(KEY, SLOT, b"x")
    monkeypatch.setattr(envelope, "aead_open", lambda *_: pytest.fail("decrypted"))
    with pytest.raises(WrongKey):
        envelope.open_untrusted(Secret(bytes(32)), SLOT, sealed)


def test_a_newer_suite_is_told_apart():
    sealed = bytearray(envelope.seal(KEY, SLOT, b"x"))
    sealed[4] = 2
    with pytest.raises(NewerFormat):
        envelope.open_untrusted(KEY, SLOT, bytes(sealed))
    with pytest.raises(FormatError):
        envelope.key_epoch_untrusted(b"short")
