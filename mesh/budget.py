"""A token bucket: so many a second, and as many at once as two seconds bring."""

_BURST_SECONDS = 2


class Budget:
    """What may be spent; full at first."""

    __slots__ = ("_at", "_left", "_per_second")

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._left = per_second * _BURST_SECONDS
        self._at = now

    def take(self, now: float) -> bool:
        """Spend one, if there is one."""
        if now > self._at:
            full = self._per_second * _BURST_SECONDS
            self._left = min(full, self._left + (now - self._at) * self._per_second)
            self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
