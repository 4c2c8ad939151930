import errno
import os
import subprocess
import sys

import click
import pytest

from core.errors import NewerFormat, PortalError
from node.cli import run


def command(action):
    return click.Command("test", callback=action)


def outcome(capsys, action, argv=()):
    sys.argv = ["test", *argv]
    with pytest.raises(SystemExit) as caught:
        run.run(command(action), "test")
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def raising(error):
    def action():
        raise error

    return action


@pytest.fixture(autouse=True)
def argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["test"])


def test_success_and_chosen_codes(capsys):
    assert outcome(capsys, lambda: None) == (0, "", "")
    assert outcome(capsys, lambda: 3)[0] == 3


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PortalError("broke", where="file", hint="mend it"), 1, "test: file: broke (mend it)"),
        (NewerFormat("too new"), 13, "test: too new"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 14, "test: /x: No space left"),
        (OSError(errno.EACCES, "Permission denied", "/x"), 1, "test: /x: Permission denied"),
        (KeyboardInterrupt(), 130, "test: interrupted"),
        (
            OSError(errno.EACCES, "Permission denied", "/x\ny\x1b[2J"),
            1,
            r"test: /x\ny\x1b[2J: Perm",
        ),
        (PortalError("broke", where="na\udcffme"), 1, r"test: na\udcffme: broke"),
        (click.ClickException("one of:\n\tthis,\n\tthat"), 1, "test: one of: this, that"),
        (ExceptionGroup("", [ExceptionGroup("", [NewerFormat("new")])]), 13, "test: new"),
        (ExceptionGroup("", [PortalError("a"), OSError(28, "full", "/x")]), 1, "test: a"),
        (BaseExceptionGroup("", [PortalError("a"), KeyboardInterrupt()]), 130, "test: interrupted"),
    ],
)
def test_a_failure_is_one_line_and_a_code(capsys, error, code, line):
    exit_code, out, err = outcome(capsys, raising(error))
    assert (exit_code, out) == (code, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_wrong_usage(capsys):
    code, out, err = outcome(capsys, lambda: None, ["--nonsense"])
    assert (code, out) == (2, "")
    assert "--nonsense" in err
    assert err.startswith("test: ")
    assert err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error():
    code = """
import click, sys
from node.cli import run
sys.argv = ["test"]
def talk():
    for _ in range(100_000):
        click.echo("line")
run.run(click.Command("test", callback=talk), "test")
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.read(child.stdout.fileno(), 10)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(timeout=30) == 0


def test_a_fault_of_ours_among_failed_tasks_is_shown_whole():
    group = ExceptionGroup("", [PortalError("a"), AssertionError("b")])
    with pytest.raises(ExceptionGroup) as caught:
        run.run(command(raising(group)), "test")
    assert caught.value is group
