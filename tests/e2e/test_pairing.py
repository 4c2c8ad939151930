"""Nodes as people run them: one invites, others come in, are put out, are killed and come back."""

import os
import signal

import msgspec
import pytest

from core.ids import MeshId, UserId
from mesh.invite import Invitation
from mesh.wire import Address
from node import api, identity
from tests.support.daemon import PATIENCE_S
from tests.support.home import Terminal
from tests.support.people import brought, village

pytestmark = pytest.mark.slow


@pytest.fixture
def people(tmp_path):
    with village(tmp_path) as made:
        yield made


@pytest.fixture
def home(people):
    """Ann's mesh, with Bob in it."""
    ann, bob = people("ann"), people("bob")
    ann.typed("mesh", "new", "home")
    brought(ann, bob)
    return people, ann, bob


def test_a_newcomer_joins_and_both_see_the_link(people):
    ann, bob = people("ann"), people("bob")
    assert ann.typed("mesh", "new", "home").startswith("The mesh home has begun.")
    code = ann.invite("--label", "for Bob", "--quota", "100GB")
    people.secrets.append(code)
    assert code.startswith("pnj1-")
    assert bob.typed("join", code) == "This machine is in the mesh home: 2 devices.\n"
    for one, other in ((ann, bob), (bob, ann)):
        one.until_linked(other.name)
        lines = {line.split()[0]: line for line in one.typed("peers").splitlines()}
        assert set(lines) == {"ann", "bob"}
        assert lines[one.name].endswith("this machine")
        assert "linked, 127.0.0.1:" in lines[other.name]
        assert "home, 2 devices, 1 linked" in one.typed("mesh", "status")
        assert one.typed("whoami") == f"user  {one.user}\nnode  {one.node}\n"
    assert "spent" in ann.typed("invites")
    assert "bob  (for Bob)" in ann.typed("invites")


def test_the_second_lets_in_who_the_first_has_invited_and_the_first_learns_of_it(home):
    people, ann, bob = home
    ann.until_linked("bob")
    code = ann.invite()
    people.secrets.append(code)
    voucher = Invitation.parse_untrusted(code).voucher().public.hex()
    bob.until(lambda: voucher in bob.typed("invites", "--json"))
    assert ann.end()[0] == 0
    cyd = people("cyd")
    assert "in the mesh home: 3 devices" in cyd.typed("join", code)
    bob.until_linked("cyd")
    ann.start()
    ann.until_linked("bob", "cyd")
    cyd.until_linked("ann", "bob")


def test_who_is_put_out_is_out_everywhere(home):
    people, ann, bob = home
    cyd = people("cyd")
    brought(ann, cyd)
    for one, others in ((ann, ("bob", "cyd")), (bob, ("ann", "cyd")), (cyd, ("ann", "bob"))):
        one.until_linked(*others)
    assert ann.typed("revoke", "cyd", "--yes") == "cyd is out\n"
    for one, other in ((ann, "bob"), (bob, "ann")):
        one.until_linked(other)
        assert one.peers()["cyd"].standing == "revoked"
        assert "revoked" in one.typed("peers").splitlines()[[*one.peers()].index("cyd")]
    cyd.until_linked()
    assert "spent" in ann.typed("invites")
    assert cyd.end()[0] == 0
    cyd.start()  # and dials on, in vain
    assert cyd.linked() == set()
    assert (ann.linked(), bob.linked()) == ({"bob"}, {"ann"})


