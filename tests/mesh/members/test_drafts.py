"""What a draft says and is worth; that drafts merge in any order, and nobody signs for another."""

from dataclasses import replace
from functools import cache
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, limits
from core.device_cert import Role
from core.errors import FormatError, IntegrityError, NewerFormat
from core.labels import SignLabel
from mesh.members.bodies import Drop, Grant, Kind, Numbered, SuspendDevice, UserRole
from mesh.members.drafts import Draft, Drafts, Paper, same_act
from mesh.members.operation import Proposal
from mesh.members.rules import Void
from mesh.members.state import Standing
from tests.support.memberships import (
    NOW_MS,
    NOW_S,
    Replica,
    a_mesh,
    another_device,
    person,
    recover_of,
    revoke,
    standing,
    why,
)

F, A, B, C, D = map(person, "FABCD")
LAPTOP = person("laptop", Role.laptop())
UNTIL_S = NOW_S + limits.DRAFT_SECONDS


@pytest.fixture
def mesh():
    """Four admins, of whom three must sign; and D."""
    mesh = a_mesh(F, A, B, C)
    mesh.bring(D)
    return mesh


def begun(mesh, act, by=F, now_s=NOW_S, signers=None):
    """A draft, signed by who began it, or by others."""
    proposal = Replica(by, mesh.membership).author.propose(*act)
    paper = Paper.written(by.device, by.user, proposal, now_s)
    return signed(Draft(paper), *([by] if signers is None else signers))


def signed(draft, *by, key=None):
    proposal = draft.paper.proposal
    more = [proposal.cosigned(key or who.device, who.user) for who in by]
    return replace(draft, cosigns=(*draft.cosigns, *more))


def publish(mesh, draft, by=D):
    """What comes of it, written by somebody who is no admin."""
    pen, paper = Replica(by, mesh.membership).author, draft.paper.proposal
    return mesh.take(pen.next(paper.kind, paper.body, NOW_MS, paper, draft.cosigns))


def a_book(mesh, *drafts, now_s=NOW_S):
    book = Drafts(mesh.membership)
    for one in drafts:
        assert book.put(one, now_s) is not None
    return book


def names(users):
    known = {who.user: who.name for who in (F, A, B, C, D, LAPTOP)}
    return "".join(sorted(known[user] for user in users))


# --- what travels ---------------------------------------------------------------------------------


def read(draft, mesh):
    row = codec.decode_untrusted(codec.encode(draft.row()))
    return Draft.read_untrusted(row, mesh.membership.mesh_id)


def test_a_draft_travels_as_it_is(mesh):
    draft = signed(begun(mesh, revoke(A)), B)
    assert read(draft, mesh) == draft
    ended = draft.taken_back(F.device)
    assert (read(ended, mesh), ended.cosigns) == (ended, ())
    assert ended.id == draft.id
    assert draft.paper.until_s == UNTIL_S


@cache
def a_full_draft():
    """Taken back and signed: so that every field is there."""
    mesh = a_mesh(F, A)
    draft = begun(mesh, revoke(A)).taken_back(F.device)
    return mesh, replace(draft, cosigns=signed(draft, F).cosigns)


@given(st.data())
def test_a_flipped_bit_is_seen(data):
    mesh, draft = a_full_draft()
    encoded = bytearray(codec.encode(draft.row()))
    at = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[at // 8] ^= 1 << at % 8
    try:
        row = codec.decode_untrusted(bytes(encoded))
        found = Draft.read_untrusted(row, mesh.membership.mesh_id)
    except (FormatError, IntegrityError):
        return
    # The user in a cosignature of a device is not signed: what it is worth, the mesh knows.
    assert found.cosigns[0].user != F.user
    assert Drafts(mesh.membership).signers(found) == set()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({0: 2}, "version 2"),
        ({1: bytes(32)}, "another mesh"),
        ({2: 13, 4: (1, b"")}, "does not sign together"),
        ({3: ()}, "does not sign together"),
        ({4: ()}, "not an array"),
        ({7: UNTIL_S}, "longer than any"),
        ({8: UNTIL_S + 1}, "longer than any"),
        ({8: NOW_S}, "longer than any"),
    ],
)
def test_a_paper_that_says_something_else_is_refused(mesh, change, match):
    row = list(codec.decode_untrusted(begun(mesh, revoke(A)).paper.data))
    for place, value in change.items():
        row[place] = value
    data = codec.encode(row)
    signature = F.device.sign(SignLabel.MEMBER_DRAFT, data)
    with pytest.raises(FormatError, match=match):
        Paper.read_untrusted(data, signature, mesh.membership.mesh_id)


