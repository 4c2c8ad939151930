import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import FormatError
from core.ids import MeshId, NodeId, UserId, VaultId, from_base32_untrusted, to_base32

KINDS = [NodeId, UserId, VaultId, MeshId]


@given(st.binary(max_size=80))
def test_base32_round_trip(data):
    assert from_base32_untrusted(to_base32(data)) == data


@given(st.text(max_size=40))
def test_any_text_is_bytes_or_a_format_error(text):
    try:
        data = from_base32_untrusted(text)
    except FormatError:
        return
    # Reading forgives case, blanks and look-alikes, and nothing else.
    assert len(to_base32(data)) == len("".join(text.split()).replace("-", ""))


def test_letters_that_lower_to_ours_are_not_ours_and_errors_say_what_was_read():
    with pytest.raises(FormatError, match=r"^this text holds"):
        from_base32_untrusted("\u212a0000000")  # the sign of kelvin
    text = NodeId(bytes(32)).text()
    with pytest.raises(FormatError, match=r"^this node id holds"):
        NodeId.parse_untrusted(text[:-1] + "\u212a")
    with pytest.raises(FormatError, match=r"^this node id is cut short"):
        NodeId.parse_untrusted(text[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_text_round_trip_as_people_type_it(kind):
    name = kind(bytes(range(kind.SIZE)))
    text = name.text()
    assert kind.parse_untrusted(text) == name
    assert kind.parse_untrusted(f"  {text.upper().replace('-', ' ')}\n") == name
    assert kind.parse_untrusted(text.replace("0", "o").replace("1", "l")) == name
    assert str(name) == text
    assert name.short() in repr(name)


def test_every_single_typing_error_is_caught():
    text = NodeId(bytes(range(32))).text()
    for i, char in enumerate(text):
        if char == "-":
            continue
        for other in "0123456789abcdefghjkmnpqrstvwxyz":
            if other != char:
                with pytest.raises(FormatError):
                    NodeId.parse_untrusted(text[:i] + other + text[i + 1 :])


def test_swapped_neighbours_cuts_and_additions_are_caught():
    text = NodeId(bytes(range(7, 39))).text()
    plain = text.replace("-", "")
    swaps = {
        plain[:i] + plain[i + 1] + plain[i] + plain[i + 2 :]
        for i in range(len(plain) - 1)
        if plain[i] != plain[i + 1]
    }
    for bad in [*swaps, *(text[:i] for i in range(len(text))), text + "0", text * 2, "0" * 10_000]:
        with pytest.raises(FormatError):
            NodeId.parse_untrusted(bad)


def test_one_kind_is_never_taken_for_another():
    for kind in KINDS:
        text = kind(bytes(kind.SIZE)).text()
        for other in KINDS:
            if other is not kind:
                with pytest.raises(FormatError):
                    other.parse_untrusted(text)


@pytest.mark.parametrize("value", [b"", bytes(31), bytes(33), "x" * 32, None, 7])
def test_fields_of_the_wrong_kind_or_size_are_refused(value):
    with pytest.raises(FormatError):
        NodeId.read_untrusted(value)


def test_golden_text(golden):
    for row in golden("keys.json")["ids"]:
        kind = {k.KIND: k for k in KINDS}[row["kind"]]
        assert kind(bytes.fromhex(row["id"])).text() == row["text"]
