import os
import shutil
import subprocess
import sys

import pytest

from core.errors import Unavailable
from node import api
from node.cli import completion
from node.cli.portal import portal
from node.control import Control
from tests.support.home import PASSPHRASE, REPOSITORY, cheap_passphrases
from tests.support.program import Machine, one_line


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    return Machine(tmp_path, monkeypatch)


def asked(machine, monkeypatch, *words):
    """What a shell is told when the last word is to be finished: value and help."""
    with monkeypatch.context() as shell:
        shell.setenv("_PORTAL_COMPLETE", "zsh_complete")
        shell.setenv("COMP_WORDS", " ".join(["portal", *words]))
        shell.setenv("COMP_CWORD", str(len(words)))
        done = machine.here()
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    return dict(zip(lines[1::3], lines[2::3], strict=True))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_every_shell_gets_a_script_that_asks_the_program(machine, shell):
    text = machine.here("completion", shell).stdout
    assert f"{shell}_complete" in text
    assert "_PORTAL_COMPLETE" in text
    assert text.endswith("\n")
    assert not machine.home.exists()


def test_other_shells_are_refused(machine):
    one_line(machine.here("completion", "csh", code=2), "'csh' is not one of")
    with pytest.raises(Unavailable, match="knows no csh"):
        completion.script(portal, "portal", "csh")
    assert completion.variable("portal-node") == "_PORTAL_NODE_COMPLETE"


def test_commands_options_and_choices(machine, monkeypatch):
    found = asked(machine, monkeypatch, "s")
    assert {"schedule", "snapshots"} <= set(found)
    assert found["snapshots"].startswith("List the snapshots")
    assert "--tag" in asked(machine, monkeypatch, "snapshots", "--t")
    assert set(asked(machine, monkeypatch, "backup", "--compression", "l")) == {"lz4"}
    assert asked(machine, monkeypatch, "nonsense", "x") == {}
    assert not machine.home.exists()


def test_profiles(machine, monkeypatch):
    assert asked(machine, monkeypatch, "backup", "-P", "h") == {}
    machine.configure("[profile.home]\n[profile.hourly]\n[profile.db]\n")
    for command in (["backup"], ["init"], ["schedule", "install"], ["config", "show"]):
        assert set(asked(machine, monkeypatch, *command, "-P", "h")) == {"home", "hourly"}
    machine.configure("nonsense = 1\n")
    assert asked(machine, monkeypatch, "backup", "-P", "h") == {}


def test_snapshots(machine, monkeypatch, tmp_path):
    assert asked(machine, monkeypatch, "tag", "") == {}
    docs = tmp_path / "docs\nand\x1b[2J more"
    docs.mkdir()
    first, second = (machine.back_up(docs, "--host", "desk")["snapshot"][:8] for _ in range(2))
    before = {path: path.stat().st_mtime_ns for path in machine.home.rglob("*")}
    found = asked(machine, monkeypatch, "tag", "")
    assert list(found) == ["latest", second, first]
    assert found["latest"] == found[second]
    assert found[first].split()[2] == "desk"
    assert "\x1b" not in found[first]
    assert set(asked(machine, monkeypatch, "pin", first[:5])) == {first}
    assert set(asked(machine, monkeypatch, "backup", "--parent", "la")) == {"latest"}
    assert asked(machine, monkeypatch, "tag", "-r", str(tmp_path / "gone"), "la") == {}
    assert {path: path.stat().st_mtime_ns for path in machine.home.rglob("*")} == before


@pytest.mark.slow
def test_nobody_is_asked_for_a_passphrase(machine, monkeypatch, tmp_path):
    cheap_passphrases(monkeypatch)
    monkeypatch.setenv("PORTAL_PASSPHRASE", PASSPHRASE.decode())
    machine.here("init", "--passphrase", "--no-key-file")
    machine.back_up(tmp_path)
    assert asked(machine, monkeypatch, "tag", "") == {}  # Argon2id takes longer than a keystroke
    machine.here("key", "add", "--key-file")
    assert len(asked(machine, monkeypatch, "tag", "")) == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
def test_bash_itself(machine, tmp_path):
    program = tmp_path / "portal"
    program.write_text(f'#!{shutil.which("bash")}\nexec {sys.executable} -m node.cli.portal "$@"\n')
    program.chmod(0o755)
    script = machine.here("completion", "bash").stdout
    asking = (
        f"{script}\nCOMP_WORDS=(portal snap); COMP_CWORD=1\n"
        f'_portal_completion {program}\necho "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", asking],
        capture_output=True,
        check=False,
        cwd=REPOSITORY,
        env=os.environ,
    )
    assert done.stdout == b"snapshots\n"


def test_members_where_a_node_runs(machine, monkeypatch):
    assert asked(machine, monkeypatch, "revoke", "b") == {}
    rows = [
        api.Peer(name, "n", "u", standing, "member", False, False)
        for name, standing in (("ann", "active"), ("bob", "active"), ("Bob's", "revoked"))
    ]
    monkeypatch.setattr(Control, "get", lambda *_: api.Peers(peers=rows))
    found = {"bob": "active, member", "Bob's": "revoked, member"}
    assert asked(machine, monkeypatch, "revoke", "b") == found
    assert asked(machine, monkeypatch, "grant", "bob", "adm").keys() == {"admin", "admitter"}
    assert not machine.home.exists()
