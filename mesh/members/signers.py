"""Who stands behind an operation: its author, and the admins that have signed it."""

from bisect import bisect

from core.device_cert import Role
from core.ids import UserId
from mesh.members.bodies import Kind, UserRole
from mesh.members.operation import Cosign
from mesh.members.rights import Rights


def quorum(admins: int) -> int:
    """How many admins it takes to touch one of them."""
    return 1 if admins <= 2 else -(-(admins + 1) // 2)


class Signers:
    """One of the two answers (mesh/members/rights.py) about those who signed."""

    def __init__(self, rights: Rights) -> None:
        self._rights = rights
        self._facts = rights.facts
        self._set = rights.facts.set

    def author(self, i: int) -> UserId | None:
        """The user in whose name an operation was written, if its author could act for them."""
        node = self._set.ops[i].author
        user = self._facts.user_of(node)
        past = self._set.past[i]
        if user is None or not self._rights.member(user, past, i):
            return None
        if not self._rights.device(node, user, past, i) or self.voided(i, user):
            return None
        return user

    def can(self, i: int, user: UserId, bit: Role, role: UserRole) -> bool:
        """Whether the author's device and its user both had a role: authority is what both have."""
        past = self._set.past[i]
        node = self._set.ops[i].author
        return self._rights.bit(node, bit, past, i) and self._rights.role(user, role, past, i)

    # --- admins -----------------------------------------------------------------------------------

    def admins(self, i: int) -> set[UserId]:
        """The admin users that have signed an operation, by a device or by their key."""
        found = {cosign.user for cosign in self._set.ops[i].cosigns if self._cosigned(i, cosign)}
        user = self.author(i)
        if user is not None and self.can(i, user, Role.ADMIN, UserRole.ADMIN):
            found.add(user)
        return found

    def _cosigned(self, i: int, cosign: Cosign) -> bool:
        past, user, node = self._set.past[i], cosign.user, cosign.node
        rights = self._rights
        if not rights.member(user, past, i) or not rights.role(user, UserRole.ADMIN, past, i):
            return False
        if self.cuts_against(i, user, None):
            return False
        if node is None:
            return True
        return (
            self._facts.user_of(node) == user
            and rights.device(node, user, past, i)
            and rights.bit(node, Role.ADMIN, past, i)
            and not self._facts.saw_fork(node, past)
        )

    def by_phrase(self, i: int, user: UserId) -> bool:
        """Whether the key of a user, which only the phrase gives, has signed an operation."""
        return any(c.user == user and c.node is None for c in self._set.ops[i].cosigns)

    def admin_count(self, i: int) -> int:
        """The admins that an operation could know of; whoever a tie has suspended is one."""
        past = self._set.past[i]
        return sum(
            self.counts_as_admin(user, past)
            for user, role in self._facts.grants
            if role == UserRole.ADMIN
        )

    def counts_as_admin(self, user: UserId, past: int) -> bool:
        """Whether a user is an admin by what is known below only."""
        # More admins make it harder: in doubt, a grant counts and a removal does not.
        rights, facts = self._rights, self._facts
        removals = [
            removal
            for removal in (
                *facts.drops.get((user, UserRole.ADMIN), ()),
                *facts.user_removals.get(user, ()),
            )
            if past >> removal & 1 and removal not in rights.tied and rights.gives[removal]
        ]
        return any(
            past >> g & 1
            and not any(not self._set.past[g] >> removal & 1 for removal in removals)
            and rights.takes[g]
            for g in facts.grants.get((user, UserRole.ADMIN), ())
        )

    def enough(self, i: int, without: UserId | None = None) -> bool:
        """Whether the quorum of the admins has signed; the one it is about does not count."""
        count = self.admin_count(i)
        return len(self.admins(i) - {without}) >= quorum(count) or self._begins_again(i, count)

    def _begins_again(self, i: int, admins: int) -> bool:
        """Whether no admin is left, and whoever founded the mesh has signed with the phrase."""
        founder = self._facts.founder
        if admins or not self.by_phrase(i, founder):
            return False
        return self._rights.was_member(founder, self._set.past[i])

    def one(self, i: int, without: UserId | None = None) -> bool:
        """Whether any admin has signed."""
        if self.admins(i) - {without}:
            return True
        return self._begins_again(i, self.admin_count(i))

    def founder_contests(self, i: int, subject: UserId) -> bool:
        """Whether the founder's phrase answers a removal of the founder that the subject signed.

        It counts if that removal does not. By a cut in front of it the two exclude each other, so
        they are compared, and the phrase breaks a tie.
        """
        founder = self._facts.founder
        cut = self._facts.cuts.get(i)
        if cut is None or not self.by_phrase(i, founder):
            return False
        return any(
            self._facts.knows(i, removal)
            and not self._set.upto(cut) >> removal & 1
            and subject in self.claimed(removal)
            and not self._rights.takes[removal]
            for removal in (
                *self._facts.user_removals.get(founder, ()),
                *self._facts.drops.get((founder, UserRole.ADMIN), ()),
            )
        )

    def claimed(self, i: int) -> set[UserId]:
        """The users in whose name an operation was signed, rightly or not."""
        user = self._facts.author_user(i)
        return {c.user for c in self._set.ops[i].cosigns} | ({user} if user else set())

    # --- cuts and equivocation --------------------------------------------------------------------

    def voided(self, i: int, user: UserId) -> bool:
        """Whether an operation is in question and falls.

        An admission that others have built on stays, and is listed for review.
        """
        return self.in_question(i, user) and not self.acknowledged(i, user)

    def in_question(self, i: int, user: UserId) -> bool:
        """Whether an operation lies behind a cut, or behind the first one said twice."""
        return self._forked(i) or bool(self.cuts_against(i, user, i))

    def _forked(self, i: int) -> bool:
        op = self._set.ops[i]
        first = self._facts.forked_at(op.author)
        return first is not None and op.seq >= first

    def cuts_against(self, i: int, user: UserId, authored: int | None) -> list[int]:
        """Removals with a cut that an operation lies behind."""
        facts = self._facts
        removals = list(facts.user_removals.get(user, ()))
        if authored is not None:
            removals += facts.device_removals.get(self._set.ops[i].author, ())
        return [
            removal
            for removal in removals
            if (cut := facts.cuts.get(removal)) is not None
            and facts.knows(removal, i)
            and not self._set.upto(cut) >> i & 1
            and self._rights.takes[removal]
        ]

    def acknowledged(self, i: int, user: UserId) -> bool:
        """Whether somebody independent has built on an admission before it came into question.

        With it stays the invite it went by.
        """
        facts, ops = self._facts, self._set.ops
        built_on = {i}
        if ops[i].kind == Kind.INVITE:
            admits = facts.admits.get(facts.invite(i).voucher, ())
            built_on = {a for a in admits if facts.terms.get(a) == i}
        elif ops[i].kind != Kind.ADMIT:
            return False
        cuts = self.cuts_against(i, user, i)
        forked, key = ops[i].author if self._forked(i) else None, facts.key(i)
        if self._rights.gives.find(1, i + 1) < 0:
            return False  # nothing that came after it is decided yet
        for node, written in sorted(facts.written.items()):
            by = facts.user_of(node)
            if by is None or by == user or self._leans_on(by, user, 0):
                continue
            for other in written[bisect(written, key, key=facts.key) :]:  # what knows it, follows
                past = self._set.past[other] | 1 << other
                if (
                    any(past >> one & 1 for one in built_on)
                    and all(facts.knows(removal, other) for removal in cuts)
                    and not (forked is not None and facts.saw_fork(forked, past))
                    and self._rights.gives[other]
                ):
                    return True
        return False

    def _leans_on(self, user: UserId, on: UserId, depth: int) -> bool:
        """Whether a user is only here by what is in question of another."""
        facts = self._facts
        admissions = [a for a in facts.admissions.get(user, ()) if self._rights.gives[a]]
        if not admissions or depth > _DEPTH_MAX:
            return True
        first = min(admissions, key=facts.key)
        terms = facts.terms.get(first)
        for step in (first, terms):
            by = None if step is None or terms is None else facts.author_user(step)
            if step is None or by is None or by == user:
                continue
            if by == on:
                if self.in_question(step, on):
                    return True
            elif self._leans_on(by, on, depth + 1):
                return True
        return False


_DEPTH_MAX = 64
