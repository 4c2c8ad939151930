"""Where nodes can be found: a signed record of each, passed on by all (mesh/SPEC.md, Records).

    payload = [1, mesh, node, seq, created_ms, ttl_s, engines, [[kind, address]...], offer_bytes]
    record  = [payload bytes, signature of the node over SIG("address-record", payload)]

A record replaces those of lower seq; seq is the clock at its making or one more than the last that
is known, be it from others: so a node that lost its files, or whose clock was put back, does not
fall behind itself. It ends ttl_s after its making, whoever passes it on. What a record says is its
node's claim: who really is there, AUTH finds out. So is its offer, of room for others.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Self

from core import codec, limits
from core.crypto import SigningKey, verify
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat
from core.ids import MeshId, NodeId
from core.labels import SignLabel
from mesh import addresses
from mesh.hello import Engines
from mesh.roster import Roster
from mesh.wire import Address

_VERSION = 1
_FIELDS = 9
_NEAR_BITS = {4: 24, 6: 64}  # of an address: roughly one local network


class PlaceKind(IntEnum):
    """How a node knows of an address of its own."""

    LOCAL = 1  # of one of its interfaces
    SEEN = 2  # where peers see it
    SET = 3  # by its owner


class Place(NamedTuple):
    """One address of a node."""

    kind: PlaceKind
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Where one node says it can be found; `data` is the form that travels."""

    mesh: MeshId
    node: NodeId
    seq: int
    created_ms: int
    ttl_s: int
    engines: Engines
    places: tuple[Place, ...]
    offer_bytes: int  # what the node would keep for others
    data: bytes

    @classmethod
    def make(  # noqa: PLR0913 - a record, field by field
        cls,
        key: SigningKey,
        mesh: MeshId,
        places: Iterable[Place],
        engines: Engines,
        *,
        now_ms: int,
        last_seq: int = 0,
        offer_bytes: int = 0,
    ) -> Self:
        """A record of our own, newer than the last."""
        seq = max(now_ms, last_seq + 1)
        some = kept_places(places)
        rows = [[int(place.kind), addresses.packed(place.address)] for place in some]
        ttl_s = limits.RECORD_TTL_SECONDS
        times = (seq, now_ms, ttl_s)
        payload = codec.encode(
            [_VERSION, mesh, key.public, *times, int(engines), rows, offer_bytes]
        )
        signature = key.sign(SignLabel.ADDRESS_RECORD, payload)
        return cls.read_untrusted(codec.encode([payload, signature]))

    @classmethod
    def open_untrusted(cls, data: bytes) -> Self:
        """A record whose signature holds, under the node it names."""
        record = cls.read_untrusted(data)
        record.check_untrusted()
        return record

    @classmethod
    def read_untrusted(cls, data: bytes) -> Self:
        """What a record says; its signature is not looked at yet."""
        outer = codec.decode_untrusted(data, bytes_max=limits.RECORD_BYTES_MAX)
        payload, signature = codec.as_row(outer, 2, "a record")
        payload = codec.as_bytes(payload, "its payload", size_max=limits.RECORD_BYTES_MAX)
        codec.as_bytes(signature, "its signature", size=limits.SIGNATURE_BYTES)
        row = codec.decode_untrusted(payload)
        row = codec.as_versioned_row(row, _VERSION, _FIELDS, "a record")
        ttl_s = codec.as_uint(row[5], 32, "its time")
        if ttl_s > limits.RECORD_TTL_SECONDS_MAX:
            raise LimitExceeded("a record that wants to live too long")
        return cls(
            mesh=MeshId.read_untrusted(row[1]),
            node=NodeId.read_untrusted(row[2]),
            seq=codec.as_uint(row[3], 63, "its number"),
            created_ms=codec.as_uint(row[4], 63, "its making"),
            ttl_s=ttl_s,
            engines=Engines(codec.as_uint(row[6], 32, "the engines")),
            places=_places_untrusted(row[7]),
            offer_bytes=codec.as_uint(row[8], 63, "the offer"),
            data=data,
        )

    def check_untrusted(self) -> None:
        """IntegrityError if its node has not signed it."""
        payload, signature = codec.decode_untrusted(self.data)
        payload = codec.as_bytes(payload, "its payload", size_max=limits.RECORD_BYTES_MAX)
        signature = codec.as_bytes(signature, "its signature", size=limits.SIGNATURE_BYTES)
        verify(self.node, SignLabel.ADDRESS_RECORD, payload, signature)

    def ends_ms(self) -> int:
        """When it counts no more."""
        return self.created_ms + self.ttl_s * 1_000


def kept_places(places: Iterable[Place]) -> tuple[Place, ...]:
    """Those that mean something to others, at most as many as fit; what the owner set comes first.

    In the order in which they stand in a record.
    """
    found: dict[Place, None] = {}
    for place in places:
        address = addresses.read_untrusted(addresses.packed(place.address), "the place")
        if address is not None and address.port and not _is_of_one_link(address.host):
            found[Place(place.kind, address)] = None
    ordered = sorted(found, key=lambda place: (-place.kind, place.address))
    return tuple(ordered[: limits.RECORD_PLACES_MAX])


