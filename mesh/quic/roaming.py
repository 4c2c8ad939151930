"""Where a peer is: followed when it moves, for an engine that must not see it move (qh3).

    home        the address that is proved; what is sent goes there
    elsewhere   another one that authentic packets come from, once home has fallen silent: tried,
                with a question sent to there alone, and no more than three times what came from it

The answer to that question makes it the home. A packet from home, or time, ends the trial: then
somebody has copied packets, or the peer has come back. What arrives is read in any case: packets
prove themselves, wherever they come from.
"""

from core import limits
from mesh.wire import Address

_UNPROVED_FACTOR = 3  # what may be sent to an address, to what came from it (RFC 9000, 8.1)


class Roaming:
    """Of one peer; who was dialled stays where it is (RFC 9000, 9)."""

    def __init__(self, home: Address, *, may_move: bool) -> None:
        self.home = home
        self._may_move = may_move
        self._heard_at = 0.0
        self._elsewhere: Address | None = None
        self._heard_there_at = 0.0
        self._until = 0.0
        self._left_bytes = 0

    @property
    def to(self) -> Address:
        """Where datagrams go at present."""
        return self._elsewhere or self.home

    def heard_home(self, now: float) -> None:
        """Something came from home, authentic or not."""
        self._heard_at = now
        self._elsewhere = None

    def heard_elsewhere(self, source: Address, size: int, now: float) -> bool:
        """Authentic packets came from another address; whether to ask there for a proof."""
        if source == self._elsewhere:
            self._heard_there_at = now
            self._left_bytes += _UNPROVED_FACTOR * size
            return False
        if not self._may_move or now - self._heard_at < limits.MOVE_SILENCE_SECONDS:
            return False
        if self._elsewhere is not None and now < self._until:
            return False
        self._elsewhere, self._until = source, now + limits.MOVE_PROOF_SECONDS
        self._heard_there_at = now
        self._left_bytes = _UNPROVED_FACTOR * size
        return True

    def was_proved(self) -> None:
        """The peer has answered what was sent there alone."""
        if self._elsewhere is not None:
            self.home, self._elsewhere = self._elsewhere, None
            self._heard_at = self._heard_there_at

    def may_send(self, size: int, now: float) -> bool:
        """Whether a datagram may go to where datagrams go; else it is lost."""
        if self._elsewhere is None:
            return True
        if now >= self._until:
            self._elsewhere = None
            return True
        self._left_bytes -= size
        return self._left_bytes >= 0
