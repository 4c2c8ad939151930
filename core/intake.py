"""Where chunks come from: large files cut, small pieces bundled. Plain iterators, run in threads.

Each yields batches of chunks of a few MiB, so that handing one from thread to thread costs nothing
beside the work in it. `known` lets a caller skip what is stored already; it is asked once per
piece, in the thread that reads.
"""

from collections.abc import Callable, Iterable, Iterator

from core import limits
from core.chunking import Chunker
from core.crypto import Buffer
from core.hashing import tag as tag_of
from core.pieces import Bundler, Chunk, Kind

Known = Callable[[Kind, bytes], bool]
Batches = Iterator[list[Chunk]]


def nothing_known(_kind: Kind, _tag: bytes) -> bool:
    """The answer of an empty vault."""
    return False


def cut_large(
    read_into: Callable[[memoryview], int],
    chunker: Chunker,
    *,
    known: Known = nothing_known,
    kind: Kind = Kind.CUT,
) -> Batches:
    """The pieces of one stream, cut by content; every one of them a chunk of its own."""
    batch, size = list[Chunk](), 0
    for piece in chunker.split(read_into):
        size += len(piece)
        tag = tag_of(kind, piece)
        if not known(kind, tag):
            batch.append(Chunk.of_piece(kind, piece, tag))
        if size >= limits.THREAD_HOP_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def bundle_small(pieces: Iterable[tuple[Kind, Buffer]], *, known: Known = nothing_known) -> Batches:
    """Small pieces, joined in the order they come; `pieces` may read them one by one."""
    bundler = Bundler()
    for kind, data in pieces:
        tag = tag_of(kind, data)
        if known(kind, tag):
            continue
        if not bundler.fits(len(data)):
            yield _taken(bundler)
        bundler.add(kind, data, tag)
    if last := _taken(bundler):
        yield last


def _taken(bundler: Bundler) -> list[Chunk]:
    chunk = bundler.take()
    return [] if chunk is None else [chunk]
