"""Where every piece of a vault lies (portal/SPEC.md, Index).

The truth is in the packs, each of which lists its pieces. Sealed deltas in `index/` repeat those
lists, so that no pack has to be opened; and the cache holds them once more as sorted tables, keyed
with K_idx, so that nothing has to be read at all. Each is made from the one before when missing.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from core import codec, envelope, hashing, limits
from core.errors import FormatError, IntegrityError, PortalError
from core.keys import VaultKeys
from core.labels import EnvelopeKind, Label
from core.pack import CHUNKS_AT, PackKeys, PackReader
from core.pack_index import PackIndex
from core.pieces import Kind, index_key_prefix
from portal.store import Store
from portal.table import KEY_BYTES, Table, write_table

_DELTA_VERSION = 1
_PLACE = struct.Struct(">IIII")  # number of the pack, chunk, offset, length
_ROW_BYTES = KEY_BYTES + _PLACE.size
_PACKS_PER_DELTA_MAX = 65_536
_LIST_PACKS_MAX = 1 << 22

NameOf = Callable[[Kind, bytes], bytes]  # what a piece is called in the tables


class Place(NamedTuple):
    """Where a piece lies: in which chunk of which pack, and where in that chunk."""

    pack: bytes
    chunk: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True, repr=False)
class PackFacts:
    """What a delta says about one pack."""

    name: bytes
    salt: bytes
    pack_bytes: int
    index: bytes  # of the pack, as core/pack_index.py writes it

    def decoded_untrusted(self) -> PackIndex:
        """The pack's own index."""
        return PackIndex.decode_untrusted(self.index, CHUNKS_AT)


def seal_delta(keys: VaultKeys, packs: Iterable[PackFacts]) -> bytes:
    """A delta that says where the pieces of these packs are."""
    rows = [(p.name, p.salt, p.pack_bytes, p.index) for p in packs]
    return envelope.seal(keys.meta, EnvelopeKind.VAULT_INDEX, codec.encode((_DELTA_VERSION, *rows)))


def open_delta_untrusted(data: bytes, keys: VaultKeys) -> list[PackFacts]:
    """The packs a delta speaks of."""
    plain = envelope.open_untrusted(keys.meta, EnvelopeKind.VAULT_INDEX, data)
    row = codec.decode_untrusted(plain)
    codec.as_versioned_row(row[:1], _DELTA_VERSION, 1, "a delta of the index")
    found = []
    for item in codec.as_rows(row[1:], _PACKS_PER_DELTA_MAX, "the packs of a delta"):
        name, salt, size, index = codec.as_row(item, 4, "a pack in a delta")
        found.append(
            PackFacts(
                codec.as_bytes(name, "the name of a pack", size=limits.HASH_BYTES),
                codec.as_bytes(salt, "the salt of a pack", size=limits.PACK_SALT_BYTES),
                codec.as_uint(size, 32, "the length of a pack"),
                codec.as_bytes(index, "the index of a pack", size_max=limits.DELTA_BYTES_MAX),
            )
        )
    return found


def namer(keys: VaultKeys) -> NameOf:
    """What a piece is called in the tables of a vault."""
    secret = keys.index.reveal()
    prefixes = {kind: index_key_prefix(kind) for kind in Kind}

    def name(kind: Kind, tag: bytes) -> bytes:
        return hashing.keyed(secret, prefixes[kind] + tag, KEY_BYTES)

    return name


