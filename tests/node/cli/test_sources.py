import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core import limits
from core.errors import PortalError, UsageError
from node.cli import sources
from node.config import Settings
from tests.support.trees import open_descriptors

NOTHING = {"sources": (), "files_from": (), "from0": False, "stdin_name": None} | {
    "stdin_command": None
}


def asked(**options):
    return NOTHING | options


def read_all(read):
    parts = []
    while part := read(1000):
        parts.append(part)
    return b"".join(parts)


@pytest.fixture
def pipe(monkeypatch):
    """Stdin is a pipe; gives the end to write to."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stdin, os.fdopen(write, "wb", buffering=0) as out:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield out


# --- which of them --------------------------------------------------------------------------------


def test_the_command_line_stands_for_itself(tmp_path):
    profile = Settings(sources=(tmp_path,))
    (tmp_path / "names").write_bytes(os.fsencode(tmp_path / "names"))
    for options, wanted in (
        ({}, [str(tmp_path)]),
        ({"sources": ("/",)}, ["/"]),
        ({"files_from": (tmp_path / "names",)}, [str(tmp_path / "names")]),
        ({"stdin_name": "a/b"}, ["/a/b"]),
        ({"stdin_command": "/x", "sources": ("prog", "./y//z")}, ["/x"]),
    ):
        assert sources.names(sources.what_to_save(asked(**options), profile)) == wanted
    of_profile = Settings(profile="db", stdin_command=("/usr/bin/dump", "--all"))
    assert sources.what_to_save(asked(), of_profile) == sources.Stream(
        b"/dump", of_profile.stdin_command
    )
    assert sources.names(sources.what_to_save(asked(sources=("/",)), of_profile)) == ["/"]


def test_a_program_gets_its_arguments_as_they_were_typed():
    words = ("curl", "https://a//b/", "./c", "")
    found = sources.what_to_save(asked(stdin_command="x", sources=words), Settings())
    assert found == sources.Stream(b"/x", words)


def test_what_makes_no_sense_is_refused(tmp_path):
    both = Settings(profile="db", sources=(tmp_path,), stdin_command=("dump",))
    many = ("/",) * (limits.SNAPSHOT_PATHS_MAX + 1)
    for options, settings, words in (
        ({}, Settings(), "nothing to back up"),
        ({}, both, "has sources and a stdin_command"),
        ({"stdin_name": "a", "stdin_command": "b"}, Settings(), "one stream"),
        ({"stdin_name": "a", "sources": ("/",)}, Settings(), "one stream"),
        ({"stdin_command": "a"}, Settings(), "one program"),
        ({"stdin_name": "../a"}, Settings(), r"\.\. in it"),
        ({"sources": ("/no/such/thing",)}, Settings(), "does not exist"),
        ({"sources": many}, Settings(), "too many"),
    ):
        with pytest.raises(UsageError, match=words):
            sources.what_to_save(asked(**options), settings)


def test_a_closed_stdin_is_told(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="stdin is closed"), sources.from_stdin():
        pass
    with pytest.raises(UsageError, match="stdin is closed"):
        sources.what_to_save(asked(files_from=(Path("-"),)), Settings())


# --- pipes ----------------------------------------------------------------------------------------


def test_stdin_is_read_to_its_end(pipe):
    with sources.from_stdin() as read:
        pipe.write(b"some")
        assert read(100) == b"some"
        pipe.write(b"thing")
        pipe.close()
        assert read_all(read) == b"thing"
        assert read(100) == b""


def test_an_interrupt_wakes_a_thread_that_waits_for_a_pipe(pipe):
    before = signal.getsignal(signal.SIGINT)
    caught = []

    def wait_for_more(read, began):
        began.set()
        try:
            read(100)
        except KeyboardInterrupt as e:
            caught.append(e)

    with sources.from_stdin() as read:
        began = threading.Event()
        thread = threading.Thread(target=wait_for_more, args=(read, began))
        thread.start()
        began.wait()
        signal.raise_signal(signal.SIGINT)  # does not break off what runs here
        thread.join()
        with pytest.raises(KeyboardInterrupt):
            read(100)  # and stays so
    assert len(caught) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_program_prints():
    with sources.from_program(["sh", "-c", 'printf "%s" "$0"', "a  b"]) as read:
        assert read_all(read) == b"a  b"
    before = len(open_descriptors())
    with pytest.raises(FileNotFoundError), sources.from_program(["/no/such/program"]):
        pass
    assert len(open_descriptors()) == before


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo half; exit 3", "^sh: ended with exit code 3, so nothing"),
        ("echo half; kill -KILL $$", "^sh: was ended by signal SIGKILL, so nothing"),
        ("exec >&-; exit 1", "ended with exit code 1"),
    ],
)
def test_a_program_that_fails_makes_the_last_read_fail(script, words):
    with sources.from_program(["sh", "-c", script]) as read, pytest.raises(PortalError) as caught:
        read_all(read)
    assert words.strip("^") in str(caught.value)


def test_an_interrupt_ends_a_program_that_prints_no_more(monkeypatch):
    waits, caught = threading.Event(), []
    wait = subprocess.Popen.wait

    def told(self, timeout=None):
        waits.set()
        return wait(self, timeout)

    def read_on(read):
        try:
            read_all(read)
        except KeyboardInterrupt as e:
            caught.append(e)

    monkeypatch.setattr(subprocess.Popen, "wait", told)
    with sources.from_program(["sh", "-c", "exec >&-; exec sleep 600"]) as read:
        thread = threading.Thread(target=read_on, args=(read,))
        thread.start()
        waits.wait()
        signal.raise_signal(signal.SIGINT)
        thread.join(5)
        assert len(caught) == 1


def test_a_program_is_asked_to_end_when_nobody_reads_on(tmp_path):
    note = tmp_path / "told"
    script = (
        "import os, pathlib, signal, sys\n"
        f"def told(*_): pathlib.Path({str(note)!r}).write_text('ended'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, told)\n"
        "print(os.getpid(), flush=True)\n"
        "signal.pause()\n"
    )

    class Enough(Exception):
        pass

    with pytest.raises(Enough), sources.from_program([sys.executable, "-c", script]) as read:
        child = int(read(100))
        raise Enough
    assert note.read_text() == "ended"
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_no_passphrase_is_handed_on(monkeypatch):
    for name in ("PORTAL_PASSPHRASE", "PORTAL_PASSPHRASE_COMMAND", "PORTAL_VAULT"):
        monkeypatch.setenv(name, "told")
    with sources.from_program(["env"]) as read:
        found = read_all(read)
    assert b"PORTAL_VAULT=told\n" in found
    assert b"PASSPHRASE" not in found
