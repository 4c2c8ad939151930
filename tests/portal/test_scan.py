import os
import socket
import tracemalloc

import pytest

from core import limits
from core.pieces import Kind
from core.tree.entry import EntryType
from core.tree.exclusion import Exclusion, Marker
from core.tree.exclusion import Options as Rules
from core.tree.source import Root
from portal import scan as module
from portal.index import open_delta_untrusted
from tests.support.privileges import unprivileged
from tests.support.strange_trees import deep_tree, strange_tree
from tests.support.trees import look
from tests.support.vaults import (
    LATER_NS,
    a_vault,
    back_up,
    contents_in,
    nodes_in,
)
from tests.support.watching import Listings, Run, grown


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


@pytest.fixture
def docs(tmp_path):
    made = tmp_path / "docs"
    made.mkdir()
    return made


@pytest.fixture
def listings(monkeypatch):
    made = Listings()
    monkeypatch.setattr(module, "list_directory", made)
    return made


@pytest.fixture
def run(vault, docs):
    return Run(vault, docs)


def new_pieces(vault, before, kind):
    """How many pieces of this kind the deltas since then speak of."""
    return sum(
        1
        for name in vault.store.delta_names() - before
        for facts in open_delta_untrusted(vault.store.read_delta(name), vault.keys)
        for piece in facts.decoded_untrusted().all_pieces()
        if piece.kind is kind
    )


# --- everything there is --------------------------------------------------------------------------


def assert_as_on_disk(vault, snapshot, root):
    base = bytes(root).lstrip(b"/")
    nodes, contents = nodes_in(vault, snapshot), contents_in(vault, snapshot)
    facts = {(base + b"/" + path if path else base): fact for path, fact in look(root).items()}
    above = {base[:i] for i, byte in enumerate(base) if byte == ord("/")}
    assert set(nodes) == set(facts) | above
    links = {}
    for path, fact in facts.items():
        entry, _, link = nodes[path]
        assert (entry.mode, entry.uid, entry.gid) == (fact.mode, fact.uid, fact.gid), path
        assert (entry.mtime_ns, entry.size) == (fact.mtime_ns, fact.size), path
        assert entry.target == fact.target
        assert os.makedev(*entry.rdev) == fact.rdev
        assert [(os.fsdecode(n), v) for n, v in entry.xattrs] == list(fact.xattrs), path
        if fact.names:
            links.setdefault(link, set()).add(path[len(base) + 1 :])
            assert links[link] <= fact.names
        else:
            assert link == b"", path
        if entry.type is EntryType.FILE:
            assert contents[path] == (root / os.fsdecode(path[len(base) + 1 :])).read_bytes()
    assert b"" not in links


@pytest.mark.slow
def test_a_tree_with_everything_in_it_again_and_again(vault, tmp_path):
    root = tmp_path / "strange"
    strange_tree(root)
    snapshots = []
    for run in range(3):
        if run == 2:
            (root / "folders" / "1" / "1" / "1.txt").write_bytes(b"new")
        snapshots.append(back_up(vault, root, now_ns=LATER_NS * 2 + run))
        assert_as_on_disk(vault, snapshots[-1], root)
    assert snapshots[0].record.root == snapshots[1].record.root != snapshots[2].record.root


def test_sockets_are_passed_over(run, docs):
    grown(docs)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(docs / "socket"))
        run()
        assert "socket" not in run.nodes()
        run()
    assert run.faults == []
    assert "a" in run.nodes()


@pytest.mark.slow
def test_a_directory_deeper_than_the_stack(run, docs):
    path = deep_tree(docs, 500)
    run()
    run()
    assert run.faults == []
    assert path + b"/z" in {k.encode() for k in run.contents()}
    assert len(run.contents()) == 500


