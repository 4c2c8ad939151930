"""Forgetting snapshots, and taking that back (portal/SPEC.md, Collection).

A forgotten snapshot stays in the head until its delay is over: nothing is deleted by forgetting.
What only it needs goes to the trash at the next collection, and comes back from there.
"""

from collections.abc import Collection
from dataclasses import replace

from core.errors import IntegrityError, UsageError
from portal.errors import NoSnapshot
from portal.head import Head, Snapshot
from portal.index import namer
from portal.live import Catalogue, Marks, Tally
from portal.reader import Reader
from portal.vault import Vault


class Pinned(UsageError):
    """This snapshot is pinned."""


def forget(vault: Vault, ids: Collection[bytes], now_s: int) -> Head:
    """Forget snapshots, all of them or none; what is pinned is refused."""
    wanted = set(ids)

    def edit(head: Head) -> Head:
        for snapshot in _chosen(head, wanted):
            if snapshot.pinned:
                raise Pinned(
                    f"snapshot {snapshot.name} is pinned",
                    hint=f"portal tag --unpin {snapshot.name} lets it go",
                )
        return head.with_snapshots(
            [
                replace(one, forgotten_s=max(1, now_s), forgotten_gen=head.trash_gen)
                if one.id in wanted and one.is_live
                else one
                for one in head.snapshots
            ]
        )

    return vault.change(edit)


def undelete(vault: Vault, ids: Collection[bytes] | None = None) -> list[Snapshot]:
    """Bring forgotten snapshots back, all or `ids`; gives those that are live again.

    Under the lock: everything they need is found and taken out of the trash before they count.
    """
    with vault.store.commit_lock():
        head = vault.head()
        if ids is None:
            chosen = [one for one in head.snapshots if not one.is_live]
        else:
            chosen = [one for one in _chosen(head, set(ids)) if not one.is_live]
        if not chosen:
            return []
        vault.store.take_back(_packs_to_take_back(vault, chosen))
        back = {one.id for one in chosen}

        def edit(head: Head) -> Head:
            return head.with_snapshots(
                [
                    replace(one, forgotten_s=0, forgotten_gen=0) if one.id in back else one
                    for one in head.snapshots
                ]
            )

        vault.change_locked(edit, packs=vault.store.pack_names())
    return [replace(one, forgotten_s=0, forgotten_gen=0) for one in chosen]


def _packs_to_take_back(vault: Vault, snapshots: Collection[Snapshot]) -> set[bytes]:
    """The packs of the trash that hold what these need and no other pack has."""
    name = namer(vault.keys)
    with Reader(vault.store, vault.keys, vault.cache) as reader:
        marks = Marks(reader, name)
        for snapshot in snapshots:
            marks.add(snapshot)
    catalogue, tally = Catalogue(vault.store, vault.keys), Tally(name)
    tally.add(catalogue.listed(vault.store.pack_names()), marks.needed)
    present = len(tally.packs)
    tally.add(catalogue.listed(set(vault.store.trashed())), marks.needed)
    lost = tally.missing(marks)
    if marks.faults or lost:
        what = str(marks.faults[0]) if marks.faults else f"{lost} pieces are gone"
        raise IntegrityError(
            f"cannot be brought back whole: {what}",
            where=", ".join(snapshot.name for snapshot in snapshots),
            hint="nothing was changed; portal undelete SNAPSHOT brings back one that is whole",
        )
    return {tally.packs[home].name for home in set(tally.homes.values()) if home >= present}


def _chosen(head: Head, ids: set[bytes]) -> list[Snapshot]:
    found = [snapshot for snapshot in head.snapshots if snapshot.id in ids]
    unknown = ids - {snapshot.id for snapshot in found}
    if unknown:
        raise NoSnapshot(
            f"no snapshot {min(unknown).hex()[:8]}", hint="portal snapshots --all lists them"
        )
    return found
