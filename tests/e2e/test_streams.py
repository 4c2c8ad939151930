"""`warp stream` as people use it: processes joined by pipes."""

import os
import random
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import files, limits
from core.frames import HEADER_BYTES, Encryptor
from core.secret import Secret
from tests.support.pipes import HANG_S, becomes, beside, capacity, drain, fill_until_it_blocks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
RAW_KEY = random.Random(1).randbytes(32)
FULL = Path("/dev/full")
CHUNK = limits.STREAM_CHUNK_SIZES_BYTES[0]
NOISE = random.Random(2).randbytes(40 * CHUNK + 7)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    files.write_private(path, RAW_KEY)
    return path


def sealed(data, key=RAW_KEY):
    engine = Encryptor(Secret(key), chunk_bytes=CHUNK)
    return b"".join([*engine.start(), *engine.feed(data), *engine.finish()])


def start(name, key, *args, **options):
    argv = [sys.executable, "-m", "node.cli.warp", "stream", name, "--key-file", key, *args]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, cwd=ROOT, **(pipes | options))


def finish(child, data=None):
    out, err = child.communicate(data, timeout=HANG_S)
    return child.returncode, out, err.decode()


@contextmanager
def chain(key, *args):
    """`warp stream encrypt | warp stream decrypt`: the way in, the way out, both processes."""
    one = start("encrypt", key, *args)
    two = start("decrypt", key, stdin=one.stdout)
    one.stdout.close()
    try:
        yield one.stdin, two.stdout, (one, two)
    finally:
        for child in (one, two):
            child.kill()
            child.wait()
            for file in (child.stdin, child.stderr, child.stdout):
                if file:
                    file.close()


def test_two_processes_carry_a_file(key_file):
    with chain(key_file, "--chunk-size", "256K") as (into, out, children):
        got = []
        with beside(drain, out.fileno(), got):
            into.write(NOISE)
            into.close()
        assert b"".join(got) == NOISE
        assert [child.wait(HANG_S) for child in children] == [0, 0]
        assert [child.stderr.read() for child in children] == [b"", b""]


def test_an_interval_carries_what_there_is_through_two_processes(key_file):
    with chain(key_file, "--interval", "10ms") as (into, out, _):
        for line in (b"one\n", b"two\n"):
            os.write(into.fileno(), line)
            assert becomes(out.fileno(), select.POLLIN)
            assert os.read(out.fileno(), 100) == line


def test_two_processes_with_a_slow_reader_hold_a_few_buffers_only(key_file):
    with chain(key_file, "--chunk-size", "64K") as (into, out, _):
        os.write(into.fileno(), NOISE[:CHUNK])  # they are up when the first frame has passed
        got = b""
        while len(got) < CHUNK:
            got += os.read(out.fileno(), CHUNK - len(got))
        # Three pipes; in each process three buffers and a batch; the frame that is not whole yet.
        pipes = capacity(into.fileno()) + 2 * capacity(out.fileno())
        buffers = limits.STREAM_BUFFERS + 1
        bound = pipes + buffers * (CHUNK + limits.STREAM_CHUNK_SIZES_BYTES[-1]) + CHUNK
        taken = fill_until_it_blocks(into.fileno(), NOISE, 4 * bound)
        assert capacity(into.fileno()) <= taken <= bound
        into.close()
        got = out.read()
        assert len(got) == taken
        assert got == (NOISE * 2)[:taken]


@pytest.mark.parametrize(
    ("stream", "code", "line"),
    [
        (sealed(b"text", key=bytes(32)), 12, "warp: stdin: this key does not open the stream\n"),
        (b"hello", 1, "warp: stdin: this is not an encrypted stream"),
        (sealed(b"text") + b"\n", 1, "warp: stdin: something follows the end of the stream"),
        (b"PTWS\x02" + bytes(90), 13, "warp: stdin: a stream of version 2"),
    ],
    ids=["other key", "no stream", "trailing", "newer"],
)
def test_a_failure_is_one_line_and_a_code(key_file, stream, code, line):
    exit_code, _, err = finish(start("decrypt", key_file), stream)
    assert exit_code == code
    assert err.startswith(line)
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["encrypt", "decrypt"])
def test_a_reader_that_goes_away_is_no_error(key_file, name):
    data = NOISE if name == "encrypt" else sealed(NOISE)
    child = start(name, key_file)
    with beside(ignoring_broken_pipes, child.stdin, data):
        os.read(child.stdout.fileno(), 10)
        child.stdout.close()
    assert child.wait(HANG_S) == 0
    assert child.stderr.read() == b""
    child.stderr.close()


def ignoring_broken_pipes(file, data):
    try:
        file.write(data)
        file.close()
    except BrokenPipeError:
        file.raw.close()


@pytest.mark.parametrize("blocked", ["reading", "writing"])
def test_an_interrupt_ends_it_wherever_it_waits(key_file, blocked):
    child = start("encrypt", key_file, "--chunk-size", "64K")
    assert os.read(child.stdout.fileno(), HEADER_BYTES)  # it is up
    if blocked == "writing":
        fill_until_it_blocks(child.stdin.fileno(), NOISE, len(NOISE))
    child.send_signal(signal.SIGINT)
    assert child.wait(HANG_S) == 130
    assert child.stderr.read() == b"warp: interrupted\n"
    for file in (child.stdin, child.stdout, child.stderr):
        file.close()


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_a_full_disk_has_a_code_of_its_own(key_file):
    with FULL.open("wb") as full:
        child = start("encrypt", key_file, stdout=full)
        code, _, err = finish(child, NOISE)
    assert (code, err) == (14, "warp: No space left on device\n")
