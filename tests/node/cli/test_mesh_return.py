"""What is decided before and after the gate; tests/e2e/test_mesh_commands.py goes through it."""

import errno
import os
from contextlib import ExitStack
from dataclasses import replace

import pytest

from core.device_cert import Role
from core.errors import PortalError, UsageError
from core.ids import MeshId
from core.keys import Root
from core.recovery_kit import Endpoint, RecoveryKit
from core.secret import Secret
from mesh.errors import Unreachable
from mesh.members.bodies import Reason, UserRole
from mesh.pairing import JoinRefused, Refusal
from mesh.wire import Address
from node import api, identity, instance, mesh_entry
from node.cli import mesh_return, opening
from node.control import Control
from node.mesh_entry import Came
from node.mesh_files import Entrance, MeshFiles
from tests.support.home import cheap_passphrases, somebody
from tests.support.memberships import (
    NOW_MS,
    Device,
    Person,
    another_device,
    found,
    person,
    recover_of,
)
from tests.support.program import Machine, one_line

ANN, BOB = person("ann"), person("bob", Role.laptop())
AT = Address("192.0.2.7", 9)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


class Shown:
    """A mesh as some member shows it, without a network; and what was asked of it."""

    def __init__(self, monkeypatch, membership):
        self.membership = membership
        self.is_new = True
        self.created_s = 0
        self.asked = []

        async def look(mine, key, places, named, _now_ms):
            self.asked.append(("look", places, named))
            return Came(self.membership, Entrance(ANN.node, places[0]), is_new=False)

        async def by_phrase(mine, key, at, mesh, _now_ms, before_asking):
            self.created_s = mine.cert.created_s
            mine.share_seed()
            before_asking()
            self.asked.append(("by_phrase", at, mine.cert.roles))
            return Came(self.membership, Entrance(ANN.node, at), is_new=self.is_new)

        monkeypatch.setattr("node.mesh_entry.look", look)
        monkeypatch.setattr("node.mesh_entry.by_phrase", by_phrase)


def a_mesh_of(user_of):
    """A mesh in which the person of this home is its founder, or a guest of Ann's."""
    device = Device(user_of.device, user_of.device.signing_key(), user_of.cert_bytes)
    return Person("me", user_of.user_key(), (device,))


@pytest.fixture
def old(tmp_path):
    """The machine that was lost."""
    return somebody(tmp_path / "old")


@pytest.fixture
def kit(old, tmp_path):
    """Its kit, as saved; with a mesh, or without."""

    def save(mesh=None, *endpoints):
        made = old.recovery_kit()
        made = RecoveryKit(made.entropy, made.user, made.created_s, mesh, endpoints)
        file = tmp_path / "kit.txt"
        file.write_bytes(made.text().reveal())
        return file

    return save


def guest(old):
    """Ann's mesh, with the lost machine in it."""
    mesh = found(ANN)
    mesh.bring(a_mesh_of(old))
    return mesh.membership


def test_the_addresses_of_the_kit_are_tried_and_those_of_a_newer_portal_left_out(
    machine, monkeypatch, old, kit
):
    membership = guest(old)
    shown = Shown(monkeypatch, membership)
    page = kit(
        membership.mesh_id,
        Endpoint("quic+onion://x", ANN.node),
        Endpoint("192.0.2.7:9", ANN.node),
        Endpoint("nas.example.org", ANN.node),
    )
    done = machine.here("recover", "--kit-file", page)
    places = [AT, Address("nas.example.org", 27272)]
    assert shown.asked[0] == ("look", places, membership.mesh_id)
    assert shown.asked[1][:2] == ("by_phrase", AT)
    assert done.stdout == "This machine is in the mesh home again: 2 devices.\n"
    assert "your other machines in it: laptop" in done.stderr
    assert "now start the node: portal-node run" in done.stderr
    files = MeshFiles(machine.home)
    assert files.load().dump() == membership.dump()
    assert files.entrance() == (ANN.node, AT)
    assert identity.open(machine.home).user == old.user
    one_line(machine.here("recover", "--kit-file", page, code=1), "in a mesh already")


def test_what_is_named_by_hand_goes_before_the_kit(machine, monkeypatch, old, kit):
    membership = guest(old)
    shown = Shown(monkeypatch, membership)
    page = kit(membership.mesh_id, Endpoint("192.0.2.7:9", ANN.node))
    machine.here("recover", "198.51.100.3:1", "[2001:db8::1]:2", "--kit-file", page)
    places = [Address("198.51.100.3", 1), Address("2001:db8::1", 2)]
    assert shown.asked[0] == ("look", places, membership.mesh_id)


