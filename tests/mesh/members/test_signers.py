from dataclasses import replace

import pytest

from core.device_cert import Role
from mesh.members.authoring import NotAllowed
from mesh.members.bodies import (
    Context,
    Drop,
    Grant,
    Kind,
    Numbered,
    Policy,
    RevokeUser,
    SuspendDevice,
    UserRole,
)
from mesh.members.bodies import Reason as Why
from mesh.members.rules import Void
from mesh.members.signers import quorum
from mesh.members.state import Concern, Standing
from tests.support.memberships import (
    NOW_MS,
    a_mesh,
    concerns,
    found,
    person,
    revoke,
    seeded_key,
    standing,
    terms,
    why,
)

F, A, B, C, D = map(person, "FABCD")
LAPTOP = person("laptop", Role.laptop())


def signers_of(replica):
    return replica.membership._evaluation.rules.signers


def last(replica):
    return len(replica.membership.set) - 1


def test_a_majority_of_more_than_two():
    assert quorum(1) == quorum(2) == 1
    for admins in range(3, 50):
        assert 2 * quorum(admins) > admins  # two quorums share somebody
        assert quorum(admins) <= admins - 1  # and one is possible without the one it is about


def test_every_admin_counts_once_however_they_sign():
    mesh = a_mesh(F, A, B)
    rows = [(A, A.device), (A, A.key), (B, B.key), (C, C.key), (F, F.key)]
    mesh.cosigned(Kind.REVOKE_USER, RevokeUser(C.user, Why.REMOVED), rows)
    signers = signers_of(mesh)
    assert signers.admins(last(mesh)) == {F.user, A.user, B.user}
    assert signers.claimed(last(mesh)) == {F.user, A.user, B.user, C.user}
    assert signers.by_phrase(last(mesh), B.user)
    assert not signers.by_phrase(last(mesh), person("nobody").user)


def test_the_admins_that_count_are_those_that_could_be_known():
    mesh = a_mesh(F, A)
    mesh.bring(B)
    far = mesh.of(F)
    mesh.cosigned(Kind.GRANT, Grant(B.user, UserRole.ADMIN), [(A, A.device)])
    mesh.invite()
    assert signers_of(mesh).admin_count(last(mesh)) == 3
    far.force(99, Grant(B.user, UserRole.ADMIN))
    assert signers_of(far).admin_count(last(far)) == 2


def test_a_device_without_the_role_signs_for_nobody():
    mesh = a_mesh(F)
    mesh.bring(LAPTOP)
    mesh.author.grant(LAPTOP.user, UserRole.ADMIN, NOW_MS)
    mesh.cosigned(Kind.POLICY, mesh.membership.state.policy, [(LAPTOP, LAPTOP.device)])
    assert signers_of(mesh).admins(last(mesh)) == {F.user}


def test_a_signature_behind_a_cut_is_none():
    mesh = a_mesh(F, A, B)
    cut = mesh.membership.set.heads[0].id
    mesh.bring(C)
    op = mesh.cosigned(Kind.GRANT, Grant(C.user, UserRole.ADMIN), [(A, A.device)])
    assert mesh.is_admin(C)
    i = mesh.membership.set.index[op]
    rows = [(B, B.device), (C, C.device)]
    mesh.cosigned(Kind.REVOKE_USER, RevokeUser(A.user, Why.COMPROMISED, cut), rows)
    assert mesh.membership.why_void(op) is not None or mesh.is_admin(C)
    assert A.user not in signers_of(mesh).admins(i)


# --- roles and quorum -----------------------------------------------------------------------------


def test_quorum():
    assert [quorum(n) for n in range(1, 10)] == [1, 1, 2, 3, 3, 4, 4, 5, 5]


def test_an_everyday_device_of_an_admin_administers_only_with_the_role():
    mesh = found(LAPTOP)
    mesh.invite()
    with pytest.raises(NotAllowed) as caught:
        mesh.bring(A, role=UserRole.ADMITTER)
    assert caught.value.reason == Void.NO_ADMIN
    mesh.bring(A)
    proposal = mesh.author.propose(Kind.GRANT, Grant(A.user, UserRole.ADMIN))
    with pytest.raises(NotAllowed):
        mesh.author.publish(proposal, [], NOW_MS)
    by_phrase = proposal.cosigned(LAPTOP.key, LAPTOP.user)
    mesh.author.publish(proposal, [by_phrase], NOW_MS)
    assert mesh.is_admin(A)


