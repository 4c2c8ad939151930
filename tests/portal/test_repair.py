"""Mending: nothing is deleted, what can be saved is saved, what is lost comes back if it can."""

from dataclasses import replace
from functools import partial

import pytest
import trio

from core import limits
from core.pieces import Kind
from portal.errors import NoVault
from portal.forget import forget
from portal.reader import Reader
from portal.repair import repair
from portal.session import Session
from tests.support.keeping import (
    DAY_S,
    NOW_S,
    STRUCTURE,
    assert_whole,
    files,
    flip,
    node_named,
    run_check,
    run_gc,
    two_snapshots,
)
from tests.support.mortal import Killed, MortalDisk
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed, opened


def run_repair(vault, checked=None, **options):
    checked = checked or run_check(vault)
    return trio.run(partial(repair, vault, checked, NOW_S, **options))


def pack_path(vault, kind, tag):
    with Reader(vault.store, vault.keys, None) as reader:
        return vault.store.path / "packs" / reader.place_untrusted(kind, tag).pack.hex()


def damaged_bytes(vault):
    folder = vault.store.path / "damaged"
    return sorted(p.read_bytes() for p in folder.iterdir()) if folder.exists() else []


def lost_file(tmp_path):
    """Ten small files in one bundle, one large; a bit of the bundle is flipped."""
    vault = a_vault(tmp_path)
    docs = files(tmp_path / "docs", **{f"f{n}": fixed(str(n), 9_000) for n in range(10)})
    files(docs, large=fixed("large", 700_000))
    snapshot = back_up(vault, docs)
    tag = node_named(vault, snapshot, docs / "f3").content.data
    path = pack_path(vault, Kind.SMALL_FILE, tag)
    with Reader(vault.store, vault.keys, None) as reader:
        place = reader.place_untrusted(Kind.SMALL_FILE, tag)
        row = reader.pack_untrusted(place.pack).index.chunks[place.chunk]
    flip(path, row.offset + 500)
    return vault, docs, snapshot, path


