"""What snapshots need and where it lies: against a slow walk, with every form of content."""

import pytest

from core import limits
from core.pieces import Kind
from portal.index import namer, open_delta_untrusted
from portal.live import LENGTH_UNKNOWN, Catalogue, Marks, Tally, places_of
from portal.manifest import HOLE, Form
from portal.reader import Reader
from tests.support.keeping import files, flip, node_named, two_snapshots
from tests.support.vaults import a_vault, back_up, fixed


def marks_of(vault, *snapshots):
    with Reader(vault.store, vault.keys, None) as reader:
        marks = Marks(reader, namer(vault.keys))
        for snapshot in snapshots:
            marks.add(snapshot)
    return marks


def listed(vault, packs=None):
    catalogue = Catalogue(vault.store, vault.keys)
    return list(catalogue.listed(packs or vault.store.pack_names())), catalogue


def all_pieces(vault):
    """Key to length of everything in all packs."""
    name = namer(vault.keys)
    return {
        name(kind, tag): length
        for _, index in listed(vault)[0]
        for tag, kind, _, _, length in index.all_pieces()
    }


def test_a_vault_of_one_snapshot_holds_exactly_what_is_marked(tmp_path):
    vault = a_vault(tmp_path)
    docs = files(tmp_path / "docs", small=b"small", large=fixed("x", 3_000_000), empty=b"")
    files(docs / "in", other=b"other")
    with (docs / "holes").open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(50_000_000)
    snapshot = back_up(vault, docs)
    assert any(e == HOLE for _, e in extents(vault, snapshot, docs / "holes"))
    marks = marks_of(vault, snapshot)
    pieces = all_pieces(vault)
    assert marks.needed.keys() == pieces.keys()
    assert all(length in {LENGTH_UNKNOWN, pieces[key]} for key, length in marks.needed.items())
    known = [length for length in marks.needed.values() if length != LENGTH_UNKNOWN]
    assert sum(known) > 3_000_000
    assert len(marks.optional) == 1


def extents(vault, snapshot, path):
    with Reader(vault.store, vault.keys, None) as reader:
        return reader.extents_untrusted(node_named(vault, snapshot, path).content)


