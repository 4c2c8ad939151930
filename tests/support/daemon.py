"""The daemon as people run it: a process with a home of its own, waited for as systemd does."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from node.control import Control
from tests.support.home import REPOSITORY, somebody

PORTAL_NODE = [sys.executable, "-m", "node.cli.portal_node"]
PATIENCE_S = 60  # before a test that waits in vain says so


class Node:
    """`portal-node run` in a home of its own. The first that starts there makes the keys."""

    def __init__(self, place: Path, *argv: str) -> None:
        self.home = place / "home"
        self.argv = argv
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PORTAL_", "XDG_", "NOTIFY_", "WATCHDOG_", "JOURNAL_"))
        } | {"PORTAL_HOME": str(self.home)}
        if not self.home.exists():
            somebody(self.home)
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.settimeout(PATIENCE_S)
        address = f"\0portal-test-{os.getpid()}-{id(self)}" if _has_abstract() else ""
        self._notices.bind(address or str(place / "notify.sock"))
        self.environment["NOTIFY_SOCKET"] = (
            f"@{address[1:]}" if address else str(place / "notify.sock")
        )
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, if it still runs."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.communicate()
        self._notices.close()

    @property
    def control(self) -> Control:
        """What asks it."""
        return Control(self.home)

    def start(self) -> None:
        """Start it, and return when it is ready."""
        self.process = self.spawn()
        while "READY=1" not in (notice := self.notice()):
            assert self.process.poll() is None, (notice, self.process.communicate())

    def spawn(self) -> "subprocess.Popen[str]":
        """Start it, and return at once."""
        return subprocess.Popen(
            [*PORTAL_NODE, "run", *self.argv],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def notice(self) -> str:
        """The next thing it tells systemd."""
        return self._notices.recv(4_096).decode()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, list[str]]:
        """Send a signal, and wait; the exit code and what it logged."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, list[str]]:
        """Wait for the end; the exit code and what it logged."""
        assert self.process is not None
        _, told = self.process.communicate(timeout=PATIENCE_S)
        code, self.process = self.process.returncode, None
        return code, told.splitlines()

    def command(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Another command of portal-node, in the same home."""
        return subprocess.run(
            [*PORTAL_NODE, *argv],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )


def _has_abstract() -> bool:
    return sys.platform.startswith("linux")
