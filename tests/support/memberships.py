"""People with devices who found a mesh, come in and are thrown out, the same in every run."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from core.crypto import SigningKey
from core.device_cert import DeviceCert, Role
from core.hashing import keyed
from core.ids import MeshId, NodeId, UserId
from core.keys import DeviceKeys
from core.secret import Secret
from mesh.members.authoring import Author, found_mesh
from mesh.members.bodies import (
    Admit,
    Body,
    Context,
    Genesis,
    Grant,
    Invite,
    Kind,
    Numbered,
    RevokeUser,
    UserRole,
)
from mesh.members.bodies import Reason as Why
from mesh.members.joining import Join, Recover
from mesh.members.membership import Changes, Membership
from mesh.members.operation import Operation, Place, signed
from mesh.members.opset import OpSet
from mesh.members.rules import Void
from mesh.members.state import Concern, Standing
from tests.support.entropy import fixed_entropy

NOW_MS = 1_795_000_000_000
NOW_S = NOW_MS // 1000
ALL_ROLES = Role(255)


def seeded_key(seed: str) -> SigningKey:
    """A signing key that depends on the seed only."""
    return SigningKey(Secret(keyed(b"portal tests: keys of made-up pe", seed.encode())))


@dataclass(frozen=True)
class Device:
    """A device of somebody."""

    keys: DeviceKeys
    key: SigningKey
    cert: bytes

    @property
    def node(self) -> NodeId:
        """Its name."""
        return NodeId(self.key.public)


@dataclass(frozen=True)
class Person:
    """A user key and its devices."""

    name: str
    key: SigningKey
    devices: tuple[Device, ...]

    @property
    def user(self) -> UserId:
        """Their name."""
        return UserId(self.key.public)

    @property
    def node(self) -> NodeId:
        """Their first device."""
        return self.devices[0].node

    @property
    def device(self) -> SigningKey:
        """The key of their first device."""
        return self.devices[0].key

    @property
    def kem(self) -> bytes:
        """Stands for a key that nothing is sealed to here."""
        return keyed(b"portal tests: keys of made-up pe", self.name.encode(), 1_216)


def certificate(
    user: SigningKey,
    keys: DeviceKeys,
    *,
    name: str,
    roles: Role,
    created_s: int = NOW_S,
    not_after_s: int = 0,
) -> bytes:
    """A certificate of a device."""
    return DeviceCert(
        user=UserId(user.public),
        node=keys.node_id(),
        box_public=keys.box_public(),
        name=name,
        roles=roles,
        created_s=created_s,
        not_after_s=not_after_s,
        serial=bytes(8),
        epoch=0,
    ).signed_by(user)


def a_device(owner: SigningKey, seed: str, roles: Role = ALL_ROLES) -> Device:
    """A device of the owner of this key."""
    keys = DeviceKeys.generate(fixed_entropy(f"device {seed}"))
    return Device(keys, keys.signing_key(), certificate(owner, keys, name=seed, roles=roles))


def another_device(
    who: "Person",
    seed: str,
    *,
    roles: Role = ALL_ROLES,
    keys: DeviceKeys | None = None,
    not_after_s: int = 0,
) -> Device:
    """A device somebody gets later, or one they have with a new certificate."""
    keys = keys or DeviceKeys.generate(fixed_entropy(seed))
    cert = certificate(
        who.key, keys, name=seed, roles=roles, created_s=NOW_S + 1, not_after_s=not_after_s
    )
    return Device(keys, keys.signing_key(), cert)


@cache
def person(name: str, roles: Role = ALL_ROLES, devices: int = 1) -> Person:
    """A person of this name; the roles are those of the devices."""
    key = seeded_key(f"user {name}")
    own = tuple(a_device(key, f"{name} {n}" if n else name, roles) for n in range(devices))
    return Person(name, key, own)


def genesis_of(founder: Person, name: str = "home") -> bytes:
    """The first operation of a mesh."""
    cert = founder.devices[0].cert
    body = Genesis(name, bytes(32), cert, DeviceCert.open_untrusted(cert), founder.kem)
    return found_mesh(founder.device, body, NOW_MS)


def join_of(
    membership: Membership, who: Person, voucher: SigningKey, device: Device | None = None
) -> tuple[bytes, bytes, bytes]:
    """What somebody with a voucher signs."""
    device = device or who.devices[0]
    join = Join(
        mesh=membership.mesh_id,
        invite=voucher.public,
        cert_bytes=device.cert,
        cert=DeviceCert.open_untrusted(device.cert),
        kem=who.kem,
        nonce=bytes(16),
        binding=bytes(64),
        time_s=NOW_S,
    )
    return join.signed(voucher, device.key)


def recover_of(membership: Membership, who: Person, device: Device) -> tuple[bytes, bytes, bytes]:
    """What somebody with a phrase signs."""
    recover = Recover(
        mesh=membership.mesh_id,
        cert_bytes=device.cert,
        cert=DeviceCert.open_untrusted(device.cert),
        kem=who.kem,
        nonce=bytes(16),
        binding=bytes(64),
        time_s=NOW_S,
    )
    return recover.signed(who.key, device.key)


def terms(
    voucher: SigningKey, *, role: UserRole = UserRole.MEMBER, approve: bool = False
) -> Invite:
    """An invite without its signature."""
    return Invite(voucher.public, role, approve, NOW_S + 86_400, 10**9, "for a friend")


@dataclass
class Replica:
    """One person's view of a mesh, and the pen to write in it."""

    who: Person
    membership: Membership
    device: SigningKey | None = None
    vouchers: int = 0
    written: list[bytes] = field(default_factory=list)

    @property
    def key(self) -> SigningKey:
        """The key it writes with."""
        return self.device or self.who.device

    @property
    def author(self) -> Author:
        """Writes for it."""
        return Author(self.membership, self.key)

    # Written without asking whether it counts: what an attacker does, and anybody may try.

    def force(self, kind: int, body: Body, place: Place | None = None) -> bytes:
        """Write, sign and take an operation, whatever it is worth; its id."""
        if place is None:
            data = self.author.next(kind, body, NOW_MS)
        else:
            data = signed(self.key, self.membership.mesh_id, kind, body, place)
        return self.take(data)

    def take(self, data: bytes) -> bytes:
        """Take an operation from anywhere; its id."""
        changes = self.membership.receive_untrusted([data])
        assert not changes.refused, changes.refused
        self.written.append(data)
        return Operation.open_untrusted(data, self.membership.mesh_id).id

    def cosigned(
        self,
        kind: int,
        body: Body,
        by: Sequence[tuple[Person, SigningKey]],
        without: Sequence[bytes] = (),
    ) -> bytes:
        """Publish what several sign; its id."""
        proposal = self.author.propose(kind, body, without)
        cosigns = [proposal.cosigned(key, who.user) for who, key in by]
        return self.take(self.author.next(kind, body, NOW_MS, proposal, cosigns))

    def invite(self, *, role: UserRole = UserRole.MEMBER, approve: bool = False) -> SigningKey:
        """Open an invite; the voucher."""
        self.vouchers += 1
        voucher = seeded_key(f"voucher {self.vouchers} of {self.who.name}")
        self.author.invite(voucher, terms(voucher, role=role, approve=approve), NOW_MS)
        return voucher

    def admit(self, who: Person, voucher: SigningKey) -> bytes:
        """Admit somebody; the id of the operation."""
        changes = self.author.admit(join_of(self.membership, who, voucher), NOW_MS)
        return changes.added[0].id

    def force_admit(self, who: Person, voucher: SigningKey) -> bytes:
        """The same, whether it counts or not."""
        join = join_of(self.membership, who, voucher)
        return self.force(Kind.ADMIT, Admit(*join, Join.open_untrusted(*join)))

    def bring(self, who: Person, *, role: UserRole = UserRole.MEMBER) -> bytes:
        """Invite somebody and admit them; the id of the admission."""
        if role == UserRole.ADMIN:
            op_id = self.admit(who, self.invite())
            self.author.grant(who.user, UserRole.ADMIN, NOW_MS)
            return op_id
        return self.admit(who, self.invite(role=role))

    def of(self, who: Person, device: SigningKey | None = None) -> "Replica":
        """A copy of all that is known here, in somebody else's hands."""
        copy, _ = Membership.load_untrusted(self.membership.dump())
        return Replica(who, copy, device)

    def tell(self, other: "Replica") -> Changes:
        """Hand over everything."""
        return other.membership.receive_untrusted([op.data for op in self.membership.set.ops])

    def meet(self, *others: "Replica") -> None:
        """Everybody learns everything."""
        for _ in range(2):
            for other in others:
                self.tell(other)
                other.tell(self)

    def is_active(self, who: Person) -> bool:
        """Whether their first device may connect."""
        return self.membership.can(who.node, UserRole.MEMBER)

    def is_admin(self, who: Person) -> bool:
        """Whether they are an admin."""
        return self.membership.can(who.node, UserRole.ADMIN)


