"""The side that opens a lane: it tries the ways of an offer, nearest first.

A way is a claim of the peer, so it is followed only where a `Reach` says that the peer is: else an
offer would be an order to connect to any machine in our network. The token is shown to nobody but
who proved to be meant, once; whoever takes it proves to know it.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import trio

from core import limits
from core.crypto import equal
from mesh.errors import LinkError, NotTrusted, Unreachable
from mesh.lanes import memory, tcp, unix
from mesh.lanes.lane import Lane, Raw, read_exactly
from mesh.lanes.memory import Hall
from mesh.lanes.offer import ANSWER_BYTES, MemoryWay, Offer, TcpWay, UnixWay, Way, nearest_first


@dataclass(frozen=True, slots=True)
class Reach:
    """Where the peer of a link is known to be, other than by its word."""

    hosts: AbstractSet[str] = frozenset()  # IP addresses from which packets of this peer came
    same_host: bool = False  # both said the same of the machine they run on
    hall: Hall | None = None  # of this process

    def leads(self, way: Way) -> bool:
        """Whether this way may be followed."""
        match way:
            case TcpWay():
                return way.address.host in self.hosts
            case UnixWay():
                return self.same_host
            case MemoryWay():
                return self.hall is not None

    def order(self, offer: Offer) -> list[Way]:
        """The ways to try: within the process, on the machine, over the network."""
        return nearest_first(filter(self.leads, offer.ways))


async def open_lane(offer: Offer, reach: Reach) -> Lane:
    """The lane that was offered; Unreachable, or NotTrusted if others answer for the peer."""
    failure: LinkError = Unreachable("no way to this lane is open to us")
    with trio.move_on_after(offer.lifetime_s):
        for way in reach.order(offer):
            try:
                raw = await _connect(way, reach)
            except LinkError as e:
                if not isinstance(failure, NotTrusted):
                    failure = e
                continue
            await _show_token(raw, offer)
            return Lane(offer.lane_id, way.kind, raw)
        raise failure
    raise Unreachable("the lane did not open in time")


async def _connect(way: Way, reach: Reach) -> Raw:
    try:
        with trio.fail_after(limits.LANE_CONNECT_SECONDS):
            match way:
                case TcpWay():
                    return await tcp.connect(way)
                case UnixWay():
                    return await unix.connect(way)
                case MemoryWay():
                    assert reach.hall is not None
                    return memory.connect(way, reach.hall)
    except (OSError, trio.TooSlowError, trio.BrokenResourceError) as e:
        raise Unreachable(f"no {way.kind.word} lane could be had") from e


async def _show_token(raw: Raw, offer: Offer) -> None:
    """After this the lane is ours, or closed."""
    try:
        await raw.stream.send_all(offer.preface())
        answer = await read_exactly(raw.stream, ANSWER_BYTES)
    except (trio.BrokenResourceError, OSError) as e:
        raw.cut()
        raise Unreachable("the lane was refused") from e
    except BaseException:
        raw.cut()
        raise
    if not equal(answer, offer.answer()):
        raw.cut()
        raise NotTrusted("whoever took the token of a lane does not know it")
