import pytest

from core.archive.index import Entry, Index
from core.errors import FormatError, NewerFormat
from core.hashing import digest
from core.labels import Label
from core.merkle import verify_proof_untrusted
from core.pieces import Kind

ENTRIES = [Entry(bytes([n]) * 32, 256 + 100 * n, 100, 1000, Kind.CUT) for n in range(9)]
INDEX = Index(b"".join(entry.to_bytes() for entry in ENTRIES))


def test_entries_are_56_bytes_and_read_back():
    assert len(INDEX.data) == 56 * 9
    assert [INDEX.entry_untrusted(n) for n in range(len(INDEX))] == ENTRIES
    for number in (-1, 9):
        with pytest.raises(FormatError):
            INDEX.entry_untrusted(number)


def test_one_entry_is_proved_by_the_root():
    tree = INDEX.tree()
    for number in range(9):
        leaf = digest(Label.ARCHIVE_ENTRY, INDEX.raw(number))
        verify_proof_untrusted(tree.root, 9, number, leaf, tree.proof(number))


def test_out_of_bounds_and_unknown_entries_are_refused():
    good = ENTRIES[0].to_bytes()
    for place, value, error in (
        (40, 255, FormatError),
        (44, 255, FormatError),
        (55, 1, FormatError),
    ):
        bad = bytearray(good)
        bad[place] = value
        with pytest.raises(error):
            Entry.read_untrusted(bytes(bad))
    bad = bytearray(good)
    bad[48] = 200
    with pytest.raises(NewerFormat):
        Entry.read_untrusted(bytes(bad))


def test_the_hash_covers_every_byte():
    whole = INDEX.hash()
    for place in range(0, len(INDEX.data), 17):
        bad = bytearray(INDEX.data)
        bad[place] ^= 1
        assert Index(bad).hash() != whole
