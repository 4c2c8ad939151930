"""The batches of file system calls in pure Python: the same answers, one call after the other."""

# ruff: noqa: PTH101 - it works on descriptors

import errno
import os
import stat
from collections.abc import Sequence

from core.native.rows import (
    FLAGS_AT,
    FOLDER,
    GIVEN,
    NO_STAT,
    NOT_PLAIN,
    OTHER_DEVICE,
    PLAIN,
    ROW,
    Listed,
    Row,
    row_of,
)
from core.native.rules import Buffer

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


# --- reading -------------------------------------------------------------------------------------


def read_files(folders: Buffer, rows: bytes, names: Sequence[bytes], room: memoryview) -> bytearray:
    """What became of each file; `room` takes the contents of all, and needs a byte more."""
    results = bytearray(len(names))
    held = list(FOLDER.iter_unpack(folders))
    if len(rows) != len(names) * ROW.size or sum(count for _, count, _ in held) != len(names):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    places = [(holder, dev) for holder, count, dev in held for _ in range(count)]
    at = 0
    for i, (name, place) in enumerate(zip(names, places, strict=True)):
        row = rows[i * ROW.size :][: ROW.size]
        length = ROW.unpack(row)[1]
        if at + length >= len(room):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        content = _read_one(*place, name, row)
        if content is None:
            results[i] = NOT_PLAIN
        else:
            results[i] = PLAIN
            room[at : at + length] = content
        at += length
    return results


def _read_one(holder: int, dev: int, name: bytes, row: bytes) -> bytes | None:
    wanted = Row._make(ROW.unpack(row))
    is_directory = stat.S_ISDIR(wanted.mode)
    if not (is_directory or stat.S_ISREG(wanted.mode)):  # opening it might do something
        return None
    try:
        fd = _open(holder, name, wanted)
    except OSError:
        return None
    try:
        data = b"" if is_directory else os.read(fd, wanted.size + 1)
        found = os.fstat(fd)
        is_same = found.st_dev == dev and row_of(found, 0)[:FLAGS_AT] == row[:FLAGS_AT]
        plain = is_same and len(data) == wanted.size
        return data if plain and _has_no_attributes(fd) else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _open(holder: int, name: bytes, wanted: Row) -> int:
    flags = _READ_FLAGS | (os.O_DIRECTORY if stat.S_ISDIR(wanted.mode) else 0)
    if _NO_ATIME and os.geteuid() in {0, wanted.uid}:
        try:
            return os.open(name, flags | _NO_ATIME, dir_fd=holder)
        except PermissionError as e:
            if e.errno != errno.EPERM:
                raise
    return os.open(name, flags, dir_fd=holder)


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