def test_a_cosignature_of_an_everyday_device_is_none():
    mesh = a_mesh(F, A)
    mesh.bring(LAPTOP)
    mesh.author.grant(LAPTOP.user, UserRole.ADMIN, NOW_MS)
    assert mesh.membership.set.heads[0].kind == Kind.GRANT
    op = mesh.cosigned(*revoke(A), [(LAPTOP, LAPTOP.device)])
    assert why(mesh, op) == Void.NO_QUORUM
    op = mesh.cosigned(*revoke(A), [(LAPTOP, LAPTOP.key)])
    assert why(mesh, op) is None


@pytest.mark.parametrize(
    "body",
    [
        (Kind.GRANT, Grant(D.user, UserRole.ADMIN)),
        (Kind.DROP, Drop(A.user, UserRole.ADMIN)),
        revoke(A),
        (Kind.POLICY, Policy()),
        (Kind.COMMITTEE, Numbered(1, b"who")),
        (Kind.DEDUP_EPOCH, Numbered(1, b"what")),
    ],
)
def test_what_touches_admins_needs_the_quorum(body):
    mesh = a_mesh(F, A, B, C)  # four: three must sign
    mesh.bring(D)
    for by in ([], [B], [B, B, B], [B, D], [A, D]):
        one = mesh.of(F)
        op = one.cosigned(*body, [(p, p.device) for p in by]) if by else one.force(*body)
        assert why(one, op) == Void.NO_QUORUM, by
    op = mesh.cosigned(*body, [(B, B.device), (C, C.key)])
    assert why(mesh, op) is None


def test_whoever_an_operation_removes_does_not_sign_it():
    mesh = a_mesh(F, A, B, C)
    op = mesh.cosigned(*revoke(A), [(A, A.device), (B, B.device)])
    assert why(mesh, op) == Void.NO_QUORUM


def test_a_forged_cosignature_is_refused_at_the_door():
    mesh = a_mesh(F, A, B)
    proposal = mesh.author.propose(*revoke(A))
    forged = replace(proposal.cosigned(D.device, B.user), node=B.node)
    data = mesh.author.next(proposal.kind, proposal.body, NOW_MS, proposal, [forged])
    assert mesh.membership.receive_untrusted([data]).refused
    borrowed = proposal.cosigned(D.device, B.user)  # signed by a device that is not B's
    op = mesh.take(mesh.author.next(proposal.kind, proposal.body, NOW_MS, proposal, [borrowed]))
    assert why(mesh, op) == Void.NO_QUORUM


def test_a_cosignature_fits_one_proposal_only():
    mesh = a_mesh(F, A, B)
    first = mesh.author.propose(*revoke(A))
    cosign = first.cosigned(B.device, B.user)
    other = mesh.author.propose(*revoke(B))
    data = mesh.author.next(other.kind, other.body, NOW_MS, other, [cosign])
    assert mesh.membership.receive_untrusted([data]).refused


def test_a_proposal_kept_in_a_drawer_knows_only_what_it_knew():
    # Two sign that A becomes an admin; A is dropped again; then somebody publishes the paper.
    mesh = a_mesh(F, B, C)
    mesh.bring(A)
    paper = mesh.author.propose(Kind.GRANT, Grant(A.user, UserRole.ADMIN))
    cosigns = [paper.cosigned(B.device, B.user)]
    mesh.cosigned(Kind.GRANT, Grant(A.user, UserRole.ADMIN), [(B, B.device)])
    mesh.cosigned(Kind.DROP, Drop(A.user, UserRole.ADMIN), [(B, B.device), (C, C.device)])
    assert not mesh.is_admin(A)
    mesh.take(mesh.author.next(paper.kind, paper.body, NOW_MS, paper, cosigns))
    assert not mesh.is_admin(A)


def test_an_admitter_is_made_and_unmade_by_one_admin():
    mesh = a_mesh(F, A, B)
    mesh.bring(C)
    mesh.author.grant(C.user, UserRole.ADMITTER, NOW_MS)
    assert mesh.membership.can(C.node, UserRole.ADMITTER)
    mesh.author.drop(C.user, UserRole.ADMITTER, NOW_MS)
    assert not mesh.membership.can(C.node, UserRole.ADMITTER)
    mesh.author.grant(C.user, UserRole.ADMITTER, NOW_MS)
    assert mesh.membership.can(C.node, UserRole.ADMITTER)


def test_members_can_leave_by_phrase_and_admins_step_down():
    mesh = a_mesh(F, A)
    mesh.bring(LAPTOP)
    guest = mesh.of(LAPTOP)
    assert why(guest, guest.force(*revoke(LAPTOP))) == Void.NO_ADMIN  # a thief has no phrase
    assert why(guest, guest.cosigned(*revoke(LAPTOP), [(LAPTOP, LAPTOP.key)])) is None
    assert standing(guest, LAPTOP) == Standing.DEPARTED
    admin = mesh.of(A)
    admin.author.drop(A.user, UserRole.ADMIN, NOW_MS)
    assert admin.is_active(A)
    assert not admin.is_admin(A)


