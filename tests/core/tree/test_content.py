import os
import random
import shutil
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import limits
from core.tree import content
from core.tree.content import Extent, open_file, read_small, read_xattrs
from core.tree.entry import Changed, Incomplete, entry_of
from core.tree.source import Root, Source
from tests.support.strange_trees import ACL_DEFAULT, acl, can_set_xattr
from tests.support.trees import Reports, open_descriptors

KIB = 1024


@pytest.fixture
def source(tmp_path, reports):
    (tmp_path / "tree").mkdir()
    with Source([Root.of(tmp_path / "tree", b"")], reports) as source:
        yield source


@pytest.fixture
def path(tmp_path, source):
    path = tmp_path / "tree" / "file"
    path.write_bytes(b"what was seen")
    return path


def seen(path):
    target = os.fsencode(path.readlink()) if path.is_symlink() else b""
    return entry_of(path.name.encode(), path.lstat(), target)


def test_a_small_file_is_read_at_once(source, path):
    entry = seen(path)
    assert read_small(source, entry) == (entry, b"what was seen", False)
    path.write_bytes(b"")
    assert read_small(source, seen(path)).data == b""


def test_a_file_that_changed_since_it_was_seen_is_read_as_it_is_now(source, path):
    for data in (b"short", b"much longer than what was seen before", b""):
        entry = seen(path)
        path.write_bytes(data)
        os.utime(path, ns=(9, len(data)))
        small = read_small(source, entry)
        assert (small.data, small.changed) == (data, False)
        assert small.entry == seen(path)


def test_a_file_exchanged_for_another_is_read_with_its_own_metadata(source, path):
    entry = seen(path)
    other = path.with_name("other")
    other.write_bytes(b"another file")
    other.chmod(0o604)
    other.rename(path)
    small = read_small(source, entry)
    assert (small.data, small.entry.mode, small.changed) == (b"another file", 0o604, False)
    with open_file(source, entry) as file:
        assert file.entry == seen(path)
        assert file.read(100) == b"another file"


def test_a_file_written_to_all_the_time_is_marked(source, path, monkeypatch):
    entry = seen(path)
    real = os.read

    def read(fd, size):
        data = real(fd, size)
        with path.open("ab") as file:
            file.write(b"+")
        return data[:-1] if size == 1 else data

    monkeypatch.setattr(os, "read", read)
    small = read_small(source, entry)
    assert small.changed
    assert small.entry.size == len(small.data)
    assert small.data.startswith(b"what was seen")


def test_a_small_file_that_becomes_large_is_not_taken_into_memory(source, path, monkeypatch):
    entry = seen(path)
    monkeypatch.setattr(limits, "TREE_SMALL_FILE_BYTES_MAX", 100)
    path.write_bytes(b"x" * 101)
    with pytest.raises(Changed, match="grew"):
        read_small(source, entry)


@pytest.mark.parametrize("read", [read_small, open_file])
def test_what_is_no_file_any_more_is_neither_read_nor_waited_for(source, path, tmp_path, read):
    entry = seen(path)
    secret = tmp_path / "secret"
    secret.write_bytes(b"what was seen")

    def fifo_with_writer():
        os.mkfifo(path)
        fds.append(os.open(path, os.O_RDWR))  # opened, but nothing in it

    fds = []
    for make in (
        lambda: path.symlink_to(secret),
        lambda: os.mkfifo(path),
        fifo_with_writer,
        path.mkdir,
        lambda: path.symlink_to("/dev/zero"),
    ):
        path.unlink()
        make()
        with pytest.raises(Changed, match="no regular file"):
            read(source, entry)
        if path.is_dir():
            path.rmdir()
            path.touch()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(source, entry)
    os.close(fds[0])


def test_a_directory_on_the_way_exchanged_for_a_link_is_not_followed(source, tmp_path):
    (tmp_path / "tree" / "inner").mkdir()
    (tmp_path / "secret").mkdir()
    for folder in ("tree/inner", "secret"):
        (tmp_path / folder / "file").write_bytes(folder.encode())
    entry = entry_of(b"inner/file", (tmp_path / "tree" / "inner" / "file").stat())
    shutil.rmtree(tmp_path / "tree" / "inner")
    (tmp_path / "tree" / "inner").symlink_to(tmp_path / "secret")
    for read in (read_small, open_file):
        with pytest.raises(NotADirectoryError):
            read(source, entry)


def test_reading_leaves_no_trace(source, path):
    os.utime(path, ns=(1, 1))  # an atime so old that reading would set it
    read_small(source, seen(path))
    with open_file(source, seen(path)) as file:
        file.read(5)
    if hasattr(os, "O_NOATIME"):
        assert path.stat().st_atime_ns == 1


def test_without_the_right_to_leave_no_trace_it_is_read_all_the_same(source, path, monkeypatch):
    real = os.open

    def refuse(name, flags, **how):
        if flags & content._NO_ATIME:
            raise PermissionError(1, "Operation not permitted")
        return real(name, flags, **how)

    monkeypatch.setattr(os, "open", refuse)
    assert read_small(source, seen(path)).data == b"what was seen"


