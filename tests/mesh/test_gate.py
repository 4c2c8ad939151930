"""Strangers come in over a simulated network: the gate, the newcomer, and everybody else."""

import logging
from functools import partial

import pytest
import trio

from core import codec, limits
from core.secret import Secret
from mesh import frames, gate
from mesh.errors import NotTrusted, Unreachable
from mesh.frames import FrameType
from mesh.gate import come_in
from mesh.invite import Invitation
from mesh.leaf import Leaf
from mesh.members.bodies import Invite, UserRole
from mesh.pairing import JoinRefused, Refusal
from mesh.quic.endpoint import ALPN_PAIR, Endpoint, Setup
from mesh.quic.engine import Kind
from mesh.visitors import Joiner, Newcomer, Recoverer, Returner
from tests.support.entropy import fixed_entropy
from tests.support.hop import Path
from tests.support.memberships import NOW_MS, NOW_S, Person, a_device, person
from tests.support.meshes import PORT, a_town, meet
from tests.support.simnet import simulate

LINE = Path(delay_s=0.02, jitter_s=0.005, loss=0.01)
EVE = person("eve")


def play(scene, names=("ann", "bob"), seed=1):
    simulate(partial(a_town, names=list(names), scene=scene), seed, LINE)


async def invited(seat, *, approve=False, hours=24, now_ms=None):
    """An invite of this member, which all who are linked have heard of."""
    now_s = seat.host.now_ms() // 1_000
    invitation = Invitation.new(
        seat.mesh.membership.mesh_id, now_s + hours * 3_600, approve=approve
    )
    voucher = invitation.voucher()
    terms = Invite(voucher.public, UserRole.MEMBER, approve, invitation.expires_s, 10**9, "eve")
    await seat.mesh.gossip.until_sure()
    changes = seat.mesh.author.invite(voucher, terms, NOW_MS)
    await seat.mesh.gossip.publish(changes)
    return invitation


def newcomer(who=EVE):
    device = who.devices[0]
    return Newcomer(device.key, device.cert, Secret(fixed_entropy(f"kem {who.name}")(96)))


class Outside:
    """Somebody who is no member, with a socket."""

    def __init__(self, town, who=EVE):
        self.who = who
        self.host = town.net.host()
        leaf = Leaf.make(who.devices[0].keys.sign_seed)
        self.endpoint = Endpoint(self.host.wire(PORT), Setup(leaf), lambda _data, _source: None)
        self.waited_for = []

    async def join(self, at, invitation):
        def visitor(leaf):
            return Joiner(invitation, newcomer(self.who), leaf)

        found, where = await come_in(
            self.endpoint, [at], visitor, self.host.now_ms, self.waited_for.append
        )
        assert where == at
        return found


async def outside(town, who=EVE):
    found = Outside(town, who)
    await town.nursery.start(found.endpoint.run)
    return found


@pytest.mark.slow
def test_a_newcomer_is_admitted_by_a_member_while_the_inviter_sleeps():
    async def scene(town):
        ann, bob = town.seats
        invitation = await invited(ann)
        voucher = invitation.voucher().public
        await town.until(lambda: bob.mesh.membership.invite(voucher) is not None)
        ann.scope.cancel()
        eve = await outside(town)
        progress = await eve.join(bob.mesh.local, invitation)
        assert progress.membership.member(EVE.node).is_active
        assert progress.membership.mesh_id == bob.mesh.membership.mesh_id
        assert codec.decode_untrusted(progress.secrets.reveal()) == (1,)
        assert [c.active for c in bob.files.members][-1] == (EVE.node,)
        seat = await town.settle(EVE, progress.membership)
        meet(bob, [seat])
        await town.until(lambda: seat.linked() == {bob.node})

    play(scene)


@pytest.mark.slow
def test_an_invite_is_good_once():
    async def scene(town):
        ann = town.seats[0]
        invitation = await invited(ann)
        await (await outside(town)).join(ann.mesh.local, invitation)
        late = await outside(town, person("mallory"))
        with pytest.raises(JoinRefused) as refused:
            await late.join(ann.mesh.local, invitation)
        assert refused.value.reason == Refusal.SPENT

    play(scene)


