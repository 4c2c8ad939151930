"""What the commands ask about the mesh: questions of the control API, and the events it tells."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import trio

from core import limits
from core.device_cert import Role
from core.errors import FormatError, PortalError, UsageError
from core.ids import NodeId
from mesh.invite import four_words
from mesh.link import Link
from mesh.members.bodies import Admit, Invite, UserRole
from mesh.members.membership import Changes
from mesh.members.state import InviteView, Member, Standing
from mesh.mesh import Mesh
from mesh.messages import State
from mesh.wire import Address
from node import api, kit_places, mesh_acts
from node.door import Call
from node.frame import Frame
from node.identity import Identity
from node.identity import open as open_identity
from node.mesh_acts import Act
from node.mesh_drafts import DraftDoor
from node.mesh_service import MeshService, NoMesh, Watchers, now_ms, role_of
from node.metrics import Sample
from node.network import Network


class MeshDoor:
    """Adds the mesh to a frame: its service, its questions, its events."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        place, settings = frame.place, frame.settings

        def identity() -> Identity:
            return open_identity(place.home)

        watchers = Watchers(self._changed, self._link_changed, self._peer_changed)
        self.service = MeshService(place.home, identity, settings.listen, frame.log, watchers)
        frame.metrics.add(self._samples)
        frame.add(self.service)
        frame.add(Network(self.service.network_changed, frame.log))
        frame.watch_settings(lambda now: self.service.offer(now.offer_bytes))
        frame.watch_settings(lambda now: self.service.grace(now.grace_s))
        door = frame.door
        self._drafts = DraftDoor(frame, self.service)
        door.get(api.MESH, self._status)
        door.post(api.MESH, self._found, api.NewMesh)
        door.post(api.JOIN, self._join, api.JoinMesh)
        door.get(api.INVITES, self._invites)
        door.post(api.INVITES, self._invite, api.NewInvite)
        door.delete(api.INVITE, self._close_invite)
        door.get(api.PEERS, self._peers)
        door.get(api.KIT, self._kit)
        door.post(api.APPROVE, self._approve, api.Who)
        door.post(api.REVOKE, self._revoke, api.Signed)
        door.post(api.SUSPEND, self._suspend, api.Who)
        door.post(api.UNSUSPEND, self._unsuspend, api.Signed)
        door.post(api.GRANT, self._grant, api.NewRole)
        door.post(api.DROP, self._drop, api.Who)
        door.post(api.SIGN, self._sign, api.Sign)
        door.post(api.LEAVE, self._leave, api.Leave)
        door.post(api.ENTER, self._enter)
        door.post(api.DEVICE, self._tell_device, api.OwnDevice)
        door.post(api.PROCEED, self._proceed)
        frame.events.add_kind("link.changed", api.LinkChanged)
        frame.events.add_kind("peer.changed", api.PeerChanged)
        frame.events.add_kind("members.changed", api.MembersChanged)
        frame.events.add_kind("join.waits", api.JoinWaits)

    # --- the mesh ---------------------------------------------------------------------------------

    async def _status(self, _call: Call[None]) -> api.Mesh:
        """The mesh this node is in."""
        mesh = self.service.mesh
        own = self._own()
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
            offer_bytes=self._frame.settings.offer_bytes,
            administers=mesh.membership.can(own.node, Role.ADMIN),
            complaint=self.service.complaint(),
            to_sign=self._drafts.waiting(),
        )

    async def _proceed(self, _call: Call[None]) -> api.Done:
        """Decide again, though some members have not told what they know of this machine."""
        self.service.proceed()
        return api.Done()

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
            is_local=all(_is_loopback(at) for at in invitation.endpoints),
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
        if came := self._invite_state(found[0]).came:
            hint = "to put them out again: portal revoke NAME"
            raise UsageError(f"this invite was used already, by {', '.join(came)}", hint=hint)
        await self.service.close_invite(found[0].voucher)
        return api.Done()

    async def _kit(self, _call: Call[None]) -> api.KitPlaces:
        """What a recovery kit should say of the mesh, and where members are."""
        mesh = self.service.mesh
        own = mesh.membership.member(mesh.node)
        if own is None or not own.is_active:
            return api.KitPlaces(mesh="", endpoints=[])
        found = kit_places.endpoints(mesh.membership, mesh.whereabouts.book, mesh.node, now_ms())
        return api.KitPlaces(
            mesh=mesh.membership.mesh_id.text(),
            endpoints=[api.Endpoint(address=e.address, node=e.node.text()) for e in found],
        )

    # --- members ----------------------------------------------------------------------------------

    async def _peers(self, _call: Call[None]) -> api.Peers:
        """Who belongs, and how each is reached."""
        membership = self.service.mesh.membership
        stand = mesh_acts.standings(membership)
        return api.Peers(peers=[await self._peer(m, stand[m.node]) for m in membership.members()])

    async def _peer(self, member: Member, standing: str) -> api.Peer:
        mesh = self.service.mesh
        link = mesh.links.get(member.node)
        record = mesh.whereabouts.book.of(member.node, now_ms())
        seen_ms = None if link else mesh.liveness.presence.last_seen_ms(member.node)
        words = ""
        if member.standing == Standing.PENDING:
            words = " ".join(await trio.to_thread.run_sync(four_words, self._join_of(member)))
        return api.Peer(
            name=member.name,
            node=member.node.text(),
            user=member.user.text(),
            standing=standing,
            role=role_of(member),
            is_self=member.node == mesh.node,
            linked=link is not None,
            address=str(link.connection.peer) if link else None,
            rtt_ms=round(link.connection.figures().rtt_s * 1_000, 2) if link else None,
            ways=mesh.bulk.explain(link) if link else "",
            words=words,
            offer_bytes=record.offer_bytes if record else None,
            looks=mesh.liveness.state(member.node).name.lower(),
            presence=mesh.liveness.standing(member.node).value,
            seen_s=seen_ms / 1_000 if seen_ms else None,
        )

    def _join_of(self, member: Member) -> bytes:
        ops = self.service.mesh.membership.set
        body = ops.ops[ops.index[member.operation]].body
        assert isinstance(body, Admit)
        return body.join_bytes

    async def _approve(self, call: Call[api.Who]) -> api.Done:
        """Say yes to a device that waits."""
        await self.service.approve(self._device(call.body.who, mesh_acts.waits))
        return api.Done()

    async def _revoke(self, call: Call[api.Signed]) -> api.Asked:
        """Put a person out; or one device of our own, which takes the phrase."""
        member = self._to_revoke(call.body.who)
        signatures = _signatures_untrusted(call.body.signatures)
        return self._drafts.asked(await self.service.revoke(member, signatures))

    async def _suspend(self, call: Call[api.Who]) -> api.Asked:
        """Stop a device for the time being."""
        return self._drafts.asked(await self.service.suspend(self._device(call.body.who)))

    async def _unsuspend(self, call: Call[api.Signed]) -> api.Asked:
        """Let a suspended device back; what its own person has stopped takes the phrase."""
        member = self._device(call.body.who, mesh_acts.is_suspended)
        signatures = _signatures_untrusted(call.body.signatures)
        return self._drafts.asked(await self.service.unsuspend(member, signatures))

    async def _grant(self, call: Call[api.NewRole]) -> api.Asked:
        """Give a person a role: admin or admitter."""
        role = _ROLES.get(call.body.role)
        if role is None:
            raise UsageError(f"there is no role {call.body.role!r}", hint="admin or admitter")
        return self._drafts.asked(await self.service.grant(self._person(call.body.who), role))

    async def _drop(self, call: Call[api.Who]) -> api.Asked:
        """Make a person a plain member."""
        return self._drafts.asked(await self.service.drop(self._person(call.body.who)))

    async def _sign(self, call: Call[api.Sign]) -> api.ToSign:
        """What the phrase would have to sign for an act, and whether somebody must type it."""
        mesh = self.service.mesh
        own = self._own()
        if call.body.act not in set(Act):
            raise UsageError(f"there is nothing to sign for {call.body.act!r}")
        act = Act(call.body.act)
        if act == Act.LEAVE:
            member = own
        elif act == Act.REVOKE:
            member = self._to_revoke(call.body.who)
        else:
            member = self._device(call.body.who, mesh_acts.is_suspended)
        words = self.service.words(act, member)
        devices = mesh.membership.devices(member.user)
        users = mesh.membership.state.users
        admins = [user for user, role in users.items() if role == UserRole.ADMIN]
        return api.ToSign(
            act=act,
            needs_phrase=self.service.needs_phrase(words),
            is_own=member.user == own.user,
            name=member.name,
            mesh=words.mesh.text(),
            user=words.user.text(),
            node=words.node.text(),
            devices=[one.name for one in devices if mesh_acts.is_here(one)],
            lifts=[one.hex() for one in words.lifts],
            parents=[one.hex() for one in words.parents],
            is_only_admin=admins == [member.user] and len(users) > 1,
        )

    async def _leave(self, call: Call[api.Leave]) -> api.Left:
        """End our own membership, with all devices; the files of the mesh are set aside."""
        parents = _hex_untrusted(call.body.parents, limits.HASH_BYTES)
        signatures = _signatures_untrusted(call.body.signatures)
        quietly = call.body.quietly
        left = await self.service.leave(parents, signatures, quietly=quietly)
        return api.Left(name=left.mesh, files=str(left.files), heard=left.heard)

    async def _enter(self, _call: Call[None]) -> api.Mesh:
        """Run in the mesh a command has brought this home into."""
        await self.service.enter()
        return await self._status(_NOTHING)

    async def _tell_device(self, call: Call[api.OwnDevice]) -> api.Done:
        """Tell the mesh of a newer certificate of this device."""
        said = call.body
        (recover,) = _hex_untrusted([said.recover])
        by_user, by_device = _signatures_untrusted([said.by_user, said.by_device])
        await self.service.tell_device((recover, by_user, by_device))
        return api.Done()

    def _own(self) -> Member:
        """This machine, as the list of members has it."""
        mesh = self.service.mesh
        own = mesh.membership.member(mesh.node)
        if own is None:
            what = "the list of members was damaged, and this machine is not in what is left"
            raise PortalError(what, hint="other members tell it again")
        return own

    def _device(self, who: str, fits: Callable[[Member], bool] = mesh_acts.is_here) -> Member:
        return mesh_acts.find_device(self.service.mesh.membership, who, fits)

    def _person(self, who: str) -> Member:
        return mesh_acts.find_person(self.service.mesh.membership, who)

    def _to_revoke(self, who: str) -> Member:
        """Anybody else is put out as a person; of our own it is one device that is meant."""
        own = self._own()
        member = self._person(who)
        return self._device(who) if member.user == own.user else member

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

    def _peer_changed(self, mesh: Mesh, node: NodeId) -> None:
        member = mesh.membership.member(node)
        told = api.PeerChanged(
            node=node.text(),
            name=member.name if member is not None else "",
            looks=mesh.liveness.state(node).name.lower(),
            presence=mesh.liveness.standing(node).value,
        )
        self._frame.events.publish(told)

    # --- numbers ----------------------------------------------------------------------------------

    def _samples(self) -> Iterable[Sample]:
        """What Prometheus is told; nothing without a mesh."""
        try:
            mesh = self.service.mesh
        except NoMesh:
            return
        yield Sample("portal_mesh_links", len(mesh.links.all()), "Links that are up.")
        states = Counter(state.name.lower() for state in mesh.liveness.swim.states().values())
        for state in State:
            name = state.name.lower()
            what = "Other members, by how they look from here."
            yield Sample("portal_mesh_peers", states[name], what, {"looks": name})
        cut_off = "Whether nobody at all answers this node."
        yield Sample("portal_mesh_cut_off", mesh.liveness.swim.is_alone, cut_off)
        operations = len(mesh.membership.set.ops)
        yield Sample("portal_mesh_operations", operations, "Entries of the list of members.")


def _signatures_untrusted(texts: Sequence[str]) -> list[bytes]:
    return _hex_untrusted(texts, limits.SIGNATURE_BYTES)


def _hex_untrusted(texts: Sequence[str], size: int | None = None) -> list[bytes]:
    try:
        found = [bytes.fromhex(text) for text in texts]
    except ValueError:
        raise FormatError("this is not hexadecimal") from None
    if size is not None and any(len(one) != size for one in found):
        raise FormatError(f"{size} bytes are wanted")
    return found


def _is_loopback(at: Address) -> bool:
    return at.host == "::1" or at.host.startswith("127.")


_ROLES = {"admin": UserRole.ADMIN, "admitter": UserRole.ADMITTER}
_NOTHING: Call[None] = Call({}, {}, None)
