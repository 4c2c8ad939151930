"""What members decide about members: who is meant, what their phrase must sign, what is written.

Some acts need the key of a user, which only the recovery phrase gives and which is rarely on the
machine. Then the node says what it is about (`Words`), the command makes the bytes from that by
itself, signs them with the key of a typed phrase, and hands the signatures over: what a person
signs is what that person was shown, and the phrase stays where it was typed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from core import limits
from core.crypto import SigningKey
from core.device_cert import Role
from core.errors import KeystoreError, PortalError, UsageError
from core.ids import MeshId, NodeId, UserId
from core.labels import SignLabel
from mesh.members.authoring import Author, NotAllowed
from mesh.members.bodies import (
    Body,
    Drop,
    Grant,
    Kind,
    Reason,
    RevokeDevice,
    RevokeUser,
    SuspendDevice,
    UserRole,
)
from mesh.members.drafts import Draft
from mesh.members.membership import Changes, Membership
from mesh.members.operation import Cosign, Operation, Proposal
from mesh.members.rules import Void
from mesh.members.signers import quorum
from mesh.members.state import Member, Standing

_GONE = {Standing.REVOKED, Standing.DEPARTED}
_WAITING = {Standing.PENDING, Standing.DISPUTED}


class NeedsOthers(PortalError):
    """Several admins must sign this together."""

    def __init__(self, what: str, kind: Kind, body: Body) -> None:
        super().__init__(what, hint="portal drafts")
        self.kind, self.body = kind, body


class Act(StrEnum):
    """What may need the phrase."""

    REVOKE = "revoke"
    UNSUSPEND = "unsuspend"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What the key of a user is to sign for an act; both sides make the bytes from it."""

    act: Act
    mesh: MeshId
    user: UserId
    node: NodeId
    lifts: tuple[bytes, ...] = ()  # suspensions that only this user's key ends
    parents: tuple[bytes, ...] = ()  # what a departure knows of

    def count(self) -> int:
        """How many signatures that are."""
        return len(self.lifts) if self.act == Act.UNSUSPEND else 1

    def signed(self, key: SigningKey) -> tuple[bytes, ...]:
        """The signatures of the user key, in order."""
        assert key.public == self.user
        if self.act == Act.LEAVE:
            return (self.proposal().cosigned(key, self.user).signature,)
        if self.act == Act.REVOKE:
            said = [RevokeDevice(self.user, self.node, b"", b"").words(self.mesh)]
        else:
            bodies = [SuspendDevice(self.user, self.node, one) for one in self.lifts]
            said = [body.words(self.mesh) for body in bodies]
        return tuple(key.sign(SignLabel.MEMBER_DEVICE, one) for one in said)

    def proposal(self) -> Proposal:
        """A departure, as its user signs it."""
        body = RevokeUser(self.user, Reason.LEFT)
        return Proposal(self.mesh, Kind.REVOKE_USER, self.parents, body)


# --- who is meant ---------------------------------------------------------------------------------


def is_here(member: Member) -> bool:
    """Whether somebody is not out for good."""
    return member.standing not in _GONE


def is_suspended(member: Member) -> bool:
    """Whether somebody may be let back."""
    return member.standing == Standing.SUSPENDED


def standings(membership: Membership) -> dict[NodeId, str]:
    """How each device stands, in a word for people: who left is departed, who was put out revoked.

    To the rules both are the same; to the person it is not.
    """
    left: dict[UserId, bool] = {}  # what is said last of those who came back and went again
    for _, op_id, i in membership.set.order:
        op = membership.set.ops[i]
        if isinstance(op.body, RevokeUser) and membership.why_void(op_id) is None:
            left[op.body.user] = _is_by_itself(membership, op, op.body.user)
    words = {}
    for member in membership.members():
        is_out = member.standing == Standing.DEPARTED and not left.get(member.user, True)
        words[member.node] = str(Standing.REVOKED if is_out else member.standing)
    return words


def _is_by_itself(membership: Membership, op: Operation, user: UserId) -> bool:
    """Whether a removal was written, or signed by the phrase, by the very person it puts out."""
    by = membership.member(op.author)
    is_own = by is not None and by.user == user
    return is_own or any(one.user == user and one.node is None for one in op.cosigns)


def waits(member: Member) -> bool:
    """Whether somebody is to be let in or not."""
    return member.standing in _WAITING


