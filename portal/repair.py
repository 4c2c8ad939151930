"""Mending a vault after a check: new objects are written, nothing is deleted.

What is damaged is set aside in `damaged/`, in the vault but out of its way. Before that, whatever
can still be read out of a damaged pack is sealed again. What is lost may come back by itself: the
next backup stores every piece again that it finds missing. (portal/SPEC.md, Check and repair)
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from core import limits
from core.crypto import Buffer
from core.errors import FormatError, IntegrityError, PortalError
from core.intake import Batches
from core.pack import PackKeys, PackReader, reader_of
from core.pack_index import encode
from core.pieces import Kind, check_tag_untrusted
from portal.check import Checked
from portal.damage import Losses, read_pack
from portal.head import Head, Record, Snapshot
from portal.index import PackFacts, namer, seal_delta
from portal.live import Catalogue, Listed, Marks, Tally
from portal.manifest import Node
from portal.reader import Reader
from portal.repack import Bundles, store
from portal.rewrite import Edit, Rewritten, rewrite
from portal.session import Session
from portal.vault import ReadHead, Vault

_FOLDER = "damaged"
_WHY_LOST = "its content was lost"


@dataclass(slots=True)
class Repaired:
    """What was done."""

    set_aside: list[str] = field(default_factory=list)  # names in damaged/
    saved_packs: int = 0  # new ones, with what could be read of damaged ones
    taken_back: int = 0  # packs out of the trash
    found: list[Snapshot] = field(default_factory=list)  # that no head told of any more
    broken: list[Snapshot] = field(default_factory=list)  # found likewise, but not whole
    rewritten: list[Rewritten] = field(default_factory=list)  # without what is lost
    lost: int = 0  # pieces that snapshots need and that are nowhere


async def repair(
    vault: Vault, checked: Checked, now_s: int, *, leave_out: bool = False
) -> Repaired:
    """Mend what the check found. `leave_out`: make snapshots anew without the files that are lost.

    The snapshots with losses are forgotten then; otherwise they stay, for what is left of them.
    """
    done = Repaired(lost=len(checked.lost))
    mending = _Mending(vault, checked, now_s, done)
    with vault.store.commit_lock():
        mending.set_deltas_aside()
    with Session(vault) as session:
        if checked.packs_bad:
            batches = _readable(vault, set(checked.packs_bad))
            fresh, _ = await store(session, batches, namer(vault.keys))
            done.saved_packs = len(fresh)
        session.flush()  # packs of which no delta speaks are listed with it
        with vault.store.commit_lock():
            session.end()
            mending.run()
    if leave_out and checked.lost:
        await _leave_out(vault, checked.lost, now_s, done)
    return done


def _readable(vault: Vault, packs: set[bytes]) -> Batches:
    """Every piece that can still be read out of damaged packs."""
    keys = PackKeys(vault.keys.dedup, vault.keys.pack)
    bundles = Bundles()
    for listed in Catalogue(vault.store, vault.keys).listed(packs):
        try:
            data = read_pack(vault.store, listed[0].name)
        except PortalError:
            continue  # not there, or no pack; a disk that fails for now ends the repair instead
        reader = _reader_of(data, keys, listed)
        for chunk in range(len(reader.index.chunks)):
            try:
                plain = reader.chunk_untrusted(chunk)
            except (FormatError, IntegrityError):
                continue
            for tag, kind, _, offset, length in reader.index.pieces(chunk):
                piece = plain[offset : offset + length]
                try:
                    check_tag_untrusted(kind, tag, piece)
                except IntegrityError:
                    continue
                yield from bundles.add(kind, piece, tag)
    yield from bundles.rest()


def _reader_of(data: Buffer, keys: PackKeys, listed: Listed) -> PackReader:
    """By what the pack says itself, else by what the delta says about it."""
    facts, index = listed
    try:
        return PackReader.open_untrusted(reader_of(data), len(data), keys, name=facts.name)
    except (FormatError, IntegrityError):
        return PackReader(reader_of(data), keys, facts.salt, index)


class _Mending:
    """What is done under the commit lock."""

    def __init__(self, vault: Vault, checked: Checked, now_s: int, done: Repaired) -> None:
        self._vault = vault
        self._store = vault.store
        self._checked = checked
        self._now_s = now_s
        self._done = done

    def set_deltas_aside(self) -> None:
        """The damaged ones: the packs say themselves what they said."""
        for delta in set(self._checked.deltas_bad) & self._store.delta_names():
            self._move(self._store.path / "index" / delta)

    def run(self) -> None:
        """In this order each step is safe to be the last: what counts is written first."""
        store, checked = self._store, self._checked
        self._config()
        read = self._vault.read_head()
        generations = [trashed.generation for trashed in store.trashed().values()]
        generation = max([read.head.trash_gen, *generations, *store.live_generations()])
        is_head_lost = bool(read.damaged) or generation > read.head.trash_gen
        found, packs = self._found(read.head) if is_head_lost else ([], set())
        packs |= checked.packs_in_trash_needed
        store.take_back(packs)
        self._done.taken_back = len(packs)
        self._done.found = found
        if is_head_lost or packs:
            self._vault.change_locked(
                lambda head: replace(
                    head.with_snapshots([*head.snapshots, *found]),
                    # Above whatever the lost head said, so that who saw it takes everything back.
                    trash_gen=generation + is_head_lost,
                ),
                packs=store.pack_names(),
            )
        self._warn_next_backup()
        self._set_aside(read)

    def _config(self) -> None:
        path = self._store.path / "config"
        if not any(finding.where == str(path) for finding in self._checked.findings):
            return
        self._keep(path.name, path.read_bytes())
        self._store.replace_config(self._vault.config.sealed(self._vault.keys))

    # --- snapshots that no head tells of ----------------------------------------------------------

    def _found(self, head: Head) -> tuple[list[Snapshot], set[bytes]]:
        """Snapshots whose records lie in packs and that are whole; and packs they need back."""
        vault, name = self._vault, namer(self._vault.keys)
        present, trashed = self._store.pack_names(), set(self._store.trashed())
        catalogue = Catalogue(self._store, vault.keys)
        tags = {
            piece.tag
            for _, index in catalogue.listed(present | trashed)
            for piece in index.all_pieces()
            if piece.kind is Kind.SNAPSHOT
        }
        found, packs = list[Snapshot](), set[bytes]()
        with Reader(self._store, vault.keys, None) as reader:
            for tag in sorted(tags - {snapshot.id for snapshot in head.snapshots}):
                try:
                    data = bytes(reader.piece_untrusted(Kind.SNAPSHOT, tag))
                    snapshot = Snapshot.of(Record.decode_untrusted(data))
                except (PortalError, OSError):
                    continue
                marks, tally = Marks(reader, name), Tally(name)
                marks.add(snapshot)
                tally.add(catalogue.listed(present), marks.needed)
                first_trashed = len(tally.packs)
                tally.add(catalogue.listed(trashed), marks.needed)
                if marks.faults or tally.missing(marks):
                    self._done.broken.append(snapshot)
                    continue
                found.append(snapshot)
                homes = set(tally.homes.values())
                packs |= {tally.packs[home].name for home in homes if home >= first_trashed}
        return found, packs

    # --- setting aside ----------------------------------------------------------------------------

    def _warn_next_backup(self) -> None:
        """See that some delta speaks of a pack that is not there.

        Then no backup trusts an earlier snapshot without asking for each piece of it, and what was
        lost is stored again where it still exists. The collector ends that, when all is whole.
        """
        if not self._checked.lost:
            return
        gone = PackFacts(os.urandom(32), bytes(32), limits.PACK_SIZES_BYTES[0], encode((), ()))
        self._store.put_delta(seal_delta(self._vault.keys, [gone]))

    def _set_aside(self, read: ReadHead) -> None:
        """What is damaged, if it still is."""
        store, checked = self._store, self._checked
        older = {str(store.head_path(place)) for place in store.head_places()}
        newest = str(store.head_path(read.head.place))
        for head in {*checked.heads_bad, *read.damaged} & older - {newest}:
            self._move(Path(head))
        for name in sorted(checked.packs_bad):
            for path in (
                store.path / "packs" / name.hex(),
                *store.path.glob(f"trash/*/{name.hex()}"),
            ):
                if path.exists():
                    self._move(path)

    def _move(self, path: Path) -> None:
        folder = self._folder()
        name = f"{path.parent.name}-{path.name}-{self._now_s:012x}"
        self._store.disk.rename(path, folder / name)
        self._store.disk.sync_directory(folder)
        self._store.disk.sync_directory(path.parent)
        self._done.set_aside.append(name)

    def _keep(self, name: str, data: bytes) -> None:
        disk, folder = self._store.disk, self._folder()
        name = f"{name}-{self._now_s:012x}-{os.urandom(4).hex()}"
        fd = disk.make(folder / name)
        try:
            disk.write(fd, data)
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.sync_directory(folder)
        self._done.set_aside.append(name)

    def _folder(self) -> Path:
        folder = self._store.path / _FOLDER
        if not folder.exists():
            self._store.disk.make_directory(folder)
            self._store.disk.sync_directory(self._store.path)
        return folder


async def _leave_out(vault: Vault, lost: Collection[bytes], now_s: int, done: Repaired) -> None:
    """New snapshots without the files that are lost; where all is lost the old one stays."""
    with vault.reader() as reader:
        gone: dict[bytes, set[bytes]] = {}
        snapshots = {snapshot.id: snapshot for snapshot in vault.head().live}
        for snapshot, path in Losses(reader, namer(vault.keys), lost).of(list(snapshots.values())):
            gone.setdefault(snapshot.id, set()).add(path)

    def drop(snapshot: Snapshot, node: Node) -> bool:
        return node.entry.path in gone[snapshot.id]

    mendable = [snapshots[one] for one, paths in gone.items() if b"" not in paths]
    edit = Edit(drop=drop, why=_WHY_LOST, forget=True)
    done.rewritten = await rewrite(vault, mendable, edit, now_s)
