"""What operations say: one class per type, each with its row of fields.

Signatures inside a body (of a voucher, a device, a user key) are checked when it is read. Whether
whoever signed had the right to is for the evaluation (mesh/members/rules.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple, Self

from core import codec, limits
from core.crypto import SigningKey, check_public_key_untrusted, verify
from core.device_cert import DeviceCert
from core.errors import FormatError
from core.ids import MeshId, NodeId, UserId
from core.labels import SignLabel
from mesh.members.joining import Join, Recover

_ID = limits.HASH_BYTES
_TEXT_MAX = limits.OPERATION_TEXT_BYTES_MAX


class Kind(IntEnum):
    """Types of operations. Others are carried and void."""

    GENESIS = 1
    INVITE = 2
    CLOSE_INVITE = 3
    ADMIT = 4
    APPROVE = 5
    ADD_DEVICE = 6
    SUSPEND_DEVICE = 7
    REVOKE_DEVICE = 8
    REVOKE_USER = 9
    GRANT = 10
    DROP = 11
    POLICY = 12
    EPOCH = 13
    COMMITTEE = 14
    DEDUP_EPOCH = 15
    CHECKPOINT = 16


class UserRole(IntEnum):
    """What a user may do; each includes those before it."""

    MEMBER = 0
    ADMITTER = 1
    ADMIN = 2


class Reason(IntEnum):
    """Why somebody is no longer a member."""

    LEFT = 0
    REMOVED = 1
    COMPROMISED = 2


class Context(NamedTuple):
    """What the signatures inside a body are tied to, beside the body."""

    mesh: MeshId
    author: NodeId


def _id_untrusted(value: object, name: str) -> bytes:
    return codec.as_bytes(value, name, size=_ID)


def _optional_untrusted(value: object, size: int, name: str) -> bytes:
    return b"" if value == b"" else codec.as_bytes(value, name, size=size)


def _role_untrusted(value: object) -> UserRole:
    number = codec.as_uint(value, 8, "the role")
    if number > max(UserRole):
        raise FormatError("this role does not exist")
    return UserRole(number)


def _flag_untrusted(value: object, name: str) -> bool:
    if type(value) is not bool:
        raise FormatError(f"{name} is yes or no")
    return value


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may do what, as far as the admins decide it together."""

    invite_by: UserRole = UserRole.ADMITTER
    admit_by: UserRole = UserRole.MEMBER
    users_max: int = 0  # 0: no bound; kept by those who admit, it decides nothing here

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (int(self.invite_by), int(self.admit_by), self.users_max)

    @classmethod
    def read_untrusted(cls, value: object, _context: Context | None = None) -> Self:
        """Out of a body."""
        row = codec.as_row(value, 3, "a policy")
        users_max = codec.as_uint(row[2], 32, "the bound on users")
        return cls(_role_untrusted(row[0]), _role_untrusted(row[1]), users_max)


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first operation: its author's user is the founder, and the first admin."""

    name: str
    salt: bytes
    cert_bytes: bytes
    cert: DeviceCert
    kem: bytes
    policy: Policy = Policy()

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.name, self.salt, self.cert_bytes, self.kem, self.policy.row())

    @classmethod
    def read_untrusted(cls, value: object, context: Context) -> Self:
        """Out of a body; the author is the device of the certificate."""
        row = codec.as_row(value, 5, "a genesis")
        name = codec.as_text(row[0], _TEXT_MAX, "the name of the mesh")
        salt = codec.as_bytes(row[1], "the salt", size=_ID)
        cert_bytes = codec.as_bytes(row[2], "a certificate", size_max=limits.CERT_BYTES_MAX)
        cert = DeviceCert.open_untrusted(cert_bytes)
        if cert.node != context.author:
            raise FormatError("a genesis by another device than it names")
        kem = codec.as_bytes(row[3], "the KEM key", size=limits.KEM_PUBLIC_BYTES)
        return cls(name, salt, cert_bytes, cert, kem, Policy.read_untrusted(row[4]))


