"""Which members a node keeps links to.

As long as they are few: all of them. Beyond, every member stands on LINK_RINGS rings, on each at
another place, and keeps links to the one before and the one after it. So

* both ends of a link want it, and nobody has more than two on each ring;
* each ring by itself connects everybody, and together they make ways short: of ten thousand
  members the farthest is four links away, and half of them may be gone;
* who comes or goes changes the links of its own neighbours and of nobody else.

The places follow from where a member stands in the DHT, which hangs on the operation that admitted
it: nobody chooses whose neighbour it becomes.
"""

from collections.abc import Mapping
from struct import Struct

from core import hashing, limits
from core.ids import NodeId
from core.labels import Label

_PLACE_BYTES = 8


def neighbours(own: bytes, others: Mapping[NodeId, bytes]) -> set[NodeId]:
    """Whom a member keeps links to; `own` and the values are the DHT ids of all that may connect.

    The same for everybody who knows the same members.
    """
    if len(others) <= limits.LINKS_KEPT_MAX:
        return set(others)
    nodes, found = list(others), set()
    rings = zip(*map(_places, others.values()), strict=True)
    for place, ring in zip(_places(own), rings, strict=True):
        before = max((other for other in ring if other < place), default=max(ring))
        after = min((other for other in ring if other > place), default=min(ring))
        found |= {nodes[ring.index(before)], nodes[ring.index(after)]}
    return found


def _places(dht_id: bytes) -> tuple[int, ...]:
    """Where a member stands on each ring."""
    size = limits.LINK_RINGS * _PLACE_BYTES
    places: tuple[int, ...] = Struct(f">{limits.LINK_RINGS}Q").unpack(
        hashing.digest(Label.LINK_RINGS, dht_id, size)
    )
    return places
