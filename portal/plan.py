"""What a restore has to do, in jobs of one chunk each (portal/SPEC.md, Reading snapshots).

The snapshot is walked, each directory beside the one on the disk; a window of entries at a time is
sorted by where their contents lie, so that every chunk is opened once and memory stays bounded. In
a window directories come first, then small files chunk by chunk, then large ones cut by cut, then
further names of what is there by then, and what is to be taken away.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto, unique
from typing import NamedTuple

from core import limits
from core.errors import FormatError, PortalError
from core.native.rows import NO_STAT, Row
from core.pieces import Kind
from core.tree.entry import EntryType, Report
from core.tree.paths import shown
from portal.browse import Scope, Selection, children
from portal.content import extents_of
from portal.index import Place
from portal.manifest import HOLE, Form, Node
from portal.reader import Reader
from portal.removal import Identity, Protected, Stays
from portal.standing import Deed, Found, Standing

_Chunk = tuple[bytes, int]


@unique
class Task(Enum):
    """What is to be done with one part of a job."""

    BARE = auto()  # a directory, a link, a device, an empty file
    WHOLE = auto()  # a file whose content is one piece
    CUT = auto()  # a piece of a file, which may be its first, its last, or both
    LINK = auto()  # another name of a file that is there by then
    KEEP = auto()  # it is there as it should be
    CORRECT = auto()  # its content is
    REMOVE = auto()
    FAIL = auto()


class Part(NamedTuple):
    """What one chunk gives to one file, or something that needs no chunk."""

    task: Task
    node: Node
    deed: Deed = Deed.CREATED
    place: Place | None = None
    tag: bytes = b""
    length: int = 0
    offset: int = 0
    first: bool = True
    last: bool = True
    error: PortalError | OSError | None = None

    @property
    def kind(self) -> Kind:
        """What its piece is."""
        return Kind.CUT if self.task is Task.CUT else Kind.SMALL_FILE

    @property
    def was_there(self) -> bool:
        """Whether it is a directory that only gets its metadata."""
        return self.task is Task.BARE and self.deed is Deed.KEPT


@dataclass(slots=True)
class Job:
    """A chunk to open, if any, and what is made of it."""

    chunk: _Chunk | None
    parts: list[Part]
    size: int = 0
    pieces: list[memoryview | PortalError | OSError] = field(default_factory=list)


@dataclass(slots=True)
class _Level:
    """A directory that is being walked."""

    node: Node  # with its path in the target
    found: Found | None  # what is there of it; nothing if it is not there at all
    nodes: Iterator[Node]
    is_made: bool  # or there already
    deed: Deed
    deletes: bool
    is_damaged: bool = False


class _Window:
    """Parts on their way into jobs."""

    def __init__(self) -> None:
        self.count = 0
        self.before: list[Part] = []
        self.bare: list[Part] = []
        self.small: dict[_Chunk, Job] = {}
        self.large: list[tuple[Node, Deed]] = []
        self.after: list[Part] = []

    def whole(self, part: Part) -> None:
        """A small file, put where its chunk is opened."""
        assert part.place is not None
        chunk = (part.place.pack, part.place.chunk)
        job = self.small.get(chunk)
        if job is None:
            job = self.small[chunk] = Job(chunk, [])
        job.parts.append(part)
        job.size = min(job.size + part.place.length, limits.CHUNK_PLAIN_BYTES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class What:
    """What a plan is about."""

    top: Node  # with an empty path if it is a directory
    scope: Scope
    select: Selection
    deletes: bool
    spared: frozenset[bytes]  # what could not be read when the snapshot was made
    protected: frozenset[Identity]


class Plan:
    """The jobs of one restore; drawn by one thread."""

    def __init__(
        self, reader: Reader, standing: Standing | None, what: What, report: Report
    ) -> None:
        """Without `standing`, nothing is there yet."""
        self._reader = reader
        self._standing = standing
        self._what = what
        self._report = report
        self._window = _Window()
        self._levels: list[_Level] = []
        self._links: dict[bytes, tuple[Deed, int]] = {}  # first names: what became of it, inode

    def jobs(self) -> Iterator[list[Job]]:
        """All of them, in an order in which they can be done."""
        top = self._what.top
        found = None if self._standing is None else self._standing.look_into(b"")
        if top.entry.is_directory:
            self._enter(top, found, is_made=True)
        else:
            self._other(top, found)
        while self._levels:
            level = self._levels[-1]
            for node in level.nodes:
                if self._take(level, node) or self._is_full:
                    break
            else:
                self._end(self._levels.pop())
            if self._is_full:
                yield from self._flush()
        yield from self._flush()

    # --- walking --------------------------------------------------------------------------------

    @property
    def _is_full(self) -> bool:
        return self._window.count >= limits.RESTORE_WINDOW_ENTRIES

    def _take(self, level: _Level, node: Node) -> bool:
        """One name; whether it is a directory that was entered."""
        if not node.entry.is_directory:
            if self._what.select.takes(node.entry.path):
                self._other(node, level.found)
            elif level.found is not None:
                level.found.find(_name(node))  # known, though not meant
            return False
        row = level.found.find(_name(node)) if level.found is not None else None
        takes = self._what.select.takes(node.entry.path)
        if not takes and not self._what.select.may_hold(node.entry.path):
            return False
        try:
            return self._directory(level, node, row, takes=takes)
        except (PortalError, OSError) as e:
            self._fail(node, e)
            return False

    def _directory(self, level: _Level, node: Node, row: Row | None, *, takes: bool) -> bool:
        path = node.entry.path
        is_source = self._what.scope.covers(path)
        deed: Deed | None = Deed.CREATED
        found = None
        if self._standing is not None and level.found is not None:
            self._check_free(path, row, level.found.dev)
            deed = self._standing.of_directory(node, row, is_source=is_source)
            if deed is None:
                found = self._standing.look_into(path)
            elif deed is Deed.KEPT:
                self._put(Part(Task.KEEP, node, deed))
                return False
        made = deed is None and not (takes and is_source)
        self._enter(node, found, is_made=made, deed=deed or Deed.KEPT)
        if takes and not made:
            self._make_levels()
        return True

    def _enter(
        self, node: Node, found: Found | None, *, is_made: bool, deed: Deed = Deed.KEPT
    ) -> None:
        path = node.entry.path
        what = self._what
        may_delete = what.scope.covers(path) and path not in what.spared
        deletes = what.deletes and found is not None and may_delete
        above = self._levels[-1].found if self._levels else None
        if (
            deletes
            and above
            and found
            and found.dev not in {0, above.dev}
            and not node.content.data
        ):
            deletes = False  # mounted here since, or left out by --one-file-system
            self._report(path, Stays("something is mounted here; it stays", where=shown(path)))
        level = _Level(node, found, iter(()), is_made, deed, deletes)

        def report(where: bytes, error: PortalError | OSError) -> None:
            level.is_damaged = True
            self._report(where, error)

        level.nodes = children(self._reader, node.content, path, report)
        self._levels.append(level)

    def _make_levels(self) -> None:
        """Every directory on the way to what comes now."""
        if not self._levels or self._levels[-1].is_made:
            return  # then those above are, too
        for level in self._levels:
            if not level.is_made:
                level.is_made = True
                self._window.bare.append(Part(Task.BARE, level.node, level.deed))
                self._window.count += 1

    def _end(self, level: _Level) -> None:
        """What stands in a directory and is not in the snapshot, if all of that could be read."""
        if not level.deletes or level.found is None or level.is_damaged:
            return
        above = level.node.entry.path
        for name in level.found.rest():
            path = above + b"/" + name if above else name
            if path not in self._what.spared and self._what.select.takes(path):
                entry = level.node.entry._replace(path=path, xattrs=())
                self._put(Part(Task.REMOVE, Node(entry, level.node.content, b""), Deed.REMOVED))

    def _check_free(self, path: bytes, row: Row | None, dev: int) -> None:
        """Pass if this is not where backups or keys are kept."""
        if row is not None and (dev, row.ino) in self._what.protected:
            raise Protected("holds backups or keys; nothing is restored into it", where=shown(path))

    # --- one name -------------------------------------------------------------------------------

    def _other(self, node: Node, found: Found | None) -> None:
        row = found.find(_name(node)) if found is not None else None
        try:
            deed = Deed.CREATED
            if self._standing is not None and found is not None:
                deed = self._standing.of_other(node, row)
            self._make_levels()
            if deed is Deed.REPLACED and row is not None and _is_directory(row):
                self._window.before.append(Part(Task.REMOVE, node, Deed.REMOVED))
            if node.link and self._is_link(node, row, deed):
                return
            self._restore(node, deed)
        except (PortalError, OSError) as e:
            self._fail(node, e)

    def _is_link(self, node: Node, row: Row | None, deed: Deed) -> bool:
        """Whether this is to become another name of something."""
        mark = node.link + node.content.data  # a number of an inode may serve two files in one run
        first = self._links.get(mark)
        ino = row.ino if row is not None else 0
        stays = deed in {Deed.KEPT, Deed.CORRECTED}
        if first is None:
            self._links[mark] = (deed, ino)
            return False
        if stays and first[0] in {Deed.KEPT, Deed.CORRECTED} and first[1] == ino:
            return False
        if stays and not self._wants_links:
            return False
        self._put(Part(Task.LINK, node, Deed.REPLACED if row is not None else Deed.CREATED))
        return True

    @property
    def _wants_links(self) -> bool:
        return self._standing is not None and self._standing.wants_links

    def _restore(self, node: Node, deed: Deed) -> None:
        window, content = self._window, node.content
        window.count += 1
        if deed is Deed.KEPT or deed is Deed.CORRECTED:
            task = Task.KEEP if deed is Deed.KEPT else Task.CORRECT
            window.after.append(Part(task, node, deed))
        elif node.entry.type is not EntryType.FILE or content.form is Form.NOTHING:
            window.bare.append(Part(Task.BARE, node, deed))
        elif content.form is Form.SMALL:
            place = self._reader.place_untrusted(Kind.SMALL_FILE, content.data)
            window.whole(Part(Task.WHOLE, node, deed, place, content.data, node.entry.size))
        else:
            window.large.append((node, deed))

    def _fail(self, node: Node, error: PortalError | OSError) -> None:
        self._put(Part(Task.FAIL, node, error=error))

    def _put(self, part: Part) -> None:
        self._window.after.append(part)
        self._window.count += 1

    # --- jobs -----------------------------------------------------------------------------------

    def _flush(self) -> Iterator[list[Job]]:
        window, self._window = self._window, _Window()
        yield [Job(None, window.before + window.bare)]
        yield list(window.small.values())
        for node, deed in window.large:
            for part in self._cuts(node, deed):
                chunk = (part.place.pack, part.place.chunk) if part.place else None
                size = min(part.place.length, limits.CHUNK_PLAIN_BYTES_MAX) if part.place else 0
                yield [Job(chunk, [part], size)]
        yield [Job(None, window.after)]

    def _cuts(self, node: Node, deed: Deed) -> Iterator[Part]:
        """The pieces of a large file; holes are nothing, but for its first and last part."""
        offset, first, size = 0, True, node.entry.size
        try:
            for length, tag in extents_of(self._reader, node.content):
                end = offset + length
                if tag != HOLE:
                    place = self._reader.place_untrusted(Kind.CUT, tag)
                    yield Part(Task.CUT, node, deed, place, tag, length, offset, first, last=False)
                    first = False
                offset = end
                if end > size:
                    break
            if offset != size:
                raise _another_length(node)
        except (PortalError, OSError) as e:
            yield Part(Task.FAIL, node, deed, error=e)
            return
        yield Part(Task.CUT, node, deed, None, b"", 0, size, first, last=True)


def _another_length(node: Node) -> PortalError:
    return FormatError("the cuts of a file do not add up to it", where=shown(node.entry.path))


def _name(node: Node) -> bytes:
    return node.entry.path.rpartition(b"/")[2]


def _is_directory(row: Row) -> bool:
    return not row.flags & NO_STAT and row.mode & 0o170000 == 0o040000
