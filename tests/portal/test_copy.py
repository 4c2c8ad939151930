"""Copies: the same content under other keys, once."""

from functools import partial

import pytest
import trio

from core.errors import PortalError
from core.pieces import Kind
from portal.copy import as_copied, copy
from portal.forget import forget
from portal.reader import Reader
from tests.support.keeping import (
    NOW_S,
    assert_whole,
    files,
    flip,
    node_named,
    run_check,
    run_gc,
    two_snapshots,
)
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed


def run_copy(source, snapshots, target):
    return trio.run(partial(copy, source, snapshots, target))


def other_vault(tmp_path):
    (tmp_path / "other").mkdir(exist_ok=True)
    return a_vault(tmp_path / "other", seed="somebody else")


def contents(vault, snapshot, docs, names):
    found = {}
    with Reader(vault.store, vault.keys, None) as reader:
        for name in names:
            content = node_named(vault, snapshot, docs / name).content
            if len(content.data) == 32:
                found[name] = bytes(reader.piece_untrusted(Kind.SMALL_FILE, content.data))
            else:
                extents = reader.extents_untrusted(content)
                found[name] = b"".join(reader.piece_untrusted(Kind.CUT, e.tag) for e in extents)
    return found


def test_a_copy_has_every_byte_and_none_in_the_same_place(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    target = other_vault(tmp_path)
    done = run_copy(vault, [first, second], target)
    assert [s.id for s in assert_whole(target)] == [s.id for s in done.added]
    assert [s.record.root for s in target.head().live] == [first.record.root, second.record.root]
    assert [s.record.parent for s in target.head().live] == [b"", b""]
    assert run_check(target).exit_code == 0
    docs = tmp_path / "docs"
    assert contents(target, done.added[0], docs, "ab") == {
        "a": fixed("a", 700_000),
        "b": fixed("b", 600_000),
    }
    ours = {
        bytes(p.read_bytes()[at : at + 64])
        for p in (vault.store.path / "packs").iterdir()
        for at in (0, 108, 1_000)
    }
    for path in (target.store.path / "packs").iterdir():
        data = path.read_bytes()
        assert not any(piece in data for piece in ours)


def test_copying_again_adds_nothing(tmp_path):
    vault, first, second = two_snapshots(tmp_path)
    target = other_vault(tmp_path)
    run_copy(vault, [first], target)
    packs, head = target.store.pack_names(), target.head()
    again = run_copy(vault, [first], target)
    assert (again.added, again.pieces, again.stored_bytes) == ([], 0, 0)
    assert [s.id for s in again.known] == [as_copied(first).id]
    assert (target.store.pack_names(), target.head()) == (packs, head)
    more = run_copy(vault, [first, second], target)
    assert [s.id for s in more.added] == [as_copied(second).id]
    assert more.piece_bytes < 10_000  # one small file, some directories
    assert len(assert_whole(target)) == 2


def test_what_the_other_vault_backed_up_itself_is_not_copied(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    target = other_vault(tmp_path)
    back_up(target, files(tmp_path / "their docs", **{"of theirs": fixed("a", 100)}))
    whole = run_copy(vault, [first], target).piece_bytes
    assert whole > 1_300_000
    third = a_vault(tmp_path / "third", seed="person")
    files(tmp_path / "docs", a=fixed("a", 700_000), b=fixed("b", 600_000))
    back_up(third, tmp_path / "docs")
    assert run_copy(vault, [first], third).piece_bytes < 10_000


def test_a_copy_that_was_forgotten_there_becomes_live_again(tmp_path):
    vault, first, _ = two_snapshots(tmp_path)
    target = other_vault(tmp_path)
    (copied,) = run_copy(vault, [first], target).added
    forget(target, [copied.id], NOW_S)
    run_gc(target)
    run_copy(vault, [first], target)
    assert [s.id for s in assert_whole(target)] == [copied.id]
    assert len(target.head().snapshots) == 1


def test_tags_and_pins_go_with_it(tmp_path):
    vault = a_vault(tmp_path)
    snapshot = back_up(vault, files(tmp_path / "docs", a=b"a"), tags=("one", "two"))
    target = other_vault(tmp_path)
    run_copy(vault, [snapshot], target)
    assert target.head().live[0].tags == ("one", "two")


def test_damage_is_never_copied(tmp_path):
    vault = a_vault(tmp_path)
    docs = files(tmp_path / "docs", a=fixed("a", 60_000))
    snapshot = back_up(vault, docs, now_ns=NOW_NS)
    (name,) = vault.store.pack_names()
    flip(vault.store.path / "packs" / name.hex(), 20_000)
    target = other_vault(tmp_path)
    with pytest.raises((PortalError, BaseExceptionGroup)):
        run_copy(vault, [snapshot], target)
    assert not target.head().snapshots
    assert run_check(target).exit_code == 0
