"""Two nodes with a link between them, or one node and a peer played by hand; in virtual time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from mesh.frames import FrameType
from mesh.link import Link, Services
from mesh.quic.engine import Kind
from tests.support.hop import Path
from tests.support.meeting import Hand, Place, let_time_pass, settle
from tests.support.nodes import a_node, a_roster
from tests.support.simnet import SimNet, simulate, virtual_clock
from tests.support.wires import Net, an_endpoint

T = TypeVar("T")

# Ann is the one with the smaller id: her side wins where both have dialled.
ANN, BOB = sorted((a_node("ann"), a_node("bob")), key=lambda node: node.id)
BOTH = a_roster([ANN, BOB])
RTT_S = 0.02


def in_virtual_time(main: Callable[[], Awaitable[T]]) -> T:
    """Run it; waiting takes no time."""
    return trio.run(main, clock=virtual_clock())


@dataclass
class Scene:
    """Ann has dialled Bob."""

    net: Net
    ann: Place
    bob: Place
    link: Link  # Ann's side
    there: Link  # Bob's
    nursery: trio.Nursery

    def nothing_is_left(self) -> None:
        """No task and no stream of an ended link."""
        for place, link in ((self.ann, self.link), (self.bob, self.there)):
            assert place.links.all() == []
            assert link.connection.streams_open == 0
            assert not link.is_used
            nursery = place.links._nursery
            assert nursery is None or not nursery.child_tasks


async def not_for_ever() -> None:
    """Ends a test that waits for what never comes."""
    with trio.fail_after(10_000):  # of virtual time
        await trio.sleep_forever()


@asynccontextmanager
async def linked(kind: Kind, services: Services | None = None) -> AsyncIterator[Scene]:
    """Ann has dialled Bob, who serves this."""
    net = Net()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(not_for_ever)
        bob = await settle(nursery, net.wire(), BOB, BOTH, services)
        ann = await settle(nursery, net.wire(), ANN, BOTH)
        link = await ann.links.reach(BOB.id, [bob.way(kind)])
        there = await bob.told(is_up=True)
        yield Scene(net, ann, bob, link, there, nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def by_hand(
    kind: Kind, services: Services | None = None
) -> AsyncIterator[tuple[Hand, Place, Link]]:
    """Bob, and Ann as somebody plays her."""
    net = Net()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(not_for_ever)
        bob = await settle(nursery, net.wire(), BOB, BOTH, services)
        caller = an_endpoint(net.wire())
        await nursery.start(caller.run)
        hand = await Hand.dial(caller, bob, ANN, BOTH, kind)
        answer = await hand.hear()
        assert answer is not None
        assert answer.kind == FrameType.HELLO
        yield hand, bob, await bob.told(is_up=True)
        nursery.cancel_scope.cancel()


async def gone(place: Place, count: int = 1) -> float:
    """When a link was down."""
    await place.told(is_up=False, count=count)
    at = trio.current_time()
    await let_time_pass(0.01)
    return at


def play(
    scene: Callable[..., Awaitable[None]], *arguments: object, path: Path | None = None
) -> None:
    """Run `scene(net, *arguments)`; everything it starts is ended after it, and nothing is late."""

    async def main(net: SimNet) -> None:
        with trio.fail_after(100_000):
            await scene(net, *arguments)

    simulate(main, 1, path or Path(delay_s=RTT_S / 2))


@asynccontextmanager
async def two(net: SimNet, **context: Any) -> AsyncIterator[tuple[Place, Place]]:
    """Ann and Bob, who do not know each other's address yet."""
    async with trio.open_nursery() as nursery:
        ann = await settle(nursery, net.wire("10.0.0.1"), ANN, BOTH, **context)
        bob = await settle(nursery, net.wire("10.0.0.2"), BOB, BOTH, **context)
        yield ann, bob
        nursery.cancel_scope.cancel()


def ups(place: Place) -> int:
    """How many links came."""
    return sum(is_up for _, is_up in place.seen)


def one_link(one: Place, other: Place) -> None:
    """Both have one link, and it is the same."""
    (mine,), (yours,) = one.links.all(), other.links.all()
    assert mine.peer.transcript == yours.peer.transcript
    assert (mine.node, yours.node) == (other.id, one.id)