def test_somebody_removed_may_be_invited_again_and_begins_anew():
    mesh = found(F)
    mesh.bring(A, role=UserRole.ADMITTER)
    mesh.author.revoke_user(A.user, Why.REMOVED, NOW_MS)
    assert standing(mesh, A) == Standing.DEPARTED
    mesh.bring(A)
    assert mesh.is_active(A)
    assert not mesh.membership.can(A.node, UserRole.ADMITTER)


def test_epochs_count_up_by_one():
    mesh = found(F)
    mesh.author.next_epoch(bytes(32), NOW_MS)
    assert why(mesh, mesh.force(Kind.EPOCH, Numbered(2**32 - 1, b""))) == Void.NOT_NEXT
    assert mesh.author.next_epoch(b"x" * 32, NOW_MS).epoch == 2
    assert mesh.membership.state.epoch == Numbered(2, b"x" * 32)
    mesh.bring(A)
    guest = mesh.of(A)
    assert why(guest, guest.force(Kind.EPOCH, Numbered(3, b""))) == Void.NO_ADMIN


def test_void_epochs_do_not_stop_the_next():
    mesh = found(F)
    mesh.bring(A)
    guest = mesh.of(A)
    guest.force(Kind.EPOCH, Numbered(1, b""))
    guest.tell(mesh)
    mesh.author.next_epoch(bytes(32), NOW_MS)
    assert mesh.membership.state.epoch.number == 2


# --- cuts and equivocation ------------------------------------------------------------------------


def test_a_cut_voids_what_came_after_it():
    mesh = a_mesh(F, B)
    mesh.bring(A, role=UserRole.ADMITTER)
    theirs = mesh.of(A)
    cut = mesh.membership.set.heads[0].id
    voucher = theirs.invite()
    theirs.tell(mesh)
    mesh.author.revoke_user(A.user, Why.COMPROMISED, NOW_MS, cut)
    assert mesh.membership.invite(voucher.public) is None


def test_a_cut_keeps_admissions_others_have_built_on_and_lists_them():
    mesh = a_mesh(F, B)
    mesh.bring(A, role=UserRole.ADMITTER)
    cut = mesh.membership.set.heads[0].id
    theirs = mesh.of(A)
    kept = theirs.admit(C, theirs.invite())
    theirs.tell(mesh)
    mesh.invite()  # somebody else goes on from there
    theirs.tell(mesh)
    lost = theirs.admit(D, theirs.invite())
    theirs.tell(mesh)
    mesh.author.revoke_user(A.user, Why.COMPROMISED, NOW_MS, cut)
    assert mesh.is_active(C)
    assert why(mesh, kept) is None
    assert why(mesh, lost) == Void.AUTHOR
    assert mesh.membership.member(D.node) is None
    reviews = mesh.membership.reviews()
    assert [r.operations for r in reviews if r.concern == Concern.KEPT_ADMISSION] == [(kept,)]


def test_those_who_came_behind_the_cut_do_not_vouch_for_each_other():
    mesh = a_mesh(F, B)
    mesh.bring(A, role=UserRole.ADMITTER)
    cut = mesh.membership.set.heads[0].id
    theirs = mesh.of(A)
    theirs.admit(C, theirs.invite())
    voucher = theirs.invite()
    puppet = theirs.of(C)
    theirs.admit(D, voucher)
    theirs.tell(puppet)
    puppet.force(Kind.SUSPEND_DEVICE, SuspendDevice(C.user, C.node))
    puppet.meet(mesh)
    mesh.author.revoke_user(A.user, Why.COMPROMISED, NOW_MS, cut)
    assert mesh.membership.member(C.node) is None
    assert mesh.membership.member(D.node) is None


def test_one_admin_cannot_cut_off_what_somebody_did_as_an_admin():
    # F founded everything, then stepped down. A alone must not undo the appointments of F.
    mesh = a_mesh(F, A, B, C)
    mesh.author.drop(F.user, UserRole.ADMIN, NOW_MS)
    genesis = mesh.membership.set.ops[0].id
    one = mesh.of(A)
    assert why(one, one.force(*revoke(F, genesis))) == Void.NO_QUORUM
    assert one.is_admin(C)
    assert why(one, one.force(*revoke(F))) is None
    assert one.is_admin(C)


def test_nobody_cuts_off_their_own_past():
    mesh = a_mesh(F, A, B)
    genesis = mesh.membership.set.ops[0].id
    op = mesh.cosigned(*revoke(F, genesis), [(F, F.key)])
    assert why(mesh, op) == Void.NO_QUORUM


