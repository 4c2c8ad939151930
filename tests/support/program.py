"""`portal` as people run it: with a home of its own, as a process or, where speed matters, here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner, Result

from node.cli import opening, run
from node.cli.portal import portal
from portal.vault import Vault
from tests.support.home import REPOSITORY

PORTAL = [sys.executable, "-m", "node.cli.portal"]


class Done(NamedTuple):
    """What a process wrote."""

    stdout: str
    stderr: str


class _Program:
    """`portal` with its exit codes, in the shape the test runner wants."""

    name = "portal"

    def main(self, **_: object) -> None:
        run.run(portal, "portal")


class Machine:
    """One PORTAL_HOME, and nothing else of this machine's environment that Portal looks at."""

    def __init__(self, place: Path, monkeypatch: Any) -> None:
        from core import process

        self.home = place / "home"
        for name in list(os.environ):
            if name.startswith("PORTAL_") or name in {"CREDENTIALS_DIRECTORY", "XDG_DATA_HOME"}:
                monkeypatch.delenv(name)
        monkeypatch.setenv("PORTAL_HOME", str(self.home))
        for name in ("forbid_core_dumps", "prepare_for_bulk", "keep_freed_buffers"):
            # They would last for all other tests.
            monkeypatch.setattr(process, name, lambda: False)

    def configure(self, text: str) -> None:
        """Write config.toml."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        (self.home / "config.toml").write_text(text, encoding="utf-8")

    def here(
        self, *argv: object, code: int = 0, given: bytes = b"", home: Path | None = None
    ) -> Result:
        """Run a command in this process."""
        before, sys.argv = (
            sys.argv,
            ["portal", *(os.fspath(a) if isinstance(a, Path) else str(a) for a in argv)],
        )
        environment = {"PORTAL_HOME": str(home or self.home)}
        try:
            result = CliRunner().invoke(_Program(), [], input=given, env=environment)  # type: ignore[arg-type]
        finally:
            sys.argv = before
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return result

    def started(self, *argv: object, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        """Start a command as a process."""
        given = [os.fsencode(a) if isinstance(a, Path) else str(a).encode() for a in argv]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*PORTAL, *given], cwd=REPOSITORY, stdin=stdin, stdout=pipe, stderr=pipe
        )

    def run(self, *argv: object, code: int = 0, given: bytes = b"") -> Done:
        """Run a command as a process, to its end."""
        with self.started(*argv, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(given, timeout=120)
        assert process.returncode == code, (process.returncode, out, err)
        return Done(out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "surrogateescape"))

    def vault(self) -> Vault:
        """The vault of this home, or the one the environment names."""
        return opening.open_vault({})

    def snapshots(self, *argv: object) -> list[dict[str, Any]]:
        """What `portal snapshots` lists."""
        found: list[dict[str, Any]] = json.loads(self.here("snapshots", "--json", *argv).stdout)
        return found

    def back_up(self, *argv: object, code: int = 0, **options: Any) -> dict[str, Any]:
        """The summary of a backup."""
        lines = messages(self.here("backup", "--json", *argv, code=code, **options).stdout)
        assert lines[-1]["message_type"] == "summary"
        return lines[-1]


def messages(text: str | bytes) -> list[dict[str, Any]]:
    """JSON lines: each one object, with its version and its kind."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(one["v"] == 1 and isinstance(one["message_type"], str) for one in found)
    return found


def one_line(result: Done | Result, *words: str) -> str:
    """An error as every error shall be: a line on stderr that says these words, and no data."""
    assert not result.stdout
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("portal: ")
    for word in words:
        assert word in result.stderr, (word, result.stderr)
    return result.stderr
