"""Putting a tree back: atomically, with all its metadata, and never outside of its target.

Every path is refused unless it can only lie inside, every directory is opened from the one that
holds it without following links, every file is written without a name and published whole.
"""

# ruff: noqa: PTH110 - names are bytes; pathlib's are text

import ctypes
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, unique
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from core import limits
from core.errors import FormatError, PortalError
from core.tree.batch import one_ahead
from core.tree.entry import (
    TYPE_OF_FORMAT,
    AlreadyThere,
    Entry,
    EntryType,
    Report,
    Skipped,
    check_entry_untrusted,
)
from core.tree.folders import Folders
from core.tree.metadata import Metadata, Owners
from core.tree.nodes import DEVICES, dress_node, make_node
from core.tree.occupancy import Occupancy, Overwrite
from core.tree.paths import order, shown
from core.tree.staging import Staging
from core.tree.write_batch import Plain, WriteBatch
from core.tree.writer import Buffer, FileWriter, write_all

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


@unique
class Sync(Enum):
    """When restored bytes are on the disk."""

    NONE = "none"  # when the system sees fit; a power failure may leave files of zeros
    FILE = "file"  # a file's bytes before its name appears, all names when `finish` returns
    END = "end"  # everything when `finish` returns


@dataclass(frozen=True, slots=True)
class Options:
    """How to restore."""

    overwrite: Overwrite = Overwrite.REFUSE
    owners: Owners = Owners.NUMBERS
    sync: Sync = Sync.NONE
    privileged: bool = True  # setuid bits, devices, attributes that give rights; not of strangers


