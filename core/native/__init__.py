"""The kernel: where to cut a file, how dense a chunk looks, and many file system calls as one.

In C where a compiler was at hand, and without Python's lock.

`kernel()` is what the program uses: the fastest path of the compiled library that this processor
can take, or pure Python with the same answers when there is no library. The environment variable
PORTAL_KERNEL (scalar, avx2, neon or python) forces a path, for tests and for finding faults; what
it asks for is taken or refused, never replaced.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from core.errors import Unavailable, UsageError
from core.native import compiled, fallback, fallback_files
from core.native.compiled_files import Files
from core.native.rows import Listed
from core.native.rules import Buffer, GearRule, Scan, SeqCdcRule

VARIABLE = "PORTAL_KERNEL"
NAMES = (*compiled.PATHS, "python")
_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to compute; all of them give the same answers."""

    name: str  # one of NAMES
    gear: Callable[[GearRule], Scan]
    seqcdc: Callable[[SeqCdcRule], Scan]
    entropy_mbits: Callable[[Buffer], int]  # thousandths of a bit per byte, of a sample
    list_directory: Callable[[int], Listed]  # what an open directory holds
    read_files: Callable[[Buffer, bytes, Sequence[bytes], memoryview], bytearray]
    write_files: Callable[[Buffer, Sequence[bytes], bytes], bytearray]
    warning: str | None = None  # what a person should be told once, if anything


def open_kernel(name: str | None = None, *, folder: Path = _FOLDER) -> Kernel:
    """The kernel of this name, or the fastest that works here."""
    if name is not None and name not in NAMES:
        known = ", ".join(NAMES)
        raise UsageError(f"{VARIABLE} is {name!r}, which is not one of {known}")
    if name == "python":
        return _python(warning=None)
    try:
        library = compiled.load(folder)
    except Unavailable as e:
        if name is None:
            return _python(
                "the compiled kernel is not used, cutting files is slow: "
                f"{e.what} (install a C compiler, then install Portal again)"
            )
        raise Unavailable(f"the kernel {name!r} cannot be used: {e.what}") from e
    works = compiled.paths(library)
    chosen = works[0] if name is None else name
    if chosen not in works:
        raise Unavailable(f"this processor cannot run the kernel {chosen!r}")
    kernel = compiled.Library(library, compiled.PATHS[chosen])
    files = Files(library)
    return Kernel(
        chosen,
        kernel.gear,
        kernel.seqcdc,
        kernel.entropy_mbits,
        files.list_directory,
        files.read_files,
        files.write_files,
    )


def _python(warning: str | None) -> Kernel:
    return Kernel(
        "python",
        fallback.gear,
        fallback.seqcdc,
        fallback.entropy_mbits,
        fallback_files.list_directory,
        fallback_files.read_files,
        fallback_files.write_files,
        warning=warning,
    )


@cache
def kernel() -> Kernel:
    """The kernel of this process."""
    return open_kernel(os.environ.get(VARIABLE) or None)
