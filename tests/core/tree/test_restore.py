import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import limits
from core.errors import FormatError, PortalError
from core.tree import restore as restore_module
from core.tree.entry import AlreadyThere, Changed, Entry, EntryType, Incomplete, Skipped
from core.tree.metadata import Owners
from core.tree.occupancy import Overwrite
from core.tree.restore import Options, Sync, Target
from core.tree.source import Root
from tests.support.folding import fold_names
from tests.support.strange_trees import ACL_ACCESS, ACL_DEFAULT, acl, strange_tree
from tests.support.trees import (
    IS_ROOT,
    Reports,
    copy,
    look,
    open_descriptors,
)

ROOT_OF_PROJECT = Path(__file__).parents[3]
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may make devices")
REPLACE = Options(overwrite=Overwrite.REPLACE)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def target(out, reports):
    with Target(out, Options(), reports) as target:
        yield target


@pytest.fixture
def replacing(out, reports):
    with Target(out, REPLACE, reports) as target:
        yield target


def entry(path, kind=EntryType.FILE, **known):
    me = {"uid": os.geteuid(), "gid": os.getegid(), "mtime_ns": 10**18 + 1}
    return Entry(path, kind, **me | known)


def file(path, data=b"", **known):
    return entry(path, size=len(data), **known), data


def symlink(path, to=b"somewhere", **known):
    return entry(path, EntryType.SYMLINK, target=to, **known)


# --- hostile archives -------------------------------------------------------------------------

HOSTILE = [b"", b"/etc/x", b"../x", b"a/../../x", b"a/./x", b"a//x", b"a/", b"a\0b", b"x" * 2000]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_refused_by_every_door(tmp_path, target, path):
    doors = [
        lambda: target.directory(entry(path, EntryType.DIRECTORY)),
        lambda: target.small_file(*file(path, b"x")),
        lambda: target.file(entry(path)),
        lambda: target.symlink(symlink(path)),
        lambda: target.special(entry(path, EntryType.FIFO)),
        lambda: target.link(entry(path), b"first"),
    ]
    assert target.small_file(*file(b"first", nlink=2))
    before = look(tmp_path)
    for door in doors:
        with pytest.raises(FormatError):
            door()
    assert look(tmp_path) == before


def test_a_link_of_the_archive_is_never_a_way_out(tmp_path, out, replacing):
    (tmp_path / "outside").mkdir()
    for to in (b"../outside", os.fsencode(tmp_path / "outside"), b".", b".."):
        replacing.symlink(symlink(b"way", to))
        for door in (
            lambda: replacing.small_file(*file(b"way/file", b"x")),
            lambda: replacing.directory(entry(b"way/folder", EntryType.DIRECTORY)),
            lambda: replacing.symlink(symlink(b"way/link")),
            lambda: replacing.special(entry(b"way/fifo", EntryType.FIFO)),
        ):
            with pytest.raises(AlreadyThere):
                door()
    assert list((tmp_path / "outside").iterdir()) == []
    assert [path.name for path in out.iterdir()] == ["way"]


def test_a_file_in_place_of_a_link_does_not_go_through_it(tmp_path, replacing):
    secret = tmp_path / "secret"
    secret.write_bytes(b"safe")
    secret.chmod(0o600)
    before = secret.stat()
    for name, door in {
        b"1": lambda name: replacing.small_file(*file(name, b"x", mode=0o777)),
        b"2": lambda name: replacing.special(entry(name, EntryType.FIFO, mode=0o777)),
        b"3": lambda name: replacing.symlink(symlink(name, mode=0o777)),
        b"4": lambda name: replacing.directory(entry(name, EntryType.DIRECTORY, mode=0o777)),
    }.items():
        (tmp_path / "out" / name.decode()).symlink_to(secret)
        assert door(name)
    replacing.finish()
    assert secret.stat() == before
    assert secret.read_bytes() == b"safe"


