"""Source to work to sink, on threads that all do everything: nothing is handed from one to another.

    source (one at a time) -> work (several at once) -> sink (one at a time, in order)

Whoever is free takes what is due: a result whose turn has come into the sink, else an item into the
work, else the next items from the source. So an item mostly stays with one thread, and with its
processor's cache, and what is slowest is always under way. No more threads than asked for compute
at once, since one that waits for a processor may be the one all others wait for; a source or a sink
that mostly waits, for a disk or a pipe, does not count. The threads begin and end in `run`.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from core import limits
from core.process import cores

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

_EXTRA_THREADS = 2  # one may be held up in the source and one in the sink while the others work
_COMPUTING_SHARE = 0.5  # of the time in a stage that is spent on a processor; below, it waits
_LATEST_WEIGHT = 0.25  # of the latest time in a stage, when it is told what it mostly does
_THREAD_BYTES = limits.PACK_SIZES_BYTES[-1]  # in flight for each; fresh memory is dear
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # the main thread's business
_LEFT = False  # what a thread says at its end
_INTERRUPTED = True


class Stopped(Exception):
    """The flow was stopped before its end."""


class _Item(NamedTuple, Generic[T]):
    number: int
    size: int
    content: T


class _Stage:
    """The source or the sink: whether somebody is in it, and whether it computes or waits."""

    def __init__(self) -> None:
        self.is_entered = False
        self.computing_share = 0.0  # until it is seen

    @property
    def mostly_waits(self) -> bool:
        return self.computing_share < _COMPUTING_SHARE

    @property
    def is_computing(self) -> bool:
        return self.is_entered and not self.mostly_waits

    @contextmanager
    def entered(self) -> Iterator[None]:
        """By this thread, until the end of the block."""
        self.is_entered = True
        began, began_computing = time.perf_counter(), time.thread_time()
        yield
        took, computed = time.perf_counter() - began, time.thread_time() - began_computing
        self.computing_share += _LATEST_WEIGHT * (computed / max(took, 1e-9) - self.computing_share)
        self.is_entered = False


class Flow(Generic[A, B]):
    """One run: `run()`, once; `stop()` may be called from any thread.

    An item counts as in flight, with the size `size_of` gives it, from the source until the sink
    has taken its result; even an empty one counts a little, so that their number is bounded, too.
    """

    def __init__(
        self,
        source: Iterator[Sequence[A]],
        work: Callable[[A], B],
        sink: Callable[[B], None],
        *,
        size_of: Callable[[A], int],
        bytes_max: int | None = None,
        threads: int | None = None,
    ) -> None:
        self._source = source
        self._work = work
        self._sink = sink
        self._size_of = size_of
        self._threads = threads or cores()
        enough = min(self._threads * _THREAD_BYTES, limits.PIPELINE_BYTES_MAX)
        self._bytes_max = bytes_max or enough
        self._size_min = self._bytes_max // limits.PIPELINE_ITEMS_MAX
        # What follows is looked at and changed by whoever holds this, which nobody does in a stage.
        self._lock = threading.Lock()
        self._parked: list[threading.Lock] = []  # where threads without anything to do wait
        self._count = 0  # items the source has given
        self._waiting = deque[_Item[A]]()  # for room
        self._ready = deque[_Item[A]]()  # charged
        self._done: dict[int, _Item[B]] = {}  # by number, until it is its turn
        self._due = 0
        self._bytes_used = 0
        self._working = 0
        self._drawing, self._sinking = _Stage(), _Stage()
        self._is_drawn_out = self._is_stopped = False
        self._failures: list[BaseException] = []
        self._said = SimpleQueue[bool]()  # to who is in `run`

    def run(self) -> None:
        """Until everything has gone through. The first failure ends it, as does an interrupt.

        Stages that are under way are always waited for. Stopped: `stop` was called before the end.
        """
        crew = [
            threading.Thread(target=self._serve, name=f"flow {n}")
            for n in range(self._threads + _EXTRA_THREADS)
        ]
        was_interrupted = False
        with _interrupts_said_to(self._said):
            try:
                for thread in crew:
                    thread.start()
                left = len(crew)
                while left:
                    if self._said.get() is _INTERRUPTED:
                        was_interrupted = True
                        self.stop()
                    else:
                        left -= 1
            finally:
                self.stop()
                for thread in crew:
                    if thread.ident is not None:
                        thread.join()
        if was_interrupted:
            raise KeyboardInterrupt
        self._tell_failures()

    def stop(self) -> None:
        """Begin nothing any more."""
        with self._lock:
            self._is_stopped = True
            self._wake(len(self._parked))

    def _tell_failures(self) -> None:
        failures, self._failures = self._failures, []  # their tracebacks lead to this object
        if len(failures) > 1:
            raise BaseExceptionGroup("stages failed", failures)
        if failures:
            raise failures[0]
        if not self._is_drawn_out or self._due < self._count:
            raise Stopped

    # --- each thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        with _Leaving(self._failures, self.stop, self._said), self._lock:
            while not self._is_stopped:
                if self._may_sink:
                    self._sink_one(self._done.pop(self._due))
                elif self._may_work:
                    self._work_on(self._ready.popleft())
                elif self._may_draw:
                    self._draw()
                elif self._is_drawn_out and not (self._ready or self._waiting):
                    self._wake(len(self._parked))
                    return  # who still works takes what comes of it to the sink
                else:
                    self._wait()

    @property
    def _may_sink(self) -> bool:
        return self._due in self._done and self._may_enter(self._sinking)

    @property
    def _may_draw(self) -> bool:
        is_wanted = not (self._is_drawn_out or self._waiting)
        return is_wanted and self._may_enter(self._drawing)

    def _may_enter(self, stage: _Stage) -> bool:
        return not stage.is_entered and (self._free > 0 or stage.mostly_waits)

    @property
    def _may_work(self) -> bool:
        return bool(self._ready) and self._free > 0

    @property
    def _free(self) -> int:
        """How many more threads may compute."""
        others = self._drawing.is_computing + self._sinking.is_computing
        return self._threads - self._working - others

    def _wake_others(self) -> None:
        """As many as there is something to do for; one thing is done by who calls this."""
        computing = waiting = 0
        for stage, is_due in ((self._sinking, self._may_sink), (self._drawing, self._may_draw)):
            waiting += is_due and stage.mostly_waits
            computing += is_due and not stage.mostly_waits
        computing = min(computing + len(self._ready), self._free)
        self._wake(max(computing, 0) + waiting - 1)

    def _wait(self) -> None:
        place = threading.Lock()
        place.acquire()
        self._parked.append(place)
        with self._outside():
            place.acquire()

    def _wake(self, count: int) -> None:
        """Those first who have waited least: what they work with is still in the caches."""
        for _ in range(min(count, len(self._parked))):
            self._parked.pop().release()

    def _draw(self) -> None:
        with self._drawing.entered(), self._outside():
            batch = next(self._source, None)
        if batch is None:
            self._is_drawn_out = True
            return
        for item in batch:
            size = max(self._size_of(item), self._size_min)
            assert size <= self._bytes_max  # it would wait for ever
            self._waiting.append(_Item(self._count, size, item))
            self._count += 1
        self._admit()
        self._wake_others()

    def _admit(self) -> None:
        """Charge what there is room for."""
        while self._waiting and self._bytes_used + self._waiting[0].size <= self._bytes_max:
            item = self._waiting.popleft()
            self._bytes_used += item.size
            self._ready.append(item)

    def _work_on(self, item: _Item[A]) -> None:
        self._working += 1
        with self._outside():
            result = self._work(item.content)
        self._working -= 1
        self._done[item.number] = _Item(item.number, item.size, result)
        self._wake_others()

    def _sink_one(self, done: _Item[B]) -> None:
        with self._sinking.entered(), self._outside():
            self._sink(done.content)
        self._due += 1
        self._bytes_used -= done.size
        self._admit()
        self._wake_others()

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """In a stage: others may look at what is to be done."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()


class _Leaving:
    """However a thread ends, it is said; what it failed with is kept, and ends the others."""

    def __init__(
        self, failures: list[BaseException], stop: Callable[[], None], said: SimpleQueue[bool]
    ) -> None:
        self._failures = failures
        self._stop = stop
        self._said = said

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        if error is not None:
            self._failures.append(error)
            self._stop()
        self._said.put(_LEFT)
        return True


@contextmanager
def _interrupts_said_to(said: SimpleQueue[bool]) -> Iterator[None]:
    """Have Ctrl-C ask for the end instead of striking anywhere. A handler of others' stays."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda _number, _frame: said.put(_INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
