import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import trio

from core import limits
from core.errors import PortalError
from core.hashing import tag as tag_of
from core.pieces import Chunk, Kind
from core.pipeline import open_packer
from portal.disk import Disk
from portal.errors import Moved
from portal.head import Record, Snapshot, Totals
from portal.index import open_delta_untrusted
from portal.manifest import Content, Form
from portal.reader import Reader
from portal.session import Session
from portal.vault import live_set_root
from tests.support.mortal import Killed, MortalDisk
from tests.support.vaults import NOW_NS, a_vault, back_up, contents_in, fixed, opened

REPOSITORY = Path(__file__).parent.parent.parent
SMALL = Kind.SMALL_FILE


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


def bring(session, *contents):
    """Store what the session does not know, a pack each; how many were new."""
    chunks = [Chunk.of_piece(SMALL, content) for content in contents]
    new = [chunk for chunk in chunks if not session.known(SMALL, chunk.tag)]

    async def pack(chunk):
        async with open_packer(session.pack_keys, session.deliver, threads=1) as packer:
            await packer.put(chunk)

    for chunk in new:
        trio.run(pack, chunk)
    return len(new)


def named(name):
    record = Record(
        time_ns=5,
        end_ns=6,
        host=name,
        user="ann",
        paths=(b"/x",),
        parent=b"",
        root=Content(Form.PARTS, b""),
        totals=Totals(),
    )
    return Snapshot.of(record)


def adding(name):
    return lambda head: head.with_snapshots([*head.snapshots, named(name)])


def hosts(vault):
    return sorted(s.record.host for s in vault.head().snapshots)


def tag(content):
    return Chunk.of_piece(SMALL, content).tag


def held(vault, *contents):
    with Reader(vault.store, vault.keys, None) as reader:
        return all(reader.piece_untrusted(SMALL, tag(c)) == c for c in contents)


# --- pieces ---------------------------------------------------------------------------------------


def test_a_piece_is_asked_for_once_and_then_known(vault):
    with Session(vault) as session:
        assert not session.known(SMALL, tag(b"a"))
        assert session.known(SMALL, tag(b"a"))  # it is on its way
        assert not session.holds(SMALL, tag(b"a"))  # but not here
        assert not session.known(Kind.CUT, tag(b"a"))
    with Session(vault) as session:
        assert bring(session, b"a", b"b", b"a") == 2
        assert session.holds(SMALL, tag(b"a"))
        assert session.stored_bytes == 2 * limits.PACK_SIZES_BYTES[0]
        session.commit(adding("one"))
    with Session(opened(vault.store.path.parent)) as session:
        assert bring(session, b"b", b"c") == 1
    assert held(vault, b"a", b"b", b"c")


def test_asking_whether_it_is_held_promises_nothing(vault):
    with Session(vault) as session:
        assert not session.holds(SMALL, tag(b"a"))
        assert not session.known(SMALL, tag(b"a"))


def test_a_session_is_seen_until_it_ends(vault):
    with Session(vault), vault.store.commit_lock():
        assert vault.store.live_generations() == [0]
    with vault.store.commit_lock():
        assert vault.store.live_generations() == []


