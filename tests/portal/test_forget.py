"""Forgetting: reversible, all or nothing, never what is pinned."""

from dataclasses import replace

import pytest

from core.errors import IntegrityError
from portal.errors import NoSnapshot
from portal.forget import Pinned, forget, undelete
from tests.support.keeping import NOW_S, assert_whole, run_gc, two_snapshots


def test_forgotten_snapshots_stay_in_the_head_with_their_time(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    vault.change(lambda head: replace(head, trash_gen=4))
    head = forget(vault, [first.id], NOW_S)
    assert head == vault.head()
    old = head.snapshots[0]
    assert (old.id, old.forgotten_s, old.forgotten_gen) == (first.id, NOW_S, 4)
    assert [s.id for s in head.live] == [second.id]


def test_forgetting_again_does_not_make_it_later(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    assert forget(vault, [first.id], NOW_S + 99).snapshots[0].forgotten_s == NOW_S


def test_a_clock_at_zero_forgets_too(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    assert not forget(vault, [first.id], 0).snapshots[0].is_live


def test_what_is_pinned_stays_and_so_does_what_was_named_with_it(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    vault.change(
        lambda head: head.with_snapshots(
            [replace(s, pinned=s.id == second.id) for s in head.snapshots]
        )
    )
    before = vault.head()
    with pytest.raises(Pinned, match=second.name):
        forget(vault, [first.id, second.id], NOW_S)
    assert vault.head() == before


@pytest.mark.parametrize("do", [lambda v, i: forget(v, i, NOW_S), undelete])
def test_unknown_names_change_nothing(tmp_path, do):
    vault, first, _ = two_snapshots(tmp_path)
    before = vault.head()
    with pytest.raises(NoSnapshot):
        do(vault, [first.id, bytes(32)])
    assert vault.head() == before


def test_undelete_of_nothing_writes_nothing(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    before = vault.head()
    assert undelete(vault) == []
    assert undelete(vault, [first.id]) == []
    assert vault.head() == before


def test_undelete_takes_back_only_what_is_needed(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    packs = vault.store.pack_names()
    forget(vault, [first.id, second.id], NOW_S)
    run_gc(vault)
    assert set(vault.store.trashed()) == packs
    assert [s.id for s in undelete(vault, [first.id])] == [first.id]
    assert len(vault.store.trashed()) == 1  # what only the second needs
    assert [s.id for s in assert_whole(vault)] == [first.id]
    undelete(vault, [second.id])
    assert vault.store.pack_names() == packs
    assert len(assert_whole(vault)) == 2


def test_what_was_purged_is_not_promised(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    forget(vault, [first.id], NOW_S)
    run_gc(vault)
    vault.store.purge(set(vault.store.trashed()))
    before = vault.head()
    with pytest.raises(IntegrityError, match="cannot be brought back"):
        undelete(vault)
    assert vault.head() == before
    assert [s.id for s in assert_whole(vault)] == [second.id]
