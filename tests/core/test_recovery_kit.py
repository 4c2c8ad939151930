import pytest

from core import codec, recovery_kit
from core.crypto import SigningKey
from core.errors import FormatError, PortalError
from core.ids import MeshId, NodeId, UserId, to_base32
from core.phrase import from_words_untrusted
from core.recovery_kit import Endpoint, RecoveryKit
from core.secret import Secret
from tests.support.damage import assert_all_refused

USER = UserId(SigningKey(Secret(bytes(32))).public)
NODE = NodeId(SigningKey(Secret(bytes(range(32)))).public)
ALONE = RecoveryKit(Secret(bytes(range(32))), USER, 1_795_000_000)
PAIRED = RecoveryKit(
    Secret(bytes(range(32))),
    USER,
    1_795_000_000,
    MeshId(bytes(range(32))),
    tuple(Endpoint(f"[2001:db8::{i}]:4242", NODE) for i in range(3)),
)


def same(a, b):
    assert a.entropy.reveal() == b.entropy.reveal()
    assert (a.user, a.created_s, a.mesh, a.endpoints) == (b.user, b.created_s, b.mesh, b.endpoints)


@pytest.mark.parametrize("kit", [ALONE, PAIRED])
def test_text_round_trip(kit):
    text = kit.text().reveal().decode()
    same(RecoveryKit.parse_untrusted(text), kit)
    wrapped = "\n".join(text.upper()[i : i + 40] for i in range(0, len(text), 40))
    same(RecoveryKit.parse_untrusted(wrapped), kit)
    assert len(text) < 700


def test_golden(golden):
    assert ALONE.text().reveal().decode() == golden("keys.json")["recovery kit"]


def test_every_damage_is_refused():
    text = ALONE.text().reveal()

    def read(data):
        try:
            plain = data.decode("ascii")
        except UnicodeDecodeError as e:
            raise FormatError from e
        # A flip that only changes the case or adds a blank reads as the same kit: that is meant.
        if data != text and plain.lower().split() == text.decode().split():
            raise FormatError
        RecoveryKit.parse_untrusted(plain)

    assert_all_refused(read, text)


def test_the_page_holds_the_words_and_says_what_to_do():
    page = PAIRED.page("2026-11-21").reveal().decode()
    numbered = [
        line[start : start + 14] for line in page.splitlines()[2:8] for start in (0, 14, 28, 42)
    ]
    words = [w.split()[1] for w in sorted(numbered, key=lambda w: int(w.split()[0]))]
    assert from_words_untrusted(" ".join(words)).reveal() == PAIRED.entropy.reveal()
    assert USER.text() in page
    assert NODE.text() in page
    assert "portal recover" in page
    assert max(len(line) for line in page.splitlines()) < 100


def test_too_many_endpoints_and_other_texts_are_refused():
    row = [1, bytes(32), USER, 0, b"", [[e.address, e.node] for e in PAIRED.endpoints * 2]]
    body = codec.encode(row)
    many = "pnk1-" + to_base32(body + recovery_kit._check(body))
    for text in (many, "", "pnk1-", "pnj1-00", "pnk1-" + "0" * 9_000, "pnk1-\u212a00000000"):
        with pytest.raises(FormatError):
            RecoveryKit.parse_untrusted(text)


@pytest.mark.parametrize(
    "endpoints",
    [PAIRED.endpoints * 2, (Endpoint("a\nb", NODE),), (Endpoint("x" * 257, NODE),)],
)
def test_a_kit_that_could_not_be_read_is_not_made(endpoints):
    with pytest.raises(FormatError):
        RecoveryKit(ALONE.entropy, USER, 0, None, endpoints).text()


def test_nothing_of_it_shows():
    shown = repr(ALONE) + str(ALONE.text()) + str(PortalError(str(ALONE)))
    assert "000102" not in shown
    assert "<secret" in shown
