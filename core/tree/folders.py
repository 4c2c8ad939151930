"""The directories of a target: made when missing, entered name by name, never through a link."""

# ruff: noqa: PTH101 - names are bytes and relative to descriptors; pathlib knows neither

import errno
import os
import stat

from core.tree.directories import Directories, open_directory
from core.tree.entry import AlreadyThere, Entry
from core.tree.metadata import ACLS
from core.tree.occupancy import Occupancy
from core.tree.paths import check_name_untrusted, check_path_untrusted, shown

_PATH_ONLY = getattr(os, "O_PATH", 0)
_WORKING_MODE = 0o700  # private and writable, until the directory gets its own


class Folders:
    """Knows which directories of the target were entered, and which of them were there before.

    A directory that was there is entered only if it is called exactly as the path says, see
    Occupancy; else what belongs into two directories would be mixed in one.
    """

    def __init__(self, root: int, occupancy: Occupancy, *, has_proc: bool) -> None:
        self.entered: dict[bytes, Entry | None] = {b"": None}  # and what it is to become
        self._root = root
        self._occupancy = occupancy
        self._has_proc = has_proc
        self._found: set[bytes] = {b""}
        self._with_default_acl: set[bytes] = set()
        self._directories = Directories(self._anchor, self._enter)
        self.open = self._directories.open
        self.close = self._directories.close

    def place(self, path: bytes) -> tuple[int, bytes]:
        """The directory that is to hold a path of an archive, and its name in there.

        FormatError for a path that could lead outside; what is missing on the way is made.
        """
        above, _, name = path.rpartition(b"/")
        if above not in self.entered or path.startswith(b"/"):
            check_path_untrusted(path)
        else:
            check_name_untrusted(name, path)  # what is above was checked when it was entered
        return self._directories.open(above), name

    def claim(self, entry: Entry) -> bool:
        """Make a directory, or take one that is there; whether it is to become like its entry."""
        path = entry.path
        holder, name = self.place(path)
        if path not in self.entered and not self._make(holder, name, path):
            found = os.stat(name, dir_fd=holder, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                self._found.add(path)
                if found.st_mode & _WORKING_MODE != _WORKING_MODE and not self._keeps(path):
                    self._unlock(holder, name)
            elif self._occupancy.may_replace(holder, name, entry):
                os.unlink(name, dir_fd=holder)
                os.mkdir(name, _WORKING_MODE, dir_fd=holder)
            else:
                return False
        if self._keeps(path):
            self.entered.setdefault(path)
            return False
        self.entered[path] = entry
        return True

    def hands_down_acl(self, path: bytes) -> bool:
        """Whether what is made at this path gets an ACL from the directory above."""
        return bool(self._with_default_acl) and path.rpartition(b"/")[0] in self._with_default_acl

    def was_there(self, path: bytes) -> bool:
        """Whether a directory that was entered was there before."""
        return path in self._found

    def _anchor(self, path: bytes) -> tuple[int, bytes] | None:
        return None if path else (self._root, b".")

    def _enter(self, holder: int, name: bytes, path: bytes) -> int:
        if path not in self.entered and not self._make(holder, name, path):
            self._found.add(path)
        made = path not in self._found
        try:
            fd = open_directory(holder, name, path)
        except PermissionError:
            if not made:
                raise
            self._unlock(holder, name)  # a umask has locked us out
            fd = open_directory(holder, name, path)
        except OSError as e:
            if e.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
            what = "a link or a file is where a directory is needed"
            raise AlreadyThere(what, where=shown(path)) from e
        self.entered.setdefault(path)
        if not made or self.hands_down_acl(path):
            self._note_default_acl(fd, path)
        return fd

    def _make(self, holder: int, name: bytes, path: bytes) -> bool:
        """Whether it was made; false if something of exactly this name is there."""
        try:
            os.mkdir(name, _WORKING_MODE, dir_fd=holder)
        except FileExistsError:
            self._occupancy.check_spelling(holder, name, path)
            return False
        self._occupancy.made(path)
        return True

    def _keeps(self, path: bytes) -> bool:
        return path in self._found and self._occupancy.keeps_directories

    def _unlock(self, holder: int, name: bytes) -> None:
        """Let its owner into a directory that will get its own mode at the end."""
        if not (_PATH_ONLY and self._has_proc):
            return
        flags = _PATH_ONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=holder)
        try:
            os.chmod(b"/proc/self/fd/%d" % fd, _WORKING_MODE)
        except OSError:
            return  # someone else's; what is put in there will tell
        finally:
            os.close(fd)

    def _note_default_acl(self, fd: int, path: bytes) -> None:
        if hasattr(os, "getxattr"):
            try:
                os.getxattr(fd, ACLS[1])
            except OSError:
                return
            self._with_default_acl.add(path)
