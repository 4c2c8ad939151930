"""Checking an archive without extracting it: all of it, or chunks chosen at random."""

import secrets
from collections.abc import Callable, Iterator

from core.archive.reader import ArchiveReader, verify_entry_untrusted
from core.errors import IntegrityError
from core.flow import Flow


class Verification:
    """One run: `verify(count, ...)`; the counts may be looked at meanwhile."""

    def __init__(self, reader: ArchiveReader) -> None:
        self.checked = 0
        self.checked_bytes = 0
        self._reader = reader

    def verify(self, count: int, watch: Callable[[], None], threads: int | None = None) -> None:
        """Check root, table and `count` chunks; the first fault ends it with an error."""
        reader = self._reader
        tree = reader.index.tree()
        if tree.root != reader.body.root:
            raise IntegrityError("the archive's index does not lead to its root")
        total = len(reader.index)
        for stored in reader.entries_untrusted():
            if any(e.chunk >= total for e in stored.extents if not e.is_hole):
                raise IntegrityError("a file in the archive refers to a chunk that is not there")
        numbers = range(total) if count >= total else _some(total, count)

        def check(number: int) -> int:
            raw, proof = bytes(reader.index.raw(number)), tree.proof(number)
            verify_entry_untrusted(reader.body.root, total, number, raw, proof)
            return len(reader.chunk_untrusted(number))

        def counted(size: int) -> None:
            self.checked += 1
            self.checked_bytes += size
            watch()

        def batches() -> Iterator[list[int]]:
            return ([number] for number in numbers)

        Flow(
            batches(),
            check,
            counted,
            size_of=lambda number: reader.index.entry_untrusted(number).plain_len,
            threads=threads,
        ).run()


def _some(total: int, count: int) -> list[int]:
    """Different numbers below `total`, in order; nobody can guess which."""
    return sorted(secrets.SystemRandom().sample(range(total), count))
