"""The offer of a lane, and the table of open ones (mesh/SPEC.md, Lanes). Pure.

    offer    [1, lane_id 16, token 32, u8 lifetime_s, ways]     travels over the link
    way      [1, address, leaf_hash]    TLS over TCP
             [2, path]                  a Unix socket
             [3, node]                  the same process
    preface  lane_id || token           the first bytes of the lane, from who opens it
    answer   DK("lane", token || lane_id)    the first bytes back: whoever offered it is here

One offer is one lane, however many ways lead to it, and its token is gone when it was shown once,
when its time is over, and when the link ends.
"""

import ipaddress
import os
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import ClassVar

from core import codec, limits
from core.crypto import Entropy, equal
from core.errors import FormatError
from core.hashing import derive
from core.ids import NodeId
from core.labels import Label
from core.secret import Secret
from mesh import addresses
from mesh.errors import LinkError
from mesh.wire import Address

_VERSION = 1
PREFACE_BYTES = limits.LANE_ID_BYTES + limits.LANE_TOKEN_BYTES
ANSWER_BYTES = limits.KEY_BYTES
SOCKET_NAME = "lanes.sock"  # no other name is ever connected to because a peer said so


class Kind(IntEnum):
    """What a lane runs over; 4 is kept for plain TCP within a tunnel."""

    TCP = 1
    UNIX = 2
    MEMORY = 3

    @property
    def word(self) -> str:
        """As people read it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class TcpWay:
    """TLS 1.3 over TCP, with the certificate of this hash and no other."""

    kind: ClassVar[Kind] = Kind.TCP
    address: Address
    leaf_hash: bytes

    def row(self) -> codec.Row:
        """As it travels."""
        return (int(self.kind), addresses.packed(self.address), self.leaf_hash)

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> "TcpWay":
        """Only what can be the address of one machine."""
        _, place, leaf_hash = codec.as_row(row, 3, "the way to a TCP lane")
        address = addresses.read_untrusted(place, "the address of a lane")
        if address is None or address.port == 0 or not _is_of_one_machine(address.host):
            raise FormatError("a lane at an address nobody can have")
        return cls(address, codec.as_bytes(leaf_hash, "leaf_hash", size=limits.HASH_BYTES))


@dataclass(frozen=True, slots=True)
class UnixWay:
    """A Unix socket on the same machine."""

    kind: ClassVar[Kind] = Kind.UNIX
    path: str

    def row(self) -> codec.Row:
        """As it travels."""
        return (int(self.kind), os.fsencode(self.path))

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> "UnixWay":
        """Only sockets of lanes: a peer does not get us to write into others."""
        _, raw = codec.as_row(row, 2, "the way to a Unix lane")
        path = os.fsdecode(
            codec.as_bytes(raw, "the path of a lane", size_max=limits.LANE_PATH_BYTES_MAX)
        )
        is_plain = path.startswith("/") and "\0" not in path and os.path.normpath(path) == path
        if not is_plain or os.path.basename(path) != SOCKET_NAME:  # noqa: PTH119 - text, no file
            raise FormatError("a lane at a path that is not one of lanes")
        return cls(path)


@dataclass(frozen=True, slots=True)
class MemoryWay:
    """A node in this very process."""

    kind: ClassVar[Kind] = Kind.MEMORY
    node: NodeId

    def row(self) -> codec.Row:
        """As it travels."""
        return (int(self.kind), bytes(self.node))

    @classmethod
    def read_untrusted(cls, row: codec.Row) -> "MemoryWay":
        """The name of the node."""
        _, node = codec.as_row(row, 2, "the way to a lane in memory")
        return cls(NodeId.read_untrusted(node))


Way = TcpWay | UnixWay | MemoryWay
_NEAREST_FIRST = (Kind.MEMORY, Kind.UNIX, Kind.TCP)
_READERS: dict[Kind, Callable[[codec.Row], Way]] = {
    Kind.TCP: TcpWay.read_untrusted,
    Kind.UNIX: UnixWay.read_untrusted,
    Kind.MEMORY: MemoryWay.read_untrusted,
}


def nearest_first(ways: Iterable[Way]) -> list[Way]:
    """Within the process, then on the machine, then over the network."""
    return sorted(ways, key=lambda way: _NEAREST_FIRST.index(way.kind))


def _is_of_one_machine(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    # A link-local address of IPv6 means nothing without the interface, and that does not travel.
    unusable = ip.is_multicast or ip.is_unspecified or (ip.version == 6 and ip.is_link_local)
    return not unusable and host != "255.255.255.255"


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """One lane to be had."""

    lane_id: bytes
    token: Secret
    lifetime_s: int
    ways: tuple[Way, ...]

    @classmethod
    def make(cls, ways: Iterable[Way], entropy: Entropy) -> "Offer":
        """A new one, of the usual lifetime."""
        lane_id = entropy(limits.LANE_ID_BYTES)
        token = Secret(entropy(limits.LANE_TOKEN_BYTES))
        some = tuple(nearest_first(ways)[: limits.LANE_WAYS_MAX])
        return cls(lane_id, token, limits.LANE_OFFER_SECONDS, some)

    def row(self) -> codec.Row:
        """As it travels, over the link and nowhere else: it holds the token."""
        ways = tuple(way.row() for way in self.ways)
        return (_VERSION, self.lane_id, self.token.reveal(), self.lifetime_s, ways)

    @classmethod
    def read_untrusted(cls, value: object) -> "Offer":
        """The offer in a decoded field; ways of kinds nobody knows here are left out."""
        if not isinstance(value, tuple):
            raise FormatError("the offer of a lane is not an array")
        _, lane_id, token, lifetime, ways = codec.as_versioned_row(
            value, _VERSION, 5, "the offer of a lane"
        )
        lifetime_s = codec.as_uint(lifetime, 8, "the lifetime of an offer")
        if not 1 <= lifetime_s <= limits.LANE_OFFER_SECONDS:
            raise FormatError(f"the offer of a lane for {lifetime_s} seconds")
        rows = codec.as_rows(ways, limits.LANE_WAYS_MAX, "the ways to a lane")
        found = (_read_way_untrusted(row) for row in rows)
        return cls(
            codec.as_bytes(lane_id, "lane_id", size=limits.LANE_ID_BYTES),
            Secret(codec.as_bytes(token, "the token", size=limits.LANE_TOKEN_BYTES)),
            lifetime_s,
            tuple(way for way in found if way is not None),
        )

    def preface(self) -> bytes:
        """What opens the lane."""
        return self.lane_id + self.token.reveal()

    def answer(self) -> bytes:
        """What whoever made the offer says to the preface."""
        return derive(Label.LANE, self.token.reveal() + self.lane_id, ANSWER_BYTES)


def _read_way_untrusted(row: object) -> Way | None:
    if not isinstance(row, tuple) or not row:
        raise FormatError("the way to a lane is not an array")
    number = codec.as_uint(row[0], 8, "the kind of a lane")
    if number not in set(Kind):
        return None
    return _READERS[Kind(number)](row)


# --- the table of open offers ---------------------------------------------------------------------


class Refusal(Enum):
    """Why somebody at a door was sent away. They are told nothing."""

    ANOTHER_USER = auto()  # on this machine
    UNWANTED = auto()  # nothing is offered that way
    CROWDED = auto()  # others came after and there was no room
    TOO_SLOW = auto()  # no token in time
    BROKEN = auto()  # left, or spoke something else
    WRONG_TOKEN = auto()  # or of a lane that is open, was never offered, or of a link that ended
    EXPIRED = auto()


@dataclass(frozen=True, slots=True)
class _Open:
    link: Hashable
    offer: Offer
    expires: float


class Offers:
    """The offers whose lanes are not open yet. `now` is any clock that runs evenly, in seconds."""

    def __init__(self) -> None:
        self._open: dict[bytes, _Open] = {}

    def add(self, link: Hashable, offer: Offer, now: float) -> None:
        """Wait for this lane; LinkError if too many are on offer to the link."""
        self._forget_old(now)
        if sum(one.link == link for one in self._open.values()) >= limits.LANE_OFFERS_MAX:
            raise LinkError(f"{limits.LANE_OFFERS_MAX} lanes are on offer over this link already")
        self._open[offer.lane_id] = _Open(link, offer, now + offer.lifetime_s)

    def wants(self, kind: Kind, now: float) -> bool:
        """Whether anybody may come this way now."""
        return any(now < one.expires and _leads(one.offer, kind) for one in self._open.values())

    def take(self, preface: bytes, kind: Kind, now: float) -> tuple[Hashable, Offer] | Refusal:
        """The link and the offer this preface belongs to, once; or why not."""
        lane_id, token = preface[: limits.LANE_ID_BYTES], preface[limits.LANE_ID_BYTES :]
        one = self._open.get(lane_id)
        expected = one.offer.token.reveal() if one else bytes(limits.LANE_TOKEN_BYTES)
        if not equal(token, expected) or one is None or not _leads(one.offer, kind):
            return Refusal.WRONG_TOKEN
        del self._open[lane_id]
        return (one.link, one.offer) if now < one.expires else Refusal.EXPIRED

    def withdraw(self, lane_id: bytes) -> None:
        """Nobody waits for this lane any more."""
        self._open.pop(lane_id, None)

    def drop(self, link: Hashable) -> None:
        """The link has ended, and with it what was offered over it."""
        for lane_id in [key for key, one in self._open.items() if one.link == link]:
            del self._open[lane_id]

    def _forget_old(self, now: float) -> None:
        # Long after: until then a late one is told apart from one that was never offered.
        grace = limits.LANE_OFFER_SECONDS
        for lane_id in [key for key, one in self._open.items() if now >= one.expires + grace]:
            del self._open[lane_id]

    def __len__(self) -> int:
        return len(self._open)


def _leads(offer: Offer, kind: Kind) -> bool:
    return any(way.kind is kind for way in offer.ways)
