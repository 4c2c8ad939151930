import os
import threading

import pytest

from core import limits
from core.tree.batch import Batch, one_ahead
from tests.support.trees import open_descriptors


class Noted(Batch):
    """Notes which thread ran it; may wait for an event, or fail."""

    def __init__(self, number, *, wait_for=None, error=None):
        super().__init__()
        self.number = number
        self.ran = threading.Event()
        self.thread = None
        self._wait_for = wait_for
        self._error = error

    def call(self):
        self.thread = threading.current_thread()
        if self._wait_for is not None:
            assert self._wait_for.wait(30)
        self.ran.set()
        if self._error is not None:
            raise self._error


def test_batches_come_in_their_order_and_were_run():
    for count in range(5):
        given = [Noted(number) for number in range(count)]
        taken = []
        for batch in one_ahead(iter(given)):
            assert batch.ran.is_set()
            taken.append(batch)
        assert taken == given


def test_the_next_one_is_run_while_the_caller_works():
    first, second = Noted(0), Noted(1)
    for batch in one_ahead(iter([first, second])):
        if batch is first:
            assert second.ran.wait(30)
    assert second.thread is not threading.current_thread()


def test_the_one_after_is_filled_while_the_next_is_run():
    filled = threading.Event()

    def batches():
        yield Noted(0)
        yield Noted(1, wait_for=filled)  # would wait for ever if it were run before the third came
        filled.set()
        yield Noted(2)

    assert [batch.number for batch in one_ahead(batches())] == [0, 1, 2]


def test_a_single_one_needs_no_thread():
    batch = Noted(0)
    assert list(one_ahead(iter([batch]))) == [batch]
    assert batch.thread is threading.current_thread()


def test_an_error_reaches_the_caller_in_its_turn():
    given = [Noted(0), Noted(1, error=OSError("broken")), Noted(2)]
    batches = one_ahead(iter(given))
    assert next(batches) is given[0]
    with pytest.raises(OSError, match="broken"):
        next(batches)
    assert not given[2].ran.is_set()


@pytest.fixture
def held(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_directories_stay_open_until_the_batch_was_run(tmp_path, held):
    before = open_descriptors()
    batch = Noted(0)
    (tmp_path / "file").touch()
    assert batch.held(b"a") is None
    own = batch.hold(held, b"a")
    assert batch.hold(held, b"b") != own
    assert batch.hold(held, b"a") == batch.held(b"a") == own
    assert len(open_descriptors()) == len(before) + 2
    assert os.fstat(own).st_ino == tmp_path.stat().st_ino
    batch.run()
    assert open_descriptors() == before


def test_nothing_stays_open_after_a_failure(held):
    before = open_descriptors()
    failing = Noted(0, error=OSError("broken"))
    failing.hold(held, b"x")

    def batches(*ready):
        yield from ready
        raise KeyboardInterrupt

    with pytest.raises(OSError, match="broken"):
        list(one_ahead(iter([failing])))
    assert open_descriptors() == before
    for count in (1, 2, 3):
        ready = [Noted(number) for number in range(count)]
        for batch in ready:
            batch.hold(held, b"x")
        with pytest.raises(KeyboardInterrupt):
            list(one_ahead(batches(*ready)))
        assert open_descriptors() == before


def test_a_caller_that_stops_leaves_nothing_open(held):
    before = open_descriptors()

    def batches():
        for number in range(3):
            batch = Noted(number)
            batch.hold(held, b"x")
            yield batch

    running = one_ahead(batches())
    assert next(running).number == 0
    running.close()
    assert open_descriptors() == before


def test_a_batch_is_bounded(held, monkeypatch):
    monkeypatch.setattr(limits, "TREE_BATCH_BYTES_MAX", 100)
    monkeypatch.setattr(limits, "TREE_BATCH_FILES_MAX", 3)
    monkeypatch.setattr(limits, "TREE_BATCH_DIRECTORIES_MAX", 2)
    batch = Noted(0)
    assert batch.fits(1000)  # a large one may go alone
    batch.count()
    batch.bytes = 60
    assert batch.fits(40)
    assert not batch.fits(41)
    batch.count()
    assert batch.fits(0)
    batch.hold(held, b"a")
    batch.hold(held, b"b")
    assert not batch.fits(0)
    batch.let_go()
    assert batch.fits(0)
    batch.count()
    assert not batch.fits(0)
    assert len(batch) == 3
