"""Order, partition and replay never matter; nobody gains what nobody with the right gave."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.members.authoring import Author
from mesh.members.bodies import (
    AddDevice,
    Approve,
    Genesis,
    Grant,
    Kind,
    Numbered,
    Policy,
    RevokeUser,
    UserRole,
)
from mesh.members.bodies import Reason as Why
from mesh.members.evaluate import Evaluation
from mesh.members.facts import REMOVALS
from mesh.members.joining import Recover
from mesh.members.operation import Operation, Proposal
from mesh.members.opset import OpSet
from mesh.members.rights import TOP
from mesh.members.rules import Void
from mesh.members.state import Concern, Standing, state_of
from tests.support.judging import (
    all_of,
    assert_order_never_matters,
    assert_verdicts_agree_with_the_rules,
    judged,
    verdicts,
)
from tests.support.member_histories import random_history, shuffled
from tests.support.memberships import (
    NOW_MS,
    a_large_mesh,
    a_mesh,
    concerns,
    found,
    person,
    recover_of,
    revoke,
    standing,
    why,
)

F, A, B, C, D, E, G = map(person, "FABCDEG")


@pytest.mark.parametrize("seed", range(4))
def test_order_partition_and_replay_never_matter(seed):
    world = random_history(seed, steps=20, fierce=bool(seed % 2))
    evaluation = assert_order_never_matters(world)
    assert_verdicts_agree_with_the_rules(evaluation)
    before = verdicts(evaluation)
    for op in shuffled(world, 9):
        assert evaluation.set.add_untrusted(op) == []
    evaluation.add([])
    assert verdicts(evaluation) == before


def test_what_rules_look_at_first_does_not_hang_on_what_came_first():
    # Ties were found by what the rules had looked at, and they look no further than they must.
    assert_order_never_matters(random_history(12_465, steps=30, fierce=True))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(6))
def test_order_never_matters_in_hundreds_of_lives(block):
    for seed in range(100 + 50 * block, 150 + 50 * block):
        world = random_history(seed, steps=30, fierce=bool(seed % 2))
        assert_verdicts_agree_with_the_rules(assert_order_never_matters(world))


@pytest.mark.deep
@pytest.mark.parametrize("block", range(100))
def test_order_never_matters_in_ten_thousand_lives(block):
    for seed in range(10_000 + 100 * block, 10_100 + 100 * block):
        world = random_history(seed, steps=30, fierce=bool(seed % 2))
        assert_verdicts_agree_with_the_rules(assert_order_never_matters(world))


def replay(world, seed):
    """Signatures of removals, hung under operations of whoever has seen them; how many."""
    rng = random.Random(seed)
    replica = OpSet(next(op for op in world.ops.values() if isinstance(op.body, Genesis)))
    for op in world.ops.values():
        replica.add_untrusted(op)
    used = [op for op in sorted(world.ops.values(), key=lambda op: op.id) if op.cosigns]
    used = [op for op in used if op.kind in REMOVALS]
    for op in rng.sample(used, min(len(used), 4)):
        who = rng.choice(world.people)
        if replica.last_of(who.node) is None:
            continue
        pen = Author(world.view(replica), who.device)
        paper = Proposal(op.mesh, op.kind, op.parents, op.body)
        world.take(replica, pen.next(op.kind, op.body, NOW_MS, paper, op.cosigns))
    return len(used)


@pytest.mark.slow
def test_order_never_matters_where_signatures_are_used_again():
    used = 0
    for seed in range(80):
        world = random_history(seed, steps=30, fierce=bool(seed % 2))
        used += replay(world, seed)
        assert_verdicts_agree_with_the_rules(assert_order_never_matters(world))
    assert used > 20


@pytest.mark.slow
def test_the_random_lives_are_worth_something():
    # What makes the properties above mean anything: most rules are met, and met both ways.
    kinds, reasons, ties = set(), set(), 0
    for seed in range(60):
        evaluation = judged(shuffled(random_history(seed, fierce=bool(seed % 2)), 0), 0)
        ties += bool(evaluation.tied)
        for i, op in enumerate(evaluation.set.ops):
            reasons.add(evaluation.why_void(i))
            kinds.add((op.kind, evaluation.counts(i)))
    assert ties > 0
    assert {kind for kind, counts in kinds if counts} >= set(Kind) - {Kind.REVOKE_DEVICE}
    assert len(reasons) >= 10


# --- authority ------------------------------------------------------------------------------------


def assert_admins_are_made_by_admins(evaluation):
    """Follow every admin's role back to the genesis, by signatures alone."""
    facts, ops = evaluation.facts, evaluation.set.ops
    admins = {facts.founder}
    for _, _, i in evaluation.set.order:
        op = ops[i]
        if op.kind == Kind.GRANT and evaluation.counts(i) and op.body.role == UserRole.ADMIN:
            claimed = {c.user for c in op.cosigns} | {facts.author_user(i)}
            assert claimed & admins
            admins.add(op.body.user)
    for user in facts.admissions:
        if evaluation.rights.role(user, UserRole.ADMIN, TOP, TOP):
            assert user in admins


