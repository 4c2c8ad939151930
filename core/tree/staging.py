"""Files before they have their name, and the moment they get it."""

import errno
import os

from core.tree.entry import Entry
from core.tree.occupancy import Occupancy

_TMPFILE = getattr(os, "O_TMPFILE", 0)
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


class Staging:
    """Makes files that appear whole or not at all.

    Where the system has files without a name, one whose writer was killed leaves nothing behind,
    and linking it into place can never replace anything by accident. Elsewhere, and while
    something is replaced, it has a name of ours: `.portal-` + 16 digits + number + `.tmp`.
    """

    def __init__(self, occupancy: Occupancy, *, has_proc: bool) -> None:
        self.unnamed = bool(_TMPFILE) and has_proc
        self._occupancy = occupancy
        self._prefix = b".portal-" + os.urandom(8).hex().encode()
        self._count = 0

    def create(self, holder: int) -> tuple[int, bytes | None]:
        """An empty file that only we can read, and its temporary name if it has one."""
        if self.unnamed:
            flags = os.O_RDWR | _TMPFILE | os.O_CLOEXEC
            try:
                return os.open(b".", flags, 0o600, dir_fd=holder), None
            except OSError as e:
                if e.errno not in _NO_TMPFILE:
                    raise
                self.unnamed = False
        temporary = self.temporary()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(temporary, flags, 0o600, dir_fd=holder), temporary

    def give_name(
        self, fd: int, temporary: bytes | None, holder: int, name: bytes, entry: Entry
    ) -> bool:
        """Whether it has its name now; what was there stays whole until it is replaced whole."""
        if self._link(fd, temporary, holder, name):
            return True
        if not self._occupancy.may_replace(holder, name, entry):
            self.discard(holder, temporary)
            return False
        if temporary is None:
            temporary = self.temporary()
            os.link(_by_descriptor(fd), temporary, dst_dir_fd=holder)
        self.move(holder, temporary, name)
        return True

    def temporary(self) -> bytes:
        """A name that nothing else has."""
        self._count += 1
        return b"%b-%d.tmp" % (self._prefix, self._count)

    def move(self, holder: int, temporary: bytes, name: bytes) -> None:
        """Give something its name, atomically replacing what had it."""
        try:
            os.rename(temporary, name, src_dir_fd=holder, dst_dir_fd=holder)
        finally:
            # There still after a failure, and when both were names of the same file.
            self.discard(holder, temporary)

    @staticmethod
    def discard(holder: int, temporary: bytes | None) -> None:
        """Take a temporary name away."""
        if temporary is not None:
            try:
                os.unlink(temporary, dir_fd=holder)
            except FileNotFoundError:
                return

    def _link(self, fd: int, temporary: bytes | None, holder: int, name: bytes) -> bool:
        """Whether the name was free, and is given now."""
        try:
            if temporary is None:
                os.link(_by_descriptor(fd), name, dst_dir_fd=holder)
                return True
            os.link(temporary, name, src_dir_fd=holder, dst_dir_fd=holder, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as e:
            if temporary is None or e.errno not in _NO_LINKS:
                raise
            return False  # a file system without links: look whether it is free, then move
        self.discard(holder, temporary)
        return True


def _by_descriptor(fd: int) -> bytes:
    return b"/proc/self/fd/%d" % fd
