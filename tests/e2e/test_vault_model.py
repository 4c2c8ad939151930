"""Several processes in one vault, killed and suspended anywhere, with a clock nobody can trust.

After every step: each live snapshot has every byte it had, in packs/ and not in the trash, and a
check finds nothing. `PLANTED` shows that the driver would see what it is there to see.
"""

import inspect
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from random import Random

import pytest
import trio

from core.chunking import Chunker, params_untrusted
from core.pieces import Kind
from core.pipeline import open_packer
from core.tree.entry import Entry, EntryType
from portal import gc, session, store
from portal.errors import Moved
from portal.forget import forget, undelete
from portal.gather import Gather
from portal.head import Record, Snapshot, Totals
from portal.manifest import row_of
from portal.reader import Reader
from portal.session import Session
from tests.support.keeping import FULL, NOW_S, STRUCTURE, assert_whole, run_check
from tests.support.mortal import Killed, MortalDisk
from tests.support.vaults import a_vault, fixed, opened

YEAR_S = 365 * 86_400
CONTENTS = [fixed(f"content {n}", 20_000 + 5_000 * n) for n in range(12)]


@dataclass
class Writer:
    """A backup on its way: what it stored already, and by which disk it may die."""

    vault: object
    disk: MortalDisk
    session: Session
    stored: tuple[Snapshot, dict[bytes, bytes]] | None = None


@dataclass
class Model:
    """What must be there."""

    place: object
    random: Random
    contents: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)  # of all snapshots
    live: set[bytes] = field(default_factory=set)
    asked: set[bytes] = field(default_factory=set)  # to be forgotten, in this step
    writers: list[Writer] = field(default_factory=list)
    now_s: int = NOW_S
    made: int = 0
    log: list[str] = field(default_factory=list)

    # --- processes ----------------------------------------------------------------------------

    def process(self, *, may_die=True):
        dies_at = self.random.randrange(60) if may_die and self.random.random() < 0.3 else -1
        disk = MortalDisk(dies_at)
        return opened(self.place, disk=disk), disk

    def begin(self):
        vault, disk = self.process()
        self.writers.append(Writer(vault, disk, Session(vault)))

    def store(self, writer):
        """New files, some of them known; or all an earlier snapshot has and one more."""
        head = writer.session.read.head
        gather = Gather(
            writer.session.known,
            Chunker(params_untrusted(writer.vault.config.chunker), writer.vault.keys.gear),
        )
        files, rows = {}, {}
        if head.live and writer.session.is_whole and self.random.random() < 0.6:
            parent = self.random.choice(head.live)  # taken over without asking for any piece
            files = dict(self.contents[parent.id])
            with Reader(writer.vault.store, writer.vault.keys, None) as reader:
                rows = {row[0]: row for row in reader.rows_untrusted(parent.record.root)}
            for name in self.random.sample(sorted(files), self.random.randrange(len(files) + 1)):
                del files[name], rows[name]
        for number in self.random.sample(range(len(CONTENTS)), self.random.randrange(1, 5)):
            name, data = b"f%d" % number, CONTENTS[number]
            entry = Entry(name, EntryType.FILE, mtime_ns=1, ctime_ns=1, ino=number, size=len(data))
            files[name], rows[name] = data, row_of(entry, gather.small(data))
        root = gather.directory_of(rows[name] for name in sorted(rows))
        self.made += 1
        record = Record(
            time_ns=self.made, end_ns=self.made, host="h", user="u", paths=(b"/",), parent=b"",
            root=root, totals=Totals(),
        )  # fmt: skip
        gather.record(record.encoded())

        async def pack():
            async with open_packer(writer.session.pack_keys, writer.session.deliver) as packer:
                for chunk in gather.finish():
                    await packer.put(chunk)

        trio.run(pack)
        writer.stored = Snapshot.of(record), files

    def commit(self, writer):
        snapshot, files = writer.stored
        self.contents[snapshot.id] = files
        self.log.append(f"  commits {snapshot.name}")
        try:
            writer.session.commit(lambda head: head.with_snapshots([*head.snapshots, snapshot]))
        finally:
            self.end(writer)
        self.live.add(snapshot.id)

    def end(self, writer):
        writer.session.end()
        self.writers.remove(writer)

    # --- steps --------------------------------------------------------------------------------

    def step(self):
        self.now_s += self.random.choice([0, 1, 86_400, 8 * 86_400, YEAR_S, -YEAR_S])
        self.now_s = max(1, self.now_s)
        doing = self.random.choices(
            ["write", "forget", "collect", "undelete", "abandon"], [10, 4, 4, 1, 1]
        )[0]
        self.log.append(f"{doing} at {self.now_s}")
        self.asked = set()
        try:
            getattr(self, "do_" + doing)()
        except* Killed:
            self.log.append("  killed")
            for writer in [w for w in self.writers if w.disk.is_dead]:
                self.end(writer)
        self.look()

    def do_write(self):
        if not self.writers or (len(self.writers) < 3 and self.random.random() < 0.4):
            self.begin()
            self.store(self.writers[-1])
            return
        writer = self.random.choice(self.writers)
        if writer.stored is None:
            self.store(writer)
        else:
            self.commit(writer)

    def do_abandon(self):
        if self.writers:
            self.end(self.random.choice(self.writers))

    def do_forget(self):
        if self.live:
            count = min(len(self.live), self.random.randrange(1, 3))
            self.asked = set(self.random.sample(sorted(self.live), count))
            vault, _ = self.process()
            forget(vault, self.asked, self.now_s)

    def do_undelete(self):
        vault, _ = self.process()
        undelete(vault)

    def do_collect(self):
        vault, _ = self.process()
        options = gc.Options(
            now=self.random.random() < 0.3,
            delay_s=self.random.choice([1, 7 * 86_400]),
            unused_percent_max=self.random.choice([0.0, 5.0, 50.0]),
            allow_large=True,
        )
        between = self.random.choice([None, None, self.commit_one, self.bring_back])
        run = partial(gc.collect, vault, options, self.now_s)
        if between is None:
            trio.run(run)
            return
        plan = gc.plan_collection

        def and_then(*args):
            made = plan(*args)
            with ThreadPoolExecutor(1) as elsewhere:
                elsewhere.submit(between).result()
            return made

        gc.plan_collection = and_then
        try:
            trio.run(run)
        except Moved:
            self.log.append("  gave way")
        finally:
            gc.plan_collection = plan

    def commit_one(self):
        for writer in self.writers:
            if writer.stored is not None and writer.disk.dies_at < 0:
                self.commit(writer)
                return

    def bring_back(self):
        vault, _ = self.process(may_die=False)
        undelete(vault)

    # --- looking ------------------------------------------------------------------------------

    def look(self):
        """What is there is what was there, but for the one thing that was being done."""
        vault, _ = self.process(may_die=False)
        head = vault.head()
        live = {s.id for s in head.live}
        forgotten = {s.id for s in head.snapshots} - live
        vanished = self.live - live - self.asked
        assert not vanished, "nobody asked for that"
        assert self.asked <= live | forgotten, "forgotten for good at once"
        self.live = live
        assert_whole(vault)
        with Reader(vault.store, vault.keys, None) as reader:
            for snapshot in head.live:
                rows = reader.nodes_untrusted(snapshot.record.root, b"")
                found = {
                    node.entry.path: reader.piece_untrusted(Kind.SMALL_FILE, node.content.data)
                    for node in rows
                }
                assert found == self.contents[snapshot.id]
        checked = run_check(vault, STRUCTURE)
        assert checked.exit_code == 0, checked.findings
        broken = [f for f in checked.findings if "cannot be brought back" in f.what]
        assert not broken, "it is listed, so it can be brought back"


