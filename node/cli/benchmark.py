"""`portal benchmark`: how fast this machine does what a backup is made of.

Every row but the last ones is one core on bytes in memory; then all cores from bytes to packs, and
the disk of the vault. Nothing of the vault is read, and nothing stays in it.
"""

import io
import json
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from node.cli import opening, run
from node.cli.progress import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.pack import Pack

_STEP_S = 0.6  # for each row
_DISK_S = 1.5
_DISK_PACKS_MAX = 64
_STREAM_BYTES = 96 << 20


class Row(NamedTuple):
    """One measure."""

    name: str
    bytes_per_s: float
    what: str


@click.command()
@click.option("--no-disk", is_flag=True, help="Only the processor.")
@opening.json_option
@click.option("-r", "--repo", type=opening.PATH, help="The vault whose disk is measured.")
@click.option("-P", "--profile", help="Its vault.")
def benchmark(*, as_json: bool, no_disk: bool, **asked: Any) -> None:
    """Measure what a backup is made of: the processor, and the disk of the vault.

    Takes some seconds. The numbers are of this moment: other programs have their share.
    """
    from core import native, process

    process.prepare_for_bulk()
    place = None if no_disk else _place(opening.vault_path(opening.settings_of(asked)))
    rows = [*_processor_rows(), *([_disk_row(place)] if place else [])]
    if as_json:
        facts: dict[str, Any] = {"v": 1, "message_type": "benchmark"}
        facts |= {"kernel": native.kernel().name, "place": str(place) if place else None}
        facts["rows"] = [
            {"name": r.name, "bytes_per_second": round(r.bytes_per_s), "what": r.what} for r in rows
        ]
        click.echo(json.dumps(facts))
        return
    for row in rows:
        click.echo(f"{row.name:<12} {size_text(row.bytes_per_s) + '/s':>12}   {row.what}")


def _place(vault: Path) -> Path:
    """Where packs lie or would lie: the vault, or the directory it would be made in."""
    for path in (vault / "packs", *vault.absolute().parents):
        if path.is_dir():
            return path
    return Path("/")


# --- the processor --------------------------------------------------------------------------------


def _processor_rows() -> "Iterator[Row]":
    from core import compress, erasure, hashing, limits, pack, seal
    from core.chunking import DEFAULT_VAULT, Chunker, params_untrusted
    from core.pieces import Chunk, Kind
    from core.process import cores
    from core.secret import Secret

    noise = os.urandom(16 * limits.MIB)
    text = _text(limits.MIB)
    pieces = [noise[at : at + limits.MIB] for at in range(0, 15 * limits.MIB, limits.MIB)]
    chunker = Chunker(params_untrusted(DEFAULT_VAULT), Secret(bytes(32)))
    keys = pack.PackKeys(Secret(bytes(32)), Secret(bytes(32)))
    frames = [seal.prepare(Chunk.of_piece(Kind.CUT, piece)) for piece in pieces]
    buffer = bytearray(limits.PACK_SIZES_BYTES[-1])
    code = erasure.Code(10, 14)

    def seal_pack() -> None:
        writer = pack.PackWriter(keys, buffer=buffer)
        for frame in frames:
            writer.add(frame)
        writer.finish()

    def row(name: str, size: int, work: Callable[[], object], what: str) -> Row:
        return Row(name, _rate(size, work), what)

    whole = len(noise)
    yield row("chunking", whole, lambda: chunker.cuts(noise, final=True), "where files are cut")
    yield row("hashing", whole, lambda: hashing.tag(Kind.CUT, noise), "BLAKE3, names of pieces")
    yield row("compression", len(text), lambda: compress.compress(text), "of text, to a part of it")
    yield row("sealing", 15 * limits.MIB, seal_pack, "ChaCha20-Poly1305, into packs")
    yield row("erasure", whole, lambda: erasure.encode(noise, code), "10 of 14 shards")
    yield Row("all of it", _pipeline_rate(noise, keys), f"noise to packs, on {cores()} cores")


def _pipeline_rate(noise: bytes, keys: Any) -> float:
    """Bytes in memory to sealed packs in memory, as a backup does it."""
    from core.chunking import DEFAULT_VAULT, Chunker, params_untrusted
    from core.intake import cut_large
    from core.pipeline import open_packer
    from core.secret import Secret

    chunker = Chunker(params_untrusted(DEFAULT_VAULT), Secret(bytes(32)))

    async def deliver(_pack: "Pack") -> None:
        pass

    async def work() -> None:
        async with open_packer(keys, deliver) as packer:
            for _ in range(_STREAM_BYTES // len(noise)):
                await packer.pump(cut_large(io.BytesIO(noise).readinto, chunker))

    return _rate(_STREAM_BYTES, lambda: run.run_trio(work))


def _text(size: int) -> bytes:
    """Something like text, different in every run of a few hundred bytes."""
    words = [os.urandom(1 + at % 7).hex().encode() for at in range(512)]
    picks = os.urandom(size // 2)
    return b" ".join(words[pick | (at & 1) << 8] for at, pick in enumerate(picks))[:size]


def _rate(size: int, work: Callable[[], object]) -> float:
    """Bytes a second, at its best: what else runs here only makes it slower."""
    best, end = float("inf"), time.perf_counter() + _STEP_S
    while True:
        began = time.perf_counter()
        work()
        now = time.perf_counter()
        best = min(best, now - began)
        if now >= end:
            return size / best


# --- the disk -------------------------------------------------------------------------------------


def _disk_row(place: Path) -> Row:
    """Packs as a backup writes them, one durable before the next is begun; they are removed."""
    from core import limits

    size = limits.PACK_SIZES_BYTES[-1]
    data = os.urandom(size)
    with _temporary_files(place) as write:
        began = time.perf_counter()
        count = 0
        while count < _DISK_PACKS_MAX and time.perf_counter() - began < _DISK_S:
            write(data)
            count += 1
        took = time.perf_counter() - began
    return Row(
        "disk",
        count * size / took,
        f"{count} durable packs of {size_text(size)} in {opening.shown_path(place)}",
    )


@contextmanager
def _temporary_files(place: Path) -> "Iterator[Callable[[bytes], None]]":
    """Writes durable files that are taken away at once; a killed run's go with a backup's own."""
    from portal.disk import Disk

    disk = Disk()
    path = place / f".tmp-{os.urandom(8).hex()}-1"

    def write(data: bytes) -> None:
        fd = disk.make(path)
        try:
            disk.write(fd, data)
            disk.sync(fd)
        except OSError as e:  # of a descriptor, it does not say where
            raise OSError(e.errno, e.strerror, str(place)) from e
        finally:
            disk.close(fd)
            disk.remove(path)

    try:
        yield write
    finally:
        disk.sync_directory(place)