def test_without_a_mesh_id_nobody_comes_in_unasked(machine, monkeypatch, old, kit):
    shown = Shown(monkeypatch, guest(old))
    page = kit()
    argv = ("recover", "192.0.2.7:9", "--kit-file", page)
    done = machine.here(*argv, code=2)
    assert f"fingerprint    {shown.membership.mesh_id.text()}" in done.stderr
    assert "yours in it    laptop" in done.stderr
    assert [asked[0] for asked in shown.asked] == ["look"]
    assert not (machine.home / "mesh").exists()
    machine.here(*argv, "--yes")
    assert [asked[0] for asked in shown.asked] == ["look", "look", "by_phrase"]


def test_without_any_address_there_is_nobody_to_ask(machine, kit):
    done = machine.here("recover", "--kit-file", kit(), code=2)
    one_line(done, "no address of a member is known", "-r DIRECTORY")
    assert not (machine.home / "keystore").exists()


def test_whoever_administers_gets_the_role_for_the_new_machine_unless_it_shall_not(
    machine, monkeypatch, old, kit
):
    old.add_roles(Role.ADMIN)
    membership = found(a_mesh_of(old)).membership
    shown = Shown(monkeypatch, membership)
    page = kit(membership.mesh_id, Endpoint("192.0.2.7:9", ANN.node))
    machine.here("recover", "--kit-file", page, "--no-admin")
    assert Role.ADMIN not in shown.asked[1][2]
    MeshFiles(machine.home).folder.rename(machine.home / "gone")
    machine.here("recover", "--kit-file", page)
    assert Role.ADMIN in shown.asked[3][2]
    assert Role.ADMIN in identity.open(machine.home).cert.roles