def test_every_code_that_does_not_let_in_says_why(home):
    people, ann, _ = home
    cyd = people("cyd")
    used = ann.control.get(api.MESH, api.Mesh)
    at = used.listens_at.rpartition(":")
    mesh = MeshId.parse_untrusted(used.mesh)
    late = Invitation.new(mesh, 60, endpoints=(Address(at[0], int(at[2])),))
    back = ann.invite()
    voucher = Invitation.parse_untrusted(back).voucher().public.hex()
    assert ann.typed("invites", "--close", voucher[:8]) == f"taken back: {voucher[:8]}\n"
    assert "closed" in ann.typed("invites")
    spent = ann.invite()
    dan = people("dan")
    dan.typed("join", spent)
    mistyped = spent[:-1] + ("0" if spent[-1] != "0" else "1")
    strange = Invitation.new(mesh, late.expires_s + (1 << 31), endpoints=late.endpoints)
    codes = [
        ("hello", "this is not an invite: one begins with pnj1-"),
        ("pnj2-" + spent[5:], "newer Portal"),
        (mistyped, "mistyped or not complete"),
        (spent[: len(spent) // 2], "mistyped or not complete"),
        (late.text().reveal().decode(), "this invite has expired; ask for a new one"),
        (spent, "this invite was used already; every invite is good for one device"),
        (back, "this invite was taken back by whoever made it"),
        (strange.text().reveal().decode(), "closed without a word"),
    ]
    people.secrets += [code for code, _ in codes[2:]]
    for code, sentence in codes:
        told = cyd.typed("join", code, code=13 if "newer" in sentence else 1)
        assert sentence in told, told
        assert code not in told
    assert "there is no invite on stdin" in cyd.typed("join", code=2)
    assert not (cyd.home / "mesh").exists()
    assert "in the mesh 'home' already" in dan.typed("join", ann.invite(), code=1)
    assert "in the mesh 'home' already" in dan.typed("mesh", "new", "mine", code=1)
    assert "portal mesh new NAME, or portal join" in cyd.typed("peers", code=1)


def test_without_a_running_node_each_command_says_how_to_start_it(people):
    ann = people("ann")
    assert ann.end()[0] == 0
    for argv in (
        *(("mesh", "new", "home"), ("mesh", "status"), ("invite",), ("invites",), ("peers",)),
        *(("join", "pnj1-1"), ("approve", "bob"), ("revoke", "bob", "--yes"), ("suspend", "b")),
    ):
        assert "(portal-node run)" in ann.typed(*argv, code=15)
    assert ann.user in ann.typed("whoami")


def test_a_killed_node_is_linked_again_and_a_torn_list_of_members_heals(home):
    people, ann, bob = home
    ann.until_linked("bob")
    members = bob.home / "mesh" / "members"
    assert bob.end(signal.SIGKILL)[0] == -signal.SIGKILL
    bob.start()
    bob.until_linked("ann")
    ann.until_linked("bob")
    whole = members.read_bytes()
    bob.end(signal.SIGKILL)
    os.truncate(members, len(whole) - 1)  # of the admission of Bob himself
    bob.start()
    bob.until_linked("ann")
    bob.until(lambda: members.read_bytes() == whole)
    people.secrets.append(brought(ann, people("cyd")))
    bob.until_linked("ann", "cyd")


def test_both_compare_the_same_four_words_before_one_says_yes(people):
    ann, bob = people("ann"), people("bob")
    ann.typed("mesh", "new", "home")
    code = ann.invite("--approve")
    people.secrets.append(code)
    happened = bob.control.events()
    assert next(happened).kind == "stream.opened"
    joining = bob.typing("join", code)
    with joining:
        waits = next(event for event in happened if event.kind == "join.waits")
        words = msgspec.json.decode(waits.data, type=api.JoinWaits).words
        assert len(words.split()) == 4
        told = next(line for line in joining.stderr if "compare by voice" in line)
        assert words in told
        assert f"compare by voice: {words}   then: portal approve bob" in ann.typed("peers")
        assert ann.peers()["bob"].standing == "pending"
        assert ann.typed("approve", "bob") == "bob is let in\n"
        out, _ = joining.communicate(timeout=PATIENCE_S)
    assert (joining.returncode, out) == (0, "This machine is in the mesh home: 2 devices.\n")
    ann.until_linked("bob")


def test_who_has_the_phrase_on_paper_only_is_asked_for_it(people):
    ann = people("ann")
    mine = identity.open(ann.home)
    kit = mine.recovery_kit().text().reveal().decode()
    mine.forget_phrase()
    told = ann.typed("mesh", "new", "home", code=2)
    assert "no terminal to ask for the recovery phrase" in told
    screen = Terminal("node.cli.portal.portal", ann.home, "mesh", "new", "home")
    screen.answer("word 1:", kit)
    assert screen.close() == 0
    assert "The mesh home has begun." in screen.screen
    assert not identity.open(ann.home).has_phrase
    assert ann.control.get(api.MESH, api.Mesh).role == "admin"
    assert UserId.parse_untrusted(ann.user) == mine.user
