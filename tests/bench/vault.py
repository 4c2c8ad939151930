"""vault: `portal backup` and `restore` beside restic and borg, on the same data in the same run.

Whatever is not installed is left out. Everything lies in memory (/dev/shm) where there is room;
PORTAL_BENCH_DIR names another place. Page cache warm, best of several, taken in turns.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core import limits
from core.hashing import keyed
from tests.bench.archive import in_turns, mixed_tree, timed, workplace
from tests.bench.table import Row

PORTAL = [sys.executable, "-m", "node.cli.portal"]
EXTRA_FILES = 4_000  # small ones made here, so that the tree has 75,000 on any machine
NOISE_BYTES = 2 * limits.GIB
MILLION_DIRECTORIES, MILLION_FILES = 1_000, 1_000
TOUCHED_EVERY = 100
INSERTED_AT = 20_000_000


@dataclass(frozen=True)
class Tool:
    """One program, and its vault in one place."""

    name: str
    place: Path

    @property
    def repo(self) -> Path:
        return self.place / f"{self.name}-vault"

    @property
    def env(self) -> dict[str, str]:
        secret = {"RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench"}
        home = {"PORTAL_HOME": f"{self.place}/portal-home", "BORG_BASE_DIR": f"{self.place}/borg"}
        return {**os.environ, **secret, **home, "RESTIC_CACHE_DIR": f"{self.place}/restic-cache"}

    def run(self, *argv: object, cwd: Path | None = None) -> None:
        subprocess.run(
            [str(a) for a in argv],
            check=True,
            env=self.env,
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def clean(self) -> None:
        for name in (f"{self.name}-vault", f"{self.name}-home", f"{self.name}-cache", self.name):
            shutil.rmtree(self.place / name, ignore_errors=True)

    def init(self) -> None:
        commands = {
            "portal": [*PORTAL, "init", "-r", self.repo],
            "restic": ["restic", "-q", "init", "-r", self.repo],
            "borg": ["borg", "init", "-e", "repokey-blake2", self.repo],
        }
        self.run(*commands[self.name])

    def backup(self, tree: Path) -> None:
        archive = f"{self.repo}::{time.monotonic_ns()}"
        commands = {
            "portal": [*PORTAL, "backup", "-q", "-r", self.repo, tree],
            "restic": ["restic", "-q", "backup", "-r", self.repo, tree],
            "borg": ["borg", "create", "--compression", "zstd,3", archive, tree],
        }
        self.run(*commands[self.name])

    def first(self, tree: Path) -> Callable[[], None]:
        def work() -> None:
            self.init()
            self.backup(tree)

        return work

    def restore(self, out: Path) -> None:
        commands = {
            "portal": [*PORTAL, "restore", "-q", "-r", self.repo, "latest", "--target", out],
            "restic": ["restic", "-q", "restore", "-r", self.repo, "latest", "--target", out],
        }
        self.run(*commands[self.name])

    def dump(self, path: Path) -> None:
        commands = {
            "portal": [*PORTAL, "cat", "-r", self.repo, f"latest:{path}"],
            "restic": ["restic", "-q", "dump", "-r", self.repo, "latest", path],
        }
        self.run(*commands[self.name])

    def size(self) -> int:
        return sum(p.stat().st_size for p in self.repo.rglob("*") if p.is_file())


def compared(what: str, took: float, other: str, other_s: float, goal: float) -> Row:
    ratio = other_s / took
    against = f"{other} {other_s:.2f} s"
    return Row(what, f"{took:.2f} s", against, f"{ratio:.2f}x", f">= {goal}x", ratio >= goal)


def version(name: str) -> str:
    argument = "version" if name == "restic" else "--version"
    return subprocess.check_output([name, argument], text=True).split()[1]


def rows() -> Iterator[Row]:
    place = workplace()
    try:
        yield from mixed(place)
        yield from noise(place, "in memory")
        with tempfile.TemporaryDirectory(prefix="portal-bench-", dir=Path.home()) as disk:
            yield from noise(Path(disk), "on disk")
        yield from million(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def mixed(place: Path) -> Iterator[Row]:
    tree, small, total = mixed_tree(place)
    for n in range(EXTRA_FILES):
        path = tree / "extra" / str(n % 40) / f"{n}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(keyed(bytes(32), str(n).encode(), 40).hex().encode() * (n % 60))
    tools = [Tool(name, place) for name in ("portal", "restic", "borg")]
    tools = [tool for tool in tools if tool.name == "portal" or shutil.which(tool.name)]
    ours, others = tools[0], tools[1:]
    names = {tool.name: f"{tool.name} {version(tool.name)}" for tool in others}
    took, *their_s = in_turns(*[(tool.clean, tool.first(tree)) for tool in tools])
    what = f"first backup, {small + EXTRA_FILES} small files and large ones, {total >> 20} MiB"
    goals = {"restic": 2.0, "borg": 3.0}
    for tool, other_s in zip(others, their_s, strict=True):
        yield compared(what, took, names[tool.name], other_s, goals[tool.name])
    took, *their_s = in_turns(*[(lambda: None, lambda t=tool: t.backup(tree)) for tool in tools])
    restic = [tool for tool in others if tool.name == "restic"]
    if restic:
        yield compared("no change", took, names["restic"], their_s[0], 3.0)
    files = sum(len(found) for _, _, found in os.walk(tree))
    rate = files / took
    yield Row("  files a second", f"{rate:,.0f}", "", "", ">= 50,000", rate >= 50_000)
    for theirs in restic:
        yield from against_restic(ours, theirs, tree, names["restic"])
    for tool in tools:
        tool.clean()
    shutil.rmtree(tree)


def against_restic(ours: Tool, theirs: Tool, tree: Path, name: str) -> Iterator[Row]:
    place = ours.place
    ratio = ours.size() / theirs.size()
    sizes = (f"{ours.size() / 1e6:.0f} MB", f"{name} {theirs.size() / 1e6:.0f} MB")
    yield Row("stored size", *sizes, f"{ratio:.3f}x", "<= 0.9x", ratio <= 0.9)
    outs = [place / "out", place / "their-out"]
    took, restic_s = in_turns(
        (lambda: shutil.rmtree(outs[0], ignore_errors=True), lambda: ours.restore(outs[0])),
        (lambda: shutil.rmtree(outs[1], ignore_errors=True), lambda: theirs.restore(outs[1])),
    )
    yield compared("restore, same", took, name, restic_s, 2.0)
    check_equal(tree, outs[0] / str(tree).lstrip("/"))
    for out in outs:
        shutil.rmtree(out)
    yield from one_file(ours, tree)
    before = ours.size(), theirs.size()
    edit(tree)
    ours.backup(tree)
    theirs.backup(tree)
    new, their_new = ours.size() - before[0], theirs.size() - before[1]
    sizes = (f"{new / 1e6:.1f} MB", f"{name} {their_new / 1e6:.1f} MB")
    ratio = new / their_new
    what = "new bytes after edits of 1 % of the files"
    yield Row(what, *sizes, f"{ratio:.3f}x", "<= 1.05x", ratio <= 1.05)


def check_equal(tree: Path, copy: Path) -> None:
    """A restore that lost something is no restore."""
    command = ["diff", "-rq", "--no-dereference", str(tree), str(copy)]
    found = subprocess.run(command, check=False, capture_output=True)
    if found.returncode != 0:
        raise SystemExit(f"the restored tree differs: {found.stdout[:500]!r}")


def one_file(ours: Tool, tree: Path) -> Iterator[Row]:
    path = next(tree.glob("extra/7/*7.txt"))
    out = ours.place / "one"

    argv = [*PORTAL, "cat", "-r", str(ours.repo), f"latest:{path}"]
    took, mebibytes = min(measured(ours, argv, out) for _ in range(3))
    assert out.read_bytes() == path.read_bytes()
    rate = f"{took:.2f} s, {mebibytes:.0f} MiB"
    met = took <= 0.5 and mebibytes <= 150
    yield Row("one small file out of it", rate, "", "", "<= 0.5 s, <= 150 MiB", met)
    yield listing(ours)


MEASURE = """
import resource, subprocess, sys, time
began = time.perf_counter()
with open(sys.argv[1], "wb") as out:
    subprocess.run(sys.argv[2:], check=True, stdout=out, stderr=subprocess.DEVNULL)
