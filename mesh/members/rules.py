"""Which operations count: one rule for each type, nothing else decides.

A rule is asked for both answers (mesh/members/rights.py) and returns why an operation is void, or
None. It looks at the past of the operation, and at removals that are not after it.
"""

from collections.abc import Callable
from enum import StrEnum

from core import limits
from core.device_cert import Role
from core.ids import NodeId, UserId
from mesh.members import bodies
from mesh.members.bodies import (
    AddDevice,
    Admit,
    Approve,
    CloseInvite,
    Drop,
    Grant,
    Invite,
    Kind,
    RevokeDevice,
    RevokeUser,
    SuspendDevice,
    UserRole,
)
from mesh.members.facts import Facts
from mesh.members.rights import Rights
from mesh.members.signers import Signers


class Void(StrEnum):
    """Why an operation does not count, in words for its author."""

    UNKNOWN_TYPE = "it is of a type this Portal does not know"
    AUTHOR = "its author is not an active device of a member"
    NO_INVITE_ROLE = "its device may not invite or admit"
    NO_USER_ROLE = "its user has not the role for this"
    NO_ADMIN = "no admin has signed it"
    NO_QUORUM = "too few admins have signed it"
    NO_REFERENCE = "it names an operation it could not know"
    VOUCHER = "the invite is closed, or there is none"
    SPENT = "the invite was used already"
    NODE_TAKEN = "the device belongs to another user"
    NODE_REMOVED = "the device was suspended or revoked"
    COLLISION = "another device has its address"
    STALE_CERT = "a newer certificate of this device is known"
    TOO_MANY = "the user has all the devices one may have"
    NOT_MEMBER = "the user it is about is not a member"
    NOT_THEIRS = "the device does not belong to the user it names"
    NOT_NEXT = "its number is not the next one"
    USER_KEY = "it needs the phrase of the user"
    REPEATED = "its author has said the same too often"
    UNSETTLED = "it excludes others that have as much behind them"


_Rule = Callable[[int], Void | None]


