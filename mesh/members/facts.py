"""What the operations are about: who is named by which of them, without judging any.

Every table grows as operations come and depends on nothing but the operations. A reference to an
operation counts only if that lies in the past of the one that refers to it.
"""

from bisect import insort
from collections import defaultdict

from core import limits
from core.ids import NodeId, UserId
from mesh.members import bodies, derive
from mesh.members.bodies import (
    AddDevice,
    Admit,
    Approve,
    CloseInvite,
    Drop,
    Genesis,
    Grant,
    Invite,
    Kind,
    Numbered,
    Policy,
    RevokeDevice,
    RevokeUser,
    SuspendDevice,
    UserRole,
)
from mesh.members.operation import Proposal
from mesh.members.opset import OpSet

REMOVALS = {
    Kind.CLOSE_INVITE,
    Kind.SUSPEND_DEVICE,
    Kind.REVOKE_DEVICE,
    Kind.REVOKE_USER,
    Kind.DROP,
}
_ADMITTING = (UserRole.ADMITTER, UserRole.ADMIN)


class Facts:
    """The tables. Values are indexes of operations in the OpSet."""

    def __init__(self, ops: OpSet) -> None:
        self.set = ops
        self.founder: UserId
        self.admissions: dict[UserId, list[int]] = defaultdict(list)
        self.entries: list[int] = []  # all of them but the genesis
        self.bindings: dict[NodeId, list[int]] = defaultdict(list)
        self.devices: dict[UserId, list[NodeId]] = defaultdict(list)
        self._users: dict[NodeId, UserId] = {}
        self.overlays: dict[bytes, list[NodeId]] = defaultdict(list)
        self.dht_ids: dict[bytes, list[int]] = defaultdict(list)
        self.grants: dict[tuple[UserId, UserRole], list[int]] = defaultdict(list)
        self.drops: dict[tuple[UserId, UserRole], list[int]] = defaultdict(list)
        self.reopenings: dict[UserId, list[int]] = defaultdict(list)
        self.user_removals: dict[UserId, list[int]] = defaultdict(list)
        self.device_removals: dict[NodeId, list[int]] = defaultdict(list)
        self.lifts: dict[int, list[int]] = defaultdict(list)  # of a suspension
        self.invites: dict[bytes, list[int]] = defaultdict(list)
        self.closings: dict[bytes, list[int]] = defaultdict(list)
        self.admits: dict[bytes, list[int]] = defaultdict(list)  # of a voucher
        self.terms: dict[int, int] = {}  # of an admission: the invite it goes by
        self.approvals: dict[int, list[int]] = defaultdict(list)  # of an admission
        self.refers: dict[int, int] = {}  # approve, lift, cut: the operation that is named
        self.repeated: set[int] = set()  # removals that say what their author has said too often
        self._said: dict[tuple[NodeId, int, bytes], list[int]] = defaultdict(list)
        self.dangling: set[int] = set()  # names one that it cannot have known
        self.cuts: dict[int, int] = {}  # removal -> the last operation that counts
        self.written: dict[NodeId, list[int]] = defaultdict(list)  # by each device
        self.cosigners: set[UserId] = set()
        self.twins: dict[int, list[int]] = {}  # removals that the same paper was made into
        self._papers: dict[bytes, list[int]] = {}  # what was made of each paper
        self.policies: list[int] = []
        self.numbered: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by type; ascending
        self.in_turn: set[int] = set()  # of those
        for i in range(len(ops)):
            self.add(i)

    def key(self, i: int) -> tuple[int, bytes]:
        """The place of an operation in the total order, equal at all replicas."""
        op = self.set.ops[i]
        return op.lamport, op.id

    def knows(self, i: int, other: int) -> bool:
        """Whether an operation was written in knowledge of another."""
        return bool(self.set.past[i] >> other & 1)

    def add(self, i: int) -> None:
        """Enter one operation."""
        body = self.set.ops[i].body
        self._add_paper(i)
        if isinstance(body, SuspendDevice | RevokeDevice | RevokeUser | Drop):
            self._add_removal(i, body)
        elif isinstance(body, Genesis | Admit | AddDevice):
            self._add_binding(i, body)
        elif isinstance(body, Invite | CloseInvite | Approve):
            self._add_about_invite(i, body)
        elif isinstance(body, Grant):
            self._enter(self.reopenings[body.user], i)
            for role in _ADMITTING:
                if role <= body.role:
                    self._enter(self.grants[body.user, role], i)
        elif isinstance(body, Policy):
            self._enter(self.policies, i)
        elif isinstance(body, Numbered):
            self._add_number(i, body.number)
        self._enter(self.written[self.set.ops[i].author], i)
        self.cosigners |= {cosign.user for cosign in self.set.ops[i].cosigns}

    def made_of(self, proposal: Proposal) -> list[int]:
        """The operations that cosigners of this have been made into."""
        return self._papers.get(proposal.encoded(), [])

    def _add_paper(self, i: int) -> None:
        op = self.set.ops[i]
        if not op.cosigns:
            return
        # Whoever has seen cosignatures can hang them under another operation.
        paper = Proposal(op.mesh, op.kind, op.parents, op.body).encoded()
        made = self._papers.setdefault(paper, [])
        self._enter(made, i)
        if op.kind in REMOVALS:
            self.twins[i] = made

    def _enter(self, table: list[int], i: int) -> None:
        """In the total order: what the rules look at first must not hang on what came first."""
        insort(table, i, key=self.key)

    def _add_genesis(self, i: int, body: Genesis) -> None:
        self.founder = body.cert.user
        self._enter(self.admissions[body.cert.user], i)
        self._enter(self.policies, i)
        for role in _ADMITTING:
            self._enter(self.grants[body.cert.user, role], i)

    def _add_about_invite(self, i: int, body: Invite | CloseInvite | Approve) -> None:
        if isinstance(body, Invite):
            self._enter(self.invites[body.voucher], i)
        elif isinstance(body, CloseInvite):
            self._enter(self.closings[body.voucher], i)
        elif (named := self._named(i, body.admission, Kind.ADMIT)) is not None:
            self._enter(self.approvals[named], i)

    def _add_admission(self, i: int, body: Admit) -> None:
        user, voucher = body.join.cert.user, body.join.invite
        self._enter(self.admissions[user], i)
        self._enter(self.entries, i)
        self._enter(self.admits[voucher], i)
        known = [one for one in self.invites[voucher] if self.knows(i, one)]
        if not known:
            self.dangling.add(i)
            return
        invite = min(known, key=self.key)
        self.terms[i] = invite
        if self.invite(invite).role == UserRole.ADMITTER:
            self._enter(self.grants[user, UserRole.ADMITTER], i)

    def _add_number(self, i: int, number: int) -> None:
        # The next one is counted over all that came in turn, void or not; the others do not count,
        # so that nobody can jump to the last number.
        numbered = self.numbered[self.set.ops[i].kind]
        highest = next((n for n, other in reversed(numbered) if self.knows(i, other)), 0)
        if number == highest + 1:
            insort(numbered, (number, i))
            self.in_turn.add(i)

    def next_number(self, kind: int) -> int:
        """What the next epoch of this type is called by who knows everything."""
        return 1 + max((number for number, _ in self.numbered[kind]), default=0)

    def _add_removal(self, i: int, body: SuspendDevice | RevokeDevice | RevokeUser | Drop) -> None:
        if self._is_repeated(i, body):
            self.repeated.add(i)
        elif isinstance(body, Drop):
            for role in _ADMITTING:
                if role >= body.role:
                    self._enter(self.drops[body.user, role], i)
        elif isinstance(body, SuspendDevice):
            self._add_suspension(i, body)
        else:
            named = self._named(i, body.cut, None) if body.cut else None
            if named is not None:
                self.cuts[i] = named
            if isinstance(body, RevokeDevice):
                self._enter(self.device_removals[body.node], i)
            else:
                self._enter(self.user_removals[body.user], i)

    def _is_repeated(self, i: int, body: SuspendDevice | RevokeDevice | RevokeUser | Drop) -> bool:
        """Removals are compared with each other: nobody shall make that long work."""
        subject = body.user if isinstance(body, RevokeUser | Drop) else body.node
        op = self.set.ops[i]
        said = self._said[op.author, op.kind, subject]
        before = sum(self.set.known[i] >> other & 1 for other in said)
        if before >= limits.REMOVALS_REPEATED_MAX:
            return True
        said.append(i)
        return False

    def _add_suspension(self, i: int, body: SuspendDevice) -> None:
        if not body.lifts:
            self._enter(self.device_removals[body.node], i)
            return
        named = self._named(i, body.lifts, Kind.SUSPEND_DEVICE)
        if named is None:
            return
        suspension = self.set.ops[named].body
        assert isinstance(suspension, SuspendDevice)
        if suspension.node != body.node or suspension.lifts:
            self.dangling.add(i)
        else:
            self._enter(self.lifts[named], i)

    def _add_binding(self, i: int, body: Genesis | Admit | AddDevice) -> None:
        if isinstance(body, Admit):
            self._add_admission(i, body)
        elif isinstance(body, Genesis):
            self._add_genesis(i, body)
        cert = bodies.cert_of(body)
        assert cert is not None
        bound = self.bindings[cert.node]
        self._enter(bound, i)
        if min(bound, key=self.key) == i:
            self._users[cert.node] = cert.user
        if cert.node not in self.devices[cert.user]:
            self.devices[cert.user].append(cert.node)
        mesh = self.set.mesh
        nodes = self.overlays[derive.overlay(mesh, cert.node)]
        if cert.node not in nodes:
            nodes.append(cert.node)
        self.dht_ids[derive.dht_id(mesh, cert.node, self.set.ops[i].id)].append(i)

    def _named(self, i: int, op_id: bytes, kind: Kind | None) -> int | None:
        """The operation that is named, if it was known and is of this type."""
        named = self.set.index.get(op_id)
        known = named is not None and self.knows(i, named)
        if named is None or not known or (kind and self.set.ops[named].kind != kind):
            self.dangling.add(i)
            return None
        self.refers[i] = named
        return named

    # --- what follows at once ---------------------------------------------------------------------

    def invite(self, i: int) -> Invite:
        """The body of an invite."""
        body = self.set.ops[i].body
        assert isinstance(body, Invite)
        return body

    def user_of(self, node: NodeId) -> UserId | None:
        """Whose device it is: a device that signed for two belongs to the first."""
        return self._users.get(node)

    def rebinds(self, i: int) -> bool:
        """Whether an operation binds a device or an address that another has bound."""
        cert = bodies.cert_of(self.set.ops[i].body)
        if cert is None:
            return False
        nodes = self.overlays[derive.overlay(self.set.mesh, cert.node)]
        same = self.dht_ids[derive.dht_id(self.set.mesh, cert.node, self.set.ops[i].id)]
        return len(self.bindings[cert.node]) > 1 or len(nodes) > 1 or len(same) > 1

    def author_user(self, i: int) -> UserId | None:
        """In whose name an operation was written."""
        return self.user_of(self.set.ops[i].author)

    def collides(self, i: int, node: NodeId) -> bool:
        """Whether another node has a value derived for this one, and had it first."""
        mesh = self.set.mesh
        nodes = self.overlays[derive.overlay(mesh, node)]
        same = self.dht_ids[derive.dht_id(mesh, node, self.set.ops[i].id)]
        if len(nodes) == len(same) == 1:
            return False
        first = min(nodes, key=lambda one: min(self.key(b) for b in self.bindings[one]))
        return first != node or min(same, key=self.key) != i

    def forked_at(self, node: NodeId) -> int | None:
        """The first number this author gave to two operations."""
        forks = self.set.forks.get(node)
        return min(forks) if forks else None

    def saw_fork(self, node: NodeId, past: int) -> bool:
        """Whether the proof that this author said two things at once lies in a past."""
        groups = self.set.forks.get(node, {}).values()
        return any(sum(past >> i & 1 for i in group) > 1 for group in groups)
