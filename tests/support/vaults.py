"""Vaults of a made-up person, and backups into them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trio

from core.errors import PortalError
from core.ids import VaultId
from core.keys import DeviceKeys
from core.pieces import Kind
from core.tree.entry import EntryType
from core.tree.source import Root
from portal.backup import Backup, Made, Options
from portal.disk import Disk
from portal.head import Snapshot
from portal.manifest import HOLE, Content, Form, Node
from portal.reader import Reader
from portal.store import Store
from portal.vault import Author, Vault
from tests.support.entropy import fixed_entropy
from tests.support.identity import a_person, keystore_contents

NOW_NS = 2_100_000_000_000_000_000  # long after files of today, and a time a zip can hold
LATER_NS = 4_000_000_000_000_000_000  # long after files of today: none of them is recent
VAULT = VaultId(b"a vault for test")


def an_author(seed: str = "person") -> Author:
    """A person's device."""
    contents = keystore_contents(seed)
    keys: DeviceKeys = contents.device
    signing = keys.signing_key()
    return Author(a_person(seed).user_id(), keys.node_id(), signing, contents.cert)


def a_vault(place: Path, *, disk: Disk | None = None, seed: str = "person") -> Vault:
    """A new vault in `place`/vault, its cache beside it."""
    return Vault.create(
        Store(place / "vault", disk),
        VAULT,
        a_person(seed).vault_master(VAULT, 0),
        an_author(seed),
        cache=place / "cache",
        now_s=NOW_NS // 10**9,
    )


def opened(place: Path, *, disk: Disk | None = None, seed: str = "person") -> Vault:
    """The same vault, opened by another process."""
    return Vault.open(
        place / "vault",
        an_author(seed),
        a_person(seed).vault_master,
        cache=place / "cache",
        disk=disk,
    )


def back_up(vault: Vault, *paths: Path | Root, now_ns: int = NOW_NS, **options: Any) -> Snapshot:
    """A backup that must go well."""
    made, faults = try_back_up(vault, *paths, now_ns=now_ns, **options)
    assert not faults
    assert made.snapshot is not None
    return made.snapshot


def try_back_up(
    vault: Vault, *paths: Path | Root, now_ns: int = NOW_NS, **options: Any
) -> tuple[Made, list[tuple[bytes, PortalError | OSError]]]:
    """A backup, and what it could not read."""
    faults: list[tuple[bytes, PortalError | OSError]] = []
    asked = Options(host="host", user="ann", **options)
    backup = Backup(vault, asked, lambda path, error: faults.append((path, error)))
    roots = [path if isinstance(path, Root) else Root.absolute(str(path)) for path in paths]
    made = trio.run(backup.run, roots, now_ns, lambda: now_ns)
    return made, faults


def fixed(seed: str, size: int) -> bytes:
    """Bytes that no compressor makes shorter, the same in every run."""
    return fixed_entropy(seed)(size)


def paths_of(nodes: Sequence[Any]) -> list[bytes]:
    """The paths of nodes."""
    return [node.entry.path for node in nodes]


def nodes_in(vault: Vault, snapshot: Snapshot) -> dict[bytes, Node]:
    """Every name in a snapshot, read back without the cache."""
    with Reader(vault.store, vault.keys, None) as reader:
        return dict(_nodes(reader, snapshot.record.root, b""))


def contents_in(vault: Vault, snapshot: Snapshot) -> dict[bytes, bytes]:
    """Every file in a snapshot, and the bytes restored for it."""
    with Reader(vault.store, vault.keys, None) as reader:
        return {
            path: _content(reader, node)
            for path, node in _nodes(reader, snapshot.record.root, b"")
            if node.entry.type is EntryType.FILE
        }


def _nodes(reader: Reader, content: Content, above: bytes) -> Iterator[tuple[bytes, Node]]:
    todo = [(content, above)]
    while todo:
        for node in reader.nodes_untrusted(*todo.pop()):
            yield node.entry.path, node
            if node.entry.is_directory:
                todo.append((node.content, node.entry.path))


def _content(reader: Reader, node: Node) -> bytes:
    form, data = node.content
    if form is Form.NOTHING:
        return b""
    if form is Form.SMALL:
        return bytes(reader.piece_untrusted(Kind.SMALL_FILE, data))
    parts = [
        bytes(length) if tag == HOLE else bytes(reader.piece_untrusted(Kind.CUT, tag))
        for length, tag in reader.extents_untrusted(node.content)
    ]
    joined = b"".join(parts)
    assert len(joined) == node.entry.size
    return joined
