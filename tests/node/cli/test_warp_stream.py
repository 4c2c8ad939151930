import os
import random
import select
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core import files, limits, process
from core.errors import (
    FormatError,
    IntegrityError,
    KeystoreError,
    LimitExceeded,
    UsageError,
    WrongKey,
)
from core.frames import FRAME_OVERHEAD_BYTES, HEADER_BYTES, Compression, Decryptor, Encryptor
from core.secret import Secret
from node.cli import warp_stream
from node.cli.warp_stream import Pump, load_key, opening, sealing, write_all
from tests.support.pipes import (
    becomes,
    beside,
    capacity,
    close,
    drain,
    feed,
    fill_until_it_blocks,
    pipe,
)

ROOT = Path(__file__).parent.parent.parent.parent
RAW_KEY = random.Random(1).randbytes(32)
CHUNK = limits.STREAM_CHUNK_SIZES_BYTES[0]
NOISE = random.Random(2).randbytes(40 * CHUNK + 7)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    files.write_private(path, RAW_KEY)
    return path


def sealed(data, key=RAW_KEY, **options):
    engine = Encryptor(Secret(key), **({"chunk_bytes": CHUNK} | options))
    return b"".join([*engine.start(), *engine.feed(data), *engine.finish()])


def opened(stream):
    engine = Decryptor(Secret(RAW_KEY))
    plain = b"".join(engine.receive_untrusted(stream))
    engine.eof()
    return plain


# --- the pump -------------------------------------------------------------------------------------


def pumped(data, transform, *, step=1 << 20, **options):
    """What comes out when `data` go in, in writes of `step` bytes."""
    out = []
    with pipe() as source, pipe() as sink, beside(drain, sink[0], out):
        try:
            with beside(feed, source, data, step):
                pump = Pump(source[0], sink[1], **({"buffer_bytes": CHUNK} | options))
                pump.run(transform)
        finally:
            close(sink, 1)
    return b"".join(out)


def unchanged(inputs):
    for data, _ in inputs:
        yield [bytes(data)]


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 3])
@pytest.mark.parametrize("step", [1 << 20, 999])
def test_all_bytes_pass_in_order(size, step, eager):
    assert pumped(NOISE[:size], unchanged, step=step, eager=eager) == NOISE[:size]


def test_buffers_are_full_unless_told_otherwise():
    sizes = []

    def noting(inputs):
        for data, last in inputs:
            sizes.append((len(data), last))
            yield [bytes(data)]

    pumped(NOISE[: 3 * CHUNK + 5], noting, step=1000)
    assert sizes == [(CHUNK, False)] * 3 + [(5, True)]


def test_the_same_three_buffers_go_round():
    seen = []

    def noting(inputs):
        for data, _ in inputs:
            seen.append(data.obj)
            yield []

    pumped(NOISE, noting)
    assert len(seen) > 40
    assert len({id(buffer) for buffer in seen}) <= limits.STREAM_BUFFERS == 3


def test_an_interrupt_is_left_to_the_main_thread():
    def asking(inputs):
        list(inputs)
        yield [b"blocked" if signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()) else b""]

    assert pumped(b"", asking) == b"blocked"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("options", [{"eager": True}, {"patience_s": 0.01}])
def test_what_came_goes_out_although_more_may_come(options):
    with pipe() as source, pipe() as sink:
        pump = Pump(source[0], sink[1], buffer_bytes=CHUNK, **options)
        with beside(pump.run, unchanged):
            try:
                for piece in (b"one", b"two"):
                    os.write(source[1], piece)
                    assert becomes(sink[0], select.POLLIN)
                    assert os.read(sink[0], 100) == piece
            finally:
                close(source, 1)