@pytest.mark.slow
def test_a_huge_flat_directory_in_little_memory(run, docs, monkeypatch):
    monkeypatch.setattr(limits, "HEAD_BYTES_MAX", limits.MIB)  # a read reserves that much at once
    monkeypatch.setattr(limits, "DELTA_BYTES_MAX", limits.MIB)
    for n in range(50_000):
        os.close(os.open(docs / f"a file of number {n}", os.O_WRONLY | os.O_CREAT))
    tracemalloc.start()
    try:
        run()
        first = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        again = run()
        second = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert run.progress.files == 50_000
    assert again.record.root == run.vault.head().snapshots[0].record.root
    assert first < 30_000_000
    assert second < 20_000_000
    (docs / "a file of number 777").write_bytes(b"x")
    before = run.vault.store.delta_names()
    run()
    assert run.opened.count("a file of number 777") == 1
    assert run.progress.read_bytes == 1
    parts = new_pieces(run.vault, before, Kind.DIRECTORY) - bytes(docs).count(b"/")
    assert 0 <= parts <= 2


# --- what did not change --------------------------------------------------------------------------


def test_what_did_not_change_is_not_opened(run, docs):
    files = grown(docs)
    first = run()
    packs = run.vault.store.pack_names()
    second = run()
    assert not {name.rpartition("/")[2] for name in run.opened} & set("acefhl")
    assert run.progress.read_bytes == 0
    assert second.record.root == first.record.root
    assert run.vault.store.pack_names() == packs
    assert run.contents() == files
    totals = (second.record.totals.files, second.record.totals.directories)
    assert totals == (first.record.totals.files, first.record.totals.directories)
    assert second.record.totals.content_bytes == first.record.totals.content_bytes
    assert (run.progress.files_new, run.progress.files_changed) == (0, 0)


def test_without_looks_rows_still_spare_the_reading(run, docs):
    files = grown(docs)
    first = run()
    for path in run.vault.cache.iterdir():
        path.unlink()
    second = run()
    assert run.progress.read_bytes == 0
    assert second.record.root == first.record.root
    assert run.contents() == files


def test_one_changed_file_is_read_and_only_the_way_to_it_written(run, docs):
    files = grown(docs)
    run()
    (docs / "b" / "d" / "e").write_bytes(b"changed")  # in place: no directory has another time
    before = run.vault.store.delta_names()
    run()
    assert run.progress.read_bytes == 7
    assert (run.progress.files_new, run.progress.files_changed) == (0, 1)
    depth = bytes(docs).count(b"/") + 1  # the docs, and what is above them
    assert new_pieces(run.vault, before, Kind.DIRECTORY) == 2 + depth
    assert new_pieces(run.vault, before, Kind.SMALL_FILE) == 1
    assert run.contents() == files | {"b/d/e": b"changed"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: (d / "b/d/e").unlink(), {"b/d/e": None}),
        (lambda d: (d / "b/d/new").write_bytes(b"new"), {"b/d/new": b"new"}),
        (lambda d: (d / "g/h").rename(d / "g/moved"), {"g/h": None, "g/moved": b"g/h"}),
        (lambda d: (d / "i").rename(d / "z"), {"i/j/k/l": None, "z/j/k/l": b"i/j/k/l"}),
        (lambda d: (d / "a").rename(d / "b/c"), {"a": None, "b/c": b"a"}),
    ],
)
def test_whatever_changes_is_seen(run, docs, change, expected):
    files = grown(docs)
    run()
    change(docs)
    run()
    assert run.contents() == {k: v for k, v in (files | expected).items() if v is not None}
    run()
    assert run.progress.read_bytes == 0


def test_modes_owners_and_attributes_are_seen_without_reading_content_twice(run, docs):
    grown(docs)
    run()
    (docs / "b" / "d" / "e").chmod(0o751)
    (docs / "b" / "d").chmod(0o711)
    (docs / "empty").chmod(0o555)
    run()
    nodes = run.nodes()
    assert nodes["b/d/e"].entry.mode == 0o751
    assert nodes["b/d"].entry.mode == 0o711
    assert nodes["empty"].entry.mode == 0o555
    run()
    assert run.nodes()["b/d"].entry.mode == 0o711


# --- what was just touched ------------------------------------------------------------------------


def test_what_is_recent_is_read_again_next_time_and_then_no_more(run, docs):
    grown(docs)
    run(now_ns=(docs / "a").stat().st_ctime_ns)
    run()
    assert run.progress.read_bytes == sum(len(p) for p in run.contents())
    run()
    assert run.progress.read_bytes == 0


