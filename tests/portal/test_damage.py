"""Damage in packs, and the files it takes: exactly those."""

import pytest

from core.pack import PackKeys
from core.pieces import Kind
from portal.damage import Losses, damage_of
from portal.index import namer
from portal.live import Catalogue
from portal.reader import Reader
from tests.support.keeping import files, flip, node_named
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


@pytest.fixture
def docs(tmp_path):
    docs = files(tmp_path / "docs", large=fixed("large", 900_000))
    files(docs / "in", a=fixed("a", 9_000), b=fixed("b", 9_000))
    files(docs / "out", c=fixed("c", 9_000), twin=fixed("a", 9_000))
    return docs


def damages(vault):
    keys = PackKeys(vault.keys.dedup, vault.keys.pack)
    listed = list(Catalogue(vault.store, vault.keys).listed(vault.store.pack_names()))
    return [damage for one in listed if (damage := damage_of(vault.store, keys, one))]


def chunk_of(vault, kind, tag):
    with Reader(vault.store, vault.keys, None) as reader:
        place = reader.place_untrusted(kind, tag)
        row = reader.pack_untrusted(place.pack).index.chunks[place.chunk]
    return vault.store.path / "packs" / place.pack.hex(), row


def test_whole_packs_have_no_damage(vault, docs):
    back_up(vault, docs)
    assert damages(vault) == []


def test_one_chunk_takes_its_pieces_and_no_others(vault, docs):
    snapshot = back_up(vault, docs)
    tag = node_named(vault, snapshot, docs / "in" / "a").content.data
    path, row = chunk_of(vault, Kind.SMALL_FILE, tag)
    flip(path, row.offset + 99)
    (damage,) = damages(vault)
    assert damage.name.hex() == path.name
    assert damage.error.where == str(path)
    assert {piece.kind for piece in damage.lost} == {Kind.SMALL_FILE}
    assert tag in {piece.tag for piece in damage.lost}
    assert len(damage.lost) == row.piece_count == 3


@pytest.mark.parametrize("at", [5, 60, -1])
def test_salt_header_and_padding_lose_nothing_while_a_delta_knows_the_pack(vault, docs, at):
    back_up(vault, docs)
    path = min((vault.store.path / "packs").iterdir())
    flip(path, at)
    (damage,) = damages(vault)
    assert damage.lost == ()


def test_a_pack_that_is_gone_or_cut_loses_what_is_not_there(vault, docs):
    back_up(vault, docs)
    path = max((vault.store.path / "packs").iterdir(), key=lambda p: p.stat().st_size)
    data = path.read_bytes()
    path.write_bytes(data[:300])
    (damage,) = damages(vault)
    lost = len(damage.lost)
    assert lost > 0
    path.write_bytes(data + bytes(20_000_000))
    (damage,) = damages(vault)
    assert "never has" in damage.error.what
    assert len(damage.lost) == lost


def affected(vault, snapshots, lost):
    name = namer(vault.keys)
    with Reader(vault.store, vault.keys, None) as reader:
        losses = Losses(reader, name, {name(kind, tag) for kind, tag in lost})
        return sorted((s.id, b"/" + path) for s, path in losses.of(snapshots))


def test_a_lost_piece_takes_every_file_that_needs_it_in_every_snapshot(vault, docs):
    first = back_up(vault, docs)
    (docs / "in" / "b").write_bytes(b"new")
    second = back_up(vault, docs, now_ns=NOW_NS + 10**9)
    tag = node_named(vault, first, docs / "in" / "a").content.data
    assert affected(vault, [first, second], [(Kind.SMALL_FILE, tag)]) == sorted(
        (snapshot.id, bytes(docs / path))
        for snapshot in (first, second)
        for path in ("in/a", "out/twin")
    )
    old = node_named(vault, first, docs / "in" / "b").content.data
    assert affected(vault, [first, second], [(Kind.SMALL_FILE, old)]) == [
        (first.id, bytes(docs / "in" / "b"))
    ]


def test_a_lost_cut_takes_its_file(vault, docs):
    snapshot = back_up(vault, docs)
    tag = node_named(vault, snapshot, docs / "large").content.data[8:40]
    assert affected(vault, [snapshot], [(Kind.CUT, tag)]) == [(snapshot.id, bytes(docs / "large"))]


def test_a_lost_directory_counts_as_one(vault, docs):
    snapshot = back_up(vault, docs)
    tag = node_named(vault, snapshot, docs / "in").content.data
    assert affected(vault, [snapshot], [(Kind.DIRECTORY, tag)]) == [
        (snapshot.id, bytes(docs / "in"))
    ]


def test_nothing_lost_takes_nothing(vault, docs):
    snapshot = back_up(vault, docs)
    assert affected(vault, [snapshot], []) == []
