"""chunkers: how much of an edited copy is found again, and how fast the cuts are found.

`python -m tests.bench.chunkers [--quick] [--mib N] [--keys N] [--seed N]` prints the whole report:
for each kind of data and each parameter set the share of the edited copy's bytes that lie in chunks
of the original, and the mean chunk; then the speeds, on one core, beside memcpy in the same run.
"FastCDC, same mean" is Gear with all its sizes scaled until its mean chunk is that of the default
set on the same data: what the default's dedup is compared with.
"""

import argparse
import ctypes
import functools
import operator
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from core import chunking, native, process
from core.chunking import Chunker, GearParams
from core.errors import Unavailable
from core.hashing import keyed
from core.limits import KIB, MIB
from core.native import Kernel
from core.secret import Secret
from tests.bench.chunker_corpus import Pair, corpus
from tests.bench.table import Row, best_s, show

Cuts = Callable[[bytes], list[int]]

DEDUP_GOAL = 0.95
SAME_MEAN = "FastCDC, same mean"
ARCHIVE_RIVAL = "gear-4m-1"  # of the same mean as the default of archives
SCANNED = [name for name in chunking.PARAMS if not name.startswith("fixed")]
# Run length, trigger, jump, chosen for a mean of 1 MiB on random bytes; 0.5 to 2 times that.
PUBLISHED = {"published SeqCDC": (7, 50, 1_000), "the same, no jumps": (8, 0, 0)}


class Found(NamedTuple):
    """What one chunker made of one pair, or of several."""

    shared_bytes: int = 0
    new_bytes: int = 0
    cut_bytes: int = 0
    chunks: int = 0

    def __or__(self, other: "Found") -> "Found":
        return Found(*map(sum, zip(self, other, strict=True)))

    @property
    def share(self) -> float:
        return self.shared_bytes / self.new_bytes

    @property
    def mean_bytes(self) -> float:
        return self.cut_bytes / self.chunks


def key(number: int) -> Secret:
    return Secret(bytes([number]) * 32)


def cutter(params: chunking.ChunkerParams, number: int) -> Cuts:
    chunker = Chunker(params, key(number))
    return lambda data: chunker.cuts(data, final=True)


def compare(pair: Pair, cuts: Cuts) -> Found:
    """Cut both versions, and look for the chunks of the new one among those of the old one."""

    def chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
        start, view = 0, memoryview(data)
        for end in cuts(data):
            yield keyed(bytes(32), view[start:end]), end - start
            start = end

    old = list(chunks(pair.old))
    new = list(chunks(pair.new))
    known = {name for name, _ in old}
    shared = sum(size for name, size in new if name in known)
    sizes = len(pair.old) + len(pair.new)
    return Found(shared, len(pair.new), sizes, len(old) + len(new))


def same_mean(pair: Pair, mean_bytes: float, number: int) -> Found:
    """FastCDC with its sizes scaled to this mean chunk on this very data."""
    base = chunking.PARAMS["gear-1m-1"]
    assert isinstance(base, GearParams)
    factor, found = 1.0, Found()
    for _ in range(8):
        sizes = (base.min_bytes, base.normal_bytes, base.max_bytes)
        distances = (base.strict_distance_bytes, base.loose_distance_bytes)
        scaled = GearParams(SAME_MEAN, *(int(n * factor) for n in (*sizes, *distances)))
        found = compare(pair, cutter(scaled, number))
        ratio = mean_bytes / found.mean_bytes
        if abs(ratio - 1) < 0.015:
            break
        factor = min(max(factor * ratio, 0.3), 3.0)
    return found


