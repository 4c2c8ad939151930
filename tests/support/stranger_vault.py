"""A reader of vaults written from portal/SPEC.md and core/SPEC.md alone: it shares no code with us.

Given the master of a vault it reads config, heads, deltas, packs, snapshots and files. What it
cannot read, the specifications do not say.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lz4.block  # type: ignore[import-untyped]  # the package ships no types
import msgpack
import nacl.signing
import zstandard

from tests.support.stranger import dk, kh, unseal
from tests.support.stranger_keys import fields, h, open_envelope, read_cert

CUT, SMALL_FILE, BUNDLE, DIRECTORY, SNAPSHOT, CUT_LIST = 1, 2, 3, 4, 5, 6
Tag = tuple[int, bytes]


@dataclass(frozen=True)
class Keys:
    """What a vault's master gives."""

    priv: bytes
    meta: bytes
    pack: bytes


def keys_of(master: bytes) -> Keys:
    return Keys(dk("dedup private", master), dk("meta aead", master), dk("pack key", master))


def tag_of(kind: int, data: bytes) -> bytes:
    return kh(dk("content tag", b""), bytes([kind]) + data)


# --- config and heads -----------------------------------------------------------------------------


class Config(NamedTuple):
    vault: bytes
    node: bytes
    epoch: int
    chunker: str
    created_s: int


def read_config(data: bytes, keys: Keys) -> Config:
    assert data[:5] == b"PTVC\1"
    plain = fields(open_envelope(keys.meta, 0x13, data[57:], data[:57]))
    version, chunker, created_s = plain
    assert version == 1
    assert isinstance(chunker, str)
    assert isinstance(created_s, int)
    return Config(data[5:21], data[21:53], int.from_bytes(data[53:57]), chunker, created_s)


class Snapshot(NamedTuple):
    id: bytes
    record: list[Any]
    tags: list[str]
    pinned: bool
    forgotten_s: int
    forgotten_gen: int


class Head(NamedTuple):
    user: bytes
    device: bytes
    place: tuple[int, int]
    prev: bytes
    live_set_root: bytes
    trash_gen: int
    snapshots: list[Snapshot]


def read_head(data: bytes, keys: Keys, vault: bytes) -> Head:
    payload, signature = fields(data)
    assert isinstance(payload, bytes)
    assert isinstance(signature, bytes)
    row: list[Any] = fields(payload)
    user, device = row[2], row[3]
    framed = b"portal-node-sig-v1\0\x0avault-head" + len(payload).to_bytes(8) + payload
    nacl.signing.VerifyKey(device).verify(framed, signature)
    assert row[:2] == [2, vault]
    assert len(row) == 10
    body: list[Any] = fields(open_envelope(keys.meta, 0x14, row[9], msgpack.packb(row[:9])))
    version, cert_bytes, codec, plain_len, packed = body
    assert version == 1
    cert: list[Any] = read_cert(cert_bytes)
    assert cert[1:3] == [user, device]
    version, *rows = fields(unpacked(codec, plain_len, packed))
    assert version == 1
    snapshots = [_snapshot(r) for r in rows]
    return Head(user, device, (row[4], row[5]), row[6], row[7], row[8], snapshots)


def _snapshot(row: Any) -> Snapshot:
    encoded, tags, pinned, forgotten_s, forgotten_gen = row
    record = fields(encoded)
    assert record[0] == 1
    assert len(record) == 13
    name = tag_of(SNAPSHOT, encoded)
    return Snapshot(name, record, tags, pinned, forgotten_s, forgotten_gen)


def head_hash(data: bytes) -> bytes:
    return h("vault head hash", data)


def live_set_root(packs: set[bytes]) -> bytes:
    """The root of the sparse Merkle tree of name -> name."""
    return _subtree(sorted((h("holdings", name), name) for name in packs), 0)