@dataclass(frozen=True, slots=True)
class Invite:
    """A voucher is good for one new user. The voucher itself has signed the terms.

    So nobody who sees the public half can offer it again on other terms.
    """

    voucher: bytes
    role: UserRole
    approve: bool  # its inviter or an admin must say yes to whoever comes
    expires_s: int
    quota_bytes: int
    label: str
    by_voucher: bytes = b""

    def terms(self, context: Context) -> bytes:
        """What the voucher signs."""
        return codec.encode([1, *context, *self.row()[:-1]])

    def signed(self, voucher: SigningKey, context: Context) -> Self:
        """With the voucher's signature."""
        assert voucher.public == self.voucher
        terms = self.terms(context)
        return replace(self, by_voucher=voucher.sign(SignLabel.INVITE_TERMS, terms))

    def row(self) -> tuple[object, ...]:
        """As a body."""
        terms = (self.voucher, int(self.role), self.approve, self.expires_s, self.quota_bytes)
        return (*terms, self.label, self.by_voucher)

    @classmethod
    def read_untrusted(cls, value: object, context: Context) -> Self:
        """Out of a body."""
        row = codec.as_row(value, 7, "an invite")
        found = cls(
            codec.as_bytes(row[0], "the voucher", size=limits.KEY_BYTES),
            _role_untrusted(row[1]),
            _flag_untrusted(row[2], "whether to approve"),
            codec.as_uint(row[3], 63, "the expiry"),
            codec.as_uint(row[4], 63, "the quota"),
            codec.as_text(row[5], _TEXT_MAX, "the label"),
            codec.as_bytes(row[6], "a signature", size=limits.SIGNATURE_BYTES),
        )
        if found.role == UserRole.ADMIN:
            raise FormatError("nobody is invited as an admin")
        check_public_key_untrusted(found.voucher)
        verify(found.voucher, SignLabel.INVITE_TERMS, found.terms(context), found.by_voucher)
        return found


@dataclass(frozen=True, slots=True)
class CloseInvite:
    """Whoever still holds this voucher holds nothing."""

    voucher: bytes

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.voucher,)

    @classmethod
    def read_untrusted(cls, value: object, _context: Context) -> Self:
        """Out of a body."""
        (voucher,) = codec.as_row(value, 1, "the end of an invite")
        return cls(codec.as_bytes(voucher, "the voucher", size=limits.KEY_BYTES))


@dataclass(frozen=True, slots=True)
class Admit:
    """Somebody came with a voucher."""

    join_bytes: bytes
    by_voucher: bytes
    by_device: bytes
    join: Join

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.join_bytes, self.by_voucher, self.by_device)

    @classmethod
    def read_untrusted(cls, value: object, context: Context) -> Self:
        """Out of a body; the JOIN is for this very mesh."""
        data, by_voucher, by_device = _signed_untrusted(value, "an admission")
        join = Join.open_untrusted(data, by_voucher, by_device)
        if join.mesh != context.mesh:
            raise FormatError("a JOIN for another mesh")
        return cls(data, by_voucher, by_device, join)


@dataclass(frozen=True, slots=True)
class Approve:
    """Yes to an admission: where the invite asked for it, or where two compete."""

    admission: bytes

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.admission,)

    @classmethod
    def read_untrusted(cls, value: object, _context: Context) -> Self:
        """Out of a body."""
        (admission,) = codec.as_row(value, 1, "an approval")
        return cls(_id_untrusted(admission, "an admission"))


