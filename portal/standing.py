"""What stands where something is to be restored, and what is to become of it.

A directory is listed once and compared name by name with the snapshot's, both in the order of
their bytes. Nothing here writes.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, unique

from core.native.rows import NO_STAT, Row
from core.tree.content import read_xattrs
from core.tree.entry import (
    TYPE_OF_FORMAT,
    AlreadyThere,
    Entry,
    EntryType,
    entry_of_row,
    group_name,
    user_name,
)
from core.tree.listing import Listing, list_directory
from core.tree.metadata import Owners
from core.tree.nodes import DEVICES
from core.tree.paths import shown
from core.tree.source import Source
from portal.content import is_same_on_disk
from portal.manifest import Node
from portal.reader import Reader

_DIRECTORY = "a directory is in the way"


@unique
class Overwrite(Enum):
    """What happens to what is there already."""

    REFUSE = "refuse"  # an error for each; nothing that was there is touched
    ALWAYS = "always"  # the snapshot wins
    IF_CHANGED = "if-changed"  # the snapshot wins; what is the same is left as it is
    IF_NEWER = "if-newer"  # the later mtime wins
    NEVER = "never"  # what is there wins


@unique
class Deed(Enum):
    """What is done about one name."""

    CREATED = "restored"
    REPLACED = "replaced"
    CORRECTED = "corrected"  # its content was right, its metadata not
    KEPT = "kept"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Manners:
    """How to decide."""

    overwrite: Overwrite
    content: bool  # do not believe size and time: compare contents
    owners: Owners
    privileged: bool
    clears: bool  # a directory in the way may go


class Found:
    """What stands in one directory of the target, asked for in the order of names."""

    def __init__(self, listing: Listing | None) -> None:
        self._listing = listing
        self._names = listing.names if listing else []
        self._at = 0
        self.extras: list[bytes] = []  # names that nobody asked for

    @property
    def dev(self) -> int:
        """The device the directory lies on."""
        return self._listing.dev if self._listing else 0

    def find(self, name: bytes) -> Row | None:
        """What is called so; the names before it are nobody's."""
        names, at = self._names, self._at
        while at < len(names) and names[at] < name:
            self.extras.append(names[at])
            at += 1
        self._at = at
        if self._listing is None or at == len(names) or names[at] != name:
            return None
        self._at += 1
        return self._listing.row(at)

    def rest(self) -> Iterator[bytes]:
        """What the snapshot does not know, when all its names were asked for."""
        self.extras += self._names[self._at :]
        self._at = len(self._names)
        return iter(self.extras)


class Standing:
    """The target as it is before anything is restored. One thread at a time."""

    def __init__(self, reader: Reader, source: Source, manners: Manners) -> None:
        self._reader = reader
        self._source = source
        self._manners = manners

    @property
    def wants_links(self) -> bool:
        """Whether what stays is to become another name of something all the same."""
        return self._manners.overwrite is Overwrite.IF_CHANGED

    def look_into(self, path: bytes) -> Found:
        """What a directory holds that is there."""
        return Found(list_directory(self._source.open(path)))

    def of_directory(self, node: Node, row: Row | None, *, is_source: bool) -> Deed | None:
        """What becomes of a directory of the snapshot. KEPT: what stands there is none, and stays.

        Nothing: it is there. Not `is_source`: it only leads to what was backed up, and a link in
        its place leads there too, so it is not for us to replace.
        """
        if row is None:
            return Deed.CREATED
        if stat.S_ISDIR(row.mode):
            return None
        if stat.S_ISLNK(row.mode) and not is_source:
            raise AlreadyThere(
                "a link is where a directory is needed",
                where=shown(node.entry.path),
                hint="restore what is below it into the directory the link leads to",
            )
        return self._by_policy(node.entry, row)

    def of_other(self, node: Node, row: Row | None) -> Deed:
        """What becomes of anything else. AlreadyThere if that is not to be decided silently."""
        entry, manners = node.entry, self._manners
        if row is None:
            return Deed.CREATED
        if manners.overwrite is Overwrite.IF_CHANGED and self._is_same(node, row):
            return Deed.CORRECTED if self._differs(entry, row) else Deed.KEPT
        deed = self._by_policy(entry, row)
        if deed is Deed.REPLACED and stat.S_ISDIR(row.mode) and not manners.clears:
            raise AlreadyThere(_DIRECTORY, where=shown(entry.path))
        return deed

    def _by_policy(self, entry: Entry, row: Row) -> Deed:
        overwrite = self._manners.overwrite
        if overwrite is Overwrite.REFUSE or row.flags & NO_STAT:
            hint = "choose what to do with such files: --overwrite"
            raise AlreadyThere(where=shown(entry.path), hint=hint)
        if overwrite is Overwrite.NEVER:
            return Deed.KEPT
        if overwrite is Overwrite.IF_NEWER and entry.mtime_ns <= row.mtime_ns:
            return Deed.KEPT
        return Deed.REPLACED

    def _is_same(self, node: Node, row: Row) -> bool:
        """Whether what stands there has the type and the content of the node."""
        entry = node.entry
        if row.flags & NO_STAT or TYPE_OF_FORMAT.get(stat.S_IFMT(row.mode)) is not entry.type:
            return False
        if entry.type is EntryType.SYMLINK:
            holder, name = self._source.place(entry.path)
            return os.readlink(name, dir_fd=holder) == entry.target
        if entry.type in DEVICES:
            return (os.major(row.rdev), os.minor(row.rdev)) == entry.rdev
        return entry.type is not EntryType.FILE or self._is_same_file(node, row)

    def _is_same_file(self, node: Node, row: Row) -> bool:
        entry = node.entry
        if row.size != entry.size:
            return False
        if not self._manners.content:
            return row.mtime_ns == entry.mtime_ns
        return is_same_on_disk(self._reader, node, self._source, self._entry(entry.path, row))

    def _entry(self, path: bytes, row: Row) -> Entry:
        holder, name = self._source.place(path)
        return entry_of_row(path, row, os.stat(name, dir_fd=holder, follow_symlinks=False).st_dev)

    def _differs(self, entry: Entry, row: Row) -> bool:
        """Whether its metadata is another."""
        mask = 0o7777 if self._manners.privileged else 0o777
        if entry.mtime_ns != row.mtime_ns:
            return True
        if entry.type is not EntryType.SYMLINK and (entry.mode ^ row.mode) & mask:
            return True
        if self._owner_differs(entry, row):
            return True
        if entry.type is EntryType.SYMLINK and not entry.xattrs:
            return False
        found = read_xattrs(self._source, entry_of_row(entry.path, row, 0, entry.target))
        return not set(entry.xattrs) <= set(found)

    def _owner_differs(self, entry: Entry, row: Row) -> bool:
        owners = self._manners.owners
        if owners is Owners.MINE or (entry.uid, entry.gid) == (row.uid, row.gid):
            return False
        if owners is Owners.NUMBERS:
            return True
        same = (user_name(row.uid), group_name(row.gid)) == (entry.user, entry.group)
        return not (same and entry.user and entry.group)