def test_what_one_user_key_signs_alone_is_not_drafted(mesh):
    body = SuspendDevice(A.user, A.node)
    words = body.words(mesh.membership.mesh_id)
    body = replace(body, by_user=A.key.sign(SignLabel.MEMBER_DEVICE, words))
    draft = begun(mesh, (Kind.SUSPEND_DEVICE, body))
    with pytest.raises(FormatError, match="needs one signature"):
        read(draft, mesh)


def test_acts_of_a_later_portal_are_told_apart_from_nonsense(mesh):
    draft = begun(mesh, (Kind.COMMITTEE, Numbered(1, b"")))
    with pytest.raises(NewerFormat):
        read(draft, mesh)


def test_the_id_is_that_of_the_paper(mesh):
    # Pinned: two Portals must mean the same one.
    proposal = Proposal(mesh.membership.mesh_id, Kind.DROP, (bytes(32),), Drop(A.user, UserRole(1)))
    paper = Paper.written(F.device, F.user, proposal, NOW_S)
    again = Paper.written(F.device, F.user, proposal, NOW_S + 1)
    assert paper.id.hex()[:16] == PINNED
    assert again.id != paper.id


PINNED = "9c60fbd2741aec8a"


# --- what it is worth -----------------------------------------------------------------------------


def test_enough_signatures_are_an_operation_whoever_writes_it(mesh):
    draft = begun(mesh, revoke(A))
    book = a_book(mesh, draft)
    assert (names(book.admins(draft)), book.needed(draft)) == ("ABCF", 3)
    for who, complete in ((B, False), (C, True)):
        draft = book.put(signed(draft, who), NOW_S)
        assert book.is_complete(draft) == complete
    assert why(mesh, publish(mesh, draft)) is None
    assert standing(mesh, A) == Standing.DEPARTED
    assert book.prune(NOW_S)
    assert book.all() == []
    assert book.put(draft, NOW_S) is None  # it comes again, from who has not heard


def test_one_signature_less_is_void(mesh):
    draft = signed(begun(mesh, revoke(A)), B)
    assert why(mesh, publish(mesh, draft)) == Void.NO_QUORUM


def test_a_draft_stays_good_while_the_mesh_goes_on(mesh):
    draft = signed(begun(mesh, revoke(A)), B)
    book = a_book(mesh, draft)
    for who in map(person, ("new 1", "new 2")):
        mesh.bring(who)
    mesh.cosigned(Kind.GRANT, Grant(D.user, UserRole.ADMIN), [(A, A.device), (B, B.device)])
    assert (names(book.admins(draft)), book.needed(draft)) == ("ABCF", 3)
    assert not book.may_sign(draft, D.user)  # was none when it was begun: so says the mesh too
    assert why(mesh, publish(mesh, signed(draft, D))) == Void.NO_QUORUM
    assert book.put(signed(draft, D), NOW_S) is None
    draft = book.put(signed(draft, C), NOW_S)
    assert book.is_complete(draft)
    assert why(mesh, publish(mesh, draft)) is None


def test_what_its_subject_did_since_falls_with_it(mesh):
    draft = signed(begun(mesh, revoke(A)), B, C)
    voucher = Replica(A, mesh.membership).invite()
    assert mesh.membership.invite(voucher.public) is not None
    publish(mesh, draft)
    state = mesh.membership.invite(voucher.public)
    assert state is None or state.state != "open"


def test_whom_it_is_about_does_not_sign_it(mesh):
    draft = begun(mesh, revoke(A))
    book = a_book(mesh, draft)
    assert not book.may_sign(draft, A.user)
    assert book.put(signed(draft, A), NOW_S) is None
    own = begun(mesh, (Kind.GRANT, Grant(D.user, UserRole.ADMIN)), by=A)
    assert a_book(mesh, own).may_sign(own, A.user)


