import pytest

from core.errors import FormatError
from mesh.members.authoring import NotAllowed
from mesh.members.bodies import Grant, Kind, RevokeUser, UserRole
from mesh.members.bodies import Reason as Why
from mesh.members.operation import Operation
from mesh.members.rules import Void
from mesh.members.state import Standing
from tests.support.memberships import NOW_MS, a_mesh, found, join_of, person, seeded_key, standing

F, A, B, C = map(person, "FABC")


def test_the_next_operation_hangs_on_all_that_is_known():
    mesh = a_mesh(F, A)
    one, other = mesh.of(F), mesh.of(A)
    one.invite()
    other.force(99, Grant(A.user, UserRole.ADMIN))
    one.meet(other)
    assert len(one.membership.set.heads) == 2
    op = one.author.next(99, Grant(A.user, UserRole.ADMIN), NOW_MS)
    op = Operation.open_untrusted(op, one.membership.mesh_id)
    assert set(op.parents) == {head.id for head in one.membership.set.heads}
    assert op.prev == one.membership.set.last_of(F.node).id
    assert op.seq == one.membership.set.last_of(F.node).seq + 1
    one.take(op.data)
    assert [head.id for head in one.membership.set.heads] == [op.id]


def test_at_most_eight_parents_and_the_rest_next_time():
    mesh = found(F)
    people = [person(f"p{n}") for n in range(11)]
    for who in people:
        mesh.bring(who)
    for guest in [mesh.of(who) for who in people]:
        guest.force(99, Grant(guest.who.user, UserRole.ADMIN))
        mesh.membership.receive_untrusted([guest.membership.set.ops[-1].data])
    assert len(mesh.membership.set.heads) == 11
    mesh.invite()
    assert len(mesh.membership.set.heads) == 4
    mesh.invite()
    assert len(mesh.membership.set.heads) == 1


def test_what_would_be_void_is_refused_with_its_reason_and_what_to_do():
    mesh = a_mesh(F, A, B)
    with pytest.raises(NotAllowed, match="too few admins") as caught:
        mesh.author.grant(A.user, UserRole.ADMIN, NOW_MS)
    assert caught.value.reason == Void.NO_QUORUM
    assert "ask other admins" in str(caught.value)
    with pytest.raises(NotAllowed) as caught:
        mesh.author.grant(C.user, UserRole.ADMITTER, NOW_MS)
    assert caught.value.reason == Void.NOT_MEMBER


def test_a_stranger_cannot_write():
    mesh = found(F)
    with pytest.raises(FormatError, match="stranger"):
        mesh.of(A).author.grant(A.user, UserRole.ADMIN, NOW_MS)


def test_a_proposal_is_signed_elsewhere_and_published_by_anyone():
    mesh = a_mesh(F, A, B)
    mesh.bring(C)
    proposal = mesh.author.propose(Kind.GRANT, Grant(C.user, UserRole.ADMIN))
    carrier = mesh.of(C)  # without any role
    signatures = [proposal.cosigned(A.device, A.user), proposal.cosigned(B.key, B.user)]
    with pytest.raises(NotAllowed):
        carrier.author.publish(proposal, signatures[:1], NOW_MS)
    carrier.author.publish(proposal, signatures, NOW_MS)
    assert carrier.is_admin(C)


def test_a_contested_removal_is_answered_as_if_it_had_not_been_seen():
    mesh = a_mesh(F, A)
    mesh.bring(B)
    late = mesh.of(A)
    mesh.cosigned(Kind.GRANT, Grant(B.user, UserRole.ADMIN), [(A, A.device)])
    theirs = late.force(Kind.REVOKE_USER, RevokeUser(F.user, Why.REMOVED))
    late.tell(mesh)
    assert not mesh.is_active(F)
    body = RevokeUser(A.user, Why.COMPROMISED)
    proposal = mesh.author.propose(Kind.REVOKE_USER, body, without=[theirs])
    assert theirs not in proposal.parents
    mesh.author.publish(proposal, [proposal.cosigned(B.device, B.user)], NOW_MS)
    assert mesh.is_admin(F)
    assert not mesh.is_active(A)


def test_a_join_that_nobody_signed_is_not_carried():
    mesh = found(F)
    voucher = mesh.invite()
    data, by_voucher, _ = join_of(mesh.membership, A, voucher)
    with pytest.raises(Exception, match="does not verify"):
        mesh.author.admit((data, by_voucher, bytes(64)), NOW_MS)
    with pytest.raises(NotAllowed) as caught:
        mesh.author.close_invite(seeded_key("never opened").public, NOW_MS)
    assert caught.value.reason == Void.VOUCHER


def test_who_has_written_since_contests_with_a_signature_of_its_own():
    mesh = a_mesh(F, A)
    theirs = mesh.of(A)
    removal = theirs.force(Kind.REVOKE_USER, RevokeUser(F.user, Why.REMOVED))
    theirs.tell(mesh)
    mesh.force(99, Grant(A.user, UserRole.ADMIN))  # in knowledge of it
    body = RevokeUser(A.user, Why.COMPROMISED)
    proposal = mesh.author.propose(Kind.REVOKE_USER, body, without=[removal])
    mesh.author.publish(proposal, [], NOW_MS)
    assert standing(mesh, F) == standing(mesh, A) == Standing.SUSPENDED
