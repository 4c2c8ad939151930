import errno
import os
from pathlib import Path

import pytest

from core import files
from core.errors import FormatError, KeystoreError, LimitExceeded


def test_a_private_file_is_replaced_whole_and_readable_by_its_owner_only(tmp_path):
    path = tmp_path / "keys"
    for data in (b"old", b"newer"):
        files.write_private(path, data)
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_failure_at_any_step_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, step):
    path = tmp_path / "keys"
    files.write_private(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(type(path), "rename", fail)
    with pytest.raises(OSError, match="No space") as caught:
        files.write_private(path, b"new")
    assert caught.value.filename == str(path)  # not the temporary file's, and not nothing
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_reading_is_bounded_and_takes_regular_files_only(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    assert files.read_bounded(path, 10) == b"x" * 10
    with pytest.raises(LimitExceeded, match="file"):
        files.read_bounded(path, 9)
    os.mkfifo(tmp_path / "fifo")
    open_before = len(list(Path("/dev/fd").iterdir()))
    for name in ("fifo", "."):
        with pytest.raises(FormatError, match="regular file") as caught:
            files.read_bounded(tmp_path / name, 10)
        assert caught.value.where == str(tmp_path / name)
    assert len(list(Path("/dev/fd").iterdir())) == open_before
    with pytest.raises(FileNotFoundError):
        files.read_bounded(tmp_path / "nothing", 10)


def test_a_link_is_followed_so_keys_stay_where_they_were_put(tmp_path):
    (tmp_path / "encrypted disk").mkdir()
    target, link = tmp_path / "encrypted disk" / "keys", tmp_path / "keys"
    files.write_private(target, b"old")
    link.symlink_to(target)
    files.write_private(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_the_umask_takes_nothing_from_the_owner(tmp_path):
    before = os.umask(0o777)
    try:
        files.write_private(tmp_path / "keys", b"x")
        files.create_private(tmp_path / "more", b"x")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "keys", tmp_path / "nowhere" / "keys"):
        with pytest.raises(OSError, match="directory") as caught:
            files.write_private(path, b"x")
        assert caught.value.filename == str(path)


def test_of_two_that_create_a_file_one_does_and_the_other_is_told(tmp_path, monkeypatch):
    path = tmp_path / "key"
    link = os.link

    def overtaken(*names):
        monkeypatch.setattr(os, "link", link)
        assert files.create_private(path, b"first")
        link(*names)

    monkeypatch.setattr(os, "link", overtaken)
    assert not files.create_private(path, b"second")
    assert not files.create_private(path, b"third")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_nlink == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_cannot_be_synced_is_as_durable_as_it_gets(tmp_path, monkeypatch):
    def answers(code):
        def fail(_fd):
            raise OSError(code, os.strerror(code))

        return fail

    monkeypatch.setattr(os, "fsync", answers(errno.EINVAL))
    files.sync_directory(tmp_path)
    monkeypatch.setattr(os, "fsync", answers(errno.EIO))
    with pytest.raises(OSError, match="Input/output") as caught:
        files.sync_directory(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_a_key_is_read_only_where_others_cannot(tmp_path):
    path = tmp_path / "key"
    files.write_private(path, b"x")
    assert files.read_private(path, 10, "the key") == b"x"
    for mode in (0o604, 0o640, 0o620):
        path.chmod(mode)
        with pytest.raises(KeystoreError, match="other users can read the key"):
            files.read_private(path, 10, "the key")