def test_patience_ends_also_while_more_keeps_coming():
    sent = threading.Event()

    def trickle(fd):
        while not sent.is_set():
            os.write(fd, b"x")

    with pipe() as source, pipe() as sink:
        pump = Pump(source[0], sink[1], buffer_bytes=limits.MIB, patience_s=0.01)
        with beside(pump.run, unchanged):
            try:
                with beside(trickle, source[1]):
                    assert becomes(sink[0], select.POLLIN)
                    first = os.read(sink[0], 2 * limits.MIB)
                    sent.set()
                assert 0 < len(first) < limits.MIB
            finally:
                sent.set()
                close(source, 1)


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
def test_a_slow_reader_slows_the_producer_and_nothing_is_lost(eager):
    with pipe() as source, pipe() as sink:
        # Three buffers, and the batch that is being written.
        bound = capacity(source[1]) + (limits.STREAM_BUFFERS + 1) * CHUNK + capacity(sink[1])
        pump = Pump(source[0], sink[1], buffer_bytes=CHUNK, eager=eager)
        with beside(pump.run, unchanged):
            try:
                taken = fill_until_it_blocks(source[1], NOISE, 4 * bound)
                assert capacity(source[1]) <= taken <= bound
                close(source, 1)
                got = b""
                while len(got) < taken:
                    got += os.read(sink[0], taken)
                assert got == NOISE[:taken]
            finally:
                close(sink, 0)


def test_a_reader_that_goes_away_ends_it_although_the_source_is_silent():
    with pipe() as source, pipe() as sink:
        close(sink, 0)
        os.write(source[1], b"x")
        with pytest.raises(BrokenPipeError):
            Pump(source[0], sink[1], buffer_bytes=CHUNK, eager=True).run(unchanged)


def test_a_failing_transformation_ends_it_after_what_was_ready():
    def failing(inputs):
        data, _ = next(inputs)
        yield [bytes(data)]
        raise IntegrityError("found out")

    with pipe() as source, pipe() as sink:
        os.write(source[1], b"x")
        with pytest.raises(IntegrityError, match="found out"):
            Pump(source[0], sink[1], buffer_bytes=CHUNK, eager=True).run(failing)
        assert os.read(sink[0], 10) == b"x"


def test_a_source_that_cannot_be_read_is_an_error_and_no_end(tmp_path):
    ends = []

    def noting(inputs):
        for _, last in inputs:
            ends.append(last)
            yield []

    source = os.open(tmp_path, os.O_RDONLY)
    with pipe() as sink, pytest.raises(IsADirectoryError):
        Pump(source, sink[1], buffer_bytes=CHUNK).run(noting)
    os.close(source)
    assert not ends


def test_a_stop_reaches_a_worker_that_waits_for_room():
    def endless(inputs):
        next(inputs)
        while True:
            yield [NOISE]

    with pipe() as source, pipe() as sink:
        os.write(source[1], b"x")

        def leave():
            os.read(sink[0], 10)
            close(sink, 0)

        pump = Pump(source[0], sink[1], buffer_bytes=CHUNK, eager=True)
        with beside(leave), pytest.raises(BrokenPipeError):
            pump.run(endless)


@pytest.mark.parametrize("blocking", [True, False])
def test_everything_is_written_however_little_is_taken(blocking):
    pieces = [NOISE[n : n + n % 90] for n in range(5_000)] + [b"", NOISE, b""]
    out = []
    with pipe() as ends, beside(drain, ends[0], out):
        os.set_blocking(ends[1], blocking)
        write_all(ends[1], pieces)
        write_all(ends[1], [])
        close(ends, 1)
    assert b"".join(out) == b"".join(pieces)


def test_a_source_that_somebody_made_non_blocking_is_waited_for():
    out = []
    with pipe() as source, pipe() as sink, beside(drain, sink[0], out):
        os.set_blocking(source[0], False)
        with beside(feed, source, NOISE, 5_000):
            Pump(source[0], sink[1], buffer_bytes=CHUNK).run(unchanged)
        close(sink, 1)
    assert b"".join(out) == NOISE


# --- sealing and opening --------------------------------------------------------------------------


