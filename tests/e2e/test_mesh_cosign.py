"""What takes several admins: begun on one machine, signed on others, with real nodes, as typed."""

from pathlib import Path

import pytest

from core.phrase import to_words
from node import api, identity
from node.asked import named
from tests.support.people import brought, village

pytestmark = pytest.mark.slow


@pytest.fixture
def people(tmp_path):
    with village(tmp_path) as made:
        yield made


@pytest.fixture
def admins(people):
    """Ann, Bob and Cyd, who are all admins, and may act as such from their machines."""
    ann, bob, cyd = people("ann"), people("bob"), people("cyd")
    ann.typed("mesh", "new", "home")
    for who in (bob, cyd):
        brought(ann, who)
    ann.until_linked("bob", "cyd")
    for who in (bob, cyd):
        assert ann.typed("grant", who.name, "admin") == f"{who.name} is an admin now\n"
        who.until(lambda who=who: mesh_of(who).role == "admin")
        who.typed("mesh", "administer")
    for one in (ann, bob, cyd):
        one.until(lambda one=one: all(peer.role == "admin" for peer in one.peers().values()))
    bob.until_linked("ann", "cyd")
    cyd.until_linked("ann", "bob")
    return ann, bob, cyd


def mesh_of(who):
    return who.control.get(api.MESH, api.Mesh)


def drafts_of(who):
    return who.control.get(api.DRAFTS, api.Drafts).drafts


def put_out(who):
    found = who.peers()[who.name]
    return f"put the person {named(found.user, who.name)} out for good (reason: compromised)"


def until_asked(who, count=1):
    who.until(lambda: len(drafts_of(who)) == count)
    return drafts_of(who)[0].draft[:8] if count else None


def the_words(who, tmp_path):
    """On paper only, from now on."""
    mine = identity.open(who.home)
    paper = tmp_path / f"{who.name}'s words"
    paper.write_bytes(to_words(mine.recovery_kit().entropy).reveal())
    mine.forget_phrase()
    return str(paper)


def test_two_admins_put_out_a_third_who_hears_of_it_when_it_is_done(admins):
    ann, bob, cyd = admins
    begun = ann.done("revoke", "cyd", "--yes")
    assert begun.returncode == 0
    assert begun.stdout.startswith(f"2 admins must sign this, 1 of them did: {put_out(cyd)}")
    assert "portal cosign " in begun.stderr
    draft = until_asked(bob)
    assert "to sign    1 of other admins: portal drafts" in bob.typed("mesh", "status")
    shown = bob.typed("drafts")
    assert f"{draft}  {put_out(cyd)}" in shown
    assert f"begun on {named(ann.peers()['ann'].node, 'ann')}, " in shown
    assert f"1 of 2 signed ({named(ann.peers()['ann'].user, 'ann')}); to sign: portal" in shown
    assert shown.endswith(f"cosign {draft}\n")
    assert "to sign:" not in ann.typed("drafts")
    assert drafts_of(cyd) == []
    assert cyd.peers()["cyd"].standing == "active"
    assert f"no terminal to ask whether to {put_out(cyd)}" in bob.typed("cosign", draft, code=2)
    assert "--yes" in bob.typed("cosign", draft, code=2)
    assert "not one draft of this name" in bob.typed("cosign", "ffffffff", "--yes", code=2)
    assert ann.typed("cosign", draft, "--yes") == ""  # it has
    ann.typed("invite")  # the mesh goes on meanwhile
    done = bob.typed("cosign", draft, "--yes")
    assert done == f"done: {put_out(cyd)}\n"
    for one in (ann, bob):
        one.until(lambda one=one: one.peers()["cyd"].standing == "revoked")
        assert one.linked() == {"ann", "bob"} - {one.name}
    ann.until(lambda: drafts_of(ann) == [])
    assert drafts_of(bob) == []


def test_a_draft_outlives_its_nodes_and_can_be_taken_back(admins):
    ann, bob, cyd = admins
    assert bob.end()[0] == 0  # is not there
    ann.typed("grant", "ann", "admitter", code=2)
    ann.typed("drop", "cyd")
    draft = drafts_of(ann)[0].draft[:8]
    assert ann.end()[0] == 0
    ann.start()
    assert [one.draft[:8] for one in drafts_of(ann)] == [draft]
    bob.start()
    assert until_asked(bob) == draft
    assert "only the machine that began it" in bob.typed("drafts", "--withdraw", draft, code=1)
    assert ann.typed("drafts", "--withdraw", draft) == f"taken back: {draft}\n"
    bob.until(lambda: drafts_of(bob) == [])
    assert "not one draft of this name" in bob.typed("cosign", draft, "--yes", code=2)
    assert bob.end()[0] == 0
    bob.start()
    bob.until_linked("ann", "cyd")
    assert drafts_of(bob) == []
    assert {one.role for one in cyd.peers().values()} == {"admin"}


def test_an_admin_without_the_right_machine_signs_with_the_phrase(admins, people, tmp_path):
    ann, bob, cyd = admins
    page = tmp_path / "bob's kit.txt"
    bob.typed("recovery-kit", "-o", str(page))
    other = people.machine("other")  # of Bob's
    words = the_words(bob, tmp_path)
    other.typed("recover", "--kit-file", str(page), "--no-admin", "--name", "other")
    other.start()
    other.until_linked("ann", "bob", "cyd")
    ann.typed("suspend", "cyd")
    draft = until_asked(other)
    assert "takes your recovery phrase" in other.done("cosign", draft, "--yes").stderr
    assert ann.peers()["cyd"].standing == "active"
    wrong = the_words(cyd, tmp_path)
    assert "is not yours" in other.typed("cosign", draft, "--yes", "--kit-file", wrong, code=12)
    done = other.typed("cosign", draft, "--yes", "--kit-file", words)
    assert done.startswith("done: stop the device ")
    ann.until(lambda: ann.peers()["cyd"].standing == "suspended")
    assert Path(words).exists()
    # It takes the same two to let it back; who types the same looks at what was begun.
    assert "1 of them did: let the device " in ann.typed("unsuspend", "cyd")
    draft = until_asked(bob)
    begun = bob.typed("unsuspend", "cyd", code=1)
    assert (
        f"'ann' has begun this already, and nothing was signed here (portal cosign {draft})"
        in begun
    )
    assert len(drafts_of(bob)[0].signed_by) == 1
    assert bob.typed("cosign", draft, "--yes").startswith("done: let the device ")
    ann.until(lambda: ann.peers()["cyd"].standing == "active")
