"""The real wire: one UDP socket on trio, in trains where the kernel can (Linux: GSO and GRO).

Bound to [::] it also serves IPv4, whose addresses then are written as people know them. Fragments
are forbidden (DF): a datagram is lost rather than cut up, which is how the path's limit is found
(mesh/path_mtu.py). What the network refuses (no route, a firewall, too large) is lost, as anything
may be.
"""

import errno
import socket
import struct
import sys
from collections.abc import Sequence

import trio

from core import limits
from mesh.wire import Address, Arrival

_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104
_MTU_DISCOVER = ((socket.IPPROTO_IP, 10), (socket.IPPROTO_IPV6, 23))
_PMTUDISC_PROBE = 3
_MAPPED = "::ffff:"
_READ_BYTES = 65_536
_CONTROL_BYTES = 64
_ADDRESSES_CACHED_MAX = 4_096
_FULL = {errno.EAGAIN, errno.EWOULDBLOCK}
_NO_TRAINS = {errno.EIO, errno.EINVAL, errno.EOPNOTSUPP}
# Answers of the network to something we sent; the kernel tells them to whoever reads next.
_HEARSAY = {
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH),
    *(errno.EHOSTDOWN, errno.ENETDOWN, errno.EMSGSIZE),
}

_Target = tuple[str, int] | tuple[str, int, int, int]


class UdpWire:
    """A bound socket; close it."""

    def __init__(self, bound: socket.socket) -> None:
        self._socket = trio.socket.from_stdlib_socket(bound)
        self._raw = bound
        self._mapped = bound.family == socket.AF_INET6
        self._trains = sys.platform == "linux"
        self._gathers = _asked(bound, _SOL_UDP, _UDP_GRO, 1) if self._trains else False
        self._addresses: dict[tuple[object, ...], Address] = {}
        self.local = self._address(bound.getsockname())

    @classmethod
    def bind(cls, host: str, port: int) -> "UdpWire":
        """A socket at an address of this machine; port 0: any."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                bound.setsockopt(socket.SOL_SOCKET, option, limits.UDP_BUFFER_BYTES)
            if sys.platform == "linux":
                for level, name in _MTU_DISCOVER:
                    _asked(bound, level, name, _PMTUDISC_PROBE)
            bound.setblocking(False)
            bound.bind((host, port))
        except OSError as e:
            bound.close()
            e.filename = str(Address(host, port))
            raise
        return cls(bound)

    async def receive(self) -> list[Arrival]:
        """Wait for something to come; a bounded batch of what is there."""
        while True:
            await trio.lowlevel.wait_readable(self._raw)
            arrivals: list[Arrival] = []
            for _ in range(limits.UDP_BATCH_ARRIVALS_MAX):
                try:
                    arrivals.append(self._read())
                except BlockingIOError:
                    break
                except OSError as e:
                    if e.errno not in _HEARSAY:
                        raise
            if arrivals:
                return arrivals

    def _read(self) -> Arrival:
        data, controls, _, source = self._raw.recvmsg(_READ_BYTES, _CONTROL_BYTES)
        size = len(data)
        for level, kind, value in controls:
            if (level, kind) == (_SOL_UDP, _UDP_GRO):
                size = int.from_bytes(value[:4], sys.byteorder)
        return Arrival(data, max(1, size), self._address(source))

    def send(self, datagrams: Sequence[bytes], to: Address) -> int:
        """How many of them were taken."""
        target = self._target(to)
        taken = 0
        while taken < len(datagrams):
            train = self._train(datagrams, taken)
            error = self._send(train, target)
            if error in _FULL:
                break
            if error in _NO_TRAINS and len(train) > 1:
                one_by_one = [self._send([datagram], target) for datagram in train]
                # Refused as a train and taken alone: this network card cannot, and never will.
                self._trains = one_by_one[0] != 0
            taken += len(train)
        return taken

    def _train(self, datagrams: Sequence[bytes], start: int) -> Sequence[bytes]:
        """As many as one call takes: equal in size, but for a shorter last one."""
        size = len(datagrams[start])
        most = min(limits.UDP_TRAIN_SEGMENTS_MAX, limits.UDP_TRAIN_BYTES_MAX // max(1, size))
        end = start + 1
        if self._trains:
            while end < len(datagrams) and end - start < most and len(datagrams[end]) <= size:
                end += 1
                if len(datagrams[end - 1]) < size:
                    break
        return datagrams[start:end]

    def _send(self, train: Sequence[bytes], target: _Target) -> int:
        """Zero, or the number of the kernel's complaint."""
        try:
            if len(train) == 1:
                self._raw.sendto(train[0], target)
            else:
                size = struct.pack("=H", len(train[0]))
                self._raw.sendmsg(train, [(_SOL_UDP, _UDP_SEGMENT, size)], 0, target)
        except OSError as e:
            return e.errno or errno.EIO
        return 0

    def _target(self, to: Address) -> _Target:
        host, _, zone = to.host.partition("%")
        if zone:
            return host, to.port, 0, int(zone)
        return (f"{_MAPPED}{host}" if self._mapped and ":" not in host else host), to.port

    async def writable(self) -> None:
        """Wait until `send` may take more."""
        await trio.lowlevel.wait_writable(self._raw)

    def close(self) -> None:
        """Free it."""
        self._socket.close()

    def _address(self, raw: tuple[object, ...]) -> Address:
        """The address as people write it; the same object for the same sender, mostly."""
        known = self._addresses.get(raw)
        if known is None:
            host, port = str(raw[0]), raw[1]
            assert isinstance(port, int)
            zone = f"%{raw[3]}" if len(raw) > 3 and raw[3] else ""
            known = Address(host.removeprefix(_MAPPED) + zone, port)
            if len(self._addresses) >= _ADDRESSES_CACHED_MAX:
                self._addresses.clear()
            self._addresses[raw] = known
        return known


def _asked(bound: socket.socket, level: int, option: int, value: int) -> bool:
    """Whether the kernel does this for us."""
    try:
        bound.setsockopt(level, option, value)
    except OSError:
        return False
    return True
