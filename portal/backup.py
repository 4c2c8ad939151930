"""A backup: scan, gather, pack, store, and a head that says so (portal/SPEC.md, Durability)."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from core import VERSION, hashing, limits
from core.chunking import Chunker, params_untrusted
from core.compress import Mode
from core.errors import PortalError
from core.labels import Label
from core.pieces import Chunk
from core.pipeline import open_packer
from core.tree.entry import Changed, Entry, EntryType, Incomplete, Report, Skipped
from core.tree.paths import check_path_untrusted, shown
from core.tree.source import Root, Source
from portal.baseline import Before, Looks
from portal.gather import Gather
from portal.head import Head, Record, Snapshot, Totals
from portal.intake import Intake, Progress
from portal.manifest import NO_CONTENT, Content, row_of
from portal.reader import Reader
from portal.scan import Exclusion, Scan, Walk
from portal.session import Session
from portal.unchanged import Unchanged
from portal.vault import Vault

_NOTES = (Changed, Incomplete, Skipped)
_ERROR_CHARS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a backup is to be made."""

    host: str
    user: str
    tags: tuple[str, ...] = ()
    mode: Mode = Mode.AUTO
    threads: int | None = None
    exclusion: Exclusion | None = None
    rules: bytes = b""  # what `exclusion` was made of, in a canonical form
    one_file_system: bool = False
    own: frozenset[tuple[int, int]] = frozenset()  # device and inode of what is never entered
    parent: Snapshot | None = None  # to compare with; by itself the last one of these sources
    force: bool = False
    ignore_ctime: bool = False
    ignore_inode: bool = False
    skip_if_unchanged: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """What a backup came to."""

    snapshot: Snapshot | None  # nothing if nothing was to be written
    parent: Snapshot | None
    progress: Progress
    new_bytes: int
    stored_bytes: int
    errors: int
    snapshots: int  # how many the vault holds now


@dataclass(slots=True)
class _Faults:
    """What went wrong, for the snapshot and for whoever watches."""

    tell: Report
    errors: int = 0
    first: list[tuple[bytes, str]] = field(default_factory=list)
    room: int = limits.SNAPSHOT_ERRORS_BYTES_MAX

    def report(self, path: bytes, error: PortalError | OSError) -> None:
        if not isinstance(error, _NOTES):
            self.errors += 1
        if len(self.first) < limits.SNAPSHOT_ERRORS_MAX:
            text = error.what if isinstance(error, PortalError) else error.strerror or str(error)
            text = shown(os.fsencode(text))[:_ERROR_CHARS_MAX]
            self.room -= len(path) + len(text.encode())
            if self.room >= 0:
                self.first.append((path, text))
        self.tell(path, error)


