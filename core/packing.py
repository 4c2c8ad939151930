"""Which chunks go together into a pack, and how big it is; pure arithmetic on their costs.

A full pack is filled from a few more chunks than fit, so that little is wasted at its end. What
remains at the end of a run is spread over the smaller sizes (core/SPEC.md, Packs).
"""

from collections.abc import Sequence
from typing import NamedTuple

from core import limits
from core.pack import cost_bytes, room_bytes
from core.seal import Frame

Content = tuple[int, list[Frame]]  # the size of a pack, and what goes in

_FULL_BYTES = limits.PACK_SIZES_BYTES[-1]
_UNIT_BYTES = limits.PACK_SIZES_BYTES[0]

# The search for what fits best: enough to waste a few KiB of 16 MiB, done in well under 1 ms.
_CANDIDATES_MAX = 24
_TRIES_MAX = 1_000
_GOOD_ENOUGH_BYTES = 8 * limits.KIB
_RECONSIDERED = 2


class Plan(NamedTuple):
    """One pack to be written: its size, and which of the waiting chunks go in."""

    pack_bytes: int
    chunks: list[int]


class Packing:
    """Chunks on their way into packs; never more of them than a full pack and the look-ahead."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._costs: list[int] = []
        self._bytes = 0
        self._pieces = 0

    def add(self, frame: Frame) -> list[Content]:
        """Take in a chunk; gives the size and content of packs that are to be made now.

        That is a full pack when there is enough for one, or all that waits when it holds so many
        small pieces that its index would be large to keep and slow to read.
        """
        cost = cost_bytes(frame)
        self._frames.append(frame)
        self._costs.append(cost)
        self._bytes += cost
        self._pieces += len(frame.pieces)
        if self._bytes >= _FULL_BYTES + limits.PACK_LOOKAHEAD_BYTES:
            return [(_FULL_BYTES, self._take(choose_full(self._costs)))]
        return self.finish() if self._pieces >= limits.PACK_PIECES_TARGET else []

    def finish(self) -> list[Content]:
        """The sizes and contents of the last packs of a run."""
        packs = []
        while self._bytes > room_bytes(_FULL_BYTES):
            packs.append((_FULL_BYTES, self._take(choose_full(self._costs))))
        plans = plan_tail(self._costs)
        packs += [(plan.pack_bytes, [self._frames[i] for i in plan.chunks]) for plan in plans]
        self._frames, self._costs, self._bytes, self._pieces = [], [], 0, 0
        return packs

    def _take(self, chosen: list[int]) -> list[Frame]:
        taken = [self._frames[i] for i in chosen]
        gone = set(chosen)
        self._frames = [frame for i, frame in enumerate(self._frames) if i not in gone]
        self._costs = [cost for i, cost in enumerate(self._costs) if i not in gone]
        self._bytes = sum(self._costs)
        self._pieces = sum(len(frame.pieces) for frame in self._frames)
        return taken


def choose_full(costs: Sequence[int]) -> list[int]:
    """Which chunks fill one pack of the largest size: the oldest, and at its end what fits best.

    The oldest chunks always go, so none waits for ever.
    """
    room = room_bytes(_FULL_BYTES)
    count = 0
    while count < len(costs) and costs[count] <= room:
        room -= costs[count]
        count += 1
    if count == len(costs):
        return list(range(count))
    kept = max(1, count - _RECONSIDERED)
    room += sum(costs[kept:count])
    candidates = list(range(kept, len(costs)))[:_CANDIDATES_MAX]
    return list(range(kept)) + sorted(_fullest(costs, candidates, room))


def plan_tail(costs: Sequence[int]) -> list[Plan]:
    """The packs for the last chunks of a run: the fewest bytes in which they fit.

    All of them together must fit a pack of the largest size.
    """
    if not costs:
        return []
    assert sum(costs) <= room_bytes(_FULL_BYTES)
    largest_first = sorted(range(len(costs)), key=lambda i: -costs[i])
    units = -(-sum(costs) // _UNIT_BYTES)
    while True:
        sizes = _sizes(units)
        contents = _best_fit(costs, largest_first, sizes)
        if contents is not None:
            pairs = zip(sizes, contents, strict=True)
            return [Plan(size, sorted(content)) for size, content in pairs if content]
        units += 1


def _sizes(units: int) -> list[int]:
    """The fewest packs that are so many units together."""
    sizes = []
    for size in reversed(limits.PACK_SIZES_BYTES):
        count, units = divmod(units, size // _UNIT_BYTES)
        sizes += [size] * count
    return sizes


def _best_fit(
    costs: Sequence[int], largest_first: Sequence[int], sizes: Sequence[int]
) -> list[list[int]] | None:
    """Each chunk into the pack it leaves the least room in; None if one fits nowhere."""
    rooms = [room_bytes(size) for size in sizes]
    contents: list[list[int]] = [[] for _ in sizes]
    for i in largest_first:
        fitting = [n for n, room in enumerate(rooms) if costs[i] <= room]
        if not fitting:
            return None
        tightest = min(fitting, key=rooms.__getitem__)
        rooms[tightest] -= costs[i]
        contents[tightest].append(i)
    return contents


def _fullest(costs: Sequence[int], candidates: Sequence[int], room: int) -> list[int]:
    """Of the candidates those that fill the room best, as far as a bounded search finds them."""
    order = sorted(candidates, key=lambda i: -costs[i])
    best_left, best = room, list[int]()
    tries = 0

    def search(start: int, left: int, chosen: list[int]) -> None:
        nonlocal best_left, best, tries
        tries += 1
        if left < best_left:
            best_left, best = left, chosen
        for position in range(start, len(order)):
            if tries >= _TRIES_MAX or best_left <= _GOOD_ENOUGH_BYTES:
                return
            i = order[position]
            if costs[i] <= left:
                search(position + 1, left - costs[i], [*chosen, i])

    search(0, room, [])
    return best
