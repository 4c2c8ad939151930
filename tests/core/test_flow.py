import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from itertools import count

import pytest

from core import flow, limits
from core.errors import PortalError
from core.flow import Flow, Stopped


class Full(PortalError):
    """The disk is full."""


class Other(PortalError):
    """Something else."""


def flowing(source, work=lambda item: item, sink=lambda _result: None, **options):
    options = {"size_of": lambda _item: 1, "threads": 3} | options
    return Flow(iter(source), work, sink, **options)


def failing(error, at):
    """A stage that fails at one item."""

    def stage(item):
        if item == at:
            raise error
        return item

    return stage


def alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("flow ")]


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("bytes_max", [1, 3, 1_000])
def test_everything_flows_in_order_within_the_budget(threads, bytes_max):
    out, taken, lock = [], 0, threading.Lock()
    first_waits = threading.Event()

    def source():
        for n in range(0, 60, 3):
            yield [n, n + 1, n + 2]
        yield []
        yield [60]

    def work(item):
        nonlocal taken
        with lock:
            taken += 1
            assert taken - len(out) <= bytes_max
        if item == 0 and threads > 1 and bytes_max > 1:
            first_waits.wait(30)  # until a later one has overtaken it
        elif item == 1:
            first_waits.set()
        return -item

    flowing(source(), work, out.append, bytes_max=bytes_max, threads=threads).run()
    assert out == [-n for n in range(61)]
    assert not alive()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_stage_runs_on_as_many_threads_as_it_may(threads):
    inside = Counter()
    most = Counter()
    lock = threading.Lock()
    full = threading.Event()

    def within(stage, held=None):
        with lock:
            inside[stage] += 1
            most[stage] = max(most[stage], inside[stage])
            if most["work"] == threads:
                full.set()
        if held is not None:
            assert held.wait(30)
            give_way()
        with lock:
            inside[stage] -= 1

    flowing(
        ([within("source")] for _ in range(200)),
        lambda _: within("work", full),  # waits until all of them are at work
        lambda _: within("sink"),
        threads=threads,
    ).run()
    assert most == {"source": 1, "work": threads, "sink": 1}


def give_way():
    """Let whoever would come in now do so."""
    for _ in range(30):
        os.sched_yield()


class Clock:
    """Tells how long a stage took and how long of that it computed, the same each time."""

    def __init__(self, share):
        self.perf_counter = count().__next__
        self.thread_time = count(step=share).__next__


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_no_more_threads_compute_at_once_than_may(threads, monkeypatch):
    monkeypatch.setattr(flow, "time", Clock(share=1))
    inside, most, lock = 0, 0, threading.Lock()

    def within(item):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside * (item >= 50))  # it takes some items to see what a stage does
        give_way()
        with lock:
            inside -= 1
        return item

    flowing(([within(n)] for n in range(300)), within, within, threads=threads, bytes_max=9).run()
    assert most <= threads


def test_stages_that_wait_leave_the_processors_to_others(monkeypatch):
    monkeypatch.setattr(flow, "time", Clock(share=0.1))
    all_are_there = threading.Barrier(3)

    def meet(item):
        if item == 50:
            all_are_there.wait(30)
        return item

    def source():
        for n in range(53):
            meet(n - 2)  # when 50 and 51 are in flight already
            yield [n]

    flowing(source(), lambda n: meet(n - 1) + 1, meet, threads=1, bytes_max=9).run()


def test_the_source_goes_on_while_the_sink_is_held_up():
    given = threading.Event()

    def source():
        for n in range(10):
            if n == 9:
                given.set()
            yield [n]

    def sink(item):
        if item == 0:
            assert given.wait(30)

    flowing(source(), sink=sink, threads=1).run()


def test_the_sink_goes_on_while_the_source_is_held_up():
    sunk = threading.Event()

    def source():
        yield [0, 1, 2]
        assert sunk.wait(30)
        yield [3]

    flowing(source(), sink=lambda item: item == 2 and sunk.set(), threads=1).run()


@pytest.mark.parametrize("batches", [[], [[]], [[], [], []]])
def test_nothing_flows_from_an_empty_source(batches):
    flowing(batches, sink=lambda _result: pytest.fail("something came")).run()
    assert not alive()


def test_a_source_is_asked_for_no_more_than_fits():
    given = []

    def source():
        for n in range(100):
            given.append(n)
            yield [n]

    def sink(result):
        # In flight: what fits, one that waits for room, and this one.
        give_way()
        assert len(given) <= result + 4 + 2

    flowing(source(), sink=sink, bytes_max=4).run()
    assert len(given) == 100


def test_even_empty_items_are_bounded_in_number(monkeypatch):
    monkeypatch.setattr(limits, "PIPELINE_ITEMS_MAX", 5)
    given = []

    def sink(result):
        give_way()
        assert len(given) <= result + 5 + 2

    source = ([given.append(n) or n] for n in range(100))
    flowing(source, sink=sink, size_of=lambda _item: 0, bytes_max=50).run()


def test_more_threads_may_have_more_in_flight_up_to_a_limit(monkeypatch):
    few, many = (flowing([], threads=n)._bytes_max for n in (1, 100))
    assert limits.THREAD_HOP_BYTES < few < many == limits.PIPELINE_BYTES_MAX
    monkeypatch.setattr(flow, "cores", lambda: 1)
    assert flowing([], threads=None)._bytes_max == few


