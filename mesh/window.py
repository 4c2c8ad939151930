"""A sliding window over counters: each is accepted once, in almost any order."""

from core import limits

_COUNTERS = limits.DATAGRAM_WINDOW_COUNTERS
_ALL = (1 << _COUNTERS) - 1


class Window:
    """The last `_COUNTERS` counters up to the highest; what lies before them is too old."""

    __slots__ = ("_bits", "_highest")

    def __init__(self) -> None:
        self._highest = -1
        self._bits = 0  # bit n: whether `highest - n` was accepted

    def is_new(self, counter: int) -> bool:
        """Whether this one may still be accepted."""
        behind = self._highest - counter
        return behind < 0 or (behind < _COUNTERS and not self._bits >> behind & 1)

    def accept(self, counter: int) -> None:
        """It will not be new again."""
        ahead = counter - self._highest
        if ahead <= 0:
            self._bits |= 1 << -ahead
        else:  # a jump may be as long as 2^64: never shift by it
            self._bits = (self._bits << ahead | 1) & _ALL if ahead < _COUNTERS else 1
            self._highest = counter
