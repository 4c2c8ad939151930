import random

import pytest
from blake3 import blake3
from nacl.signing import SigningKey

from core import codec, limits
from core.errors import FormatError, LimitExceeded, NewerFormat
from core.hashing import digest
from core.ids import MeshId, from_base32_untrusted, to_base32
from core.labels import Label
from mesh.invite import Invitation, four_words
from mesh.wire import Address
from tests.support.entropy import fixed_entropy

MESH = MeshId(bytes(range(32)))
ENDPOINTS = (
    Address("192.0.2.7", 4433),
    Address("2001:db8::7", 443),
    Address("home.example.org", 4433),
)


def an_invite(**changes):
    options = {"endpoints": ENDPOINTS, "entropy": fixed_entropy("invite")} | changes
    return Invitation.new(MESH, 1_800_000_000, **options)


TEXT = an_invite().text().reveal().decode()


def fields(invite):
    return (
        invite.secret.reveal(),
        invite.mesh_prefix,
        invite.expires_s,
        invite.approve,
        invite.endpoints,
    )


def test_round_trip():
    for invite in (an_invite(), an_invite(approve=True), an_invite(endpoints=())):
        assert fields(Invitation.parse_untrusted(invite.text().reveal().decode())) == fields(invite)


def test_it_is_short_enough_to_be_typed_and_grouped_to_be_read():
    text = an_invite(endpoints=ENDPOINTS[:1]).text().reveal().decode()
    assert len(text) <= 125
    head, *groups = text.split("-")
    assert head == "pnj1"
    assert all(len(group) == 5 for group in groups[:-1])
    assert 0 < len(groups[-1]) <= 5


def test_golden_by_hand(golden):
    vector = golden("invite.json")
    assert vector["text"] == TEXT
    data = from_base32_untrusted(TEXT[5:])
    body, check = data[:-4], data[-4:]
    context = "portal-node 2026-11-21 {} v1"
    key = blake3(b"", derive_key_context=context.format("text check")).digest()
    assert blake3(b"invite" + body, key=key).digest(length=4) == check
    row = codec.decode_untrusted(body)
    assert row[:3] == (1, 0, 30_000_000)
    assert row[4] == MESH[:16]
    seed = blake3(row[3], derive_key_context=context.format("invite signing key")).digest()
    public = bytes(SigningKey(seed).verify_key)
    assert Invitation.parse_untrusted(TEXT).voucher().public == public
    assert vector["voucher"] == public.hex()


def test_case_blanks_hyphens_and_lookalikes_do_not_matter():
    rng = random.Random(1)
    for _ in range(200):
        typed = ""
        for c in TEXT:
            if c == "-":
                typed += rng.choice(["-", "", " ", "\n", " - "])
            else:
                typed += rng.choice([c, c.upper(), {"1": "l", "0": "O"}.get(c, c)])
        assert fields(Invitation.parse_untrusted(f" {typed}\n")) == fields(an_invite())


def test_every_wrong_letter_and_every_pair_swapped_is_found():
    chars = "0123456789abcdefghjkmnpqrstvwxyz"
    for i in range(5, len(TEXT)):
        if TEXT[i] == "-":
            continue
        wrong = chars[(chars.index(TEXT[i]) + 7) % 32]
        with pytest.raises(FormatError, match="mistyped or not complete"):
            Invitation.parse_untrusted(TEXT[:i] + wrong + TEXT[i + 1 :])
        if i + 1 < len(TEXT) and TEXT[i + 1] not in {"-", TEXT[i]}:
            swapped = TEXT[:i] + TEXT[i + 1] + TEXT[i] + TEXT[i + 2 :]
            with pytest.raises(FormatError, match="mistyped"):
                Invitation.parse_untrusted(swapped)
    for cut in range(6, len(TEXT)):
        with pytest.raises(FormatError, match="mistyped"):
            Invitation.parse_untrusted(TEXT[:cut])


@pytest.mark.parametrize(
    "text", ["", "hello", "pnj", "pnjx-abcde", "pnk1-" + TEXT[5:], "https://example.org/", "\x00"]
)
def test_what_is_no_invite_is_told_so(text):
    with pytest.raises(FormatError, match="not an invite"):
        Invitation.parse_untrusted(text)


def typed(row):
    body = codec.encode(row)
    return "pnj1-" + to_base32(body + digest(Label.TEXT_CHECK, b"invite" + body, 4))


ROW = [1, 0, 30_000_000, bytes(16), bytes(16), []]


def test_an_invite_of_a_newer_portal_is_told_so():
    for text in ("pnj2-abcde-fghjk", "PNJ9", typed([2, "what", "ever"])):
        with pytest.raises(NewerFormat):
            Invitation.parse_untrusted(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 0),
        (1, 256),
        (2, 2**32),
        (3, bytes(15)),
        (4, bytes(17)),
        (5, [bytes(6)] * 5),
        (5, [b""]),
        (5, [bytes(7)]),
        (5, [["", 1]]),
        (5, [["a b", 1]]),
        (5, [["host@evil", 1]]),
        (5, [["xn--ä", 1]]),
        (5, [["a" * 254, 1]]),
        (5, [["host", 65_536]]),
    ],
)
def test_nonsense_is_refused(field, value):
    assert Invitation.parse_untrusted(typed(ROW))
    with pytest.raises(FormatError):
        Invitation.parse_untrusted(typed([*ROW[:field], value, *ROW[field + 1 :]]))


def test_length_is_bounded():
    with pytest.raises(LimitExceeded):
        Invitation.parse_untrusted("pnj1-" + "0" * limits.INVITE_TEXT_CHARS_MAX)


def test_nothing_shows_the_secret():
    invite = an_invite()
    assert invite.secret.reveal().hex() not in repr(invite)
    assert invite.voucher().public != an_invite(entropy=fixed_entropy("other")).voucher().public


def test_expiry_is_rounded_up_to_minutes():
    invite = Invitation.new(MESH, 61, entropy=fixed_entropy("x"))
    assert invite.expires_s == 120
    assert not invite.expired(119)
    assert invite.expired(120)


@pytest.mark.slow
def test_four_words_differ_with_every_bit_of_a_join():
    words = four_words(b"join")
    assert len(words) == 4
    assert words == four_words(b"join")
    assert words != four_words(b"joim")
