"""Each rule, and each attack that has a name."""

from dataclasses import replace

import pytest

from core import codec
from core.device_cert import DeviceCert, Role
from core.errors import FormatError
from core.labels import SignLabel
from mesh.members import derive
from mesh.members.authoring import NotAllowed
from mesh.members.bodies import (
    AddDevice,
    Admit,
    Approve,
    CloseInvite,
    Context,
    Grant,
    Kind,
    Policy,
    RevokeDevice,
    SuspendDevice,
    Unknown,
    UserRole,
)
from mesh.members.bodies import Reason as Why
from mesh.members.joining import Join, Recover
from mesh.members.operation import Operation, Place, signed
from mesh.members.rules import Void
from mesh.members.state import Concern, InviteState, Standing
from tests.support.memberships import (
    NOW_MS,
    a_mesh,
    another_device,
    concerns,
    found,
    join_of,
    person,
    recover_of,
    seeded_key,
    standing,
    terms,
    why,
)

F, A, B, C, D, E = map(person, "FABCDE")
LAPTOP = person("laptop", Role.laptop())
MUTE = person("mute", Role.STORE)


# --- coming in ------------------------------------------------------------------------------------


def test_the_founder_is_the_first_admin():
    mesh = found(F)
    member = mesh.membership.member(F.node)
    assert member.user_role == UserRole.ADMIN
    assert member.is_active
    assert member.admitted_by == F.user


def test_a_voucher_is_good_for_one():
    mesh = found(F)
    voucher = mesh.invite()
    mesh.admit(A, voucher)
    assert mesh.membership.invite(voucher.public).state == InviteState.SPENT
    assert why(mesh, mesh.force_admit(B, voucher)) == Void.SPENT
    assert mesh.membership.member(B.node) is None


def test_any_member_admits_whoever_has_a_voucher_while_the_inviter_sleeps():
    mesh = found(F)
    mesh.bring(LAPTOP)
    voucher = mesh.invite()
    second = mesh.of(LAPTOP)
    second.admit(B, voucher)
    assert second.membership.member(B.node).invited_by == F.user
    assert second.membership.member(B.node).admitted_by == LAPTOP.user
    assert second.is_active(B)


def test_but_only_an_admitter_invites():
    mesh = found(F)
    mesh.bring(A)
    mesh.bring(B, role=UserRole.ADMITTER)
    with pytest.raises(NotAllowed) as caught:
        mesh.of(A).invite()
    assert caught.value.reason == Void.NO_USER_ROLE
    mesh.of(B).invite()


def test_only_an_admin_invites_an_admitter():
    mesh = found(F)
    mesh.bring(B, role=UserRole.ADMITTER)
    with pytest.raises(NotAllowed) as caught:
        mesh.of(B).invite(role=UserRole.ADMITTER)
    assert caught.value.reason == Void.NO_ADMIN


def test_a_device_without_the_invite_role_neither_invites_nor_admits():
    mesh = found(F)
    mesh.bring(MUTE, role=UserRole.ADMITTER)
    voucher = mesh.invite()
    guest = mesh.of(MUTE)
    with pytest.raises(NotAllowed) as caught:
        guest.invite()
    assert caught.value.reason == Void.NO_INVITE_ROLE
    assert why(guest, guest.force_admit(B, voucher)) == Void.NO_INVITE_ROLE


def test_the_policy_says_who_invites_and_admits():
    mesh = found(F)
    mesh.bring(A)
    voucher = mesh.invite()
    mesh.author.set_policy(Policy(UserRole.MEMBER, UserRole.ADMITTER, 0), NOW_MS)
    guest = mesh.of(A)
    guest.invite()
    assert why(guest, guest.force_admit(B, voucher)) == Void.NO_USER_ROLE


def test_a_closed_invite_is_closed_also_to_who_did_not_know():
    mesh = found(F)
    mesh.bring(A)
    voucher = mesh.invite()
    far = mesh.of(A)
    admission = far.admit(B, voucher)
    assert far.is_active(B)
    mesh.author.close_invite(voucher.public, NOW_MS)
    mesh.meet(far)
    for replica in (mesh, far):
        assert why(replica, admission) == Void.VOUCHER
        assert not replica.is_active(B)
        assert replica.membership.invite(voucher.public).state == InviteState.CLOSED


