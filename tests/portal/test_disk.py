import os

import pytest

from portal.disk import Disk
from tests.support.mortal import Killed, MortalDisk

DISK = Disk()


def test_a_new_file_is_private_new_and_whole(tmp_path):
    path = tmp_path / "new"
    fd = DISK.make(path)
    DISK.write(fd, b"one ")
    DISK.write(fd, memoryview(bytearray(b"two")))
    DISK.sync(fd)
    DISK.close(fd)
    assert path.read_bytes() == b"one two"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        DISK.make(path)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        DISK.make(tmp_path / "link")


def test_short_writes_go_on(tmp_path, monkeypatch):
    fd = DISK.make(tmp_path / "new")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    DISK.write(fd, b"0123456789")
    DISK.close(fd)
    assert (tmp_path / "new").read_bytes() == b"0123456789"


def test_descriptors_are_not_inherited(tmp_path):
    fd = DISK.make(tmp_path / "new")
    assert not os.get_inheritable(fd)
    DISK.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_names_come_move_and_go(tmp_path):
    folder = tmp_path / "folder"
    DISK.make_directory(folder)
    DISK.make_directory(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    DISK.rename(folder / "a", folder / "b")
    assert (folder / "b").read_bytes() == b"a"
    DISK.sync_directory(folder)
    DISK.remove(folder / "b")
    DISK.remove(folder / "b")
    DISK.remove_directory(folder)
    assert not folder.exists()


def test_a_mortal_disk_stops_before_the_step_it_dies_at(tmp_path):
    disk = MortalDisk(dies_at=2)
    fd = disk.make(tmp_path / "new")
    disk.write(fd, b"written")
    with pytest.raises(Killed):
        disk.rename(tmp_path / "new", tmp_path / "renamed")
    disk.remove(tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"written"
    disk.close(fd)
