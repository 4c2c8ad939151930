import os
import subprocess
import sys

import pytest

from core import process


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_buffers_are_kept():
    # 24 MiB lies above glibc's own threshold: without the setting every buffer is mapped anew and
    # its pages fault in again; with it the second and later ones reuse the first.
    code = """
import resource
from core import process
tuned = {tune} and process.keep_freed_buffers()
bytearray(24 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in (20, 22, 24, 20, 22, 24):
    buffer = bytes(size << 20)
    buffer = bytearray(buffer)
    del buffer
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    if run("from core import process; print(process.keep_freed_buffers())") != "True":
        pytest.skip("this C library has no mallopt")
    assert int(run(code.format(tune=True))) < int(run(code.format(tune=False))) / 2


def test_no_core_dumps():
    code = """
import resource
from core import process
process.forbid_core_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE))
"""
    assert run(code) == "(0, 0)"


def test_bulk_work_switches_threads_often_and_collects_rarely():
    code = """
import gc, sys
from core import process
process.prepare_for_bulk()
print(sys.getswitchinterval() < 0.001, gc.isenabled(), gc.get_threshold()[0] > 100_000)
"""
    assert run(code) == "True True True"


def test_cores():
    assert 1 <= process.cores() <= (os.cpu_count() or 1)
