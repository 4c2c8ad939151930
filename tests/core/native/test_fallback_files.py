# What no real file system shows on demand, played to the Python kernel. test_compiled_files.py
# asks both kernels the same questions.

import os
import stat

import pytest

from core.native import fallback_files
from core.native.rows import ROW, Row


def row_of(**how):
    fields = {"st_mode": stat.S_IFREG, "st_ino": 1, "st_dev": 1, "st_nlink": 1, "st_uid": 0}
    fields |= {"st_gid": 0, "st_size": 0, "st_mtime_ns": 0, "st_ctime_ns": 0, "st_rdev": 0}
    found = type("Found", (), fields | how)
    return Row._make(ROW.unpack(fallback_files.row_of(found, 0)))


@pytest.mark.parametrize(
    ("time", "kept"),
    [(2**63 - 1, 2**63 - 1), (2**63, 2**63 - 1), (-(2**63), -(2**63)), (-(2**70), -(2**63))],
)
def test_times_that_do_not_fit_are_moved_to_the_end(time, kept):
    row = row_of(st_mtime_ns=time, st_ctime_ns=time)
    assert (row.mtime_ns, row.ctime_ns) == (kept, kept)


def test_fields_say_nothing_where_they_mean_nothing():
    assert row_of(st_rdev=5).rdev == 0
    assert row_of(st_rdev=5, st_mode=stat.S_IFCHR).rdev == 5
    assert row_of(st_size=5, st_mode=stat.S_IFDIR).size == 0
    assert row_of(st_nlink=2**40).nlink == 2**32 - 1


def test_a_name_that_is_read_twice_is_there_once(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    monkeypatch.setattr(os, "listdir", lambda _: ["a", "a"])
    listed = fallback_files.list_directory(fd)
    os.close(fd)
    assert (listed.names, len(listed.rows)) == (b"a\0", ROW.size)