@pytest.mark.parametrize("has_looks", [True, False])
def test_a_rewrite_that_no_time_shows_is_caught(run, docs, listings, has_looks):
    (docs / "a").write_bytes(b"one")
    seen = []
    listings.change(docs, lambda listing: seen.append(listing) or seen[0])
    run(now_ns=(docs / "a").stat().st_ctime_ns + 1)
    if not has_looks:
        for path in run.vault.cache.glob("*.tree"):
            path.unlink()
    (docs / "a").write_bytes(b"two")  # in the same granule of time, as the file system shows it
    run()
    assert run.contents() == {"a": b"two"}


# --- others at work -------------------------------------------------------------------------------


def test_a_file_that_vanishes_is_no_fault(run, docs, listings):
    files = grown(docs)
    listings.after(docs / "b" / "d", (docs / "b" / "d" / "e").unlink)
    run()
    assert run.faults == []
    del files["b/d/e"]
    assert run.contents() == files


def test_what_vanished_and_came_back_is_looked_for_again(run, docs, listings, tmp_path):
    files = grown(docs)
    folder, away = docs / "b" / "d", tmp_path / "away"
    seen = []
    # A file system that does not move ctime when a file is renamed.
    listings.change(folder, lambda listing: seen.append(listing) or seen[0])
    listings.after(folder, lambda: (folder / "e").rename(away))
    run()
    assert "b/d/e" not in run.contents()
    away.rename(folder / "e")
    run()
    assert run.contents() == files


def test_a_directory_that_vanishes_is_no_fault(run, docs, listings):
    files = grown(docs)
    listings.after(docs / "g", lambda: None)

    def away():
        (docs / "g" / "h").unlink()
        (docs / "g").rmdir()

    listings.after(docs, away)
    run()
    assert run.faults == []
    del files["g/h"]
    assert run.contents() == files
    assert "g" not in run.nodes()


def test_a_directory_that_vanishes_from_one_that_looks_unchanged_is_no_fault(run, docs, listings):
    files = grown(docs)
    run()

    def away():
        (docs / "g" / "h").unlink()
        (docs / "g").rmdir()

    listings.after(docs, away)
    run()
    assert run.faults == []
    del files["g/h"]
    assert run.contents() == files
    run()
    assert run.contents() == files


def test_a_directory_renamed_under_our_eyes_stops_nothing(run, docs, listings):
    files = grown(docs)
    run()
    (docs / "b" / "d" / "e").write_bytes(b"changed")
    listings.after(docs / "b" / "d", lambda: (docs / "b").rename(docs / "moved"))
    run()
    run()
    rest = {k: v for k, v in files.items() if not k.startswith("b/")}
    assert run.contents() == rest | {
        "moved/c": b"b/c",
        "moved/d/e": b"changed",
        "moved/d/f": b"b/d/f",
    }


def test_a_file_that_became_something_else_is_told(run, docs, listings):
    files = grown(docs)

    def to_fifo():
        (docs / "b" / "d" / "e").unlink()
        os.mkfifo(docs / "b" / "d" / "e")

    def to_link():
        (docs / "g" / "h").unlink()
        (docs / "g" / "h").symlink_to("/etc/passwd")

    listings.after(docs / "b" / "d", to_fifo)
    listings.after(docs / "g", to_link)
    run()
    assert {path.rpartition(b"/")[2] for path, _ in run.faults} == {b"e", b"h"}
    assert {str(error).rpartition(": ")[2] for _, error in run.faults} == {
        "is no regular file any more"
    }
    del files["b/d/e"], files["g/h"]
    assert run.contents() == files
    run()
    assert run.nodes()["b/d/e"].entry.type is EntryType.FIFO
    assert run.nodes()["g/h"].entry.target == b"/etc/passwd"


@pytest.mark.parametrize("content", [b"", b"shorter", b"longer" * 1000])
def test_a_file_that_changes_before_it_is_read_is_read_as_it_is(run, docs, listings, content):
    (docs / "a").write_bytes(b"as it was when listed")
    listings.after(docs, lambda: (docs / "a").write_bytes(content))
    run()
    assert run.contents() == {"a": content}
    assert run.nodes()["a"].entry.size == len(content)
    (docs / "a").write_bytes(b"as it is now")
    run()
    assert run.contents() == {"a": b"as it is now"}