def test_a_short_buffer_becomes_a_frame_of_its_own():
    engine = Encryptor(Secret(RAW_KEY), chunk_bytes=CHUNK)
    inputs = [(b"ab", False), (NOISE[:CHUNK], False), (b"c", True)]
    batches = list(sealing(engine, (pair for pair in inputs)))
    sizes = [len(b"".join(batch)) for batch in batches]
    frames = [2, CHUNK, 1]
    assert sizes == [HEADER_BYTES, *(size + FRAME_OVERHEAD_BYTES for size in frames)]
    assert opened(b"".join(map(b"".join, batches))) == b"ab" + NOISE[:CHUNK] + b"c"


def test_what_expands_is_written_in_batches_and_never_held_at_once():
    data = bytes(50 * CHUNK)
    stream = sealed(data, compression=Compression.ZSTD)
    assert len(stream) < CHUNK
    batches = opening(Decryptor(Secret(RAW_KEY)), iter([(memoryview(stream), True)]), 2 * CHUNK)
    sizes = [sum(map(len, batch)) for batch in batches]
    assert sum(sizes) == len(data)
    assert max(sizes) <= 3 * CHUNK


def test_frames_before_the_damage_come_out_and_nothing_else():
    stream = bytearray(sealed(NOISE[: 4 * CHUNK]))
    stream[HEADER_BYTES + 3 * (CHUNK + FRAME_OVERHEAD_BYTES) + 20] ^= 1
    batches = opening(Decryptor(Secret(RAW_KEY)), iter([(memoryview(stream), True)]), 2 * CHUNK)
    out = []
    with pytest.raises(IntegrityError, match="frame 3 was changed"):
        for batch in batches:
            out += batch
    assert b"".join(out) == NOISE[: 3 * CHUNK]


# --- key files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [RAW_KEY, RAW_KEY.hex().encode(), RAW_KEY.hex().upper().encode() + b"\n"],
    ids=["raw", "hex", "hex line"],
)
def test_a_key_file_holds_bytes_or_digits(tmp_path, content):
    path = tmp_path / "key"
    files.write_private(path, content)
    assert load_key(path).reveal() == RAW_KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601])
def test_a_key_that_others_can_read_is_refused(key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(KeystoreError) as caught:
        load_key(key_file)
    assert f"chmod 600 {key_file}" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        RAW_KEY[:-1],
        RAW_KEY + b"\n",
        RAW_KEY.hex().encode()[:-1],
        RAW_KEY.hex().encode() + b"0",
        RAW_KEY.hex().encode()[:32],
        b"a passphrase of 32 letters it is",
        b"g" * 64,
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path, content):
    path = tmp_path / "key"
    files.write_private(path, content)
    with pytest.raises(FormatError) as caught:
        load_key(path)
    assert "keygen" in str(caught.value)
    assert not content or content[:8].decode("latin-1") not in str(caught.value)


def test_a_key_file_is_a_small_regular_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_key(tmp_path / "none")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(FormatError):
        load_key(tmp_path / "fifo")
    files.write_private(tmp_path / "large", bytes(limits.KEY_FILE_BYTES_MAX + 1))
    with pytest.raises(LimitExceeded):
        load_key(tmp_path / "large")


# --- commands, in this process --------------------------------------------------------------------


def command(*args):
    return warp_stream.stream.main([str(arg) for arg in args], standalone_mode=False)


@pytest.fixture
def through(monkeypatch, key_file):
    """Run a command with its stdin and stdout as pipes; what it wrote, also before an error."""
    monkeypatch.setattr(process, "forbid_core_dumps", lambda: None)  # would last for this process

    def run(name, data, *args):
        out = []
        with pipe() as source, pipe() as sink:
            monkeypatch.setattr(warp_stream, "STDIN", source[0])
            monkeypatch.setattr(warp_stream, "STDOUT", sink[1])
            error = None
            with beside(drain, sink[0], out):
                try:
                    with beside(feed, source, data, CHUNK):
                        command(name, "--key-file", key_file, *args)
                except (FormatError, IntegrityError) as e:
                    error = e
                finally:
                    close(sink, 1)
        return b"".join(out), error

    return run


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--compression", "lz4", "--chunk-size", "64K"),
        ("--compression", "zstd", "--chunk-size", "256K", "--interval", "10ms"),
        ("--compression", "none", "--chunk-size", "1M", "--interval", "100ms"),
    ],
)
@pytest.mark.parametrize("data", [b"", b"hello\n", NOISE[: 3 * CHUNK + 7]], ids=len)
def test_what_encrypt_wrote_decrypt_reads(through, data, options):
    stream, error = through("encrypt", data, *options)
    assert error is None
    assert stream[:4] == b"PTWS"
    assert through("decrypt", stream) == (data, None)


