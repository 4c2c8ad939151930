"""Who is alive, as one node sees it: whom to look at, what comes of it (mesh/SPEC.md, Liveness).

    heard, linked, left       evidence: a member said something; a link to it lives; it says goodbye
    told                      what others say of others makes us look, and changes nothing by itself
    due, looks, looked        whom to look at now; what came of it
    views                     what we have to tell: our own changes of view, a few times each
    changed                   the changes of view since it was last asked

A member that does not answer while others are heard is suspected, and dead after it was looked at
SUSPICION_LOOKS times more, spread over the time of a suspicion, always in vain and always while
others were heard. So a node that is cut off judges nobody: nothing fails for it, all is void. Any
word of a member ends it at once.

Members with a link are not looked at: within half a minute a link sees that nobody is there.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from core import limits
from core.ids import NodeId
from mesh.budget import Budget
from mesh.messages import State, View, Views

_ALONE_AFTER = 3  # looks in a row that came to nothing
_NEVER = -math.inf


class Outcome(Enum):
    """What came of a look."""

    ANSWERED = "answered"
    FAILED = "failed"  # it did not answer; others did
    VOID = "void"  # nobody did: perhaps we are the ones who are not heard


class Look(NamedTuple):
    """A member to be looked at now."""

    node: NodeId
    timeout_s: float  # for each direct question
    help_s: float  # then, for helpers
    helpers: tuple[NodeId, ...]


class Change(NamedTuple):
    """Somebody looks different now."""

    node: NodeId
    state: State


@dataclass(slots=True)
class _Seen:
    """One member."""

    state: State = State.UNKNOWN
    is_linked: bool = False
    is_looked_at: bool = False  # now
    heard_at: float = _NEVER
    srtt_s: float | None = None
    failures: int = 0  # of looks that count, since it is suspected
    counts_at: float = _NEVER  # when the next one counts: nobody can hurry a suspicion
    hearsay_at: float = _NEVER  # when the word of others made us look, or will


class Swim:
    """The other members of one mesh, and how they look from here."""

    def __init__(self, own: NodeId, chance: Callable[[], float], now: float) -> None:
        self.health = 0  # of our own: 0 is well
        self.alive = 0  # how many of the others are
        self._own = own
        self._chance = chance
        self._members: dict[NodeId, _Seen] = {}
        self._round: list[NodeId] = []  # whose turn comes, the last one first
        self._turn_at = now + limits.PROBE_SECONDS * chance()
        self._soon: OrderedDict[NodeId, float] = OrderedDict()  # looks out of turn, and from when
        self._budget = Budget(limits.LOOKS_PER_SECOND, now)
        self._under_way = 0
        self._voids = 0  # in a row
        self._heard_at = _NEVER  # anybody
        self._news: dict[NodeId, int] = {}  # how often each is still to be told
        self._changed: list[Change] = []

    # --- what is asked ----------------------------------------------------------------------------

    @property
    def is_alone(self) -> bool:
        """Whether we seem to be the ones who are cut off."""
        return self._voids >= _ALONE_AFTER

    def __contains__(self, node: NodeId) -> bool:
        return node in self._members

    def __len__(self) -> int:
        return len(self._members)

    def state(self, node: NodeId) -> State:
        """How a member looks."""
        seen = self._members.get(node)
        return seen.state if seen is not None else State.UNKNOWN

    def states(self) -> dict[NodeId, State]:
        """All of them."""
        return {node: seen.state for node, seen in self._members.items()}

    def changed(self) -> list[Change]:
        """What is different since the last call, in order."""
        changed, self._changed = self._changed, []
        return changed

    # --- who belongs ------------------------------------------------------------------------------

    def members_are(self, nodes: Iterable[NodeId]) -> None:
        """These belong now, and nobody else."""
        others = set(nodes) - {self._own}
        for node in self._members.keys() - others:
            self.alive -= self._members.pop(node).state == State.ALIVE
            self._soon.pop(node, None)
            self._news.pop(node, None)
        for node in sorted(others - self._members.keys()):
            self._members[node] = _Seen()
            self._round.insert(int(self._chance() * (len(self._round) + 1)), node)

    # --- evidence ---------------------------------------------------------------------------------

    def heard(self, node: NodeId, now: float) -> None:
        """A member said something that is authentic."""
        seen = self._members.get(node)
        if seen is None:
            return
        seen.heard_at = now
        self._heard_at = now
        if self.is_alone:  # not any more
            self.health, self._turn_at = 0, min(self._turn_at, now + limits.PROBE_SECONDS)
        self._voids = 0
        self._turn(node, State.ALIVE)

    def linked(self, node: NodeId, now: float) -> None:
        """A link to it is up."""
        seen = self._members.get(node)
        if seen is not None and not seen.is_linked:
            seen.is_linked = True
            self.heard(node, now)

    def unlinked(self, node: NodeId, now: float) -> None:
        """The link has ended: see why."""
        seen = self._members.get(node)
        if seen is not None and seen.is_linked:
            seen.is_linked = False
            if seen.state == State.ALIVE:
                self._look_soon(node, now)

    def left(self, node: NodeId) -> None:
        """It says itself that it goes."""
        self._turn(node, State.DEAD)

    def told(self, teller: NodeId, views: Iterable[View], now: float) -> list[NodeId]:
        """What a member says of others, and of itself: only that is believed.

        Those with a link whose links should be asked.
        """
        doubtful = []
        for node, state in views:
            if node == teller and state == State.DEAD:
                self.left(node)
            elif node == self._own and state != State.ALIVE:
                self._hearsay(teller, now)  # our question shows that we are
            elif (seen := self._members.get(node)) is not None:
                is_other = (state == State.ALIVE) != (seen.state == State.ALIVE)
                if is_other and seen.state != State.UNKNOWN and self._hearsay(node, now):
                    doubtful.append(node)
        return doubtful

    def _hearsay(self, node: NodeId, now: float) -> bool:
        """Look soon, or as soon as may be again; whether it is its link that is to be asked."""
        seen = self._members.get(node)
        if seen is None or now < seen.hearsay_at:
            return False
        at = max(now, seen.hearsay_at + limits.LOOK_AGAIN_SECONDS)
        if not seen.is_linked:
            self._look_soon(node, at)
        elif at > now:
            return False
        seen.hearsay_at = at
        return seen.is_linked

    # --- looking ----------------------------------------------------------------------------------

    def due(self) -> float:
        """When to call `looks`."""
        if self._under_way >= limits.PROBES_MAX:
            return math.inf
        soon = min(self._soon.values(), default=math.inf)
        is_any = any(not seen.is_linked for seen in self._members.values())
        return min(self._turn_at, soon) if is_any else soon

    def looks(self, now: float) -> list[Look]:
        """Whom to look at now; `looked` is to be called for each."""
        found = []
        if now >= self._turn_at:
            self._turn_at = now + self._patience() * limits.PROBE_SECONDS
            if (node := self._next_in_turn()) is not None:
                found.append(self._look(node))
        for node in [node for node, at in self._soon.items() if at <= now]:
            if self._under_way >= limits.PROBES_MAX:
                break
            if self._members[node].is_looked_at or self._members[node].is_linked:
                del self._soon[node]
            elif self._budget.take(now):
                found.append(self._look(node))
            else:  # those behind wait as well, until there may be another
                self._soon[node] = now + 1 / limits.LOOKS_PER_SECOND
        return found

    def looked(self, node: NodeId, began: float, now: float, rtt_s: float | None = None) -> Outcome:
        """What came of a look that began then; the round trip if it answered a direct question."""
        seen = self.gave_up(node)
        if seen is None:
            return Outcome.VOID
        if seen.heard_at >= began:
            if rtt_s is not None:
                seen.srtt_s = rtt_s if seen.srtt_s is None else seen.srtt_s * 0.875 + rtt_s * 0.125
            self.health = max(0, self.health - 1)
            return Outcome.ANSWERED
        if seen.state == State.DEAD or seen.is_linked:
            return Outcome.FAILED
        if self._heard_at >= began:
            self.health = max(0, self.health - 1)
        elif len(self._members) > 1:
            self.health = min(limits.HEALTH_MAX, self.health + 1)
            self._voids += 1
            if not self.is_alone:
                self._look_soon(node, now + limits.PROBE_SECONDS * self._patience())
            return Outcome.VOID
        self._failed(node, seen, now)
        return Outcome.FAILED

    def gave_up(self, node: NodeId) -> "_Seen | None":
        """A look was broken off, and tells nothing."""
        self._under_way -= 1
        seen = self._members.get(node)
        if seen is not None:
            seen.is_looked_at = False
        return seen

    def _failed(self, node: NodeId, seen: _Seen, now: float) -> None:
        if seen.state != State.SUSPECT:
            seen.failures = 0
            self._turn(node, State.SUSPECT)
        elif now >= seen.counts_at:
            seen.failures += 1
            if seen.failures >= limits.SUSPICION_LOOKS:
                self._turn(node, State.DEAD)
                return
        else:
            self._look_soon(node, seen.counts_at)
            return
        seen.counts_at = now + self.suspicion_s() / limits.SUSPICION_LOOKS
        self._look_soon(node, seen.counts_at)

    def suspicion_s(self) -> float:
        """How long somebody is suspected before it is dead."""
        return 6 * math.log10(len(self._members) + 2) * limits.PROBE_SECONDS

    def _look(self, node: NodeId) -> Look:
        seen = self._members[node]
        seen.is_looked_at = True
        self._soon.pop(node, None)
        self._under_way += 1
        timeout_s = limits.PROBE_TIMEOUT_SECONDS_MIN
        if seen.srtt_s is not None:
            timeout_s = min(max(timeout_s, 4 * seen.srtt_s), limits.PROBE_TIMEOUT_SECONDS_MAX)
        least_s = timeout_s + limits.PROBE_HELP_SECONDS
        help_s = max(limits.PROBE_WHOLE_SECONDS_MIN - 2 * timeout_s, least_s)
        count = limits.PROBE_HELPERS if seen.state != State.DEAD else limits.PROBE_HELPERS_DEAD
        helpers = self.some_alive(count, without=node)
        patience = self._patience()
        return Look(node, timeout_s * patience, help_s * patience, tuple(helpers))

    def _next_in_turn(self) -> NodeId | None:
        """Whose turn it is, in an order by chance that is another one each time."""
        for _ in range(2):
            while self._round:
                node = self._round.pop()
                seen = self._members.get(node)
                if seen is None or seen.is_linked or seen.is_looked_at:
                    continue
                if node not in self._soon:
                    return node
            self._round = self._shuffled(list(self._members))
        return None

    def _look_soon(self, node: NodeId, at: float) -> None:
        self._soon[node] = min(at, self._soon.get(node, math.inf))

    def _patience(self) -> int:
        return 1 + self.health

    # --- telling ----------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._news)

    def views(self, *, is_answer: bool = False) -> Views:
        """What goes with the next message: what was told least, first.

        In answers it does not count as told: else whoever asks a lot would hear all of it alone.
        """
        if not self._news:
            return ()
        often = sorted(self._news, key=lambda node: -self._news[node])
        told = often[: limits.VIEWS_TOLD_MAX]
        views = tuple(View(node, self._members[node].state) for node in told)
        for node in () if is_answer else told:
            self._news[node] -= 1
            if not self._news[node]:
                del self._news[node]
        return views

    def some_alive(self, count: int, without: NodeId | None = None) -> list[NodeId]:
        """So many members by chance, of those that are alive."""
        alive = [
            node
            for node, seen in self._members.items()
            if seen.state == State.ALIVE and node != without
        ]
        found: list[NodeId] = []
        while alive and len(found) < count:
            i = int(self._chance() * len(alive))
            alive[i], alive[-1] = alive[-1], alive[i]
            found.append(alive.pop())
        return found

    def _turn(self, node: NodeId, state: State) -> None:
        """Look at somebody in another way from now on."""
        seen = self._members.get(node)
        if seen is None or seen.state == state:
            return
        before, seen.state = seen.state, state
        self.alive += (state == State.ALIVE) - (before == State.ALIVE)
        self._changed.append(Change(node, state))
        if state != State.SUSPECT:
            self._soon.pop(node, None)
        # Who starts finds most of them alive, and some not: that is nobody's news.
        if before == State.UNKNOWN:
            return
        if before == State.SUSPECT and state == State.DEAD:
            return  # whoever heard of the suspicion knows by now
        self._news[node] = 4 * math.ceil(math.log10(len(self._members) + 2))

    def _shuffled(self, nodes: list[NodeId]) -> list[NodeId]:
        for last in range(len(nodes) - 1, 0, -1):
            i = int(self._chance() * (last + 1))
            nodes[last], nodes[i] = nodes[i], nodes[last]
        return nodes
