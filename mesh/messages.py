"""What sealed datagrams say: one small class per type, each with its number.

    1  PING       []                   2  PONG      [seen]
    3  MTU        [pad]                4  MTU_OK    [bytes]
    5  PROBE      [for, views]         6  PROBE_OK  [proof, views]
    7  PROBE_FOR  [node, txid, views]  8  PROBED    [proof, views]
    9  VIEWS      [views]              views = [[node, state]...]

A room that needs more types gives its own classes to mesh/datagrams.py; a number is used once in
the whole program. An answer names the class it answers, so a reply to one thing is never taken for
a reply to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, NamedTuple, Protocol, Self

from core import codec, limits
from core.ids import NodeId
from mesh import addresses
from mesh.wire import Address

TXID_BYTES = 8


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

    TYPE: ClassVar[int] = 2
    ANSWERS: ClassVar[type[Body] | None] = Ping
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_BYTES_MAX

    def row(self) -> Sequence[object]:
        """The address."""
        return (addresses.packed(self.seen),)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """The address."""
        (seen,) = codec.as_row(row, 1, "a PONG")
        return cls(addresses.read_untrusted(seen, "the address seen"))


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


# --- who is alive (mesh/swim.py) ------------------------------------------------------------------


class State(IntEnum):
    """How somebody looks from here."""

    UNKNOWN = 0  # since our start nobody looked; never told
    ALIVE = 1
    SUSPECT = 2
    DEAD = 3  # of oneself: I am leaving


class View(NamedTuple):
    """How a member looks to whoever says so."""

    node: NodeId
    state: State


Views = tuple[View, ...]


class Behalf(NamedTuple):
    """For whom a PROBE asks: the answer brings a word sealed for this one."""

    node: NodeId
    txid: bytes  # of its own question


@dataclass(frozen=True, slots=True)
class Probe:
    """A question: are you alive."""

    behalf: Behalf | None = None
    views: Views = ()

    TYPE: ClassVar[int] = 5
    ANSWERS: ClassVar[type[Body] | None] = None
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_BYTES_MAX

    def row(self) -> Sequence[object]:
        """Both; nobody is an empty array."""
        return (self.behalf or (), self.views)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """Both."""
        behalf, views = codec.as_row(row, 2, "a PROBE")
        return cls(None if behalf == () else _behalf_untrusted(behalf), _views_untrusted(views))


@dataclass(frozen=True, slots=True)
class ProbeOk:
    """I am."""

    proof: bytes = b""  # a whole datagram, for whom the PROBE was
    views: Views = ()

    TYPE: ClassVar[int] = 6
    ANSWERS: ClassVar[type[Body] | None] = Probe
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_BYTES_MAX

    def row(self) -> Sequence[object]:
        """Both."""
        return (self.proof, self.views)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """Both."""
        return cls(*_proof_untrusted(row, "a PROBE_OK"))


@dataclass(frozen=True, slots=True)
class ProbeFor:
    """A question: can you reach this member; I cannot."""

    behalf: Behalf  # whom to reach, and our own question to it that waits
    views: Views = ()

    TYPE: ClassVar[int] = 7
    ANSWERS: ClassVar[type[Body] | None] = None
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_BYTES_MAX

    def row(self) -> Sequence[object]:
        """All."""
        return (*self.behalf, self.views)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """All."""
        *behalf, views = codec.as_row(row, 3, "a PROBE_FOR")
        return cls(_behalf_untrusted(tuple(behalf)), _views_untrusted(views))


@dataclass(frozen=True, slots=True)
class Probed:
    """I could, and here is its word for you; or, without one, I cannot reach it either."""

    proof: bytes = b""
    views: Views = ()

    TYPE: ClassVar[int] = 8
    ANSWERS: ClassVar[type[Body] | None] = ProbeFor
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_BYTES_MAX

    def row(self) -> Sequence[object]:
        """Both."""
        return (self.proof, self.views)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """Both."""
        return cls(*_proof_untrusted(row, "a PROBED"))


@dataclass(frozen=True, slots=True)
class Told:
    """How some members look to me since a moment ago."""

    views: Views

    TYPE: ClassVar[int] = 9
    ANSWERS: ClassVar[type[Body] | None] = None
    BYTES_MAX: ClassVar[int] = limits.DATAGRAM_BYTES_MAX

    def row(self) -> Sequence[object]:
        """The views."""
        return (self.views,)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> Self:
        """The views."""
        (views,) = codec.as_row(row, 1, "VIEWS")
        return cls(_views_untrusted(views))


def _views_untrusted(value: object) -> Views:
    found = []
    for row in codec.as_rows(value, limits.VIEWS_TOLD_MAX, "the views"):
        node, number = codec.as_row(row, 2, "a view")
        node, number = NodeId.read_untrusted(node), codec.as_uint(number, 8, "the state")
        if State.ALIVE <= number <= State.DEAD:  # others may come one day
            found.append(View(node, State(number)))
    return tuple(found)


def _behalf_untrusted(value: object) -> Behalf:
    node, txid = codec.as_row(value, 2, "for whom to ask")
    return Behalf(NodeId.read_untrusted(node), codec.as_bytes(txid, "a txid", size=TXID_BYTES))


def _proof_untrusted(row: codec.Row, name: str) -> tuple[bytes, Views]:
    proof, views = codec.as_row(row, 2, name)
    size_max = limits.PROBE_PROOF_BYTES_MAX
    return codec.as_bytes(proof, "the proof", size_max=size_max), _views_untrusted(views)


TYPES: tuple[type[Body], ...] = (
    *(Ping, Pong, Mtu, MtuOk),
    *(Probe, ProbeOk, ProbeFor, Probed, Told),
)