def test_lists_of_cuts_and_of_parts_are_marked_with_what_they_list(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CUT_LIST_EXTENTS_MAX", 2)
    monkeypatch.setattr(limits, "SNAPSHOT_CONTENT_BYTES_MAX", 256)
    monkeypatch.setattr(limits, "DIRECTORY_PART_BYTES_MIN", 1_000)
    monkeypatch.setattr(limits, "DIRECTORY_PART_BYTES_MAX", 1_500)
    vault = a_vault(tmp_path)
    docs = files(tmp_path / "docs", **{f"f{n}": b"%d" % n for n in range(60)})
    files(docs, large=fixed("x", 4_000_000))
    snapshot = back_up(vault, docs)
    assert node_named(vault, snapshot, docs).content.form is Form.PART_LISTS
    assert node_named(vault, snapshot, docs / "large").content.form is Form.CUT_LISTS
    assert marks_of(vault, snapshot).needed.keys() == all_pieces(vault).keys()


def test_marks_of_several_are_the_union(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    one, two = marks_of(vault, first).needed, marks_of(vault, second).needed
    assert marks_of(vault, first, second).needed == one | two
    assert one.keys() - two.keys()
    assert two.keys() - one.keys()


def test_what_cannot_be_read_is_told_with_its_place(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    with Reader(vault.store, vault.keys, None) as reader:
        place = reader.place_untrusted(Kind.DIRECTORY, first.record.root.data)
        row = reader.pack_untrusted(place.pack).index.chunks[place.chunk]
    flip(vault.store.path / "packs" / place.pack.hex(), row.offset + 60)
    (fault,) = marks_of(vault, first).faults
    assert (fault.snapshot.id, fault.path) == (first.id, b"")
    assert first.name in str(fault)


def test_a_tally_counts_each_piece_once(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    found, _ = listed(vault)
    marks = marks_of(vault, first, second)
    tally = Tally(namer(vault.keys))
    tally.add(found, marks.needed)
    assert tally.missing(marks) == 0
    assert tally.homes.keys() == marks.needed.keys()
    assert all(pack.dead_bytes == pack.double_bytes == 0 for pack in tally.packs)
    tally.add(found, marks.needed)  # the same once more: all of it is double
    again = tally.packs[len(found) :]
    assert all(pack.live_bytes == 0 for pack in again)
    assert all(pack.double_bytes == pack.filled_bytes > 0 for pack in again)
    assert all(pack.lost_bytes == 0 for pack in again)


def test_what_is_not_needed_is_dead(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    marks = marks_of(vault, second)
    tally = Tally(namer(vault.keys))
    tally.add(listed(vault)[0], marks.needed)
    assert 600_000 < sum(pack.dead_bytes for pack in tally.packs) < 620_000
    assert sum(pack.lost_bytes for pack in tally.packs) == sum(
        pack.dead_bytes for pack in tally.packs
    )
    only_first = marks_of(vault, first)
    assert tally.missing(only_first) > 0


def test_another_length_is_noticed(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    marks = marks_of(vault, first)
    key = next(key for key, length in marks.needed.items() if length != LENGTH_UNKNOWN)
    marks.needed[key] += 1
    tally = Tally(namer(vault.keys))
    tally.add(listed(vault)[0], marks.needed)
    assert tally.wrong == [key]


@pytest.mark.parametrize("how", ["all deltas", "no deltas", "half"])
def test_a_catalogue_says_the_same_by_deltas_and_by_packs(tmp_path, how):
    vault, _, _ = two_snapshots(tmp_path)
    whole, _ = listed(vault)
    deltas = sorted(vault.store.delta_names())
    gone = {"all deltas": [], "no deltas": deltas, "half": deltas[:1]}[how]
    told = [open_delta_untrusted(vault.store.read_delta(name), vault.keys) for name in gone]
    vault.store.remove_deltas(gone)
    found, catalogue = listed(vault)
    assert {f.name: f.index for f, _ in found} == {f.name: f.index for f, _ in whole}
    assert len(found) == len(whole)
    assert catalogue.unlisted == {facts.name for packs in told for facts in packs}


def test_a_catalogue_goes_on_when_deltas_are_merged_under_it(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    whole, _ = listed(vault)
    rows = Catalogue(vault.store, vault.keys).listed(vault.store.pack_names())
    seen = [next(rows)[0].name]
    for name in vault.store.delta_names():
        data = vault.store.read_delta(name)
        vault.store.remove_deltas([name])
        vault.store.put_delta(data)
    seen += [facts.name for facts, _ in rows]
    assert sorted(seen) == sorted(facts.name for facts, _ in whole)


def test_damage_is_told_by_path_and_the_rest_goes_on(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    delta = min((vault.store.path / "index").iterdir())
    flip(delta, 50)
    found, catalogue = listed(vault)
    assert list(catalogue.damaged) == [str(delta)]
    assert {f.name for f, _ in found} == vault.store.pack_names()
    pack = vault.store.path / "packs" / next(iter(catalogue.unlisted)).hex()
    flip(pack, 50)
    found, catalogue = listed(vault)
    assert set(catalogue.damaged) == {str(delta), str(pack)}
    assert {f.name.hex() for f, _ in found} == {p.hex() for p in vault.store.pack_names()} - {
        pack.name
    }


def test_places_are_found_by_key(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    name = namer(vault.keys)
    found, _ = listed(vault)
    wanted = {next(iter(marks_of(vault, one).optional)) for one in (first, second)} | {bytes(16)}
    places = places_of(found, name, wanted)
    assert places.keys() == wanted - {bytes(16)}
    assert len(set(places.values())) == 2
