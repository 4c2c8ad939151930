"""Whole services on loopback, in one process, as the daemon runs them."""

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from core.device_cert import Role
from core.errors import FormatError, KeystoreError, PortalError, UsageError
from core.keys import Root
from mesh.invite import Invitation
from mesh.members.bodies import Invite, UserRole
from mesh.members.state import Standing
from mesh.pairing import JoinRefused, Refusal
from mesh.wire import Address
from node import identity, mesh_entry, mesh_service
from node.config import Address as ListenAt
from node.log import Log, Sink
from node.mesh_acts import Act
from node.mesh_service import MeshService, NoMesh, Watchers, now_ms
from tests.support.home import NOW_S

pytestmark = pytest.mark.slow

PATIENCE_S = 60
LOOPBACK = ListenAt("127.0.0.1", 0)
HOUR_S = 3_600


class Seat:
    """One person, a home, and the service that runs there."""

    def __init__(self, place, name, *, admin=False, listen=LOOPBACK, as_one_of=None):
        self.home, self.listen = place / name, listen
        if as_one_of is not None:
            identity.recover(self.home, as_one_of, name=name, passphrase=None, now_s=NOW_S)
        elif not self.home.exists():
            made = identity.create(self.home, name=name, passphrase=None, now_s=NOW_S)
            if admin:
                made.add_roles(Role.ADMIN)
        self.lines, self.changes, self.words = [], [], []
        self.happened = trio.Event()
        log = Log(Sink(self.lines.append))
        watchers = Watchers(self.changed, self.linked, self.looked)
        self.service = MeshService(
            self.home, lambda: identity.open(self.home), listen, log, watchers
        )

    def changed(self, changes):
        self.changes.append(changes)
        self.wake()

    def linked(self, _link, _is_up):
        self.wake()

    def looked(self, _mesh, _node):
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

    @property
    def user(self):
        return identity.open(self.home).user

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


async def left(seat):
    found = await seat.service.leave()
    assert found.mesh == "home"
    return found.files, found.heard


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


