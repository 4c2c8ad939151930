"""A link at rest costs next to nothing, and one in use still sees soon that nobody is there."""

from contextlib import suppress

import pytest
import trio

from core import limits
from mesh.errors import LinkClosed
from mesh.link import Services
from mesh.quic.engine import Kind
from tests.support.linking import gone, in_virtual_time, linked
from tests.support.meeting import let_time_pass

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)


@EACH
@pytest.mark.parametrize("what", ["ask", "tell", "open"])
def test_whoever_says_something_learns_within_ten_seconds_that_nobody_is_there(kind, what):
    async def main():
        async with linked(kind) as scene:
            link = scene.link
            link.wanted = True
            await let_time_pass(5)
            scene.net.hook = lambda *_: []
            await let_time_pass(2)
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_speak, link, what)
                took = await gone(scene.ann) - began
            assert link.word == "silent"
            assert took <= limits.LINK_ANSWER_SECONDS + limits.LINK_TRUST_SECONDS + 0.1 <= 10.1

    in_virtual_time(main)


async def never(_link, _arguments):
    await trio.sleep_forever()


async def _speak(link, what):
    with suppress(LinkClosed):
        if what == "ask":
            await link.request("echo")
        elif what == "tell":
            while True:  # that more and more is said does not put it off
                await link.notify("anything")
                await let_time_pass(0.2)
        else:
            await link.open_stream("count")


@EACH
def test_who_waits_for_an_answer_sees_sooner_that_the_peer_died(kind):
    async def main():
        async with linked(kind, Services({"never": never})) as scene:
            scene.link.wanted = True
            async with trio.open_nursery() as nursery:

                async def ask():
                    with pytest.raises(LinkClosed):
                        await scene.link.request("never")

                nursery.start_soon(ask)
                await let_time_pass(5)
                scene.net.hook = lambda *_: []
                began = trio.current_time()
                took = await gone(scene.ann) - began
            bound = limits.LINK_SILENCE_SECONDS + limits.LINK_TRUST_SECONDS
            assert took <= bound + 0.1

    in_virtual_time(main)


@EACH
def test_so_does_who_leans_on_it_with_a_lane(kind):
    async def main():
        async with linked(kind) as scene:
            scene.link.wanted = True
            scene.link.lean(on=True)
            scene.net.hook = lambda *_: []
            began = trio.current_time()
            took = await gone(scene.ann) - began
            assert took <= limits.LINK_SILENCE_SECONDS + limits.LINK_TRUST_SECONDS + 0.1

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_at_rest_only_who_dialled_asks_and_seldom(kind):
    async def main():
        async with linked(kind) as scene:
            scene.link.wanted = scene.there.wanted = True
            await let_time_pass(30)
            passed = scene.net.seen = []
            await let_time_pass(10 * limits.LINK_REST_DIALLER_SECONDS)
            assert passed[0][1] == scene.ann.address
            assert len(passed) <= 10 * 4  # PING, PONG and what acknowledges them
            assert scene.ann.links.all() == [scene.link]
            assert limits.LINK_REST_SECONDS < limits.LINK_IDLE_SECONDS

    in_virtual_time(main)


@EACH
def test_what_was_said_and_acknowledged_needs_no_question(kind):
    async def main():
        async with linked(kind) as scene:
            scene.link.wanted = scene.there.wanted = True
            await let_time_pass(2)
            passed = scene.net.seen = []
            await scene.link.notify("anything")
            await let_time_pass(limits.LINK_SILENCE_SECONDS)
            assert len(passed) <= 2

    in_virtual_time(main)
