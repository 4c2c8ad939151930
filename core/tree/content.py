"""Reading what a walk found: contents, holes and attributes, and noticing what changed meanwhile.

A file is opened from a held directory, without following links and without waiting for whatever a
fifo put in its place may do. What is handed out is described by an entry taken from the very
descriptor it was read from: content and metadata always belong together.
"""

import errno
import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from core import limits
from core.crypto import Buffer
from core.tree.entry import Changed, Entry, Incomplete, Report, Xattrs, entry_of, is_unchanged
from core.tree.paths import shown
from core.tree.source import Source

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NO_ATIME = getattr(os, "O_NOATIME", 0)
_NO_XATTRS = {errno.ENOTSUP, errno.ENOSYS}
_HAS_XATTRS = hasattr(os, "listxattr")  # not on a Mac


class Extent(NamedTuple):
    """A stretch of a file that holds data; between stretches there are only zeros."""

    offset: int
    length: int


class Small(NamedTuple):
    """A file read at once."""

    entry: Entry  # as it was when the content was read, with its attributes
    data: Buffer
    changed: bool  # it was written to all the time: the content may be torn


def read_small(source: Source, entry: Entry) -> Small:
    """The content of a small file: one open, one read, one look at what it was.

    A file that changes meanwhile is read once more. Changed: it is no file any more, or too large
    now, and `open_file` is for those.
    """
    fd = _open_checked(source, entry)
    try:
        data, found = _read_once(fd, entry)
        changed = False
        if len(data) != entry.size or not is_unchanged(entry, found):
            data, entry, changed = _read_again(fd, entry, found)
        return Small(_with_xattrs(fd, entry, source.report), data, changed)
    finally:
        os.close(fd)


def _read_once(fd: int, entry: Entry) -> tuple[bytes, os.stat_result]:
    try:
        return os.read(fd, entry.size + 1), os.fstat(fd)
    except (BlockingIOError, IsADirectoryError):  # a fifo or a directory has taken its place
        _check_regular(entry, os.fstat(fd))
        raise


def _read_again(fd: int, entry: Entry, found: os.stat_result) -> tuple[bytes, Entry, bool]:
    _check_regular(entry, found)
    os.lseek(fd, 0, os.SEEK_SET)
    parts, size = list[bytes](), 0
    while part := os.read(fd, max(found.st_size - size, 0) + 1):
        parts.append(part)
        size += len(part)
        if size > limits.TREE_SMALL_FILE_BYTES_MAX:
            raise Changed("grew while it was read", where=shown(entry.path))
    after = os.fstat(fd)
    entry = entry_of(entry.path, after)._replace(size=size)
    return b"".join(parts), entry, changed_while_read(found, after)


def open_file(source: Source, entry: Entry) -> "OpenFile":
    """A file of any size, to be read bit by bit. Changed: it is no file any more."""
    fd = _open_checked(source, entry)
    try:
        found = os.fstat(fd)
        _check_regular(entry, found)
        entry = entry if is_unchanged(entry, found) else entry_of(entry.path, found)
        return OpenFile(fd, _with_xattrs(fd, entry, source.report), found)
    except BaseException:
        os.close(fd)
        raise


class OpenFile:
    """A regular file being read, up to the length it had when it was opened.

    So a log that is written to for ever still ends. A file that shrinks ends early; `entry` then
    has the length of what was there.
    """

    def __init__(self, fd: int, entry: Entry, found: os.stat_result) -> None:
        self.fd = fd
        self.entry = entry
        self._found = found
        self._at = 0

    def read(self, size: int) -> bytes:
        """The next bytes, at most so many; empty at the end."""
        data = self.read_at(self._at, size)
        self._at += len(data)
        return data

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes at this offset, fewer only at the end of the file."""
        wanted = min(size, self.entry.size - offset)
        if wanted <= 0:
            return b""
        data = os.pread(self.fd, wanted, offset)
        while len(data) < wanted:  # a network file system may give less at a time
            more = os.pread(self.fd, wanted - len(data), offset + len(data))
            if not more:
                self.entry = self.entry._replace(size=offset + len(data))
                break
            data += more
        return data

    def read_into(self, offset: int, view: memoryview) -> int:
        """Put bytes from this offset there; how many, 0 at the end of the file."""
        wanted = min(len(view), self.entry.size - offset)
        count = os.preadv(self.fd, (view[:wanted],), offset) if wanted > 0 else 0
        if count == 0 < wanted:  # it has become shorter
            self.entry = self.entry._replace(size=offset)
        return count

    @property
    def is_sparse(self) -> bool:
        """Whether it takes less room than it is long, so that looking for holes may pay."""
        return self._found.st_blocks * 512 < self._found.st_size

    def extents(self) -> Iterator[Extent]:
        """Where its data lies, in order; everything if it has no holes."""
        if self.is_sparse:
            return _data_extents(self.fd, self.entry.size)
        return iter([Extent(0, self.entry.size)] if self.entry.size else [])

    def changed(self) -> bool:
        """Whether it was written to since it was opened; asked after the last read."""
        return changed_while_read(self._found, os.fstat(self.fd))

    def close(self) -> None:
        """Let it go."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self.close()


