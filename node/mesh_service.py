"""The mesh as a part of the daemon: it runs while the node does, in a mesh or waiting for one.

    found, join          make or enter a mesh; from then on its links run
    invite ... drop      write into the membership, and tell everybody (node/mesh_acts.py)
    leave                end the membership; the files are set aside, and another mesh may come

What the commands ask comes by node/mesh_door.py; what is kept is in node/mesh_files.py.
"""

import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import trio

from core import limits
from core.crypto import system_entropy
from core.device_cert import DeviceCert, Role
from core.errors import KeystoreError, NewerFormat, PortalError, UsageError
from core.ids import NodeId
from mesh.invite import Invitation
from mesh.lanes.tcp import TcpDoor
from mesh.lanes.unix import UnixDoor
from mesh.link import Link
from mesh.members.authoring import Author, found_mesh
from mesh.members.bodies import Genesis, Invite, UserRole
from mesh.members.drafts import Draft
from mesh.members.joining import Recover
from mesh.members.membership import Changes, Membership
from mesh.members.state import Member
from mesh.mesh import Mesh, Own
from mesh.records import Place, PlaceKind
from mesh.whereabouts import own_addresses
from mesh.wire import Address
from node import mesh_acts
from node.config import Address as ListenAt
from node.identity import Identity
from node.log import Log
from node.mesh_acts import Act, NeedsOthers, Words
from node.mesh_entry import ANY_IPV4, ANY_IPV6, bound, by_invite
from node.mesh_files import MeshFiles, TakenUp, Unusable
from node.network import interface_addresses

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SALT_BYTES = 32
_WORDS = {  # of a refusal; strangers are told nothing else than the first
    "refused": "it may be suspended or put out (ask them; portal leave --quietly)",
    "clock": "its clock is wrong",
}


class NoMesh(PortalError):
    """This node is in no mesh yet."""


@dataclass(frozen=True, slots=True)
class Left:
    """A mesh that we are out of."""

    mesh: str  # its name; empty if its list of members could not be read
    files: Path  # where they are now
    heard: bool = False  # whether others have


@dataclass(frozen=True, slots=True)
class Watchers:
    """Who is told of what happens in the mesh."""

    members: Callable[[Changes], None]  # the list of members has changed
    links: Callable[[Link, bool], None]  # a link has come, or gone
    peers: Callable[[Mesh, NodeId], None]  # somebody looks different, or is away or lost


