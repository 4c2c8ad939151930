import pytest

from core import limits
from core.device_cert import Role
from core.errors import FormatError, IntegrityError, NewerFormat
from mesh.members.bodies import Grant, Kind, Numbered, RevokeUser, UserRole
from mesh.members.bodies import Reason as Why
from mesh.members.membership import LOG_HEADER, Membership, log_record
from mesh.members.rules import Void
from tests.support.memberships import NOW_MS, Replica, a_mesh, found, genesis_of, person

F, A, B = map(person, "FAB")


def test_the_file_is_read_as_it_was_written():
    mesh = a_mesh(F, A)
    data = mesh.membership.dump()
    again, size = Membership.load_untrusted(data)
    assert size == len(data)
    assert again.dump() == data
    assert again.news() == mesh.membership.news()
    assert again.state == mesh.membership.state


def test_the_file_grows_by_what_was_added():
    mesh = found(F)
    data = mesh.membership.dump()
    assert data[: len(LOG_HEADER)] == LOG_HEADER
    changes = mesh.author.next_epoch(bytes(32), NOW_MS)
    data += b"".join(map(log_record, changes.added))
    assert data == mesh.membership.dump()


def test_a_torn_end_costs_what_was_torn_and_nothing_else():
    mesh = a_mesh(F, A)
    data = mesh.membership.dump()
    last = len(log_record(mesh.membership.set.ops[-1]))
    for cut in (1, 3, 4, 5, last - 1, last):
        again, size = Membership.load_untrusted(data[:-cut])
        assert size == len(data) - last
        assert len(again.set) == len(mesh.membership.set) - 1
    again, size = Membership.load_untrusted(data + bytes(100))  # room that was never written
    assert size == len(data)


def test_records_in_any_order_after_the_first():
    ops = a_mesh(F, A, B).membership.set.ops
    records = [log_record(op) for op in ops]
    data = LOG_HEADER + b"".join([records[0], *reversed(records[1:])])
    again, _ = Membership.load_untrusted(data)
    assert len(again.set) == len(ops)


@pytest.mark.parametrize("at", [0, 3, 20, 400, -30])
def test_a_damaged_file_is_refused(at):
    data = bytearray(a_mesh(F, A).membership.dump())
    data[at] ^= 1
    with pytest.raises((FormatError, IntegrityError)):
        Membership.load_untrusted(bytes(data))


def test_a_file_of_a_newer_portal():
    with pytest.raises(NewerFormat):
        Membership.load_untrusted(b"PTML\2" + bytes(10))
    for short in (b"", b"PTML", LOG_HEADER):
        with pytest.raises(FormatError):
            Membership.load_untrusted(short)


def test_changes_say_who_may_connect_and_who_no_longer():
    mesh = a_mesh(F, A)
    other = mesh.of(A)
    mesh.bring(B)
    changes = mesh.tell(other)
    assert [op.kind for op in changes.added] == [Kind.INVITE, Kind.ADMIT]
    assert changes.active == (B.node,)
    assert changes.barred == ()
    mesh.author.revoke_user(B.user, Why.COMPROMISED, NOW_MS)
    changes = mesh.tell(other)
    assert changes.barred == (B.node,)
    assert mesh.tell(other).added == ()
    mesh.author.next_epoch(bytes(32), NOW_MS)
    assert mesh.tell(other).epoch == 1


def test_what_is_wrong_does_not_keep_out_what_is_right():
    mesh = a_mesh(F, A)
    other, _ = Membership.load_untrusted(found(F).membership.dump())
    ops = [op.data for op in mesh.membership.set.ops[1:]]
    bad = bytearray(ops[0])
    bad[-1] ^= 1
    changes = other.receive_untrusted([b"", bytes(bad), *ops, genesis_of(A)])
    assert len(changes.refused) == 3
    assert len(changes.added) == len(ops)
    assert other.state.hash() == mesh.membership.state.hash()


def test_news_change_with_the_operations():
    mesh = found(F)
    news = mesh.membership.news()
    assert news.heads == (mesh.membership.set.ops[0].id,)
    mesh.author.next_epoch(bytes(32), NOW_MS)
    later = mesh.membership.news()
    assert later.epoch == 1
    assert later.vector != news.vector
    assert later.heads != news.heads


def test_can_asks_for_both_kinds_of_roles_of_who_is_active():
    mesh = found(F)
    mesh.bring(A)
    membership = mesh.membership
    assert membership.can(F.node, Role.ADMIN)
    assert membership.can(F.node, UserRole.ADMIN)
    assert membership.can(A.node, Role.STORE)
    assert not membership.can(A.node, Role.ADMIN)
    assert not membership.can(A.node, UserRole.ADMITTER)
    assert not membership.can(B.node, UserRole.MEMBER)
    mesh.author.suspend_device(A.user, A.node, NOW_MS)
    assert not membership.can(A.node, Role.STORE)


