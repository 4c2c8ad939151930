from core.device_cert import Role
from mesh.members.bodies import Drop, Grant, Kind, Policy, RevokeUser, UserRole
from mesh.members.bodies import Reason as Why
from mesh.members.rights import TOP
from tests.support.memberships import NOW_MS, a_mesh, found, person

F, A, B, C = map(person, "FABC")


def rights_of(replica):
    return replica.membership._evaluation.rights


def point(replica, op_id):
    i = replica.membership.set.index[op_id]
    return replica.membership.set.past[i], i


def test_a_removal_counts_later_and_far_away_but_not_before():
    mesh = a_mesh(F, A, B)
    mesh.bring(C, role=UserRole.ADMITTER)
    theirs = mesh.of(C)
    before = theirs.membership.set.heads[0].id
    known = theirs.invite()
    known_op = theirs.membership.set.heads[0].id
    theirs.tell(mesh)
    theirs.invite()
    far_op = theirs.membership.set.heads[0].id
    mesh.author.revoke_user(C.user, Why.REMOVED, NOW_MS)
    theirs.tell(mesh)
    rights = rights_of(mesh)
    assert rights.member(C.user, *point(mesh, known_op))
    assert rights.role(C.user, UserRole.ADMITTER, *point(mesh, known_op))
    assert not rights.member(C.user, *point(mesh, far_op))
    assert not rights.role(C.user, UserRole.ADMITTER, *point(mesh, far_op))
    assert not rights.member(C.user, TOP, TOP)
    assert not rights.device(C.node, C.user, TOP, TOP)
    assert before in mesh.membership.set
    assert known.public


def test_a_role_given_again_in_knowledge_of_its_end_holds():
    mesh = a_mesh(F, A)
    mesh.author.drop(A.user, UserRole.ADMIN, NOW_MS)
    rights = rights_of(mesh)
    assert not rights.role(A.user, UserRole.ADMIN, TOP, TOP)
    assert rights.role(A.user, UserRole.ADMITTER, TOP, TOP)  # only what was dropped
    mesh.author.grant(A.user, UserRole.ADMIN, NOW_MS)
    assert rights_of(mesh).role(A.user, UserRole.ADMIN, TOP, TOP)


def test_a_role_given_again_far_away_does_not():
    mesh = a_mesh(F, A, B)
    far = mesh.of(B)
    mesh.cosigned(Kind.DROP, Drop(A.user, UserRole.ADMIN), [(B, B.device)])
    far.cosigned(Kind.GRANT, Grant(A.user, UserRole.ADMIN), [(F, F.device)])
    mesh.meet(far)
    assert not mesh.is_admin(A)


def test_a_role_below_takes_those_above_with_it():
    mesh = a_mesh(F, A, B)
    mesh.cosigned(Kind.DROP, Drop(A.user, UserRole.ADMITTER), [(B, B.device)])
    assert mesh.membership.member(A.node).user_role == UserRole.MEMBER


def test_bits_come_from_the_certificate_the_mesh_was_told_of():
    laptop = person("laptop", Role.laptop())
    mesh = found(laptop)
    rights = rights_of(mesh)
    assert rights.bit(laptop.node, Role.INVITE, TOP, TOP)
    assert not rights.bit(laptop.node, Role.ADMIN, TOP, TOP)
    assert not rights.bit(F.node, Role.INVITE, TOP, TOP)


def test_the_newest_policy_in_the_past_decides():
    mesh = found(F)
    first = mesh.membership.set.ops[0].id
    mesh.author.set_policy(Policy(UserRole.ADMIN, UserRole.ADMIN, 0), NOW_MS)
    newest = mesh.membership.set.heads[0].id
    mesh.invite()
    rights = rights_of(mesh)
    ops = mesh.membership.set
    asked = []

    def ask(policy):
        asked.append(policy.invite_by)
        return True

    rights.may(ask, ops.upto(ops.index[first]))
    rights.may(ask, ops.upto(ops.index[newest]))
    assert asked == [UserRole.ADMITTER, UserRole.ADMIN]


def test_in_doubt_the_two_answers_differ_and_only_then():
    mesh = a_mesh(F, A)
    far = mesh.of(A)
    ours = mesh.force(Kind.REVOKE_USER, RevokeUser(A.user, Why.REMOVED))
    evaluation = mesh.membership._evaluation
    i = mesh.membership.set.index[ours]
    assert not evaluation.rights.member(A.user, TOP, TOP)
    evaluation._certain[i] = 0  # as if it were in doubt
    assert not evaluation.rights.member(A.user, TOP, TOP)
    assert evaluation.rights.other.member(A.user, TOP, TOP)
    assert evaluation.rights.other.in_tie(i)
    assert far.is_active(F)