class MeshService:
    """Owns the mesh of this node."""

    name = "mesh"

    def __init__(
        self,
        home: Path,
        open_identity: Callable[[], Identity],
        listen: ListenAt,
        log: Log,
        watchers: Watchers,
    ) -> None:
        self.files = MeshFiles(home)
        self._home = home
        self._open_identity = open_identity
        self._listen = listen
        self._log = log.part(self.name)
        self._watchers = watchers
        self._running: _Running | None = None
        self._unusable: PortalError | None = None  # why its files here put us in no mesh
        self._harm: PortalError | None = None  # what was mended, until others told us the rest
        self._offer_bytes = 0
        self._grace_s = 0.0
        self._draft_watchers: list[Callable[[], None]] = []
        self._joining = trio.Lock()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.enter()
            task_status.started()
            await trio.sleep_forever()

    @property
    def mesh(self) -> Mesh:
        """The mesh; NoMesh if there is none."""
        if self._running is not None:
            return self._running.mesh
        if self._unusable is not None:
            raise self._unusable
        raise NoMesh(hint="portal mesh new NAME, or portal join INVITE")

    def complaint(self) -> str | None:
        """What is wrong with our part in the mesh, in one line."""
        if self._running is None:
            return str(self._unusable) if self._unusable is not None else None
        mesh = self._running.mesh
        own = mesh.membership.member(mesh.node)
        if own is None or not own.is_active:
            stand = mesh_acts.standings(mesh.membership)
            standing = stand[own.node] if own is not None else "no member"
            return f"this machine is {standing}: nobody lets it in (portal leave, or ask an admin)"
        by = mesh.links.turned_away_by
        if by and not mesh.links.all():
            words = " and ".join(sorted({_WORDS.get(word, word) for word in by.values()}))
            return f"{len(by)} members do not let this machine in: {words}"
        if self._harm is not None and not mesh.past.has_heard:
            return str(self._harm)
        forgetful = mesh.past.complaint()
        if forgetful is None and mesh.liveness.swim.is_alone:
            return "nobody answers: this machine may be cut off from the network"
        return forgetful

    # --- entering one -----------------------------------------------------------------------------

    async def enter(self) -> None:
        """Run in the mesh whose files lie here, if there are some: a command may have come in."""
        async with self._joining:
            if self._running is not None:
                return
            self._unusable = None
            try:
                found = self._taken_up()
            except (Unusable, NewerFormat) as e:
                self._unusable = e  # the rest of the node works
                self._log.error("in no mesh", error=e)
                return
            if found is None:
                return
            self._harm = found.harm
            if found.harm is not None:
                self._log.warning("mended", error=found.harm)
            await self._start(found.membership, is_whole=found.is_whole)

    def _taken_up(self) -> TakenUp | None:
        return self.files.take_up(self._open_identity().node) if self.files.are_there else None

    async def found(self, name: str) -> None:
        """Begin a mesh, as its only member and first admin."""
        async with self._joining:
            self._check_free()
            identity = self._open_identity()
            if Role.ADMIN not in identity.cert.roles:
                raise PortalError("this device may not administer a mesh", hint="portal mesh new")
            genesis = Genesis(
                name,
                system_entropy(_SALT_BYTES),
                identity.cert_bytes,
                DeviceCert.open_untrusted(identity.cert_bytes),
                _kem_public(identity),
            )
            data = found_mesh(identity.device.signing_key(), genesis, now_ms())
            await self._begin(Membership.begin_untrusted(data), is_new=True)

    async def join(self, text: str, waiting: Callable[[str], None]) -> None:
        """Come in by an invite, through the first of its addresses that lets us."""
        invitation = Invitation.parse_untrusted(text)
        async with self._joining:
            self._check_free()
            membership, entrance, is_new = await by_invite(
                self._open_identity(), invitation, now_ms, waiting
            )
            await trio.to_thread.run_sync(self.files.save_entrance, entrance)
            await self._begin(membership, is_new=is_new)
            self._log.info("joined", mesh=membership.state.name, at=str(entrance.at))

    async def _begin(self, membership: Membership, *, is_new: bool) -> None:
        own = self._open_identity().node if is_new else None
        await trio.to_thread.run_sync(self.files.begin, membership, own)
        found = self._taken_up()
        assert found is not None
        await self._start(found.membership, is_whole=found.is_whole)

    def _check_free(self) -> None:
        if self._unusable is not None:
            raise self._unusable
        if self._running is not None:
            name = self._running.mesh.membership.state.name
            raise PortalError(f"this node is in the mesh {name!r} already")

    # --- running it -------------------------------------------------------------------------------

    async def _start(self, membership: Membership, *, is_whole: bool) -> None:
        identity = self._open_identity()
        wire = bound(self._listen.host, self._listen.port, self._cannot_listen)

        def places() -> list[Place]:
            return [Place(PlaceKind.LOCAL, address) for address in _reached_at(wire.local)]

        own = Own(
            keys=identity.device,
            cert=identity.cert_bytes,
            boot_id=_boot_id(),
            now_ms=now_ms,
            places=places,
            tcp=TcpDoor(),
            unix=UnixDoor(self.files.folder),
            chance=_chance,
        )
        mesh = Mesh(wire, own, membership, self.files, is_whole=is_whole)
        self._remember(mesh)
        watchers = self._watchers
        mesh.links.watch(watchers.links)
        mesh.gossip.watch(watchers.members)
        mesh.drafting.watch(self._drafts_changed)
        mesh.liveness.watch(lambda node, _state: watchers.peers(mesh, node))
        mesh.liveness.watch_standings(lambda node, _standing: watchers.peers(mesh, node))
        mesh.whereabouts.offer(self._offer_bytes)
        mesh.liveness.allow(self._grace_s)
        assert self._nursery is not None
        running = _Running(mesh, self.files, self._log)
        await self._nursery.start(running.run)
        self._running = running
        self._log.info("in the mesh", mesh=membership.state.name, listens_at=str(wire.local))

    def _cannot_listen(self, at: str, error: OSError) -> None:
        self._log.warning("cannot listen there", at=at, error=error)

    def offer(self, offer_bytes: int) -> None:
        """What this node would keep for others, from now on."""
        self._offer_bytes = offer_bytes
        if self._running is not None:
            self._running.mesh.whereabouts.offer(offer_bytes)

    def grace(self, grace_s: float) -> None:
        """How long a member may be away at least before it counts as lost."""
        self._grace_s = grace_s
        if self._running is not None:
            self._running.mesh.liveness.allow(grace_s)

    def network_changed(self) -> None:
        """This machine may have other addresses, and ways that failed may work."""
        if self._running is not None:
            self._running.mesh.links.nudge()
            self._running.mesh.whereabouts.refresh()

    def _remember(self, mesh: Mesh) -> None:
        """Where others were last; what cannot be read only costs time."""
        for name, recall in (
            ("records are", self._recall_records),
            ("absences are", self._recall_presence),
            ("door is", self._recall_door),
            ("drafts are", self._recall_drafts),
        ):
            try:
                recall(mesh)
            except (PortalError, OSError) as e:
                self._log.warning(f"{name} not used", error=e)

    def _recall_records(self, mesh: Mesh) -> None:
        records = self.files.records()
        if records is not None:
            mesh.whereabouts.book.load_untrusted(records, now_ms())

    def _recall_presence(self, mesh: Mesh) -> None:
        if (presence := self.files.presence()) is not None:
            mesh.liveness.remember_untrusted(presence)

    def _recall_door(self, mesh: Mesh) -> None:
        """Where somebody once let us in: until we know more, it is there."""
        if (entrance := self.files.entrance()) is not None:
            mesh.whereabouts.hint(entrance.node, [entrance.at])

    def _recall_drafts(self, mesh: Mesh) -> None:
        if (drafts := self.files.drafts()) is not None:
            mesh.drafting.remember_untrusted(drafts)

    # --- writing into it --------------------------------------------------------------------------

    async def invite(self, terms: Invite, invitation: Invitation) -> None:
        """Tell the mesh of a voucher, before anybody gets it."""
        await self._publish((await self._author()).invite(invitation.voucher(), terms, now_ms()))

    def new_invitation(self, lifetime_s: int, *, approve: bool) -> Invitation:
        """A fresh one, with the addresses where this node can be found."""
        mesh = self.mesh
        expires_s = int(time.time()) + lifetime_s
        own = [place.address for place in mesh.own.places()] or [_at_home(mesh.local)]
        # Others can let somebody in while this node sleeps.
        others = [link.connection.peer for link in mesh.links.all()]
        endpoints = [*own[:2], *(address for address in others if address is not None)]
        return Invitation.new(
            mesh.membership.mesh_id, expires_s, approve=approve, endpoints=tuple(endpoints)
        )

    async def close_invite(self, voucher: bytes) -> None:
        """Take an invite back."""
        await self._publish((await self._author()).close_invite(voucher, now_ms()))

    async def approve(self, member: Member) -> None:
        """Say yes to who waits."""
        await self._publish((await self._author()).approve(member.operation, now_ms()))

    async def _agreed(self, write: Callable[[Author], Changes]) -> Draft | None:
        """Write something; or, where several admins must sign it, the draft that asks them."""
        try:
            changes = write(await self._author())
        except NeedsOthers as e:
            return await self.mesh.drafting.propose(e.kind, e.body)
        await self._publish(changes)
        return None

    async def suspend(self, member: Member) -> Draft | None:
        """Stop a device for the time being."""
        return await self._agreed(lambda author: mesh_acts.suspend(author, member, now_ms()))

    def find(self, who: str) -> Member:
        """The one device people mean, among those that are not out."""
        return mesh_acts.find_device(self.mesh.membership, who)

    def words(self, act: Act, member: Member) -> Words:
        """What the key of the member's user has to sign for this, if the node cannot."""
        return mesh_acts.words(self.mesh.author, act, member)

    def needs_phrase(self, asked: Words) -> bool:
        """Whether somebody must type the phrase for this: it is needed, and not here."""
        return mesh_acts.needs_phrase(self.mesh.author, asked) and not self._has_phrase(asked)

    async def revoke(self, member: Member, signatures: Sequence[bytes] = ()) -> Draft | None:
        """Put a person out; or, of our own, this one device."""

        def write(author: Author) -> Changes:
            given = self._signed(self.words(Act.REVOKE, member), signatures)
            return mesh_acts.revoke(author, member, given, now_ms())

        return await self._agreed(write)

    async def unsuspend(self, member: Member, signatures: Sequence[bytes] = ()) -> Draft | None:
        """Let a device back."""
        author = await self._author()
        asked = self.words(Act.UNSUSPEND, member)
        given = self._signed(asked, signatures)
        try:
            for changes in mesh_acts.unsuspend(author, asked, given, now_ms()):
                await self._publish(changes)
        except NeedsOthers as e:
            return await self.mesh.drafting.propose(e.kind, e.body)
        return None

    def may_cosign(self) -> bool:
        """Whether a draft is signed here without anything typed."""
        mesh = self.mesh
        return mesh.membership.can(mesh.node, Role.ADMIN) or self._open_identity().has_phrase

    async def cosign(self, draft: Draft, signature: bytes) -> Draft | None:
        """Sign what another admin has begun; None if that brought it about."""
        author = await self._author()
        key = None
        if not signature and not author.membership.can(author.node, Role.ADMIN):
            identity = self._open_identity()
            key = identity.user_key() if identity.has_phrase else None
        cosign = mesh_acts.cosigned(author, draft, key, signature)
        return await self.mesh.drafting.cosign(draft, cosign)

    def watch_drafts(self, watcher: Callable[[], None]) -> None:
        """Be told whenever one has come, was signed, or is gone."""
        self._draft_watchers.append(watcher)

    def _drafts_changed(self) -> None:
        for watcher in self._draft_watchers:
            watcher()

    async def grant(self, member: Member, role: UserRole) -> Draft | None:
        """Give a person a role."""
        return await self._agreed(lambda author: mesh_acts.grant(author, member, role, now_ms()))

    async def drop(self, member: Member) -> Draft | None:
        """Make a person a plain member."""
        return await self._agreed(lambda author: mesh_acts.drop(author, member, now_ms()))

    def _has_phrase(self, asked: Words) -> bool:
        identity = self._open_identity()
        return identity.has_phrase and asked.user == identity.user

    def _signed(self, asked: Words, given: Sequence[bytes]) -> Sequence[bytes]:
        """The signatures that were brought, or those of the phrase that is here."""
        if not mesh_acts.needs_phrase(self.mesh.author, asked):
            return ()
        if not given:
            identity = self._open_identity()
            if asked.user != identity.user:
                raise KeystoreError("this takes the recovery phrase of the person it is about")
            return asked.signed(identity.user_key())
        if len(given) != asked.count():
            raise UsageError("the mesh has changed meanwhile", hint="try again")
        return given

    # --- leaving ----------------------------------------------------------------------------------

    async def leave(
        self,
        parents: Sequence[bytes] = (),
        signatures: Sequence[bytes] = (),
        *,
        quietly: bool = False,
    ) -> Left:
        """End our membership, with all devices.

        A node that is out already, or suspended, tells nobody; nor one that is to do it quietly.
        """
        async with self._joining:
            if self._unusable is not None and quietly:
                self._unusable = None
                return Left("", await trio.to_thread.run_sync(self.files.set_aside, "left"))
            mesh = self.mesh
            own = mesh.membership.member(mesh.node)
            heard = False
            if own is not None and own.is_active and not quietly:
                author = await self._author()
                links = mesh.links.all()
                others = [link for link in links if link.peer.member.user != own.user]
                asked = self.words(Act.LEAVE, own)
                if signatures:
                    asked = replace(asked, parents=tuple(parents))
                given = self._signed(asked, signatures)
                await self._publish(mesh_acts.leave(author, asked, given, now_ms()))
                heard = await _heard(others)
            assert self._running is not None
            await self._running.stop()
            self._running = None
            told = f"left-{mesh.membership.mesh_id.short()}"
            aside = await trio.to_thread.run_sync(self.files.set_aside, told)
            self._log.info("left", mesh=mesh.membership.state.name, files=aside)
            return Left(mesh.membership.state.name, aside, heard=heard)

    async def tell_device(self, recover: tuple[bytes, bytes, bytes]) -> None:
        """Tell the mesh of a newer certificate of this device, as its user's key has signed it."""
        mesh = self.mesh
        if Recover.open_untrusted(*recover).cert.node != mesh.node:
            raise UsageError("this is about another device", hint="portal recover, there")
        await self._publish((await self._author()).add_device(recover, now_ms()))

    def proceed(self) -> None:
        """Decide again, whoever has not told yet what this node wrote."""
        self.mesh.gossip.insist()

    async def _author(self) -> Author:
        """Writes for this node, once it knows what it wrote before; Forgetful if it may not."""
        await self.mesh.gossip.until_sure()
        return self.mesh.author

    async def _publish(self, changes: Changes) -> None:
        await self.mesh.gossip.publish(changes)


