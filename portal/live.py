"""What snapshots need, and which pack holds it (portal/SPEC.md, Collection).

Marks       the keys of every piece some snapshots need; each distinct content is looked at once
Catalogue   what every pack holds, as the deltas say it, else as the packs say it themselves
Tally       brings both together: what is missing, and how much of each pack is in use

Nothing here trusts the cache: directories are checked by their tags, places come from deltas.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from core.errors import FormatError, IntegrityError, PortalError
from core.keys import VaultKeys
from core.pack import PackKeys
from core.pack_index import PackIndex
from core.pieces import Kind
from core.tree.entry import EntryType
from core.tree.paths import shown
from portal.head import Snapshot
from portal.index import NameOf, PackFacts, open_delta_untrusted, read_pack_facts
from portal.manifest import HOLE, Content, Form, Node, extents_untrusted, tags_untrusted
from portal.reader import Reader
from portal.store import Store

LENGTH_UNKNOWN = -1
Listed = tuple[PackFacts, PackIndex]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in a snapshot that cannot be read; what lies below it is not looked at."""

    snapshot: Snapshot
    path: bytes
    error: PortalError
    content: Content

    def __str__(self) -> str:
        return f"{self.snapshot.name}: /{shown(self.path)}: {self.error}"


class Marks:
    """The pieces that snapshots need: `needed` has the key of each and how long it should be."""

    def __init__(self, reader: Reader, name: NameOf) -> None:
        self.needed: dict[bytes, int] = {}
        self.optional: set[bytes] = set()  # their records: kept where they are, never missed
        self.faults: list[Fault] = []
        self._reader = reader
        self._name = name
        self._seen: set[Content] = set()

    def add(self, snapshot: Snapshot) -> None:
        """Everything below this snapshot that was not looked at before."""
        record = self._name(Kind.SNAPSHOT, snapshot.id)
        self.needed[record] = len(snapshot.encoded)
        self.optional.add(record)
        waiting = [(snapshot.record.root, b"")]
        while waiting:
            content, path = waiting.pop()
            if content in self._seen:
                continue
            self._seen.add(content)
            for node in self._nodes(snapshot, content, path):
                if node.entry.type is EntryType.DIRECTORY:
                    waiting.append((node.content, node.entry.path))
                elif node.content.form is not Form.NOTHING:
                    self._file(snapshot, node)

    def read_by(self, reader: Reader) -> None:
        """Go on with another reader: one that knows what was stored since."""
        self._reader = reader

    def _nodes(self, snapshot: Snapshot, content: Content, path: bytes) -> list[Node]:
        try:
            if content.form is Form.PART_LISTS:
                for tag in tags_untrusted(content.data):
                    self._need(Kind.CUT_LIST, tag)
            for tag in self._reader.part_tags_untrusted(content):
                self._need(Kind.DIRECTORY, tag)
            return self._reader.nodes_untrusted(content, path)
        except (PortalError, OSError) as e:
            self._fault(snapshot, path, e, content)
            return []

    def _file(self, snapshot: Snapshot, node: Node) -> None:
        entry, content, _ = node
        if content.form is Form.SMALL:
            self._need(Kind.SMALL_FILE, content.data, entry.size)
            return
        if content.form is Form.CUT_LISTS:
            if content in self._seen:
                return
            self._seen.add(content)
        try:
            if content.form is Form.CUT_LISTS:
                for _, tag in extents_untrusted(content.data):
                    self._need(Kind.CUT_LIST, tag)
            for length, tag in self._reader.extents_untrusted(content):
                if tag != HOLE:
                    self._need(Kind.CUT, tag, length)
        except (PortalError, OSError) as e:
            self._fault(snapshot, entry.path, e, content)

    def _need(self, kind: Kind, tag: bytes, length: int = LENGTH_UNKNOWN) -> None:
        self.needed[self._name(kind, tag)] = length

    def _fault(
        self, snapshot: Snapshot, path: bytes, error: PortalError | OSError, content: Content
    ) -> None:
        if isinstance(error, OSError):
            error = FormatError(error.strerror or str(error), where=str(error.filename or ""))
        self.faults.append(Fault(snapshot, path, error, content))