def test_a_suspended_device_is_let_back_and_linked_again(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            await ann.service.suspend(ann.service.find("bob"))
            await ann.until(lambda: not ann.peers())
            await ann.service.unsuspend(ann.service.find("bob"))
            await ann.until(lambda: ann.peers() == {bob.node})

    play(scene)


def test_who_leaves_tells_the_others_sets_the_files_aside_and_may_join_again(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob", "cyd") as (ann, bob, cyd):
            members = (bob.home / "mesh" / "members").read_bytes()
            at = bob.service.mesh.local
            aside, heard = await left(bob)  # the phrase is here
            assert heard
            assert (aside / "members").read_bytes().startswith(members)
            assert not (bob.home / "mesh").exists()
            with pytest.raises(NoMesh):
                _ = bob.service.mesh
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind(at)  # nobody is there any more
            for seat, other in ((ann, cyd), (cyd, ann)):
                await seat.until(lambda seat=seat: seat.standing(bob) == Standing.DEPARTED)
                assert seat.peers() == {other.node}
            await bob.join(await ann.invite())
            assert bob.standing(bob) == Standing.ACTIVE
            assert bob.service.mesh.local != at
            await bob.until(lambda: bob.peers() == {ann.node, cyd.node})

    play(scene)


def test_leaving_takes_the_phrase_where_the_device_may_not_administer(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            mine = identity.open(bob.home)
            key = mine.user_key()
            mine.forget_phrase()
            words = bob.service.words(Act.LEAVE, bob.service.find("bob"))
            assert bob.service.needs_phrase(words)
            with pytest.raises(KeystoreError, match="recovery phrase"):
                await bob.service.leave()
            assert bob.standing(bob) == Standing.ACTIVE
            await bob.service.leave(words.parents, words.signed(key))
            await ann.until(lambda: ann.standing(bob) == Standing.DEPARTED)
            words = ann.service.words(Act.LEAVE, ann.service.find("ann"))
            identity.open(ann.home).forget_phrase()
            assert not ann.service.needs_phrase(words)
            _, heard = await left(ann)
            assert not heard

    play(scene)


def test_who_was_put_out_only_sets_the_files_aside(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            await ann.service.revoke(ann.service.find("bob"))
            await bob.until(lambda: not bob.peers())
            aside, heard = await left(bob)
            assert not heard
            assert aside.is_dir()
            await bob.join(await ann.invite())

    play(scene)


async def comes_back(seat, person, at):
    """As `portal recover` does it: a new machine of this person is in the mesh at this address."""
    root = Root.from_entropy(identity.open(person.home).recovery_kit().entropy)
    new = Seat(seat.parent, seat.name, as_one_of=root)
    device, key = identity.open(new.home), root.user_identity()
    shown, seen, _ = await mesh_entry.look(device, key, [at], None, now_ms)
    assert (shown.state.name, seen.at) == ("home", at)
    asked = list[bool]()
    came = await mesh_entry.by_phrase(
        device, key, at, shown.mesh_id, now_ms, lambda: asked.append(True)
    )
    assert asked == [True]  # now the keys must not be lost
    assert came.entrance == seen
    assert came.membership.member(seen.node).is_active
    assert came.is_new
    new.service.files.save_entrance(seen)
    new.service.files.begin(came.membership, device.node)
    return new


def test_a_home_that_a_command_brought_into_a_mesh_is_entered_once(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            new = await comes_back(tmp_path / "bob's", bob, ann.service.mesh.local)
            members = new.home / "mesh" / "members"
            kept = members.rename(tmp_path / "kept")
            async with running(new):
                await new.service.enter()  # nothing is there yet
                with pytest.raises(NoMesh):
                    _ = new.service.mesh
                kept.rename(members)
                await new.service.enter()
                entered = new.service.mesh
                await new.service.enter()
                assert new.service.mesh is entered
                await new.until(lambda: ann.node in new.peers())
                assert bob.user == new.user

    play(scene)


def test_machines_of_ones_own_are_nobody_to_tell(tmp_path):
    async def scene():
        async with a_mesh(tmp_path, "ann") as (ann,):
            new = await comes_back(tmp_path / "ann's", ann, ann.service.mesh.local)
            async with running(new):
                await ann.until(lambda: ann.peers() == {new.node})
                _, heard = await left(ann)
                assert not heard

    play(scene)


def test_a_change_of_the_network_is_heeded_in_a_mesh_and_no_matter_without(tmp_path, monkeypatch):
    async def scene():
        eve = Seat(tmp_path, "eve")
        async with running(eve), a_mesh(tmp_path, "ann", "bob") as (ann, bob):
            eve.service.network_changed()
            mesh, asked = ann.service.mesh, []
            (link,) = mesh.links.all()
            monkeypatch.setattr(type(link), "ask", lambda one: asked.append(one.node))
            moved = Address("127.0.0.9", mesh.local.port)
            monkeypatch.setattr(mesh_service, "_reached_at", lambda _local: [moved])
            ann.service.network_changed()
            assert asked == [bob.node]
            places = {
                place.address for place in mesh.whereabouts.book.of(ann.node, now_ms()).places
            }
            assert moved in places

    play(scene)


def test_the_owner_s_patience_is_in_force_before_and_after_the_start(tmp_path):
    async def scene():
        ann = Seat(tmp_path, "ann", admin=True)
        ann.service.grace(3 * 86_400)
        async with running(ann):
            await ann.service.found("home")
            presence = ann.service.mesh.liveness.presence
            assert presence.grace_s(ann.node) == 3 * 86_400
            ann.service.grace(4 * 86_400)
            assert presence.grace_s(ann.node) == 4 * 86_400

    play(scene)


def test_what_is_offered_is_said_before_and_after_the_start(tmp_path):
    async def scene():
        ann, bob = Seat(tmp_path, "ann", admin=True), Seat(tmp_path, "bob")
        ann.service.offer(5)
        async with running(ann, bob):
            await ann.service.found("home")

            def of_ann(seat):
                found = seat.service.mesh.whereabouts.book.of(ann.node, now_ms())
                return found.offer_bytes if found else None

            assert of_ann(ann) == 5
            await bob.join(await ann.invite())
            await bob.until(lambda: bob.peers() == {ann.node})
            bob.service.mesh.whereabouts.watch(lambda _node: bob.wake())
            ann.service.offer(6)
            assert of_ann(ann) == 6
            await bob.until(lambda: of_ann(bob) == 6)

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


def test_without_routes_the_addresses_there_are_count(monkeypatch):
    monkeypatch.setattr(mesh_service, "own_addresses", lambda _port: [])
    monkeypatch.setattr(mesh_service, "interface_addresses", lambda: ["10.0.0.5", "2001:db8::5"])
    found = mesh_service._reached_at(Address("::", 9))
    assert found == [Address("10.0.0.5", 9), Address("2001:db8::5", 9)]
    assert mesh_service._reached_at(Address("0.0.0.0", 9)) == [Address("10.0.0.5", 9)]
    monkeypatch.setattr(mesh_service, "interface_addresses", list)
    assert mesh_service._reached_at(Address("::", 9)) == []


def test_a_machine_without_any_address_invites_to_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(mesh_service, "own_addresses", lambda _port: [])
    monkeypatch.setattr(mesh_service, "interface_addresses", list)

    async def scene():
        ann = Seat(tmp_path, "ann", admin=True, listen=ListenAt("::", 0))
        bob = Seat(tmp_path, "bob")
        async with running(ann, bob):
            await ann.service.found("home")
            made = await ann.invite()
            assert made.endpoints == (Address("127.0.0.1", ann.service.mesh.local.port),)
            await bob.join(made)

    play(scene)
