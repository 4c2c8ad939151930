"""Real processes in one vault, several at once: killed at any time, suspended, overtaken.

What a process told through its pipe is there afterwards, byte for byte.
"""

import fcntl
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import pytest

from portal.forget import forget
from tests.support.keeping import DAY_S, NOW_S
from tests.support.kills import Ended, Worker
from tests.support.past import EAGER, PACK_BYTES, SECOND_NS, Past, a_past, half_written, pack_bytes
from tests.support.readback import Contents, assert_clean, assert_reads, on_disk
from tests.support.vaults import NOW_NS, a_vault, fixed, opened

YEAR_S = 365 * DAY_S
WRITERS = 3
KEPT = 12  # about so many snapshots, the rest is forgotten
LONGEST_S = 0.05  # most jobs are done by then


@pytest.fixture
def workers():
    with ExitStack() as stack:
        yield [stack.enter_context(Worker()) for _ in range(WRITERS)]


# --- killed at any time -------------------------------------------------------------------------


@dataclass
class Household:
    """Several directories that are backed up into one vault, by one process each."""

    place: Path
    random: Random
    made: dict[int, Contents] = field(default_factory=dict)
    told: dict[bytes, int] = field(default_factory=dict)  # snapshots that must be there
    asked: set[bytes] = field(default_factory=set)  # to be forgotten: they may be there
    forgotten: set[bytes] = field(default_factory=set)  # to be gone from sight
    undeletes: bool = False  # somebody, in this round
    tick: int = 0
    kills: int = 0
    runs: int = 0

    def docs(self, writer):
        return self.place / f"docs {writer}"

    def edit(self, writer):
        """Change something; what one writer has, others may have, too."""
        docs, random = self.docs(writer), self.random
        docs.mkdir(exist_ok=True)
        for _ in range(random.randrange(1, 4)):
            path = docs / f"file {random.randrange(8)}"
            size = random.choice([10, 1_000, 30_000, 30_000, 200_000])
            path.write_bytes(fixed(f"content {random.randrange(40)}", size))
        if random.random() < 0.1:
            (docs / "long").write_bytes(fixed(f"long {random.randrange(3)}", 700_000))
        for path in docs.glob("file [67]"):
            path.unlink()

    def jobs(self):
        """What is done at once."""
        self.undeletes = False
        return [self.job(writer) | {"limits": EAGER} for writer in range(WRITERS)]

    def job(self, writer):
        """What this writer does next."""
        self.tick += 1
        now_ns = NOW_NS + self.tick * SECOND_NS
        choice = self.random.random()
        if choice < 0.10:
            delay_s = self.random.choice([0, 30, 7 * DAY_S])
            # Of a vault of killed runs most may be nobody's.
            options = {"delay_s": delay_s, "allow_large": True}
            return {"do": "collect", "now_ns": now_ns, "options": options}
        if choice < 0.20 and len(self.told) > KEPT:
            ids = self.random.sample(sorted(self.told), len(self.told) - KEPT)
            self.asked.update(ids)
            for one in ids:
                del self.told[one]
            return {"do": "forget", "ids": [one.hex() for one in ids], "now_ns": now_ns}
        if choice < 0.24:
            self.asked |= self.forgotten
            self.forgotten.clear()
            self.undeletes = True
            return {"do": "undelete"}
        self.edit(writer)
        self.made[now_ns] = on_disk(self.docs(writer))
        options = {"threads": 1, "tags": [f"writer {writer}"]}
        paths = [str(self.docs(writer))]
        return {"do": "back_up", "now_ns": now_ns, "paths": paths, "options": options}

    def heard(self, job, ended: Ended):
        """What came of it."""
        self.runs += 1
        self.kills += ended.killed
        is_gone = job["do"] == "undelete" and "cannot be brought back" in ended.error
        assert not ended.error or ended.error.startswith("Moved(") or is_gone, (job, ended)
        for one in ended.made:
            self.told[one] = job["now_ns"]
        for line in ended.told:
            assert line[0] != "fault", (job, line)
            if line[0] == "forgot" and not self.undeletes:
                self.forgotten.update(bytes.fromhex(one) for one in line[1:])
            if line[0] == "undeleted":
                self.told[bytes.fromhex(line[1])] = 0

    def look(self):
        """Everything that was told is there, and everything that is there is whole."""
        vault = opened(self.place)
        live = {snapshot.id for snapshot in assert_reads(vault, self.made)}
        assert self.told.keys() <= live
        assert not live & self.forgotten
        assert_clean(vault)
        for snapshot in vault.head().live:  # those of runs that died before they could tell
            if snapshot.id not in self.told and snapshot.id not in self.asked:
                self.told[snapshot.id] = snapshot.record.time_ns


def live_through(household, workers, kills, look_every):
    looked = 0
    while household.kills < kills:
        jobs = household.jobs()
        for worker, job in zip(workers, jobs, strict=True):
            after_s = household.random.uniform(0.0, LONGEST_S)
            worker.start(place=household.place, after_s=after_s, **job)
        for worker, job in zip(workers, jobs, strict=True):
            household.heard(job, worker.ended())
        if household.kills >= looked + look_every:
            looked = household.kills
            household.look()


