"""Lanes of a node: where they come in, where they are opened, and their end with their link.

    async with trio.open_nursery() as nursery:
        await nursery.start(doors.run)
        with doors.offer(link, [Kind.UNIX, Kind.TCP], addresses) as offered:
            ... send offered.offer.row() over the link ...
            lane = await offered.lane()

The other side reads the offer and calls `doors.open(link, offer, reach)`. A link is anything that
names it; `doors.drop(link)` ends its offers, its lanes and what is on the way to be one.

Who has not shown a token is a stranger: few are let in, for seconds, and none learns anything. With
nothing on offer they are closed without a byte, and otherwise without a word about why.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import trio

from core import limits
from core.crypto import Entropy, system_entropy
from core.errors import PortalError
from mesh.errors import LinkClosed, LinkError, NotTrusted, Unreachable
from mesh.lanes.lane import Door, Held, Lane, read_exactly
from mesh.lanes.offer import PREFACE_BYTES, Kind, Offer, Offers, Refusal
from mesh.lanes.opening import Reach, open_lane
from mesh.lanes.strangers import Strangers
from mesh.wire import Address


class Refused(NamedTuple):
    """Somebody was sent away."""

    why: Refusal
    kind: Kind
    source: str | None  # None: a process of ours


class NoDoor(NamedTuple):
    """Lanes of this kind cannot come in, and are not offered."""

    kind: Kind
    why: Exception


Tell = Callable[[Refused | NoDoor], None]


def _to_nobody(_event: Refused | NoDoor) -> None:
    pass


class Offered:
    """A lane that was offered and that one task waits for."""

    def __init__(self, offer: Offer, deadline: float) -> None:
        self.offer = offer
        self._deadline = deadline
        self._decided = trio.Event()
        self._lane: Lane | None = None
        self._failure: LinkError = Unreachable("nobody opened the lane in time")

    async def lane(self) -> Lane:
        """The lane, which is the caller's from now on; LinkError when there will be none."""
        with trio.move_on_at(self._deadline):
            await self._decided.wait()
        lane, self._lane = self._lane, None
        if lane is None:
            raise self._failure
        return lane

    def deliver(self, lane: Lane) -> None:
        """It is open."""
        self._lane = lane
        self._decided.set()

    def fail(self, failure: LinkError) -> None:
        """It will not be."""
        self._failure = failure
        self._decided.set()

    def end(self) -> None:
        """Nobody waits any more."""
        if self._lane:
            self._lane.cut()