def test_a_cut_names_something_known():
    mesh = a_mesh(F, B)
    mesh.bring(A)
    assert why(mesh, mesh.force(*revoke(A, bytes(32)))) == Void.NO_REFERENCE


def fork(mesh, who, kind, body, other):
    """The same number twice; the ids of both."""
    here, there = mesh.of(who), mesh.of(who)
    one, two = here.force(kind, body), there.force(kind, other)
    here.tell(mesh)
    return one, two, there


def test_two_operations_with_one_number_suspend_their_author_for_everyone():
    mesh = a_mesh(F, B)
    mesh.bring(A, role=UserRole.ADMITTER)
    mesh.bring(C)
    context = Context(mesh.membership.mesh_id, A.node)
    v, w = seeded_key("v"), seeded_key("w")
    first, second = terms(v).signed(v, context), terms(w).signed(w, context)
    one, two, there = fork(mesh, A, Kind.INVITE, first, second)
    assert mesh.is_active(A)
    changes = there.tell(mesh)
    assert changes.barred == (A.node,)
    assert standing(mesh, A) == Standing.SUSPENDED
    assert {why(mesh, one), why(mesh, two)} == {Void.AUTHOR}
    (review,) = [r for r in changes.reviews if r.concern == Concern.EQUIVOCATION]
    assert set(review.operations) == {one, two}
    # The proof is portable: both operations show it to anybody.
    fresh = found(F)
    fresh.membership = fresh.of(F).membership
    for op in mesh.membership.set.ops:
        fresh.membership.receive_untrusted([op.data])
    assert standing(fresh, A) == Standing.SUSPENDED


def test_nobody_is_framed_by_the_same_operation_twice():
    mesh = found(F)
    mesh.bring(A)
    data = mesh.membership.set.ops[-1].data
    assert mesh.membership.receive_untrusted([data, data]).added == ()
    assert mesh.is_active(F)


def test_admissions_others_have_built_on_survive_an_equivocation():
    mesh = a_mesh(F, B)
    mesh.bring(A, role=UserRole.ADMITTER)
    theirs = mesh.of(A)
    voucher = theirs.invite()
    theirs.tell(mesh)
    backup = theirs.of(A)  # the disk image that is restored later
    kept = theirs.admit(C, voucher)
    theirs.tell(mesh)
    mesh.invite()
    backup.invite()
    backup.tell(mesh)
    assert standing(mesh, A) == Standing.SUSPENDED
    assert why(mesh, kept) is None
    assert mesh.is_active(C)
    assert Concern.KEPT_ADMISSION in concerns(mesh)


def test_what_a_device_did_before_it_equivocated_stays():
    mesh = a_mesh(F, B)
    mesh.bring(A, role=UserRole.ADMITTER)
    theirs = mesh.of(A)
    theirs.admit(C, theirs.invite())
    theirs.tell(mesh)
    here, there = mesh.of(A), mesh.of(A)
    here.invite()
    there.invite(approve=True)
    here.tell(mesh)
    there.tell(mesh)
    assert standing(mesh, A) == Standing.SUSPENDED
    assert mesh.is_active(C)


def test_whoever_was_kept_does_not_keep_others_who_came_the_same_way():
    mesh = a_mesh(F, B)
    mesh.bring(A, role=UserRole.ADMITTER)
    cut = mesh.membership.set.heads[0].id
    theirs = mesh.of(A)
    theirs.admit(C, theirs.invite())
    theirs.tell(mesh)
    mesh.invite()  # C stays: F has built on it
    theirs.admit(D, theirs.invite())
    puppet = theirs.of(C)
    puppet.force(Kind.SUSPEND_DEVICE, SuspendDevice(C.user, C.node))
    puppet.tell(mesh)
    mesh.author.revoke_user(A.user, Why.COMPROMISED, NOW_MS, cut)
    assert standing(mesh, C) == Standing.SUSPENDED
    assert mesh.membership.member(D.node) is None


def test_a_device_that_was_seen_to_say_two_things_signs_for_nobody():
    mesh = a_mesh(F, A, B)
    one, other = mesh.of(A), mesh.of(A)
    one.invite()
    other.invite(approve=True)
    unaware = one.of(F)
    mesh.meet(one, other)
    assert why(mesh, mesh.cosigned(*revoke(B), [(A, A.device)])) == Void.NO_QUORUM
    assert why(mesh, mesh.cosigned(*revoke(B), [(A, A.key)])) is None  # the phrase still does
    assert why(unaware, unaware.cosigned(*revoke(B), [(A, A.device)])) is None