def find(
    membership: Membership, who: str, fits: Callable[[Member], bool] = is_here
) -> list[Member]:
    """The devices people may mean by a name, or by the beginning of an id of theirs or their user.

    Never none. Those that fit count before their namesakes: a new laptop is often called like the
    one that was lost.
    """
    wanted = who.strip().lower()
    members = membership.members()
    found = [m for m in members if m.name.lower() == wanted]
    if not found and len(wanted) >= limits.ID_PREFIX_CHARS_MIN:
        found = [m for m in members if _begins(m, wanted)]
    if not found:
        raise UsageError(f"nobody here is called {who!r}", hint="portal peers")
    return [m for m in found if fits(m)] or found


def find_device(
    membership: Membership, who: str, fits: Callable[[Member], bool] = is_here
) -> Member:
    """The one device that is meant."""
    found = find(membership, who, fits)
    if len(found) > 1:
        raise _ambiguous(who, found)
    return found[0]


def find_person(
    membership: Membership, who: str, fits: Callable[[Member], bool] = is_here
) -> Member:
    """Any device of the one person that is meant."""
    found = find(membership, who, fits)
    if len({m.user for m in found}) > 1:
        raise _ambiguous(who, found)
    return found[0]


def _ambiguous(who: str, found: Sequence[Member]) -> UsageError:
    names = ", ".join(f"{m.name} ({m.node.short()})" for m in found)
    return UsageError(f"{who!r} may be {names}", hint="use more of the id")


def _begins(member: Member, wanted: str) -> bool:
    plain = wanted.replace("-", "")
    forms = [form for one in (member.node, member.user) for form in (one.text(), one.short())]
    return any(form.replace("-", "").startswith(plain) for form in forms)


# --- what the phrase must sign --------------------------------------------------------------------


def words(author: Author, act: Act, member: Member) -> Words:
    """What the key of the member's user would sign."""
    membership = author.membership
    lifts: tuple[bytes, ...] = ()
    parents: tuple[bytes, ...] = ()
    if act == Act.UNSUSPEND:
        lifts = tuple(
            one.id for one in suspensions(membership, member) if _by_owner(membership, one)
        )
    elif act == Act.LEAVE:
        parents = author.parents()
    return Words(
        act=act,
        mesh=membership.mesh_id,
        user=member.user,
        node=member.node,
        lifts=lifts,
        parents=parents,
    )


def needs_phrase(author: Author, asked: Words) -> bool:
    """Whether the node cannot do it by the rights of its device."""
    own = author.membership.member(author.node)
    if asked.act == Act.UNSUSPEND:
        return bool(asked.lifts)
    if own is None:  # a damaged list may not know us yet: nothing can be written then
        return False
    if asked.act == Act.REVOKE:
        return asked.user == own.user
    return own.is_active and Role.ADMIN not in own.roles


def suspensions(membership: Membership, member: Member) -> list[Operation]:
    """The operations that stop a device and have not been lifted."""
    found: dict[bytes, Operation] = {}
    for op in membership.set.ops:
        body = op.body
        if not isinstance(body, SuspendDevice) or body.node != member.node:
            continue
        if membership.why_void(op.id) is not None:
            continue
        if body.lifts:
            found.pop(body.lifts, None)
        else:
            found[op.id] = op
    return list(found.values())


def _by_owner(membership: Membership, suspension: Operation) -> bool:
    body = suspension.body
    assert isinstance(body, SuspendDevice)
    by = membership.member(suspension.author)
    return bool(body.by_user) or (by is not None and by.user == body.user)


# --- what is written ------------------------------------------------------------------------------


def suspend(author: Author, member: Member, now_ms: int) -> Changes:
    """Stop a device for the time being."""
    _check_here(member)
    if member.node == author.node:
        raise UsageError("this is the machine you sit at", hint="suspend it from another one")
    return _allowed(author, Kind.SUSPEND_DEVICE, SuspendDevice(member.user, member.node), now_ms)


def revoke(author: Author, member: Member, signatures: Sequence[bytes], now_ms: int) -> Changes:
    """Put a person out; or, of our own, one device, which its user's key has signed."""
    _check_here(member)
    own = author.membership.member(author.node)
    if own is None or member.user != own.user:
        put_out = RevokeUser(member.user, Reason.COMPROMISED)
        return _allowed(author, Kind.REVOKE_USER, put_out, now_ms)
    (signature,) = signatures
    body = RevokeDevice(member.user, member.node, b"", signature)
    return author.write(Kind.REVOKE_DEVICE, body, now_ms)


