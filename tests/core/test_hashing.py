import pytest

from core import hashing
from core.labels import Label


def stream(size):
    """The input of the official BLAKE3 vectors: 0, 1, ... 250, 0, 1, ..."""
    return bytes(i % 251 for i in range(size))


@pytest.mark.parametrize("number", range(35))
def test_official_blake3_vectors_in_all_three_modes(official, number):
    from blake3 import blake3

    vectors = official("blake3-test_vectors.json")
    assert len(vectors["cases"]) == 35
    case = vectors["cases"][number]
    data = stream(case["input_len"])
    size = len(case["hash"]) // 2
    assert blake3(data).digest(length=size).hex() == case["hash"]
    assert hashing.keyed(vectors["key"].encode(), data, size).hex() == case["keyed_hash"]
    context = vectors["context_string"]
    derived = blake3(data, derive_key_context=context).digest(length=size)
    assert derived.hex() == case["derive_key"]


def test_a_label_becomes_the_context_string_of_the_specification():
    from blake3 import blake3

    context = "portal-node 2026-11-21 merkle leaf v1"
    assert hashing.derive(Label.MERKLE_LEAF, b"ikm", 48) == blake3(
        b"ikm", derive_key_context=context
    ).digest(length=48)
    key = blake3(b"", derive_key_context=context).digest()
    assert hashing.constant_key(Label.MERKLE_LEAF) == key
    assert hashing.digest(Label.MERKLE_LEAF, b"x") == blake3(b"x", key=key).digest()


def test_golden_values_of_our_own_contexts(golden):
    vectors = golden("keys.json")["hashing"]
    for label in Label:
        assert hashing.constant_key(label).hex() == vectors["constant_keys"][label.value]
    assert hashing.derive(Label.ROOT, b"portal", 64).hex() == vectors["derive root portal 64"]
    assert hashing.digest(Label.ROOT, b"portal").hex() == vectors["digest root portal"]


def test_many_short_items_hash_as_they_do_one_by_one():
    items = [b"", b"x", memoryview(b"yz"), stream(5_000)]
    assert hashing.digest_each(Label.MERKLE_LEAF, items) == [
        hashing.digest(Label.MERKLE_LEAF, item) for item in items
    ]
    assert hashing.digest_each(Label.MERKLE_LEAF, []) == []


def test_a_tag_is_the_hash_of_kind_and_content_however_long():
    for size in (0, 1, 5_000, 300_000):
        data = stream(size)
        expected = hashing.digest(Label.CONTENT_TAG, bytes([7]) + data)
        assert hashing.tag(7, data) == hashing.tag(7, memoryview(data)) == expected
        assert hashing.tags(7, [data, memoryview(data), b"x"])[:2] == [expected, expected]