def _subtree(items: list[tuple[bytes, bytes]], depth: int) -> bytes:
    if not items:
        return bytes(32)
    if len(items) == 1:
        path, value = items[0]
        return kh(dk("smt leaf", b""), path + value)
    right = [i for i in items if i[0][depth // 8] >> (7 - depth % 8) & 1]
    left = [i for i in items if i not in right]
    below = _subtree(left, depth + 1) + _subtree(right, depth + 1)
    return kh(dk("smt node", b""), below)


# --- packs and deltas -----------------------------------------------------------------------------


def unpacked(codec: int, plain_len: int, data: bytes) -> bytes:
    """Codecs 0 to 2; no vault of the tests has the others."""
    assert codec in {0, 1, 2}
    if codec == 0:
        plain = data
    elif codec == 1:
        plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=plain_len)
    else:
        plain = lz4.block.decompress(data, uncompressed_size=plain_len)
    assert len(plain) == plain_len
    return plain


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies in its pack, and its pieces: kind, tag, length."""

    offset: int
    sealed_len: int
    plain_len: int
    kind: int
    tag: bytes
    pieces: list[tuple[int, bytes, int]]


def read_index(index: bytes) -> list[Chunk]:
    version, chunk_count, piece_count = struct.unpack(">BxxxII", index[:12])
    assert version == 1
    at = 12 + 116 * chunk_count
    rows = [index[i : i + 36] for i in range(at, at + 36 * piece_count, 36)]
    chunks, offset = [], 108
    for start in range(12, at, 116):
        row = index[start : start + 52]
        sealed_len, plain_len, count, epoch, kind, domain = struct.unpack(">IIIIBBxx", row[:20])
        assert (epoch, domain) == (0, 1)
        own = [(kind, row[20:], plain_len)]
        bundled = [(r[32], r[:32], int.from_bytes(r[33:])) for r in rows[:count]]
        rows = rows[count:]
        chunks.append(Chunk(offset, sealed_len, plain_len, kind, row[20:], bundled or own))
        offset += sealed_len
    assert not rows
    return chunks


def index_of_pack(data: bytes, keys: Keys) -> bytes:
    """What a pack says itself about its chunks."""
    salt = data[:32]
    subkeys = dk("pack subkeys", keys.pack + salt, 192)
    header = unseal(data[32:108], subkeys[:96], b"portal pack 2 header")
    pack_len, index_off, index_len, version = struct.unpack(">IIII", header)
    assert (pack_len, version) == (len(data), 1)
    end = index_off + index_len
    assert data[end:] == dk("pack padding", keys.pack + salt, pack_len - end)
    return unseal(data[index_off:end], subkeys[96:], b"portal pack 2 index")


def read_chunk(data: bytes, chunk: Chunk, keys: Keys) -> bytes:
    """The content of a chunk of this pack."""
    subkeys = dk("chunk subkeys", dk("chunk key", keys.priv + chunk.tag) + data[:32], 96)
    sealed = data[chunk.offset : chunk.offset + chunk.sealed_len]
    frame = unseal(sealed, subkeys, b"portal chunk 2" + bytes((1, chunk.kind, 1)))
    version, codec, kind, flags, plain_len, comp_len = struct.unpack(">BBBBII", frame[:12])
    assert (version, kind, flags, plain_len) == (2, chunk.kind, 0, chunk.plain_len)
    assert len(frame) == 12 + comp_len
    plain = unpacked(codec, plain_len, frame[12:])
    assert tag_of(kind, plain) == chunk.tag
    return plain


def read_delta(data: bytes, keys: Keys) -> list[list[Any]]:
    """Name, salt, length and index of every pack it speaks of."""
    version, *rows = fields(open_envelope(keys.meta, 0x15, data, b""))
    assert version == 1
    return rows  # type: ignore[return-value]  # rows are arrays, or what follows fails


# --- directories and files ------------------------------------------------------------------------


def read_part(data: bytes) -> list[Any]:
    """The rows of one piece of a directory."""
    version, *rows = fields(data)
    assert version == 1
    assert all(isinstance(row, list) and len(row) == 14 for row in rows)
    return rows


def read_extents(data: bytes) -> list[tuple[int, bytes]]:
    assert not len(data) % 40
    return list(struct.iter_unpack(">Q32s", data))


class Node(NamedTuple):
    """A row without its name, and what stood in its last field."""

    type: int
    mode: int
    uid: int
    gid: int
    user: str
    group: str
    mtime: int
    ctime: int
    ino: int
    size: int
    form: int
    content: bytes
    target: bytes
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    link: bytes


class StrangerVault:
    """A vault directory and its master; by deltas, or by the packs alone."""

    def __init__(self, place: Path, master: bytes, *, by_deltas: bool = True) -> None:
        self.place = place
        self.keys = keys_of(master)
        self.config = read_config((place / "config").read_bytes(), self.keys)
        self.head = self._highest_head()
        self._data = {bytes.fromhex(p.name): p.read_bytes() for p in (place / "packs").iterdir()}
        self._places: dict[Tag, tuple[bytes, Chunk, int]] = {}
        indexes = self._from_deltas() if by_deltas else self._from_packs()
        assert indexes.keys() == self._data.keys()
        for pack, index in indexes.items():
            for chunk in read_index(index):
                self._place(pack, chunk)

    def _highest_head(self) -> Head:
        found: list[tuple[Head, bytes]] = []
        for path in sorted((self.place / "heads").iterdir()):
            assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{16}", path.name)
            data = path.read_bytes()
            head = read_head(data, self.keys, self.config.vault)
            incarnation, seq = path.name.split("-")
            assert head.place == (int(incarnation, 16), int(seq, 16))
            assert head.prev == (head_hash(found[-1][1]) if found else bytes(32))
            found.append((head, data))
        return found[-1][0]

    def _from_deltas(self) -> dict[bytes, bytes]:
        indexes = {}
        for path in (self.place / "index").iterdir():
            for name, salt, size, index in read_delta(path.read_bytes(), self.keys):
                assert name == h("pack name", salt)
                assert (salt, size) == (self._data[name][:32], len(self._data[name]))
                assert index == index_of_pack(self._data[name], self.keys)
                indexes[name] = index
        return indexes

    def _from_packs(self) -> dict[bytes, bytes]:
        assert all(name == h("pack name", data[:32]) for name, data in self._data.items())
        return {name: index_of_pack(data, self.keys) for name, data in self._data.items()}

    def _place(self, pack: bytes, chunk: Chunk) -> None:
        offset = 0
        for kind, tag, length in chunk.pieces:
            self._places[kind, tag] = (pack, chunk, offset)
            offset += length
        assert offset == chunk.plain_len

    def live_set_root_holds(self) -> bool:
        """Whether the head says which packs there are."""
        return self.head.live_set_root == live_set_root(set(self._data))

    def records(self) -> set[bytes]:
        """The ids of the snapshots whose records lie in packs."""
        return {tag for kind, tag in self._places if kind == SNAPSHOT}

    def piece(self, kind: int, tag: bytes) -> bytes:
        pack, chunk, offset = self._places[kind, tag]
        plain = read_chunk(self._data[pack], chunk, self.keys)
        length = next(n for k, t, n in chunk.pieces if (k, t) == (kind, tag))
        data = plain[offset : offset + length]
        assert tag_of(kind, data) == tag
        return data

    def tree(self, snapshot: Snapshot) -> dict[bytes, Node]:
        """Every name in a snapshot, by its path without the slash at its front."""
        form, content = snapshot.record[7]
        return dict(self._below(form, content, b""))

    def _below(self, form: int, content: bytes, above: bytes) -> Iterator[tuple[bytes, Node]]:
        last = b""
        for tag in self._part_tags(form, content):
            for name, *rest, extra in read_part(self.piece(DIRECTORY, tag)):
                assert last < name
                last = name
                target, rdev, xattrs, link = extra or (b"", (0, 0), (), b"")
                pairs = tuple((n, v) for n, v in xattrs)
                node = Node._make([*rest, target, tuple(rdev), pairs, link])
                path = above + b"/" + name if above else name
                yield path, node
                if node.type == 2:
                    yield from self._below(node.form, node.content, path)

    def _part_tags(self, form: int, content: bytes) -> list[bytes]:
        assert form in {4, 5}
        tags = [content[i : i + 32] for i in range(0, len(content), 32)]
        if form == 4:
            return tags
        return [t for upper in tags for t in self._part_tags(4, self.piece(CUT_LIST, upper))]

    def content(self, node: Node) -> bytes:
        """The bytes of a file."""
        assert node.type == 1
        data = b""
        if node.form == 1:
            data = self.piece(SMALL_FILE, node.content)
        elif node.form:
            parts = [self._stretch(*extent) for extent in self._extents(node)]
            data = b"".join(parts)
        assert len(data) == node.size
        return data

    def _extents(self, node: Node) -> list[tuple[int, bytes]]:
        extents = read_extents(node.content)
        if node.form == 2:
            return extents
        assert node.form == 3
        found: list[tuple[int, bytes]] = []
        for length, tag in extents:
            below = read_extents(self.piece(CUT_LIST, tag))
            assert sum(n for n, _ in below) == length
            found += below
        return found

    def _stretch(self, length: int, tag: bytes) -> bytes:
        if tag == bytes(32):
            return bytes(length)
        data = self.piece(CUT, tag)
        assert len(data) == length
        return data
