"""Numbers about a vault: what snapshots hold, what that costs, and what the trash frees when."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from core import limits
from portal.head import Snapshot
from portal.index import namer
from portal.live import Catalogue, Marks, Tally
from portal.vault import Vault

_SHARED = -1


@dataclass(frozen=True, slots=True)
class OfSnapshot:
    """One snapshot: what a restore writes, and what only this one of all live ones needs."""

    snapshot: Snapshot
    restore_bytes: int
    unique_pieces: int
    unique_bytes: int


@dataclass(frozen=True, slots=True)
class Stats:
    """The whole vault."""

    snapshots: tuple[OfSnapshot, ...]
    forgotten: int
    pieces: int  # that live snapshots need, each counted once
    piece_bytes: int
    restore_bytes: int  # of all live snapshots
    live_bytes: int  # what the pieces take in their packs: compressed and sealed
    packs: tuple[tuple[int, int], ...]  # size, how many
    pack_bytes: int
    unused_bytes: int  # in packs, needed by nobody
    trash_packs: int
    trash_bytes: int
    trash_frees: tuple[tuple[int, int], ...]  # second, bytes
    missing: int  # pieces that are not there: portal check tells more

    @property
    def dedup_ratio(self) -> float:
        """How often the average byte is used."""
        return _ratio(self.restore_bytes, self.piece_bytes)

    @property
    def compression_ratio(self) -> float:
        """How much smaller compression makes what is stored."""
        return _ratio(self.piece_bytes, self.live_bytes)

    @property
    def total_ratio(self) -> float:
        """What snapshots hold for each byte on the disk."""
        return _ratio(self.restore_bytes, self.pack_bytes)


def stats(
    vault: Vault,
    snapshots: Sequence[Snapshot] | None = None,
    *,
    delay_s: int = limits.TRASH_SECONDS_DEFAULT,
) -> Stats:
    """Count; `snapshots` are those to be told about one by one, by themselves all live ones."""
    name = namer(vault.keys)
    with vault.reader() as reader:
        head = vault.head()
        needed, owners = dict[bytes, int](), dict[bytes, int]()
        for number, snapshot in enumerate(head.live):
            marks = Marks(reader, name)
            marks.add(snapshot)
            needed.update(marks.needed)
            for key in marks.needed.keys() - marks.optional:
                owners[key] = _SHARED if key in owners else number
        store = vault.store
        tally, catalogue, packs = Tally(name), Catalogue(store, vault.keys), store.pack_names()
        tally.add(catalogue.listed(packs), needed)
        pieces, missing, piece_bytes = len(owners), len(owners), 0
        unique_pieces, unique_bytes = Counter[int](), Counter[int]()
        for _, index in catalogue.listed(packs):
            for tag, kind, _, _, length in index.all_pieces():
                owner = owners.pop(name(kind, tag), None)
                if owner is not None:
                    missing -= 1
                    piece_bytes += length
                    unique_pieces[owner] += 1
                    unique_bytes[owner] += length
        sizes = Counter(store.pack_bytes(pack) for pack in packs)
        trash, frees = store.trashed(), Counter[int]()
        for pack in trash.values():
            frees[pack.since_s + delay_s] += store.pack_bytes(pack.name)
    wanted = {snapshot.id for snapshot in (head.live if snapshots is None else snapshots)}
    told = [
        OfSnapshot(one, one.record.totals.content_bytes, unique_pieces[n], unique_bytes[n])
        for n, one in enumerate(head.live)
        if one.id in wanted
    ]
    return Stats(
        snapshots=tuple(told),
        forgotten=sum(1 for snapshot in head.snapshots if not snapshot.is_live),
        pieces=pieces,
        piece_bytes=piece_bytes,
        restore_bytes=sum(snapshot.record.totals.content_bytes for snapshot in head.live),
        live_bytes=sum(pack.live_bytes for pack in tally.packs),
        packs=tuple(sorted(sizes.items())),
        pack_bytes=sum(size * count for size, count in sizes.items()),
        unused_bytes=sum(pack.dead_bytes for pack in tally.packs),
        trash_packs=len(trash),
        trash_bytes=sum(frees.values()),
        trash_frees=tuple(sorted(frees.items())),
        missing=missing,
    )


def _ratio(one: int, other: int) -> float:
    return one / other if other else 1.0
