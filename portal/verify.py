"""Reading again what was restored, and comparing it with the snapshot."""

import os
import stat
from collections.abc import Iterator

from core.errors import IntegrityError, PortalError
from core.pipeline import flow
from core.tree.entry import Changed, EntryType, entry_of
from core.tree.paths import shown
from core.tree.source import Root, Source
from portal.browse import walk_below
from portal.content import is_same_on_disk
from portal.manifest import Node
from portal.plan import What
from portal.reader import Reader
from portal.writing import Account

_BATCH_FILES = 256
_BATCH_BYTES = 32 << 20
_Failed = list[tuple[bytes, PortalError | OSError]]


async def verify_restored(
    reader: Reader, root: bytes, what: What, account: Account, threads: int | None = None
) -> None:
    """Compare the content of every file that is to be as in the snapshot, on every core."""

    def work(batch: list[Node]) -> tuple[int, _Failed]:
        return _compare(reader, root, batch)

    def sink(result: tuple[int, _Failed]) -> None:
        count, failed = result
        account.progress.verified += count - len(failed)
        for path, error in failed:
            account.report(path, error)
        account.watch()

    await flow(
        _batches(reader, what, account), work, sink, size_of=lambda _batch: 0, threads=threads
    )


def _batches(reader: Reader, what: What, account: Account) -> Iterator[list[list[Node]]]:
    batch, size = list[Node](), 0
    for node in _files(reader, what, account):
        batch.append(node)
        size += node.entry.size
        if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
            yield [batch]
            batch, size = [], 0
    yield [batch]


def _files(reader: Reader, what: What, account: Account) -> Iterator[Node]:
    """The files that were restored, or compared and kept."""
    if not what.top.entry.is_directory:
        if what.top.entry.path not in account.not_ours:
            yield what.top
        return
    pruned = set[bytes]()
    known = frozenset(account.not_ours)
    for node in walk_below(reader, what.top, select=what.select, report=lambda _path, _e: None):
        entry = node.entry
        if entry.path in known or (pruned and entry.path.rpartition(b"/")[0] in pruned):
            if entry.is_directory:
                pruned.add(entry.path)
        elif entry.type is EntryType.FILE:
            yield node


def _compare(reader: Reader, root: bytes, batch: list[Node]) -> tuple[int, _Failed]:
    failed: _Failed = []
    with Source([Root(root, b"")], lambda path, e: failed.append((path, e))) as source:
        for node in batch:
            path = node.entry.path
            try:
                _compare_one(reader, source, node)
            except (PortalError, OSError) as e:
                failed.append((path, e))
    return len(batch), failed


def _compare_one(reader: Reader, source: Source, node: Node) -> None:
    path = node.entry.path
    holder, name = source.place(path)
    found = os.stat(name, dir_fd=holder, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise Changed("is no file any more", where=shown(path))
    if not is_same_on_disk(reader, node, source, entry_of(path, found)):
        raise IntegrityError("was not restored as it is in the snapshot", where=shown(path))
