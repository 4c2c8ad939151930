"""Programs of the user's own, run before and after a backup.

A hook is a program and its arguments; no shell reads it. What it prints goes to stderr, what it
needs to know stands in PORTAL_ variables. An interrupt from the keyboard reaches us alone, and we
end the hook: first asking, then not.
"""

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from core import limits
from core.errors import PortalError

Command = tuple[str, ...]
_STDERR = 2
_KEPT_FROM_HOOKS = ("PORTAL_PASSPHRASE", "PORTAL_PASSWORD")  # and what begins like them


class HookFailed(PortalError):
    """A hook failed."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What to run around a backup."""

    before: tuple[Command, ...] = ()
    after: tuple[Command, ...] = ()
    success: tuple[Command, ...] = ()
    failure: tuple[Command, ...] = ()
    timeout_s: int = limits.HOOK_SECONDS_DEFAULT


@dataclass(frozen=True, slots=True)
class Facts:
    """What a hook is told about the run. Nothing secret belongs here."""

    command: str = "backup"
    profile: str = ""
    vault: str = ""
    sources: Sequence[str] = ()
    snapshot: str = ""
    exit_code: int | None = None
    error: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)  # what hooks inherit

    def variables(self, moment: str) -> dict[str, str]:
        """The environment of a hook."""
        inherited = {
            name: value
            for name, value in self.environment.items()
            if not name.startswith(_KEPT_FROM_HOOKS)
        }
        told = {
            "PORTAL_HOOK": moment,
            "PORTAL_COMMAND": self.command,
            "PORTAL_PROFILE": self.profile,
            "PORTAL_VAULT": self.vault,
            "PORTAL_SOURCES": "\n".join(self.sources),
            "PORTAL_SNAPSHOT": self.snapshot,
            "PORTAL_EXIT_CODE": "" if self.exit_code is None else str(self.exit_code),
            "PORTAL_ERROR": self.error,
        }
        return inherited | {name: value.replace("\0", "") for name, value in told.items()}


def run_before(hooks: Hooks, facts: Facts) -> None:
    """Run what comes first, in order. The first that fails ends it: nothing is to be backed up."""
    for command in hooks.before:
        failure = _run(command, facts.variables("before"), hooks.timeout_s)
        if failure:
            raise HookFailed(f"{failure}, so nothing was done", where=_told("before", command))


def run_after(hooks: Hooks, facts: Facts, *, succeeded: bool) -> list[str]:
    """Run what follows a success or a failure, then what comes last; all of it, whatever fails.

    The backup is as good as it is: what went wrong is given back, to be told.
    """
    moment = "success" if succeeded else "failure"
    commands = [(moment, command) for command in (hooks.success if succeeded else hooks.failure)]
    commands += [("after", command) for command in hooks.after]
    complaints = []
    for when, command in commands:
        failure = _run(command, facts.variables(when), hooks.timeout_s)
        if failure:
            complaints.append(f"{_told(when, command)}: {failure}")
    return complaints


def _run(command: Command, environment: Mapping[str, str], timeout_s: int) -> str:
    """Run one hook to its end; what went wrong, or nothing."""
    late = threading.Event()
    # A child inherits what is blocked. We let interrupts in again only where one finds everything
    # in place that it has to end.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=_STDERR, env=environment
        )
        timer = threading.Timer(timeout_s, _expire, (late, process))
        timer.daemon = True
        timer.start()
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = process.wait()
        except BaseException:  # an interrupt most of all
            _end(process)
            process.wait()
            raise
        finally:
            timer.cancel()
    except (OSError, ValueError) as e:
        return f"cannot be run: {getattr(e, 'strerror', None) or e}"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if late.is_set():
        return f"took longer than {timeout_s} s and was ended"
    if code < 0:
        return f"was ended by signal {signal.Signals(-code).name}"
    return f"ended with exit code {code}" if code else ""


def _expire(late: threading.Event, process: subprocess.Popen[bytes]) -> None:
    """A hook has had its time."""
    late.set()
    _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a hook to end, and end it if it does not; this returns at once."""
    process.terminate()
    killer = threading.Timer(limits.HOOK_GRACE_SECONDS, process.kill)
    killer.daemon = True  # it holds nobody up when the hook has gone
    killer.start()


def _told(moment: str, command: Command) -> str:
    return f"hook {moment} ({shlex.join(command)})"


def inherited() -> dict[str, str]:
    """The environment of this process, for the facts of a run."""
    return dict(os.environ)
