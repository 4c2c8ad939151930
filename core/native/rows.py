"""What goes into batches of file system calls and what comes out: the same for every kernel.

A row is what a look at a name found, in 64 bytes:

    u64 inode, u64 size, i64 mtime, i64 ctime, u32 mode, u32 uid, u32 gid, u32 links, u64 rdev,
    u32 flags, u32 error                                                    all little-endian

Sizes are those of files and device numbers those of devices, else 0: what file systems put there
for other kinds says nothing. Times are nanoseconds; what does not fit is moved to the end. The
device a name lies on is not part of it, since a reboot may change its number: unchanged things
have unchanged rows.
"""

import struct
from typing import Final, NamedTuple

ROW: Final = struct.Struct("<QQqqIIIIQII")
OTHER_DEVICE: Final = 1  # lies on another device than the directory: something is mounted there
NO_STAT: Final = 2  # could not be looked at; `error` says why


class Row(NamedTuple):
    """One row, unpacked."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int  # with the bits that say what it is
    uid: int
    gid: int
    nlink: int
    rdev: int
    flags: int
    error: int


class Listed(NamedTuple):
    """What a kernel finds in a directory, in the order of the names as bytes."""

    dev: int  # of the directory
    names: bytes  # a NUL behind each
    rows: bytes
    devs: tuple[int, ...]  # of every name; empty if all are the directory's


# --- requests: native byte order, they never leave the process -----------------------------------

WANTED: Final = struct.Struct("=iIqQQqq")  # holder, spare the atime, dev, ino, size, mtime, ctime
GIVEN: Final = struct.Struct("=iIqQIII4x")  # holder, mode, mtime, size, owned, uid, gid
PLAIN: Final = 0  # done; anything else was left as it was, and is to be done one by one
NOT_PLAIN: Final = 1
