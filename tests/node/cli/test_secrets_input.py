import shlex
import sys
from pathlib import Path

import pytest

from core import limits
from core.errors import FormatError, LimitExceeded, PortalError, Unavailable, UsageError
from core.keys import normalised
from core.phrase import to_words
from core.recovery_kit import RecoveryKit
from core.secret import Secret
from node.cli.secrets_input import needed, passphrase_source, recovery_text
from tests.support.home import Terminal
from tests.support.identity import a_person

SECRET = "correct horse"
WORDS = to_words(Secret(bytes(range(32)))).reveal().decode()


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    for name in ("PORTAL_PASSPHRASE", "PORTAL_PASSPHRASE_FILE", "PORTAL_PASSPHRASE_COMMAND"):
        monkeypatch.delenv(name, raising=False)

    def set_one(name, value):
        monkeypatch.setenv(f"PORTAL_PASSPHRASE{name}", value)

    return set_one


def given(*args, **options):
    return passphrase_source(*args, **options)().reveal().decode()


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\nmore\n"])
def test_a_file_gives_its_first_line(tmp_path, variables, ending):
    file = tmp_path / "secret"
    file.write_bytes((SECRET + ending).encode())
    variables("", "from the environment")
    assert given(file) == SECRET
    variables("", "")
    variables("_FILE", str(file))
    assert given() == SECRET


def test_the_environment_gives_it(variables):
    variables("", SECRET)
    assert given() == SECRET
    assert passphrase_source(environment=False) is None
    variables("_FILE", "x")
    with pytest.raises(UsageError, match="PORTAL_PASSPHRASE and PORTAL_PASSPHRASE_FILE are set"):
        passphrase_source()


def test_bytes_that_are_no_text_are_told_by_core_without_a_word_of_them(monkeypatch):
    monkeypatch.setenv("PORTAL_PASSPHRASE", "horse\udcff")
    with pytest.raises(FormatError, match="not UTF-8") as error:
        normalised(passphrase_source()())
    assert "horse" not in str(error.value)


def test_a_program_prints_it(variables):
    variables("_COMMAND", shlex.join([sys.executable, "-c", f"print({SECRET!r})"]))
    assert given() == SECRET


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        (
            shlex.join([sys.executable, "-c", f"raise SystemExit(len({SECRET!r}))"]),
            PortalError,
            "13",
        ),
        (shlex.join([sys.executable, "-c", "print('horse' * 10_000)"]), PortalError, "more than"),
        (shlex.join([sys.executable, "-c", "pass"]), UsageError, "no passphrase"),
        ("/no/such/horse", Unavailable, "No such file"),
        ("echo 'horse", UsageError, "quotation"),
        (" ", UsageError, "names no program"),
    ],
)
def test_a_program_that_fails_is_told_without_its_arguments(variables, command, error, words):
    variables("_COMMAND", command)
    with pytest.raises(error, match=words) as failed:
        given()
    assert "PORTAL_PASSPHRASE_COMMAND" in str(failed.value)
    assert "horse" not in str(failed.value)


def test_files_that_hold_none(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(b"\nhorse")
    with pytest.raises(UsageError, match="secret: holds no passphrase"):
        given(file)
    file.write_bytes(b"x" * (limits.PASSPHRASE_BYTES_MAX + 1))
    with pytest.raises(LimitExceeded):
        given(file)
    with pytest.raises(FileNotFoundError):
        given(tmp_path / "missing")


def test_nobody_to_ask():
    assert passphrase_source() is None
    with pytest.raises(UsageError, match="--new-passphrase-file FILE"):
        needed(None, "--new-passphrase-file")
    with pytest.raises(UsageError, match="--kit-file FILE"):
        recovery_text(None)


def test_a_file_with_the_words_or_with_a_kit(tmp_path):
    file = tmp_path / "kit"
    file.write_text(WORDS)
    assert recovery_text(file).reveal().decode() == WORDS
    kit = RecoveryKit(Secret(bytes(range(32))), a_person().user_id(), 1).text().reveal().decode()
    for end in ("\n", "\r\n"):
        file.write_bytes(end.join(["a page", "", kit[:40], kit[40:], "", "the end"]).encode())
        assert recovery_text(file).reveal().decode() == kit


@pytest.mark.slow
def test_a_prompt_shows_nothing_and_asks_twice_what_will_lock(tmp_path):
    program = tmp_path / "asking.py"
    program.write_text(
        "import click\n"
        "from node.cli.secrets_input import passphrase_source\n"
        "@click.command()\n"
        "def ask():\n"
        "    click.echo(len(passphrase_source(confirm=True)()))\n"
    )
    screen = _terminal(program, "ask")
    screen.answer("passphrase:", SECRET)
    screen.answer("passphrase again:", "battery")
    screen.answer("passphrase:", SECRET)
    screen.answer("passphrase again:", SECRET)
    assert screen.close() == 0
    assert screen.screen.split()[-1] == str(len(SECRET))
    assert "horse" not in screen.screen
    assert "battery" not in screen.screen


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["passphrase_source()()", "recovery_text(None)"])
def test_stray_bytes_on_the_terminal_end_in_one_line_without_them(tmp_path, ask):
    program = tmp_path / "asking.py"
    program.write_text(
        "import click\n"
        "from node.cli.secrets_input import passphrase_source, recovery_text\n"
        "@click.command()\n"
        "def ask():\n"
        f"    {ask}\n"
    )
    screen = _terminal(program, "ask")
    screen.answer("passphrase:" if "phrase_" in ask else "word 1:", "horse\udcff")
    assert screen.close() == 1
    assert screen.screen.endswith("portal: what was typed is not UTF-8 text\n")


@pytest.mark.slow
def test_words_are_typed_in_any_number_at_a_time_and_doubted_one_by_one(tmp_path):
    program = tmp_path / "asking.py"
    program.write_text(
        "import click\n"
        "from core.phrase import from_words_untrusted as read\n"
        "from node.cli.secrets_input import recovery_text\n"
        "@click.command()\n"
        "def ask():\n"
        "    click.echo(read(recovery_text(None).reveal().decode()).reveal().hex())\n"
    )
    words = WORDS.split()
    screen = _terminal(program, "ask")
    screen.answer("word 1:", " ".join(words[:3]))
    screen.answer("word 4:", words[3].upper() + " abandonn " + words[4])
    screen.answer("word 5:", words[4])
    screen.answer("word 6:", " ".join(words[5:]))
    assert screen.close() == 0
    assert "word 5 is not in the list: abandon" in screen.screen
    assert screen.screen.split()[-1] == bytes(range(32)).hex()


def _terminal(program: Path, name: str) -> Terminal:
    return Terminal(f"{program.stem}.{name}", program.parent, path=program.parent)
