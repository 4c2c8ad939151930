from dataclasses import replace

import pytest

from core.device_cert import Role
from mesh.members.authoring import NotAllowed
from mesh.members.bodies import (
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
from mesh.members.operation import Proposal
from mesh.members.rules import Void
from mesh.members.signers import quorum
from mesh.members.state import Standing
from tests.support.memberships import (
    NOW_MS,
    Replica,
    a_mesh,
    found,
    person,
    revoke,
    standing,
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


def replayed(mesh, by, op_id):
    """The signatures of an operation, hung under another one by somebody who has seen them."""
    op = next(op for op in mesh.membership.set.ops if op.id == op_id)
    paper = Proposal(op.mesh, op.kind, op.parents, op.body)
    writer = Replica(by, mesh.membership)
    return mesh.take(writer.author.next(op.kind, op.body, NOW_MS, paper, op.cosigns))


def test_signatures_that_were_used_put_nobody_out_again():
    mesh = a_mesh(F, A, B, C)
    mesh.bring(D)
    signers = [(who, who.device) for who in (F, B, C)]
    dropped = mesh.cosigned(Kind.DROP, Drop(A.user, UserRole.ADMIN), signers)
    mesh.cosigned(Kind.GRANT, Grant(A.user, UserRole.ADMIN), signers)
    stopped = mesh.cosigned(Kind.SUSPEND_DEVICE, SuspendDevice(A.user, A.node), signers)
    lift = SuspendDevice(A.user, A.node, stopped)
    mesh.cosigned(Kind.SUSPEND_DEVICE, lift, signers)
    assert mesh.is_admin(A)
    for used in (dropped, stopped):
        assert why(mesh, replayed(mesh, D, used)) is None
        assert mesh.is_admin(A)
    mesh.invite()
    assert signers_of(mesh).admin_count(last(mesh)) == 4
    out = mesh.cosigned(*revoke(A), signers)
    mesh.bring(A)
    assert mesh.is_active(A)
    assert why(mesh, replayed(mesh, D, out)) is None
    assert mesh.is_active(A)
    again = mesh.cosigned(*revoke(A), signers)  # a new paper does
    assert why(mesh, again) is None
    assert standing(mesh, A) == Standing.DEPARTED


def test_a_paper_that_counts_for_nothing_shields_nobody():
    # D hangs the paper by which A will be dropped under an operation before enough have signed it,
    # and A is made an admin once more in knowledge of that: it was no removal.
    mesh = a_mesh(F, A, B, C)
    mesh.bring(D)
    paper = mesh.author.propose(Kind.DROP, Drop(A.user, UserRole.ADMIN))
    few = [paper.cosigned(B.device, B.user)]
    hand = Replica(D, mesh.membership).author
    void = mesh.take(hand.next(paper.kind, paper.body, NOW_MS, paper, few))
    assert why(mesh, void) == Void.NO_QUORUM
    mesh.cosigned(Kind.GRANT, Grant(A.user, UserRole.ADMIN), [(B, B.device), (C, C.device)])
    enough = [paper.cosigned(who.device, who.user) for who in (F, B, C)]
    full = mesh.take(mesh.author.next(paper.kind, paper.body, NOW_MS, paper, enough))
    assert why(mesh, full) is None
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
