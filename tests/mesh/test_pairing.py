from dataclasses import replace

import pytest

from core import codec, limits
from core.device_cert import Role
from core.errors import FormatError, IntegrityError, LimitExceeded, PortalError
from core.secret import Secret
from mesh.errors import NotTrusted
from mesh.invite import Invitation
from mesh.leaf import Leaf
from mesh.members.authoring import Author, NotAllowed
from mesh.members.bodies import Policy, Unknown, UserRole
from mesh.members.bodies import Reason as Why
from mesh.members.rules import Void
from mesh.members.state import Standing
from mesh.pairing import Greeter, JoinRefused, Message, Refusal, Stranger
from mesh.visitors import Joiner, Newcomer, Recoverer
from tests.support.entropy import fixed_entropy
from tests.support.memberships import (
    NOW_MS,
    NOW_S,
    Replica,
    a_mesh,
    another_device,
    certificate,
    found,
    person,
    terms,
)

F, A, B = map(person, "FAB")
SECRETS = b"the secrets of the mesh"


def seed_of(who):
    return Secret(fixed_entropy(f"kem {who.name}")(96))


def newcomer(who, device=None):
    device = device or who.devices[0]
    return Newcomer(device.key, device.cert, seed_of(who))


def leaf_of(who):
    return Leaf.make(who.devices[0].keys.sign_seed, fixed_entropy(who.name)).der


def an_invitation(mesh: Replica, seed="invitation", *, approve=False, expires_s=NOW_S + 86_400):
    invitation = Invitation.new(
        mesh.membership.mesh_id, expires_s, approve=approve, entropy=fixed_entropy(seed)
    )
    voucher = invitation.voucher()
    mesh.author.invite(voucher, terms(voucher, approve=approve), NOW_MS)
    return invitation


