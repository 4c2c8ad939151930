import os
import random
import shutil
import socket
from pathlib import Path

import pytest

from core import limits
from core.tree import walk as walk_module
from core.tree.entry import Entry, EntryType, Skipped
from core.tree.source import Root, Source
from core.tree.stretch import Stretch
from core.tree.walk import LinkGroups
from tests.support.strange_trees import ODD_NAMES, deep_tree, strange_tree
from tests.support.trees import IS_ROOT, entries_of, look, open_descriptors


def walk(source, **how):
    return entries_of(walk_module.walk(source, **how))


def paths(root, reports, **how):
    with Source([Root.of(root, b"")], reports) as source:
        return [entry.path for entry in walk(source, **how)]


def test_everything_is_found_and_is_what_it_is(tmp_path, reports):
    strange_tree(tmp_path / "tree")
    facts = look(tmp_path / "tree")
    with Source([Root.of(tmp_path / "tree")], reports) as source:
        entries = {entry.path: entry for entry in walk(source)}
    assert set(entries) == {b"tree", *(b"tree/" + path for path in facts if path)}
    for path, expected in facts.items():
        entry = entries[b"tree/" + path if path else b"tree"]
        assert (entry.mode, entry.uid, entry.gid) == (expected.mode, expected.uid, expected.gid)
        assert (entry.mtime_ns, entry.size) == (expected.mtime_ns, expected.size)
        assert entry.target == expected.target
        assert os.makedev(*entry.rdev) == expected.rdev
        assert (entry.hard_link is not None) is bool(expected.names)
    assert reports.lines == []


def test_the_order_is_that_of_names_with_a_directory_before_its_content(tmp_path, reports):
    rng = random.Random(3)
    names = ["a", "a.b", "a b", "B", "b", "a!", "z", "ab"]
    for _ in range(60):
        folder = tmp_path.joinpath(*rng.choices(names, k=rng.randrange(5)))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file {rng.randrange(9)}").touch()
    found = paths(tmp_path, reports)
    assert found == sorted(found, key=lambda path: path.split(b"/"))
    assert len(found) == sum(1 for _ in tmp_path.rglob("*"))


def test_any_bytes_make_a_name(tmp_path, reports):
    for name in ODD_NAMES:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT))
    assert paths(tmp_path, reports) == sorted(ODD_NAMES)


def test_a_link_is_itself_and_is_not_followed(tmp_path, reports):
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "circle").symlink_to(".")
    assert paths(tmp_path, reports) == [b"circle", b"link", b"real", b"real/inner"]
    with Source([Root.of(tmp_path / "link")], reports) as source:
        (entry,) = walk(source)
    assert (entry.type, entry.target) == (EntryType.SYMLINK, b"real")
    with Source([Root.of(f"{tmp_path}/link/")], reports) as source:
        assert [entry.path for entry in walk(source)] == [b"link", b"link/inner"]


def test_a_root_may_be_a_file_or_missing(tmp_path, reports):
    (tmp_path / "file").touch()
    roots = [Root.of(tmp_path / "file"), Root.of(tmp_path / "gone" / "x"), Root.of("/none")]
    with Source(roots, reports) as source:
        assert [entry.path for entry in walk(source)] == [b"file"]
    assert [(path, type(e)) for path, e in reports.all] == [
        (b"none", FileNotFoundError),
        (b"x", FileNotFoundError),
    ]


def test_directories_above_come_first_without_what_else_is_in_them(tmp_path, reports):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "a" / "other").touch()
    with Source([Root.absolute(tmp_path / "a" / "b")], reports) as source:
        found = list(walk(source))
    inner = os.fsencode(tmp_path)[1:]
    assert [entry.path for entry in found[-3:]] == [
        inner + b"/a",
        inner + b"/a/b",
        inner + b"/a/b/file",
    ]
    assert [e.path for e in found[:-3]] == [
        b"/".join(inner.split(b"/")[: n + 1]) for n in range(inner.count(b"/") + 1)
    ]
    assert all(entry.is_directory for entry in found[:-1])