def test_only_its_inviter_or_an_admin_closes_an_invite():
    mesh = found(F)
    mesh.bring(A)
    mesh.bring(B, role=UserRole.ADMITTER)
    voucher = mesh.of(B).invite()
    theirs = mesh.of(B)
    voucher = theirs.invite()
    theirs.tell(mesh)
    stranger = mesh.of(A)
    op = stranger.force(Kind.CLOSE_INVITE, CloseInvite(voucher.public))
    assert why(stranger, op) == Void.NO_ADMIN
    assert stranger.membership.invite(voucher.public).state == InviteState.OPEN
    mesh.author.close_invite(voucher.public, NOW_MS)
    assert mesh.membership.invite(voucher.public).state == InviteState.CLOSED


def test_an_invite_of_somebody_removed_is_closed():
    mesh = found(F)
    mesh.bring(B, role=UserRole.ADMITTER)
    theirs = mesh.of(B)
    voucher = theirs.invite()
    theirs.tell(mesh)
    mesh.author.revoke_user(B.user, Why.REMOVED, NOW_MS)
    assert mesh.membership.invite(voucher.public).state == InviteState.CLOSED
    assert why(mesh, mesh.force_admit(C, voucher)) == Void.VOUCHER


def test_two_admissions_by_one_voucher_are_both_disputed_until_an_admin_says():
    mesh = found(F)
    mesh.bring(A)
    voucher = mesh.invite()
    one, other = mesh.of(F), mesh.of(A)
    first, second = one.admit(B, voucher), other.admit(C, voucher)
    mesh.meet(one, other)
    assert {standing(mesh, B), standing(mesh, C)} == {Standing.DISPUTED}
    assert mesh.membership.invite(voucher.public).state == InviteState.DISPUTED
    assert Concern.DISPUTED in concerns(mesh)
    assert not mesh.is_active(B)
    assert not mesh.is_active(C)
    mesh.author.approve(second, NOW_MS)
    assert mesh.is_active(C)
    assert not mesh.is_active(B)
    assert why(mesh, first) is None  # it counts; it is only outweighed


def test_somebody_admitted_twice_by_members_apart_is_not_disputed():
    mesh = found(F)
    mesh.bring(A)
    voucher = mesh.invite()
    one, other = mesh.of(F), mesh.of(A)
    ids = sorted([one.admit(B, voucher), other.admit(B, voucher)])
    one.meet(other)
    assert one.is_active(B)
    assert one.membership.member(B.node) == other.membership.member(B.node)
    assert one.membership.member(B.node).operation == ids[0]  # equal heights: the lower id


def test_a_late_second_admission_does_not_shake_an_admin():
    # Whoever made the invite keeps the voucher's secret, and can write as if long ago.
    mesh = found(F)
    mesh.bring(A, role=UserRole.ADMITTER)
    theirs = mesh.of(A)
    voucher = theirs.invite()
    late = theirs.of(A)
    theirs.tell(mesh)
    mesh.admit(B, voucher)
    mesh.author.grant(B.user, UserRole.ADMIN, NOW_MS)
    late.force_admit(C, voucher)
    late.meet(mesh)
    for replica in (mesh, late):
        assert replica.is_admin(B)
        assert standing(replica, C) == Standing.DISPUTED


def test_who_must_be_approved_waits():
    mesh = found(F)
    mesh.bring(A, role=UserRole.ADMITTER)
    voucher = mesh.of(A).invite(approve=True)
    theirs = mesh.of(A)
    voucher = theirs.invite(approve=True)
    theirs.tell(mesh)
    helper = mesh.of(F)
    admission = helper.admit(B, voucher)
    assert standing(helper, B) == Standing.PENDING
    assert [m.node for m in helper.membership.pending()] == [B.node]
    assert helper.membership.invite(voucher.public).state == InviteState.PENDING
    helper.tell(theirs)
    guest = theirs.of(B)
    assert why(guest, guest.force(Kind.APPROVE, Approve(admission))) == Void.AUTHOR
    changes = theirs.author.approve(admission, NOW_MS)
    assert changes.active == (B.node,)
    assert theirs.membership.invite(voucher.public).state == InviteState.SPENT


def test_what_a_waiting_member_writes_does_not_count():
    mesh = found(F)
    voucher = mesh.invite(approve=True)
    mesh.admit(B, voucher)
    guest = mesh.of(B)
    op = guest.force(Kind.SUSPEND_DEVICE, SuspendDevice(B.user, B.node))
    assert why(guest, op) == Void.AUTHOR


