"""What is damaged in a pack, and which files of which snapshots that takes away."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from core import limits
from core.crypto import equal
from core.errors import FormatError, IntegrityError, PortalError
from core.pack import PackKeys, PackReader, pack_name, reader_of
from core.pack_index import Location
from core.pieces import Kind, check_tag_untrusted
from core.tree.entry import EntryType
from portal.head import Snapshot
from portal.index import NameOf
from portal.live import Listed
from portal.manifest import Content, Form, Node, extents_untrusted
from portal.reader import Reader
from portal.store import Store


@dataclass(frozen=True, slots=True)
class PackDamage:
    """A pack that is not what it was."""

    name: bytes
    error: PortalError
    lost: tuple[Location, ...]  # pieces that cannot be read out of it any more


def damage_of(store: Store, keys: PackKeys, listed: Listed) -> PackDamage | None:
    """Read a whole pack; nothing if every byte of it is as it was when it was sealed."""
    facts, index = listed
    where = str(store.path / "packs" / facts.name.hex())
    data = b""
    try:
        if pack_name(facts.salt) != facts.name:
            raise IntegrityError("a delta speaks of another pack than its salt names")
        data = read_pack(store, facts.name)
        reader = PackReader.open_untrusted(reader_of(data), len(data), keys, name=facts.name)
        reader.verify_whole_untrusted(len(data))
        if not equal(reader.index.data, facts.index) or len(data) != facts.pack_bytes:
            raise IntegrityError("a pack and the delta that speaks of it contradict each other")
    except (PortalError, OSError) as e:
        error = e if isinstance(e, PortalError) else FormatError(e.strerror or str(e))
        by_facts = PackReader(reader_of(data), keys, facts.salt, index)
        return PackDamage(facts.name, error.at(where), tuple(_lost(by_facts)))
    return None


def read_pack(store: Store, name: bytes) -> bytes:
    """The whole file of a pack, wherever it lies."""
    fd = store.open_pack(name)
    try:
        size = os.fstat(fd).st_size
        if size > limits.PACK_SIZES_BYTES[-1]:
            raise FormatError(f"a pack never has {size} bytes")
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def _lost(reader: PackReader) -> Iterator[Location]:
    for chunk in range(len(reader.index.chunks)):
        try:
            plain = reader.chunk_untrusted(chunk)
        except (FormatError, IntegrityError):
            yield from reader.index.pieces(chunk)
            continue
        for piece in reader.index.pieces(chunk):
            tag, kind, _, offset, length = piece
            try:
                check_tag_untrusted(kind, tag, plain[offset : offset + length])
            except IntegrityError:
                yield piece


class Losses:
    """The files that need lost pieces; a directory that cannot be read counts as one."""

    def __init__(self, reader: Reader, name: NameOf, lost: Collection[bytes]) -> None:
        self._reader = reader
        self._name = name
        self._lost = lost
        self._dirty: set[Content] = set()  # directories in or below which something is lost

    def of(self, snapshots: Collection[Snapshot]) -> Iterator[tuple[Snapshot, bytes]]:
        """Every path of every snapshot that cannot be restored whole."""
        self._find_dirty([snapshot.record.root for snapshot in snapshots])
        for snapshot in snapshots:
            waiting = [(snapshot.record.root, b"")]
            while waiting:
                content, path = waiting.pop()
                if content not in self._dirty:
                    continue
                nodes = self._nodes(content, path)
                if nodes is None:
                    yield snapshot, path
                for node in nodes or ():
                    if node.entry.type is EntryType.DIRECTORY:
                        waiting.append((node.content, node.entry.path))
                    elif self.touches(node):
                        yield snapshot, node.entry.path

    def touches(self, node: Node) -> bool:
        """Whether something of this file is lost."""
        form, data = node.content
        if form is Form.NOTHING:
            return False
        if form is Form.SMALL:
            return self._name(Kind.SMALL_FILE, data) in self._lost
        lists = extents_untrusted(data) if form is Form.CUT_LISTS else []
        if any(self._name(Kind.CUT_LIST, tag) in self._lost for _, tag in lists):
            return True
        try:
            extents = self._reader.extents_untrusted(node.content)
        except (PortalError, OSError):
            return True
        return any(self._name(Kind.CUT, tag) in self._lost for _, tag in extents)

    def _find_dirty(self, roots: Collection[Content]) -> None:
        """Each distinct directory is looked at once, then what is above the damaged ones."""
        above: dict[Content, list[Content]] = {root: [] for root in roots}
        waiting, dirty = list(above), list[Content]()
        while waiting:
            content = waiting.pop()
            nodes = self._nodes(content, b"")
            if nodes is None or any(
                node.entry.type is not EntryType.DIRECTORY and self.touches(node) for node in nodes
            ):
                dirty.append(content)
            for node in nodes or ():
                if node.entry.type is EntryType.DIRECTORY:
                    if node.content not in above:
                        above[node.content] = []
                        waiting.append(node.content)
                    above[node.content].append(content)
        while dirty:
            content = dirty.pop()
            if content not in self._dirty:
                self._dirty.add(content)
                dirty += above[content]

    def _nodes(self, content: Content, path: bytes) -> list[Node] | None:
        try:
            if any(
                self._name(Kind.DIRECTORY, tag) in self._lost
                for tag in self._reader.part_tags_untrusted(content)
            ):
                return None
            return self._reader.nodes_untrusted(content, path)
        except (PortalError, OSError):
            return None
