"""Links between real processes on loopback: one dies as processes die, and all is well again."""

import pytest
import trio

from mesh.quic.engine import Kind
from tests.support.link_process import Process

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
ENDLESS = 1 << 40
pytestmark = pytest.mark.slow


async def where(process: Process) -> list[object]:
    """Where it listens."""
    return ["127.0.0.1", (await process.hear("ready"))["port"]]


@EACH
def test_who_sends_to_a_killed_peer_learns_it_and_links_again(kind):
    async def main():
        with Process("ann") as ann:
            await ann.hear("ready")
            with Process("bob") as bob:
                ways = [await where(bob)]
                ann.tell("keep", to="bob", ways=ways, kind=kind.value)
                await ann.hear("up")
                await bob.hear("up")
                ann.tell("transfer", to="bob", size=ENDLESS)
                await ann.hear("some")
                bob.kill()
                assert (await ann.hear("broke"))["why"]
                assert (await ann.hear("down"))["word"]
            with Process("bob") as bob:
                ann.tell("keep", to="bob", ways=[await where(bob)], kind=kind.value)
                await ann.hear("up")
                await bob.hear("up")
                ann.tell("transfer", to="bob", size=1_000_000)
                assert (await ann.hear("sent"))["size"] == 1_000_000

    trio.run(main)


@EACH
def test_a_killed_sender_comes_back_and_replaces_what_it_left(kind):
    async def main():
        with Process("bob") as bob:
            ways = [await where(bob)]
            with Process("ann") as ann:
                await ann.hear("ready")
                ann.tell("keep", to="bob", ways=ways, kind=kind.value)
                await ann.hear("up")
                ann.tell("transfer", to="bob", size=ENDLESS)
                await ann.hear("some")
                ann.kill()
            with Process("ann") as ann:
                await ann.hear("ready")
                ann.tell("keep", to="bob", ways=ways, kind=kind.value)
                await ann.hear("up")
                await bob.hear("up")
                assert "newer" in (await bob.hear("down"))["word"]
                await bob.hear("up")
                ann.tell("transfer", to="bob", size=1_000_000)
                assert (await ann.hear("sent"))["size"] == 1_000_000

    trio.run(main)


@EACH
def test_both_keep_each_other_and_one_is_killed_again_and_again(kind):
    async def main():
        with Process("ann") as ann:
            home = await where(ann)
            for _ in range(3):
                with Process("bob") as bob:
                    ways = [await where(bob)]
                    bob.tell("keep", to="ann", ways=[home], kind=kind.value)
                    ann.tell("keep", to="bob", ways=ways, kind=kind.value)
                    await bob.hear("up")
                    await ann.hear("up")
                    bob.tell("transfer", to="ann", size=1_000_000)
                    bob.kill()
        # Whatever was under way, Ann lived through it and was there for the next one.

    trio.run(main)
