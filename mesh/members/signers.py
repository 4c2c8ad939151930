"""Who stands behind an operation: its author, and the admins that have signed it."""

from core.device_cert import Role
from core.ids import UserId
from mesh.members.bodies import UserRole
from mesh.members.doubts import Doubts
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
        self.doubts = Doubts(rights)

    def author(self, i: int) -> UserId | None:
        """The user in whose name an operation was written, if its author could act for them."""
        node = self._set.ops[i].author
        user = self._facts.user_of(node)
        past = self._set.past[i]
        if user is None or not self._rights.member(user, past, i):
            return None
        if not self._rights.device(node, user, past, i) or self.doubts.voided(i, user):
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
        if self.doubts.cuts_against(i, user, None):
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
        return len(self.known_admins(self._set.past[i]))

    def known_admins(self, past: int) -> frozenset[UserId]:
        """The admins that could be known with this past."""
        return frozenset(
            user
            for user, role in self._facts.grants
            if role == UserRole.ADMIN and self.counts_as_admin(user, past)
        )

    def counts_as_admin(self, user: UserId, past: int) -> bool:
        """Whether a user is an admin by what is known below only."""
        # More admins make it harder: in doubt, a grant counts and a removal does not.
        rights, facts = self._rights, self._facts
        knew = rights.other.knew
        removals = [
            removal
            for removal in (
                *facts.drops.get((user, UserRole.ADMIN), ()),
                *facts.user_removals.get(user, ()),
            )
            if past >> removal & 1 and removal not in rights.tied and rights.gives[removal]
        ]
        return any(
            past >> g & 1 and all(knew(g, removal) for removal in removals) and rights.takes[g]
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