def settle(household, worker):
    """The last word: nothing half-written is left, and little that nobody needs."""
    household.tick += 10 * DAY_S
    now_ns = NOW_NS + household.tick * SECOND_NS
    for _ in range(2):
        options = {"now": True, "allow_large": True}
        ended = worker.run("collect", household.place, now_ns=now_ns, options=options)
        assert not ended.error, ended
    household.look()
    assert half_written(household.place) == []
    assert not opened(household.place).store.trashed()


@pytest.mark.slow
def test_processes_killed_at_any_time(tmp_path, workers):
    a_vault(tmp_path)
    household = Household(tmp_path, Random("killed at any time"))
    live_through(household, workers, kills=150, look_every=50)
    settle(household, workers[0])


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(2))
def test_ten_thousand_processes_killed_at_any_time(tmp_path, workers, seed):
    a_vault(tmp_path)
    household = Household(tmp_path, Random(f"ten thousand {seed}"))
    live_through(household, workers, kills=5_000, look_every=100)
    settle(household, workers[0])


@pytest.mark.slow
def test_processes_that_all_come_to_their_end(tmp_path, workers):
    a_vault(tmp_path)
    household = Household(tmp_path, Random("at once"))
    for _ in range(40):
        jobs = household.jobs()
        for worker, job in zip(workers, jobs, strict=True):
            worker.start(place=tmp_path, **job)
        for worker, job in zip(workers, jobs, strict=True):
            household.heard(job, worker.ended())
    assert household.kills == 0
    household.look()
    settle(household, workers[0])


@pytest.mark.slow
def test_the_same_content_from_several_processes_is_stored_once_or_nearly(tmp_path, workers):
    past = Past(tmp_path)
    a_vault(tmp_path)
    now_ns = past.edit(1)
    for number, worker in enumerate(workers):
        past.made[now_ns + number] = past.made[now_ns]
        worker.start("back_up", tmp_path, paths=[str(past.docs)], now_ns=now_ns + number)
    stored = [worker.ended().number("stored") for worker in workers]
    assert past.live(tmp_path) == set(past.made)
    assert pack_bytes(tmp_path) == sum(stored)
    again = workers[0].run("back_up", tmp_path, paths=[str(past.docs)], now_ns=now_ns)
    assert again.number("stored") <= PACK_BYTES  # what is said of files that were new just now


# --- suspended ----------------------------------------------------------------------------------


def is_locked(place):
    """Whether who has stopped lets nobody else change the head."""
    with (place / "vault" / "commit").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.slow
def test_a_backup_suspended_for_a_year_while_all_it_relies_on_is_forgotten(tmp_path, workers):
    backup, other = workers[:2]
    past = a_past(tmp_path / "past")
    job = {"paths": [str(past.docs)], "now_ns": past.edit(3), "options": {"threads": 1}}
    overtaken = 0
    for n in count():
        place = past.copy(tmp_path / f"stopped {n}")
        backup.start("back_up", place, stops_at=n, **job)
        if not backup.stopped():
            break
        locked = is_locked(place)
        if not locked:
            ids = [one.hex() for one in past.ids]
            assert not other.run("forget", place, ids=ids, now_ns=NOW_NS).error
        how = {"now_ns": NOW_NS + YEAR_S * SECOND_NS, "options": {"now": True, "allow_large": True}}
        for _ in range(1 if locked else 2):
            other.start("collect", place, **how)
            if not locked:
                done = other.ended()
                assert not done.error, done
                overtaken += done.number("trashed") > 0
        backup.go_on()
        ended = backup.ended()
        assert not ended.error, ended
        assert not locked or not other.ended().error
        assert job["now_ns"] in past.live(place)
        assert opened(place).head().live[-1].id == ended.made[0]
        shutil.rmtree(place)
    assert overtaken >= 5


@pytest.mark.slow
def test_a_collection_suspended_while_a_backup_uses_what_it_is_to_take_away(tmp_path, workers):
    collector, backup = workers[:2]
    past = a_past(tmp_path / "past")
    past.back_up(3)
    forget(opened(past.place), past.ids[:2], NOW_S)
    (past.docs / "old").write_bytes(fixed("old", 300_000))  # only forgotten snapshots have it
    job = {"paths": [str(past.docs)], "now_ns": past.now_ns(4)}
    overtaken = 0
    for n in count(0, 2):
        place = past.copy(tmp_path / f"stopped {n}")
        collector.start("collect", place, stops_at=n, now_ns=NOW_NS, options={"now": True})
        if not collector.stopped():
            break
        locked = is_locked(place)
        backup.start("back_up", place, **job)
        if not locked:
            ended = backup.ended()
            overtaken += 1
            collector.go_on()
            done = collector.ended()
        else:
            collector.go_on()
            done, ended = collector.ended(), backup.ended()
        assert not ended.error, ended
        assert not done.error, done
        assert past.live(place) == {NOW_NS + 3 * SECOND_NS, job["now_ns"]}
        shutil.rmtree(place)
    assert overtaken >= 3


def test_a_head_is_found_though_all_that_were_seen_are_gone(tmp_path, monkeypatch):
    past = a_past(tmp_path / "past", snapshots=1)
    vault = opened(past.place)
    places, path = vault.store.head_places(), vault.store.head_path(vault.head().place)
    newer = vault.change(lambda head: head)
    path.unlink()
    answers = iter([places])
    look = vault.store.head_places
    monkeypatch.setattr(vault.store, "head_places", lambda: next(answers, None) or look())
    assert vault.head() == newer
