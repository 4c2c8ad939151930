"""Start-up: what a person waits for before anything happens."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.table import Row, best_s

ROOT = Path(__file__).parent.parent.parent


def run_once(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def run(*argv: str | Path) -> float:
    return best_s(lambda: run_once(*argv), tries=15)


def archives(row: Callable[[str, float, float], Row]) -> Iterator[Row]:
    """What `warp archive` costs before and after the work: packing next to nothing."""
    warp = (sys.executable, "-m", "node.cli.warp", "archive")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "file").write_bytes(bytes(100))
        made, out = place / "a.warp", place / "out"

        def create() -> None:
            made.unlink(missing_ok=True)
            run_once(*warp, "create", place / "file", "-o", made)

        def extract() -> None:
            shutil.rmtree(out, ignore_errors=True)
            run_once(*warp, "extract", made, "-o", out)

        yield row("warp archive create of a small file", best_s(create, tries=15), 0.200)
        yield row("warp archive extract of the same", best_s(extract, tries=15), 0.200)


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
    yield from archives(row)
    test = run(sys.executable, "-m", "node.cli.portal", "self-test")
    yield Row("portal self-test", f"{test * 1e3:.0f} ms", against, f"{test / bare:.1f}x", "", None)
