"""Giving a restored thing its owner, attributes, mode and time, in the order that keeps them all.

Changing an owner clears setuid bits and file capabilities, an ACL changes the mode, everything
changes the time: so owner, attributes, mode, time. What the system refuses is reported, once
where it would be refused for every file alike.
"""

# ruff: noqa: PTH101 - it works on descriptors

import errno
import os
import stat
from collections.abc import Mapping
from enum import Enum, unique
from typing import Any

from core.tree.entry import Entry, EntryType, Incomplete, Report, group_id, user_id
from core.tree.paths import shown

ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_HARMLESS = (b"user.", *ACLS)
_HERE: Mapping[str, Any] = {}


@unique
class Owners(Enum):
    """Whose the restored files will be."""

    NUMBERS = "numbers"  # as recorded
    NAMES = "names"  # the user of that name on this system; the number if there is none
    MINE = "mine"  # whoever restores


class Metadata:
    """Sets everything an entry says about a thing that is there.

    Not `privileged`: no setuid, setgid and sticky bits and no attributes that give rights, for
    archives of strangers.
    """

    def __init__(self, owners: Owners, report: Report, *, privileged: bool) -> None:
        self._owners = owners
        self._privileged = privileged
        self._report = report
        self._said: set[str] = set()

    def apply(
        self,
        handle: int | bytes,
        entry: Entry,
        *,
        drop_acls: bool = False,
        at: Mapping[str, Any] = _HERE,
    ) -> None:
        """Set them by descriptor, or by a path (with `at` saying from where) that is no link."""
        mode = self._own(handle, entry, at)
        if entry.xattrs:
            self._set_xattrs(handle, entry, at)
        if drop_acls:
            self._drop_acls(handle, entry)
        try:
            if entry.type is not EntryType.SYMLINK:  # a link has no mode of its own
                os.chmod(handle, mode, **at)
            os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns), **at)
        except (OSError, NotImplementedError) as e:
            what = f"mode or time cannot be set: {getattr(e, 'strerror', 'not possible here')}"
            self._once(entry.path, what, what)

    def of_plain_file(self, entry: Entry) -> tuple[int, int, int, int] | None:
        """Mode, whether it gets an owner, and the owner, of a file that needs no more than that.

        Nothing for one with attributes or bits that lend rights, and where owners are refused.
        """
        mode = entry.mode if self._privileged else entry.mode & 0o777
        if entry.xattrs or mode & (stat.S_ISUID | stat.S_ISGID) or "owner" in self._said:
            return None
        if self._owners is Owners.MINE:
            return mode, 0, 0, 0
        return mode, 1, *self._wanted(entry)

    def _own(self, handle: int | bytes, entry: Entry, at: Mapping[str, Any]) -> int:
        """Set the owner; the mode without the bits that would lend the rights of someone else."""
        mode = entry.mode if self._privileged else entry.mode & 0o777
        if self._owners is Owners.MINE:
            return self._without_lent_rights(entry, mode, -1, -1)
        uid, gid = self._wanted(entry)
        try:
            os.chown(handle, uid, gid, **at)
        except OSError as e:
            self._once(entry.path, "owner", f"owners cannot be set: {e.strerror}")
        else:
            return self._without_lent_rights(entry, mode, uid, gid)
        try:
            os.chown(handle, -1, gid, **at)
        except OSError:
            gid = -1
        return self._without_lent_rights(entry, mode, -1, gid)

    def _wanted(self, entry: Entry) -> tuple[int, int]:
        if self._owners is Owners.NUMBERS:
            return entry.uid, entry.gid
        uid = user_id(entry.user) if entry.user else None
        gid = group_id(entry.group) if entry.group else None
        return entry.uid if uid is None else uid, entry.gid if gid is None else gid

    @staticmethod
    def _without_lent_rights(entry: Entry, mode: int, uid: int, gid: int) -> int:
        if mode & (stat.S_ISUID | stat.S_ISGID):
            if uid == -1 and entry.uid != os.geteuid():
                mode &= ~stat.S_ISUID
            if gid == -1 and entry.gid != os.getegid():
                mode &= ~stat.S_ISGID
        return mode

    def _set_xattrs(self, handle: int | bytes, entry: Entry, at: Mapping[str, Any]) -> None:
        if at or not hasattr(os, "setxattr"):
            self._once(entry.path, "xattrs", "attributes cannot be set on this system")
            return
        if entry.type is not EntryType.SYMLINK:
            self._make_writable(handle, entry)
        for name, value in entry.xattrs:
            if not self._privileged and not name.startswith(_HARMLESS):
                continue
            try:
                os.setxattr(handle, name, value)
            except OSError as e:
                what = f"attribute {shown(name)} cannot be set: {e.strerror}"
                self._once(entry.path, what, what)

    @staticmethod
    def _make_writable(handle: int | bytes, entry: Entry) -> None:
        """Attributes need a mode that lets the owner write, whatever the umask has left."""
        try:
            os.chmod(handle, 0o700 if entry.is_directory else 0o600)
        except OSError:
            return  # setting the attributes will tell

    def _drop_acls(self, handle: int | bytes, entry: Entry) -> None:
        """Take off what a directory above has handed down."""
        wanted = {name for name, _ in entry.xattrs}
        for name in ACLS:
            if name in wanted:
                continue
            try:
                os.removexattr(handle, name)
            except OSError as e:
                if e.errno not in {errno.ENODATA, errno.ENOTSUP}:
                    what = f"the ACL it got from above stays: {e.strerror}"
                    self._report(entry.path, Incomplete(what))

    def _once(self, path: bytes, key: str, what: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._report(path, Incomplete(f"{what} (said once)"))
