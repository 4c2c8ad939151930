"""What light links of large simulations promise; real links, in both engines, promise it too."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import trio

from mesh.errors import LinkClosed
from mesh.quic.engine import Kind
from tests.support.light_links import LightLinks, LightNet, Terrain, part
from tests.support.linking import ANN, BOB, BOTH, RTT_S
from tests.support.meeting import let_time_pass, settle
from tests.support.simnet import virtual_clock
from tests.support.wires import Net

WORDS = 200


@dataclass
class Side:
    """One node's links, and what its watchers and services were told."""

    links: Any
    seen: list[tuple[Any, bool]] = field(default_factory=list)
    heard: list[object] = field(default_factory=list)

    def listen(self) -> None:
        async def hear(_link: object, arguments: tuple[object, ...]) -> None:
            await trio.lowlevel.checkpoint()
            self.heard.append(arguments[0])

        self.links.services.notices["word"] = hear
        self.links.watch(lambda link, is_up: self.seen.append((link, is_up)))


Connect = Callable[[], Any]


@asynccontextmanager
async def real(kind: Kind) -> AsyncIterator[tuple[Side, Side, Connect]]:
    net = Net(delay_s=RTT_S / 2)
    async with trio.open_nursery() as nursery:
        ann = await settle(nursery, net.wire(), ANN, BOTH)
        bob = await settle(nursery, net.wire(), BOB, BOTH)
        near, far = Side(ann.links), Side(bob.links)
        near.listen()
        far.listen()

        async def connect() -> None:
            await ann.links.reach(BOB.id, [bob.way(kind)])
            await let_time_pass(1)

        yield near, far, connect
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def light() -> AsyncIterator[tuple[Side, Side, Connect]]:
    net = LightNet(Random(1), Terrain(one_way_s=(RTT_S / 2, RTT_S / 2), loss=0.2))
    async with trio.open_nursery() as nursery:
        await nursery.start(net.run)
        ann, bob = LightLinks(net, ANN.id, BOTH), LightLinks(net, BOB.id, BOTH)
        near, far = Side(ann), Side(bob)
        near.listen()
        far.listen()

        async def connect() -> None:
            net.connect(ann, bob)
            await let_time_pass(1)

        yield near, far, connect
        nursery.cancel_scope.cancel()


MAKERS = {"qh3": lambda: real(Kind.QH3), "aioquic": lambda: real(Kind.AIOQUIC), "light": light}
EACH = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)


def play(scene: Callable[..., Any], maker: Callable[[], Any]) -> None:
    async def main() -> None:
        with trio.fail_after(1_000):
            async with maker() as (near, far, connect):
                await scene(near, far, connect)

    trio.run(main, clock=virtual_clock())


def links_between(near: Side, far: Side) -> tuple[Any, Any]:
    (mine,), (yours,) = near.links.all(), far.links.all()
    assert near.links.get(BOB.id) is mine
    assert (mine.node, yours.node) == (BOB.id, ANN.id)
    return mine, yours


@EACH
def test_notices_come_in_the_order_in_which_they_were_said(maker):
    async def scene(near, far, connect):
        await connect()
        mine, yours = links_between(near, far)
        for number in range(WORDS):
            await mine.notify("word", number)
            await yours.notify("word", -number)
        await let_time_pass(10)
        assert far.heard == list(range(WORDS))
        assert near.heard == [-number for number in range(WORDS)]

    play(scene, maker)


@EACH
def test_watchers_are_told_of_each_link_once_and_in_order(maker):
    async def scene(near, far, connect):
        await connect()
        mine, yours = links_between(near, far)
        mine.close("enough")
        await let_time_pass(1)
        await connect()
        again, _ = links_between(near, far)
        assert again is not mine
        assert near.seen == [(mine, True), (mine, False), (again, True)]
        assert [is_up for _, is_up in far.seen] == [True, False, True]
        assert far.seen[1][0] is yours
        assert yours.word == "enough"

    play(scene, maker)


@EACH
def test_a_drop_counts_before_anything_is_awaited_and_what_comes_after_is_not_served(maker):
    async def scene(near, far, connect):
        await connect()
        mine, yours = links_between(near, far)
        await yours.notify("word", "too late")
        near.links.drop(BOB.id, "revoked")
        assert mine.over.is_set()
        assert near.links.all() == []
        assert near.links.get(BOB.id) is None
        with pytest.raises(LinkClosed):
            await mine.notify("word", "more")
        await let_time_pass(5)
        assert near.heard == far.heard == []
        assert far.links.all() == []
        assert near.seen == [(mine, True), (mine, False)]
        assert yours.word == "revoked"

    play(scene, maker)


@EACH
def test_a_closed_link_says_so(maker):
    async def scene(near, far, connect):
        await connect()
        mine, yours = links_between(near, far)
        mine.close("enough")
        await let_time_pass(1)
        for link in (mine, yours):
            assert link.over.is_set()
            with pytest.raises(LinkClosed):
                await link.notify("word", 1)

    play(scene, maker)


@EACH
def test_what_was_said_before_the_end_may_be_lost_but_is_never_out_of_order(maker):
    async def scene(near, far, connect):
        await connect()
        mine, _ = links_between(near, far)
        for number in range(WORDS):
            await mine.notify("word", number)
        mine.close("enough")
        await let_time_pass(10)
        assert far.heard == list(range(len(far.heard)))

    play(scene, maker)


@EACH
def test_a_service_that_fails_harms_nothing_else(maker):
    async def scene(near, far, connect):
        async def fail(_link, _arguments):
            await trio.lowlevel.checkpoint()
            raise LinkClosed("of another link")

        far.links.services.notices["bad"] = fail
        await connect()
        mine, _ = links_between(near, far)
        for name in ("bad", "nobody serves this", "word"):
            await mine.notify(name, 1)
        await let_time_pass(5)
        assert far.heard == [1]
        assert not mine.over.is_set()

    play(scene, maker)


def test_out_of_reach_without_a_word():
    async def scene(near, far, connect):
        await connect()
        mine, yours = links_between(near, far)
        part(near.links)
        assert mine.over.is_set()
        assert yours.over.is_set()
        assert near.links.all() == far.links.all() == []

    play(scene, light)