@pytest.mark.parametrize("name", ["64K", "256K", "1M"])
def test_the_chunk_size_is_what_was_asked_for(through, name):
    size = {"64K": 1 << 16, "256K": 1 << 18, "1M": 1 << 20}[name]
    stream, _ = through("encrypt", NOISE[: size + 1], "--chunk-size", name)
    assert 1 << stream[6] == size
    assert len(stream) == HEADER_BYTES + size + 1 + 2 * FRAME_OVERHEAD_BYTES


def test_compression_is_off_unless_asked_for(through):
    data = bytes(CHUNK)
    assert len(through("encrypt", data)[0]) > CHUNK
    for name in ("lz4", "zstd"):
        assert len(through("encrypt", data, "--compression", name)[0]) < CHUNK // 50


def test_a_wrong_key_gives_nothing(through):
    out, error = through("decrypt", sealed(b"text", key=bytes(32)))
    assert (out, type(error)) == (b"", WrongKey)
    assert str(error) == "stdin: this key does not open the stream"


def test_a_cut_stream_gives_its_beginning_and_says_so(through):
    stream = sealed(NOISE[: 4 * CHUNK])
    out, error = through("decrypt", stream[: -2 * CHUNK])
    assert out == NOISE[: 2 * CHUNK]
    assert str(error) == (
        "stdin: the stream is cut short: it ends inside frame 2, without a final frame"
        " (what was written, if anything, is only the beginning)"
    )


def test_keygen_makes_a_private_key_that_works(tmp_path, through, key_file):
    path = tmp_path / "new"
    command("keygen", "-o", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(bytes.fromhex(path.read_text())) == 32
    key = load_key(path).reveal()
    command("keygen", "-o", tmp_path / "another")
    assert load_key(tmp_path / "another").reveal() != key
    key_file.unlink()
    path.rename(key_file)
    assert through("decrypt", through("encrypt", b"text")[0]) == (b"text", None)


def test_keygen_overwrites_nothing(tmp_path, key_file):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (key_file, tmp_path / "link", tmp_path):
        with pytest.raises(KeystoreError, match="never overwritten"):
            command("keygen", "-o", path)
    assert key_file.read_bytes() == RAW_KEY
    assert not (tmp_path / "nowhere").exists()


def test_keygen_leaves_nothing_when_it_fails(tmp_path, monkeypatch):
    def fails(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_private", fails)
    with pytest.raises(OSError, match="No space"):
        command("keygen", "-o", tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


def test_sealed_bytes_are_not_thrown_at_a_terminal(through, monkeypatch):
    monkeypatch.setattr(os, "isatty", lambda fd: fd == warp_stream.STDOUT)
    with pytest.raises(UsageError, match="terminal"):
        through("encrypt", b"")
    assert through("decrypt", sealed(b"text")) == (b"text", None)


def test_closed_ends_are_refused_before_other_files_take_their_numbers(key_file, monkeypatch):
    with pipe() as ends:
        for name in ("STDIN", "STDOUT"):
            monkeypatch.setattr(warp_stream, "STDIN", ends[0])
            monkeypatch.setattr(warp_stream, "STDOUT", ends[1])
            monkeypatch.setattr(warp_stream, name, 1 << 20)
            with pytest.raises(UsageError, match=f"{name.lower()} is closed"):
                command("decrypt", "-k", key_file)


def test_help_wakes_nothing_heavy():
    code = "import sys; from node.cli import warp; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.decode().split()}
    assert (
        loaded & {"blake3", "cryptography", "lz4", "msgpack", "nacl", "trio", "zstandard"} == set()
    )
