"""Who is meant, what the phrase has to sign, and what comes of it; the rules are the mesh's own."""

from dataclasses import replace

import pytest

from core.device_cert import Role
from core.errors import IntegrityError, KeystoreError, PortalError, UsageError
from core.ids import UserId
from core.labels import SignLabel
from mesh.members.authoring import Author, NotAllowed
from mesh.members.bodies import (
    Drop,
    Grant,
    Kind,
    Reason,
    RevokeUser,
    SuspendDevice,
    UserRole,
)
from mesh.members.drafts import Draft, Paper
from mesh.members.state import Standing
from node import mesh_acts
from node.mesh_acts import Act, NeedsOthers
from tests.support.memberships import (
    NOW_MS,
    another_device,
    found,
    person,
    recover_of,
    seeded_key,
    terms,
)

PLAIN = Role.laptop()
FAY = person("fay")
ANN = person("ann", PLAIN, devices=2)
BOB, CYD = person("bob", PLAIN), person("cyd")


@pytest.fixture
def mesh():
    """Of Fay, an admin; Ann with two devices, and Bob."""
    mesh = found(FAY)
    mesh.bring(ANN)
    mesh.author.add_device(recover_of(mesh.membership, ANN, ANN.devices[1]), NOW_MS)
    mesh.bring(BOB)
    return mesh


def of(mesh, device):
    return mesh.membership.member(device.node)


def pen(mesh, device):
    """To write in the same membership as another device."""
    return Author(mesh.membership, device.key)


def suspended(mesh, by, device):
    mesh_acts.suspend(pen(mesh, by), of(mesh, device), NOW_MS)
    assert of(mesh, device).standing == Standing.SUSPENDED


def signed(mesh, by, act, device, key=None):
    words = mesh_acts.words(pen(mesh, by), act, of(mesh, device))
    return words, (words.signed(key) if key else ())


def unsuspend(mesh, by, device, key=None):
    words, signatures = signed(mesh, by, Act.UNSUSPEND, device, key)
    return list(mesh_acts.unsuspend(pen(mesh, by), words, signatures, NOW_MS))


FIRST, SECOND = ANN.devices
BOBS, FAYS = BOB.devices[0], FAY.devices[0]


# --- who is meant ---------------------------------------------------------------------------------


def test_a_namesake_that_is_out_is_not_meant_but_where_it_alone_fits(mesh):
    twin = another_device(BOB, "bob")
    mesh.author.add_device(recover_of(mesh.membership, BOB, twin), NOW_MS)
    with pytest.raises(UsageError, match=r"'bob' may be bob .*, bob "):
        mesh_acts.find_device(mesh.membership, "bob")
    mesh.author.revoke_device(BOB.key, BOBS.node, NOW_MS)
    assert mesh_acts.find_device(mesh.membership, "Bob ").node == twin.node
    mesh.author.revoke_device(BOB.key, twin.node, NOW_MS)
    with pytest.raises(UsageError, match=r"'bob' may be"):  # none fits: then all are named
        mesh_acts.find_device(mesh.membership, "bob")


def test_who_fits_depends_on_what_shall_be_done(mesh):
    twin = another_device(BOB, "bob")
    mesh.author.add_device(recover_of(mesh.membership, BOB, twin), NOW_MS)
    suspended(mesh, FAYS, BOBS)
    find = mesh_acts.find_device
    assert find(mesh.membership, "bob", mesh_acts.is_suspended).node == BOBS.node
    assert mesh_acts.find_person(mesh.membership, "bob").user == BOB.user
    with pytest.raises(UsageError, match="may be"):
        find(mesh.membership, "bob")
    assert not mesh_acts.waits(of(mesh, twin))


def test_a_person_of_several_devices_is_found_by_their_own_id(mesh):
    text = ANN.user.text()
    assert mesh_acts.find_person(mesh.membership, text[:15]).user == ANN.user
    with pytest.raises(UsageError, match=r"may be ann .*, ann "):
        mesh_acts.find_device(mesh.membership, text[:15])
    for nobody in ("eve", "", "pn", FAY.node.text()[:2]):
        with pytest.raises(UsageError, match="nobody here is called"):
            mesh_acts.find_person(mesh.membership, nobody)