class Index:
    """Finds pieces. What is stored meanwhile is added with `add`; one thread at a time.

    `packs` are those that may be used; a piece in another one counts as missing.
    """

    def __init__(self, store: Store, keys: VaultKeys, cache: Path | None) -> None:
        self._store = store
        self._keys = keys
        self._pack_keys = PackKeys(keys.dedup, keys.pack)
        self.key = namer(keys)
        self._cache_key = hashing.derive(Label.VAULT_CACHE, keys.index.reveal())
        self._cache = cache
        self._tables: list[tuple[Table, list[bytes]]] = []  # and the names of its packs
        self._pending: dict[bytes, bytes] = {}  # key to one or several rows without it
        self._pending_packs: list[bytes] = []
        self._pending_deltas: set[str] = set()
        self.packs: set[bytes] = set()
        self.listed: set[bytes] = set()  # packs that deltas speak of
        self.unlisted: set[bytes] = set()  # packs that no delta speaks of
        self.damaged: dict[str, PortalError] = {}  # deltas and packs that could not be read

    # --- opening --------------------------------------------------------------------------------

    def refresh(self, packs: set[bytes], *, trust_cache: bool = True) -> None:
        """Know every pack in `packs`: from the cache, else from the deltas, else by opening it."""
        self.close()
        self.packs = packs
        self.damaged.clear()
        deltas = self._store.delta_names()
        looked, listed = self._open_tables(deltas) if trust_cache else (set[str](), set[bytes]())
        while unseen := sorted(self._store.delta_names() - looked):
            # Others may merge deltas meanwhile: then one is gone, and the next round has the new.
            for delta in unseen:
                listed |= self._read_delta(delta)
            looked |= set(unseen)
        self.listed, self.unlisted = listed, packs - listed
        for pack in sorted(self.unlisted):
            self._read_pack(pack)

    def close(self) -> None:
        """Let the tables go."""
        for table, _ in self._tables:
            table.close()
        self._tables = []
        self._forget_pending()

    def _open_tables(self, deltas: set[str]) -> tuple[set[str], set[bytes]]:
        covered, listed = set[str](), set[bytes]()
        for path in sorted(self._cache.glob("*.index")) if self._cache else []:
            try:
                table = Table(path, self._cache_key)
            except (FormatError, OSError):
                _drop(path)
                continue
            try:
                named, packs = _note_untrusted(table.note)
            except FormatError:
                named, packs = set(), []
            if table.row_bytes != _ROW_BYTES or not named <= deltas or named <= covered:
                table.close()
                _drop(path)
                continue
            self._tables.append((table, packs))
            covered |= named
            listed |= set(packs)
        return covered, listed

    def _read_delta(self, name: str) -> set[bytes]:
        try:
            facts = open_delta_untrusted(self._store.read_delta(name), self._keys)
            listed = set()
            for pack in facts:
                if pack.name in self.packs:
                    self.add(pack.name, pack.decoded_untrusted())
                else:
                    self._pending_packs.append(pack.name)  # the cache is to know of a loss, too
                listed.add(pack.name)
        except FileNotFoundError:
            return set()
        except (FormatError, IntegrityError) as e:
            self.damaged[name] = e.at(str(self._store.path / "index" / name))
            return set()
        self._pending_deltas.add(name)
        if len(self._pending) >= limits.TABLE_ROWS_PENDING_MAX:
            self.save()
        return listed

    def _read_pack(self, name: bytes) -> None:
        try:
            self.add(name, read_pack_facts(self._store, self._pack_keys, name).decoded_untrusted())
        except (PortalError, OSError) as e:
            where = str(self._store.path / "packs" / name.hex())
            error = e if isinstance(e, PortalError) else FormatError(e.strerror or str(e))
            self.damaged[name.hex()] = error.at(where)

    # --- asking ---------------------------------------------------------------------------------

    def find(self, kind: Kind, tag: bytes) -> Place | None:
        """Where a piece lies, in a pack that may be used."""
        return next(self.find_all(kind, tag), None)

    def find_all(self, kind: Kind, tag: bytes) -> Iterator[Place]:
        """Everywhere it lies."""
        return self._places(self.key(kind, tag))

    def find_key(self, key: bytes) -> Place | None:
        """The same for who has the key already."""
        return next(self._places(key), None)

    def _places(self, key: bytes) -> Iterator[Place]:
        rows = self._pending.get(key, b"")
        for at in range(0, len(rows), _PLACE.size):
            place = _place(rows, at, self._pending_packs)
            if place.pack in self.packs:
                yield place
        for table, packs in self._tables:
            for row in table.find(key):
                place = _place(row, KEY_BYTES, packs)
                if place.pack in self.packs:
                    yield place

    # --- adding ---------------------------------------------------------------------------------

    def add(self, pack: bytes, index: PackIndex) -> list[bytes]:
        """The pieces of one more pack; gives their keys."""
        number = len(self._pending_packs)
        self._pending_packs.append(pack)
        self.packs.add(pack)
        pending, pack_row = self._pending, _PLACE.pack
        key_of, keys = self.key, []
        for tag, kind, chunk, offset, length in index.all_pieces():
            key = key_of(kind, tag)
            row = pack_row(number, chunk, offset, length)
            pending[key] = pending[key] + row if key in pending else row
            keys.append(key)
        return keys

    def save(self, deltas: Iterable[str] = ()) -> None:
        """Put what was added into the cache, as said by these deltas and those read before."""
        named = self._pending_deltas | set(deltas)
        if self._cache is None or not self._pending or not named:
            return
        packs, size = self._pending_packs, _PLACE.size
        rows = [
            key + places[at : at + size]
            for key, places in self._pending.items()
            for at in range(0, len(places), size)
        ]
        rows.sort()
        note = codec.encode((sorted(named), packs))
        path = self._cache / f"{os.urandom(8).hex()}.index"
        try:
            write_table(path, self._cache_key, rows, _ROW_BYTES, note)
            table = Table(path, self._cache_key)  # unless another process has cleared it away
        except (FormatError, OSError):
            return  # a cache that cannot be written costs time, nothing else
        self._tables.append((table, packs))
        self._forget_pending()

    def _forget_pending(self) -> None:
        self._pending, self._pending_packs, self._pending_deltas = {}, [], set()

    @property
    def pending_count(self) -> int:
        """How many pieces are in memory only."""
        return len(self._pending)


def read_pack_facts(store: Store, keys: PackKeys, name: bytes) -> PackFacts:
    """What a pack says about itself."""
    fd = store.open_pack(name)
    try:
        size = os.fstat(fd).st_size
        reader = PackReader.open_untrusted(
            lambda offset, length: os.pread(fd, length, offset), size, keys, name=name
        )
    finally:
        os.close(fd)
    return PackFacts(name, reader.salt, size, reader.index.data)


def _drop(path: Path) -> None:
    """Take a table away that is worth nothing; in a cache of somebody else it may stay."""
    with suppress(OSError):
        path.unlink()


def _place(rows: bytes, at: int, packs: list[bytes]) -> Place:
    number, chunk, offset, length = _PLACE.unpack_from(rows, at)
    return Place(packs[number] if number < len(packs) else b"", chunk, offset, length)


def _note_untrusted(note: bytes) -> tuple[set[str], list[bytes]]:
    deltas, packs = codec.as_row(codec.decode_untrusted(note), 2, "the note of a table")
    names = codec.as_rows(deltas, _LIST_PACKS_MAX, "its deltas")
    found = codec.as_rows(packs, _LIST_PACKS_MAX, "its packs")
    return (
        {codec.as_text(name, 32, "the name of a delta") for name in names},
        [codec.as_bytes(name, "the name of a pack", size=limits.HASH_BYTES) for name in found],
    )
