"""Who is alive and who is lost: looks at members by datagram, and listens (mesh/SPEC.md, Liveness).

    state(node)       as it looks from here: alive, suspect, dead (mesh/swim.py)
    standing(node)    what its absence means: present, away, lost (mesh/presence.py)
    watch, watch_standings      be told of every change

A look is one question, sent twice, then through helpers: PROBE_FOR asks a member to put the
question to the other, and that one's answer comes back sealed for us. So a helper can bring a word
or none, but cannot make one up; and what members say of each other only makes us look.

Three tasks: one starts looks when they are due, one tells while there is something to tell, one
counts and keeps absences. Each look, and each question of others that we help with, has a task for
its few seconds.
"""

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from core import limits
from core.errors import PortalError
from core.ids import NodeId
from mesh.datagrams import Message
from mesh.link import Link
from mesh.links import Links
from mesh.messages import (
    Behalf,
    Body,
    Probe,
    Probed,
    ProbeFor,
    ProbeOk,
    State,
    Told,
    View,
    Views,
)
from mesh.port import Port, Question
from mesh.presence import Presence, Standing
from mesh.swim import Look, Outcome, Swim
from mesh.wire import Address

_log = logging.getLogger(__name__)
_ADDRESSES = 2  # of one member that are tried

StateWatcher = Callable[[NodeId, State], None]
StandingWatcher = Callable[[NodeId, Standing], None]


@dataclass(frozen=True, slots=True)
class Around:
    """What liveness needs to know of this node and its mesh."""

    own: NodeId
    members: Callable[[], Iterable[NodeId]]  # all that may connect
    addresses: Callable[[NodeId], Sequence[Address]]  # where one may be, the most promising first
    is_on_line: Callable[[], bool]  # whether this machine has any address
    now_ms: Callable[[], int]
    chance: Callable[[], float]  # in [0, 1)


