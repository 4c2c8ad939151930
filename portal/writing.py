"""The end of a restore: jobs that are open are written, in order, by one thread."""

import errno
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock

from core import limits
from core.crypto import Buffer
from core.errors import FormatError, IntegrityError, PortalError
from core.tree.entry import Entry, EntryType, Report, Skipped
from core.tree.paths import shown
from core.tree.restore import Target
from core.tree.writer import FileWriter
from portal.content import open_file
from portal.manifest import Node
from portal.plan import Job, Part, Task
from portal.reader import Reader
from portal.removal import Protected, Removal
from portal.standing import Deed
from portal.touch import Touch

_Whole = list[tuple[Part, memoryview]]
Say = Callable[[Deed, bytes], None]

_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM}
_HOLE_BYTES = limits.TREE_HOLE_BYTES_MIN
_ZEROS = bytes(_HOLE_BYTES)


@dataclass(slots=True)
class Progress:
    """What was done, and is being done; others may look at it meanwhile."""

    files: int = 0
    others: int = 0  # directories, links, devices
    content_bytes: int = 0
    kept: int = 0  # there already, as they should be or by the policy
    removed: int = 0
    verified: int = 0
    errors: int = 0
    files_total: int | None = None  # known when everything is restored
    bytes_total: int | None = None
    now: bytes = b""  # the path in the snapshot


@dataclass(slots=True)
class Account:
    """Counts and tells what happens. Paths come as they are in the target."""

    under: bytes  # what stands before them in the snapshot
    tell: Report
    say: Say
    watch: Callable[[], None]
    kept_unseen: bool  # what is kept was not compared with the snapshot
    progress: Progress = field(default_factory=Progress)
    not_ours: set[bytes] = field(default_factory=set)  # what is not as in the snapshot, as is known
    troubled: set[bytes] = field(default_factory=set)  # directories in which something failed
    _lock: Lock = field(default_factory=Lock)  # one thread plans, another writes

    def report(self, path: bytes, error: PortalError | OSError) -> None:
        """Something is not as it should be."""
        with self._lock:
            self.not_ours.add(path)
            if not isinstance(error, Skipped):  # which is left as it is on purpose
                self.progress.errors += 1
                self.troubled.add(path.rpartition(b"/")[0])
            self.tell(self._called(path), error)

    def did(self, deed: Deed, entry: Entry) -> None:
        """One name is done."""
        progress = self.progress
        if deed is Deed.REMOVED:
            self.removed(entry.path)
            return
        if deed is Deed.KEPT or deed is Deed.CORRECTED:
            progress.kept += 1
            if self.kept_unseen:
                self.not_ours.add(entry.path)
        elif entry.type is EntryType.FILE:
            progress.files += 1
        else:
            progress.others += 1
        progress.now = self._called(entry.path)
        self.say(deed, progress.now)
        self.watch()

    def removed(self, path: bytes) -> None:
        """One name is gone."""
        self.progress.removed += 1
        self.progress.now = self._called(path)
        self.say(Deed.REMOVED, self.progress.now)
        self.watch()

    def planned(self, job: Job) -> None:
        """Say what would be done."""
        for part in job.parts:
            entry = part.node.entry
            if part.error is not None:
                self.report(entry.path, part.error)
            elif part.last and not part.was_there:
                if part.task in {Task.BARE, Task.WHOLE, Task.CUT}:
                    self.progress.content_bytes += entry.size
                self.did(part.deed, entry)

    def _called(self, path: bytes) -> bytes:
        return self.under + b"/" + path if self.under and path else self.under or path


