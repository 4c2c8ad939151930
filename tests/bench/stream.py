"""stream: frames against the bare cipher, and two real processes joined by pipes.

The engine works from memory to memory on incompressible data; the bare work is ChaCha20-Poly1305
on the same buffers in the same process. `python -m tests.bench.stream` runs it alone.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from core import files, limits, process
from core.crypto import Buffer
from core.frames import Decryptor, Encryptor
from core.secret import Secret
from tests.bench.table import Row, best_s, show

KEY, NONCE = bytes(32), bytes(12)
GOAL = 0.70  # of the bare cipher, on the largest frames

PIPE_READ_BYTES = 64 * limits.KIB
FILE_BYTES = 1 * limits.GIB

PACED_BYTES = 64 * limits.KIB
PACED_BYTES_PER_S = 50_000_000
PACED_FRAMES = 1_500
PACED_TRIES = 3
P99_MS_MAX = 5.0


# --- memory to memory -----------------------------------------------------------------------------


def rate_row(what: str, took_s: float, bare_s: float, size: int, goal: float | None) -> Row:
    measured, against = (f"{size / s / 1e9:.2f} GB/s" for s in (took_s, bare_s))
    met = None if goal is None else bare_s / took_s >= goal
    text = "" if goal is None else f">= {goal:.0%}"
    return Row(what, measured, f"bare {against}", f"{bare_s / took_s:.0%}", text, met)


def each(work: Callable[[bytes], object], datas: Iterable[bytes]) -> None:
    """The results are dropped one by one, so that nobody pays for fresh memory."""
    for data in datas:
        work(data)


def engine_rows(size: int) -> Iterator[Row]:
    datas = [os.urandom(size) for _ in range(32 * limits.MIB // size)]
    done = size * len(datas)
    name = f"{size // limits.KIB} KiB frames"
    goal = GOAL if size == limits.MIB else None

    encryptor = Encryptor(Secret(KEY), chunk_bytes=size)
    encryptor.start()
    cipher = ChaCha20Poly1305(KEY)
    ours = best_s(lambda: each(encryptor.feed, datas), tries=9)
    bare = best_s(lambda: each(lambda data: cipher.encrypt(NONCE, data, b""), datas), tries=9)
    yield rate_row(f"encrypt {name}", ours, bare, done, goal)

    encryptor = Encryptor(Secret(KEY), chunk_bytes=size)
    frames = [b"".join(encryptor.start())]
    frames += [b"".join(encryptor.feed(data)) for data in datas]
    stream = memoryview(b"".join(frames))
    pieces = [stream[at : at + PIPE_READ_BYTES] for at in range(0, len(stream), PIPE_READ_BYTES)]
    sealed = [cipher.encrypt(NONCE, data, b"") for data in datas]
    bare = best_s(lambda: each(lambda one: cipher.decrypt(NONCE, one, b""), sealed), tries=9)

    def decrypt(parts: Iterable[Buffer]) -> None:
        decryptor = Decryptor(Secret(KEY))
        for part in parts:
            for _ in decryptor.receive_untrusted(part):
                pass

    ours = best_s(lambda: decrypt(frames), tries=9)
    yield rate_row(f"decrypt {name}", ours, bare, done, goal)
    ours = best_s(lambda: decrypt(pieces), tries=9)
    yield rate_row("... received 64 KiB at a time", ours, bare, done, None)


# --- processes ------------------------------------------------------------------------------------


def start(
    name: str, key: Path, *args: str, stdin: int | IO[bytes] | None, stdout: int
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "node.cli.warp", "stream", name, "-k", str(key), *args]
    return subprocess.Popen(argv, stdin=stdin, stdout=stdout)


def through(key: Path, file: IO[bytes], names: list[str]) -> float:
    """Seconds from the file through these commands, joined by pipes, to /dev/null."""
    file.seek(0)
    began = time.perf_counter()
    children: list[subprocess.Popen[bytes]] = []
    source: IO[bytes] | None = file
    for name in names:
        sink = subprocess.DEVNULL if name is names[-1] else subprocess.PIPE
        child = start(name, key, stdin=source, stdout=sink)
        if children and source:
            source.close()
        source = child.stdout
        children.append(child)
    if any(child.wait() for child in children):
        raise SystemExit("bench: a stream failed")
    return time.perf_counter() - began


def process_rows(key: Path) -> Iterator[Row]:
    with tempfile.TemporaryFile() as file:
        block = os.urandom(16 * limits.MIB)
        for _ in range(FILE_BYTES // len(block)):
            file.write(block)
        for names in (["encrypt"], ["encrypt", "decrypt"]):
            took = min(through(key, file, names) for _ in range(3))
            rate = f"{FILE_BYTES / took / 1e9:.2f} GB/s"
            what = " | ".join(f"warp stream {name}" for name in names)
            yield Row(f"1 GiB file | {what} > /dev/null", rate, "", "", "", None)


def paced_latencies_s(key: Path) -> list[float]:
    """Of every frame: from the beginning of its write to the end of its read."""
    one = start(
        "encrypt", key, "--chunk-size", "64K", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    two = start("decrypt", key, stdin=one.stdout, stdout=subprocess.PIPE)
    assert one.stdin
    assert one.stdout
    assert two.stdout
    one.stdout.close()
    into, out = one.stdin.fileno(), two.stdout.fileno()
    frame = os.urandom(PACED_BYTES)
    sent: list[float] = []

    def produce() -> None:
        began = time.perf_counter()
        for number in range(PACED_FRAMES):
            due = began + number * PACED_BYTES / PACED_BYTES_PER_S
            time.sleep(max(0.0, due - time.perf_counter()))
            sent.append(time.perf_counter())
            view = memoryview(frame)
            while view:
                view = view[os.write(into, view) :]

    def consume(frames: int) -> list[float]:
        arrived, got = list[float](), 0
        while len(arrived) < frames:
            part = os.read(out, PACED_BYTES)
            if not part:
                raise SystemExit("bench: a stream ended early")
            got += len(part)
            arrived += [time.perf_counter()] * (got // PACED_BYTES - len(arrived))
        return arrived

    os.write(into, frame)  # both are up when this one has passed
    consume(1)
    producer = threading.Thread(target=produce)
    producer.start()
    arrived = consume(PACED_FRAMES)
    producer.join()
    one.stdin.close()
    two.stdout.close()
    one.wait()
    two.wait()
    return [there - here for here, there in zip(sent, arrived, strict=True)]


def latency_row(key: Path) -> Row:
    """The least disturbed of several runs."""
    tries = []
    for _ in range(PACED_TRIES):
        cuts = statistics.quantiles(paced_latencies_s(key), n=100)
        tries.append((cuts[98] * 1e3, cuts[49] * 1e3))
    p99, p50 = min(tries)
    return Row(
        "64 KiB frames at 50 MB/s through encrypt | decrypt",
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms",
        f"best of {PACED_TRIES} runs",
        "",
        f"p99 < {P99_MS_MAX:.0f} ms",
        p99 < P99_MS_MAX,
    )


def rows() -> Iterator[Row]:
    for size in limits.STREAM_CHUNK_SIZES_BYTES:
        yield from engine_rows(size)
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder, "key")
        files.write_private(key, os.urandom(limits.KEY_BYTES))
        yield from process_rows(key)
        yield latency_row(key)


if __name__ == "__main__":
    process.keep_freed_buffers()
    show(__doc__.splitlines()[0], rows())