def test_a_guest_gets_no_role(machine, monkeypatch, old, kit):
    shown = Shown(monkeypatch, guest(old))
    machine.here("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    assert Role.ADMIN not in shown.asked[1][2]


def test_keys_that_are_here_keep_the_ways_to_open_them(machine, monkeypatch, old, kit, tmp_path):
    Shown(monkeypatch, guest(old))
    cheap_passphrases(monkeypatch)
    root = Root.from_entropy(old.recovery_kit().entropy)
    identity.recover(
        machine.home, root, name="x", passphrase=Secret(b"pass"), now_s=1, use_device_key=False
    )
    slots = len(identity.header(machine.home).slots)
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    machine.here(*argv, code=12)
    monkeypatch.setenv("PORTAL_PASSPHRASE", "pass")
    machine.here(*argv)
    assert len(identity.header(machine.home).slots) == slots
    assert not (machine.home / "device.key").exists()


def test_a_node_that_runs_is_told(machine, monkeypatch, old, kit):
    told = []
    Shown(monkeypatch, guest(old))
    monkeypatch.setattr(Control, "post", lambda _, path, _wanted: told.append(path))
    done = machine.here("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    assert told == [api.ENTER]
    assert "portal-node run" not in done.stderr


def test_machines_that_are_called_alike_are_told_apart():
    mesh = found(ANN)
    mesh.bring(BOB)
    twin = another_device(BOB, "bob")
    mesh.author.add_device(recover_of(mesh.membership, BOB, twin), NOW_MS)
    members = mesh.membership.members()
    called = {mesh_return._called(one, members) for one in members}
    assert called == {"ann", f"bob ({BOB.node.short()})", f"bob ({twin.node.short()})"}


def test_who_is_out_has_no_machines_to_name(old):
    mesh = found(ANN)
    me = a_mesh_of(old)
    mesh.bring(me)
    mesh.author.revoke_user(me.user, Reason.REMOVED, NOW_MS)
    with pytest.raises(UsageError, match="whether this is your mesh"):
        mesh_return._check_meant(mesh.membership, old, None, yes=False)
    mesh_return._check_meant(mesh.membership, old, MeshId(bytes(32)), yes=False)


def test_another_persons_machine_stays_theirs(machine, monkeypatch, old, kit):
    Shown(monkeypatch, guest(old))
    somebody(machine.home)
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    done = machine.here(*argv, code=1)
    assert "another person's identity is here" in done.stderr
    assert not (machine.home / "mesh").exists()
    assert Root.from_entropy(old.recovery_kit().entropy).user_id() == old.user
    with pytest.raises(PortalError, match="in a mesh already"):
        MeshFiles(machine.home).begin(guest(old), identity.header(machine.home).node)
        mesh_return.check_free(machine.home)


def refusing(monkeypatch, name, error, *, is_asked=True):
    async def refuse(*args):
        if name == "by_phrase" and is_asked:
            args[-1]()
        raise error

    monkeypatch.setattr(f"node.mesh_entry.{name}", refuse)


@pytest.mark.parametrize("has_home", [False, True])
@pytest.mark.parametrize("step", ["look", "by_phrase"])
def test_where_nobody_was_asked_the_home_is_as_it_was(
    machine, monkeypatch, old, kit, step, has_home
):
    Shown(monkeypatch, guest(old))
    if has_home:
        machine.configure('[node]\nlisten = "127.0.0.1:0"\n')
    before = sorted(machine.home.iterdir()) if has_home else None
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    with monkeypatch.context() as patch:
        refusing(patch, step, Unreachable("nobody"), is_asked=False)
        done = machine.here(*argv, code=Unreachable.exit_code)
    assert "stay in" not in done.stderr
    assert machine.home.exists() == has_home
    assert before is None or sorted(machine.home.iterdir()) == before
    other = somebody(machine.home.with_name("other")).recovery_kit()
    page = machine.home.with_name("other kit.txt")
    page.write_bytes(other.text().reveal())  # it was the wrong kit: that of another person
    machine.here("recover", "192.0.2.7:9", "--kit-file", page, "--yes", code=1)
    machine.here(*argv)


@pytest.mark.parametrize("error", [JoinRefused(Refusal.NOT_ACCEPTED), Unreachable("it ended")])
def test_once_the_mesh_may_know_a_machine_its_keys_stay(machine, monkeypatch, old, kit, error):
    shown = Shown(monkeypatch, guest(old))
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes", "--name", "nas")
    with monkeypatch.context() as patch:
        refusing(patch, "by_phrase", error)
        done = machine.here(*argv, code=error.exit_code)
    place = opening.shown_path(machine.home)
    assert f"the keys made for this machine stay in {place}: recover again\n" in done.stderr
    node = identity.open(machine.home).node
    done = machine.here(*argv)
    assert "stay in" not in done.stderr
    assert identity.open(machine.home).node == node
    assert identity.open(machine.home).cert.name == "nas"
    assert shown.asked[-1][0] == "by_phrase"


def test_a_full_disk_is_told_before_the_mesh_is_asked(machine, monkeypatch, old, kit):
    shown = Shown(monkeypatch, guest(old))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "keystore")

    monkeypatch.setattr("node.identity.create_private", full)
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    assert "No space left" in machine.here(*argv, code=14).stderr
    assert [asked[0] for asked in shown.asked] == ["look"]
    assert not machine.home.exists()


def test_who_looked_and_said_no_has_no_keys(machine, monkeypatch, old, kit):
    Shown(monkeypatch, guest(old))
    machine.here("recover", "192.0.2.7:9", "--kit-file", kit(), code=2)
    assert not machine.home.exists()


def test_keys_that_were_here_stay_when_the_mesh_refuses(machine, monkeypatch, old, kit):
    Shown(monkeypatch, guest(old))
    root = Root.from_entropy(old.recovery_kit().entropy)
    node = identity.recover(machine.home, root, name="x", passphrase=None, now_s=1).node
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    one_line(machine.here(*argv, "--name", "nas", code=2), "is called 'x' already")
    refusing(monkeypatch, "by_phrase", JoinRefused(Refusal.NOT_ACCEPTED))
    machine.here(*argv, code=1)
    assert identity.open(machine.home).node == node


def without_share_seed(mine):
    """As a Portal left it that knew no meshes; with the phrase on paper."""
    mine.forget_phrase()
    mine._change(lambda opened: opened.contents.extras.pop(identity._SHARE_SEED))


@pytest.mark.parametrize("step", ["look", "by_phrase"])
def test_keys_that_are_here_change_only_once_the_mesh_agrees(machine, monkeypatch, old, kit, step):
    old.add_roles(Role.ADMIN)
    Shown(monkeypatch, found(a_mesh_of(old)).membership)
    page, root = kit(), Root.from_entropy(old.recovery_kit().entropy)
    mine = identity.recover(machine.home, root, name="x", passphrase=None, now_s=1)
    without_share_seed(mine)
    before = {file.name: file.read_bytes() for file in machine.home.iterdir()}
    argv = ("recover", "192.0.2.7:9", "--kit-file", page, "--yes")
    with monkeypatch.context() as patch:
        refusing(patch, step, JoinRefused(Refusal.NOT_ACCEPTED))
        done = machine.here(*argv, code=1)
    assert "stay in" not in done.stderr
    assert {file.name: file.read_bytes() for file in machine.home.iterdir()} == before
    machine.here(*argv)
    again = identity.open(machine.home)
    assert again.share_seed().reveal() == root.share_seed(0).reveal()
    assert Role.ADMIN in again.cert.roles


@pytest.mark.parametrize("has_role", [False, True])
def test_a_machine_the_mesh_knows_gets_a_newer_certificate_for_its_role(
    machine, monkeypatch, old, kit, has_role
):
    root = Root.from_entropy(old.recovery_kit().entropy)
    mine = identity.recover(machine.home, root, name="x", passphrase=None, now_s=1)
    mesh = found(ANN)
    me = replace(a_mesh_of(old), devices=(of_identity(mine),))
    mesh.bring(me)
    mesh.author.grant(me.user, UserRole.ADMIN, NOW_MS)
    shown = Shown(monkeypatch, mesh.membership)
    future_s = 1 << 32  # of a clock that was wrong once
    cert = replace(mine.cert, created_s=future_s).signed_by(root.user_identity())
    known = replace(of_identity(mine), cert=cert)
    mesh.author.add_device(recover_of(mesh.membership, me, known), NOW_MS)
    if has_role:  # as an old Portal left it: here, and unknown to the mesh
        mine.add_roles(Role.ADMIN, root)
        assert mine.cert.created_s == 1
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    done = machine.here(*argv)
    assert shown.created_s == future_s + 1
    again = identity.open(machine.home).cert
    assert (again.created_s, Role.ADMIN in again.roles) == (future_s + 1, True)
    # Whoever let us in might not write it:
    assert "it does not administer the mesh yet: portal mesh administer" in done.stderr


def of_identity(mine):
    return Device(mine.device, mine.device.signing_key(), mine.cert_bytes)


def forgetful(machine, monkeypatch, old):
    """Here is a list of members that may be older than what others know."""
    root = Root.from_entropy(old.recovery_kit().entropy)
    identity.recover(machine.home, root, name="x", passphrase=None, now_s=1)
    shown = Shown(monkeypatch, guest(old))
    shown.is_new = False
    MeshFiles(machine.home).begin(shown.membership)
    return shown


def before(monkeypatch, shown, name, act):
    """Let something happen while this step is under way."""
    real = getattr(mesh_entry, name)

    async def step(*args):
        act()
        return await real(*args)

    monkeypatch.setattr(mesh_entry, name, step)


def test_a_node_that_was_started_while_somebody_typed_keeps_its_files(
    machine, monkeypatch, old, kit
):
    shown = forgetful(machine, monkeypatch, old)
    files = MeshFiles(machine.home)
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    with ExitStack() as node, monkeypatch.context() as patch:
        here = instance.only_one(machine.home, machine.home / "node.sock")
        before(patch, shown, "look", lambda: node.enter_context(here))
        told = machine.here(*argv, code=1).stderr
        assert "its node runs (portal-node stop; then recover)\n" in told
        assert [asked[0] for asked in shown.asked] == ["look"]
    assert files.are_there
    assert not list(machine.home.glob("mesh.old-*"))
    assert "the old list of members is in" in machine.here(*argv).stderr


def test_no_node_starts_while_files_are_replaced(machine, monkeypatch, old, kit):
    shown = forgetful(machine, monkeypatch, old)
    refused = []

    def start():
        with (
            pytest.raises(instance.AlreadyRunning),
            instance.only_one(machine.home, machine.home / "node.sock"),
        ):
            pytest.fail("it started")
        refused.append(True)

    before(monkeypatch, shown, "by_phrase", start)
    machine.here("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    assert refused
    start_again = instance.only_one(machine.home, machine.home / "node.sock")
    with start_again:
        pass


def test_a_mesh_that_a_node_came_into_meanwhile_stays(machine, monkeypatch, old, kit):
    shown = Shown(monkeypatch, guest(old))
    root = Root.from_entropy(old.recovery_kit().entropy)
    mine = identity.recover(machine.home, root, name="x", passphrase=None, now_s=1)
    files, entrance = MeshFiles(machine.home), Entrance(BOB.node, Address("192.0.2.8", 1))
    bobs = found(BOB).membership

    def join():
        files.save_entrance(entrance)
        files.begin(bobs, mine.node)

    before(monkeypatch, shown, "by_phrase", join)
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    assert "in a mesh already" in machine.here(*argv, code=1).stderr
    assert files.load().mesh_id == bobs.mesh_id
    assert files.entrance() == entrance
