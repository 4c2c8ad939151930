"""A vault whose machine loses power, at every single step of its history.

What was told is there when the power is back, whole, whatever else became of what was not durable.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import pytest

from core import limits
from core.errors import FormatError, IntegrityError
from portal import gc
from portal.errors import NoVault
from portal.forget import forget, undelete
from portal.session import Session
from portal.store import Store
from tests.support.keeping import DAY_S, NOW_S, run_gc
from tests.support.mortal import Killed
from tests.support.past import EAGER, SECOND_NS, Past, half_written
from tests.support.power import Loss, MortalRecordingDisk, RecordingDisk, Replay, Step
from tests.support.vaults import NOW_NS, a_vault, back_up, opened


@pytest.fixture
def eager(monkeypatch):
    for name, value in EAGER.items():
        monkeypatch.setattr(limits, name, value)


@dataclass
class Told:
    """What somebody was told, or asked for: which snapshots are live for sure, which perhaps."""

    live: frozenset[int]
    perhaps: frozenset[int] = frozenset()


def a_long_past(place):
    """Everything that changes a vault, step by step; and each promise when it was made."""
    place.mkdir()
    past, log = Past(place), list[Step]()
    disk = RecordingDisk(place, log)
    past.vault = a_vault(place, disk=disk)
    live = set[int]()

    def told(*perhaps):
        times = frozenset(NOW_NS + n * SECOND_NS for n in perhaps)
        disk.say(Told(frozenset(live) - times, times))

    def made(*numbers):
        for number in numbers:
            told(number)
            past.back_up(number, disk)
            live.add(NOW_NS + number * SECOND_NS)
            told()

    def change(act, *numbers, now_s=NOW_S):
        told(*numbers)
        act(
            opened(place, disk=disk),
            [past.ids[n - 1] for n in numbers],
            *([now_s] if now_s else []),
        )
        live.symmetric_difference_update(NOW_NS + n * SECOND_NS for n in numbers)
        told()

    told()
    made(1, 2, 3)
    change(forget, 1)
    run_gc(opened(place, disk=disk), NOW_S)
    made(4)
    change(undelete, 1, now_s=0)
    change(forget, 1, 2)
    run_gc(opened(place, disk=disk), NOW_S + DAY_S)
    run_gc(opened(place, disk=disk), NOW_S + 9 * DAY_S)
    made(5)
    return past, log


def after_power_loss(past, log, place, *, losses, every=1, seed="power"):
    """Lose power after each step, and look at what is left."""
    random, replay = Random(seed), Replay(log)
    lost = 0
    while replay.forward():
        if replay.done % every:
            continue
        for loss in losses:
            into = place / f"{replay.done} {loss.name}"
            into.mkdir()
            replay.lose_power(into, loss, random)
            if random.random() < 0.5:
                shutil.copytree(past.place / "cache", into / "cache")  # knows more than is there
            look_after_power_loss(past, into, replay.said, random)
            shutil.rmtree(into)
            lost += 1
    return lost


def look_after_power_loss(past, into, said, random):
    if not said:
        try:
            opened(into)
        except NoVault:
            a_vault(into)
        return
    told = said[-1]
    found = past.live(into)
    assert told.live <= found <= told.live | told.perhaps
    if random.random() < 0.1:
        now_ns = past.now_ns(9)
        back_up(opened(into), past.docs, now_ns=now_ns)
        assert past.live(into) == found | {now_ns}
        run_gc(opened(into), NOW_S + 90 * DAY_S)
        assert past.live(into) == found | {now_ns}
        assert half_written(into) == []


@pytest.mark.slow
def test_power_lost_after_any_step(tmp_path, eager):
    past, log = a_long_past(tmp_path / "past")
    losses = [Loss.ALL, Loss.CHANCE]
    assert after_power_loss(past, log, tmp_path, losses=losses, every=2) > 200


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(2))
def test_power_lost_after_any_step_in_any_way(tmp_path, eager, seed):
    past, log = a_long_past(tmp_path / "past")
    losses = [*Loss, *([Loss.CHANCE] * 6)]
    assert after_power_loss(past, log, tmp_path, losses=losses, seed=f"deep {seed}") > 1_000


def names_of_packs_are_not_synced(patch):
    patch.setattr(Store, "sync_packs", lambda store: None)


def the_name_of_a_head_is_not_synced(patch):
    put = Store._put

    def without_names(store, path, data):
        if path.parent.name != "heads":
            return put(store, path, data)
        return store.disk.rename(store._written(path.parent, data), path)

    patch.setattr(Store, "_put", without_names)


def contents_are_not_synced(patch, folder):
    written = Store._written

    def without_content(store, where, data):
        if where.name != folder:
            return written(store, where, data)
        store._count += 1
        temporary = where / f".tmp-{store._tag}-{store._count}"
        fd = store.disk.make(temporary)
        store.disk.write(fd, data)
        store.disk.close(fd)
        return temporary

    patch.setattr(Store, "_written", without_content)


def packs_are_not_synced(patch):
    contents_are_not_synced(patch, "packs")


def deltas_are_not_synced(patch):
    contents_are_not_synced(patch, "index")


def heads_are_not_synced(patch):
    contents_are_not_synced(patch, "heads")


def a_head_comes_before_its_packs(patch):
    flush, commit = Session.flush, Session.commit

    def late(session, edit):
        patch.setattr(Session, "flush", lambda session: None)
        head = commit(session, edit)
        patch.setattr(Session, "flush", flush)
        flush(session)
        return head

    patch.setattr(Session, "commit", late)


def what_is_taken_back_is_not_synced(patch):
    def without_names(store, names):
        for folder in store._trash_folders():
            for path in list(folder.iterdir()):
                if bytes.fromhex(path.name) in set(names):
                    store.disk.rename(path, store.path / "packs" / path.name)

    patch.setattr(Store, "take_back", without_names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant",
    [
        names_of_packs_are_not_synced,
        the_name_of_a_head_is_not_synced,
        packs_are_not_synced,
        deltas_are_not_synced,
        heads_are_not_synced,
        a_head_comes_before_its_packs,
        what_is_taken_back_is_not_synced,
    ],
)
def test_losing_power_shows_what_is_not_durable(tmp_path, eager, plant):
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        past, log = a_long_past(tmp_path / "past")
    with pytest.raises((AssertionError, IntegrityError, FormatError)):
        after_power_loss(past, log, tmp_path, losses=[Loss.ALL, Loss.CHANCE], every=3)


def backs_up(past, disk):
    back_up(opened(past.place, disk=disk), past.docs, now_ns=NOW_NS + 3 * SECOND_NS)
    return True


def undeletes(past, disk):
    return bool(undelete(opened(past.place, disk=disk), [past.ids[0]]))


@pytest.mark.slow
@pytest.mark.parametrize(("act", "every"), [(backs_up, 2), (undeletes, 1)])
def test_power_lost_after_a_run_that_goes_on_from_a_killed_one(tmp_path, eager, act, every):
    for n in count(0, every):
        base = tmp_path / f"killed {n}"
        base.mkdir()
        past, log = Past(base), list[Step]()
        disk = RecordingDisk(base, log)
        a_vault(base, disk=disk)
        past.back_up(1, disk)
        past.back_up(2, disk)
        if act is undeletes:
            forget(opened(base, disk=disk), [past.ids[0]], NOW_S)
            assert run_gc(opened(base, disk=disk), NOW_S).trashed_packs
        else:
            past.edit(3)
        before = past.live(base)
        is_dead = dies(act, past, MortalRecordingDisk(base, log, n))
        has_told = act(past, disk)
        after = past.live(base)
        for found in after_losing_all_power(past, log):
            assert found == after or (found == before and not has_told)
        shutil.rmtree(base)
        if not is_dead:
            break
    assert n >= 5


def dies(act, past, mortal):
    """Whether it did; what was raised then is Killed, alone or in groups."""
    with suppress(BaseExceptionGroup, Killed):
        act(past, mortal)
        assert not mortal.is_dead
    return mortal.is_dead


def after_losing_all_power(past, log):
    """Which snapshots there are when power is lost at the end."""
    replay, random = Replay(log), Random("at the end")
    while replay.forward():
        pass
    for number, loss in enumerate([*Loss, Loss.CHANCE, Loss.CHANCE]):
        into = past.place / f"lost {number}"
        into.mkdir()
        replay.lose_power(into, loss, random)
        yield past.live(into)


def killed(*_):
    raise Killed


@pytest.mark.slow
def test_power_lost_after_a_run_that_uses_what_a_killed_one_took_back(tmp_path, eager):
    past, log = Past(tmp_path), list[Step]()
    disk = RecordingDisk(tmp_path, log)
    a_vault(tmp_path, disk=disk)
    past.back_up(1, disk)
    past.back_up(2, disk)
    forget(opened(tmp_path, disk=disk), [past.ids[0]], NOW_S)

    session = Session(opened(tmp_path, disk=disk))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(gc, "drop_from_deltas", killed)
        run_gc(opened(tmp_path, disk=disk), NOW_S)
    assert opened(tmp_path).store.trashed()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Store, "sync_packs", killed)
        session.commit(lambda head: head)
    session.end()
    assert not opened(tmp_path).store.trashed()
    with Session(opened(tmp_path, disk=disk)) as session:  # all it needs is there, it seems
        session.commit(
            lambda head: head.with_snapshots([replace(s, forgotten_s=0) for s in head.snapshots])
        )
    for found in after_losing_all_power(past, log):
        assert found == set(past.made)


@pytest.mark.slow
def test_a_vault_in_directories_that_are_new_is_there_after_power_is_lost(tmp_path):
    log = list[Step]()
    a_vault(tmp_path / "some" / "where", disk=RecordingDisk(tmp_path, log))
    replay = Replay(log)
    while replay.forward():
        pass
    into = tmp_path / "lost"
    into.mkdir()
    replay.lose_power(into, Loss.ALL, Random())
    assert not opened(into / "some" / "where").head().snapshots