# --- putting out ----------------------------------------------------------------------------------


def test_a_device_of_ones_own_goes_by_the_signature_of_the_phrase(mesh):
    words, signatures = signed(mesh, FIRST, Act.REVOKE, SECOND, ANN.key)
    author = pen(mesh, FIRST)
    assert mesh_acts.needs_phrase(author, words)
    assert words.count() == len(signatures) == 1
    mesh_acts.revoke(author, of(mesh, SECOND), signatures, NOW_MS)
    assert of(mesh, SECOND).standing == Standing.REVOKED
    assert of(mesh, FIRST).is_active


def test_a_signature_is_good_for_one_device_and_one_act(mesh):
    author = pen(mesh, FIRST)
    for act, device, key in (
        (Act.REVOKE, FIRST, ANN.key),  # another device
        (Act.REVOKE, SECOND, SECOND.key),  # another key
    ):
        words = mesh_acts.words(author, act, of(mesh, device))
        words = replace(words, user=UserId(key.public))
        signature = words.signed(key)
        with pytest.raises(IntegrityError):
            mesh_acts.revoke(author, of(mesh, SECOND), signature, NOW_MS)
    assert of(mesh, SECOND).is_active


def test_a_person_goes_by_the_word_of_an_admin(mesh):
    words, _ = signed(mesh, FAYS, Act.REVOKE, BOBS)
    assert not mesh_acts.needs_phrase(pen(mesh, FAYS), words)
    with pytest.raises(NotAllowed):
        mesh_acts.revoke(pen(mesh, FIRST), of(mesh, BOBS), (), NOW_MS)
    mesh_acts.revoke(pen(mesh, FAYS), of(mesh, FIRST), (), NOW_MS)
    assert {of(mesh, one).standing for one in (FIRST, SECOND)} == {Standing.DEPARTED}


# --- stopping, and letting back -------------------------------------------------------------------


def test_what_its_owner_has_stopped_takes_the_phrase(mesh):
    suspended(mesh, FIRST, SECOND)
    words, _ = signed(mesh, BOBS, Act.UNSUSPEND, SECOND)
    assert mesh_acts.needs_phrase(pen(mesh, FAYS), words)
    assert words.count() == len(words.lifts) == 1
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        unsuspend(mesh, FAYS, SECOND)
    assert of(mesh, SECOND).standing == Standing.SUSPENDED
    unsuspend(mesh, BOBS, SECOND, ANN.key)  # whoever carries it
    assert of(mesh, SECOND).is_active


def test_what_an_admin_has_stopped_takes_an_admin(mesh):
    suspended(mesh, FAYS, BOBS)
    words, _ = signed(mesh, FAYS, Act.UNSUSPEND, BOBS)
    assert not mesh_acts.needs_phrase(pen(mesh, FAYS), words)
    with pytest.raises(NotAllowed):
        unsuspend(mesh, FIRST, BOBS)
    unsuspend(mesh, FAYS, BOBS)
    assert of(mesh, BOBS).is_active


def test_whoever_has_carried_it_what_the_phrase_has_stopped_takes_the_phrase(mesh):
    said = SuspendDevice(ANN.user, SECOND.node).words(mesh.membership.mesh_id)
    signature = ANN.key.sign(SignLabel.MEMBER_DEVICE, said)
    body = SuspendDevice(ANN.user, SECOND.node, b"", signature)
    pen(mesh, BOBS).write(Kind.SUSPEND_DEVICE, body, NOW_MS)
    words, _ = signed(mesh, FAYS, Act.UNSUSPEND, SECOND)
    assert mesh_acts.needs_phrase(pen(mesh, FAYS), words)
    unsuspend(mesh, FAYS, SECOND, ANN.key)
    assert of(mesh, SECOND).is_active


