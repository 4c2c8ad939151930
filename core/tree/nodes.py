"""Links, fifos and devices: things in a tree that cannot be opened like files."""

import os
import stat

from core.errors import FormatError
from core.tree.entry import TYPE_OF_FORMAT, Changed, Entry, EntryType
from core.tree.metadata import Metadata
from core.tree.paths import shown

DEVICES = {EntryType.CHARACTER: stat.S_IFCHR, EntryType.BLOCK: stat.S_IFBLK}
_PATH_ONLY = getattr(os, "O_PATH", 0)


def make_node(holder: int, name: bytes, entry: Entry) -> None:
    """Make it, for now private. FormatError for a device number no system has."""
    if entry.type is EntryType.SYMLINK:
        os.symlink(entry.target, name, dir_fd=holder)
    elif entry.type is EntryType.FIFO:
        os.mkfifo(name, 0o600, dir_fd=holder)
    else:
        os.mknod(name, DEVICES[entry.type] | 0o600, _device_number(entry), dir_fd=holder)


def dress_node(
    holder: int, name: bytes, entry: Entry, metadata: Metadata, *, has_proc: bool, drop_acls: bool
) -> None:
    """Give what was just made its metadata.

    By a descriptor that stands for that very thing, and only if it is what was made: a link
    planted in its place leads nowhere, and a device number that did not fit is noticed. Where the
    system has no such descriptors, by name without following links.
    """
    if not (_PATH_ONLY and has_proc):
        metadata.apply(name, entry, at={"dir_fd": holder, "follow_symlinks": False})
        return
    fd = os.open(name, _PATH_ONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=holder)
    try:
        found = os.fstat(fd)
        kind = TYPE_OF_FORMAT.get(stat.S_IFMT(found.st_mode))
        wrong_device = entry.type in DEVICES and found.st_rdev != _device_number(entry)
        if kind != entry.type or wrong_device:
            raise Changed("is not what was just made here", where=shown(entry.path))
        drop_acls = drop_acls and entry.type is not EntryType.SYMLINK
        metadata.apply(b"/proc/self/fd/%d" % fd, entry, drop_acls=drop_acls)
    finally:
        os.close(fd)


def _device_number(entry: Entry) -> int:
    try:
        return os.makedev(*entry.rdev)
    except OverflowError as e:
        raise FormatError("no device of this system", where=shown(entry.path)) from e
