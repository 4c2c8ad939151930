import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from core import limits
from core.errors import FormatError, LimitExceeded, UsageError
from portal.disk import Disk
from portal.errors import Missing, NoVault
from portal.store import Store, Trashed
from tests.support.mortal import Killed, MortalDisk
from tests.support.trees import open_descriptors

REPOSITORY = Path(__file__).parent.parent.parent
A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "vault")
    made.create(b"the config")
    return made


# --- making and finding it ----------------------------------------------------------------------


def test_a_new_vault_has_its_folders_and_is_private(store):
    assert store.read_config() == b"the config"
    found = {p.name for p in store.path.iterdir()}
    assert found == {"config", "packs", "index", "heads", "trash", "sessions", "commit"}
    assert all(not p.stat().st_mode & 0o077 for p in [store.path, *store.path.iterdir()])
    with pytest.raises(UsageError, match="there is a vault already"):
        Store(store.path).create(b"another")
    assert store.read_config() == b"the config"


def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis").write_bytes(b"")
    with pytest.raises(UsageError, match="is not empty"):
        Store(tmp_path).create(b"config")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_a_creation_may_be_killed_anywhere_and_done_again(tmp_path):
    for dies_at in range(100):
        place = tmp_path / str(dies_at) / "vault"
        disk = MortalDisk(dies_at)
        try:
            Store(place, disk).create(b"config")
        except Killed:
            try:
                Store(place).create(b"config")
            except UsageError:  # it was there but for its durability
                assert (place / "config").exists()
        assert Store(place).read_config() == b"config"
        if not disk.is_dead:
            break
    assert dies_at > 8


@pytest.mark.parametrize("below", ["", "file/vault"])
def test_no_vault_is_told_as_such(tmp_path, below):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NoVault) as caught:
        Store(tmp_path / below).read_config()
    assert caught.value.exit_code == 10
    assert "portal init" in str(caught.value)


def test_a_config_is_bounded_and_a_file(tmp_path):
    (tmp_path / "config").write_bytes(bytes(limits.VAULT_CONFIG_BYTES_MAX + 1))
    with pytest.raises(LimitExceeded):
        Store(tmp_path).read_config()
    (tmp_path / "config").unlink()
    os.mkfifo(tmp_path / "config")
    with pytest.raises(FormatError):
        Store(tmp_path).read_config()


# --- packs and trash ----------------------------------------------------------------------------


def test_packs_come_and_are_read(store):
    store.put_pack(A, b"the pack")
    store.sync_packs()
    assert store.pack_names() == {A}
    assert store.pack_bytes(A) == 8
    fd = store.open_pack(A)
    assert os.read(fd, 100) == b"the pack"
    os.close(fd)


def test_names_that_are_no_packs_are_ignored(store):
    store.put_pack(A, b"a")
    for name in ("desktop.ini", ".tmp-x", "A" * 64, "a" * 63, "b" * 65):
        (store.path / "packs" / name).write_bytes(b"")
        (store.path / "index" / name).write_bytes(b"")
        (store.path / "heads" / name).write_bytes(b"")
        (store.path / "trash" / name).mkdir()
    assert store.pack_names() == {A}
    assert store.delta_names() == set()
    assert store.head_places() == []
    assert store.trashed() == {}


def test_a_missing_pack_is_named(store):
    with pytest.raises(Missing, match=f"{A.hex()}.*portal check"):
        store.open_pack(A)
    with pytest.raises(FileNotFoundError):
        store.pack_bytes(A)


def test_packs_go_to_the_trash_and_back(store):
    for name in (A, B, C):
        store.put_pack(name, name)
    store.move_to_trash([A, B], 7, 1_000)
    assert store.pack_names() == {C}
    assert store.trashed() == {A: Trashed(A, 7, 1_000), B: Trashed(B, 7, 1_000)}
    fd = store.open_pack(A)  # who still reads it finds it there
    assert os.read(fd, 32) == A
    os.close(fd)
    assert store.pack_bytes(B) == 32
    store.take_back([A, C])
    assert store.pack_names() == {A, C}
    assert store.trashed() == {B: Trashed(B, 7, 1_000)}
    assert store.purge([A, B]) == 32
    assert store.pack_names() == {A, C}
    assert list((store.path / "trash").iterdir()) == []


def test_a_purge_leaves_what_it_was_not_told(store):
    for name in (A, B):
        store.put_pack(name, name)
    store.move_to_trash([A, B], 1, 1)
    (store.path / "trash" / f"{1:016x}-{1:012x}" / "a note").write_bytes(b"")
    assert store.purge([A]) == 32
    assert set(store.trashed()) == {B}
    assert store.purge([B]) == 32
    assert (store.path / "trash" / f"{1:016x}-{1:012x}" / "a note").exists()


