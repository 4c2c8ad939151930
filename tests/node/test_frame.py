"""The node's frame as a process of its own: what people, scripts and systemd see of it."""

import json
import shutil
import signal
import socket
import stat
import subprocess
import sys
from contextlib import closing

import pytest

from core import VERSION, limits
from core.ids import NodeId, UserId
from node import api
from node.config import NodeSettings
from node.control import NotRunning
from node.frame import Frame, Place
from node.log import Level, Log, Sink
from tests.support.daemon import PATIENCE_S, Node
from tests.support.home import REPOSITORY

pytestmark = pytest.mark.slow


def ask(node, path, method="GET"):
    """What curl would get; the status and the body."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(PATIENCE_S)
        stream.connect(str(node.home / "node.sock"))
        head = f"{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n"
        stream.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
        said = b""
        while part := stream.recv(65_536):
            said += part
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_leaves_nothing(tmp_path, number):
    with Node(tmp_path) as node:
        found = node.control.status()
        assert (found.pid, found.state, found.version) == (node.process.pid, "running", VERSION)
        assert found.home == str(node.home)
        assert [(one.name, one.state) for one in found.services] == [
            ("control", "running"),
            ("mesh", "running"),
            ("network", "running"),
        ]
        assert NodeId.parse_untrusted(found.node)
        assert UserId.parse_untrusted(found.user)
        assert stat.S_IMODE((node.home / "node.sock").stat().st_mode) == 0o600
        code, told = node.end(number)
        assert code == 0
        assert "STOPPING=1" in node.notice()
    assert not (node.home / "node.sock").exists()
    assert (node.home / "node.lock").read_bytes() == b""
    assert " info control: door opened path=" in told[0]
    assert "node: stopped" in told[-1]
    with pytest.raises(NotRunning):
        node.control.status()


def test_it_ends_in_time_whoever_listens(tmp_path):
    with Node(tmp_path) as node:
        listening = node.control.events()
        assert next(listening).kind == "stream.opened"
        stalled = socket.socket(socket.AF_UNIX)  # asks, and reads nothing
        stalled.connect(str(node.home / "node.sock"))
        stalled.sendall(b"GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n")
        with stalled:
            code, _ = node.end()
        assert code == 0
        assert [event.kind for event in listening][-1] == "stream.closed"


def test_a_second_one_is_refused_and_the_first_goes_on(tmp_path):
    with Node(tmp_path) as node:
        with node.spawn() as second:
            _, told = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 1
        assert told == (
            f"portal-node: {node.home}: another node runs here (pid {node.process.pid}) "
            "(portal-node stop)\n"
        )
        assert node.control.health().ok


def test_a_killed_one_leaves_nothing_that_hinders(tmp_path):
    with Node(tmp_path) as node:
        code, _ = node.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert (node.home / "node.sock").exists()
        with pytest.raises(NotRunning):
            node.control.status()
        node.start()
        assert node.control.status().pid == node.process.pid
        assert node.end()[0] == 0


def test_two_homes_two_nodes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Node(tmp_path / "a") as first, Node(tmp_path / "b") as second:
        assert first.control.status().node != second.control.status().node


def test_what_can_be_asked(tmp_path):
    with Node(tmp_path) as node:
        assert ask(node, "/v1/health") == (200, b'{"ok":true,"complaints":[]}')
        routes = node.control.index().routes
        paths = {(o.method, o.path) for o in routes if not o.path.startswith(api.MESH)}
        assert paths == {
            ("GET", api.INDEX),
            ("GET", api.STATUS),
            ("GET", api.HEALTH),
            ("GET", api.METRICS),
            ("GET", api.EVENTS),
            ("POST", api.STOP),
            ("POST", api.RELOAD),
        }
        assert all(one.what for one in node.control.index().routes)
        code, text = ask(node, api.METRICS)
        assert code == 200
        assert b'\nportal_service_up{service="control"} 1.0\n' in text
        assert b"portal_event_listeners 0.0" in text
        assert ask(node, api.STOP, "POST") == (200, b"{}")  # the answer comes before the end
        assert node.ended()[0] == 0


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
def test_curl_as_the_readme_shows_it(tmp_path):
    with Node(tmp_path) as node:
        argv = ["curl", "-sS", "--fail", "--unix-socket", node.home / "node.sock"]
        done = subprocess.run([*argv, "http://node/v1/status"], capture_output=True, check=True)
        assert json.loads(done.stdout)["state"] == "running"
        with subprocess.Popen(
            [*argv, "-N", "http://node/v1/events"], stdout=subprocess.PIPE, text=True
        ) as stream:
            assert json.loads(stream.stdout.readline())["kind"] == "stream.opened"
            stop = [*argv, "-X", "POST", "http://node/v1/stop"]
            subprocess.run(stop, capture_output=True, check=True)
            assert json.loads(stream.stdout.readlines()[-1])["data"] == {"why": "stopping"}
        assert node.ended()[0] == 0


def test_metrics_are_on_no_address_unless_one_is_named(tmp_path):
    with Node(tmp_path) as node:
        assert node.control.status().metrics is None
    with Node(tmp_path, "--metrics", "127.0.0.1:0") as node:
        host, _, port = node.control.status().metrics.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as stream:
            stream.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert stream.makefile("rb").read().endswith(b"\r\n\r\nok\n")
        assert node.end()[0] == 0


def test_an_address_in_use_is_one_clear_line_and_no_node(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        node = Node(tmp_path, "--metrics", address)
        with closing(node), node.spawn() as process:
            _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    (line,) = [one for one in told.splitlines() if " error " in one]
    assert f'service failed service=metrics error="{address}: Address already in use"' in line
    assert not (node.home / "node.sock").exists()


def test_the_configuration_is_read_again(tmp_path):
    with Node(tmp_path) as node:
        config = node.home / "config.toml"
        config.write_text('[node]\nlog_level = "debug"\nmetrics = 9464\n')
        node.process.send_signal(signal.SIGHUP)
        assert "RELOADING=1" in node.notice()
        assert "READY=1" in node.notice()
        assert node.control.status().log_level == "debug"
        assert node.control.status().metrics is None  # needs a new start
        config.write_text('[node]\nlog_levle = "info"\n')
        node.process.send_signal(signal.SIGHUP)
        assert "RELOADING=1" in node.notice()
        assert "READY=1" in node.notice()
        assert node.control.status().log_level == "debug"
        code, told = node.end()
    assert code == 0
    assert any("configuration reloaded changed=log_level waiting=metrics" in one for one in told)
    assert any("did you mean log_level?" in one for one in told)


def test_machines_read_json_lines(tmp_path):
    with Node(tmp_path, "--log-json", "--log-level", "debug") as node:
        code, told = node.end()
    assert code == 0
    lines = [json.loads(one) for one in told]
    assert [one["event"] for one in lines][-1] == "stopped"
    assert {one["v"] for one in lines} == {1}


def test_a_path_too_long_for_a_socket_has_a_way_out(tmp_path):
    place = tmp_path / ("x" * 90)
    place.mkdir()
    node = Node(place)
    with node.spawn() as process:
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "control_socket = " in told
    (node.home / "config.toml").write_text(f'[node]\ncontrol_socket = "{tmp_path}/s"\n')
    assert "STOPPING=1" in node.notice()
    with node:
        assert node.control.status().state == "running"


HANGS = """
import sys, trio
from pathlib import Path
from core import limits
from core.ids import NodeId, UserId
from node.config import NodeSettings
from node.frame import Frame, Place
from node.log import Log, Sink, to_stderr
limits.NODE_STOP_SECONDS = 0.2
class Hangs:
    name = "hangs"
    async def run(self, *, task_status):
        task_status.started()
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()
place = Place(Path(sys.argv[1]), NodeId(bytes(32)), UserId(bytes(32)), NodeSettings)
frame = Frame(place, Log(Sink(to_stderr)))
frame.add(Hangs())
trio.run(frame.run)
"""


def test_what_does_not_end_is_left_behind_and_named(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, tmp_path], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    ) as process:
        while "ready" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "Timeout" in told  # and then where every thread is


# --- in this process ------------------------------------------------------------------------------


def frame(tmp_path, settings, **options):
    place = Place(
        home=tmp_path,
        node=NodeId(bytes(32)),
        user=UserId(bytes(32)),
        read_settings=lambda: settings[0],
        options=options,
    )
    return Frame(place, Log(Sink(lambda _: None)))


def test_options_go_before_the_configuration_also_when_it_is_read_again(tmp_path):
    settings = [NodeSettings(log_level="warning")]
    made = frame(tmp_path, settings, log_level="error")
    assert made.settings.log_level == "error"
    settings[0] = NodeSettings(log_level="debug")
    assert made._reload() == api.ConfigReloaded(changed=[], waiting=[])
    made = frame(tmp_path, settings)
    settings[0] = NodeSettings(log_level="warning", control_socket=tmp_path / "s")
    told = api.ConfigReloaded(changed=["log_level"], waiting=["control_socket"])
    assert made._reload() == told
    assert made.log.sink.level is Level.WARNING
    assert made._reload().waiting == ["control_socket"]  # still


def test_nothing_is_started_by_making_it(tmp_path):
    made = frame(tmp_path, [NodeSettings()])
    assert list(tmp_path.iterdir()) == []
    assert made.daemon.state == "starting"
    assert made.daemon.complaints() == ["the node is starting"]


def test_samples_are_what_the_parts_say(tmp_path):
    made = frame(tmp_path, [NodeSettings()])
    found = {(one.name, *one.labels.values()): one.value for one in made.metrics.samples()}
    assert found["portal_log_events_total", "error"] == 0
    made.log.error("once")
    found = {(one.name, *one.labels.values()): one.value for one in made.metrics.samples()}
    assert found["portal_log_events_total", "error"] == 1


def test_limits_leave_time_for_the_last_resort():
    assert limits.NODE_STOP_GENTLE_SECONDS + limits.HTTP_CLOSE_SECONDS <= limits.NODE_STOP_SECONDS
