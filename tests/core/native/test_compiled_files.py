# Batches of file system calls: what C answers is what Python answers, whatever lies there.

import errno
import os
import shutil
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from core.native import compiled, open_kernel
from core.native.rows import (
    FOLDER,
    GIVEN,
    NO_STAT,
    NOT_PLAIN,
    OTHER_DEVICE,
    PLAIN,
    ROW,
    Row,
    row_of,
)
from tests.support import privileges
from tests.support.strange_trees import ODD_NAMES, can_set_xattr, strange_tree
from tests.support.trees import open_descriptors

BUILT = compiled.find(Path(compiled.__file__).parent) is not None
KERNELS = [*([open_kernel()] if BUILT else []), open_kernel("python")]


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.name)
def kernel(request):
    return request.param


@pytest.fixture
def listed(kernel):
    def of(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return kernel.list_directory(fd)
        finally:
            os.close(fd)

    return of


def rows(listed):
    names = listed.names.split(b"\0")[:-1]
    unpacked = map(Row._make, ROW.iter_unpack(listed.rows))
    return dict(zip(names, unpacked, strict=True))


# --- listing -------------------------------------------------------------------------------------


def test_both_kernels_give_the_same_bytes(tmp_path):
    tree = tmp_path / "tree"
    strange_tree(tree)
    for path in [*(folder for folder, _, _ in os.walk(tree)), "/dev"]:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        found = {kernel.list_directory(fd) for kernel in KERNELS}
        os.close(fd)
        assert len(found) == 1, path


def test_a_row_is_what_stat_says(tmp_path, listed):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "file").chmod(0o4751)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    os.link(tmp_path / "file", tmp_path / "second")
    os.utime(tmp_path / "file", ns=(1, -123_456_789_012))
    found = rows(listed(tmp_path))
    assert list(found) == [b"file", b"folder", b"link", b"pipe", b"second"]
    for name, row in found.items():
        expected = (tmp_path / name.decode()).lstat()
        size = expected.st_size if stat.S_ISREG(expected.st_mode) else 0
        assert row == (
            *(expected.st_ino, size, expected.st_mtime_ns, expected.st_ctime_ns),
            *(expected.st_mode, expected.st_uid, expected.st_gid, expected.st_nlink),
            *(0, 0, 0),
        )
    assert found[b"file"].mtime_ns == -123_456_789_012
    assert found[b"second"].nlink == 2


def test_any_bytes_make_a_name_and_names_sort_as_bytes(tmp_path, listed):
    names = {*ODD_NAMES, b"x" * 255, b"\xff" * 255, b"same start 1", b"same start 2", b"same star"}
    for name in names:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT))
    assert list(rows(listed(tmp_path))) == sorted(names)


def test_an_empty_directory_has_nothing(tmp_path, listed):
    found = listed(tmp_path)
    assert (found.names, found.rows, found.devs) == (b"", b"", ())
    assert found.dev == tmp_path.stat().st_dev


def test_a_directory_that_was_listed_is_listed_again_from_the_start(tmp_path, kernel):
    (tmp_path / "a").touch()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    first = kernel.list_directory(fd)
    (tmp_path / "b").touch()
    assert first.names == b"a\0"
    assert sorted(os.listdir(fd)) == ["a", "b"]  # noqa: PTH208 - the same descriptor
    with suppress(OSError):  # not every file system knows where a directory ends
        os.lseek(fd, 0, os.SEEK_END)
    assert kernel.list_directory(fd).names == b"a\0b\0"
    os.close(fd)


def test_listing_leaves_no_descriptor_and_no_lock_on_the_directory(tmp_path, kernel):
    (tmp_path / "a").touch()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    before = open_descriptors()
    kernel.list_directory(fd)
    assert open_descriptors() == before
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.list_directory(fd)
    assert len(open_descriptors()) == len(before) - 1