class Target:
    """A directory that entries are restored into. One thread at a time.

    Entries may come in any order, but for a first name before its hard links. Methods return
    whether the entry is there now as it should be; false if what was there wins, or if it was
    reported. They raise FormatError for hostile paths, AlreadyThere, and OSError, each of which
    concerns this entry only. Directories are private and writable until `finish`.
    """

    def __init__(self, root: Path | bytes | str, options: Options, report: Report) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        has_proc = os.path.exists(b"/proc/self/fd/%d" % self._root)
        self._options = options
        self._report = report
        self._metadata = Metadata(options.owners, report, privileged=options.privileged)
        self._occupancy = Occupancy(options.overwrite)
        self._folders = Folders(self._root, self._occupancy, has_proc=has_proc)
        self._staging = Staging(self._occupancy, has_proc=has_proc)
        self._has_proc = has_proc
        self._linkable: set[bytes] = set()
        self._writers: ThreadPoolExecutor | None = None

    # --- entries --------------------------------------------------------------------------------

    def directory(self, entry: Entry) -> bool:
        """A directory. One that exists is kept, and what is in it."""
        check_entry_untrusted(entry)
        return self._folders.claim(entry)

    def small_file(self, entry: Entry, data: Buffer) -> bool:
        """A file whose whole content is at hand."""
        check_entry_untrusted(entry)
        if len(data) != entry.size:
            raise FormatError(f"holds {len(data)} bytes, not {entry.size}", where=shown(entry.path))
        holder, name = self._folders.place(entry.path)
        if self._occupancy.may_skip and not self._occupancy.may_replace(holder, name, entry):
            return self._left_alone(holder, name, entry)
        fd, temporary = self._staging.create(holder)
        try:
            if data:
                write_all(fd, data)
            return self._publish(fd, temporary, holder, name, entry)
        except BaseException:
            self._staging.discard(holder, temporary)
            raise
        finally:
            os.close(fd)

    def small_files(
        self, files: Iterable[tuple[Entry, Buffer]]
    ) -> Iterator[bool | OSError | PortalError]:
        """What `small_file` gives or raises for each of many, in their order.

        Those with nothing special about them, nearly all, are written many in one call.
        """
        for batch in one_ahead(self._batches(files)):
            yield from self._outcomes(batch)

    def small_files_later(
        self, files: Iterable[tuple[Entry, Buffer]]
    ) -> Iterator[bool | OSError | PortalError]:
        """The same, written by threads of ours while the caller goes on.

        What came of it is to be drawn before anything depends on it, and before `finish`.
        """
        if self._writers is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - slow to import

            self._writers = ThreadPoolExecutor(limits.TREE_WRITERS)
        batches = list(self._batches(files))
        under_way = [self._writers.submit(batch.run) for batch in batches]
        return self._later(batches, under_way)

    def _later(
        self, batches: list[WriteBatch], under_way: "list[Future[None]]"
    ) -> Iterator[bool | OSError | PortalError]:
        for batch, writing in zip(batches, under_way, strict=True):
            writing.result()
            yield from self._outcomes(batch)

    def _outcomes(self, batch: WriteBatch) -> Iterator[bool | OSError | PortalError]:
        """What came of a batch that was run; what is not plain is done now, one by one."""
        for entry, data, is_there in batch.outcome():
            if is_there:
                yield self._restored(entry)
                continue
            try:
                yield self.small_file(entry, data)
            except (OSError, PortalError) as e:
                yield e

    def file(self, entry: Entry) -> FileWriter | None:
        """A file to be written bit by bit; nothing if what is there wins."""
        check_entry_untrusted(entry)
        holder, name = self._folders.place(entry.path)
        if not self._occupancy.may_replace(holder, name, entry):
            self._left_alone(holder, name, entry)
            return None
        fd, temporary = self._staging.create(holder)
        publish = partial(self._publish_later, temporary, entry)
        return FileWriter(fd, entry, publish, partial(self._discard_later, temporary, entry))

    def symlink(self, entry: Entry) -> bool:
        """A symlink, wherever it leads: nothing here will follow it."""
        return self._node(entry)

    def special(self, entry: Entry) -> bool:
        """A fifo or a device; a device that the system refuses is reported."""
        is_device = entry.type in DEVICES
        if is_device and not self._options.privileged:
            self._report(entry.path, Skipped("devices are left out"))
            return False
        try:
            return self._node(entry)
        except PermissionError as e:
            if not is_device:
                raise
            self._report(entry.path, Skipped(f"the device cannot be made: {e.strerror}"))
            return False

    def link(self, entry: Entry, first: bytes) -> bool:
        """Another name of something restored before, whose entry had `nlink` above 1.

        OSError (EXDEV, EMLINK, EPERM) where the file system allows no such link: restore the
        content a second time then.
        """
        check_entry_untrusted(entry)
        if first not in self._linkable:
            raise FormatError(f"links to {shown(first)}, not restored", where=shown(entry.path))
        first_holder, first_name = self._folders.place(first)
        first_holder = os.dup(first_holder)  # the next call may close it
        try:
            holder, name = self._folders.place(entry.path)
            ends: dict[str, Any] = {"src_dir_fd": first_holder, "dst_dir_fd": holder}
            try:
                os.link(first_name, name, follow_symlinks=False, **ends)
            except FileExistsError:
                if not self._occupancy.may_replace(holder, name, entry):
                    return False
                temporary = self._staging.temporary()
                os.link(first_name, temporary, follow_symlinks=False, **ends)
                self._staging.move(holder, temporary, name)
        finally:
            os.close(first_holder)
        self._occupancy.made(entry.path)
        return True

    # --- the end --------------------------------------------------------------------------------

    def finish(self) -> None:
        """Give the directories their metadata, deepest first, and make durable what is to be.

        To be called after a failure too: until then directories are private and have new times.
        """
        sync_each = self._options.sync is Sync.FILE
        drop_acls = hasattr(os, "removexattr")
        entered = self._folders.entered
        for path in sorted(entered, key=order, reverse=True):
            entry = entered[path]
            if entry is None and not sync_each:
                continue
            try:
                fd = self._folders.open(path)
                if entry is not None:
                    self._metadata.apply(fd, entry, drop_acls=drop_acls)
                if sync_each:
                    os.fsync(fd)
            except (OSError, AlreadyThere) as e:
                self._report(path, e)
        if self._options.sync is Sync.END:
            _sync_file_system(self._root)

    def close(self) -> None:
        """Let go of every descriptor."""
        if self._writers is not None:
            self._writers.shutdown()
        self._folders.close()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self.close()

    # --- how ------------------------------------------------------------------------------------

    def _plain(self, entry: Entry, data: Buffer) -> Plain | None:
        """How to write it together with others; nothing if it must be looked at by itself.

        Among others: what has been there before this run may hold what is to be kept or replaced.
        """
        unsuitable = len(data) != entry.size or entry.size > limits.TREE_BATCH_FILE_BYTES_MAX
        if unsuitable or not self._staging.unnamed or self._options.sync is Sync.FILE:
            return None
        try:
            check_entry_untrusted(entry)
            holder, name = self._folders.place(entry.path)
        except (OSError, PortalError):
            return None  # `small_file` will raise it again
        above = entry.path.rpartition(b"/")[0]
        taken = self._options.overwrite is not Overwrite.REFUSE and self._folders.was_there(above)
        wanted = self._metadata.of_plain_file(entry)
        if taken or wanted is None or self._folders.hands_down_acl(entry.path):
            return None
        return Plain(holder, name, *wanted)

    def _batches(self, files: Iterable[tuple[Entry, Buffer]]) -> Iterator[WriteBatch]:
        batch = WriteBatch()
        try:
            for entry, data in files:
                if not batch.fits(len(data)):
                    full, batch = batch, WriteBatch()
                    yield full
                batch.add(entry, data, self._plain(entry, data))
            if len(batch):
                full, batch = batch, WriteBatch()
                yield full
        finally:
            batch.let_go()

    def _publish(
        self, fd: int, temporary: bytes | None, holder: int, name: bytes, entry: Entry
    ) -> bool:
        drop_acls = self._folders.hands_down_acl(entry.path)
        self._metadata.apply(fd, entry, drop_acls=drop_acls)
        if self._options.sync is Sync.FILE:
            os.fsync(fd)
        if not self._staging.give_name(fd, temporary, holder, name, entry):
            return self._left_alone(holder, name, entry)
        return self._restored(entry)

    def _publish_later(self, temporary: bytes | None, entry: Entry, fd: int) -> bool:
        holder, name = self._folders.place(entry.path)
        return self._publish(fd, temporary, holder, name, entry)

    def _discard_later(self, temporary: bytes | None, entry: Entry) -> None:
        if temporary is not None:
            holder, _ = self._folders.place(entry.path)
            self._staging.discard(holder, temporary)

    def _restored(self, entry: Entry) -> bool:
        self._occupancy.made(entry.path)
        if entry.nlink > 1:
            self._linkable.add(entry.path)
        return True

    def _left_alone(self, holder: int, name: bytes, entry: Entry) -> bool:
        """Not restored; but if it is there from an earlier run, its links may still be made."""
        if entry.nlink > 1:
            found = os.stat(name, dir_fd=holder, follow_symlinks=False)
            kind = TYPE_OF_FORMAT.get(stat.S_IFMT(found.st_mode))
            size = found.st_size if kind is EntryType.FILE else 0
            if (kind, size, found.st_mtime_ns) == (entry.type, entry.size, entry.mtime_ns):
                self._linkable.add(entry.path)
        return False

    def _node(self, entry: Entry) -> bool:
        """Make a link, fifo or device in its place, or beside what it will replace."""
        check_entry_untrusted(entry)
        holder, name = self._folders.place(entry.path)
        made = name
        try:
            make_node(holder, made, entry)
        except FileExistsError:
            if not self._occupancy.may_replace(holder, name, entry):
                return self._left_alone(holder, name, entry)
            made = self._staging.temporary()
            make_node(holder, made, entry)
        try:
            drop_acls = self._folders.hands_down_acl(entry.path)
            dress_node(
                holder, made, entry, self._metadata, has_proc=self._has_proc, drop_acls=drop_acls
            )
            if made != name:
                self._staging.move(holder, made, name)
        except BaseException:
            self._staging.discard(holder, made)
            raise
        return self._restored(entry)


def _sync_file_system(fd: int) -> None:
    """Write everything of the file system that holds this descriptor."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
    elif syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
