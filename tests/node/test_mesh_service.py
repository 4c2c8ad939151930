"""Whole services on loopback, in one process, as the daemon runs them."""

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from core.device_cert import Role
from core.errors import FormatError, KeystoreError, PortalError, UsageError
from mesh.invite import Invitation
from mesh.members.bodies import Invite, UserRole
from mesh.members.state import Standing
from mesh.pairing import JoinRefused, Refusal
from mesh.wire import Address
from node import identity, mesh_service
from node.config import Address as ListenAt
from node.log import Log, Sink
from node.mesh_service import MeshService, NoMesh
from tests.support.home import NOW_S

pytestmark = pytest.mark.slow

PATIENCE_S = 60
LOOPBACK = ListenAt("127.0.0.1", 0)
HOUR_S = 3_600


class Seat:
    """One person, a home, and the service that runs there."""

    def __init__(self, place, name, *, admin=False, listen=LOOPBACK):
        self.home, self.listen = place / name, listen
        if not self.home.exists():
            made = identity.create(self.home, name=name, passphrase=None, now_s=NOW_S)
            if admin:
                made.add_roles(Role.ADMIN)
        self.lines, self.changes, self.words = [], [], []
        self.happened = trio.Event()
        log = Log(Sink(self.lines.append))
        self.service = MeshService(
            self.home, lambda: identity.open(self.home), listen, log, self.changed, self.linked
        )

    def changed(self, changes):
        self.changes.append(changes)
        self.wake()

    def linked(self, _link, _is_up):
        self.wake()

    def waiting(self, words):
        self.words.append(words)
        self.wake()

    def wake(self):
        self.happened.set()
        self.happened = trio.Event()

    async def until(self, holds):
        with trio.fail_after(PATIENCE_S):
            while not holds():
                await self.happened.wait()

    @property
    def node(self):
        return identity.open(self.home).node

    def peers(self):
        return {link.node for link in self.service.mesh.links.all()}

    def standing(self, other):
        return self.service.mesh.membership.member(other.node).standing

    async def invite(self, *, approve=False, role=UserRole.MEMBER):
        invitation = self.service.new_invitation(HOUR_S, approve=approve)
        voucher = invitation.voucher().public
        terms = Invite(voucher, role, approve, invitation.expires_s, 0, "")
        await self.service.invite(terms, invitation)
        return invitation

    async def join(self, invitation):
        await self.service.join(invitation.text().reveal().decode(), self.waiting)