def test_who_is_no_admin_signs_for_nobody_nor_with_another_key(mesh):
    mesh.bring(LAPTOP)
    draft = begun(mesh, revoke(A))
    book = a_book(mesh, draft)
    stranger = person("stranger")
    for cosigns in (
        signed(draft, D).cosigns,
        signed(draft, B, key=D.device).cosigns,  # says it is B, with a device that is not
        signed(draft, B, key=stranger.device).cosigns,
        signed(draft, B, key=C.device).cosigns,  # nor with that of another admin
    ):
        assert book.put(replace(draft, cosigns=cosigns), NOW_S) is None
    by_key = book.put(signed(draft, B, key=B.key), NOW_S)
    assert names(book.signers(by_key)) == "BF"


def test_a_machine_that_may_not_administer_signs_for_nobody(mesh):
    other = another_device(B, "everyday", roles=Role.laptop())
    mesh.author.add_device(recover_of(mesh.membership, B, other), NOW_MS)
    draft = begun(mesh, revoke(A))
    book = a_book(mesh, draft)
    assert book.put(signed(draft, B, key=other.key), NOW_S) is None


def test_everybody_signs_once_and_nobody_takes_anothers_place(mesh):
    draft = begun(mesh, revoke(A))
    book = a_book(mesh, draft)
    junk = [signed(draft, B, key=person(f"junk {n}").device).cosigns[-1] for n in range(15)]
    assert book.put(replace(draft, cosigns=tuple(junk)), NOW_S) is None
    assert book.put(signed(draft, F, key=F.key), NOW_S) is None
    found = book.put(signed(draft, B, B, C), NOW_S)
    assert names(one.user for one in found.cosigns) == "BCF"


def test_the_signature_of_who_is_no_admin_any_more_counts_no_longer(mesh):
    draft = signed(begun(mesh, revoke(A)), B)
    book = a_book(mesh, draft)
    Replica(B, mesh.membership).author.drop(B.user, UserRole.ADMIN, NOW_MS)
    assert names(book.signers(draft)) == "F"
    full = signed(draft, C)
    assert (len(full.cosigns), book.is_complete(full)) == (3, False)
    assert not book.may_sign(draft, B.user)
    assert names(book.signers(signed(draft, B, key=B.key))) == "F"
    assert not book.is_complete(book.put(signed(draft, C), NOW_S))
    assert why(mesh, publish(mesh, signed(draft, C))) == Void.NO_QUORUM


@pytest.mark.parametrize(
    ("act", "count"),
    [
        (revoke(A), 2),
        ((Kind.DROP, Drop(A.user, UserRole.ADMIN)), 2),
        ((Kind.SUSPEND_DEVICE, SuspendDevice(A.user, A.node)), 1),
        ((Kind.SUSPEND_DEVICE, SuspendDevice(A.user, A.node, bytes(32))), 0),
        ((Kind.GRANT, Grant(A.user, UserRole.ADMIN)), 0),
    ],
)
def test_what_its_subject_did_since_is_counted_where_it_may_fall(mesh, act, count):
    other = another_device(A, "second")
    mesh.author.add_device(recover_of(mesh.membership, A, other), NOW_MS)
    Replica(A, mesh.membership).invite()
    draft = begun(mesh, act)
    book = Drafts(mesh.membership)
    assert book.since(draft) == []
    Replica(B, mesh.membership).invite()  # is not what it is about
    first = Replica(A, mesh.membership).author.next_epoch(bytes(32), NOW_MS).added[0]
    Replica(A, mesh.membership, other.key).author.next_epoch(bytes(32), NOW_MS)
    assert len(book.since(draft)) == count
    assert count != 1 or book.since(draft) == [first]


def test_of_a_removal_that_cuts_all_behind_the_cut_is_counted(mesh):
    pen = Replica(A, mesh.membership).author
    first, second = (pen.next_epoch(bytes(32), NOW_MS).added[0] for _ in range(2))
    draft = begun(mesh, revoke(A, first.id))
    assert Drafts(mesh.membership).since(draft) == [second]


# --- what becomes of it ---------------------------------------------------------------------------


