"""What is decided before and after the gate; tests/e2e/test_mesh_commands.py goes through it."""

import pytest

from core.device_cert import Role
from core.errors import PortalError, UsageError
from core.ids import MeshId
from core.keys import Root
from core.recovery_kit import Endpoint, RecoveryKit
from core.secret import Secret
from mesh.errors import Unreachable
from mesh.members.bodies import Reason
from mesh.pairing import JoinRefused, Refusal
from mesh.wire import Address
from node import api, identity
from node.cli import mesh_return
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
        self.asked = []

        async def look(mine, key, places, named, _now_ms):
            self.asked.append(("look", places, named))
            return Came(self.membership, Entrance(ANN.node, places[0]), is_new=False)

        async def by_phrase(mine, key, at, mesh, _now_ms):
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


def refusing(monkeypatch, name, error):
    async def refuse(*_args):
        raise error

    monkeypatch.setattr(f"node.mesh_entry.{name}", refuse)


@pytest.mark.parametrize("has_home", [False, True])
@pytest.mark.parametrize(
    ("step", "error"),
    [("look", Unreachable("nobody")), ("by_phrase", JoinRefused(Refusal.NOT_ACCEPTED))],
)
def test_who_is_not_let_in_finds_the_home_as_it_was(
    machine, monkeypatch, old, kit, step, error, has_home
):
    Shown(monkeypatch, guest(old))
    if has_home:
        machine.configure('[node]\nlisten = "127.0.0.1:0"\n')
    before = sorted(machine.home.iterdir()) if has_home else None
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    with monkeypatch.context() as patch:
        refusing(patch, step, error)
        machine.here(*argv, code=error.exit_code)
    assert machine.home.exists() == has_home
    assert before is None or sorted(machine.home.iterdir()) == before
    other = somebody(machine.home.with_name("other")).recovery_kit()
    page = machine.home.with_name("other kit.txt")
    page.write_bytes(other.text().reveal())  # it was the wrong kit: that of another person
    machine.here("recover", "192.0.2.7:9", "--kit-file", page, "--yes", code=1)
    machine.here(*argv)


def test_who_looked_and_said_no_has_no_keys(machine, monkeypatch, old, kit):
    Shown(monkeypatch, guest(old))
    machine.here("recover", "192.0.2.7:9", "--kit-file", kit(), code=2)
    assert not machine.home.exists()


def test_where_the_answer_was_lost_the_same_machine_asks_again(machine, monkeypatch, old, kit):
    shown = Shown(monkeypatch, guest(old))
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes", "--name", "nas")
    with monkeypatch.context() as patch:
        refusing(patch, "by_phrase", Unreachable("it ended before we were in"))
        machine.here(*argv, code=Unreachable.exit_code)
    node = identity.open(machine.home).node  # the mesh may know it by now
    machine.here(*argv)
    assert identity.open(machine.home).node == node
    assert identity.open(machine.home).cert.name == "nas"
    assert shown.asked[-1][0] == "by_phrase"


def test_keys_that_were_here_stay_when_the_mesh_refuses(machine, monkeypatch, old, kit):
    Shown(monkeypatch, guest(old))
    root = Root.from_entropy(old.recovery_kit().entropy)
    node = identity.recover(machine.home, root, name="x", passphrase=None, now_s=1).node
    argv = ("recover", "192.0.2.7:9", "--kit-file", kit(), "--yes")
    one_line(machine.here(*argv, "--name", "nas", code=2), "is called 'x' already")
    refusing(monkeypatch, "by_phrase", JoinRefused(Refusal.NOT_ACCEPTED))
    machine.here(*argv, code=1)
    assert identity.open(machine.home).node == node