@pytest.mark.slow
def test_who_must_be_approved_waits_and_comes_in_when_somebody_says_yes():
    async def scene(town):
        ann, bob = town.seats
        await town.until(lambda: ann.linked() == {bob.node})
        invitation = await invited(ann, approve=True)
        await town.until(
            lambda: bob.mesh.membership.invite(invitation.voucher().public) is not None
        )
        eve = await outside(town)
        joined = []

        async def join():
            joined.append(await eve.join(bob.mesh.local, invitation))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(join)
            await town.until(lambda: ann.mesh.membership.pending() != [])
            with trio.move_on_after(60):  # longer than a silent connection would live
                await trio.sleep_forever()
            assert not joined
            assert len(eve.waited_for) == 1
            (pending,) = ann.mesh.membership.pending()
            await ann.mesh.gossip.publish(ann.mesh.author.approve(pending.operation, NOW_MS))
            await town.until(lambda: joined != [], within_s=5)
        assert joined[0].membership.member(EVE.node).is_active

    play(scene)


@pytest.mark.slow
def test_an_approval_that_comes_while_we_still_answer_waits_for_its_turn(monkeypatch):
    say, saying = gate._say, []

    async def slowly(stream, message):
        assert stream not in saying, "two answers at once"
        saying.append(stream)
        with trio.move_on_after(1):
            await trio.sleep_forever()
        await say(stream, message)
        saying.remove(stream)

    monkeypatch.setattr(gate, "_say", slowly)

    async def scene(town):
        ann, bob = town.seats
        await town.until(lambda: ann.linked() == {bob.node})
        invitation = await invited(ann, approve=True)
        voucher = invitation.voucher().public
        await town.until(lambda: bob.mesh.membership.invite(voucher) is not None)
        eve, joined = await outside(town), []

        async def join():
            joined.append(await eve.join(bob.mesh.local, invitation))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(join)
            await town.until(lambda: ann.mesh.membership.pending() != [])
            (pending,) = ann.mesh.membership.pending()
            await ann.mesh.gossip.publish(ann.mesh.author.approve(pending.operation, NOW_MS))
            await town.until(lambda: joined != [])
        assert len(eve.waited_for) == 1  # WAIT came, and before WELCOME

    play(scene)


@pytest.mark.slow
def test_an_expired_and_a_withdrawn_invite_have_their_own_sentences():
    async def scene(town):
        ann = town.seats[0]
        eve = await outside(town)
        old = await invited(ann, hours=-1)
        with pytest.raises(JoinRefused, match="expired"):
            await eve.join(ann.mesh.local, old)
        withdrawn = await invited(ann)
        closing = ann.mesh.author.close_invite(withdrawn.voucher().public, NOW_MS)
        await ann.mesh.gossip.publish(closing)
        with pytest.raises(JoinRefused, match="taken back"):
            await eve.join(ann.mesh.local, withdrawn)

    play(scene)


@pytest.mark.slow
def test_who_has_no_voucher_is_closed_without_a_word_and_soon_not_heard_at_all(caplog):
    async def scene(town):
        ann = town.seats[0]
        mesh_id = ann.mesh.membership.mesh_id
        made_up = Invitation.new(mesh_id, NOW_S + 10**9)
        eve = await outside(town)
        for _ in range(limits.PAIR_TRIES_PER_MINUTE):
            with pytest.raises(Unreachable, match="without a word"):
                await eve.join(ann.mesh.local, made_up)
        good = await invited(ann)
        with pytest.raises(Unreachable):  # from this address, for a minute
            await eve.join(ann.mesh.local, good)
        with trio.move_on_after(61):
            await trio.sleep_forever()
        assert (await eve.join(ann.mesh.local, good)).membership is not None

    with caplog.at_level(logging.INFO, "mesh.gate"):
        play(scene)
    assert sum("was not let in" in message for message in caplog.messages) == 5
    assert any("tries too often" in message for message in caplog.messages)


