"""A node in a process of its own, steered by lines of JSON; what it sees it tells, line by line.

Run as a program it is the process: the test writes commands to its input, and reads events from its
output: `up`, `down`, and the answers to commands. It ends when its input does.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from core.errors import PortalError
from mesh.links import Way
from mesh.quic.engine import Kind
from mesh.udp import UdpWire
from mesh.wire import Address
from tests.support.meeting import Place, settle
from tests.support.nodes import a_node, a_roster

REPOSITORY = Path(__file__).parent.parent.parent
PATIENCE_S = 120
NAMES = ("ann", "bob")


class Process:
    """The test's end of it."""

    def __init__(self, name: str, *, host: str = "127.0.0.1", namespace: str = "") -> None:
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        command = [*inside, sys.executable, "-m", "tests.support.link_process", name, host]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=REPOSITORY)
        self._told: list[dict[str, Any]] = []
        self._news = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def kill(self) -> None:
        """As `kill -9` does."""
        self._process.kill()
        self._process.wait()

    def tell(self, do: str, **what: object) -> None:
        """Give a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
        self._process.stdin.flush()

    async def hear(self, what: str) -> dict[str, Any]:
        """The next event of this kind; others are kept for who asks for them."""
        with trio.fail_after(PATIENCE_S):
            while True:
                for i, event in enumerate(self._told):
                    if event["event"] == what:
                        return self._told.pop(i)
                await self._read()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        number = self._process.stdout.fileno()
        await trio.lowlevel.wait_readable(number)
        data = os.read(number, 65_536)
        if not data:
            raise EOFError(f"the process has ended: {self._process.wait()}")
        *lines, self._news = (self._news + data).split(b"\n")
        self._told += [json.loads(line) for line in lines]


def say(event: str, **what: object) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps({"event": event, **what}) + "\n")
    sys.stdout.flush()


async def transfer(place: Place, node: Any, size: int) -> None:
    """Send much; tell when some of it has gone, and how it ended."""
    try:
        link = await place.links.reach(node, [])
        stream = await link.open_stream("count")
        for sent in range(0, size, 1 << 16):
            await stream.send_all(bytes(min(1 << 16, size - sent)))
            if sent == 1 << 22:
                say("some")
        await stream.send_eof()
        say("sent", size=int.from_bytes(await stream.receive_some()), link=id(link))
    except (trio.BrokenResourceError, PortalError) as e:
        say("broke", why=str(e))


async def take_round_trips(place: Place, node: Any, count: int) -> None:
    """Ask something small, again and again."""
    link = place.links.get(node)
    assert link is not None
    took = []
    for number in range(count):
        began = time.perf_counter()
        assert await link.request("echo", number) == (number,)
        took.append(time.perf_counter() - began)
    say("asked", took_s=took)


async def set_up(place: Place, node: Any, ways: Sequence[Way], count: int) -> None:
    """Make a link and drop it, again and again."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        link = await place.links.reach(node, ways)
        took.append(time.perf_counter() - began)
        assert await link.request("echo", 1) == (1,)
        link.close("measured")
        await link.over.wait()
    say("set up", took_s=took)


async def main(*arguments: str) -> None:
    """Live, do as told, and tell."""
    name, host = arguments
    nodes = {each: a_node(each) for each in NAMES}
    own = nodes[name].restarted(str(os.getpid()))
    async with trio.open_nursery() as nursery:
        wire = UdpWire.bind(host, 0)
        roster = a_roster(nodes.values())
        place = await settle(nursery, wire, own, roster, now_ms=lambda: time.time_ns() // 1_000_000)
        links = place.links

        def tell(link: Any, is_up: bool) -> None:
            say("up" if is_up else "down", link=id(link), word=link.word)

        links.watch(tell)
        say("ready", port=wire.local.port)
        reader = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
        rest = b""
        while data := await reader.receive_some():
            *lines, rest = (rest + data).split(b"\n")
            for command in map(json.loads, lines):
                to = nodes[command["to"]].id if "to" in command else None
                ways = [
                    Way(Address(*address), Kind(command.get("kind", "qh3")))
                    for address in command.get("ways", [])
                ]
                match command["do"]:
                    case "keep":
                        links.keep(to, ways)  # type: ignore[arg-type]  # it comes with `to`
                    case "transfer":
                        nursery.start_soon(transfer, place, to, command["size"])
                    case "ask":
                        nursery.start_soon(take_round_trips, place, to, command["count"])
                    case "set up":
                        nursery.start_soon(set_up, place, to, ways, command["count"])
                    case "nudge":
                        links.nudge()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    trio.run(main, *sys.argv[1:])
