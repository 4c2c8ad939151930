# Reading many files gives what reading each of them gives.

import os
import random

import pytest

from core import limits
from core.native import open_kernel
from core.tree import read_batch as batch_module
from core.tree.content import read_small
from core.tree.entry import Changed, Entry
from core.tree.read_batch import Plain, read_ahead, read_many, room
from core.tree.source import Root, Source
from core.tree.walk import walk
from tests.support import privileges
from tests.support.strange_trees import ODD_NAMES, can_set_xattr
from tests.support.trees import entries_of, open_descriptors


@pytest.fixture(params=["compiled", "python"])
def tree(request, tmp_path, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(batch_module, "kernel", lambda: open_kernel("python"))
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


@pytest.fixture
def source(tree, reports):
    with Source([Root.of(tree, b"")], reports) as source:
        yield source


@pytest.fixture
def one_by_one(monkeypatch):
    """The paths that were not read together with others."""
    paths = []

    def read(source, entry):
        paths.append(entry.path)
        return read_small(source, entry)

    monkeypatch.setattr(batch_module, "read_small", read)
    return paths


def files_of(source):
    return [entry for entry in entries_of(walk(source)) if not entry.is_directory]


def test_plain_files_are_read_together(tree, source, one_by_one):
    rng = random.Random(1)
    contents = {}
    for number in range(200):
        folder = tree.joinpath(*rng.choices("abc", k=rng.randrange(4)))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"file {number}"
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 100, 5000])))
        contents[os.fsencode(path.relative_to(tree))] = path.read_bytes()
    entries = files_of(source)
    found = list(read_many(source, entries))
    assert [(small.entry, small.changed) for small in found] == [(e, False) for e in entries]
    assert {small.entry.path: small.data for small in found} == contents
    assert one_by_one == []


def test_any_bytes_make_a_name(tree, source, one_by_one):
    for name in ODD_NAMES:
        fd = os.open(os.fsencode(tree) + b"/" + name, os.O_CREAT | os.O_WRONLY)
        os.write(fd, name)
        os.close(fd)
    assert [small.data for small in read_many(source, files_of(source))] == sorted(ODD_NAMES)
    assert one_by_one == []


def test_roots_of_several_places_are_read_together(tree, tmp_path, reports):
    other = tmp_path / "other"
    other.mkdir()
    (tree / "same").write_bytes(b"one")
    (other / "same").write_bytes(b"other")
    roots = [Root.of(tree / "same", b"a"), Root.of(other / "same", b"b")]
    with Source(roots, reports) as source:
        found = list(read_many(source, list(entries_of(walk(source)))))
    assert [(small.entry.path, small.data) for small in found] == [(b"a", b"one"), (b"b", b"other")]


@pytest.mark.parametrize("data", [b"shorter", b"much longer than before", b"same size!", b""])
def test_what_changed_is_read_as_it_is_now(tree, source, one_by_one, data):
    for name in "abc":
        (tree / name).write_bytes(b"ten bytes!")
    entries = files_of(source)
    (tree / "b").write_bytes(data)
    os.utime(tree / "b", ns=(1, 1))
    found = list(read_many(source, entries))
    assert [small.data for small in found] == [b"ten bytes!", data, b"ten bytes!"]
    assert found[1].entry == files_of(source)[1]
    assert one_by_one == [b"b"]


def test_metadata_that_changed_comes_with_the_content(tree, source, one_by_one):
    (tree / "a").write_bytes(b"content")
    entries = files_of(source)
    (tree / "a").chmod(0o611)
    (small,) = read_many(source, entries)
    assert (small.data, small.entry.mode) == (b"content", 0o611)
    assert one_by_one == [b"a"]


def test_what_is_no_file_any_more_is_an_error_among_the_others(tree, source, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"ten bytes!")
    names = ["before", "directory", "fifo", "gone", "link", "zero"]
    for name in names:
        (tree / name).write_bytes(b"ten bytes!")
    entries = files_of(source)
    for name in names[1:]:
        (tree / name).unlink()
    (tree / "directory").mkdir()
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to(secret)
    (tree / "zero").symlink_to("/dev/zero")
    before = open_descriptors()
    first, *others = read_many(source, entries)
    assert first.data == b"ten bytes!"
    kinds = [Changed, Changed, FileNotFoundError, Changed, Changed]
    assert [type(error) for error in others] == kinds
    assert open_descriptors() == before


def test_a_folder_exchanged_for_a_link_is_not_read_through(tree, source, tmp_path):
    (tree / "a").mkdir()
    (tree / "a" / "file").write_bytes(b"inside")
    (tree / "b").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"secret")
    entries = files_of(source)
    source.close()
    (tree / "a").rename(tmp_path / "moved")
    (tree / "a").symlink_to(tmp_path / "elsewhere")
    (error,) = read_many(source, entries)
    assert isinstance(error, OSError)


