"""What people do once they are in a mesh, or lost all they had: with real nodes, as typed."""

from pathlib import Path

import pytest

from core.ids import MeshId
from core.phrase import to_words
from core.recovery_kit import RecoveryKit
from node import api, identity
from tests.support.home import NOW_S, Terminal
from tests.support.people import brought, village

pytestmark = pytest.mark.slow


@pytest.fixture
def people(tmp_path):
    with village(tmp_path) as made:
        yield made


@pytest.fixture
def home(people):
    """Ann's mesh, with Bob in it; they are linked, and know where the other is."""
    ann, bob = people("ann"), people("bob")
    ann.typed("mesh", "new", "home")
    brought(ann, bob)
    for one, other in ((ann, "bob"), (bob, "ann")):
        one.until_linked(other)
    return people, ann, bob


def printed_kit(who, tmp_path):
    page = tmp_path / f"{who.name}'s kit.txt"
    who.typed("recovery-kit", "-o", str(page))
    return page


def the_words(who, tmp_path):
    """On paper only, from now on."""
    mine = identity.open(who.home)
    paper = tmp_path / f"{who.name}'s words"
    paper.write_bytes(to_words(mine.recovery_kit().entropy).reveal())
    mine.forget_phrase()
    return str(paper)


def kit_in(page):
    text = page.read_text()
    return RecoveryKit.parse_untrusted(text[text.index("pnk1-") :])


def mesh_of(who):
    return who.control.get(api.MESH, api.Mesh)


def test_who_has_lost_everything_comes_back_with_the_printed_kit(home, tmp_path):
    people, ann, bob = home
    page = printed_kit(bob, tmp_path)
    kit = kit_in(page)
    assert kit.mesh == MeshId.parse_untrusted(mesh_of(ann).mesh)
    assert kit.endpoints[0].address == mesh_of(ann).listens_at
    assert "member 127.0.0.1:" in page.read_text()
    assert bob.end()[0] == 0  # it fell into the sea
    new = people.machine("new")
    done = new.done("recover", "--kit-file", str(page))
    assert (done.returncode, done.stdout) == (
        0,
        "This machine is in the mesh home again: 3 devices.\n",
    )
    assert f"fingerprint {kit.mesh.text()}" in done.stderr
    assert "your other machines in it: bob" in done.stderr
    assert "portal revoke NAME" in done.stderr
    assert "portal-node run" in done.stderr
    assert identity.header(new.home).user.text() == bob.user
    assert not identity.open(new.home).has_phrase
    new.start()
    new.until_linked("ann")
    told = new.typed("revoke", "bob", "--yes", code=2)
    assert "no terminal to ask for the recovery phrase" in told
    assert new.typed("revoke", "bob", "--yes", "--kit-file", str(page)) == "bob is out\n"
    ann.until(lambda: ann.peers()["bob"].standing == "revoked")
    bob.start()
    assert bob.linked() == set()
    again = new.typed("recover", "--kit-file", str(page), code=1)
    assert "in a mesh already" in again


def test_with_words_alone_the_mesh_is_shown_and_a_running_node_goes_in(home, tmp_path):
    people, ann, bob = home
    words = the_words(bob, tmp_path)
    at = mesh_of(ann).listens_at
    new = people.machine("new")
    shown = new.done("recover", at, "--kit-file", words)
    assert shown.returncode == 2
    assert "the mesh       home, 2 devices\n" in shown.stderr
    assert f"fingerprint    {mesh_of(ann).mesh}\n" in shown.stderr
    assert "yours in it    bob\n" in shown.stderr
    assert "no terminal to ask whether this is your mesh (--yes)" in shown.stderr
    assert {*ann.peers()} == {"ann", "bob"}  # nobody came in by looking
    assert [file.name for file in new.home.iterdir()] == ["config.toml"]
    root = identity.root_untrusted(Path(words).read_text(encoding="utf-8"))
    identity.recover(new.home, root, name="new", passphrase=None, now_s=NOW_S)
    new.start()
    screen = Terminal("node.cli.portal.portal", new.home, "recover", at)
    screen.answer("word 1:", Path(words).read_text(encoding="utf-8"))
    screen.answer("Is this your mesh? [y/N]:", "y")
    assert screen.close() == 0
    assert "This machine is in the mesh home again: 3 devices." in screen.screen
    new.until_linked("ann", "bob")
    assert "portal-node run" not in screen.screen


def test_a_stranger_with_words_is_not_shown_anything(home, tmp_path):
    people, ann, _ = home
    eve = people("eve")
    words = the_words(eve, tmp_path)
    at = mesh_of(ann).listens_at
    told = eve.typed("recover", "--mesh", at, "--yes", "--kit-file", words, code=1)
    assert "closed without a word" in told
    assert "no address of a member is known" in eve.typed(
        "recover", "--mesh", "--kit-file", words, code=2
    )
    nobody = people.machine("nobody")
    told = nobody.typed("recover", f"127.0.0.1:{nobody.port}", "--kit-file", words, code=1)
    assert "nobody answers" in told
    assert "is no address of a node" in nobody.typed("recover", "a:b:c:d:e:f:g:h:i", code=2)
    assert "one after the other" in nobody.typed("recover", at, "-r", "/tmp", code=2)
    assert [file.name for file in nobody.home.iterdir()] == ["config.toml"]


