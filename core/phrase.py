"""Twenty-four words that are the whole of a person's keys (core/SPEC.md, Recovery phrase).

256 bits of entropy and an 8-bit checksum in the BIP-39 English word list. Only the list and the
checksum are BIP-39: the words are decoded back to the entropy itself, without the wallet's PBKDF2.
Errors name positions, never words: what was typed here is a secret, mistyped or not.
"""

import difflib
import unicodedata
from functools import cache

from core import limits
from core.crypto import Entropy, system_entropy
from core.errors import FormatError
from core.secret import Secret

_PHRASE_CHARS_MAX = 1_000
_PREFIX_CHARS = 4  # the list is made so that four letters name a word


@cache
def _words() -> tuple[tuple[str, ...], dict[str, int]]:
    from mnemonic import Mnemonic  # noqa: PLC0415 - reads its list from disk, needed rarely

    words = tuple(Mnemonic("english").wordlist)
    assert len(words) == 2048
    return words, {word: number for number, word in enumerate(words)}


def new_entropy(entropy: Entropy = system_entropy) -> Secret:
    """Fresh entropy for a new identity."""
    return Secret(entropy(limits.PHRASE_ENTROPY_BYTES), limits.PHRASE_ENTROPY_BYTES)


def to_words(entropy: Secret) -> Secret:
    """The phrase as text, words separated by one space."""
    import hashlib  # noqa: PLC0415 - BIP-39 fixes SHA-256 for its checksum

    raw = entropy.reveal()
    assert len(raw) == limits.PHRASE_ENTROPY_BYTES
    number = int.from_bytes(raw) << 8 | hashlib.sha256(raw).digest()[0]
    words, _ = _words()
    picked = [words[number >> shift & 2047] for shift in range(253, -1, -11)]
    return Secret(" ".join(picked).encode())


def from_words_untrusted(text: str) -> Secret:
    """The entropy behind a phrase as a person typed it: any case, any blanks, four letters do."""
    import hashlib  # noqa: PLC0415 - as above

    if len(text) > _PHRASE_CHARS_MAX:
        raise FormatError("too long for a recovery phrase")
    typed = unicodedata.normalize("NFKD", text).lower().split()
    if len(typed) != limits.PHRASE_WORDS:
        raise FormatError(f"a recovery phrase has {limits.PHRASE_WORDS} words, not {len(typed)}")
    number = 0
    for position, word in enumerate(typed, 1):
        index = _index(word)
        if index is None:
            raise FormatError(f"word {position} is not in the word list")
        number = number << 11 | index
    raw = (number >> 8).to_bytes(limits.PHRASE_ENTROPY_BYTES)
    if hashlib.sha256(raw).digest()[0] != number & 255:
        raise FormatError("the words do not fit together: one is wrong, or two are swapped")
    return Secret(raw)


def check_words(data: bytes, count: int) -> tuple[str, ...]:
    """The first 11 bits each as words, for two people to compare by voice; no secret."""
    assert len(data) * 8 >= 11 * count
    number = int.from_bytes(data) >> (len(data) * 8 - 11 * count)
    words, _ = _words()
    return tuple(words[number >> 11 * i & 2047] for i in reversed(range(count)))


def suggestions(word: str) -> list[str]:
    """Words of the list that were perhaps meant, for a prompt on the owner's own terminal."""
    return difflib.get_close_matches(word.lower(), _words()[0], n=3)


def _index(word: str) -> int | None:
    words, numbers = _words()
    if word in numbers:
        return numbers[word]
    if len(word) < _PREFIX_CHARS:
        return None
    found = [number for number, known in enumerate(words) if known.startswith(word)]
    return found[0] if len(found) == 1 else None
