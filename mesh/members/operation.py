"""One operation: what a device says about the mesh, signed, and hung below what it knew.

    operation = [payload (bin), signature (bin 64) by the author]       ("member-operation")
    payload   = [1, mesh_id, type u16, author, seq u32, prev, parents[<= 8], lamport u32,
                 wall_ms, body, cosigns[<= 16]]
    cosign    = [user, node | empty, signature by that node, or by the user key]  ("member-cosign")
    proposal  = [1, mesh_id, type, parents, body]                       what is cosigned
    id        = H("member operation", operation as received)

`seq` and `prev` chain the operations of one author, `parents` are the newest operations it knew.
The genesis has an empty mesh_id: the mesh is named after it. Cosignatures do not depend on who
publishes them or when, but on the parents: an operation with cosignatures knows what lies below
its parents, and nothing else (mesh/members/opset.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from core import codec, hashing, limits
from core.crypto import SigningKey, verify
from core.errors import FormatError, LimitExceeded
from core.ids import MeshId, NodeId, UserId
from core.labels import Label, SignLabel
from mesh.members import bodies, derive
from mesh.members.bodies import Body, Context, Kind

_VERSION = 1
_FIELDS = 11
_PROPOSAL_FIELDS = 5
_LARGE = {Kind.GENESIS, Kind.ADMIT, Kind.ADD_DEVICE}
_BYTES_MAX = (
    limits.ADMISSION_BYTES_MAX + limits.OPERATION_COSIGNS_MAX * limits.OPERATION_COSIGN_BYTES_MAX
)


@dataclass(frozen=True, slots=True)
class Cosign:
    """A user stands for an operation of somebody else: by its key, or by one of its devices."""

    user: UserId
    node: NodeId | None
    signature: bytes

    def row(self) -> tuple[object, ...]:
        """As it travels."""
        return (self.user, self.node or b"", self.signature)

    @classmethod
    def read_untrusted(cls, value: object, words: bytes) -> Self:
        """Whoever signed these words."""
        row = codec.as_row(value, 3, "a cosignature")
        user = UserId.read_untrusted(row[0])
        node = None if row[1] == b"" else NodeId.read_untrusted(row[1])
        signature = codec.as_bytes(row[2], "a signature", size=limits.SIGNATURE_BYTES)
        verify(node or user, SignLabel.MEMBER_COSIGN, words, signature)
        return cls(user, node, signature)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What several are asked to sign: a body, and what is known about the mesh."""

    mesh: MeshId
    kind: int
    parents: tuple[bytes, ...]
    body: Body

    def encoded(self) -> bytes:
        """The words that are signed."""
        return _proposal(self.mesh, self.kind, self.parents, self.body.row())

    def cosigned(self, key: SigningKey, user: UserId) -> Cosign:
        """The signature of a device of this user, or of the user key itself."""
        node = None if key.public == user else NodeId(key.public)
        return Cosign(user, node, key.sign(SignLabel.MEMBER_COSIGN, self.encoded()))

    @classmethod
    def open_untrusted(cls, data: bytes, mesh: MeshId) -> Self:
        """A proposal that somebody sent, to be shown before it is signed."""
        return cls.read_untrusted(
            codec.decode_untrusted(data, bytes_max=limits.OPERATION_BYTES_MAX), mesh
        )

    @classmethod
    def read_untrusted(cls, row: codec.Row, mesh: MeshId) -> Self:
        """The same, out of something larger."""
        row = codec.as_versioned_row(row, _VERSION, _PROPOSAL_FIELDS, "a proposal")
        if row[1] != mesh:
            raise FormatError("a proposal for another mesh")
        kind = codec.as_uint(row[2], 16, "the type of an operation")
        nobody = NodeId(bytes(NodeId.SIZE))  # who will publish it plays no part
        body = bodies.read_untrusted(kind, row[4], Context(mesh, nobody))
        return cls(mesh, kind, _parents_untrusted(row[3]), body)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation whose signatures hold."""

    id: bytes
    data: bytes
    mesh: MeshId
    kind: int
    author: NodeId
    seq: int
    prev: bytes  # empty: the first of its author
    parents: tuple[bytes, ...]  # ascending
    lamport: int
    wall_ms: int  # for people; decides nothing
    body: Body
    cosigns: tuple[Cosign, ...] = ()

    @property
    def before(self) -> set[bytes]:
        """The operations it hangs on."""
        return {*self.parents, self.prev} - {b""}

    @classmethod
    def open_untrusted(cls, data: bytes, mesh: MeshId | None) -> Self:
        """An operation of this mesh; of None: the genesis of any."""
        outer = codec.as_row(codec.decode_untrusted(data, bytes_max=_BYTES_MAX), 2, "an operation")
        payload = codec.as_bytes(outer[0], "its payload", size_max=_BYTES_MAX)
        signature = codec.as_bytes(outer[1], "a signature", size=limits.SIGNATURE_BYTES)
        row = codec.decode_untrusted(payload, bytes_max=_BYTES_MAX)
        author = NodeId.read_untrusted(row[3] if len(row) > 3 else None)
        # Before its version is looked at: a flipped bit must not pass for a newer Portal.
        verify(author, SignLabel.MEMBER_OPERATION, payload, signature)
        row = codec.as_versioned_row(row, _VERSION, _FIELDS, "an operation")
        kind = codec.as_uint(row[2], 16, "the type of an operation")
        is_genesis = kind == Kind.GENESIS
        if mesh is None and not is_genesis:
            raise FormatError("a mesh does not begin with this")
        if row[1] != (b"" if is_genesis else mesh):
            raise FormatError("an operation of another mesh")
        if is_genesis and mesh is not None and mesh != derive.mesh_id(data):
            raise FormatError("the genesis of another mesh")
        found = cls._from_row_untrusted(data, mesh or derive.mesh_id(data), author, row)
        _check_size_untrusted(found)
        return found

    @classmethod
    def _from_row_untrusted(cls, data: bytes, mesh: MeshId, author: NodeId, row: codec.Row) -> Self:
        kind = codec.as_uint(row[2], 16, "the type of an operation")
        parents = _parents_untrusted(row[6])
        prev = codec.as_bytes(row[5], "an operation", size_max=limits.HASH_BYTES)
        if len(prev) not in {0, limits.HASH_BYTES}:
            raise FormatError("the id of an operation has another length")
        cosigns: tuple[Cosign, ...] = ()
        rows = codec.as_rows(row[10], limits.OPERATION_COSIGNS_MAX, "the cosignatures")
        if rows:
            words = _proposal(mesh, kind, parents, row[9])
            cosigns = tuple(Cosign.read_untrusted(item, words) for item in rows)
        return cls(
            id=operation_id(data),
            data=data,
            mesh=mesh,
            kind=kind,
            author=author,
            seq=codec.as_uint(row[4], 32, "the number of an operation"),
            prev=prev,
            parents=parents,
            lamport=codec.as_uint(row[7], 32, "the height of an operation"),
            wall_ms=codec.as_uint(row[8], 63, "a time"),
            body=bodies.read_untrusted(kind, row[9], Context(mesh, author)),
            cosigns=cosigns,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an operation hangs, and who hangs it there."""

    seq: int = 0
    prev: bytes = b""
    parents: tuple[bytes, ...] = ()
    lamport: int = 0
    wall_ms: int = 0


