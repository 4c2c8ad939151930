import io
import os
import stat
from dataclasses import replace

import pytest
import trio

from core import VERSION, limits
from core.compress import Mode
from core.errors import FormatError, PortalError
from core.hashing import tag as tag_of
from core.pieces import Kind
from core.tree.entry import Changed, EntryType
from core.tree.source import Root
from portal.backup import Backup, Options, _Faults
from portal.forget import forget
from portal.head import Record
from portal.reader import Reader
from tests.support.mortal import Killed, MortalDisk
from tests.support.privileges import unprivileged
from tests.support.vaults import (
    LATER_NS,
    NOW_NS,
    a_vault,
    back_up,
    contents_in,
    fixed,
    nodes_in,
    opened,
    try_back_up,
)
from tests.support.watching import Run, grown


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


@pytest.fixture
def docs(tmp_path):
    made = tmp_path / "docs"
    made.mkdir()
    return made


@pytest.fixture
def run(vault, docs):
    return Run(vault, docs)


def everything(vault):
    return {p: p.is_file() and p.read_bytes() for p in vault.store.path.rglob("*")}


# --- the snapshot ---------------------------------------------------------------------------------


def test_a_snapshot_says_how_it_came_about(run, docs):
    grown(docs)
    (docs / "link").symlink_to("a")
    snapshot = run(tags=("one", "two"), now_ns=LATER_NS)
    record = snapshot.record
    assert (record.time_ns, record.end_ns) == (LATER_NS, LATER_NS)
    assert (record.host, record.user, record.program) == ("host", "ann", VERSION)
    assert record.paths == (bytes(docs),)
    assert (record.parent, snapshot.tags, snapshot.pinned) == (b"", ("one", "two"), False)
    depth = bytes(docs).count(b"/")
    totals = record.totals
    assert (totals.files, totals.directories, totals.others) == (6, 8 + depth, 1)
    assert totals.content_bytes == run.progress.read_bytes == 1 + 3 + 5 + 5 + 3 + 7
    assert (totals.files_new, totals.files_changed) == (6, 0)
    assert 0 < totals.new_bytes <= run.made.new_bytes
    assert run.made.snapshots == 1
    assert run.made.stored_bytes == sum(
        map(run.vault.store.pack_bytes, run.vault.store.pack_names())
    )
    assert run.vault.head().snapshots == (snapshot,)


def test_the_record_lies_in_a_pack_too(run, docs):
    grown(docs)
    snapshot = run()
    with Reader(run.vault.store, run.vault.keys, None) as reader:
        data = bytes(reader.piece_untrusted(Kind.SNAPSHOT, snapshot.id))
    assert Record.decode_untrusted(data) == snapshot.record
    assert tag_of(Kind.SNAPSHOT, data) == snapshot.id


def test_a_clock_that_goes_back_does_no_harm(vault, docs):
    grown(docs)
    backup = Backup(vault, Options(host="h", user="u"), lambda *_: None)
    made = trio.run(backup.run, [Root.absolute(str(docs))], LATER_NS, lambda: LATER_NS - 5)
    assert made.snapshot.record.end_ns == LATER_NS
    earlier = back_up(vault, docs, now_ns=LATER_NS - 10**12)
    assert [s.id for s in vault.head().snapshots] == [earlier.id, made.snapshot.id]


def test_who_watches_is_told(vault, docs):
    grown(docs)
    seen = []
    asked = Options(host="h", user="u")
    backup = Backup(vault, asked, lambda *_: None, lambda progress: seen.append(progress.files))
    trio.run(backup.run, [Root.absolute(str(docs))], LATER_NS, lambda: LATER_NS)
    assert seen == sorted(seen)
    assert len(seen) >= 8  # once for every directory, at least


@pytest.mark.parametrize("mode", list(Mode))
def test_every_way_to_compress(vault, docs, mode):
    (docs / "a").write_bytes(b"compressible " * 10_000)
    run = Run(vault, docs)
    run(mode=mode, threads=1)
    assert run.contents() == {"a": b"compressible " * 10_000}


