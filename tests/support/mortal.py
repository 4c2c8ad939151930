"""A disk on which the world stops before a chosen step, and never goes on."""

import os
from pathlib import Path

from core.crypto import Buffer
from portal.disk import Disk


class Killed(BaseException):
    """The process was killed here; what runs afterwards is only Python tidying up."""


class MortalDisk(Disk):
    """Counts the steps; the one of number `dies_at` is not done, nor any after it."""

    def __init__(self, dies_at: int = -1) -> None:
        self.steps = 0
        self.dies_at = dies_at
        self.is_dead = False

    def _step(self) -> bool:
        if self.is_dead:
            return False
        if self.steps == self.dies_at:
            self.is_dead = True
            raise Killed
        self.steps += 1
        return True

    def make(self, path: Path) -> int:
        return super().make(path) if self._step() else os.open(os.devnull, os.O_RDWR)

    def write(self, fd: int, data: Buffer) -> None:
        if self._step():
            super().write(fd, data)

    def sync(self, fd: int) -> None:
        if self._step():
            super().sync(fd)

    def rename(self, old: Path, new: Path) -> None:
        if self._step():
            super().rename(old, new)

    def remove(self, path: Path) -> None:
        if self._step():
            super().remove(path)

    def make_directory(self, path: Path) -> None:
        if self._step():
            super().make_directory(path)

    def remove_directory(self, path: Path) -> None:
        if self._step():
            super().remove_directory(path)

    def sync_directory(self, path: Path) -> None:
        if self._step():
            super().sync_directory(path)
