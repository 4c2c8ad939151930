"""What is known about one name in a tree, and what can go wrong with it."""

import grp
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from enum import IntEnum, unique
from functools import lru_cache
from typing import NamedTuple

from core import limits
from core.errors import FormatError, LimitExceeded, PortalError
from core.native.rows import ROW
from core.tree.paths import check_path_untrusted, shown

Xattrs = tuple[tuple[bytes, bytes], ...]
Report = Callable[[bytes, PortalError | OSError], None]  # about this path; the work goes on

MODE_MAX = 0o7777
TIME_NS_MIN, TIME_NS_MAX = -(1 << 63), (1 << 63) - 1  # the years 1677 to 2262
_ID_MAX = 0xFFFF_FFFE  # the one above means "leave it" to the system
_NO_DEVICE = (0, 0)


class Skipped(PortalError):
    """This kind of file is not kept."""


class Changed(PortalError):
    """This changed while it was being read."""

    retryable = True


class Incomplete(PortalError):
    """Something about this could not be kept."""


class AlreadyThere(PortalError):
    """Something of this name is there already."""


@unique
class EntryType(IntEnum):
    """What a name stands for. Numbers are written into archives; 4 is their hard link."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 5
    CHARACTER = 6
    BLOCK = 7


TYPE_OF_FORMAT = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFCHR: EntryType.CHARACTER,
    stat.S_IFBLK: EntryType.BLOCK,
}
_TYPE_BYTE = 33  # of a row: its upper four bits say what it is
_TYPES = bytes(TYPE_OF_FORMAT.get(byte << 8 & 0o170000, 0) for byte in range(256))
_DEVICES = (EntryType.CHARACTER, EntryType.BLOCK)


class Entry(NamedTuple):
    """One name in a tree and everything POSIX knows about it but its content.

    A NamedTuple because a walk makes one per file: six times quicker than a frozen dataclass.
    """

    path: bytes
    type: EntryType
    mode: int = 0o600  # permission bits, setuid, setgid and sticky
    uid: int = 0
    gid: int = 0
    user: str = ""  # empty when it has no printable name
    group: str = ""
    mtime_ns: int = 0
    size: int = 0  # of a file; 0 for everything else
    target: bytes = b""  # of a symlink
    rdev: tuple[int, int] = _NO_DEVICE  # major and minor of a device
    xattrs: Xattrs = ()  # with ACLs: system.posix_acl_access, system.posix_acl_default
    # What only means something on the machine where it was read:
    dev: int = 0
    ino: int = 0
    nlink: int = 1
    ctime_ns: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether it may hold others."""
        return self.type is EntryType.DIRECTORY

    @property
    def directory(self) -> bytes | None:
        """The path of what may hold others, if it does."""
        return self.path if self.type is EntryType.DIRECTORY else None

    @property
    def hard_link(self) -> tuple[int, int] | None:
        """What all names of this have in common, if there is more than one."""
        if self.nlink > 1 and self.type is not EntryType.DIRECTORY:
            return self.dev, self.ino
        return None

    @property
    def fingerprint(self) -> tuple[int, int, int, int]:
        """Equal to an earlier one: not changed since. Without `dev`, which a reboot may change."""
        return self.size, self.mtime_ns, self.ctime_ns, self.ino


