"""Snapshots made from others: what goes is gone, what stays is the same piece."""

from dataclasses import replace
from functools import partial

import pytest
import trio

from portal.errors import NoSnapshot
from portal.forget import forget
from portal.reader import Reader
from portal.rewrite import Edit, rewrite
from tests.support.keeping import NOW_S, assert_whole, files, node_named, run_check, run_gc
from tests.support.vaults import a_vault, back_up, fixed


def run_rewrite(vault, snapshots, edit):
    return trio.run(partial(rewrite, vault, snapshots, edit, NOW_S))


def paths_in(vault, snapshot):
    found, waiting = {}, [(snapshot.record.root, b"")]
    with Reader(vault.store, vault.keys, None) as reader:
        while waiting:
            for node in reader.nodes_untrusted(*waiting.pop()):
                found[node.entry.path] = node
                if node.entry.type == 2:
                    waiting.append((node.content, node.entry.path))
    return found


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


@pytest.fixture
def docs(tmp_path):
    docs = files(tmp_path / "docs", a=fixed("a", 9_000), b=fixed("b", 800_000))
    files(docs / "in", secret=b"secret", other=b"other")
    files(docs / "in" / "deep", more=b"more")
    files(docs / "still", same=b"same")
    return docs


def dropping(*paths):
    names = {bytes(path)[1:] for path in paths}
    return lambda _snapshot, node: node.entry.path in names


def test_a_dropped_file_is_gone_and_all_else_the_same(vault, docs):
    old = back_up(vault, docs, tags=("x",))
    (done,) = run_rewrite(vault, [old], Edit(drop=dropping(docs / "in" / "secret")))
    assert done.dropped == 1
    before, after = paths_in(vault, old), paths_in(vault, done.new)
    assert before.keys() - after.keys() == {bytes(docs / "in" / "secret")[1:]}
    changed = {path for path in after if after[path] != before[path]}
    above = bytes(docs / "in")[1:]
    assert changed == {
        above[:at] for at in range(len(above) + 1) if above[at : at + 1] in {b"/", b""}
    }
    assert after[bytes(docs / "still")[1:]].content == before[bytes(docs / "still")[1:]].content
    assert [s.id for s in assert_whole(vault)] == sorted([old.id, done.new.id])
    assert done.new.tags == ("x",)
    totals = done.new.record.totals
    assert totals.files == old.record.totals.files - 1
    assert totals.content_bytes == old.record.totals.content_bytes - len(b"secret")
    assert done.new.record.errors_count == 0


def test_a_dropped_directory_goes_with_everything_below(vault, docs):
    old = back_up(vault, docs)
    (done,) = run_rewrite(vault, [old], Edit(drop=dropping(docs / "in")))
    assert done.dropped == 5
    assert done.new.record.totals.files == old.record.totals.files - 3
    assert done.new.record.totals.directories == old.record.totals.directories - 2
    assert not [path for path in paths_in(vault, done.new) if b"/in" in path]


def test_nothing_dropped_is_nothing_done(vault, docs):
    old = back_up(vault, docs)
    head = vault.head()
    (done,) = run_rewrite(vault, [old], Edit(drop=dropping(docs / "not there")))
    assert done.new is done.old
    assert vault.head() == head


def test_another_host_is_another_record_of_the_same_tree(vault, docs):
    old = back_up(vault, docs)
    (done,) = run_rewrite(vault, [old], Edit(host="new host", user="eve", forget=True))
    assert (done.new.record.host, done.new.record.user) == ("new host", "eve")
    assert done.new.record.root == old.record.root
    assert done.new.record.totals == old.record.totals
    assert [s.id for s in assert_whole(vault)] == [done.new.id]
    assert [s.id for s in vault.head().snapshots if not s.is_live] == [old.id]


def test_what_was_dropped_everywhere_is_collected(vault, docs):
    snapshots = [back_up(vault, docs)]
    (docs / "a").write_bytes(b"other")
    snapshots.append(back_up(vault, docs, now_ns=snapshots[0].record.time_ns + 10**9))
    made = run_rewrite(vault, snapshots, Edit(drop=dropping(docs / "b"), forget=True))
    assert len(made) == 2
    assert node_named(vault, snapshots[0], docs / "b").entry.size == 800_000
    run_gc(vault, now=True)
    assert len(assert_whole(vault)) == 2
    assert sum(map(vault.store.pack_bytes, vault.store.pack_names())) < 800_000
    assert run_check(vault).exit_code == 0


def test_what_is_dropped_for_a_reason_is_told_in_the_new_snapshot(vault, docs):
    old = back_up(vault, docs)
    edit = Edit(drop=dropping(docs / "a"), why="its content was lost")
    (done,) = run_rewrite(vault, [old], edit)
    assert done.new.record.errors == ((bytes(docs / "a")[1:], "its content was lost"),)
    assert done.new.record.errors_count == 1


def test_made_again_after_it_was_forgotten_it_lives_again(vault, docs):
    old = back_up(vault, docs)
    edit = Edit(drop=dropping(docs / "a"))
    (done,) = run_rewrite(vault, [old], edit)
    forget(vault, [done.new.id], NOW_S)
    run_gc(vault)
    run_rewrite(vault, [old], edit)
    assert {s.id for s in assert_whole(vault)} == {old.id, done.new.id}
    assert len(vault.head().snapshots) == 2


def test_what_was_forgotten_meanwhile_is_not_made_again(vault, docs):
    chosen, other = back_up(vault, docs), back_up(vault, docs / "in")
    forget(vault, [chosen.id], NOW_S)
    run_gc(vault, allow_large=True)
    before, packs = vault.head(), vault.store.pack_names()
    with pytest.raises(NoSnapshot, match=chosen.id.hex()[:8]):
        run_rewrite(vault, [other, chosen], Edit(host="another"))
    assert (vault.head(), vault.store.pack_names()) == (before, packs)
    assert [s.id for s in assert_whole(vault)] == [other.id]


def test_a_pinned_snapshot_is_not_forgotten_for_the_new_one(vault, docs):
    old = back_up(vault, docs)
    vault.change(lambda head: head.with_snapshots([replace(old, pinned=True)]))
    (pinned,) = vault.head().live
    (done,) = run_rewrite(vault, [pinned], Edit(host="other", forget=True))
    assert {s.id for s in assert_whole(vault)} == {old.id, done.new.id}
    assert done.new.pinned
