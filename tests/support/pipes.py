"""Pipes, and threads beside the test, for code that reads and writes file descriptors."""

import fcntl
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core import limits

HANG_S = 60  # nothing takes that long: a test that hangs fails instead
_QUIET_S = 0.3

READ, WRITE = 0, 1
_CLOSED = -1


@contextmanager
def pipe() -> Iterator[list[int]]:
    """Both ends of a pipe, closed in the end unless `close` did so."""
    ends = list(os.pipe())
    try:
        yield ends
    finally:
        for fd in ends:
            if fd != _CLOSED:
                os.close(fd)


def close(ends: list[int], which: int) -> None:
    """Close one end before the pipe's time is over."""
    os.close(ends[which])
    ends[which] = _CLOSED


@contextmanager
def beside(work: Callable[..., object], *args: object) -> Iterator[None]:
    """`work` in a thread that is joined at the end."""
    thread = threading.Thread(target=work, args=args)
    thread.start()
    try:
        yield
    finally:
        thread.join(HANG_S)
        assert not thread.is_alive()


def feed(ends: list[int], data: bytes, step: int) -> None:
    """Write all of it, so many bytes at a time, and close."""
    view = memoryview(data)
    for start in range(0, len(view), step):
        part = view[start : start + step]
        while part:
            part = part[os.write(ends[WRITE], part) :]
    close(ends, WRITE)


def drain(fd: int, into: list[bytes]) -> None:
    """Read until the writer has closed."""
    while part := os.read(fd, 100_000):
        into.append(part)


def becomes(fd: int, event: int, within_s: float = HANG_S) -> bool:
    """Whether it can be read or written (select.POLLIN, POLLOUT) before that time is over."""
    waiting = select.poll()
    waiting.register(fd, event)
    return bool(waiting.poll(within_s * 1000))


def capacity(fd: int) -> int:
    """How much a pipe holds; where the system does not tell, the most it does anywhere."""
    ask = getattr(fcntl, "F_GETPIPE_SZ", None)
    return 64 * limits.KIB if ask is None else fcntl.fcntl(fd, ask)


def fill_until_it_blocks(fd: int, data: bytes, bytes_max: int) -> int:
    """How much was taken, from `data` again and again, before nothing more was.

    More than `bytes_max` if that pipe has no bottom.
    """
    os.set_blocking(fd, False)
    taken = 0
    while taken <= bytes_max and becomes(fd, select.POLLOUT, _QUIET_S):
        start = taken % len(data)
        taken += os.write(fd, memoryview(data)[start:])
    os.set_blocking(fd, True)
    return taken
