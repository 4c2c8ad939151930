"""Start-up: what a person waits for before anything happens."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.table import Row, best_s

ROOT = Path(__file__).parent.parent.parent


def run(*argv: str | Path) -> float:
    return best_s(lambda: subprocess.run(argv, check=True, capture_output=True), tries=15)


def rows() -> Iterator[Row]:
    bare = run(sys.executable, "-c", "pass")
    against = f"bare interpreter {bare * 1e3:.0f} ms"
    module = run(sys.executable, "-m", "node.cli.portal", "--help")
    script = run(ROOT / "scripts" / "portal", "--help")

    def row(what: str, took: float, goal_s: float) -> Row:
        ratio, goal = f"{took / bare:.1f}x", f"<= {goal_s * 1e3:.0f} ms"
        return Row(what, f"{took * 1e3:.0f} ms", against, ratio, goal, took <= goal_s)

    yield row("scripts/portal --help", script, 0.150)
    yield row("python -m node.cli.portal --help", module, 0.150)
    yield row("overhead of scripts/portal", script - module, 0.100)
    test = run(sys.executable, "-m", "node.cli.portal", "self-test")
    yield Row("portal self-test", f"{test * 1e3:.0f} ms", against, f"{test / bare:.1f}x", "", None)