def test_a_session_that_cannot_begin_leaves_no_trace(vault, monkeypatch):
    monkeypatch.setattr(vault.store, "pack_names", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Session(vault)
    assert list((vault.store.path / "sessions").iterdir()) == []


# --- commit ---------------------------------------------------------------------------------------


def test_a_commit_says_which_packs_there_are(vault):
    with Session(vault) as session:
        bring(session, b"a", b"b")
        head = session.commit(adding("one"))
    assert head == vault.head()
    assert head.live_set_root == live_set_root(vault.store.pack_names())
    with Session(vault) as session:  # nothing new: nothing is hashed
        assert session.commit(adding("two")).live_set_root == head.live_set_root


def test_what_is_durable_when(vault):
    steps = []

    class Noting(Disk):
        def rename(self, old, new):
            steps.append(new.parent.name)
            super().rename(old, new)

        def sync_directory(self, path):
            steps.append(f"{path.name} synced")
            super().sync_directory(path)

    vault.store.disk = Noting()
    with Session(vault) as session:
        bring(session, b"a")
        session.commit(adding("one"))
    assert steps == [
        "packs",
        "packs synced",
        "index",
        "index synced",
        "heads",
        "heads synced",
    ]


def test_two_commits_interleaved_lose_nothing(vault, tmp_path):
    other = opened(tmp_path)
    with Session(vault) as one, Session(other) as two:
        bring(one, b"a", b"shared")
        bring(two, b"b", b"shared")  # neither knows of the other's: stored twice, never lost
        two.commit(adding("two"))
        one.commit(adding("one"))
    assert hosts(vault) == ["one", "two"]
    assert vault.head().live_set_root == live_set_root(vault.store.pack_names())
    assert held(vault, b"a", b"b", b"shared")


def test_what_a_collector_moved_since_it_began_is_taken_back(vault, tmp_path):
    with Session(vault) as session:
        bring(session, b"old", b"not asked for")
        session.commit(adding("one"))
    packs = vault.store.pack_names()
    with Session(vault) as session:
        assert session.known(SMALL, tag(b"old"))
        collector = opened(tmp_path)
        with collector.store.commit_lock():
            collector.change_locked(lambda head: replace(head, trash_gen=1), packs=set())
            collector.store.move_to_trash(packs, 1, 1)
        head = session.commit(adding("two"))
    # All of it: what the parent held and nobody asked for may be relied on, too.
    assert vault.store.pack_names() == packs
    assert head.live_set_root == live_set_root(packs)
    assert head.trash_gen == 1


def test_what_was_trashed_before_it_began_stays_there(vault):
    with Session(vault) as session:
        bring(session, b"old")
        session.commit(adding("one"))
    packs = vault.store.pack_names()
    with vault.store.commit_lock():
        vault.change_locked(lambda head: replace(head, trash_gen=1), packs=set())
        vault.store.move_to_trash(packs, 1, 1)
    with Session(vault) as session:
        assert bring(session, b"old") == 1
        session.commit(adding("two"))
    assert not packs & vault.store.pack_names()
    assert held(vault, b"old")


def test_a_reused_pack_that_vanished_stops_the_commit(vault):
    with Session(vault) as session:
        bring(session, b"old")
        session.commit(adding("one"))
    (pack,) = vault.store.pack_names()
    with Session(vault) as session:
        assert session.known(SMALL, tag(b"old"))
        (vault.store.path / "packs" / pack.hex()).unlink()
        with pytest.raises(Moved, match="run it again") as caught:
            session.commit(adding("two"))
    assert caught.value.retryable
    assert hosts(vault) == ["one"]
    with Session(vault) as session:
        assert not session.is_whole
        assert bring(session, b"old") == 1
        session.commit(adding("two"))
    assert hosts(vault) == ["one", "two"]


def test_an_own_pack_moved_meanwhile_is_taken_back(vault, tmp_path):
    with Session(vault) as session:
        bring(session, b"new")
        session.flush()
        collector = opened(tmp_path)
        with collector.store.commit_lock():
            collector.change_locked(lambda head: replace(head, trash_gen=1), packs=set())
            collector.store.move_to_trash(collector.store.pack_names(), 1, 1)
        session.commit(adding("one"))
    assert not vault.store.trashed()
    assert held(vault, b"new")


@pytest.mark.slow
def test_many_threads_commit_at_once(tmp_path):
    vault = a_vault(tmp_path)
    barrier = Barrier(8)

    def work(n):
        mine = opened(tmp_path)
        with Session(mine) as session:
            barrier.wait()
            bring(session, b"%d" % n, b"shared by %d" % (n % 2))
            session.commit(adding(f"{n}"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert hosts(vault) == [f"{n}" for n in range(8)]
    assert vault.head().seq == 8
    assert held(vault, *(b"%d" % n for n in range(8)), b"shared by 0", b"shared by 1")


BACK_UP = """
import sys
from pathlib import Path
from tests.support.vaults import NOW_NS, back_up, opened
place, n = Path(sys.argv[1]), int(sys.argv[2])
vault = opened(place)
sys.stdin.read()
for run in range(3):
    back_up(vault, place / str(n), now_ns=NOW_NS + 10 * run + n)
"""


@pytest.mark.slow
def test_many_processes_back_up_at_once(tmp_path):
    vault = a_vault(tmp_path)
    for n in range(3):
        (tmp_path / str(n)).mkdir()
        for name in ("own", "shared"):
            (tmp_path / str(n) / name).write_bytes(name.encode() * (n + 1 if name == "own" else 1))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BACK_UP, str(tmp_path), str(n)],
            stdin=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        for n in range(3)
    ]
    for child in children:
        child.stdin.close()
    assert [child.wait() for child in children] == [0, 0, 0]
    snapshots = vault.head().snapshots
    assert len(snapshots) == 9
    for snapshot in snapshots:
        contents = sorted(contents_in(vault, snapshot).values())
        assert contents[-1] == b"shared"
        assert contents[0] in {b"own", b"ownown", b"ownownown"}


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_session_killed_anywhere_loses_nothing_that_was_committed(tmp_path):
    for dies_at in range(60):
        place = tmp_path / str(dies_at)
        place.mkdir()
        first = a_vault(place)
        with Session(first) as session:
            bring(session, b"a")
            session.commit(adding("one"))
        disk = MortalDisk(dies_at)
        try:
            with Session(opened(place, disk=disk)) as session:
                bring(session, b"a", b"b", b"c")
                session.commit(adding("two"))
        except (Killed, BaseExceptionGroup):
            assert disk.is_dead
        vault = opened(place)
        assert hosts(vault) in (["one"], ["one", "two"])
        assert held(vault, b"a")
        if "two" in hosts(vault):
            assert held(vault, b"b", b"c")
        stored = {c for c in (b"b", b"c") if _there(vault, c)}
        with Session(vault) as session:  # what was delivered is used, what was not comes again
            assert bring(session, b"a", b"b", b"c") == 2 - len(stored)
            session.commit(adding("three"))
        with Session(vault) as session:
            assert session.is_whole
        assert held(vault, b"a", b"b", b"c")
        if not disk.is_dead:
            break
    assert dies_at > 20


def _there(vault, content):
    try:
        return held(vault, content)
    except PortalError:
        return False


# --- deltas ---------------------------------------------------------------------------------------


def told(vault):
    return [
        facts.name
        for name in vault.store.delta_names()
        for facts in open_delta_untrusted(vault.store.read_delta(name), vault.keys)
    ]


def commit_one(vault, content):
    with Session(vault) as session:
        bring(session, content)
        session.commit(adding(content.decode()))


@pytest.mark.slow
def test_many_small_deltas_become_one(vault, monkeypatch):
    monkeypatch.setattr(limits, "DELTAS_MAX", 3)
    for n in range(8):
        commit_one(vault, b"%d" % n)
        assert len(vault.store.delta_names()) <= 3
    assert sorted(told(vault)) == sorted(vault.store.pack_names())
    assert held(vault, *(b"%d" % n for n in range(8)))


def test_large_deltas_are_left_alone(vault, monkeypatch):
    for n in range(4):
        commit_one(vault, b"%d" % n)
    monkeypatch.setattr(limits, "DELTAS_MAX", 1)
    monkeypatch.setattr(limits, "DELTA_BYTES_TARGET", 10)
    before = vault.store.delta_names()
    commit_one(vault, b"new")
    assert len(vault.store.delta_names() - before) == 1
    assert before < vault.store.delta_names()


def test_a_merge_forgets_no_loss(vault, monkeypatch):
    for n in range(3):
        commit_one(vault, b"%d" % n)
    lost = min(vault.store.pack_names())
    (vault.store.path / "packs" / lost.hex()).unlink()
    monkeypatch.setattr(limits, "DELTAS_MAX", 2)
    commit_one(vault, b"new")
    assert len(vault.store.delta_names()) == 1
    assert lost in told(vault)
    with Session(vault) as session:
        assert not session.is_whole


def test_a_damaged_delta_does_not_undo_a_commit(vault, monkeypatch):
    for n in range(3):
        commit_one(vault, b"%d" % n)
    name = max(vault.store.delta_names())
    path = vault.store.path / "index" / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(limits, "DELTAS_MAX", 2)
    commit_one(vault, b"new")
    assert "new" in hosts(vault)
    assert path.exists()  # for the check to tell of
    assert held(vault, b"0", b"1", b"2", b"new")


def test_a_disk_full_after_the_head_does_not_undo_a_commit(vault, monkeypatch):
    for n in range(3):
        commit_one(vault, b"%d" % n)
    monkeypatch.setattr(limits, "DELTAS_MAX", 2)
    deltas = vault.store.delta_names()

    class Full(Disk):
        full = False

        def write(self, fd, data):
            if self.full:
                raise OSError(28, "No space left on device")
            super().write(fd, data)

        def rename(self, old, new):
            super().rename(old, new)
            self.full = new.parent.name == "heads"

    vault.store.disk = Full()
    commit_one(vault, b"new")
    assert "new" in hosts(vault)
    assert deltas < vault.store.delta_names()


def test_a_full_delta_is_written_on_the_way(vault, monkeypatch):
    monkeypatch.setattr(limits, "DELTA_BYTES_TARGET", 200)
    with Session(vault) as session:
        bring(session, b"a")
        assert vault.store.delta_names() == set()
        bring(session, b"b")
        assert len(vault.store.delta_names()) == 1
        bring(session, b"c")
        session.commit(adding("one"))
    assert sorted(told(vault)) == sorted(vault.store.pack_names())
    assert len(told(vault)) == 3


def test_large_backups_fill_tables_on_the_way(vault, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "TABLE_ROWS_PENDING_MAX", 1)
    with Session(vault) as session:
        bring(session, b"a", b"b")
        assert len(list(vault.cache.glob("*.index"))) == 2
        assert session.known(SMALL, tag(b"a"))
    (tmp_path / "f").write_bytes(fixed("f", 100))
    snapshot = back_up(vault, tmp_path / "f", now_ns=NOW_NS)
    assert list(contents_in(vault, snapshot).values()) == [fixed("f", 100)]


def test_a_pack_that_is_gone_with_the_delta_that_tells_of_it_is_missed(vault):
    with Session(vault) as session:
        bring(session, b"a")
        session.commit(adding("one"))
    kept = vault.store.pack_names(), vault.store.delta_names()
    with Session(vault) as session:
        bring(session, b"b")
        session.commit(adding("two"))
    (lost,) = vault.store.pack_names() - kept[0]
    (vault.store.path / "packs" / lost.hex()).unlink()
    vault.store.remove_deltas(vault.store.delta_names() - kept[1])
    with Session(vault) as session:
        assert not session.is_whole
        assert not session.holds(Kind.SMALL_FILE, tag_of(Kind.SMALL_FILE, b"b"))
        session.commit(adding("three"))
    with Session(vault) as session:  # said once; what is missing is stored again by then
        assert session.is_whole


def test_a_pack_that_vanishes_meanwhile_stops_the_commit_though_nobody_asked_for_it(vault):
    with Session(vault) as session:
        bring(session, b"a")
        session.commit(adding("one"))
    with Session(vault) as session:
        (lost,) = vault.store.pack_names()
        (vault.store.path / "packs" / lost.hex()).unlink()
        with pytest.raises(Moved, match="1 packs vanished"):
            session.commit(adding("two"))
    assert hosts(vault) == ["one"]
