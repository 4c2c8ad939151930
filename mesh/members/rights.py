"""Who held what right where: the questions the rules ask about one point of the graph.

A point is an operation and its past; or the top, where everything is known. A right holds at a
point if an operation in its past gave it, and no operation took it away that is *not after* that
point, unless it was given again in knowledge of that. So a removal also counts against what was
done at the same time, far away; what its author had seen of the one removed stays.

Whether an operation counts may hang on others at its side, which hang on it. So there are always
two answers, each asked with its own pair of tables:

    certain    what gives must be certain, what takes away need only be possible
    possible   what gives need only be possible, what takes away must be certain

and `other` is the opposite one. The evaluation makes them meet (mesh/members/evaluate.py).
"""

from collections.abc import Callable, Iterable

from core.device_cert import Role
from core.ids import NodeId, UserId
from mesh.members import bodies
from mesh.members.bodies import Admit, Genesis, Policy, UserRole
from mesh.members.facts import Facts

TOP = -1  # the point that knows everything; its past is -1 too: all bits


class Rights:
    """One of the two answers. `gives` and `takes` are shared: 1 where an operation counts."""

    other: "Rights"

    def __init__(
        self, facts: Facts, gives: bytearray, takes: bytearray, tied: set[int], *, cautious: bool
    ) -> None:
        self.facts = facts
        self.cautious = cautious
        self.gives = gives
        self.takes = takes
        self.tied = tied
        self._past = facts.set.past

    # --- removals ---------------------------------------------------------------------------------

    def knew(self, i: int, removal: int) -> bool:
        """Whether an operation was written in knowledge of a removal.

        Or of another that the same paper was made into, and that counts: signatures that were seen
        once take nothing away again that was given since.
        """
        known = self._past[i]
        return bool(known >> removal & 1) or self._knew_twin(known, removal)

    def _knew_twin(self, known: int, removal: int) -> bool:
        twins = self.facts.twins.get(removal, ())
        return any(known >> twin & 1 and self.gives[twin] for twin in twins)

    def _holds_off(self, removal: int, point: int) -> bool:
        """Whether a removal counts at a point: it stands, and is not after it."""
        if removal == point or (point != TOP and self._past[removal] >> point & 1):
            return False
        return bool(self.takes[removal])  # tables come last: what is looked at, matters

    def _blocked(self, removals: Iterable[int], given: int, point: int) -> bool:
        """Whether something given is taken away at a point, without knowledge of it."""
        known = self._past[given]
        return any(
            not known >> removal & 1
            and self._holds_off(removal, point)
            and not self._knew_twin(known, removal)
            for removal in removals
        )

    def _user_blocked(self, user: UserId, given: int, past: int, point: int) -> bool:
        known = self._past[given]
        for removal in self.facts.user_removals.get(user, ()):
            if known >> removal & 1 or not self._holds_off(removal, point):
                continue
            if self._knew_twin(known, removal):
                continue
            if removal in self.tied and self._reopened(user, removal, past):
                continue
            return True
        return False

    def _reopened(self, user: UserId, removal: int, past: int) -> bool:
        return any(
            past >> g & 1 and self.gives[g] and self.knew(g, removal)
            for g in self.facts.reopenings.get(user, ())
        )

    def _device_blocked(self, node: NodeId, past: int, point: int) -> bool:
        return any(
            self._holds_off(removal, point) and not self.lifted(removal, past)
            for removal in self.facts.device_removals.get(node, ())
        )

    def lifted(self, suspension: int, past: int) -> bool:
        """Whether a suspension was lifted in a past, under any name."""
        return any(
            past >> lift & 1 and self.gives[lift]
            for one in self.facts.twins.get(suspension, (suspension,))
            for lift in self.facts.lifts.get(one, ())
        )

    def in_tie(self, removal: int) -> bool:
        """Whether a removal excludes another that has as much behind it."""
        in_doubt = bool(self.gives[removal]) and not self.takes[removal]
        return removal in self.tied or in_doubt

    # --- what holds -------------------------------------------------------------------------------

    def member(self, user: UserId, past: int, point: int) -> bool:
        """Whether a user belongs to the mesh."""
        return any(
            not self._user_blocked(user, given, past, point) for given in self._admitted(user, past)
        )

    def was_member(self, user: UserId, past: int) -> bool:
        """The same by what is known below only, whatever is disputed or tied.

        So that somebody may be given what settles a dispute.
        """
        for given in self._admitted(user, past, disputed_too=True):
            if not any(
                past >> removal & 1
                and removal not in self.tied
                and self.takes[removal]
                and not self.knew(given, removal)
                for removal in self.facts.user_removals.get(user, ())
            ):
                return True
        return False

    def _admitted(self, user: UserId, past: int, *, disputed_too: bool = False) -> Iterable[int]:
        """What makes a user a member: an admission, or the approval that it needed."""
        for admission in self.facts.admissions.get(user, ()):
            if not (past >> admission & 1 and self.gives[admission]):
                continue
            if not disputed_too and self.disputed(admission):
                continue
            terms = self.facts.terms.get(admission)
            if terms is None or not self.facts.invite(terms).approve:
                yield admission
                continue
            for approval in self.facts.approvals.get(admission, ()):
                if past >> approval & 1 and self.gives[approval]:
                    yield approval

    def device(self, node: NodeId, user: UserId, past: int, point: int) -> bool:
        """Whether a device may act in the name of its user, if that is a member."""
        if self._device_blocked(node, past, point):
            return False
        return any(
            past >> b & 1 and self.gives[b] and not self._user_blocked(user, b, past, point)
            for b in self.facts.bindings.get(node, ())
        )

    def bit(self, node: NodeId, bit: Role, past: int, point: int) -> bool:
        """Whether a device has a role, by the newest certificate the mesh was told of."""
        bindings = self.facts.bindings.get(node, ())
        without = [b for b in bindings if bit not in self._roles(b)]
        return any(
            past >> b & 1
            and bit in self._roles(b)
            and self.gives[b]
            and not (without and self._blocked(without, b, point))
            for b in bindings
        )

    def _roles(self, binding: int) -> Role:
        cert = bodies.cert_of(self.facts.set.ops[binding].body)
        assert cert is not None
        return cert.roles

    def role(self, user: UserId, role: UserRole, past: int, point: int) -> bool:
        """Whether a member has this role or one above it."""
        if role == UserRole.MEMBER:
            return self.member(user, past, point)
        drops = self.facts.drops.get((user, role), ())
        return any(
            past >> g & 1
            and self.gives[g]
            and not self._blocked(drops, g, point)
            and not self._user_blocked(user, g, past, point)
            for g in self.facts.grants.get((user, role), ())
        )

    def may(self, ask: Callable[[Policy], bool], past: int) -> bool:
        """What the newest policy says; while one is in doubt, what is certain or possible."""
        certain, possible = (self.gives, self.takes)
        if not self.cautious:
            certain, possible = possible, certain
        policies = [p for p in self.facts.policies if past >> p & 1 and possible[p]]
        for p in sorted(policies, key=self.facts.key, reverse=True):
            body = self.facts.set.ops[p].body
            policy = body.policy if isinstance(body, Genesis) else body
            assert isinstance(policy, Policy)
            answer = ask(policy)
            if certain[p] or answer != self.cautious:
                return answer
        return not self.cautious  # unreachable from the top down: the genesis has a policy

    # --- vouchers ---------------------------------------------------------------------------------

    def voucher_open(self, invite: int, past: int, point: int) -> bool:
        """Whether an invite is there and was not closed, nor its inviter removed since."""
        if not (past >> invite & 1 and self.gives[invite]):
            return False
        voucher = self.facts.invite(invite).voucher
        inviter = self.facts.author_user(invite)
        node = self.facts.set.ops[invite].author
        if self._blocked(self.facts.closings.get(voucher, ()), invite, point):
            return False
        if self._blocked(self.facts.device_removals.get(node, ()), invite, point):
            return False
        return inviter is not None and not self._user_blocked(inviter, invite, past, point)

    def disputed(self, admission: int) -> bool:
        """Whether somebody else was admitted with the same voucher, with as much behind them."""
        body = self.facts.set.ops[admission].body
        if not isinstance(body, Admit):
            return False
        rivals = self.rivals(admission)
        if not rivals:
            return False
        weight = self.weight(admission)
        return any(self.other.weight(rival) >= weight for rival in rivals)

    def rivals(self, admission: int) -> list[int]:
        """Admissions of others with the same voucher that may count."""
        body = self.facts.set.ops[admission].body
        if not isinstance(body, Admit):
            return []
        came = self.facts.admits[body.join.invite]
        if len(came) == 1:
            return []
        user = body.join.cert.user
        found = []
        for other in came:
            rival = self.facts.set.ops[other].body
            if isinstance(rival, Admit) and rival.join.cert.user != user and self.takes[other]:
                found.append(other)
        return found

    def weight(self, admission: int) -> tuple[bool, int]:
        """What stands behind an admission against others with the same voucher.

        An admin outweighs whoever is none; then the number of admins that stood for somebody.
        """
        body = self.facts.set.ops[admission].body
        assert isinstance(body, Admit)
        user = body.join.cert.user
        granted = [
            g
            for g in self.facts.grants.get((user, UserRole.ADMIN), ())
            if self._past[g] >> admission & 1 and self.gives[g]
        ]
        stood = {self.facts.author_user(g) for g in granted}
        for approval in self.facts.approvals.get(admission, ()):
            by = self.facts.author_user(approval)
            past = self._past[approval]
            if self.gives[approval] and by and self.role(by, UserRole.ADMIN, past, approval):
                stood.add(by)
        return bool(granted), len(stood)