def test_what_both_have_stopped_takes_both(mesh):
    suspended(mesh, FAYS, SECOND)
    mesh_acts.suspend(pen(mesh, FIRST), of(mesh, SECOND), NOW_MS)
    done = unsuspend(mesh, FAYS, SECOND, ANN.key)
    assert [len(changes.added) for changes in done] == [1, 1]
    assert of(mesh, SECOND).is_active


def test_what_is_lifted_once_may_be_stopped_again(mesh):
    for _ in range(2):
        suspended(mesh, FIRST, SECOND)
        unsuspend(mesh, FIRST, SECOND, ANN.key)
        assert of(mesh, SECOND).is_active
    assert mesh_acts.suspensions(mesh.membership, of(mesh, SECOND)) == []


def test_suspensions_that_do_not_count_need_no_lifting(mesh):
    suspended(mesh, FIRST, SECOND)
    data = pen(mesh, BOBS).next(7, SuspendDevice(ANN.user, SECOND.node), NOW_MS)
    mesh.membership.receive_untrusted([data])  # Bob may not
    assert len(mesh_acts.suspensions(mesh.membership, of(mesh, SECOND))) == 1


def test_who_is_not_suspended_is_not_let_back(mesh):
    with pytest.raises(UsageError, match="not suspended but active"):
        unsuspend(mesh, FAYS, BOBS)


def test_who_has_contradicted_itself_is_not_let_back(mesh):
    author = pen(mesh, BOBS)
    twice = [author.next(99, SuspendDevice(BOB.user, BOBS.node), n) for n in (1, 2)]
    mesh.membership.receive_untrusted(twice)
    assert of(mesh, BOBS).standing == Standing.SUSPENDED
    with pytest.raises(PortalError, match="contradicted itself"):
        unsuspend(mesh, FAYS, BOBS)


# --- leaving --------------------------------------------------------------------------------------


def test_who_leaves_signs_with_the_phrase(mesh):
    author = pen(mesh, BOBS)
    words, signatures = signed(mesh, BOBS, Act.LEAVE, BOBS, BOB.key)
    assert mesh_acts.needs_phrase(author, words)
    with pytest.raises(NotAllowed):
        mesh_acts.leave(author, words, (), NOW_MS)
    voucher = seeded_key("voucher")
    mesh.author.invite(voucher, terms(voucher), NOW_MS)  # the mesh goes on meanwhile
    mesh_acts.leave(author, words, signatures, NOW_MS)
    assert of(mesh, BOBS).standing == Standing.DEPARTED
    assert not mesh_acts.needs_phrase(author, words)  # it is out


def test_an_admin_device_may_say_so_itself(mesh):
    author = pen(mesh, FAYS)
    words, _ = signed(mesh, FAYS, Act.LEAVE, FAYS)
    assert not mesh_acts.needs_phrase(author, words)
    mesh_acts.leave(author, words, (), NOW_MS)
    assert of(mesh, FAYS).standing == Standing.DEPARTED


def test_a_node_that_does_not_know_itself_yet_is_told_that_it_may_not(mesh):
    stranger = Author(mesh.membership, person("stranger").device)
    for act in (Act.REVOKE, Act.LEAVE, Act.UNSUSPEND):
        assert not mesh_acts.needs_phrase(stranger, mesh_acts.words(stranger, act, of(mesh, BOBS)))
    paper = mesh.author.propose(Kind.DROP, Drop(ANN.user, UserRole.ADMIN))
    draft = Draft(Paper.written(FAYS.key, FAY.user, paper, 1))
    for signature in (b"", bytes(64)):
        with pytest.raises(NotAllowed, match="not an active device"):
            mesh_acts.cosigned(stranger, draft, None, signature)


