"""Frames of a link's control stream, and the first of every other stream (mesh/SPEC.md, Frames).

    u32 length of what follows | u8 type | u8 flags (0) | body: one MessagePack array

The length is looked at before anything is kept, so a peer makes us hold one frame at most. Types
that are not known are skipped by whoever reads: a newer peer may say more than we understand.
"""

from dataclasses import dataclass
from enum import IntEnum

from core import codec, limits
from core.errors import FormatError, LimitExceeded

LENGTH_BYTES = 4
_HEAD_BYTES = 2


class FrameType(IntEnum):
    """What a frame is."""

    HELLO = 0x01  # [hello, signature]            AUTH, first in each direction
    REFUSED = 0x02  # [word]                      instead of the second HELLO
    OPEN = 0x03  # [kind, arguments]              first on every other stream
    PAIR = 0x04  # a message of mesh/pairing.py      between a stranger and a member
    REQUEST = 0x10  # [number, name, arguments]
    ANSWER = 0x11  # [number, result]
    FAILURE = 0x12  # [number, word]
    NOTICE = 0x13  # [name, arguments]            no answer is expected
    PING = 0x14  # [wanted]                       wanted: the sender wants, or uses, this link
    PONG = 0x15  # [wanted]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `kind` may be a number this version has no name for."""

    kind: int
    body: bytes

    def row_untrusted(self, fields: int) -> codec.Row:
        """The body as an array of so many fields."""
        row = codec.decode_untrusted(self.body, bytes_max=limits.LINK_FRAME_BYTES_MAX)
        return codec.as_row(row, fields, "the frame")


def encode(kind: FrameType, *fields: object) -> bytes:
    """A frame as it travels; LimitExceeded if no peer would take it."""
    return encode_raw(kind, codec.encode(fields))


def encode_raw(kind: FrameType, body: bytes) -> bytes:
    """A frame around bytes that are an encoded array already."""
    length = _HEAD_BYTES + len(body)
    if length > limits.LINK_FRAME_BYTES_MAX:
        raise LimitExceeded(f"a frame of {length} bytes")
    return length.to_bytes(LENGTH_BYTES) + bytes([kind, 0]) + body


def length_untrusted(head: bytes, bytes_max: int) -> int:
    """How many bytes follow the length; nobody may use more than `bytes_max`."""
    length = int.from_bytes(head)
    if length > bytes_max:
        raise LimitExceeded(f"a frame of {length} bytes where {bytes_max} are allowed")
    if length < _HEAD_BYTES:
        raise FormatError("a frame without a type")
    return length


def read_untrusted(data: bytes) -> Frame:
    """The frame in the bytes behind a length."""
    if len(data) < _HEAD_BYTES:
        raise FormatError("a frame without a type")
    if data[1]:
        raise FormatError("a frame with flags nobody knows")
    return Frame(data[0], data[_HEAD_BYTES:])
