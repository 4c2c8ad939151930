"""Lanes between two processes on this machine, and within one.

Each end is a process of its own and does nothing but send or receive 1 MiB at a time; the lane is
offered and opened as a node does it. Beside the time that passed, the time its busier end computed:
that is what counts where other programs run. `python -m tests.bench.lanes_part` runs it alone,
with `--profile` it shows where the sender and the receiver of the TLS lane spend their time.
"""

import cProfile
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from core import codec, limits, process
from core.crypto import system_entropy
from core.ids import NodeId
from mesh.lanes.doors import Doors
from mesh.lanes.lane import Lane
from mesh.lanes.memory import Hall, MemoryDoor
from mesh.lanes.offer import Kind, Offer
from mesh.lanes.opening import Reach
from mesh.lanes.tcp import TcpDoor
from mesh.lanes.unix import UnixDoor
from mesh.wire import Address
from tests.bench.table import Row, show

HERE = "127.0.0.1"
BLOCK_BYTES = 1 * limits.MIB
TOTAL_BYTES = 1 * limits.GIB
GOALS_GBIT = {Kind.TCP: 2.0, Kind.UNIX: 7.0, Kind.MEMORY: None}
TRIES = 5
PROFILED = "--profile"


async def send(lane: Lane) -> None:
    block = system_entropy(BLOCK_BYTES)
    async with lane:
        for _ in range(TOTAL_BYTES // BLOCK_BYTES):
            await lane.send_all(block)
        await lane.send_eof()
        await lane.receive_some(1)


async def receive(lane: Lane) -> tuple[float, float]:
    """Seconds that passed, and seconds this process computed."""
    async with lane:
        got = len(await lane.receive_some())
        began, computed = time.perf_counter(), time.process_time()
        while part := await lane.receive_some():
            got += len(part)
        assert got == TOTAL_BYTES
        return time.perf_counter() - began, time.process_time() - computed


def sending_process(offer: str, profiled: bool) -> None:
    """The other end: opens the lane it is told of, and says how long it computed."""
    reach = Reach(frozenset({HERE}), same_host=True)

    async def main() -> None:
        row = codec.decode_untrusted(bytes.fromhex(offer))
        await send(await Doors().open("link", Offer.read_untrusted(row), reach))

    profile = cProfile.Profile()
    began = time.process_time()
    if profiled:
        profile.runcall(trio.run, main)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(8)
    else:
        trio.run(main)
    print(time.process_time() - began)


async def between_processes(kind: Kind, folder: Path, *more: str) -> tuple[float, float]:
    """Seconds that passed, and seconds the busier end computed."""
    door = TcpDoor(host=HERE) if kind is Kind.TCP else UnixDoor(folder)
    doors = Doors([door])
    async with trio.open_nursery() as nursery:
        await nursery.start(doors.run)
        addresses = [Address(HERE, door.port)] if isinstance(door, TcpDoor) else []
        with doors.offer("link", [kind], addresses) as offered:
            text = codec.encode(offered.offer.row()).hex()
            argv = [sys.executable, "-m", "tests.bench.lanes_part", "--send", text, *more]
            child = await trio.lowlevel.open_process(argv, stdout=subprocess.PIPE)
            lane = await offered.lane()
        passed, computed = await receive(lane)
        assert child.stdout
        said = b"".join([part async for part in child.stdout])
        await child.wait()
        nursery.cancel_scope.cancel()
    return passed, max(computed, float(said))


async def within_a_process() -> tuple[float, float]:
    hall = Hall()
    node = NodeId(bytes(NodeId.SIZE))
    doors = Doors([MemoryDoor(hall, node)])
    async with trio.open_nursery() as nursery:
        await nursery.start(doors.run)
        with doors.offer("link", [Kind.MEMORY]) as offered:
            theirs = await doors.open("there", offered.offer, Reach(hall=hall))
            ours = await offered.lane()
        nursery.start_soon(send, theirs)
        measured = await receive(ours)
        nursery.cancel_scope.cancel()
    return measured


def measured(kind: Kind) -> tuple[float, float]:
    """Gbit/s of the best try, by the clock and by the time the busier end computed."""
    with tempfile.TemporaryDirectory() as folder:
        tries = [
            trio.run(within_a_process)
            if kind is Kind.MEMORY
            else trio.run(between_processes, kind, Path(folder))
            for _ in range(TRIES)
        ]
    passed, computed = (min(seconds) for seconds in zip(*tries, strict=True))
    return TOTAL_BYTES * 8 / passed / 1e9, TOTAL_BYTES * 8 / computed / 1e9


def rows() -> Iterator[Row]:
    for kind, goal in GOALS_GBIT.items():
        rate, of_core = measured(kind)
        text = f">= {goal:.0f} Gbit/s" if goal else ""
        met = rate >= goal if goal else None
        against = f"busier end alone {of_core:.1f} Gbit/s"
        yield Row(
            f"{kind.word} lane, 1 GiB",
            f"{rate:.1f} Gbit/s",
            against,
            f"{rate / of_core:.0%}",
            text,
            met,
        )


def main() -> None:
    if sys.argv[1:2] == ["--send"]:
        sending_process(sys.argv[2], PROFILED in sys.argv)
    elif PROFILED in sys.argv:
        profile = cProfile.Profile()
        with tempfile.TemporaryDirectory() as folder:
            profile.runcall(trio.run, between_processes, Kind.TCP, Path(folder), PROFILED)
        pstats.Stats(profile).sort_stats("tottime").print_stats(8)
    else:
        show("lanes", rows())


if __name__ == "__main__":
    process.keep_freed_buffers()
    main()
