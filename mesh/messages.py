"""What sealed datagrams say: one small class per type, each with its number.

    1  PING     []              2  PONG     [seen, load]
    3  MTU      [pad]           4  MTU_OK   [bytes]

A room that needs more types gives its own classes to mesh/datagrams.py; a number is used once in
the whole program. An answer names the class it answers, so a reply to one thing is never taken for
a reply to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from core import codec, limits
from core.errors import FormatError
from mesh import addresses
from mesh.wire import Address

LOAD_MAX = 100


class Body(Protocol):
    """What one type of message says."""

    TYPE: ClassVar[int]
    ANSWERS: ClassVar["type[Body] | None"]
    BYTES_MAX: ClassVar[int]  # of the whole datagram

    def row(self) -> Sequence[object]:
        """Its fields."""

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """Its fields as a member sent them."""


@dataclass(frozen=True, slots=True)
class Ping:
    """A question: are you there, what time is it, and where do you see me."""

    TYPE: ClassVar[int] = 1
    ANSWERS: ClassVar[type[Body] | None] = None
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_BYTES_MAX

    def row(self) -> Sequence[object]:
        """Nothing."""
        return ()

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """Nothing is said in it."""
        codec.as_row(row, 0, "a PING")
        return cls()


@dataclass(frozen=True, slots=True)
class Pong:
    """Here I am; this is where your PING came from."""

    seen: Address | None
    load: int  # percent of what this node can do

    TYPE: ClassVar[int] = 2
    ANSWERS: ClassVar[type[Body] | None] = Ping
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_BYTES_MAX

    def row(self) -> Sequence[object]:
        """Both."""
        return (addresses.packed(self.seen), self.load)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """Both."""
        seen, load = codec.as_row(row, 2, "a PONG")
        percent = codec.as_uint(load, 8, "the load")
        if percent > LOAD_MAX:
            raise FormatError("a load above all")
        return cls(addresses.read_untrusted(seen, "the address seen"), percent)


@dataclass(frozen=True, slots=True)
class Mtu:
    """A question: whether a datagram of this size arrives."""

    pad: bytes

    TYPE: ClassVar[int] = 3
    ANSWERS: ClassVar[type[Body] | None] = None
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_PROBE_BYTES_MAX

    def row(self) -> Sequence[object]:
        """What makes it as long as it is."""
        return (self.pad,)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """What makes it as long as it is."""
        (pad,) = codec.as_row(row, 1, "an MTU probe")
        size_max = limits.DATAGRAM_PROBE_BYTES_MAX
        return cls(codec.as_bytes(pad, "the padding", size_max=size_max))


@dataclass(frozen=True, slots=True)
class MtuOk:
    """A datagram of this size arrived."""

    size_bytes: int

    TYPE: ClassVar[int] = 4
    ANSWERS: ClassVar[type[Body] | None] = Mtu
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_BYTES_MAX

    def row(self) -> Sequence[object]:
        """The size."""
        return (self.size_bytes,)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """The size."""
        (size,) = codec.as_row(row, 1, "an MTU answer")
        return cls(codec.as_uint(size, 16, "the size"))


TYPES: tuple[type[Body], ...] = (Ping, Pong, Mtu, MtuOk)
