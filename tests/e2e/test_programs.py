"""The programs as people start them: own processes, the installed entry points."""

import subprocess
import sys
from pathlib import Path

import pytest

from core import VERSION

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
HEAVY = {"cryptography", "nacl", "trio", "rich", "blake3", "msgpack", "zstandard", "pyeclib"}


def run(*argv, **options):
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.mark.parametrize("program", ["portal", "portal-node", "warp"])
def test_every_program_answers(program, tmp_path):
    shown = run(BIN / program, "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert shown.stderr == ""
    assert run(BIN / program, "--version").stdout == f"{program} {VERSION}\n"
    wrong = run(BIN / program, "nonsense")
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_the_dashboard_says_that_it_does_not_exist_yet():
    done = run(BIN / "portal-tui")
    assert done.returncode == 2
    assert "does not exist yet" in done.stderr


def test_help_wakes_nothing_heavy():
    code = "import sys; from node.cli import portal; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in run(sys.executable, "-c", code).stdout.split()}
    assert loaded & HEAVY == set()


def test_the_checkout_runs_from_anywhere_and_through_a_link(tmp_path):
    link = tmp_path / "portal"
    link.symlink_to(ROOT / "scripts" / "portal")
    done = run(link, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"portal {VERSION}\n")


def test_self_test_in_a_process_of_its_own():
    done = run(BIN / "portal", "self-test")
    assert done.returncode == 0
    assert done.stdout.count(" ok\n") == 6
