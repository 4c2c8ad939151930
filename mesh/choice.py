"""Holding on to a choice until another one is better for long enough: no taking turns by noise.

a higher class          is taken at once
nothing usable held     the best is taken at once
within a class          another takes over after three samples in a row in which it should, and
                        not before the last change is 30 s ago
"""

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

SAMPLES_IN_A_ROW = 3
DWELL_SECONDS = 30.0

K = TypeVar("K", bound=Hashable)
C_contra = TypeVar("C_contra", contravariant=True)


class Judge(Protocol[C_contra]):
    """What is better; consulted, never remembered."""

    def rank(self, one: C_contra) -> int:
        """Its class: lower is taken whatever is measured."""

    def order(self, one: C_contra) -> tuple[object, ...]:
        """Which comes first when nothing is measured."""

    def is_better(self, one: C_contra, than: C_contra) -> bool:
        """Whether it is better by so much that it counts."""

    def takes_over(self, one: C_contra, current: C_contra) -> bool:
        """Whether it should be held instead, if that lasts."""


class Choice(Generic[K]):
    """One thing held out of several."""

    def __init__(self, judge: Judge[K], dwell_s: float = DWELL_SECONDS) -> None:
        self.held: K | None = None
        self.switches = 0  # from one to another
        self._judge = judge
        self._dwell_s = dwell_s
        self._since = 0.0
        self._streaks: dict[K, int] = {}

    def settle(self, usable: Collection[K], now: float) -> K | None:
        """What to use now. What is held stays, even unusable, while there is nothing else."""
        rank = self._judge.rank
        if self.held is not None and self.held in usable:
            held_rank = rank(self.held)
            higher = [one for one in usable if rank(one) < held_rank]
            if higher:
                self._turn_to(self._first(higher), now)
        elif usable:
            self._turn_to(self._first(usable), now)
        return self.held

    def sampled(self, measured: Iterable[K], usable: Collection[K], now: float) -> None:
        """There are new figures, to be counted for the candidates `measured`."""
        current = self.settle(usable, now)
        if current is None or current not in usable:
            return
        ready = []
        for one in measured:
            same_class = one in usable and self._judge.rank(one) == self._judge.rank(current)
            if one == current or not same_class or not self._judge.takes_over(one, current):
                self._streaks.pop(one, None)
                continue
            self._streaks[one] = self._streaks.get(one, 0) + 1
            if self._streaks[one] >= SAMPLES_IN_A_ROW:
                ready.append(one)
        if ready and now - self._since >= self._dwell_s:
            self._turn_to(self._first(ready), now)

    def drop(self, one: K) -> None:
        """It is no more."""
        self._streaks.pop(one, None)
        if self.held == one:
            self.held = None

    def _first(self, of: Iterable[K]) -> K:
        """The best, when there is nothing to hold on to."""
        ordered = sorted(of, key=lambda one: (self._judge.rank(one), self._judge.order(one)))
        best = ordered[0]
        for one in ordered:
            same_class = self._judge.rank(one) == self._judge.rank(best)
            if same_class and self._judge.is_better(one, best):
                best = one
        return best

    def _turn_to(self, one: K, now: float) -> None:
        self.switches += self.held is not None
        self.held, self._since = one, now
        self._streaks.clear()