@pytest.mark.parametrize("seed", range(5))
def test_who_is_no_admin_never_becomes_one(seed):
    # After the mesh is set up only people without the role write, with each other's signatures.
    world = random_history(seed, steps=0)
    setup = judged(shuffled(world, 0), 0)
    admins = {
        n
        for n, who in enumerate(world.people)
        if setup.rights.role(who.user, UserRole.ADMIN, TOP, TOP)
    }
    others = [n for n in range(len(world.people)) if n not in admins]
    world = random_history(seed, steps=40, writers=others)
    after = judged(shuffled(world, 1), 1)
    assert_admins_are_made_by_admins(after)
    for n, who in enumerate(world.people):
        assert after.rights.role(who.user, UserRole.ADMIN, TOP, TOP) == (n in admins)
        if n in admins:
            assert after.rights.member(who.user, TOP, TOP)


@pytest.mark.parametrize("seed", range(12))
def test_every_admin_was_made_by_admins(seed):
    evaluation = judged(shuffled(random_history(seed, fierce=bool(seed % 2)), 0), 0)
    assert_admins_are_made_by_admins(evaluation)


@pytest.mark.slow
@given(seed=st.integers(0, 40), victim=st.integers(0, 5))
def test_who_is_removed_by_all_others_has_less_than_before(seed, victim):
    world = random_history(seed, steps=12)
    ops = shuffled(world, 0)
    evaluation = judged(ops, 0)
    before = state_of(evaluation)
    who = world.people[victim]
    if who.user not in before.users:
        return
    replica = a_replica(evaluation, world, victim)
    if replica is None:
        return
    after, op_id = replica
    assert after.why_void(after.set.index[op_id]) is None
    state = state_of(after)
    assert who.user not in state.users
    for member in state.members.values():
        if member.user == who.user:
            assert not member.is_active
        elif member.is_active:
            assert before.members[member.node].is_active


def a_replica(evaluation, world, victim):
    """The same mesh after all other admins have removed somebody; None if there are none."""
    from tests.support.member_histories import _write

    state = state_of(evaluation)
    who = world.people[victim]
    admins = [p for p in world.people if state.users.get(p.user) == UserRole.ADMIN and p != who]
    writers = [
        p for p in world.people if (m := state.members.get(p.node)) is not None and m.is_active
    ]
    writers = [p for p in writers if p != who]
    # Every admin's own signature, so that no quorum is missing; and the newest of every chain.
    count = evaluation.rules.signers
    known = -1
    suspended = [u for u in evaluation.facts.admissions if count.counts_as_admin(u, known)]
    if not admins or not writers or len(suspended) > len(admins) + 1:
        return None
    replica = evaluation.set
    world.rng.seed(7)  # of the ways to hang an operation, the ordinary one
    before = set(world.ops)
    body = RevokeUser(who.user, Why.REMOVED)
    heads = [op.id for op in replica.heads]
    if len(heads) > 8:
        return None
    _write(world, replica, Kind.REVOKE_USER, body, writers[0].device, [(p, p.key) for p in admins])
    (op_id,) = set(world.ops) - before
    op = world.ops[op_id]
    if set(op.parents) != set(heads):
        return None
    evaluation.facts.__init__(replica)
    evaluation._run()
    return evaluation, op_id


# --- what hangs on itself -------------------------------------------------------------------------


