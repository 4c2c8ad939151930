"""Which QUIC engine carries a path: qh3, but where the path itself loses packets.

qh3 is faster by far, but its congestion control takes every loss for congestion: at 1 percent it
falls to 4 Mbit/s where aioquic with our controller keeps 70. aioquic in turn needs so much of the
processor that it ends at about 100 Mbit/s. So aioquic is worth it where loss is above 0.05 percent
and the round trip above 10 ms, both ends speak it, and qh3 is not faster there all the same.
"""

from collections.abc import Collection

from mesh.quality import PacketLoss
from mesh.quic.engine import Kind

LOSS_MIN, LOSS_ENOUGH = 0.0001, 0.0005  # below, back to qh3; above, to aioquic
RTT_SECONDS_MIN, RTT_SECONDS_ENOUGH = 0.007, 0.010
AIOQUIC_BYTES_PER_S = 12_000_000
DWELL_SECONDS = 120.0  # another engine means another connection
_SLICES_IN_A_ROW = 3


class EngineChoice:
    """For one path to one peer."""

    def __init__(self, spoken: Collection[Kind]) -> None:
        self.kind = Kind.QH3 if Kind.QH3 in spoken or not spoken else Kind.AIOQUIC
        self.switches = 0
        self._has_choice = {Kind.QH3, Kind.AIOQUIC} <= set(spoken)
        self._loss = PacketLoss()
        self._since = float("-inf")
        self._streak = 0

    def slice(self, sent: int, lost: int, rtt_s: float, bytes_per_s: float, now: float) -> Kind:
        """What an engine counted in the last second or so; which one to use from now on."""
        self._loss.slice(sent, lost, rtt_s)
        share = self._loss.share
        if not self._has_choice or share is None:
            return self.kind
        self._streak = self._streak + 1 if self._is_wrong(share, rtt_s, bytes_per_s) else 0
        if self._streak >= _SLICES_IN_A_ROW and now - self._since >= DWELL_SECONDS:
            self.kind = Kind.AIOQUIC if self.kind is Kind.QH3 else Kind.QH3
            self.switches += 1
            self._since, self._streak = now, 0
        return self.kind

    def explain(self) -> str:
        """For people."""
        share = self._loss.share
        if share is None:
            return self.kind.value
        return f"{self.kind.value}, {share:.2%} of packets lost on the way"

    def _is_wrong(self, share: float, rtt_s: float, bytes_per_s: float) -> bool:
        if self.kind is Kind.QH3:
            lossy = share > LOSS_ENOUGH and rtt_s > RTT_SECONDS_ENOUGH
            return lossy and bytes_per_s < AIOQUIC_BYTES_PER_S
        return share < LOSS_MIN or rtt_s < RTT_SECONDS_MIN
