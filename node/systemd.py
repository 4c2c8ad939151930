"""What the node and the system's service manager tell each other, and the unit that starts it.

    READY=1, RELOADING=1, STOPPING=1, STATUS=..., WATCHDOG=1    to the socket named NOTIFY_SOCKET

Without that variable nothing is sent. The watchdog is answered from the event loop: one that hangs
is started again. On a Mac the same is a launchd agent, which wants to hear nothing.
"""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path

import trio

from core import files
from core.errors import UsageError
from node.schedule import ScheduleError, System

NAME = "portal-node"
_SYSTEM_UNITS = Path("/etc/systemd/system")
_WATCHDOG_S = 60
_EXIT_USAGE = 2


@dataclass(frozen=True, slots=True)
class Notifier:
    """The way to the service manager, if there is one."""

    address: str | None
    watchdog_s: float | None = None  # it wants to hear from us at least so often

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> "Notifier":
        """As the variables say that it gave to this process."""
        address = environment.get("NOTIFY_SOCKET") or None
        if address and address[0] not in "/@":
            address = None  # a kind of socket that we do not know
        asked = environment.get("WATCHDOG_USEC", "")
        is_meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        usec = int(asked) if address and is_meant and asked.isdecimal() else 0
        return cls(address, usec / 1_000_000 or None)

    def tell(self, **facts: str | int) -> bool:
        """Send what happened; False if nobody wanted it or it could not be sent."""
        if self.address is None:
            return False
        # An @ stands for the zero byte with which names of no file begin.
        name = f"\0{self.address[1:]}" if self.address[0] == "@" else self.address
        text = "\n".join(f"{key}={value}" for key, value in facts.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
                way.setblocking(False)  # a manager that is busy must not stop the node
                way.sendto(text.encode("utf-8"), name)
        except OSError:
            return False
        return True

    def ready(self, status: str) -> None:
        """Everything is started, or was read again."""
        self.tell(READY=1, STATUS=status)

    def reloading(self) -> None:
        """The configuration is read again; `ready` follows."""
        self.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def stopping(self) -> None:
        """The end has begun."""
        self.tell(STOPPING=1, STATUS="stopping")


class Watchdog:
    """The service that says, twice as often as is asked, that the event loop still turns."""

    name = "watchdog"

    def __init__(self, notifier: Notifier) -> None:
        assert notifier.watchdog_s
        self._notifier = notifier
        self._every_s = notifier.watchdog_s / 2
        self._stopping = trio.Event()

    def stop(self) -> None:
        """Fall silent."""
        self._stopping.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is stopped."""
        task_status.started()
        while not self._stopping.is_set():
            self._notifier.tell(WATCHDOG=1)
            with trio.move_on_after(self._every_s):
                await self._stopping.wait()


# --- units ----------------------------------------------------------------------------------------


@unique
class Manager(StrEnum):
    """Who starts the node."""

    SYSTEMD = "systemd"
    LAUNCHD = "launchd"


@dataclass(frozen=True, slots=True)
class Unit:
    """Which program runs for which home."""

    program: tuple[str, ...]  # absolute: a manager has a search path of its own
    home: str
    user: str | None = None  # of a unit of the whole system; else it is the user's own

    def __post_init__(self) -> None:
        for word in (*self.program, self.home, self.user or "-"):
            if not word or not word.isprintable():
                raise UsageError(f"{word!r} must be one line of text")
        for path in (self.program[0], self.home):
            if not path.startswith("/"):
                raise UsageError("must be an absolute path", where=path)

    @property
    def command(self) -> tuple[str, ...]:
        """What runs."""
        return (*self.program, "run")


def text(manager: Manager, unit: Unit) -> str:
    """What would be installed, for a person to read."""
    return unit_text(unit) if manager is Manager.SYSTEMD else agent_text(unit)


def unit_text(unit: Unit) -> str:
    """The unit of systemd. A wrong configuration is not tried again, everything else is."""
    user = f"User={_unit_word(unit.user)}\n" if unit.user else ""
    wanted_by = "multi-user.target" if unit.user else "default.target"
    command = " ".join(_unit_word(word, dollar="$$") for word in unit.command)
    return f"""\
[Unit]
Description=Portal node
After=network.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
{user}Environment={_unit_word("PORTAL_HOME=" + unit.home)}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5
RestartPreventExitStatus={_EXIT_USAGE}
WatchdogSec={_WATCHDOG_S}
TimeoutStopSec=10
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy={wanted_by}
"""


def agent_text(unit: Unit) -> str:
    """The property list of a launchd agent."""
    import plistlib  # noqa: PLC0415 - on a Mac only

    agent: dict[str, object] = {
        "Label": NAME,
        "ProgramArguments": list(unit.command),
        "EnvironmentVariables": {"PORTAL_HOME": unit.home},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        "ProcessType": "Background",
        "Umask": 0o077,
        "StandardErrorPath": f"{unit.home}/node.log",
    }
    return plistlib.dumps(agent).decode("utf-8")


def place(manager: Manager, system: System, *, whole_system: bool) -> Path:
    """Where the unit lies."""
    if manager is Manager.LAUNCHD:
        return system.agents / f"{NAME}.plist"
    return (_SYSTEM_UNITS if whole_system else system.units) / f"{NAME}.service"


def install(manager: Manager, unit: Unit, system: System) -> list[str]:
    """Have the node started now and with the machine or the session; what to tell about it."""
    path = place(manager, system, whole_system=unit.user is not None)
    _check_not_anothers(path, unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_private(path, text(manager, unit).encode("utf-8"))
    if manager is Manager.LAUNCHD:
        return [f"wrote {path}", *_load_agent(path, system)]
    ask = ["systemctl"] if unit.user else ["systemctl", "--user"]
    by_hand = f"{' '.join(ask)} enable --now {NAME}.service"
    if not system.has("systemctl"):
        return [f"wrote {path}", f"there is no systemctl here; where there is one: {by_hand}"]
    try:
        system.must(*ask, "daemon-reload")
        system.must(*ask, "enable", f"{NAME}.service")
        system.must(*ask, "restart", f"{NAME}.service")
    except ScheduleError as e:
        e.hint = f"the unit is written to {path}; once systemd can be reached: {by_hand}"
        raise
    told = [f"wrote {path}", f"the node runs: {' '.join(ask)} status {NAME}"]
    if not unit.user:
        told.append("it ends when you log out; `loginctl enable-linger` makes it run always")
    return told


def uninstall(manager: Manager, system: System, *, whole_system: bool) -> list[str]:
    """Stop it and take the unit away; what to tell about it. Nothing of the home is touched."""
    path = place(manager, system, whole_system=whole_system)
    if not path.exists():
        raise UsageError("there is no such unit", where=str(path))
    ask = ["systemctl"] if whole_system else ["systemctl", "--user"]
    if manager is Manager.SYSTEMD and system.has("systemctl"):
        system.run(*ask, "disable", "--now", f"{NAME}.service")
    if manager is Manager.LAUNCHD and system.has("launchctl"):
        system.run("launchctl", "bootout", f"gui/{system.user_id}/{NAME}")
    path.unlink()
    if manager is Manager.SYSTEMD and system.has("systemctl"):
        system.run(*ask, "daemon-reload")
    return [f"removed {path}"]


def _check_not_anothers(path: Path, unit: Unit) -> None:
    """Refuse to end the service of another home by taking its place."""
    try:
        found = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    ours = _unit_word(f"PORTAL_HOME={unit.home}"), f"<string>{unit.home}</string>"
    if not any(mark in found for mark in ours):
        raise UsageError(
            "this unit runs the node of another PORTAL_HOME",
            where=str(path),
            hint=f"{NAME} uninstall takes it away; {NAME} unit prints one to install by hand",
        )


def _load_agent(path: Path, system: System) -> list[str]:
    domain = f"gui/{system.user_id}"
    if not system.has("launchctl"):
        return [
            f"there is no launchctl here; where there is one: launchctl bootstrap {domain} {path}"
        ]
    system.run("launchctl", "bootout", f"{domain}/{NAME}")  # an earlier one, if there is any
    system.must("launchctl", "bootstrap", domain, str(path))
    return [f"{NAME} runs while you are logged in"]


def _unit_word(word: str, *, dollar: str = "$") -> str:
    """One word of a unit file, whatever is in it; only commands have variables in them."""
    quoted = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{quoted.replace("$", dollar)}"'


def usual_manager(platform: str) -> Manager:
    """The one this system has."""
    return Manager.LAUNCHD if platform == "darwin" else Manager.SYSTEMD