class _Running:
    """A mesh and the task it runs in."""

    def __init__(self, mesh: Mesh, files: MeshFiles, log: Log) -> None:
        self.mesh = mesh
        self._files = files
        self._log = log
        self._scope = trio.CancelScope()
        self._over = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until stopped."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._vouch)
                    await self.mesh.run(task_status=task_status)
        finally:
            self._over.set()

    async def _vouch(self) -> None:
        """Once others have told what we wrote, the files say that nothing of it is missing."""
        if self.mesh.past.is_whole:
            return
        await self.mesh.gossip.remembers.wait()
        try:
            await self._files.vouch()
        except OSError as e:
            self._log.warning("not noted that all is remembered", error=e)

    async def stop(self) -> None:
        """End it, and wait until it has."""
        self._scope.cancel()
        await self._over.wait()


async def _heard(links: Sequence[Link]) -> bool:
    """Whether a peer has heard that we are out: whoever has, ends the link."""
    with trio.move_on_after(limits.LEAVE_SECONDS):
        for link in links:
            await link.over.wait()
    return any(link.over.is_set() for link in links)


def _reached_at(local: Address) -> list[Address]:
    """Where others find what listens there."""
    if local.host not in {ANY_IPV6, ANY_IPV4}:
        return [local]
    found = own_addresses(local.port) or _without_routes(local.port)
    return [a for a in found if local.host == ANY_IPV6 or ":" not in a.host]


def _without_routes(port: int) -> list[Address]:
    """The addresses of a machine that is not connected to the world, only to a few others."""
    return [Address(host, port) for host in interface_addresses()]


def _at_home(local: Address) -> Address:
    """Where a machine finds itself that has no address at all."""
    return Address("127.0.0.1", local.port) if local.host in {ANY_IPV6, ANY_IPV4} else local


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def role_of(member: Member) -> str:
    """A user's role as a word."""
    return UserRole(member.user_role).name.lower()


def _chance() -> float:
    return secrets.randbelow(1 << 30) / (1 << 30)


def _kem_public(identity: Identity) -> bytes:
    from core.crypto import hpke_public  # noqa: PLC0415 - once in the life of a mesh

    return hpke_public(identity.share_seed())


def _boot_id() -> bytes:
    """Names the running system; without one, this process alone."""
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return uuid4().bytes + os.getpid().to_bytes(4)
