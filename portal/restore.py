"""Putting a snapshot back on the disk (portal/SPEC.md, Reading snapshots).

    plan, one thread -> open chunks and check pieces, every core -> write, one thread, in order

What cannot be restored is reported by its path in the snapshot and the rest goes on; a disk that is
full ends the run. Writing goes through core.tree.restore, which never leaves its target.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core import limits
from core.errors import UsageError
from core.pipeline import flow
from core.tree.entry import Report
from core.tree.metadata import Owners
from core.tree.occupancy import Overwrite as Occupied
from core.tree.restore import Options as TreeOptions
from core.tree.restore import Sync, Target
from core.tree.source import Root, Source
from portal.browse import EVERYTHING, Scope, Selection, lookup
from portal.head import Snapshot
from portal.manifest import Node
from portal.plan import Job, Plan, What
from portal.reader import Reader
from portal.removal import Identity, Removal
from portal.standing import Deed, Manners, Overwrite, Standing
from portal.touch import Touch
from portal.verify import verify_restored
from portal.writing import Account, Progress, Say, Writing, opened

TOP = b"/"  # the directory above everything; tests put another one in its place

_OCCUPIED = {
    Overwrite.REFUSE: Occupied.REFUSE,
    Overwrite.ALWAYS: Occupied.REPLACE,
    Overwrite.IF_CHANGED: Occupied.REPLACE,
    Overwrite.IF_NEWER: Occupied.IF_NEWER,
    Overwrite.NEVER: Occupied.SKIP,
}


def _silent(_deed: Deed, _path: bytes) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to restore."""

    overwrite: Overwrite = Overwrite.REFUSE
    content: bool = False  # with IF_CHANGED: believe contents, not sizes and times
    delete: bool = False  # take away what the snapshot does not have
    protected: tuple[Path, ...] = ()  # directories that are never touched: vault, PORTAL_HOME
    sparse: bool = False  # runs of zeros become holes
    dry_run: bool = False  # say what would be done, do nothing
    verify: bool = False  # read everything again afterwards
    owners: Owners = Owners.NUMBERS
    sync: Sync = Sync.NONE
    privileged: bool = True
    say: Say = _silent  # about every name, but for directories that were there


class Restore:
    """One run: `await run(snapshot, under, select)`, once; `progress` may be looked at meanwhile.

    `root` is the directory that will hold what is below `under`; it is made if it is missing. To
    put things back where they came from, it is "/".
    """

    def __init__(
        self,
        reader: Reader,
        root: Path | bytes | str,
        report: Report,
        options: Options,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._root = os.path.realpath(os.fsencode(root))
        self._options = options
        unseen = options.overwrite in {Overwrite.NEVER, Overwrite.IF_NEWER}
        self._account = Account(b"", report, options.say, watch, unseen)

    @property
    def progress(self) -> Progress:
        """What was done so far."""
        return self._account.progress

    async def run(
        self,
        snapshot: Snapshot,
        under: bytes = b"",
        select: Selection = EVERYTHING,
        threads: int | None = None,
    ) -> None:
        """Restore everything that is selected below a path, or the file it names."""
        options, account = self._options, self._account
        top = lookup(self._reader, snapshot, under)
        self._check(snapshot, under, select)
        if not under and select.is_everything:
            totals = snapshot.record.totals
            account.progress.files_total = totals.files
            account.progress.bytes_total = totals.content_bytes
        name = b""
        if not top.entry.is_directory:
            under, _, name = under.rpartition(b"/")
        account.under = under
        self._refuse_protected()
        if not options.dry_run:
            os.makedirs(self._root, exist_ok=True)  # noqa: PTH103 - names are bytes
        what = What(
            top=Node(top.entry._replace(path=name), top.content, top.link),
            scope=Scope(snapshot.record, under=under),
            select=select.below(under),
            deletes=options.delete,
            spared=_below(under, [path for path, _ in snapshot.record.errors]),
            protected=_identities(options.protected),
        )
        with Source([Root(self._root, b"")], account.report) as source:
            plan = Plan(self._reader, self._standing(source), what, account.report)
            if options.dry_run:
                await flow(plan.jobs(), _as_it_is, account.planned, size_of=_size, threads=1)
                return
            await self._write(plan, what, threads)
        if options.verify:
            await verify_restored(self._reader, self._root, what, account, threads)

    def _check(self, snapshot: Snapshot, under: bytes, select: Selection) -> None:
        """Refuse what can only be a mistake."""
        if not self._options.delete:
            return
        if self._root == TOP and not under and select.is_everything:
            raise UsageError(
                "this would delete whatever the snapshot does not have, everywhere",
                hint="say what is meant with --include or --exclude",
            )
        record = snapshot.record
        if not record.errors_count <= len(record.errors) < limits.SNAPSHOT_ERRORS_MAX:
            raise UsageError(
                "too much could not be read when it was made for anything to be deleted by it",
                where=snapshot.name,
                hint="restore without --delete",
            )

    def _refuse_protected(self) -> None:
        """Not into the vault or among the keys, which is where a slip of the hand would end."""
        protected, path = _identities(self._options.protected), Path(os.fsdecode(self._root))
        for above in (path, *path.parents):
            if _identities((above,)) & protected:
                raise UsageError(
                    "holds backups or keys; nothing is restored into it", where=str(path)
                )

    def _standing(self, source: Source) -> Standing | None:
        """What is there; nothing if not even the target is, before a dry run."""
        options = self._options
        manners = Manners(
            options.overwrite, options.content, options.owners, options.privileged, options.delete
        )
        is_there = os.path.isdir(self._root)  # noqa: PTH112 - names are bytes
        return Standing(self._reader, source, manners) if is_there else None

    async def _write(self, plan: Plan, what: What, threads: int | None) -> None:
        options, account = self._options, self._account
        tree = TreeOptions(
            _OCCUPIED[options.overwrite], options.owners, options.sync, options.privileged
        )
        with (
            Target(self._root, tree, account.report) as target,
            Source([Root(self._root, b"")], account.report) as source,
        ):
            touch = Touch(source, options.owners, account.report, privileged=options.privileged)
            removal = Removal(source, what.select, what.protected, account.report, account.removed)
            writing = Writing(self._reader, target, touch, removal, account)
            writing.sparse = options.sparse
            try:
                await flow(
                    plan.jobs(),
                    partial(opened, self._reader),
                    writing.write,
                    size_of=_size,
                    threads=threads,
                )
            finally:
                writing.end()


def _as_it_is(job: Job) -> Job:
    return job


def _size(job: Job) -> int:
    return job.size


def _below(under: bytes, paths: list[bytes]) -> frozenset[bytes]:
    """Paths of the snapshot as they are called in the target."""
    above = under + b"/" if under else b""
    stripped = [path.strip(b"/") for path in paths]
    below = {path[len(above) :] for path in stripped if path.startswith(above)}
    return frozenset(below | ({b""} if under in stripped else set()))


def _identities(paths: tuple[Path, ...]) -> frozenset[Identity]:
    """What the directories are known by, whatever they are called where they are met."""
    found = set[Identity]()
    for path in paths:
        try:
            facts = path.stat()
        except OSError:
            continue  # it is not there: nothing to protect
        found.add((facts.st_dev, facts.st_ino))
    return frozenset(found)
