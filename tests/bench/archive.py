"""archive: `warp archive` beside tar and zstd, borg and cp, on the same data in the same run.

Everything lies in memory (/dev/shm) where there is room for it, so that the disk is not what is
measured; PORTAL_BENCH_DIR names another place.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core import limits, process
from core.archive.builder import Builder
from core.archive.table import Stored
from core.archive.writer import ArchiveWriter
from core.chunking import Chunker, FixedParams
from core.compress import Mode
from core.hashing import keyed
from core.secret import Secret
from core.tree.entry import Entry, EntryType
from tests.bench import pipeline
from tests.bench.table import Row, show

WARP = [sys.executable, "-m", "node.cli.warp", "archive"]
ROUNDS = 3
SMALL_FILES = 72_000
LARGE_BYTES = 430_000_000
NOISE_BYTES = 300 * limits.MIB
FREE_BYTES_MIN = 12 * limits.GIB
MILLION = 1_000_000


def workplace() -> Path:
    chosen = os.environ.get("PORTAL_BENCH_DIR")
    memory = Path("/dev/shm")
    if chosen is None and memory.is_dir() and shutil.disk_usage(memory).free > FREE_BYTES_MIN:
        chosen = str(memory)
    return Path(tempfile.mkdtemp(prefix="portal-bench-", dir=chosen))


def run(*argv: object, **options: object) -> None:
    subprocess.run([str(a) for a in argv], check=True, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]  # passed through


def timed(clean: Callable[[], None], work: Callable[[], None]) -> float:
    clean()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(*contestants: tuple[Callable[[], None], Callable[[], None]]) -> list[float]:
    """The best time of each of (clean, work), taken in turns so that noise hits all alike."""
    best = [float("inf")] * len(contestants)
    for _ in range(ROUNDS):
        for i, (clean, work) in enumerate(contestants):
            best[i] = min(best[i], timed(clean, work))
    return best


def mixed_tree(place: Path) -> tuple[Path, int, int]:
    """Copies of this machine's real files: many small ones, some large, and noise."""
    tree = place / "tree"
    small = large = total = 0
    pipeline.TREES = (*pipeline.TREES, sys.base_prefix, "/usr/local", "/var/lib")
    for path, size in pipeline.real_files():
        if size < 256 * limits.KIB and small < SMALL_FILES:
            small += 1
        elif 256 * limits.KIB <= size < 60_000_000 and large < LARGE_BYTES:
            large += size
        else:
            continue
        copy = tree / str(path).lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, copy)
        except OSError:
            continue
        total += size
    (tree / "noise").write_bytes(keyed(bytes(32), b"noise", NOISE_BYTES))
    return tree, small, total + NOISE_BYTES


def mixed(place: Path) -> Iterator[Row]:
    tree, small, total = mixed_tree(place)
    ours, theirs, repo = place / "a.warp", place / "a.tar.zst", place / "borg"
    has_borg = shutil.which("borg") is not None
    env = os.environ | {"BORG_BASE_DIR": str(place), "BORG_PASSPHRASE": "bench"}

    def tar() -> None:
        run("sh", "-c", f"tar c -C '{place}' tree | zstd -3 -T2 -q -o '{theirs}'")

    def borg() -> None:
        run("borg", "init", "-e", "repokey-blake2", repo, env=env)
        run("borg", "create", "--compression", "zstd,3", f"{repo}::a", tree, env=env)

    contestants = [
        (lambda: ours.unlink(missing_ok=True), lambda: run(*WARP, "create", tree, "-o", ours)),
        (lambda: theirs.unlink(missing_ok=True), tar),
    ]
    if has_borg:
        contestants.append((lambda: shutil.rmtree(repo, ignore_errors=True), borg))
    took, tar_s, *borg_s = in_turns(*contestants)
    what = f"create, {small} small files and large ones, {total >> 20} MiB"
    ratio = tar_s / took
    rate = f"{took:.2f} s"
    yield Row(
        what, rate, f"tar | zstd -3 -T2 {tar_s:.2f} s", f"{ratio:.2f}x", ">= 0.9x", ratio >= 0.9
    )
    size, tar_size = ours.stat().st_size, theirs.stat().st_size
    if has_borg:
        ratio = borg_s[0] / took
        against = f"borg create, zstd-3 {borg_s[0]:.2f} s"
        yield Row("  against borg", rate, against, f"{ratio:.2f}x", ">= 2x", ratio >= 2)
        borg_size = sum(p.stat().st_size for p in repo.rglob("*") if p.is_file())
        yield size_row("  size against borg", size, borg_size)
    yield size_row("  size against tar | zstd", size, tar_size)
    yield from packers(place, tree, took, size)
    yield from of_a_tar_stream(place, tree, took)
    out, tar_out = place / "out", place / "tar-out"

    def fresh(path: Path) -> Callable[[], None]:
        def clean() -> None:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()

        return clean

    took, tar_s = in_turns(
        (fresh(out), lambda: run(*WARP, "extract", ours, "-o", out)),
        (fresh(tar_out), lambda: run("sh", "-c", f"zstd -dcq '{theirs}' | tar x -C '{tar_out}'")),
    )
    ratio = tar_s / took
    against = f"zstd -d | tar x {tar_s:.2f} s"
    yield Row("extract, same", f"{took:.2f} s", against, f"{ratio:.2f}x", ">= 0.8x", ratio >= 0.8)
    for path in (tree, out, tar_out, repo):
        shutil.rmtree(path, ignore_errors=True)