def test_the_only_admin_administers_from_the_machine_it_comes_back_with(home, tmp_path):
    people, ann, bob = home
    page = printed_kit(ann, tmp_path)
    assert ann.end()[0] == 0
    new = people.machine("new")
    new.typed("recover", "--kit-file", str(page))
    new.start()
    new.until_linked("bob")
    assert mesh_of(new).administers
    assert new.typed("grant", "bob", "admitter") == "bob is an admitter now\n"
    other = people.machine("other")
    other.typed("recover", "--kit-file", str(page), "--no-admin", "--name", "other")
    other.start()
    other.until(lambda: mesh_of(other).linked == 2)
    bob.until(lambda: "other" in bob.linked())  # the first is called like this machine
    assert (mesh_of(other).role, mesh_of(other).administers) == ("admin", False)
    assert "may not: portal mesh administer" in other.typed("drop", "bob", code=1)
    assert other.end()[0] == 0
    (other.home / "mesh").rename(other.home / "gone")
    at = mesh_of(new).listens_at
    other.typed("recover", at, "--kit-file", str(page))  # with keys that the mesh knows
    other.start()
    other.until(lambda: mesh_of(other).linked == 2)
    assert mesh_of(other).administers


def test_a_suspended_machine_comes_back_by_the_phrase_of_its_person(home, tmp_path):
    people, ann, bob = home
    page = printed_kit(bob, tmp_path)
    words = the_words(bob, tmp_path)
    assert "the machine you sit at" in bob.typed("suspend", "bob", code=2)
    other = people.machine("other")  # of Bob's
    assert other.done("recover", "--kit-file", str(page)).returncode == 0
    other.start()
    other.until_linked("ann", "bob")
    assert other.typed("suspend", "bob") == "bob is suspended\n"
    ann.until(lambda: ann.peers()["bob"].standing == "suspended")
    assert "no terminal to ask for the recovery phrase" in ann.typed("unsuspend", "bob", code=2)
    assert ann.typed("unsuspend", "bob", "--kit-file", words) == "bob is back\n"
    ann.until(lambda: "bob" in ann.linked())
    assert "not suspended but active" in ann.typed("unsuspend", "bob", code=2)
    assert ann.typed("suspend", "bob") == "bob is suspended\n"  # by an admin: no phrase
    assert ann.typed("unsuspend", "bob") == "bob is back\n"


def test_who_leaves_keeps_its_home_and_may_join_another_mesh(home, tmp_path):
    people, ann, bob = home
    words = the_words(bob, tmp_path)
    assert "no terminal to ask for the recovery phrase" in bob.typed("leave", "--yes", code=2)
    told = bob.typed("leave", "--yes", "--kit-file", words)
    assert told.startswith("This machine has left the mesh home. Its files are in ")
    (aside,) = bob.home.glob("mesh.left-*")
    assert told.endswith(f"{aside}\n")
    assert (aside / "members").exists()
    ann.until(lambda: ann.peers()["bob"].standing == "departed")
    assert "in no mesh yet" in bob.typed("leave", "--yes", code=1)
    cyd = people("cyd")
    cyd.typed("mesh", "new", "elsewhere")
    assert "in the mesh elsewhere: 2 devices" in bob.typed("join", cyd.invite())
    bob.until_linked("cyd")
    assert bob.end()[0] == 0
    bob.start()
    bob.until_linked("cyd")


def test_a_second_admin_acts_once_its_machine_is_told_to(home, tmp_path):
    _, ann, bob = home
    words = the_words(bob, tmp_path)
    assert "no admin of this mesh" in bob.typed("mesh", "administer", code=2)
    assert ann.typed("grant", "bob", "admin") == "bob is an admin now\n"
    bob.until(lambda: mesh_of(bob).role == "admin")
    assert "may not: portal mesh administer" in bob.typed("drop", "ann", code=1)
    told = bob.typed("mesh", "administer", "--kit-file", words)
    assert told == "This machine administers the mesh home now.\n"
    assert bob.typed("mesh", "administer") == ""
    assert bob.typed("drop", "ann") == "ann is a plain member now\n"
    ann.until(lambda: mesh_of(ann).role == "member")
    assert bob.end()[0] == 0
    bob.start()
    assert mesh_of(bob).administers


def test_offers_are_in_force_at_once_and_after_a_restart(home):
    _, ann, _ = home
    assert ann.typed("offer", "1GiB") == "offered to others: 1.0 GiB\n"
    assert "offers     1.0 GiB" in ann.typed("mesh", "status")
    assert "this machine, offers 1.0 GiB" in ann.typed("peers")
    assert ann.control.reload().changed == []  # it was told
    assert ann.end()[0] == 0
    ann.start()
    assert mesh_of(ann).offer_bytes == 1 << 30
