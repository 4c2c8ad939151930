"""A vault whose writers die and whose disk refuses, at every single step.

What was told is kept; what was not done is as if never begun, but for bytes the next run uses.
"""

import errno
import os
import resource
import shutil
from itertools import count

import pytest

from core import limits
from node.cli import run
from portal.errors import NoVault
from portal.forget import forget, undelete
from tests.support.faults import NO_ROOM, FailingDisk
from tests.support.keeping import DAY_S, NOW_S, files, run_gc
from tests.support.kills import Worker
from tests.support.past import EAGER, PACK_BYTES, SECOND_NS, a_past, half_written, pack_bytes
from tests.support.readback import assert_clean
from tests.support.vaults import NOW_NS, a_vault, back_up, opened


@pytest.fixture(scope="module")
def worker():
    with Worker() as one:
        yield one


@pytest.fixture
def eager(monkeypatch):
    for name, value in EAGER.items():
        monkeypatch.setattr(limits, name, value)


# --- killed at a step ---------------------------------------------------------------------------


def before_a_backup(past):
    now_ns = past.edit(3)
    return {"do": "back_up", "paths": [str(past.docs)], "now_ns": now_ns}


def before_forgetting(past):
    return {"do": "forget", "ids": [past.ids[0].hex()], "now_ns": NOW_NS}


def before_a_collection(past):
    """One that purges, drops, repacks and trashes."""
    past.back_up(3)
    forget(opened(past.place), [past.ids[0]], NOW_S)
    assert run_gc(opened(past.place), NOW_S).trashed_packs
    forget(opened(past.place), [past.ids[1]], NOW_S + 5 * DAY_S)
    return {"do": "collect", "now_ns": (NOW_S + 8 * DAY_S) * SECOND_NS}


def before_undeleting(past):
    forget(opened(past.place), [past.ids[0]], NOW_S)
    assert run_gc(opened(past.place), NOW_S).trashed_packs
    return {"do": "undelete", "ids": [past.ids[0].hex()]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "prepare", [before_a_backup, before_forgetting, before_a_collection, before_undeleting]
)
def test_killed_ahead_of_any_step(tmp_path, worker, eager, prepare):
    past = a_past(tmp_path / "past")
    job = prepare(past) | {"limits": EAGER}
    if job["do"] == "back_up":
        job["options"] = {"threads": 1}
    before = past.live(past.place)
    smooth = past.copy(tmp_path / "smooth")
    ended = worker.run(place=smooth, **job)
    assert not ended.killed, ended
    assert not ended.error, ended
    if job["do"] == "collect":
        assert min(ended.number(what) for what in ("trashed", "purged", "repacked")) > 0
    after, bytes_after = past.live(smooth), pack_bytes(smooth)
    for n in count():
        place = past.copy(tmp_path / f"killed {n}")
        ended = worker.run(place=place, dies_at=n, **job)
        assert not ended.error, ended.error
        found = past.live(place)
        assert found == after or (found == before and not has_told(ended))
        if not ended.killed:
            break
        again = worker.run(place=place, **job)
        assert not again.killed, again
        assert not again.error, again
        assert past.live(place) == after
        assert pack_bytes(place) <= bytes_after + PACK_BYTES
        # What is left of both is cleared by a collection, which takes nothing else away.
        run_gc(opened(place), NOW_S + 5 * DAY_S)
        assert half_written(place) == []
        assert past.live(place) == after
        shutil.rmtree(place)
    assert n >= 5


def has_told(ended):
    return any(line[0] in {"made", "forgot", "undeleted", "trashed"} for line in ended.told)


@pytest.mark.slow
def test_killed_while_a_vault_is_made(tmp_path, worker):
    docs = files(tmp_path / "docs", one=b"1")
    for n in count():
        place = tmp_path / f"killed {n}"
        ended = worker.run("create", place, dies_at=n)
        assert not ended.error, ended.error
        if not ended.killed:
            break
        try:
            opened(place)
        except NoVault:
            a_vault(place)
        back_up(opened(place), docs)
        assert_clean(opened(place))
    assert n >= 12


# --- refused by the system ----------------------------------------------------------------------

OFTEN = [
    (before_a_backup, errno.ENOSPC, True),
    (before_a_backup, errno.EIO, False),
    (before_a_collection, errno.ENOSPC, False),
]
RARELY = [
    (prepare, number, for_good)
    for prepare in (before_a_backup, before_a_collection, before_undeleting, before_forgetting)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
    for for_good in (False, True)
]
REFUSALS = [
    *(pytest.param(*one, marks=pytest.mark.slow) for one in OFTEN),
    *(pytest.param(*one, marks=pytest.mark.deep) for one in RARELY if one not in OFTEN),
]


@pytest.mark.parametrize(("prepare", "number", "for_good"), REFUSALS)
def test_refused_at_any_step(tmp_path, eager, prepare, number, for_good):
    past = a_past(tmp_path / "past")
    job = prepare(past)
    before = past.live(past.place)
    smooth = past.copy(tmp_path / "smooth")
    act(past, smooth, job)
    after = past.live(smooth)
    for n in count():
        place = past.copy(tmp_path / f"refused {n}")
        disk = FailingDisk(n, number, for_good=for_good)
        refused = refusal(past, place, job, disk)
        if not disk.failed and disk.steps <= n:
            break
        assert refused is None or refused.errno == number
        found = past.live(place)
        assert found == after or (found == before and refused is not None)
        if number in NO_ROOM:
            assert half_written(place) == []
        act(past, place, job)
        assert past.live(place) == after
        shutil.rmtree(place)
    assert n >= 4


def act(past, place, job, disk=None):
    vault = opened(place, disk=disk)
    match job["do"]:
        case "back_up":
            back_up(vault, past.docs, now_ns=job["now_ns"], threads=1)
        case "collect":
            run_gc(vault, job["now_ns"] // SECOND_NS)
        case "forget":
            forget(vault, [past.ids[0]], NOW_S)
        case "undelete":
            undelete(vault, [past.ids[0]])


def refusal(past, place, job, disk):
    """The error a run ends with, as the command line would tell it."""
    try:
        with run._one_failure_is_told():
            act(past, place, job, disk)
    except OSError as e:
        return e
    return None


@pytest.mark.slow
def test_the_system_writes_less_than_it_was_given(tmp_path, monkeypatch):
    past = a_past(tmp_path / "past", snapshots=1)
    now_ns = past.edit(2)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:1_000]))
    back_up(opened(past.place), past.docs, now_ns=now_ns)
    assert past.live(past.place) == set(past.made)


@pytest.mark.slow
def test_a_file_may_not_grow_as_long_as_a_pack(tmp_path):
    past = a_past(tmp_path / "past", snapshots=1)
    before = past.live(past.place)
    job = before_a_backup(past)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PACK_BYTES - 1_000, hard))  # part of it is written
    try:
        refused = refusal(past, past.place, job, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused is not None
    assert refused.errno == errno.EFBIG
    assert half_written(past.place) == []
    assert past.live(past.place) == before
    act(past, past.place, job)
    assert past.live(past.place) == set(past.made)
