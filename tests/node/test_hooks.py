import os
import signal
import threading

import pytest

from core import limits
from node.hooks import Facts, HookFailed, Hooks, inherited, run_after, run_before

SHELL = ("/bin/sh", "-c")
FACTS = Facts(environment={"PATH": os.environ["PATH"]})


def note(path, word):
    return (*SHELL, f"echo {word} $PORTAL_HOOK >> {path}")


def test_hooks_run_in_order_and_are_told_what_happens(tmp_path):
    log = tmp_path / "log"
    hooks = Hooks(
        before=(note(log, "1"), note(log, "2")),
        after=(note(log, "3"),),
        success=(note(log, "4"),),
        failure=(note(log, "5"),),
    )
    run_before(hooks, FACTS)
    assert run_after(hooks, FACTS, succeeded=True) == []
    assert log.read_text() == "1 before\n2 before\n4 success\n3 after\n"
    log.unlink()
    assert run_after(hooks, FACTS, succeeded=False) == []
    assert log.read_text() == "5 failure\n3 after\n"


def test_what_a_hook_knows(tmp_path):
    out = tmp_path / "out"
    secrets = {"PORTAL_PASSPHRASE": "s", "PORTAL_PASSPHRASE_FILE": "s", "PORTAL_PASSWORD": "s"}
    facts = Facts(
        profile="home",
        vault="/v",
        sources=("/a b", "/c"),
        snapshot="40dc",
        exit_code=3,
        error="no\0space",
        environment={"PATH": "/bin:/usr/bin", "MINE": "kept"} | secrets,
    )
    assert run_after(Hooks(after=((*SHELL, f"env -0 > {out}"),)), facts, succeeded=True) == []
    found = dict(line.split("=", 1) for line in out.read_text().split("\0") if line)
    assert found["MINE"] == "kept"
    assert {name: found[name] for name in found if name.startswith("PORTAL_")} == {
        "PORTAL_HOOK": "after",
        "PORTAL_COMMAND": "backup",
        "PORTAL_PROFILE": "home",
        "PORTAL_VAULT": "/v",
        "PORTAL_SOURCES": "/a b\n/c",
        "PORTAL_SNAPSHOT": "40dc",
        "PORTAL_EXIT_CODE": "3",
        "PORTAL_ERROR": "nospace",
    }


def test_the_first_that_fails_before_ends_it(tmp_path):
    log = tmp_path / "log"
    hooks = Hooks(before=((*SHELL, "exit 7"), note(log, "never")))
    with pytest.raises(HookFailed, match="exit code 7, so nothing was done") as e:
        run_before(hooks, FACTS)
    assert e.value.where == "hook before (/bin/sh -c 'exit 7')"
    assert not log.exists()


def test_afterwards_all_run_and_what_failed_is_told(tmp_path):
    log = tmp_path / "log"
    hooks = Hooks(
        success=(("/nowhere/at/all",), (*SHELL, "exit 2")),
        after=((*SHELL, "kill -TERM $$"), note(log, "last")),
    )
    assert run_after(hooks, FACTS, succeeded=True) == [
        "hook success (/nowhere/at/all): cannot be run: No such file or directory",
        "hook success (/bin/sh -c 'exit 2'): ended with exit code 2",
        "hook after (/bin/sh -c 'kill -TERM $$'): was ended by signal SIGTERM",
    ]
    assert log.read_text() == "last after\n"


def test_no_shell_reads_the_arguments(tmp_path):
    hooks = Hooks(before=(("touch", f"{tmp_path}/$HOME;x"),))
    run_before(hooks, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["$HOME;x"]


def test_what_a_hook_prints_goes_to_stderr(capfd):
    run_before(Hooks(before=((*SHELL, "echo out; echo err >&2; cat"),)), FACTS)  # stdin is empty
    assert capfd.readouterr() == ("", "out\nerr\n")


def test_a_hook_that_takes_too_long_is_ended(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    hooks = Hooks(before=(("cat", str(fifo)),), timeout_s=0)  # nobody ever writes
    with pytest.raises(HookFailed, match="took longer than 0 s"):
        run_before(hooks, FACTS)


def test_one_that_does_not_listen_is_ended_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "HOOK_GRACE_SECONDS", 0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    hooks = Hooks(failure=(("cat", str(fifo)),), timeout_s=0)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which a child inherits
    try:
        [complaint] = run_after(hooks, FACTS, succeeded=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert complaint.endswith("took longer than 0 s and was ended")


def test_an_interrupt_from_the_keyboard_does_not_reach_a_hook():
    run_before(Hooks(before=((*SHELL, "kill -INT $$; exit 0"),)), FACTS)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_an_interrupt_of_ours_ends_the_hook(tmp_path):
    fifo, pid = tmp_path / "fifo", tmp_path / "pid"
    os.mkfifo(fifo)
    hooks = Hooks(before=((*SHELL, f"echo $$ > {pid}; echo > {fifo}; exec cat {fifo}"),))

    def interrupt():
        fifo.read_text()  # returns when the hook is at work
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_before(hooks, FACTS)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_hooks_inherit_the_environment_of_the_run(monkeypatch):
    monkeypatch.setenv("SOME_NAME", "some value")
    assert inherited()["SOME_NAME"] == "some value"