def test_a_pack_moved_while_it_is_looked_for_is_found(store, monkeypatch):
    store.put_pack(A, b"a")
    real = os.open

    def moved_first(path, *args, **kwargs):
        monkeypatch.setattr(os, "open", real)
        store.move_to_trash([A], 1, 1)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", moved_first)
    os.close(store.open_pack(A))
    # And the other way round: it was in the trash when that was listed.
    folders = store._trash_folders

    def taken_back_after():
        found = folders()
        Store(store.path).take_back([A])
        return found

    monkeypatch.setattr(store, "_trash_folders", taken_back_after)
    os.close(store.open_pack(A))


def test_a_link_in_the_trash_leads_nobody_to_the_packs_of_others(store, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / A.hex()).write_bytes(b"theirs")
    link = store.path / "trash" / f"{0:016x}-{0:012x}"
    link.symlink_to(other)
    (store.path / "trash" / f"{1:016x}-{1:012x}").write_bytes(b"a file")
    assert store.trashed() == {}
    store.take_back([A])
    assert store.purge([A]) == 0
    assert store.pack_names() == set()
    assert (other / A.hex()).read_bytes() == b"theirs"
    assert link.is_symlink()


def plant(what, path, store):
    """Something that is no file, under the name of one."""
    if what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    elif what == "link":
        path.symlink_to(store.path / "config")
    else:
        with socket.socket(socket.AF_UNIX) as made, pytest.MonkeyPatch.context() as patch:
            patch.chdir(path.parent)  # names of sockets are short
            made.bind(path.name)


@pytest.mark.parametrize("what", ["fifo", "directory", "link", "socket"])
def test_what_is_no_file_is_no_pack_and_nobody_waits_for_it(store, what):
    path = store.path / "packs" / A.hex()
    plant(what, path, store)
    before = open_descriptors()
    with pytest.raises(FormatError, match=f"{A.hex()}: is not a regular file"):
        store.open_pack(A)
    folder = store.path / "trash" / f"{1:016x}-{1:012x}"
    folder.mkdir()
    (folder / A.hex()).write_bytes(b"the pack")
    fd = store.open_pack(A)
    assert os.read(fd, 100) == b"the pack"
    os.close(fd)
    assert open_descriptors() == before


def test_trash_emptied_while_it_is_listed_is_empty(store, monkeypatch):
    store.put_pack(A, b"a")
    store.move_to_trash([A], 1, 1)
    folders = store._trash_folders
    found = folders()
    Store(store.path).purge([A])
    monkeypatch.setattr(store, "_trash_folders", lambda: found)
    assert store.trashed() == {}


def test_a_full_disk_leaves_no_pack_and_no_leftover(store):
    class Full(Disk):
        def write(self, fd, data):
            super().write(fd, data[:1])
            raise OSError(28, "No space left on device")

    full = Store(store.path, Full())
    with pytest.raises(OSError, match="No space"):
        full.put_pack(A, b"abc")
    with pytest.raises(OSError, match="No space"):
        full.put_head((0, 1), b"head")
    assert list((store.path / "packs").iterdir()) == []
    assert list((store.path / "heads").iterdir()) == []


class Noting(Disk):
    """Notes the steps of a change, in order."""

    def __init__(self):
        self.steps = []

    def __getattribute__(self, name):
        if name != "steps" and not name.startswith("_"):
            self.steps.append(name)
        return super().__getattribute__(name)


def test_a_name_appears_when_its_content_is_durable(store):
    disk = Noting()
    Store(store.path, disk).put_pack(A, b"a")
    assert disk.steps == ["make", "write", "sync", "close", "rename"]
    disk = Noting()
    Store(store.path, disk).put_delta(b"a")
    assert disk.steps == ["make", "write", "sync", "close", "rename", "sync_directory"]


def test_a_copy_without_empty_folders_still_works(store):
    for folder in ("trash", "sessions", "index"):
        (store.path / folder).rmdir()
    assert store.trashed() == {}
    with store.commit_lock():
        mark = store.begin_session(3)
        assert store.live_generations() == [3]
        mark.end()
    assert store.delta_names() == set()


# --- deltas and heads ---------------------------------------------------------------------------


def test_deltas_come_and_go(store):
    one, two = store.put_delta(b"one"), store.put_delta(b"four")
    assert store.delta_names() == {one, two}
    assert (store.read_delta(one), store.delta_bytes(two)) == (b"one", 4)
    store.remove_deltas([one, "0" * 32])
    assert store.delta_names() == {two}


def test_heads_are_ordered_by_incarnation_then_number(store):
    places = [(0, 9), (1, 0), (0, 10), (0, 1 << 62), (2, 3)]
    no_room_for_a_next_one = (0xFFFF_FFFF, (1 << 64) - 1)
    for place in (*places, no_room_for_a_next_one):
        store.put_head(place, b"%d %d" % place)
    assert store.head_places() == sorted(places, reverse=True)
    assert store.read_head((0, 10)) == b"0 10"