def test_what_is_excluded_is_not_looked_into(tmp_path, reports, monkeypatch):
    for name in ("cache", "keep"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "x.tmp").touch()
    asked = []

    def exclude(path, is_directory):
        asked.append((path, is_directory))
        return path == b"cache" or path.endswith(b".tmp")

    assert paths(tmp_path, reports, exclude=exclude) == [b"keep", b"keep/inner"]
    assert asked == [
        (b"cache", True),
        (b"keep", True),
        (b"keep/inner", True),
        (b"keep/x.tmp", False),
    ]


@pytest.mark.usefixtures("python_kernel")
def test_what_cannot_be_looked_at_is_reported_unless_it_is_excluded(tmp_path, reports, monkeypatch):
    for name in ("a", "locked", "z"):
        (tmp_path / name).mkdir()
    real = os.stat

    def stat(name, **how):
        if name == b"locked":
            raise PermissionError(13, "Permission denied")
        return real(name, **how)

    monkeypatch.setattr(os, "stat", stat)
    assert paths(tmp_path, reports) == [b"a", b"z"]
    assert reports.lines == ["locked: [Errno 13] Permission denied"]
    assert paths(tmp_path, reports, exclude=lambda path, _: path == b"locked") == [b"a", b"z"]
    assert len(reports.all) == 1


def test_other_file_systems_may_be_left_out(reports):
    if not Path("/proc/self").exists() or Path("/").stat().st_dev == Path("/proc").stat().st_dev:
        pytest.skip("/proc is no file system of its own here")

    def exclude(path, _):
        return not path.startswith(b"proc") or path.count(b"/") > 1

    with Source([Root.of("/")], reports) as source:
        alone = [e.path for e in walk(source, exclude=exclude, one_file_system=True)]
        both = [e.path for e in walk(source, exclude=exclude)]
    assert alone == [b"proc"]
    assert b"proc/self" in both


