"""malloc: the same work in two fresh processes, without and with freed buffers kept.

Each number is the throughput of a stream of buffers whose sizes differ, as chunks do, on one
thread and on two: a buffer is made, sealed, hashed and dropped.
"""

import json
import subprocess
import sys
from collections.abc import Iterator

from tests.bench.table import Row

WORK = """
import json, os, resource, sys, time
from concurrent.futures import ThreadPoolExecutor
from core import crypto, hashing, process
if sys.argv[1] == "tuned":
    process.keep_freed_buffers()
SIZES = [s << 10 for s in (300, 700, 1100, 1900, 2500, 4000, 900, 400, 3300, 8000)]
DATA = memoryview(os.urandom(max(SIZES)))
KEY, NONCE = bytes(32), bytes(12)
def copy(): return [bytes(DATA[:s]) for s in SIZES]
def seal():
    for s in SIZES:
        sealed = crypto.aead_seal(KEY, NONCE, b"".join((b"header", DATA[:s])), b"")
def hash_(): return [hashing.keyed(KEY, DATA[:s]) for s in SIZES]
def rate(work, threads):
    best = 0
    for _ in range(7):
        began = time.perf_counter()
        if threads == 1:
            for _ in range(6): work()
        else:
            with ThreadPoolExecutor(threads) as pool:
                for one in [pool.submit(work) for _ in range(6)]: one.result()
        best = max(best, 6 * sum(SIZES) / (time.perf_counter() - began))
    return best
found = {f"{name}, {t} thread{'s' * (t > 1)}": rate(work, t)
         for name, work in (("copy", copy), ("join and seal", seal), ("hash", hash_))
         for t in (1, 2)}
found["page faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(json.dumps(found))
"""


def measure(mode: str) -> dict[str, float]:
    argv = [sys.executable, "-c", WORK, mode]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def rows() -> Iterator[Row]:
    plain, tuned = measure("plain"), measure("tuned")
    faults = plain.pop("page faults"), tuned.pop("page faults")
    for name, before in plain.items():
        after = tuned[name]
        measured, against = f"{after / 1e9:.2f} GB/s", f"untuned {before / 1e9:.2f} GB/s"
        yield Row(name, measured, against, f"{after / before:.2f}x", "", None)
    ratio = f"{faults[1] / faults[0]:.2f}x"
    yield Row("page faults", f"{faults[1]:.0f}", f"untuned {faults[0]:.0f}", ratio, "", None)
