"""From the trees on the disk to the rows of a snapshot; what did not change is taken over.

Each directory is a generator that gives chunks as they get full, and directories below it to be
done before it goes on; `Scan.chunks` drives them. So any depth and any length of a directory takes
little memory. One thread does all of it: it reads while others compress, seal and write.
"""

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import NamedTuple, Protocol

from core import limits
from core.errors import FormatError, IntegrityError, LimitExceeded, PortalError
from core.native.rows import CTIMES, MODES, MTIMES, NO_STAT, SIZES, column
from core.native.rows import Row as Found
from core.pieces import Chunk
from core.tree.content import Small, read_small
from core.tree.entry import (
    TYPE_OF_FORMAT,
    Changed,
    Entry,
    EntryType,
    entry_of,
    entry_of_row,
)
from core.tree.listing import Listing, list_directory
from core.tree.read_batch import read_many, room
from core.tree.source import Source
from portal.baseline import Before, Looks, RowsBefore
from portal.gather import Gather
from portal.intake import Intake, Progress, link_mark
from portal.manifest import Content, Form, Parts, Row, row_of
from portal.unchanged import Unchanged, content_of, xattrs_of

_EMPTY = Content(Form.PARTS, b"")
_WAITING_MAX = 1_024

Steps = Generator[object, object, "Done"]


class Rules(Protocol):
    """Which names of one directory are left out (core/tree/exclusion.py)."""

    @property
    def is_trivial(self) -> bool:
        """Nothing is: there is no need to ask."""
        ...

    @property
    def fingerprint(self) -> bytes:
        """Equal where the same rules leave the same names out."""
        ...

    def excludes(self, name: bytes, is_directory: bool, size: int) -> bool:  # noqa: FBT001
        """Whether this one is."""
        ...


class Exclusion(Protocol):
    """Makes the rules of each directory, from above to below."""

    def begin(
        self, path: bytes, names: Sequence[bytes], read: Callable[[bytes], bytes | None]
    ) -> Rules:
        """Those of a directory that holds these names; `read` gives a small file of it."""
        ...


class Done(NamedTuple):
    """A directory that was done. No content: all below it is as it was in the parent."""

    content: Content | None
    is_gone: bool = False  # deleted since the directory above was listed


