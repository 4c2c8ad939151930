"""Much data between two nodes: by the lane that measures best, bound to their link.

    stream = await bulk.open(link, "shards", ...)      served there like any stream of this kind

The peer is asked for a lane, and what cannot be had that way goes over the link's own connection,
so `open` works wherever a link does. What moves is measured as it moves; mesh/tiers.py decides what
the next stream takes. A lane nothing is known of gets a stream now and then until it is measured; a
lane that failed is left alone for some minutes.

    REQUEST "lane"  [[kind...], kind of stream, arguments]  ->  [offer]; or "no_lane", "busy"

Lanes of a link end with it, and so do the tasks that serve them, in the same turn. To who reads, a
lane that was cut may look like one that was finished: what is spoken says itself where things end.
"""

import logging
from collections.abc import Callable, Collection

import trio

from core import codec, limits
from core.errors import FormatError, LimitExceeded
from mesh.errors import LinkError
from mesh.lanes.doors import Doors, Offered
from mesh.lanes.lane import Lane as OpenLane
from mesh.lanes.memory import Hall
from mesh.lanes.offer import Kind, Offer
from mesh.lanes.opening import Reach
from mesh.link import Link, PeerFailed
from mesh.links import Links
from mesh.meter import MeteredStream
from mesh.paths import Paths, Ways
from mesh.quic import engine
from mesh.tiers import Lane, Path, Route, Tier
from mesh.wire import Address

_log = logging.getLogger(__name__)
REQUEST = "lane"
_NO_LANE, _BUSY = "no_lane", "busy"
_WORD_BYTES_MAX = 64
_STREAMS = {engine.Kind.QH3: Lane.QH3, engine.Kind.AIOQUIC: Lane.AIOQUIC}