def test_hard_links_lead_only_to_what_was_restored(tmp_path, out, replacing):
    (out / "theirs").write_bytes(b"was there")
    os.link(out / "theirs", out / "again")
    replacing.small_file(*file(b"alone", b"x"))
    for first in (b"theirs", b"alone", b"nothing", b"../out/theirs", b"/etc/passwd"):
        with pytest.raises(FormatError, match="not restored"):
            replacing.link(entry(b"new"), first)
    assert not (out / "new").exists()


def test_a_thing_exchanged_while_it_is_made_is_not_left_there(tmp_path, target, out, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_bytes(b"safe")
    secret.chmod(0o600)
    before = secret.stat()
    monkeypatch.setattr(
        os, "mkfifo", lambda name, _, dir_fd: os.symlink(secret, name, dir_fd=dir_fd)
    )
    with pytest.raises(Changed):
        target.special(entry(b"x", EntryType.FIFO, mode=0o777))
    assert secret.stat() == before
    assert list(out.iterdir()) == []


NAMES = st.sampled_from([b"a", b"b", b"link", b"..", b"", b".", b"A"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join) | st.just(b"/etc")
TARGETS = st.sampled_from([b"..", b"../outside", b"/", b".", b"a", b"../outside/file", b"b/../.."])
STEPS = st.tuples(
    st.sampled_from(["directory", "file", "small", "many", "symlink", "fifo", "link"]), PATHS
)


@pytest.mark.slow
@settings(max_examples=80)
@given(
    steps=st.lists(st.tuples(STEPS, TARGETS, PATHS), max_size=12),
    overwrite=st.sampled_from(Overwrite),
    planted=st.sampled_from([None, "link", "a"]),
)
def test_no_archive_reaches_outside(tmp_path_factory, steps, overwrite, planted):
    top = tmp_path_factory.mktemp("hostile")
    (top / "out").mkdir()
    (top / "outside").mkdir()
    (top / "outside" / "file").write_bytes(b"safe")
    if planted:
        (top / "out" / planted).symlink_to("../outside")

    def outside():
        found = look(top)
        # The target gets and loses names, so only its own facts may change.
        return {path: facts for path, facts in found.items() if not path.startswith(b"out/")}

    before = outside()
    with Target(top / "out", Options(overwrite=overwrite), Reports()) as target:
        for (step, path), to, first in steps:
            try:
                take_step(target, step, path, to, first)
            except (PortalError, OSError):
                continue
        target.finish()
    after = outside()
    del before[b"out"], after[b"out"]
    assert after == before


def take_step(target, step, path, to, first):
    if step == "directory":
        target.directory(entry(path, EntryType.DIRECTORY, mode=0o777))
    elif step == "small":
        target.small_file(*file(path, b"data", mode=0o4777, nlink=2))
    elif step == "many":
        list(target.small_files([file(path, b"data", mode=0o777), file(first, b"more", nlink=2)]))
    elif step == "file":
        writer = target.file(entry(path, size=3))
        if writer is not None:
            with writer:
                writer.write_at(1, b"xy")
    elif step == "symlink":
        target.symlink(symlink(path, to, nlink=2))
    elif step == "fifo":
        target.special(entry(path, EntryType.FIFO, mode=0o777))
    else:
        target.link(entry(path), first)


def test_a_file_is_as_long_as_it_says(target, out):
    for size in (3, 5):
        with pytest.raises(FormatError):
            target.small_file(entry(b"x", size=size), b"1234")
    writer = target.file(entry(b"x", size=3))
    with pytest.raises(FormatError), writer:
        writer.write_at(0, b"1234")
    assert list(out.iterdir()) == []


# --- all or nothing ---------------------------------------------------------------------------

CALLS = ["pwrite", "chown", "chmod", "utime", "link", "rename", "ftruncate", "setxattr", "fsync"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("named", [False, True])
def test_an_interruption_at_any_call_leaves_old_or_new_and_no_litter(
    out, reports, monkeypatch, call, named
):
    (out / "old").write_bytes(b"old")
    given = entry(b"x", size=3, xattrs=((b"user.a", b"1"),))

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    if named:
        monkeypatch.setattr(os.path, "exists", lambda _: False)
    options = Options(overwrite=Overwrite.REPLACE, sync=Sync.FILE)
    interrupted = 0
    for door in (interrupted_small, interrupted_large):
        for path in (b"old", b"new"):
            (out / "old").write_bytes(b"old")
            (out / "new").unlink(missing_ok=True)
            with Target(out, options, reports) as target, monkeypatch.context() as patch:
                patch.setattr(os, call, interrupt)
                try:
                    door(target, given._replace(path=path))
                except KeyboardInterrupt:
                    interrupted += 1
                    assert [p.name for p in out.iterdir()] == ["old"]
                    assert (out / "old").read_bytes() == b"old"
                else:
                    assert (out / path.decode()).read_bytes() in {b"new", b"new" + bytes(6)}
                    assert {p.name for p in out.iterdir()} <= {"old", "new"}
    expected = {"rename": 2, "ftruncate": 2}.get(call, 4)  # not every way makes every call
    assert interrupted == expected


def interrupted_small(target, given):
    target.small_file(given, b"new")


def interrupted_large(target, given):
    with target.file(given._replace(size=9)) as writer:
        writer.write_at(0, b"new")


KILLED = """
import os, signal, sys
from core.tree.entry import Entry, EntryType
from core.tree.restore import Options, Target
target = Target(sys.argv[1], Options(), print)
target.directory(Entry(b"d", EntryType.DIRECTORY, 0o755))
whole = Entry(b"d/whole", EntryType.FILE, size=5, mtime_ns=7)
assert list(target.small_files([(whole, b"whole")])) == [True]
writer = target.file(Entry(b"d/half", EntryType.FILE, size=1 << 20, mtime_ns=7))
writer.write_at(0, b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow  # starts a process
def test_a_killed_restore_leaves_whole_files_and_can_be_continued(out, reports):
    command = [sys.executable, "-c", KILLED, str(out)]
    done = subprocess.run(command, cwd=ROOT_OF_PROJECT, check=False)
    assert done.returncode == -signal.SIGKILL
    with Target(out, Options(), reports) as probe:
        nameless = probe._staging.unnamed
        os.close(probe._staging.create(probe._root)[0])
    left = sorted(path.name for path in (out / "d").iterdir())
    assert left == ["whole"] or (not nameless and left[1:] == ["whole"])
    assert stat.S_IMODE((out / "d").stat().st_mode) == 0o700
    whole = (out / "d" / "whole").stat()
    with Target(out, Options(overwrite=Overwrite.IF_NEWER), reports) as target:
        assert target.directory(entry(b"d", EntryType.DIRECTORY, mode=0o755))
        assert not target.small_file(*file(b"d/whole", b"whole", mtime_ns=7))
        assert target.small_file(*file(b"d/half", b"half", mtime_ns=7))
        target.finish()
    assert (out / "d" / "whole").stat() == whole
    assert (out / "d" / "half").read_bytes() == b"half"
    assert stat.S_IMODE((out / "d").stat().st_mode) == 0o755


# --- what is there already --------------------------------------------------------------------


@pytest.mark.parametrize("old", ["file", "symlink", "fifo"])
@pytest.mark.parametrize("new", ["small", "file", "symlink", "fifo", "link"])
@pytest.mark.parametrize("overwrite", list(Overwrite))
def test_the_policy_holds_for_every_kind(out, reports, overwrite, old, new):
    with Target(out, Options(overwrite=overwrite), reports) as target:
        target.small_file(*file(b"first", b"1", nlink=2))
        make = {
            "file": lambda: (out / "x").write_bytes(b"old"),
            "symlink": lambda: (out / "x").symlink_to("old"),
            "fifo": lambda: os.mkfifo(out / "x"),
        }
        make[old]()
        os.utime(out / "x", ns=(100, 100), follow_symlinks=False)
        before = (out / "x").lstat()
        if overwrite is Overwrite.REFUSE:
            with pytest.raises(AlreadyThere):
                put(target, new, 101)
            assert (out / "x").lstat() == before
            return
        put(target, new, 100)
        kept = (out / "x").lstat() == before
        assert kept is (overwrite is not Overwrite.REPLACE)
        put(target, new, 101)
        kept = (out / "x").lstat() == before
        assert kept is (overwrite is Overwrite.SKIP)
        if not kept:
            expected = {"symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO}.get(new, stat.S_IFREG)
            assert stat.S_IFMT((out / "x").lstat().st_mode) == expected
    assert sorted(path.name for path in out.iterdir()) == ["first", "x"]
    assert reports.lines == []


def put(target, kind, mtime_ns):
    known = {"mtime_ns": mtime_ns}
    if kind == "small":
        return target.small_file(*file(b"x", b"new", **known))
    if kind == "file":
        writer = target.file(entry(b"x", **known))
        if writer is None:
            return False
        with writer:
            return writer.publish()
    if kind == "symlink":
        return target.symlink(symlink(b"x", **known))
    if kind == "fifo":
        return target.special(entry(b"x", EntryType.FIFO, **known))
    return target.link(entry(b"x", **known), b"first")


def test_what_appears_while_a_file_is_written_is_not_lost(out, target):
    writer = target.file(entry(b"x", size=3))
    writer.write_at(0, b"new")
    (out / "x").write_bytes(b"theirs")
    with pytest.raises(AlreadyThere):
        writer.publish()
    assert (out / "x").read_bytes() == b"theirs"


def test_a_second_spelling_of_a_name_is_refused(out, replacing, monkeypatch):
    fold_names(monkeypatch)
    assert replacing.small_file(*file(b"Readme", b"first", nlink=2))
    doors = [
        lambda: replacing.small_file(*file(b"README", b"x")),
        lambda: replacing.file(entry(b"readme")),
        lambda: replacing.symlink(symlink(b"readmE")),
        lambda: replacing.special(entry(b"rEADME", EntryType.FIFO)),
        lambda: replacing.link(entry(b"README"), b"Readme"),
        lambda: replacing.directory(entry(b"README", EntryType.DIRECTORY)),
    ]
    for door in doors:
        with pytest.raises(AlreadyThere, match="another name"):
            door()
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [("Readme", b"first")]
    assert replacing.small_file(*file(b"Readme", b"again"))


# --- links, devices, directories --------------------------------------------------------------


def test_hard_links_of_every_kind(out, replacing, monkeypatch):
    monkeypatch.setattr(limits, "TREE_OPEN_DIRECTORIES_MAX", 2)
    replacing.small_file(*file(b"a/b/c/file", b"x", nlink=2))
    replacing.symlink(symlink(b"a/link", nlink=2))
    replacing.special(entry(b"a/fifo", EntryType.FIFO, nlink=2))
    for first in (b"a/b/c/file", b"a/link", b"a/fifo"):
        name = b"d/e/f/" + first.rpartition(b"/")[2]
        for _ in range(2):  # over itself, too
            assert replacing.link(entry(name), first)
        one, other = (Path(out, os.fsdecode(path)) for path in (first, name))
        assert one.lstat().st_ino == other.lstat().st_ino
        assert one.lstat().st_nlink == 2
    assert len(list((out / "d" / "e" / "f").iterdir())) == 3


def test_a_link_the_system_refuses_is_an_error_of_the_system(target, monkeypatch):
    target.small_file(*file(b"first", b"x", nlink=2))

    def too_many(*_, **__):
        raise OSError(31, "Too many links")

    monkeypatch.setattr(os, "link", too_many)
    with pytest.raises(OSError, match="Too many"):
        target.link(entry(b"second"), b"first")


def test_links_to_what_an_earlier_run_restored_are_made(out, reports):
    with Target(out, Options(), reports) as target:
        target.small_file(*file(b"first", b"x", nlink=3))
        target.symlink(symlink(b"link", nlink=2))
    with Target(out, Options(overwrite=Overwrite.SKIP), reports) as target:
        assert not target.small_file(*file(b"first", b"x", nlink=3))
        assert not target.symlink(symlink(b"link", nlink=2))
        assert target.link(entry(b"second"), b"first")
        assert target.link(entry(b"third"), b"link")
    (out / "first").write_bytes(b"something else")
    with Target(out, Options(overwrite=Overwrite.SKIP), reports) as target:
        assert target.file(entry(b"first", size=1, nlink=3)) is None
        with pytest.raises(FormatError):
            target.link(entry(b"fourth"), b"first")


def test_devices_without_the_right_to_make_them_are_reported(unprivileged, reports):
    with Target(unprivileged, Options(), reports) as target:
        for kind in (EntryType.CHARACTER, EntryType.BLOCK):
            assert not target.special(entry(b"device", kind, rdev=(1, 3)))
        assert target.small_file(*file(b"file", b"goes on"))
    assert [(path, type(error)) for path, error in reports.all] == [(b"device", Skipped)] * 2
    assert [path.name for path in unprivileged.iterdir()] == ["file"]


def test_strangers_make_no_devices_and_lend_no_rights(out, reports):
    with Target(out, Options(privileged=False), reports) as target:
        assert not target.special(entry(b"null", EntryType.CHARACTER, rdev=(1, 3)))
        assert target.small_file(*file(b"file", b"", mode=0o6755))
        assert target.special(entry(b"fifo", EntryType.FIFO, mode=0o1640))
    assert stat.S_IMODE((out / "file").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "fifo").stat().st_mode) == 0o640
    assert [path for path, _ in reports.all] == [b"null"]


def test_directories_get_their_own_facts_at_the_end(out, target):
    for number, path in enumerate([b"a", b"a/b", b"c"]):
        target.directory(entry(path, EntryType.DIRECTORY, mode=0o555, mtime_ns=-number))
    target.small_file(*file(b"a/b/late", b"x"))
    target.directory(entry(b"a/b/c", EntryType.DIRECTORY, mode=0o1777, mtime_ns=5))
    assert stat.S_IMODE((out / "a").stat().st_mode) == 0o700
    target.finish()
    found = {p: (out / p).stat() for p in ("a", "a/b", "c", "a/b/c")}
    assert [stat.S_IMODE(found[p].st_mode) for p in found] == [0o555, 0o555, 0o555, 0o1777]
    assert [found[p].st_mtime_ns for p in found] == [0, -1, -2, 5]


def test_a_directory_that_cannot_be_finished_is_reported(out, target, reports, tmp_path):
    for name in (b"gone", b"link", b"z"):
        target.directory(entry(name, EntryType.DIRECTORY, mode=0o750))
        (out / os.fsdecode(name)).rmdir()
    (out / "link").symlink_to(tmp_path)
    (out / "z").mkdir()
    before = stat.S_IMODE(tmp_path.stat().st_mode)
    target.finish()
    assert [path for path, _ in reports.all] == [b"link", b"gone"]
    assert stat.S_IMODE((out / "z").stat().st_mode) == 0o750
    assert stat.S_IMODE(tmp_path.stat().st_mode) == before


def test_nothing_is_inherited_from_the_directory_that_was_there(out, reports):
    try:
        os.setxattr(out, ACL_DEFAULT, acl())
    except OSError:
        pytest.skip("this file system has no ACLs")
    own = ((ACL_ACCESS.encode(), acl(55)),)
    with Target(out, Options(), reports) as target:
        target.directory(entry(b"d", EntryType.DIRECTORY, mode=0o750))
        for folder in (b"", b"d/"):
            target.small_file(*file(folder + b"file", b"x", mode=0o640))
            target.small_file(*file(folder + b"own", b"x", mode=0o674, xattrs=own))
            target.special(entry(folder + b"fifo", EntryType.FIFO, mode=0o600))
            target.symlink(symlink(folder + b"link"))
        target.finish()
    assert reports.lines == []
    for path, facts in look(out).items():
        acls = [name for name, _ in facts.xattrs if name.startswith("system.")]
        assert acls == ([ACL_DEFAULT] if not path else [ACL_ACCESS] if b"own" in path else [])
    assert stat.S_IMODE((out / "d" / "file").stat().st_mode) == 0o640


def test_the_umask_does_not_matter(out, target):
    before = os.umask(0o077)
    try:
        target.directory(entry(b"d", EntryType.DIRECTORY, mode=0o777))
        target.small_file(*file(b"d/file", b"x", mode=0o666))
        target.special(entry(b"d/fifo", EntryType.FIFO, mode=0o622))
        target.finish()
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in out.rglob("*")}
    assert modes == {"d": 0o777, "file": 0o666, "fifo": 0o622}


def test_many_files_may_be_open_while_their_directories_are_not(out, target, monkeypatch):
    monkeypatch.setattr(limits, "TREE_OPEN_DIRECTORIES_MAX", 2)
    writers = [target.file(entry(b"%d/a/x" % number, size=1)) for number in range(9)]
    for number, writer in enumerate(writers):
        with writer:
            writer.write_at(0, b"%d" % number)
    assert [(out / f"{n}" / "a" / "x").read_bytes() for n in range(9)] == [
        b"%d" % n for n in range(9)
    ]


def test_owners_are_set_only_where_asked_for(out, reports):
    with Target(out, Options(owners=Owners.MINE), reports) as target:
        target.small_file(*file(b"x", b"", uid=4321, gid=4321))
        target.symlink(symlink(b"y", uid=4321, gid=4321))
    for name in ("x", "y"):
        assert (out / name).lstat().st_uid == os.geteuid()
    assert reports.lines == []


# --- durability -------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", list(Sync))
def test_durability_is_what_was_asked_for(out, reports, monkeypatch, sync):
    synced = []

    def fsync(fd):
        synced.append(stat.S_IFMT(os.fstat(fd).st_mode))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(restore_module, "_sync_file_system", lambda _: synced.append("all"))
    with Target(out, Options(sync=sync), reports) as target:
        target.directory(entry(b"d", EntryType.DIRECTORY))
        target.small_file(*file(b"d/file", b"x"))
        target.symlink(symlink(b"e/link"))
        files = list(synced)
        target.finish()
    assert files == ([stat.S_IFREG] if sync is Sync.FILE else [])
    expected = {Sync.NONE: [], Sync.FILE: [stat.S_IFDIR] * 3, Sync.END: ["all"]}
    assert synced[len(files) :] == expected[sync]


def test_a_file_system_is_synced_by_the_system(out):
    fd = os.open(out, os.O_RDONLY)
    restore_module._sync_file_system(fd)
    os.close(fd)
    if hasattr(restore_module.ctypes.CDLL(None), "syncfs"):
        with pytest.raises(OSError, match="Bad file descriptor"):
            restore_module._sync_file_system(fd)


def test_no_descriptor_is_left_open(tmp_path, out, reports):
    strange_tree(tmp_path / "tree")
    before = len(open_descriptors())
    copy([Root.of(tmp_path / "tree")], out)
    with Target(out, Options(), reports) as target:
        with pytest.raises(AlreadyThere):
            target.small_file(*file(b"tree/file 1", b"x"))
        target.file(entry(b"new")).discard()
    target.close()
    assert len(open_descriptors()) == before


def test_reports_say_what_is_incomplete(unprivileged, reports):
    with Target(unprivileged, Options(), reports) as target:
        target.small_file(*file(b"x", b"", uid=1, gid=1))
    ((path, error),) = reports.all
    assert path == b"x"
    assert isinstance(error, Incomplete)
