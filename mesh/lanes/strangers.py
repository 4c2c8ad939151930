"""Connections that have shown no token yet: only so many, and the oldest makes way. Pure.

An honest peer shows its token within a few round trips. Whoever fills all places with connections
that say nothing would keep it out for seconds if the newest were turned away; as the oldest go,
such a crowd has to come again faster than the honest one gets through, from many addresses.
"""

import ipaddress
from typing import Generic, TypeVar

from core import limits

Who = TypeVar("Who")
_IPV6_SITE_BITS = 64  # one customer has all of them


class Strangers(Generic[Who]):
    """Who is at the doors, oldest first."""

    def __init__(
        self,
        most: int = limits.LANE_STRANGERS_MAX,
        most_of_one_source: int = limits.LANE_STRANGERS_PER_SOURCE_MAX,
    ) -> None:
        self._most = most
        self._most_of_one_source = most_of_one_source
        self._here: dict[Who, str | None] = {}

    def admit(self, who: Who, source: str | None) -> Who | None:
        """Let somebody in; who has to leave for that, if anybody. No source: one of ours."""
        same = [one for one, place in self._here.items() if source and place == source]
        leaves = None
        if len(same) >= self._most_of_one_source:
            leaves = same[0]
        elif len(self._here) >= self._most:
            leaves = next(iter(self._here))
        if leaves is not None:
            del self._here[leaves]
        self._here[who] = source
        return leaves

    def forget(self, who: Who) -> None:
        """They have left, or are no stranger any more."""
        self._here.pop(who, None)

    def __len__(self) -> int:
        return len(self._here)


def source_of(host: str) -> str:
    """Whom an address is counted as: itself, or its network in IPv6."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, _IPV6_SITE_BITS), strict=False))