def test_what_counts_only_if_it_does_not_is_void():
    # C and D come with one voucher, both are made admins, and more admins stand for C. So C counts,
    # and says yes to D: then as many stand for D, and neither counts.
    mesh = a_mesh(F, A)
    voucher = mesh.invite()
    far = mesh.of(A)
    far.admit(C, voucher)
    far.author.grant(C.user, UserRole.ADMIN, NOW_MS)
    theirs = mesh.admit(D, voucher)
    mesh.author.grant(D.user, UserRole.ADMIN, NOW_MS)
    mesh.meet(far)
    assert standing(mesh, C) is standing(mesh, D) is Standing.DISPUTED
    mesh.author.approve(mesh.membership.member(C.node).operation, NOW_MS)
    assert (standing(mesh, C), standing(mesh, D)) == (Standing.ACTIVE, Standing.DISPUTED)
    mine = mesh.of(C)
    yes = mine.force(Kind.APPROVE, Approve(theirs))
    assert why(mine, yes) == Void.UNSETTLED
    assert (standing(mine, C), standing(mine, D)) == (Standing.ACTIVE, Standing.DISPUTED)
    evaluation = assert_order_never_matters(all_of(mine), orders=6)
    assert {evaluation.set.ops[i].id for i in evaluation.unsettled} == {yes}
    assert_verdicts_agree_with_the_rules(evaluation)


# --- incremental ----------------------------------------------------------------------------------


def test_what_changes_nothing_is_judged_by_itself():
    mesh = a_mesh(F, A)
    runs = mesh.membership._evaluation.full_runs
    mesh.admit(B, mesh.invite())
    assert mesh.membership._evaluation.full_runs == runs
    voucher = mesh.invite()
    mesh.author.close_invite(voucher.public, 1)
    mesh.author.revoke_user(B.user, Why.REMOVED, 1)  # who has done nothing that hangs on it
    assert mesh.membership._evaluation.full_runs == runs
    assert standing(mesh, B) == Standing.DEPARTED


def test_the_removal_of_somebody_on_whom_anything_hangs_is_judged_with_everything():
    for n, leans in enumerate([_writes, _cosigns, _gets_a_device]):
        who = person(f"quiet {n}", devices=2)
        mesh = a_mesh(F, A)
        mesh.bring(who)
        if leans is _cosigns:
            mesh.cosigned(Kind.GRANT, Grant(who.user, UserRole.ADMIN), [(A, A.device)])
        leans(mesh, who)
        runs = mesh.membership._evaluation.full_runs
        mesh.cosigned(*revoke(who), [(A, A.device)])
        assert mesh.membership._evaluation.full_runs == runs + 1
        assert standing(mesh, who) == Standing.DEPARTED


def test_closing_an_invite_that_somebody_used_meanwhile_is_judged_with_everything():
    mesh = a_mesh(F, A)
    voucher = mesh.invite()
    far = mesh.of(A)
    mesh.admit(B, voucher)
    far.author.close_invite(voucher.public, 1)
    runs = mesh.membership._evaluation.full_runs
    far.tell(mesh)
    assert mesh.membership._evaluation.full_runs == runs + 1
    assert not mesh.is_active(B)
    assert mesh.membership.state.hash() == mesh.of(A).membership.state.hash()


def _writes(mesh, who):
    guest = mesh.of(who)
    mesh.take(guest.author.next(Kind.EPOCH, Numbered(1, bytes(32)), 1))


def _cosigns(mesh, who):
    mesh.cosigned(Kind.POLICY, Policy(UserRole.MEMBER, UserRole.MEMBER, 0), [(who, who.device)])


def _gets_a_device(mesh, who):
    recover = recover_of(mesh.membership, who, who.devices[1])
    mesh.force(Kind.ADD_DEVICE, AddDevice(*recover, Recover.open_untrusted(*recover)))


@pytest.mark.slow
def test_order_never_matters_where_few_act_and_many_are_only_acted_on():
    quiet = 0
    for seed in range(120):
        world = random_history(seed, steps=25, writers=[0, 1])
        expected = assert_order_never_matters(world)
        replica = OpSet(expected.set.ops[0])
        evaluation = Evaluation(replica)
        for op in sorted(shuffled(world, seed), key=lambda op: op.lamport):
            new = replica.add_untrusted(op)
            alone = evaluation.add(new)
            quiet += alone and bool(new) and op.kind in REMOVALS
        assert verdicts(evaluation) == verdicts(expected)
    assert quiet > 10


