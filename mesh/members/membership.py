"""The membership of one mesh, as the rest of the program sees it.

    file = "PTML" u8 version | record...        record = u32 length | operation

The file is only ever appended to; reading it takes every record, in any order, and stops at a
torn one. It is believed no more than a peer is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from core import limits
from core.device_cert import Role
from core.errors import FormatError, IntegrityError, NewerFormat, PortalError
from core.ids import MeshId, NodeId, UserId
from mesh.hello import News
from mesh.members.bodies import Kind, UserRole
from mesh.members.evaluate import Evaluation
from mesh.members.operation import Operation, Proposal, operation_id
from mesh.members.opset import OpSet
from mesh.members.rules import Void
from mesh.members.state import InviteView, Member, Review, Standing, state_after, state_of
from mesh.roster import Member as RosterMember

_MAGIC = b"PTML"
_VERSION = 1
_LENGTH_BYTES = 4
_RECORD_BYTES_MAX = (
    limits.ADMISSION_BYTES_MAX + limits.OPERATION_COSIGNS_MAX * limits.OPERATION_COSIGN_BYTES_MAX
)
M = TypeVar("M", bound="Membership")
LOG_HEADER = _MAGIC + bytes([_VERSION])


@dataclass(frozen=True, slots=True)
class Changes:
    """What came of operations that arrived."""

    added: tuple[Operation, ...] = ()  # to be written to the file, and told to others
    active: tuple[NodeId, ...] = ()  # devices that may connect and could not before
    barred: tuple[NodeId, ...] = ()  # that may no longer: their links are cut now
    reviews: tuple[Review, ...] = ()  # that are new
    epoch: int | None = None  # if it is another one now
    refused: tuple[PortalError, ...] = ()  # what was wrong with the rest


@dataclass(frozen=True, slots=True)
class Kept(Generic[M]):
    """What a file held."""

    membership: M
    size: int  # of its whole records and what is before them
    harm: FormatError | None = None  # what was damaged, if something was


class Membership:
    """A replica of the membership: the operations, and what they amount to."""

    def __init__(self, genesis: Operation) -> None:
        self.set = OpSet(genesis)
        self._evaluation = Evaluation(self.set)
        self.state = state_of(self._evaluation)

    @classmethod
    def begin_untrusted(cls, genesis: bytes) -> Self:
        """The mesh that begins with this operation; compare its id with the one that is meant."""
        return cls(Operation.open_untrusted(genesis, None))

    @classmethod
    def load_untrusted(cls, data: bytes) -> tuple[Self, int]:
        """The membership in a file, and how many of its bytes are whole records."""
        kept = cls.recall_untrusted(data)
        if kept.harm is not None:
            raise kept.harm
        return kept.membership, kept.size

    @classmethod
    def recall_untrusted(cls, data: bytes) -> "Kept[Self]":
        """The same, and of a damaged file what is sound in it; the genesis has to be.

        Each operation stands for itself, and what is gone the others still have.
        """
        records, size, is_torn = _records_untrusted(data)
        if not records:
            raise FormatError("the list of members is empty")
        found = cls.begin_untrusted(records[0])
        changes = found.receive_untrusted(records[1:])
        for refusal in changes.refused:
            if isinstance(refusal, NewerFormat):
                raise refusal  # it is not damaged, and must not be mended
        lost = sum(operation_id(record) not in found.set for record in records)
        if not lost and is_torn:
            return Kept(found, size)
        why = f"of {len(records)} entries {lost} are lost" if lost else "its end is lost"
        return Kept(found, size, FormatError(f"the list of members is damaged: {why}"))

    def dump(self) -> bytes:
        """The whole file."""
        return LOG_HEADER + b"".join(map(log_record, self.set.ops))

    # --- questions --------------------------------------------------------------------------------

    @property
    def mesh_id(self) -> MeshId:
        """Which mesh."""
        return self.set.mesh

    def member(self, node: NodeId) -> Member | None:
        """A device of the mesh, past or present."""
        return self.state.members.get(node)

    def members(self) -> list[Member]:
        """All of them, by node."""
        return [self.state.members[node] for node in sorted(self.state.members)]

    def devices(self, user: UserId) -> list[Member]:
        """Those of one user."""
        return [member for member in self.members() if member.user == user]

    def can(self, node: NodeId, role: Role | UserRole) -> bool:
        """Whether a device may connect and has a role: its own, or its user's."""
        member = self.state.members.get(node)
        if member is None or not member.is_active:
            return False
        if isinstance(role, Role):
            return role in member.roles
        return member.user_role >= role

    def invites(self) -> tuple[InviteView, ...]:
        """Every invite and what became of it."""
        return tuple(view for _, view in sorted(self.state.invites.items()))

    def invite(self, voucher: bytes) -> InviteView | None:
        """The invite of one voucher."""
        return self.state.invites.get(voucher)

    def pending(self) -> list[Member]:
        """Who waits for an approval."""
        return [m for m in self.members() if m.standing == Standing.PENDING]

    def reviews(self) -> tuple[Review, ...]:
        """What a person should look at."""
        return self.state.reviews

    def news(self) -> News:
        """What HELLO says of it."""
        heads = tuple(op.id for op in self.set.heads[: limits.HELLO_HEADS_MAX])
        return News(heads, self.set.vector_hash(), self.state.epoch.number)

    def next_number(self, kind: Kind) -> int:
        """The number of the next epoch of this type."""
        return self._evaluation.facts.next_number(kind)

    def why_void(self, op_id: bytes) -> Void | None:
        """Why an operation that is known does not count; None if it does."""
        return self._evaluation.why_void(self.set.index[op_id])

    def is_written(self, proposal: Proposal) -> bool:
        """Whether an operation that counts was made of this already, whatever came after it."""
        judged = self._evaluation
        return any(judged.counts(i) for i in judged.facts.made_of(proposal))

    def admins_at(self, parents: Iterable[bytes]) -> frozenset[UserId]:
        """The admins that whoever knows these operations, and no more, can know of."""
        return self._evaluation.rules.signers.known_admins(self._below(parents))

    def unknown_at(self, parents: Iterable[bytes], nodes: Iterable[NodeId]) -> list[Operation]:
        """What these devices wrote that whoever knows these operations, and no more, knows not."""
        past, written = self._below(parents), self._evaluation.facts.written
        found = [i for node in nodes for i in written.get(node, ()) if not past >> i & 1]
        return [self.set.ops[i] for i in found]

    def _below(self, parents: Iterable[bytes]) -> int:
        past = 0
        for op_id in parents:
            past |= self.set.upto(self.set.index[op_id])
        return past

    def roster(self) -> "MembershipRoster":
        """Who may connect, for links: follows every change."""
        return MembershipRoster(self)

    # --- changes ----------------------------------------------------------------------------------

    def receive_untrusted(self, operations: Iterable[bytes]) -> Changes:
        """Take what somebody sent. What is wrong is refused one by one and told in the answer."""
        refused: list[PortalError] = []
        new: list[int] = []
        for data in operations:
            try:
                if operation_id(data) in self.set:  # of these very bytes: most come several times
                    continue
                operation = Operation.open_untrusted(data, self.mesh_id)
                new += self.set.add_untrusted(operation)
            except (FormatError, IntegrityError) as e:
                refused.append(e)
        return self._judge(new, refused)

    def write(self, data: bytes) -> Changes | Void:
        """Take an operation of our own if it counts; if not, why, and nothing has changed."""
        operation = Operation.open_untrusted(data, self.mesh_id)
        added = self.set.add_untrusted(operation)
        assert added
        assert operation.id in self.set
        alone = self._evaluation.add(added)
        reason = self._evaluation.why_void(added[0])
        if reason is None:
            return self._changes(added, [], alone=alone)
        assert len(added) == 1
        self.set.give_back_last()
        self._evaluation = Evaluation(self.set)
        return reason

    def _judge(self, new: list[int], refused: list[PortalError]) -> Changes:
        if not new:
            return Changes(refused=tuple(refused))
        alone = self._evaluation.add(new)
        return self._changes(new, refused, alone=alone)

    def _changes(self, new: list[int], refused: list[PortalError], *, alone: bool) -> Changes:
        before, judged = self.state, self._evaluation
        self.state = after = state_after(judged, before, new) if alone else state_of(judged)
        was = {node for node, member in before.members.items() if member.is_active}
        now = {node for node, member in after.members.items() if member.is_active}
        known = set(before.reviews)
        return Changes(
            added=tuple(self.set.ops[i] for i in new),
            active=tuple(sorted(now - was)),
            barred=tuple(sorted(was - now)),
            reviews=tuple(review for review in after.reviews if review not in known),
            epoch=after.epoch.number if after.epoch != before.epoch else None,
            refused=tuple(refused),
        )


