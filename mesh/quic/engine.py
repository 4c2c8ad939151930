"""The seam behind which two QUIC engines work: bytes and `now` in, events and datagrams out.

    qh3        speaks version 1   a Rust core, fifteen times the speed; the default
    aioquic    speaks version 2   the reference; its congestion control is ours (mesh/quic/rate.py)

Each answers only its own version, so an endpoint knows by the first packet which engine to wake and
any pair of nodes can choose per path. What the engines do differently ends here: no other module
knows which one it drives.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from mesh.leaf import Leaf
from mesh.wire import Address

VERSION_1 = 0x00000001
VERSION_2 = 0x6B3343CF


class Kind(Enum):
    """Which engine, by the name people configure."""

    QH3 = "qh3"
    AIOQUIC = "aioquic"

    @property
    def version(self) -> int:
        """The one QUIC version it speaks here."""
        return VERSION_1 if self is Kind.QH3 else VERSION_2


@dataclass(frozen=True, slots=True)
class Terms:
    """What both engines are set up with."""

    alpns: tuple[str, ...]
    leaf: Leaf
    idle_s: float
    datagram_bytes: int  # the largest this side sends


class Ready(NamedTuple):
    """The handshake is over. Nothing is proved yet but that the peer holds the leaf's key."""

    alpn: str
    leaf: bytes  # DER of the responder's certificate; at the responder itself: empty


class Data(NamedTuple):
    """Bytes of a stream, in order."""

    stream: int
    data: bytes
    fin: bool


class Reset(NamedTuple):
    """The peer gave up sending on a stream."""

    stream: int
    code: int


class Stopped(NamedTuple):
    """The peer does not want more of a stream."""

    stream: int
    code: int


class IdIssued(NamedTuple):
    """The peer may from now on address the connection by this."""

    cid: bytes


class IdRetired(NamedTuple):
    """The peer will not use this any more."""

    cid: bytes


class Closed(NamedTuple):
    """The connection is over, for good."""

    code: int
    reason: str


Event = Ready | Data | Reset | Stopped | IdIssued | IdRetired | Closed


class Figures(NamedTuple):
    """What a connection knows of its path."""

    rtt_s: float
    lost: int  # packets deemed lost so far
    window_bytes: int  # congestion window
    in_flight_bytes: int


class Machine(Protocol):
    """One connection of either engine, sans-IO: nothing in it waits or reads a clock."""

    @property
    def kind(self) -> Kind:
        """Which engine this is."""

    @property
    def cid(self) -> bytes:
        """The first name the peer addresses it by."""

    @property
    def is_idle(self) -> bool:
        """Whether no packet of the peer has been understood yet."""

    @property
    def peer(self) -> Address | None:
        """Where its datagrams go to at present; it may move."""

    def receive(self, data: bytes, segment_bytes: int, source: Address, now: float) -> None:
        """Take datagrams of one sender, in the shape of mesh.wire.Arrival."""

    def outgoing(self, now: float) -> Sequence[tuple[bytes, Address]]:
        """Datagrams that may go now; if they are a whole train or more, ask again."""

    def events(self) -> Iterator[Event]:
        """What happened since the last time."""

    def timer(self) -> float | None:
        """When `tick` wants to be called."""

    def tick(self, now: float) -> None:
        """The time has come."""

    def open_stream(self, *, one_way: bool = False) -> int:
        """The number of a new stream; the peer learns of it by its first bytes."""

    def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        """Queue bytes of a stream, within the credit the peer gave (mesh/quic/flow.py)."""

    def reset(self, stream: int, code: int) -> None:
        """Give up sending on a stream."""

    def stop(self, stream: int, code: int) -> None:
        """Tell the peer that no more of a stream is wanted."""

    def close(self, code: int, reason: str) -> None:
        """End the connection; what tells the peer is in `outgoing`."""

    def figures(self) -> Figures:
        """What it knows of its path."""


class Engine(Protocol):
    """Makes connections."""

    @property
    def kind(self) -> Kind:
        """Which engine this is."""

    def dial(self, terms: Terms, to: Address, now: float) -> Machine:
        """A connection whose first datagrams are in `outgoing`."""

    def answer(self, terms: Terms, original_cid: bytes, retry_cid: bytes | None) -> Machine:
        """What becomes of a first packet: its destination, or the original one before a Retry."""

    def retry(self, packet: "FirstPacket", retry_cid: bytes, token: bytes) -> bytes:
        """The packet that asks a stranger to prove its address."""


class FirstPacket(NamedTuple):
    """The header of an Initial."""

    version: int
    destination: bytes
    source: bytes
    token: bytes
