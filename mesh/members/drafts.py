"""Drafts: acts that several admins must sign, on their way from one to the next.

    paper  = [1, mesh_id, type u16, parents[<= 8], body, user, node, made_s u63, until_s u63]
    draft  = [paper (bin), signature of node, signature of node that takes it back | empty,
              cosigns[<= 16]]                             ("member-draft", "member-draft-end")
    id     = H("member draft", paper)
    file   = [1, [draft...]]

The first five fields of a paper are what is cosigned (mesh/members/operation.py): signed by enough,
they are an operation wherever the mesh has got to meanwhile. Such an operation knows what lies
below its parents and nothing else, so parents are what was known when the draft was made, and an
act counts from that moment on. That is why drafts are short-lived: what somebody did in between is
judged as if they had been told at once.

A draft of an act may be signed once by each admin. When it is complete it is written into the list
of members and gone here; a draft is over, too, when what it asks for is so anyway. Two drafts are
the same if they merge: signatures only ever become more, and what was taken back stays so.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

from core import codec, hashing, limits
from core.crypto import SigningKey, verify
from core.device_cert import Role
from core.errors import FormatError, NewerFormat, PortalError
from core.ids import MeshId, NodeId, UserId
from core.labels import Label, SignLabel
from mesh.members.bodies import Drop, Grant, RevokeUser, SuspendDevice, UserRole
from mesh.members.membership import Membership
from mesh.members.operation import Cosign, Operation, Proposal
from mesh.members.signers import quorum
from mesh.members.state import Standing

_VERSION = 1
_FIELDS = 9
_PROPOSED = 5  # of them
_GONE = {Standing.REVOKED, Standing.DEPARTED}

Subject = RevokeUser | Grant | Drop | SuspendDevice


@dataclass(frozen=True, slots=True)
class Paper:
    """What is asked for, by whom, and until when it may be signed."""

    proposal: Proposal
    user: UserId
    node: NodeId
    made_s: int
    until_s: int
    data: bytes
    signature: bytes

    @property
    def id(self) -> bytes:
        """The name of a draft."""
        return hashing.digest(Label.MEMBER_DRAFT, self.data)

    @property
    def body(self) -> Subject:
        """The act."""
        body = self.proposal.body
        assert isinstance(body, Subject)
        return body

    @classmethod
    def written(cls, key: SigningKey, user: UserId, proposal: Proposal, now_s: int) -> Self:
        """A new one, by a device of this user."""
        until_s = now_s + limits.DRAFT_SECONDS
        asked = (proposal.mesh, proposal.kind, proposal.parents, proposal.body.row())
        data = codec.encode([_VERSION, *asked, user, key.public, now_s, until_s])
        signature = key.sign(SignLabel.MEMBER_DRAFT, data)
        return cls(proposal, user, NodeId(key.public), now_s, until_s, data, signature)

    @classmethod
    def read_untrusted(cls, data: bytes, signature: bytes, mesh: MeshId) -> Self:
        """A paper of this mesh whose signature holds."""
        row = codec.decode_untrusted(data, bytes_max=limits.OPERATION_BYTES_MAX)
        node = NodeId.read_untrusted(row[6] if len(row) == _FIELDS else None)
        verify(node, SignLabel.MEMBER_DRAFT, data, signature)
        row = codec.as_versioned_row(row, _VERSION, _FIELDS, "a draft")
        proposal = Proposal.read_untrusted(row[:_PROPOSED], mesh)
        if not isinstance(proposal.body, Subject) or not proposal.parents:
            raise NewerFormat("a draft of what this Portal does not sign together")
        if isinstance(proposal.body, SuspendDevice) and proposal.body.by_user:
            raise FormatError("a draft of what needs one signature")
        made_s = codec.as_uint(row[7], 63, "when a draft was made")
        until_s = codec.as_uint(row[8], 63, "until when a draft is good")
        if not made_s < until_s <= made_s + limits.DRAFT_SECONDS:
            raise FormatError("a draft that is good for longer than any")
        user = UserId.read_untrusted(row[5])
        return cls(proposal, user, node, made_s, until_s, data, signature)


@dataclass(frozen=True, slots=True)
class Draft:
    """A paper, and who has signed it so far."""

    paper: Paper
    cosigns: tuple[Cosign, ...] = ()  # of each user one, in their order
    end: bytes = b""  # it was taken back: the signature of who made it

    @property
    def id(self) -> bytes:
        """Its name."""
        return self.paper.id

    def row(self) -> tuple[object, ...]:
        """As it travels, and is kept."""
        paper = self.paper
        return (paper.data, paper.signature, self.end, tuple(one.row() for one in self.cosigns))

    @classmethod
    def read_untrusted(cls, value: object, mesh: MeshId) -> Self:
        """A draft of this mesh whose signatures hold; what they are worth is another question."""
        row = codec.as_row(value, 4, "a draft")
        data = codec.as_bytes(row[0], "a draft", size_max=limits.OPERATION_BYTES_MAX)
        signature = codec.as_bytes(row[1], "a signature", size=limits.SIGNATURE_BYTES)
        paper = Paper.read_untrusted(data, signature, mesh)
        end = b""
        if row[2] != b"":
            end = codec.as_bytes(row[2], "a signature", size=limits.SIGNATURE_BYTES)
            verify(paper.node, SignLabel.MEMBER_DRAFT_END, paper.id, end)
        words = paper.proposal.encoded()
        rows = codec.as_rows(row[3], limits.OPERATION_COSIGNS_MAX, "the cosignatures")
        return cls(paper, tuple(Cosign.read_untrusted(one, words) for one in rows), end)

    def taken_back(self, key: SigningKey) -> Self:
        """The same, by who made it, who wants it no more; nobody signs it then."""
        assert key.public == self.paper.node
        return replace(self, end=key.sign(SignLabel.MEMBER_DRAFT_END, self.id), cosigns=())


class Drafts:
    """Those that one node knows of; bounded."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._drafts: dict[bytes, Draft] = {}

    def __iter__(self) -> Iterator[Draft]:
        """The live ones, the oldest first."""
        live = [one for one in self._drafts.values() if not one.end]
        return iter(sorted(live, key=lambda one: (one.paper.made_s, one.id)))

    def all(self) -> list[Draft]:
        """With those that were taken back."""
        return list(self._drafts.values())

    def get(self, draft_id: bytes) -> Draft | None:
        """One of them, taken back or not."""
        return self._drafts.get(draft_id)

    # --- what one is worth ------------------------------------------------------------------------

    def subject(self, draft: Draft) -> UserId:
        """Whom it is about."""
        return draft.paper.body.user

    def is_known(self, draft: Draft) -> bool:
        """Whether all that it knows of the mesh is known here."""
        return all(one in self._membership.set for one in draft.paper.proposal.parents)

    def admins(self, draft: Draft) -> frozenset[UserId]:
        """Who counts as an admin for it: those of when it was made."""
        return self._membership.admins_at(draft.paper.proposal.parents)

    def needed(self, draft: Draft) -> int:
        """How many admins must sign it."""
        return quorum(len(self.admins(draft)))

    def may_sign(self, draft: Draft, user: UserId) -> bool:
        """Whether the signature of a user would count: an admin then and now, and not its subject.

        One that only resigns, or is let back, is the subject too.
        """
        role = self._membership.state.users.get(user, UserRole.MEMBER)
        is_admin = role == UserRole.ADMIN and user in self.admins(draft)
        return is_admin and user != self.subject(draft)

    def signers(self, draft: Draft) -> set[UserId]:
        """Whose signatures count by now."""
        return {one.user for one in draft.cosigns if self._counts(draft, one)}

    def is_complete(self, draft: Draft) -> bool:
        """Whether enough have signed."""
        return len(self.signers(draft)) >= self.needed(draft)

    def since(self, draft: Draft) -> list[Operation]:
        """What its subject did that it does not know of: that may not count when it is done.

        Nothing, where it takes nothing away from anybody.
        """
        proposal, body = draft.paper.proposal, draft.paper.body
        if isinstance(body, Grant) or (isinstance(body, SuspendDevice) and body.lifts):
            return []
        if isinstance(body, SuspendDevice):
            return self._membership.unknown_at(proposal.parents, [body.node])
        known = proposal.parents
        if isinstance(body, RevokeUser) and body.cut in self._membership.set:
            known = (body.cut,)
        devices = (one.node for one in self._membership.devices(body.user))
        return self._membership.unknown_at(known, devices)

    def _counts(self, draft: Draft, cosign: Cosign) -> bool:
        if not self.may_sign(draft, cosign.user):
            return False
        if cosign.node is None:
            return True
        member = self._membership.member(cosign.node)
        is_theirs = member is not None and member.user == cosign.user
        return is_theirs and self._membership.can(cosign.node, Role.ADMIN)

    def _is_by_an_admin(self, paper: Paper) -> bool:
        member = self._membership.member(paper.node)
        is_theirs = member is not None and member.user == paper.user
        return is_theirs and self._membership.can(paper.node, UserRole.ADMIN)

    def is_over(self, draft: Draft, now_s: int) -> bool:
        """Whether there is nothing left to sign."""
        paper = draft.paper
        if now_s >= paper.until_s or not self._is_by_an_admin(paper):
            return True
        # Signatures are used once: what was undone since takes new ones.
        return self._membership.is_written(paper.proposal) or self._is_so(paper.body)

    def _is_so(self, body: Subject) -> bool:
        """Whether what is asked for is so anyway."""
        state = self._membership.state
        if all(one.standing in _GONE for one in self._membership.devices(body.user)):
            return True
        role = state.users.get(body.user)
        if isinstance(body, Grant):
            return role is not None and role >= body.role
        if isinstance(body, Drop):
            return role is not None and role < body.role
        if isinstance(body, SuspendDevice):
            member = self._membership.member(body.node)
            stopped = member is not None and member.standing == Standing.SUSPENDED
            return stopped != bool(body.lifts)
        return False

    # --- what comes -------------------------------------------------------------------------------

    def put(self, draft: Draft, now_s: int) -> Draft | None:
        """Take a draft, or what is new about one; as it is now, if anything was.

        None, too, of what cannot be judged here yet (`is_known`), or does not hold here.
        """
        self.prune(now_s)
        paper = draft.paper
        if paper.made_s > now_s + limits.DRAFT_AHEAD_SECONDS or not self.is_known(draft):
            return None
        if self.is_over(draft, now_s):
            return None
        before = self._drafts.get(draft.id)
        if before is None and not self._has_room(paper.user):
            return None
        merged = self._merged(before, draft)
        if merged == before:
            return None
        self._drafts[draft.id] = merged
        return merged

    def _merged(self, before: Draft | None, draft: Draft) -> Draft:
        end = draft.end if before is None else before.end or draft.end
        if end:
            return Draft(draft.paper, (), end)
        kept: dict[UserId, Cosign] = {}
        for one in (*(before.cosigns if before is not None else ()), *draft.cosigns):
            if one.user not in kept and self._counts(draft, one):
                kept[one.user] = one
        cosigns = tuple(kept[user] for user in sorted(kept))[: limits.OPERATION_COSIGNS_MAX]
        return Draft(draft.paper, cosigns)

    def _has_room(self, user: UserId) -> bool:
        theirs = sum(one.paper.user == user for one in self._drafts.values())
        room = len(self._drafts) < limits.DRAFTS_MAX
        return room and theirs < limits.DRAFTS_PER_USER_MAX

    def prune(self, now_s: int) -> bool:
        """Let go of what is over; whether anything was."""
        over = [
            name
            for name, one in self._drafts.items()
            # What was taken back stays so, as long as anybody may still have it.
            if (now_s >= one.paper.until_s if one.end else self.is_over(one, now_s))
        ]
        for name in over:
            del self._drafts[name]
        return bool(over)

    # --- the file ---------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """All of them, with those that were taken back: they may come again."""
        rows = [self._drafts[name].row() for name in sorted(self._drafts)]
        return codec.encode([_VERSION, rows])

    def load_untrusted(self, data: bytes, now_s: int) -> None:
        """What a file held: believed no more than a peer."""
        row = codec.decode_untrusted(data, bytes_max=limits.DRAFTS_FILE_BYTES_MAX)
        row = codec.as_versioned_row(row, _VERSION, 2, "the drafts")
        for one in codec.as_rows(row[1], limits.DRAFTS_MAX, "the drafts"):
            self.put(Draft.read_untrusted(one, self._membership.mesh_id), now_s)


def same_act(drafts: Iterable[Draft], kind: int, body: object) -> Draft | None:
    """A draft of the very same act, if there is one."""
    for one in drafts:
        if (one.paper.proposal.kind, one.paper.body) == (kind, body):
            return one
    return None


class NoDraft(PortalError):
    """There is no such draft (any more)."""


class Begun(PortalError):
    """Somebody else asks for the same: a person looks at theirs before it is signed."""