@asynccontextmanager
async def running(*seats):
    async with trio.open_nursery() as nursery:
        for seat in seats:
            await nursery.start(seat.service.run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def a_mesh(place, *names):
    """The first has founded a mesh, and let the others in; all are linked."""
    seats = [Seat(place, name, admin=n == 0) for n, name in enumerate(names)]
    async with running(*seats):
        await seats[0].service.found("home")
        for seat in seats[1:]:
            await seat.join(await seats[0].invite())
        nodes = {seat.node for seat in seats}
        for seat in seats:
            await seat.until(lambda seat=seat: seat.peers() == nodes - {seat.node})
        yield seats


def play(scene, *args):
    trio.run(scene, *args)


async def refused(seat, invitation, error, match=None):
    with pytest.raises(error, match=match) as raised:
        await seat.join(invitation)
    return raised.value


def test_without_a_mesh_it_waits_for_one(tmp_path):
    async def scene():
        ann = Seat(tmp_path, "ann")
        async with running(ann):
            with pytest.raises(NoMesh) as raised:
                _ = ann.service.mesh
            assert "portal join INVITE" in raised.value.hint
            assert not (ann.home / "mesh").exists()
            with pytest.raises(PortalError, match="may not administer"):
                await ann.service.found("home")
            assert not (ann.home / "mesh").exists()

    play(scene)


def test_who_is_invited_comes_in_and_both_are_linked(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            both = ann.service.mesh.membership, bob.service.mesh.membership
            assert both[0].dump() == both[1].dump()
            assert {m.name for m in both[0].members()} == {"ann", "bob"}
            assert [c.active for c in ann.changes if c.active] == [(bob.node,)]
            for seat in (ann, bob):
                assert seat.service.files.load().dump() == both[0].dump()
            for seat in (ann, bob):
                with pytest.raises(PortalError, match="in the mesh 'home' already"):
                    await seat.service.found("another")
                await refused(seat, await ann.invite(), PortalError, "in the mesh 'home' already")

    play(scene)


@pytest.mark.parametrize("door", ["as it was", "nonsense"])
def test_without_records_the_door_leads_back_and_a_broken_door_stops_nobody(tmp_path, door):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as seats:
            nodes = {seat.node for seat in seats}
            at = [seat.service.mesh.local.port for seat in seats]
        for name in ("ann", "bob"):  # neither remembers the other
            (tmp_path / name / "mesh" / "records").unlink(missing_ok=True)
        if door == "nonsense":
            (tmp_path / "bob" / "mesh" / "door").write_bytes(b"nonsense")
        again = [
            Seat(tmp_path, n, listen=ListenAt("127.0.0.1", p))
            for n, p in zip(("ann", "bob"), at, strict=True)
        ]
        async with running(*again):
            if door == "nonsense":
                assert any("door is not used" in line for line in again[1].lines)
            else:
                for seat in again:
                    await seat.until(lambda seat=seat: seat.peers() == nodes - {seat.node})

    play(scene)


def test_it_is_in_the_mesh_again_after_a_restart_whatever_became_of_the_records(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as seats:
            nodes = {seat.node for seat in seats}
            at = [seat.service.mesh.local.port for seat in seats]
        (tmp_path / "bob" / "mesh" / "records").write_bytes(b"\xc1 nonsense")
        again = [
            Seat(tmp_path, n, listen=ListenAt("127.0.0.1", p))
            for n, p in zip(("ann", "bob"), at, strict=True)
        ]
        # Where Bob is, Ann knows from her records; without them somebody has to tell one of both.
        async with running(*again):
            assert [seat.service.mesh.local.port for seat in again] == at
            again[1].service.mesh.whereabouts.hint(again[0].node, [again[0].service.mesh.local])
            again[1].service.mesh.keep_links()
            for seat in again:
                await seat.until(lambda seat=seat: seat.peers() == nodes - {seat.node})
        assert any("records are not used" in line for line in again[1].lines)

    play(scene)


def test_an_invite_names_where_its_maker_is_and_who_is_linked(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            invitation = await ann.invite()
            assert invitation.endpoints == (ann.service.mesh.local, bob.service.mesh.local)
            assert all(at.host == "127.0.0.1" and at.port for at in invitation.endpoints)

    play(scene)


def test_the_second_lets_in_who_the_first_has_invited(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            made = await ann.invite()
            voucher = made.voucher().public
            await bob.until(lambda: bob.service.mesh.membership.invite(voucher) is not None)
            reached = Invitation(
                made.secret, made.mesh_prefix, made.expires_s, endpoints=made.endpoints[1:]
            )
            cyd = Seat(tmp_path, "cyd")
            async with running(cyd):
                await cyd.join(reached)
                await ann.until(lambda: ann.peers() == {bob.node, cyd.node})

    play(scene)


def test_who_has_to_be_approved_compares_four_words_and_waits(tmp_path):
    async def scene():
        ann, bob = Seat(tmp_path, "ann", admin=True), Seat(tmp_path, "bob")
        async with running(ann, bob), trio.open_nursery() as nursery:
            await ann.service.found("home")
            nursery.start_soon(bob.join, await ann.invite(approve=True))
            await bob.until(lambda: bob.words)
            assert len(bob.words[0].split()) == 4
            assert ann.standing(bob) == Standing.PENDING
            with pytest.raises(NoMesh):
                _ = bob.service.mesh
            await ann.service.approve(ann.service.find("bob"))
            await ann.until(lambda: ann.peers() == {bob.node})
            assert bob.words == bob.words[:1]

    play(scene)


def test_who_is_put_out_is_out_everywhere(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob", "cyd") as (ann, bob, cyd):
            await ann.service.revoke(ann.service.find("cyd"))
            await bob.until(lambda: cyd.node not in bob.peers())
            await ann.until(lambda: cyd.node not in ann.peers())
            assert ann.standing(cyd) == bob.standing(cyd) == Standing.DEPARTED
            assert ann.peers() == {bob.node}
            barred = (cyd.node,)
            await bob.until(lambda: [c.barred for c in bob.changes if c.barred] == [barred])

    play(scene)


def test_who_is_suspended_is_out_for_the_time_being(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            await ann.service.suspend(ann.service.find("bob"))
            await ann.until(lambda: not ann.peers())
            assert ann.standing(bob) == Standing.SUSPENDED

    play(scene)


def test_a_device_of_ones_own_is_revoked_by_the_phrase_alone(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            identity.open(bob.home).forget_phrase()
            with pytest.raises(KeystoreError, match="recovery phrase"):
                await bob.service.revoke(bob.service.find("bob"))
            assert bob.standing(bob) == Standing.ACTIVE
            await ann.service.revoke(ann.service.find("ann"))
            assert ann.standing(ann) == Standing.REVOKED
            await bob.until(lambda: not bob.peers())

    play(scene)


def test_each_reason_not_to_be_let_in_is_told(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, _):
            cyd = Seat(tmp_path, "cyd")
            async with running(cyd):
                closed = await ann.invite()
                await ann.service.close_invite(closed.voucher().public)
                found = await refused(cyd, closed, JoinRefused)
                assert found.reason == Refusal.CLOSED
                mesh = ann.service.mesh.membership.mesh_id
                late = Invitation.new(mesh, 60, endpoints=closed.endpoints)
                assert (await refused(cyd, late, JoinRefused)).reason == Refusal.EXPIRED
                nowhere = Invitation.new(mesh, closed.expires_s)
                await refused(cyd, nowhere, UsageError, "names no address")
                strange = Invitation.new(mesh, closed.expires_s, endpoints=closed.endpoints[:1])
                await refused(cyd, strange, PortalError, "without a word")
                with pytest.raises(FormatError, match="begins with pnj1-"):
                    await cyd.service.join("hello", cyd.waiting)
                assert not (cyd.home / "mesh").exists()
                await cyd.join(await ann.invite())

    play(scene)


def test_a_name_two_have_is_not_guessed(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            (tmp_path / "else").mkdir()
            other = Seat(tmp_path / "else", "bob")
            async with running(other):
                await other.join(await ann.invite())
                with pytest.raises(UsageError, match=r"'bob' may be bob .*, bob ") as raised:
                    ann.service.find("bob")
                assert all(seat.node.short() in str(raised.value) for seat in (bob, other))
                assert ann.service.find(other.node.short()).node == other.node

    play(scene)


def test_people_are_found_by_name_and_by_the_beginning_of_an_id(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            find, who = ann.service.find, identity.open(bob.home)
            node, user = who.node.text(), who.user.text()
            for text in ("bob", " BOB ", node, node.upper(), node[:12], user, user[:12]):
                assert find(text).node == bob.node
            for text in ("eve", "", node[:1], "pn"):
                with pytest.raises(UsageError, match="nobody here is called"):
                    find(text)

    play(scene)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_names_one_address_is_heard_nowhere_else(tmp_path, host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as taken:
        taken.bind((host, 0))
        port = taken.getsockname()[1]

        async def scene():
            ann = Seat(tmp_path, "ann", admin=True, listen=ListenAt(host, port))
            async with running(ann):
                await ann.service.found("home")
                local = ann.service.mesh.local
                assert local.host == host
                assert local.port not in {0, port}
                assert [p.address for p in ann.service.mesh.own.places()] == [local]
            assert any("cannot listen there" in line for line in ann.lines)

        play(scene)


def test_an_address_this_machine_has_not_is_told(tmp_path):
    async def scene():
        ann = Seat(tmp_path, "ann", admin=True, listen=ListenAt("192.0.2.1", 0))
        async with running(ann):
            with pytest.raises(OSError, match="assign requested address"):
                await ann.service.found("home")

    play(scene)


@pytest.mark.parametrize(
    ("host", "wanted"), [("::", ["10.0.0.5", "2001:db8::5"]), ("0.0.0.0", ["10.0.0.5"])]
)
def test_who_listens_everywhere_is_found_where_the_kernel_sends_from(monkeypatch, host, wanted):
    own = [Address("10.0.0.5", 9), Address("2001:db8::5", 9)]
    monkeypatch.setattr(mesh_service, "own_addresses", lambda _port: own)
    assert [at.host for at in mesh_service._reached_at(Address(host, 9))] == wanted