def signed(
    key: SigningKey,
    mesh: MeshId | None,
    kind: int,
    body: Body,
    place: Place,
    cosigns: Sequence[Cosign] = (),
) -> bytes:
    """The bytes of an operation by the device of this key."""
    payload = codec.encode(
        [
            _VERSION,
            mesh or b"",
            kind,
            key.public,
            place.seq,
            place.prev,
            tuple(sorted(place.parents)),
            place.lamport,
            place.wall_ms,
            body.row(),
            tuple(cosign.row() for cosign in cosigns),
        ]
    )
    return codec.encode([payload, key.sign(SignLabel.MEMBER_OPERATION, payload)])


def operation_id(data: bytes) -> bytes:
    """The name of an operation."""
    return hashing.digest(Label.MEMBER_OPERATION, data)


def _proposal(mesh: MeshId, kind: int, parents: tuple[bytes, ...], body: object) -> bytes:
    return codec.encode([_VERSION, mesh, kind, tuple(sorted(parents)), body])


def _parents_untrusted(value: object) -> tuple[bytes, ...]:
    rows = codec.as_rows(value, limits.OPERATION_PARENTS_MAX, "the parents")
    found = tuple(codec.as_bytes(row, "a parent", size=limits.HASH_BYTES) for row in rows)
    if any(a >= b for a, b in pairwise(found)):
        raise FormatError("the parents of an operation are not in order")
    return found


def _check_size_untrusted(operation: Operation) -> None:
    large = operation.kind in _LARGE
    size_max = limits.ADMISSION_BYTES_MAX if large else limits.OPERATION_BYTES_MAX
    size_max += len(operation.cosigns) * limits.OPERATION_COSIGN_BYTES_MAX
    if len(operation.data) > size_max:
        raise LimitExceeded(f"an operation of {len(operation.data)} bytes")
    if (operation.seq == 0) != (operation.prev == b""):
        raise FormatError("the first operation of an author has no other before it")
    if operation.cosigns and not operation.parents:
        raise FormatError("a cosigned operation has parents")
    if (operation.kind == Kind.GENESIS) != (not operation.before):
        raise FormatError("only the genesis hangs on nothing")