def test_it_ends_with_its_time(mesh):
    draft = begun(mesh, revoke(A))
    book = a_book(mesh, draft, now_s=UNTIL_S - 1)
    book.prune(UNTIL_S)
    assert list(book) == book.all() == []
    assert book.put(draft, UNTIL_S) is None


def test_a_clock_that_is_far_ahead_makes_no_drafts_for_later(mesh):
    late = begun(mesh, revoke(A), now_s=NOW_S + limits.DRAFT_AHEAD_SECONDS + 1)
    assert Drafts(mesh.membership).put(late, NOW_S) is None
    assert Drafts(mesh.membership).put(late, NOW_S + 1) is not None


def test_what_was_taken_back_stays_so(mesh):
    draft = begun(mesh, revoke(A))
    book = a_book(mesh, draft)
    ended = book.put(draft.taken_back(F.device), NOW_S)
    assert list(book) == []
    for again in (draft, signed(draft, B, C), ended):
        assert book.put(again, NOW_S) is None
    fresh = a_book(mesh, ended)  # who hears of both in the other order
    assert fresh.put(signed(draft, B), NOW_S) is None
    assert fresh.all() == [ended]


def test_what_was_taken_back_stays_so_when_it_is_wanted_again(mesh):
    # It is done by another paper meanwhile, and undone.
    act = Kind.SUSPEND_DEVICE, SuspendDevice(A.user, A.node)
    signers = [(who, who.device) for who in (B, C)]
    draft = signed(begun(mesh, act), B)
    book = a_book(mesh, draft.taken_back(F.device))
    stopped = mesh.cosigned(*act, signers)
    book.prune(NOW_S)
    mesh.cosigned(Kind.SUSPEND_DEVICE, SuspendDevice(A.user, A.node, stopped), signers)
    assert book.put(draft, NOW_S) is None
    assert list(book) == []


def test_only_who_began_it_takes_it_back(mesh):
    draft = begun(mesh, revoke(A))
    forged = B.device.sign(SignLabel.MEMBER_DRAFT_END, draft.id)
    with pytest.raises(IntegrityError):
        read(replace(draft, end=forged), mesh)


def test_what_is_taken_back_takes_room_until_it_would_have_ended(mesh):
    book = Drafts(mesh.membership)
    for n in range(limits.DRAFTS_PER_USER_MAX):
        draft = begun(mesh, revoke(A), now_s=NOW_S - n)
        assert book.put(draft.taken_back(F.device) if n else draft, NOW_S) is not None
    one_more = begun(mesh, revoke(B))
    assert book.put(one_more, NOW_S) is None
    assert book.put(begun(mesh, revoke(A), by=B), NOW_S) is not None
    assert book.put(one_more, UNTIL_S - 1) is not None


def test_there_is_room_for_so_many(mesh, monkeypatch):
    monkeypatch.setattr(limits, "DRAFTS_MAX", 2)
    book = a_book(mesh, begun(mesh, revoke(A)), begun(mesh, revoke(A), by=B))
    assert book.put(begun(mesh, revoke(A), by=C), NOW_S) is None


def test_who_knows_less_waits(mesh):
    far = mesh.of(B)
    mesh.bring(person("new"))
    draft = begun(mesh, revoke(A))
    book = Drafts(far.membership)
    assert not book.is_known(draft)
    assert book.put(draft, NOW_S) is None
    mesh.tell(far)
    assert book.put(draft, NOW_S) is not None


def test_only_an_admin_begins_one(mesh):
    for by in (D, A):
        draft = begun(mesh, revoke(B), by=by, signers=[F])
        assert (Drafts(mesh.membership).put(draft, NOW_S) is None) == (by is D)
    paper = begun(mesh, revoke(B), by=D).paper
    claimed = Paper.written(D.device, F.user, paper.proposal, NOW_S)
    assert Drafts(mesh.membership).put(signed(Draft(claimed), F), NOW_S) is None


def test_it_is_over_when_its_maker_is_no_admin_any_more(mesh):
    book = a_book(mesh, begun(mesh, revoke(A), by=B))
    mesh.cosigned(Kind.DROP, Drop(B.user, UserRole.ADMIN), [(A, A.device), (C, C.device)])
    assert book.prune(NOW_S)


