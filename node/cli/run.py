"""How every program of Portal ends: one line for a person, one number for a script.

    0 done   1 failed   2 wrong usage   130 interrupted   and the exit_code of core/errors.py

Data goes to stdout, everything else to stderr. A reader that goes away (`portal ... | head`) is no
error.
"""

import errno
import os
import sys
from typing import NoReturn

import click

from core.errors import PortalError

EXIT_NO_SPACE = 14
EXIT_INTERRUPTED = 130


def run(command: click.Command, program: str) -> NoReturn:
    """Run a click command and leave the process with its exit code."""
    try:
        code = _invoke(command, program)
        if sys.stdout:  # None when the caller closed it
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter would flush stdout once more and complain: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _invoke(command: click.Command, program: str) -> int:  # noqa: PLR0911 - a table of endings
    try:
        # Not command.main(): it has exit codes of its own for a closed pipe and an interrupt.
        with command.make_context(program, sys.argv[1:]) as context:
            result = command.invoke(context)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message())
        return 2
    except click.UsageError as e:
        asked = e.ctx.command_path if e.ctx else program
        click.echo(f"{program}: {e.format_message().rstrip('.')} (see {asked} --help)", err=True)
        return e.exit_code
    except click.ClickException as e:
        click.echo(f"{program}: {e.format_message()}", err=True)
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{program}: interrupted", err=True)
        return EXIT_INTERRUPTED
    except PortalError as e:
        click.echo(f"{program}: {e}", err=True)
        return e.exit_code
    except BrokenPipeError:
        raise
    except OSError as e:
        place = f"{e.filename}: " if e.filename else ""
        click.echo(f"{program}: {place}{e.strerror or e}", err=True)
        return EXIT_NO_SPACE if e.errno in {errno.ENOSPC, errno.EDQUOT} else 1
    return result if isinstance(result, int) else 0