# --- the parent -----------------------------------------------------------------------------------


def made_by(vault, host, *paths, now_ns, **options):
    asked = Options(host=host, user="u", **options)
    backup = Backup(vault, asked, lambda *_: None)
    roots = [Root.absolute(str(path)) for path in paths]
    return trio.run(backup.run, roots, now_ns, lambda: now_ns)


def test_the_parent_is_the_last_of_the_same_sources_else_of_the_same_host(vault, docs):
    grown(docs)
    one = made_by(vault, "h", docs, now_ns=LATER_NS)
    assert one.parent is None
    two = made_by(vault, "h", docs / "b", now_ns=LATER_NS + 1)
    assert two.parent.id == one.snapshot.id  # it may hold what is asked for
    three = made_by(vault, "h", docs, now_ns=LATER_NS + 2)
    assert three.parent.id == one.snapshot.id == three.snapshot.record.parent
    other = made_by(vault, "another host", docs, now_ns=LATER_NS + 3)
    assert other.parent is None
    assert other.progress.read_bytes > 0
    four = made_by(vault, "h", docs, now_ns=LATER_NS + 4)
    assert four.parent.id == three.snapshot.id
    five = made_by(vault, "h", docs, now_ns=LATER_NS + 5, parent=one.snapshot)
    assert five.parent.id == one.snapshot.id
    assert five.snapshot.record.root == four.snapshot.record.root


def test_a_forgotten_snapshot_is_no_parent(vault, docs):
    grown(docs)
    one = made_by(vault, "h", docs, now_ns=LATER_NS)
    forget(vault, [one.snapshot.id], 5)
    assert made_by(vault, "h", docs, now_ns=LATER_NS + 1).parent is None


def test_a_parent_whose_packs_were_collected_is_not_believed(vault, docs):
    files = grown(docs)
    run = Run(vault, docs)
    old = run()
    forget(vault, [old.id], 5)
    with vault.store.commit_lock():
        vault.change_locked(lambda head: replace(head, trash_gen=1), packs=set())
        vault.store.move_to_trash(vault.store.pack_names(), 1, 5)
        vault.store.remove_deltas(vault.store.delta_names())
    run(parent=old)
    with vault.store.commit_lock():
        vault.store.purge(set(vault.store.trashed()))
    assert run.contents() == files


# --- how much is believed -------------------------------------------------------------------------


def test_force_reads_everything_again(run, docs):
    files = grown(docs)
    first = run()
    run(force=True)
    assert run.progress.read_bytes == sum(map(len, files.values()))
    assert run.nodes() == run.nodes(first)
    assert run.made.new_bytes < 2_000  # the record, and the times of what is above the source


def test_ctime_may_be_ignored(run, docs):
    grown(docs)
    run()
    for path in docs.rglob("*"):
        path.chmod(0o700)
    run(ignore_ctime=True)
    assert run.progress.read_bytes == 0
    assert {node.entry.mode for node in run.nodes().values()} == {0o700}
    for path in docs.rglob("*"):
        path.chmod(0o711)
    run()
    assert run.progress.read_bytes > 0


