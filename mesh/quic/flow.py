"""Credit: how much of a stream may be under way that nobody has read yet.

Both engines take in whatever arrives and widen their windows as it comes, read or not. So the
right to send is given by the reader, on a stream of its own in each direction (its first one-way
stream), in records of twelve bytes:

    u64 stream | u32 more        the peer may send `more` bytes beyond what it might before

A stream starts with STREAM_WINDOW_BYTES. A sender without credit waits; a peer that sends without
credit is cut off. So a stream holds at most one window, and a peer at most its streams' windows.
"""

from core import limits
from core.errors import FormatError, LimitExceeded

_RECORD_BYTES = 12
_GRANT_BYTES = limits.STREAM_WINDOW_BYTES // 4  # credit goes back in portions, not per read


class SendCredit:
    """What we may still send on one stream."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = limits.STREAM_WINDOW_BYTES

    def raise_untrusted(self, more: int) -> None:
        """The peer gave more."""
        if self.left + more > limits.STREAM_WINDOW_BYTES:
            raise LimitExceeded("more credit than a stream's window")
        self.left += more


class ReceiveCredit:
    """What the peer may still send on one stream."""

    __slots__ = ("_given_back", "left")

    def __init__(self) -> None:
        self.left = limits.STREAM_WINDOW_BYTES
        self._given_back = 0

    def arrived_untrusted(self, size: int) -> None:
        """The peer sent this much."""
        if size > self.left:
            raise LimitExceeded("the peer sends more than it may")
        self.left -= size

    def consumed(self, size: int) -> int:
        """The reader took this much: how much credit goes to the peer now, often none."""
        self._given_back += size
        if self._given_back < _GRANT_BYTES:
            return 0
        grant, self._given_back = self._given_back, 0
        self.left += grant
        return grant


def grant(stream: int, more: int) -> bytes:
    """One record."""
    return stream.to_bytes(8) + more.to_bytes(4)


class Grants:
    """Reads the records of the peer, which come in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""

    def feed_untrusted(self, data: bytes) -> list[tuple[int, int]]:
        """Streams and what each may send more."""
        data = self._rest + data
        whole = len(data) // _RECORD_BYTES * _RECORD_BYTES
        self._rest = data[whole:]
        records = [data[i : i + _RECORD_BYTES] for i in range(0, whole, _RECORD_BYTES)]
        found = [(int.from_bytes(r[:8]), int.from_bytes(r[8:])) for r in records]
        if any(more == 0 for _, more in found):
            raise FormatError("a grant of nothing")
        return found
