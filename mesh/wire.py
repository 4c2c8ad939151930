"""What carries datagrams: the seam between the endpoint and a socket, or a simulated network.

A wire is one UDP socket or behaves like one: datagrams arrive in any order, twice, or not at all,
and none is larger than the path allows. mesh/udp.py is the real one.
"""

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Address(NamedTuple):
    """Where datagrams come from and go to: an IP address as text, and a port.

    One that means something on one link only says on which: "fe80::1%3", the interface's number.
    """

    host: str
    port: int

    @property
    def is_private(self) -> bool:
        """Whether it means something in the local network only."""
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_private
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Arrival(NamedTuple):
    """Datagrams of one sender that came together: each `segment_bytes` long, the last may be less.

    That is how the kernel hands over a train of packets; a lone datagram is one segment.
    """

    data: bytes
    segment_bytes: int
    source: Address


class Wire(Protocol):
    """One socket's worth of sending and receiving."""

    @property
    def local(self) -> Address:
        """Where it is bound."""

    async def receive(self) -> list[Arrival]:
        """Wait for something to come; a bounded batch of what is there."""

    def send(self, datagrams: Sequence[bytes], to: Address) -> int:
        """How many of them were taken, in order; too large ones count as taken and are lost.

        Fewer than given: wait for `writable` and offer the rest again.
        """

    async def writable(self) -> None:
        """Wait until `send` may take more."""

    def close(self) -> None:
        """Free it; a waiting `receive` ends with trio.ClosedResourceError."""
