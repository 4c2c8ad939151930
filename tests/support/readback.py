"""What snapshots hold, read back and compared with what was there when they were made."""

from collections.abc import Mapping
from pathlib import Path

from core.tree.entry import EntryType
from portal.content import open_file
from portal.head import Snapshot
from portal.reader import Reader
from portal.vault import Vault
from tests.support.keeping import run_check

Contents = dict[bytes, bytes]


def on_disk(*places: Path) -> Contents:
    """Every file below, by its absolute path as snapshots call it."""
    return {
        bytes(path)[1:]: path.read_bytes()
        for place in places
        for path in place.rglob("*")
        if path.is_file()
    }


class ReadBack:
    """Reads snapshots; what several have in common once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._read: dict[bytes, bytes] = {}

    def contents(self, snapshot: Snapshot) -> Contents:
        """Every file of a snapshot."""
        found: Contents = {}
        waiting = [(snapshot.record.root, b"")]
        while waiting:
            content, above = waiting.pop()
            for node in self._reader.nodes_untrusted(content, above):
                entry = node.entry
                if entry.type is EntryType.DIRECTORY:
                    waiting.append((node.content, entry.path))
                elif entry.type is EntryType.FILE:
                    key = node.content.data
                    if key not in self._read:
                        data = b"".join(bytes(d) for d in open_file(self._reader, node).chunks())
                        self._read[key] = data
                    found[entry.path] = self._read[key]
        return found


def assert_reads(vault: Vault, made: Mapping[int, Contents]) -> list[Snapshot]:
    """Every live snapshot holds what was there; `made` has it by the time of the snapshot."""
    live = vault.head().live
    with Reader(vault.store, vault.keys, vault.cache) as reader:
        back = ReadBack(reader)
        for snapshot in live:
            assert back.contents(snapshot) == made[snapshot.record.time_ns], snapshot.name
    return live


def assert_clean(vault: Vault) -> None:
    """A check that reads everything finds nothing."""
    checked = run_check(vault)
    assert not checked.exit_code, checked.findings
