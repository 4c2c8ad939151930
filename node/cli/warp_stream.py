"""`warp stream`: seal or open what passes from stdin to stdout, with the memory of a few buffers.

    reader thread --filled--> worker thread --ready--> writer (the main thread)
          ^------ free -----------'   ^----- room -------'

Three read buffers go round, and one batch at a time is on its way out: whoever is slow, stdin's
producer waits in the end and nothing piles up. The writer runs in the main thread, because Ctrl-C
interrupts what blocks there; the reader waits for stdin together with a pipe that wakes it; the
worker waits for the other two only. So whichever of them ends, all end, and are joined.
"""

import math
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import click

from core import limits
from core.errors import FormatError, IntegrityError, KeystoreError, UsageError, WrongKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from core.crypto import Buffer
    from core.frames import Decryptor, Encryptor
    from core.secret import Secret

    Batch = list[Buffer]
    Inputs = Iterator[tuple[memoryview, bool]]  # what was read, and whether it was the last

STDIN, STDOUT = 0, 1

_CHUNKS = {
    f"{size // limits.KIB}K" if size < limits.MIB else f"{size // limits.MIB}M": size
    for size in limits.STREAM_CHUNK_SIZES_BYTES
}
_INTERVALS_S = {"10ms": 0.01, "100ms": 0.1}
_GATHER_S = 0.001  # what arrives fast is opened together; nothing waits longer for that
_BUFFERS_PER_WRITE = os.sysconf("SC_IOV_MAX")


# --- three buffers in a ring ----------------------------------------------------------------------


@dataclass(slots=True)
class _Buffer:
    memory: memoryview
    used: int = 0
    last: bool = False


class Pump:
    """Carries bytes from one file descriptor through a transformation to another.

    A buffer is handed on when it is full, when `patience_s` have passed since its first byte (None:
    never), or, if `eager`, as soon as nothing more is waiting.
    """

    def __init__(
        self,
        source: int,
        sink: int,
        *,
        buffer_bytes: int,
        patience_s: float | None = None,
        eager: bool = False,
    ) -> None:
        self._source, self._sink = source, sink
        self._patience_s, self._eager = patience_s, eager
        self._free = SimpleQueue[_Buffer | None]()
        self._filled = SimpleQueue[_Buffer | None]()
        self._ready = SimpleQueue["Batch | None"]()
        self._room = SimpleQueue[bool]()
        for _ in range(limits.STREAM_BUFFERS):
            self._free.put(_Buffer(memoryview(bytearray(buffer_bytes))))
        self._room.put(True)
        self._wake = -1  # readable when all should end

    def run(self, transform: "Callable[[Inputs], Iterator[Batch]]") -> None:
        """Until the source ends, a part fails, or Ctrl-C; what was ready is written either way."""
        from concurrent.futures import ThreadPoolExecutor

        self._wake, stop = os.pipe()
        try:
            with ThreadPoolExecutor(2, initializer=_leave_signals_to_main) as threads:
                try:
                    reading = threads.submit(self._read)
                    working = threads.submit(self._work, transform)
                    while (batch := self._ready.get()) is not None:
                        write_all(self._sink, batch)
                        self._room.put(True)
                finally:
                    os.close(stop)
                    self._free.put(None)
                    self._room.put(False)
        finally:
            os.close(self._wake)
        working.result()
        reading.result()

    def _read(self) -> None:
        try:
            while (buffer := self._free.get()) is not None and self._fill(buffer):
                self._filled.put(buffer)
                if buffer.last:
                    return
        finally:
            self._filled.put(None)

    def _fill(self, buffer: _Buffer) -> bool:
        """Read what makes this buffer ready to be handed on; False when all should end."""
        waiting = select.poll()
        waiting.register(self._source, select.POLLIN)
        waiting.register(self._wake, select.POLLIN)
        buffer.used, until = 0, math.inf
        while buffer.used < len(buffer.memory):
            left_s = until - time.monotonic()
            if left_s <= 0:  # also while more keeps coming
                return True
            if buffer.used and self._eager:
                left_s = 0
            ready = {fd for fd, _ in waiting.poll(None if left_s == math.inf else left_s * 1000)}
            if self._wake in ready:
                return False
            if not ready:
                return True
            try:
                got = os.readv(self._source, [buffer.memory[buffer.used :]])
            except BlockingIOError:  # somebody made the shared stdin non-blocking
                continue
            if not got:
                buffer.last = True
                return True
            if not buffer.used and self._patience_s is not None:
                until = time.monotonic() + self._patience_s
            buffer.used += got
        return True

    def _work(self, transform: "Callable[[Inputs], Iterator[Batch]]") -> None:
        try:
            for batch in transform(self._inputs()):
                if batch:
                    if not self._room.get():
                        return
                    self._ready.put(batch)
        finally:
            self._ready.put(None)

    def _inputs(self) -> "Inputs":
        while (buffer := self._filled.get()) is not None:
            yield buffer.memory[: buffer.used], buffer.last
            self._free.put(buffer)


def _leave_signals_to_main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def write_all(sink: int, batch: "Batch") -> None:
    """Write every buffer, however little the sink takes at a time."""
    views = [memoryview(buffer) for buffer in batch]
    at = 0
    while at < len(views):
        try:
            written = os.writev(sink, views[at : at + _BUFFERS_PER_WRITE])
        except BlockingIOError:  # somebody made the shared stdout non-blocking
            waiting = select.poll()
            waiting.register(sink, select.POLLOUT)
            waiting.poll()
            continue
        while at < len(views) and written >= len(views[at]):
            written -= len(views[at])
            at += 1
        if written:
            views[at] = views[at][written:]