def test_what_is_no_directory_is_an_error(tmp_path, kernel):
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    before = open_descriptors()
    with pytest.raises(NotADirectoryError):
        kernel.list_directory(fd)
    assert open_descriptors() == before
    os.close(fd)


def test_what_may_be_listed_but_not_looked_at_has_a_row_that_says_so(tmp_path, listed):
    with privileges.unprivileged(tmp_path) as folder:
        (folder / "locked").mkdir()
        (folder / "locked" / "inner").touch()
        (folder / "locked").chmod(0o444)
        found = listed(folder / "locked")
        (folder / "locked").chmod(0o700)
    nothing = (0,) * 9
    assert rows(found) == {b"inner": (*nothing, NO_STAT, errno.EACCES)}


def test_what_is_mounted_there_is_marked(listed):
    if not Path("/proc/self").exists() or Path("/").stat().st_dev == Path("/proc").stat().st_dev:
        pytest.skip("/proc is no file system of its own here")
    found = listed("/")
    all_rows = rows(found)
    assert found.dev == Path("/").stat().st_dev
    assert all_rows[b"proc"].flags == OTHER_DEVICE
    assert all_rows[b"etc"].flags == 0
    by_name = dict(zip(all_rows, found.devs, strict=True))
    assert by_name[b"proc"] == Path("/proc").stat().st_dev
    assert by_name[b"etc"] == found.dev


def test_devices_have_their_numbers(listed):
    found = rows(listed("/dev"))
    assert found[b"null"].rdev == Path("/dev/null").stat().st_rdev == os.makedev(1, 3)


@pytest.mark.slow
def test_many_names_with_long_beginnings_in_common(tmp_path, listed):
    names = [b"the same beginning " * 5 + b"%d" % number for number in range(5_000)]
    for name in names:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT))
    assert list(rows(listed(tmp_path))) == sorted(names)


# --- reading and writing -------------------------------------------------------------------------
# What becomes of a file in a batch; tests/core/tree/test_read_batch.py and test_write_batch.py
# look at whole runs.


@pytest.fixture
def holder(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def wanted(path, **changed):
    row = Row._make(ROW.unpack(row_of(path.lstat())))
    return ROW.pack(*row._replace(**changed))


def read_files(kernel, holder, rows, names, size, **changed):
    """The results, and the room after it: what it held before shows what was not written to."""
    room = bytearray(b"\xee" * (size + 1))
    asked = {"count": len(names), "dev": changed.pop("dev", os.fstat(holder).st_dev)} | changed
    folders = FOLDER.pack(holder, *asked.values())
    return kernel.read_files(folders, rows, names, memoryview(room)), bytes(room)


def test_files_are_read_one_behind_the_other(tmp_path, holder, kernel):
    contents = {b"a": b"first", b"b": b"", b"c": b"third" * 2000}
    rows = b""
    for name, content in contents.items():
        path = tmp_path / name.decode()
        path.write_bytes(content)
        rows += wanted(path)
    joined = b"".join(contents.values())
    results, data = read_files(kernel, holder, rows, list(contents), len(joined))
    assert (results, data[:-1]) == (bytes([PLAIN] * 3), joined)
    assert read_files(kernel, holder, b"", [], 0)[0] == b""


def test_files_of_several_directories_are_read_in_one_call(tmp_path, kernel):
    folders, rows, names, held = b"", b"", [], []
    for count, folder in enumerate("xyz"):
        (tmp_path / folder).mkdir()
        held.append(os.open(tmp_path / folder, os.O_RDONLY))
        folders += FOLDER.pack(held[-1], count, tmp_path.stat().st_dev)
        for name in "ab"[:count]:
            (tmp_path / folder / name).write_bytes(folder.encode())
            rows += wanted(tmp_path / folder / name)
            names.append(name.encode())
    room = bytearray(4)
    assert list(kernel.read_files(folders, rows, names, memoryview(room))) == [PLAIN] * 3
    assert room == b"yzz\0"
    for fd in held:
        os.close(fd)


@pytest.mark.parametrize("field", ["ino", "mtime_ns", "ctime_ns", "mode", "uid", "gid", "nlink"])
def test_a_file_that_is_not_the_wanted_one_is_not_plain(tmp_path, holder, kernel, field):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"y")
    other = stat.S_IFREG | 0o123 if field == "mode" else 12345
    rows = wanted(tmp_path / "a", **{field: other}) + wanted(tmp_path / "b")
    results, data = read_files(kernel, holder, rows, [b"a", b"b"], 2)
    assert (list(results), data[1:2]) == ([NOT_PLAIN, PLAIN], b"y")