def test_what_may_not_be_read_is_told_and_the_rest_goes_in(tmp_path):
    with unprivileged(tmp_path) as folder:
        vault = a_vault(folder)
        docs = folder / "docs"
        docs.mkdir()
        files = grown(docs)
        run = Run(vault, docs)
        (docs / "b" / "c").chmod(0)
        (docs / "g").chmod(0)
        for _ in range(2):
            run()
            told = {path.rpartition(b"/")[2]: e.strerror for path, e in run.faults}
            assert told == {b"c": "Permission denied", b"g": "Permission denied"}
            assert run.made.errors == run.made.snapshot.record.errors_count == 2
            assert run.contents() == {k: v for k, v in files.items() if k not in {"b/c", "g/h"}}
        (docs / "b" / "c").chmod(0o600)
        (docs / "g").chmod(0o700)
        run()
        assert run.contents() == files


def test_a_directory_that_could_not_be_read_once_is_read_next_time(run, docs, monkeypatch):
    files = grown(docs)
    run()
    real = module.list_directory

    def broken(fd):
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/g"):  # noqa: PTH115
            raise OSError(5, "Input/output error")
        return real(fd)

    monkeypatch.setattr(module, "list_directory", broken)
    run()
    assert [e.strerror for _, e in run.faults] == ["Input/output error"]
    assert "g/h" not in run.contents()
    monkeypatch.undo()
    run()
    assert run.contents() == files


# --- several names of one file --------------------------------------------------------------------


def link_groups(run):
    groups = {}
    for path, node in run.nodes().items():
        if node.link:
            groups.setdefault(node.link, set()).add(path)
    return sorted(groups.values(), key=min)


def test_names_in_directories_old_and_new_stay_one_file(run, docs):
    grown(docs)
    os.link(docs / "a", docs / "b" / "d" / "second")
    run()
    assert link_groups(run) == [{"a", "b/d/second"}]
    assert run.opened.count("a") + run.opened.count("second") == 1
    run()
    assert link_groups(run) == [{"a", "b/d/second"}]
    (docs / "new").mkdir()
    os.link(docs / "a", docs / "new" / "third")
    run()
    assert link_groups(run) == [{"a", "b/d/second", "new/third"}]
    assert run.contents()["new/third"] == b"a"
    (docs / "b" / "c").write_bytes(b"something else in a directory above one of them")
    run()
    assert link_groups(run) == [{"a", "b/d/second", "new/third"}]
    (docs / "b" / "d" / "second").unlink()
    (docs / "new" / "third").unlink()
    run()
    assert link_groups(run) == []


def test_a_link_stays_one_when_devices_get_other_numbers(run, docs, listings):
    grown(docs)
    os.link(docs / "a", docs / "b" / "d" / "second")

    def elsewhere(listing):
        listing.dev += 7
        return listing

    run()
    before = {node.link for node in run.nodes().values()}
    for folder in (docs, *(p for p in docs.rglob("*") if p.is_dir())):
        listings.change(folder, elsewhere)
    os.link(docs / "b" / "c", docs / "g" / "another")
    run()
    assert link_groups(run) == [{"a", "b/d/second"}, {"b/c", "g/another"}]
    assert {node.link for node in run.nodes().values()} & before == {b""}
    run()
    assert link_groups(run) == [{"a", "b/d/second"}, {"b/c", "g/another"}]
    assert run.progress.read_bytes == 0


# --- what is left out -----------------------------------------------------------------------------


def excluding(**options):
    rules = Exclusion(Rules(**options))
    return {"exclusion": rules, "rules": rules.fingerprint}


def test_patterns_leave_out_and_other_rules_take_no_look_over(run, docs):
    files = grown(docs)
    run(**excluding(exclude=(b"d",)))
    assert set(run.contents()) == set(files) - {"b/d/e", "b/d/f"}
    run(**excluding(exclude=(b"h",)))
    assert set(run.contents()) == set(files) - {"g/h"}
    run()
    assert run.contents() == files