def test_a_join_cannot_be_replayed_for_somebody_else():
    mesh = found(F)
    voucher = mesh.invite()
    data, by_voucher, by_device = join_of(mesh.membership, A, voucher)
    row = list(codec.decode_untrusted(data))
    row[3] = B.devices[0].cert
    with pytest.raises(Exception, match="does not verify"):
        Join.open_untrusted(codec.encode(row), by_voucher, by_device)
    other = mesh.invite()
    stolen = data, other.sign(SignLabel.PAIR_JOIN, data), by_device
    with pytest.raises(Exception, match="does not verify"):
        Join.open_untrusted(*stolen)


def test_a_join_for_another_mesh_is_not_taken():
    mesh, elsewhere = found(F), found(A)
    voucher = mesh.invite()
    join = join_of(elsewhere.membership, B, voucher)
    body = Admit(*join, Join.open_untrusted(*join))
    data = mesh.author.next(Kind.ADMIT, body, NOW_MS)
    changes = mesh.membership.receive_untrusted([data])
    assert isinstance(changes.refused[0], FormatError)


def test_a_voucher_nobody_opened_admits_nobody():
    mesh = found(F)
    op = mesh.force_admit(B, seeded_key("made up"))
    assert why(mesh, op) == Void.NO_REFERENCE
    assert mesh.membership.member(B.node) is None


def test_the_terms_of_an_invite_cannot_be_copied_by_who_sees_it():
    mesh = found(F)
    voucher = mesh.invite(approve=True)
    body = terms(voucher).signed(voucher, Context(mesh.membership.mesh_id, F.node))
    mesh.bring(B, role=UserRole.ADMITTER)
    copycat = mesh.of(B)
    data = copycat.author.next(Kind.INVITE, replace(body, approve=False), NOW_MS)
    assert copycat.membership.receive_untrusted([data]).refused  # signed for another author


def test_colliding_addresses_void_the_later_admission(monkeypatch):
    real = derive.overlay
    monkeypatch.setattr(derive, "overlay", lambda mesh, node: real(mesh, node)[:1])
    mesh = found(F)
    voucher = mesh.invite()
    assert why(mesh, mesh.force_admit(A, voucher)) == Void.COLLISION


def test_colliding_places_in_the_dht_do_too(monkeypatch):
    monkeypatch.setattr(derive, "dht_id", lambda mesh, node, op: bytes(20))
    mesh = found(F)
    assert why(mesh, mesh.force_admit(A, mesh.invite())) == Void.COLLISION


def test_unknown_types_are_carried_and_void():
    mesh = found(F)
    op = mesh.force(4711, Unknown(("what", 1, b"this")))
    assert why(mesh, op) == Void.UNKNOWN_TYPE
    assert op in mesh.of(F).membership.set


# --- devices --------------------------------------------------------------------------------------


def add(mesh, who, device):
    recover = recover_of(mesh.membership, who, device)
    return mesh.force(Kind.ADD_DEVICE, AddDevice(*recover, Recover.open_untrusted(*recover)))


def test_a_users_key_adds_a_device_whoever_carries_it():
    mesh = found(F)
    mesh.bring(A)
    new = another_device(F, "new")
    helper = mesh.of(A)
    assert why(helper, add(helper, F, new)) is None
    assert helper.membership.member(new.node).user == F.user
    assert helper.membership.can(new.node, UserRole.ADMIN)


def test_not_for_who_is_no_member():
    mesh = found(F)
    new = another_device(B, "new")
    assert why(mesh, add(mesh, B, new)) == Void.NOT_MEMBER


def test_a_device_belongs_to_its_first_user():
    mesh = found(F)
    mesh.bring(A)
    shared = another_device(A, "shared", keys=F.devices[0].keys)
    assert why(mesh, add(mesh, A, shared)) == Void.NODE_TAKEN
    assert mesh.membership.member(F.node).user == F.user


