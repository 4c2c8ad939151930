import pytest

from core.device_cert import Role
from mesh.members import derive
from mesh.members.bodies import Kind, Policy, UserRole
from mesh.members.bodies import Reason as Why
from mesh.members.evaluate import Evaluation
from mesh.members.opset import OpSet
from mesh.members.state import InviteState, Standing, state_after, state_of
from tests.support.member_histories import random_history, shuffled
from tests.support.memberships import NOW_MS, a_mesh, found, person

F, A, B = map(person, "FAB")
LAPTOP = person("laptop", Role.laptop())


def test_a_member_is_what_its_admission_says():
    mesh = a_mesh(F)
    op_id = mesh.bring(LAPTOP)
    member = mesh.membership.member(LAPTOP.node)
    mesh_id = mesh.membership.mesh_id
    assert member.standing == Standing.ACTIVE
    assert member.user == LAPTOP.user
    assert member.name == "laptop"
    assert member.box_public == LAPTOP.devices[0].keys.box_public()
    assert member.kem == LAPTOP.kem
    assert member.operation == op_id
    assert member.dht_id == derive.dht_id(mesh_id, LAPTOP.node, op_id)
    assert member.overlay == derive.overlay(mesh_id, LAPTOP.node)
    assert member.admitted_by == member.invited_by == F.user


def test_roles_are_what_both_the_device_and_the_user_have():
    mesh = a_mesh(F)
    mesh.bring(LAPTOP)
    mesh.bring(A)
    # A plain member may admit, by the policy of the beginning, so the bit to do so is worth it.
    assert Role.INVITE in mesh.membership.member(LAPTOP.node).roles
    assert Role.ADMIN not in mesh.membership.member(A.node).roles
    mesh.author.set_policy(Policy(UserRole.ADMITTER, UserRole.ADMITTER, 0), NOW_MS)
    assert Role.INVITE not in mesh.membership.member(LAPTOP.node).roles
    mesh.author.grant(LAPTOP.user, UserRole.ADMIN, NOW_MS)
    member = mesh.membership.member(LAPTOP.node)
    assert member.user_role == UserRole.ADMIN
    assert Role.INVITE in member.roles
    assert Role.ADMIN not in member.roles  # its certificate does not say so


def test_invites_and_what_became_of_them():
    mesh = a_mesh(F)
    voucher = mesh.invite(role=UserRole.ADMITTER, approve=True)
    view = mesh.membership.invite(voucher.public)
    assert view.state == InviteState.OPEN
    assert (view.inviter, view.role, view.approve) == (F.user, UserRole.ADMITTER, True)
    assert (view.quota_bytes, view.label) == (10**9, "for a friend")
    admission = mesh.admit(A, voucher)
    view = mesh.membership.invite(voucher.public)
    assert view.state == InviteState.PENDING
    assert view.admissions == ((admission, A.user),)
    assert mesh.membership.member(A.node).user_role == UserRole.ADMITTER


@pytest.mark.parametrize("seed", range(8))
def test_what_is_brought_up_to_date_is_what_would_be_made_anew(seed):
    world = random_history(seed, steps=25)
    ops = sorted(shuffled(world, seed), key=lambda op: op.lamport)  # so that none waits
    genesis = next(op for op in ops if op.kind == Kind.GENESIS)
    replica = OpSet(genesis)
    evaluation = Evaluation(replica)
    state = state_of(evaluation)
    alone_at_times = 0
    for op in ops:
        new = replica.add_untrusted(op)
        alone = evaluation.add(new)
        alone_at_times += alone and bool(new)
        state = state_after(evaluation, state, new) if alone else state_of(evaluation)
        anew = state_of(evaluation)
        assert state.hash() == anew.hash()
        assert state == anew
    assert alone_at_times


def test_the_hash_tells_states_apart_and_not_their_histories():
    mesh = a_mesh(F)
    mesh.bring(A)
    hashes = {mesh.membership.state.hash()}
    mesh.author.grant(A.user, UserRole.ADMITTER, NOW_MS)
    hashes.add(mesh.membership.state.hash())
    mesh.author.suspend_device(A.user, A.node, NOW_MS)
    hashes.add(mesh.membership.state.hash())
    mesh.author.next_epoch(bytes(32), NOW_MS)
    hashes.add(mesh.membership.state.hash())
    assert len(hashes) == 4
    before = mesh.membership.state.hash()
    assert mesh.of(A).membership.state.hash() == before


def test_who_left_is_told_from_who_is_suspended():
    mesh = found(F)
    mesh.bring(A)
    mesh.bring(B)
    mesh.author.revoke_user(A.user, Why.REMOVED, NOW_MS)
    mesh.author.suspend_device(B.user, B.node, NOW_MS)
    assert mesh.membership.member(A.node).standing == Standing.DEPARTED
    assert mesh.membership.member(B.node).standing == Standing.SUSPENDED
    assert set(mesh.membership.state.users) == {F.user, B.user}


def test_checkpoints_say_what_the_state_was():
    mesh = a_mesh(F)
    state = mesh.membership.state.hash()
    changes = mesh.author.checkpoint(NOW_MS)
    assert mesh.membership.state.checkpoint == changes.added[0].id
    assert changes.added[0].body.state == state
