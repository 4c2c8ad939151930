"""What the commands ask about the mesh: questions of the control API, and the events it tells."""

import trio

from core import limits
from core.errors import UsageError
from mesh.invite import four_words
from mesh.link import Link
from mesh.members.bodies import Admit, Invite, UserRole
from mesh.members.membership import Changes
from mesh.members.state import InviteView, Member, Standing
from node import api
from node.door import Call
from node.frame import Frame
from node.identity import Identity
from node.identity import open as open_identity
from node.mesh_service import MeshService, role_of


class MeshDoor:
    """Adds the mesh to a frame: its service, its questions, its events."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        place, settings = frame.place, frame.settings

        def identity() -> Identity:
            return open_identity(place.home)

        self.service = MeshService(
            place.home, identity, settings.listen, frame.log, self._changed, self._link_changed
        )
        frame.add(self.service)
        door = frame.door
        door.get(api.MESH, self._status)
        door.post(api.MESH, self._found, api.NewMesh)
        door.post(api.JOIN, self._join, api.JoinMesh)
        door.get(api.INVITES, self._invites)
        door.post(api.INVITES, self._invite, api.NewInvite)
        door.delete(api.INVITE, self._close_invite)
        door.get(api.PEERS, self._peers)
        door.post(api.APPROVE, self._approve, api.Who)
        door.post(api.REVOKE, self._revoke, api.Who)
        door.post(api.SUSPEND, self._suspend, api.Who)
        frame.events.add_kind("link.changed", api.LinkChanged)
        frame.events.add_kind("members.changed", api.MembersChanged)
        frame.events.add_kind("join.waits", api.JoinWaits)

    # --- the mesh ---------------------------------------------------------------------------------

    async def _status(self, _call: Call[None]) -> api.Mesh:
        """The mesh this node is in."""
        mesh = self.service.mesh
        own = mesh.membership.member(mesh.node)
        assert own is not None
        active = sum(member.is_active for member in mesh.membership.members())
        return api.Mesh(
            name=mesh.membership.state.name,
            mesh=mesh.membership.mesh_id.text(),
            user=own.user.text(),
            node=own.node.text(),
            role=role_of(own),
            members=active,
            linked=len(mesh.links.all()),
            listens_at=str(mesh.local),
        )

    async def _found(self, call: Call[api.NewMesh]) -> api.Mesh:
        """Begin a mesh with this node as its first member."""
        if not call.body.name.strip():
            raise UsageError("a mesh needs a name")
        await self.service.found(call.body.name)
        return await self._status(_NOTHING)

    async def _join(self, call: Call[api.JoinMesh]) -> api.Mesh:
        """Come into a mesh by an invite; may wait for somebody's approval (event join.waits)."""

        def waits(words: str) -> None:
            self._frame.events.publish(api.JoinWaits(words=words))

        await self.service.join(call.body.invite, waits)
        return await self._status(_NOTHING)

    # --- invites ----------------------------------------------------------------------------------

    async def _invite(self, call: Call[api.NewInvite]) -> api.Invited:
        """Make an invite, good for one person. Its text is a secret until it is used."""
        asked = call.body
        if not 60 <= asked.lifetime_s <= limits.INVITE_SECONDS_MAX:
            raise UsageError("an invite lives for a minute at least and a week at most")
        if not 0 <= asked.quota_bytes <= limits.QUOTA_BYTES_MAX:
            raise UsageError("this is no size anybody could keep for others")
        service = self.service
        invitation = service.new_invitation(asked.lifetime_s, approve=asked.approve)
        terms = Invite(
            invitation.voucher().public,
            UserRole.ADMITTER if asked.admitter else UserRole.MEMBER,
            asked.approve,
            invitation.expires_s,
            asked.quota_bytes,
            asked.label,
        )
        await service.invite(terms, invitation)
        return api.Invited(
            invite=invitation.text().reveal().decode(),
            voucher=terms.voucher.hex(),
            expires_s=invitation.expires_s,
        )

    async def _invites(self, _call: Call[None]) -> api.Invites:
        """Every invite and what became of it."""
        membership = self.service.mesh.membership
        found = sorted(membership.invites(), key=lambda one: one.expires_s)
        return api.Invites(invites=[self._invite_state(one) for one in found])

    def _invite_state(self, one: InviteView) -> api.InviteState:
        came = {operation for operation, _ in one.admissions}
        members = self.service.mesh.membership.members()
        return api.InviteState(
            voucher=one.voucher.hex(),
            label=one.label,
            state=str(one.state),
            expires_s=one.expires_s,
            quota_bytes=one.quota_bytes,
            approve=one.approve,
            came=[member.name for member in members if member.operation in came],
        )

    async def _close_invite(self, call: Call[None]) -> api.Done:
        """Take an invite back, by the beginning of its voucher."""
        wanted = call.params["voucher"].lower()
        membership = self.service.mesh.membership
        found = [one for one in membership.invites() if one.voucher.hex().startswith(wanted)]
        if len(found) != 1 or len(wanted) < limits.ID_PREFIX_CHARS_MIN:
            raise UsageError("there is not one invite of this name", hint="portal invites")
        await self.service.close_invite(found[0].voucher)
        return api.Done()

    # --- members ----------------------------------------------------------------------------------

    async def _peers(self, _call: Call[None]) -> api.Peers:
        """Who belongs, and how each is reached."""
        members = self.service.mesh.membership.members()
        return api.Peers(peers=[await self._peer(member) for member in members])

    async def _peer(self, member: Member) -> api.Peer:
        mesh = self.service.mesh
        link = mesh.links.get(member.node)
        words = ""
        if member.standing == Standing.PENDING:
            words = " ".join(await trio.to_thread.run_sync(four_words, self._join_of(member)))
        return api.Peer(
            name=member.name,
            node=member.node.text(),
            user=member.user.text(),
            standing=str(member.standing),
            role=role_of(member),
            is_self=member.node == mesh.node,
            linked=link is not None,
            address=str(link.connection.peer) if link else None,
            rtt_ms=round(link.connection.figures().rtt_s * 1_000, 2) if link else None,
            ways=mesh.bulk.explain(link) if link else "",
            words=words,
        )

    def _join_of(self, member: Member) -> bytes:
        ops = self.service.mesh.membership.set
        body = ops.ops[ops.index[member.operation]].body
        assert isinstance(body, Admit)
        return body.join_bytes

    async def _approve(self, call: Call[api.Who]) -> api.Done:
        """Say yes to a device that waits."""
        await self.service.approve(self.service.find(call.body.who))
        return api.Done()

    async def _revoke(self, call: Call[api.Who]) -> api.Done:
        """Put a person out; or one device of our own."""
        await self.service.revoke(self.service.find(call.body.who))
        return api.Done()

    async def _suspend(self, call: Call[api.Who]) -> api.Done:
        """Stop a device for the time being."""
        await self.service.suspend(self.service.find(call.body.who))
        return api.Done()

    # --- events -----------------------------------------------------------------------------------

    def _changed(self, changes: Changes) -> None:
        came = [node.text() for node in changes.active]
        barred = [node.text() for node in changes.barred]
        if changes.added:
            self._frame.events.publish(api.MembersChanged(came=came, barred=barred))

    def _link_changed(self, link: Link, is_up: bool) -> None:  # noqa: FBT001 - as links tell it
        name, word = link.peer.member.name, "" if is_up else link.word
        told = api.LinkChanged(node=link.node.text(), name=name, is_up=is_up, why=word)
        self._frame.events.publish(told)


_NOTHING: Call[None] = Call({}, {}, None)