class Catalogue:
    """What the packs of a vault hold, one pack after the other, each once."""

    def __init__(self, store: Store, keys: VaultKeys) -> None:
        self.damaged: dict[str, PortalError] = {}  # deltas and packs that cannot be read, by path
        self.unlisted: set[bytes] = set()  # packs of which no delta speaks
        self.told: set[bytes] = set()  # packs of which deltas speak, there or not
        self._store = store
        self._keys = keys
        self._pack_keys = PackKeys(keys.dedup, keys.pack)

    def listed(self, packs: set[bytes]) -> Iterator[Listed]:
        """Each of these packs that can be read."""
        given, looked = set[bytes](), set[str]()
        self.damaged.clear()
        self.told.clear()
        while unseen := sorted(self._store.delta_names() - looked):
            # Others may merge deltas meanwhile: then one is gone, and the next round has the new.
            looked.update(unseen)
            for name in unseen:
                for facts, index in self._read_delta(name):
                    self.told.add(facts.name)
                    if facts.name in packs and facts.name not in given:
                        given.add(facts.name)
                        yield facts, index
        self.unlisted = packs - given
        for pack in sorted(self.unlisted):
            yield from self._read_pack(pack)

    def _read_delta(self, name: str) -> list[Listed]:
        try:
            found = open_delta_untrusted(self._store.read_delta(name), self._keys)
            return [(facts, facts.decoded_untrusted()) for facts in found]
        except FileNotFoundError:
            return []
        except (FormatError, IntegrityError, OSError) as e:
            self._tell(str(self._store.path / "index" / name), e)
            return []

    def _read_pack(self, name: bytes) -> Iterator[Listed]:
        try:
            facts = read_pack_facts(self._store, self._pack_keys, name)
            yield facts, facts.decoded_untrusted()
        except (PortalError, OSError) as e:
            self._tell(str(self._store.path / "packs" / name.hex()), e)

    def _tell(self, path: str, error: PortalError | OSError) -> None:
        if isinstance(error, OSError):
            error = FormatError(error.strerror or str(error))
        self.damaged[path] = error.at(path)


@dataclass(slots=True)
class PackUse:
    """How much of a pack is in use. A bundle counts by the share of its pieces in use."""

    name: bytes
    pack_bytes: int
    filled_bytes: int = 0  # by chunks
    live_bytes: int = 0  # by what is needed and counted here
    double_bytes: int = 0  # by what is needed and counted in another pack

    @property
    def dead_bytes(self) -> int:
        """What would be saved if only what is needed were kept."""
        return self.filled_bytes - self.live_bytes

    @property
    def lost_bytes(self) -> int:
        """What nobody could read any more without this pack, and nobody needs to."""
        return max(0, self.dead_bytes - self.double_bytes)


class Tally:
    """Where each needed piece lies; one that lies in several packs counts in the first."""

    def __init__(self, name: NameOf) -> None:
        self.packs: list[PackUse] = []
        self.homes: dict[bytes, int] = {}  # key to a number in `packs`
        self.wrong: list[bytes] = []  # keys of pieces of another length than they should have
        self._name = name

    def add(self, listed: Iterable[Listed], needed: dict[bytes, int]) -> None:
        """Count these packs."""
        homes, name = self.homes, self._name
        for facts, index in listed:
            number = len(self.packs)
            use = PackUse(facts.name, facts.pack_bytes)
            self.packs.append(use)
            for chunk, row in enumerate(index.chunks):
                live = double = 0
                for tag, kind, _, _, length in index.pieces(chunk):
                    key = name(kind, tag)
                    wanted = needed.get(key)
                    if wanted is None:
                        continue
                    if key in homes:
                        double += length
                        continue
                    homes[key] = number
                    live += length
                    if wanted not in {LENGTH_UNKNOWN, length}:
                        self.wrong.append(key)
                use.filled_bytes += row.sealed_len
                use.live_bytes += _share(row.sealed_len, live, row.plain_len)
                use.double_bytes += _share(row.sealed_len, double, row.plain_len)

    def missing(self, marks: Marks) -> int:
        """How many pieces lie nowhere."""
        return sum(1 for key in marks.needed if key not in self.homes and key not in marks.optional)


def _share(sealed: int, part: int, whole: int) -> int:
    """Of a sealed chunk what a part of it takes: 0 only if it is nothing."""
    return max(1, sealed * part // whole) if part else 0


def places_of(listed: Iterable[Listed], name: NameOf, wanted: set[bytes]) -> dict[bytes, bytes]:
    """Which of these packs holds each wanted piece, by key; the first one counts."""
    found: dict[bytes, bytes] = {}
    for facts, index in listed:
        for tag, kind, *_ in index.all_pieces():
            key = name(kind, tag)
            if key in wanted and key not in found:
                found[key] = facts.name
    return found
