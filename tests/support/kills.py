"""Real processes that work in a vault and can be killed or suspended anywhere.

A `Worker` is a small process that has loaded everything and has one thread; each job it is given
runs in a child it forks, so that a job costs milliseconds and dies as a process dies. What a child
says, it says through a pipe, after it was done: a snapshot that was told is one that must be there.
Run as a program, this is the worker.
"""

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from core import limits
from core.errors import PortalError
from core.tree.source import Root
from portal.backup import Backup, Options
from portal.check import Options as CheckOptions
from portal.check import check
from portal.disk import Disk
from portal.forget import forget, undelete
from portal.gc import Options as Collection
from portal.gc import collect
from portal.vault import Vault
from tests.support.faults import SignalDisk, StepDisk
from tests.support.vaults import a_vault, opened

REPOSITORY = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job came to its end."""

    status: int  # as os.waitpid says it
    told: list[list[str]] = field(default_factory=list)

    @property
    def killed(self) -> bool:
        """Whether it died by a signal."""
        return os.WIFSIGNALED(self.status)

    @property
    def error(self) -> str:
        """What it failed with, if it was an error of its own."""
        return next((" ".join(line[1:]) for line in self.told if line[0] == "error"), "")

    @property
    def made(self) -> list[bytes]:
        """The snapshots it said it had made."""
        return [bytes.fromhex(line[1]) for line in self.told if line[0] == "made"]

    def number(self, what: str) -> int:
        """A number it told."""
        return next(int(line[1]) for line in self.told if line[0] == what)


class Worker:
    """Runs one job at a time, each in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kills"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        self._told: list[list[str]] = []
        self._status: int | None = None  # of a job that has ended and was not asked about

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # the worker kills what still runs, and ends
        self._process.wait()
        self._process.stdout.close()

    def start(self, do: str, place: Path, **job: Any) -> None:
        """Begin a job: see `_Job` for what it may say."""
        self._told, self._status = [], None
        self._send(json.dumps({"do": do, "place": str(place), **job}))

    def ended(self) -> Ended:
        """Wait for its end."""
        while self._status is None:
            self._hear()
        return Ended(self._status, self._told)

    def stopped(self) -> bool:
        """Wait until it has stopped; False if it came to its end first."""
        self._send("stopped")
        while self._status is None:
            if self._hear() == "halted":
                return True
        return False

    def go_on(self) -> None:
        """Let what has stopped continue."""
        self._send("go on")

    def run(self, do: str, place: Path, **job: Any) -> Ended:
        """A job from its beginning to its end."""
        self.start(do, place, **job)
        return self.ended()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().split()
        assert line, "the worker is gone"
        if line[0] == "end":
            self._status = int(line[1])
        elif line[0] != "halted":
            self._told.append(line)
        return line[0]


# --- in the worker --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """What a child does, and what becomes of it."""

    do: str
    place: str
    paths: tuple[str, ...] = ()
    now_ns: int = 0
    ids: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)  # to be others than they are
    dies_at: int = -1  # ahead of this step
    stops_at: int = -1  # the same
    after_s: float = -1.0  # killed when so much time has passed

    def disk(self) -> StepDisk:
        if self.dies_at >= 0:
            return SignalDisk(self.dies_at, signal.SIGKILL)
        if self.stops_at >= 0:
            return SignalDisk(self.stops_at, signal.SIGSTOP)
        return StepDisk()


def _do(job: _Job, vault: Vault) -> None:
    match job.do:
        case "back_up":
            roots = [Root.absolute(path) for path in job.paths]
            options = Options(host="host", user="ann", **job.options)
            backup = Backup(vault, options, partial(_tell, "fault"))
            made = trio.run(backup.run, roots, job.now_ns, lambda: job.now_ns)
            if made.snapshot is not None:
                _tell("made", made.snapshot.id.hex())
            _tell("stored", made.stored_bytes)
        case "forget":
            forget(vault, {bytes.fromhex(one) for one in job.ids}, job.now_ns // 10**9)
            _tell("forgot", *job.ids)
        case "undelete":
            for snapshot in undelete(vault, {bytes.fromhex(one) for one in job.ids} or None):
                _tell("undeleted", snapshot.id.hex())
        case "collect":
            how = Collection(**job.options)
            done = trio.run(partial(collect, vault, how, job.now_ns // 10**9))
            _tell("trashed", done.trashed_packs)
            _tell("purged", done.purged_packs)
            _tell("repacked", done.repacked_bytes)
        case "check":
            checked = trio.run(partial(check, vault, CheckOptions(share=1.0)))
            for finding in checked.findings:
                _tell("finding", int(finding.grade), finding.where, finding.what)
            _tell("leftovers", checked.leftovers)
        case _:
            raise AssertionError(job.do)


def _tell(*words: object) -> None:
    """One line, in one piece."""
    text = " ".join(" ".join(str(word).split()) for word in words)
    os.write(sys.stdout.fileno(), text.encode() + b"\n")


def _child(job: _Job) -> None:
    for name, value in job.limits.items():
        setattr(limits, name, value)
    disk: Disk = job.disk()
    try:
        if job.do == "create":
            a_vault(Path(job.place), disk=disk)
        else:
            _do(job, opened(Path(job.place), disk=disk))
    except BaseExceptionGroup as e:
        _tell("error", *map(repr, e.exceptions))
    except (PortalError, OSError) as e:
        _tell("error", repr(e))
    assert isinstance(disk, StepDisk)
    _tell("steps", disk.steps)


def _serve() -> None:
    commands = os.fdopen(sys.stdin.fileno(), "rb", buffering=0)
    while line := commands.readline():
        if not line.startswith(b"{"):
            continue  # for a job that ended meanwhile
        job = _Job(**json.loads(line))
        pid = os.fork()
        if not pid:
            status = 1
            try:
                _child(job)
                status = 0
            except BaseException as e:  # noqa: BLE001 - told, and never back into the loop
                _tell("error", "unexpected", repr(e))
            finally:
                os._exit(status)
        _watch(pid, job, commands)


def _watch(pid: int, job: _Job, commands: Any) -> None:
    """Until a child has ended: kill it in time, tell when it has stopped, let it go on."""
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(commands, select.POLLIN)
    wait_ms = job.after_s * 1_000 if job.after_s >= 0 else None
    while True:
        ready = {fd for fd, _ in poll.poll(wait_ms)}
        if not ready:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            wait_ms = None
        elif handle in ready:
            break
        else:
            match commands.readline():
                case b"stopped\n":
                    _, status = os.waitpid(pid, os.WUNTRACED)
                    if not os.WIFSTOPPED(status):
                        os.close(handle)
                        _tell("end", status)
                        return
                    _tell("halted")
                case b"go on\n":
                    signal.pidfd_send_signal(handle, signal.SIGCONT)
                case b"":
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    poll.unregister(commands)
                case other:
                    raise AssertionError(other)
    os.close(handle)
    _, status = os.waitpid(pid, 0)
    _tell("end", status)


if __name__ == "__main__":
    _serve()
