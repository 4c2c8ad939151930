"""How far the clocks of others are from ours, by what they say when they answer.

Each answer gives an offset that is wrong by at most half its round trip. Of each peer the median
of the last few counts, so that single slow ways do not; of all peers, the median tells how wrong
our own clock is. Nothing is ordered by wall clocks: this only tells what a time in a message means.
"""

from collections import OrderedDict, deque
from statistics import median_low

from core import limits
from core.ids import NodeId

_PEERS_TO_JUDGE = 3  # fewer do not outvote our own clock


class Clocks:
    """Offsets of the peers heard last, in milliseconds."""

    def __init__(self, peers_max: int = limits.CLOCK_PEERS_MAX) -> None:
        self._peers_max = peers_max
        self._peers: OrderedDict[NodeId, deque[int]] = OrderedDict()

    def sample(self, node: NodeId, offset_ms: int) -> int:
        """Take in one exchange; what counts now."""
        samples = self._peers.get(node)
        if samples is None:
            samples = self._peers[node] = deque(maxlen=limits.CLOCK_SAMPLES_KEPT)
            if len(self._peers) > self._peers_max:
                self._peers.popitem(last=False)
        self._peers.move_to_end(node)
        samples.append(offset_ms)
        return median_low(samples)

    def offset_ms(self, node: NodeId) -> int:
        """Its clock less ours; nothing if it was not heard."""
        samples = self._peers.get(node)
        return median_low(samples) if samples else 0

    def own_error_ms(self) -> int:
        """Our clock less that of most others; nothing while too few were heard."""
        if len(self._peers) < _PEERS_TO_JUDGE:
            return 0
        return -median_low(median_low(samples) for samples in self._peers.values())
