"""What every bench shares: the best of several tries, and a table of goals and findings.

Machines are noisy and differ, so a row says what was measured, what it is compared with in the
same run, and the ratio; the best of several tries is the least disturbed one.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_VERDICT = {True: "ok", False: "MISSED", None: ""}


@dataclass(frozen=True)
class Row:
    """One line of the table. `goal` is text, so that any kind of promise fits."""

    what: str
    measured: str
    against: str
    ratio: str
    goal: str
    met: bool | None  # None: there is no goal


def best_s(work: Callable[[], object], *, tries: int = 5, at_least_s: float = 0.05) -> float:
    """Seconds for one call: the best of `tries` rounds, each long enough to be measured."""
    began = time.perf_counter()
    work()
    calls = max(1, round(at_least_s / max(time.perf_counter() - began, 1e-7)))
    rounds = []
    for _ in range(tries):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        rounds.append((time.perf_counter() - began) / calls)
    return min(rounds)


def show(title: str, rows: Iterable[Row]) -> bool:
    """Print the table; whether every goal was met."""
    rows = list(rows)
    heads = ("what", "measured", "against", "ratio", "goal", "")
    cells = [(r.what, r.measured, r.against, r.ratio, r.goal, _VERDICT[r.met]) for r in rows]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(6)]
    print(f"\n{title}")
    for line in [heads, *cells]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    return all(r.met is not False for r in rows)
