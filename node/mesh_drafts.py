"""Drafts at the control socket: what several admins must sign, who has, and one more signature."""

from core import limits
from core.errors import FormatError, UsageError
from core.ids import NodeId, UserId
from mesh.members.bodies import Drop, Grant, Kind, RevokeUser, SuspendDevice
from mesh.members.drafts import Draft, NoDraft, Subject
from mesh.members.membership import Membership
from node import api, mesh_acts
from node.door import Call
from node.frame import Frame
from node.mesh_service import MeshService, NoMesh

_LETS_IN = {Kind.ADMIT, Kind.APPROVE, Kind.ADD_DEVICE}


class DraftDoor:
    """Adds the drafts to the door of a mesh."""

    def __init__(self, frame: Frame, service: MeshService) -> None:
        self._service = service
        self._frame = frame
        frame.door.get(api.DRAFTS, self._all)
        frame.door.delete(api.DRAFT, self._withdraw)
        frame.door.post(api.COSIGN, self._cosign, api.Cosign)
        frame.events.add_kind("drafts.changed", api.DraftsChanged)
        service.watch_drafts(self._changed)

    def asked(self, draft: Draft | None) -> api.Asked:
        """The answer to an act: done, or begun."""
        return api.Asked(draft=None if draft is None else self._told(draft))

    def waiting(self) -> int:
        """How many wait for the signature of our person."""
        mesh = self._service.mesh
        own, book = mesh.membership.member(mesh.node), mesh.drafting.book
        return sum(
            own is not None and book.may_sign(one, own.user) and own.user not in book.signers(one)
            for one in mesh.drafting.live()
        )

    # --- what is asked ----------------------------------------------------------------------------

    async def _all(self, _call: Call[None]) -> api.Drafts:
        """What several admins must sign, and who has."""
        return api.Drafts(drafts=[self._told(one) for one in self._service.mesh.drafting.live()])

    async def _withdraw(self, call: Call[None]) -> api.Done:
        """Take back a draft that this machine began."""
        await self._service.mesh.drafting.withdraw(self._find(call.params["draft"]))
        return api.Done()

    async def _cosign(self, call: Call[api.Cosign]) -> api.Asked:
        """Sign a draft; the last signature that is needed brings it about."""
        draft = self._find(call.body.draft)
        signed = await self._service.cosign(draft, _signature_untrusted(call.body.signature))
        return self.asked(signed)

    def _find(self, wanted: str) -> Draft:
        wanted = wanted.lower()
        drafts = self._service.mesh.drafting.live()
        found = [one for one in drafts if one.id.hex().startswith(wanted)]
        if len(found) != 1 or len(wanted) < limits.ID_PREFIX_CHARS_MIN:
            raise NoDraft("there is not one draft of this name", hint="portal drafts")
        return found[0]

    def _changed(self) -> None:
        try:
            self._frame.events.publish(api.DraftsChanged(waiting=self.waiting()))
        except NoMesh:
            return

    # --- what is told -----------------------------------------------------------------------------

    def _told(self, draft: Draft) -> api.Draft:
        mesh = self._service.mesh
        membership, book = mesh.membership, mesh.drafting.book
        paper, body = draft.paper, draft.paper.body
        own = membership.member(mesh.node)
        user = None if own is None else own.user  # a damaged list may not know us yet
        may_sign = user is not None and book.may_sign(draft, user)
        since = book.since(draft)
        node = body.node if isinstance(body, SuspendDevice) else None
        return api.Draft(
            draft=draft.id.hex(),
            act=_act_of(body),
            name=_name_of(membership, body.user, node),
            devices=[one.name for one in membership.devices(body.user) if mesh_acts.is_here(one)],
            mesh=membership.mesh_id.text(),
            user=body.user.text(),
            node=node.text() if node is not None else "",
            role=int(body.role) if isinstance(body, Grant | Drop) else 0,
            reason=int(body.reason) if isinstance(body, RevokeUser) else 0,
            cut=body.cut.hex() if isinstance(body, RevokeUser) else "",
            lifts=body.lifts.hex() if isinstance(body, SuspendDevice) else "",
            parents=[one.hex() for one in paper.proposal.parents],
            since=len(since),
            admitted=sum(op.kind in _LETS_IN for op in since),
            by=_named(membership, paper.user, paper.node),
            made_s=paper.made_s,
            until_s=paper.until_s,
            signed_by=[_named(membership, user, None) for user in sorted(book.signers(draft))],
            needed=book.needed(draft),
            is_ours=paper.node == mesh.node,
            is_signed=user in book.signers(draft),
            may_sign=may_sign,
            needs_phrase=may_sign and not self._service.may_cosign(),
        )


def _act_of(body: Subject) -> str:
    if isinstance(body, SuspendDevice):
        return "unsuspend" if body.lifts else "suspend"
    return {RevokeUser: "revoke", Grant: "grant", Drop: "drop"}[type(body)]


def _name_of(membership: Membership, user: UserId, node: NodeId | None) -> str:
    """By a device of theirs: people have no other name here."""
    devices = membership.devices(user)
    if node is not None:
        devices = [one for one in devices if one.node == node]
    devices = [one for one in devices if mesh_acts.is_here(one)] or devices
    return devices[0].name if devices else user.short()


def _named(membership: Membership, user: UserId, node: NodeId | None) -> api.Named:
    """A device; or a person, by a device of theirs."""
    return api.Named(id=(node or user).text(), name=_name_of(membership, user, node))


def _signature_untrusted(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        raise FormatError("this is not hexadecimal") from None
    if len(found) not in {0, limits.SIGNATURE_BYTES}:
        raise UsageError(f"a signature has {limits.SIGNATURE_BYTES} bytes")
    return found