class Writing:
    """Takes jobs whose chunks are open."""

    def __init__(
        self, reader: Reader, target: Target, touch: Touch, removal: Removal, account: Account
    ) -> None:
        self._reader = reader
        self._target = target
        self._touch = touch
        self._removal = removal
        self._account = account
        self.sparse = False
        self._open: FileWriter | None = None
        self._under_way = deque[tuple[_Whole, Iterator[bool | OSError | PortalError]]]()
        self._first_names: dict[bytes, tuple[bytes, bool]] = {}  # by link: path, was it kept

    def end(self) -> None:
        """Directories get their metadata; what was not finished vanishes."""
        if self._open is not None:
            self._open.discard()
            self._open = None
        try:
            self._await_written()
        finally:
            self._target.finish()

    def write(self, job: Job) -> None:
        """All parts of a job; the faults of one are reported, the machine's end the run."""
        whole = list[tuple[Part, memoryview]]()
        for number, part in enumerate(job.parts):
            piece = job.pieces[number] if job.pieces else memoryview(b"")
            if part.error is not None:
                self._settle(part, part.error)
            elif not isinstance(piece, memoryview):
                self._settle(part, piece)
            elif part.task is Task.WHOLE and not self._may_have_holes(piece):
                whole.append((part, piece))
            else:
                self._settle(part, self._outcome(part, piece))
        if whole:
            files = [(part.node.entry, piece) for part, piece in whole]
            self._under_way.append((whole, self._target.small_files_later(files)))
            self._await_written(limits.RESTORE_JOBS_WRITTEN_MAX)

    def _await_written(self, left: int = 0) -> None:
        """Draw what came of small files that are being written, but for the last few jobs."""
        while len(self._under_way) > left:
            whole, results = self._under_way.popleft()
            for (part, piece), result in zip(whole, results, strict=True):
                self._account.progress.content_bytes += len(piece)
                self._settle(part, result)

    def _outcome(self, part: Part, piece: memoryview) -> bool | PortalError | OSError:
        try:
            return self._part(part, piece)
        except (PortalError, OSError) as e:
            return e

    def _settle(self, part: Part, outcome: bool | PortalError | OSError) -> None:  # noqa: FBT001
        """Count it, or tell what went wrong."""
        if isinstance(outcome, bool):
            if outcome:
                self._done(part)
            return
        entry = part.node.entry
        self._give_up(entry)
        if isinstance(outcome, OSError) and outcome.errno in _FATAL:
            raise outcome
        self._account.report(entry.path, outcome)

    def _done(self, part: Part) -> None:
        node = part.node
        if node.link and part.task is not Task.REMOVE:
            kept = part.deed is Deed.KEPT or part.deed is Deed.CORRECTED
            self._first_names.setdefault(node.link + node.content.data, (node.entry.path, kept))
        if not part.was_there:
            self._account.did(part.deed, node.entry)

    def _part(self, part: Part, piece: memoryview) -> bool:
        """Whether this name is done and as it should be."""
        entry = part.node.entry
        self._account.progress.content_bytes += len(piece)
        if part.task is Task.CUT:
            return self._cut(part, piece)
        if part.task is Task.WHOLE:
            return self._sparse_file(entry, piece)
        if part.task is Task.BARE:
            return self._bare(entry)
        if part.task is Task.LINK:
            self._await_written()  # its first name may be among them
            return self._link(part.node)
        if part.task is Task.REMOVE:
            self._await_written()  # what failed beside it keeps it
            self._remove(part)
            return False
        if part.task is Task.CORRECT:
            self._touch.correct(entry)
        return True

    def _bare(self, entry: Entry) -> bool:
        if entry.type is EntryType.DIRECTORY:
            self._target.directory(entry)
            return True
        if entry.type is EntryType.SYMLINK:
            return self._target.symlink(entry)
        if entry.type is EntryType.FILE:
            return self._target.small_file(entry, b"")
        return self._target.special(entry)

    def _may_have_holes(self, piece: memoryview) -> bool:
        return self.sparse and len(piece) >= _HOLE_BYTES

    def _sparse_file(self, entry: Entry, piece: memoryview) -> bool:
        writer = self._target.file(entry)
        if writer is None:
            return False
        with writer:
            self._write_at(writer, 0, piece)
        return writer.published

    def _cut(self, part: Part, piece: memoryview) -> bool:
        if part.first:
            self._open = self._target.file(part.node.entry)
        writer = self._open
        if writer is None or writer.entry.path != part.node.entry.path:
            return False  # what is there wins, or it was given up
        if len(piece):
            self._write_at(writer, part.offset, piece)
        if not part.last:
            return False
        self._open = None
        return writer.publish()

    def _write_at(self, writer: FileWriter, offset: int, data: Buffer) -> None:
        if not self.sparse:
            writer.write_at(offset, data)
            return
        view = memoryview(data)
        for at in range(0, len(view), _HOLE_BYTES):
            block = bytes(view[at : at + _HOLE_BYTES])
            if block != _ZEROS[: len(block)]:
                writer.write_at(offset + at, block)

    def _give_up(self, entry: Entry) -> None:
        if self._open is not None and self._open.entry.path == entry.path:
            self._open.discard()
            self._open = None

    def _link(self, node: Node) -> bool:
        """Another name of what was restored or kept; else the content once more, for the next."""
        first = self._first_names.get(node.link + node.content.data)
        if first is not None:
            path, was_kept = first
            try:
                if was_kept:
                    self._touch.link(node.entry, path)
                    return True
                return self._target.link(node.entry, path)
            except OSError as e:
                if e.errno not in _NO_LINK:
                    raise
        return self._copy(node)

    def _copy(self, node: Node) -> bool:
        entry = node.entry
        if entry.type is not EntryType.FILE or not entry.size:
            return self._bare(entry)
        content = open_file(self._reader, node)
        writer = self._target.file(entry)
        if writer is None:
            return False
        with writer:
            for start, length in content.data_extents():
                at = start
                for data in content.chunks(start, start + length):
                    self._write_at(writer, at, data)
                    at += len(data)
                    self._account.progress.content_bytes += len(data)
        return writer.published

    def _remove(self, part: Part) -> None:
        path = part.node.entry.path
        if path.rpartition(b"/")[0] in self._account.troubled:
            what = "stays, because not everything beside it could be restored"
            raise Protected(what, where=shown(path))
        self._removal.remove(path)


def opened(reader: Reader, job: Job) -> Job:
    """Open the chunk of a job and check its pieces; the faults of each stay with it."""
    if job.chunk is None:
        return job
    try:
        chunk = reader.chunk_untrusted(*job.chunk)
    except (PortalError, OSError):
        chunk = None  # each piece will say why
    job.pieces = [_piece(reader, chunk, part) for part in job.parts]
    return job


def _piece(
    reader: Reader, chunk: memoryview | None, part: Part
) -> memoryview | PortalError | OSError:
    """A piece where it was planned to lie, else where it lies: an index may be stale or damaged."""
    assert part.place is not None
    piece = None
    if chunk is not None:
        try:
            piece = reader.part_untrusted(chunk, part.kind, part.tag, part.place)
        except PortalError:
            piece = None
    try:
        piece = reader.piece_untrusted(part.kind, part.tag) if piece is None else piece
    except OSError as e:
        return FormatError(f"a pack cannot be read: {e.strerror}")
    except PortalError as e:
        return e
    if len(piece) != part.length:
        return IntegrityError("a piece is not as long as the file says")
    return piece