def test_of_two_that_put_each_other_out_the_first_that_is_complete_ends_the_other(mesh):
    ours, theirs = begun(mesh, revoke(A)), begun(mesh, revoke(F), by=A)
    book = a_book(mesh, ours, theirs)
    assert len(list(book)) == 2
    publish(mesh, signed(ours, B, C))
    book.prune(NOW_S)
    assert list(book) == []


@pytest.mark.parametrize(
    "act",
    [
        (Kind.GRANT, Grant(D.user, UserRole.ADMIN)),
        (Kind.DROP, Drop(A.user, UserRole.ADMITTER)),
        (Kind.SUSPEND_DEVICE, SuspendDevice(A.user, A.node)),
    ],
)
def test_it_is_over_when_it_is_so_anyway(mesh, act):
    book = a_book(mesh, begun(mesh, act))
    assert not book.prune(NOW_S)
    mesh.cosigned(*act, [(who, who.device) for who in (B, C)])
    assert book.prune(NOW_S)
    assert book.all() == []


def test_it_is_over_for_good_once_it_is_written_though_it_was_undone(mesh):
    draft = signed(begun(mesh, (Kind.GRANT, Grant(D.user, UserRole.ADMIN))), B, C)
    book = a_book(mesh, draft)
    publish(mesh, draft, by=F)
    assert mesh.is_admin(D)
    Replica(D, mesh.membership).author.drop(D.user, UserRole.ADMITTER, NOW_MS)
    assert not mesh.is_admin(D)
    assert book.is_over(draft, NOW_S)
    assert book.prune(NOW_S)
    assert book.put(draft, NOW_S) is None
    again = begun(mesh, (Kind.GRANT, Grant(D.user, UserRole.ADMIN)))  # another paper
    assert book.put(again, NOW_S) is not None


def test_letting_back_is_over_when_the_device_is_back(mesh):
    signers = [(who, who.device) for who in (B, C)]
    stopped = mesh.cosigned(Kind.SUSPEND_DEVICE, SuspendDevice(A.user, A.node), signers)
    act = Kind.SUSPEND_DEVICE, SuspendDevice(A.user, A.node, stopped)
    book = a_book(mesh, begun(mesh, act))
    mesh.cosigned(*act, signers)
    assert book.prune(NOW_S)


def test_any_order_of_hearing_ends_in_the_same(mesh):
    draft = begun(mesh, revoke(A), signers=[])
    heard = [signed(draft, who) for who in (F, B, C)]
    rows = set()
    for order in permutations([*heard, draft]):
        book = Drafts(mesh.membership)
        for one in order:
            book.put(one, NOW_S)
        rows.add(book.dump())
    assert len(rows) == 1


# --- the file -------------------------------------------------------------------------------------


def test_the_file_holds_all_and_is_believed_no_more_than_a_peer(mesh):
    taken_back = begun(mesh, revoke(B)).taken_back(F.device)
    book = a_book(mesh, signed(begun(mesh, revoke(A)), B), taken_back)
    again = Drafts(mesh.membership)
    again.load_untrusted(book.dump(), NOW_S)
    assert again.dump() == book.dump()
    late = Drafts(mesh.membership)
    late.load_untrusted(book.dump(), UNTIL_S)
    assert late.all() == []
    for size in range(0, len(book.dump()), 37):
        with pytest.raises(FormatError):
            Drafts(mesh.membership).load_untrusted(book.dump()[:size], NOW_S)
    with pytest.raises(NewerFormat):
        Drafts(mesh.membership).load_untrusted(codec.encode([2, []]), NOW_S)


def test_the_same_act_is_found_again(mesh):
    draft = begun(mesh, revoke(A))
    assert same_act([draft], *revoke(A)) is draft
    assert same_act([draft], *revoke(B)) is None


def test_a_signature_is_for_one_draft(mesh):
    draft = begun(mesh, revoke(A))
    mesh.invite()
    later = begun(mesh, revoke(A), signers=[])
    moved = replace(later, cosigns=draft.cosigns)
    with pytest.raises(IntegrityError):
        read(moved, mesh)
