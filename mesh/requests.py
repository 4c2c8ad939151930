"""Which answer belongs to which question: sealed requests that wait, and until when.

An answer counts if it comes from the node that was asked, carries the txid of the question, is of
the type that answers it, and is in time; and it counts once.
"""

import heapq
from typing import NamedTuple

from core import limits
from core.crypto import Entropy, system_entropy
from core.ids import NodeId
from mesh.datagrams import Message
from mesh.messages import TXID_BYTES, Body


class Asked(NamedTuple):
    """A question on its way."""

    to: NodeId
    kind: type[Body]
    sent_ms: int
    sent: float
    deadline: float


class Answered(NamedTuple):
    """A question and its answer."""

    asked: Asked
    message: Message
    rtt_s: float
    offset_ms: int  # the clock of who answered, less ours (as NTP does it)


class Requests:
    """All that wait; bounded, and nothing waits for ever."""

    def __init__(
        self, *, count_max: int = limits.REQUESTS_MAX, entropy: Entropy = system_entropy
    ) -> None:
        self._count_max = count_max
        self._entropy = entropy
        self._waiting: dict[bytes, Asked] = {}
        self._deadlines: list[tuple[float, bytes]] = []  # also of some that were answered since

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(
        self, to: NodeId, kind: type[Body], timeout_s: float, now_ms: int, now: float
    ) -> bytes | None:
        """The txid of a question that is sent now; nothing if too many wait already."""
        if len(self._waiting) >= self._count_max:
            return None
        txid = self._entropy(TXID_BYTES)
        deadline = now + timeout_s
        self._waiting[txid] = Asked(to, kind, now_ms, now, deadline)
        if len(self._deadlines) > 2 * self._count_max:
            self._deadlines = [(asked.deadline, name) for name, asked in self._waiting.items()]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (deadline, txid))
        return txid

    def answered(self, message: Message, now_ms: int, now: float) -> Answered | None:
        """What this message answers, if it does."""
        asked = self._waiting.get(message.txid)
        if asked is None or message.sender != asked.to or message.body.ANSWERS is not asked.kind:
            return None
        del self._waiting[message.txid]
        if now > asked.deadline:
            return None
        offset_ms = message.sent_ms - (asked.sent_ms + now_ms) // 2
        return Answered(asked, message, now - asked.sent, offset_ms)

    def deadline(self) -> float | None:
        """When to call `expire`."""
        while self._deadlines and self._deadlines[0][1] not in self._waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> list[Asked]:
        """Questions that nobody has answered in time; they wait no longer."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, txid = heapq.heappop(self._deadlines)
            asked = self._waiting.pop(txid, None)
            if asked is not None:
                expired.append(asked)
        return expired
