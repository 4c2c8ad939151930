"""What the operations amount to now: members and their standing, invites, what to look at again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from core import codec, hashing
from core.device_cert import DeviceCert, Role
from core.ids import NodeId, UserId
from core.labels import Label
from mesh.members import bodies, derive
from mesh.members.bodies import (
    AddDevice,
    Admit,
    CloseInvite,
    Genesis,
    Invite,
    Kind,
    Numbered,
    Policy,
    RevokeDevice,
    RevokeUser,
    SuspendDevice,
    UserRole,
)
from mesh.members.evaluate import Evaluation
from mesh.members.rights import TOP


class Standing(StrEnum):
    """How a device stands; only active ones may connect."""

    ACTIVE = "active"
    PENDING = "pending"  # admitted, and waits for the approval its invite asked for
    DISPUTED = "disputed"  # another came with the same voucher
    SUSPENDED = "suspended"  # for the time being
    REVOKED = "revoked"  # this device, for good
    DEPARTED = "departed"  # its user left or was removed


class InviteState(StrEnum):
    """What became of an invite; whether it has expired is for who reads the clock."""

    OPEN = "open"
    PENDING = "pending"
    SPENT = "spent"
    DISPUTED = "disputed"
    CLOSED = "closed"


class Concern(StrEnum):
    """Why somebody should look."""

    KEPT_ADMISSION = "kept admission"  # by a device that is cut off; others had built on it
    DISPUTED = "disputed voucher"
    EQUIVOCATION = "two operations with one number"
    TIE = "removals that exclude each other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A device of the mesh, past or present."""

    node: NodeId
    user: UserId
    standing: Standing
    roles: Role  # of the device that hold now: what its certificate and its user's role allow
    user_role: UserRole
    name: str
    box_public: bytes
    kem: bytes
    admitted_by: UserId  # whose device wrote the admission
    invited_by: UserId
    operation: bytes  # the admitting one
    dht_id: bytes
    overlay: bytes

    @property
    def is_active(self) -> bool:
        """Whether it may connect."""
        return self.standing == Standing.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteView:
    """An invite and what became of it."""

    voucher: bytes
    operation: bytes
    inviter: UserId
    state: InviteState
    role: UserRole
    approve: bool
    expires_s: int
    quota_bytes: int
    label: str
    admissions: tuple[tuple[bytes, UserId], ...]  # operations, and who came


