"""People's machines, each a node of its own on loopback, and what is typed there."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from node import api, identity
from tests.support.daemon import PATIENCE_S, Node
from tests.support.home import NOW_S, REPOSITORY

PORTAL = [sys.executable, "-m", "node.cli.portal"]


def a_free_port() -> int:
    """One that a node keeps over its restarts, as it would at home."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Machine(Node):
    """A machine that listens on loopback. Nobody has keys on it yet, and nothing runs."""

    node = user = ""

    def __init__(self, place: Path, name: str) -> None:
        self.name = name
        self.logged: list[str] = []
        self.port = a_free_port()
        folder = place / name
        (folder / "home").mkdir(parents=True, mode=0o700)
        listen = f'[node]\nlisten = "127.0.0.1:{self.port}"\nlog_level = "debug"\n'
        (folder / "home" / "config.toml").write_text(listen, encoding="utf-8")
        super().__init__(folder)

    def typed(self, *argv: str, code: int = 0) -> str:
        """A command, to its end; what it wrote to stdout, or its complaint if it failed."""
        done = self.done(*argv)
        assert done.returncode == code, (argv, done)
        if code:
            assert done.stdout == ""
            return done.stderr.splitlines()[-1]
        return done.stdout

    def done(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """A command, to its end."""
        return subprocess.run(
            [*PORTAL, *argv],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def typing(self, *argv: str) -> "subprocess.Popen[str]":
        """A command that takes its time."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*PORTAL, *argv], cwd=REPOSITORY, env=self.environment, stderr=pipe, stdout=pipe,
            stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def invite(self, *options: str) -> str:
        """The text of a new invite."""
        return self.typed("invite", *options).strip()

    def peers(self) -> dict[str, api.Peer]:
        """Everybody, by name."""
        return {one.name: one for one in self.control.get(api.PEERS, api.Peers).peers}

    def linked(self) -> set[str]:
        """The names of those there is a link to."""
        return {name for name, one in self.peers().items() if one.linked}

    def until(self, holds: Callable[[], bool]) -> None:
        """Look at `holds` now, and whenever something has happened here, until it is true."""
        happened = self.control.events()
        next(happened)
        assert self.process is not None
        in_vain = threading.Timer(PATIENCE_S, self.process.kill)  # which ends the events
        in_vain.start()
        try:
            while not holds():
                assert next(happened).kind != "stream.closed"
        finally:
            in_vain.cancel()

    def until_linked(self, *names: str) -> None:
        """Wait for links to these, and nobody else."""
        self.until(lambda: self.linked() == set(names))

    def end(self, number: int = signal.SIGTERM) -> tuple[int, list[str]]:
        """As the node's, and what it logged is kept."""
        code, told = super().end(number)
        self.logged += told
        return code, told


class Person(Machine):
    """Somebody's machine."""

    def __init__(self, place: Path, name: str) -> None:
        home = place / name / "home"
        made = identity.create(home, name=name, passphrase=None, now_s=NOW_S)
        kept = home.rename(home.with_name("made"))
        super().__init__(place, name)
        for file in kept.iterdir():
            file.rename(self.home / file.name)
        kept.rmdir()
        self.node, self.user = made.node.text(), made.user.text()


class Village:
    """Makes people whose nodes run; calling it makes one."""

    def __init__(self, place: Path, stack: ExitStack) -> None:
        self.secrets: list[str] = []
        self.made: list[Machine] = []
        self._place = place
        self._stack = stack

    def __call__(self, name: str) -> Person:
        person = Person(self._place, name)
        kit = identity.open(person.home).recovery_kit()
        self.secrets.append(kit.text().reveal().decode())
        self.made.append(person)
        return self._stack.enter_context(person)

    def machine(self, name: str) -> Machine:
        """A new machine, on which nothing runs; it is ended if something was started."""
        machine = Machine(self._place, name)
        self.made.append(machine)
        self._stack.callback(machine.close)
        return machine


@contextmanager
def village(place: Path) -> Iterator[Village]:
    """Ends all that run; then what they logged holds no secret."""
    with ExitStack() as stack:
        people = Village(place, stack)
        yield people
        for one in people.made:
            if one.process is not None:
                assert one.end()[0] == 0
            text = "\n".join(one.logged)
            squeezed = text.replace("-", "").lower()
            for secret in people.secrets:
                assert secret not in text
                assert secret.replace("-", "").lower()[:40] not in squeezed
            assert "pnj1" not in text


def brought(inviter: Machine, who: Machine, *options: str) -> str:
    """The invite by which somebody has come in."""
    code = inviter.invite(*options)
    assert "in the mesh home: " in who.typed("join", code)
    return code
