"""pipeline: bytes in memory to sealed packs in memory, on all cores."""

import io
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import trio

from core import limits, process
from core.chunking import DEFAULT_VAULT, Chunker, params_untrusted
from core.crypto import aead_seal
from core.hashing import keyed
from core.intake import Batches, bundle_small, cut_large
from core.pack import Pack, PackKeys
from core.pieces import Kind
from core.pipeline import open_packer
from core.process import cores
from core.secret import Secret
from tests.bench.table import Row, best_s, show

KEYS = PackKeys(Secret(bytes(range(32))), Secret(bytes(range(32, 64))))
CHUNKER = Chunker(params_untrusted(DEFAULT_VAULT), Secret(bytes(32)))
TREES: tuple[str, ...] = ("/usr/lib", "/usr/share", "/usr/include", "/opt", "/home")
LARGE_FILE_BYTES = 512 * limits.KIB
NOISE_BYTES = 512 * limits.MIB
MIXED_BYTES = 384 * limits.MIB
SMALL_FILES = 50_000


def packed(*sources: Callable[[], Batches]) -> tuple[float, int, int]:
    """Seconds, packs and bytes of packs for these sources, all drawn at once; best of three."""
    packs = size = 0

    async def deliver(pack: Pack) -> None:
        nonlocal packs, size
        packs += 1
        size += len(pack.data)

    async def work() -> None:
        async with open_packer(KEYS, deliver) as packer, trio.open_nursery() as nursery:
            for source in sources:
                nursery.start_soon(packer.pump, source())

    took = []
    for _ in range(3):
        packs = size = 0
        began = time.perf_counter()
        trio.run(work)
        took.append(time.perf_counter() - began)
    return min(took), packs, size


def real_files() -> Iterator[tuple[Path, int]]:
    """Regular files of this machine's system trees, in the order of their names."""
    seen: set[tuple[int, int]] = set()
    for tree in TREES:
        for folder, folders, names in os.walk(tree):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                try:
                    stat = path.lstat()
                except OSError:
                    continue
                if (
                    not path.is_symlink()
                    and path.is_file()
                    and (stat.st_dev, stat.st_ino) not in seen
                ):
                    seen.add((stat.st_dev, stat.st_ino))
                    yield path, stat.st_size


def read_file(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return os.read(fd, LARGE_FILE_BYTES)
    finally:
        os.close(fd)


def incompressible() -> Iterator[Row]:
    noise = keyed(bytes(32), b"noise", NOISE_BYTES)
    took, _, size = packed(lambda: cut_large(io.BytesIO(noise).readinto, CHUNKER))
    buffer = noise[: 4 * limits.MIB]

    def bare() -> None:
        aead_seal(bytes(32), bytes(12), buffer, b"")
        keyed(bytes(32), buffer)
        keyed(bytes(32), buffer)

    rate, bare_rate = NOISE_BYTES / took / 1e9, len(buffer) / best_s(bare) / 1e9
    against = f"bare AEAD + 2 BLAKE3, one core: {bare_rate:.2f} GB/s"
    ratio = f"{rate / bare_rate:.2f}x"
    what = f"cut, seal, pack {NOISE_BYTES >> 20} MiB of noise, {cores()} cores"
    yield Row(what, f"{rate:.2f} GB/s", against, ratio, ">= 1.0 GB/s", rate >= 1.0)
    waste = (size / NOISE_BYTES - 1) * 100
    yield Row("  packs beyond the noise itself", f"{waste:.1f} %", "", "", "<= 2 %", waste <= 2)


def mixed() -> Iterator[Row]:
    small: list[tuple[Kind, bytes]] = []
    large: list[bytes] = []
    total = 0
    # Every 7th file: the trees begin alike and would be one kind of file otherwise.
    for path, size in islice(real_files(), 0, None, 7):
        if total >= MIXED_BYTES:
            break
        try:
            data = path.read_bytes()
        except OSError:
            continue
        total += size
        if size >= LARGE_FILE_BYTES:
            large.append(data)
        else:
            small.append((Kind.SMALL_FILE, data))

    def cut_all() -> Batches:
        for data in large:
            yield from cut_large(io.BytesIO(data).readinto, CHUNKER)

    took, _, size = packed(lambda: bundle_small(small), cut_all)
    rate = total / took / 1e6
    what = f"{len(small)} small and {len(large)} large real files, {total >> 20} MiB"
    share = f"{size / total * 100:.0f} % of its size"
    yield Row(what, f"{rate:.0f} MB/s", f"stored in {share}", "", ">= 250 MB/s", rate >= 250)


def small_files() -> Iterator[Row]:
    paths, total = list[str](), 0
    for file, size in real_files():
        if 0 < size < 64 * limits.KIB and os.access(file, os.R_OK):
            paths.append(str(file))
            total += size
        if len(paths) == SMALL_FILES:
            break
    for path in paths:
        read_file(path)  # warm cache
    read_s = best_s(lambda: [read_file(path) for path in paths], tries=2)
    took, _, _ = packed(lambda: bundle_small((Kind.SMALL_FILE, read_file(p)) for p in paths))
    rate, bare = len(paths) / took, len(paths) / read_s
    what = f"{len(paths)} small files, {total / len(paths) / 1e3:.1f} kB each, read to packs"
    against = f"only reading them: {bare:.0f} files/s"
    goal = ">= 12000 files/s"
    yield Row(what, f"{rate:.0f} files/s", against, f"{rate / bare:.2f}x", goal, rate >= 12_000)


def rows() -> Iterator[Row]:
    yield from incompressible()
    yield from mixed()
    yield from small_files()


if __name__ == "__main__":
    process.keep_freed_buffers()
    show((__doc__ or "").splitlines()[0], rows())