class Bulk:
    """Opens and serves lanes of all links; `run` owns the tasks."""

    def __init__(
        self,
        links: Links,
        doors: Doors,
        paths: Paths,
        host_tag: bytes,
        tcp_port: Callable[[], int],
        hall: Hall | None = None,
    ) -> None:
        self._links = links
        self._doors = doors
        self._paths = paths
        self._host_tag = host_tag
        self._tcp_port = tcp_port
        self._hall = hall
        self._lanes: dict[Link, _Lanes] = {}
        self._served: dict[Link, set[trio.CancelScope]] = {}
        self._nursery: trio.Nursery | None = None
        links.services.requests[REQUEST] = self._offer
        links.watch(self._link_changed)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen for lanes until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._doors.run)
                self._nursery = nursery
                task_status.started()
        finally:
            self._nursery = None

    async def open(self, link: Link, kind: str, *arguments: object) -> MeteredStream:
        """A stream the peer serves by its kind, over the best lane there is."""
        lanes = self._known(link)
        stream: trio.abc.HalfCloseableStream | None = None
        route = lanes.choose(trio.current_time())
        while stream is None and (wanted := lanes.kind_of(route)) is not None:
            try:
                stream = await self._open_lane(link, wanted, kind, arguments)
            except LinkError as e:
                if link.over.is_set():
                    raise
                _log.debug("no %s lane to %s: %s", wanted.word, link.node.short(), e)
                if isinstance(e, PeerFailed) and e.word != _NO_LANE:  # not the fault of the lane
                    route = lanes.of_link
                else:
                    lanes.failed(route, trio.current_time())
                    route = lanes.choose(trio.current_time())
        if stream is None:
            stream = await link.open_stream(kind, *arguments)
        return lanes.metered(stream, route)

    def explain(self, link: Link) -> str:
        """A line for each way to this peer, for people."""
        return self._known(link).ways.tiers.explain(trio.current_time())

    # --- the side that opens ----------------------------------------------------------------------

    async def _open_lane(
        self, link: Link, wanted: Kind, kind: str, arguments: tuple[object, ...]
    ) -> OpenLane:
        answer = await link.request(REQUEST, (int(wanted),), kind, arguments)
        try:
            (row,) = codec.as_row(answer, 1, "the answer to a wish for a lane")
            offer = Offer.read_untrusted(row)
        except FormatError as e:
            raise LinkError(f"the peer's offer of a lane is not understood: {e.what}") from e
        return await self._doors.open(link, offer, self._reach(link))

    def _reach(self, link: Link) -> Reach:
        seen = link.connection.peer
        hosts = frozenset({seen.host} if seen else ())
        return Reach(hosts, self._is_same_host(link), self._hall)

    def _is_same_host(self, link: Link) -> bool:
        return link.peer.hello.host == self._host_tag

    # --- the side that is asked -------------------------------------------------------------------

    async def _offer(self, link: Link, arguments: codec.Row) -> tuple[object, ...]:
        kinds, kind, inner = _wish_untrusted(arguments)
        if self._nursery is None or link.over.is_set():
            raise PeerFailed(_NO_LANE)
        served = len(self._served.get(link, ()))
        total = sum(map(len, self._served.values()))
        if served >= limits.LANES_SERVED_MAX or total >= limits.LANES_SERVED_TOTAL_MAX:
            raise PeerFailed(_BUSY)
        try:
            offer: Offer = await self._nursery.start(self._serve, link, kinds, kind, inner)
        except LinkError as e:
            raise PeerFailed(_NO_LANE) from e
        return (offer.row(),)

    async def _serve(
        self,
        link: Link,
        kinds: Collection[Kind],
        kind: str,
        arguments: codec.Row,
        *,
        task_status: trio.TaskStatus[Offer],
    ) -> None:
        with trio.CancelScope() as scope:
            served = self._served.setdefault(link, set())
            served.add(scope)
            try:
                with self._doors.offer(link, kinds, self._own_addresses(link)) as offered:
                    task_status.started(offered.offer)
                    lane = await _lane_or_none(offered)
                if lane is not None:
                    await self._serve_lane(link, kind, arguments, lane)
            finally:
                served.discard(scope)
                if not served and self._served.get(link) is served:
                    del self._served[link]

    async def _serve_lane(
        self, link: Link, kind: str, arguments: codec.Row, lane: OpenLane
    ) -> None:
        try:
            await link.serve_stream(kind, arguments, lane)
        finally:
            lane.cut()

    def _own_addresses(self, link: Link) -> list[Address]:
        """Where the peer sees this machine, with the port our lanes come in at."""
        seen, port = link.peer.hello.seen, self._tcp_port()
        return [Address(seen.host, port)] if seen and port else []

    # --- what is known of the ways ----------------------------------------------------------------

    def _link_changed(self, link: Link, is_up: bool) -> None:  # noqa: FBT001 - as links tell it
        if not is_up:
            self._lanes.pop(link, None)
            self._doors.drop(link)
            for scope in self._served.pop(link, ()):
                scope.cancel()

    def _known(self, link: Link) -> "_Lanes":
        ways = self._paths.of(link)  # LinkClosed if it has ended
        lanes = self._lanes.get(link)
        if lanes is None:
            within = [Kind.UNIX, *([Kind.MEMORY] if self._hall else [])]
            here = within if self._is_same_host(link) else []
            lanes = self._lanes[link] = _Lanes(ways, _STREAMS[link.connection.machine.kind], here)
        return lanes