took = time.perf_counter() - began
print(took, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def measured(ours: Tool, argv: list[str], out: Path) -> tuple[float, float]:
    """Seconds and MiB of a command. A small process starts it: a child counts what it was made of.

    (Until it begins its own program it has the pages of this large one.)
    """
    command = [sys.executable, "-c", MEASURE, str(out), *argv]
    told = subprocess.run(command, check=True, env=ours.env, stdout=subprocess.PIPE, text=True)
    took, mebibytes = map(float, told.stdout.split())
    return took, mebibytes


def listing(ours: Tool) -> Row:
    took = min(
        timed(lambda: None, lambda: ours.run(*PORTAL, "snapshots", "-r", ours.repo))
        for _ in range(5)
    )
    return Row("portal snapshots", f"{took:.2f} s", "", "", "<= 0.30 s", took <= 0.30)


def edit(tree: Path) -> None:
    """Touch every hundredth file at its end, and put a line into a large one."""
    paths = sorted(p for p in tree.rglob("*") if p.is_file() and not p.is_symlink())
    for path in paths[::TOUCHED_EVERY]:
        if path.stat().st_size < limits.MIB:
            with path.open("ab") as file:
                file.write(b"one more line\n")
    large = tree / "noise"
    data = large.read_bytes()
    large.write_bytes(data[:INSERTED_AT] + b"a line in the middle\n" + data[INSERTED_AT:])


def noise(place: Path, where: str) -> Iterator[Row]:
    """Two gigabytes nobody can compress."""
    tools = [Tool(name, place) for name in ("portal", "restic")]
    tools = [tool for tool in tools if tool.name == "portal" or shutil.which(tool.name)]
    tree = place / "noise"
    tree.mkdir()
    for part in range(NOISE_BYTES // (256 * limits.MIB)):
        content = keyed(bytes(32), f"part {part}".encode(), 256 * limits.MIB)
        (tree / str(part)).write_bytes(content)
    try:
        took, *restic_s = in_turns(*[(tool.clean, tool.first(tree)) for tool in tools])
        what = f"first backup, {NOISE_BYTES >> 30} GiB of noise, {where}"
        rate = f"{took:.2f} s, {NOISE_BYTES / took / 1e6:.0f} MB/s"
        if not restic_s:
            yield Row(what, rate, "", "", "", None)
            return
        ratio = restic_s[0] / took
        against = f"restic {version('restic')} {restic_s[0]:.2f} s"
        goal = ">= 1.5x" if where == "in memory" else ""
        yield Row(what, rate, against, f"{ratio:.2f}x", goal, ratio >= 1.5 if goal else None)
    finally:
        shutil.rmtree(tree)
        for tool in tools:
            tool.clean()


def million(place: Path) -> Iterator[Row]:
    """A million files of a few bytes: what stays in memory for each of them."""
    tree = place / "million"
    for d in range(MILLION_DIRECTORIES):
        folder = tree / str(d)
        folder.mkdir(parents=True)
        for n in range(MILLION_FILES):
            (folder / str(n)).write_bytes(b"%d %d" % (d, n))
    ours = Tool("portal", place)
    ours.clean()
    ours.init()
    argv = [*PORTAL, "backup", "-q", "-r", str(ours.repo), str(tree)]
    for what in ("a million small files, first", "  the same again"):
        took, mebibytes = measured(ours, argv, place / "nothing")
        rate = f"{took:.1f} s, {mebibytes:.0f} MiB"
        yield Row(what, rate, "", "", "<= 300 MiB", mebibytes <= 300)
    ours.clean()
    shutil.rmtree(tree)
