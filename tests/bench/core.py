"""core: the data path, every goal in one table; one core unless a line says otherwise."""

from collections.abc import Iterator

from core import limits
from tests.bench import chunkers, coding, pipeline, sealing
from tests.bench.table import Row


def rows() -> Iterator[Row]:
    yield from chunkers.speed_rows(quick=True)
    yield from sealing.seal_rows(limits.MIB)
    yield from sealing.seal_rows(limits.CHUNK_PLAIN_BYTES_MAX)
    yield from coding.rows()
    yield from pipeline.rows()
