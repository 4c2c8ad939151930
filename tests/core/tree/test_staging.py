import errno
import os
import stat

import pytest

from core.tree.entry import AlreadyThere, Entry, EntryType
from core.tree.occupancy import Occupancy, Overwrite
from core.tree.staging import Staging

ENTRY = Entry(b"file", EntryType.FILE, mtime_ns=5)


@pytest.fixture
def holder(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["unnamed", "named"])
def has_proc(request, holder):
    if request.param == "unnamed":
        staging = Staging(Occupancy(Overwrite.REFUSE), has_proc=True)
        os.close(staging.create(holder)[0])
        if not staging.unnamed:
            pytest.skip("this file system has no files without a name")
    return request.param == "unnamed"


def put(holder, has_proc, data, overwrite=Overwrite.REFUSE):
    staging = Staging(Occupancy(overwrite), has_proc=has_proc)
    fd, temporary = staging.create(holder)
    try:
        assert (temporary is None) is has_proc
        assert stat.S_IMODE(os.fstat(fd).st_mode) & 0o077 == 0
        os.write(fd, data)
        try:
            return staging.give_name(fd, temporary, holder, b"file", ENTRY)
        except BaseException:
            staging.discard(holder, temporary)
            raise
    finally:
        os.close(fd)


def names(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_a_file_gets_its_name_when_it_is_whole(tmp_path, holder, has_proc):
    staging = Staging(Occupancy(Overwrite.REFUSE), has_proc=has_proc)
    fd, temporary = staging.create(holder)
    os.write(fd, b"half")
    assert all(name.startswith(".portal-") for name in names(tmp_path))
    assert len(names(tmp_path)) == (not has_proc)
    os.write(fd, b" and half")
    assert staging.give_name(fd, temporary, holder, b"file", ENTRY)
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"half and half"
    os.close(fd)


def test_what_is_there_is_replaced_whole_or_left_alone(tmp_path, holder, has_proc):
    assert put(holder, has_proc, b"first")
    before = (tmp_path / "file").stat()
    assert not put(holder, has_proc, b"second", Overwrite.SKIP)
    with pytest.raises(AlreadyThere):
        put(holder, has_proc, b"third")
    assert (tmp_path / "file").read_bytes() == b"first"
    os.link(tmp_path / "file", tmp_path / "other name")
    assert put(holder, has_proc, b"fourth", Overwrite.REPLACE)
    assert (tmp_path / "file").read_bytes() == b"fourth"
    assert (tmp_path / "other name").read_bytes() == b"first"  # never written through
    assert (tmp_path / "file").stat().st_ino != before.st_ino
    assert names(tmp_path) == ["file", "other name"]


def test_a_link_is_replaced_itself(tmp_path, holder, has_proc):
    (tmp_path / "secret").write_bytes(b"safe")
    (tmp_path / "file").symlink_to("secret")
    assert put(holder, has_proc, b"new", Overwrite.REPLACE)
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "secret").read_bytes() == b"safe"


def test_file_systems_without_nameless_files_are_noticed(tmp_path, holder, monkeypatch):
    real = os.open
    tried = []

    def without(name, flags, *mode, **how):
        if name == b".":
            tried.append(name)
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(name, flags, *mode, **how)

    monkeypatch.setattr(os, "open", without)
    staging = Staging(Occupancy(Overwrite.REFUSE), has_proc=True)
    for name in (b"file", b"two"):
        fd, temporary = staging.create(holder)
        assert staging.give_name(fd, temporary, holder, name, ENTRY)
        os.close(fd)
    assert len(tried) == 1
    assert names(tmp_path) == ["file", "two"]


def test_other_errors_are_errors(holder, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space"):
        Staging(Occupancy(Overwrite.REFUSE), has_proc=True).create(holder)


def test_file_systems_without_links_get_files_by_moving(tmp_path, holder, monkeypatch):
    def no_links(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    has_proc = False
    assert put(holder, has_proc, b"first")
    with pytest.raises(AlreadyThere):
        put(holder, has_proc, b"second")
    assert not put(holder, has_proc, b"third", Overwrite.SKIP)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert put(holder, has_proc, b"fourth", Overwrite.REPLACE)
    assert (tmp_path / "file").read_bytes() == b"fourth"
    assert names(tmp_path) == ["file"]


def test_a_failed_move_leaves_nothing_behind(tmp_path, holder, has_proc, monkeypatch):
    assert put(holder, has_proc, b"first")

    def broken(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(OSError, match="Input/output"):
        put(holder, has_proc, b"second", Overwrite.REPLACE)
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"first"


def test_temporary_names_never_repeat(holder):
    stagings = [Staging(Occupancy(Overwrite.REFUSE), has_proc=False) for _ in range(2)]
    made = [staging.temporary() for staging in stagings for _ in range(100)]
    assert len(set(made)) == 200
    assert all(name.startswith(b".portal-") and name.endswith(b".tmp") for name in made)