def published(folder: Path) -> dict[str, Cuts]:
    """SeqCDC as its authors describe it, if a C compiler is at hand."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    source, built = Path(__file__).with_name("seqcdc_published.c"), folder / "published.so"
    subprocess.run([compiler, "-O3", "-shared", "-fPIC", "-o", built, source], check=True)
    call = ctypes.CDLL(str(built)).published_cuts

    def made(length: int, trigger: int, jump: int) -> Cuts:
        def cuts(data: bytes) -> list[int]:
            low, high = 512 * KIB, 2 * MIB
            out = (ctypes.c_uint64 * (len(data) // low + 1))()
            sizes = (ctypes.c_uint64(n) for n in (len(data), low, high))
            return out[: call(data, *sizes, length, trigger, jump, out)]

        return cuts

    return {name: made(*numbers) for name, numbers in PUBLISHED.items()}


def dedup(size: int, keys: int, seed: int, *, others: bool) -> dict[str, dict[str, Found]]:
    """By kind of data, by chunker."""
    results: dict[str, dict[str, Found]] = {}
    with tempfile.TemporaryDirectory() as folder:
        extra = published(Path(folder)) if others else {}
        for kind, pair in corpus(size, seed):
            row = {name: compare(pair, cuts) for name, cuts in extra.items()}
            for number in range(keys):
                default = compare(pair, cutter(chunking.PARAMS[chunking.DEFAULT_VAULT], number))
                found = {SAME_MEAN: same_mean(pair, default.mean_bytes, number)}
                for name, params in chunking.PARAMS.items() if others else ():
                    found[name] = compare(pair, cutter(params, number))
                found[chunking.DEFAULT_VAULT] = default
                row |= {name: row.get(name, Found()) | one for name, one in found.items()}
            results[kind] = row
    return results


class Line(NamedTuple):
    """A chunker over all kinds of data; the last two beside FastCDC at the same mean."""

    mean: float
    pooled: float
    ratio: float
    worst: float


def summary(results: dict[str, dict[str, Found]]) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    base = [row[SAME_MEAN].share for row in results.values()]
    for name in next(iter(results.values())):
        found = [row[name] for row in results.values()]
        shares = [one.share for one in found]
        pooled = functools.reduce(operator.or_, found).share
        worst = min(ours / max(theirs, 1e-9) for ours, theirs in zip(shares, base, strict=True))
        mean = sum(shares) / len(shares)
        lines[name] = Line(mean, pooled, sum(shares) / sum(base), worst)
    return lines


def print_dedup(results: dict[str, dict[str, Found]]) -> None:
    order = [SAME_MEAN, *chunking.PARAMS, *PUBLISHED]
    names = sorted(next(iter(results.values())), key=order.index)
    print("\nshare of the edited copy found in the original, % (mean chunk, KiB)")
    print_line("", names)
    for kind, row in results.items():
        cells = (f"{row[n].share * 100:.1f} ({row[n].mean_bytes / KIB:.0f})" for n in names)
        print_line(kind, cells)
    lines = summary(results)
    print_line("mean of kinds", (f"{lines[n].mean * 100:.1f}" for n in names))
    print_line("all bytes", (f"{lines[n].pooled * 100:.1f}" for n in names))
    # Larger chunks find less by their size alone: no ratio for them.
    like = [n not in {ARCHIVE_RIVAL, chunking.DEFAULT_ARCHIVE} for n in names]
    pairs = list(zip(names, like, strict=True))
    print_line("to FastCDC", (f"{lines[n].ratio:.3f}" if fair else "" for n, fair in pairs))
    print_line("worst kind", (f"{lines[n].worst:.3f}" if fair else "" for n, fair in pairs))
    data = keyed(bytes(32), b"speed", 64 * MIB)
    kernel = native.open_kernel()
    rates = {n: speed_gbs(kernel, n, data) for n in names if n in SCANNED}
    print_line("GB/s", (f"{rates[n]:.1f}" if n in rates else "" for n in names))


def print_line(head: str, cells: Iterable[str]) -> None:
    print(f"  {head:<16}" + "".join(f"{cell:>20}" for cell in cells))


# --- speed ---------------------------------------------------------------------------------------


def kernels() -> Iterator[Kernel]:
    for name in native.NAMES:
        try:
            yield native.open_kernel(name)
        except Unavailable:
            continue


def speed_gbs(kernel: Kernel, set_name: str, data: bytes) -> float:
    chunker = Chunker(chunking.PARAMS[set_name], key(1), kernel=kernel)
    return len(data) / best_s(lambda: chunker.cuts(data, final=True)) / 1e9


def speed_rows(*, quick: bool) -> Iterator[Row]:
    """Random bytes: 4 MiB that stay in the cache, and more than a cache holds."""
    buffers = {
        "cache": keyed(bytes(32), b"small", 4 * MIB),
        "memory": keyed(bytes(32), b"large", (64 if quick else 256) * MIB),
    }
    memcpy = {where: copy_gbs(data) for where, data in buffers.items()}
    goals = {("seqcdc-1m-1", "cache"): 15.0, ("seqcdc-1m-1", "memory"): 6.0}
    goals |= {("gear-1m-1", "cache"): 2.0, ("gear-1m-1", "memory"): 2.0}
    first = native.open_kernel().name
    for kernel in kernels():
        for set_name, where in goals:
            slow, one_path = kernel.name == "python", set_name.startswith("gear")
            if (slow and where == "memory") or (one_path and kernel.name not in {first, "python"}):
                continue
            rate = speed_gbs(kernel, set_name, buffers[where])
            goal = goals[set_name, where] if kernel.name == first and not slow else 0
            yield Row(
                f"{set_name} in {where}, {kernel.name}",
                f"{rate:.2f} GB/s",
                f"memcpy {memcpy[where]:.1f} GB/s",
                f"{rate / memcpy[where]:.3f}x",
                f">= {goal:.0f} GB/s" if goal else "",
                rate >= goal if goal else None,
            )


def copy_gbs(data: bytes) -> float:
    target = memoryview(bytearray(len(data)))

    def copy() -> None:
        target[:] = data

    return len(data) / best_s(copy) / 1e9


def clauses(results: dict[str, dict[str, Found]]) -> Iterator[Row]:
    """What decides the defaults: as much found again as by FastCDC, or nearly."""
    lines = summary(results)
    contests = ((chunking.DEFAULT_VAULT, SAME_MEAN), (chunking.DEFAULT_ARCHIVE, ARCHIVE_RIVAL))
    for name, rival in contests:
        if name in lines and rival in lines:
            ours, theirs = lines[name].mean, lines[rival].mean
            measured, against = f"{ours * 100:.1f} % found again", f"{rival}: {theirs * 100:.1f} %"
            ratio = ours / theirs
            met = ratio >= DEDUP_GOAL
            yield Row(
                f"dedup of {name}", measured, against, f"{ratio:.3f}x", f">= {DEDUP_GOAL}", met
            )


def rows() -> Iterator[Row]:
    yield from clauses(dedup(32 * MIB, keys=2, seed=1, others=False))
    yield from speed_rows(quick=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="the dedup report of the chunkers")
    parser.add_argument("--quick", action="store_true", help="a quarter of the data, one key")
    parser.add_argument("--mib", type=int, default=64, help="MiB of each kind of data")
    parser.add_argument("--keys", type=int, default=4, help="keys to average over")
    parser.add_argument("--seed", type=int, default=1, help="other data, other edits")
    asked = parser.parse_args()
    process.keep_freed_buffers()
    size, keys = (16, 1) if asked.quick else (asked.mib, asked.keys)
    results = dedup(size * MIB, keys, asked.seed, others=True)
    print_dedup(results)
    met = show("the default", [*clauses(results), *speed_rows(quick=asked.quick)])
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
