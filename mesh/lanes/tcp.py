"""Lanes over TCP, in TLS 1.3 with a certificate made for nothing else.

Its key lives and ends with the process and is nobody's identity: who connects knows the
certificate's hash from the offer, which came over the link.
"""

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import trio

from core import limits
from core.crypto import Entropy, equal, system_entropy
from core.secret import Secret
from mesh.errors import NotTrusted, Unreachable
from mesh.lanes import tls
from mesh.lanes.lane import Door, Raw
from mesh.lanes.offer import Kind, TcpWay
from mesh.lanes.strangers import source_of
from mesh.leaf import Leaf, leaf_hash
from mesh.wire import Address


class TcpDoor(Door[trio.SocketStream]):
    """A TCP port, on every address of IPv6 and IPv4, or on `host` alone."""

    kind = Kind.TCP

    def __init__(
        self, port: int = 0, host: str | None = None, entropy: Entropy = system_entropy
    ) -> None:
        self.port = port  # 0: any, and known while listening
        self._host = host
        leaf = Leaf.make(Secret(entropy(limits.KEY_BYTES)), entropy)
        self._leaf_hash = leaf.hash
        self._context = tls.accepting(leaf)

    @contextmanager
    def listening(self) -> Iterator[Sequence[trio.abc.Listener[trio.SocketStream]]]:
        """Listen on the port."""
        wanted = self.port
        with _bound(self._host, wanted) as bound:
            self.port = bound.getsockname()[1]
            try:
                yield [trio.SocketListener(trio.socket.from_stdlib_socket(bound))]
            finally:
                self.port = wanted

    def ways(self, addresses: Sequence[Address]) -> Sequence[TcpWay]:
        """Each of our addresses."""
        return [TcpWay(address, self._leaf_hash) for address in addresses]

    def source(self, stream: trio.SocketStream) -> str:
        """Somebody at an address."""
        host = stream.socket.getpeername()[0]
        return source_of(host)

    async def secure(self, stream: trio.SocketStream) -> Raw:
        """TLS, as the side that is connected to."""
        _suit_bulk(stream)
        secured = await tls.handshake(stream, self._context, server_side=True)
        return Raw(secured, stream.socket.close)


async def connect(way: TcpWay) -> Raw:
    """TLS to who holds the certificate of the offer, and to nobody else."""
    try:
        stream = await trio.open_tcp_stream(*way.address)
    except OSError as e:
        raise Unreachable(f"no lane to {way.address}") from e
    try:
        _suit_bulk(stream)
        secured = await tls.handshake(stream, tls.connecting(), server_side=False)
    except BaseException:
        stream.socket.close()
        raise
    if not equal(leaf_hash(secured.peer_certificate()), way.leaf_hash):
        stream.socket.close()
        raise NotTrusted(f"somebody else answers at {way.address}")
    return Raw(secured, stream.socket.close)


def _bound(host: str | None, port: int) -> socket.socket:
    """Listening. Where there is no IPv6, on IPv4."""
    backlog = limits.LANE_BACKLOG_MAX
    if host is not None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # compiled in, and switched off
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
            )
    return socket.create_server(("", port), backlog=backlog)


def _suit_bulk(stream: trio.SocketStream) -> None:
    """More waits in the kernel than suits a conversation; small things still leave at once."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    option = 25 if sys.platform.startswith("linux") else 0x201  # TCP_NOTSENT_LOWAT
    with suppress(OSError):
        stream.setsockopt(socket.IPPROTO_TCP, option, limits.LANE_UNSENT_BYTES)
