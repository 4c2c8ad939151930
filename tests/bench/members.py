"""The mesh at scale and at rest: every goal in one table, from its parts."""

from collections.abc import Iterator

from tests.bench import members_idle, members_judge, members_many, members_pairing
from tests.bench.table import Row


def rows() -> Iterator[Row]:
    """A thousand members, ten thousand operations, an idle node, two fresh ones."""
    yield from members_many.rows()
    yield from members_judge.rows()
    yield from members_idle.rows()
    yield from members_pairing.rows()
