"""Who comes with the phrase is shown a mesh, believes only its own, and comes in by a second word.

What comes with an invite, and all that both ways have in common, is in test_pairing.py.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec
from core.errors import FormatError, IntegrityError, PortalError
from core.ids import MeshId
from mesh.errors import NotTrusted
from mesh.members.bodies import Reason as Why
from mesh.pairing import Greeter, Message, Outcome, Stranger
from mesh.visitors import Newcomer, Recoverer, Returner
from tests.mesh.test_pairing import (
    SECRETS,
    Meeting,
    an_invitation,
    joiner,
    leaf_of,
    newcomer,
)
from tests.support.entropy import fixed_entropy
from tests.support.memberships import NOW_MS, NOW_S, another_device, found, person

F, A, B = map(person, "FAB")
NEW = another_device(A, "new laptop")


def returner(mesh=None, who=A, device=NEW, host=F, key=None):
    return Returner(mesh, key or who.key, newcomer(who, device), leaf_of(host), fixed_entropy("t"))


def kinds(meeting):
    return [codec.decode_untrusted(m)[1] for one in meeting.outcomes for m in one.messages]


def a_mesh_with_ann():
    mesh = found(F)
    mesh.bring(A)
    return mesh


def test_words_alone_are_shown_the_mesh_and_change_nothing_there():
    mesh = a_mesh_with_ann()
    size = len(mesh.membership.set)
    meeting = Meeting(mesh, returner())
    progress = meeting.run()
    assert progress.membership.news() == mesh.membership.news()
    assert progress.membership.state.name == "home"
    assert progress.secrets is None
    assert kinds(meeting) == [Message.LOG]
    assert len(mesh.membership.set) == size
    assert mesh.membership.member(NEW.node) is None
    recoverer = Recoverer(
        progress.membership.mesh_id, A.key, newcomer(A, NEW), leaf_of(F), fixed_entropy("r")
    )
    progress = Meeting(mesh, recoverer).run()
    assert progress.secrets.reveal() == SECRETS
    assert progress.membership.member(NEW.node).is_active


def test_who_knows_the_mesh_is_shown_no_other():
    mesh = a_mesh_with_ann()
    assert Meeting(mesh, returner(mesh.membership.mesh_id)).run().membership
    with pytest.raises(NotTrusted, match="another mesh"):
        Meeting(mesh, returner(MeshId(bytes(32)))).run()


def test_a_stranger_is_shown_nothing():
    mesh = found(F)
    with pytest.raises(Stranger):
        Meeting(mesh, returner()).run()
    mesh.bring(A)
    mesh.author.revoke_user(A.user, Why.REMOVED, NOW_MS)
    meeting = Meeting(mesh, returner())
    with pytest.raises(Stranger):
        meeting.run()
    assert kinds(meeting) == []


def test_what_was_said_to_another_member_is_worth_nothing():
    with pytest.raises(Stranger):
        Meeting(a_mesh_with_ann(), returner(host=B)).run()


class Liar(Greeter):
    """Shows its mesh to everybody."""

    def _return_untrusted(self, *_):
        return Outcome(messages=self._log())


def lied_to(mesh, visitor, host=F):
    meeting = Meeting(mesh, visitor, host=host)
    meeting.greeter = Liar(mesh.author, leaf_of(host), lambda: SECRETS, fixed_entropy("hail"))
    return meeting.run()


def test_a_mesh_we_do_not_belong_to_is_not_ours_whoever_shows_it():
    mesh = found(F)
    with pytest.raises(NotTrusted, match="that you do not belong to"):
        lied_to(mesh, returner())
    mesh.bring(A)
    assert lied_to(mesh, returner()).membership
    mesh.author.revoke_user(A.user, Why.REMOVED, NOW_MS)
    with pytest.raises(NotTrusted, match="that you do not belong to"):
        lied_to(mesh, returner())


def test_who_is_no_member_any_more_shows_nothing_we_believe():
    mesh = a_mesh_with_ann()
    mesh.bring(B)
    theirs = mesh.of(B)
    mesh.author.revoke_user(B.user, Why.REMOVED, NOW_MS)
    theirs.membership.receive_untrusted([op.data for op in mesh.membership.set.ops])
    with pytest.raises(NotTrusted, match="not a member"):
        lied_to(theirs, returner(host=B), host=B)


@pytest.mark.parametrize("which", [Message.HAIL, Message.RETURN, Message.LOG])
@pytest.mark.parametrize("at", [2, 9, 40, -70, -1])
def test_every_message_that_is_changed_is_refused_by_either_side(which, at):
    def flip(kind, data):
        if kind != which:
            return data
        damaged = bytearray(data)
        damaged[at % len(data)] ^= 4
        return bytes(damaged)

    with pytest.raises(PortalError) as caught:
        Meeting(a_mesh_with_ann(), returner()).run(flip)
    assert isinstance(caught.value, FormatError | IntegrityError | NotTrusted)


@pytest.mark.parametrize("signer", ["user", "device"])
def test_both_keys_have_to_sign(signer):
    key = B.key if signer == "user" else A.key
    who = Newcomer(B.device if signer == "device" else NEW.key, NEW.cert, newcomer(A, NEW).kem_seed)

    def claim(kind, data):
        if kind != Message.RETURN:
            return data
        row = list(codec.decode_untrusted(data))
        payload = list(codec.decode_untrusted(row[2]))
        payload[1], payload[2] = A.user, NEW.node
        row[2] = codec.encode(payload)
        return codec.encode(row)

    visitor = Returner(None, key, who, leaf_of(F), fixed_entropy("t"))
    with pytest.raises(IntegrityError):
        Meeting(a_mesh_with_ann(), visitor).run(claim)


def test_who_has_looked_may_only_come_in_as_the_same_person():
    mesh = a_mesh_with_ann()
    mesh.bring(B)
    meeting = Meeting(mesh, returner())
    meeting.run()
    again = meeting.said[-1]
    with pytest.raises(FormatError):
        meeting.greeter.receive_untrusted(again, NOW_MS)

    def recover(who, device):
        visitor = Recoverer(
            mesh.membership.mesh_id, who.key, newcomer(who, device), leaf_of(F), fixed_entropy("r")
        )
        (data,) = visitor.receive_untrusted(meeting.greeter.hail(), NOW_S).messages
        return meeting.greeter.receive_untrusted(data, NOW_MS)

    with pytest.raises(Stranger):
        recover(B, another_device(B, "other"))
    assert recover(A, NEW).arrived.is_active


def test_a_mesh_in_many_messages_is_shown_whole():
    mesh = a_mesh_with_ann()
    (outcome,) = (o for o in ran(mesh).outcomes if o.messages)
    row = codec.decode_untrusted(outcome.messages[0])
    visitor = returner()
    meeting = Meeting(mesh, visitor)
    visitor.receive_untrusted(meeting.greeter.hail(), NOW_S)
    first = codec.encode([*row[:2], True, row[3][:1]])
    rest = codec.encode([*row[:2], False, row[3][1:]])
    assert visitor.receive_untrusted(first, NOW_S).membership is None
    found_there = visitor.receive_untrusted(rest, NOW_S).membership
    assert found_there.news() == mesh.membership.news()


def ran(mesh):
    meeting = Meeting(mesh, returner())
    meeting.run()
    return meeting


@given(st.binary(max_size=200) | st.tuples(st.integers(0, 9), st.binary(max_size=9)))
def test_nonsense_is_refused_by_who_looks(said):
    data = said if isinstance(said, bytes) else codec.encode([1, *said])
    visitor = returner()
    visitor.receive_untrusted(Meeting(found(F), None).greeter.hail(), NOW_S)
    with pytest.raises(FormatError):
        visitor.receive_untrusted(data, NOW_S)


@pytest.mark.parametrize(
    "payload", [b"", [], [1], [1, b"", b"", b""], [1, bytes(31), bytes(32), b""]]
)
def test_nonsense_is_refused_by_the_member(payload):
    data = payload if isinstance(payload, bytes) else codec.encode(payload)
    message = codec.encode([1, int(Message.RETURN), data, bytes(64), bytes(64)])
    with pytest.raises(FormatError):
        Meeting(found(F), None).greeter.receive_untrusted(message, NOW_MS)


def test_whoever_comes_in_is_told_whether_the_mesh_may_have_known_it_before():
    """Then it cannot have written anything there, and needs to ask nobody about it."""
    mesh = a_mesh_with_ann()

    def come():
        recoverer = Recoverer(
            mesh.membership.mesh_id, A.key, newcomer(A, NEW), leaf_of(F), fixed_entropy("r")
        )
        return Meeting(mesh, recoverer).run().is_new

    assert come()
    again = Recoverer(
        mesh.membership.mesh_id, A.key, newcomer(A, NEW), leaf_of(F), fixed_entropy("again")
    )
    assert not Meeting(mesh, again).run().is_new
    guest = joiner(an_invitation(mesh), who=B)
    assert Meeting(mesh, guest).run().is_new
    mesh.author.revoke_user(B.user, Why.REMOVED, NOW_MS)
    back = joiner(an_invitation(mesh, "another"), who=B)
    assert not Meeting(mesh, back).run().is_new