@pytest.mark.parametrize("place", [".", "b"])
def test_an_ignore_file_that_changes_above_is_obeyed_below(run, docs, place):
    files = grown(docs)
    ignore = docs / place / ".portalignore"

    def names():
        run(**excluding())
        return {name for name in run.contents() if not name.endswith(".portalignore")}

    assert names() == set(files)
    ignore.write_bytes(b"e\n")
    assert names() == set(files) - {"b/d/e"}
    assert names() == set(files) - {"b/d/e"}
    ignore.write_bytes(b"f\n")  # of the same length: no directory below changes
    assert names() == set(files) - {"b/d/f"}
    ignore.unlink()
    assert names() == set(files)
    assert run.contents() == files


def test_an_ignore_file_may_be_anything(run, docs):
    files = grown(docs)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(docs / ".portalignore"))
        (docs / "b" / ".portalignore").mkdir()
        os.mkfifo(docs / "g" / ".portalignore")
        (docs / "i" / ".portalignore").symlink_to("nowhere")
        run(**excluding())
    assert run.contents() == files


def test_a_directory_that_says_so_is_left_out(run, docs):
    files = grown(docs)
    (docs / "b" / "marker").write_bytes(b"")
    for _ in range(2):
        run(**excluding(if_present=(Marker(b"marker"),)))
        assert set(run.contents()) == set(files) - {"b/c", "b/d/e", "b/d/f"} | {"b/marker"}
    (docs / "b" / "marker").unlink()
    run(**excluding(if_present=(Marker(b"marker"),)))
    assert run.contents() == files


def identity(*paths):
    return frozenset((p.stat().st_dev, p.stat().st_ino) for p in paths)


def test_the_vault_and_its_keys_are_never_entered(tmp_path):
    home = tmp_path / "home"
    (home / "docs").mkdir(parents=True)
    (home / "docs" / "a").write_bytes(b"a")
    vault = a_vault(home)
    run = Run(vault, home)
    (home / "cache").mkdir()
    for _ in range(2):
        run(own=identity(home / "vault", home / "cache"))
        assert run.contents() == {"docs/a": b"a"}
        assert not {"vault", "cache"} & set(run.nodes())


def test_what_is_ours_may_change_from_run_to_run(run, docs):
    files = grown(docs)
    run(own=identity(docs / "g"))
    assert set(run.contents()) == set(files) - {"g/h"}
    run(own=identity(docs / "i"))
    assert set(run.contents()) == set(files) - {"i/j/k/l"}
    assert "i" not in run.nodes()
    run()
    assert run.contents() == files
    run(own=identity(docs / "g"))
    assert "g" not in run.nodes()
    assert set(run.contents()) == set(files) - {"g/h"}


def mounted(name):
    """As if something were mounted over this name."""

    def change(listing):
        devs = [listing.dev + (5 if n == name else 0) for n in listing.names]
        listing._devs = tuple(devs)
        return listing

    return change


def elsewhere(listing):
    listing.dev += 5
    return listing


@pytest.mark.parametrize("is_root", [True, False])
def test_other_file_systems_are_left_if_asked(vault, docs, listings, is_root):
    files = grown(docs)
    listings.change(docs, mounted(b"g"))
    listings.change(docs / "g", elsewhere)
    root = Root(bytes(docs), b"" if is_root else b"docs")

    def names(**options):
        nonlocal now_ns
        now_ns += 10**9
        snapshot = back_up(vault, root, now_ns=now_ns, **options)
        found = contents_in(vault, snapshot)
        dirs = {
            p.rpartition(b"/")[2]
            for p, n in nodes_in(vault, snapshot).items()
            if n.entry.is_directory
        }
        assert b"g" in dirs  # the place where it is mounted
        return {p.removeprefix(b"docs/").decode() for p in found}

    now_ns = LATER_NS
    for _ in range(2):
        assert names(one_file_system=True) == set(files) - {"g/h"}
    assert names() == set(files)
    assert names(one_file_system=True) == set(files) - {"g/h"}
