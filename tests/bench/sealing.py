"""sealing: chunks into a pack and back, against the bare primitives on the same buffers.

Incompressible chunks, so that what is measured is ours: tag, sample, frame, nonce, seal, pack. The
bare work is one ChaCha20-Poly1305 and two BLAKE3 passes. `python -m tests.bench.sealing` runs it
alone.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from core import compress, limits, pack, process, seal
from core.pieces import Bundler, Chunk, Kind
from core.secret import Secret
from tests.bench.table import Row, best_s, show

KEY, NONCE, AAD = bytes(32), bytes(12), b"portal chunk 2"
KEYS = pack.PackKeys(Secret(bytes(32)), Secret(bytes(32)))
PACK_BYTES = limits.PACK_SIZES_BYTES[-1]
GOAL = 0.60


def buffers(size: int) -> list[bytes]:
    """As many as a pack takes."""
    return [os.urandom(size) for _ in range((PACK_BYTES - limits.KIB) // (size + limits.KIB))]


def bare_seal(data: bytes) -> bytes:
    blake3(data, key=KEY).digest()
    blake3(data, key=KEY).digest()
    return ChaCha20Poly1305(KEY).encrypt(NONCE, data, AAD)


def bare_open(sealed: bytes) -> None:
    data = ChaCha20Poly1305(KEY).decrypt(NONCE, sealed, AAD)
    blake3(data, key=KEY).digest()
    blake3(data, key=KEY).digest()


def prepare(data: bytes) -> seal.Frame:
    return seal.prepare(Chunk.of_piece(Kind.CUT, data))


def seal_all(datas: list[bytes], buffer: bytearray) -> None:
    writer = pack.PackWriter(KEYS, buffer=buffer)
    for data in datas:
        writer.add(prepare(data))


def whole_pack(datas: list[bytes], buffer: bytearray | None = None) -> pack.Pack:
    writer = pack.PackWriter(KEYS, buffer=buffer)
    for data in datas:
        writer.add(prepare(data))
    return writer.finish()


def on_two_threads(datas: list[bytes], buffer: bytearray, pool: ThreadPoolExecutor) -> None:
    writer = pack.PackWriter(KEYS, buffer=buffer)
    slots = [writer.reserve(frame) for frame in pool.map(prepare, datas)]
    list(pool.map(pack.Slot.seal, slots))
    writer.finish()


def rate_row(what: str, took_s: float, bare_s: float, done_bytes: int, goal: float | None) -> Row:
    measured, against = (f"{done_bytes / s / 1e9:.2f} GB/s" for s in (took_s, bare_s))
    met = None if goal is None else bare_s / took_s >= goal
    text = "" if goal is None else f">= {goal:.0%}"
    return Row(what, measured, f"bare {against}", f"{bare_s / took_s:.0%}", text, met)


def seal_rows(size: int) -> Iterator[Row]:
    datas = buffers(size)
    done = size * len(datas)
    bare = best_s(lambda: [bare_seal(data) for data in datas])
    name = f"{size // limits.KIB} KiB chunks"
    goal = GOAL if size >= limits.MIB else None
    buffer = bytearray(PACK_BYTES)
    yield rate_row(f"seal {name}", best_s(lambda: seal_all(datas, buffer)), bare, done, goal)
    ours = best_s(lambda: whole_pack(datas, buffer))
    yield rate_row(f"whole pack of {name}", ours, bare, done, None)
    with ThreadPoolExecutor(2) as pool:
        bare = best_s(lambda: list(pool.map(bare_seal, datas)))
        ours = best_s(lambda: on_two_threads(datas, buffer, pool))
    yield rate_row(f"whole pack of {name}, 2 threads", ours, bare, done, None)


def open_rows(size: int) -> Iterator[Row]:
    datas = buffers(size)
    done = whole_pack(datas)
    sealed = [ChaCha20Poly1305(KEY).encrypt(NONCE, data, AAD) for data in datas]
    reader = pack.PackReader.open_untrusted(pack.reader_of(done.data), len(done.data), KEYS)
    numbers = range(len(datas))
    ours = best_s(lambda: [reader.chunk_untrusted(n) for n in numbers])
    bare = best_s(lambda: list(map(bare_open, sealed)))
    name = f"open {size // limits.KIB} KiB chunks"
    yield rate_row(name, ours, bare, size * len(datas), None)


def small_file_rows() -> Iterator[Row]:
    files = [os.urandom(400) for _ in range(20_000)]

    def work() -> pack.Pack:
        writer, bundler = pack.PackWriter(KEYS), Bundler()
        for data in files:
            if not bundler.fits(len(data)):
                add(writer, bundler)
            bundler.add(Kind.SMALL_FILE, data)
        add(writer, bundler)
        return writer.finish()

    def add(writer: pack.PackWriter, bundler: Bundler) -> None:
        if chunk := bundler.take():
            writer.add(seal.prepare(chunk))

    def per_file(what: str, run: Callable[[], object]) -> Row:
        return Row(what, f"{best_s(run) / len(files) * 1e6:.2f} us each", "", "", "", None)

    done = work()

    def read() -> None:
        reader = pack.PackReader.open_untrusted(pack.reader_of(done.data), len(done.data), KEYS)
        assert sum(1 for _ in reader.index.all_pieces()) == len(files)

    yield per_file("20,000 files of 400 bytes into a pack", work)
    yield per_file("their index opened and walked", read)


def sample_rows() -> Iterator[Row]:
    data = os.urandom(limits.MIB)
    took = best_s(lambda: compress.sample_entropy_mbits(data))
    yield Row("entropy of a sample", f"{took * 1e6:.0f} us", "", "", "<= 100 us", took <= 1e-4)


def rows() -> Iterator[Row]:
    for size in (256 * limits.KIB, limits.MIB, limits.CHUNK_PLAIN_BYTES_MAX):
        yield from seal_rows(size)
        yield from open_rows(size)
    yield from small_file_rows()
    yield from sample_rows()


if __name__ == "__main__":
    process.keep_freed_buffers()
    show(__doc__.splitlines()[0], rows())
