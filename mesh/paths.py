"""What is known of the ways to peers by measuring, as long as there are links to them.

    of(link)                 its ways: round trips, trust, goodput (mesh/tiers.py)
    kind(node)               the engine to dial a node with next
    datagram_bytes(address)  the largest datagram that arrives there, for the next connection

The network path of a link is asked by a sealed PING every 240 s, and every 3 s while bulk moves or
no answer comes; ways within the machine answer as long as the link lives. Each link has two tasks
here, one that asks and one that looks for the largest datagram; both are gone with it.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

import trio

from core import limits
from core.ids import NodeId
from mesh.engine_choice import EngineChoice
from mesh.errors import LinkClosed, LinkError
from mesh.hello import Engines
from mesh.link import Link
from mesh.links import Links
from mesh.messages import Ping, Pong
from mesh.path_mtu import PathMtus
from mesh.port import Port
from mesh.quality import ANSWERS_TO_TRUST_AGAIN
from mesh.quic.engine import Kind
from mesh.tiers import Path, Tier, Tiers
from mesh.wire import Address

IN_USE = "in use"  # a notice that asks for nothing: it only says that the link is not unused
_ENGINES = {Kind.QH3: Engines.QH3, Kind.AIOQUIC: Engines.AIOQUIC}

Seen = Callable[[Link, Address], None]


def _to_nobody(_link: Link, _address: Address) -> None:
    pass


class Ways:
    """To one peer, while its link lives."""

    def __init__(self, link: Link) -> None:
        self.tiers = Tiers()
        self.scope = trio.CancelScope()
        self._link = link
        self._streams = 0
        self._woken = trio.Event()
        self._sent_bytes = 0  # on streams of the link itself, since they were last looked at
        self._lost = link.connection.figures().lost
        self._looked_at = trio.current_time()
        self.network = self._offer_network()

    def settle(self) -> Path:
        """The path the link takes now; connections may move, and then what was known is not."""
        if self._link.connection.peer != self.network.remote:
            self.tiers.withdraw(self.network)
            self.network = self._offer_network()
        return self.network

    def _offer_network(self) -> Path:
        peer = self._link.connection.peer
        path = Path(tier_of(peer), peer)
        self.tiers.offer(path)
        rtt_s = self._link.connection.figures().rtt_s
        self.tiers.answered(path, rtt_s, trio.current_time())  # the link is there, so the way is
        return path

    @property
    def is_busy(self) -> bool:
        """Whether bulk moves."""
        return self._streams > 0

    def begin(self) -> None:
        """One more stream moves bulk."""
        self._streams += 1
        self._woken.set()
        self._link.lean(on=True)

    def end(self) -> None:
        """One less."""
        self._streams -= 1
        self._link.lean(on=False)

    def sent(self, size: int) -> None:
        """So much went over the link's own connection."""
        self._sent_bytes += size

    def look(self, choice: EngineChoice) -> None:
        """Judge what the engine did since the last time, if it had something to do."""
        now, figures = trio.current_time(), self._link.connection.figures()
        took_s, lost = now - self._looked_at, figures.lost - self._lost
        packets = self._sent_bytes // limits.DATAGRAM_BYTES_DEFAULT
        if packets and took_s:
            choice.slice(packets, lost, figures.rtt_s, self._sent_bytes / took_s, now)
        self._sent_bytes, self._lost, self._looked_at = 0, figures.lost, now

    async def pause(self, since: float, *, is_well: bool) -> None:
        """Until the path should be asked again."""
        with trio.CancelScope(deadline=since + limits.PATH_PING_BUSY_SECONDS):
            await trio.sleep_forever()
        if is_well and not self.is_busy:
            self._woken = trio.Event()
            with trio.CancelScope(deadline=since + limits.PATH_PING_IDLE_SECONDS):
                await self._woken.wait()


