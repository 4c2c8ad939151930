"""Checking a vault: whether everything is there, where it should be, and what it was.

Structure first: the configuration, every head and their chain, deltas against packs, and every
piece that snapshots need. Then the packs themselves, all or a sample, read whole and opened.
Nothing is changed; portal/repair.py takes what was found. (portal/SPEC.md, Check and repair)
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum, unique

from core import hashing, limits
from core.errors import FormatError, IntegrityError, PortalError
from core.pack import PackKeys
from core.pieces import Kind
from core.pipeline import flow
from core.tree.paths import shown
from portal.config import VaultConfig
from portal.damage import Losses, PackDamage, damage_of
from portal.head import Head, Snapshot, head_hash
from portal.index import namer
from portal.live import Catalogue, Fault, Listed, Marks, Tally, places_of
from portal.manifest import Content, Form, tags_untrusted
from portal.reader import Reader
from portal.vault import Vault

_ROUNDS_MAX = 3


@unique
class Grade(IntEnum):
    """How bad a finding is; the number is the exit code."""

    NOTE = 0
    MENDABLE = 5  # portal repair makes it whole again
    LOST = 6  # some content is gone from this vault


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    grade: Grade
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Options:
    """How much to read: no pack, a random share of them (1.0: all), or part n of m."""

    share: float = 0.0
    part: tuple[int, int] | None = None
    threads: int | None = None


@dataclass(slots=True)
class Checked:
    """What a check found, for people and for a repair."""

    snapshots: int = 0
    pieces: int = 0
    packs: int = 0
    pack_bytes: int = 0
    packs_read: int = 0
    bytes_read: int = 0
    trash_packs: int = 0
    unlisted_packs: int = 0  # the next backup lists them
    sessions: int = 0  # other commands at work
    leftovers: int = 0  # half-written files; the next collection clears them
    set_aside: int = 0  # files that a repair put into damaged/
    findings: list[Finding] = field(default_factory=list)
    affected: list[tuple[Snapshot, bytes]] = field(default_factory=list)  # the first of them
    affected_count: int = 0
    heads_bad: list[str] = field(default_factory=list)  # files, to be set aside
    deltas_bad: list[str] = field(default_factory=list)
    packs_bad: dict[bytes, PackDamage | None] = field(default_factory=dict)
    packs_in_trash_needed: set[bytes] = field(default_factory=set)
    lost: set[bytes] = field(default_factory=set)  # keys of pieces that are needed and nowhere

    @property
    def exit_code(self) -> int:
        """0, or that of the worst finding."""
        return max((finding.grade for finding in self.findings), default=Grade.NOTE)

    def find(self, grade: Grade, where: str, what: str) -> None:
        """Write one down."""
        self.findings.append(Finding(grade, where, what))


async def check(
    vault: Vault, options: Options, watch: Callable[[Checked], None] = lambda _checked: None
) -> Checked:
    """Look at a vault; other commands may be at work in it meanwhile."""
    rounds = 0
    while True:
        before = vault.read_head().head.place
        checked = await _Check(vault, options, watch).run()
        rounds += 1
        is_still = vault.read_head().head.place == before
        if not checked.exit_code or is_still or rounds == _ROUNDS_MAX:
            return checked
        # Somebody committed or collected meanwhile: what we saw may have been half way there.


class _Check:
    """One look at everything."""

    def __init__(self, vault: Vault, options: Options, watch: Callable[[Checked], None]) -> None:
        self._vault = vault
        self._store = vault.store
        self._options = options
        self._watch = watch
        self._name = namer(vault.keys)
        self._catalogue = Catalogue(vault.store, vault.keys)
        self._damaged: dict[bytes, PackDamage | None] = {}
        self.checked = Checked()

    async def run(self) -> Checked:
        checked, store = self.checked, self._store
        with self._vault.reader() as reader:
            self._config()
            head = self._heads()
            self._count_others()
            marks = self._marked(reader, head.live)
            tally = self._tallied(marks)
            chosen = self._chosen({pack.name for pack in tally.packs} | set(store.trashed()))
            chosen |= self._suspects(reader, marks, tally)
            await self._read_packs(chosen)
            self._pieces(marks, tally)
            self._faults(marks.faults)
            self._forgotten(reader, head)
            if checked.lost or marks.faults:
                self._name_losses(reader, head.live)
        return checked

    # --- configuration and heads ------------------------------------------------------------------

    def _config(self) -> None:
        where = str(self._store.path / "config")
        try:
            found = VaultConfig.open_untrusted(self._store.read_config(), self._vault.keys)
        except PortalError as e:
            self.checked.find(Grade.MENDABLE, where, e.what)
            return
        if found != self._vault.config:
            self.checked.find(Grade.MENDABLE, where, "not the configuration of this vault")

    def _heads(self) -> Head:
        """Every head there is, from the oldest on; gives the one that counts."""
        vault, checked = self._vault, self.checked
        below: tuple[Head, bytes] | None = None
        is_gap = False
        for place in reversed(self._store.head_places()):
            path = str(self._store.head_path(place))
            try:
                data = self._store.read_head(place)
                head = _head_untrusted(vault, data, place)
            except (FormatError, IntegrityError, OSError) as e:
                what = e.what if isinstance(e, PortalError) else str(e.strerror)
                checked.find(Grade.MENDABLE, path, f"a damaged head: {what}")
                checked.heads_bad.append(path)
                is_gap = True
                continue
            if below is not None and head.prev != head_hash(below[1]) and not is_gap:
                if head.seq == below[0].seq + 1:
                    older = str(self._store.head_path(below[0].place))
                    checked.find(Grade.MENDABLE, older, f"not the head that {place} was made from")
                    checked.heads_bad.append(older)
                else:
                    checked.find(Grade.NOTE, path, "a head before this one is missing")
            below, is_gap = (head, data), False
        head = vault.read_head().head
        generations = [t.generation for t in self._store.trashed().values()]
        if max(generations, default=0) > head.trash_gen:
            where = str(self._store.path / "heads")
            checked.find(Grade.MENDABLE, where, "the trash is newer: the newest head is missing")
        return head

    def _count_others(self) -> None:
        checked, store = self.checked, self._store
        try:
            with store.commit_lock():
                checked.sessions = max(0, len(store.live_generations()) - 1)
        except OSError:
            checked.sessions = 0  # a vault that cannot be written to: nobody works in it
        checked.leftovers = sum(1 for p in store.path.rglob(".tmp-*") if p.is_file())
        checked.set_aside = sum(1 for _ in store.path.glob("damaged/*"))

    # --- what snapshots need ----------------------------------------------------------------------

    def _marked(self, reader: Reader, snapshots: Iterable[Snapshot]) -> Marks:
        marks = Marks(reader, self._name)
        for snapshot in snapshots:
            marks.add(snapshot)
            self.checked.snapshots += 1
            self._watch(self.checked)
        self.checked.pieces = len(marks.needed)
        return marks

    def _tallied(self, marks: Marks) -> Tally:
        """The packs as they say they are, and as they lie there."""
        checked, catalogue, tally = self.checked, self._catalogue, Tally(self._name)
        packs = self._store.pack_names()
        tally.add(catalogue.listed(packs), marks.needed)
        for path, error in catalogue.damaged.items():
            checked.find(Grade.MENDABLE, path, error.what)
            folder, file = path.split("/")[-2:]
            if folder == "packs":
                checked.packs_bad[bytes.fromhex(file)] = None
            else:
                checked.deltas_bad.append(file)
        for pack in tally.packs:
            checked.packs += 1
            checked.pack_bytes += self._store.pack_bytes(pack.name)
        checked.unlisted_packs = len(catalogue.unlisted)
        trashed = set(self._store.trashed())
        checked.trash_packs = len(trashed)
        gone = catalogue.told - packs - trashed
        for name in sorted(gone):
            where = str(self._store.path / "packs" / name.hex())
            checked.find(Grade.NOTE, where, "a pack is gone")
        return tally

    def _suspects(self, reader: Reader, marks: Marks, tally: Tally) -> set[bytes]:
        """Packs to be read whatever was asked: of another length, or read without success."""
        found = set()
        for pack in tally.packs:
            if self._store.pack_bytes(pack.name) != pack.pack_bytes:
                found.add(pack.name)
        for fault in marks.faults:
            found |= self._homes(reader, tally, fault.content)
        return found

    def _homes(self, reader: Reader, tally: Tally, content: Content) -> set[bytes]:
        """Where the pieces of a directory lie, or those of the list of a long file's cuts."""
        form, data = content
        keys = []
        if form is Form.CUT_LISTS:
            keys = [self._name(Kind.CUT_LIST, data[at + 8 : at + 40]) for at in _starts(data)]
        else:
            kind = Kind.CUT_LIST if form is Form.PART_LISTS else Kind.DIRECTORY
            keys = [self._name(kind, tag) for tag in tags_untrusted(data)]
            with suppress(PortalError, OSError):  # then it is the lists that are to be looked at
                tags = reader.part_tags_untrusted(content)
                keys += [self._name(Kind.DIRECTORY, tag) for tag in tags]
        homes = {tally.homes[key] for key in keys if key in tally.homes}
        return {tally.packs[home].name for home in homes}

    def _pieces(self, marks: Marks, tally: Tally) -> None:
        """Every piece that is needed lies in a pack that is whole, or in the trash, or is lost."""
        checked, damaged = self.checked, self._damaged
        bad = {
            self._name(piece.kind, piece.tag)
            for damage in damaged.values()
            if damage
            for piece in damage.lost
        }
        missing = {
            key for key in marks.needed if key not in tally.homes and key not in marks.optional
        }
        wanted = (bad & marks.needed.keys()) | missing | set(tally.wrong)
        if not wanted:
            return
        whole = self._store.pack_names() - damaged.keys()
        wanted -= places_of(self._catalogue.listed(whole), self._name, wanted).keys()
        in_trash = set(self._store.trashed()) - damaged.keys()
        found = places_of(self._catalogue.listed(in_trash), self._name, wanted)
        checked.packs_in_trash_needed = set(found.values())
        for name in checked.packs_in_trash_needed:
            where = str(self._store.path / "trash")
            checked.find(Grade.MENDABLE, where, f"pack {name.hex()} is needed")
        checked.lost = wanted - found.keys() - marks.optional
        if checked.lost:
            what = f"{len(checked.lost)} pieces that snapshots need are lost"
            checked.find(Grade.LOST, str(self._store.path), what)

    def _faults(self, faults: Iterable[Fault]) -> None:
        checked = self.checked
        is_mendable = (self._damaged or checked.packs_in_trash_needed) and not checked.lost
        grade = Grade.MENDABLE if is_mendable else Grade.LOST
        for fault in list(faults)[: limits.AFFECTED_TOLD_MAX]:
            where = f"snapshot {fault.snapshot.name}: /{shown(fault.path)}"
            checked.find(grade, where, fault.error.what)

    def _forgotten(self, reader: Reader, head: Head) -> None:
        """Forgotten snapshots may lose things: that is only worth a note."""
        forgotten = [snapshot for snapshot in head.snapshots if not snapshot.is_live]
        if self._is_whole(reader, forgotten):
            return
        for snapshot in forgotten:
            if not self._is_whole(reader, [snapshot]):
                where = f"snapshot {snapshot.name}"
                self.checked.find(Grade.NOTE, where, "was forgotten and cannot be brought back")

    def _is_whole(self, reader: Reader, snapshots: list[Snapshot]) -> bool:
        marks, tally = Marks(reader, self._name), Tally(self._name)
        for snapshot in snapshots:
            marks.add(snapshot)
        if not snapshots or marks.faults:
            return not marks.faults
        present = self._store.pack_names() | set(self._store.trashed())
        tally.add(self._catalogue.listed(present), marks.needed)
        return not tally.missing(marks)

    def _name_losses(self, reader: Reader, snapshots: list[Snapshot]) -> None:
        checked = self.checked
        for snapshot, path in Losses(reader, self._name, checked.lost).of(snapshots):
            checked.affected_count += 1
            if len(checked.affected) < limits.AFFECTED_TOLD_MAX:
                checked.affected.append((snapshot, path))

    # --- reading packs ----------------------------------------------------------------------------

    def _chosen(self, packs: set[bytes]) -> set[bytes]:
        """Which packs to read: a share drawn anew each time, or a part that is always the same."""
        if self._options.part is not None:
            part, parts = self._options.part
            return {name for name in packs if int.from_bytes(name[:8]) % parts == part - 1}
        count = -(-len(packs) * min(1.0, max(0.0, self._options.share)) // 1)
        lots = os.urandom(limits.KEY_BYTES)
        return set(sorted(packs, key=lambda name: hashing.keyed(lots, name))[: int(count)])

    async def _read_packs(self, chosen: set[bytes]) -> None:
        if not chosen:
            return
        checked = self.checked
        pack_keys = PackKeys(self._vault.keys.dedup, self._vault.keys.pack)

        def work(listed: Listed) -> tuple[int, PackDamage | None]:
            return listed[0].pack_bytes, damage_of(self._store, pack_keys, listed)

        def sink(result: tuple[int, PackDamage | None]) -> None:
            size, damage = result
            checked.packs_read += 1
            checked.bytes_read += size
            if damage:
                self._damaged[damage.name] = checked.packs_bad[damage.name] = damage
                where = damage.error.where or ""
                what = f"{damage.error.what}; {len(damage.lost)} pieces of it cannot be read"
                checked.find(Grade.MENDABLE, where, what)
            self._watch(checked)

        def source() -> Iterator[list[Listed]]:
            for listed in self._catalogue.listed(chosen):
                yield [listed]

        await flow(
            source(),
            work,
            sink,
            size_of=lambda listed: listed[0].pack_bytes,
            threads=self._options.threads,
        )


def _head_untrusted(vault: Vault, data: bytes, place: tuple[int, int]) -> Head:
    head = Head.open_untrusted(data, vault.keys, vault.id, vault.author.user)
    if head.place != place:
        raise IntegrityError("a head under another one's name")
    return head


def _starts(data: bytes) -> range:
    return range(0, len(data) - 39, 40)