def test_the_newest_certificate_says_what_a_device_may_and_old_ones_are_not_replayed():
    mesh = found(F)
    old = recover_of(mesh.membership, F, F.devices[0])
    less = another_device(F, "F", roles=Role.STORE, keys=F.devices[0].keys)
    assert why(mesh, add(mesh, F, less)) is None
    assert not mesh.membership.can(F.node, Role.ADMIN)
    replay = mesh.force(Kind.ADD_DEVICE, AddDevice(*old, Recover.open_untrusted(*old)))
    assert why(mesh, replay) == Void.STALE_CERT
    assert not mesh.membership.can(F.node, Role.ADMIN)
    assert why(mesh, mesh.force(Kind.GRANT, Grant(F.user, UserRole.ADMIN))) == Void.NO_QUORUM


def test_less_roles_count_also_against_what_was_done_at_the_same_time():
    mesh = found(F)
    mesh.bring(A)
    thief = mesh.of(F)
    op = thief.force(Kind.GRANT, Grant(A.user, UserRole.ADMIN))
    assert thief.is_admin(A)
    add(mesh, F, another_device(F, "F", roles=Role.STORE, keys=F.devices[0].keys))
    mesh.meet(thief)
    assert why(mesh, op) == Void.NO_QUORUM
    assert not mesh.is_admin(A)


def test_any_device_of_a_user_suspends_another_and_only_the_phrase_lifts_it():
    who = person("two", devices=2)
    mesh = found(F)
    mesh.bring(who)
    add(mesh, who, who.devices[1])
    pc = mesh.of(who, who.devices[1].key)
    pc.author.suspend_device(who.user, who.node, NOW_MS)
    assert standing(pc, who) == Standing.SUSPENDED
    suspension = pc.membership.set.heads[0].id
    thief = pc.of(who)
    assert why(thief, thief.force(Kind.CHECKPOINT, Unknown((bytes(32),)))) is not None
    lift = SuspendDevice(who.user, who.node, suspension)
    assert why(pc, pc.force(Kind.SUSPEND_DEVICE, lift)) == Void.USER_KEY
    pc.author.lift_suspension(who.user, who.node, suspension, who.key, NOW_MS)
    assert standing(pc, who) == Standing.ACTIVE


def test_two_devices_that_suspend_each_other_both_wait_for_the_phrase():
    who = person("two", devices=2)
    mesh = found(F)
    mesh.bring(who)
    add(mesh, who, who.devices[1])
    one, other = mesh.of(who), mesh.of(who, who.devices[1].key)
    one.force(Kind.SUSPEND_DEVICE, SuspendDevice(who.user, who.devices[1].node))
    other.force(Kind.SUSPEND_DEVICE, SuspendDevice(who.user, who.node))
    one.meet(other)
    for device in who.devices:
        assert one.membership.member(device.node).standing == Standing.SUSPENDED


def test_an_admin_suspends_a_members_device_but_not_alone_an_admins():
    mesh = a_mesh(F, A, B)
    mesh.bring(C)
    mesh.author.suspend_device(C.user, C.node, NOW_MS)
    assert standing(mesh, C) == Standing.SUSPENDED
    suspension = mesh.membership.set.heads[0].id
    with pytest.raises(NotAllowed):  # what admins did, the phrase of another does not undo
        mesh.author.lift_suspension(A.user, C.node, suspension, None, NOW_MS)
    own = mesh.of(C)
    lift = SuspendDevice(C.user, C.node, suspension)
    words = lift.words(own.membership.mesh_id)
    lift = replace(lift, by_user=C.key.sign(SignLabel.MEMBER_DEVICE, words))
    assert why(own, own.force(Kind.SUSPEND_DEVICE, lift)) == Void.NO_ADMIN
    mesh.author.lift_suspension(C.user, C.node, suspension, None, NOW_MS)
    assert standing(mesh, C) == Standing.ACTIVE
    with pytest.raises(NotAllowed) as caught:
        mesh.author.suspend_device(A.user, A.node, NOW_MS)
    assert caught.value.reason == Void.NO_QUORUM


def test_nobody_suspends_and_suspends_and_suspends(monkeypatch):
    monkeypatch.setattr("core.limits.REMOVALS_REPEATED_MAX", 3)
    mesh = found(F)
    mesh.bring(A)
    ops = [mesh.force(Kind.SUSPEND_DEVICE, SuspendDevice(A.user, A.node)) for _ in range(5)]
    assert [why(mesh, op) for op in ops] == [None] * 3 + [Void.REPEATED] * 2


