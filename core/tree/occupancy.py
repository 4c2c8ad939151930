"""What to do when a name is taken: see by whom, and whether it may be replaced."""

import os
import stat
from collections import OrderedDict
from enum import Enum, unique

from core import limits
from core.tree.entry import AlreadyThere, Entry
from core.tree.paths import shown


@unique
class Overwrite(Enum):
    """What happens to what is there already."""

    REFUSE = "refuse"  # an error; nothing that was there is touched
    REPLACE = "replace"  # the archive wins
    SKIP = "skip"  # what is there wins
    IF_NEWER = "if-newer"  # the later mtime wins; also continues what was interrupted


class Occupancy:
    """Decides about names that exist.

    Some file systems take several spellings for one name (case, Unicode forms, short names), each
    by rules of its own and some per directory. So a name that exists is looked up in the listing
    of its directory: if it is not there letter by letter, it is another name of something else,
    and replacing that would lose a file. A directory is listed once, and only when needed.
    """

    def __init__(self, overwrite: Overwrite) -> None:
        self.overwrite = overwrite
        self._names: OrderedDict[bytes, set[bytes]] = OrderedDict()

    @property
    def keeps_directories(self) -> bool:
        """Whether directories that exist keep their mode, owner and time."""
        return self.overwrite in {Overwrite.REFUSE, Overwrite.SKIP}

    @property
    def may_skip(self) -> bool:
        """Whether looking first may save the work of writing."""
        return self.overwrite in {Overwrite.SKIP, Overwrite.IF_NEWER}

    def may_replace(self, holder: int, name: bytes, entry: Entry) -> bool:
        """Whether to put the entry there; AlreadyThere if that cannot be decided silently."""
        try:
            found = os.stat(name, dir_fd=holder, follow_symlinks=False)
        except FileNotFoundError:
            return True
        self.check_spelling(holder, name, entry.path)
        if stat.S_ISDIR(found.st_mode):
            raise AlreadyThere("a directory is in the way", where=shown(entry.path))
        if self.overwrite is Overwrite.REFUSE:
            raise AlreadyThere(where=shown(entry.path), hint="choose what to do with such files")
        if self.overwrite is Overwrite.IF_NEWER:
            return entry.mtime_ns > found.st_mtime_ns
        return self.overwrite is Overwrite.REPLACE

    def check_spelling(self, holder: int, name: bytes, path: bytes) -> None:
        """Pass if what exists under this name is called exactly so."""
        directory = path.rpartition(b"/")[0]
        names = self._names.get(directory)
        if names is None or name not in names:
            names = set(map(os.fsencode, os.listdir(holder)))
            self._names[directory] = names
            if len(self._names) > limits.TREE_OPEN_DIRECTORIES_MAX:
                self._names.popitem(last=False)
        self._names.move_to_end(directory)
        if name not in names:
            raise AlreadyThere(
                "this file system takes it for another name that is there already",
                where=shown(path),
                hint="restore to one that tells upper and lower case and Unicode forms apart",
            )

    def made(self, path: bytes) -> None:
        """This name was put there by us: no need to list its directory again for it."""
        if self._names:
            directory, _, name = path.rpartition(b"/")
            names = self._names.get(directory)
            if names is not None:
                names.add(name)
