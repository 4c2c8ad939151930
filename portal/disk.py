"""Every change a vault makes to its directory goes through here, one system call at a time.

So a test can stop the world before any of them, let one fail, or show what a power failure would
have left of them: that is how the promises of portal/SPEC.md, Durability, are kept honest.
"""

import os
from pathlib import Path

from core.crypto import Buffer
from core.files import sync_directory

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o600
_DIRECTORY_MODE = 0o700


class Disk:
    """The real one."""

    def make(self, path: Path) -> int:
        """A new file, private; the descriptor to write it by."""
        return os.open(path, _NEW, _MODE)

    def write(self, fd: int, data: Buffer) -> None:
        """All of the bytes, behind those written before."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def sync(self, fd: int) -> None:
        """The content is on the disk when this returns."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Let the descriptor go."""
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name; what had it is replaced."""
        old.rename(new)

    def remove(self, path: Path) -> None:
        """Take a file away; it may be gone already."""
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        """A private directory, if it is not there."""
        path.mkdir(_DIRECTORY_MODE, exist_ok=True)

    def remove_directory(self, path: Path) -> None:
        """Take an empty directory away."""
        path.rmdir()

    def sync_directory(self, path: Path) -> None:
        """The names in a directory are on the disk when this returns."""
        sync_directory(path)
