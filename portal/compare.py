"""What differs: two snapshots, a snapshot and the disk (portal/SPEC.md, Reading snapshots).

Directories with the same content are the same, whatever they hold: they are not read. Everything
else is compared name by name, both sides in the order of their bytes.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, unique
from typing import NamedTuple, Protocol

from core.errors import PortalError
from core.native.rows import NO_STAT
from core.tree.content import read_xattrs
from core.tree.entry import TYPE_OF_FORMAT, Entry, EntryType, Report, entry_of, entry_of_row
from core.tree.listing import list_directory
from core.tree.source import Root, Source
from portal.browse import EVERYTHING, Scope, Selection, children, lookup, nowhere
from portal.content import extents_of, is_same_on_disk
from portal.head import Snapshot
from portal.manifest import HOLE, NO_CONTENT, Form, Node
from portal.reader import Reader


@unique
class Difference(Enum):
    """How a name differs; the letters are those of restic."""

    ADDED = "+"
    REMOVED = "-"
    CONTENT = "M"
    METADATA = "U"
    TYPE = "T"


class Change(NamedTuple):
    """One name that differs; its path is the one in the snapshots."""

    difference: Difference
    path: bytes
    old: Node | None
    new: Node | None


@dataclass(slots=True)
class Changes:
    """How much differs, counted while the changes are drawn."""

    added: int = 0
    removed: int = 0
    content: int = 0
    metadata: int = 0
    type: int = 0
    added_bytes: int = 0
    removed_bytes: int = 0


class _Side(Protocol):
    """One of the two trees."""

    def nodes(self, directory: Node) -> Iterator[Node]:
        """What a directory holds, in the order of names."""


class _InSnapshot:
    def __init__(self, reader: Reader, report: Report) -> None:
        self.reader = reader
        self._report = report

    def nodes(self, directory: Node) -> Iterator[Node]:
        return children(self.reader, directory.content, directory.entry.path, self._report)


class _OnDisk:
    """A tree on the disk, read through held directories; no link is followed."""

    def __init__(self, source: Source, cut: int, scope: Scope, *, with_xattrs: bool) -> None:
        self.source = source
        self._cut = cut  # of a path, what is called otherwise here
        self._scope = scope
        self._with_xattrs = with_xattrs

    def here(self, path: bytes) -> bytes:
        """What a path of the snapshot is called on the disk."""
        return path[self._cut :]

    def nodes(self, directory: Node) -> Iterator[Node]:
        above = directory.entry.path
        try:
            listing = list_directory(self.source.open(self.here(above)))
        except OSError as e:
            self.source.report(above, e)
            return
        for index, (name, row) in enumerate(zip(listing.names, listing.every_row(), strict=True)):
            path = above + b"/" + name if above else name
            if row.flags & NO_STAT:
                self.source.report(path, OSError(row.error, os.strerror(row.error)))
                continue
            if stat.S_IFMT(row.mode) not in TYPE_OF_FORMAT:
                continue  # a socket: never in a snapshot
            try:
                target = self._target(path) if stat.S_ISLNK(row.mode) else b""
                entry = entry_of_row(path, row, listing.dev_of(index), target)
                yield Node(self._dressed(entry), NO_CONTENT, b"")
            except OSError as e:
                self.source.report(path, e)

    def speaks_of(self, path: bytes) -> bool:
        """Whether this was looked at when the snapshot was made."""
        return self._scope.covers(path)

    def _target(self, path: bytes) -> bytes:
        holder, name = self.source.place(self.here(path))
        return os.readlink(name, dir_fd=holder)

    def _dressed(self, entry: Entry) -> Entry:
        if not self._with_xattrs:
            return entry
        here = entry._replace(path=self.here(entry.path))
        return entry._replace(xattrs=read_xattrs(self.source, here))


class Comparison:
    """One comparison: iterate once over `changes()`, then look at `totals`."""

    def __init__(
        self, reader: Reader, report: Report = nowhere, select: Selection = EVERYTHING
    ) -> None:
        """Without a `report`, the first thing that is damaged ends it."""
        self.totals = Changes()
        self._reader = reader
        self._report = report
        self._select = select
        self._disk: _OnDisk | None = None
        self._contents = True

    def of_snapshots(self, old: Snapshot, new: Snapshot, under: bytes = b"") -> Iterator[Change]:
        """What became of one in the other, below a path."""
        side = _InSnapshot(self._reader, self._report)
        tops = lookup(self._reader, old, under), lookup(self._reader, new, under)
        yield from self._changes(tops, (side, side))

    def with_disk(
        self, snapshot: Snapshot, under: bytes, root: bytes, *, content: bool = False
    ) -> Iterator[Change]:
        """What became of a directory of a snapshot at `root` on the disk.

        Contents are compared by length and time; with `content` they are read, and attributes too.
        """
        top = lookup(self._reader, snapshot, under)
        cut = len(under) + 1 if under else 0
        root = os.path.realpath(root)
        if not top.entry.is_directory:
            cut = under.rfind(b"/") + 1
            root, name = os.path.split(root)
            top = Node(top.entry._replace(path=under[:cut] + name), top.content, top.link)
        scope = Scope(snapshot.record)
        with Source([Root(root, b"")], self._report) as source:
            disk = _OnDisk(source, cut, scope, with_xattrs=content)
            self._disk, self._contents = disk, content
            holder, name = source.place(disk.here(top.entry.path))
            found = entry_of(top.entry.path, os.stat(name, dir_fd=holder, follow_symlinks=False))
            sides = _InSnapshot(self._reader, self._report), disk
            yield from self._changes((top, Node(found, NO_CONTENT, b"")), sides)

    # --- how ------------------------------------------------------------------------------------

    def _changes(self, tops: tuple[Node, Node], sides: tuple[_Side, _Side]) -> Iterator[Change]:
        """Both trees, side by side, one directory of each at a time on the way down."""
        if not (tops[0].entry.is_directory and tops[1].entry.is_directory):
            yield from self._both(*tops)
            return
        levels = [_pairs(tops, sides)] if self._may_differ(*tops) else []
        while levels:
            for old, new in levels[-1]:
                if (node := old or new) is None:
                    continue
                path = node.entry.path
                if self._is_silent(old, path):
                    continue
                if self._select.takes(path):
                    yield from self._one(old, new)
                if self._select.may_hold(path) and self._descends(old, new):
                    levels.append(_pairs((old, new), sides))
                    break
            else:
                levels.pop()

    def _is_silent(self, old: Node | None, path: bytes) -> bool:
        """Whether this stands beside what was backed up, where nobody looked."""
        return old is None and self._disk is not None and not self._disk.speaks_of(path)

    def _only_leads(self, entry: Entry) -> bool:
        """Whether this is a directory above what was backed up: its times say nothing about it."""
        on_disk = self._disk is not None and not self._disk.speaks_of(entry.path)
        return entry.is_directory and on_disk

    def _descends(self, old: Node | None, new: Node | None) -> bool:
        nodes = [node for node in (old, new) if node is not None and node.entry.is_directory]
        return bool(nodes) and (len(nodes) == 1 or self._may_differ(nodes[0], nodes[1]))

    def _may_differ(self, old: Node, new: Node) -> bool:
        return self._disk is not None or old.content != new.content

    def _one(self, old: Node | None, new: Node | None) -> Iterator[Change]:
        totals = self.totals
        if old is None and new is not None:
            totals.added += 1
            totals.added_bytes += new.entry.size
            yield Change(Difference.ADDED, new.entry.path, None, new)
        elif new is None and old is not None:
            totals.removed += 1
            totals.removed_bytes += old.entry.size
            yield Change(Difference.REMOVED, old.entry.path, old, None)
        elif old is not None and new is not None:
            yield from self._both(old, new)

    def _both(self, old: Node, new: Node) -> Iterator[Change]:
        a, b, totals = old.entry, new.entry, self.totals
        if a.type is not b.type:
            totals.type += 1
            totals.added_bytes += b.size
            totals.removed_bytes += a.size
            yield Change(Difference.TYPE, a.path, old, new)
        elif self._content_differs(old, new):
            totals.content += 1
            added, removed = self._bytes(old, new)
            totals.added_bytes += added
            totals.removed_bytes += removed
            yield Change(Difference.CONTENT, a.path, old, new)
        elif self._metadata(a) != self._metadata(b) and not self._only_leads(a):
            totals.metadata += 1
            yield Change(Difference.METADATA, a.path, old, new)

    def _content_differs(self, old: Node, new: Node) -> bool:
        a, b = old.entry, new.entry
        if a.type is not EntryType.FILE:
            return (a.target, a.rdev) != (b.target, b.rdev)
        if a.size != b.size or self._disk is None:
            return old.content != new.content if self._disk is None else True
        if not self._contents:
            return a.mtime_ns != b.mtime_ns
        here = b._replace(path=self._disk.here(b.path))
        try:
            return not is_same_on_disk(self._reader, old, self._disk.source, here)
        except (PortalError, OSError) as e:
            self._report(b.path, e)
            return False

    def _metadata(self, entry: Entry) -> tuple[object, ...]:
        xattrs = entry.xattrs if self._contents else ()
        return entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.rdev, xattrs

    def _bytes(self, old: Node, new: Node) -> tuple[int, int]:
        """How much of a changed file is new, and how much is gone: by its pieces, if it is cut."""
        cut = {Form.CUTS, Form.CUT_LISTS}
        if self._disk is not None or not {old.content.form, new.content.form} <= cut:
            return new.entry.size, old.entry.size
        a, b = (
            {e for e in extents_of(self._reader, n.content) if e.tag != HOLE} for n in (old, new)
        )
        return sum(e.length for e in b - a), sum(e.length for e in a - b)


def _pairs(
    directories: tuple[Node | None, Node | None], sides: tuple[_Side, _Side]
) -> Iterator[tuple[Node | None, Node | None]]:
    """The names of two directories, each with what it stands for in both; either may be missing."""
    ours, theirs = (
        side.nodes(node) if node is not None and node.entry.is_directory else iter(())
        for node, side in zip(directories, sides, strict=True)
    )
    old, new = next(ours, None), next(theirs, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.entry.path < new.entry.path):
            yield old, None
            old = next(ours, None)
        elif old is None or new.entry.path < old.entry.path:
            yield None, new
            new = next(theirs, None)
        else:
            yield old, new
            old, new = next(ours, None), next(theirs, None)
