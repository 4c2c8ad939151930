"""Reading pieces out of a vault: found by the index, opened once per chunk, checked by tag."""

import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from core import limits
from core.errors import FormatError, IntegrityError
from core.keys import VaultKeys
from core.pack import PackKeys, PackReader
from core.pieces import Kind, check_tag_untrusted
from core.tree.paths import shown
from portal.errors import Missing
from portal.index import Index, Place
from portal.manifest import (
    Content,
    Extent,
    Form,
    Node,
    Row,
    extents_untrusted,
    node_untrusted,
    rows_untrusted,
    tags_untrusted,
)
from portal.store import Store


class Reader:
    """A vault open for reading; its methods may be called from several threads."""

    def __init__(self, store: Store, keys: VaultKeys, cache: Path | None) -> None:
        self._store = store
        self._pack_keys = PackKeys(keys.dedup, keys.pack)
        self._index = Index(store, keys, cache)
        self._lock = Lock()
        self._packs: OrderedDict[bytes, PackReader] = OrderedDict()
        self._chunks: OrderedDict[tuple[bytes, int], memoryview] = OrderedDict()
        self._chunks_bytes = 0
        self._trashed: set[bytes] = set()
        self._trusts_cache = True
        self._refresh()

    def close(self) -> None:
        """Let every file go."""
        with self._lock:
            self._packs.clear()
            self._chunks.clear()
            self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self.close()

    # --- pieces ---------------------------------------------------------------------------------

    def place_untrusted(self, kind: Kind, tag: bytes) -> Place:
        """Where a piece lies; Missing if the vault does not hold it."""
        place = self._find(kind, tag)
        if place is None and self._distrust_cache():
            place = self._find(kind, tag)
        if place is None:
            raise Missing(f"a piece is missing: {kind.name.lower()} {tag.hex()[:16]}")
        return place

    def piece_untrusted(self, kind: Kind, tag: bytes) -> memoryview:
        """The content of a piece, checked against its tag."""
        try:
            return self.piece_at_untrusted(kind, tag, self.place_untrusted(kind, tag))
        except (FormatError, IntegrityError):
            if not self._distrust_cache():
                raise
        return self.piece_at_untrusted(kind, tag, self.place_untrusted(kind, tag))

    def piece_at_untrusted(self, kind: Kind, tag: bytes, place: Place) -> memoryview:
        """The same, when its place is known."""
        chunk = self.chunk_untrusted(place.pack, place.chunk)
        return self.part_untrusted(chunk, kind, tag, place)

    @staticmethod
    def part_untrusted(chunk: memoryview, kind: Kind, tag: bytes, place: Place) -> memoryview:
        """A piece out of its open chunk."""
        piece = chunk[place.offset : place.offset + place.length]
        check_tag_untrusted(kind, tag, piece)
        return piece

    def chunk_untrusted(self, pack: bytes, chunk: int, *, keep: bool = True) -> memoryview:
        """The content of a whole chunk; `keep` it at hand for who asks next."""
        key = (pack, chunk)
        with self._lock:
            data = self._chunks.get(key)
            if data is not None:
                self._chunks.move_to_end(key)
                return data
        reader = self.pack_untrusted(pack)
        if chunk >= len(reader.index.chunks):
            raise IntegrityError("a piece is said to lie in a chunk that its pack lacks")
        data = reader.chunk_untrusted(chunk)
        if keep:
            with self._lock:
                self._keep_chunk(key, data)
        return data

    def pack_untrusted(self, name: bytes) -> PackReader:
        """A pack, open; only its index has been read."""
        with self._lock:
            found = self._packs.get(name)
            if found is not None:
                self._packs.move_to_end(name)
                return found
        opened = _open_pack_untrusted(self._store, self._pack_keys, name)
        with self._lock:
            self._packs[name] = opened
            if len(self._packs) > limits.PACKS_OPEN_MAX:
                self._packs.popitem(last=False)
        return opened

    # --- files and directories ------------------------------------------------------------------

    def extents_untrusted(self, content: Content) -> list[Extent]:
        """The stretches of a file that was cut."""
        if content.form is Form.CUTS:
            return extents_untrusted(content.data)
        found = list[Extent]()
        for length, tag in extents_untrusted(content.data):
            below = extents_untrusted(bytes(self.piece_untrusted(Kind.CUT_LIST, tag)))
            if sum(extent.length for extent in below) != length:
                raise FormatError("a list of cuts does not add up to what it stands for")
            found += below
        return found

    def part_tags_untrusted(self, content: Content) -> list[bytes]:
        """The pieces of a directory."""
        tags = tags_untrusted(content.data)
        if content.form is Form.PARTS:
            return tags
        return [
            tag
            for upper in tags
            for tag in tags_untrusted(bytes(self.piece_untrusted(Kind.CUT_LIST, upper)))
        ]

    def rows_untrusted(self, content: Content) -> list[Row]:
        """The rows of a directory, in the order of their names."""
        rows = list[Row]()
        for tag in self.part_tags_untrusted(content):
            part = rows_untrusted(bytes(self.piece_untrusted(Kind.DIRECTORY, tag)))
            if rows and part and part[0][0] <= rows[-1][0]:  # type: ignore[operator]  # names
                raise FormatError("the parts of a directory are not in order")
            rows += part
        return rows

    def nodes_untrusted(self, content: Content, above: bytes) -> list[Node]:
        """What a directory holds; `above` is its own path."""
        try:
            return [node_untrusted(row, above) for row in self.rows_untrusted(content)]
        except (FormatError, IntegrityError) as e:
            raise e.at(shown(above) or "/") from e.__cause__

    # --- how ------------------------------------------------------------------------------------

    def _distrust_cache(self) -> bool:
        """Read the index itself, once: the cache may be damaged, others may have moved packs."""
        with self._lock:
            if not self._trusts_cache:
                return False
            self._trusts_cache = False
            self._refresh()
            return True

    def _find(self, kind: Kind, tag: bytes) -> Place | None:
        """One of its places; one in the trash, which may be purged, only if there is no other."""
        with self._lock:
            places = self._index.find_all(kind, tag)
            if not self._trashed:
                return next(places, None)
            found = list(places)
        return min(found, key=lambda place: place.pack in self._trashed, default=None)

    def _refresh(self) -> None:
        packs = self._store.pack_names()
        if trashed := self._store.trashed():
            # Looked at again: what was taken back meanwhile was in neither place when we looked.
            live = packs | self._store.pack_names()
            packs = live | set(trashed)
            self._trashed = set(trashed) - live
        self._index.refresh(packs, trust_cache=self._trusts_cache)

    def _keep_chunk(self, key: tuple[bytes, int], data: memoryview) -> None:
        if key in self._chunks:
            return
        self._chunks[key] = data
        self._chunks_bytes += len(data)
        while self._chunks_bytes > limits.CHUNKS_CACHED_BYTES_MAX and len(self._chunks) > 1:
            self._chunks_bytes -= len(self._chunks.popitem(last=False)[1])


def _open_pack_untrusted(store: Store, keys: PackKeys, name: bytes) -> PackReader:
    file = _File(store.open_pack(name))
    try:
        return PackReader.open_untrusted(file.read_at, file.size, keys, name=name)
    except (FormatError, IntegrityError) as e:
        raise e.at(str(store.path / "packs" / name.hex())) from e.__cause__


class _File:
    """A descriptor, closed as soon as no reader uses it any more: it is part of no cycle."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def __del__(self) -> None:
        os.close(self._fd)