def test_the_roster_follows():
    mesh = found(F)
    roster = mesh.membership.roster()
    assert roster.mesh_id == mesh.membership.mesh_id
    assert roster.member(A.node) is None
    mesh.bring(A)
    found_there = roster.member(A.node)
    assert (found_there.node, found_there.user, found_there.name) == (A.node, A.user, "A")
    mesh.author.revoke_user(A.user, Why.REMOVED, NOW_MS)
    assert roster.member(A.node) is None
    assert mesh.membership.member(A.node) is not None


def test_a_void_operation_of_our_own_is_not_written():
    mesh = found(F)
    mesh.bring(A)
    guest = mesh.of(A)
    data = guest.author.next(Kind.REVOKE_USER, RevokeUser(F.user, Why.REMOVED), NOW_MS)
    assert guest.membership.write(data) == Void.NO_QUORUM
    assert len(guest.membership.set) == len(mesh.membership.set)
    assert [m.node for m in guest.membership.devices(A.user)] == [A.node]


def records_of(data):
    """Where each operation begins in a file."""
    at, found_at = len(LOG_HEADER), []
    while at < len(data):
        found_at.append(at)
        at += 4 + int.from_bytes(data[at : at + 4])
    return found_at


def test_a_paper_is_written_once_it_counts_whatever_came_after_it():
    mesh = a_mesh(F, A, person("C"))
    mesh.bring(B)
    proposal = mesh.author.propose(Kind.GRANT, Grant(B.user, UserRole.ADMIN))
    both = [proposal.cosigned(who.device, who.user) for who in (F, A)]

    def written_by(who, cosigns):
        pen = Replica(who, mesh.membership).author
        mesh.take(pen.next(proposal.kind, proposal.body, NOW_MS, proposal, cosigns))

    assert not mesh.membership.is_written(proposal)
    written_by(B, both[1:])  # too few
    assert not mesh.membership.is_written(proposal)
    written_by(F, both)
    assert mesh.is_admin(B)
    assert mesh.membership.is_written(proposal)
    Replica(B, mesh.membership).author.drop(B.user, UserRole.ADMITTER, NOW_MS)
    assert not mesh.is_admin(B)
    assert mesh.membership.is_written(proposal)


def test_what_devices_wrote_beside_some_point():
    mesh = a_mesh(F, A)
    parents = mesh.author.parents()
    own = mesh.author.next_epoch(bytes(32), NOW_MS).added[0]
    voucher = Replica(A, mesh.membership).invite()
    theirs = mesh.membership.invite(voucher.public)
    unknown = mesh.membership.unknown_at
    assert unknown(parents, [F.node]) == [own]
    (found,) = unknown(parents, [A.node])
    assert found.body.voucher == theirs.voucher
    assert unknown(parents, [F.node, A.node, B.node]) == [own, found]
    assert unknown([own.id], [F.node]) == []


def test_of_a_damaged_file_all_that_is_sound_is_taken():
    mesh = a_mesh(F, A)
    mesh.bring(B)
    data = mesh.membership.dump()
    places = records_of(data)
    for number, at in enumerate(places[1:], 1):
        harmed = bytearray(data)
        harmed[at + 60] ^= 1
        kept = Membership.recall_untrusted(bytes(harmed))
        assert f"of {len(places)} entries" in kept.harm.what
        ids = {op.id for op in kept.membership.set.ops}
        below = [op.id for op in mesh.membership.set.ops[:number]]
        assert ids >= set(below)
        assert mesh.membership.set.ops[number].id not in ids
        mesh.tell(Replica(A, kept.membership))  # the rest comes from others
        assert kept.membership.state.hash() == mesh.membership.state.hash()


def test_a_length_that_leads_nowhere_is_damage_and_a_torn_end_is_not():
    data = a_mesh(F, A).membership.dump()
    at = records_of(data)[2]
    for harm in (b"\xff\0\0\0", b"\0\0\xff\xff"):
        kept = Membership.recall_untrusted(data[:at] + harm + data[at + 4 :])
        assert "its end is lost" in kept.harm.what
        assert len(kept.membership.set) == 2
        assert kept.size == at
    hole = data[:at] + bytes(4) + data[at + 4 :]
    assert "its end is lost" in Membership.recall_untrusted(hole).harm.what
    for torn in (data[: at + 50], data[: at + 2], data[:at], data[:at] + bytes(99)):
        assert Membership.recall_untrusted(torn).harm is None


def test_what_an_author_wrote_beyond_its_bound_and_others_built_on_is_no_damage(monkeypatch):
    mesh = found(F)
    mesh.bring(A)
    mesh.author.next_epoch(bytes(32), NOW_MS)
    guest = mesh.of(A)
    guest.force(Kind.EPOCH, Numbered(2, bytes(32)))
    data = guest.membership.dump()
    monkeypatch.setattr(limits, "OPERATIONS_PER_AUTHOR_MAX", 3)
    kept = Membership.recall_untrusted(data)
    assert kept.harm is None
    assert len(kept.membership.set) == len(guest.membership.set)
