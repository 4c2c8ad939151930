"""Links on loopback, one process per end: from nothing to an authenticated link, and round trips.

The first link of a process is told apart: qh3 makes its first key then, with a test of itself.
"""

from collections.abc import Iterator
from statistics import median, quantiles

import trio

from mesh.quic.engine import Kind
from tests.bench.table import Row
from tests.support.link_process import Process

LINKS = 30
QUESTIONS = 2_000
GOAL_MS = 25


async def measure(kind: Kind) -> tuple[list[float], list[float]]:
    """Seconds for each link, the first included; and for each round trip."""
    with Process("ann") as ann, Process("bob") as bob:
        await ann.hear("ready")
        ways = [["127.0.0.1", (await bob.hear("ready"))["port"]]]
        ann.tell("set up", to="bob", ways=ways, kind=kind.value, count=1 + LINKS)
        links = (await ann.hear("set up"))["took_s"]
        for _ in range(1 + LINKS):
            await ann.hear("up")
        ann.tell("keep", to="bob", ways=ways, kind=kind.value)
        await ann.hear("up")
        ann.tell("ask", to="bob", count=QUESTIONS)
        return links, (await ann.hear("asked"))["took_s"]


def rows() -> Iterator[Row]:
    """Both engines."""
    for kind in Kind:
        (first, *links), trips = trio.run(measure, kind)
        name, took = kind.value, median(links)
        against = f"first of a process {first * 1e3:.0f} ms"
        yield Row(
            *(f"{name}: link with AUTH, median of {LINKS}", f"{took * 1e3:.1f} ms", against),
            *(f"{first / took:.1f}x", f"<= {GOAL_MS} ms"),
            met=took * 1e3 <= GOAL_MS,
        )
        p99 = quantiles(trips, n=100)[98]
        yield Row(
            *(f"{name}: request and answer, p50", f"{median(trips) * 1e6:.0f} us"),
            *(f"p99 {p99 * 1e6:.0f} us", f"{p99 / median(trips):.1f}x", ""),
            met=None,
        )
