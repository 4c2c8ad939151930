"""How often strangers may try: few times from one address, and not at all after many failures."""

import ipaddress
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from core import limits

_MINUTE_SECONDS = 60.0
_HOUR_SECONDS = 3_600.0
_NETWORK_BITS = 64  # of IPv6: whoever has one address there has them all


@dataclass(slots=True)
class Doorkeeper:
    """For one listener. Times only ever go on; they are of a clock that does not jump."""

    _tries: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)
    _failures: deque[float] = field(default_factory=deque)
    _frozen_until_s: float = 0.0

    def admits(self, host: str, now_s: float) -> bool:
        """Whether somebody from there may try now. Only tries that were let in are counted."""
        if now_s < self._frozen_until_s:
            return False
        source = _source(host)
        tries = self._tries.setdefault(source, deque(maxlen=limits.PAIR_TRIES_PER_MINUTE))
        self._tries.move_to_end(source)
        if len(self._tries) > limits.PAIR_ADDRESSES_MAX:
            self._tries.popitem(last=False)
        full = len(tries) == limits.PAIR_TRIES_PER_MINUTE
        if full and now_s - tries[0] < _MINUTE_SECONDS:
            return False
        tries.append(now_s)
        return True

    def failed(self, now_s: float) -> None:
        """Somebody has tried what only a guesser or a program gone wrong would try."""
        self._failures.append(now_s)
        while self._failures and now_s - self._failures[0] >= _HOUR_SECONDS:
            self._failures.popleft()
        if len(self._failures) >= limits.PAIR_FAILURES_MAX:
            self._frozen_until_s = now_s + _HOUR_SECONDS
            self._failures.clear()

    def frozen(self, now_s: float) -> bool:
        """Whether nobody is heard at all."""
        return now_s < self._frozen_until_s


def _source(host: str) -> str:
    """What counts as one address."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a wire that has no IP addresses
        return host
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, _NETWORK_BITS), strict=False))
