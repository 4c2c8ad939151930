"""Writing operations: the next one of this device, in its right place, or a reason why not.

What would be void is never published: `write` tries it out first. An operation that needs the
signatures of several admins begins as a proposal; whoever has gathered enough publishes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from core import limits
from core.crypto import SigningKey
from core.errors import PortalError
from core.ids import NodeId, UserId
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
    Genesis,
    Grant,
    Invite,
    Kind,
    Numbered,
    Policy,
    Reason,
    RevokeDevice,
    RevokeUser,
    SuspendDevice,
    UserRole,
)
from mesh.members.joining import Join, Recover
from mesh.members.membership import Changes, Membership
from mesh.members.operation import Cosign, Place, Proposal, signed
from mesh.members.rules import Void


class NotAllowed(PortalError):
    """The mesh would not accept this."""

    exit_code: ClassVar[int] = 1

    def __init__(self, reason: Void, hint: str | None = None) -> None:
        super().__init__(f"the mesh would not accept this: {reason.value}", hint=hint)
        self.reason = reason


_HINTS = {
    Void.NO_QUORUM: "ask other admins to sign it too",
    Void.NO_ADMIN: "an admin device, or the phrase of an admin, can do it",
    Void.USER_KEY: "it needs the recovery phrase of that user",
}


def found_mesh(key: SigningKey, genesis: Genesis, wall_ms: int) -> bytes:
    """The first operation of a new mesh."""
    return signed(key, None, Kind.GENESIS, genesis, Place(wall_ms=wall_ms))


@dataclass(frozen=True, slots=True)
class Author:
    """A device that writes into a membership. `now_ms` is for people and decides nothing."""

    membership: Membership
    key: SigningKey
    check: Callable[[], None] = lambda: None  # an error while it may not know what it wrote

    @property
    def node(self) -> NodeId:
        """Who writes."""
        return NodeId(self.key.public)

    # --- the next operation -----------------------------------------------------------------------

    def next(
        self, kind: int, body: Body, now_ms: int, proposal: Proposal | None = None,
        cosigns: Sequence[Cosign] = (),
    ) -> bytes:  # fmt: skip
        """The bytes of an operation in its place. Not yet part of anything."""
        self.check()
        ops = self.membership.set
        last = ops.last_of(self.node)
        parents = proposal.parents if proposal else self.parents()
        before = {*parents, *([last.id] if last else [])}
        lamport = 1 + max(ops.ops[ops.index[op_id]].lamport for op_id in before)
        place = Place(
            seq=last.seq + 1 if last else 0,
            prev=last.id if last else b"",
            parents=parents,
            lamport=lamport,
            wall_ms=now_ms,
        )
        return signed(self.key, self.membership.mesh_id, kind, body, place, cosigns)

    def parents(self) -> tuple[bytes, ...]:
        """The newest operations known here."""
        heads = self.membership.set.heads[: limits.OPERATION_PARENTS_MAX]
        return tuple(sorted(op.id for op in heads))

    def write(self, kind: int, body: Body, now_ms: int) -> Changes:
        """Write an operation that counts, or NotAllowed."""
        return self._publish(self.next(kind, body, now_ms))

    def _publish(self, data: bytes) -> Changes:
        found = self.membership.write(data)
        if isinstance(found, Void):
            raise NotAllowed(found, _HINTS.get(found))
        return found

    # --- together with others ---------------------------------------------------------------------

    def propose(self, kind: int, body: Body, without: Sequence[bytes] = ()) -> Proposal:
        """What other admins are asked to sign.

        `without` names operations it shall not know: a removal that is contested is answered as
        if it had not been seen, so that the two exclude each other and the one with more admins
        behind it wins.
        """
        ops = self.membership.set
        hidden = {ops.index[op_id] for op_id in without}
        parents = self.parents()
        if hidden:
            seen = [
                i
                for i in range(len(ops))
                if i not in hidden and not any(ops.known[i] >> h & 1 for h in hidden)
            ]
            covered = 0
            for i in seen:
                covered |= ops.known[i]
            tops = sorted(
                (i for i in seen if not covered >> i & 1), key=lambda i: ops.ops[i].lamport
            )
            chosen = tops[-limits.OPERATION_PARENTS_MAX :]
            parents = tuple(sorted(ops.ops[i].id for i in chosen))
        return Proposal(self.membership.mesh_id, kind, parents, body)

    def publish(self, proposal: Proposal, cosigns: Sequence[Cosign], now_ms: int) -> Changes:
        """Write what enough have signed, or NotAllowed."""
        # With a cosignature, if only its own, an operation knows what the proposal knew, no more.
        own = self.membership.member(self.node)
        if not cosigns and own is not None:
            cosigns = [proposal.cosigned(self.key, own.user)]
        rows = sorted(cosigns, key=lambda one: (one.user, one.node or b"", one.signature))
        return self._publish(self.next(proposal.kind, proposal.body, now_ms, proposal, rows))

    # --- by name ----------------------------------------------------------------------------------

    def invite(self, voucher: SigningKey, terms: Invite, now_ms: int) -> Changes:
        """Open an invite; `terms` without the voucher's signature."""
        context = Context(self.membership.mesh_id, self.node)
        return self.write(Kind.INVITE, terms.signed(voucher, context), now_ms)

    def close_invite(self, voucher: bytes, now_ms: int) -> Changes:
        """Close an invite before its time."""
        return self.write(Kind.CLOSE_INVITE, CloseInvite(voucher), now_ms)

    def admit(self, join: tuple[bytes, bytes, bytes], now_ms: int) -> Changes:
        """Admit whoever signed this JOIN; expiry and binding were checked by the caller."""
        body = Admit(*join, Join.open_untrusted(*join))
        return self.write(Kind.ADMIT, body, now_ms)

    def approve(self, admission: bytes, now_ms: int) -> Changes:
        """Say yes to an admission."""
        return self.write(Kind.APPROVE, Approve(admission), now_ms)

    def add_device(self, recover: tuple[bytes, bytes, bytes], now_ms: int) -> Changes:
        """Carry what a user's key says about a device."""
        body = AddDevice(*recover, Recover.open_untrusted(*recover))
        return self.write(Kind.ADD_DEVICE, body, now_ms)

    def suspend_device(self, user: UserId, node: NodeId, now_ms: int) -> Changes:
        """Stop a device for the time being."""
        return self.write(Kind.SUSPEND_DEVICE, SuspendDevice(user, node), now_ms)

    def lift_suspension(
        self, user: UserId, node: NodeId, suspension: bytes, key: SigningKey | None, now_ms: int
    ) -> Changes:
        """Let a device back; by its user's key, or as admins who suspended it."""
        body = SuspendDevice(user, node, suspension)
        if key is not None:
            words = body.words(self.membership.mesh_id)
            body = SuspendDevice(user, node, suspension, key.sign(SignLabel.MEMBER_DEVICE, words))
        return self.write(Kind.SUSPEND_DEVICE, body, now_ms)

    def revoke_device(
        self, key: SigningKey, node: NodeId, now_ms: int, cut: bytes = b""
    ) -> Changes:
        """Put a device out for good, by its user's key."""
        user = UserId(key.public)
        words = RevokeDevice(user, node, cut, b"").words(self.membership.mesh_id)
        body = RevokeDevice(user, node, cut, key.sign(SignLabel.MEMBER_DEVICE, words))
        return self.write(Kind.REVOKE_DEVICE, body, now_ms)

    def revoke_user(self, user: UserId, reason: Reason, now_ms: int, cut: bytes = b"") -> Changes:
        """Put a user out."""
        return self.write(Kind.REVOKE_USER, RevokeUser(user, reason, cut), now_ms)

    def grant(self, user: UserId, role: UserRole, now_ms: int) -> Changes:
        """Give a role."""
        return self.write(Kind.GRANT, Grant(user, role), now_ms)

    def drop(self, user: UserId, role: UserRole, now_ms: int) -> Changes:
        """Take a role."""
        return self.write(Kind.DROP, Drop(user, role), now_ms)

    def set_policy(self, policy: Policy, now_ms: int) -> Changes:
        """Change who may do what."""
        return self.write(Kind.POLICY, policy, now_ms)

    def next_epoch(self, data: bytes, now_ms: int, kind: Kind = Kind.EPOCH) -> Changes:
        """Begin the next epoch of the mesh's keys, of the committee or of deduplication."""
        return self.write(kind, Numbered(self.membership.next_number(kind), data), now_ms)

    def checkpoint(self, now_ms: int) -> Changes:
        """State what everything amounts to."""
        return self.write(Kind.CHECKPOINT, Checkpoint(self.membership.state.hash()), now_ms)
