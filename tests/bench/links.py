"""Links between nodes: every goal in one table, from its parts."""

from collections.abc import Iterator

from tests.bench import lanes_part, links_loopback, links_setup, links_wan
from tests.bench.table import Row


def rows() -> Iterator[Row]:
    """QUIC and lanes on loopback, set-up, and modelled lines."""
    yield from links_loopback.rows()
    yield from lanes_part.rows()
    yield from links_setup.rows()
    yield from links_wan.rows()
