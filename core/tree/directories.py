"""The open directories of a tree: a few, most recently used, found again name by name.

A directory is opened from the one that holds it, never by a path and never through a symlink, so
its descriptor stands for a place in the tree however long the path is and whatever is renamed.
"""

import os
from collections import OrderedDict
from collections.abc import Callable

from core import limits
from core.errors import FormatError
from core.tree.paths import shown

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Anchor = Callable[[bytes], tuple[int, bytes] | None]
Enter = Callable[[int, bytes, bytes], int]


def open_directory(holder: int, name: bytes, _path: bytes) -> int:
    """Open what must be a directory, not a link to one."""
    return os.open(name, DIRECTORY_FLAGS, dir_fd=holder)


class Directories:
    """Descriptors by path. One thread at a time: any call may close any descriptor but its own.

    `anchor` says where the outermost paths of the tree are: the directory that holds them and
    their name in it. `enter` opens a directory below; it may make it first.
    """

    def __init__(self, anchor: Anchor, enter: Enter = open_directory) -> None:
        self._anchor = anchor
        self._enter = enter
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def place(self, path: bytes) -> tuple[int, bytes]:
        """The directory that holds this path, and its name in there, good until the next call."""
        anchored = self._anchor(path)
        if anchored is not None:
            return anchored
        holder, _, name = path.rpartition(b"/")
        return self.open(holder), name

    def open(self, path: bytes) -> int:
        """The descriptor of this directory, good until the next call."""
        fd = self._open.get(path)
        if fd is None:
            return self._open_from_nearest(path)
        self._open.move_to_end(path)
        return fd

    def get(self, key: bytes) -> int | None:
        """What is kept under this key."""
        return self._open.get(key)

    def keep(self, key: bytes, fd: int) -> None:
        """Take over a descriptor, and close the one that was not used for longest if need be."""
        self._open[key] = fd
        if len(self._open) > limits.TREE_OPEN_DIRECTORIES_MAX:
            os.close(self._open.popitem(last=False)[1])

    def close(self) -> None:
        """Close every descriptor."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _open_from_nearest(self, path: bytes) -> int:
        missing: list[bytes] = []
        at, name = path, b""
        while (fd := self._open.get(at)) is None:
            missing.append(at)
            anchored = self._anchor(at)
            if anchored is not None:
                fd, name = anchored
                break
            if not at:
                raise FormatError("lies in none of the trees", where=shown(path))
            at, _, name = at.rpartition(b"/")
        else:
            self._open.move_to_end(at)
            name = missing[-1].rpartition(b"/")[2]
        while missing:
            step = missing.pop()
            fd = self._enter(fd, name, step)
            self.keep(step, fd)
            name = missing[-1].rpartition(b"/")[2] if missing else b""
        return fd
