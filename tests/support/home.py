"""A PORTAL_HOME with somebody in it, and a terminal for commands that want one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from core.crypto import system_entropy
from core.secret import Secret
from core.slots import PassphraseProvider
from node import identity
from tests.support.identity import CHEAP

REPOSITORY = Path(__file__).parent.parent.parent
NOW_S = 1_795_000_000
PASSPHRASE = b"correct horse"


def cheap_passphrases(monkeypatch: object) -> None:
    """Let new passphrase slots of this test cost as little as the format allows."""
    setattr_ = getattr(monkeypatch, "setattr")  # noqa: B009 - pytest's, without its import
    setattr_(PassphraseProvider.__init__, "__defaults__", (CHEAP, system_entropy))


def somebody(home: Path, *, passphrase: bool = False, device_key: bool = True) -> identity.Identity:
    """A new identity in `home`."""
    return identity.create(
        home,
        name="laptop",
        passphrase=Secret(PASSPHRASE) if passphrase else None,
        now_s=NOW_S,
        use_device_key=device_key,
    )


def modes(home: Path) -> dict[str, int]:
    """What lies in a home, and who may touch it."""
    return {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()}


class Terminal:
    """A command of Portal on a terminal of its own: waits for a prompt, answers, never sleeps."""

    def __init__(self, command: str, home: Path, *argv: str, path: Path | None = None) -> None:
        self.screen = ""
        master, slave = os.openpty()
        module, _, name = command.rpartition(".")
        program = (
            f"from {module} import {name} as c; from node.cli import run; run.run(c, 'portal')"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            cwd=REPOSITORY,
            env=os.environ
            | {"PORTAL_HOME": str(home), "TERM": "dumb", "PYTHONPATH": str(path or REPOSITORY)},
        )
        os.close(slave)
        self._master = master

    def answer(self, prompt: str, reply: str | Callable[[str], str]) -> None:
        """Wait until the screen ends with `prompt`, then type; a function sees what came last."""
        while not self.screen.rstrip().endswith(prompt):
            if not self._read():
                raise AssertionError(f"ended without {prompt!r}: {self.screen!r}")
        text = reply if isinstance(reply, str) else reply(self.screen)
        os.write(self._master, text.encode("utf-8", "surrogateescape") + b"\n")
        self._read()

    def close(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        os.close(self._master)
        return self._process.wait()

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # Linux says EIO when the other side is gone
            return False
        self.screen += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