def test_sockets_are_reported_and_left_out(tmp_path, reports, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert paths(tmp_path, reports) == []
    ((path, error),) = reports.all
    assert path == b"socket"
    assert isinstance(error, Skipped)


@pytest.mark.usefixtures("python_kernel")
def test_what_vanishes_meanwhile_is_reported_and_the_walk_goes_on(tmp_path, reports, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").touch()
    (tmp_path / "z").touch()
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda fd: [*real(fd), "ghost"])
    found = []
    with Source([Root.of(tmp_path, b"")], reports) as source:
        for entry in walk(source):
            found.append(entry.path)
            if entry.path == b"folder":
                shutil.rmtree(tmp_path / "folder")
    assert found == [b"folder", b"z"]
    assert [(path, type(e)) for path, e in reports.all] == [
        (b"folder", FileNotFoundError),
        (b"ghost", FileNotFoundError),
    ]


def test_a_directory_exchanged_for_a_link_is_not_followed(tmp_path, reports):
    (tmp_path / "tree" / "folder").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").touch()
    with Source([Root.of(tmp_path / "tree", b"")], reports) as source:
        found = []
        for entry in walk(source):
            found.append(entry.path)
            (tmp_path / "tree" / "folder").rmdir()
            (tmp_path / "tree" / "folder").symlink_to(tmp_path / "secret")
    assert found == [b"folder"]
    assert [path for path, _ in reports.all] == [b"folder"]


def test_directories_without_permission_are_entries_but_not_entered(unprivileged, reports):
    for mode in (0o000, 0o111, 0o444):
        folder = unprivileged / f"{mode:o}"
        folder.mkdir()
        (folder / "inner").touch()
        folder.chmod(mode)
    (unprivileged / "open").mkdir()
    assert paths(unprivileged, reports) == [b"0", b"111", b"444", b"open"]
    assert [(path, type(e)) for path, e in reports.all] == [
        (b"0", PermissionError),
        (b"111", PermissionError),
        (b"444/inner", PermissionError),  # listed, not looked at
    ]
    for mode in ("0", "111", "444"):
        (unprivileged / mode).chmod(0o700)


@pytest.mark.slow
def test_deep_trees_are_walked_with_few_descriptors(tmp_path, reports):
    deepest = deep_tree(tmp_path, 500)
    assert len(deepest) > 20 * 4096
    before, most, found = len(open_descriptors()), 0, []
    with Source([Root.of(tmp_path, b"")], reports) as source:
        for entry in walk(source):
            found.append(entry.path)
            if len(found) % 50 == 0:
                most = max(most, len(open_descriptors()))
    assert len(found) == 1000
    assert deepest in found
    assert 0 < most - before <= limits.TREE_OPEN_DIRECTORIES_MAX
    assert len(open_descriptors()) == before
    assert found == sorted(found, key=lambda path: path.split(b"/"))


def test_nesting_beyond_the_limit_is_reported(tmp_path, reports, monkeypatch):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    monkeypatch.setattr(limits, "PATH_DEPTH_MAX", 2)
    assert paths(tmp_path, reports) == [b"a", b"a/b"]
    assert reports.lines == ["a/b: is nested too deeply to look into"]
    monkeypatch.setattr(limits, "PATH_DEPTH_MAX", 9)
    monkeypatch.setattr(limits, "PATH_BYTES_MAX", 3)
    assert paths(tmp_path, reports) == [b"a", b"a/b"]
    assert reports.lines[1:] == ["a/b/c: a path of 5 bytes"]


def test_wide_directories_need_no_look_at_each_name(tmp_path, reports, monkeypatch):
    monkeypatch.setattr(limits, "TREE_OPEN_DIRECTORIES_MAX", 2)
    for number in range(35):
        (tmp_path / f"{number:02}" / "inner").mkdir(parents=True)
        (tmp_path / f"{number:02}" / "link").symlink_to(str(number))
    made = []
    real = walk_module.entry_of_row
    monkeypatch.setattr(walk_module, "entry_of_row", lambda *a: made.append(a[0]) or real(*a))
    with Source([Root.of(tmp_path, b"")], reports) as source:
        entries = walk(source)
        assert next(entries).path == b"00"
        rest = list(entries)
    assert made == [b"%02d/link" % number for number in range(35)]
    assert [e.path for e in rest][-3:] == [b"34", b"34/inner", b"34/link"]
    assert [e.target for e in rest if e.target] == [b"%d" % number for number in range(35)]
    assert reports.lines == []


def test_a_link_that_is_gone_when_its_target_is_read_is_reported(tmp_path, reports):
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to("x")
    (tmp_path / "c").symlink_to("x")
    (tmp_path / "d").touch()
    with Source([Root.of(tmp_path, b"")], reports) as source:
        entries = walk(source)
        assert next(entries).path == b"a"
        (tmp_path / "b").unlink()
        (tmp_path / "c").unlink()
        (tmp_path / "c").mkdir()
        assert [entry.path for entry in entries] == [b"d"]
    assert [(path, type(e)) for path, e in reports.all] == [
        (b"b", FileNotFoundError),
        (b"c", OSError),
    ]


def test_the_first_of_several_names_is_remembered(tmp_path, reports):
    for folder, name in [("a", "x"), ("b", "y"), ("c", "z")]:
        (tmp_path / folder).mkdir()
        if folder == "a":
            (tmp_path / "a" / "x").write_bytes(b"once")
        else:
            os.link(tmp_path / "a" / "x", tmp_path / folder / name)
    (tmp_path / "d").write_bytes(b"alone")
    links = LinkGroups()
    with Source([Root.of(tmp_path, b"")], reports) as source:
        firsts = {e.path: links.first_of(e) for e in walk(source) if not e.is_directory}
    assert firsts == {b"a/x": None, b"b/y": b"a/x", b"c/z": b"a/x", b"d": None}
    assert links._first == {}  # complete groups take no room


def test_a_reused_inode_number_is_no_link():
    old = Entry(b"old", EntryType.FILE, size=5, mtime_ns=1, dev=1, ino=7, nlink=2)
    new = old._replace(path=b"new", mtime_ns=2)
    links = LinkGroups()
    assert links.first_of(old) is None
    assert links.first_of(new) is None
    assert links.first_of(old._replace(path=b"again")) == b"old"


def test_a_first_name_that_could_not_be_kept_is_forgotten():
    entry = Entry(b"a", EntryType.FILE, dev=1, ino=7, nlink=3)
    links = LinkGroups()
    assert links.first_of(entry) is None
    links.forget(entry)
    assert links.first_of(entry._replace(path=b"b")) is None
    assert links.first_of(entry._replace(path=b"c")) == b"b"


@pytest.mark.skipif(not IS_ROOT, reason="only root may make devices")
def test_devices_have_their_numbers(tmp_path, reports):
    os.mknod(tmp_path / "device", 0o020600, os.makedev(4095, 1_000_000))
    with Source([Root.of(tmp_path, b"")], reports) as source:
        (entry,) = walk(source)
    assert (entry.type, entry.rdev) == (EntryType.CHARACTER, (4095, 1_000_000))


def test_a_path_is_bounded_with_its_last_name(tmp_path, reports, monkeypatch):
    monkeypatch.setattr(limits, "PATH_BYTES_MAX", 12)
    monkeypatch.setattr(limits, "NAME_BYTES_MAX", 5)
    (tmp_path / "tree" / "abcd" / "efgh").mkdir(parents=True)
    for path in ("abcd/123", "abcd/efgh/12", "abcd/efgh/123"):
        (tmp_path / "tree" / path).touch()
    assert paths(tmp_path / "tree", reports) == [
        *(b"abcd", b"abcd/123", b"abcd/efgh", b"abcd/efgh/12"),
    ]
    assert len(reports.lines) == 1


# --- what goes together --------------------------------------------------------------------------


def shape(root, reports, **how):
    """Paths: a list for each stretch, one alone for each entry."""
    with Source([Root.of(root, b"")], reports) as source:
        found = walk_module.walk(source, **how)
        return [part.paths if isinstance(part, Stretch) else part.path for part in found]


def test_small_files_go_together_up_to_the_next_directory(tmp_path, reports):
    for name in ("a", "b", "c/1", "c/2", "d/e/1", "f", "g"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert shape(tmp_path, reports) == [
        [b"a", b"b", b"c"],
        [b"c/1", b"c/2"],
        [b"d"],
        [b"d/e"],
        [b"d/e/1"],
        [b"f", b"g"],
    ]


def test_what_is_not_plain_goes_alone(tmp_path, reports):
    for name in "abcdefg":
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"123456")
    (tmp_path / "d").unlink()
    (tmp_path / "d").symlink_to("x")
    (tmp_path / "f").unlink()
    os.link(tmp_path / "e", tmp_path / "f")
    assert shape(tmp_path, reports, small_bytes_max=5) == [
        *([b"a"], b"b", [b"c"], b"d", b"e", b"f", [b"g"])
    ]


def test_what_is_left_out_parts_what_stands_around_it(tmp_path, reports):
    for name in "abcdef":
        (tmp_path / name).touch()
    own = (tmp_path / "b").stat()
    found = shape(
        tmp_path,
        reports,
        exclude=lambda path, _: path in b"de",
        own={(own.st_dev, own.st_ino), (own.st_dev + 1, (tmp_path / "a").stat().st_ino)},
    )
    assert found == [[b"a"], [b"c"], [b"f"]]


def test_a_root_that_is_our_own_is_left_out(tmp_path, reports):
    (tmp_path / "a").touch()
    own = (tmp_path / "a").stat()
    with Source([Root.of(tmp_path / "a")], reports) as source:
        assert not list(walk(source, own={(own.st_dev, own.st_ino)}))
        assert [e.path for e in walk(source, exclude=lambda *_: True)] == [b"a"]


def test_many_files_of_one_directory_come_in_parts(tmp_path, reports):
    names = [b"%04d" % number for number in range(limits.TREE_BATCH_FILES_MAX + 5)]
    for name in names:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT))
    first, rest = shape(tmp_path, reports)
    assert (first, rest) == (names[:-5], names[-5:])