# --- what is done on the way ----------------------------------------------------------------------


def sealing(encryptor: "Encryptor", inputs: "Inputs") -> "Iterator[Batch]":
    """A stream around all that comes; a buffer handed on before it was full is a short frame."""
    yield encryptor.start()
    for data, last in inputs:
        yield encryptor.feed(data) + (encryptor.finish() if last else encryptor.flush())


def opening(decryptor: "Decryptor", inputs: "Inputs", batch_bytes: int) -> "Iterator[Batch]":
    """The plaintext of verified frames, also of those just before the one that is refused."""
    batch: Batch = []
    size = 0
    try:
        for data, last in inputs:
            for plain in decryptor.receive_untrusted(data):
                batch.append(plain)
                size += len(plain)
                if size >= batch_bytes:
                    yield batch
                    batch, size = [], 0
            yield batch
            batch, size = [], 0
            if last:
                decryptor.eof()
    except (FormatError, IntegrityError):
        yield batch
        raise


def load_key(path: Path) -> "Secret":
    """The 32 bytes of a key file: as they are, or as 64 hex digits."""
    from core.files import read_private
    from core.secret import Secret

    data = read_private(path, limits.KEY_FILE_BYTES_MAX, "the key file")
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        key = data
    else:
        # Random bytes are never all text, so 32 letters are a word or half of a key.
        key = _unhexed(text) if text.isprintable() else data
    if len(key) != limits.KEY_BYTES:
        raise FormatError(
            "holds no key: 32 random bytes or 64 hex digits are needed",
            where=str(path),
            hint="warp stream keygen -o FILE makes one",
        )
    return Secret(key)


def _unhexed(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


# --- commands -------------------------------------------------------------------------------------


@click.group()
def stream() -> None:
    """Encrypt and decrypt anything that passes through a pipe."""


_key_option = click.option(
    "-k",
    "--key-file",
    "key_file",
    type=click.Path(path_type=Path),
    required=True,
    help="32 random bytes or 64 hex digits, readable by you alone; see keygen.",
)


@stream.command()
@_key_option
@click.option(
    "--compression",
    type=click.Choice(["none", "lz4", "zstd"]),
    default="none",
    show_default=True,
    help="Smaller, but the sizes of frames then tell something about what is in them.",
)
@click.option(
    "--chunk-size",
    type=click.Choice(list(_CHUNKS)),
    default="1M",
    show_default=True,
    help="How much one frame seals.",
)
@click.option(
    "--interval",
    type=click.Choice(list(_INTERVALS_S)),
    help="Send what came after so long, even if it is less; otherwise wait for a full chunk.",
)
def encrypt(key_file: Path, compression: str, chunk_size: str, interval: str | None) -> None:
    """Seal stdin to stdout."""
    from core.frames import Compression, Encryptor

    key = _prepare(key_file)
    if os.isatty(STDOUT):
        raise UsageError("stdout is a terminal", hint="write to a file or a pipe: > FILE")
    chunk_bytes = _CHUNKS[chunk_size]
    encryptor = Encryptor(key, chunk_bytes=chunk_bytes, compression=Compression(compression))
    patience_s = _INTERVALS_S[interval] if interval else None
    pump = Pump(STDIN, STDOUT, buffer_bytes=chunk_bytes, patience_s=patience_s)
    pump.run(lambda inputs: sealing(encryptor, inputs))


@stream.command()
@_key_option
def decrypt(key_file: Path) -> None:
    """Open stdin to stdout.

    Every frame is verified before its bytes are written. A stream that was changed, cut short,
    reordered, repeated, joined or continued ends with an error at the first wrong frame; what was
    written until then is right, but only the beginning.
    """
    from core.frames import Decryptor

    decryptor = Decryptor(_prepare(key_file))
    buffer_bytes = limits.STREAM_CHUNK_SIZES_BYTES[-1]
    pump = Pump(STDIN, STDOUT, buffer_bytes=buffer_bytes, patience_s=_GATHER_S, eager=True)
    try:
        pump.run(lambda inputs: opening(decryptor, inputs, buffer_bytes))
    except WrongKey as e:
        raise e.at("stdin") from None
    except (FormatError, IntegrityError) as e:
        e.hint = "what was written, if anything, is only the beginning"
        raise e.at("stdin") from None


@stream.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The file to make; one that exists is never overwritten.",
)
def keygen(output: Path) -> None:
    """Make a key file: 64 hex digits, readable by you alone.

    Keep a copy in a safe place: without it nobody opens the streams sealed with it.
    """
    from core.crypto import system_entropy
    from core.files import PRIVATE_MODE, write_private

    try:  # taking the name first: of two that make one key file, one is told
        os.close(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE))
    except FileExistsError as e:
        raise KeystoreError("exists; a key is never overwritten", where=str(output)) from e
    try:
        write_private(output, system_entropy(limits.KEY_BYTES).hex().encode() + b"\n")
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def _prepare(key_file: Path) -> "Secret":
    """The key, in a process that neither dumps it nor wastes time on fresh pages."""
    from core import process

    for fd, name in ((STDIN, "stdin"), (STDOUT, "stdout")):
        try:  # before a file of ours takes the free number
            os.fstat(fd)
        except OSError as e:
            raise UsageError(f"{name} is closed") from e
    process.forbid_core_dumps()
    process.keep_freed_buffers()
    return load_key(key_file)