class Doors:
    """All lanes of a node. Make it, then `run` it in a nursery."""

    def __init__(
        self,
        doors: Iterable[Door[Any]] = (),
        tell: Tell = _to_nobody,
        entropy: Entropy = system_entropy,
    ) -> None:
        self.refused: Counter[Refusal] = Counter()
        self._doors = tuple(doors)
        self._open: dict[Kind, Door[Any]] = {}
        self._tell = tell
        self._entropy = entropy
        self._offers = Offers()
        self._waiting: dict[bytes, tuple[Hashable, Offered]] = {}
        self._strangers = Strangers[trio.CancelScope]()
        self._held = Held()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; then all lanes end. Doors that cannot open stay closed."""
        with ExitStack() as stack:
            stack.callback(self._end)
            async with trio.open_nursery() as nursery:
                for door in self._doors:
                    try:
                        listeners = stack.enter_context(door.listening())
                    except (OSError, PortalError) as e:
                        self._tell(NoDoor(door.kind, e))
                        continue
                    self._open[door.kind] = door
                    nursery.start_soon(self._serve, door, listeners)
                task_status.started()
                await trio.sleep_forever()

    @property
    def kinds(self) -> Collection[Kind]:
        """The kinds of lanes that can be offered now."""
        return self._open.keys()

    # --- our side of a link -----------------------------------------------------------------------

    @contextmanager
    def offer(
        self, link: Hashable, kinds: Collection[Kind], addresses: Sequence[Address] = ()
    ) -> Iterator[Offered]:
        """Offer a lane, for as long as the block runs, over each of these kinds that has a door.

        `addresses` are where the peer may find our TCP port. Unreachable if there is no way at all.
        """
        doors = [door for kind, door in self._open.items() if kind in kinds]
        ways = [way for door in doors for way in door.ways(addresses)]
        if not ways:
            raise Unreachable("no lane can be offered here")
        now = trio.current_time()
        offered = Offered(Offer.make(ways, self._entropy), now + limits.LANE_OFFER_SECONDS)
        lane_id = offered.offer.lane_id
        self._offers.add(link, offered.offer, now)
        self._waiting[lane_id] = (link, offered)
        try:
            yield offered
        finally:
            self._offers.withdraw(lane_id)
            self._waiting.pop(lane_id, None)
            offered.end()

    async def open(self, link: Hashable, offer: Offer, reach: Reach) -> Lane:
        """The lane the peer of this link has offered; LinkError if it cannot be had."""
        with trio.CancelScope() as scope:
            forget = self._held.add(link, scope.cancel)
            try:
                lane = await open_lane(offer, reach)
                if not scope.cancel_called:  # between the answer and here, the link may have ended
                    lane.hold(self._held, link)
                    return lane
                lane.cut()
            finally:
                forget()
        raise LinkClosed("the link ended before the lane was open")

    def drop(self, link: Hashable) -> None:
        """The link has ended, or must not be used any more: at once, all of it."""
        self._offers.drop(link)
        for lane_id in [key for key, (of, _) in self._waiting.items() if of == link]:
            self._waiting.pop(lane_id)[1].fail(LinkClosed("the link has ended"))
        self._held.drop(link)

    def _end(self) -> None:
        self._open.clear()
        for link in {link for link, _ in self._waiting.values()}:
            self.drop(link)
        self._held.drop_all()

    # --- strangers --------------------------------------------------------------------------------

    async def _serve(self, door: Door[Any], listeners: Sequence[trio.abc.Listener[Any]]) -> None:
        async def greet(stream: trio.abc.Stream) -> None:
            await self._greet(door, stream)

        await trio.serve_listeners(greet, list(listeners))

    async def _greet(self, door: Door[Any], stream: trio.abc.Stream) -> None:
        """Whoever has connected, until they are gone: at once, or when their lane ends.

        Whoever listens for connections closes them when this returns.
        """
        try:
            source = door.source(stream)
        except (NotTrusted, OSError) as e:
            why = Refusal.ANOTHER_USER if isinstance(e, NotTrusted) else Refusal.BROKEN
            self._refuse(why, door.kind, None)
            return
        try:
            lane = await self._hear(door, stream, source)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._refuse(Refusal.BROKEN, door.kind, source)
        else:
            if lane:
                await lane.ended()

    async def _hear(
        self, door: Door[Any], stream: trio.abc.Stream, source: str | None
    ) -> Lane | None:
        if not self._offers.wants(door.kind, trio.current_time()):
            self._refuse(Refusal.UNWANTED, door.kind, source)
            return None
        with trio.move_on_after(limits.LANE_TOKEN_SECONDS) as patience:
            makes_way = self._strangers.admit(patience, source)
            if makes_way:
                makes_way.cancel()
            try:
                raw = await door.secure(stream)
                preface = await read_exactly(raw.stream, PREFACE_BYTES)
            finally:
                self._strangers.forget(patience)
            taken = self._offers.take(preface, door.kind, trio.current_time())
            if isinstance(taken, Refusal):
                self._refuse(taken, door.kind, source)
                return None
            link, offer = taken
            return await self._let_in(link, offer, Lane(offer.lane_id, door.kind, raw))
        is_late = trio.current_time() >= patience.deadline
        why = Refusal.TOO_SLOW if is_late else Refusal.CROWDED
        self._refuse(why, door.kind, source)
        return None

    async def _let_in(self, link: Hashable, offer: Offer, lane: Lane) -> Lane | None:
        """From the moment its token was taken the lane is the link's and ends with it."""
        lane.hold(self._held, link)
        _, offered = self._waiting.get(offer.lane_id, (link, None))
        try:
            await lane.send_all(offer.answer())
        except (OSError, trio.BrokenResourceError, trio.Cancelled):
            lane.cut()
            if offered:
                offered.fail(Unreachable("the lane broke as it opened"))
            raise
        if self._waiting.get(offer.lane_id) is None or offered is None:  # it was given up meanwhile
            lane.cut()
            return None
        offered.deliver(lane)
        return lane

    def _refuse(self, why: Refusal, kind: Kind, source: str | None) -> None:
        self.refused[why] += 1
        self._tell(Refused(why, kind, source))