class Paths:
    """Measures the paths of all links; `run` owns the tasks."""

    def __init__(
        self,
        links: Links,
        port: Port,
        engines: frozenset[Kind] = frozenset(Kind),  # that we speak ourselves
        seen: Seen = _to_nobody,  # told where peers see us
    ) -> None:
        self._port = port
        self._links = links
        self._spoken = engines
        self._seen = seen
        self._ways: dict[Link, Ways] = {}
        self._engines: OrderedDict[NodeId, EngineChoice] = OrderedDict()
        self._mtus: PathMtus[Address] = PathMtus()
        self._found_bytes: OrderedDict[Address, int] = OrderedDict()
        self._nursery: trio.Nursery | None = None
        links.watch(self._link_changed)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for link in self._links.all():
                    nursery.start_soon(self._watch, link, self.of(link))
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- what others ask for ----------------------------------------------------------------------

    def of(self, link: Link) -> Ways:
        """The ways to the peer of a link; LinkClosed if it has ended."""
        if link.over.is_set():
            raise LinkClosed(where=link.node.short())
        ways = self._ways.get(link)
        if ways is None:
            ways = self._ways[link] = Ways(link)
        return ways

    def kind(self, node: NodeId) -> Kind | None:
        """The engine that suits the way to this node; None while there is nothing to tell."""
        choice = self._engines.get(node)
        return choice.kind if choice is not None else None

    def datagram_bytes(self, address: Address) -> int | None:
        """The largest datagram that arrives there; None while that is not known."""
        return self._found_bytes.get(address)

    # --- one link ---------------------------------------------------------------------------------

    def _link_changed(self, link: Link, is_up: bool) -> None:  # noqa: FBT001 - as links tell it
        if is_up:
            ways = self.of(link)
            if self._nursery is not None:
                self._nursery.start_soon(self._watch, link, ways)
        elif gone := self._ways.pop(link, None):
            gone.scope.cancel()
            if link.word == "silent":
                self._distrust(link.connection.peer)

    async def _watch(self, link: Link, ways: Ways) -> None:
        with ways.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask, link, ways)
                nursery.start_soon(self._search, link)

    async def _ask(self, link: Link, ways: Ways) -> None:
        told_at = trio.current_time()
        in_a_row = ANSWERS_TO_TRUST_AGAIN  # the link has just come up: that is an answer, too
        while True:
            since = trio.current_time()
            in_a_row = in_a_row + 1 if await self._ping(link, ways) else 0
            ways.look(self._choice(link))
            if ways.is_busy and since >= told_at + limits.LANE_IN_USE_SECONDS:
                told_at = since
                with suppress(LinkError):
                    await link.notify(IN_USE)
            await ways.pause(since, is_well=in_a_row >= ANSWERS_TO_TRUST_AGAIN)

    async def _ping(self, link: Link, ways: Ways) -> bool:
        path = ways.settle()
        if path.remote is None:
            return True
        ways.tiers.asked(path, trio.current_time())
        timeout_s = limits.PATH_PING_ANSWER_SECONDS
        answered = await self._port.ask(link.node, path.remote, Ping(), timeout_s)
        now = trio.current_time()
        if answered is None:
            ways.tiers.missed(path, now)
            return False
        ways.tiers.answered(path, answered.rtt_s, now)
        body = answered.message.body
        if isinstance(body, Pong) and body.seen is not None:
            self._seen(link, body.seen)
        return True

    def _choice(self, link: Link) -> EngineChoice:
        choice = self._engines.get(link.node)
        if choice is None:
            says = link.peer.hello.engines
            spoken = [kind for kind in self._spoken if _ENGINES[kind] in says]
            choice = self._engines[link.node] = EngineChoice(spoken)
            if len(self._engines) > limits.ENGINE_CHOICES_MAX:
                self._engines.popitem(last=False)
        self._engines.move_to_end(link.node)
        return choice

    # --- the largest datagram ---------------------------------------------------------------------

    async def _search(self, link: Link) -> None:
        while (address := link.connection.peer) is not None:
            mtu, now = self._mtus.of(address), trio.current_time()
            if (size := mtu.probe(now)) is not None:
                timeout_s = limits.PATH_MTU_PROBE_SECONDS
                if await self._port.probe(link.node, address, size, timeout_s):
                    mtu.acked(size, trio.current_time())
                continue
            due = mtu.timer(now)
            if due is None or due - now > limits.PATH_MTU_PROBE_SECONDS:  # it is known for now
                self._found(address, mtu.best)
            with trio.CancelScope(deadline=math.inf if due is None else due):
                await trio.sleep_forever()

    def _found(self, address: Address, size: int) -> None:
        self._found_bytes[address] = size
        self._found_bytes.move_to_end(address)
        if len(self._found_bytes) > limits.PATH_MTU_PATHS_MAX:
            self._found_bytes.popitem(last=False)

    def _distrust(self, address: Address | None) -> None:
        """A link fell silent: perhaps since large datagrams do not arrive any more."""
        if address is not None and address in self._found_bytes:
            del self._found_bytes[address]
            mtu = self._mtus.of(address)
            mtu.too_large(mtu.best, trio.current_time())


def tier_of(address: Address | None) -> Tier:
    """Whether an address is of the local network."""
    return Tier.LAN if address is not None and address.is_private else Tier.DIRECT
