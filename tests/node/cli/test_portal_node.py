import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import PORTAL_NODE, Node
from tests.support.home import REPOSITORY, somebody

HEAVY = {"trio", "h11", "starlette", "msgspec", "prometheus_client", "cryptography", "nacl"}


def run(home, *argv, **environment):
    return subprocess.run(
        [*PORTAL_NODE, *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=REPOSITORY,
        env={**os.environ, "PORTAL_HOME": str(home), **environment},
    )


def one_line(done, *words, code=1):
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("portal-node: ")
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("program", ["portal", "portal_node"])
def test_help_wakes_nothing_heavy(program):
    code = f"import sys; from node.cli import {program}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


@pytest.mark.slow
def test_a_command_that_asks_wakes_no_more_than_it_needs(tmp_path):
    somebody(tmp_path / "home")
    code = (
        "import sys; from pathlib import Path; from node.control import Control, NotRunning\n"
        f"try: Control(Path({str(tmp_path)!r})).status()\n"
        "except NotRunning: print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & (HEAVY - {"h11", "msgspec"}), "a question would take twice as long"
    assert "http" not in loaded


@pytest.mark.slow
@pytest.mark.parametrize("command", ["status", "stop", "reload", "events"])
def test_commands_say_that_no_node_runs(tmp_path, command):
    one_line(run(tmp_path, command), "No node runs here", "(portal-node run)", code=15)


@pytest.mark.slow
def test_a_node_needs_keys_and_a_configuration_without_mistakes(tmp_path):
    for command in ("run", "install"):
        one_line(run(tmp_path / "nobody", command), "portal init", code=10)
    assert not (tmp_path / "nobody").exists()
    somebody(tmp_path / "home")
    (tmp_path / "home" / "config.toml").write_text('[node]\nmetrix = "x"\n')
    one_line(run(tmp_path / "home", "run"), "'metrix' in node", "did you mean metrics?", code=2)
    (tmp_path / "home" / "config.toml").unlink()
    one_line(run(tmp_path / "home", "run", "--metrics", "x:y"), "no address to listen", code=2)
    assert not (tmp_path / "home" / "node.lock").exists()


@pytest.mark.slow
def test_status_in_words_and_for_programs(tmp_path):
    with Node(tmp_path) as node:
        shown = node.command("status").stdout
        assert "node       running since 0 min" in shown
        assert f"pid        {node.process.pid}\n" in shown
        assert "service    control running since" in shown
        told = json.loads(node.command("status", "--json").stdout)
        assert (told["v"], told["message_type"], told["state"]) == (1, "node_status", "running")
        assert told["services"][0]["name"] == "control"


@pytest.mark.slow
def test_stop_returns_when_a_new_one_can_start(tmp_path):
    with Node(tmp_path) as node:
        done = node.command("stop")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert node.ended()[0] == 0
        assert "STOPPING=1" in node.notice()
        node.start()
        assert node.command("stop").returncode == 0
        assert node.ended()[0] == 0


@pytest.mark.slow
def test_reload_says_what_is_in_force(tmp_path):
    with Node(tmp_path) as node:
        (node.home / "config.toml").write_text('[node]\nlog_level = "debug"\nmetrics = 9464\n')
        done = node.command("reload")
        assert done.stderr == "in force now: log_level\nneeds a new start: metrics\n"
        (node.home / "config.toml").write_text("[nod]\n")
        one_line(node.command("reload"), "did you mean node?", code=2)


@pytest.mark.slow
def test_events_are_json_lines_until_the_node_ends(tmp_path):
    with Node(tmp_path) as node:
        with subprocess.Popen(
            [*PORTAL_NODE, "events"],
            cwd=REPOSITORY,
            env=node.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as events:
            first = json.loads(events.stdout.readline())
            assert (first["message_type"], first["kind"]) == ("node_event", "stream.opened")
            assert node.end()[0] == 0
            told = [json.loads(line) for line in events.stdout]
        assert events.returncode == 0
        assert told[0]["data"] == {"service": "network", "state": "stopping"}
        assert told[-1]["data"] == {"why": "stopping"}


@pytest.mark.slow
def test_the_unit_starts_this_very_installation(tmp_path):
    done = run(tmp_path / "home", "unit", "--user", "--manager", "systemd")
    assert f'Environment="PORTAL_HOME={tmp_path}/home"\n' in done.stdout
    program = Path(done.stdout.split('ExecStart="')[1].partition('"')[0])
    assert program.is_absolute()
    assert os.access(program, os.X_OK)
    assert "WantedBy=default.target" in done.stdout
    assert "User=" in run(tmp_path, "unit", "--system", "--manager", "systemd").stdout
    assert "<plist" in run(tmp_path, "unit", "--user", "--manager", "launchd").stdout


@pytest.mark.slow
def test_install_and_uninstall_for_one_user(tmp_path):
    somebody(tmp_path / "home")
    system = {"HOME": str(tmp_path / "ann"), "PATH": str(tmp_path), "XDG_CONFIG_HOME": ""}
    done = run(tmp_path / "home", "install", "--user", "--manager", "systemd", **system)
    unit = tmp_path / "ann/.config/systemd/user/portal-node.service"
    assert done.returncode == 0, done.stderr
    assert f"wrote {unit}" in done.stderr
    assert "systemctl --user enable --now portal-node.service" in done.stderr
    assert unit.exists()
    done = run(tmp_path / "home", "uninstall", "--user", "--manager", "systemd", **system)
    assert (done.returncode, unit.exists()) == (0, False)
    again = run(tmp_path / "home", "uninstall", "--user", "--manager", "systemd", **system)
    one_line(again, "no such unit", code=2)
