"""Addresses inside messages: `ip || u16 port`, 6 or 18 bytes; no bytes where there is none.

What a peer says of an address is its claim and nothing more.
"""

import ipaddress

from core.errors import FormatError
from mesh.wire import Address

_PORT_BYTES = 2
_IP_BYTES = (4, 16)


def packed(address: Address | None) -> bytes:
    """As it travels. An IPv4 address has one form; names, and zones of this machine, stay here."""
    if address is None:
        return b""
    try:
        ip = ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError:  # a wire that has no IP addresses
        return b""
    return _plain(ip).packed + address.port.to_bytes(_PORT_BYTES)


def read_untrusted(value: object, name: str) -> Address | None:
    """The address in a decoded field."""
    if value == b"":
        return None
    if not isinstance(value, bytes) or len(value) - _PORT_BYTES not in _IP_BYTES:
        raise FormatError(f"{name} is not an address")
    ip = ipaddress.ip_address(value[:-_PORT_BYTES])
    if ip is not _plain(ip):
        raise FormatError(f"{name} is an IPv4 address in disguise")
    return Address(str(ip), int.from_bytes(value[-_PORT_BYTES:]))


def _plain(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip
