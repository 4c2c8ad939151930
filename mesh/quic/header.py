"""What an endpoint reads of a QUIC packet before any engine sees it: whose it is.

    long header    1 form(1) fixed(1) type(2) ...  | u32 version | u8 len dcid | u8 len scid | ...
    Initial        ... | varint len token | ...      types are numbered differently in version 2
    short header   0 fixed(1) ...                  | dcid, eight bytes: we choose them
    sealed         the fixed bit is clear: not QUIC at all (mesh/datagrams.py)

Both engines keep the fixed bit set, as RFC 9000 says; nothing here raises on hostile bytes.
"""

from core import limits
from mesh.quic.engine import VERSION_1, VERSION_2, FirstPacket

CID_BYTES = 8
INITIAL_BYTES_MIN = 1_200  # a shorter datagram does not open a connection (RFC 9000, 14.1)
_LONG = 0x80
_FIXED = 0x40
_CID_BYTES_MAX = 20
_INITIAL_TYPE = {VERSION_1: 0, VERSION_2: 1}


def is_quic(data: bytes) -> bool:
    """Whether a datagram is for an engine at all."""
    return len(data) > CID_BYTES and bool(data[0] & _FIXED)


def is_train(data: bytes, segment_bytes: int) -> bool:
    """Whether all datagrams that came together are for one connection, and past its handshake."""
    cid = data[1 : 1 + CID_BYTES]
    return all(
        data[start] & (_LONG | _FIXED) == _FIXED and data[start + 1 : start + 1 + CID_BYTES] == cid
        for start in range(0, len(data), segment_bytes)
    )


def destination_untrusted(data: bytes) -> bytes | None:
    """The connection id a packet is addressed to, or None if it has none of ours."""
    if not data[0] & _LONG:
        cid = data[1 : 1 + CID_BYTES]
        return cid if len(cid) == CID_BYTES else None
    length = data[5]  # there is one: `is_quic`
    cid = data[6 : 6 + length]
    return cid if len(cid) == length <= _CID_BYTES_MAX else None


def first_packet_untrusted(data: bytes) -> FirstPacket | None:
    """The header of an Initial of a version we speak, in a datagram that may open a connection."""
    if len(data) < INITIAL_BYTES_MIN or data[0] & (_LONG | _FIXED) != _LONG | _FIXED:
        return None
    version = int.from_bytes(data[1:5])
    if _INITIAL_TYPE.get(version) != data[0] >> 4 & 3:
        return None
    destination, at = _prefixed(data, 5)
    source, at = _prefixed(data, at)
    if not CID_BYTES <= len(destination) <= _CID_BYTES_MAX or len(source) > _CID_BYTES_MAX:
        return None
    token_length, at = _varint(data, at)
    if token_length > limits.RETRY_TOKEN_BYTES_MAX:
        return None
    return FirstPacket(version, destination, source, data[at : at + token_length])


def sealed_part_untrusted(data: bytes) -> tuple[int, int]:
    """Where the packet number of a first packet begins, and where it says that it ends itself."""
    _, at = _prefixed(data, 5)
    _, at = _prefixed(data, at)
    token_length, at = _varint(data, at)
    length, at = _varint(data, at + token_length)
    return at, at + length


def _prefixed(data: bytes, at: int) -> tuple[bytes, int]:
    # The datagram has INITIAL_BYTES_MIN: neither the ids nor the lengths reach its end.
    end = at + 1 + data[at]
    return data[at + 1 : end], end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    length = 1 << (data[at] >> 6)
    value = int.from_bytes(data[at : at + length])
    return value & ((1 << (8 * length - 2)) - 1), at + length
