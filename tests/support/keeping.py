"""What tests of collecting, checking and repairing a vault share."""

from functools import partial
from pathlib import Path
from typing import Any

import trio

from portal.check import Checked, check
from portal.check import Options as CheckOptions
from portal.gc import Collected, Options, collect
from portal.head import Snapshot
from portal.index import namer
from portal.live import Catalogue, Marks, Tally
from portal.manifest import Node
from portal.reader import Reader
from portal.vault import Vault
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed

NOW_S = NOW_NS // 10**9
DAY_S = 86_400
FULL = CheckOptions(share=1.0)
STRUCTURE = CheckOptions()


def run_gc(vault: Vault, now_s: int = NOW_S, **options: Any) -> Collected:
    """A collection, from begin to end."""
    return trio.run(partial(collect, vault, Options(**options), now_s))


def run_check(vault: Vault, options: CheckOptions = FULL) -> Checked:
    """A check, of everything if nothing else is said."""
    return trio.run(partial(check, vault, options))


def files(place: Path, **contents: bytes) -> Path:
    """A directory with these files, among others."""
    place.mkdir(exist_ok=True)
    for name, data in contents.items():
        (place / name).write_bytes(data)
    return place


def assert_whole(vault: Vault) -> list[Snapshot]:
    """Every live snapshot has all its pieces in packs/."""
    live = vault.head().live
    with Reader(vault.store, vault.keys, None) as reader:
        name = namer(vault.keys)
        marks, tally = Marks(reader, name), Tally(name)
        for snapshot in live:
            marks.add(snapshot)
        tally.add(Catalogue(vault.store, vault.keys).listed(vault.store.pack_names()), marks.needed)
    assert not marks.faults
    assert not tally.missing(marks)
    assert not tally.wrong
    return live


def two_snapshots(place: Path) -> tuple[Vault, Snapshot, Snapshot]:
    """One with files of 700 kB and 600 kB, then one without the second."""
    vault = a_vault(place)
    docs = files(place / "docs", a=fixed("a", 700_000), b=fixed("b", 600_000))
    first = back_up(vault, docs)
    (docs / "b").unlink()
    files(docs, c=fixed("c", 100))
    second = back_up(vault, docs, now_ns=NOW_NS + 10**9)
    return vault, first, second


def node_named(vault: Vault, snapshot: Snapshot, path: Path) -> Node:
    """What a snapshot says about a path."""
    content, above = snapshot.record.root, b""
    found: list[Node] = []
    with Reader(vault.store, vault.keys, None) as reader:
        for name in bytes(path).strip(b"/").split(b"/"):
            nodes = reader.nodes_untrusted(content, above)
            found = [n for n in nodes if n.entry.path.rpartition(b"/")[2] == name]
            content, above = found[0].content, found[0].entry.path
    return found[0]


def flip(path: Path, at: int) -> None:
    """Damage one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
