"""One node per PORTAL_HOME: who holds the lock on PORTAL_HOME/node.lock is the node.

The kernel lets go of the lock when the process ends, however it ends, so nothing stale can be left
and the file itself stays. What is written in it helps others: the process, for people, and where
its control socket is, for commands, which so find it whatever the configuration says by now.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import PortalError

LOCK = "node.lock"
_BYTES_MAX = 4_096  # a path and a number


class AlreadyRunning(PortalError):
    """Another node runs here."""


@contextmanager
def only_one(home: Path, control_socket: Path) -> Iterator[None]:
    """Be the node of this home while the block runs; AlreadyRunning names the other."""
    with _locked(home) as fd:
        os.pwrite(fd, b"%d\n%s\n" % (os.getpid(), os.fsencode(control_socket)), 0)
        yield
        os.ftruncate(fd, 0)


@contextmanager
def none_runs(home: Path) -> Iterator[None]:
    """Let no node start here while the block runs; AlreadyRunning if one does run."""
    with _locked(home):
        yield


@contextmanager
def _locked(home: Path) -> Iterator[int]:
    fd = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _ = _read(fd)
            who = f" (pid {pid})" if pid else ""
            raise AlreadyRunning(
                f"another node runs here{who}", where=str(home), hint="portal-node stop"
            ) from None
        os.ftruncate(fd, 0)
        yield fd
    finally:
        os.close(fd)


def running_pid(home: Path) -> int | None:
    """The process that is the node of this home, if there is one and it is known."""
    fd = _open(home)
    if fd is None:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(fd)[0]
    finally:
        os.close(fd)
    return None


def control_socket(home: Path) -> Path | None:
    """Where the node of this home said that its socket is, if it did. It may have ended since."""
    fd = _open(home)
    if fd is None:
        return None
    try:
        return _read(fd)[1]
    finally:
        os.close(fd)


def wait_until_gone(home: Path, seconds: float) -> bool:
    """Wait until no node runs here any more, but not for ever; whether that is so."""

    def wait() -> None:
        with (home / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)

    # A lock is waited for in the kernel, which knows no deadline: a thread that may be left behind.
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(seconds)
    return not waiting.is_alive()


def _open(home: Path) -> int | None:
    try:
        return os.open(home / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None


def _read(fd: int) -> tuple[int | None, Path | None]:
    """Process and socket, as far as they are written."""
    pid, _, rest = os.pread(fd, _BYTES_MAX, 0).partition(b"\n")
    path, end, _ = rest.partition(b"\n")
    is_path = bool(end) and path.startswith(b"/") and b"\0" not in path
    return int(pid) if pid.isdigit() else None, Path(os.fsdecode(path)) if is_path else None
