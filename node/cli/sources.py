"""What a backup is to save: trees, or one stream that comes through a pipe.

A thread that waits for a pipe cannot be woken by a signal. So while a pipe is read the interrupt
does not break off whatever runs; it makes the read fail, and the run ends in order.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import limits
from core.errors import FormatError, PortalError, UsageError
from node.cli import run

if TYPE_CHECKING:
    from core.tree.source import Root
    from node.config import Settings
    from portal.backup import Backup, Made

Read = Callable[[int], bytes]
_KEPT_FROM_PROGRAMS = ("PORTAL_PASSPHRASE", "PORTAL_PASSWORD")  # and what begins like them


@dataclass(frozen=True)
class Stream:
    """Stdin, or what a program prints."""

    path: bytes
    command: tuple[str, ...]

    def save(self, job: "Backup", now_ns: int) -> "Made":
        """As the only file of a snapshot; none is made if the program fails."""
        source = from_stdin()
        if self.command:
            source = from_program(self.command)
        with source as read:
            return run.run_trio(job.run_stream, self.path, read, now_ns, time.time_ns)


def what_to_save(asked: dict[str, Any], settings: "Settings") -> "Stream | list[Root]":
    """The one stream or the trees that are meant; the command line stands for itself."""
    given = bool(asked["sources"] or asked["files_from"])
    if asked["stdin_name"] and (asked["stdin_command"] or given):
        raise UsageError("--stdin saves one stream and nothing else", hint="two runs save both")
    if asked["stdin_command"] and (asked["files_from"] or not asked["sources"]):
        hint = "portal backup --command NAME -- PROGRAM ARGUMENT..."
        raise UsageError("--command saves what one program prints", hint=hint)
    if asked["stdin_name"]:
        return _stream(asked["stdin_name"], ())
    if asked["stdin_command"]:
        return _stream(asked["stdin_command"], asked["sources"])
    if given or not settings.stdin_command:
        return _roots(asked, settings)
    if settings.sources:
        place = f"[profile.{settings.profile}]"
        raise UsageError(f"{place} has sources and a stdin_command", hint="make two profiles of it")
    return _stream(Path(settings.stdin_command[0]).name, settings.stdin_command)


def names(what: "Stream | list[Root]") -> list[str]:
    """The absolute paths that are saved."""
    paths = [what.path] if isinstance(what, Stream) else [b"/" + root.name for root in what]
    return [os.fsdecode(path) for path in paths]


def _stream(name: str, command: tuple[str, ...]) -> Stream:
    from core.tree.paths import check_path_untrusted

    path = os.fsencode(name).lstrip(b"/")
    try:
        check_path_untrusted(path)
    except FormatError as e:
        raise UsageError(e.what, where=e.where) from None
    return Stream(b"/" + path, command)


def _roots(asked: dict[str, Any], settings: "Settings") -> "list[Root]":
    from core.tree.source import Root

    paths = [os.fsencode(path) for path in asked["sources"]]
    for file in asked["files_from"]:
        if str(file) == "-" and sys.stdin is None:
            raise UsageError("stdin is closed: nothing comes through it")
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        paths += [name for name in data.split(b"\0" if asked["from0"] else b"\n") if name]
    if not asked["sources"] and not asked["files_from"]:
        paths = [os.fsencode(path) for path in settings.sources]
    if not paths:
        hint = "portal backup DIR, or sources in a profile of config.toml"
        raise UsageError("nothing to back up was named", hint=hint)
    if len(paths) > limits.SNAPSHOT_PATHS_MAX:
        hint = f"at most {limits.SNAPSHOT_PATHS_MAX:,}: name the directories they lie in"
        raise UsageError(f"{len(paths):,} sources are too many for one snapshot", hint=hint)
    missing = [path for path in paths if not os.path.lexists(path)]
    if missing:
        raise UsageError("does not exist", where=os.fsdecode(missing[0]))
    return [Root.absolute(path) for path in paths]


# --- pipes ----------------------------------------------------------------------------------------


@contextmanager
def from_stdin() -> Iterator[Read]:
    """What comes through stdin."""
    if sys.stdin is None:
        raise UsageError("stdin is closed: nothing comes through it")
    with _interruptible(sys.stdin.fileno(), lambda: None) as read:
        yield read


@contextmanager
def from_program(command: Sequence[str]) -> Iterator[Read]:
    """What a program prints; the last read fails if the program does.

    It is ended if it is still there when we are done.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_KEPT_FROM_PROGRAMS)
    }
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=inherited)
    assert process.stdout is not None
    try:
        with _interruptible(process.stdout.fileno(), process.terminate) as read:

            def read_or_fail(size: int) -> bytes:
                data = read(size)
                if not data and process.wait():
                    read(0)  # an interrupt of ours ended it
                    raise PortalError(_how_it_ended(process.returncode), where=command[0])
                return data

            yield read_or_fail
    finally:
        process.stdout.close()
        _end(process)


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was ended by signal {signal.Signals(-code).name}, so nothing was saved"
    return f"ended with exit code {code}, so nothing was saved"


def _end(process: subprocess.Popen[bytes]) -> None:
    """First asking, then not."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(limits.HOOK_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _interruptible(fd: int, interrupted: Callable[[], None]) -> Iterator[Read]:
    """A read that an interrupt ends with KeyboardInterrupt, in whatever thread it waits."""
    woken, wake = os.pipe()

    def wake_up(_number: int, _frame: object) -> None:
        os.write(wake, b"!")
        interrupted()

    def read(size: int) -> bytes:
        ready, _, _ = select.select([fd, woken] if size else [woken], [], [], None if size else 0)
        if woken in ready:
            raise KeyboardInterrupt
        return os.read(fd, size) if size else b""

    before = signal.signal(signal.SIGINT, wake_up)
    try:
        yield read
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(woken)
        os.close(wake)