@dataclass(frozen=True, slots=True)
class Review:
    """Something that was decided by rule and deserves a person's eye."""

    concern: Concern
    operations: tuple[bytes, ...]
    users: tuple[UserId, ...] = ()
    nodes: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The mesh, as these operations make it."""

    name: str
    founder: UserId
    members: dict[NodeId, Member]
    users: dict[UserId, UserRole]  # active ones
    invites: dict[bytes, InviteView]  # by voucher
    reviews: tuple[Review, ...]
    policy: Policy
    epoch: Numbered
    committee: Numbered
    dedup_epoch: Numbered
    checkpoint: bytes  # the newest operation of that type, or empty

    def hash(self) -> bytes:
        """Equal at two replicas exactly if they agree on everything above."""
        members = [
            [m.node, m.user, m.standing, int(m.roles), int(m.user_role), m.operation]
            for m in sorted(self.members.values(), key=lambda m: m.node)
        ]
        invites = [
            [i.operation, i.state, [op for op, _ in i.admissions]]
            for _, i in sorted(self.invites.items())
        ]
        reviews = [[r.concern, r.operations] for r in self.reviews]
        epochs = [n.row() for n in (self.epoch, self.committee, self.dedup_epoch)]
        users = [[user, int(role)] for user, role in sorted(self.users.items())]
        row = [1, self.name, self.founder, users, members, invites, reviews, epochs]
        row += [self.policy.row(), self.checkpoint]
        return hashing.digest(Label.MEMBER_STATE, codec.encode(row))


def state_of(evaluation: Evaluation) -> State:
    """Everything that follows."""
    return _Builder(evaluation).state()


def state_after(evaluation: Evaluation, before: State, new: Iterable[int]) -> State:
    """The same, if the new operations have changed no verdict over those before them."""
    return _Builder(evaluation).state_after(before, list(new))


def _with(
    users: dict[UserId, UserRole], came: dict[UserId, UserRole], gone: set[UserId]
) -> dict[UserId, UserRole]:
    if not came and gone.isdisjoint(users):
        return users
    return {user: role for user, role in users.items() if user not in gone} | came


class _Builder:
    def __init__(self, evaluation: Evaluation) -> None:
        self._is = evaluation
        self._rights = evaluation.rights
        self._facts = evaluation.facts
        self._ops = evaluation.set.ops
        genesis = self._ops[0].body
        assert isinstance(genesis, Genesis)
        self._genesis = genesis
        self._policy = self._newest_policy()

    def state(self) -> State:
        members = {m.node: m for m in self._members(self._facts.admissions)}
        users = {m.user: m.user_role for m in members.values() if self._is_member(m.user)}
        return State(
            name=self._genesis.name,
            founder=self._facts.founder,
            members=members,
            users=users,
            invites=dict(self._invites(self._facts.invites)),
            reviews=tuple(sorted(self._reviews(), key=lambda r: (r.concern, r.operations))),
            policy=self._policy,
            epoch=self._latest(Kind.EPOCH),
            committee=self._latest(Kind.COMMITTEE),
            dedup_epoch=self._latest(Kind.DEDUP_EPOCH),
            checkpoint=self._checkpoint(),
        )

    def state_after(self, before: State, new: list[int]) -> State:
        kinds = {self._ops[i].kind for i in new}
        if Kind.POLICY in kinds:  # it says what everybody's roles are worth
            return self.state()
        vouchers, users = self._touched(new)
        changed = {member.node: member for member in self._members(users)}
        roles = {m.user: m.user_role for m in changed.values() if self._is_member(m.user)}
        gone = {m.user for m in changed.values()} - set(roles)
        return replace(
            before,
            members=before.members | changed if changed else before.members,
            users=_with(before.users, roles, gone),
            invites=before.invites | dict(self._invites(vouchers)) if vouchers else before.invites,
            epoch=self._latest(Kind.EPOCH) if Kind.EPOCH in kinds else before.epoch,
            committee=self._latest(Kind.COMMITTEE) if Kind.COMMITTEE in kinds else before.committee,
            dedup_epoch=self._latest(Kind.DEDUP_EPOCH),
            checkpoint=self._checkpoint() if Kind.CHECKPOINT in kinds else before.checkpoint,
        )

    def _touched(self, new: list[int]) -> tuple[set[bytes], set[UserId]]:
        """The vouchers and users that these operations are about."""
        vouchers: set[bytes] = set()
        users: set[UserId] = set()
        for i in new:
            body = self._ops[self._facts.refers.get(i, i)].body
            if isinstance(body, Invite | CloseInvite):
                vouchers.add(body.voucher)
            elif isinstance(body, RevokeUser | RevokeDevice | SuspendDevice):
                users.add(body.user)
            elif isinstance(body, Admit):
                vouchers.add(body.join.invite)
            cert = bodies.cert_of(body)
            if cert is not None:
                users.add(cert.user)
        return vouchers, users

    # --- members ----------------------------------------------------------------------------------

    def _members(self, users: Iterable[UserId]) -> Iterator[Member]:
        for user in users:
            if not any(self._is.counts(a) for a in self._facts.admissions[user]):
                continue
            standing, role = self._user_standing(user), self._user_role(user)
            for node in self._facts.devices[user]:
                if self._facts.user_of(node) != user:
                    continue
                bound = [b for b in self._facts.bindings[node] if self._is.counts(b)]
                if bound:
                    yield self._member(node, user, role, standing, bound)

    def _member(
        self, node: NodeId, user: UserId, role: UserRole, standing: Standing, bound: list[int]
    ) -> Member:
        facts = self._facts
        first, newest = min(bound, key=facts.key), max(bound, key=facts.key)
        cert = self._cert(newest)
        admitted_by = facts.author_user(first) or user
        invited_by = facts.author_user(facts.terms[first]) if first in facts.terms else None
        op_id = self._ops[first].id
        mesh = self._is.set.mesh
        return Member(
            node=node,
            user=user,
            standing=self._device_standing(node, user, standing),
            roles=self._roles(node, user, cert, alone=len(bound) == 1),
            user_role=role,
            name=cert.name,
            box_public=cert.box_public,
            kem=self._kem(newest),
            admitted_by=admitted_by,
            invited_by=invited_by or admitted_by,
            operation=op_id,
            dht_id=derive.dht_id(mesh, node, op_id),
            overlay=derive.overlay(mesh, node),
        )

    def _cert(self, i: int) -> DeviceCert:
        cert = bodies.cert_of(self._ops[i].body)
        assert cert is not None
        return cert

    def _kem(self, i: int) -> bytes:
        body = self._ops[i].body
        if isinstance(body, Admit):
            return body.join.kem
        return body.recover.kem if isinstance(body, AddDevice) else self._genesis.kem

    def _is_member(self, user: UserId) -> bool:
        return self._rights.member(user, TOP, TOP)

    def _user_role(self, user: UserId) -> UserRole:
        for role in (UserRole.ADMIN, UserRole.ADMITTER):
            if self._rights.role(user, role, TOP, TOP):
                return role
        return UserRole.MEMBER

    def _user_standing(self, user: UserId) -> Standing:
        rights, facts = self._rights, self._facts
        if self._is_member(user):
            return Standing.ACTIVE
        counting = [a for a in facts.admissions[user] if self._is.counts(a)]
        if any(rights.disputed(a) for a in counting):
            return Standing.DISPUTED
        removals = [r for r in facts.user_removals.get(user, ()) if self._is.counts(r)]
        if not removals:
            return Standing.PENDING
        tied = all(r in self._is.tied for r in removals)
        return Standing.SUSPENDED if tied else Standing.DEPARTED

    def _device_standing(self, node: NodeId, user: UserId, of_user: Standing) -> Standing:
        removals = [r for r in self._facts.device_removals.get(node, ()) if self._is.counts(r)]
        if any(isinstance(self._ops[r].body, RevokeDevice) for r in removals):
            return Standing.REVOKED
        if of_user != Standing.ACTIVE:
            return of_user
        if self._facts.forked_at(node) is not None:
            return Standing.SUSPENDED
        if any(not self._rights.lifted(r, TOP) for r in removals):
            return Standing.SUSPENDED
        # A device of somebody who left and came back has to be told to the mesh again.
        active = self._rights.device(node, user, TOP, TOP)
        return Standing.ACTIVE if active else Standing.DEPARTED

    def _roles(self, node: NodeId, user: UserId, cert: DeviceCert, *, alone: bool) -> Role:
        roles = cert.roles
        if not alone:
            for bit in Role:
                if bit in roles and not self._rights.bit(node, bit, TOP, TOP):
                    roles &= ~bit
        role = self._user_role(user)
        if role < min(self._policy.invite_by, self._policy.admit_by):
            roles &= ~Role.INVITE
        if role != UserRole.ADMIN:
            roles &= ~Role.ADMIN
        return roles

    # --- invites and reviews ----------------------------------------------------------------------

    def _invites(self, vouchers: Iterable[bytes]) -> Iterator[tuple[bytes, InviteView]]:
        facts = self._facts
        for voucher in vouchers:
            counting = [i for i in facts.invites.get(voucher, ()) if self._is.counts(i)]
            if not counting:
                continue
            i = min(counting, key=facts.key)
            body = facts.invite(i)
            inviter = facts.author_user(i)
            assert inviter is not None
            yield (
                voucher,
                InviteView(
                    voucher=voucher,
                    operation=self._ops[i].id,
                    inviter=inviter,
                    state=self._invite_state(voucher, i),
                    role=body.role,
                    approve=body.approve,
                    expires_s=body.expires_s,
                    quota_bytes=body.quota_bytes,
                    label=body.label,
                    admissions=tuple(
                        (self._ops[a].id, self._cert(a).user) for a in self._admitted(voucher)
                    ),
                ),
            )

    def _admitted(self, voucher: bytes) -> list[int]:
        counting = [a for a in self._facts.admits.get(voucher, ()) if self._is.counts(a)]
        return sorted(counting, key=self._facts.key)

    def _invite_state(self, voucher: bytes, i: int) -> InviteState:
        came = self._admitted(voucher)
        if not came:
            is_open = self._rights.voucher_open(i, TOP, TOP)
            return InviteState.OPEN if is_open else InviteState.CLOSED
        if all(self._rights.disputed(a) for a in came):
            return InviteState.DISPUTED
        if self._facts.invite(i).approve:
            approved = [p for a in came for p in self._facts.approvals.get(a, ())]
            if not any(self._is.counts(p) for p in approved):
                return InviteState.PENDING
        return InviteState.SPENT

    def _reviews(self) -> Iterator[Review]:
        facts, signers = self._facts, self._is.rules.signers
        ids = [op.id for op in self._ops]
        for node in sorted(self._is.set.forks):
            said = [i for group in self._is.set.forks[node].values() for i in group]
            user = facts.user_of(node)
            users: tuple[UserId, ...] = (user,) if user else ()
            yield Review(Concern.EQUIVOCATION, tuple(sorted(ids[i] for i in said)), users, (node,))
        if self._is.tied:
            tied = tuple(sorted(ids[i] for i in self._is.tied))
            yield Review(Concern.TIE, tied)
        for voucher in sorted(facts.admits):
            came = self._admitted(voucher)
            if len({self._cert(a).user for a in came}) > 1:
                users = tuple(self._cert(a).user for a in came)
                yield Review(Concern.DISPUTED, tuple(ids[a] for a in came), users)
        if not facts.cuts and not self._is.set.forks:
            return
        for admissions in facts.admits.values():
            for a in admissions:
                by = facts.author_user(a)
                if by is not None and self._is.counts(a) and signers.doubts.in_question(a, by):
                    cert = self._cert(a)
                    yield Review(Concern.KEPT_ADMISSION, (ids[a],), (cert.user,), (cert.node,))

    # --- the mesh as a whole ----------------------------------------------------------------------

    def _newest_policy(self) -> Policy:
        newest = max((p for p in self._facts.policies if self._is.counts(p)), key=self._facts.key)
        body = self._ops[newest].body
        return body if isinstance(body, Policy) else self._genesis.policy

    def _latest(self, kind: Kind) -> Numbered:
        found = [(n, i) for n, i in self._facts.numbered.get(kind, ()) if self._is.counts(i)]
        highest = max((number for number, _ in found), default=0)
        latest = [i for number, i in found if number == highest]
        body = self._ops[min(latest, key=self._facts.key)].body if latest else None
        return body if isinstance(body, Numbered) else Numbered(0, b"")

    def _checkpoint(self) -> bytes:
        found = [
            i for i, op in enumerate(self._ops) if op.kind == Kind.CHECKPOINT and self._is.counts(i)
        ]
        return self._ops[max(found, key=self._facts.key)].id if found else b""