def test_an_operation_that_would_be_void_leaves_no_trace():
    mesh = found(F)
    mesh.bring(A)
    before = mesh.membership.state.hash(), mesh.membership.news()
    guest = mesh.of(A)
    data = guest.author.next(Kind.REVOKE_USER, RevokeUser(F.user, Why.REMOVED), 1)
    assert mesh.membership.write(data) is not None
    assert (mesh.membership.state.hash(), mesh.membership.news()) == before
    mesh.bring(B)  # and the set goes on as if nothing had been
    assert mesh.of(A).membership.state.hash() == mesh.membership.state.hash()


@pytest.mark.slow
def test_a_large_mesh_is_judged_like_a_small_one():
    data = a_large_mesh(400, removals=10)
    genesis = Operation.open_untrusted(data[0], None)
    ops = [Operation.open_untrusted(one, genesis.mesh) for one in data[1:]]
    evaluation = judged([genesis, *ops], 0)
    assert all(evaluation.counts(i) for i in range(len(ops) + 1))
    state = state_of(evaluation)
    revoked = {op.body.user for op in ops if isinstance(op.body, RevokeUser)}
    assert len(revoked) > 2
    for member in state.members.values():
        gone = member.user in revoked
        assert member.standing == (Standing.DEPARTED if gone else Standing.ACTIVE)


# --- concurrent removals --------------------------------------------------------------------------


def test_what_a_removed_admin_did_far_away_is_void():
    mesh = a_mesh(F, A, B, C)
    mesh.bring(D)
    far = mesh.of(A)
    op = far.force(Kind.GRANT, Grant(D.user, UserRole.ADMITTER))
    assert far.membership.can(D.node, UserRole.ADMITTER)
    mesh.cosigned(*revoke(A), [(B, B.device), (C, C.device)])
    far.meet(mesh)
    for replica in (mesh, far):
        assert why(replica, op) == Void.NO_ADMIN
        assert not replica.membership.can(D.node, UserRole.ADMITTER)


def test_a_late_revocation_by_who_was_removed_is_void_however_senior():
    # A was made an admin first, is put out by the quorum, and then writes as if before.
    mesh = a_mesh(F, A, B, C)
    late = mesh.of(A)
    mesh.cosigned(*revoke(A), [(B, B.device), (C, C.device)])
    for victim in (F, B, C):
        op = late.force(*revoke(victim))
        late.tell(mesh)
        assert why(mesh, op) is not None
    assert all(mesh.is_admin(p) for p in (F, B, C))
    assert standing(mesh, A) == Standing.DEPARTED


def test_one_admin_cannot_backdate_a_removal_to_before_somebody_became_an_admin():
    mesh = a_mesh(F, A, B)
    mesh.bring(C)
    late = mesh.of(A)
    mesh.cosigned(Kind.GRANT, Grant(C.user, UserRole.ADMIN), [(A, A.device)])
    op = late.force(*revoke(C))
    assert not late.is_active(C)
    late.meet(mesh)
    assert why(mesh, op) == Void.NO_QUORUM
    assert mesh.is_admin(C)


def test_of_two_that_remove_each_other_the_one_with_more_admins_behind_it_wins():
    # A has agreed to a third admin, and then writes as if it had not happened.
    mesh = a_mesh(F, A)
    mesh.bring(B)
    late = mesh.of(A)
    mesh.cosigned(Kind.GRANT, Grant(B.user, UserRole.ADMIN), [(A, A.device)])
    one = mesh.of(F)
    theirs = late.force(*revoke(F))  # as if there were two admins: one is enough
    ours = one.cosigned(*revoke(A), [(B, B.device)])
    one.meet(late)
    for replica in (one, late):
        assert why(replica, ours) is None
        assert why(replica, theirs) is not None
        assert replica.is_admin(F)
        assert standing(replica, A) == Standing.DEPARTED