class Liveness:
    """Looks, listens and tells; `run` owns the tasks."""

    def __init__(
        self, port: Port, links: Links, around: Around, save: Callable[[bytes], Awaitable[None]]
    ) -> None:
        now = trio.current_time()
        self.swim = Swim(around.own, around.chance, now)
        self.presence = Presence(now)
        self.outcomes: Counter[Outcome] = Counter()  # of our looks
        self._port = port
        self._links = links
        self._around = around
        self._save = save
        self._watchers: list[StateWatcher] = []
        self._standing_watchers: list[StandingWatcher] = []
        self._best: dict[NodeId, Address] = {}  # where one answered last
        self._helping: Counter[NodeId] = Counter()  # looks for others under way
        self._nursery: trio.Nursery | None = None
        self._looking = trio.CancelScope()
        self._has_news = trio.Event()
        self._is_due = trio.Event()  # absences are to be counted, or kept
        self._is_kept = True  # what is known of them
        port.listen(self._heard)
        port.on(Probe, self._answer)
        port.on(ProbeFor, self._begin_to_help)
        port.on(Told, self._told)
        links.watch(self._link_changed)
        self.members_changed()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look and tell until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._look_when_due, nursery)
                nursery.start_soon(self._tell_news)
                nursery.start_soon(self._count_absences)
                self.members_changed()
                task_status.started()
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True):
                self.presence.advance(trio.current_time())
                await self._keep()

    # --- what is asked ----------------------------------------------------------------------------

    def state(self, node: NodeId) -> State:
        """How a member looks from here."""
        return State.ALIVE if node == self._around.own else self.swim.state(node)

    def standing(self, node: NodeId) -> Standing:
        """What its absence means; who may not connect is lost."""
        if node == self._around.own:
            return Standing.PRESENT
        return self.presence.standing(node)

    def watch(self, watcher: StateWatcher) -> None:
        """Be told how a member looks now, whenever that changes."""
        self._watchers.append(watcher)

    def watch_standings(self, watcher: StandingWatcher) -> None:
        """Be told what its absence means now, whenever that changes."""
        self._standing_watchers.append(watcher)

    def members_changed(self) -> None:
        """Look at who belongs."""
        others = [node for node in self._around.members() if node != self._around.own]
        self.swim.members_are(others)
        self.presence.members_are(others)
        for node in self._best.keys() - set(others):
            del self._best[node]
        for link in self._links.all():  # to one that is news here, too
            self.swim.linked(link.node, trio.current_time())
        self._settle()

    def allow(self, grace_s: float) -> None:
        """Be patient with who is away for so long at least, as the owner wants it."""
        self.presence.allow(grace_s)
        self._settle()

    def remember_untrusted(self, data: bytes) -> None:
        """What the file of absences held."""
        self.presence.load_untrusted(data)

    def leave(self) -> None:
        """Tell some that we go, so that nobody has to find out."""
        linked = [link.node for link in self._links.all()]
        some = self.swim.some_alive(limits.VIEWS_FANOUT)
        goodbye = Told((View(self._around.own, State.DEAD),))
        for node in list(dict.fromkeys([*linked, *some]))[: limits.LEAVING_TOLD_MAX]:
            self._tell(node, goodbye)

    # --- what happens -----------------------------------------------------------------------------

    def _heard(self, node: NodeId) -> None:
        self.swim.heard(node, trio.current_time())
        self.presence.saw(node, self._around.now_ms())
        self._settle()

    def _link_changed(self, link: Link, is_up: bool) -> None:  # noqa: FBT001 - as links tell it
        now = trio.current_time()
        if is_up:
            self.swim.linked(link.node, now)
            self.presence.saw(link.node, self._around.now_ms())
        elif self._links.get(link.node) is None:
            ago_ms = round((now - link.heard_at) * 1_000)
            seen_ms = self.presence.last_seen_ms(link.node) or 0
            self.presence.saw(link.node, max(seen_ms, self._around.now_ms() - ago_ms))
            self.swim.unlinked(link.node, now)
        self._settle()

    def _take(self, teller: NodeId, views: Views) -> None:
        for node in self.swim.told(teller, views, trio.current_time()):
            if link := self._links.get(node):
                link.ask()
        self._settle()

    def _settle(self) -> None:
        """After anything has happened: pass on what is different, wake who waits."""
        now = trio.current_time()
        for node, state in self.swim.changed():
            _log.debug("%s looks %s", node.short(), state.name.lower())
            self._absence(node, state, now)
            for watcher in self._watchers:
                watcher(node, state)
        self._settle_absences(now)
        if self._nursery is not None:
            self._looking.deadline = min(self._looking.deadline, self.swim.due())
            if self.swim.has_news and not self._has_news.is_set() and self.swim.alive:
                self._has_news.set()

    def _absence(self, node: NodeId, state: State, now: float) -> None:
        if state == State.ALIVE:
            self.presence.back(node, now)
            if self._links.get(node) is None:
                self._links.nudge_one(node)
        elif state == State.DEAD:
            self.presence.gone(node, now)
        if state != State.SUSPECT:
            self._is_kept = False
            self._is_due.set()

    def _settle_absences(self, now: float) -> None:
        if self.presence.is_counting:
            self.presence.watches(now, does=self._would_see())
        for node, standing in self.presence.turned():
            for watcher in self._standing_watchers:
                watcher(node, standing)

    def _would_see(self) -> bool:
        """Whether who is not seen now is not there: not if we are the ones who are cut off."""
        if len(self.swim) <= 1:
            return self._around.is_on_line()
        return self.swim.alive > 0 and not self.swim.is_alone

    # --- looking ----------------------------------------------------------------------------------

    async def _look_when_due(self, nursery: trio.Nursery) -> None:
        while True:
            for look in self.swim.looks(trio.current_time()):
                nursery.start_soon(self._look, look)
            with trio.CancelScope(deadline=self.swim.due()) as self._looking:
                await trio.sleep_forever()

    async def _look(self, look: Look) -> None:
        began = trio.current_time()
        whole_s = _ADDRESSES * look.timeout_s + look.help_s
        with self._port.question(look.node, Probe, whole_s) as question:
            if question is None:  # too much is under way
                self.swim.gave_up(look.node)
            else:
                is_direct = await self._ask(look, question)
                answered = question.answered
                rtt_s = answered.rtt_s if answered is not None and is_direct else None
                now = trio.current_time()
                self.outcomes[self.swim.looked(look.node, began, now, rtt_s)] += 1
                if answered is not None:
                    self._take(look.node, _views(answered.message.body))
        self._settle()

    async def _ask(self, look: Look, question: Question) -> bool:
        """Whether the first direct question was answered; if not, the answer may have come too."""
        addresses = self._addresses(look.node)
        for n, address in enumerate([*addresses, *addresses][:_ADDRESSES]):
            views = () if n or self.swim.state(look.node) != State.ALIVE else self.swim.views()
            self._port.tell(look.node, address, Probe(None, views), question.txid)
            if await question.wait(look.timeout_s):
                self._best[look.node] = address
                return n == 0
        waiting_for = len(look.helpers)
        async with trio.open_nursery() as nursery:

            async def by(helper: NodeId) -> None:
                nonlocal waiting_for
                has_answered = await self._ask_helper(helper, look, question)
                waiting_for -= has_answered
                if not waiting_for:
                    nursery.cancel_scope.cancel()

            for helper in look.helpers:
                nursery.start_soon(by, helper)
            await question.wait(look.help_s if look.helpers else 0)
            nursery.cancel_scope.cancel()
        return False

    async def _ask_helper(self, helper: NodeId, look: Look, question: Question) -> bool:
        """Have a member put the question; whether it has answered at all."""
        addresses = self._addresses(helper)
        if not addresses:
            return False
        asking = ProbeFor(Behalf(look.node, question.txid), self.swim.views())
        answered = await self._port.ask(helper, addresses[0], asking, look.help_s)
        body = answered.message.body if answered is not None else None
        if not isinstance(body, Probed):
            return False
        self._take(helper, body.views)
        if body.proof:
            self._port.arrived(body.proof, addresses[0])
        return True

    def _addresses(self, node: NodeId) -> list[Address]:
        link = self._links.get(node)
        if link is not None and (at := link.connection.peer) is not None:
            return [at]
        found = list(dict.fromkeys(self._around.addresses(node)))
        best = self._best.get(node)
        if best in found:
            found.sort(key=lambda address: address != best)
        return found[:_ADDRESSES]

    # --- answering --------------------------------------------------------------------------------

    def _answer(self, message: Message, source: Address) -> None:
        body = message.body
        assert isinstance(body, Probe)
        proof = b""
        if body.behalf is not None:
            node, txid = body.behalf
            proof = self._port.sealed(node, ProbeOk(), txid) or b""
        answer = ProbeOk(proof, self.swim.views(is_answer=True))
        self._port.tell(message.sender, source, answer, message.txid)
        self._take(message.sender, body.views)

    def _begin_to_help(self, message: Message, source: Address) -> None:
        body, asker = message.body, message.sender
        assert isinstance(body, ProbeFor)
        self._take(asker, body.views)
        if body.behalf.node not in self.swim or body.behalf.node == asker:
            return
        if (
            self._nursery is not None
            and self._helping[asker] < limits.PROBES_SERVED_SENDER_MAX
            and self._helping.total() < limits.PROBES_SERVED_MAX
        ):
            self._helping[asker] += 1
            self._nursery.start_soon(self._help, body.behalf, message, source)

    async def _help(self, behalf: Behalf, message: Message, source: Address) -> None:
        asker, asking = message.sender, Probe(Behalf(message.sender, behalf.txid))
        proof = b""
        try:
            with self._port.question(behalf.node, Probe, limits.PROBE_HELP_SECONDS) as question:
                if question is None:
                    return
                for address in self._addresses(behalf.node):
                    self._port.tell(behalf.node, address, asking, question.txid)
                await question.wait(limits.PROBE_HELP_SECONDS)
                if question.answered is not None:
                    body = question.answered.message.body
                    assert isinstance(body, ProbeOk)
                    proof = body.proof
                    self._take(behalf.node, body.views)
        finally:
            self._helping[asker] -= 1
            if not self._helping[asker]:
                del self._helping[asker]
        answer = Probed(proof, self.swim.views(is_answer=True))
        self._port.tell(asker, source, answer, message.txid)

    # --- telling ----------------------------------------------------------------------------------

    def _told(self, message: Message, _source: Address) -> None:
        body = message.body
        assert isinstance(body, Told)
        self._take(message.sender, body.views)

    async def _tell_news(self) -> None:
        while True:
            await self._has_news.wait()
            with trio.move_on_after(limits.VIEWS_SECONDS):
                await trio.sleep_forever()
            for node in self.swim.some_alive(limits.VIEWS_FANOUT):
                if views := self.swim.views():
                    self._tell(node, Told(views))
            if not self.swim.has_news or not self.swim.alive:
                self._has_news = trio.Event()

    def _tell(self, node: NodeId, body: Body) -> None:
        if addresses := self._addresses(node):
            self._port.tell(node, addresses[0], body)

    # --- absences ---------------------------------------------------------------------------------

    async def _count_absences(self) -> None:
        """While somebody is gone, look at the clock now and then."""
        kept_at = -math.inf
        while True:
            if not self.presence.is_counting:
                await self._is_due.wait()
            self._is_due = trio.Event()
            now = trio.current_time()
            self.presence.advance(now)
            self._settle_absences(now)
            if not self._is_kept or now - kept_at >= limits.PRESENCE_SAVE_SECONDS:
                kept_at = now
                await self._keep()
            with trio.move_on_after(limits.PRESENCE_STEP_SECONDS):
                await trio.sleep_forever()

    async def _keep(self) -> None:
        self._is_kept = True
        try:
            await self._save(self.presence.dump())
        except (PortalError, OSError) as e:
            _log.warning("who was away could not be written: %s", e)


def _views(body: Body) -> Views:
    return body.views if isinstance(body, ProbeOk) else ()