def unsuspend(
    author: Author, asked: Words, signatures: Sequence[bytes], now_ms: int
) -> Iterator[Changes]:
    """Let a device back: what admins have ended as an admin, what its owner did by signatures.

    To be published one by one, as they come.
    """
    membership = author.membership
    member = membership.member(asked.node)
    assert member is not None
    if not is_suspended(member):
        raise UsageError(f"{member.name} is not suspended but {member.standing}")
    user, node = asked.user, asked.node
    others = [one for one in suspensions(membership, member) if not _by_owner(membership, one)]
    bodies = [SuspendDevice(user, node, one.id) for one in others]
    signed = zip(asked.lifts, signatures, strict=True)
    bodies += [SuspendDevice(user, node, one, signature) for one, signature in signed]
    if not bodies:
        raise PortalError(
            f"{member.name} was not suspended by anybody: it has contradicted itself, or removals"
            " exclude each other",
            hint="portal revoke, and its person comes back with another device",
        )
    for body in bodies:
        yield _allowed(author, Kind.SUSPEND_DEVICE, body, now_ms)


def leave(author: Author, asked: Words, signatures: Sequence[bytes], now_ms: int) -> Changes:
    """End the membership of our own user: by its signature, or by the rights of this device."""
    if not signatures:
        return author.revoke_user(asked.user, Reason.LEFT, now_ms)
    known = author.membership.set
    if not asked.parents or any(one not in known for one in asked.parents):
        raise UsageError("this departure was signed for another state of the mesh")
    (signature,) = signatures
    return author.publish(asked.proposal(), [Cosign(asked.user, None, signature)], now_ms)


def grant(author: Author, member: Member, role: UserRole, now_ms: int) -> Changes:
    """Give a person a role."""
    _check_here(member)
    if member.user_role >= role:
        raise UsageError(f"{member.name} is {_with_article(member.user_role)} already")
    return _allowed(author, Kind.GRANT, Grant(member.user, role), now_ms)


def drop(author: Author, member: Member, now_ms: int) -> Changes:
    """Take every role of a person, who stays a member."""
    if member.user_role == UserRole.MEMBER:
        raise UsageError(f"{member.name} has no role to lose")
    users = author.membership.state.users
    if [user for user, role in users.items() if role == UserRole.ADMIN] == [member.user]:
        what = f"{member.name} is the only admin: nobody could administer the mesh any more"
        raise UsageError(what, hint="portal grant NAME admin, first")
    return _allowed(author, Kind.DROP, Drop(member.user, UserRole.ADMITTER), now_ms)


def cosigned(author: Author, draft: Draft, key: SigningKey | None, signature: bytes) -> Cosign:
    """A signature of our person for a draft: what was brought, of the phrase here, or the device's.

    Whoever may act as an admin from this machine needs no phrase.
    """
    own = author.membership.member(author.node)
    if own is None:  # a damaged list may not know us yet
        raise NotAllowed(Void.AUTHOR)
    proposal = draft.paper.proposal
    if signature:
        return Cosign.read_untrusted((own.user, b"", signature), proposal.encoded())
    if author.membership.can(author.node, Role.ADMIN):
        return proposal.cosigned(author.key, own.user)
    if key is None:
        raise KeystoreError("this takes your recovery phrase: this machine may not act as an admin")
    return proposal.cosigned(key, own.user)


def _check_here(member: Member) -> None:
    if not is_here(member):
        raise UsageError(f"{member.name} is out already")


def _allowed(author: Author, kind: Kind, body: Body, now_ms: int) -> Changes:
    """What was written; else why not, and who could, where that hangs on admins."""
    try:
        return author.write(kind, body, now_ms)
    except NotAllowed as e:
        if e.reason not in {Void.NO_ADMIN, Void.NO_QUORUM}:
            raise
        membership = author.membership
        if not membership.can(author.node, Role.ADMIN):
            is_admin = membership.can(author.node, UserRole.ADMIN)
            hint = "this machine may not: portal mesh administer" if is_admin else None
            raise NotAllowed(Void.NO_ADMIN, hint or "an admin can do it") from e
        users = membership.state.users.values()
        admins = sum(role == UserRole.ADMIN for role in users)
        what = f"of {admins} admins {quorum(admins)} must sign this together"
        raise NeedsOthers(what, kind, body) from e


def _with_article(role: UserRole) -> str:
    return {UserRole.ADMIN: "an admin", UserRole.ADMITTER: "an admitter"}.get(role, "a member")
