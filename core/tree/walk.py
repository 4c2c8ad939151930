"""Every entry of a tree, in an order that depends on nothing but names.

Names are sorted as bytes, a directory stands directly before what it holds. What cannot be read is
reported and the walk goes on; what is excluded is not looked into.
"""

import os
import stat
from collections.abc import Callable, Iterator

from core import limits
from core.errors import LimitExceeded
from core.native.rows import NO_STAT, Row
from core.tree.entry import TYPE_OF_FORMAT, Entry, Skipped, entry_of, entry_of_row
from core.tree.listing import list_directory
from core.tree.source import Source

_FORMAT = 0o170000  # the bits of a mode that say what it is
Exclude = Callable[[bytes, bool], bool]  # (path, is it a directory) -> leave it out


def nothing(_path: bytes, _is_directory: bool) -> bool:  # noqa: FBT001 - it is an Exclude
    """Exclude nothing."""
    return False


def walk(
    source: Source, *, exclude: Exclude = nothing, one_file_system: bool = False
) -> Iterator[Entry]:
    """The entries of all roots, without their attributes (see `content.read_xattrs`).

    The roots themselves are never excluded. With `one_file_system`, the directory that something
    is mounted on is given, its content not. Attributes cost a call per file and are only needed
    for entries that changed, so they are asked for separately.
    """
    for top in source.tops():
        entry = _look_at_top(source, top)
        if entry is None:
            continue
        if top:
            yield entry
        if top in source.roots and entry.is_directory:
            yield from _walk_below(source, entry, exclude, one_file_system=one_file_system)


def _look_at_top(source: Source, path: bytes) -> Entry | None:
    try:
        holder, name = source.place(path)
    except OSError as e:
        source.report(path, e)
        return None
    return _look(source, holder, name, path, nothing)


def _walk_below(
    source: Source, top: Entry, exclude: Exclude, *, one_file_system: bool
) -> Iterator[Entry]:
    levels = [_children(source, top.path, exclude)]
    depth_above = top.path.count(b"/") + 1 if top.path else 0
    while levels:
        for entry in levels[-1]:
            yield entry
            if not entry.is_directory or (one_file_system and entry.dev != top.dev):
                continue
            if depth_above + len(levels) >= limits.PATH_DEPTH_MAX:
                source.report(entry.path, LimitExceeded("is nested too deeply to look into"))
                continue
            levels.append(_children(source, entry.path, exclude))
            break
        else:
            levels.pop()


def _children(source: Source, path: bytes, exclude: Exclude) -> Iterator[Entry]:
    """The entries of one directory, which is looked at as a whole.

    Entries are ten times as large as rows, so they are made when they are asked for.
    """
    try:
        listing = list_directory(source.open(path))
    except OSError as e:
        source.report(path, e)
        return
    prefix = path + b"/" if path else b""
    everything = exclude is nothing and len(prefix) < limits.PATH_BYTES_MAX - limits.NAME_BYTES_MAX
    for index, (name, row) in enumerate(zip(listing.names, listing.every_row(), strict=True)):
        if everything and row.mode & _FORMAT == stat.S_IFREG:  # nearly all of them
            yield entry_of_row(prefix + name, row, listing.dev_of(index))
            continue
        entry = _entry(source, prefix + name, row, listing.dev_of(index), exclude)
        if entry is not None:
            yield entry


def _entry(source: Source, path: bytes, row: Row, dev: int, exclude: Exclude) -> Entry | None:
    """The entry of one name in a listing, or nothing if it is left out, gone or of no use."""
    if row.flags & NO_STAT:
        _refused(source, path, OSError(row.error, os.strerror(row.error)), exclude)
        return None
    kind = stat.S_IFMT(row.mode)
    if exclude(path, kind == stat.S_IFDIR):
        return None
    target = b""
    if kind == stat.S_IFLNK:
        try:
            holder, name = source.place(path)
            target = os.readlink(name, dir_fd=holder)
        except OSError as e:
            _refused(source, path, e, exclude)
            return None
    return entry_of_row(path, row, dev, target) if _is_kept(source, path, kind) else None


def _look(source: Source, holder: int, name: bytes, path: bytes, exclude: Exclude) -> Entry | None:
    """The entry of one name, or nothing if it is left out, gone or of no use."""
    try:
        found = os.stat(name, dir_fd=holder, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if exclude(path, kind == stat.S_IFDIR):
            return None
        target = os.readlink(name, dir_fd=holder) if kind == stat.S_IFLNK else b""
    except OSError as e:
        _refused(source, path, e, exclude)
        return None
    return entry_of(path, found, target) if _is_kept(source, path, kind) else None


def _refused(source: Source, path: bytes, error: OSError, exclude: Exclude) -> None:
    # A file system that refuses to be looked at may be excluded for that very reason.
    if not (exclude(path, True) or exclude(path, False)):
        source.report(path, error)


def _is_kept(source: Source, path: bytes, kind: int) -> bool:
    """Whether this can be an entry; what cannot is reported."""
    if kind not in TYPE_OF_FORMAT:
        source.report(path, Skipped("a socket; it belongs to a running program"))
        return False
    if len(path) > limits.PATH_BYTES_MAX:
        source.report(path, LimitExceeded(f"a path of {len(path)} bytes"))
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