def found(founder: Person) -> Replica:
    """A new mesh."""
    return Replica(founder, Membership.begin_untrusted(genesis_of(founder)))


def a_mesh(*admins: Person) -> Replica:
    """A mesh of admins, in the hands of the first; each was made one by those before."""
    replica = found(admins[0])
    for n, who in enumerate(admins[1:], 1):
        replica.bring(who)
        by = [(other, other.device) for other in admins[1:n]]
        replica.cosigned(Kind.GRANT, Grant(who.user, UserRole.ADMIN), by)
        assert replica.is_admin(who)
    return replica


@dataclass
class Quick:
    """Stands in for a Membership while a large one is written: takes everything, judges nothing."""

    set: OpSet

    @property
    def mesh_id(self) -> MeshId:
        """Which mesh."""
        return self.set.mesh


def a_large_mesh(size: int, *, seed: int = 1, removals: int = 40) -> list[bytes]:
    """So many operations of an ordinary life: many members, some admitters, several at once.

    Members come in waves; the admitters of a wave do not see each other's newest operations.
    """
    rng = random.Random(seed)
    founder = person("founder")
    ops = OpSet(Operation.open_untrusted(genesis_of(founder), None))
    quick = Quick(ops)
    writers = [founder]
    people = [founder]

    def write(who: Person, kind: int, body: Body) -> None:
        author = Author(quick, who.device)  # type: ignore[arg-type]
        data = author.next(kind, body, NOW_MS)
        ops.add_untrusted(Operation.open_untrusted(data, ops.mesh))

    removed = epochs = 0
    while len(ops) < size:
        by = rng.choice(writers)
        roll = rng.random()
        if roll < 0.02 and removed < removals and len(people) > 20:
            victim = rng.choice(people[10:])
            if victim not in writers:
                write(founder, Kind.REVOKE_USER, RevokeUser(victim.user, Why.REMOVED))
                removed += 1
            continue
        if roll < 0.1:
            epochs += 1
            write(founder, Kind.EPOCH, Numbered(epochs, bytes(32)))
            continue
        voucher = seeded_key(f"voucher {len(ops)}")
        who = person(f"p{len(people)}")
        role = UserRole.ADMITTER if len(writers) < 30 and by is founder else UserRole.MEMBER
        context = Context(ops.mesh, by.node)
        write(by, Kind.INVITE, terms(voucher, role=role).signed(voucher, context))
        join = join_of(quick, who, voucher)  # type: ignore[arg-type]
        write(rng.choice(writers), Kind.ADMIT, Admit(*join, Join.open_untrusted(*join)))
        people.append(who)
        if role == UserRole.ADMITTER:
            writers.append(who)
    return [op.data for op in ops.ops]


# --- what tests ask -------------------------------------------------------------------------------


def why(replica: Replica, op_id: bytes) -> Void | None:
    """Why an operation does not count."""
    return replica.membership.why_void(op_id)


def concerns(replica: Replica) -> list[Concern]:
    """What should be looked at."""
    return [review.concern for review in replica.membership.reviews()]


def standing(replica: Replica, who: Person) -> Standing | None:
    """How somebody's first device stands."""
    member = replica.membership.member(who.node)
    return member.standing if member else None


def revoke(who: Person, cut: bytes = b"") -> tuple[Kind, Body]:
    """That somebody is put out."""
    return Kind.REVOKE_USER, RevokeUser(who.user, Why.REMOVED, cut)
