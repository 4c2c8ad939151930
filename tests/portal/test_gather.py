import io

import pytest

from core import limits
from core.chunking import DEFAULT_VAULT, Chunker, params_untrusted
from core.hashing import tag as tag_of
from core.keys import VaultKeys
from core.pieces import Kind
from core.secret import Secret
from core.tree.entry import Entry, EntryType
from portal.gather import Gather
from portal.manifest import (
    NO_CONTENT,
    Extent,
    Form,
    extents_untrusted,
    row_of,
    rows_untrusted,
    tags_untrusted,
)
from tests.support.vaults import fixed

KEYS = VaultKeys.from_master(Secret(bytes(range(32))))
CHUNKER = Chunker(params_untrusted(DEFAULT_VAULT), KEYS.gear)


class Vault:
    """Knows what it was asked for."""

    def __init__(self, *known):
        self.known = set(known)
        self.asked = []

    def __call__(self, kind, tag):
        self.asked.append((kind, tag))
        if (kind, tag) in self.known:
            return True
        self.known.add((kind, tag))
        return False


@pytest.fixture
def vault():
    return Vault()


@pytest.fixture
def gather(vault):
    return Gather(vault, CHUNKER)


def pieces_of(chunks):
    """Everything in some chunks, by kind and tag."""
    found = {}
    for chunk in chunks:
        at = 0
        for tag, kind, length in chunk.pieces or [(chunk.tag, chunk.kind, len(chunk.data))]:
            data = bytes(chunk.data[at : at + length])
            assert tag_of(kind, data) == tag
            assert (kind, tag) not in found
            found[kind, tag] = data
            at += length
    return found


def test_a_small_file_is_one_piece_brought_once(gather, vault):
    content = gather.small(b"content")
    assert content == (Form.SMALL, tag_of(Kind.SMALL_FILE, b"content"))
    assert gather.small(b"content") == content
    assert pieces_of(gather.finish()) == {(Kind.SMALL_FILE, content.data): b"content"}
    assert gather.new_bytes == 7
    assert gather.finish() == []


def test_what_the_vault_has_is_not_brought():
    tag = tag_of(Kind.SMALL_FILE, b"content")
    gather = Gather(Vault((Kind.SMALL_FILE, tag)), CHUNKER)
    assert gather.small(b"content").data == tag
    assert gather.finish() == []
    assert gather.new_bytes == 0


def test_files_and_directories_go_into_different_bundles(gather):
    gather.small(b"one")
    gather.small(b"two")
    gather.part([row_of(Entry(b"n", EntryType.FIFO), NO_CONTENT)])
    gather.record(b"a record")
    files, lists = gather.finish()
    assert {piece.kind for piece in files.pieces} == {Kind.SMALL_FILE}
    assert {piece.kind for piece in lists.pieces} == {Kind.DIRECTORY, Kind.SNAPSHOT}


def test_a_stream_is_cut_and_every_cut_is_brought_once(gather):
    data = fixed("stream", 5_000_000)
    twice = io.BytesIO(data + data)
    extents = list(gather.large(twice.readinto))
    pieces = pieces_of(gather.finish())
    joined = b"".join(pieces[Kind.CUT, extent.tag] for extent in extents)
    assert joined == data + data
    assert [e.length for e in extents] == [len(pieces[Kind.CUT, e.tag]) for e in extents]
    assert gather.new_bytes == sum(map(len, pieces.values())) < 8_000_000
    assert list(gather.large(io.BytesIO(b"").readinto)) == []


def test_it_is_full_when_a_trip_is_worth_it(gather):
    assert not gather.is_full
    for n in range(8):
        gather.small(fixed(f"{n}", 500_000))
    assert not gather.is_full
    for n in range(8, 12):
        gather.small(fixed(f"{n}", 500_000))
    assert gather.is_full
    brought = pieces_of(gather.take())
    assert not gather.is_full
    assert len(brought) + len(pieces_of(gather.finish())) == 12


def test_a_run_between_holes_is_a_cut(gather):
    assert gather.run(b"island") == (6, tag_of(Kind.CUT, b"island"))
    assert list(pieces_of(gather.finish()).values()) == [b"island"]


def test_very_many_cuts_become_lists(gather, monkeypatch):
    monkeypatch.setattr(limits, "CUT_LIST_EXTENTS_MAX", 3)
    extents = [Extent(n, bytes([n]) * 32) for n in range(1, 8)]
    assert gather.cuts(extents[:3]).form is Form.CUTS
    content = gather.cuts(extents)
    assert content.form is Form.CUT_LISTS
    pieces = pieces_of(gather.finish())
    upper = extents_untrusted(content.data)
    below = [extents_untrusted(pieces[Kind.CUT_LIST, e.tag]) for e in upper]
    assert [extent for part in below for extent in part] == extents
    assert [e.length for e in upper] == [sum(x.length for x in b) for b in below] == [6, 15, 7]


def test_a_directory_is_named_by_its_parts_or_by_lists_of_them(gather, monkeypatch):
    rows = [row_of(Entry(b"%04d" % n, EntryType.FIFO), NO_CONTENT) for n in range(3000)]
    content = gather.directory_of(rows)
    assert content.form is Form.PARTS
    pieces = pieces_of(gather.finish())
    tags = tags_untrusted(content.data)
    assert len(tags) > 1
    assert [r for t in tags for r in rows_untrusted(pieces[Kind.DIRECTORY, t])] == rows
    monkeypatch.setattr(limits, "SNAPSHOT_CONTENT_BYTES_MAX", 64 * 2)
    many = [bytes([n]) * 32 for n in range(5)]
    content = gather.directory(many)
    assert content.form is Form.PART_LISTS
    pieces = pieces_of(gather.finish())
    upper = tags_untrusted(content.data)
    assert [t for u in upper for t in tags_untrusted(pieces[Kind.CUT_LIST, u])] == many
    assert gather.directory([]) == (Form.PARTS, b"")


def test_a_large_piece_of_a_directory_travels_alone(gather):
    big = Entry(b"big", EntryType.FIFO, xattrs=((b"user.big", bytes(1_000_000)),))
    small = row_of(Entry(b"a", EntryType.FIFO), NO_CONTENT)
    tags = [gather.part([small]), gather.part([row_of(big, NO_CONTENT)]), gather.part([small])]
    assert tags[0] == tags[2]
    assert set(pieces_of(gather.finish())) == {(Kind.DIRECTORY, tag) for tag in tags}