class _Lanes:
    """The lanes to one peer, while its link lives."""

    def __init__(self, ways: Ways, own: Lane, here: Collection[Kind]) -> None:
        self.ways = ways
        self._own = own
        self._here = here  # kinds of lanes within this machine
        self._network: Path | None = None
        self._kinds: dict[Route, Kind | None] = {}
        self._offered: set[Route] = set()  # among these the tiers choose
        self._again_at: dict[Route, float] = {}  # what failed, and when it is tried again
        self._trial_at: dict[Route, float] = {}

    @property
    def of_link(self) -> Route:
        """The streams of the link itself."""
        return Route(self.ways.network, self._own)

    def kind_of(self, route: Route | None) -> Kind | None:
        """The kind of lane to ask for; None for a stream of the link itself."""
        return self._kinds.get(route) if route is not None else None

    def choose(self, now: float) -> Route | None:
        """What the next stream takes."""
        self._settle(now)
        tiers = self.ways.tiers
        held, untried = tiers.bulk(now), tiers.untried(now)
        if held is None:
            return None
        for route in sorted(untried, key=lambda one: one.lane.cpu_ns_per_byte):
            is_worth_it = held not in untried or _is_cheaper(route, held)
            is_due = now >= self._trial_at.get(route, now)
            if is_worth_it and is_due and route.path.tier.rank == held.path.tier.rank:
                self._trial_at[route] = now + limits.LANE_TRIAL_SECONDS
                return route
        return held

    def failed(self, route: Route | None, now: float) -> None:
        """A lane could not be had, or broke."""
        if route is not None and self.kind_of(route) is not None:
            self.ways.tiers.remove_lane(route)
            self._offered.discard(route)
            self._again_at[route] = now + limits.LANE_AGAIN_SECONDS

    def metered(self, stream: trio.abc.HalfCloseableStream, route: Route | None) -> MeteredStream:
        """The stream, measured as that of its route."""
        ways = self.ways
        ways.begin()

        def received(size: int, seconds: float, busy: bool) -> None:  # noqa: FBT001 - a callback
            if route is not None:
                now = trio.current_time()
                ways.tiers.moved(route, size, seconds, now, was_bottleneck=busy)

        def sent(size: int, seconds: float, busy: bool) -> None:  # noqa: FBT001 - a callback
            received(size, seconds, busy)
            if self.kind_of(route) is None:
                ways.sent(size)

        def over(broke: bool) -> None:  # noqa: FBT001 - a callback
            ways.end()
            if broke:
                self.failed(route, trio.current_time())

        return MeteredStream(stream, sent, received, over)

    def _settle(self, now: float) -> None:
        """Offer what might work; what works is found by using it."""
        network, tiers = self.ways.settle(), self.ways.tiers
        if network != self._network:
            self._network = network
            self._kinds = {}
            if Kind.MEMORY in self._here:
                self._kinds[Route(Path(Tier.INPROC), Lane.MEMORY)] = Kind.MEMORY
            if Kind.UNIX in self._here:
                self._kinds[Route(Path(Tier.UNIX), Lane.UNIX)] = Kind.UNIX
            self._kinds |= {Route(network, Lane.TCP): Kind.TCP, Route(network, self._own): None}
        self._offered &= self._kinds.keys()
        for route in self._kinds:
            if route not in self._offered and now >= self._again_at.get(route, now):
                self._offered.add(route)
                tiers.offer(route.path)
                if route.path != network:
                    tiers.answered(route.path, 0.0, now)  # and so it stays while the link lives
                tiers.add_lane(route)


def _is_cheaper(one: Route, than: Route) -> bool:
    return one.lane.cpu_ns_per_byte < than.lane.cpu_ns_per_byte


def _wish_untrusted(arguments: codec.Row) -> tuple[list[Kind], str, codec.Row]:
    numbers, kind, inner = codec.as_row(arguments, 3, "the wish for a lane")
    wanted = {
        codec.as_uint(number, 8, "the kind of a lane")
        for number in codec.as_rows(numbers, limits.LANE_WAYS_MAX, "the kinds of lanes")
    }
    kind = codec.as_text(kind, _WORD_BYTES_MAX, "the kind of stream")
    inner = codec.as_rows(inner, limits.STREAM_OPENING_BYTES_MAX, "the arguments")
    if len(codec.encode(inner)) > limits.STREAM_OPENING_BYTES_MAX:
        raise LimitExceeded("a lane is opened with too many words")
    return [known for known in Kind if known in wanted], kind, inner


async def _lane_or_none(offered: Offered) -> OpenLane | None:
    try:
        return await offered.lane()
    except LinkError:  # nobody came: the peer has found another way
        return None
