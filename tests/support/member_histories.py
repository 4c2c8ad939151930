"""Random lives of a mesh, honest and hostile, as graphs of operations. The same for each seed.

Everybody writes what they like on what they happen to know: backdated, forked, without any right
to, with cosignatures of whoever. Replicas meet now and then.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.crypto import SigningKey
from core.ids import MeshId, NodeId, UserId
from core.labels import SignLabel
from mesh.members.bodies import (
    AddDevice,
    Admit,
    Approve,
    Body,
    Checkpoint,
    CloseInvite,
    Context,
    Drop,
    Grant,
    Kind,
    Numbered,
    Policy,
    Reason,
    RevokeDevice,
    RevokeUser,
    SuspendDevice,
    Unknown,
    UserRole,
)
from mesh.members.joining import Join, Recover
from mesh.members.operation import Cosign, Operation, Place, Proposal, signed
from mesh.members.opset import OpSet
from tests.support.memberships import (
    NOW_MS,
    Device,
    Person,
    genesis_of,
    join_of,
    person,
    recover_of,
    seeded_key,
    terms,
)

_NAMES = "FABCDE"


@dataclass
class _View:
    """What the helpers of memberships.py ask of a membership."""

    set: OpSet

    @property
    def mesh_id(self) -> MeshId:
        """Which mesh."""
        return self.set.mesh


@dataclass
class World:
    """A few people with replicas of their own."""

    rng: random.Random
    people: list[Person]
    ops: dict[bytes, Operation] = field(default_factory=dict)
    replicas: list[OpSet] = field(default_factory=list)
    vouchers: list[SigningKey] = field(default_factory=list)

    def any_op(self, replica: OpSet, kind: int | None = None) -> bytes:
        """Some operation that a replica knows."""
        found = [op.id for op in replica.ops if kind is None or op.kind == kind]
        return self.rng.choice(found) if found else b""

    def view(self, replica: OpSet) -> _View:
        """For helpers that take a membership."""
        return _View(replica)

    def take(self, replica: OpSet, data: bytes) -> None:
        """An operation comes to a replica."""
        op = Operation.open_untrusted(data, replica.mesh)
        self.ops[op.id] = op
        replica.add_untrusted(op)

    def meet(self, one: OpSet, other: OpSet) -> None:
        """Two replicas become equal."""
        for op in list(one.ops):
            other.add_untrusted(op)
        for op in list(other.ops):
            one.add_untrusted(op)


def random_history(
    seed: int, steps: int = 30, writers: Sequence[int] | None = None, *, fierce: bool = False
) -> World:
    """So many steps of some life; `writers` are the people who act after the mesh was set up.

    In a fierce one they mostly throw each other out, and meet seldom.
    """
    rng = random.Random(seed)
    people = [person(name, devices=2) for name in _NAMES]
    world = World(rng, people)
    genesis = Operation.open_untrusted(genesis_of(people[0]), None)
    world.ops[genesis.id] = genesis
    world.replicas = [OpSet(genesis) for _ in people]
    _set_up(world)
    for _ in range(steps):
        who = rng.choice(writers) if writers else rng.randrange(len(people))
        replica = world.replicas[who]
        actor = people[who]
        key = rng.choice(actor.devices).key if rng.random() < 0.2 else actor.device
        kind, body = rng.choice(_FIERCE if fierce else _ACTIONS)(world, replica, actor, key)
        if body is not None:
            _write(world, replica, kind, body, key, _cosigners(world, writers))
        if rng.random() < (0.2 if fierce else 0.5):
            world.meet(replica, rng.choice(world.replicas))
    return world


def _set_up(world: World) -> None:
    """Some members and admins, so that there is something to fight about."""
    founder, replica = world.people[0], world.replicas[0]
    for who in world.people[1 : world.rng.choice((2, 3, 4, 5))]:
        voucher = seeded_key(f"voucher {len(world.vouchers)}")
        world.vouchers.append(voucher)
        _write(world, replica, *_invite_by(replica, founder.node, voucher), founder.device, [])
        join = join_of(world.view(replica), who, voucher)  # type: ignore[arg-type]
        body = Admit(*join, Join.open_untrusted(*join))
        _write(world, replica, Kind.ADMIT, body, founder.device, [])
        if world.rng.random() < 0.6:
            everybody = [(p, p.device) for p in world.people]
            role = world.rng.choice((UserRole.ADMITTER, UserRole.ADMIN))
            _write(world, replica, Kind.GRANT, Grant(who.user, role), founder.device, everybody)
    for other in world.replicas[1:]:
        world.meet(replica, other)


def _invite_by(replica: OpSet, author: NodeId, voucher: SigningKey) -> tuple[int, Body]:
    return Kind.INVITE, terms(voucher).signed(voucher, Context(replica.mesh, author))


def _cosigners(world: World, writers: Sequence[int] | None) -> list[tuple[Person, SigningKey]]:
    if world.rng.random() < 0.5:
        return []
    among = [world.people[n] for n in writers] if writers else world.people
    chosen = world.rng.sample(among, world.rng.randint(1, min(4, len(among))))
    return [(p, p.key if world.rng.random() < 0.2 else p.device) for p in chosen]


def _write(
    world: World,
    replica: OpSet,
    kind: int,
    body: Body,
    key: SigningKey,
    cosigners: list[tuple[Person, SigningKey]],
) -> None:
    """Hang an operation somewhere: mostly on the newest, sometimes on old ones, or as a fork."""
    rng = world.rng
    author = NodeId(key.public)
    last = replica.last_of(author)
    if last is not None and last.prev and rng.random() < 0.03:
        last = replica.ops[replica.index[last.prev]]  # the same number once more
    parents = [op.id for op in replica.heads[:8]]
    if rng.random() < 0.2:
        parents = [world.any_op(replica)]
    before = {*parents, *([last.id] if last else [])}
    lamport = 1 + max(replica.ops[replica.index[op_id]].lamport for op_id in before)
    ordered = tuple(sorted(parents))
    cosigns: list[Cosign] = []
    if cosigners:
        proposal = Proposal(replica.mesh, kind, ordered, body)
        cosigns = [proposal.cosigned(k, who.user) for who, k in cosigners]
    place = Place(
        seq=last.seq + 1 if last else 0,
        prev=last.id if last else b"",
        parents=ordered,
        lamport=lamport,
        wall_ms=NOW_MS,
    )
    data = signed(key, replica.mesh, kind, body, place, cosigns)
    op = Operation.open_untrusted(data, replica.mesh)
    known = replica.known_below(op)
    if not any(known >> i & 1 for i in replica.introduced(author)):
        return  # a stranger has no place to write
    world.ops[op.id] = op
    replica.add_untrusted(op)


# --- actions --------------------------------------------------------------------------------------

_Made = tuple[int, Body | None]


def _invite(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    voucher = seeded_key(f"voucher {len(world.vouchers)}")
    world.vouchers.append(voucher)
    role = world.rng.choice((UserRole.MEMBER, UserRole.MEMBER, UserRole.ADMITTER))
    body = terms(voucher, role=role, approve=world.rng.random() < 0.3)
    return Kind.INVITE, body.signed(voucher, Context(replica.mesh, NodeId(key.public)))


def _close(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    return Kind.CLOSE_INVITE, CloseInvite(world.rng.choice(world.vouchers).public)


def _admit(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    who = world.rng.choice(world.people)
    device = world.rng.choice(who.devices) if world.rng.random() < 0.2 else who.devices[0]
    voucher = world.rng.choice(world.vouchers[-3:])
    join = join_of(world.view(replica), who, voucher, device)  # type: ignore[arg-type]
    return Kind.ADMIT, Admit(*join, Join.open_untrusted(*join))


def _approve(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    admission = world.any_op(replica, Kind.ADMIT)
    return Kind.APPROVE, Approve(admission) if admission else None


def _add_device(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    who = world.rng.choice(world.people)
    device: Device = world.rng.choice(who.devices)
    recover = recover_of(world.view(replica), who, device)  # type: ignore[arg-type]
    return Kind.ADD_DEVICE, AddDevice(*recover, Recover.open_untrusted(*recover))


def _suspend(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    who = world.rng.choice(world.people)
    lifts = world.any_op(replica, Kind.SUSPEND_DEVICE) if world.rng.random() < 0.5 else b""
    body = SuspendDevice(who.user, world.rng.choice(who.devices).node, lifts)
    if world.rng.random() < 0.4:
        words = body.words(replica.mesh)
        by_user = who.key.sign(SignLabel.MEMBER_DEVICE, words)
        body = SuspendDevice(who.user, body.node, lifts, by_user)
    return Kind.SUSPEND_DEVICE, body


def _revoke_device(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    cut = world.any_op(replica) if world.rng.random() < 0.4 else b""
    node = actor.devices[1].node
    words = RevokeDevice(actor.user, node, cut, b"").words(replica.mesh)
    by_user = actor.key.sign(SignLabel.MEMBER_DEVICE, words)
    return Kind.REVOKE_DEVICE, RevokeDevice(actor.user, node, cut, by_user)


def _revoke_user(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    cut = world.any_op(replica) if world.rng.random() < 0.4 else b""
    return Kind.REVOKE_USER, RevokeUser(_somebody(world), Reason.REMOVED, cut)


def _grant(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    return Kind.GRANT, Grant(_somebody(world), world.rng.choice(list(UserRole)))


def _drop(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    role = world.rng.choice((UserRole.ADMITTER, UserRole.ADMIN))
    return Kind.DROP, Drop(_somebody(world), role)


def _policy(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    roles = list(UserRole)
    return Kind.POLICY, Policy(world.rng.choice(roles), world.rng.choice(roles), 0)


def _epoch(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    kind = world.rng.choice((Kind.EPOCH, Kind.EPOCH, Kind.COMMITTEE, Kind.DEDUP_EPOCH))
    numbers = [
        o.body.number for o in replica.ops if isinstance(o.body, Numbered) and o.kind == kind
    ]
    return kind, Numbered(1 + max(numbers, default=0), bytes(32))


def _other(world: World, replica: OpSet, actor: Person, key: SigningKey) -> _Made:
    if world.rng.random() < 0.5:
        return Kind.CHECKPOINT, Checkpoint(bytes(32))
    return 99, Unknown(("from", 2031))


def _somebody(world: World) -> UserId:
    return world.rng.choice(world.people).user


_Action = Callable[[World, OpSet, Person, SigningKey], _Made]
_ACTIONS: list[_Action] = [
    *(_invite, _invite, _admit, _admit, _admit, _close, _approve, _add_device, _suspend),
    *(_revoke_device, _revoke_user, _revoke_user, _revoke_user, _grant, _grant, _grant, _drop),
    *(_drop, _policy, _epoch, _other),
]
_FIERCE = [_revoke_user, _revoke_user, _revoke_user, _grant, _drop, _suspend, _admit, _invite]


def shuffled(world: World, seed: int) -> list[Operation]:
    """All operations, in some order."""
    ops = sorted(world.ops.values(), key=lambda op: op.id)
    random.Random(seed).shuffle(ops)
    return ops
