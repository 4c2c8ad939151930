"""How every program of Portal ends: one line for a person, one number for a script.

    0 done   1 failed   2 wrong usage   130 interrupted   129, 143 hung up, terminated
    and the exit_code of core/errors.py

Data goes to stdout, everything else to stderr. A reader that goes away (`portal ... | head`) is no
error.
"""

import errno
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from core.errors import PortalError

if TYPE_CHECKING:
    from datetime import tzinfo

T = TypeVar("T")
EXIT_NO_SPACE = 14
EXIT_INTERRUPTED = 130
_ENDED_BY = {signal.SIGTERM: 143, signal.SIGHUP: 129}
_ended_by: list[int] = []  # the signal that asked us to end, if it was not an interrupt


def run(command: click.Command, program: str) -> NoReturn:
    """Run a click command and leave the process with its exit code."""
    for number in _ENDED_BY:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has its way
            signal.signal(number, _end_as_interrupted)
    asked = os.environ.get(f"_{program.upper().replace('-', '_')}_COMPLETE")
    if asked:  # by a shell, not by a person
        from node.cli import completion

        sys.exit(completion.answer(command, program, asked))
    try:
        code = _invoke(command, program)
        if sys.stdout:  # None when the caller closed it
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter would flush stdout once more and complain: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def run_trio(work: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run async work to its end; failed tasks come out as one error."""
    import trio

    with _one_failure_is_told():
        return trio.run(work, *args)


@contextmanager
def _one_failure_is_told() -> Iterator[None]:
    """Make of a group of failed tasks what a person is told: an interrupt, or the first failure.

    If anything else is in the group, that is a fault of ours, and all of it is shown.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        expected, faults = group.split((KeyboardInterrupt, PortalError, OSError))
        if faults or not expected:
            raise
        told: BaseException = expected.subgroup(KeyboardInterrupt) or expected
        while isinstance(told, BaseExceptionGroup):
            told = told.exceptions[0]
        raise told from group


def _end_as_interrupted(number: int, _frame: object) -> None:
    """End like an interrupt does: in order, keeping what was done."""
    _ended_by.append(_ENDED_BY[signal.Signals(number)])
    signal.raise_signal(signal.SIGINT)


def host_name() -> str:
    """What this machine is called."""
    import socket

    name = socket.gethostname().partition(".")[0]
    return name if name.isprintable() and name else "localhost"


def user_name() -> str:
    """Who runs this."""
    from core.tree.entry import user_name as name_of

    return name_of(os.getuid()) or str(os.getuid())


def local_zone() -> "tzinfo":
    """The time zone of this machine, with its summer times."""
    from datetime import datetime
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    named = os.environ.get("TZ", "").removeprefix(":")
    try:
        if named:
            return ZoneInfo(named)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        zone = datetime.now().astimezone().tzinfo
        assert zone is not None
        return zone


def _invoke(command: click.Command, program: str) -> int:  # noqa: PLR0911 - a table of endings
    try:
        result = _result(command, program)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message())
        return 2
    except click.UsageError as e:
        asked = e.ctx.command_path if e.ctx else program
        _complain(program, f"{_joined(e.format_message()).rstrip('.')} (see {asked} --help)")
        return e.exit_code
    except click.ClickException as e:
        _complain(program, _joined(e.format_message()))
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain(program, "interrupted")
        return _ended_by[0] if _ended_by else EXIT_INTERRUPTED
    except PortalError as e:
        _complain(program, str(e))
        return e.exit_code
    except BrokenPipeError:
        raise
    except OSError as e:
        place = f"{e.filename}: " if e.filename else ""
        _complain(program, f"{place}{e.strerror or e}")
        return EXIT_NO_SPACE if e.errno in {errno.ENOSPC, errno.EDQUOT} else 1
    return result if isinstance(result, int) else 0


def _result(command: click.Command, program: str) -> object:
    # Not command.main(): it has exit codes of its own for a closed pipe and an interrupt.
    with _one_failure_is_told(), command.make_context(program, sys.argv[1:]) as context:
        return command.invoke(context)


def _joined(message: str) -> str:
    """Click lists choices line by line."""
    return " ".join(message.split())


def _complain(program: str, text: str) -> None:
    """One line on stderr; what a file name holds neither ends it nor moves the cursor."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    click.echo(f"{program}: {shown}", err=True)
