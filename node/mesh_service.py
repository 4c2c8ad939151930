"""The mesh as a part of the daemon: it runs while the node does, in a mesh or waiting for one.

    found, join          make or enter a mesh; from then on its links run
    invite ... revoke    write into the membership, and tell everybody
    peers                who belongs, and how each is reached

What the commands ask comes by node/mesh_door.py; what is kept is in node/mesh_files.py.
"""

import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import trio

from core import limits
from core.crypto import system_entropy
from core.device_cert import DeviceCert, Role
from core.errors import PortalError, UsageError
from mesh.gate import come_in
from mesh.invite import Invitation, four_words
from mesh.lanes.tcp import TcpDoor
from mesh.lanes.unix import UnixDoor
from mesh.leaf import Leaf
from mesh.link import Link
from mesh.members.authoring import found_mesh
from mesh.members.bodies import Genesis, Invite, Reason, UserRole
from mesh.members.membership import Changes, Membership
from mesh.members.state import Member
from mesh.mesh import Mesh, Own
from mesh.pairing import Joiner, JoinRefused, Newcomer, Refusal
from mesh.quic.endpoint import Endpoint, Setup
from mesh.records import Place, PlaceKind
from mesh.udp import UdpWire
from mesh.whereabouts import own_addresses
from mesh.wire import Address
from node.config import Address as ListenAt
from node.identity import Identity
from node.log import Log
from node.mesh_files import MeshFiles

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SALT_BYTES = 32
_ANY_IPV6, _ANY_IPV4 = "::", "0.0.0.0"  # noqa: S104 - peers come from anywhere
_TAKEN = {errno.EADDRINUSE, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


class NoMesh(PortalError):
    """This node is in no mesh yet."""


class MeshService:
    """Owns the mesh of this node."""

    name = "mesh"

    def __init__(
        self,
        home: Path,
        open_identity: Callable[[], Identity],
        listen: ListenAt,
        log: Log,
        changed: Callable[[Changes], None],
        link_changed: Callable[[Link, bool], None],
    ) -> None:
        self.files = MeshFiles(home)
        self._home = home
        self._open_identity = open_identity
        self._listen = listen
        self._log = log.part(self.name)
        self._changed = changed
        self._link_changed = link_changed
        self._mesh: Mesh | None = None
        self._joining = trio.Lock()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            membership = self.files.load()
            if membership is not None:
                await self._start(membership)
            task_status.started()
            await trio.sleep_forever()

    @property
    def mesh(self) -> Mesh:
        """The mesh; NoMesh if there is none."""
        if self._mesh is None:
            raise NoMesh(hint="portal mesh new NAME, or portal join INVITE")
        return self._mesh

    # --- entering one -----------------------------------------------------------------------------

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
            await self._begin(Membership.begin_untrusted(data))

    async def join(self, text: str, waiting: Callable[[str], None]) -> None:
        """Come in by an invite, through the first of its addresses that lets us."""
        invitation = Invitation.parse_untrusted(text)
        async with self._joining:
            self._check_free()
            identity = self._open_identity()
            if invitation.expired(now_ms() // 1_000):
                raise JoinRefused(Refusal.EXPIRED)
            if not invitation.endpoints:
                raise UsageError("this invite names no address", hint="ask for a new one")
            membership, at = await self._come_in(identity, invitation, waiting)
            await trio.to_thread.run_sync(self.files.save_door, at)
            await self._begin(membership)
            self._log.info("joined", mesh=membership.state.name, at=str(at))

    async def _come_in(
        self, identity: Identity, invitation: Invitation, waiting: Callable[[str], None]
    ) -> tuple[Membership, Address]:
        device = identity.device
        newcomer = Newcomer(device.signing_key(), identity.cert_bytes, identity.share_seed())
        leaf = Leaf.make(device.sign_seed)
        endpoint = Endpoint(self._bound(_ANY_IPV6, 0), Setup(leaf), lambda _data, _source: None)

        def visitor(answers: bytes) -> Joiner:
            return Joiner(invitation, newcomer, answers)

        found: tuple[Membership, Address] | PortalError
        async with trio.open_nursery() as nursery:
            tell = _once(nursery, waiting)
            await nursery.start(endpoint.run)
            places = await _resolved(invitation.endpoints)
            try:
                progress, at = await come_in(endpoint, places, visitor, now_ms, tell)
            except PortalError as e:
                found = e  # out of the nursery, which would wrap it
            else:
                assert progress.membership is not None
                found = progress.membership, at
            nursery.cancel_scope.cancel()
        if isinstance(found, PortalError):
            raise found
        return found

    async def _begin(self, membership: Membership) -> None:
        await trio.to_thread.run_sync(self.files.begin, membership)
        await self._start(membership)

    def _check_free(self) -> None:
        if self._mesh is not None:
            name = self._mesh.membership.state.name
            raise PortalError(f"this node is in the mesh {name!r} already")

    # --- running it -------------------------------------------------------------------------------

    async def _start(self, membership: Membership) -> None:
        identity = self._open_identity()
        wire = self._bound(self._listen.host, self._listen.port)

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
        mesh = Mesh(wire, own, membership, self.files)
        self._remember(mesh)
        mesh.links.watch(self._link_changed)
        mesh.gossip.watch(self._changed)
        assert self._nursery is not None
        await self._nursery.start(mesh.run)
        self._mesh = mesh
        self._log.info("in the mesh", mesh=membership.state.name, listens_at=str(wire.local))

    def _remember(self, mesh: Mesh) -> None:
        """Where others were last; what cannot be read only costs time."""
        for name, recall in (("records are", self._recall_records), ("door is", self._recall_door)):
            try:
                recall(mesh)
            except (PortalError, OSError) as e:
                self._log.warning(f"{name} not used", error=e)

    def _recall_records(self, mesh: Mesh) -> None:
        records = self.files.records()
        if records is not None:
            mesh.whereabouts.book.load_untrusted(records, now_ms())

    def _recall_door(self, mesh: Mesh) -> None:
        """Where somebody once let us in: until we know more, anybody may be there."""
        if (door := self.files.door()) is not None:
            for member in mesh.membership.members():
                mesh.whereabouts.hint(member.node, [door])

    def _bound(self, host: str, port: int) -> UdpWire:
        """The address that was asked for, with any port if that one is taken.

        Without IPv6 [::] is all of IPv4. Who names one address is never heard at others.
        """
        hosts = (host, _ANY_IPV4) if host == _ANY_IPV6 else (host,)
        for at_port in (port, 0):
            for at_host in hosts:
                try:
                    return UdpWire.bind(at_host, at_port)
                except OSError as e:
                    if e.errno not in _TAKEN or (at_host, at_port) == (hosts[-1], 0):
                        raise
                    self._log.warning("cannot listen there", at=f"{at_host} {at_port}", error=e)
        raise PortalError("no port can be had to listen at")

    # --- writing into it --------------------------------------------------------------------------

    async def invite(self, terms: Invite, invitation: Invitation) -> None:
        """Tell the mesh of a voucher, before anybody gets it."""
        await self._publish(self.mesh.author.invite(invitation.voucher(), terms, now_ms()))

    def new_invitation(self, lifetime_s: int, *, approve: bool) -> Invitation:
        """A fresh one, with the addresses where this node can be found."""
        mesh = self.mesh
        expires_s = int(time.time()) + lifetime_s
        own = [place.address for place in mesh.own.places()] or [mesh.local]
        # Others can let somebody in while this node sleeps.
        others = [link.connection.peer for link in mesh.links.all()]
        endpoints = [*own[:2], *(address for address in others if address is not None)]
        return Invitation.new(
            mesh.membership.mesh_id, expires_s, approve=approve, endpoints=tuple(endpoints)
        )

    async def close_invite(self, voucher: bytes) -> None:
        """Take an invite back."""
        await self._publish(self.mesh.author.close_invite(voucher, now_ms()))

    async def approve(self, member: Member) -> None:
        """Say yes to who waits."""
        await self._publish(self.mesh.author.approve(member.operation, now_ms()))

    async def suspend(self, member: Member) -> None:
        """Stop a device for the time being."""
        author = self.mesh.author
        await self._publish(author.suspend_device(member.user, member.node, now_ms()))

    async def revoke(self, member: Member) -> None:
        """Put a person out; or, of our own, this one device, while the phrase is here."""
        mesh = self.mesh
        identity = self._open_identity()
        if member.user == identity.user:
            key = identity.user_key()
            changes = mesh.author.revoke_device(key, member.node, now_ms())
        else:
            changes = mesh.author.revoke_user(member.user, Reason.COMPROMISED, now_ms())
        await self._publish(changes)

    async def _publish(self, changes: Changes) -> None:
        await self.mesh.gossip.publish(changes)

    # --- looking ----------------------------------------------------------------------------------

    def find(self, who: str) -> Member:
        """The one device people mean by its name, or by the beginning of its id or its user's."""
        wanted = who.strip().lower()
        members = self.mesh.membership.members()
        found = [m for m in members if m.name.lower() == wanted]
        if not found and len(wanted) >= limits.ID_PREFIX_CHARS_MIN:
            found = [m for m in members if _begins(m, wanted)]
        if not found:
            raise UsageError(f"nobody here is called {who!r}", hint="portal peers")
        if len({m.node for m in found}) > 1:
            names = ", ".join(f"{m.name} ({m.node.short()})" for m in found)
            raise UsageError(f"{who!r} may be {names}", hint="use more of the id")
        return found[0]


def _reached_at(local: Address) -> list[Address]:
    """Where others find what listens there."""
    if local.host not in {_ANY_IPV6, _ANY_IPV4}:
        return [local]
    found = own_addresses(local.port)
    return [a for a in found if local.host == _ANY_IPV6 or ":" not in a.host]


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def role_of(member: Member) -> str:
    """A user's role as a word."""
    return UserRole(member.user_role).name.lower()


def _begins(member: Member, wanted: str) -> bool:
    plain = wanted.replace("-", "")
    forms = [form for one in (member.node, member.user) for form in (one.text(), one.short())]
    return any(form.replace("-", "").startswith(plain) for form in forms)


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


def _once(nursery: trio.Nursery, waiting: Callable[[str], None]) -> Callable[[bytes], None]:
    """Tells the four words of the first JOIN that waits; a thread computes them."""
    told: set[bytes] = set()

    async def tell(join: bytes) -> None:
        waiting(" ".join(await trio.to_thread.run_sync(four_words, join)))

    def heard(join: bytes) -> None:
        if join not in told:  # whoever answers may say WAIT as often as it likes
            told.add(join)
            nursery.start_soon(tell, join)

    return heard


async def _resolved(endpoints: tuple[Address, ...]) -> list[Address]:
    """Addresses for what an invite names; names are looked up."""
    found = []
    for endpoint in endpoints:
        try:
            infos = await trio.socket.getaddrinfo(endpoint.host, endpoint.port)
        except OSError:
            continue
        found += [Address(str(info[4][0]), endpoint.port) for info in infos[:1]]
    return found
