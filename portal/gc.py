"""Collecting garbage: what no snapshot needs goes to the trash, and later away.

    survey -> plan -> repack -> settle        (portal/SPEC.md, Collection)

Only `settle` takes anything away, under the commit lock and after it has looked again at whatever
changed since the survey. It stops at the slightest doubt and then has touched nothing. Killed at
any point it leaves a vault that opens, checks clean and is collected by the next run.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Self

from core import limits
from core.errors import FormatError, IntegrityError, PortalError
from portal.errors import Moved
from portal.head import Head, Snapshot
from portal.index import PackFacts, namer, open_delta_untrusted, seal_delta
from portal.live import Catalogue, Listed, Marks, PackUse, Tally, places_of
from portal.reader import Reader
from portal.repack import repack
from portal.session import Session
from portal.store import Trashed
from portal.vault import ReadHead, Vault

_FULL_BYTES = limits.PACK_SIZES_BYTES[-1]
_MERGED_BYTES_MIN = _FULL_BYTES + limits.PACK_LOOKAHEAD_BYTES
_PERCENT = 100
_HINT_CHECK = "nothing was touched; portal check tells more, portal repair mends what can be mended"


class Doubt(IntegrityError):
    """Something in the vault is not as it should be, so nothing is collected."""


class TooMuch(PortalError):
    """More would go than anybody asked to forget."""


@dataclass(frozen=True, slots=True)
class Options:
    """How thoroughly to collect."""

    delay_s: int = limits.TRASH_SECONDS_DEFAULT
    now: bool = False  # purge without delay; running commands are waited for all the same
    dry_run: bool = False
    allow_large: bool = False
    unused_percent_max: float = limits.UNUSED_PERCENT_MAX


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection would do now; pure, for people to read before it is done."""

    filled_bytes: int  # all packs there are, without what fills them up
    dead: tuple[PackUse, ...] = ()  # nobody needs anything of these: to the trash
    repack: tuple[PackUse, ...] = ()  # what is needed of these is sealed again, then the same
    unused_bytes: int = 0  # what stays in use although nobody needs it
    purge: tuple[bytes, ...] = ()  # of the trash, for good
    purge_bytes: int = 0
    later: tuple[tuple[int, int], ...] = ()  # second, bytes: what the trash frees when
    drop: tuple[Snapshot, ...] = ()  # forgotten ones that cannot be brought back afterwards

    @property
    def trash_bytes(self) -> int:
        """The packs that go to the trash."""
        return sum(pack.pack_bytes for pack in (*self.dead, *self.repack))

    @property
    def lost_bytes(self) -> int:
        """What is nowhere else and nobody needs: what the floor is measured by."""
        return sum(pack.lost_bytes for pack in (*self.dead, *self.repack))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do now."""
        return not (self.dead or self.repack or self.purge or self.drop)


@dataclass(slots=True)
class Collected:
    """What a collection did."""

    plan: Plan
    trashed_packs: int = 0
    trashed_bytes: int = 0
    repacked_bytes: int = 0  # of new packs
    purged_packs: int = 0
    purged_bytes: int = 0
    waiting_packs: int = 0  # would be purged, but for a command that is still running
    dropped: tuple[Snapshot, ...] = ()
    later: tuple[tuple[int, int], ...] = ()
    deltas_merged: int = 0
    too_much: TooMuch | None = None  # told by a dry run: the real one would be refused


@dataclass(slots=True)
class Survey:
    """What was found by looking; nothing is locked meanwhile."""

    head: Head
    marks: Marks
    tally: Tally
    trashed: dict[bytes, Trashed]
    trash_bytes: dict[bytes, int]
    marked: set[bytes]  # ids of the snapshots that were looked at
    has_gone: bool  # whether deltas speak of packs that are not there

    @classmethod
    def of(cls, vault: Vault, read: ReadHead, reader: Reader, watch: Callable[[], None]) -> Self:
        """Look at everything; Doubt if anything is not as it should be."""
        _refuse_doubtful_head(vault, read)
        name = namer(vault.keys)
        marks, tally = Marks(reader, name), Tally(name)
        catalogue = Catalogue(vault.store, vault.keys)
        for snapshot in read.head.live:
            marks.add(snapshot)
            _refuse_faults(marks)
            watch()
        tally.add(_watched(catalogue.listed(vault.store.pack_names()), watch), marks.needed)
        for path, error in catalogue.damaged.items():
            raise Doubt(error.what, where=path, hint=_HINT_CHECK)
        for pack in tally.packs:
            if vault.store.pack_bytes(pack.name) != pack.pack_bytes:
                where = str(vault.store.path / "packs" / pack.name.hex())
                raise Doubt("a pack of another length than it had", where=where, hint=_HINT_CHECK)
        _refuse_missing(vault, marks, tally)
        trashed = vault.store.trashed()
        sizes = {pack: vault.store.pack_bytes(pack) for pack in trashed}
        ids = {snapshot.id for snapshot in read.head.live}
        has_gone = bool(catalogue.told - {pack.name for pack in tally.packs})
        return cls(read.head, marks, tally, trashed, sizes, ids, has_gone)


# --- planning -------------------------------------------------------------------------------------


def plan_collection(survey: Survey, options: Options, now_s: int) -> Plan:
    """What to do about what was found; it touches nothing and asks nobody."""
    packs = survey.tally.packs
    live_bytes = sum(pack.live_bytes for pack in packs)
    dead = [pack for pack in packs if not pack.live_bytes]
    chosen, unused = _worth_repacking(packs, live_bytes * options.unused_percent_max / _PERCENT)
    due = {
        name: options.now or trashed.since_s + options.delay_s <= now_s
        for name, trashed in survey.trashed.items()
    }
    later: dict[int, int] = {}
    for name, trashed in survey.trashed.items():
        if not due[name]:
            when = trashed.since_s + options.delay_s
            later[when] = later.get(when, 0) + survey.trash_bytes[name]
    going = sum(pack.pack_bytes for pack in (*dead, *chosen))
    if going:
        when = now_s if options.now else now_s + options.delay_s
        later[when] = later.get(when, 0) + going
    purge = tuple(sorted(name for name, is_due in due.items() if is_due))
    generations = [survey.trashed[name].generation for name in purge]
    return Plan(
        filled_bytes=sum(pack.filled_bytes for pack in packs),
        dead=tuple(dead),
        repack=tuple(chosen),
        unused_bytes=unused,
        purge=purge,
        purge_bytes=sum(survey.trash_bytes[name] for name in purge),
        later=tuple(sorted(later.items())),
        drop=tuple(_expired(survey.head, options, now_s, generations)),
    )


def _worth_repacking(packs: Iterable[PackUse], unused_max: float) -> tuple[list[PackUse], int]:
    """Which packs to seal again so that no more than so much is unused; and what stays unused.

    The emptiest first. Small packs that fill a large one together are merged as well.
    """
    used = [pack for pack in packs if pack.live_bytes]
    unused = sum(pack.dead_bytes for pack in used)
    chosen = []
    for pack in sorted(used, key=lambda p: (p.live_bytes / p.filled_bytes, p.name)):
        if unused <= unused_max:
            break
        unused -= pack.dead_bytes
        chosen.append(pack)
    taken = {pack.name for pack in chosen}
    small = [p for p in used if p.pack_bytes < _FULL_BYTES and p.name not in taken]
    if sum(pack.live_bytes for pack in small) >= _MERGED_BYTES_MIN:
        chosen += small
        unused -= sum(pack.dead_bytes for pack in small)
    return chosen, unused


def _expired(head: Head, options: Options, now_s: int, purged: Collection[int]) -> list[Snapshot]:
    """Forgotten snapshots whose delay is over, or that may lose something by this purge.

    What was in the trash already when a snapshot was forgotten is nothing it needs.
    """
    return [
        one
        for one in head.snapshots
        if not one.is_live
        and (
            options.now
            or one.forgotten_s + options.delay_s <= now_s
            or any(generation > one.forgotten_gen for generation in purged)
        )
    ]


# --- doing ----------------------------------------------------------------------------------------


async def collect(
    vault: Vault, options: Options, now_s: int, watch: Callable[[], None] = lambda: None
) -> Collected:
    """Collect the garbage of a vault; other commands may be at work in it meanwhile."""
    with Session(vault) as session, Reader(vault.store, vault.keys, vault.cache) as reader:
        survey = Survey.of(vault, session.read, reader, watch)
        plan = plan_collection(survey, options, now_s)
        done = Collected(plan, later=plan.later)
        done.too_much = None if options.allow_large else _too_much(vault, survey, plan, reader)
        if options.dry_run:
            return done
        if done.too_much:
            raise done.too_much
        fresh = await _repack(session, reader, survey, plan)
        done.repacked_bytes = session.stored_bytes
        with vault.store.commit_lock():
            session.end()  # its files are written; it must not stand in the way of purging
            _settle(vault, survey, plan, fresh, _Asked(options, now_s, done))
    return done


async def _repack(session: Session, reader: Reader, survey: Survey, plan: Plan) -> set[bytes]:
    """Seal again what is needed of these packs, and see that all of it is there."""
    if not plan.repack:
        return set()
    name, homes = namer(session.vault.keys), survey.tally.homes
    chosen = {pack.name for pack in plan.repack}
    numbers = {n for n, pack in enumerate(survey.tally.packs) if pack.name in chosen}
    wanted = {key: survey.tally.packs[n].name for key, n in homes.items() if n in numbers}
    fresh, keys = await repack(
        session,
        reader,
        [pack.name for pack in plan.repack],
        lambda pack, piece: wanted.get(name(piece.kind, piece.tag)) == pack,
        name,
    )
    if wanted.keys() - keys:
        raise Doubt("not everything could be packed again", hint=_HINT_CHECK)
    return fresh


@dataclass(slots=True)
class _Asked:
    """What `settle` needs to know of its caller, and where it tells what it did."""

    options: Options
    now_s: int
    done: Collected


def _settle(vault: Vault, survey: Survey, plan: Plan, fresh: set[bytes], clock: _Asked) -> None:
    """Take away what is not needed, now that nobody else can change the head."""
    store, done, options = vault.store, clock.done, clock.options
    read = vault.read_head()
    _refuse_doubtful_head(vault, read)
    if read.head.trash_gen != survey.head.trash_gen:
        raise Moved("another collection ran meanwhile", where=str(store.path), hint="run it again")
    packs = store.pack_names()
    going = _confirmed(vault, read.head, survey, plan, packs, fresh)
    sessions = store.live_generations()
    _refuse_newer(vault, sessions, read.head)
    generation = read.head.trash_gen
    if going:
        generation += 1
        head = vault.change_locked(_with_generation(generation), packs=packs - going)
        store.move_to_trash(sorted(going), generation, clock.now_s)
        done.trashed_packs = len(going)
        done.trashed_bytes = sum(store.pack_bytes(name) for name in going)
    else:
        head = read.head
    trashed = store.trashed()
    due = [t for t in trashed.values() if options.now or t.since_s + options.delay_s <= clock.now_s]
    free = [t for t in due if all(session >= t.generation for session in sessions)]
    done.waiting_packs = len(due) - len(free)
    drop = _expired(head, options, clock.now_s, {t.generation for t in free})
    if drop:
        ids = {snapshot.id for snapshot in drop}
        vault.change_locked(
            lambda head: head.with_snapshots([s for s in head.snapshots if s.id not in ids])
        )
    if trashed:
        done.purged_packs = len(free)
        done.purged_bytes = store.purge([t.name for t in free])
    done.dropped = tuple(drop)
    if going or survey.has_gone:
        done.deltas_merged = drop_from_deltas(vault)
    if not sessions:
        store.clear_leftovers()


def _confirmed(
    vault: Vault, head: Head, survey: Survey, plan: Plan, packs: set[bytes], fresh: set[bytes]
) -> set[bytes]:
    """Which packs may go, with what was committed or brought back since the survey."""
    going = {pack.name for pack in (*plan.dead, *plan.repack)}
    tally = survey.tally
    homes = {tally.packs[home].name for home in set(tally.homes.values())}
    if not (homes | fresh | going) <= packs:
        raise Moved("packs vanished meanwhile", where=str(vault.store.path), hint="run it again")
    later = [snapshot for snapshot in head.live if snapshot.id not in survey.marked]
    if not later:
        return going
    name = namer(vault.keys)
    with Reader(vault.store, vault.keys, vault.cache) as reader:
        survey.marks.read_by(reader)
        for snapshot in later:
            survey.marks.add(snapshot)
    _refuse_faults(survey.marks)
    unplaced = {key for key in survey.marks.needed if key not in tally.homes}
    catalogue = Catalogue(vault.store, vault.keys)
    unplaced -= places_of(catalogue.listed(packs - going), name, unplaced).keys()
    # What lies only in packs we meant to take away keeps them here.
    rescued = places_of(catalogue.listed(going), name, unplaced)
    if unplaced - rescued.keys() - survey.marks.optional:
        raise Doubt("a new snapshot is not whole", where=str(vault.store.path), hint=_HINT_CHECK)
    return going - set(rescued.values())


def drop_from_deltas(vault: Vault) -> int:
    """Write the deltas that speak of packs that are gone again without these; under the lock.

    Nobody else may: a delta that speaks of a pack that is not there tells the next backup that
    something was lost. Here it was proved that no snapshot needs it.
    """
    store = vault.store
    names = sorted(store.delta_names())
    present = store.pack_names()
    stale, kept, size = list[str](), list[PackFacts](), 0
    for name in names:
        try:
            told = open_delta_untrusted(store.read_delta(name), vault.keys)
        except (FormatError, IntegrityError):
            continue  # damaged since the survey: the next check tells
        left = [pack for pack in told if pack.name in present]
        if len(left) == len(told):
            continue
        stale.append(name)
        for pack in left:
            if size + len(pack.index) > limits.DELTA_BYTES_TARGET and kept:
                store.put_delta(seal_delta(vault.keys, kept))
                kept, size = [], 0
            kept.append(pack)
            size += len(pack.index)
    if kept:
        store.put_delta(seal_delta(vault.keys, kept))
    store.remove_deltas(stale)
    return len(stale)


def _with_generation(generation: int) -> Callable[[Head], Head]:
    return lambda head: replace(head, trash_gen=generation)


def _watched(listed: Iterable[Listed], watch: Callable[[], None]) -> Iterable[Listed]:
    for one in listed:
        watch()
        yield one


# --- doubts ---------------------------------------------------------------------------------------


def _refuse_doubtful_head(vault: Vault, read: ReadHead) -> None:
    for path, error in read.damaged.items():
        raise Doubt(error.what, where=path, hint=_HINT_CHECK)
    newer = [t for t in vault.store.trashed().values() if t.generation > read.head.trash_gen]
    if newer:
        raise Doubt(
            "the trash is newer than the head: a head is missing",
            where=str(vault.store.path / "heads"),
            hint=_HINT_CHECK,
        )


def _refuse_newer(vault: Vault, sessions: Iterable[int], head: Head) -> None:
    if any(session > head.trash_gen for session in sessions):
        raise Doubt(
            "a running command has seen a newer head: it is missing",
            where=str(vault.store.path / "heads"),
            hint=_HINT_CHECK,
        )


def _refuse_faults(marks: Marks) -> None:
    for fault in marks.faults:
        raise Doubt(str(fault), hint=_HINT_CHECK)


def _refuse_missing(vault: Vault, marks: Marks, tally: Tally) -> None:
    missing = tally.missing(marks)
    if missing or tally.wrong:
        raise Doubt(
            f"{missing + len(tally.wrong)} pieces that snapshots need are not where they should be",
            where=str(vault.store.path),
            hint=_HINT_CHECK,
        )


def _too_much(vault: Vault, survey: Survey, plan: Plan, reader: Reader) -> TooMuch | None:
    """The floor: most of a vault goes only if what was forgotten explains it."""
    most = plan.filled_bytes * limits.TRASHED_PERCENT_MAX / _PERCENT
    if plan.lost_bytes <= most:
        return None
    name = namer(vault.keys)
    marks = Marks(reader, name)
    for snapshot in survey.head.snapshots:
        if not snapshot.is_live:
            marks.add(snapshot)
    going = {pack.name: pack for pack in (*plan.dead, *plan.repack)}
    asked = Tally(name)
    asked.add(Catalogue(vault.store, vault.keys).listed(set(going)), marks.needed)
    explained = sum(min(pack.live_bytes, going[pack.name].lost_bytes) for pack in asked.packs)
    if plan.lost_bytes - explained <= most:
        return None
    share = _PERCENT * plan.lost_bytes // plan.filled_bytes
    return TooMuch(
        f"{share} % of the packs would go, which no forgotten snapshot explains",
        where=str(vault.store.path),
        hint="an interrupted backup leaves such packs, and running it again uses them; "
        "--allow-large takes them away all the same",
    )