def test_a_file_on_another_device_is_not_plain(tmp_path, holder, kernel):
    (tmp_path / "a").write_bytes(b"x")
    results, _ = read_files(kernel, holder, wanted(tmp_path / "a"), [b"a"], 1, dev=12345)
    assert list(results) == [NOT_PLAIN]


@pytest.mark.parametrize("size", [0, 1, 2, 4, 100])
def test_a_file_of_another_length_is_not_plain_and_spoils_no_other(tmp_path, holder, kernel, size):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"before" * 10)
    rows = wanted(tmp_path / "b") + wanted(tmp_path / "a", size=size) + wanted(tmp_path / "b")
    results, data = read_files(kernel, holder, rows, [b"b", b"a", b"b"], 120 + size)
    assert list(results) == [PLAIN, NOT_PLAIN, PLAIN]
    assert data[:60] == data[60 + size : 120 + size] == b"before" * 10


def test_a_directory_is_plain_as_long_as_it_is_what_it_was(tmp_path, holder, kernel):
    for name in "abc":
        (tmp_path / name).mkdir()
    rows = b"".join(wanted(tmp_path / name) for name in "abc")
    (tmp_path / "b").chmod(0o123)
    (tmp_path / "c").rmdir()
    (tmp_path / "c").write_bytes(b"")
    results, _ = read_files(kernel, holder, rows, [b"a", b"b", b"c"], 0)
    assert list(results) == [PLAIN, NOT_PLAIN, NOT_PLAIN]


def test_what_has_attributes_is_not_plain(tmp_path, holder, kernel):
    if not can_set_xattr(tmp_path, "user.test"):
        pytest.skip("no attributes on this file system")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_bytes(b"x")
    names = [b"a", b"b"]
    for attributes in (False, True):
        if attributes:
            os.setxattr(tmp_path / "a", "user.test", b"")
            os.setxattr(tmp_path / "b", "user.test", b"")
        rows = b"".join(wanted(tmp_path / name.decode()) for name in names)
        results, _ = read_files(kernel, holder, rows, names, 1)
        assert list(results) == [NOT_PLAIN if attributes else PLAIN] * 2


def test_what_is_neither_file_nor_directory_is_not_opened(tmp_path, holder, kernel):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(tmp_path / "pipe", os.O_WRONLY)
    os.write(writer, b"unread")
    (tmp_path / "link").symlink_to("pipe")
    rows = wanted(tmp_path / "pipe") + wanted(tmp_path / "link")
    results, _ = read_files(kernel, holder, rows, [b"pipe", b"link"], 0)
    assert list(results) == [NOT_PLAIN, NOT_PLAIN]
    assert os.read(reader, 10) == b"unread"
    os.close(reader)
    os.close(writer)


