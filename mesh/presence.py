"""Who is away and who is lost: how long members have been seen to be gone (mesh/SPEC.md, Liveness).

    away    dead as it looks from here: steers dialling and reading
    lost    away for longer than its own habits explain: steers repair; undone when it is seen again

A machine that sleeps every night is away every night, and lost never. What counts is not the time
since somebody was seen, but the time in which we would have seen it: while we run, and while
somebody else is alive for us. So neither our own sleep nor a dead line here makes others lost.
Time comes in by a clock that does not jump, in steps, and is kept; a step that is too long means
that we stood still ourselves.

    file = [1, [[node, last_seen_ms u63, absent_s u32, [absence_s u32...]]...]]

Without the file all begins anew: that costs patience, never data.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from core import codec, limits
from core.ids import NodeId

_VERSION = 1
_QUANTILE = 0.99
_SECONDS_MAX = (1 << 32) - 1


class Standing(Enum):
    """What a member's absence means."""

    PRESENT = "present"
    AWAY = "away"
    LOST = "lost"


class Turned(NamedTuple):
    """Somebody's absence means something else now."""

    node: NodeId
    standing: Standing


@dataclass(slots=True)
class _Life:
    """What is known of one member."""

    last_seen_ms: int = 0
    absent_s: float = 0.0  # of the absence that lasts; 0: none was seen
    absences: deque[int] = field(default_factory=lambda: deque(maxlen=limits.ABSENCES_KEPT))
    told: Standing = Standing.PRESENT


class Presence:
    """The absences of all members."""

    def __init__(self, now: float, grace_s: float = 0.0) -> None:
        self._grace_s = grace_s  # of the owner's policy
        self._at = now
        self._watches = False  # whether we would see who is there
        self._lives: dict[NodeId, _Life] = {}
        self._gone: set[NodeId] = set()  # now
        self._turned: list[Turned] = []

    # --- what happens -----------------------------------------------------------------------------

    def members_are(self, nodes: Iterable[NodeId]) -> None:
        """Remember these and nobody else."""
        members = set(nodes)
        for node in sorted(self._lives.keys() - members):
            self._gone.discard(node)
            if self._lives.pop(node).told != Standing.LOST:
                self._turned.append(Turned(node, Standing.LOST))
        for node in sorted(members - self._lives.keys()):
            self._lives[node] = _Life()

    def saw(self, node: NodeId, now_ms: int) -> None:
        """Any word of it."""
        if (life := self._lives.get(node)) is not None:
            life.last_seen_ms = max(0, now_ms)

    def gone(self, node: NodeId, now: float) -> None:
        """It is dead as it looks from here."""
        self.advance(now)
        if (life := self._lives.get(node)) is not None:
            self._gone.add(node)
            self._judge(node, life)

    def back(self, node: NodeId, now: float) -> None:
        """It is alive."""
        self.advance(now)
        life = self._lives.get(node)
        if life is None:
            return
        if life.absent_s >= limits.ABSENCE_SECONDS_MIN:
            life.absences.append(_whole(life.absent_s))
        life.absent_s = 0.0
        self._gone.discard(node)
        self._judge(node, life)

    def watches(self, now: float, *, does: bool) -> None:
        """Whether we would see now who is there."""
        if does != self._watches:  # asked at every word of anybody: then there is nothing to do
            self.advance(now)
            self._watches = does

    def advance(self, now: float) -> None:
        """Count the time until now."""
        step_s, self._at = now - self._at, now
        if not self._watches or not 0 < step_s <= limits.ABSENCE_STEP_SECONDS_MAX:
            return
        for node in sorted(self._gone):
            life = self._lives[node]
            life.absent_s += step_s
            self._judge(node, life)

    def allow(self, grace_s: float) -> None:
        """From now on the owner's policy is to be patient for so long at least."""
        self._grace_s = grace_s
        for node, life in sorted(self._lives.items()):
            self._judge(node, life)

    # --- what is asked ----------------------------------------------------------------------------

    @property
    def is_counting(self) -> bool:
        """Whether anybody is gone."""
        return bool(self._gone)

    def standing(self, node: NodeId) -> Standing:
        """What its absence means; of strangers, and those put out, nothing is to be had again."""
        life = self._lives.get(node)
        if life is None:
            return Standing.LOST
        if life.absent_s > self.grace_s(node):
            return Standing.LOST
        return Standing.AWAY if node in self._gone or life.absent_s else Standing.PRESENT

    def grace_s(self, node: NodeId) -> float:
        """How long it may be absent before it is lost: as its own past says, within bounds."""
        life = self._lives.get(node)
        own_s = _quantile(life.absences) if life is not None else 0
        own_s = min(own_s, limits.GRACE_SECONDS_MAX)
        return max(limits.GRACE_SECONDS_MIN, own_s, self._grace_s)

    def last_seen_ms(self, node: NodeId) -> int | None:
        """When it was heard last, by our wall clock; None: never."""
        life = self._lives.get(node)
        return life.last_seen_ms or None if life is not None else None

    def absent_s(self, node: NodeId) -> float:
        """How long it was seen to be absent by now."""
        life = self._lives.get(node)
        return life.absent_s if life is not None else 0.0

    def turned(self) -> list[Turned]:
        """What is different since the last call, in order."""
        turned, self._turned = self._turned, []
        return turned

    def _judge(self, node: NodeId, life: _Life) -> None:
        standing = self.standing(node)
        if standing != life.told:
            life.told = standing
            self._turned.append(Turned(node, standing))

    # --- the file ---------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """What is worth keeping."""
        rows = [
            (node, life.last_seen_ms, _whole(life.absent_s), tuple(life.absences))
            for node, life in sorted(self._lives.items())
            if life.last_seen_ms or life.absent_s or life.absences
        ]
        return codec.encode([_VERSION, rows[: limits.PRESENCE_ROWS_MAX]])

    def load_untrusted(self, data: bytes) -> None:
        """Take what a file held, of those who are members; all of it or nothing."""
        row = codec.decode_untrusted(data, bytes_max=limits.PRESENCE_FILE_BYTES_MAX)
        (_, rows) = codec.as_versioned_row(row, _VERSION, 2, "the file of absences")
        found = {}
        for one in codec.as_rows(rows, limits.PRESENCE_ROWS_MAX, "the members"):
            node, life = _life_untrusted(one)
            found[node] = life
        for node in found.keys() & self._lives.keys():
            life = self._lives[node] = found[node]
            life.told = self.standing(node)


def _life_untrusted(row: object) -> tuple[NodeId, _Life]:
    node, seen_ms, absent_s, absences = codec.as_row(row, 4, "the absences of a member")
    life = _Life(codec.as_uint(seen_ms, 63, "when it was seen"))
    life.absent_s = float(codec.as_uint(absent_s, 32, "how long it is absent"))
    for one in codec.as_rows(absences, limits.ABSENCES_KEPT, "the absences"):
        life.absences.append(codec.as_uint(one, 32, "an absence"))
    return NodeId.read_untrusted(node), life


def _quantile(absences: Iterable[int]) -> int:
    """All but one in a hundred are no longer: of a few, none is."""
    in_order = sorted(absences)
    return in_order[math.ceil(_QUANTILE * len(in_order)) - 1] if in_order else 0


def _whole(seconds: float) -> int:
    return min(round(seconds), _SECONDS_MAX)
