"""Who may open a connection: strangers are few, and under load they prove their address.

    a first packet without a token     while it is quiet: let in; else: Retry, and nothing is kept
    with a token of this start         let in, while its neighbourhood has not too many under way
    with any other token               dropped

It is quiet while few handshakes are under way and few first packets come. A neighbourhood is what
one machine can send from: an IPv4 address, 64 bits of an IPv6 address.
"""

import ipaddress
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from core import limits
from core.crypto import Entropy
from mesh.budget import Budget
from mesh.quic.engine import FirstPacket
from mesh.quic.retry import RetryTokens
from mesh.wire import Address

_IPV6_NETWORK_BYTES = 8


@dataclass(slots=True)
class Counters:
    """What an endpoint has seen, for figures people can watch."""

    strangers_dropped: int = 0  # packets for no connection that open none
    refused_busy: int = 0  # first packets there was no room for
    retries_sent: int = 0
    tokens_refused: int = 0
    handshakes_failed: int = 0
    connections: int = 0


class Admit(NamedTuple):
    """Let it in: what the first attempt was addressed to, and the Retry that came between."""

    original_cid: bytes
    retry_cid: bytes | None


class Challenge(NamedTuple):
    """Answer with a Retry."""

    retry_cid: bytes
    token: bytes


class Admission:
    """The handshakes that are under way, and the judgement over new ones."""

    def __init__(self, entropy: Entropy, counters: Counters) -> None:
        self._tokens = RetryTokens(entropy)
        self._counters = counters
        self._quiet = Budget(limits.HANDSHAKES_FREE_PER_SECOND_MAX, 0.0)
        self._until: dict[int, float] = {}
        self._proved: dict[int, bytes] = {}  # neighbourhoods of those that brought a token
        self._crowds: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._until)

    def judge_untrusted(
        self, packet: FirstPacket, source: Address, now: float
    ) -> Admit | Challenge | None:
        """What to do about a first packet; None: nothing at all."""
        is_full = len(self._until) >= limits.HANDSHAKES_MAX
        if packet.token:
            cid = packet.destination
            original = self._tokens.original_cid_untrusted(packet.token, source, cid, now)
            if original is None:
                self._counters.tokens_refused += 1
                return None
            crowd = self._crowds[neighbourhood(source)]
            if not is_full and crowd < limits.HANDSHAKES_NEIGHBOURS_MAX:
                return Admit(original, cid)
        elif len(self._until) < limits.HANDSHAKES_FREE_MAX and self._quiet.take(now):
            return Admit(packet.destination, None)
        elif not is_full:
            self._counters.retries_sent += 1
            return Challenge(*self._tokens.issue(source, packet.destination, now))
        self._counters.refused_busy += 1
        return None

    def began(self, number: int, admitted: Admit, source: Address, now: float) -> float:
        """A handshake goes on under this number; until when."""
        self._until[number] = until = now + limits.HANDSHAKE_SECONDS
        if admitted.retry_cid is not None:
            self._proved[number] = near = neighbourhood(source)
            self._crowds[near] += 1
        return until

    def until(self, number: int) -> float | None:
        """When a handshake is given up; None if there is none."""
        return self._until.get(number)

    def ended(self, number: int) -> bool:
        """It is over, whatever came of it; whether there was one."""
        if (near := self._proved.pop(number, None)) is not None:
            self._crowds[near] -= 1
            if not self._crowds[near]:
                del self._crowds[near]
        return self._until.pop(number, None) is not None


def neighbourhood(source: Address) -> bytes:
    """What is counted together, as one machine may have all of it."""
    try:
        packed = ipaddress.ip_address(source.host.partition("%")[0]).packed
    except ValueError:  # a wire that has no IP addresses
        return source.host.encode()
    return packed if len(packed) <= _IPV6_NETWORK_BYTES else packed[:_IPV6_NETWORK_BYTES]