def test_a_large_file_is_read_bit_by_bit(source, path):
    data = random.Random(1).randbytes(300_000)
    path.write_bytes(data)
    with open_file(source, seen(path)) as file:
        assert not file.is_sparse
        assert list(file.extents()) == [Extent(0, len(data))]
        parts = iter(lambda: file.read(70_000), b"")
        assert b"".join(parts) == data
        assert file.read_at(250_000, 99_999) == data[250_000:]
        assert file.read_at(300_000, 1) == file.read_at(400_000, 1) == b""
        room = memoryview(bytearray(99_999))
        assert file.read_into(250_000, room) == 50_000
        assert room[:50_000] == data[250_000:]
        assert file.read_into(300_000, room) == file.read_into(400_000, room) == 0
        assert not file.changed()
        assert file.entry == seen(path)


def test_a_file_that_grows_is_read_up_to_where_it_was(source, path):
    with open_file(source, seen(path)) as file:
        with path.open("ab") as more:
            more.write(b", and more")
        assert file.read(100) == b"what was seen"
        assert file.read(100) == b""
        assert file.entry.size == 13
        assert file.changed()


def test_a_file_that_shrinks_ends_where_it_ends(source, path):
    with open_file(source, seen(path)) as file:
        assert file.read(5) == b"what "
        os.truncate(path, 8)
        assert file.read(100) == b"was"
        assert file.read(100) == b""
        assert file.entry.size == 8
        assert file.changed()


def test_a_file_that_shrinks_ends_there_for_who_brings_room_too(source, path):
    with open_file(source, seen(path)) as file:
        os.truncate(path, 8)
        room = memoryview(bytearray(100))
        assert file.read_into(5, room) == 3
        assert file.read_into(8, room) == 0
        assert file.entry.size == 8
        assert file.changed()


def test_a_read_that_gives_less_is_continued(source, path, monkeypatch):
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 3), at))
    with open_file(source, seen(path)) as file:
        assert file.read(100) == b"what was seen"


def test_a_write_that_hides_behind_the_old_time_is_seen(source, path):
    entry = seen(path)
    os.utime(path, ns=(5, 5))
    with open_file(source, entry) as file:
        file.read(100)
        opened = path.stat().st_ctime_ns
        while path.stat().st_ctime_ns == opened:  # until the clock of the system has moved
            path.write_bytes(b"WHAT WAS SEEN")
            os.utime(path, ns=(5, 5))
        assert file.changed()


def write_islands(path, size, islands):
    with path.open("wb") as file:
        for offset, length in islands:
            file.seek(offset)
            file.write(b"d" * length)
        file.truncate(size)


def assert_covered(path, extents):
    data = path.read_bytes()
    end = 0
    for offset, length in extents:
        assert offset >= end
        assert length > 0
        assert data.count(0, end, offset) == offset - end
        end = offset + length
    assert end <= len(data)
    assert data.count(0, end) == len(data) - end


def knows_holes(path):
    write_islands(path, 1 << 20, [])
    return path.stat().st_blocks == 0


@pytest.mark.parametrize(
    ("size", "islands"),
    [
        (1 << 20, []),
        (1 << 20, [(512 * KIB, 4096)]),
        (1 << 20, [(0, 4096)]),
        (1 << 20, [((1 << 20) - 4096, 4096)]),
        ((1 << 20) + 5, [(1 << 20, 5)]),
        (2 << 20, [(0, 4096), (512 * KIB, 100_000), (1 << 20, 4096)]),
    ],
)
def test_holes_are_found_and_data_never_missed(source, path, size, islands):
    if not knows_holes(path):
        pytest.skip("this file system has no holes")
    write_islands(path, size, islands)
    with open_file(source, seen(path)) as file:
        assert file.is_sparse
        extents = list(file.extents())
        assert b"".join(file.read(1 << 19) for _ in range(6)) == path.read_bytes()
    assert_covered(path, extents)
    assert sum(length for _, length in extents) <= sum(n + 8192 for _, n in islands)


def test_small_holes_are_read_as_zeros(source, path):
    if not knows_holes(path):
        pytest.skip("this file system has no holes")
    write_islands(path, 1 << 20, [(at, 4096) for at in range(0, 256 * KIB, 16 * KIB)])
    with open_file(source, seen(path)) as file:
        extents = list(file.extents())
    assert_covered(path, extents)
    assert len(extents) == 1


def test_very_many_holes_end_in_one_long_stretch(source, path, monkeypatch):
    if not knows_holes(path):
        pytest.skip("this file system has no holes")
    monkeypatch.setattr(limits, "TREE_EXTENTS_MAX", 3)
    write_islands(path, 2 << 20, [(at, 4096) for at in range(0, 2 << 20, 256 * KIB)])
    with open_file(source, seen(path)) as file:
        extents = list(file.extents())
    assert_covered(path, extents)
    assert len(extents) == 3
    assert extents[-1].offset + extents[-1].length == 2 << 20