def drive(place, seed, steps):
    a_vault(place)
    model = Model(place, Random(seed))
    try:
        for _ in range(steps):
            model.step()
        for writer in list(model.writers):
            model.end(writer)
        vault = opened(place)
        trio.run(partial(gc.collect, vault, gc.Options(now=True, allow_large=True), model.now_s))
        assert not vault.store.trashed()
        assert_whole(vault)
        assert run_check(vault, FULL).exit_code == 0
    except BaseException:
        print(f"seed {seed}", *model.log, sep="\n")
        raise
    finally:
        for writer in list(model.writers):
            model.end(writer)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_no_live_snapshot_loses_anything(tmp_path, seed):
    model = drive(tmp_path, seed, 60)
    assert model.made > 3


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(1_000, 1_060))
def test_whatever_happens_for_a_long_time(tmp_path, seed):
    drive(tmp_path, seed, 120)


class Unmoved:
    """A store that moves nothing into the trash: it was done too early."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def move_to_trash(self, *_args):
        pass


def planted(monkeypatch, module, name, old, new):
    """A function of a module with one piece of its text replaced."""
    owner = module
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    last = name.split(".")[-1]
    source = textwrap.dedent(inspect.getsource(getattr(owner, last)))
    assert old in source
    scope = {}
    exec(source.replace(old, new), {**vars(module), "Unmoved": Unmoved}, scope)
    monkeypatch.setattr(owner, last, scope[last])


PLANTED = {
    "purge ignores who is at work": (
        gc, "_settle", "all(session >= t.generation for session in sessions)", "True",
    ),
    "packs move before the head says so": (
        gc, "_settle",
        "head = vault.change_locked",
        "store.move_to_trash(sorted(going), generation, clock.now_s)\n"  # noqa: ISC004
        "        store = Unmoved(store)\n        head = vault.change_locked",
    ),
    "the generation stays": (gc, "_settle", "generation += 1", "generation += 0"),
    "nothing is taken back at the end of a session": (
        session, "Session._take_back", "self.vault.store.take_back(later)", "pass",
    ),
    "what is committed meanwhile is not looked at": (
        gc, "_confirmed", "if snapshot.id not in survey.marked", "if False",
    ),
    "only half of what is needed is packed again": (
        gc, "_repack", "pack, piece: wanted", "pack, piece: piece.length % 2 and wanted",
    ),
    "a session says nothing of itself": (
        store, "Store.live_generations", "found.append(", "str(",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_it_would_be_seen(tmp_path, monkeypatch, bug):
    planted(monkeypatch, *PLANTED[bug])
    for seed in range(60):
        place = tmp_path / str(seed)
        place.mkdir()
        try:
            drive(place, seed, 60)
        except Exception as e:  # noqa: BLE001 - whatever says it
            print(f"{bug}: seed {seed}: {type(e).__name__}: {str(e)[:100]}")
            return
    pytest.fail("nobody noticed")
