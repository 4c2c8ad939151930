# The layout that C and Python agree on, byte by byte.

import errno

from core.native.rows import NO_STAT, OTHER_DEVICE, ROW, Row

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
