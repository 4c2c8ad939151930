"""Small private files, whole or not at all."""

import os
import stat
from pathlib import Path

from core.errors import FormatError, LimitExceeded

PRIVATE_MODE = 0o600


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, readable by its owner only; after a crash it is the old or the new.

    The new bytes and the directory entry are on the disk when this returns.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_bounded(path: Path, size_max: int) -> bytes:
    """The bytes of a regular file, or FormatError naming it; never more than `size_max` in memory.

    The size limit holds for a file that grows while it is read, and a fifo or device planted in
    its place is refused instead of waited for.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FormatError("is not a regular file", where=str(path))
        data = file.read(size_max + 1)
    if len(data) > size_max:
        raise LimitExceeded(f"is larger than {size_max} bytes", where=str(path))
    return data
