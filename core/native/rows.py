"""What goes into batches of file system calls and what comes out: the same for every kernel.

A row is what a look at a name found, in 64 bytes:

    u64 inode, u64 size, i64 mtime, i64 ctime, u32 mode, u32 uid, u32 gid, u32 links, u64 rdev,
    u32 flags, u32 error                                                    all little-endian

Sizes are those of files and device numbers those of devices, else 0: what file systems put there
for other kinds says nothing. Times are nanoseconds; what does not fit is moved to the end. The
device a name lies on is not part of it, since a reboot may change its number: unchanged things
have unchanged rows.
"""

import os
import stat
import struct
from typing import Final, NamedTuple

from core.native.rules import Buffer

ROW: Final = struct.Struct("<QQqqIIIIQII")
OTHER_DEVICE: Final = 1  # lies on another device than the directory: something is mounted there
NO_STAT: Final = 2  # could not be looked at; `error` says why
FLAGS_AT: Final = 56  # what is before says what a name stands for


# Columns, one number of every row: its width, where the first one stands, and how far apart.
INODES: Final = ("Q", 0, 8)
SIZES: Final = ("Q", 1, 8)
MTIMES: Final = ("q", 2, 8)
CTIMES: Final = ("q", 3, 8)
MODES: Final = ("I", 8, 16)
UIDS: Final = ("I", 9, 16)
GIDS: Final = ("I", 10, 16)
LINKS: Final = ("I", 11, 16)

_U32_MAX = (1 << 32) - 1
_I64_MIN, _I64_MAX = -(1 << 63), (1 << 63) - 1


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


def column(rows: Buffer, which: tuple[str, int, int]) -> list[int]:
    """One number of every row."""
    width, at, step = which
    return memoryview(rows).cast(width)[at::step].tolist()  # type: ignore[call-overload,no-any-return]


def row_of(found: os.stat_result, flags: int = 0) -> bytes:
    """What a stat found, as a row."""
    kind = stat.S_IFMT(found.st_mode)
    return ROW.pack(
        found.st_ino,
        found.st_size if kind == stat.S_IFREG else 0,
        _clipped(found.st_mtime_ns),
        _clipped(found.st_ctime_ns),
        found.st_mode,
        found.st_uid,
        found.st_gid,
        min(found.st_nlink, _U32_MAX),
        found.st_rdev if kind in {stat.S_IFCHR, stat.S_IFBLK} else 0,
        flags,
        0,
    )


def _clipped(time_ns: int) -> int:
    return max(_I64_MIN, min(time_ns, _I64_MAX))


# --- requests: native byte order, they never leave the process -----------------------------------

FOLDER: Final = struct.Struct("=iIq")  # holder, how many names, the device they lie on
GIVEN: Final = struct.Struct("=iIqQIII4x")  # holder, mode, mtime, size, owned, uid, gid
PLAIN: Final = 0  # done; anything else was left as it was, and is to be done one by one
NOT_PLAIN: Final = 1
