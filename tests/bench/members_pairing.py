"""Two fresh nodes paired as README says: from the first command to "linked" on both.

Every command is a process of its own, one after the other, and the code goes from one to the next
as a person would paste it. What people take to read and to type is left out.
`python -m tests.bench.members_pairing` runs this alone.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.bench.table import Row, show
from tests.support.home import REPOSITORY

PORTAL = [sys.executable, "-m", "node.cli.portal"]
PORTAL_NODE = [sys.executable, "-m", "node.cli.portal_node"]
GOAL_S = 60
PATIENCE_SECONDS = 120


class Machine:
    """One of the two, with a home of its own."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        home.mkdir(mode=0o700)
        # README's machines have an address of their own; here both are one.
        (home / "config.toml").write_text('[node]\nlisten = "127.0.0.1:0"\n', encoding="utf-8")
        self.commands = 0
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")
        } | {"PORTAL_HOME": str(home)}
        self._stack = stack

    def types(self, *argv: str, told: str = "", program: list[str] = PORTAL) -> str:
        """A command to its end; what it says."""
        self.commands += 1
        done = subprocess.run(
            [*program, *argv],
            cwd=REPOSITORY,
            env=self._environment,
            input=told,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"{argv} failed: {done.stderr}")
        return done.stdout

    def starts_its_node(self) -> None:
        """`portal-node run`, in a terminal of its own; ready when it answers."""
        self.commands += 1
        null = subprocess.DEVNULL
        process = subprocess.Popen(
            [*PORTAL_NODE, "run"],
            cwd=REPOSITORY,
            env=self._environment,
            stdin=null,
            stdout=null,
            stderr=null,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        while self._asks_in_vain():
            assert process.poll() is None, "the node has ended"

    def _asks_in_vain(self) -> bool:
        argv = [*PORTAL_NODE, "status"]
        done = subprocess.run(
            argv, cwd=REPOSITORY, env=self._environment, capture_output=True, check=False
        )
        return done.returncode != 0

    def sees_a_link(self) -> None:
        """`portal peers` until it says so."""
        until = time.monotonic() + PATIENCE_SECONDS
        while "linked, " not in self.types("peers", "-v"):
            assert time.monotonic() < until, "no link"
            time.sleep(0.1)


def measure() -> tuple[float, float, int]:
    """Seconds in all, seconds from `portal join` on, and how many commands it took."""
    with tempfile.TemporaryDirectory(prefix="portal-bench-") as folder, ExitStack() as stack:
        ann, bob = (Machine(Path(folder) / name, stack) for name in ("ann", "bob"))
        began = time.perf_counter()
        for one in (ann, bob):
            one.types("init")
            one.starts_its_node()
        ann.types("mesh", "new", "family")
        code = ann.types("invite", "--label", "bob").split()[-1]
        joining = time.perf_counter()
        bob.types("join", told=f"{code}\n")
        for one in (ann, bob):
            one.sees_a_link()
        now = time.perf_counter()
        return now - began, now - joining, ann.commands + bob.commands


def rows() -> Iterator[Row]:
    """The goal of pairing."""
    took_s, join_s, commands = measure()
    yield Row(
        "two fresh nodes, README's commands until both say linked",
        f"{took_s:.1f} s",
        f"{commands} commands, typing and reading not counted; join to linked {join_s:.1f} s",
        f"{took_s / GOAL_S:.2f}x",
        f"<= {GOAL_S} s",
        took_s <= GOAL_S,
    )


if __name__ == "__main__":
    show("pairing", rows())