class Rules:
    """The rules under one of the two answers."""

    def __init__(self, rights: Rights) -> None:
        self.rights = rights
        self.signers = Signers(rights)
        self._facts: Facts = rights.facts
        self._ops = rights.facts.set.ops
        self._past = rights.facts.set.past
        self._rules: dict[int, _Rule] = {
            Kind.GENESIS: self._genesis,
            Kind.INVITE: self._invite,
            Kind.CLOSE_INVITE: self._close_invite,
            Kind.ADMIT: self._admit,
            Kind.APPROVE: self._approve,
            Kind.ADD_DEVICE: self._add_device,
            Kind.SUSPEND_DEVICE: self._suspend_device,
            Kind.REVOKE_DEVICE: self._revoke_device,
            Kind.REVOKE_USER: self._revoke_user,
            Kind.GRANT: self._grant,
            Kind.DROP: self._drop,
            Kind.POLICY: self._by_quorum,
            Kind.EPOCH: self._epoch,
            Kind.COMMITTEE: self._numbered,
            Kind.DEDUP_EPOCH: self._numbered,
            Kind.CHECKPOINT: self._by_quorum,
        }

    def why_void(self, i: int) -> Void | None:
        """The reason an operation does not count, or None."""
        rule = self._rules.get(self._ops[i].kind)
        if rule is None:
            return Void.UNKNOWN_TYPE
        if i in self._facts.dangling:
            return Void.NO_REFERENCE
        if i in self._facts.repeated:
            return Void.REPEATED
        return rule(i)

    # --- coming in --------------------------------------------------------------------------------

    def _genesis(self, _i: int) -> Void | None:
        return None

    def _invite(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, Invite)
        user = self.signers.author(i)
        past = self._past[i]
        if user is None:
            return Void.AUTHOR
        if not self.rights.bit(self._ops[i].author, Role.INVITE, past, i):
            return Void.NO_INVITE_ROLE
        rights = self.rights
        if not rights.may(lambda p: rights.role(user, p.invite_by, past, i), past):
            return Void.NO_USER_ROLE
        admits_more = body.role != UserRole.MEMBER
        if admits_more and not self.signers.can(i, user, Role.ADMIN, UserRole.ADMIN):
            return Void.NO_ADMIN
        return None

    def _close_invite(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, CloseInvite)
        known = [n for n in self._facts.invites.get(body.voucher, ()) if self._facts.knows(i, n)]
        if not known:
            return Void.VOUCHER
        return self._inviter_or_admin(i, min(known, key=self._facts.key))

    def _inviter_or_admin(self, i: int, invite: int) -> Void | None:
        user = self.signers.author(i)
        if user is None:
            return Void.AUTHOR
        own = user == self._facts.author_user(invite)
        if own and self.rights.bit(self._ops[i].author, Role.INVITE, self._past[i], i):
            return None
        return None if self.signers.one(i) else Void.NO_ADMIN

    def _admit(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, Admit)
        past = self._past[i]
        user = self.signers.author(i)
        if user is None:
            return Void.AUTHOR
        rights = self.rights
        if not rights.bit(self._ops[i].author, Role.INVITE, past, i):
            return Void.NO_INVITE_ROLE
        if not rights.may(lambda p: rights.role(user, p.admit_by, past, i), past):
            return Void.NO_USER_ROLE
        if not rights.voucher_open(self._facts.terms[i], past, i):
            return Void.VOUCHER
        others = self._facts.admits[body.join.invite]
        if any(past >> other & 1 and rights.takes[other] for other in others):
            return Void.SPENT
        return self._binds(i, body.join.cert.node, body.join.cert.user)

    def _binds(self, i: int, node: NodeId, user: UserId) -> Void | None:
        facts, past = self._facts, self._past[i]
        if facts.user_of(node) != user:
            return Void.NODE_TAKEN
        for removal in facts.device_removals.get(node, ()):
            known = past >> removal & 1 and self.rights.takes[removal]
            if known and not self.rights.lifted(removal, past):
                return Void.NODE_REMOVED
        return Void.COLLISION if facts.collides(i, node) else None

    def _approve(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, Approve)
        terms = self._facts.terms.get(self._facts.refers[i])
        return Void.NO_REFERENCE if terms is None else self._inviter_or_admin(i, terms)

    # --- devices ----------------------------------------------------------------------------------

    def _add_device(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, AddDevice)
        cert, past, facts = body.recover.cert, self._past[i], self._facts
        if not self.rights.member(cert.user, past, i):
            return Void.NOT_MEMBER
        for binding in facts.bindings[cert.node]:
            if binding != i and past >> binding & 1 and self.rights.takes[binding]:
                older = bodies.cert_of(self._ops[binding].body)
                if older is not None and older.created_s >= cert.created_s:
                    return Void.STALE_CERT
        known = sum(
            any(past >> b & 1 for b in facts.bindings[node])
            for node in facts.devices[cert.user]
            if node != cert.node
        )
        if known >= limits.DEVICES_PER_USER_MAX:
            return Void.TOO_MANY
        return self._binds(i, cert.node, cert.user)

    def _suspend_device(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, SuspendDevice)
        if not self._is_device(i, body.node, body.user):
            return Void.NOT_THEIRS
        if body.lifts:
            suspension = self._ops[self._facts.refers[i]].body
            assert isinstance(suspension, SuspendDevice)
            if not self._by_owner(self._facts.refers[i], suspension):
                return self._by_admins(i, body.user)
            return None if body.by_user else Void.USER_KEY
        if body.by_user:
            return None
        if self._facts.author_user(i) == body.user:
            return None if self.signers.author(i) else Void.AUTHOR
        return self._by_admins(i, body.user)

    def _by_owner(self, i: int, body: SuspendDevice) -> bool:
        return bool(body.by_user) or self._facts.author_user(i) == body.user

    def _by_admins(self, i: int, subject: UserId) -> Void | None:
        """One admin is enough, unless it is about an admin."""
        if self._may_be_admin(i, subject):
            return None if self.signers.enough(i, subject) else Void.NO_QUORUM
        return None if self.signers.one(i, subject) else Void.NO_ADMIN

    def _may_be_admin(self, i: int, subject: UserId) -> bool:
        """Whether a quorum has made somebody an admin, before or unknown to this operation."""
        facts, past, takes = self._facts, self._past[i], self.rights.takes
        if self.signers.counts_as_admin(subject, past):
            return True
        return any(
            not past >> g & 1 and not self._past[g] >> i & 1 and takes[g]
            for g in facts.grants.get((subject, UserRole.ADMIN), ())
        )

    def _revoke_device(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, RevokeDevice)
        return None if self._is_device(i, body.node, body.user) else Void.NOT_THEIRS

    def _is_device(self, i: int, node: NodeId, user: UserId) -> bool:
        known = any(self._facts.knows(i, b) for b in self._facts.bindings.get(node, ()))
        return known and self._facts.user_of(node) == user

    # --- users ------------------------------------------------------------------------------------

    def _revoke_user(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, RevokeUser)
        facts, subject = self._facts, body.user
        if not any(facts.knows(i, a) for a in facts.admissions.get(subject, ())):
            return Void.NOT_MEMBER
        if not body.cut and self._by_itself(i, subject):
            return None
        was_admin = any(
            facts.knows(i, g) and self.rights.takes[g]
            for g in facts.grants.get((subject, UserRole.ADMIN), ())
        )
        if self._may_be_admin(i, subject) or (body.cut and was_admin):
            # A cut reaches what somebody did as an admin, even if they no longer are one.
            if self.signers.enough(i, subject) or self.signers.founder_contests(i, subject):
                return None
            return Void.NO_QUORUM
        return None if self.signers.one(i, subject) else Void.NO_ADMIN

    def _by_itself(self, i: int, subject: UserId) -> bool:
        """Whether a user says so of itself: with its phrase, or from an admin device."""
        past = self._past[i]
        if self.signers.by_phrase(i, subject) and self.rights.member(subject, past, i):
            return True
        author = self.signers.author(i)
        return author == subject and self.rights.bit(self._ops[i].author, Role.ADMIN, past, i)

    def _grant(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, Grant)
        if not self.rights.was_member(body.user, self._past[i]):
            return Void.NOT_MEMBER
        if self._reopens(i, body.user):
            return None
        if body.role == UserRole.ADMITTER:
            return None if self.signers.one(i) else Void.NO_ADMIN
        return None if self.signers.enough(i) else Void.NO_QUORUM

    def _reopens(self, i: int, user: UserId) -> bool:
        """Whether the founder's phrase takes back somebody whom a tie has suspended."""
        facts = self._facts
        removals = (
            *facts.user_removals.get(user, ()),
            *facts.drops.get((user, UserRole.ADMIN), ()),
        )
        tied = any(self.rights.in_tie(r) and facts.knows(i, r) for r in removals)
        founder = facts.founder
        by_founder = self.signers.by_phrase(i, founder)
        return tied and by_founder and self.rights.was_member(founder, self._past[i])

    def _drop(self, i: int) -> Void | None:
        body = self._ops[i].body
        assert isinstance(body, Drop)
        if self._by_itself(i, body.user):
            return None
        if body.role == UserRole.ADMIN or self._may_be_admin(i, body.user):
            return None if self.signers.enough(i, body.user) else Void.NO_QUORUM
        return None if self.signers.one(i, body.user) else Void.NO_ADMIN

    # --- the mesh as a whole ----------------------------------------------------------------------

    def _by_quorum(self, i: int) -> Void | None:
        return None if self.signers.enough(i) else Void.NO_QUORUM

    def _epoch(self, i: int) -> Void | None:
        if i not in self._facts.in_turn:
            return Void.NOT_NEXT
        return None if self.signers.one(i) else Void.NO_ADMIN

    def _numbered(self, i: int) -> Void | None:
        return self._by_quorum(i) if i in self._facts.in_turn else Void.NOT_NEXT