def test_what_may_not_be_read_is_an_error_of_its_own(tree, tmp_path, reports):
    with privileges.unprivileged(tmp_path) as folder:
        for name in "abc":
            (folder / name).write_bytes(name.encode())
        (folder / "b").chmod(0)
        with Source([Root.of(folder, b"")], reports) as source:
            found = list(read_many(source, files_of(source)))
        for path in folder.iterdir():
            path.unlink()
    assert isinstance(found[1], PermissionError)
    assert [found[0].data, found[2].data] == [b"a", b"c"]


def test_attributes_come_with_the_content(tree, source, one_by_one):
    if not can_set_xattr(tree, "user.test"):
        pytest.skip("no attributes on this file system")
    (tree / "a").write_bytes(b"a")
    (tree / "b").write_bytes(b"b")
    os.setxattr(tree / "a", "user.test", b"value")
    entries = [entry for entry in files_of(source) if len(entry.path) == 1]
    a, b = read_many(source, entries)
    assert (a.data, a.entry.xattrs) == (b"a", ((b"user.test", b"value"),))
    assert (b.data, b.entry.xattrs) == (b"b", ())
    assert one_by_one == [b"a"]


def test_batches_are_bounded(tree, source, monkeypatch):
    monkeypatch.setattr(limits, "TREE_BATCH_DIRECTORIES_MAX", 3)
    monkeypatch.setattr(limits, "TREE_OPEN_DIRECTORIES_MAX", 3)
    monkeypatch.setattr(limits, "TREE_BATCH_FILES_MAX", 7)
    monkeypatch.setattr(limits, "TREE_BATCH_BYTES_MAX", 10_000)
    for number in range(40):
        folder = tree / f"{number // 2 if number < 20 else 0:02}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_bytes(b"%d" % number * (4000 if number % 9 == 0 else 1))
    real, calls = batch_module.kernel(), []
    before = len(open_descriptors())

    class Counting:
        @staticmethod
        def read_files(folders, rows, names, room):
            calls.append((len(names), len(room) - 1, len(open_descriptors()) - before))
            return real.read_files(folders, rows, names, room)

    monkeypatch.setattr(batch_module, "kernel", Counting)
    entries = files_of(source)
    found = list(read_many(source, entries))
    expected = [(tree / os.fsdecode(entry.path)).read_bytes() for entry in entries]
    assert [small.data for small in found] == expected
    assert max(count for count, _, _ in calls) == 7
    assert max(size for _, size, _ in calls) <= 10_000
    assert max(held for _, _, held in calls) <= 3 * 3  # those of the source, and two batches


def test_memory_is_used_again_from_call_to_call(tree, source):
    for name in "abc":
        (tree / name).write_bytes(name.encode() * 100)
    entries, kept = files_of(source), room()
    found = [bytes(read.data) for _ in range(50) for read in read_many(source, entries, kept)]
    assert found == [b"a" * 100, b"b" * 100, b"c" * 100] * 50
    assert len(kept._kept) == 1
    held = [read.data for read in read_many(source, entries, kept)]
    list(read_many(source, entries[::-1], kept))
    assert [bytes(data) for data in held] == found[:3]


def test_a_reader_that_stops_early_leaves_nothing_open(tree, source):
    for name in "abc":
        (tree / name).write_bytes(b"x")
    entries = files_of(source)
    before = open_descriptors()
    found = read_many(source, entries)
    assert next(found).data == b"x"
    found.close()
    assert open_descriptors() == before


def test_no_files_are_no_contents(source):
    assert list(read_many(source, [])) == []


def test_the_time_of_reading_stays(tree, source):
    (tree / "a").write_bytes(b"x")
    os.utime(tree / "a", ns=(5, 5))
    entries = files_of(source)
    (small,) = read_many(source, entries)
    assert small.data == b"x"
    assert (tree / "a").stat().st_atime_ns == 5


def test_a_time_that_no_request_can_hold_is_read_alone(tree, source, one_by_one):
    (tree / "a").write_bytes(b"x")
    (entry,) = files_of(source)
    (small,) = read_many(source, [entry._replace(ctime_ns=1 << 70)])
    assert small.data == b"x"
    assert one_by_one == [b"a"]


def test_a_file_that_holds_more_than_its_length_says_is_read_whole(tree, reports):
    if not os.access("/proc/version", os.R_OK):
        pytest.skip("no /proc here")
    with Source([Root.of("/proc/version")], reports) as source:
        (entry,) = entries_of(walk(source))
        (small,) = read_many(source, [entry])
    assert entry.size == 0
    assert small.data.startswith(b"Linux version ")


