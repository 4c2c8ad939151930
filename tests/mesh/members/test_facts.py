from dataclasses import replace

from mesh.members.bodies import Approve, Grant, Kind, Numbered, RevokeUser, UserRole
from mesh.members.bodies import Reason as Why
from mesh.members.facts import Facts
from mesh.members.operation import Operation
from mesh.members.opset import OpSet
from tests.support.memberships import NOW_MS, Replica, a_mesh, found, person

F, A, B = map(person, "FAB")


def facts_of(replica):
    return Facts(replica.membership.set)


def test_who_is_named_by_what():
    mesh = a_mesh(F, A)
    facts = facts_of(mesh)
    assert facts.founder == F.user
    assert facts.user_of(A.node) == A.user
    assert facts.user_of(B.node) is None
    assert facts.admissions[F.user] == [0]
    (admission,) = facts.admissions[A.user]
    assert facts.bindings[A.node] == [admission]
    assert facts.invite(facts.terms[admission]).voucher == next(iter(facts.invites))
    (grant,) = facts.grants[A.user, UserRole.ADMIN]
    assert facts.grants[A.user, UserRole.ADMITTER] == [grant]  # an admin is an admitter


def test_the_tables_grow_as_operations_come():
    mesh = a_mesh(F, A, B)
    grown = OpSet(mesh.membership.set.ops[0])
    facts = Facts(grown)
    for op in mesh.membership.set.ops[1:]:
        for i in grown.add_untrusted(op):
            facts.add(i)
    whole = facts_of(mesh)
    for name in ("admissions", "bindings", "grants", "invites", "admits", "terms"):
        assert getattr(facts, name) == getattr(whole, name)


def test_what_one_paper_was_made_into_is_known_by_it():
    mesh = a_mesh(F, A, B)
    proposal = mesh.author.propose(Kind.GRANT, Grant(A.user, UserRole.ADMIN))
    assert facts_of(mesh).made_of(proposal) == []
    cosigns = [proposal.cosigned(who.device, who.user) for who in (A, B)]
    made = [
        mesh.take(Replica(by, mesh.membership).author.next(
            proposal.kind, proposal.body, NOW_MS, proposal, some
        ))
        for by, some in ((F, cosigns), (A, cosigns[1:]))
    ]  # fmt: skip
    index = mesh.membership.set.index
    facts = facts_of(mesh)
    assert facts.made_of(proposal) == sorted((index[one] for one in made), key=facts.key)
    assert facts.twins == {}  # those are of what takes away
    assert facts.made_of(replace(proposal, parents=proposal.parents[:0])) == []


def test_a_reference_counts_only_if_it_was_known():
    mesh = found(F)
    mesh.bring(A)
    far = mesh.of(A)
    admission = mesh.admit(B, mesh.invite())
    far.force(Kind.APPROVE, Approve(admission))
    mesh.meet(far)
    facts = facts_of(mesh)
    approval = mesh.membership.set.last_of(A.node)
    assert facts.dangling == {mesh.membership.set.index[approval.id]}
    assert not facts.approvals
    op = mesh.force(Kind.APPROVE, Approve(mesh.membership.set.ops[1].id))  # that is an invite
    assert mesh.membership.set.index[op] in facts_of(mesh).dangling


def test_cuts_name_what_they_cut():
    mesh = found(F)
    mesh.bring(A)
    cut = mesh.membership.set.ops[1].id
    op = mesh.force(Kind.REVOKE_USER, RevokeUser(A.user, Why.REMOVED, cut))
    facts = facts_of(mesh)
    assert facts.cuts == {mesh.membership.set.index[op]: 1}


def test_numbers_count_in_turn_only():
    mesh = found(F)
    for number in (1, 3, 2, 2, 3):
        mesh.force(Kind.EPOCH, Numbered(number, b""))
    facts = facts_of(mesh)
    assert [number for number, _ in facts.numbered[Kind.EPOCH]] == [1, 2, 3]
    assert facts.next_number(Kind.EPOCH) == 4
    assert facts.next_number(Kind.COMMITTEE) == 1


def test_what_a_forked_author_wrote_is_in_the_same_order_everywhere():
    mesh = found(F)
    mesh.bring(A)
    one, other = mesh.of(A), mesh.of(A)
    for number in (1, 2):
        one.force(Kind.EPOCH, Numbered(number, b"one"))
        other.force(Kind.EPOCH, Numbered(number, b"other"))
    one.meet(other)
    found_by = []
    for replica in (one, other):
        facts = facts_of(replica)
        found_by.append([replica.membership.set.ops[i].id for i in facts.written[A.node]])
        assert facts.written[A.node] == sorted(facts.written[A.node], key=facts.key)
    assert found_by[0] == found_by[1]


def test_a_fork_seen_is_both_operations_in_one_past():
    mesh = found(F)
    mesh.bring(A)
    one, other = mesh.of(A), mesh.of(A)
    one.force(Kind.GRANT, Grant(A.user, UserRole.ADMIN))
    other.force(Kind.GRANT, Grant(A.user, UserRole.ADMITTER))
    one.tell(mesh)
    mesh.invite()
    early = mesh.membership.set.heads[0].id
    other.tell(mesh)
    mesh.invite()
    ops, facts = mesh.membership.set, facts_of(mesh)
    assert facts.forked_at(A.node) == 0
    assert facts.forked_at(F.node) is None
    assert not facts.saw_fork(A.node, ops.past[ops.index[early]])
    assert facts.saw_fork(A.node, ops.past[ops.index[ops.heads[0].id]])
    assert isinstance(ops.ops[0], Operation)