@dataclass(frozen=True, slots=True)
class AddDevice:
    """A user's key vouches for a device; the author only carries it."""

    recover_bytes: bytes
    by_user: bytes
    by_device: bytes
    recover: Recover

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.recover_bytes, self.by_user, self.by_device)

    @classmethod
    def read_untrusted(cls, value: object, context: Context) -> Self:
        """Out of a body; the RECOVER is for this very mesh."""
        data, by_user, by_device = _signed_untrusted(value, "a new device")
        recover = Recover.open_untrusted(data, by_user, by_device)
        if recover.mesh != context.mesh:
            raise FormatError("a RECOVER for another mesh")
        return cls(data, by_user, by_device, recover)


@dataclass(frozen=True, slots=True)
class SuspendDevice:
    """A device may do nothing until this is lifted, by naming this operation in `lifts`."""

    user: UserId
    node: NodeId
    lifts: bytes = b""
    by_user: bytes = b""

    def words(self, mesh: MeshId) -> bytes:
        """What the user key signs."""
        return codec.encode([1, mesh, int(Kind.SUSPEND_DEVICE), self.node, self.lifts])

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.user, self.node, self.lifts, self.by_user)

    @classmethod
    def read_untrusted(cls, value: object, context: Context) -> Self:
        """Out of a body."""
        row = codec.as_row(value, 4, "a suspension")
        user, node = UserId.read_untrusted(row[0]), NodeId.read_untrusted(row[1])
        lifts = _optional_untrusted(row[2], _ID, "a suspension")
        by_user = _optional_untrusted(row[3], limits.SIGNATURE_BYTES, "a signature")
        found = cls(user, node, lifts, by_user)
        if by_user:
            verify(user, SignLabel.MEMBER_DEVICE, found.words(context.mesh), by_user)
        return found


@dataclass(frozen=True, slots=True)
class RevokeDevice:
    """A device is out for good; its user's key says so."""

    user: UserId
    node: NodeId
    cut: bytes  # the last of its operations that count, or empty: all that were known
    by_user: bytes

    def words(self, mesh: MeshId) -> bytes:
        """What the user key signs."""
        return codec.encode([1, mesh, int(Kind.REVOKE_DEVICE), self.node, self.cut])

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.user, self.node, self.cut, self.by_user)

    @classmethod
    def read_untrusted(cls, value: object, context: Context) -> Self:
        """Out of a body."""
        row = codec.as_row(value, 4, "a revocation")
        user, node = UserId.read_untrusted(row[0]), NodeId.read_untrusted(row[1])
        cut = _optional_untrusted(row[2], _ID, "an operation")
        by_user = codec.as_bytes(row[3], "a signature", size=limits.SIGNATURE_BYTES)
        found = cls(user, node, cut, by_user)
        verify(user, SignLabel.MEMBER_DEVICE, found.words(context.mesh), by_user)
        return found


@dataclass(frozen=True, slots=True)
class RevokeUser:
    """A user is out, with every device."""

    user: UserId
    reason: Reason
    cut: bytes = b""

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.user, int(self.reason), self.cut)

    @classmethod
    def read_untrusted(cls, value: object, _context: Context) -> Self:
        """Out of a body."""
        row = codec.as_row(value, 3, "a revocation")
        reason = codec.as_uint(row[1], 8, "the reason")
        if reason > max(Reason):
            raise FormatError("this reason does not exist")
        cut = _optional_untrusted(row[2], _ID, "an operation")
        return cls(UserId.read_untrusted(row[0]), Reason(reason), cut)


@dataclass(frozen=True, slots=True)
class Grant:
    """A user gets a role. MEMBER opens the door again to one whom a tie has suspended."""

    user: UserId
    role: UserRole

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.user, int(self.role))

    @classmethod
    def read_untrusted(cls, value: object, _context: Context) -> Self:
        """Out of a body."""
        user, role = codec.as_row(value, 2, "a grant")
        return cls(UserId.read_untrusted(user), _role_untrusted(role))