def test_a_departure_that_was_signed_elsewhere_is_none(mesh):
    author = pen(mesh, BOBS)
    words, signatures = signed(mesh, BOBS, Act.LEAVE, BOBS, BOB.key)
    for parents in ((bytes(32),), ()):
        other = replace(words, parents=parents)
        with pytest.raises(UsageError, match="another state"):
            mesh_acts.leave(author, other, signatures, NOW_MS)
    with pytest.raises(IntegrityError):
        mesh_acts.leave(author, words, (bytes(64),), NOW_MS)
    assert of(mesh, BOBS).is_active


# --- roles ----------------------------------------------------------------------------------------


def test_roles_are_given_and_taken_by_an_admin(mesh):
    author = pen(mesh, FAYS)
    mesh_acts.grant(author, of(mesh, BOBS), UserRole.ADMITTER, NOW_MS)
    assert of(mesh, BOBS).user_role == UserRole.ADMITTER
    with pytest.raises(UsageError, match="bob is an admitter already"):
        mesh_acts.grant(author, of(mesh, BOBS), UserRole.ADMITTER, NOW_MS)
    mesh_acts.grant(author, of(mesh, BOBS), UserRole.ADMIN, NOW_MS)
    with pytest.raises(UsageError, match="bob is an admin already"):
        mesh_acts.grant(author, of(mesh, BOBS), UserRole.ADMITTER, NOW_MS)
    mesh_acts.drop(author, of(mesh, BOBS), NOW_MS)
    assert of(mesh, BOBS).user_role == UserRole.MEMBER
    with pytest.raises(UsageError, match="no role to lose"):
        mesh_acts.drop(author, of(mesh, BOBS), NOW_MS)
    with pytest.raises(NotAllowed, match="no admin has signed"):
        mesh_acts.grant(pen(mesh, FIRST), of(mesh, BOBS), UserRole.ADMIN, NOW_MS)


def test_where_it_takes_several_admins_that_is_said(mesh):
    mesh.bring(CYD)
    author = pen(mesh, FAYS)
    for device in (BOBS, CYD.devices[0]):
        mesh_acts.grant(author, of(mesh, device), UserRole.ADMIN, NOW_MS)
    size = len(mesh.membership.set)
    asked = []
    for act in (
        lambda: mesh_acts.grant(author, of(mesh, FIRST), UserRole.ADMIN, NOW_MS),
        lambda: mesh_acts.drop(author, of(mesh, BOBS), NOW_MS),
        lambda: mesh_acts.revoke(author, of(mesh, BOBS), (), NOW_MS),
        lambda: mesh_acts.suspend(author, of(mesh, BOBS), NOW_MS),
    ):
        with pytest.raises(NeedsOthers, match="of 3 admins 2 must sign this together") as raised:
            act()
        asked.append((raised.value.kind, raised.value.body))
    assert asked == [
        (Kind.GRANT, Grant(ANN.user, UserRole.ADMIN)),
        (Kind.DROP, Drop(BOB.user, UserRole.ADMITTER)),
        (Kind.REVOKE_USER, RevokeUser(BOB.user, Reason.COMPROMISED)),
        (Kind.SUSPEND_DEVICE, SuspendDevice(BOB.user, BOBS.node)),
    ]
    with pytest.raises(NotAllowed, match="no admin has signed"):
        mesh_acts.drop(pen(mesh, FIRST), of(mesh, BOBS), NOW_MS)
    assert len(mesh.membership.set) == size


