"""Snapshots made by hand: rows that say whatever they say, in a vault that is real."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from core.chunking import Chunker, FixedParams
from core.pieces import Chunk, Kind
from core.pipeline import open_packer
from core.tree.entry import Entry, EntryType
from portal.gather import Gather
from portal.head import Record, Snapshot, Totals
from portal.manifest import NO_CONTENT, Content, Row, row_of
from portal.session import Session
from portal.vault import Vault
from tests.support.vaults import NOW_NS

Tree = Mapping[bytes, Any]  # contents of files, rows, and trees
CUT_BYTES = 1_000


class Shelf:
    """Puts pieces and snapshots into a vault."""

    def __init__(self, vault: Vault) -> None:
        self.chunks: list[Chunk] = []
        self.session = Session(vault)
        chunker = Chunker(FixedParams("tests-1", CUT_BYTES), vault.keys.gear)
        self.gather = Gather(self.session.known, chunker)

    def put(self, kind: Kind, data: bytes) -> bytes:
        """One piece in a chunk of its own; gives its tag."""
        chunk = Chunk.of_piece(kind, data)
        if not self.session.known(kind, chunk.tag):
            self.chunks.append(chunk)
        return chunk.tag

    def file(self, name: bytes, data: bytes, **fields: Any) -> Row:
        """The row of a small file."""
        content = self.gather.small(data) if data else NO_CONTENT
        return file_row(name, content, len(data), **fields)

    def directory(self, rows: Iterable[Row]) -> Content:
        """A directory of these rows, in this order."""
        return self.gather.directory_of(rows)

    def tree(self, tree: Tree) -> Content:
        """A directory of files and directories."""
        rows = list[Row]()
        for name, value in sorted(tree.items()):
            if isinstance(value, tuple):
                rows.append(value)
            elif isinstance(value, bytes):
                rows.append(self.file(name, value))
            else:
                rows.append(directory_row(name, self.tree(value)))
        return self.directory(rows)

    def commit(
        self, root: Content, *, time_ns: int = NOW_NS, tags: tuple[str, ...] = (), **fields: Any
    ) -> Snapshot:
        """A snapshot of this root."""
        record = Record(
            time_ns=time_ns,
            end_ns=time_ns,
            host=fields.get("host", "host"),
            user="ann",
            paths=fields.get("paths", (b"/",)),
            parent=b"",
            root=root,
            totals=Totals(),
            errors_count=len(fields.get("errors", ())),
            errors=fields.get("errors", ()),
        )
        snapshot = Snapshot.of(record, tags)
        self.gather.record(record.encoded())

        async def store() -> None:
            async with open_packer(self.session.pack_keys, self.session.deliver) as packer:
                for chunk in [*self.chunks, *self.gather.finish()]:
                    await packer.put(chunk)

        trio.run(store)
        self.session.commit(lambda head: head.with_snapshots([*head.snapshots, snapshot]))
        return snapshot


@contextmanager
def a_shelf(vault: Vault) -> Iterator[Shelf]:
    """A shelf whose session ends."""
    shelf = Shelf(vault)
    with shelf.session:
        yield shelf


def by_hand(vault: Vault, tree: Tree, **fields: Any) -> Snapshot:
    """A snapshot of names and contents, or of rows that say whatever they say."""
    with a_shelf(vault) as shelf:
        return shelf.commit(shelf.tree(tree), **fields)


def file_row(name: bytes, content: Content, size: int, **fields: Any) -> Row:
    """The row of a file."""
    link = fields.pop("link", b"")
    entry = Entry(name, EntryType.FILE, 0o644, mtime_ns=NOW_NS, size=size)
    return (name, *row_of(entry._replace(**fields), content, link=link)[1:])


def directory_row(name: bytes, content: Content, **fields: Any) -> Row:
    """The row of a directory."""
    entry = Entry(name, EntryType.DIRECTORY, 0o755, mtime_ns=NOW_NS)
    return (name, *row_of(entry._replace(**fields), content)[1:])


def damage_chunks_of(vault: Vault, kind: Kind, tag: bytes) -> None:
    """Flip a bit in the chunk that holds a piece, wherever it lies."""
    with vault.reader() as reader:
        place = reader.place_untrusted(kind, tag)
        row = reader.pack_untrusted(place.pack).index.chunks[place.chunk]
    path = vault.store.path / "packs" / place.pack.hex()
    data = bytearray(path.read_bytes())
    data[row.offset + row.sealed_len // 2] ^= 1
    path.write_bytes(data)