def changed_while_read(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether content may have changed between two looks at the same descriptor.

    By length and both times: ctime moves with every write and cannot be set back.
    """
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def read_xattrs(source: Source, entry: Entry) -> Xattrs:
    """The attributes of anything, without opening it: devices and fifos stay untouched."""
    if not _HAS_XATTRS:
        return ()
    held = source.held(entry.path) if entry.is_directory else None
    if held is not None:
        return _xattrs(held, entry.path, source.report)
    holder, name = source.place(entry.path)
    # There is no call that takes a directory and a name; this path leads through the descriptor.
    return _xattrs(b"/proc/self/fd/%d/%b" % (holder, name), entry.path, source.report)


def _open_checked(source: Source, entry: Entry) -> int:
    holder, name = source.place(entry.path)
    if _NO_ATIME and os.geteuid() in {0, entry.uid}:
        try:
            return os.open(name, _FLAGS | _NO_ATIME, dir_fd=holder)
        except PermissionError:  # root of a container is not root of its mounts
            pass
        except OSError as e:
            raise _as_changed(entry, e) from e
    try:
        return os.open(name, _FLAGS, dir_fd=holder)
    except OSError as e:
        raise _as_changed(entry, e) from e


def _as_changed(entry: Entry, error: OSError) -> Changed | OSError:
    """A link (ELOOP) or a socket (ENXIO) where a file was is a change; other errors speak."""
    if error.errno in {errno.ELOOP, errno.ENXIO}:
        return Changed("is no regular file any more", where=shown(entry.path))
    return error


def _check_regular(entry: Entry, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Changed("is no regular file any more", where=shown(entry.path))


def _with_xattrs(fd: int, entry: Entry, report: Report) -> Entry:
    xattrs = _xattrs(fd, entry.path, report) if _HAS_XATTRS else ()
    return entry._replace(xattrs=xattrs) if xattrs else entry


def _xattrs(handle: int | bytes, path: bytes, report: Report) -> Xattrs:
    follow = isinstance(handle, int)
    try:
        names = os.listxattr(handle, follow_symlinks=follow)
    except OSError as e:
        if e.errno not in _NO_XATTRS:
            report(path, Incomplete(f"its attributes cannot be read: {e.strerror}"))
        return ()
    if not names:
        return ()
    found = list[tuple[bytes, bytes]]()
    room = limits.XATTRS_BYTES_MAX
    for name in sorted(map(os.fsencode, names)):
        try:
            value = os.getxattr(handle, name, follow_symlinks=follow)
        except OSError as e:
            if e.errno != errno.ENODATA:  # taken away since it was listed
                report(path, Incomplete(f"attribute {shown(name)} is unreadable: {e.strerror}"))
            continue
        room -= len(name) + len(value)
        if room < 0 or len(found) == limits.XATTRS_MAX:
            report(path, Incomplete("has more attributes than can be kept"))
            break
        found.append((name, value))
    return tuple(found)


def _data_extents(fd: int, size: int) -> Iterator[Extent]:
    """Stretches of data; holes too small to be worth it are read, and so is all after very many."""
    start = end = 0  # of the stretch that may still grow
    given = 0
    while end < size:
        data = _seek(fd, end, os.SEEK_DATA, size)
        if data - end >= limits.TREE_HOLE_BYTES_MIN or end == 0 or data == size:
            if end > start:
                yield Extent(start, end - start)
                given += 1
            start = data
        if data == size:
            return
        end = min(_seek(fd, data, os.SEEK_HOLE, size), size)
        if given == limits.TREE_EXTENTS_MAX - 1:
            end = size
    if end > start:
        yield Extent(start, end - start)


def _seek(fd: int, offset: int, whence: int, size: int) -> int:
    try:
        return min(os.lseek(fd, offset, whence), size)
    except OSError as e:
        if e.errno == errno.ENXIO:  # nothing of this kind is left
            return size
        if e.errno in {errno.EINVAL, errno.ENOTSUP}:  # this file system knows nothing of holes
            return offset if whence == os.SEEK_DATA else size
        raise
