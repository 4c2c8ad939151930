"""Remembers what was said once, so that it is never accepted again, in bounded memory.

Each nonce comes with a time that was signed with it. The latest are kept one by one. When one has
to go, its time becomes the floor of its node: from then on that node is heard only with later
times. So nothing is forgotten as long as the process lives, whatever any clock does; the price is
that a node whose clock was put back may be refused until it has caught up.

What stays for good is one number per member that ever came.
"""

from collections import OrderedDict

from core import limits
from core.ids import NodeId

_NEVER_MS = -1


class Nonces:
    """The nonces of all members; only what is authentic comes here."""

    def __init__(self, count_max: int = limits.HELLO_NONCES_MAX) -> None:
        self._count_max = count_max
        self._times: OrderedDict[tuple[NodeId, bytes], int] = OrderedDict()
        self._floors: dict[NodeId, int] = {}

    def is_new(self, node: NodeId, nonce: bytes, time_ms: int) -> bool:
        """Whether this is the first time; the second time it is not."""
        if time_ms <= self._floors.get(node, _NEVER_MS) or (node, nonce) in self._times:
            return False
        self._times[node, nonce] = time_ms
        if len(self._times) > self._count_max:
            (gone, _), gone_ms = self._times.popitem(last=False)
            self._floors[gone] = max(gone_ms, self._floors.get(gone, _NEVER_MS))
        return True