class Meeting:
    """A stranger and a member, message by message."""

    def __init__(self, mesh: Replica, visitor, *, host=None, now_ms=NOW_MS):
        self.mesh, self.visitor, self.now_ms = mesh, visitor, now_ms
        leaf = leaf_of(host or mesh.who)
        self.greeter = Greeter(mesh.author, leaf, lambda: SECRETS, fixed_entropy("hail"))
        self.outcomes = []
        self.progress = []
        self.said = []

    def run(self, tamper=lambda kind, data: data):
        waiting = [self.greeter.hail()]
        while waiting:
            data = waiting.pop(0)
            data = tamper(codec.decode_untrusted(data)[1], data)
            self.progress.append(self.visitor.receive_untrusted(data, self.now_ms // 1000))
            for answer in self.progress[-1].messages:
                answer = tamper(codec.decode_untrusted(answer)[1], answer)  # noqa: PLW2901
                self.said.append(answer)
                outcome = self.greeter.receive_untrusted(answer, self.now_ms)
                self.outcomes.append(outcome)
                waiting += outcome.messages
        return self.progress[-1]


def joiner(invitation, who=A, host=F, device=None):
    return Joiner(invitation, newcomer(who, device), leaf_of(host), fixed_entropy("joiner"))


def test_a_stranger_with_an_invite_becomes_a_member():
    mesh = found(F)
    meeting = Meeting(mesh, joiner(an_invitation(mesh)))
    progress = meeting.run()
    assert progress.secrets.reveal() == SECRETS
    assert progress.membership.member(A.node).is_active
    assert progress.membership.news() == mesh.membership.news()
    assert meeting.outcomes[-1].finished
    assert meeting.outcomes[-1].arrived.node == A.node
    assert [op.kind for op in meeting.outcomes[-1].changes.added] == [4]
    assert sum(map(len, meeting.said)) < limits.PAIR_STRANGER_BYTES_MAX / 2


def test_another_member_admits_while_the_inviter_sleeps():
    mesh = found(F)
    mesh.bring(B)
    invitation = an_invitation(mesh)
    second = mesh.of(B)
    progress = Meeting(second, joiner(invitation, host=B)).run()
    assert progress.membership.member(A.node).invited_by == F.user
    assert progress.membership.member(A.node).admitted_by == B.user


def test_an_invite_is_good_for_one_device_which_may_ask_again():
    mesh = found(F)
    invitation = an_invitation(mesh)
    Meeting(mesh, joiner(invitation)).run()
    size = len(mesh.membership.set)
    late = NOW_MS + 10**9  # long after it has expired: the answer was lost on the way
    again = Meeting(mesh, Joiner(long(invitation), newcomer(A), leaf_of(F)), now_ms=late).run()
    assert again.secrets.reveal() == SECRETS
    assert len(mesh.membership.set) == size
    with pytest.raises(JoinRefused, match="used already") as caught:
        Meeting(mesh, joiner(invitation, who=B)).run()
    assert caught.value.reason == Refusal.SPENT


def long(invitation):
    """The same text with another expiry on it: what it says decides nothing."""
    return Invitation(invitation.secret, invitation.mesh_prefix, NOW_S * 2)


def test_whoever_was_put_out_learns_nothing_with_the_old_invite():
    mesh = found(F)
    invitation = an_invitation(mesh)
    Meeting(mesh, joiner(invitation)).run()
    mesh.author.revoke_user(A.user, Why.REMOVED, NOW_MS)
    meeting = Meeting(mesh, joiner(invitation))
    with pytest.raises(JoinRefused, match="used already"):
        meeting.run()
    (outcome,) = meeting.outcomes
    assert codec.decode_untrusted(outcome.messages[0])[1] == Message.REFUSED


def test_expired_closed_full_and_elsewhere_have_their_own_sentences():
    mesh = found(F)
    invitation = an_invitation(mesh)
    late = NOW_MS + 2 * 86_400_000
    visitor = Joiner(long(invitation), newcomer(A), leaf_of(F))
    with pytest.raises(JoinRefused, match="expired"):
        Meeting(mesh, visitor, now_ms=late).run()
    with pytest.raises(JoinRefused, match="expired"):  # by our own clock, before a word is said
        Meeting(mesh, joiner(invitation), now_ms=late).run()
    mesh.author.set_policy(Policy(users_max=1), NOW_MS)
    with pytest.raises(JoinRefused, match="no more members"):
        Meeting(mesh, joiner(invitation)).run()
    mesh.author.set_policy(Policy(admit_by=UserRole.ADMIN), NOW_MS)
    mesh.bring(B)
    with pytest.raises(JoinRefused, match="may not admit"):
        Meeting(mesh.of(B), joiner(invitation, host=B)).run()
    mesh.author.close_invite(invitation.voucher().public, NOW_MS)
    with pytest.raises(JoinRefused, match="taken back"):
        Meeting(mesh, joiner(invitation)).run()


def test_an_invite_the_mesh_does_not_know_gets_no_answer():
    mesh = found(F)
    unknown = Invitation.new(mesh.membership.mesh_id, NOW_S + 60, entropy=fixed_entropy("x"))
    with pytest.raises(Stranger):
        Meeting(mesh, joiner(unknown)).run()
    other = Invitation(an_invitation(mesh).secret, bytes(16), NOW_S + 60)
    with pytest.raises(Stranger):
        Meeting(mesh, joiner(other)).run()


def test_who_must_be_approved_waits_and_then_is_welcome():
    mesh = found(F)
    meeting = Meeting(mesh, joiner(an_invitation(mesh, approve=True)))
    progress = meeting.run()
    assert progress.secrets is None
    assert progress.membership is None
    admission = mesh.membership.set.heads[0]
    assert progress.waiting == admission.body.join_bytes  # both can say the same four words
    assert meeting.outcomes[-1].arrived.standing == Standing.PENDING
    assert not meeting.outcomes[-1].finished
    assert meeting.greeter.on_change().messages == ()
    mesh.author.approve(admission.id, NOW_MS)
    outcome = meeting.greeter.on_change()
    assert outcome.finished
    for message in outcome.messages:
        progress = meeting.visitor.receive_untrusted(message, NOW_S)
    assert progress.secrets.reveal() == SECRETS
    assert meeting.greeter.on_change().messages == ()


def test_a_refused_one_that_waits_is_told():
    mesh = found(F)
    meeting = Meeting(mesh, joiner(an_invitation(mesh, approve=True)))
    meeting.run()
    mesh.author.revoke_user(A.user, Why.REMOVED, NOW_MS)
    (message,) = meeting.greeter.on_change().messages
    with pytest.raises(JoinRefused):
        meeting.visitor.receive_untrusted(message, NOW_S)


def test_what_changed_since_the_log_comes_before_the_welcome():
    mesh = found(F)
    invitation = an_invitation(mesh)

    def something_happens(kind, data):
        if kind == Message.JOIN:
            for _ in range(20):
                mesh.author.next_epoch(bytes(32), NOW_MS)
        return data

    progress = Meeting(mesh, joiner(invitation)).run(something_happens)
    assert progress.membership.news() == mesh.membership.news()


# --- who must not be believed ---------------------------------------------------------------------


def test_a_proof_made_for_one_member_is_nothing_to_another():
    # M is a member and wants to come in at F with the invite of A: it passes on what A says.
    mesh = found(F)
    mesh.bring(B)
    invitation = an_invitation(mesh)
    meeting = Meeting(mesh, joiner(invitation, host=B))  # A speaks with B's leaf
    with pytest.raises(Stranger):
        meeting.run()
    assert meeting.outcomes == []  # and it learns nothing of the mesh by that


def test_a_member_that_is_none_is_found_out():
    mesh = found(F)
    invitation = an_invitation(mesh)
    meeting = Meeting(mesh, joiner(invitation, host=B), host=B)  # B answers with F's log
    with pytest.raises(NotTrusted, match="not a member"):
        meeting.run()


def test_a_revoked_member_is_found_out():
    mesh = found(F)
    mesh.bring(B)
    invitation = an_invitation(mesh)
    mesh.author.revoke_user(B.user, Why.REMOVED, NOW_MS)
    with pytest.raises(NotTrusted, match="not a member"):
        Meeting(mesh, joiner(invitation, host=B), host=B).run()


def test_an_old_log_without_the_invite_is_found_out():
    mesh = found(F)
    mesh.bring(B)
    old = [op.data for op in mesh.membership.set.ops]
    invitation = an_invitation(mesh)
    mesh.author.revoke_user(B.user, Why.REMOVED, NOW_MS)

    def old_log(kind, data):
        return codec.encode([1, 3, False, old]) if kind == Message.LOG else data

    with pytest.raises(NotTrusted, match="does not know this invite"):
        Meeting(mesh, joiner(invitation, host=B), host=B).run(old_log)


def test_the_log_of_another_mesh_is_found_out():
    mesh, other = found(F), found(B)
    invitation = an_invitation(mesh)
    foreign = [op.data for op in other.membership.set.ops]

    def another_log(kind, data):
        return codec.encode([1, 3, False, foreign]) if kind == Message.LOG else data

    with pytest.raises(NotTrusted, match="another mesh"):
        Meeting(mesh, joiner(invitation)).run(another_log)


def test_a_join_of_somebody_else_after_a_good_knock_is_refused():
    mesh = found(F)
    invitation = an_invitation(mesh)
    theirs = Meeting(mesh.of(F), joiner(invitation, who=B))
    theirs.run()
    stolen = theirs.said[-1]

    def swap(kind, data):
        return stolen if kind == Message.JOIN else data

    with pytest.raises(Stranger):
        Meeting(mesh, joiner(invitation)).run(swap)
    assert mesh.membership.member(B.node) is None


def test_secrets_are_sealed_to_the_newcomer_and_tied_to_the_admission():
    mesh = found(F)
    seen = []

    def watch(kind, data):
        seen.append(data)
        return data

    invitation = an_invitation(mesh)
    Meeting(mesh, joiner(invitation)).run(watch)
    assert not any(SECRETS in data for data in seen)

    def change(kind, data):
        if kind != Message.WELCOME:
            return data
        row = list(codec.decode_untrusted(data))
        row[2] = bytes(32)
        return codec.encode(row)

    with pytest.raises(IntegrityError):
        Meeting(mesh, joiner(invitation)).run(change)


def test_every_message_that_is_changed_is_refused_by_either_side():
    mesh = found(F)
    invitation = an_invitation(mesh)
    for which in (Message.KNOCK, Message.LOG, Message.JOIN, Message.WELCOME):
        for at in (2, 9, 40, -70, -1):

            def flip(kind, data, which=which, at=at):
                if kind != which:
                    return data
                damaged = bytearray(data)
                damaged[at] ^= 4
                return bytes(damaged)

            with pytest.raises(PortalError) as caught:
                Meeting(mesh.of(F), joiner(invitation)).run(flip)
            assert isinstance(caught.value, FormatError | IntegrityError | NotTrusted)


def test_a_stranger_says_no_more_than_eight_kibibytes():
    mesh = found(F)
    greeter = Meeting(mesh, None).greeter
    with pytest.raises(LimitExceeded):
        greeter.receive_untrusted(bytes(limits.PAIR_STRANGER_BYTES_MAX + 1), NOW_MS)
    greeter = Meeting(mesh, None).greeter
    for _ in range(8):
        with pytest.raises(FormatError):
            greeter.receive_untrusted(bytes(1_024), NOW_MS)
    with pytest.raises(LimitExceeded):
        greeter.receive_untrusted(b"\0", NOW_MS)


@pytest.mark.parametrize(
    "row", [[1], [2, 2], [1, 2], [1, 4, b"", bytes(64), bytes(64)], [1, 9], [1, 2, b"", b"", b""]]
)
def test_nonsense_is_refused(row):
    with pytest.raises(FormatError):
        Meeting(found(F), None).greeter.receive_untrusted(codec.encode(row), NOW_MS)


def test_a_certificate_that_is_over_opens_nothing():
    mesh = found(F)
    device = another_device(A, "over", not_after_s=NOW_S)
    with pytest.raises(JoinRefused, match="does not accept"):
        Meeting(mesh, joiner(an_invitation(mesh), device=device)).run()


# --- by phrase ------------------------------------------------------------------------------------


def recoverer(mesh, who, device, host=F):
    mesh_id = mesh.membership.mesh_id
    return Recoverer(mesh_id, who.key, newcomer(who, device), leaf_of(host), fixed_entropy("r"))


def test_a_member_with_nothing_but_the_phrase_comes_back():
    mesh = found(F)
    mesh.bring(A)
    device = another_device(A, "new laptop", roles=Role.laptop())
    meeting = Meeting(mesh, recoverer(mesh, A, device))
    progress = meeting.run()
    assert progress.secrets.reveal() == SECRETS
    assert progress.membership.member(device.node).user == A.user
    again = Meeting(mesh, recoverer(mesh, A, device)).run()
    assert again.secrets.reveal() == SECRETS


def renewed(device, roles, created_s):
    cert = certificate(A.key, device.keys, name="new", roles=roles, created_s=created_s)
    return replace(device, cert=cert)


def test_a_member_that_is_in_brings_a_newer_certificate_and_no_older_one():
    mesh = a_mesh(F, A)
    device = another_device(A, "new", roles=Role.laptop())
    Meeting(mesh, recoverer(mesh, A, device)).run()
    more = renewed(device, Role.laptop() | Role.ADMIN, NOW_S + 2)
    for older in (renewed(device, Role.laptop() | Role.ADMIN, NOW_S + 1), device):
        meeting = Meeting(mesh, recoverer(mesh, A, older))
        assert Role.ADMIN not in meeting.run().membership.member(device.node).roles
        assert not any(outcome.changes.added for outcome in meeting.outcomes)
    meeting = Meeting(mesh, recoverer(mesh, A, more))
    progress = meeting.run()
    assert Role.ADMIN in progress.membership.member(device.node).roles
    assert not progress.is_new
    assert sum(len(outcome.changes.added) for outcome in meeting.outcomes) == 1
    count = len(mesh.membership.set.ops)
    assert not Meeting(mesh, recoverer(mesh, A, more)).run().is_new
    assert len(mesh.membership.set.ops) == count


def test_a_member_that_is_in_is_welcome_where_nobody_may_write(monkeypatch):
    mesh = a_mesh(F, A)
    device = another_device(A, "new", roles=Role.laptop())
    Meeting(mesh, recoverer(mesh, A, device)).run()

    def forbidden(*_):
        raise NotAllowed(Void.AUTHOR)

    monkeypatch.setattr(Author, "add_device", forbidden)
    more = renewed(device, Role.laptop() | Role.ADMIN, NOW_S + 2)
    progress = Meeting(mesh, recoverer(mesh, A, more)).run()
    assert Role.ADMIN not in progress.membership.member(device.node).roles


def test_what_must_not_be_lost_is_kept_once_a_member_listens_and_before_it_is_asked():
    mesh = found(F)
    mesh.bring(A)
    said = []
    visitor = recoverer(mesh, A, another_device(A, "new"))
    visitor.before_asking = lambda: said.append(len(meeting.said))
    meeting = Meeting(mesh, visitor)
    assert not said
    meeting.run()
    assert said == [0]


def test_the_phrase_of_a_stranger_gets_no_answer():
    mesh = found(F)
    with pytest.raises(Stranger):
        Meeting(mesh, recoverer(mesh, A, A.devices[0])).run()
    mesh.bring(A)
    mesh.author.revoke_user(A.user, Why.REMOVED, NOW_MS)
    with pytest.raises(Stranger):
        Meeting(mesh, recoverer(mesh, A, another_device(A, "x"))).run()


def test_a_revoked_device_does_not_come_back_by_phrase():
    mesh = found(F)
    mesh.bring(A)
    mesh.author.revoke_device(A.key, A.node, NOW_MS)
    again = another_device(A, "A", keys=A.devices[0].keys)
    with pytest.raises(JoinRefused):
        Meeting(mesh, recoverer(mesh, A, again)).run()


def test_a_recovery_is_tied_to_the_member_it_was_said_to():
    mesh = found(F)
    mesh.bring(A)
    with pytest.raises(Stranger):
        Meeting(mesh, recoverer(mesh, A, another_device(A, "x"), host=B)).run()


def test_large_meshes_come_in_many_messages():
    mesh = found(F)
    mesh.bring(A)
    for n in range(200):
        mesh.membership.receive_untrusted(
            [mesh.author.next(99, Unknown((n, bytes(1_500))), NOW_MS)]
        )
    meeting = Meeting(mesh, recoverer(mesh, A, another_device(A, "new")))
    progress = meeting.run()
    assert progress.membership.news() == mesh.membership.news()
    kinds = [codec.decode_untrusted(m)[1] for o in meeting.outcomes for m in o.messages]
    assert kinds == [Message.LOG, Message.LOG, Message.WELCOME]
