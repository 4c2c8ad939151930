"""When which connection wants to be woken: a heap that forgets, and never outgrows its users.

Setting a later time than the one that stands needs nothing: who is woken too early looks at the
clock and sets a new time. So a busy connection, whose times only ever move back, costs nothing.
"""

import heapq
import math

_STALE_FACTOR = 2
_STALE_FREE = 64


class Timers:
    """Numbers of connections by the time they are to be woken."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._due: dict[int, float] = {}  # what in the heap still counts

    def __len__(self) -> int:
        return len(self._due)

    @property
    def next_at(self) -> float:
        """When to look again; never: infinity."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def set(self, number: int, at: float) -> None:
        """Wake it then, if it is not to be woken before."""
        if at < self._due.get(number, math.inf):
            self._due[number] = at
            heapq.heappush(self._heap, (at, number))
            if len(self._heap) > _STALE_FACTOR * len(self._due) + _STALE_FREE:
                self._heap = [(due, one) for one, due in self._due.items()]
                heapq.heapify(self._heap)

    def forget(self, number: int) -> None:
        """It is history."""
        self._due.pop(number, None)

    def take_due(self, now: float) -> list[int]:
        """Those whose time has come; each may set a new one."""
        found = []
        while self.next_at <= now:
            _, number = heapq.heappop(self._heap)
            del self._due[number]
            found.append(number)
        return found
