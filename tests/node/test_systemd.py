import plistlib
import shutil
import socket
import subprocess
import sys

import pytest
import trio
from trio.testing import MockClock

from core.errors import UsageError
from node import systemd
from node.schedule import ScheduleError, System
from node.systemd import Manager, Notifier, Unit, Watchdog

PROGRAM = ("/opt/portal/bin/portal-node",)
UNIT = Unit(PROGRAM, "/home/ann/portal")


@pytest.fixture(params=["file", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket, and its name as the variable has it."""
    if request.param == "abstract" and not sys.platform.startswith("linux"):
        pytest.skip("names of no file are Linux's")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"portal-test-{tmp_path.name}"
        address = str(tmp_path / "n") if request.param == "file" else f"\0{name}"
        listener.bind(address)
        listener.settimeout(10)
        yield listener, address if request.param == "file" else f"@{name}"


def test_what_happens_is_told_to_the_manager(manager):
    listener, name = manager
    notifier = Notifier.of({"NOTIFY_SOCKET": name}, 5)
    assert notifier.watchdog_s is None
    notifier.ready("running")
    notifier.reloading()
    notifier.stopping()
    assert listener.recv(100) == b"READY=1\nSTATUS=running"
    assert listener.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert listener.recv(100) == b"STOPPING=1\nSTATUS=stopping"


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "/nonexistent/socket"])
def test_nobody_to_tell_is_no_failure(name):
    assert not Notifier.of({"NOTIFY_SOCKET": name}, 5).tell(READY=1)
    assert not Notifier.of({}, 5).tell(READY=1)


@pytest.mark.parametrize(
    ("pid", "usec", "seconds"),
    [("5", "60000000", 60), ("6", "60000000", None), (None, "500000", 0.5), ("5", "x", None)],
)
def test_the_watchdog_is_for_the_process_that_was_meant(pid, usec, seconds):
    given = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": usec}
    assert Notifier.of(given | ({"WATCHDOG_PID": pid} if pid else {}), 5).watchdog_s == seconds
    del given["NOTIFY_SOCKET"]
    assert Notifier.of(given, 5).watchdog_s is None


def test_the_watchdog_hears_from_the_event_loop_twice_as_often_as_it_asks(manager):
    listener, name = manager
    watchdog = Watchdog(Notifier(name, 60.0))

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(watchdog.run)
            for seconds in (0, 30, 60):
                await trio.testing.wait_all_tasks_blocked()
                assert listener.recv(100) == b"WATCHDOG=1"
                assert trio.current_time() == pytest.approx(seconds)
                with trio.move_on_after(30):
                    await trio.Event().wait()
            watchdog.stop()

    clock = MockClock(autojump_threshold=0.01)
    start = clock.current_time()
    assert start == 0
    trio.run(main, clock=clock)


def test_the_unit_says_how_the_node_runs():
    text = systemd.unit_text(UNIT)
    for line in (
        "Type=notify",
        'ExecStart="/opt/portal/bin/portal-node" "run"',
        'Environment="PORTAL_HOME=/home/ann/portal"',
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "WatchdogSec=60",
        "WantedBy=default.target",
        "UMask=0077",
    ):
        assert f"{line}\n" in text
    assert "User=" not in text
    whole = systemd.unit_text(Unit(PROGRAM, "/var/lib/portal", "portal"))
    assert 'User="portal"\n' in whole
    assert "WantedBy=multi-user.target\n" in whole


def test_the_unit_takes_any_path():
    unit = Unit(("/opt/a b/$x/100%/portal-node",), '/home/"q"/$y')
    text = systemd.unit_text(unit)
    assert 'ExecStart="/opt/a b/$$x/100%%/portal-node" "run"\n' in text
    assert 'Environment="PORTAL_HOME=/home/\\"q\\"/$y"\n' in text


@pytest.mark.parametrize(
    "unit",
    [(("relative",), "/h"), (PROGRAM, "h"), (PROGRAM, "/h\nExecStart=/bin/evil"), (PROGRAM, "")],
)
def test_a_unit_of_nonsense_is_refused(unit):
    with pytest.raises(UsageError):
        Unit(*unit)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")
@pytest.mark.slow
def test_systemd_understands_the_unit(tmp_path):
    program = tmp_path / "portal node"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "portal-node.service"
    path.write_text(systemd.unit_text(Unit((str(program),), str(tmp_path))))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "portal-node" in line]
    assert ours == []


def test_launchd():
    agent = plistlib.loads(systemd.agent_text(UNIT).encode())
    assert agent["ProgramArguments"] == [*PROGRAM, "run"]
    assert agent["EnvironmentVariables"] == {"PORTAL_HOME": "/home/ann/portal"}
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


class Machine:
    """Programs of our own making in the place of the system's, and what they were told."""

    def __init__(self, folder):
        self.folder = folder
        bin_ = folder / "bin"
        bin_.mkdir()
        self.system = System(folder / "ann", {"PATH": str(bin_)}, 1000)

    def has(self, name, *, fails=False):
        program = self.folder / "bin" / name
        end = "echo 'no bus' >&2; exit 1" if fails else "exit 0"
        sh = shutil.which("sh")
        program.write_text(f'#!{sh}\necho "{name} $*" >> "{self.folder}/calls"\n{end}\n')
        program.chmod(0o755)
        return self

    def calls(self):
        path = self.folder / "calls"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found


def test_a_user_unit_comes_and_goes(tmp_path):
    machine = Machine(tmp_path).has("systemctl")
    path = tmp_path / "ann/.config/systemd/user/portal-node.service"
    told = systemd.install(Manager.SYSTEMD, UNIT, machine.system)
    assert path.read_text() == systemd.unit_text(UNIT)
    assert machine.calls() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable portal-node.service",
        "systemctl --user restart portal-node.service",
    ]
    assert any("enable-linger" in line for line in told)
    systemd.install(Manager.SYSTEMD, UNIT, machine.system)  # again changes nothing
    machine.calls()
    systemd.uninstall(Manager.SYSTEMD, machine.system, whole_system=False)
    assert not path.exists()
    assert machine.calls() == [
        "systemctl --user disable --now portal-node.service",
        "systemctl --user daemon-reload",
    ]
    with pytest.raises(UsageError, match="no such unit"):
        systemd.uninstall(Manager.SYSTEMD, machine.system, whole_system=False)


def test_a_unit_of_the_whole_system(tmp_path, monkeypatch):
    monkeypatch.setattr(systemd, "_SYSTEM_UNITS", tmp_path / "etc")
    machine = Machine(tmp_path).has("systemctl")
    unit = Unit(PROGRAM, "/var/lib/portal", "portal")
    systemd.install(Manager.SYSTEMD, unit, machine.system)
    assert (tmp_path / "etc/portal-node.service").read_text() == systemd.unit_text(unit)
    assert "systemctl enable portal-node.service" in machine.calls()
    systemd.uninstall(Manager.SYSTEMD, machine.system, whole_system=True)
    assert not list((tmp_path / "etc").iterdir())


@pytest.mark.parametrize("manager", Manager)
def test_the_node_of_another_home_is_not_replaced(tmp_path, manager):
    machine = Machine(tmp_path)
    systemd.install(manager, UNIT, machine.system)
    path = systemd.place(manager, machine.system, whole_system=False)
    before = path.read_text()
    with pytest.raises(UsageError, match="another PORTAL_HOME"):
        systemd.install(manager, Unit(PROGRAM, "/home/ann/portal2"), machine.system)
    assert path.read_text() == before


def test_without_a_manager_the_unit_is_written_and_the_rest_is_told(tmp_path):
    machine = Machine(tmp_path)
    told = systemd.install(Manager.SYSTEMD, UNIT, machine.system)
    assert "systemctl --user enable --now portal-node.service" in told[-1]
    machine.has("systemctl", fails=True)
    with pytest.raises(ScheduleError, match="no bus") as raised:
        systemd.install(Manager.SYSTEMD, UNIT, machine.system)
    assert "enable --now" in raised.value.hint


def test_an_agent_comes_and_goes(tmp_path):
    machine = Machine(tmp_path).has("launchctl")
    path = tmp_path / "ann/Library/LaunchAgents/portal-node.plist"
    systemd.install(Manager.LAUNCHD, UNIT, machine.system)
    assert machine.calls()[-1] == f"launchctl bootstrap gui/1000 {path}"
    systemd.uninstall(Manager.LAUNCHD, machine.system, whole_system=False)
    assert machine.calls() == ["launchctl bootout gui/1000/portal-node"]
    assert not path.exists()


def test_the_manager_of_this_system():
    assert systemd.usual_manager("linux") is Manager.SYSTEMD
    assert systemd.usual_manager("darwin") is Manager.LAUNCHD
