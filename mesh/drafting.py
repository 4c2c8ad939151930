"""Drafts go round among admins until enough have signed (mesh/members/drafts.py).

    an admin begins one     every other admin's devices hear of it, but its subject's
    an admin signs it       the same; whoever sees it complete writes it into the list of members
    a link to an admin      both tell all they know, those that were taken back too

What is told is one notice for each draft, the draft as it is then. Only admins are listened to, and
only so much. A draft that knows more of the mesh than we do waits for the list of members.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from core import codec, limits
from core.errors import FormatError, IntegrityError, NewerFormat, PortalError
from core.ids import NodeId, UserId
from mesh.budget import Budget
from mesh.errors import LinkError
from mesh.gossip import Gossip
from mesh.link import Link
from mesh.links import Links, Way
from mesh.members.authoring import Author, NotAllowed
from mesh.members.bodies import Body, UserRole
from mesh.members.drafts import Begun, Draft, Drafts, NoDraft, Paper, same_act
from mesh.members.operation import Cosign
from mesh.members.rules import Void

_log = logging.getLogger(__name__)
NOTICE = "draft"


@dataclass(slots=True)
class _Talk:
    """With one peer, while its link lives."""

    link: Link
    checks: Budget
    owed: dict[bytes, None] = field(default_factory=dict)  # drafts to tell it of
    news: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    was_admin: bool = False


class Drafting:
    """Keeps the drafts, tells and listens; `run` owns the tasks."""

    def __init__(
        self,
        links: Links,
        author: Author,
        gossip: Gossip,
        save: Callable[[bytes], Awaitable[None]],
        now_ms: Callable[[], int],
        ways: Callable[[NodeId], Sequence[Way]] = lambda _node: (),
    ) -> None:
        self.book = Drafts(author.membership)
        self._links = links
        self._author = author
        self._membership = author.membership
        self._gossip = gossip
        self._save = save
        self._now_ms = now_ms
        self._ways = ways
        self._talks: dict[Link, _Talk] = {}
        self._early: OrderedDict[bytes, Draft] = OrderedDict()
        self._tried: dict[bytes, int] = {}  # with so many signatures, in vain
        self._reaching: set[NodeId] = set()
        self._changed = trio.Event()
        self._writing = trio.Lock()
        self._written = b""
        self._watchers: list[Callable[[], None]] = []
        self._nursery: trio.Nursery | None = None
        links.services.notices[NOTICE] = self._hear
        links.watch(self._link_changed)
        gossip.watch(lambda _changes: self._members_changed())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for link in self._links.all():
                    self._begin(link, nursery)
                nursery.start_soon(self._wake_when_sure)
                task_status.started()
                while True:
                    await self._changed.wait()
                    self._changed = trio.Event()
                    await self._catch_up()
        finally:
            self._nursery = None
            self._talks.clear()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Be told whenever a draft has come, changed or gone."""
        self._watchers.append(watcher)

    def remember_untrusted(self, data: bytes) -> None:
        """What was kept."""
        self.book.load_untrusted(data, self._now_s())
        self._changed.set()  # one may be complete

    # --- what people do ---------------------------------------------------------------------------

    def live(self) -> list[Draft]:
        """What waits for signatures."""
        self.book.prune(self._now_s())
        return list(self.book)

    def find(self, draft_id: bytes) -> Draft:
        """One of them."""
        for draft in self.live():
            if draft.id == draft_id:
                return draft
        raise NoDraft("there is no such draft any more", hint="portal drafts")

    async def propose(self, kind: int, body: Body) -> Draft | None:
        """Begin a draft with the signature of this device, or go on with the one it has begun.

        None if it is written already with that. What somebody else has begun is not signed by the
        way: its parents may be of long ago, and void what nobody here meant to.
        """
        user = self._own_user()
        if user is None:
            raise NotAllowed(Void.AUTHOR)
        live, node = self.live(), self._author.node
        ours = same_act((one for one in live if one.paper.node == node), kind, body)
        if ours is not None and self.book.may_sign(ours, user):
            paper = ours.paper
        else:
            theirs = (one for one in live if self.book.may_sign(one, user))
            self._check_new(same_act(theirs, kind, body))
            proposal = self._author.propose(kind, body)
            paper = Paper.written(self._author.key, user, proposal, self._now_s())
        return await self.cosign(Draft(paper), paper.proposal.cosigned(self._author.key, user))

    async def cosign(self, draft: Draft, cosign: Cosign) -> Draft | None:
        """Add a signature that was checked; None if that was the last one, and it is written."""
        if not self.book.may_sign(draft, cosign.user):
            raise NoDraft("this is not yours to sign", hint="portal drafts")
        signed = self.book.put(Draft(draft.paper, (cosign,)), self._now_s())
        signed = signed or self.book.get(draft.id)
        if signed is None:
            raise NoDraft(
                "there is no room for another draft, or it is over",
                hint="portal drafts --withdraw ID",
            )
        if cosign.user not in self.book.signers(signed):
            raise NoDraft("this signature does not count for it")
        if await self._complete(signed):
            return None
        self._spread(signed, None)
        await self._keep()
        return signed

    async def withdraw(self, draft: Draft) -> None:
        """Take back what this device has begun."""
        if draft.paper.node != self._author.node:
            raise NoDraft("only the machine that began it takes it back")
        ended = self.book.put(draft.taken_back(self._author.key), self._now_s())
        if ended is not None:
            self._spread(ended, None)
            await self._keep()

    def _check_new(self, same: Draft | None) -> None:
        if same is None:
            return
        by = self._membership.member(same.paper.node)
        name = by.name if by is not None else same.paper.node.short()
        raise Begun(
            f"{name!r} has begun this already, and nothing was signed here",
            hint=f"portal cosign {same.id.hex()[:8]}",
        )

    def _own_user(self) -> UserId | None:
        member = self._membership.member(self._author.node)
        return None if member is None else member.user  # a damaged list may not know us yet

    def _now_s(self) -> int:
        return self._now_ms() // 1_000

    # --- one peer ---------------------------------------------------------------------------------

    def _link_changed(self, link: Link, is_up: bool) -> None:  # noqa: FBT001 - as links tell it
        if not is_up:
            if talk := self._talks.pop(link, None):
                talk.scope.cancel()
        elif self._nursery is not None:
            self._begin(link, self._nursery)

    def _begin(self, link: Link, nursery: trio.Nursery) -> None:
        budget = Budget(limits.DRAFTS_PER_SECOND, trio.current_time())
        talk = self._talks[link] = _Talk(link, budget)
        nursery.start_soon(self._send, talk)
        self._greet(talk)

    def _greet(self, talk: _Talk) -> None:
        """Tell who is an admin now, and was none when we looked last, of all there is."""
        is_admin = self._membership.can(talk.link.node, UserRole.ADMIN)
        if is_admin and not talk.was_admin:
            for draft in self.book.all():
                self._owe(talk, draft)
        talk.was_admin = is_admin

    def _owe(self, talk: _Talk, draft: Draft) -> None:
        node = talk.link.node
        member = self._membership.member(node)
        if member is None or member.user == self.book.subject(draft):
            return
        if self._membership.can(node, UserRole.ADMIN):
            talk.owed[draft.id] = None
            talk.news.set()

    async def _send(self, talk: _Talk) -> None:
        with talk.scope, suppress(LinkError):  # the next link begins with all of them
            while True:
                await talk.news.wait()
                talk.news = trio.Event()
                while talk.owed:
                    name = next(iter(talk.owed))
                    del talk.owed[name]
                    if (draft := self.book.get(name)) is not None:
                        await talk.link.notify(NOTICE, draft.row())

    async def _hear(self, link: Link, arguments: codec.Row) -> None:
        (value,) = codec.as_row(arguments, 1, "a word about a draft")
        talk = self._talks.get(link)
        if talk is None or not self._membership.can(link.node, UserRole.ADMIN):
            return
        while not talk.checks.take(trio.current_time()):  # it is read more slowly then
            with trio.move_on_after(1 / limits.DRAFTS_PER_SECOND):
                await trio.sleep_forever()
        try:
            draft = Draft.read_untrusted(value, self._membership.mesh_id)
        except NewerFormat:
            return
        except IntegrityError as e:
            link.close("forged")  # nobody honest ever took it
            raise FormatError("a draft that its makers have not signed") from e
        self._take(draft, talk)

    def _take(self, draft: Draft, source: _Talk | None) -> None:
        if self.book.subject(draft) == self._own_user():
            return  # nobody honest tells us
        if not self.book.is_known(draft):
            self._early[draft.id] = draft
            if len(self._early) > limits.DRAFTS_EARLY_MAX:
                self._early.popitem(last=False)
            return
        news = self.book.put(draft, self._now_s())
        if news is not None:
            self._spread(news, source)
            self._changed.set()

    # --- what changes -----------------------------------------------------------------------------

    def _spread(self, draft: Draft, source: _Talk | None) -> None:
        for talk in self._talks.values():
            if talk is not source:
                self._owe(talk, draft)
        self._look_for_admins()
        for watcher in self._watchers:
            watcher()

    def _look_for_admins(self) -> None:
        """In a large mesh not everybody is linked with everybody."""
        for member in self._membership.members():
            node = member.node
            is_wanted = self._membership.can(node, UserRole.ADMIN) and node != self._author.node
            if self._nursery is None or not is_wanted or self._links.get(node) is not None:
                continue
            if node not in self._reaching and (ways := self._ways(node)):
                self._reaching.add(node)
                self._nursery.start_soon(self._reach, node, ways)

    async def _reach(self, node: NodeId, ways: Sequence[Way]) -> None:
        try:
            with suppress(PortalError):  # it will hear when it comes
                await self._links.reach(node, ways)
        finally:
            self._reaching.discard(node)

    def _members_changed(self) -> None:
        early, self._early = self._early, OrderedDict()
        for draft in early.values():
            self._take(draft, None)
        if self.book.prune(self._now_s()):
            for watcher in self._watchers:
                watcher()
        for talk in self._talks.values():
            self._greet(talk)
        self._changed.set()

    async def _catch_up(self) -> None:
        """After what was heard: write what is complete, keep the rest."""
        for draft in self.live():
            try:
                await self._complete(draft)
            except PortalError as e:
                _log.warning("draft %s is not written: %s", draft.id.hex()[:8], e)
        try:
            await self._keep()
        except (PortalError, OSError) as e:
            _log.warning("drafts are not kept: %s", e)

    async def _wake_when_sure(self) -> None:
        """What was complete while this node might not write yet is written then."""
        await self._gossip.remembers.wait()
        self._changed.set()

    async def _complete(self, draft: Draft) -> bool:
        """Write what enough have signed. Whether that was done."""
        count = len(draft.cosigns)
        if not self.book.is_complete(draft) or self._tried.get(draft.id, 0) >= count:
            return False
        await self._gossip.until_sure()  # only then it may write
        now = self.book.get(draft.id)
        if now is None or now.end:
            return now is None  # somebody else has written it meanwhile
        try:
            changes = self._author.publish(draft.paper.proposal, draft.cosigns, self._now_ms())
        except NotAllowed:
            self._tried[draft.id] = count  # each try is dear
            raise
        await self._gossip.publish(changes)
        self.live()
        await self._keep()
        return True

    async def _keep(self) -> None:
        async with self._writing:
            known = {draft.id for draft in self.book.all()}
            self._tried = {name: n for name, n in self._tried.items() if name in known}
            data = self.book.dump()
            if data != self._written and (known or self._written):
                await self._save(data)
                self._written = data
