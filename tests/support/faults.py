"""Disks on which something happens before a step: the process dies, stops, or is refused.

A step is one system call of portal/disk.py; writing counts twice, so that half of it can be there.
"""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

from core.crypto import Buffer
from portal.disk import Disk

Before = Callable[[str], None]

# What a full disk or a quota still lets one do. Taking names away needs no room.
_NEEDS_ROOM = frozenset({"make", "write", "write half", "sync", "rename", "make_directory"})
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class StepDisk(Disk):
    """Counts the steps and calls `before` ahead of each, with its name."""

    def __init__(self, before: Before | None = None) -> None:
        self.steps = 0
        self._before = before

    def step(self, name: str) -> None:
        """One more."""
        if self._before is not None:
            self._before(name)
        self.steps += 1

    def make(self, path: Path) -> int:
        self.step("make")
        return super().make(path)

    def write(self, fd: int, data: Buffer) -> None:
        view = memoryview(data)
        self.step("write")
        super().write(fd, view[: len(view) // 2])
        self.step("write half")
        super().write(fd, view[len(view) // 2 :])

    def sync(self, fd: int) -> None:
        self.step("sync")
        super().sync(fd)

    def rename(self, old: Path, new: Path) -> None:
        self.step("rename")
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self.step("remove")
        super().remove(path)

    def make_directory(self, path: Path) -> None:
        self.step("make_directory")
        super().make_directory(path)

    def remove_directory(self, path: Path) -> None:
        self.step("remove_directory")
        super().remove_directory(path)

    def sync_directory(self, path: Path) -> None:
        self.step("sync_directory")
        super().sync_directory(path)


class SignalDisk(StepDisk):
    """This process gets a signal ahead of one step: SIGKILL ends it there, SIGSTOP halts it."""

    def __init__(
        self, at: int, number: signal.Signals, tell: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(self._signal)
        self._at = at
        self._number = number
        self._tell = tell

    def _signal(self, _name: str) -> None:
        if self.steps == self._at:
            self._tell()
            os.kill(os.getpid(), self._number)


class FailingDisk(StepDisk):
    """One step is refused by the system, or that one and all after it that fail for its reason."""

    def __init__(self, at: int, number: int, *, for_good: bool) -> None:
        super().__init__(self._refuse)
        self.failed: list[str] = []  # the steps that were refused
        self._at = at
        self._number = number
        self._for_good = for_good

    def _refuse(self, name: str) -> None:
        if self._number in NO_ROOM and name not in _NEEDS_ROOM:
            return
        if self.steps < self._at or (self.failed and not self._for_good):
            return
        self.failed.append(name)
        raise OSError(self._number, os.strerror(self._number))