def entry_of(path: bytes, found: os.stat_result, target: bytes = b"") -> Entry:
    """The entry of what a stat found; the caller knows that it is no socket."""
    kind = TYPE_OF_FORMAT[stat.S_IFMT(found.st_mode)]
    uid, gid = found.st_uid, found.st_gid
    mtime_ns = found.st_mtime_ns
    if not TIME_NS_MIN <= mtime_ns <= TIME_NS_MAX:
        mtime_ns = TIME_NS_MIN if mtime_ns < 0 else TIME_NS_MAX
    return Entry(
        path,
        kind,
        found.st_mode & MODE_MAX,
        uid,
        gid,
        user_name(uid),
        group_name(gid),
        mtime_ns,
        found.st_size if kind is EntryType.FILE else 0,
        target,
        (os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in _DEVICES else _NO_DEVICE,
        (),
        found.st_dev,
        found.st_ino,
        found.st_nlink,
        found.st_ctime_ns,
    )


def entry_of_row(path: bytes, row: Sequence[int], dev: int, target: bytes = b"") -> Entry:
    """The entry of a name in a listing, `dev` being its `dev_of`; the caller knows its kind."""
    ino, size, mtime_ns, ctime_ns, mode, uid, gid, nlink, rdev, _flags, _error = row
    kind = TYPE_OF_FORMAT[stat.S_IFMT(mode)]
    return Entry(
        path,
        kind,
        mode & MODE_MAX,
        uid,
        gid,
        user_name(uid),
        group_name(gid),
        mtime_ns,
        size,
        target,
        (os.major(rdev), os.minor(rdev)) if kind in _DEVICES else _NO_DEVICE,
        (),
        dev,
        ino,
        nlink,
        ctime_ns,
    )


def types_of(rows: bytes) -> bytes:
    """The type of each row of a listing in a byte; 0 for what can be no entry."""
    return rows[_TYPE_BYTE :: ROW.size].translate(_TYPES)


def row_of_file(entry: Entry) -> bytes:
    """The row of a file; struct.error if it has a number that no row can hold."""
    mode = stat.S_IFREG | entry.mode
    return ROW.pack(
        *(entry.ino, entry.size, entry.mtime_ns, entry.ctime_ns),
        *(mode, entry.uid, entry.gid, entry.nlink, 0, 0, 0),
    )


def is_unchanged(entry: Entry, found: os.stat_result) -> bool:
    """Whether a stat finds what the entry says: same file, same length, same times."""
    return (
        entry.ino == found.st_ino
        and entry.dev == found.st_dev
        and entry.size == found.st_size
        and entry.ctime_ns == found.st_ctime_ns
        and entry.mtime_ns == found.st_mtime_ns
    )


def check_entry_untrusted(entry: Entry) -> None:
    """Pass if every field is within its bounds and belongs to an entry of this type."""
    check_path_untrusted(entry.path)
    if not 0 <= entry.mode <= MODE_MAX:
        raise FormatError("a mode out of bounds", where=shown(entry.path))
    if not (0 <= entry.uid <= _ID_MAX and 0 <= entry.gid <= _ID_MAX):
        raise FormatError("an owner out of bounds", where=shown(entry.path))
    if not TIME_NS_MIN <= entry.mtime_ns <= TIME_NS_MAX:
        raise FormatError("a time out of bounds", where=shown(entry.path))
    sized = entry.type is EntryType.FILE
    if not 0 <= entry.size <= (TIME_NS_MAX if sized else 0):
        raise FormatError("a size out of bounds", where=shown(entry.path))
    if (entry.type is EntryType.SYMLINK) != bool(entry.target) or b"\0" in entry.target:
        raise FormatError("not the target of a link", where=shown(entry.path))
    if len(entry.target) > limits.LINK_TARGET_BYTES_MAX:
        raise LimitExceeded(f"a link to {len(entry.target)} bytes", where=shown(entry.path))
    if entry.rdev != _NO_DEVICE and not all(0 <= number < 1 << 32 for number in entry.rdev):
        raise FormatError("a device number out of bounds", where=shown(entry.path))
    if entry.xattrs:
        _check_xattrs_untrusted(entry.xattrs, shown(entry.path))


def _check_xattrs_untrusted(xattrs: Xattrs, where: str) -> None:
    if len(xattrs) > limits.XATTRS_MAX:
        raise LimitExceeded(f"{len(xattrs)} attributes", where=where)
    if sum(len(name) + len(value) for name, value in xattrs) > limits.XATTRS_BYTES_MAX:
        raise LimitExceeded("more attributes than are allowed", where=where)
    for name, value in xattrs:
        if not 0 < len(name) <= limits.XATTR_NAME_BYTES_MAX or b"\0" in name:
            raise FormatError("not the name of an attribute", where=where)
        if len(value) > limits.XATTR_VALUE_BYTES_MAX:
            raise LimitExceeded(f"an attribute of {len(value)} bytes", where=where)


@lru_cache(maxsize=limits.TREE_OWNERS_CACHED_MAX)
def user_name(uid: int) -> str:
    """What this system calls a user; empty if it does not, or not in printable text."""
    try:
        return _printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return ""


@lru_cache(maxsize=limits.TREE_OWNERS_CACHED_MAX)
def group_name(gid: int) -> str:
    """What this system calls a group; empty if it does not, or not in printable text."""
    try:
        return _printable(grp.getgrgid(gid).gr_name)
    except (KeyError, OverflowError):
        return ""


@lru_cache(maxsize=limits.TREE_OWNERS_CACHED_MAX)
def user_id(name: str) -> int | None:
    """The number of a user on this system."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: a NUL in it
        return None


@lru_cache(maxsize=limits.TREE_OWNERS_CACHED_MAX)
def group_id(name: str) -> int | None:
    """The number of a group on this system."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


def _printable(name: str) -> str:
    if not name.isprintable() or len(name.encode()) > limits.OWNER_NAME_BYTES_MAX:
        return ""
    return name
