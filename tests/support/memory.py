"""How much memory this process holds, whoever allocated it: Python or an engine's own core."""

import gc
import os
from pathlib import Path

import pytest


def resident_bytes() -> int:
    """Of this process, now; skips the test where the kernel does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the kernel does not tell what a process holds")
    gc.collect()
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