def test_a_draft_is_signed_by_the_device_or_the_phrase_of_our_person(mesh):
    mesh.bring(CYD)
    for device in (BOBS, CYD.devices[0]):
        mesh_acts.grant(pen(mesh, FAYS), of(mesh, device), UserRole.ADMIN, NOW_MS)
    proposal = pen(mesh, FAYS).propose(Kind.DROP, Drop(CYD.user, UserRole.ADMIN))
    draft = Draft(Paper.written(FAYS.key, FAY.user, proposal, NOW_MS // 1_000))
    sign = mesh_acts.cosigned
    assert sign(pen(mesh, FAYS), draft, None, b"").node == FAYS.node
    assert sign(pen(mesh, FAYS), draft, FAY.key, b"").node == FAYS.node  # no phrase is needed
    with pytest.raises(KeystoreError, match="recovery phrase"):
        sign(pen(mesh, BOBS), draft, None, b"")
    kept = sign(pen(mesh, BOBS), draft, BOB.key, b"")
    assert (kept.user, kept.node) == (BOB.user, None)
    assert sign(pen(mesh, BOBS), draft, None, kept.signature) == kept
    for key in (CYD.key, BOBS.key):
        other = proposal.cosigned(key, CYD.user).signature
        with pytest.raises(IntegrityError):
            sign(pen(mesh, BOBS), draft, None, other)


def test_reasons_are_said_in_the_log(mesh):
    mesh_acts.revoke(pen(mesh, FAYS), of(mesh, BOBS), (), NOW_MS)
    assert mesh.membership.set.ops[-1].body.reason == Reason.COMPROMISED


def test_who_is_out_is_not_acted_on_any_more(mesh):
    author = pen(mesh, FAYS)
    mesh_acts.revoke(author, of(mesh, BOBS), (), NOW_MS)
    bob = of(mesh, BOBS)
    for act in (
        lambda: mesh_acts.suspend(author, bob, NOW_MS),
        lambda: mesh_acts.revoke(author, bob, (), NOW_MS),
        lambda: mesh_acts.grant(author, bob, UserRole.ADMIN, NOW_MS),
    ):
        with pytest.raises(UsageError, match="bob is out already"):
            act()


def test_the_machine_one_sits_at_is_not_suspended(mesh):
    with pytest.raises(UsageError, match="the machine you sit at"):
        mesh_acts.suspend(pen(mesh, FIRST), of(mesh, FIRST), NOW_MS)
    assert of(mesh, FIRST).is_active


def test_the_only_admin_stays_one(mesh):
    author = pen(mesh, FAYS)
    with pytest.raises(UsageError, match="the only admin"):
        mesh_acts.drop(author, of(mesh, FAYS), NOW_MS)
    mesh_acts.grant(author, of(mesh, BOBS), UserRole.ADMIN, NOW_MS)
    mesh_acts.drop(author, of(mesh, FAYS), NOW_MS)
    assert of(mesh, FAYS).user_role == UserRole.MEMBER


def test_who_left_is_departed_and_who_was_put_out_is_revoked(mesh):
    mesh_acts.revoke(pen(mesh, FAYS), of(mesh, FIRST), (), NOW_MS)
    assert of(mesh, FIRST).standing == Standing.DEPARTED  # the rules make no difference
    words = mesh_acts.standings(mesh.membership)
    assert {words[device.node] for device in (FIRST, SECOND)} == {"revoked"}
    assert words[FAY.node] == "active"


def test_who_left_and_came_back_and_was_put_out_is_revoked():
    mesh = found(FAY)
    mesh.bring(BOB)
    guest = mesh.of(BOB)
    asked = mesh_acts.words(guest.author, Act.LEAVE, of(guest, BOB.devices[0]))
    mesh_acts.leave(guest.author, asked, asked.signed(BOB.key), NOW_MS)
    guest.tell(mesh)
    assert mesh_acts.standings(mesh.membership)[BOB.node] == "departed"
    mesh.bring(BOB)
    assert mesh_acts.standings(mesh.membership)[BOB.node] == "active"
    mesh.author.revoke_user(BOB.user, Reason.REMOVED, NOW_MS)
    assert mesh_acts.standings(mesh.membership)[BOB.node] == "revoked"


def test_who_left_by_the_phrase_is_departed(mesh):
    key, asked = ANN.key, mesh_acts.words(pen(mesh, FIRST), Act.LEAVE, of(mesh, FIRST))
    mesh_acts.leave(pen(mesh, FIRST), asked, asked.signed(key), NOW_MS)
    assert mesh_acts.standings(mesh.membership)[FIRST.node] == "departed"
