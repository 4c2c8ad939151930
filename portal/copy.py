"""Snapshots into another vault, of the same or of another owner.

Tags name content, not where it lies or whose it is, so what the other vault has already is not
copied. All else is opened, checked, and sealed anew under the other vault's keys: no sealed byte
of the one is ever in the other.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from core.pieces import Chunk, Kind
from core.pipeline import open_packer
from core.tree.entry import EntryType
from portal.head import Head, Snapshot
from portal.index import Place
from portal.manifest import HOLE, Content, Form, Node, extents_untrusted, tags_untrusted
from portal.reader import Reader
from portal.repack import Bundles
from portal.session import Session
from portal.vault import Vault

_WINDOW_PIECES = 65_536  # looked up before the first of them is read, to read them as they lie


@dataclass(slots=True)
class Copied:
    """What was copied."""

    added: list[Snapshot]  # as they are called there
    known: list[Snapshot]  # that were there before
    pieces: int = 0
    piece_bytes: int = 0
    stored_bytes: int = 0


async def copy(
    source: Vault,
    snapshots: Collection[Snapshot],
    target: Vault,
    watch: Callable[[Copied], None] = lambda _copied: None,
) -> Copied:
    """Copy snapshots; when it returns they are durable there.

    A copy is the record without its parent. Its id follows from that: copying again adds nothing.
    """
    copies = [as_copied(snapshot) for snapshot in snapshots]
    done = Copied([], [])
    with Session(target) as session, source.reader() as reader:
        there = {one.id: one for one in session.read.head.snapshots}
        done.known = [copy for copy in copies if copy.id in there and there[copy.id].is_live]
        known = {copy.id for copy in done.known}
        done.added = [copy for copy in copies if copy.id not in known]
        if not done.added:
            return done
        copying = _Copying(reader, session, done)

        def chunks() -> Iterator[list[Chunk]]:
            for one in done.added:
                for batch in copying.chunks(one):
                    yield batch
                    watch(done)
            yield from copying.rest()

        async with open_packer(session.pack_keys, session.deliver) as packer:
            await packer.pump(chunks())
        session.commit(lambda head: _with(head, done.added))
        done.stored_bytes = session.stored_bytes
    return done


def as_copied(snapshot: Snapshot) -> Snapshot:
    """What a snapshot is in another vault: its parent is not there, its pin and tags are."""
    record = replace(snapshot.record, parent=b"")
    return Snapshot.of(record, snapshot.tags, pinned=snapshot.pinned)


def _with(head: Head, added: Collection[Snapshot]) -> Head:
    ids = {one.id for one in added}
    return head.with_snapshots([*(one for one in head.snapshots if one.id not in ids), *added])


class _Copying:
    """Pieces on their way: looked up in windows, then read in the order they lie in."""

    def __init__(self, reader: Reader, session: Session, done: Copied) -> None:
        self._reader = reader
        self._session = session
        self._done = done
        self._bundles = Bundles()
        self._seen: set[Content] = set()
        self._wanted: list[tuple[Place, Kind, bytes]] = []

    def chunks(self, snapshot: Snapshot) -> Iterator[list[Chunk]]:
        """What the other vault lacks of a snapshot."""
        waiting = [(snapshot.record.root, b"")]
        while waiting:
            content, path = waiting.pop()
            if content in self._seen:
                continue
            self._seen.add(content)
            if content.form is Form.PART_LISTS:
                self._want(Kind.CUT_LIST, tags_untrusted(content.data))
            self._want(Kind.DIRECTORY, self._reader.part_tags_untrusted(content))
            for node in self._reader.nodes_untrusted(content, path):
                if node.entry.type is EntryType.DIRECTORY:
                    waiting.append((node.content, node.entry.path))
                else:
                    self._file(node)
                if len(self._wanted) >= _WINDOW_PIECES:
                    yield from self._read()
        yield from self._read()
        if not self._session.known(Kind.SNAPSHOT, snapshot.id):
            yield from self._bundles.add(Kind.SNAPSHOT, memoryview(snapshot.encoded), snapshot.id)

    def rest(self) -> Iterator[list[Chunk]]:
        """The last bundles."""
        yield from self._bundles.rest()

    def _file(self, node: Node) -> None:
        form, data = node.content
        if form is Form.SMALL:
            self._want(Kind.SMALL_FILE, [data])
        elif form is not Form.NOTHING and node.content not in self._seen:
            self._seen.add(node.content)
            if form is Form.CUT_LISTS:
                self._want(Kind.CUT_LIST, [tag for _, tag in extents_untrusted(data)])
            extents = self._reader.extents_untrusted(node.content)
            self._want(Kind.CUT, [tag for _, tag in extents if tag != HOLE])

    def _want(self, kind: Kind, tags: Collection[bytes]) -> None:
        for tag in tags:
            if not self._session.known(kind, tag):
                self._wanted.append((self._reader.place_untrusted(kind, tag), kind, tag))

    def _read(self) -> Iterator[list[Chunk]]:
        self._wanted.sort()
        for place, kind, tag in self._wanted:
            piece = self._reader.piece_at_untrusted(kind, tag, place)
            self._done.pieces += 1
            self._done.piece_bytes += len(piece)
            yield from self._bundles.add(kind, piece, tag)
        self._wanted = []
