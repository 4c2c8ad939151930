"""The batches of file system calls in pure Python: the same answers, one call after the other."""

# ruff: noqa: PTH101 - it works on descriptors

import errno
import os
import stat
from collections.abc import Sequence

from core.native.rows import GIVEN, NO_STAT, NOT_PLAIN, OTHER_DEVICE, PLAIN, ROW, WANTED, Listed
from core.native.rules import Buffer

_I64_MIN, _I64_MAX = -(1 << 63), (1 << 63) - 1
_U32_MAX = (1 << 32) - 1

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_ATIME = getattr(os, "O_NOATIME", 0)
_TMPFILE = getattr(os, "O_TMPFILE", 0)
_NO_XATTRS = {errno.ENOTSUP, errno.ENOSYS}


def list_directory(fd: int) -> Listed:
    """The names of an open directory, and a row for each."""
    dev = os.fstat(fd).st_dev
    os.lseek(fd, 0, os.SEEK_SET)
    names = sorted({os.fsencode(name) for name in os.listdir(fd)})
    rows, devs = bytearray(), list[int]()
    for name in names:
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as e:
            rows += ROW.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, NO_STAT, e.errno or 0)
            devs.append(dev)
        else:
            rows += row_of(found, OTHER_DEVICE if found.st_dev != dev else 0)
            devs.append(found.st_dev)
    joined = b"".join(name + b"\0" for name in names)
    return Listed(dev, joined, bytes(rows), tuple(devs) if set(devs) - {dev} else ())


def row_of(found: os.stat_result, flags: int) -> bytes:
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


# --- reading -------------------------------------------------------------------------------------


def read_files(wanted: Buffer, names: Sequence[bytes], room: memoryview) -> bytearray:
    """What became of each file; `room` takes the contents of all, and needs a byte more."""
    results = bytearray(len(names))
    at = 0
    for i, (name, request) in enumerate(zip(names, WANTED.iter_unpack(wanted), strict=True)):
        holder, spare_atime, *expected = request
        length = expected[2]
        if at + length >= len(room):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        content = _read_one(holder, name, expected, spare_atime=bool(spare_atime))
        if content is None:
            results[i] = NOT_PLAIN
        else:
            results[i] = PLAIN
            room[at : at + length] = content
        at += length
    return results


def _read_one(holder: int, name: bytes, expected: list[int], *, spare_atime: bool) -> bytes | None:
    try:
        fd = _open(holder, name, spare_atime=spare_atime)
    except OSError:
        return None
    try:
        data = os.read(fd, expected[2] + 1)
        found = os.fstat(fd)
        times = _clipped(found.st_mtime_ns), _clipped(found.st_ctime_ns)
        is_same = expected == [found.st_dev, found.st_ino, found.st_size, *times]
        plain = is_same and len(data) == found.st_size and stat.S_ISREG(found.st_mode)
        return data if plain and _has_no_attributes(fd) else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _open(holder: int, name: bytes, *, spare_atime: bool) -> int:
    if spare_atime and _NO_ATIME:
        try:
            return os.open(name, _READ_FLAGS | _NO_ATIME, dir_fd=holder)
        except PermissionError as e:
            if e.errno != errno.EPERM:
                raise
    return os.open(name, _READ_FLAGS, dir_fd=holder)


def _has_no_attributes(fd: int) -> bool:
    if not hasattr(os, "listxattr"):
        return True
    try:
        return not os.listxattr(fd)
    except OSError as e:
        return e.errno in _NO_XATTRS


# --- writing -------------------------------------------------------------------------------------


def write_files(given: Buffer, names: Sequence[bytes], data: bytes) -> bytearray:
    """What became of each file; `data` is the contents of all."""
    results = bytearray(len(names))
    at = 0
    with memoryview(data) as view:
        for i, (name, request) in enumerate(zip(names, GIVEN.iter_unpack(given), strict=True)):
            size = request[3]
            if at + size > len(data):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            results[i] = PLAIN if _wrote(name, view[at : at + size], *request) else NOT_PLAIN
            at += size
    return results


def _wrote(  # noqa: PLR0913, PLR0917 - a request, field by field
    name: bytes,
    data: memoryview,
    holder: int,
    mode: int,
    mtime_ns: int,
    _size: int,
    owned: int,
    uid: int,
    gid: int,
) -> bool:
    """Whether the file is there now; else nothing of it is."""
    if not _TMPFILE:
        return False
    try:
        fd = os.open(b".", os.O_RDWR | _TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=holder)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], done)
            if owned:
                os.chown(fd, uid, gid)
            os.chmod(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            os.link(b"/proc/self/fd/%d" % fd, name, dst_dir_fd=holder)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True