@pytest.mark.slow
def test_old_heads_are_cleared(store):
    for number in range(limits.HEADS_KEPT + 3):
        store.put_head((0, number), b"head")
    kept = [number for _, number in store.head_places()]
    assert kept == list(range(limits.HEADS_KEPT + 2, 2, -1))


# --- locks --------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from portal.store import Store
store = Store(Path(sys.argv[1]))
with store.commit_lock():
    if sys.argv[2] == "session":
        mark = store.begin_session(5)
    else:
        print("held", flush=True)
        sys.stdin.read()
print("held", flush=True)
sys.stdin.read()
"""


def another_process(store, what):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.path), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert child.stdout.readline() == b"held\n"
    return child


def ended(child, *, kill=False):
    if kill:
        child.kill()
    child.communicate()


def test_one_process_at_a_time_has_the_commit_lock(store):
    child = another_process(store, "lock")
    fd = os.open(store.path / "commit", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    ended(child, kill=True)  # however it ends, the lock is free
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_threads_wait_for_each_other(store):
    inside, let_go, order = Event(), Event(), []

    def first():
        with store.commit_lock():
            inside.set()
            let_go.wait()
            order.append("first")

    thread = Thread(target=first)
    thread.start()
    inside.wait()
    let_go.set()
    with Store(store.path).commit_lock():
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_sessions_of_dead_processes_are_cleared_those_of_living_counted(store):
    child = another_process(store, "session")
    with store.commit_lock():
        mark = store.begin_session(9)
        assert sorted(store.live_generations()) == [5, 9]
        ended(child, kill=True)
        assert store.live_generations() == [9]
        mark.end()
        mark.end()
        assert store.live_generations() == []
    assert list((store.path / "sessions").iterdir()) == []


def test_a_session_that_cannot_be_read_counts_as_the_oldest(store):
    with store.commit_lock():
        mark = store.begin_session(9)
        (path,) = (store.path / "sessions").iterdir()
        path.write_bytes(b"?")
        assert store.live_generations() == [0]
        mark.end()


def test_strange_files_among_the_sessions_stay(store):
    (store.path / "sessions" / "folder").mkdir()
    (store.path / "sessions" / "desktop.ini").write_bytes(b"")
    assert store.live_generations() == []
    assert len(list((store.path / "sessions").iterdir())) == 2


@pytest.mark.parametrize("what", ["fifo", "directory", "link", "socket"])
def test_what_is_no_file_is_no_session_and_nobody_waits_for_it(store, what):
    path = store.path / "sessions" / ("0" * 32)
    plant(what, path, store)
    with store.commit_lock():
        mark = store.begin_session(9)
        assert store.live_generations() == [9]
        mark.end()
    assert os.path.lexists(path)
    assert (store.path / "config").exists()


def test_a_session_that_ends_while_they_are_counted_is_not_counted(store, monkeypatch):
    with store.commit_lock():
        mark = store.begin_session(1)
    real = os.open

    def ended_first(path, *args, **kwargs):
        mark.end()
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", ended_first)
    assert store.live_generations() == []


# --- half-written files ---------------------------------------------------------------------------


def test_what_dead_processes_left_is_cleared(store):
    for dies_at in range(1, 4):
        with pytest.raises(Killed):
            Store(store.path, MortalDisk(dies_at)).put_pack(A, b"abc")
        with pytest.raises(Killed):
            Store(store.path, MortalDisk(dies_at)).put_head((0, 1), b"abc")
    assert store.pack_names() == set()
    assert store.head_places() == []
    assert store.clear_leftovers() == 6
    assert store.clear_leftovers() == 0
    store.put_pack(A, b"abc")
    assert store.pack_names() == {A}


@pytest.mark.parametrize("folder", ["packs", "index", "heads"])
def test_what_others_left_half_written_is_theirs(store, tmp_path, folder):
    other = tmp_path / "other"
    shutil.move(store.path / folder, other)
    (store.path / folder).symlink_to(other)
    (other / ".tmp-precious").write_bytes(b"1")
    (store.path / ".tmp-1").write_bytes(b"ours")
    assert store.clear_leftovers() == 1
    assert [p.name for p in other.iterdir()] == [".tmp-precious"]


def test_a_config_is_replaced_whole_or_not(store):
    for dies_at in range(10):
        disk = MortalDisk(dies_at)
        try:
            Store(store.path, disk).replace_config(b"the new one")
        except Killed:
            assert store.read_config() in {b"the config", b"the new one"}
            continue
        assert store.read_config() == b"the new one"
        break
    assert dies_at >= 4
