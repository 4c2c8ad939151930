"""Links over real network stacks: two namespaces, a cable between them, and what happens to it.

Needs root, and `ip` (iproute2). Everything made here has the name of this process in it and is
removed again; nothing else of the machine's network is touched.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import trio

from mesh.quic.engine import Kind
from tests.support.link_process import Process

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
MUCH = 1 << 28
ENDLESS = 1 << 40
CUT_S = 5
LIFE_S = 17  # what a link lives without hearing anything


def _why_not() -> str:
    if os.name != "posix" or os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip is missing: install iproute2"
    name = f"pt{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.decode().strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    if why := _why_not():
        pytest.skip(why)


pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Cable:
    """Two namespaces joined by a veth pair: 10.99.0.1 at Ann's, 10.99.0.2 at Bob's."""

    ann: str
    bob: str

    def at(self, namespace: str, *arguments: str) -> None:
        """Run `ip` inside."""
        subprocess.run(["ip", "-n", namespace, *arguments], check=True, capture_output=True)

    def address(self, namespace: str, old: str, new: str) -> None:
        """An end of the cable gets another address."""
        self.at(namespace, "addr", "del", f"{old}/24", "dev", "cable")  # and all that came after it
        self.at(namespace, "addr", "add", f"{new}/24", "dev", "cable")

    def cut(self) -> None:
        """Pull it out."""
        self.at(self.ann, "link", "set", "cable", "down")

    def heal(self) -> None:
        """Put it back."""
        self.at(self.ann, "link", "set", "cable", "up")


@contextmanager
def cable() -> Iterator[Cable]:
    names = [f"pt{os.getpid()}{end}" for end in "ab"]
    made = Cable(*names)
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        ends = [f"v{name}"[:15] for name in names]
        subprocess.run(
            ["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True
        )
        for number, (name, end) in enumerate(zip(names, ends, strict=True), 1):
            subprocess.run(["ip", "link", "set", end, "netns", name, "name", "cable"], check=True)
            made.at(name, "addr", "add", f"10.99.0.{number}/24", "dev", "cable")
            made.at(name, "link", "set", "cable", "up")
            made.at(name, "link", "set", "lo", "up")
        yield made
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def processes(made: Cable) -> Iterator[tuple[Process, Process]]:
    """Ann and Bob, each in a namespace, on all of its addresses."""
    with (
        Process("ann", host="::", namespace=made.ann) as ann,
        Process("bob", host="::", namespace=made.bob) as bob,
    ):
        yield ann, bob


async def linked(ann: Process, bob: Process, kind: Kind) -> tuple[int, int]:
    """Ann keeps a link to Bob; the name of it at Ann's, and Bob's port."""
    await ann.hear("ready")
    port = (await bob.hear("ready"))["port"]
    ann.tell("keep", to="bob", ways=[["10.99.0.2", port]], kind=kind.value)
    await bob.hear("up")
    return (await ann.hear("up"))["link"], port


async def quietly(seconds: float, *processes: Process) -> None:
    """Nothing may be heard of links that come and go, for so long."""
    for process in processes:
        with trio.move_on_after(seconds / len(processes)) as patience:
            await process.hear("down")
        assert patience.cancelled_caught


@EACH
def test_when_the_dialler_gets_another_address_the_transfer_goes_on(kind):
    async def main():
        with cable() as made, processes(made) as (ann, bob):
            link, _ = await linked(ann, bob, kind)
            size = MUCH if kind is Kind.QH3 else MUCH // 16
            ann.tell("transfer", to="bob", size=size)
            await ann.hear("some")
            made.address(made.ann, "10.99.0.1", "10.99.0.7")
            ann.tell("nudge")
            sent = await ann.hear("sent")
            assert (sent["size"], sent["link"]) == (size, link)

    trio.run(main)


@EACH
def test_when_the_responder_gets_another_address_new_ways_heal_it(kind):
    async def main():
        with cable() as made, processes(made) as (ann, bob):
            _, port = await linked(ann, bob, kind)
            ann.tell("transfer", to="bob", size=ENDLESS)
            await ann.hear("some")
            made.address(made.bob, "10.99.0.2", "10.99.0.8")
            assert (await ann.hear("broke"))["why"]
            await ann.hear("down")
            ann.tell("keep", to="bob", ways=[["10.99.0.8", port]], kind=kind.value)
            await ann.hear("up")
            ann.tell("transfer", to="bob", size=1_000_000)
            assert (await ann.hear("sent"))["size"] == 1_000_000

    trio.run(main)


@EACH
def test_a_cable_that_was_out_for_a_moment_heals_without_a_new_link(kind):
    async def main():
        with cable() as made, processes(made) as (ann, bob):
            link, _ = await linked(ann, bob, kind)
            size = MUCH if kind is Kind.QH3 else MUCH // 16
            ann.tell("transfer", to="bob", size=size)
            await ann.hear("some")
            made.cut()
            await quietly(CUT_S, ann, bob)
            made.heal()
            sent = await ann.hear("sent")
            assert (sent["size"], sent["link"]) == (size, link)

    trio.run(main)


@EACH
def test_a_cable_that_was_out_for_long_ends_the_link_and_it_comes_back(kind):
    async def main():
        with cable() as made, processes(made) as (ann, bob):
            await linked(ann, bob, kind)
            ann.tell("transfer", to="bob", size=ENDLESS)
            await ann.hear("some")
            made.cut()
            assert (await ann.hear("broke"))["why"]
            assert (await ann.hear("down"))["word"]
            made.heal()
            await ann.hear("up")
            ann.tell("transfer", to="bob", size=1_000_000)
            assert (await ann.hear("sent"))["size"] == 1_000_000

    trio.run(main)