def test_requests_that_do_not_fit_are_refused(tmp_path, holder, kernel):
    (tmp_path / "a").write_bytes(b"abc")
    row, names = wanted(tmp_path / "a"), [b"a", b"a"]
    assert list(read_files(kernel, holder, row * 2, names, 6)[0]) == [PLAIN, PLAIN]
    huge = wanted(tmp_path / "a", size=2**64 - 1)
    for rows, size, count in (
        (row * 2, 5, 2),
        (row + huge, 6, 2),
        (row, 6, 2),
        (row * 3, 9, 2),
        (row * 2 + b"\0", 6, 2),
        (row * 2, 6, 1),
        (row * 2, 6, 3),
        (row * 2, 6, 2**32 - 1),
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            read_files(kernel, holder, rows, names, size, count=count)
    given = GIVEN.pack(holder, 0o600, 0, 3, 0, 0, 0)
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.write_files(given * 2, [b"x", b"y"], b"12345")
    assert not (tmp_path / "y").exists()


def test_a_closed_directory_makes_nothing_plain(tmp_path, kernel):
    (tmp_path / "a").write_bytes(b"x")
    before = open_descriptors()
    room, folders = memoryview(bytearray(2)), FOLDER.pack(999_999, 1, tmp_path.stat().st_dev)
    results = kernel.read_files(folders, wanted(tmp_path / "a"), [b"a"], room)
    assert list(results) == [NOT_PLAIN]
    given = GIVEN.pack(999_999, 0o600, 0, 1, 0, 0, 0)
    assert list(kernel.write_files(given, [b"b"], b"x")) == [NOT_PLAIN]
    assert open_descriptors() == before


@pytest.mark.parametrize("mtime_ns", [0, 1, -1, 10**18 + 7, -(10**18) - 7, -(10**9)])
def test_a_file_is_written_with_what_it_is_to_be(tmp_path, holder, kernel, mtime_ns):
    me = os.geteuid(), os.getegid()
    given = GIVEN.pack(holder, 0o640, mtime_ns, 5, 1, *me)
    given += GIVEN.pack(holder, 0o1777, mtime_ns, 0, 0, 7, 7)
    results = kernel.write_files(given, [b"one", b"two"], b"12345")
    if list(results) == [NOT_PLAIN] * 2:
        pytest.skip("no files without a name here")
    for name, content, mode in (("one", b"12345", 0o640), ("two", b"", 0o1777)):
        found = (tmp_path / name).stat()
        assert (tmp_path / name).read_bytes() == content
        assert (stat.S_IMODE(found.st_mode), found.st_nlink) == (mode, 1)
        assert (found.st_mtime_ns, found.st_atime_ns) == (mtime_ns, mtime_ns)
        assert (found.st_uid, found.st_gid) == me


def test_a_name_that_is_taken_stays_what_it_is(tmp_path, holder, kernel):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    names = [b"file", b"link", b"folder", b"x" * 256]
    before = open_descriptors(), sorted(tmp_path.iterdir())
    given = GIVEN.pack(holder, 0o600, 0, 1, 0, 0, 0) * 4
    assert list(kernel.write_files(given, names, b"abcd")) == [NOT_PLAIN] * 4
    assert (open_descriptors(), sorted(tmp_path.iterdir())) == before
    assert (tmp_path / "file").read_bytes() == b"old"


def test_descriptors_are_closed_again(tmp_path, holder, kernel):
    (tmp_path / "a").write_bytes(b"x")
    before = open_descriptors()
    read_files(kernel, holder, wanted(tmp_path / "a") * 50, [b"a"] * 50, 50)
    given = GIVEN.pack(holder, 0o600, 0, 0, 0, 0, 0)
    kernel.write_files(given * 50, [b"%d" % n for n in range(50)], b"")
    assert open_descriptors() == before


# --- never outside the buffers -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("-O1", "-fsanitize=address,undefined"), ("-O3",)])
def test_no_call_steps_outside_or_keeps_memory(tmp_path, flags):
    if shutil.which("cc") is None:
        pytest.skip("no cc here")
    sources = Path(compiled.__file__).parent
    program = tmp_path / "harness"
    strict = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror")
    inputs = [*sources.glob("*.c"), Path(__file__).with_name("files_harness.c")]
    command = ["cc", "-std=c11", "-g", *strict, *flags, f"-I{sources}", "-o", program, *inputs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "sanitize" in flags[-1] and "cannot find" in done.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    (tmp_path / "files").mkdir()
    done = subprocess.run(
        [program, tmp_path / "files"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "sound\n", "")