def test_files_that_are_roots_lie_where_they_lie(tree, reports, one_by_one):
    for name in ("a", "b"):
        (tree / name).mkdir()
        (tree / name / f"file {name}").write_bytes(name.encode())
    roots = [Root.of(tree / name / f"file {name}") for name in ("a", "b")]
    with Source(roots, reports) as source:
        found = [read.data for read in read_many(source, entries_of(walk(source)))]
    assert found == [b"a", b"b"]
    assert not one_by_one


# --- what a walk found ---------------------------------------------------------------------------


def read(source):
    """Plain ones as a list of their paths, others as their path; and every content."""
    shape, contents = [], {}
    for part in read_ahead(source, walk(source)):
        shape.append(part.paths if isinstance(part, Plain) else part.path)
        if isinstance(part, Plain):
            size = len(part.rows) // len(part.paths)
            assert part.bytes == sum(map(len, part.contents))
            assert size == 64
            contents |= dict(zip(part.paths, map(bytes, part.contents), strict=True))
    return shape, contents


def test_several_directories_are_one_plain_part(tree, source):
    for name, data in {"a": b"1", "b/c": b"", "b/d": b"22", "e": b"333"}.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(data)
    paths = [b"a", b"b", b"b/c", b"b/d", b"e"]
    assert read(source) == ([paths], dict(zip(paths, [b"1", b"", b"", b"22", b"333"], strict=True)))


def test_what_is_not_plain_parts_what_is(tree, source, monkeypatch):
    for name in "abcde":
        (tree / name).write_bytes(name.encode())
    (tree / "d").unlink()
    (tree / "d").symlink_to("x")
    (tree / "f").mkdir()
    real = batch_module.kernel()

    class Late:
        @staticmethod
        def read_files(*args):
            (tree / "b").write_bytes(b"changed")
            (tree / "f").chmod(0o711)
            return real.read_files(*args)

    monkeypatch.setattr(batch_module, "kernel", Late)
    shape, contents = read(source)
    assert shape == [[b"a"], b"b", [b"c"], b"d", [b"e"], b"f"]
    assert contents == {b"a": b"a", b"c": b"c", b"e": b"e"}


def test_directories_with_attributes_are_left_to_others(tree, source):
    if not can_set_xattr(tree, "user.test"):
        pytest.skip("no attributes on this file system")
    for name in "abc":
        (tree / name).mkdir()
    os.setxattr(tree / "b", "user.test", b"value")
    shape, _ = read(source)
    assert [part for part in shape if not isinstance(part, list)] == [b"b"]
    assert [path for part in shape if isinstance(part, list) for path in part] == [b"a", b"c"]


def test_parts_that_fit_no_batch_are_split(tree, source, monkeypatch):
    monkeypatch.setattr(limits, "TREE_BATCH_BYTES_MAX", 100)
    sizes = [10, 90, 1, 100, 1, 250, 0, 99, 30, 30, 30, 30]
    for number, size in enumerate(sizes):
        (tree / f"{number:02}").write_bytes(b"x" * size)
    shape, contents = read(source)
    assert [len(data) for data in contents.values()] == sizes
    assert shape == [
        [b"%02d" % number for number in range(first, end)]
        for first, end in [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 8), (8, 11), (11, 12)]
    ]


def test_a_directory_that_is_gone_is_said_of_everything_in_it(tree, tmp_path, reports):
    (tree / "a").mkdir()
    (tree / "a" / "1").touch()
    (tree / "a" / "2").touch()
    with Source([Root.of(tree, b"")], reports) as source:
        found = list(walk(source))
        source.close()
        (tree / "a").rename(tmp_path / "moved")
        parts = list(read_ahead(source, found))
    assert isinstance(parts[0], Entry)  # the directory itself
    assert [part.path for part in parts[1:]] == [b"a/1", b"a/2"]


def test_directories_above_the_roots_lie_where_they_really_are(tmp_path, reports):
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "inner" / "file").write_bytes(b"content")
    with Source([Root.absolute(tmp_path / "real" / "inner")], reports) as source:
        shape, contents = read(source)
    path = os.fsencode(tmp_path)[1:] + b"/real/inner"
    above = [b"/".join(path.split(b"/")[: n + 1]) for n in range(path.count(b"/") + 1)]
    flat = [p for part in shape for p in (part if isinstance(part, list) else [part])]
    assert flat == [*above, path + b"/file"]
    assert contents[path + b"/file"] == b"content"
    assert not reports.lines


def test_some_of_a_plain_part(tree, source):
    for name in "abcd":
        (tree / name).write_bytes(name.encode())
    (plain,) = read_ahead(source, walk(source))
    part = plain.part(1, 3)
    assert (part.paths, [bytes(data) for data in part.contents]) == ([b"b", b"c"], [b"b", b"c"])
    assert (part.rows, part.bytes) == (plain.rows[64:192], 2)
