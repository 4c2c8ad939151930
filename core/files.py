"""Small private files, whole or not at all."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import FormatError, KeystoreError, LimitExceeded

PRIVATE_MODE = 0o600

# What file systems answer that cannot make a directory durable; then the rename has to do.
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP}


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, readable by its owner only; after a crash it is the old or the new.

    The new bytes and the directory entry are on the disk when this returns. A link is followed:
    what it points to is replaced, so keys stay on the disk that was chosen for them.
    """
    target = Path(os.path.realpath(path))
    with _fresh_private(target, data) as temporary:
        temporary.rename(target)
    sync_directory(target.parent)


def create_private(path: Path, data: bytes) -> bool:
    """Like `write_private`, for a name that must be new; False, and nothing done, if it is taken.

    Of two processes that create one file at once, one does and the other is told.
    """
    if os.path.lexists(path):
        return False
    with _fresh_private(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
    sync_directory(path.parent)
    return True


@contextmanager
def _fresh_private(path: Path, data: bytes) -> Iterator[Path]:
    """A durable file beside `path`, for the block to give its name; gone again if that fails."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, PRIVATE_MODE)  # whatever the umask took away
                file.write(data)
                file.flush()
                os.fsync(fd)
            yield temporary
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as e:  # a full disk names no file, and nobody knows the temporary one
        e.filename, e.filename2 = str(path), None
        raise


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the file system can."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in _NO_DIRECTORY_SYNC:
            e.filename = str(path)
            raise
    finally:
        os.close(fd)


def read_bounded(path: Path, size_max: int) -> bytes:
    """The bytes of a regular file, or FormatError naming it; never more than `size_max` in memory.

    The size limit holds for a file that grows while it is read, and a fifo, device or directory
    planted in its place is refused instead of waited for.
    """
    return _read(path, size_max)[0]


def read_private(path: Path, size_max: int, name: str) -> bytes:
    """The bytes of a file that holds a key, called `name` in the refusal if others can read it."""
    data, mode = _read(path, size_max)
    if mode & 0o077:
        raise KeystoreError(
            f"other users can read {name}", where=str(path), hint=f"chmod 600 {path}"
        )
    return data


def _read(path: Path, size_max: int) -> tuple[bytes, int]:
    """Bytes and mode of one and the same file, whatever happens to its name meanwhile."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise FormatError("is not a regular file", where=str(path))
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(size_max + 1)
    finally:
        os.close(fd)
    if len(data) > size_max:
        raise LimitExceeded(f"is larger than {size_max} bytes", where=str(path))
    return data, mode
