"""Running without the rights of root."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65_534
_PR_SET_DUMPABLE = 4


@contextmanager
def unprivileged(own_folder: Path) -> Iterator[Path]:
    """A folder of one's own, and no rights beyond it; `own_folder` if there are none to give up."""
    if os.geteuid() != 0:
        yield own_folder
        return
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, NOBODY, NOBODY)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    # A process that gave up rights may not look at itself in /proc; one that never had them may.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    try:
        yield folder
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        shutil.rmtree(folder)
