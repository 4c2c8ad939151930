"""Snapshots made from others: without some of their files, or said to be of another host.

Only directories that change are written again; contents stay where they are. The snapshot it was
made from is untouched, unless it is to be forgotten, which can be taken back.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from core import limits
from core.chunking import Chunker, params_untrusted
from core.pieces import Chunk
from core.pipeline import open_packer
from core.tree.entry import EntryType
from portal.errors import NoSnapshot
from portal.gather import Gather
from portal.head import Head, Record, Snapshot
from portal.manifest import Content, Node, Row, node_untrusted
from portal.reader import Reader
from portal.session import Session
from portal.vault import Vault

Drop = Callable[[Snapshot, Node], bool]


def drop_nothing(_snapshot: Snapshot, _node: Node) -> bool:
    """Every name stays."""
    return False


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to become another."""

    drop: Drop = drop_nothing  # names that go, directories with everything below them
    host: str | None = None
    user: str | None = None
    why: str = ""  # if told, what was dropped is written down among the errors
    forget: bool = False  # the snapshots it was made from


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A snapshot and what became of it; the same one if nothing changed."""

    old: Snapshot
    new: Snapshot
    dropped: int  # names


async def rewrite(
    vault: Vault, snapshots: Collection[Snapshot], edit: Edit, now_s: int
) -> list[Rewritten]:
    """Make new snapshots of these; when it returns, they are durable."""
    with Session(vault) as session, Reader(vault.store, vault.keys, vault.cache) as reader:
        gone = {one.id for one in snapshots} - {one.id for one in session.read.head.live}
        if gone:
            raise NoSnapshot(
                f"no snapshot {min(gone).hex()[:8]}", hint="it was forgotten meanwhile"
            )
        gather = Gather(
            session.known, Chunker(params_untrusted(vault.config.chunker), vault.keys.gear)
        )
        made: list[Rewritten] = []

        def chunks() -> Iterator[list[Chunk]]:
            for snapshot in snapshots:
                rewriting = _Rewriting(reader, gather, snapshot, edit)
                yield from rewriting.chunks()
                made.append(rewriting.made())
            yield gather.finish()

        async with open_packer(session.pack_keys, session.deliver) as packer:
            await packer.pump(chunks())
        changed = [one for one in made if one.new.id != one.old.id]
        if changed:
            session.commit(lambda head: _with(head, changed, edit, now_s))
    return made


def _with(head: Head, changed: list[Rewritten], edit: Edit, now_s: int) -> Head:
    live = {snapshot.id for snapshot in head.live}
    new = {one.new.id: one.new for one in changed if one.new.id not in live}
    old = {one.old.id for one in changed} if edit.forget else set()
    kept = [
        replace(one, forgotten_s=max(1, now_s), forgotten_gen=head.trash_gen)
        if one.id in old and one.is_live and not one.pinned
        else one
        for one in head.snapshots
        if one.id not in new  # it was made and forgotten before: now it lives again
    ]
    return head.with_snapshots([*kept, *new.values()])


@dataclass(slots=True)
class _Folder:
    """A directory on the way down, and what was decided about its names so far."""

    content: Content
    path: bytes
    rows: list[Row]
    at: int = 0
    kept: list[Row] = field(default_factory=list)
    is_changed: bool = False


class _Rewriting:
    """One snapshot on its way into another."""

    def __init__(self, reader: Reader, gather: Gather, snapshot: Snapshot, edit: Edit) -> None:
        self._reader = reader
        self._gather = gather
        self._snapshot = snapshot
        self._edit = edit
        self._root = snapshot.record.root
        self._totals = snapshot.record.totals
        self._dropped: list[bytes] = []
        self._dropped_count = 0

    def chunks(self) -> Iterator[list[Chunk]]:
        """The new directories; children before those above them."""
        folders = [self._folder(self._root, b"")]
        while True:
            folder = folders[-1]
            if folder.at < len(folder.rows):
                row = folder.rows[folder.at]
                folder.at += 1
                node = node_untrusted(row, folder.path)
                if self._edit.drop(self._snapshot, node):
                    self._drop(node)
                    folder.is_changed = True
                elif node.entry.type is EntryType.DIRECTORY:
                    folders.append(self._folder(node.content, node.entry.path))
                else:
                    folder.kept.append(row)
                continue
            content = folder.content
            if folder.is_changed:
                content = self._gather.directory_of(folder.kept)
            if self._gather.is_full:
                yield self._gather.take()
            folders.pop()
            if not folders:
                self._root = content
                break
            self._put_back(folders[-1], content)
        record = self._record()
        if record.encoded() != self._snapshot.encoded:
            self._gather.record(record.encoded())

    def made(self) -> Rewritten:
        """The result, to be asked when all chunks were taken."""
        old = self._snapshot
        new = Snapshot.of(self._record(), old.tags, pinned=old.pinned)
        return Rewritten(old, new if new.id != old.id else old, self._dropped_count)

    def _folder(self, content: Content, path: bytes) -> _Folder:
        return _Folder(content, path, self._reader.rows_untrusted(content))

    @staticmethod
    def _put_back(above: _Folder, content: Content) -> None:
        """The row of a directory that is done, into the one above it."""
        row = above.rows[above.at - 1]
        if (row[11], row[12]) != (int(content.form), content.data):
            row = (*row[:11], int(content.form), content.data, *row[13:])
            above.is_changed = True
        above.kept.append(row)

    def _drop(self, node: Node) -> None:
        """Count what goes; what cannot be read any more is one directory and nothing below it."""
        if len(self._dropped) < limits.SNAPSHOT_ERRORS_MAX:
            self._dropped.append(node.entry.path)
        waiting = [node]
        while waiting:
            entry, content, _ = waiting.pop()
            self._dropped_count += 1
            totals = self._totals
            if entry.type is EntryType.DIRECTORY:
                self._totals = replace(totals, directories=max(0, totals.directories - 1))
                if not self._edit.why:
                    waiting += self._reader.nodes_untrusted(content, entry.path)
            elif entry.type is EntryType.FILE:
                self._totals = replace(
                    totals,
                    files=max(0, totals.files - 1),
                    content_bytes=max(0, totals.content_bytes - entry.size),
                )
            else:
                self._totals = replace(totals, others=max(0, totals.others - 1))

    def _record(self) -> Record:
        record, edit = self._snapshot.record, self._edit
        errors = record.errors
        if edit.why:
            told = tuple((path[: limits.PATH_BYTES_MAX], edit.why) for path in self._dropped)
            errors = (*told, *errors)[: limits.SNAPSHOT_ERRORS_MAX]
        totals = self._totals if self._dropped else record.totals
        return replace(
            record,
            root=self._root,
            host=record.host if edit.host is None else edit.host,
            user=record.user if edit.user is None else edit.user,
            totals=totals,
            errors_count=record.errors_count + (self._dropped_count if edit.why else 0),
            errors=errors,
        )
