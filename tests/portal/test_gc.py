"""Collecting garbage: only what nobody needs goes, and nothing goes in doubt."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from core import limits
from portal.errors import Moved
from portal.forget import forget, undelete
from portal.gc import Doubt, TooMuch
from portal.reader import Reader
from tests.support.keeping import DAY_S, NOW_S, assert_whole, files, run_gc, two_snapshots
from tests.support.mortal import Killed, MortalDisk
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed, opened


def test_a_collection_of_a_vault_in_full_use_does_nothing(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    head, packs = vault.head(), vault.store.pack_names()
    done = run_gc(vault)
    assert done.plan.is_empty
    assert vault.head() == head
    assert vault.store.pack_names() == packs


def test_what_only_forgotten_snapshots_need_goes_to_the_trash_then_away(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    before = vault.store.pack_names()
    forget(vault, [first.id], NOW_S)
    done = run_gc(vault, NOW_S + 5)
    assert done.trashed_packs > 0
    assert done.later == ((NOW_S + 5 + 7 * DAY_S, done.trashed_bytes),)
    assert vault.head().trash_gen == 1
    assert set(vault.store.trashed()) == before - vault.store.pack_names()
    assert [s.id for s in assert_whole(vault)] == [second.id]
    early = run_gc(vault, NOW_S + 7 * DAY_S - 1)
    assert (early.purged_packs, early.dropped) == (0, ())
    late = run_gc(vault, NOW_S + 5 + 7 * DAY_S)
    assert late.purged_bytes == done.trashed_bytes
    assert [s.id for s in late.dropped] == [first.id]
    assert [s.id for s in vault.head().snapshots] == [second.id]
    assert not list((vault.store.path / "trash").iterdir())
    assert_whole(vault)


def test_undelete_brings_everything_back(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    run_gc(vault)
    assert [s.id for s in undelete(vault)] == [first.id]
    assert [s.id for s in assert_whole(vault)] == [first.id, second.id]
    run_gc(vault, NOW_S + 365 * DAY_S)
    assert [s.id for s in assert_whole(vault)] == [first.id, second.id]


def test_a_dry_run_tells_and_touches_nothing(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    before = {p: p.read_bytes() for p in vault.store.path.rglob("*") if p.is_file()}
    done = run_gc(vault, dry_run=True)
    assert done.plan.trash_bytes > 0
    assert {p: p.read_bytes() for p in vault.store.path.rglob("*") if p.is_file()} == before


def test_now_purges_at_once_and_drops_what_was_forgotten(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    done = run_gc(vault, now=True)
    assert done.purged_packs == done.trashed_packs > 0
    assert [s.id for s in vault.head().snapshots] == [second.id]
    assert not vault.store.trashed()
    assert_whole(vault)


def test_a_running_command_is_never_robbed_even_now(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    with vault.reader() as reader:
        done = run_gc(vault, NOW_S + 365 * DAY_S, now=True)
        assert done.trashed_packs > 0
        assert (done.purged_packs, done.waiting_packs) == (0, done.trashed_packs)
        assert reader.nodes_untrusted(first.record.root, b"")
    done = run_gc(vault, NOW_S + 373 * DAY_S)
    assert done.purged_packs > 0
    assert [s.id for s in assert_whole(vault)] == [second.id]


def test_a_clock_that_was_ahead_leaves_no_snapshot_without_its_packs(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S + 365 * DAY_S)
    run_gc(vault, NOW_S)
    assert [s.id for s in vault.head().snapshots] == [first.id, second.id]
    done = run_gc(vault, NOW_S + 8 * DAY_S)
    assert done.purged_packs > 0
    assert [s.id for s in done.dropped] == [first.id]
    assert [s.id for s in vault.head().snapshots] == [second.id]


def test_what_was_in_the_trash_before_drops_no_snapshot_forgotten_since(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    run_gc(vault, NOW_S)
    forget(vault, [second.id], NOW_S + 7 * DAY_S)
    done = run_gc(vault, NOW_S + 7 * DAY_S)
    assert done.purged_packs > 0
    assert [s.id for s in done.dropped] == [first.id]
    assert [s.id for s in undelete(vault)] == [second.id]
    assert_whole(vault)


def test_mostly_dead_packs_are_packed_again(tmp_path):
    vault = a_vault(tmp_path)
    docs = tmp_path / "docs"
    files(docs, **{f"f{n}": fixed(str(n), 40_000) for n in range(20)})
    first = back_up(vault, docs)
    for n in range(15):
        (docs / f"f{n}").unlink()
    second = back_up(vault, docs, now_ns=NOW_NS + 10**9)
    old = vault.store.pack_names()
    forget(vault, [first.id], NOW_S)
    done = run_gc(vault)
    assert done.plan.repack
    assert done.repacked_bytes > 0
    assert vault.store.pack_names() - old
    assert [s.id for s in assert_whole(vault)] == [second.id]
    assert sum(map(vault.store.pack_bytes, vault.store.pack_names())) == 2 * 256 * 1024
    assert run_gc(vault).plan.is_empty
    # The old packs were not purged: the forgotten snapshot can still be brought back.
    undelete(vault)
    assert_whole(vault)


def test_little_waste_is_left_where_it_is(tmp_path):
    vault = a_vault(tmp_path)
    docs = files(tmp_path / "docs", **{f"f{n}": fixed(str(n), 40_000) for n in range(20)})
    first = back_up(vault, docs)
    (docs / "f0").unlink()
    back_up(vault, docs, now_ns=NOW_NS + 10**9)
    forget(vault, [first.id], NOW_S)
    assert not run_gc(vault, unused_percent_max=50.0).plan.repack
    assert run_gc(vault, unused_percent_max=1.0).plan.repack


@pytest.mark.slow
def test_small_packs_of_many_runs_become_large_ones(tmp_path):
    vault = a_vault(tmp_path)
    docs = tmp_path / "docs"
    for n in range(21):
        back_up(vault, files(docs, **{f"f{n}": fixed(str(n), 1_000_000)}), now_ns=NOW_NS + n)
    sizes = [vault.store.pack_bytes(name) for name in vault.store.pack_names()]
    assert limits.PACK_SIZES_BYTES[-1] not in sizes
    done = run_gc(vault)
    sizes = [vault.store.pack_bytes(name) for name in vault.store.pack_names()]
    assert limits.PACK_SIZES_BYTES[-1] in sizes
    assert done.trashed_packs > len(sizes)
    assert len(assert_whole(vault)) == 21


# --- doubts -----------------------------------------------------------------------------------


def everything(vault):
    return {p: p.read_bytes() for p in vault.store.path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("folder", ["heads", "index", "packs"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_any_doubt_stops_it_before_it_touches_anything(tmp_path, folder, how):
    vault, first, _ = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    if folder == "packs":  # of a pack that is needed, and that no delta vouches for
        for delta in vault.store.delta_names():
            (vault.store.path / "index" / delta).unlink()
        with Reader(vault.store, vault.keys, None) as reader:
            tag = vault.head().live[0].record.root.data
            name = reader._index.find(4, tag).pack.hex()
    else:
        name = max(p.name for p in (vault.store.path / folder).iterdir())
    path = vault.store.path / folder / name
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[:-1])
    else:
        data[50] ^= 1
        path.write_bytes(data)
    before = everything(vault)
    if how == "gone" and folder in {"heads", "index"}:
        # An older head lists more snapshots, a lost delta is made up for by the packs: no doubt.
        run_gc(vault, dry_run=True)
    else:
        with pytest.raises(Doubt):
            run_gc(vault, now=True)
    assert everything(vault) == before


def test_a_head_that_went_missing_after_a_collection_is_a_doubt(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    run_gc(vault)
    vault.store.head_path(vault.store.head_places()[0]).unlink()
    with pytest.raises(Doubt, match="a head is missing"):
        run_gc(vault)


def test_most_of_a_vault_goes_only_if_it_was_forgotten(tmp_path):
    vault, _, second = two_snapshots(tmp_path)
    vault.change(lambda head: head.with_snapshots([s for s in head.snapshots if s.id == second.id]))
    # That went without being forgotten, but less than half of the vault is left unexplained.
    assert run_gc(vault).plan.lost_bytes > 590_000
    vault.change(lambda head: head.with_snapshots([]))
    packs = vault.store.pack_names()
    assert run_gc(vault, dry_run=True).too_much is not None
    assert run_gc(vault, dry_run=True, allow_large=True).too_much is None
    with pytest.raises(TooMuch):
        run_gc(vault)
    assert vault.store.pack_names() == packs
    vault.change(lambda head: head.with_snapshots([replace(second, forgotten_s=NOW_S)]))
    assert run_gc(vault).trashed_packs > 0


def test_large_losses_can_be_allowed(tmp_path):
    vault, _, _ = two_snapshots(tmp_path)
    vault.change(lambda head: head.with_snapshots([]))
    assert run_gc(vault, allow_large=True).trashed_packs > 0
    assert not vault.store.pack_names()


# --- others at work ---------------------------------------------------------------------------


def during_survey(monkeypatch, what):
    """Do something right after the survey, before anything is locked."""
    from portal import gc

    plan = gc.plan_collection

    def and_then(*args):
        made = plan(*args)
        monkeypatch.undo()
        with ThreadPoolExecutor(1) as elsewhere:  # as another process would
            elsewhere.submit(what).result()
        return made

    monkeypatch.setattr(gc, "plan_collection", and_then)


def test_a_backup_committed_meanwhile_keeps_what_it_needs(tmp_path, monkeypatch):
    vault, first, second = two_snapshots(tmp_path)
    docs = tmp_path / "docs"
    forget(vault, [first.id], NOW_S)
    made = []

    def other():
        files(docs, b=fixed("b", 600_000), d=b"new")
        made.append(back_up(opened(tmp_path), docs, now_ns=NOW_NS + 2 * 10**9))

    during_survey(monkeypatch, other)
    run_gc(vault, now=True)
    assert [s.id for s in assert_whole(vault)] == [second.id, made[0].id]


def test_a_snapshot_brought_back_meanwhile_keeps_what_it_needs(tmp_path, monkeypatch):
    vault, first, second = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    during_survey(monkeypatch, lambda: undelete(opened(tmp_path)))
    run_gc(vault, now=True)
    assert [s.id for s in assert_whole(vault)] == [first.id, second.id]


def test_of_two_collections_at_once_one_gives_way(tmp_path, monkeypatch):
    vault, first, second = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)

    during_survey(monkeypatch, lambda: run_gc(opened(tmp_path)))
    with pytest.raises(Moved):
        run_gc(vault)
    assert [s.id for s in assert_whole(vault)] == [second.id]


# --- killed -----------------------------------------------------------------------------------


def kill_everywhere(tmp_path, prepare, *, step, **options):
    """Kill a collection before each of its disk operations, then look, then collect again."""
    dies_at = 0
    while True:
        place = tmp_path / str(dies_at)
        place.mkdir()
        prepare(place)
        disk = MortalDisk(dies_at)
        try:
            run_gc(opened(place, disk=disk), NOW_S + 8 * DAY_S, **options)
        except (Killed, BaseExceptionGroup):
            assert disk.is_dead
        vault = opened(place)
        assert len(assert_whole(vault)) == 1
        run_gc(vault, NOW_S + 8 * DAY_S, **options)
        assert len(assert_whole(vault)) == 1
        assert run_gc(vault, NOW_S + 8 * DAY_S, **options).plan.is_empty
        assert not [p for p in vault.store.path.rglob("*") if p.name.startswith(".tmp-")]
        if not disk.is_dead:
            return dies_at
        dies_at += step


def forgotten_and_half_dead(place):
    vault = a_vault(place)
    docs = place / "docs"
    files(docs, **{f"f{n}": fixed(str(n), 40_000) for n in range(9)})
    first = back_up(vault, docs)
    for n in range(7):
        (docs / f"f{n}").unlink()
    back_up(vault, docs, now_ns=NOW_NS + 10**9)
    forget(vault, [first.id], NOW_S)


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize(
    "step", [pytest.param(3, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.deep)]
)
def test_killed_at_any_step_it_leaves_a_vault_that_is_whole(tmp_path, now, step):
    assert kill_everywhere(tmp_path, forgotten_and_half_dead, step=step, now=now) > 20


def test_sizes_in_a_plan_add_up(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    plan = run_gc(vault, dry_run=True).plan
    assert sum(size for _, size in plan.later) == plan.trash_bytes
    assert plan.lost_bytes <= plan.filled_bytes
    json.dumps(plan.later)
