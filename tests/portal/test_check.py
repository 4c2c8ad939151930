"""Checking: what is whole is found whole, and every damage is found, named and graded."""

from contextlib import suppress

import pytest

from core import limits
from core.errors import PortalError
from core.pieces import Kind
from portal.check import Grade, Options
from portal.forget import forget
from portal.manifest import Form
from portal.reader import Reader
from tests.support.keeping import (
    DAY_S,
    NOW_S,
    files,
    flip,
    node_named,
    run_check,
    run_gc,
    two_snapshots,
)
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed, opened


def grades(checked):
    return {finding.grade for finding in checked.findings}


def test_a_vault_that_is_whole_is_found_whole(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    checked = run_check(vault)
    assert checked.exit_code == 0
    assert not checked.findings
    assert checked.packs == checked.packs_read == len(vault.store.pack_names())
    assert checked.bytes_read == checked.pack_bytes
    assert checked.snapshots == 2
    assert (checked.sessions, checked.leftovers, checked.unlisted_packs) == (0, 0, 0)


def test_it_changes_nothing(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    run_gc(vault)
    before = {p: p.read_bytes() for p in vault.store.path.rglob("*") if p.is_file()}
    checked = run_check(vault)
    assert checked.exit_code == 0
    assert checked.trash_packs > 0
    assert {p: p.read_bytes() for p in vault.store.path.rglob("*") if p.is_file()} == before


def test_what_was_forgotten_and_purged_is_a_note(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    run_gc(vault)
    vault.store.purge(set(vault.store.trashed()))
    checked = run_check(vault)
    assert checked.exit_code == 0
    assert [f.where for f in checked.findings] == [f"snapshot {first.name}"]


def test_samples_read_their_share(tmp_path):
    vault = a_vault(tmp_path)
    for n in range(8):
        back_up(
            vault, files(tmp_path / "docs", **{f"f{n}": fixed(str(n), 9_000)}), now_ns=NOW_NS + n
        )
    packs = len(vault.store.pack_names())
    assert packs >= 8
    assert run_check(vault, Options()).packs_read == 0
    assert run_check(vault, Options(share=0.5)).packs_read == -(-packs // 2)
    parts = [run_check(vault, Options(part=(n, 3))).packs_read for n in (1, 2, 3)]
    assert sum(parts) == packs


def pack_with(vault, kind, tag):
    with Reader(vault.store, vault.keys, None) as reader:
        return reader.place_untrusted(kind, tag)


def test_a_flipped_bit_in_content_names_the_files_it_takes(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    node = node_named(vault, first, tmp_path / "docs" / "b")
    tag = node.content.data[8:40]
    place = pack_with(vault, Kind.CUT, tag)
    flip(vault.store.path / "packs" / place.pack.hex(), 5_000)
    assert run_check(vault, Options()).exit_code == 0  # nothing was read
    checked = run_check(vault)
    assert checked.exit_code == 6
    assert checked.affected_count == len(checked.affected) > 0
    assert {(s.id, p) for s, p in checked.affected} <= {
        (s.id, bytes(tmp_path / "docs" / name)[1:]) for s in (first, second) for name in "ab"
    }
    assert place.pack in checked.packs_bad
    assert any(place.pack.hex() in f.where for f in checked.findings)


def test_a_missing_pack_is_lost_content(tmp_path):
    vault, _, second = two_snapshots(tmp_path)
    node = node_named(vault, second, tmp_path / "docs" / "c")
    place = pack_with(vault, Kind.SMALL_FILE, node.content.data)
    (vault.store.path / "packs" / place.pack.hex()).unlink()
    checked = run_check(vault, Options())
    assert checked.exit_code == 6
    assert {s.id for s, _ in checked.affected} == {second.id}


def test_a_needed_pack_in_the_trash_is_mendable(tmp_path):
    vault, _, second = two_snapshots(tmp_path)
    node = node_named(vault, second, tmp_path / "docs" / "c")
    place = pack_with(vault, Kind.SMALL_FILE, node.content.data)
    vault.change(lambda head: head)
    with vault.store.commit_lock():
        vault.store.move_to_trash([place.pack], 0, NOW_S)
    checked = run_check(vault, Options())
    assert checked.exit_code == 5
    assert checked.packs_in_trash_needed == {place.pack}


def test_a_broken_chain_of_heads_is_found(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    places = vault.store.head_places()
    older = vault.store.head_path(places[1])
    data = older.read_bytes()
    vault.change(lambda head: head)
    older.write_bytes(data)
    assert run_check(vault, Options()).exit_code == 0
    vault.store.head_path(places[0]).unlink()
    checked = run_check(vault, Options())
    assert grades(checked) == {Grade.NOTE}  # one in the middle is missing; each head is complete


def test_a_forged_history_is_found(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    newest, older = vault.store.head_places()[:2]
    path = vault.store.head_path(newest)
    path.unlink()
    vault.change(lambda head: head.with_snapshots([]))  # the same number, another head
    forged = path.read_bytes()
    path.unlink()
    vault.change(lambda head: head)
    vault.change(lambda head: head)
    path.write_bytes(forged)
    checked = run_check(vault, Options())
    assert checked.exit_code == 5
    assert str(path) in {finding.where for finding in checked.findings}
    assert older < newest


def test_damage_is_found_whatever_is_asked_when_it_is_in_the_way(tmp_path):
    vault, _, second = two_snapshots(tmp_path)
    place = pack_with(vault, Kind.DIRECTORY, second.record.root.data)
    path = vault.store.path / "packs" / place.pack.hex()
    for at in range(200, 3_000, 7):
        flip(path, at)
    checked = run_check(vault, Options())
    assert checked.exit_code == 6
    assert place.pack in checked.packs_bad
    assert (second.id, b"") in {(s.id, p) for s, p in checked.affected}


# --- every kind of file -----------------------------------------------------------------------


def every_kind(vault):
    """One file of each kind, and how much of it to look at."""
    store = vault.store
    newest = store.head_path(store.head_places()[0])
    oldest = store.head_path(store.head_places()[-1])
    pack = min((store.path / "packs").iterdir(), key=lambda p: p.stat().st_size)
    large = max((store.path / "packs").iterdir(), key=lambda p: p.stat().st_size)
    delta = min((store.path / "index").iterdir())
    return {
        "config": store.path / "config",
        "newest": newest,
        "oldest": oldest,
        "pack": pack,
        "large pack": large,
        "delta": delta,
    }


def contents(place, snapshots):
    """Every file of these snapshots, as another process without a cache reads them."""
    found = {}
    vault = opened(place)
    listed = {snapshot.id for snapshot in vault.head().snapshots}
    with Reader(vault.store, vault.keys, None) as reader:
        for snapshot in snapshots:
            if snapshot.id not in listed:
                continue  # of a head that is damaged; it is not there, which is not wrong
            for name in ("a", "b", "c"):
                try:
                    node = node_named(vault, snapshot, place / "docs" / name)
                    if node.content.form is Form.SMALL:
                        data = bytes(reader.piece_untrusted(Kind.SMALL_FILE, node.content.data))
                    else:
                        extents = reader.extents_untrusted(node.content)
                        data = b"".join(reader.piece_untrusted(Kind.CUT, e.tag) for e in extents)
                except (PortalError, IndexError):
                    continue
                found[snapshot.id, name] = data
    return found


@pytest.mark.parametrize("kind", ["config", "newest", "oldest", "pack", "large pack", "delta"])
@pytest.mark.parametrize(
    "step",
    [pytest.param(1 / 6, marks=pytest.mark.slow), pytest.param(1 / 100, marks=pytest.mark.deep)],
)
def test_flips_and_cuts_anywhere_never_give_other_data(tmp_path, kind, step):
    vault, first, second = two_snapshots(tmp_path)
    path = every_kind(vault)[kind]
    whole, right = path.read_bytes(), contents(tmp_path, [first, second])
    assert len(right) == 4
    stride = max(1, int(len(whole) * step))
    for at in [*range(0, len(whole), stride), len(whole) - 1]:
        for damage in (lambda at: flip(path, at), lambda at: path.write_bytes(whole[:at])):
            damage(at)
            with suppress(PortalError):
                found = contents(tmp_path, [first, second])
                assert found.items() <= right.items()
            path.write_bytes(whole)
    assert contents(tmp_path, [first, second]) == right


@pytest.mark.parametrize("kind", ["config", "newest", "oldest", "pack", "delta"])
@pytest.mark.parametrize(
    "step",
    [pytest.param(1 / 6, marks=pytest.mark.slow), pytest.param(1 / 200, marks=pytest.mark.deep)],
)
def test_flips_and_cuts_anywhere_are_found_and_named(tmp_path, kind, step):
    vault, _, _ = two_snapshots(tmp_path)
    path = every_kind(vault)[kind]
    whole = path.read_bytes()
    stride = max(1, int(len(whole) * step))
    for at in [*range(0, len(whole), stride), len(whole) - 1]:
        flip(path, at)
        checked = run_check(vault)
        assert checked.exit_code in {5, 6}, f"byte {at} flipped"
        assert str(path) in {finding.where for finding in checked.findings}, f"byte {at}"
        path.write_bytes(whole[:at])
        checked = run_check(vault)
        assert checked.exit_code in {5, 6}, f"cut to {at}"
        assert str(path) in {finding.where for finding in checked.findings}, f"cut to {at}"
        path.write_bytes(whole)
    assert run_check(vault).exit_code == 0


@pytest.mark.parametrize("folder", ["packs", "heads"])
def test_swapped_files_are_found(tmp_path, folder):
    vault, _, _ = two_snapshots(tmp_path)
    one, two = sorted((vault.store.path / folder).iterdir())[:2]
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    checked = run_check(vault)
    assert checked.exit_code in {5, 6}
    assert {str(one), str(two)} <= {finding.where for finding in checked.findings}


def test_a_file_of_another_vault_is_found(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    (tmp_path / "other").mkdir()
    other = a_vault(tmp_path / "other", seed="somebody else")
    back_up(other, tmp_path / "docs")
    for folder in ("packs", "index", "heads"):
        source = min((other.store.path / folder).iterdir())
        target = max((vault.store.path / folder).iterdir())
        whole = target.read_bytes()
        target.write_bytes(source.read_bytes())
        checked = run_check(vault)
        assert checked.exit_code in {5, 6}
        assert str(target) in {finding.where for finding in checked.findings}
        target.write_bytes(whole)
    assert run_check(vault).exit_code == 0


def test_findings_about_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "AFFECTED_TOLD_MAX", 3)
    vault = a_vault(tmp_path)
    docs = files(tmp_path / "docs", **{f"f{n}": fixed(str(n), 9_000) for n in range(10)})
    snapshot = back_up(vault, docs)
    node = node_named(vault, snapshot, docs / "f1")
    place = pack_with(vault, Kind.SMALL_FILE, node.content.data)
    flip(vault.store.path / "packs" / place.pack.hex(), 5_000)
    checked = run_check(vault)
    assert (len(checked.affected), checked.affected_count) == (3, 10)


def test_sessions_and_leftovers_are_counted(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    (vault.store.path / "packs" / ".tmp-dead-1").write_bytes(b"half")
    with vault.reader():
        checked = run_check(vault, Options())
    assert (checked.sessions, checked.leftovers, checked.exit_code) == (1, 1, 0)
    run_gc(vault, NOW_S + DAY_S)
    assert run_check(vault, Options()).exit_code == 0
