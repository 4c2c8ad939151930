"""Everything in a tree, in an order that depends on nothing but names.

Names are sorted as bytes, a directory stands directly before what it holds. What cannot be read is
reported and the walk goes on; what is excluded is not looked into.
"""

import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from itertools import compress

from core import limits
from core.errors import LimitExceeded
from core.native.rows import INODES, LINKS, NO_STAT, ROW, SIZES, Listed, Row, column, row_of
from core.tree.entry import TYPE_OF_FORMAT, Entry, EntryType, Skipped, entry_of_row, types_of
from core.tree.listing import Listing, list_directory
from core.tree.source import Source
from core.tree.stretch import Stretch

Exclude = Callable[[bytes, bool], bool]  # (path, is it a directory) -> leave it out

# What becomes of a name: a byte for each makes a text in which stretches are found.
_FILE, _DIRECTORY, _ALONE, _LEFT_OUT = b"fd?-"
_MARKS = bytes(
    {int(EntryType.FILE): _FILE, int(EntryType.DIRECTORY): _DIRECTORY}.get(kind, _ALONE)
    for kind in range(256)
)
_IS_FILE = bytes(mark == _FILE for mark in range(256))
_STRETCH = re.compile(rb"f{1,%d}d?|[d?]" % limits.TREE_BATCH_FILES_MAX)


def nothing(_path: bytes, _is_directory: bool) -> bool:  # noqa: FBT001 - it is an Exclude
    """Exclude nothing."""
    return False


def walk(
    source: Source,
    *,
    exclude: Exclude = nothing,
    own: Collection[tuple[int, int]] = (),
    one_file_system: bool = False,
    small_bytes_max: int = limits.TREE_SMALL_FILE_BYTES_MAX,
) -> Iterator[Stretch | Entry]:
    """What all roots hold: directories and small files together, everything else as an entry.

    Entries come without their attributes (see `content.read_xattrs`), which cost a call per file
    and are only needed for what changed. The roots themselves are never excluded; `own` (device and
    inode) is left out wherever it is. With `one_file_system`, the directory that something is
    mounted on is given, its content not.
    """
    walking = _Walk(source, exclude, frozenset(own), small_bytes_max, one_file_system)
    for top in source.tops():
        yield from walking.top(top)


