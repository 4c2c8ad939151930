"""Taking away what a snapshot does not have: never through a link, never what is protected."""

# ruff: noqa: PTH208 - it lists by descriptor

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from core.errors import PortalError
from core.tree.entry import Report, Skipped
from core.tree.paths import shown
from core.tree.source import Source
from portal.browse import Selection

Identity = tuple[int, int]  # device and inode


class Protected(PortalError):
    """This is not taken away."""


class Stays(Skipped):
    """This is not what a restore takes away, whatever the snapshot holds."""


@dataclass(slots=True)
class _Level:
    """A directory that is being emptied."""

    path: bytes
    names: list[bytes]
    dev: int
    is_whole: bool = field(default=True)  # nothing in it is to stay


class Removal:
    """Takes names away below a target. One thread at a time."""

    def __init__(
        self,
        source: Source,
        select: Selection,
        protected: frozenset[Identity],
        report: Report,
        removed: Callable[[bytes], None],
    ) -> None:
        self._source = source
        self._select = select
        self._protected = protected
        self._report = report
        self._removed = removed

    def remove(self, path: bytes) -> bool:
        """Take away what is called so and everything below; whether it is gone.

        Left and reported: what is protected, what another file system is mounted on, sockets of
        running programs; and the directories that hold such things. What is not selected stays.
        """
        holder, _ = self._source.place(path)
        top = _Level(path.rpartition(b"/")[0], [path.rpartition(b"/")[2]], os.fstat(holder).st_dev)
        levels = [top]
        while levels[0].names or len(levels) > 1:
            level = levels[-1]
            if level.names:
                below = self._step(level, level.names.pop())
                if below is not None:
                    levels.append(below)
                continue
            levels.pop()
            if not (level.is_whole and self._leave(level.path)):
                levels[-1].is_whole = False
        return top.is_whole

    def _step(self, level: _Level, name: bytes) -> _Level | None:
        """One name; a directory is given back to be emptied first."""
        path = level.path + b"/" + name if level.path else name
        try:
            holder = self._source.open(level.path)
            found = os.stat(name, dir_fd=holder, follow_symlinks=False)
            is_directory = stat.S_ISDIR(found.st_mode)
            if not self._may_go(path, found, level.dev, is_directory=is_directory):
                level.is_whole = False
                return None
            if is_directory:
                names = sorted(map(os.fsencode, os.listdir(self._source.open(path))), reverse=True)
                return _Level(path, names, found.st_dev)
            os.unlink(name, dir_fd=holder)
        except FileNotFoundError:
            return None
        except OSError as e:
            self._report(path, e)
            level.is_whole = False
            return None
        self._removed(path)
        return None

    def _may_go(self, path: bytes, found: os.stat_result, dev: int, *, is_directory: bool) -> bool:
        if is_directory and (found.st_dev, found.st_ino) in self._protected:
            self._report(path, Stays("holds backups or keys and stays", where=shown(path)))
            return False
        if found.st_dev != dev:
            self._report(path, Stays("something is mounted here; it stays", where=shown(path)))
            return False
        if stat.S_ISSOCK(found.st_mode):
            return False
        if is_directory:
            return self._select.takes(path) or self._select.may_hold(path)
        return self._select.takes(path)

    def _leave(self, path: bytes) -> bool:
        """Take an emptied directory away, if it is meant itself."""
        if not self._select.takes(path):
            return False
        try:
            holder, name = self._source.place(path)
            os.rmdir(name, dir_fd=holder)
        except OSError as e:
            if e.errno != errno.ENOTEMPTY:
                self._report(path, e)
            return False
        self._removed(path)
        return True