def test_a_vault_that_is_whole_is_left_alone(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    before = {p: p.read_bytes() for p in vault.store.path.rglob("*") if p.is_file()}
    done = run_repair(vault)
    assert not done.set_aside
    assert {p: p.read_bytes() for p in vault.store.path.rglob("*") if p.is_file()} == before


def test_a_damaged_delta_is_made_again_from_the_packs(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    delta = min((vault.store.path / "index").iterdir())
    flip(delta, 60)
    bad = delta.read_bytes()
    assert run_check(vault).exit_code == 5
    run_repair(vault)
    assert damaged_bytes(vault) == [bad]
    checked = run_check(vault)
    assert (checked.exit_code, checked.unlisted_packs, checked.set_aside) == (0, 0, 1)
    assert run_gc(vault).plan.is_empty


def test_a_damaged_configuration_is_written_again(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    flip(vault.store.path / "config", 70)
    assert run_check(vault).exit_code == 5
    run_repair(vault)
    assert run_check(vault).exit_code == 0
    assert opened(tmp_path).head() == vault.head()
    (vault.store.path / "config").unlink()
    with pytest.raises(NoVault):
        opened(tmp_path)


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_snapshots_of_a_lost_head_are_found_in_the_packs(tmp_path, how):
    vault, first, second = two_snapshots(tmp_path)
    newest = vault.store.head_path(vault.store.head_places()[0])
    if how == "flipped":
        flip(newest, 200)
    else:
        run_gc_of_nothing = vault.change(lambda head: replace(head, trash_gen=1))
        newest.unlink()
        vault.store.head_path(run_gc_of_nothing.place).unlink()
        (vault.store.path / "trash" / f"{1:016x}-{NOW_S:012x}").mkdir()
        with vault.store.commit_lock():
            vault.store.move_to_trash(sorted(vault.store.pack_names())[:1], 1, NOW_S)
    assert [s.id for s in vault.head().live] == [first.id]
    done = run_repair(vault)
    assert [s.id for s in done.found] == [second.id]
    assert [s.id for s in assert_whole(vault)] == [first.id, second.id]
    assert vault.head().trash_gen >= (1 if how == "flipped" else 2)
    assert run_check(vault).exit_code == 0


def test_what_is_readable_of_a_damaged_pack_is_saved(tmp_path):
    vault, docs, snapshot, path = lost_file(tmp_path)
    bad = path.read_bytes()
    checked = run_check(vault)
    assert checked.exit_code == 6
    lost = {p for _, p in checked.affected}
    assert bytes(docs / "large")[1:] not in lost
    done = run_repair(vault, checked)
    assert done.saved_packs > 0
    assert damaged_bytes(vault) == [bad]
    after = run_check(vault)
    assert after.exit_code == 6  # the snapshot stays, for what is left of it
    assert {p for _, p in after.affected} == lost
    assert [s.id for s in vault.head().live] == [snapshot.id]
    with Reader(vault.store, vault.keys, None) as reader:
        node = node_named(vault, snapshot, docs / "large")
        data = b"".join(
            reader.piece_untrusted(Kind.CUT, e.tag) for e in reader.extents_untrusted(node.content)
        )
    assert data == (docs / "large").read_bytes()


@pytest.mark.parametrize("has_delta", [True, False])
def test_the_next_backup_brings_back_what_still_exists(tmp_path, has_delta):
    vault, docs, snapshot, path = lost_file(tmp_path)
    if not has_delta:
        flip(path, 40)  # the header: without its delta, nothing of this pack is known any more
        for delta in vault.store.delta_names():
            (vault.store.path / "index" / delta).unlink()
    run_repair(vault)
    tag = node_named(vault, snapshot, docs / "f3").content.data if has_delta else None
    with Session(vault) as session:
        assert not session.is_whole
        assert tag is None or not session.holds(Kind.SMALL_FILE, tag)
    again = back_up(vault, docs, now_ns=NOW_NS + 10**9)
    if (
        not has_delta
    ):  # directories of the old one went with the pack; they are no more as they were
        forget(vault, [snapshot.id], NOW_S)
    # Else both are whole now: what the old one lost is what the new one stored.
    whole = [snapshot.id, again.id] if has_delta else [again.id]
    assert [s.id for s in assert_whole(vault)] == whole
    assert run_check(vault).exit_code == 0
    run_gc(vault)
    with Session(vault) as session:
        assert session.is_whole
    assert run_check(vault).exit_code == 0


@pytest.mark.slow
def test_a_loss_is_remembered_however_many_other_backups_come_first(tmp_path):
    vault, docs, _, _ = lost_file(tmp_path)
    run_repair(vault)
    other = tmp_path / "other"
    for n in range(limits.DELTAS_MAX + 2):  # so that deltas are merged, and cached anew
        back_up(vault, files(other, a=b"%d" % n), now_ns=NOW_NS + n)
        with Session(vault) as session:
            assert not session.is_whole
    back_up(vault, docs, now_ns=NOW_NS + 10**9)
    assert len(assert_whole(vault)) == limits.DELTAS_MAX + 4


def test_lost_files_can_be_left_out(tmp_path):
    vault, docs, snapshot, _ = lost_file(tmp_path)
    done = run_repair(vault, leave_out=True)
    (one,) = done.rewritten
    assert one.old.id == snapshot.id
    assert one.dropped == 10
    assert [s.id for s in assert_whole(vault)] == [one.new.id]
    assert one.new.record.totals.files == 1
    assert one.new.record.errors_count == 10
    assert (bytes(docs / "f3")[1:], "its content was lost") in one.new.record.errors
    assert not vault.head().snapshots[0].is_live or not vault.head().snapshots[1].is_live
    assert run_check(vault).exit_code == 0
    run_gc(vault)
    assert [s.id for s in assert_whole(vault)] == [one.new.id]


def test_a_needed_pack_comes_back_from_the_trash(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    with vault.store.commit_lock():
        vault.store.move_to_trash(vault.store.pack_names(), 0, NOW_S)
    assert run_check(vault, STRUCTURE).exit_code == 5
    run_repair(vault, run_check(vault, STRUCTURE))
    assert [s.id for s in assert_whole(vault)] == [first.id, second.id]
    assert run_check(vault).exit_code == 0


def test_a_damaged_pack_in_the_trash_is_set_aside(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    run_gc(vault)
    (path,) = vault.store.path.glob("trash/*/*")
    flip(path, 9_000)
    assert run_check(vault).exit_code == 5
    run_repair(vault)
    assert run_check(vault).exit_code == 0
    run_gc(vault, NOW_S + 8 * DAY_S)
    assert run_check(vault).exit_code == 0


def lost_content_and_head(place):
    vault, docs, _, _ = lost_file(place)
    (docs / "f3").write_bytes(b"new")
    back_up(vault, docs, now_ns=NOW_NS + 10**9)
    newest = vault.store.head_path(vault.store.head_places()[0])
    flip(newest, 200)
    flip(min((vault.store.path / "index").iterdir()), 60)
    return vault, docs


@pytest.mark.parametrize(
    "step", [pytest.param(4, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.deep)]
)
def test_killed_at_any_step_it_can_be_done_again(tmp_path, step):
    dies_at = 0
    while True:
        place = tmp_path / str(dies_at)
        place.mkdir()
        vault, docs = lost_content_and_head(place)
        whole = sum(1 for p in vault.store.path.rglob("*") if p.is_file())
        disk = MortalDisk(dies_at)
        try:
            run_repair(opened(place, disk=disk), run_check(vault))
        except (Killed, BaseExceptionGroup):
            assert disk.is_dead
        assert sum(1 for p in vault.store.path.rglob("*") if p.is_file()) >= whole
        run_repair(vault)
        back_up(vault, docs, now_ns=NOW_NS + 2 * 10**9)
        (docs / "f3").write_bytes(fixed("3", 9_000))
        back_up(vault, docs, now_ns=NOW_NS + 3 * 10**9)
        assert len(assert_whole(vault)) == 4
        assert run_check(vault).exit_code == 0
        if not disk.is_dead:
            break
        dies_at += step
    assert dies_at > 20