class _Walk:
    """One walk; its rules are the same everywhere."""

    def __init__(
        self,
        source: Source,
        exclude: Exclude,
        own: frozenset[tuple[int, int]],
        small_bytes_max: int,
        one_file_system: bool,  # noqa: FBT001
    ) -> None:
        self._source = source
        self._exclude = exclude
        self._own = own
        self._own_inodes = {inode for _, inode in own}
        self._small_bytes_max = small_bytes_max
        self._one_file_system = one_file_system

    def top(self, path: bytes) -> Iterator[Stretch | Entry]:
        """What is given by a name of its own: a root, or a directory above one."""
        source = self._source
        try:
            holder, name = source.place(path)
            seen = os.stat(name, dir_fd=holder, follow_symlinks=False)
        except OSError as e:
            source.report(path, e)
            return
        above, slash, name = path.rpartition(b"/")
        listing = Listing(Listed(seen.st_dev, name + b"\0", row_of(seen), ()))
        for found in self._found_in(above + slash, listing, nothing):
            if path:
                yield found
            if path in source.roots and found.directory is not None:
                yield from self._below(found.directory, found.dev)

    def _below(self, top: bytes, dev: int) -> Iterator[Stretch | Entry]:
        levels = [self._children(top)]
        depth_above = top.count(b"/") + 1 if top else 0
        while levels:
            for found in levels[-1]:
                yield found
                directory = found.directory
                if directory is None or (self._one_file_system and found.dev != dev):
                    continue
                if depth_above + len(levels) >= limits.PATH_DEPTH_MAX:
                    too_deep = LimitExceeded("is nested too deeply to look into")
                    self._source.report(directory, too_deep)
                    continue
                levels.append(self._children(directory))
                break
            else:
                levels.pop()

    def _children(self, path: bytes) -> Iterator[Stretch | Entry]:
        """What one directory holds, which is looked at as a whole."""
        try:
            listing = list_directory(self._source.open(path))
        except OSError as e:
            self._source.report(path, e)
            return iter(())
        return self._found_in(path + b"/" if path else b"", listing, self._exclude)

    def _found_in(
        self, prefix: bytes, listing: Listing, exclude: Exclude
    ) -> Iterator[Stretch | Entry]:
        names, rows, dev = listing.names, listing.rows, listing.dev
        sizes = column(rows, SIZES)
        marks = self._marks(prefix, listing, sizes, exclude)
        for match in _STRETCH.finditer(marks):
            first, end = match.span()
            if marks[first] != _ALONE:
                at_end = prefix + names[end - 1] if marks[end - 1] == _DIRECTORY else None
                part = rows[first * ROW.size : end * ROW.size]
                yield Stretch(prefix, names[first:end], part, sizes[first:end], dev, at_end)
            else:
                path, row, dev_of = prefix + names[first], listing.row(first), listing.dev_of(first)
                if (entry := self._entry(path, row, dev_of, exclude)) is not None:
                    yield entry

    def _marks(
        self, prefix: bytes, listing: Listing, sizes: list[int], exclude: Exclude
    ) -> bytearray:
        """What becomes of each name."""
        rows, most = listing.rows, self._small_bytes_max
        marks = bytearray(types_of(rows).translate(_MARKS))
        links = column(rows, LINKS)
        # Names of one file, and large files. Looked for in all at once: they are rare.
        if max(sizes, default=0) > most or {1} != {1, *compress(links, marks.translate(_IS_FILE))}:
            for at, mark in enumerate(marks):
                if mark == _FILE and (links[at] != 1 or sizes[at] > most):
                    marks[at] = _ALONE
        if listing.is_mixed or len(prefix) >= limits.PATH_BYTES_MAX - limits.NAME_BYTES_MAX:
            marks = bytearray((_ALONE,)) * len(marks)  # each is looked at
        self._leave_out(marks, prefix, listing, exclude)
        return marks

    def _leave_out(
        self, marks: bytearray, prefix: bytes, listing: Listing, exclude: Exclude
    ) -> None:
        names = listing.names
        if exclude is not nothing:
            for at, row in enumerate(listing.every_row()):
                if not row.flags & NO_STAT and exclude(prefix + names[at], stat.S_ISDIR(row.mode)):
                    marks[at] = _LEFT_OUT
        inodes = column(listing.rows, INODES)
        if not self._own_inodes.isdisjoint(inodes):
            for at, inode in enumerate(inodes):
                if (listing.dev_of(at), inode) in self._own:
                    marks[at] = _LEFT_OUT

    def _entry(self, path: bytes, row: Row, dev: int, exclude: Exclude) -> Entry | None:
        """The entry of one name, or nothing if it is gone or of no use."""
        if row.flags & NO_STAT:
            self._refused(path, OSError(row.error, os.strerror(row.error)), exclude)
            return None
        kind = stat.S_IFMT(row.mode)
        target = b""
        if kind == stat.S_IFLNK:
            try:
                holder, name = self._source.place(path)
                target = os.readlink(name, dir_fd=holder)
            except OSError as e:
                self._refused(path, e, exclude)
                return None
        return entry_of_row(path, row, dev, target) if self._is_kept(path, kind) else None

    def _refused(self, path: bytes, error: OSError, exclude: Exclude) -> None:
        # A file system that refuses to be looked at may be excluded for that very reason.
        if not (exclude(path, True) or exclude(path, False)):
            self._source.report(path, error)

    def _is_kept(self, path: bytes, kind: int) -> bool:
        """Whether this can be an entry; what cannot is reported."""
        if kind not in TYPE_OF_FORMAT:
            self._source.report(path, Skipped("a socket; it belongs to a running program"))
            return False
        if len(path) > limits.PATH_BYTES_MAX:
            self._source.report(path, LimitExceeded(f"a path of {len(path)} bytes"))
            return False
        return True


class LinkGroups:
    """Remembers the first name of every file that has several.

    Length and time belong to the identity: a number of a deleted file may be given to a new one
    while the walk goes on, and losing a link is better than losing a content.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[int, ...], tuple[bytes, int]] = {}

    def first_of(self, entry: Entry) -> bytes | None:
        """The path under which this same file came before; nothing if this is the first."""
        if entry.hard_link is None:
            return None
        key = self._key(entry)
        first, to_come = self._first.get(key, (b"", entry.nlink))
        if to_come > 1:
            self._first[key] = (first or entry.path, to_come - 1)
        else:
            del self._first[key]  # all names have been seen
        return first or None

    def forget(self, entry: Entry) -> None:
        """Its first name could not be kept after all: the next one is to be the first."""
        self._first.pop(self._key(entry), None)

    @staticmethod
    def _key(entry: Entry) -> tuple[int, ...]:
        return entry.dev, entry.ino, entry.size, entry.mtime_ns
