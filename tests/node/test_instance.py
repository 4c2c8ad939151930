import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.instance import (
    LOCK,
    AlreadyRunning,
    control_socket,
    none_runs,
    only_one,
    running_pid,
    wait_until_gone,
)
from tests.support.home import REPOSITORY

SOCKET = Path("/run/user/1000/portal.sock")


@pytest.fixture
def other(tmp_path):
    """Another process that is the node of this home."""
    program = (
        "import sys; from pathlib import Path; from node.instance import only_one\n"
        f"with only_one(Path({str(tmp_path)!r}), Path('/run/a b')):\n"
        "    print('here', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"here\n"
        yield process
        if process.poll() is None:
            process.kill()


def test_the_second_is_refused_and_told_of_the_first(tmp_path, other):
    assert running_pid(tmp_path) == other.pid
    told = rf"another node runs here \(pid {other.pid}\)"
    with pytest.raises(AlreadyRunning, match=told), only_one(tmp_path, SOCKET):
        pass


def test_none_starts_while_something_is_changed_and_nothing_is_while_one_runs(tmp_path, other):
    with pytest.raises(AlreadyRunning, match=str(other.pid)), none_runs(tmp_path):
        pytest.fail("one runs")
    other.kill()
    other.wait()
    with none_runs(tmp_path):
        with pytest.raises(AlreadyRunning) as told, only_one(tmp_path, SOCKET):
            pytest.fail("it started")
        assert "pid" not in str(told.value)  # that would be the one that was killed
    with only_one(tmp_path, SOCKET):
        assert running_pid(tmp_path) == os.getpid()


def test_a_killed_one_leaves_nothing_that_hinders(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / LOCK).read_text() == f"{other.pid}\n/run/a b\n"
    assert running_pid(tmp_path) is None
    with only_one(tmp_path, SOCKET):
        assert control_socket(tmp_path) == SOCKET
        assert running_pid(tmp_path) == os.getpid()
    assert (tmp_path / LOCK).read_bytes() == b""


def test_commands_find_the_socket(tmp_path, other):
    assert control_socket(tmp_path) == Path("/run/a b")
    other.stdin.close()
    other.wait()
    assert control_socket(tmp_path) is None


@pytest.mark.parametrize(
    "text", [b"", b"5", b"5\n", b"x\n/a", b"5\nrel\n", b"5\n/a\0b\n", b"\xff" * 9_000]
)
def test_whatever_is_in_the_file_is_no_failure(tmp_path, text):
    (tmp_path / LOCK).write_bytes(text)
    assert control_socket(tmp_path) is None
    assert running_pid(tmp_path) is None
    with only_one(tmp_path, SOCKET):
        assert running_pid(tmp_path) == os.getpid()


def test_waiting_for_the_end(tmp_path, other):
    assert not wait_until_gone(tmp_path, 0.01)
    other.stdin.close()
    assert wait_until_gone(tmp_path, 60)


def test_a_home_without_a_node(tmp_path):
    assert running_pid(tmp_path) is None


def test_the_lock_is_no_link_to_somewhere_else(tmp_path):
    (tmp_path / LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"), only_one(tmp_path, SOCKET):
        pass
    assert not (tmp_path / "victim").exists()