@dataclass(frozen=True, slots=True)
class Drop:
    """A user loses a role and those above it."""

    user: UserId
    role: UserRole

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.user, int(self.role))

    @classmethod
    def read_untrusted(cls, value: object, _context: Context) -> Self:
        """Out of a body."""
        user, role = codec.as_row(value, 2, "the end of a role")
        found = cls(UserId.read_untrusted(user), _role_untrusted(role))
        if found.role == UserRole.MEMBER:
            raise FormatError("a member is revoked, not dropped")
        return found


@dataclass(frozen=True, slots=True)
class Numbered:
    """An epoch of something: the next number, and bytes for the room that knows what they mean."""

    number: int
    data: bytes

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.number, self.data)

    @classmethod
    def read_untrusted(cls, value: object, _context: Context) -> Self:
        """Out of a body."""
        number, data = codec.as_row(value, 2, "an epoch")
        size_max = limits.OPERATION_DATA_BYTES_MAX
        data = codec.as_bytes(data, "what an epoch says", size_max=size_max)
        return cls(codec.as_uint(number, 32, "the number of an epoch"), data)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The admins agree on what the operations before this one amount to."""

    state: bytes

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return (self.state,)

    @classmethod
    def read_untrusted(cls, value: object, _context: Context) -> Self:
        """Out of a body."""
        (state,) = codec.as_row(value, 1, "a checkpoint")
        return cls(_id_untrusted(state, "the hash of a state"))


@dataclass(frozen=True, slots=True)
class Unknown:
    """Of a type from a later version: carried, and void."""

    fields: codec.Row

    def row(self) -> tuple[object, ...]:
        """As a body."""
        return self.fields


Body = (
    Genesis
    | Invite
    | CloseInvite
    | Admit
    | Approve
    | AddDevice
    | SuspendDevice
    | RevokeDevice
    | RevokeUser
    | Grant
    | Drop
    | Policy
    | Numbered
    | Checkpoint
    | Unknown
)

_READERS: dict[int, Callable[[object, Context], Body]] = {
    Kind.GENESIS: Genesis.read_untrusted,
    Kind.INVITE: Invite.read_untrusted,
    Kind.CLOSE_INVITE: CloseInvite.read_untrusted,
    Kind.ADMIT: Admit.read_untrusted,
    Kind.APPROVE: Approve.read_untrusted,
    Kind.ADD_DEVICE: AddDevice.read_untrusted,
    Kind.SUSPEND_DEVICE: SuspendDevice.read_untrusted,
    Kind.REVOKE_DEVICE: RevokeDevice.read_untrusted,
    Kind.REVOKE_USER: RevokeUser.read_untrusted,
    Kind.GRANT: Grant.read_untrusted,
    Kind.DROP: Drop.read_untrusted,
    Kind.POLICY: Policy.read_untrusted,
    Kind.EPOCH: Numbered.read_untrusted,
    Kind.COMMITTEE: Numbered.read_untrusted,
    Kind.DEDUP_EPOCH: Numbered.read_untrusted,
    Kind.CHECKPOINT: Checkpoint.read_untrusted,
}


def read_untrusted(kind: int, value: object, context: Context) -> Body:
    """The body of an operation of this type."""
    reader = _READERS.get(kind)
    if reader is not None:
        return reader(value, context)
    return Unknown(codec.as_rows(value, limits.OPERATION_BYTES_MAX, "the body"))


def cert_of(body: Body) -> DeviceCert | None:
    """The certificate an operation brings, if it binds a device to its user."""
    if isinstance(body, Genesis):
        return body.cert
    if isinstance(body, Admit):
        return body.join.cert
    return body.recover.cert if isinstance(body, AddDevice) else None


def _signed_untrusted(value: object, name: str) -> tuple[bytes, bytes, bytes]:
    data, first, second = codec.as_row(value, 3, name)
    size = limits.SIGNATURE_BYTES
    return (
        codec.as_bytes(data, name, size_max=limits.ADMISSION_BYTES_MAX),
        codec.as_bytes(first, "a signature", size=size),
        codec.as_bytes(second, "a signature", size=size),
    )
