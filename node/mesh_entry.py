"""Coming into a mesh from outside: by somebody's invite, or by one's own phrase.

A node that is asked to join does the first; the second is done by the command itself (`portal
recover`), so that the phrase never leaves the process it is typed into. Both have a socket of their
own for it, and leave a membership behind that has been checked (mesh/visitors.py).
"""

import errno
from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio

from core.crypto import SigningKey, hpke_public, system_entropy
from core.errors import PortalError, UsageError
from core.ids import MeshId
from mesh.gate import Visitor, come_in
from mesh.invite import Invitation, four_words
from mesh.leaf import Leaf
from mesh.members.joining import BINDING_BYTES, NONCE_BYTES, Recover
from mesh.members.membership import Membership
from mesh.pairing import JoinRefused, Refusal
from mesh.quic.endpoint import Endpoint, Setup
from mesh.udp import UdpWire
from mesh.visitors import Joiner, Newcomer, Progress, Recoverer, Returner
from mesh.wire import Address
from node.identity import Identity
from node.mesh_files import Entrance

ANY_IPV6, ANY_IPV4 = "::", "0.0.0.0"  # noqa: S104 - peers come from anywhere
_TAKEN = {errno.EADDRINUSE, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}

NowMs = Callable[[], int]


class Came(NamedTuple):
    """What was shown to a visitor, or where a newcomer is now."""

    membership: Membership
    entrance: Entrance
    is_new: bool  # the mesh has never known this device before


async def by_invite(
    identity: Identity, invitation: Invitation, now_ms: NowMs, waiting: Callable[[str], None]
) -> Came:
    """Come in through the first address of an invite that lets us; and where that was.

    `waiting` is told the four words to compare if somebody must approve.
    """
    if invitation.expired(now_ms() // 1_000):
        raise JoinRefused(Refusal.EXPIRED)
    if not invitation.endpoints:
        raise UsageError("this invite names no address", hint="ask for a new one")
    who = newcomer(identity)

    def visitor(leaf: bytes) -> Joiner:
        return Joiner(invitation, who, leaf)

    return await _visit(identity, invitation.endpoints, visitor, now_ms, waiting)


async def look(
    identity: Identity,
    user: SigningKey,
    places: Sequence[Address],
    mesh: MeshId | None,
    now_ms: NowMs,
) -> Came:
    """Which mesh our person belongs to, shown by the first member that answers; and its address.

    `mesh` is the one that is meant, if that is known: another one is refused.
    """
    who = newcomer(identity)

    def visitor(leaf: bytes) -> Returner:
        return Returner(mesh, user, who, leaf)

    return await _visit(identity, places, visitor, now_ms)


async def by_phrase(
    identity: Identity,
    user: SigningKey,
    at: Address,
    mesh: MeshId,
    now_ms: NowMs,
    before_asking: Callable[[], None],
) -> Came:
    """Come into this mesh, through a member at this address, as a device of our person.

    `before_asking` keeps what must not be lost once the mesh may know this device: it is called
    when a member listens, right before it is asked.
    """
    who = newcomer(identity)

    def visitor(leaf: bytes) -> Recoverer:
        asking = Recoverer(mesh, user, who, leaf)
        asking.before_asking = before_asking
        return asking

    return await _visit(identity, [at], visitor, now_ms)


def newcomer(identity: Identity) -> Newcomer:
    """Who comes, as the other side of the gate sees it."""
    return Newcomer(identity.device.signing_key(), identity.cert_bytes, identity.share_seed())


def own_device(
    identity: Identity, user: SigningKey, mesh: str, now_s: int
) -> tuple[bytes, bytes, bytes]:
    """What our phrase says of this device, for a mesh it is in already: bound to no meeting."""
    who = newcomer(identity)
    recover = Recover(
        mesh=MeshId.parse_untrusted(mesh),
        cert_bytes=who.cert_bytes,
        cert=identity.cert,
        kem=hpke_public(who.kem_seed),
        nonce=system_entropy(NONCE_BYTES),
        binding=bytes(BINDING_BYTES),
        time_s=now_s,
    )
    return recover.signed(user, who.device)


async def _visit(
    identity: Identity,
    endpoints: Sequence[Address],
    visitor: Callable[[bytes], Visitor],
    now_ms: NowMs,
    waiting: Callable[[str], None] = lambda _words: None,
) -> Came:
    leaf = Leaf.make(identity.device.sign_seed)
    endpoint = Endpoint(bound(ANY_IPV6, 0), Setup(leaf), lambda _data, _source: None)
    found: tuple[Progress, Address] | PortalError
    async with trio.open_nursery() as nursery:
        tell = _once(nursery, waiting)
        await nursery.start(endpoint.run)
        try:
            found = await come_in(endpoint, await _resolved(endpoints), visitor, now_ms, tell)
        except PortalError as e:
            found = e  # out of the nursery, which would wrap it
        nursery.cancel_scope.cancel()
    if isinstance(found, PortalError):
        raise found
    progress, at = found
    assert progress.membership is not None  # what a visit ends with
    assert progress.host is not None
    return Came(progress.membership, Entrance(progress.host, at), progress.is_new)


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


async def _resolved(endpoints: Sequence[Address]) -> list[Address]:
    """Addresses for what an invite or a kit names; names are looked up."""
    found = []
    for endpoint in endpoints:
        try:
            infos = await trio.socket.getaddrinfo(endpoint.host, endpoint.port)
        except (OSError, UnicodeError):  # no such name, or none that could be one
            continue
        found += [Address(str(info[4][0]), endpoint.port) for info in infos[:1]]
    return found


def bound(
    host: str, port: int, refused: Callable[[str, OSError], None] = lambda _at, _error: None
) -> UdpWire:
    """The address that was asked for, with any port if that one is taken.

    Without IPv6 [::] is all of IPv4. Who names one address is never heard at others.
    """
    hosts = (host, ANY_IPV4) if host == ANY_IPV6 else (host,)
    for at_port in (port, 0):
        for at_host in hosts:
            try:
                return UdpWire.bind(at_host, at_port)
            except OSError as e:
                if e.errno not in _TAKEN or (at_host, at_port) == (hosts[-1], 0):
                    raise
                refused(f"{at_host} {at_port}", e)
    raise PortalError("no port can be had to listen at")