class _Folder(NamedTuple):
    """A directory to be done."""

    path: bytes
    dev: int  # of the source it belongs to
    before: Before | None
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Where a scan goes."""

    exclusion: Exclusion | None = None
    one_file_system: bool = False
    own: frozenset[tuple[int, int]] = frozenset()  # device and inode of what is never entered
    watch: Callable[[Progress], None] = lambda _progress: None  # called for every directory


class Scan:
    """One look at all sources; afterwards `root` names what was found."""

    def __init__(
        self,
        source: Source,
        gather: Gather,
        looks: Looks,
        before: Before | None,
        unchanged: Unchanged,
        walk: Walk,
    ) -> None:
        self.root = _EMPTY
        self._source = source
        self._gather = gather
        self._looks = looks
        self._before = before
        self._unchanged = unchanged
        self._walk = walk
        self._troubles = 0
        self._room = room()
        self._intake = Intake(source, gather, self._trouble, unchanged.is_recent)
        self.progress = self._intake.progress

    def chunks(self) -> Iterator[list[Chunk]]:
        """Everything that is to be stored, a few MiB at a time."""
        stack: list[Steps] = [self._above(b"", self._before)]
        answer: Done | None = None
        while stack:
            try:
                step = stack[-1].send(answer)
            except StopIteration as stop:
                stack.pop()
                answer = stop.value
                continue
            answer = None
            if isinstance(step, GeneratorType):
                stack.append(step)
            else:
                yield step  # type: ignore[misc]  # what is no generator is a list of chunks
        assert answer is not None
        self.root = answer.content or content_before(self._before) or _EMPTY

    def _trouble(self, path: bytes, error: PortalError | OSError) -> None:
        """Something could not be read: said, and its directory is looked through next time."""
        self._troubles += 1
        self._source.report(path, error)

    # --- above the sources ------------------------------------------------------------------------

    def _above(self, path: bytes, before: Before | None) -> Steps:
        """A directory on the way to the sources: nothing of it but the way."""
        if path in self._source.roots:
            dev = os.fstat(self._source.open(path)).st_dev
            return Done((yield from self._below(_Folder(path, dev, before, 0))))
        rows, rows_before = _Rows(self._gather), RowsBefore(before)
        for child in _children(path, self._source):
            name = child.rpartition(b"/")[2]
            old = rows_before.take(name)
            try:
                entry = self._entry_at(child)
                below = before.below(name) if before else None
                row = yield from self._source_row(entry, below, old)
            except (OSError, PortalError) as e:
                self._trouble(child, e)
                continue
            is_above = child not in self._source.roots
            # Whatever else happens in a directory above a source moves its time: of no interest.
            rows.add(old if is_above and old and _only_time_differs(row, old) else row)
        return Done(rows.finish())

    def _source_row(
        self, entry: Entry, before: Before | None, old: Row | None
    ) -> Generator[object, object, Row]:
        path = entry.path
        if entry.type is EntryType.FILE:
            row = yield from self._intake.file(entry)  # always: one file costs nothing
            if old is not None and content_of(old) == content_of(row):
                self._counted(EntryType.FILE, entry.size)
            else:
                self._counted_as_read(entry.size, old)
            return row
        if not entry.is_directory:
            self.progress.others += 1
            return self._intake.other(entry)
        if path in self._source.roots:
            content = yield from self._below(_Folder(path, entry.dev, before, path.count(b"/")))
        else:
            done = yield self._above(path, before)
            content = done.content or _EMPTY  # type: ignore[attr-defined]  # what _above gives
        self.progress.directories += 1
        return row_of(self._intake.with_xattrs(entry), content, recent=True)

    def _entry_at(self, path: bytes) -> Entry:
        holder, name = self._source.place(path)
        found = os.stat(name, dir_fd=holder, follow_symlinks=False)
        if stat.S_IFMT(found.st_mode) not in TYPE_OF_FORMAT:
            raise Changed("is a socket; it belongs to a running program")
        target = os.readlink(name, dir_fd=holder) if stat.S_ISLNK(found.st_mode) else b""
        return entry_of(path, found, target)

    # --- directories ------------------------------------------------------------------------------

    def _below(self, folder: _Folder) -> Generator[object, object, Content]:
        """The content of a directory, whether it is new or as it was."""
        done = yield self._folder(folder)
        assert isinstance(done, Done)
        if done.is_gone:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        content = done.content or content_before(folder.before)
        if content is None:  # it looks as it did, but the vault has lost what it was
            done = yield self._folder(folder._replace(before=None))
            assert isinstance(done, Done)
            content = done.content
        return content or _EMPTY

    def _folder(self, folder: _Folder) -> Steps:
        """A directory of a source."""
        path = folder.path
        if folder.depth >= limits.PATH_DEPTH_MAX:
            self._trouble(path, LimitExceeded("is nested too deeply to look into"))
            return Done(_EMPTY)
        try:
            listing = list_directory(self._source.open(path))
        except FileNotFoundError:
            return Done(_EMPTY, is_gone=True)
        except OSError as e:
            self._trouble(path, e)
            return Done(_EMPTY)
        rules = self._rules(path, listing)
        look = self._looks.of(path, listing, rules.fingerprint if rules else b"")
        self._walk.watch(self.progress)
        troubles = self._troubles
        done: Done | None = None
        if self._may_be_as_before(folder) and self._looks.is_known(path, look):
            done = yield from self._known(folder, listing, rules)
        if done is None:
            done = yield from self._looked_through(folder, listing, rules)
            if troubles == self._troubles and not self._has_recent(listing):
                self._looks.remember(path, look)
        else:
            self._looks.remember(path, look)
        return done

    def _may_be_as_before(self, folder: _Folder) -> bool:
        unchanged = self._unchanged
        return folder.before is not None and unchanged.held is None and not unchanged.force

    def _rules(self, path: bytes, listing: Listing) -> Rules | None:
        exclusion = self._walk.exclusion
        if exclusion is None:
            return None

        def read(name: bytes) -> bytes | None:
            found = listing.row(listing.names.index(name))
            if not stat.S_ISREG(found.mode):
                return None
            entry = entry_of_row(_joined(path, name), found, listing.dev)
            try:
                return bytes(read_small(self._source, entry).data)
            except (OSError, PortalError) as e:
                self._trouble(entry.path, e)
                return None

        return exclusion.begin(b"/" + path, listing.names, read)

    def _known(
        self, folder: _Folder, listing: Listing, rules: Rules | None
    ) -> Generator[object, object, Done | None]:
        """A directory that looks as it did: only its directories are looked into.

        Nothing if the vault has lost its rows; what was done below is then done once more.
        """
        before = folder.before
        assert before is not None
        changed = yield from self._changed_below(folder, before, listing, rules)
        if changed is None:
            return None
        self._count(listing, rules)
        if not changed:
            return Done(None)
        rows = _Rows(self._gather)
        try:
            for old in before.rows_untrusted():
                row = changed.pop(old[0], old)  # type: ignore[call-overload]  # names
                if row is not None:
                    rows.add(row)
        except (FormatError, IntegrityError):
            return None
        # One that was left out then, but not by the rules, has no row to take the place of.
        return None if changed else Done(rows.finish())

    def _changed_below(
        self, folder: _Folder, before: Before, listing: Listing, rules: Rules | None
    ) -> Generator[object, object, dict[bytes, Row | None] | None]:
        """The directories in here that are not as they were; nothing if one cannot be told."""
        changed: dict[bytes, Row | None] = {}
        for at in _directories_in(listing):
            name, found = listing.names[at], listing.row(at)
            if self._is_left_out(name, found, listing.dev_of(at), rules):
                is_own = (listing.dev_of(at), found.ino) in self._walk.own
                if is_own and content_before(before.below(name)) is not None:
                    changed[name] = None  # it was not left out then; rules are part of the look
                continue
            entry = entry_of_row(_joined(folder.path, name), found, listing.dev_of(at))
            done = Done(_EMPTY)
            if not self._is_elsewhere(folder, entry.dev):
                below = _Folder(entry.path, folder.dev, before.below(name), folder.depth + 1)
                done = yield self._folder(below)  # type: ignore[assignment]
            if done.is_gone:
                return None
            if done.content is not None:
                try:
                    changed[name] = row_of(self._intake.with_xattrs(entry), done.content)
                except (OSError, PortalError):
                    return None  # moved away under our eyes
        return changed

    def _looked_through(
        self, folder: _Folder, listing: Listing, rules: Rules | None
    ) -> Generator[object, object, Done]:
        """A directory that is new or different: every name is compared with its row."""
        rows, rows_before = _Rows(self._gather), RowsBefore(folder.before)
        waiting = list[Row | Entry]()  # rows, and small files to be read, in the order of names
        for at, name in enumerate(listing.names):
            found, old, dev = listing.row(at), rows_before.take(name), listing.dev_of(at)
            path = _joined(folder.path, name)
            if self._is_left_out(name, found, dev, rules):
                continue
            if found.flags & NO_STAT:
                self._trouble(path, OSError(found.error, os.strerror(found.error)))
                continue
            kind = TYPE_OF_FORMAT.get(stat.S_IFMT(found.mode))
            if kind is None:
                continue  # a socket: it belongs to a running program
            is_directory = kind is EntryType.DIRECTORY
            if not is_directory and old and self._unchanged.row_holds(old, kind, found):
                self._counted(kind, found.size)
                waiting.append(_relinked(old, found, dev))
            elif kind is EntryType.FILE and self._is_small_and_new(old, kind, found):
                self._counted_as_read(found.size, old)
                waiting.append(entry_of_row(path, found, dev))
            else:
                yield from self._settle(waiting, rows)
                try:
                    if is_directory:
                        row = yield from self._subfolder(folder, path, found, dev, old)
                    else:
                        row = yield from self._read(path, kind, found, dev, old)
                except (OSError, PortalError) as e:
                    self._missed(path, e)
                    continue
                waiting.append(row)
            if len(waiting) >= _WAITING_MAX:
                yield from self._settle(waiting, rows)
        yield from self._settle(waiting, rows)
        return Done(rows.finish())

    def _settle(
        self, waiting: list[Row | Entry], rows: "_Rows"
    ) -> Generator[list[Chunk], object, None]:
        """Read the small files that wait, many in one call, and let all rows follow each other."""
        files = [one for one in waiting if isinstance(one, Entry)]
        reads = read_many(self._source, files, self._room)
        for one in waiting:
            row: Row = one
            if isinstance(one, Entry):
                read = next(reads)
                if not isinstance(read, Small):
                    self._missed(one.path, read)
                    continue
                self.progress.now = one.path
                row = self._intake.small(read.entry, read.data, changed=read.changed)
            rows.add(row)
            if self._gather.is_full:
                yield self._gather.take()
        waiting.clear()

    def _missed(self, path: bytes, error: PortalError | OSError) -> None:
        """A name that could not be taken in."""
        if isinstance(error, FileNotFoundError):
            self._troubles += 1  # deleted since the directory was listed, and so not known
        else:
            self._trouble(path, error)

    def _is_small_and_new(self, old: Row | None, kind: EntryType, found: Found) -> bool:
        """Whether it is to be read, and can be with others; links may have been read before."""
        if found.size > limits.SMALL_FILE_BYTES_MAX or found.nlink > 1:
            return False
        return old is None or not self._unchanged.content_holds(old, kind, found)

    def _subfolder(
        self, folder: _Folder, path: bytes, found: Found, dev: int, old: Row | None
    ) -> Generator[object, object, Row]:
        entry = entry_of_row(path, found, dev)
        content = _EMPTY
        name = path.rpartition(b"/")[2]
        if not self._is_elsewhere(folder, dev):
            before = folder.before.below(name) if folder.before else None
            below = _Folder(path, folder.dev or dev, before, folder.depth + 1)
            content = yield from self._below(below)
        self.progress.directories += 1
        if old is not None and (old[8], old[9]) == (found.ctime_ns, found.ino):
            entry = entry._replace(xattrs=xattrs_of(old))
        else:
            entry = self._intake.with_xattrs(entry)
        return row_of(entry, content, recent=self._unchanged.is_recent(found))

    def _read(
        self, path: bytes, kind: EntryType, found: Found, dev: int, old: Row | None
    ) -> Generator[object, object, Row]:
        target = b""
        if kind is EntryType.SYMLINK:
            holder, name = self._source.place(path)
            target = os.readlink(name, dir_fd=holder)
        entry = entry_of_row(path, found, dev, target)
        if kind is not EntryType.FILE:
            self._counted(kind, found.size)
            return self._intake.other(entry)
        if old is not None and self._unchanged.content_holds(old, kind, found):
            self._counted(kind, found.size)
            entry = self._intake.with_xattrs(entry)
            recent = self._unchanged.is_recent(found)
            return row_of(entry, content_of(old), link=link_mark(entry), recent=recent)
        self._counted_as_read(found.size, old)
        return (yield from self._intake.file(entry))

    # --- what is left out -------------------------------------------------------------------------

    def _is_left_out(self, name: bytes, found: Found, dev: int, rules: Rules | None) -> bool:
        is_directory = stat.S_ISDIR(found.mode)
        if rules and not rules.is_trivial and rules.excludes(name, is_directory, found.size):
            return True
        return is_directory and (dev, found.ino) in self._walk.own

    def _is_elsewhere(self, folder: _Folder, dev: int) -> bool:
        return self._walk.one_file_system and bool(folder.dev) and dev != folder.dev

    # --- counting ---------------------------------------------------------------------------------

    def _counted_as_read(self, size: int, old: Row | None) -> None:
        self._counted(EntryType.FILE, size)
        if old is None:
            self.progress.files_new += 1
        else:
            self.progress.files_changed += 1

    def _counted(self, kind: EntryType, size: int) -> None:
        if kind is EntryType.FILE:
            self.progress.files += 1
            self.progress.content_bytes += size
        else:
            self.progress.others += 1

    def _count(self, listing: Listing, rules: Rules | None) -> None:
        """A directory that is as it was, without an object for each name where that can be."""
        if rules is not None and not rules.is_trivial:
            for name, found in zip(listing.names, listing.every_row(), strict=True):
                kind = TYPE_OF_FORMAT.get(stat.S_IFMT(found.mode))
                if kind and not rules.excludes(name, stat.S_ISDIR(found.mode), found.size):
                    if kind is EntryType.DIRECTORY:
                        self.progress.directories += 1
                    else:
                        self._counted(kind, found.size)
            return
        modes = _modes(listing)
        files = sum(1 for mode in modes if stat.S_ISREG(mode))
        directories = sum(1 for mode in modes if stat.S_ISDIR(mode))
        sockets = sum(1 for mode in modes if stat.S_ISSOCK(mode))
        self.progress.files += files
        self.progress.directories += directories
        self.progress.others += len(modes) - files - directories - sockets
        self.progress.content_bytes += sum(column(listing.rows, SIZES))

    def _has_recent(self, listing: Listing) -> bool:
        latest = max(column(listing.rows, MTIMES) + column(listing.rows, CTIMES), default=0)
        return latest >= self._unchanged.recent_from_ns


class _Rows:
    """The rows of a directory in the making; pieces of it are let go as they are complete."""

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self._rows = Parts()
        self._tags: list[bytes] = []

    def add(self, row: Row) -> None:
        """One more, in the order of names."""
        if part := self._rows.add(row):
            self._tags.append(self._gather.part(part))

    def finish(self) -> Content:
        """What names the directory."""
        if part := self._rows.finish():
            self._tags.append(self._gather.part(part))
        return self._gather.directory(self._tags)


def content_before(before: Before | None) -> Content | None:
    """What named a directory in the parent, if that can still be read."""
    try:
        return before.content_untrusted() if before else None
    except (FormatError, IntegrityError):
        return None


def _children(path: bytes, source: Source) -> list[bytes]:
    """What lies directly below a directory above the sources, on the way to them."""
    return [top for top in source.tops() if top and top.rpartition(b"/")[0] == path]


def _only_time_differs(row: Row, old: Row) -> bool:
    return row[:7] == old[:7] and row[8:] == old[8:]


def _joined(above: bytes, name: bytes) -> bytes:
    return above + b"/" + name if above else name


def _modes(listing: Listing) -> list[int]:
    return column(listing.rows, MODES)


def _directories_in(listing: Listing) -> list[int]:
    return [at for at, mode in enumerate(_modes(listing)) if stat.S_ISDIR(mode)]


def _relinked(row: Row, found: Found, dev: int) -> Row:
    """A row taken over; devices get other numbers at a reboot, and with them marks of links."""
    extra = row[13]
    if not extra or not extra[3]:  # type: ignore[index]  # a row that was compared
        return row
    mark = (dev & (1 << 64) - 1).to_bytes(8) + found.ino.to_bytes(8)
    return (*row[:13], (*extra[:3], mark))  # type: ignore[index]
