"""The list of members, kept equal with every linked peer (mesh/SPEC.md, Sync).

    a link comes up      both compare what the HELLOs said; who misses something asks
    something is new     whom it bars loses the link; it is written; then every other link hears
    once a minute        one kept link by chance is told what we know, in case a push was lost

One task writes, in the order in which things came, and nothing leaves this node before what came
earlier is on disk: what others hear from us we have kept. When writing fails, `run` ends with the
error and nothing more is told.

Each peer has a bounded box and a task that empties it, so that two peers who send each other much
never wait in a circle. A peer's questions are answered there too, one after the other and not more
often than once a second, as an answer may be the whole list.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from core import codec, limits
from core.errors import FormatError, IntegrityError, PortalError, Unavailable
from mesh.budget import Budget
from mesh.errors import LinkError
from mesh.link import Link
from mesh.links import Links
from mesh.members import sync
from mesh.members.membership import Changes, Membership
from mesh.members.sync import Exchange, Message
from mesh.recollection import Recollection

_log = logging.getLogger(__name__)
NOTICE = "members"
_QUESTIONS = {Message.WANT, Message.WANT_ALL}

Save = Callable[[Changes], Awaitable[None]]
Watcher = Callable[[Changes], None]


@dataclass(frozen=True, slots=True)
class _Question:
    """What a peer asked; it waits for its turn."""

    data: bytes


@dataclass(slots=True)
class _Talk:
    """With one peer, while its link lives."""

    link: Link
    exchange: Exchange
    box: trio.MemorySendChannel[bytes | _Question]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    asks: bool = False  # a question of it waits or is being answered


@dataclass(slots=True)
class _Work:
    """What came, on its way to the disk; then `frames` go to the talk, and pushes to all others."""

    changes: Changes
    talk: _Talk | None = None
    frames: tuple[bytes, ...] = ()
    done: trio.Event = field(default_factory=trio.Event)
    is_kept: bool = False


class Gossip:
    """Tells and listens; `run` owns the tasks."""

    def __init__(
        self,
        links: Links,
        membership: Membership,
        save: Save,
        chance: Callable[[], float] = lambda: 0.0,  # in [0, 1)
        past: Recollection | None = None,
    ) -> None:
        self._links = links
        self._membership = membership
        self._save = save
        self._chance = chance
        self._talks: dict[Link, _Talk] = {}
        self._watchers: list[Watcher] = []
        self._nursery: trio.Nursery | None = None
        self._past = past
        self.remembers = trio.Event()  # what this node wrote; see until_sure
        self._failure: PortalError | None = None
        self._has_ended = False
        # Unbounded, as what is in memory must reach the disk: links are not read while it is long.
        self._work, self._to_write = trio.open_memory_channel[_Work](float("inf"))
        links.services.notices[NOTICE] = self._hear
        links.watch(self._link_changed)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, or until something cannot be written: then it ends with why."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write_all, nursery.cancel_scope)
                nursery.start_soon(self._tell_now_and_then)
                nursery.start_soon(self._look_back)
                for link in self._links.all():
                    self._begin(link, nursery)
                task_status.started()
        finally:
            self._nursery, self._has_ended = None, True
            self._talks.clear()
            self._give_up()
        if self._failure is not None:
            raise self._failure

    def watch(self, watcher: Watcher) -> None:
        """Be told of all that changes, once it is on disk."""
        self._watchers.append(watcher)

    async def publish(self, changes: Changes) -> None:
        """Keep what this node has just written, then tell everybody; an error if it is not kept.

        To be called before anything else is awaited: what is written may be told from then on.
        """
        work = self._enqueue(_Work(changes))
        await work.done.wait()
        if not work.is_kept:
            raise self._failure or _ended()

    async def until_sure(self) -> None:
        """Wait a moment until this node knows what it wrote; Forgetful if it may not write."""
        if self._past is None or self._look():
            return
        # Of whole files it is only a matter of time; a question of a command has less than 30 s.
        patience = 4 if self._past.is_whole else 1
        with trio.move_on_after(patience * limits.RECOLLECTION_SECONDS):
            await self.remembers.wait()
        self._past.check()

    def insist(self) -> None:
        """Wait for nobody any more: a person says that all who will ever come were heard."""
        if self._past is not None:
            self._past.insist()
            self._look()

    async def _look_back(self) -> None:
        """Listen to those who can be reached; a peer that goes on and on does not hold us up."""
        for seconds in (limits.RECOLLECTION_SECONDS, limits.GOSSIP_SECONDS):
            with trio.move_on_after(seconds):
                await self.remembers.wait()
            if all(talk.exchange.is_level for talk in self._talks.values()):
                break
        if self._past is not None:
            self._past.waited()
            self._look()

    def _look(self) -> bool:
        if self._past is None or self._past.look():
            self.remembers.set()
        return self.remembers.is_set()

    def _listen(self, talk: _Talk) -> None:
        if talk.exchange.is_level and self._past is not None:
            self._past.heard(talk.link.node)
            self._look()

    # --- one peer ---------------------------------------------------------------------------------

    def _link_changed(self, link: Link, is_up: bool) -> None:  # noqa: FBT001 - as links tell it
        if not is_up:
            if talk := self._talks.pop(link, None):
                talk.scope.cancel()
        elif self._nursery is not None:
            self._begin(link, self._nursery)

    def _begin(self, link: Link, nursery: trio.Nursery) -> None:
        box, outgoing = trio.open_memory_channel[bytes | _Question](limits.GOSSIP_FRAMES_MAX)
        talk = self._talks[link] = _Talk(link, Exchange(self._membership), box)
        nursery.start_soon(self._send, talk, outgoing)
        self._put(talk, talk.exchange.on_news(link.peer.hello.news))
        self._listen(talk)

    async def _send(
        self, talk: _Talk, outgoing: trio.MemoryReceiveChannel[bytes | _Question]
    ) -> None:
        budget = Budget(limits.GOSSIP_QUESTIONS_PER_SECOND, trio.current_time())
        with talk.scope, outgoing:
            try:
                async for one in outgoing:
                    if isinstance(one, bytes):
                        await talk.link.notify(NOTICE, one)
                        continue
                    for frame in await self._answer_untrusted(talk, one.data, budget):
                        await talk.link.notify(NOTICE, frame)
                    talk.asks = False
            except LinkError:
                pass  # the next link begins with what is missing then
            except FormatError as e:
                _log.warning("%s asks what is not understood: %s", talk.link.node.short(), e)
                talk.link.close("malformed")

    async def _answer_untrusted(
        self, talk: _Talk, question: bytes, budget: Budget
    ) -> tuple[bytes, ...]:
        while not budget.take(trio.current_time()):
            with trio.move_on_after(1 / limits.GOSSIP_QUESTIONS_PER_SECOND):
                await trio.sleep_forever()
        frames = talk.exchange.on_frame_untrusted(question).frames
        work = self._enqueue(_Work(Changes()))
        await work.done.wait()  # then all that is told here is on disk
        return frames if work.is_kept else ()

    def _put(self, talk: _Talk, frames: tuple[bytes | _Question, ...]) -> None:
        for frame in frames:
            try:
                talk.box.send_nowait(frame)
            except trio.WouldBlock:  # it reads more slowly than it asks: the next link begins anew
                talk.link.close("too slow")
                return
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return

    async def _hear(self, link: Link, arguments: codec.Row) -> None:
        (frame,) = codec.as_row(arguments, 1, "a word about members")
        data = codec.as_bytes(frame, "it", size_max=limits.LINK_FRAME_BYTES_MAX)
        talk = self._talks.get(link)
        if talk is None or self._has_ended:
            return
        if _is_question(data):
            if talk.asks:  # nobody does who waits for the answer
                talk.link.close("asks too much")
                return
            talk.asks = True
            self._put(talk, (_Question(data),))
            return
        answer = talk.exchange.on_frame_untrusted(data)
        self._listen(talk)
        for refusal in answer.changes.refused[:1]:
            _log.warning("%s passed on what does not hold: %s", link.node.short(), refusal)
        if any(isinstance(refusal, IntegrityError) for refusal in answer.changes.refused):
            link.close("forged")  # nobody honest ever took it, and each costs us a signature
        work = self._enqueue(_Work(answer.changes, talk, answer.frames))
        if self._to_write.statistics().current_buffer_used > limits.GOSSIP_WRITES_MAX:
            await work.done.wait()

    # --- what is new ------------------------------------------------------------------------------

    def _enqueue(self, work: _Work) -> _Work:
        # At once: nothing of a barred device is served while the disk is written.
        for node in work.changes.barred:
            self._links.drop(node, "revoked")
        if self._has_ended:
            raise self._failure or _ended()
        self._work.send_nowait(work)
        return work

    async def _write_all(self, all_ends: trio.CancelScope) -> None:
        async for work in self._to_write:
            try:
                if work.changes.added:
                    await self._save(work.changes)
            except (PortalError, OSError) as e:
                self._failure = e if isinstance(e, PortalError) else _not_written(e)
                self._has_ended = True
                all_ends.cancel()
                work.done.set()
                return
            work.is_kept = True
            if work.changes.added:
                self._spread(work)
            if work.talk is not None:
                self._put(work.talk, work.frames)
            work.done.set()

    def _spread(self, work: _Work) -> None:
        frames = tuple(sync.push_frames(work.changes))
        for talk in list(self._talks.values()):
            if talk is not work.talk:
                self._put(talk, frames)
        for watcher in self._watchers:
            watcher(work.changes)

    def _give_up(self) -> None:
        """Nobody writes any more: who waits for it shall know."""
        self._work.close()
        while True:
            try:
                self._to_write.receive_nowait().done.set()
            except (trio.WouldBlock, trio.EndOfChannel):
                return

    async def _tell_now_and_then(self) -> None:
        while True:
            with trio.move_on_after(limits.GOSSIP_SECONDS):
                await trio.sleep_forever()
            # Telling counts as use, and a link nobody wants to keep shall end.
            talks = [talk for link, talk in self._talks.items() if link.wanted or link.is_used]
            if talks:
                chosen = talks[int(self._chance() * len(talks))]
                work = _Work(Changes(), chosen, (sync.tell_frame(self._membership),))
                self._enqueue(work)


def _is_question(data: bytes) -> bool:
    """By its first bytes, as there is one encoding: an array, the version, the message."""
    return len(data) > 2 and data[2] in _QUESTIONS


def _not_written(error: OSError) -> PortalError:
    return PortalError(
        f"the list of members cannot be written: {error.strerror or error}",
        where=error.filename,
        hint="make room, or see to the disk, and start again",
    )


def _ended() -> PortalError:
    return Unavailable("this node is not running: the list of members is not being written")