class MembershipRoster:
    """Who may connect now (mesh/roster.py)."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    @property
    def mesh_id(self) -> MeshId:
        """Which mesh."""
        return self._membership.mesh_id

    def member(self, node: NodeId) -> RosterMember | None:
        """A device that may connect, or nothing."""
        found = self._membership.member(node)
        if found is None or not found.is_active:
            return None
        return RosterMember(found.node, found.user, found.roles, found.box_public, found.name)


def log_record(operation: Operation) -> bytes:
    """What is appended to the file for an operation."""
    return len(operation.data).to_bytes(_LENGTH_BYTES) + operation.data


def _records_untrusted(data: bytes) -> tuple[list[bytes], int, bool]:
    """The records, how long all that is, and whether what follows is no more than a torn append."""
    if data[: len(_MAGIC)] != _MAGIC or len(data) < len(LOG_HEADER):
        raise FormatError("this is not a list of members")
    if data[len(_MAGIC)] != _VERSION:
        raise NewerFormat("this list of members was written by a newer Portal")
    found: list[bytes] = []
    at = len(LOG_HEADER)
    while at + _LENGTH_BYTES <= len(data):
        begin = at + _LENGTH_BYTES
        size = int.from_bytes(data[at:begin])
        if size == 0:  # room that was never written
            return found, at, not any(data[at:])
        if begin + size > len(data):
            return found, at, size <= _RECORD_BYTES_MAX
        found.append(data[begin : begin + size])
        at = begin + size
    return found, at, True