@pytest.mark.parametrize("at", [0, 1, 30, 99])
@pytest.mark.parametrize("stage", ["source", "work", "sink"])
def test_a_failure_in_any_stage_ends_the_flow(stage, at):
    fail = failing(Full(), at)
    out = []
    stages = {
        "source": lambda: flowing(([fail(n)] for n in range(100)), sink=out.append),
        "work": lambda: flowing(([n] for n in range(100)), fail, out.append),
        "sink": lambda: flowing(([n] for n in range(100)), sink=lambda n: out.append(fail(n))),
    }
    with pytest.raises(Full):
        stages[stage]().run()
    assert out == list(range(len(out)))
    assert len(out) <= at
    assert not alive()


def test_failures_at_the_same_time_are_all_told():
    both = threading.Barrier(2)

    def work(item):
        both.wait(30)
        raise (Full, Other)[item]

    with pytest.raises(ExceptionGroup) as caught:
        flowing([[0, 1]], work, threads=2).run()
    assert caught.group_contains(Full)
    assert caught.group_contains(Other)


def test_what_a_stage_has_in_hand_when_another_fails_is_waited_for():
    failed, ended = threading.Event(), []

    def work(item):
        if item == 1:
            failed.set()
            raise Full
        assert failed.wait(30)
        ended.append(item)

    with pytest.raises(Full):
        flowing([[0, 1]], work, lambda _: pytest.fail("after a failure"), threads=2).run()
    assert ended == [0]


@pytest.mark.parametrize("stage", ["source", "work", "sink"])
def test_stopped_at_any_stage_it_does_not_look_done(stage):
    out = []

    def stop(item):
        if item == 20:
            running.stop()
        return item

    stages = {name: lambda item: item for name in ("source", "work", "sink")}
    stages[stage] = stop
    running = flowing(
        ([stages["source"](n)] for n in range(1_000)),
        stages["work"],
        lambda n: out.append(stages["sink"](n)),
        bytes_max=8,
    )
    with pytest.raises(Stopped):
        running.run()
    assert out == list(range(len(out)))
    assert len(out) <= 21
    assert not alive()


@pytest.mark.parametrize("stage", ["source", "work", "sink"])
def test_an_interrupt_waits_for_what_is_under_way_and_begins_nothing(stage):
    """Ctrl-C comes in the middle of a stage; the main thread is the one that hears of it."""
    asked, out, ended = threading.Event(), [], []

    class Watched(Flow):
        def stop(self):
            super().stop()
            asked.set()

    def interrupt(item):
        if item == 5:
            os.kill(os.getpid(), signal.SIGINT)
            assert asked.wait(30)
            ended.append(item)
        return item

    stages = {name: lambda item: item for name in ("source", "work", "sink")}
    stages[stage] = interrupt
    running = Watched(
        ([stages["source"](n)] for n in range(1_000)),
        stages["work"],
        lambda n: out.append(stages["sink"](n)),
        size_of=lambda _item: 1,
        bytes_max=4,
        threads=2,
    )
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        running.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert ended == [5]
    assert out == list(range(len(out)))
    assert len(out) <= 10
    assert not alive()


def test_an_interrupt_is_told_even_if_a_stage_fails_then():
    asked = threading.Event()

    class Watched(Flow):
        def stop(self):
            super().stop()
            asked.set()

    def work(_item):
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.wait(30)
        raise Full

    with pytest.raises(KeyboardInterrupt):
        Watched(iter([[1]]), work, print, size_of=lambda _item: 1).run()


def test_who_handles_interrupts_already_goes_on_to_do_so():
    heard = threading.Event()

    def work(item):
        os.kill(os.getpid(), signal.SIGINT)
        assert heard.wait(30)
        return item

    before = signal.signal(signal.SIGINT, lambda _number, _frame: heard.set())
    try:
        out = []
        flowing([[1]], work, out.append).run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert out == [1]


def test_in_another_thread_interrupts_are_left_alone():
    ended = []
    thread = threading.Thread(target=lambda: (flowing([[1]]).run(), ended.append(1)))
    thread.start()
    thread.join(30)
    assert ended == [1]


def test_no_result_is_held_longer_than_it_takes_to_sink_it():
    """What an item lies in is free for the next one as soon as the sink is through with it."""

    class Content:
        pass

    import weakref

    seen = []

    def sink(content):
        seen.append(weakref.ref(content))
        gone = [ref() is None for ref in seen[:-1]]
        assert all(gone[:-3])  # others may be about to let theirs go

    flowing(([Content()] for _ in range(50)), sink=sink, bytes_max=2, threads=1).run()
    assert all(ref() is None for ref in seen)


def test_an_item_that_never_fits_is_a_fault_and_no_endless_wait():
    with pytest.raises(AssertionError):
        flowing([[1]], size_of=lambda _item: 5, bytes_max=4).run()


def test_it_needs_no_event_loop():
    """What packs archives starts quickly, because it does not import one."""
    code = "import sys, core.flow, core.archive.create, core.archive.extract, core.archive.verify; "
    code += "print({'trio', 'asyncio', 'logging', 'nacl', 'cryptography'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
