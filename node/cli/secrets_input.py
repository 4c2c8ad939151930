"""Where commands take secrets from: a prompt, a file, the environment; never an argument.

    --passphrase-file > PORTAL_PASSPHRASE, _FILE or _COMMAND > a prompt on the terminal

Arguments are seen by every user of the machine and stay in the shell's history. What was given is
repeated in no message.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from core import limits
from core.errors import FormatError, PortalError, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.secret import Secret

_VALUE = "PORTAL_PASSPHRASE"
_FILE = "PORTAL_PASSPHRASE_FILE"
_COMMAND = "PORTAL_PASSPHRASE_COMMAND"

passphrase_file_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help="Take the passphrase from the first line of this file instead of a prompt.",
)


def on_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def passphrase_source(
    file: Path | None = None,
    *,
    prompt: str = "passphrase",
    confirm: bool = False,
    environment: bool = True,
) -> "Callable[[], Secret] | None":
    """How this command gets a passphrase when it turns out to need one; None: it cannot.

    With `confirm` a typed one is asked for twice, for it will lock something. Without `environment`
    the variables are left alone: they hold the passphrase that is, not the one that shall be.
    """
    if file is not None:
        return lambda: _from_file(file)
    named = [n for n in (_VALUE, _FILE, _COMMAND) if environment and os.environ.get(n)]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} are set", hint="one of them is enough")
    if named:
        value = os.environ[named[0]]
        readers: dict[str, Callable[[], Secret]] = {
            _VALUE: lambda: _first_line(os.fsencode(value), _VALUE),
            _FILE: lambda: _from_file(Path(value)),
            _COMMAND: lambda: _from_command(value),
        }
        return readers[named[0]]
    if on_terminal():
        return lambda: _typed(prompt, confirm=confirm)
    return None


def needed(source: "Callable[[], Secret] | None", option: str = "--passphrase-file") -> "Secret":
    """The passphrase, from a source without which the command makes no sense."""
    if source is None:
        raise UsageError("no terminal to ask for a passphrase", hint=f"{option} FILE")
    return source()


def recovery_text(file: Path | None) -> "Secret":
    """The words or the kit, from a file (a saved page will do) or typed."""
    from core.files import read_bounded
    from core.secret import Secret

    if file is not None:
        data = read_bounded(file, 2 * limits.KIT_TEXT_CHARS_MAX)
        return Secret(_kit_in(data.decode("utf-8", "replace")).encode())
    if not on_terminal():
        raise UsageError("no terminal to ask for the recovery phrase", hint="--kit-file FILE")
    click.echo("The 24 words of your recovery kit, or its text that begins with pnk1-.", err=True)
    return Secret(_typed_words().encode())


def _typed_words() -> str:
    """Until there are enough; they are shown, for nobody types two dozen words blindly."""
    words: list[str] = []
    while len(words) < limits.PHRASE_WORDS:
        try:
            line: str = click.prompt(f"word {len(words) + 1}", err=True)
            line.encode()
        except UnicodeError:
            raise FormatError("what was typed is not UTF-8 text") from None
        if not words and line.lower().startswith("pnk1-"):
            return line
        for word in line.split():
            question = _doubt(word)
            if question is not None:
                click.echo(f"word {len(words) + 1} is not in the list{question}", err=True)
                break
            words.append(word)
    return " ".join(words)


def _doubt(word: str) -> str | None:
    """Nothing if it is a word of the list, else what was perhaps meant."""
    from core import phrase

    plain = word.lower()
    close = phrase.suggestions(plain)
    if plain in close or (len(plain) >= 4 and any(c.startswith(plain) for c in close)):
        return None
    return f": {' or '.join(close)}?" if close else ""


def _kit_in(text: str) -> str:
    """The kit's text where a page holds it, else all of it: then it is words."""
    at = text.lower().find("pnk1-")
    if at < 0:
        return text
    lines = text[at:].splitlines()
    end = next((n for n, line in enumerate(lines) if not line.strip()), len(lines))
    return "".join(lines[:end])


def _typed(prompt: str, *, confirm: bool) -> "Secret":
    from core.secret import Secret

    repeat = f"the same {prompt} again" if confirm else False
    try:
        typed = click.prompt(prompt, hide_input=True, confirmation_prompt=repeat, err=True)
        return Secret(typed.encode())
    except UnicodeError:  # it holds what was typed: not a word of it goes on
        raise FormatError("what was typed is not UTF-8 text") from None


def _from_file(file: Path) -> "Secret":
    from core.files import read_bounded

    return _first_line(read_bounded(file, limits.PASSPHRASE_BYTES_MAX), str(file))


def _from_command(command: str) -> "Secret":
    """What a program prints; the line that names it may hold secrets and is not repeated."""
    try:
        argv = shlex.split(command)
    except ValueError:
        raise UsageError("an open quotation mark", where=_COMMAND) from None
    if not argv:
        raise UsageError("names no program", where=_COMMAND)
    try:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    except OSError as e:
        raise Unavailable(f"the program cannot be run: {e.strerror}", where=_COMMAND) from None
    with process:
        assert process.stdout is not None
        printed = process.stdout.read(limits.PASSPHRASE_BYTES_MAX + 1)
        if len(printed) > limits.PASSPHRASE_BYTES_MAX:
            process.kill()
            raise PortalError("the program prints more than a passphrase", where=_COMMAND)
    if process.returncode:
        raise PortalError(f"the program ended with {process.returncode}", where=_COMMAND)
    return _first_line(printed, _COMMAND)


def _first_line(data: bytes, where: str) -> "Secret":
    from core.secret import Secret

    line = data.partition(b"\n")[0].removesuffix(b"\r")
    if not line:
        raise UsageError("holds no passphrase in its first line", where=where)
    return Secret(line)
