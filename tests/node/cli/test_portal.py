import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from core import VERSION, native
from node.cli.portal import portal
from tests.support.home import REPOSITORY
from tests.support.program import Machine

HEAVY = {
    *("blake3", "click.shell_completion", "cryptography", "ctypes", "lz4", "mnemonic", "msgpack"),
    *("nacl", "rich", "segno", "tomllib", "trio", "zoneinfo", "zstandard"),
}


def test_help_says_what_it_is_for():
    result = CliRunner().invoke(portal, ["--help"])
    assert result.exit_code == 0
    assert "without trusting" in result.output
    assert CliRunner().invoke(portal, ["--version"]).output == f"portal {VERSION}\n"


def test_self_test(monkeypatch):
    from core import process

    monkeypatch.setattr(process, "forbid_core_dumps", lambda: None)  # would last for this process
    result = CliRunner().invoke(portal, ["self-test"])
    assert result.exit_code == 0
    assert [line.split()[-1] for line in result.output.splitlines()[:6]] == ["ok"] * 6
    report = json.loads(CliRunner().invoke(portal, ["self-test", "--json"]).output)
    assert report["message_type"] == "self_test"
    assert report["kernel"] in native.NAMES
    assert len(report["passed"]) == 6


def imported_by(*argv):
    """What a command has imported by its end, in a process of its own."""
    code = (
        "import sys, atexit\n"
        "from node.cli import portal, run\n"
        "atexit.register(lambda: print('\\n', *sys.modules))\n"
        "run.run(portal.portal, 'portal')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=REPOSITORY, capture_output=True, check=True
    )
    return set(done.stdout.decode().splitlines()[-1].split())


@pytest.mark.slow
def test_help_wakes_nothing_heavy_and_a_list_no_concurrency(tmp_path, monkeypatch):
    for argv in (["--help"], ["backup", "--help"], ["--version"]):
        assert imported_by(*argv) & HEAVY == set()
    machine = Machine(tmp_path, monkeypatch)
    machine.back_up(REPOSITORY / "node" / "cli")
    assert "trio" not in imported_by("snapshots")
    assert "portal.backup" in imported_by("backup", "-q", str(REPOSITORY / "node"))


def test_every_command_says_what_it_does():
    for name, command in portal.commands.items():
        shown = CliRunner().invoke(portal, [name, "--help"])
        assert shown.exit_code == 0, name
        assert command.get_short_help_str(), name
    assert {"backup", "restore", "snapshots", "init", "vault", "schedule"} <= set(portal.commands)
