"""The largest datagram a path carries, found by probing (RFC 8899 in spirit).

Every path is taken to carry 1,200 bytes. Larger sizes are tried from below, one at a time, with
MTU datagrams that must not be fragmented; a size is too large when three of them get no answer, for
loss alone proves nothing. Since a size may have failed by bad luck and routes change, what is above
is tried again every ten minutes. When the path has become smaller, the socket says so (EMSGSIZE) or
full datagrams vanish: then the size falls back to 1,200 at once and is searched anew.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from core import limits

# What is always taken to pass; tunnels; WireGuard; PPPoE and Ethernet, each with IPv6 and IPv4; and
# jumbo frames with both.
SIZES_BYTES = (1_200, 1_280, 1_350, 1_372, 1_444, 1_452, 1_464, 1_472, 8_952, 8_972)
BLACK_HOLE_LOSSES = 6  # full datagrams in a row that vanished while smaller ones arrived

P = TypeVar("P", bound=Hashable)


class PathMtu:
    """The search on one path."""

    def __init__(self, size_max: int = limits.DATAGRAM_PROBE_BYTES_MAX) -> None:
        self.best = SIZES_BYTES[0]
        self._sizes = tuple(size for size in SIZES_BYTES if size <= size_max)
        self._ceiling = len(self._sizes)  # index of the first size that is known not to pass
        self._tries = 0  # of the next size
        self._waiting: tuple[int, float] | None = None  # the probe on its way, and its deadline
        self._again_at: float | None = None  # when the ceiling is lifted
        self._vanished = 0

    def probe(self, now: float) -> int | None:
        """The size to probe now, if there is one; it counts as sent."""
        self._expire(now)
        if self._waiting is not None:
            return None
        if self._again_at is not None and now >= self._again_at:
            self._ceiling, self._again_at, self._tries = len(self._sizes), None, 0
        number = self._sizes.index(self.best) + 1
        if number >= self._ceiling:
            return None
        size = self._sizes[number]
        self._waiting = (size, now + limits.PATH_MTU_PROBE_SECONDS)
        self._tries += 1
        return size

    def timer(self, now: float) -> float | None:
        """When to call `probe` again; nothing when everything is known and passes."""
        if self._waiting is not None:
            return self._waiting[1]
        if self._sizes.index(self.best) + 1 < self._ceiling:
            return now
        return self._again_at

    def acked(self, size: int, now: float) -> bool:
        """A probe of this size arrived; whether `best` grew by it.

        A late answer counts as well: it did arrive. An answer to what was never sent does not.
        """
        number = self._sizes.index(self.best) + 1
        if self._tries == 0 or number >= len(self._sizes) or size != self._sizes[number]:
            return False
        self.best = size
        self._tries, self._waiting, self._vanished = 0, None, 0
        if number >= self._ceiling:  # so late that it was given up: then larger ones may pass, too
            self._set_ceiling(len(self._sizes), now)
        return True

    def too_large(self, size: int, now: float) -> None:
        """The socket refused a datagram of this size (EMSGSIZE)."""
        if size <= SIZES_BYTES[0]:
            return  # nothing smaller is ever sent
        fitting = [number for number, known in enumerate(self._sizes) if known < size]
        self._tries, self._waiting = 0, None
        if size <= self.best:
            self.best, self._vanished = SIZES_BYTES[0], 0
        self._set_ceiling(fitting[-1] + 1, now)

    def delivered(self, size: int) -> None:
        """A datagram of this size arrived, as the connection's acknowledgements tell."""
        if size > SIZES_BYTES[0]:
            self._vanished = 0

    def lost(self, size: int, now: float) -> None:
        """A datagram of this size vanished, while smaller ones arrived."""
        if not SIZES_BYTES[0] < size <= self.best:
            return
        self._vanished += 1
        if self._vanished >= BLACK_HOLE_LOSSES:
            failed = self._sizes.index(self.best)
            self.best, self._vanished = SIZES_BYTES[0], 0
            self._tries, self._waiting = 0, None
            self._set_ceiling(failed, now)

    def _expire(self, now: float) -> None:
        if self._waiting is None or now < self._waiting[1]:
            return
        size, _ = self._waiting
        self._waiting = None
        if self._tries >= limits.PATH_MTU_TRIES:
            self._set_ceiling(self._sizes.index(size), now)

    def _set_ceiling(self, number: int, now: float) -> None:
        self._ceiling = number
        known_to_end = number >= len(self._sizes)
        self._again_at = None if known_to_end else now + limits.PATH_MTU_AGAIN_SECONDS


class PathMtus(Generic[P]):
    """The searches on all paths; of those used least lately the knowledge is dropped."""

    def __init__(self, paths_max: int = limits.PATH_MTU_PATHS_MAX) -> None:
        self._paths_max = paths_max
        self._paths: OrderedDict[P, PathMtu] = OrderedDict()

    def of(self, path: P) -> PathMtu:
        """What is known of a path; kept over connections."""
        found = self._paths.get(path)
        if found is None:
            found = self._paths[path] = PathMtu()
            if len(self._paths) > self._paths_max:
                self._paths.popitem(last=False)
        self._paths.move_to_end(path)
        return found