@settings(max_examples=40)
@given(st.data())
def test_extents_cover_what_a_file_system_says(tmp_path_factory, data):
    # A file system of our own: 64 blocks of 16 KiB, some of them data.
    block, blocks = 16 * KIB, data.draw(st.lists(st.booleans(), max_size=64))
    size = max(len(blocks) * block - data.draw(st.integers(0, block - 1)), 0)
    real = os.lseek

    def lseek(_fd, at, whence):
        wanted = whence == os.SEEK_DATA
        if at >= size:
            raise OSError(6, "No such device or address")
        for number in range(at // block, len(blocks)):
            if blocks[number] is wanted:
                return max(at, number * block)
        if wanted:
            raise OSError(6, "No such device or address")
        return size

    os.lseek = lseek
    try:
        extents = list(content._data_extents(0, size))
    finally:
        os.lseek = real
    covered = {n for at, length in extents for n in range(at // block, -(-(at + length) // block))}
    assert {n for n, is_data in enumerate(blocks) if is_data and n * block < size} <= covered
    ends = [(at, at + length) for at, length in extents]
    assert all(a[1] + limits.TREE_HOLE_BYTES_MIN <= b[0] for a, b in pairwise(ends))
    assert all(0 <= at < end <= size for at, end in ends)


def test_a_file_system_without_holes_has_one_extent(source, path, monkeypatch):
    def lseek(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "lseek", lseek)
    assert list(content._data_extents(0, 100)) == [Extent(0, 100)]


def test_attributes_come_with_the_content_or_alone(source, path, tmp_path):
    tree = tmp_path / "tree"
    if not can_set_xattr(tree, "user.x"):
        pytest.skip("this file system has no attributes")
    os.setxattr(path, "user.b", b"")
    os.setxattr(path, "user.a", b"1")
    expected = ((b"user.a", b"1"), (b"user.b", b""))
    assert read_small(source, seen(path)).entry.xattrs == expected
    with open_file(source, seen(path)) as file:
        assert file.entry.xattrs == expected
    assert read_xattrs(source, seen(path)) == expected
    folder = tree / "folder"
    folder.mkdir()
    os.setxattr(folder, "user.f", b"2")
    assert read_xattrs(source, seen(folder)) == ((b"user.f", b"2"),)
    (tree / "link").symlink_to("file")
    assert read_xattrs(source, seen(tree / "link")) == ()  # not those of the file


def test_an_acl_is_an_attribute(source, tmp_path):
    folder = tmp_path / "tree" / "folder"
    folder.mkdir()
    try:
        os.setxattr(folder, ACL_DEFAULT, acl())
    except OSError:
        pytest.skip("this file system has no ACLs")
    assert read_xattrs(source, seen(folder)) == ((ACL_DEFAULT.encode(), acl()),)


def test_attributes_of_special_files_are_read_without_opening_them(source, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "tree" / "fifo")
    source.open(b"")
    monkeypatch.setattr(os, "open", None)
    assert read_xattrs(source, seen(tmp_path / "tree" / "fifo")) == ()


def test_unreadable_attributes_are_reported_and_the_rest_is_kept(
    source, path, tmp_path, monkeypatch, reports
):
    if not can_set_xattr(tmp_path / "tree", "user.x"):
        pytest.skip("this file system has no attributes")
    for name in ("user.bad", "user.gone", "user.good"):
        os.setxattr(path, name, b"v")
    real = os.getxattr

    def getxattr(handle, name, **how):
        if name == b"user.bad":
            raise OSError(5, "Input/output error")
        if name == b"user.gone":
            raise OSError(61, "No data available")
        return real(handle, name, **how)

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert read_small(source, seen(path)).entry.xattrs == ((b"user.good", b"v"),)
    ((where, error),) = reports.all
    assert where == b"file"
    assert isinstance(error, Incomplete)


def test_more_attributes_than_allowed_are_reported(source, path, tmp_path, monkeypatch):
    if not can_set_xattr(tmp_path / "tree", "user.x"):
        pytest.skip("this file system has no attributes")
    for name in ("user.a", "user.b"):
        os.setxattr(path, name, b"v" * 100)
    for limit, value in (("XATTRS_MAX", 1), ("XATTRS_BYTES_MAX", 150)):
        source.report = reports = Reports()
        with monkeypatch.context() as patch:
            patch.setattr(limits, limit, value)
            assert len(read_small(source, seen(path)).entry.xattrs) == 1
        assert len(reports.all) == 1


def test_a_file_system_without_attributes_is_nothing_to_report(source, path, monkeypatch, reports):
    def listxattr(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "listxattr", listxattr)
    assert read_small(source, seen(path)).entry.xattrs == ()
    assert reports.all == []


def test_no_descriptor_is_left_open(source, path):
    source.open(b"")
    before = len(open_descriptors())
    read_small(source, seen(path))
    open_file(source, seen(path)).close()
    gone = seen(path)._replace(path=b"gone")
    path.unlink()
    path.mkdir()
    for entry in (gone, gone._replace(path=b"file")):
        for read in (read_small, open_file):
            with pytest.raises((FileNotFoundError, Changed)):
                read(source, entry)
    assert len(open_descriptors()) == before