def test_a_revoked_device_never_comes_back():
    mesh = found(F)
    mesh.bring(A)
    mesh.author.revoke_device(A.key, A.node, NOW_MS)
    assert standing(mesh, A) == Standing.REVOKED
    again = another_device(A, "A", keys=A.devices[0].keys)
    assert why(mesh, add(mesh, A, again)) == Void.NODE_REMOVED
    assert why(mesh, mesh.force_admit(A, mesh.invite())) == Void.NODE_REMOVED
    new = another_device(A, "new")
    assert why(mesh, add(mesh, A, new)) is None
    assert mesh.membership.member(new.node).is_active


def test_an_old_certificate_does_not_lift_a_suspension():
    mesh = found(F)
    mesh.bring(A)
    mesh.author.suspend_device(A.user, A.node, NOW_MS)
    again = another_device(A, "A", keys=A.devices[0].keys)
    assert why(mesh, add(mesh, A, again)) == Void.NODE_REMOVED
    assert standing(mesh, A) == Standing.SUSPENDED


def test_nobody_revokes_a_device_with_another_users_key():
    mesh = found(F)
    mesh.bring(A)
    words = RevokeDevice(A.user, F.node, b"", b"").words(mesh.membership.mesh_id)
    body = RevokeDevice(A.user, F.node, b"", A.key.sign(SignLabel.MEMBER_DEVICE, words))
    assert why(mesh, mesh.force(Kind.REVOKE_DEVICE, body)) == Void.NOT_THEIRS
    assert mesh.is_active(F)


def test_a_revoked_device_writes_in_vain_before_and_after():
    mesh = found(F)
    mesh.bring(A, role=UserRole.ADMITTER)
    thief = mesh.of(A)
    early = thief.invite()
    mesh.author.revoke_device(A.key, A.node, NOW_MS)
    mesh.meet(thief)
    assert thief.membership.invite(early.public) is None  # it was not known to the revocation
    op = thief.force(
        Kind.INVITE, terms(early).signed(early, Context(mesh.membership.mesh_id, A.node))
    )
    assert why(thief, op) == Void.AUTHOR


def test_a_user_has_a_bounded_number_of_devices(monkeypatch):
    monkeypatch.setattr("core.limits.DEVICES_PER_USER_MAX", 2)
    mesh = found(F)
    assert why(mesh, add(mesh, F, another_device(F, "second"))) is None
    assert why(mesh, add(mesh, F, another_device(F, "third"))) == Void.TOO_MANY


def test_a_certificate_in_an_operation_is_the_users():
    stranger = DeviceCert.open_untrusted(A.devices[0].cert)
    assert stranger.user != F.user


# --- strangers ------------------------------------------------------------------------------------


def test_an_operation_of_another_mesh_is_refused():
    mesh, elsewhere = found(F), found(A)
    elsewhere.invite()
    changes = mesh.membership.receive_untrusted([op.data for op in elsewhere.membership.set.ops])
    assert len(changes.refused) == 2
    assert not changes.added


def test_a_stranger_has_no_place_to_write():
    mesh = found(F)
    genesis = mesh.membership.set.ops[0]
    place = Place(seq=0, parents=(genesis.id,), lamport=1)
    data = signed(
        E.device, mesh.membership.mesh_id, Kind.GRANT, Grant(E.user, UserRole.ADMIN), place
    )
    changes = mesh.membership.receive_untrusted([data])
    assert "stranger" in str(changes.refused[0])
    assert Operation.open_untrusted(data, mesh.membership.mesh_id).id not in mesh.membership.set


def test_when_no_admin_is_left_the_founders_phrase_begins_again():
    mesh = a_mesh(F, A)
    mesh.author.drop(A.user, UserRole.ADMIN, NOW_MS)
    mesh.author.drop(F.user, UserRole.ADMIN, NOW_MS)
    assert not mesh.is_admin(F)
    op = mesh.force(Kind.GRANT, Grant(F.user, UserRole.ADMIN))
    assert why(mesh, op) == Void.NO_QUORUM
    other = mesh.of(A)
    op = other.cosigned(Kind.GRANT, Grant(A.user, UserRole.ADMIN), [(A, A.key)])
    assert why(other, op) == Void.NO_QUORUM
    mesh.cosigned(Kind.GRANT, Grant(F.user, UserRole.ADMIN), [(F, F.key)])
    assert mesh.is_admin(F)
