"""What falls with its author, what stays, and whose word keeps it."""

import pytest

from mesh.members.bodies import (
    Checkpoint,
    Context,
    Grant,
    Kind,
    Policy,
    SuspendDevice,
    UserRole,
)
from mesh.members.bodies import Reason as Why
from mesh.members.rules import Void
from mesh.members.state import Concern, Standing
from tests.support.judging import (
    all_of,
    assert_order_never_matters,
    assert_verdicts_agree_with_the_rules,
)
from tests.support.memberships import (
    NOW_MS,
    Replica,
    a_mesh,
    concerns,
    found,
    person,
    recover_of,
    revoke,
    seeded_key,
    standing,
    terms,
    why,
)

F, A, B, C, D, E, G = map(person, "FABCDEG")


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


# --- what acknowledges ----------------------------------------------------------------------------


def a_contradiction(mesh, *members):
    """F admits C with a voucher; the disk of before, to contradict it with; and the admission."""
    for who in members:
        mesh.bring(who)
    voucher = mesh.invite()
    restored = mesh.of(F)
    return voucher, restored, mesh.admit(C, voucher)


def assert_judged_alike(replica):
    assert_verdicts_agree_with_the_rules(assert_order_never_matters(all_of(replica), orders=6))


def test_who_has_spent_a_spent_voucher_has_acknowledged_who_came_with_it():
    # B admitted D with the voucher C came with: that is void, and B has built on it all the same.
    mesh = a_mesh(F, A)
    voucher, restored, first = a_contradiction(mesh, B, E)
    mine, theirs = mesh.of(B), mesh.of(E)
    spent = [mine.force_admit(D, voucher), theirs.force_admit(G, voucher)]
    theirs.tell(mine)
    restored.invite()
    restored.tell(mine)
    assert [why(mine, op) for op in (first, *spent)] == [None, Void.SPENT, Void.SPENT]
    assert mine.is_active(C)
    assert mine.membership._evaluation.unsettled == set()
    assert_judged_alike(mine)


@pytest.mark.parametrize("role", [UserRole.ADMITTER, UserRole.ADMIN])
def test_who_gives_a_role_to_whom_an_admission_brought_has_acknowledged_it(role):
    # The role takes effect only if C is a member, and C is one because A has given the role.
    mesh = a_mesh(F, A)
    _, restored, first = a_contradiction(mesh)
    mine = mesh.of(A)
    given = mine.force(Kind.GRANT, Grant(C.user, role))
    restored.invite()
    restored.tell(mine)
    assert standing(mine, F) == Standing.SUSPENDED
    assert (why(mine, first), why(mine, given)) == (None, None)
    assert mine.membership.can(C.node, role)
    assert Concern.KEPT_ADMISSION in concerns(mine)
    assert_judged_alike(mine)


def test_who_hangs_on_an_admission_does_not_acknowledge_it():
    # C itself, whom C has admitted, and whom C has invited and another let in.
    mesh = a_mesh(F, A)
    mesh.author.set_policy(Policy(UserRole.MEMBER, UserRole.MEMBER, 0), NOW_MS)
    _, restored, first = a_contradiction(mesh)
    theirs = mesh.of(C)
    for who in (D, E):
        theirs.bring(who)
    invited = theirs.invite()
    theirs.of(D).tell(theirs)
    puppet = theirs.of(E)
    puppet.admit(G, invited)
    puppet.of(G).invite()
    restored.invite()
    restored.tell(puppet)
    assert why(puppet, first) == Void.AUTHOR
    assert all(standing(puppet, who) is None for who in (C, D, E, G))
    assert_judged_alike(puppet)


def test_who_was_let_in_by_a_hand_that_hangs_on_an_admission_hangs_on_it_too():
    # Whoever invited them: A did, long before, and C has let them in.
    mesh = a_mesh(F, A)
    mesh.bring(B)
    far = mesh.of(A)
    before = far.invite()
    far.tell(mesh)
    _, restored, first = a_contradiction(mesh)
    theirs = mesh.of(C)
    theirs.admit(G, before)
    guest = theirs.of(G)
    guest.force(Kind.CHECKPOINT, Checkpoint(bytes(32)))
    restored.invite()
    restored.tell(guest)
    assert why(guest, first) == Void.AUTHOR
    assert standing(guest, G) is None
    assert_judged_alike(guest)


@pytest.mark.parametrize("inviter", [F, B])
def test_nodes_let_in_whoever_holds_a_voucher_so_the_invite_matters_too(inviter):
    # B's node has let G in. If F had invited G, by what is in question, G does not speak for
    # whom F lets in later; if B had, G does.
    mesh = a_mesh(F, A)
    mesh.bring(B, role=UserRole.ADMITTER)
    restored = mesh.of(F)
    mine = mesh.of(B)
    if inviter is F:
        voucher = mesh.invite()
    else:
        mesh.admit(C, mesh.invite())
        mesh.tell(mine)
        voucher = mine.invite()
    mesh.tell(mine)
    mine.admit(G, voucher)
    mine.tell(mesh)
    later = mesh.admit(D, mesh.invite())
    guest = mesh.of(G)
    guest.force(Kind.CHECKPOINT, Checkpoint(bytes(32)))
    restored.invite(approve=True)
    restored.tell(guest)
    assert standing(guest, F) == Standing.SUSPENDED
    assert standing(guest, G) == Standing.ACTIVE  # B has let them in
    assert why(guest, later) == (Void.AUTHOR if inviter is F else None)
    assert_judged_alike(guest)