def packers(place: Path, tree: Path, took: float, size: int) -> Iterator[Row]:
    """Programs that pack trees by themselves, at their quick settings, once each; no goals."""
    packed = place / "packed"
    commands = {
        "tar": ["tar", "czf", packed, tree],
        "7z": ["7z", "a", "-t7z", "-mx=3", "-mmt=2", f"{packed}.7z", tree],
        "zpaq": ["zpaq", "add", f"{packed}.zpaq", tree, "-m1", "-t2"],
    }
    for program, command in commands.items():
        if shutil.which(program) is None:
            yield Row(f"  against {program}", "", "not installed here", "", "", None)
            continue
        began = time.perf_counter()
        run(*command, cwd=place, stdout=subprocess.DEVNULL)
        theirs = time.perf_counter() - began
        (made,) = place.glob("packed*")
        against = f"{version(program)}: {theirs:.2f} s, {made.stat().st_size / 1e6:.0f} MB"
        ratio = f"{theirs / took:.2f}x"
        yield Row(
            f"  against {program}", f"{took:.2f} s, {size / 1e6:.0f} MB", against, ratio, "", None
        )
        made.unlink()


def version(program: str) -> str:
    """What the program calls itself, shortly; zpaq and 7z do when asked for nothing."""
    asked = [program, "--version"] if program == "tar" else [program]
    said = subprocess.run(asked, check=False, capture_output=True, text=True).stdout
    first = next(line for line in said.splitlines() if line.strip())
    return " ".join(first.split()[:4]).strip(":,")


def of_a_tar_stream(place: Path, tree: Path, took: float) -> Iterator[Row]:
    """The same tree through a pipe."""
    made = place / "stream.warp"
    warp = " ".join(WARP)

    def piped() -> None:
        run("sh", "-c", f"tar c -C '{place}' {tree.name} | {warp} create - -o '{made}'")

    (stream,) = in_turns((lambda: made.unlink(missing_ok=True), piped))
    against = f"create of the tree itself {took:.2f} s"
    yield Row(
        "  tar c | warp archive create -",
        f"{stream:.2f} s",
        against,
        f"{took / stream:.2f}x",
        "",
        None,
    )
    made.unlink()


def size_row(what: str, size: int, other: int) -> Row:
    ratio = size / other
    measured, against = f"{size / 1e6:.0f} MB", f"{other / 1e6:.0f} MB"
    return Row(what, measured, against, f"{ratio:.3f}x", "< 1x", ratio < 1)


def incompressible(place: Path) -> Iterator[Row]:
    noise, ours, copy, out = (place / name for name in ("noise", "n.warp", "copy", "noise-out"))
    with noise.open("wb") as file:
        for part in range(16):
            file.write(keyed(bytes(32), f"part {part}".encode(), 64 * limits.MIB))
    copying = (lambda: copy.unlink(missing_ok=True), lambda: run("cp", noise, copy))
    took, cp_s = in_turns(
        (lambda: ours.unlink(missing_ok=True), lambda: run(*WARP, "create", noise, "-o", ours)),
        copying,
    )
    ratio = cp_s / took
    against = f"cp {cp_s:.2f} s"
    what = "create, 1 GiB of noise"
    yield Row(what, f"{took:.2f} s", against, f"{ratio:.2f}x", ">= 0.5x", ratio >= 0.5)
    took, cp_s = in_turns(
        (
            lambda: shutil.rmtree(out, ignore_errors=True),
            lambda: run(*WARP, "extract", ours, "-o", out),
        ),
        copying,
    )
    ratio = cp_s / took
    against = f"cp {cp_s:.2f} s"
    yield Row("extract, same", f"{took:.2f} s", against, f"{ratio:.2f}x", ">= 0.6x", ratio >= 0.6)


def million(place: Path) -> Iterator[Row]:
    path = place / "million.warp"
    writer = ArchiveWriter(path, None, Mode.AUTO)
    writer.begin()
    builder = Builder(Chunker(FixedParams("none", limits.MIB), Secret(bytes(32))), {})
    for n in range(MILLION):
        name = f"project-{n // 5000}/module-{n // 50}/file number {n}.txt".encode()
        builder.entry(Stored(Entry(name, EntryType.FILE, 0o644, mtime_ns=n)))
    builder.finish()
    writer.finish([writer.frame(chunk) for chunk in builder.whole_table()], MILLION, 0)
    began = time.perf_counter()
    child = subprocess.Popen([*WARP, "list", str(path)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    megabytes = usage.ru_maxrss / 1024
    met = took <= 1.0 and megabytes <= 300 and child.returncode == 0
    measured = f"{took:.2f} s, {megabytes:.0f} MiB"
    yield Row("list of a million entries", measured, "", "", "<= 1.0 s, <= 300 MiB", met)


def rows() -> Iterator[Row]:
    place = workplace()
    try:
        yield from million(place)
        yield from incompressible(place)
        yield from mixed(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    process.prepare_for_bulk()
    show((__doc__ or "").splitlines()[0], rows())