def test_inodes_may_be_ignored(run, docs):
    (docs / "a").write_bytes(b"one")
    run()
    times = (docs / "a").stat()
    (docs / "b").write_bytes(b"one")
    (docs / "b").rename(docs / "a")
    os.utime(docs / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    run(ignore_inode=True, ignore_ctime=True)
    assert run.progress.read_bytes == 0
    run()
    assert run.progress.read_bytes == 0  # now it is known by its new inode


def test_what_is_ignored_is_never_more_than_that(run, docs):
    (docs / "a").write_bytes(b"one")
    run(now_ns=(docs / "a").stat().st_ctime_ns)
    run(ignore_inode=True, ignore_ctime=True)
    assert run.progress.read_bytes == 3  # it was recent


# --- nothing written ------------------------------------------------------------------------------


def test_a_dry_run_tells_and_writes_nothing(run, docs):
    grown(docs)
    before = everything(run.vault)
    run(dry_run=True)
    assert run.made.new_bytes > 0
    assert run.made.stored_bytes == 0
    assert everything(run.vault) == before
    run()
    (docs / "a").write_bytes(b"changed")
    before = everything(run.vault)
    run(dry_run=True)
    assert (run.progress.files_changed, run.made.snapshots) == (1, 1)
    assert everything(run.vault) == before
    run()
    assert run.progress.files_changed == 1


def test_an_unchanged_tree_needs_no_snapshot_if_asked(run, docs):
    grown(docs)
    first = run(skip_if_unchanged=True)
    before = everything(run.vault)
    made, _ = try_back_up(run.vault, docs, now_ns=LATER_NS * 2, skip_if_unchanged=True)
    assert made.snapshot is None
    assert made.parent.id == first.id
    assert everything(run.vault) == before
    (docs / "a").chmod(0o711)
    made, _ = try_back_up(run.vault, docs, now_ns=LATER_NS * 2, skip_if_unchanged=True)
    assert made.snapshot is not None


def test_what_was_lost_is_brought_even_if_nothing_changed(run, docs):
    files = grown(docs)
    run.vault.cache.parent.mkdir()  # so that nothing above the source gets another time
    first = run()
    for pack in run.vault.store.pack_names():
        (run.vault.store.path / "packs" / pack.hex()).unlink()
    assert run(skip_if_unchanged=True).record.root == first.record.root
    assert run.contents() == files


# --- faults ---------------------------------------------------------------------------------------


def test_faults_are_counted_and_the_first_of_them_kept():
    told = []
    faults = _Faults(lambda path, error: told.append(path))
    for n in range(limits.SNAPSHOT_ERRORS_MAX + 5):
        faults.report(b"%d" % n, OSError(13, "Permission\x07denied"))
    faults.report(b"note", Changed("changed"))
    assert faults.errors == limits.SNAPSHOT_ERRORS_MAX + 5 == len(told) - 1
    assert len(faults.first) == limits.SNAPSHOT_ERRORS_MAX
    assert faults.first[0] == (b"0", "Permission\\x07denied")


def test_a_note_is_no_fault_but_kept():
    faults = _Faults(lambda *_: None)
    faults.report(b"x", Changed("changed while it was read"))
    assert (faults.errors, faults.first) == (0, [(b"x", "changed while it was read")])


def test_faults_never_make_a_snapshot_too_large_to_read():
    faults = _Faults(lambda *_: None)
    for n in range(300):
        faults.report(b"%d/" % n + b"d" * limits.PATH_BYTES_MAX, PortalError("\N{CRAB}" * 1000))
        faults.report(b"short", PortalError("\N{CRAB}" * 1000))
        faults.report(b"broken", OSError(5, os.fsdecode(b"\xff")))
    size = sum(len(path) + len(text.encode()) for path, text in faults.first)
    assert size <= limits.SNAPSHOT_ERRORS_BYTES_MAX
    assert faults.errors == 900


def test_a_name_that_heads_cannot_hold_is_refused_before_it_harms(vault, docs):
    grown(docs)
    before = vault.head()
    for bad in ("h" * 2000, "bell\x07"):
        with pytest.raises(PortalError):
            try:
                made_by(vault, bad, docs, now_ns=LATER_NS)
            except ExceptionGroup as e:
                raise e.exceptions[0] from e
    assert opened(vault.store.path.parent).head() == before


# --- streams --------------------------------------------------------------------------------------


def stream(vault, data, path=b"/dump/of a base.sql", now_ns=LATER_NS, **options):
    asked = Options(host="h", user="u", **options)
    backup = Backup(vault, asked, lambda *_: None)
    return trio.run(backup.run_stream, path, io.BytesIO(data).read, now_ns, lambda: now_ns)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_stream_becomes_a_file(vault, size):
    data = fixed("s", size) if size else b""
    made = stream(vault, data)
    assert contents_in(vault, made.snapshot) == {b"dump/of a base.sql": data}
    node = nodes_in(vault, made.snapshot)[b"dump/of a base.sql"]
    assert (node.entry.mtime_ns, node.entry.size) == (LATER_NS, size)
    assert made.snapshot.record.paths == (b"/dump/of a base.sql",)
    assert made.snapshot.record.totals.files == 1
    again = stream(vault, data + b"more", now_ns=LATER_NS + 1)
    assert again.parent.id == made.snapshot.id
    assert again.new_bytes < max(size, 1_000)


@pytest.mark.parametrize("path", [b"", b"/", b"/..", b"/a/../b", b"/a//b", b"/a\0b", b"/./a"])
def test_a_stream_needs_a_path_that_can_be_restored(vault, path):
    with pytest.raises(FormatError):
        stream(vault, b"x", path)
    assert vault.head().snapshots == ()


def test_a_stream_that_breaks_makes_no_snapshot(vault):
    def read(_size):
        raise PortalError("ended with exit code 1")

    backup = Backup(vault, Options(host="h", user="u"), lambda *_: None)
    with pytest.raises(ExceptionGroup) as caught:
        trio.run(backup.run_stream, b"/x", read, LATER_NS, lambda: LATER_NS)
    assert caught.group_contains(PortalError, match="exit code 1", depth=1)
    assert vault.head().snapshots == ()


def test_a_dry_stream_writes_nothing(vault):
    before = everything(vault)
    made = stream(vault, fixed("s", 1_000_000), dry_run=True)
    assert made.new_bytes >= 1_000_000
    assert everything(vault) == before


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backup_killed_anywhere_loses_nothing(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    files = grown(docs) | {"large": fixed("large", 1_500_000)}
    (docs / "large").write_bytes(files["large"])
    for dies_at in range(80):
        place = tmp_path / str(dies_at)
        place.mkdir()
        first = back_up(a_vault(place), docs / "b", now_ns=LATER_NS)
        disk = MortalDisk(dies_at)
        try:
            try_back_up(opened(place, disk=disk), docs, now_ns=LATER_NS + 10**9)
        except (Killed, BaseExceptionGroup):
            assert disk.is_dead
        vault = opened(place)
        snapshots = vault.head().snapshots
        assert snapshots[0].id == first.id
        assert len(contents_in(vault, first)) == 3
        run = Run(vault, docs, first_s=10)
        for snapshot in snapshots[1:]:
            assert run.contents(snapshot) == files
        run()
        assert run.contents() == files
        if not disk.is_dead:
            break
    assert dies_at > 15


# --- at the same time -----------------------------------------------------------------------------


def test_what_vanishes_from_the_vault_meanwhile_stops_it(run, docs, monkeypatch):
    from portal import backup as module
    from portal.errors import Moved

    grown(docs)
    run()
    (docs / "again").write_bytes(b"a")  # the content of another file: it is reused

    class Robbed(module.Session):
        def commit(self, edit):
            for pack in self.vault.store.pack_names():
                (self.vault.store.path / "packs" / pack.hex()).unlink()
            return super().commit(edit)

    monkeypatch.setattr(module, "Session", Robbed)
    with pytest.raises(Moved):
        run()
    monkeypatch.undo()
    run()
    assert run.contents()["again"] == b"a"


def test_an_unreadable_source_is_in_the_record(tmp_path):
    with unprivileged(tmp_path) as folder:
        vault = a_vault(folder)
        (folder / "docs").mkdir()
        (folder / "docs" / "secret").write_bytes(b"x")
        (folder / "docs" / "secret").chmod(0)
        run = Run(vault, folder / "docs")
        snapshot = run(now_ns=NOW_NS)
        path = bytes(folder / "docs" / "secret").lstrip(b"/")
        assert snapshot.record.errors == ((path, "Permission denied"),)
        assert (snapshot.record.errors_count, run.made.errors) == (1, 1)


# --- sources --------------------------------------------------------------------------------------


def test_a_source_may_be_anything(vault, docs, tmp_path):
    grown(docs)
    (tmp_path / "link").symlink_to("docs")
    os.mkfifo(tmp_path / "fifo")
    run = Run(vault, tmp_path / "docs" / "a", tmp_path / "link", tmp_path / "fifo", docs / "b")
    for _ in range(2):
        snapshot = run()
        base = bytes(tmp_path).lstrip(b"/")
        nodes = nodes_in(vault, snapshot)
        assert nodes[base + b"/link"].entry.target == b"docs"
        assert nodes[base + b"/fifo"].entry.type is EntryType.FIFO
        inside = {p[len(base) + 1 :] for p in contents_in(vault, snapshot)}
        assert inside == {b"docs/a", b"docs/b/c", b"docs/b/d/e", b"docs/b/d/f"}
        assert nodes[base].entry.mode == stat.S_IMODE(tmp_path.stat().st_mode)


def test_sources_inside_each_other_are_taken_once(vault, docs):
    files = grown(docs)
    run = Run(vault, docs, docs / "b", docs / "b" / "d" / "e", docs)
    run()
    assert run.contents() == files
    assert run.progress.files == len(files)


def test_what_lies_beside_the_sources_changes_nothing(vault, docs, tmp_path):
    grown(docs)
    run = Run(vault, docs)
    first = run()
    (tmp_path / "beside").write_bytes(b"")
    assert run().record.root == first.record.root


def test_a_source_that_is_gone_is_a_fault(run, docs):
    grown(docs)
    run.paths = (*run.paths, docs.parent / "nothing here")
    run()
    assert [e.strerror for _, e in run.faults] == ["No such file or directory"]
    assert "a" in run.contents()


def test_other_sources_than_last_time(vault, docs):
    files = grown(docs)
    all_of_it, part = Run(vault, docs), Run(vault, docs / "b", first_s=10)
    all_of_it()
    part()
    assert part.progress.read_bytes == 0
    assert part.contents() == {"c": b"b/c", "d/e": b"b/d/e", "d/f": b"b/d/f"}
    all_of_it = Run(vault, docs, first_s=20)
    all_of_it()
    assert all_of_it.contents() == files


# --- where something was lost ---------------------------------------------------------------------


@pytest.mark.parametrize("has_cache", [True, False])
def test_content_that_was_lost_is_stored_again(run, docs, has_cache):
    for name in ("a", "b", "c"):
        (docs / name).mkdir()
        (docs / name / "small").write_bytes(fixed(name, 1000))
        (docs / name / "large").write_bytes(fixed(name + "!", 700_000))
        run()
    for lost in sorted(run.vault.store.pack_names()):
        (run.vault.store.path / "packs" / lost.hex()).unlink()
        if not has_cache:
            for path in run.vault.cache.iterdir():
                path.unlink()
        run()
        assert run.made.new_bytes > 0
        assert len(run.contents()) == 6
        assert run.contents()["b/large"] == fixed("b!", 700_000)
    run.vault.cache = None
    assert len(run.contents()) == 6


def test_rows_that_were_lost_are_made_again(run, docs):
    files = grown(docs)
    run()
    for pack in run.vault.store.pack_names():
        (run.vault.store.path / "packs" / pack.hex()).unlink()
    run()
    assert run.faults == []
    assert run.contents() == files


@pytest.mark.slow
def test_a_file_that_is_backed_up_by_itself_is_new_unmodified_or_changed(vault, docs):
    path = docs / "letter"
    path.write_bytes(b"dear")
    run = Run(vault, path)
    for content, counted in ((b"dear", (1, 0)), (b"dear", (0, 0)), (b"dearest", (0, 1))):
        path.write_bytes(content)
        run()
        progress = run.progress
        assert (progress.files, progress.files_new, progress.files_changed) == (1, *counted)