@pytest.mark.slow
def test_a_member_of_another_mesh_is_found_out():
    async def scene(town):
        ann = town.seats[0]
        wrong = Invitation.new(type(ann.mesh.membership.mesh_id)(bytes(32)), NOW_S + 10**9)
        eve = await outside(town)
        with pytest.raises((NotTrusted, Unreachable)):
            await eve.join(ann.mesh.local, wrong)

    play(scene)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_a_stranger_that_says_too_much_or_nothing_does_not_stay(kind):
    async def scene(town):
        ann = town.seats[0]
        eve = await outside(town)
        connection = await eve.endpoint.dial(ann.mesh.local, kind, ALPN_PAIR)
        stream = await connection.accept_stream()
        junk = frames.encode_raw(FrameType.PAIR, bytes(limits.PAIR_STRANGER_BYTES_MAX))
        await stream.send_all(junk)
        await connection.over.wait()
        silent = await eve.endpoint.dial(ann.mesh.local, kind, ALPN_PAIR)
        await silent.accept_stream()
        with trio.fail_after(limits.PAIR_SECONDS_MAX + 60):
            await silent.over.wait()

    play(scene)


def recoverer(town, user, who):
    mesh_id = town.seats[0].mesh.membership.mesh_id
    return lambda leaf: Recoverer(mesh_id, user, newcomer(who), leaf)


@pytest.mark.slow
def test_with_the_phrase_a_member_comes_back_with_a_new_device():
    async def scene(town):
        ann, bob = town.seats
        new = a_device(bob.who.key, "bob's next laptop")
        again = Person("bob", bob.who.key, (new,))
        outsider = await outside(town, again)
        visitor = recoverer(town, bob.who.key, again)
        at, now_ms = ann.mesh.local, outsider.host.now_ms
        dead = town.net.host().wire(PORT).local
        progress, where = await come_in(outsider.endpoint, [dead, at], visitor, now_ms, print)
        assert where == at
        member = progress.membership.member(again.node)
        assert member.is_active
        assert member.user == bob.who.user
        await town.until(lambda: bob.mesh.membership.member(again.node) is not None)

    play(scene)


@pytest.mark.slow
def test_with_words_alone_a_member_is_shown_its_mesh_first_and_is_no_failure():
    async def scene(town):
        ann, bob = town.seats
        new = a_device(bob.who.key, "bob's next laptop")
        again = Person("bob", bob.who.key, (new,))
        outsider = await outside(town, again)
        now_ms = outsider.host.now_ms

        def looks(leaf):
            return Returner(None, bob.who.key, newcomer(again), leaf)

        shown, where = await come_in(outsider.endpoint, [ann.mesh.local], looks, now_ms, print)
        assert where == ann.mesh.local
        assert shown.membership.mesh_id == ann.mesh.membership.mesh_id
        assert ann.mesh.membership.member(new.node) is None
        visitor = recoverer(town, bob.who.key, again)
        progress, _ = await come_in(outsider.endpoint, [where], visitor, now_ms, print)
        assert progress.membership.member(new.node).is_active
        assert not ann.mesh.gate._keeper._failures

    play(scene)


@pytest.mark.slow
def test_nobody_at_home_is_told_whatever_was_looked_for():
    async def scene(town):
        eve = await outside(town)
        dead = town.net.host().wire(PORT).local
        visitor = recoverer(town, EVE.key, EVE)
        with pytest.raises(Unreachable, match="at any of these addresses"):
            await come_in(eve.endpoint, [dead], visitor, eve.host.now_ms, print)

    play(scene)


@pytest.mark.slow
def test_the_phrase_of_a_stranger_opens_nothing():
    async def scene(town):
        eve = await outside(town)
        visitor, at = recoverer(town, EVE.key, EVE), town.seats[0].mesh.local
        with pytest.raises(Unreachable, match="without a word") as raised:
            await come_in(eve.endpoint, [at], visitor, eve.host.now_ms, print)
        assert "the phrase yours" in raised.value.hint

    play(scene)


@pytest.mark.slow
def test_who_may_have_forgotten_what_it_wrote_admits_nobody():
    async def scene(town):
        ann, bob, cyd = town.seats
        bob.mesh.past.is_whole = False  # its home came back from a copy
        cyd.scope.cancel()
        invitation = await invited(ann)
        voucher = invitation.voucher().public
        await town.until(lambda: bob.mesh.membership.invite(voucher) is not None)
        with pytest.raises(JoinRefused) as refused:
            await (await outside(town)).join(bob.mesh.local, invitation)
        assert refused.value.reason == Refusal.ELSEWHERE
        assert bob.mesh.membership.set.last_of(bob.node) is None
        progress = await (await outside(town)).join(ann.mesh.local, invitation)
        assert progress.membership.member(EVE.node).is_active

    play(scene, names=("ann", "bob", "cyd"))
