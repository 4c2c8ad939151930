"""coding: trees and erasure codes, and the bare library on the same bytes in the same run."""

import threading
import time
from collections.abc import Callable, Iterator

from blake3 import blake3
from pyeclib.ec_iface import ECDriver

from core import erasure, limits, merkle, process, shards, smt
from core.erasure import Code
from tests.bench.table import Row, show
from tests.support.pattern import pattern

CODE = Code(10, 14)
LOST = 4
KEY = bytes(32)
CODING_RATIO_MIN = 0.75  # of PyECLib, which is handed its own headers and padding
TREE_GB_PER_S_MIN = 1.0

Work = Callable[[], object]


def data_of(size: int) -> bytes:
    piece = pattern(1 << 16)
    return (piece * (size // len(piece) + 1))[:size]


def times(*works: Work, rounds: int = 40) -> list[float]:
    """The shortest time of each, taken in turns so that a slow moment hits all of them."""
    shortest = [float("inf")] * len(works)
    for _ in range(rounds):
        for i, work in enumerate(works):
            began = time.perf_counter()
            work()
            shortest[i] = min(shortest[i], time.perf_counter() - began)
    return shortest


def on_two_threads(work: Work, turns: int) -> Work:
    def loop() -> None:
        for _ in range(turns):
            work()

    def run() -> None:
        threads = [threading.Thread(target=loop) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def compared(what: str, size: int, ours: float, theirs: float, least: float | None = None) -> Row:
    """A line about `size` bytes in so many seconds each; `least` is the ratio that was promised."""
    ratio = theirs / ours
    goal = f"{least:.2f} x" if least else ""
    mine, bare = (f"{size / seconds / 1e9:.2f} GB/s" for seconds in (ours, theirs))
    return Row(what, mine, bare, f"{ratio:.2f} x", goal, None if least is None else ratio >= least)


def coding() -> Iterator[Row]:
    size = 4 * limits.MIB
    data = data_of(size)
    driver = ECDriver(k=CODE.k, m=CODE.spare, ec_type="isa_l_rs_cauchy")
    fragments = driver.encode(data)[LOST:]
    left = {i: bytes(s) for i, s in enumerate(erasure.encode(data, CODE)) if i >= LOST}
    pairs: list[tuple[str, Work, Work]] = [
        ("encode", lambda: erasure.encode(data, CODE), lambda: driver.encode(data)),
        (
            "decode, 4 lost",
            lambda: erasure.decode(left, CODE, size),
            lambda: driver.decode(fragments),
        ),
    ]
    for name, ours, bare in pairs:
        what = f"RS(10,4) {name}, 4 MiB, against PyECLib"
        mine, theirs = times(ours, bare)
        yield compared(what, size, mine, theirs, CODING_RATIO_MIN)
        turns = 20
        mine, theirs = times(on_two_threads(ours, turns), on_two_threads(bare, turns), rounds=5)
        yield compared("... on two threads", 2 * turns * size, mine, theirs)
    described, _made = shards.make(data, CODE)
    root = described.root
    mine, theirs = times(
        lambda: shards.recover(root, described, left), lambda: blake3(data, key=KEY).digest()
    )
    yield compared("check and recover 4 MiB, 4 lost, against BLAKE3", size, mine, theirs)


def trees() -> Iterator[Row]:
    size = 16 * limits.MIB
    data = data_of(size)
    view, block = memoryview(data), limits.MERKLE_BLOCK_BYTES
    mine, theirs = times(
        lambda: merkle.block_root(data),
        lambda: [blake3(view[i : i + block], key=KEY).digest() for i in range(0, size, block)],
        rounds=8,
    )
    what = "Merkle tree of a 16 MiB shard, against 1 GB/s"
    yield compared(what, size, mine, size / TREE_GB_PER_S_MIN / 1e9, 1.0)
    yield compared("... against BLAKE3 of its blocks", size, mine, theirs)

    count, pair = 100_000, bytes(64)
    items = {i.to_bytes(32): i.to_bytes(32) for i in range(count)}
    hashes = round(3.44 * count)  # a path and a leaf an item, and 1 / ln 2 inner nodes
    mine, theirs = times(
        lambda: smt.root(items),
        lambda: [blake3(pair, key=KEY).digest() for _ in range(hashes)],
        rounds=2,
    )
    ours, bare = (f"{count / seconds / 1e3:.0f} k items/s" for seconds in (mine, theirs))
    what = "sparse tree of 100,000 items, against its BLAKE3"
    yield Row(what, ours, bare, f"{theirs / mine:.2f} x", "", None)


def rows() -> Iterator[Row]:
    yield from coding()
    yield from trees()


if __name__ == "__main__":
    process.keep_freed_buffers()
    show("coding: trees and erasure codes", rows())
