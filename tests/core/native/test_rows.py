# The layout that C and Python agree on, byte by byte.

import errno
import stat

import pytest

from core.native import rows as module
from core.native.rows import FLAGS_AT, NO_STAT, OTHER_DEVICE, ROW, Row, column, row_of

FIELDS = (1, 2, -3, -4, 5, 6, 7, 8, 9, NO_STAT | OTHER_DEVICE, errno.EACCES)


def test_a_row_has_64_bytes_in_this_order():
    assert ROW.size == 64
    assert ROW.pack(*FIELDS).hex() == (
        "0100000000000000"
        "0200000000000000"
        "fdffffffffffffff"
        "fcffffffffffffff"
        "05000000"
        "06000000"
        "07000000"
        "08000000"
        "0900000000000000"
        "03000000"
        "0d000000"
    )


def test_fields_have_names():
    row = Row._make(ROW.unpack(ROW.pack(*FIELDS)))
    assert (row.ino, row.size, row.mtime_ns, row.ctime_ns, row.mode) == FIELDS[:5]
    assert (row.uid, row.gid, row.nlink, row.rdev, row.flags, row.error) == FIELDS[5:]


def test_a_column_is_one_field_of_every_row():
    rows = ROW.pack(*FIELDS) + ROW.pack(*(n + 10 for n in FIELDS))
    columns = {
        "ino": module.INODES,
        "size": module.SIZES,
        "mtime_ns": module.MTIMES,
        "ctime_ns": module.CTIMES,
        "mode": module.MODES,
        "uid": module.UIDS,
        "gid": module.GIDS,
        "nlink": module.LINKS,
    }
    for field, which in columns.items():
        value = FIELDS[Row._fields.index(field)]
        assert column(rows, which) == column(bytearray(rows), which) == [value, value + 10]
        assert column(b"", which) == []


def test_the_flags_stand_behind_what_says_what_a_name_is():
    plain = ROW.pack(*FIELDS[:9], 0, 0)
    assert plain[:FLAGS_AT] == ROW.pack(*FIELDS)[:FLAGS_AT]
    assert plain[FLAGS_AT:] == bytes(8)


# --- a stat as a row: what no real file system shows on demand -----------------------------------


def row_of_stat(**how):
    fields = {"st_mode": stat.S_IFREG, "st_ino": 1, "st_dev": 1, "st_nlink": 1, "st_uid": 0}
    fields |= {"st_gid": 0, "st_size": 0, "st_mtime_ns": 0, "st_ctime_ns": 0, "st_rdev": 0}
    found = type("Found", (), fields | how)
    return Row._make(ROW.unpack(row_of(found)))


@pytest.mark.parametrize(
    ("time", "kept"),
    [(2**63 - 1, 2**63 - 1), (2**63, 2**63 - 1), (-(2**63), -(2**63)), (-(2**70), -(2**63))],
)
def test_times_that_do_not_fit_are_moved_to_the_end(time, kept):
    row = row_of_stat(st_mtime_ns=time, st_ctime_ns=time)
    assert (row.mtime_ns, row.ctime_ns) == (kept, kept)


def test_fields_say_nothing_where_they_mean_nothing():
    assert row_of_stat(st_rdev=5).rdev == 0
    assert row_of_stat(st_rdev=5, st_mode=stat.S_IFCHR).rdev == 5
    assert row_of_stat(st_size=5, st_mode=stat.S_IFDIR).size == 0
    assert row_of_stat(st_nlink=2**40).nlink == 2**32 - 1
