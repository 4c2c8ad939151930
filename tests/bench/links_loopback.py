"""Links on the loopback, one process per end: streams, dials, unread streams, and noise.

The loopback has no losses and no distance: this measures what the endpoint and the engines cost.
Each row says the CPU seconds of both ends as well, which other work on the machine changes less.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import trio

from core import limits
from core.secret import Secret
from mesh.errors import LinkClosed
from mesh.leaf import Leaf
from mesh.quic.endpoint import Endpoint, Setup
from mesh.quic.engine import Kind
from mesh.udp import UdpWire
from mesh.wire import Address
from tests.bench.table import Row
from tests.support.memory import resident_bytes
from tests.support.noise import Noise
from tests.support.wires import a_pair, in_virtual_time

HOST = "127.0.0.1"
STREAM_BYTES = {Kind.QH3: 200 * limits.MIB, Kind.AIOQUIC: 20 * limits.MIB}
GOAL_MBIT_PER_S = {Kind.QH3: 600, Kind.AIOQUIC: 95}
GOAL_DIAL_S = 0.025
BLOCK = bytes(256 * limits.KIB)
TRIES = 3
DIALS = 20
NOISE = int(os.environ.get("PORTAL_BENCH_NOISE", "1000000"))
NOISE_KINDS = 20_000
UNREAD_SECONDS = 2
READ, IGNORE = b"r", b"i"


def endpoint() -> Endpoint:
    leaf = Leaf.make(Secret(os.urandom(32)))
    return Endpoint(UdpWire.bind(HOST, 0), Setup(leaf), lambda *_: None)


# --- the far end, a process of its own ------------------------------------------------------------


async def answer() -> None:
    """Take connections; do what the first byte of each stream says, and tell what it cost."""
    end = endpoint()
    async with trio.open_nursery() as nursery:
        await nursery.start(end.run)
        print(end.local.port, flush=True)
        while True:
            connection = await end.accept()
            nursery.start_soon(_serve, connection)


async def _serve(connection: Any) -> None:
    try:
        stream = await connection.accept_stream()
        order = await stream.receive_some(1)
        cpu, before, got, began = time.process_time(), resident_bytes(), 0, time.perf_counter()
        if order == IGNORE:
            await trio.sleep(UNREAD_SECONDS)
            got = stream.unread_bytes
        else:
            while data := await stream.receive_some():
                got += len(data)
        told = {
            "bytes": got,
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "grown": resident_bytes() - before,
        }
        await stream.send_all(json.dumps(told).encode())
        await stream.send_eof()
    except (trio.BrokenResourceError, LinkClosed):
        return  # a dial that was measured, and no more


@contextmanager
def far_end() -> Iterator[Address]:
    argv = [sys.executable, "-m", "tests.bench.links_loopback"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Address(HOST, int(process.stdout.readline()))
        finally:
            process.kill()


# --- the near end ---------------------------------------------------------------------------------


def near_end(work: Callable[[Endpoint, Address], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        end = endpoint()
        async with trio.open_nursery() as nursery:
            await nursery.start(end.run)
            result = await work(end, to)
            nursery.cancel_scope.cancel()
        return result

    with far_end() as to:
        return trio.run(main)


def stream(kind: Kind) -> tuple[float, float, float]:
    """Mbit/s, and the CPU seconds of the sender and the reader."""

    async def work(end: Endpoint, to: Address) -> tuple[float, float, float]:
        connection = await end.dial(to, kind)
        one = await connection.open_stream()
        await one.send_all(READ)
        cpu = time.process_time()
        for _ in range(STREAM_BYTES[kind] // len(BLOCK)):
            await one.send_all(BLOCK)
        await one.send_eof()
        told = json.loads(b"".join([data async for data in one]))
        return told["bytes"] * 8e-6 / told["seconds"], time.process_time() - cpu, told["cpu"]

    rate, near, far = max((near_end(work) for _ in range(TRIES)), key=lambda tried: tried[0])
    return rate, near, far


def dials(kind: Kind) -> tuple[float, float]:
    """The first of a process, and the middle of those after it."""

    async def work(end: Endpoint, to: Address) -> tuple[float, float]:
        took = []
        for _ in range(DIALS):
            began = time.perf_counter()
            connection = await end.dial(to, kind)
            took.append(time.perf_counter() - began)
            connection.close()
        return took[0], statistics.median(took[1:])

    first, middle = near_end(work)
    return first, middle


def unread(kind: Kind) -> tuple[int, int, int]:
    """What a sender got rid of, what the reader's process held, and how it grew."""

    async def work(end: Endpoint, to: Address) -> tuple[int, int, int]:
        connection = await end.dial(to, kind)
        one = await connection.open_stream()
        await one.send_all(IGNORE)
        sent = 0
        with trio.move_on_after(UNREAD_SECONDS):
            while True:
                await one.send_all(BLOCK[:10_000])
                sent += 10_000
        told = json.loads(await one.receive_some())
        return sent, told["bytes"], told["grown"]

    sent, held, grown = near_end(work)
    return sent, held, grown


def noise(kind: Kind) -> tuple[float, int, int]:
    """Datagrams a second through an endpoint, answers to them, and how the process grew."""

    async def work() -> tuple[float, int, int]:
        async with a_pair(kind, idle_s=100_000) as pair:
            noise = Noise(pair.net, Random(7))
            await noise.capture(pair, min(NOISE, NOISE_KINDS))
            await noise.blow(pair, 500)
            before, began = resident_bytes(), time.perf_counter()
            answers = await noise.blow(pair, NOISE)
            return NOISE / (time.perf_counter() - began), answers, resident_bytes() - before

    return in_virtual_time(work)


def rows() -> Iterator[Row]:
    """Goals of links on one machine."""
    for kind in Kind:
        name, goal = kind.value, GOAL_MBIT_PER_S[kind]
        rate, near, far = stream(kind)
        busiest = STREAM_BYTES[kind] * 8e-6 / max(near, far)
        yield Row(
            f"{name}: a stream, 1,350-byte datagrams",
            f"{rate:.0f} Mbit/s",
            f"CPU {near:.2f} s + {far:.2f} s: {busiest:.0f} Mbit per CPU second",
            f"{rate / goal:.2f}x",
            f">= {goal} Mbit/s",
            rate >= goal,
        )
    for kind in Kind:
        first, middle = dials(kind)
        yield Row(
            f"{kind.value}: dial",
            f"{middle * 1e3:.1f} ms",
            f"first of a process {first * 1e3:.0f} ms",
            "",
            f"<= {GOAL_DIAL_S * 1e3:.0f} ms",
            middle <= GOAL_DIAL_S,
        )
    for kind in Kind:
        sent, held, grown = unread(kind)
        window = limits.STREAM_WINDOW_BYTES
        yield Row(
            f"{kind.value}: an unread stream",
            f"stops at {sent / limits.MIB:.2f} MiB",
            f"unread {held / limits.MIB:.2f} MiB, process +{grown / limits.MIB:.1f} MiB",
            "",
            "one window of 2 MiB",
            max(sent, held) <= window and grown < 4 * window,
        )
    for kind in Kind:
        speed, answers, grown = noise(kind)
        yield Row(
            f"{kind.value}: {NOISE:,} fuzzed datagrams",
            f"{speed:,.0f} a second",
            f"{answers} answers, process +{grown / limits.MIB:.1f} MiB",
            "",
            "no answer, flat memory",
            not answers and grown < 16 * limits.MIB,
        )


if __name__ == "__main__":
    trio.run(answer)
