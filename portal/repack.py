"""Pieces that lie in packs already, sealed again into other packs (portal/SPEC.md, Collection).

Nothing that was sealed is copied: a chunk is opened, checked, and sealed anew under the salt of its
new pack. Small pieces are bundled anew, so what many short runs left comes together.
"""

from collections.abc import Callable, Iterable, Iterator

from core import limits
from core.intake import Batches
from core.pack import Pack
from core.pack_index import Location
from core.pieces import Bundler, Chunk, Kind, check_tag_untrusted
from core.pipeline import open_packer
from portal.index import NameOf
from portal.reader import Reader
from portal.session import Session

_METADATA = {Kind.DIRECTORY, Kind.SNAPSHOT, Kind.CUT_LIST}
Wanted = Callable[[bytes, Location], bool]  # of this pack, this piece


async def repack(
    session: Session, reader: Reader, packs: Iterable[bytes], wanted: Wanted, name: NameOf
) -> tuple[set[bytes], set[bytes]]:
    """Seal the wanted pieces of these packs again; gives the new packs and the keys in them.

    When this returns they are durable, and a delta speaks of them.
    """
    return await store(session, pieces_again(reader, packs, wanted), name)


async def store(session: Session, batches: Batches, name: NameOf) -> tuple[set[bytes], set[bytes]]:
    """Put chunks into the vault; gives the new packs and the keys of what they hold."""
    fresh, keys = set[bytes](), set[bytes]()

    async def deliver(pack: Pack) -> None:
        await session.deliver(pack)
        fresh.add(pack.name)
        keys.update(name(kind, tag) for tag, kind, *_ in pack.index.all_pieces())

    async with open_packer(session.pack_keys, deliver) as packer:
        await packer.pump(batches)
    session.flush()
    return fresh, keys


def pieces_again(reader: Reader, packs: Iterable[bytes], wanted: Wanted) -> Batches:
    """Chunks of the wanted pieces, pack by pack in the order they lie in."""
    bundles = Bundles()
    for pack in packs:
        index = reader.pack_untrusted(pack).index
        for chunk in range(len(index.chunks)):
            chosen = [piece for piece in index.pieces(chunk) if wanted(pack, piece)]
            if not chosen:
                continue
            data = reader.chunk_untrusted(pack, chunk, keep=False)
            for tag, kind, _, offset, length in chosen:
                piece = data[offset : offset + length]
                check_tag_untrusted(kind, tag, piece)
                yield from bundles.add(kind, piece, tag)
    yield from bundles.rest()


class Bundles:
    """Large pieces become chunks of their own; small ones are joined, metadata apart from files."""

    def __init__(self) -> None:
        self._bundlers = {False: Bundler(), True: Bundler()}

    def add(self, kind: Kind, data: memoryview, tag: bytes | None = None) -> Iterator[list[Chunk]]:
        """One more piece; gives what is complete."""
        if len(data) > limits.SMALL_FILE_BYTES_MAX:
            yield [Chunk.of_piece(kind, data, tag)]
            return
        bundler = self._bundlers[kind in _METADATA]
        if not bundler.fits(len(data)):
            yield _taken(bundler)
        bundler.add(kind, bytes(data), tag)  # a view would keep its whole chunk in memory

    def rest(self) -> Iterator[list[Chunk]]:
        """What is left at the end."""
        for bundler in self._bundlers.values():
            if chunks := _taken(bundler):
                yield chunks


def _taken(bundler: Bundler) -> list[Chunk]:
    chunk = bundler.take()
    return [] if chunk is None else [chunk]