def _is_of_one_link(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    return ip.version == 6 and ip.is_link_local  # nothing without the interface


def _places_untrusted(value: object) -> tuple[Place, ...]:
    places = []
    for row in codec.as_rows(value, limits.RECORD_PLACES_MAX, "the places"):
        kind, packed = codec.as_row(row, 2, "a place")
        number = codec.as_uint(kind, 8, "the kind of a place")
        address = addresses.read_untrusted(packed, "the place")
        if address is None or not address.port:
            raise FormatError("a place that is nowhere")
        if number in set(PlaceKind):
            places.append(Place(PlaceKind(number), address))
    return tuple(places)


class RecordBook:
    """The newest record of each member; never more of them than there are members."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._records: dict[NodeId, Record] = {}
        self.contradictions: dict[NodeId, bytes] = {}  # the other record of the same number

    def __len__(self) -> int:
        return len(self._records)

    def take_untrusted(self, data: bytes, now_ms: int) -> Record | None:
        """A record that is news, or None; FormatError or IntegrityError if it is no good.

        The signature is looked at last: what is not news costs next to nothing.
        """
        try:
            record = Record.read_untrusted(data)
        except NewerFormat:  # for others
            return None
        if record.mesh != self._roster.mesh_id:
            raise FormatError("a record of another mesh")
        latest_ms = now_ms + limits.RECORD_EARLY_MS_MAX
        is_early = max(record.created_ms, record.seq) > latest_ms  # or our clock is late
        known = self._records.get(record.node)
        is_old = record.ends_ms() <= now_ms or (known is not None and record.seq < known.seq)
        is_known = known is not None and record.data == known.data
        if is_early or is_old or is_known or self._roster.member(record.node) is None:
            return None
        record.check_untrusted()
        if known is not None and record.seq == known.seq:
            self.contradictions[record.node] = record.data
            return None
        self._records[record.node] = record
        return record

    def put(self, record: Record) -> None:
        """A record of our own."""
        self._records[record.node] = record

    def of(self, node: NodeId, now_ms: int) -> Record | None:
        """Where a member is, as far as is known now."""
        record = self._records.get(node)
        if record is None or record.ends_ms() <= now_ms or self._roster.member(node) is None:
            return None
        return record

    def numbers(self, now_ms: int) -> list[tuple[NodeId, int]]:
        """What is held, for a peer to compare: node and seq, in the order of nodes."""
        self._tidy(now_ms)
        return sorted((record.node, record.seq) for record in self._records.values())

    def newer_than_untrusted(
        self, value: object, now_ms: int, after: bytes = b"", until: bytes = b""
    ) -> list[bytes]:
        """The records that whoever holds these numbers misses, of nodes after one until another."""
        theirs: dict[bytes, int] = {}
        for row in codec.as_rows(value, limits.RECORD_NUMBERS_MAX, "the numbers of records"):
            node, seq = codec.as_row(row, 2, "the number of a record")
            theirs[NodeId.read_untrusted(node)] = codec.as_uint(seq, 63, "a number")
        return [
            self._records[node].data
            for node, seq in self.numbers(now_ms)
            if after < node and (not until or node <= until) and seq > theirs.get(node, -1)
        ]

    def dump(self, now_ms: int) -> bytes:
        """What is held, for a file; it is checked again when it is read."""
        self._tidy(now_ms)
        return codec.encode([_VERSION, [record.data for record in self._records.values()]])

    def load_untrusted(self, data: bytes, now_ms: int) -> None:
        """Take what a file held; what does not hold any more is left out."""
        row = codec.decode_untrusted(data)
        (_, records) = codec.as_versioned_row(row, _VERSION, 2, "a book of records")
        for record in codec.as_rows(records, limits.RECORDS_MAX, "the records"):
            try:
                size_max = limits.RECORD_BYTES_MAX
                self.take_untrusted(codec.as_bytes(record, "it", size_max=size_max), now_ms)
            except (FormatError, IntegrityError):
                continue

    def _tidy(self, now_ms: int) -> None:
        """Forget what ended, and who is no member."""
        for node, record in list(self._records.items()):
            if record.ends_ms() <= now_ms or self._roster.member(node) is None:
                del self._records[node]
                self.contradictions.pop(node, None)


def in_order(
    places: Sequence[Place], own: Iterable[Address], worked: Address | None
) -> list[Address]:
    """The addresses to try: what worked last, this network's, then public ones, IPv6 first."""
    networks = {_network(address.host) for address in own}

    def rank(place: Place) -> tuple[bool, bool, bool, bool]:
        host = place.address.host
        near = _network(host) in networks
        return (place.address != worked, not near, place.address.is_private, ":" not in host)

    unique: dict[Address, None] = {}
    for place in sorted(places, key=rank):
        unique[place.address] = None
    return list(unique)


def _network(host: str) -> object:
    """Roughly the local network of an address; a name is one by itself."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return ipaddress.ip_network((ip, _NEAR_BITS[ip.version]), strict=False)
