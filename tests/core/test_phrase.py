import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import phrase
from core.errors import FormatError
from core.secret import Secret
from tests.support.entropy import fixed_entropy

ZERO = "abandon " * 23 + "art"


def test_bip39_vectors_both_ways(golden):
    cases = golden("rfc.json")["bip39 256 bit"]
    assert len(cases) == 8
    for case in cases:
        entropy = Secret(bytes.fromhex(case["entropy"]))
        assert phrase.to_words(entropy).reveal().decode() == case["words"]
        assert phrase.from_words_untrusted(case["words"]).reveal() == entropy.reveal()


@given(st.binary(min_size=32, max_size=32))
def test_round_trip(raw):
    words = phrase.to_words(Secret(raw)).reveal().decode()
    assert len(words.split()) == 24
    assert phrase.from_words_untrusted(words).reveal() == raw


def test_it_is_read_as_people_write_it():
    raw = phrase.new_entropy(fixed_entropy("phrase")).reveal()
    words = phrase.to_words(Secret(raw)).reveal().decode().split()
    for typed in (
        "\n".join(words),
        " ".join(words).upper(),
        "  " + "\t ".join(w.title() for w in words) + " ",
        " ".join(w[:4] for w in words),
    ):
        assert phrase.from_words_untrusted(typed).reveal() == raw


def test_errors_name_the_position_and_never_a_word():
    words = ZERO.split()
    bad = [*words[:6], "abandonn", *words[7:]]
    with pytest.raises(FormatError, match="word 7") as caught:
        phrase.from_words_untrusted(" ".join(bad))
    assert "abandon" not in str(caught.value)
    for count in (0, 1, 12, 23, 25):
        with pytest.raises(FormatError, match="24 words"):
            phrase.from_words_untrusted("abandon " * count)


def test_the_checksum_catches_swaps_and_wrong_words():
    raw = fixed_entropy("swap")(32)
    words = phrase.to_words(Secret(raw)).reveal().decode().split()
    caught = 0
    for i in range(23):
        swapped = [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
        try:
            phrase.from_words_untrusted(" ".join(swapped))
        except FormatError:
            caught += 1
    assert caught >= 22  # 8 bits of checksum: one in 256 slips through
    with pytest.raises(FormatError):
        phrase.from_words_untrusted("abandon " * 24)


@pytest.mark.parametrize("text", ["", "x" * 100_000, "\0" * 24, "aban " * 23 + "ar", "猫 " * 24])
def test_hostile_text_is_a_format_error(text):
    with pytest.raises(FormatError):
        phrase.from_words_untrusted(text)


def test_suggestions_for_a_prompt():
    assert "abandon" in phrase.suggestions("Abadnon")
    assert phrase.suggestions("qqqqqqq") == []


def test_check_words_are_the_first_bits_of_what_is_compared():
    assert phrase.check_words(bytes(6), 4) == ("abandon",) * 4
    assert phrase.check_words(b"\xff" * 32, 2) == ("zoo", "zoo")
    number = (1 << 33 | 2 << 22 | 3 << 11 | 4) << 4
    assert phrase.check_words(number.to_bytes(6), 4) == ("ability", "able", "about", "above")