def test_who_was_kept_does_not_keep_others_even_if_the_invites_are_old():
    # A has acknowledged C, and C alone acknowledges D.
    mesh = a_mesh(F, A)
    vouchers = [mesh.invite(), mesh.invite()]
    restored = mesh.of(F)
    kept = mesh.admit(C, vouchers[0])
    far = mesh.of(A)
    far.force(Kind.CHECKPOINT, Checkpoint(bytes(32)))
    later = mesh.admit(D, vouchers[1])
    guest = mesh.of(C)
    guest.force(Kind.CHECKPOINT, Checkpoint(bytes(32)))
    restored.invite()
    for other in (far, restored):
        other.tell(guest)
    assert (why(guest, kept), why(guest, later)) == (None, Void.AUTHOR)
    assert guest.is_active(C)
    assert_judged_alike(guest)


def test_who_waits_for_an_approval_acknowledges_nothing():
    mesh = a_mesh(F, B)
    mesh.admit(A, mesh.invite(approve=True))
    _, restored, first = a_contradiction(mesh)
    late = mesh.of(A)
    late.force(Kind.CHECKPOINT, Checkpoint(bytes(32)))
    restored.invite()
    restored.tell(late)
    assert standing(late, A) == Standing.PENDING
    assert why(late, first) == Void.AUTHOR
    assert_judged_alike(late)


def test_who_was_let_in_by_another_hand_too_acknowledges():
    # E came through C, and was admitted again by A, who knows nothing of F's admission of C.
    mesh = a_mesh(F, A)
    mesh.author.set_policy(Policy(UserRole.MEMBER, UserRole.MEMBER, 0), NOW_MS)
    second = mesh.invite()
    far = mesh.of(A)
    _, restored, first = a_contradiction(mesh)
    theirs = mesh.of(C)
    theirs.bring(E)
    alone = theirs.of(E)
    alone.invite()
    restored.invite()
    restored.tell(alone)
    assert why(alone, first) == Void.AUTHOR
    far.force_admit(E, second)
    far.tell(alone)
    assert why(alone, first) == Void.AUTHOR  # what E had written, it wrote as C's guest
    known = theirs.of(E)
    far.tell(known)
    known.invite()
    restored.tell(known)
    assert why(known, first) is None
    assert known.is_active(C)
    assert_judged_alike(known)


def test_who_was_removed_acknowledges_nothing_not_even_with_its_phrase():
    # A revocation of one's own device counts whoever carries it: it speaks for the key, not for
    # the hand that wrote it.
    mesh = a_mesh(F, B)
    two = person("A of two", devices=2)
    mesh.bring(two)
    mesh.author.add_device(recover_of(mesh.membership, two, two.devices[1]), NOW_MS)
    _, restored, first = a_contradiction(mesh)
    late = mesh.of(two)
    far = restored.of(B)
    far.author.revoke_user(two.user, Why.REMOVED, NOW_MS)
    carried = late.author.revoke_device(two.key, two.devices[1].node, NOW_MS).added[0].id
    restored.invite()
    for other in (far, restored):
        other.tell(late)
    assert why(late, carried) is None
    assert standing(late, two) == Standing.DEPARTED
    assert why(late, first) == Void.AUTHOR
    assert_judged_alike(late)


def test_a_suspended_device_acknowledges_nothing():
    mesh = a_mesh(F, B)
    mesh.bring(A)
    _, restored, first = a_contradiction(mesh)
    far, late = restored.of(B), mesh.of(A)
    stop = far.author.suspend_device(A.user, A.node, NOW_MS).added[0].id
    late.force(Kind.CHECKPOINT, Checkpoint(bytes(32)))
    restored.invite()
    for other in (far, restored):
        other.tell(late)
    assert why(late, stop) is None
    assert why(late, first) == Void.AUTHOR
    assert_judged_alike(late)


def test_who_says_two_things_acknowledges_nothing_by_them():
    mesh = a_mesh(F, B)
    mesh.bring(A)
    _, restored, first = a_contradiction(mesh)
    one, other = mesh.of(A), mesh.of(A)
    for n, replica in enumerate((one, other)):
        replica.force(Kind.CHECKPOINT, Checkpoint(bytes([n]) * 32))
    other.tell(one)
    assert why(one, first) is None
    restored.invite()
    restored.tell(one)
    assert standing(one, A) == Standing.SUSPENDED
    assert why(one, first) == Void.AUTHOR
    assert_judged_alike(one)


def test_a_long_chain_of_guests_is_looked_through_once():
    # Each was invited by one and admitted by the next: ways back double with every step.
    mesh = a_mesh(F, A)
    mesh.author.set_policy(Policy(UserRole.MEMBER, UserRole.MEMBER, 0), NOW_MS)
    guests = [F, A]
    for n in range(30):
        inviter, admitter = (Replica(who, mesh.membership, vouchers=9 + n) for who in guests[-2:])
        guests.append(person(f"guest {n}"))
        admitter.admit(guests[-1], inviter.invite())
    _, restored, first = a_contradiction(mesh)
    last = mesh.of(guests[-1])
    last.force(Kind.CHECKPOINT, Checkpoint(bytes(32)))
    restored.invite()
    restored.tell(last)
    assert why(last, first) is None