def test_a_tie_suspends_both_until_the_founders_phrase():
    mesh = a_mesh(F, A)
    far = mesh.of(A)
    mesh.force(*revoke(A))
    far.force(*revoke(F))
    mesh.meet(far)
    for replica in (mesh, far):
        assert standing(replica, F) == standing(replica, A) == Standing.SUSPENDED
        assert Concern.TIE in concerns(replica)
    by_device = mesh.of(F)
    op = by_device.cosigned(Kind.GRANT, Grant(F.user, UserRole.MEMBER), [(F, F.device)])
    assert why(by_device, op) == Void.NO_QUORUM
    mesh.cosigned(Kind.GRANT, Grant(F.user, UserRole.MEMBER), [(F, F.key)])
    assert mesh.is_admin(F)
    assert standing(mesh, A) == Standing.SUSPENDED
    mesh.author.revoke_user(A.user, Why.REMOVED, NOW_MS)
    assert standing(mesh, A) == Standing.DEPARTED


def test_a_tie_is_reopened_by_the_quorum_too():
    mesh = a_mesh(F, A)
    far = mesh.of(A)
    for who, by in ((B, []), (C, [A]), (D, [A, B])):
        mesh.bring(who)
        rows = [(p, p.device) for p in by]
        mesh.cosigned(Kind.GRANT, Grant(who.user, UserRole.ADMIN), rows)
    tied = far.force(*revoke(F))
    far.tell(mesh)
    # A's word stands alone against everything F did since; F's phrase and the others answer it.
    last = mesh.membership.set.last_of(F.node)
    mesh.cosigned(*revoke(A, last.id), [(F, F.key), (B, B.device), (C, C.device)])
    assert why(mesh, tied) is not None
    assert all(mesh.is_admin(p) for p in (F, B, C, D))
    assert standing(mesh, A) == Standing.DEPARTED


def test_a_branch_full_of_made_up_admins_outvotes_nobody():
    # A was the second admin. Long after, it writes as if it had appointed ten others back then,
    # and lets them all sign that F goes. At worst that is a tie, which the founder's phrase ends.
    mesh = a_mesh(F, A)
    branch = mesh.of(A)
    for who, by in ((B, []), (C, [A]), (D, [A, B])):
        mesh.bring(who)
        rows = [(p, p.device) for p in by]
        mesh.cosigned(Kind.GRANT, Grant(who.user, UserRole.ADMIN), rows)
    puppets = [person(f"puppet {n}") for n in range(6)]
    for n, puppet in enumerate(puppets):
        branch.bring(puppet)
        rows = [(p, p.device) for p in puppets[:n]]
        branch.cosigned(Kind.GRANT, Grant(puppet.user, UserRole.ADMIN), rows)
    coup = branch.cosigned(*revoke(F), [(p, p.device) for p in puppets])
    assert why(branch, coup) is None
    ours = mesh.cosigned(*revoke(A), [(p, p.device) for p in (B, C, D)])
    mesh.meet(branch)
    assert not any(mesh.is_admin(p) for p in puppets)
    assert not mesh.is_admin(A)
    last = next(op for op in mesh.membership.set.ops if op.id == ours).parents[0]
    mesh.cosigned(*revoke(A, last), [(p, p.key) for p in (F, B, C, D)])
    assert all(mesh.is_admin(p) for p in (F, B, C, D))
    assert not any(mesh.is_active(p) for p in (A, *puppets))


def test_the_founders_phrase_answers_a_lone_removal_of_the_founder_but_not_a_quorum():
    mesh = a_mesh(F, A)
    theirs = mesh.of(A)
    op = theirs.force(*revoke(F))
    cut = theirs.membership.set.ops[theirs.membership.set.index[op]].parents[0]
    answer = theirs.of(F)
    answer.cosigned(*revoke(A, cut), [(F, F.key)])
    assert answer.is_admin(F)
    assert standing(answer, A) == Standing.DEPARTED
    four = a_mesh(F, A, B, C)
    theirs = four.of(A)
    op = theirs.cosigned(*revoke(F), [(B, B.device), (C, C.device)])
    cut = theirs.membership.set.ops[theirs.membership.set.index[op]].parents[0]
    answer = theirs.of(F)
    answer.cosigned(*revoke(A, cut), [(F, F.key)])
    assert not answer.is_active(F)
    assert answer.is_admin(A)
