"""What a Portal process asks of the machine before it works.

glibc gives every freed buffer above 128 KiB back to the kernel and takes fresh zeroed pages for the
next one; hashing and sealing a stream of 1 MiB buffers then spends half its time in page faults.
Two thresholds and a single arena keep such buffers in the process, once. `scripts/bench malloc`
shows what that is worth.
"""

import ctypes
import gc
import os
import resource
import sys

from core import limits

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_SWITCH_INTERVAL_S = 0.0001
_GC_NEW_OBJECTS = 500_000
_PR_SET_DUMPABLE = 4


def keep_freed_buffers() -> bool:
    """Let malloc reuse big buffers; False where the C library has no such setting."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    # glibc caps the mmap threshold at 32 MiB on 64-bit machines and refuses more.
    mmap_ok = mallopt(_M_MMAP_THRESHOLD, limits.MALLOC_MMAP_BYTES)
    trim_ok = mallopt(_M_TRIM_THRESHOLD, limits.MALLOC_KEEP_BYTES)
    # One arena: each would keep freed memory of its own, and so few large buffers do not compete.
    arena_ok = mallopt(_M_ARENA_MAX, 1)
    return bool(mmap_ok and trim_ok and arena_ok)


def prepare_for_bulk() -> None:
    """What a command that moves many bytes through several threads asks for.

    A thread that comes back from a system call waits for the interpreter until the thread that
    computes gives it up: by default 5 ms, longer than writing a hundred small files. And a run
    keeps an object or two for every file: looking through all of them for cycles after every 700
    new ones costs a fifth of the time and finds nothing.
    """
    keep_freed_buffers()
    gc.set_threshold(_GC_NEW_OBJECTS, 20, 100)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def cores() -> int:
    """How many threads can work at once here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def forbid_core_dumps() -> None:
    """Keep keys out of core files and away from other processes' debuggers."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