class Backup:
    """One run: `await run(roots, now_ns)`, or `run_stream`, once."""

    def __init__(
        self,
        vault: Vault,
        options: Options,
        report: Report,
        watch: Callable[[Progress], None] = lambda _progress: None,
    ) -> None:
        self._vault = vault
        self._options = options
        self._faults = _Faults(report)
        self._watch = watch
        self._rules = hashing.keyed(
            hashing.derive(Label.VAULT_RULES, vault.keys.index.reveal()), options.rules
        )

    async def run(self, roots: Sequence[Root], now_ns: int, clock: Callable[[], int]) -> Made:
        """Back these sources up; when it returns, the snapshot is durable."""
        paths = tuple(sorted(b"/" + root.name for root in roots))
        with Session(self._vault) as session:
            parent = self._options.parent or self._parent(session.read.head, paths)
            reader = Reader(self._vault.store, self._vault.keys, self._vault.cache)
            looks = self._looks(parent)
            with reader, Source(roots, self._faults.report) as source:
                gather = self._gather(session)
                scan = self._scan(source, gather, looks, (session, parent, reader), now_ns)
                run = _Run(self, session, gather, scan.progress)
                record = await run.store(
                    scan.chunks(),
                    lambda: self._record(paths, parent, scan.root, run, (now_ns, clock())),
                    unless=parent.record.root if parent else None,
                )
            looks.close()
            made = run.finish(record, parent)
            if made.snapshot is not None and not self._options.dry_run:
                looks.save(made.snapshot.id)
            return made

    async def run_stream(
        self, path: bytes, read: Callable[[int], bytes], now_ns: int, clock: Callable[[], int]
    ) -> Made:
        """Back up what comes through a pipe, as a file of this absolute path."""
        paths = (path,)
        check_path_untrusted(path.strip(b"/"))
        with Session(self._vault) as session, Source([], self._faults.report) as source:
            parent = self._options.parent or self._parent(session.read.head, paths)
            gather = self._gather(session)
            intake = Intake(source, gather, self._faults.report, lambda _entry: True)
            stream = _Stream(path, intake, gather, now_ns)
            run = _Run(self, session, gather, intake.progress)
            record = await run.store(
                self._watched(stream.chunks(read), intake.progress),
                lambda: self._record(paths, parent, stream.root, run, (now_ns, clock())),
                unless=None,
            )
            return run.finish(record, parent)

    # --- parts ------------------------------------------------------------------------------------

    def _parent(self, head: Head, paths: tuple[bytes, ...]) -> Snapshot | None:
        """The last snapshot of these sources on this host; else of this host, whatever it holds."""
        of_host = [s for s in head.live if s.record.host == self._options.host]
        same = [s for s in of_host if s.record.paths == paths]
        found = same or of_host
        return found[-1] if found else None

    def _looks(self, parent: Snapshot | None) -> Looks:
        vault = self._vault
        return Looks(vault.keys, vault.cache, parent.id if parent else b"", self._rules)

    def _gather(self, session: Session) -> Gather:
        vault = self._vault
        chunker = Chunker(params_untrusted(vault.config.chunker), vault.keys.gear)
        return Gather(session.known, chunker)

    def _scan(
        self,
        source: Source,
        gather: Gather,
        looks: Looks,
        base: tuple[Session, Snapshot | None, Reader],
        now_ns: int,
    ) -> Scan:
        options, (session, parent, reader) = self._options, base
        # Of a forgotten snapshot the packs may be in the trash, or on their way there.
        is_safe = session.is_whole and (
            parent is None or parent.id in {s.id for s in session.read.head.live}
        )
        unchanged = Unchanged(
            now_ns=now_ns,
            force=options.force,
            ignore_ctime=options.ignore_ctime,
            ignore_inode=options.ignore_inode,
            held=None if is_safe else session.holds,
        )
        walk = Walk(
            exclusion=options.exclusion,
            one_file_system=options.one_file_system,
            own=options.own,
            watch=self._watch,
        )
        before = Before(reader, parent.record.root) if parent and not options.force else None
        return Scan(source, gather, looks, before, unchanged, walk)

    def _watched(self, chunks: Iterator[list[Chunk]], progress: Progress) -> Iterator[list[Chunk]]:
        for batch in chunks:
            self._watch(progress)
            yield batch

    def _record(
        self,
        paths: tuple[bytes, ...],
        parent: Snapshot | None,
        root: Content,
        run: "_Run",
        times_ns: tuple[int, int],
    ) -> Record:
        progress = run.progress
        return Record(
            time_ns=times_ns[0],
            end_ns=max(times_ns),
            host=self._options.host,
            user=self._options.user,
            paths=paths,
            parent=parent.id if parent else b"",
            root=root,
            totals=Totals(
                progress.files,
                progress.directories,
                progress.others,
                progress.content_bytes,
                progress.files_new,
                progress.files_changed,
                run.gather.new_bytes,
            ),
            errors_count=self._faults.errors,
            errors=tuple(self._faults.first),
            rules=self._rules,
            program=VERSION,
        )

    @property
    def options(self) -> Options:
        """How this backup is made."""
        return self._options

    @property
    def errors(self) -> int:
        """How many things could not be read."""
        return self._faults.errors


class _Run:
    """From chunks to a head."""

    def __init__(
        self, backup: Backup, session: Session, gather: Gather, progress: Progress
    ) -> None:
        self.gather = gather
        self.progress = progress
        self._backup = backup
        self._session = session

    async def store(
        self,
        chunks: Iterator[list[Chunk]],
        record: Callable[[], Record],
        *,
        unless: Content | None,
    ) -> Record | None:
        """Store everything; nothing more is said if all is named by `unless` already."""
        options = self._backup.options
        if options.dry_run:
            for _ in chunks:
                pass
            return record()
        session = self._session
        async with open_packer(
            session.pack_keys, session.deliver, mode=options.mode, threads=options.threads
        ) as packer:
            await packer.pump(chunks)
            made = record()
            # New although all is named as before: something was lost, and is brought again.
            if options.skip_if_unchanged and made.root == unless and not self.gather.new_bytes:
                return None
            if self.gather.new_bytes:
                self.gather.record(made.encoded())
            for chunk in self.gather.finish():
                await packer.put(chunk)
        return made

    def finish(self, record: Record | None, parent: Snapshot | None) -> Made:
        """Commit, if there is anything to commit."""
        session, backup = self._session, self._backup
        snapshot = Snapshot.of(record, backup.options.tags) if record else None
        head = session.read.head
        if snapshot is not None and not backup.options.dry_run:
            added = snapshot
            head = session.commit(lambda head: head.with_snapshots([*head.snapshots, added]))
        return Made(
            snapshot,
            parent,
            self.progress,
            self.gather.new_bytes,
            session.stored_bytes,
            backup.errors,
            len(head.live),
        )


class _Stream:
    """A pipe as the only file of a snapshot."""

    def __init__(self, path: bytes, intake: Intake, gather: Gather, now_ns: int) -> None:
        self.root = NO_CONTENT
        self._names = path.strip(b"/").split(b"/")
        self._intake = intake
        self._gather = gather
        self._owner = Entry(b"", EntryType.FILE, uid=os.getuid(), gid=os.getgid(), mtime_ns=now_ns)

    def chunks(self, read: Callable[[int], bytes]) -> Iterator[list[Chunk]]:
        """All of it; afterwards `root` names it."""
        *above, name = self._names
        row = yield from self._intake.stream(self._owner._replace(path=name), read)
        for directory in reversed(above):
            content = self._gather.directory_of([row])
            entry = self._owner._replace(path=directory, type=EntryType.DIRECTORY, mode=0o700)
            row = row_of(entry, content, recent=True)
        self.root = self._gather.directory_of([row])
