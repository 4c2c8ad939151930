"""Drafts reach every admin but whom they are about, and become an operation, whoever is away."""

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio

from core import limits
from core.errors import PortalError
from mesh.drafting import NOTICE, Drafting
from mesh.gossip import Gossip
from mesh.members.authoring import NotAllowed
from mesh.members.bodies import Drop, Grant, Kind, Numbered, UserRole
from mesh.members.drafts import Begun, Draft, Drafts, NoDraft, Paper
from mesh.members.state import Standing
from mesh.recollection import Recollection
from tests.support.memberships import NOW_MS, Replica, a_mesh, person, revoke, standing
from tests.support.neighbours import (
    Neighbour,
    a_neighbour,
    node_of,
    now_ms,
    pass_time,
    start,
    until,
)
from tests.support.wires import Net, in_virtual_time

ANN, BOB, CYD, DOT, EVE = (person(name) for name in ("ann", "bob", "cyd", "dot", "eve"))
FAY = person("fay")
DAY_S = 86_400


@dataclass
class Admin:
    """A node that drafts."""

    replica: Replica
    place: Neighbour
    gossip: Gossip
    drafting: Drafting
    files: list[bytes] = field(default_factory=list)
    told: int = 0

    def hear(self):
        self.told += 1

    @property
    def drafts(self):
        return self.drafting.live()

    async def sign(self, draft):
        proposal = draft.paper.proposal
        cosign = proposal.cosigned(self.replica.key, self.replica.who.user)
        return await self.drafting.cosign(draft, cosign)

    def has_out(self, who):
        return standing(self.replica, who) == Standing.DEPARTED


@asynccontextmanager
async def drafting(replica, people, fails=(), views=None, copies=()):
    """Nodes of these people, each with a copy of all that is known; nobody is linked.

    `views` are what some know instead, by name; the files of `copies` came back from a backup.
    """
    views = views or {}
    net = Net()
    made = []
    async with trio.open_nursery() as nursery:
        for n, who in enumerate(people, 1):
            own = views.get(who.name) or replica.of(who)
            place = a_neighbour(
                net.wire(f"10.0.0.{n}"),
                node_of(who),
                own.membership.roster(),
                news=own.membership.news,
            )

            async def keep_members(_changes):
                await trio.lowlevel.checkpoint()

            async def keep(data, n=n):
                await trio.lowlevel.checkpoint()
                if people[n - 1] in fails:
                    raise PortalError("no room")
                made[n - 1].files.append(data)

            past = None
            if who in copies:
                past = Recollection(own.membership, who.node, is_whole=False)
            gossip = Gossip(place.links, own.membership, keep_members, past=past)
            service = Drafting(place.links, own.author, gossip, keep, now_ms)
            admin = Admin(own, place, gossip, service)
            service.watch(admin.hear)
            made.append(admin)
            await start(nursery, place, gossip, service)
        yield made
        nursery.cancel_scope.cancel()


async def link(made, *pairs):
    for one, other in pairs:
        await made[one].place.meet(made[other].place)


def three():
    return a_mesh(ANN, BOB, CYD), [ANN, BOB, CYD]


def five():
    return a_mesh(ANN, BOB, CYD, DOT, EVE), [ANN, BOB, CYD, DOT, EVE]


def test_the_others_hear_of_it_but_not_whom_it_is_about():
    async def main():
        replica, people = three()
        replica.bring(FAY)
        async with drafting(replica, [*people, FAY]) as made:
            ann, bob, cyd, fay = made
            await link(made, (0, 1), (0, 2), (1, 2), (0, 3))
            heard = []

            async def hear(link, _arguments):
                await trio.lowlevel.checkpoint()
                heard.append(link.node)

            for one in (cyd, fay):
                one.place.links.services.notices[NOTICE] = hear
            draft = await ann.drafting.propose(*revoke(CYD))
            await until(lambda: bob.drafts)
            assert bob.drafts == [draft]
            assert await bob.sign(draft) is None
            await until(lambda: ann.has_out(CYD))
            await pass_time(5)
            assert heard == []
            assert ann.drafts == bob.drafts == []
            assert bob.files[-1] == bob.drafting.book.dump()

    in_virtual_time(main)


def test_who_was_away_hears_of_it_with_the_next_link_and_passes_it_on():
    async def main():
        async with drafting(*five()) as made:
            ann, bob, cyd, dot, _ = made
            draft = await ann.drafting.propose(*revoke(EVE))
            await link(made, (0, 1))
            await until(lambda: bob.drafts)
            await link(made, (1, 2), (2, 3))
            await until(lambda: dot.drafts)
            assert await dot.sign(draft) is not None
            await until(lambda: len(ann.drafts[0].cosigns) == 2)
            await pass_time(5)  # nodes of admins have it, and sign nothing by themselves
            assert not any(one.has_out(EVE) for one in made)
            assert await cyd.sign(cyd.drafts[0]) is None
            for one in (ann, bob, dot):
                await until(lambda one=one: one.has_out(EVE) and not one.drafts)

    in_virtual_time(main)


def test_two_who_sign_far_apart_bring_it_about_when_they_meet():
    async def main():
        async with drafting(*five()) as made:
            ann, bob, cyd, _, _ = made
            draft = await ann.drafting.propose(*revoke(EVE))
            for one in (bob, cyd):
                one.drafting.book.put(draft, now_ms() // 1_000)
                assert await one.sign(draft) is not None
            await link(made, (1, 2))
            await until(lambda: bob.has_out(EVE) and cyd.has_out(EVE))
            await until(lambda: not bob.drafts and not cyd.drafts)

    in_virtual_time(main)


def test_the_same_act_asked_for_twice_is_one_draft_and_who_has_not_begun_it_looks_first():
    async def main():
        async with drafting(*three()) as made:
            ann, bob, _ = made
            await link(made, (0, 1))
            draft = await ann.drafting.propose(*revoke(CYD))
            assert await ann.drafting.propose(*revoke(CYD)) == draft
            await until(lambda: bob.drafts)
            with pytest.raises(
                Begun, match=f"'ann' has begun .*portal cosign {draft.id.hex()[:8]}"
            ):
                await bob.drafting.propose(*revoke(CYD))
            assert bob.drafts == [draft]
            other = await bob.drafting.propose(*revoke(ANN))  # that is another matter
            assert bob.drafts == [draft, other]
            assert await bob.sign(draft) is None
            await until(lambda: ann.has_out(CYD))

    in_virtual_time(main)


def test_nobody_who_asks_for_an_act_signs_what_another_has_dated_back():
    async def main():
        replica, people = five()
        early = replica.author.parents()
        eve = replica.of(EVE)
        eve.bring(FAY)
        replica.meet(eve)
        async with drafting(replica, people) as made:
            ann, cyd = made[0], made[2]
            await link(made, (0, 2))
            proposal = replace(cyd.replica.author.propose(*revoke(EVE)), parents=early)
            paper = Paper.written(CYD.device, CYD.user, proposal, now_ms() // 1_000)
            draft = Draft(paper, (proposal.cosigned(CYD.device, CYD.user),))
            await tell(cyd, ann, draft)
            await until(lambda: ann.drafts)
            with pytest.raises(Begun, match="'cyd' has begun"):
                await ann.drafting.propose(*revoke(EVE))
            await pass_time(5)
            assert ann.drafts == [draft]
            (since,) = {op.kind for op in ann.drafting.book.since(draft)} - {Kind.INVITE}
            assert since == Kind.ADMIT

    in_virtual_time(main)


def test_it_waits_for_the_list_of_members():
    async def main():
        replica, people = three()
        old = replica.of(ANN)
        replica.bring(FAY)
        async with drafting(replica, people) as made:
            draft = await made[0].drafting.propose(*revoke(CYD))
        async with drafting(old, people) as made:
            bob = made[1]
            bob.drafting._take(draft, None)
            assert bob.drafts == []
            changes = bob.replica.membership.receive_untrusted(
                [op.data for op in replica.membership.set.ops]
            )
            await bob.gossip.publish(changes)
            assert bob.drafts == [draft]

    in_virtual_time(main)


def test_who_becomes_an_admin_is_told_then():
    async def main():
        replica, people = three()
        replica.bring(FAY)
        async with drafting(replica, [*people, FAY]) as made:
            ann, _, _, fay = made
            await link(made, (0, 3))
            await ann.drafting.propose(*revoke(CYD))
            await pass_time(5)
            assert fay.drafts == []
            grant = ann.replica.cosigned(*made_admin(FAY), [(BOB, BOB.device)])
            op = ann.replica.membership.set.index[grant]
            data = ann.replica.membership.set.ops[op].data
            await fay.gossip.publish(fay.replica.membership.receive_untrusted([data]))
            await fay.place.meet(ann.place)
            ann.drafting._members_changed()
            await until(lambda: fay.drafts)
            assert not fay.drafting.book.may_sign(fay.drafts[0], FAY.user)
            with pytest.raises(NoDraft, match="not yours to sign"):
                await fay.sign(fay.drafts[0])

    in_virtual_time(main)


def made_admin(who):
    return Kind.GRANT, Grant(who.user, UserRole.ADMIN)


def test_it_is_taken_back_everywhere_and_does_not_return():
    async def main():
        async with drafting(*three()) as made:
            ann, bob, _ = made
            await link(made, (0, 1))
            draft = await ann.drafting.propose(*revoke(CYD))
            await until(lambda: bob.drafts)
            with pytest.raises(NoDraft, match="machine that began it"):
                await bob.drafting.withdraw(draft)
            await ann.drafting.withdraw(draft)
            await until(lambda: not bob.drafts)
            with pytest.raises(NoDraft):
                await bob.sign(draft)
            await tell(bob, ann, draft)  # somebody who has not heard
            await pass_time(5)
            assert ann.drafts == []
            assert not ann.has_out(CYD)

    in_virtual_time(main)


async def tell(one, other, draft):
    await one.place.links.get(other.place.id).notify(NOTICE, draft.row())


def test_it_is_gone_after_a_week():
    async def main():
        async with drafting(*three()) as made:
            ann = made[0]
            draft = await ann.drafting.propose(*revoke(CYD))
            assert ann.drafting.find(draft.id) == draft
            await pass_time(7 * DAY_S - 2)
            assert ann.drafts
            await pass_time(3)
            with pytest.raises(NoDraft, match="any more"):
                ann.drafting.find(draft.id)

    in_virtual_time(main)


def test_it_is_remembered():
    async def main():
        replica, people = three()
        async with drafting(replica, people) as made:
            draft = await made[0].drafting.propose(*revoke(CYD))
            data = made[0].files[-1]
        async with drafting(replica, people) as made:
            ann, bob, _ = made
            ann.drafting.remember_untrusted(data)
            await link(made, (0, 1))
            await until(lambda: bob.drafts)
            assert bob.drafts == [draft]

    in_virtual_time(main)


def test_what_was_complete_when_the_node_ended_is_written_when_it_starts():
    async def main():
        async with drafting(*three()) as made:
            ann, bob, _ = made
            draft = await ann.drafting.propose(*revoke(CYD))
            cosign = draft.paper.proposal.cosigned(BOB.device, BOB.user)
            full = replace(draft, cosigns=(*draft.cosigns, cosign))
            book = Drafts(ann.replica.membership)
            book.put(full, now_ms() // 1_000)
            bob.drafting.remember_untrusted(book.dump())
            await until(lambda: bob.has_out(CYD))
            assert bob.drafts == []

    in_virtual_time(main)


def test_admins_that_are_not_linked_are_looked_for():
    async def main():
        async with drafting(*three()) as made:
            ann, bob, _ = made
            ways = {bob.place.id: [bob.place.way()]}
            ann.drafting._ways = lambda node: ways.get(node, ())
            await ann.drafting.propose(*revoke(CYD))
            await until(lambda: bob.drafts)

    in_virtual_time(main)


def test_what_is_complete_is_written_when_the_node_remembers_what_it_wrote():
    async def main():
        replica, people = three()
        async with drafting(replica, people, copies=[ANN]) as made:
            ann, bob, _ = made

            async def hear(_link, _arguments):  # else he would write it
                await trio.lowlevel.checkpoint()

            bob.place.links.services.notices[NOTICE] = hear
            act = Kind.DROP, Drop(CYD.user, UserRole.ADMIN)
            proposal = ann.replica.author.propose(*act)
            paper = Paper.written(BOB.device, BOB.user, proposal, now_ms() // 1_000)
            signed = [proposal.cosigned(who.device, who.user) for who in (ANN, BOB)]
            book = Drafts(ann.replica.membership)
            book.put(Draft(paper, tuple(signed)), now_ms() // 1_000)
            ann.drafting.remember_untrusted(book.dump())
            await pass_time(10 * limits.RECOLLECTION_SECONDS)
            assert ann.drafts
            await link(made, (0, 1), (0, 2))  # who have nothing to tell
            await until(lambda: not ann.drafts)
            assert not ann.replica.is_admin(CYD)

    in_virtual_time(main)


def test_what_was_done_and_undone_is_not_done_again_when_somebody_has_not_heard():
    async def main():
        replica, people = three()
        replica.bring(FAY)
        async with drafting(replica, people) as made:
            ann, bob, cyd = made
            await link(made, (0, 2))
            draft = await ann.drafting.propose(*made_admin(FAY))
            bob.drafting.book.put(draft, now_ms() // 1_000)  # then Bob was away
            await until(lambda: cyd.drafts)
            assert await cyd.sign(draft) is None
            await until(lambda: not ann.drafts)
            resigned = ann.replica.of(FAY).author.drop(FAY.user, UserRole.ADMITTER, NOW_MS)
            data = [op.data for op in resigned.added]
            await ann.gossip.publish(ann.replica.membership.receive_untrusted(data))
            size = len(ann.replica.membership.set)

            def check_few(_changes):  # Bob's own may be written, as he knew of no other
                assert len(ann.replica.membership.set) <= size + 1

            ann.gossip.watch(check_few)
            cosign = draft.paper.proposal.cosigned(BOB.device, BOB.user)
            full = replace(draft, cosigns=(*draft.cosigns, cosign))
            bob.drafting.book.put(full, now_ms() // 1_000)
            await link(made, (0, 1))
            for one in (ann, cyd):
                await tell(bob if one is ann else ann, one, full)
            await pass_time(1)
            assert len({len(one.replica.membership.set) for one in made}) == 1
            assert ann.drafts == bob.drafts == cyd.drafts == []
            assert ann.replica.membership.state.users[FAY.user] == UserRole.MEMBER

    in_virtual_time(main)


def test_a_node_that_does_not_know_itself_yet_listens_and_begins_nothing():
    async def main():
        replica = a_mesh(ANN, BOB)
        replica.bring(FAY)
        sound = replica.of(CYD)  # of a damaged list: all but Cyd's own admission
        replica.bring(CYD)
        replica.cosigned(*made_admin(CYD), [(BOB, BOB.device)])
        async with drafting(replica, [ANN, BOB, CYD], views={"cyd": sound}) as made:
            ann, _, cyd = made
            draft = await ann.drafting.propose(*made_admin(FAY))
            cyd.drafting._take(draft, None)
            assert cyd.drafts == []
            with pytest.raises(NotAllowed):
                await cyd.drafting.propose(*made_admin(FAY))
            await link(made, (0, 2))
            await until(lambda: cyd.drafts)
            assert cyd.replica.is_admin(CYD)

    in_virtual_time(main)


# --- who means ill --------------------------------------------------------------------------------


def test_who_is_no_admin_is_not_listened_to_and_whom_it_is_about_learns_nothing():
    async def main():
        replica, people = three()
        replica.bring(FAY)
        async with drafting(replica, [*people, FAY]) as made:
            ann, bob, cyd, fay = made
            await link(made, (3, 1), (0, 2))
            draft = await ann.drafting.propose(*revoke(CYD))
            await tell(fay, bob, draft)
            await tell(ann, cyd, draft)  # that would be an error of Ann's node
            await pass_time(5)
            assert bob.drafts == cyd.drafts == []

    in_virtual_time(main)


def test_a_forged_draft_ends_the_link():
    async def main():
        async with drafting(*three()) as made:
            ann, bob, _ = made
            await link(made, (0, 1))
            proposal = ann.replica.author.propose(*revoke(CYD))
            paper = Paper.written(BOB.device, BOB.user, proposal, NOW_MS // 1_000)
            forged = replace(paper, signature=bytes(64))
            peer = bob.place.links.get(ann.place.id)
            await tell(ann, bob, Draft(forged))
            await until(peer.over.is_set)
            assert bob.drafts == []

    in_virtual_time(main)


def test_acts_that_are_not_known_here_are_passed_over():
    async def main():
        async with drafting(*three()) as made:
            ann, bob, _ = made
            await link(made, (0, 1))
            proposal = ann.replica.author.propose(Kind.COMMITTEE, Numbered(1, b""))
            await tell(ann, bob, Draft(Paper.written(ANN.device, ANN.user, proposal, 1)))
            await ann.drafting.propose(*revoke(CYD))
            await until(lambda: bob.drafts)
            assert len(bob.drafts) == 1

    in_virtual_time(main)


def test_who_tells_too_much_is_read_slowly_and_takes_no_room_of_others():
    async def main():
        async with drafting(*three()) as made:
            ann, bob, _ = made
            await link(made, (0, 1))
            began, read = trio.current_time(), []
            take = bob.drafting._take
            bob.drafting._take = lambda *what: (read.append(trio.current_time()), take(*what))
            for n in range(5 * limits.DRAFTS_PER_SECOND):
                proposal = ann.replica.author.propose(*revoke(CYD))
                paper = Paper.written(ANN.device, ANN.user, proposal, now_ms() // 1_000 - n)
                await tell(ann, bob, Draft(paper))
            await ann.drafting.propose(*revoke(CYD))
            await until(lambda: len(bob.drafts) == limits.DRAFTS_PER_USER_MAX)
            await pass_time(10)
            assert len(bob.drafts) == limits.DRAFTS_PER_USER_MAX
            assert bob.place.links.get(ann.place.id)
            assert len(read) > 5 * limits.DRAFTS_PER_SECOND
            assert read[-1] - began > 2

    in_virtual_time(main)


def test_nobody_is_told_the_same_again_and_again():
    async def main():
        async with drafting(*five()) as made:
            ann = made[0]
            pairs = [(i, j) for i in range(4) for j in range(i)]
            await link(made, *pairs)
            draft = await ann.drafting.propose(*revoke(EVE))
            await until(lambda: all(one.drafts for one in made[:4]))
            await pass_time(5)
            told = [one.told for one in made[:4]]
            for one in made[1:4]:
                await tell(one, ann, draft)
            await pass_time(5)
            assert [one.told for one in made[:4]] == told

    in_virtual_time(main)


# --- what goes wrong ------------------------------------------------------------------------------


def test_what_cannot_be_kept_is_told_to_who_began_it_and_logged_by_who_heard(caplog):
    async def main():
        async with drafting(*three(), fails=[ANN, BOB]) as made:
            ann, bob, _ = made
            await link(made, (0, 1))
            with pytest.raises(PortalError, match="no room"):
                await ann.drafting.propose(*revoke(CYD))
            await until(lambda: "drafts are not kept" in caplog.text)
            assert bob.drafts

    caplog.set_level(logging.WARNING)
    in_virtual_time(main)


def test_what_the_mesh_does_not_take_is_tried_once():
    async def main():
        async with drafting(*five()) as made:
            ann, bob, *_ = made
            draft = await ann.drafting.propose(*revoke(CYD))
            bob.drafting.book.put(draft, now_ms() // 1_000)
            bob.drafting.book.needed = lambda _draft: 1  # so it looks
            tries = []
            publish = bob.replica.author.publish
            pen = Pen(publish, tries)
            bob.drafting._author = pen
            for _ in range(3):
                bob.drafting._members_changed()
                await pass_time(1)
            assert len(tries) == 1
            assert bob.drafts

    in_virtual_time(main)


class Pen:
    """Counts what is written."""

    def __init__(self, publish, tries):
        self._publish, self._tries = publish, tries

    def publish(self, *what):
        self._tries.append(what)
        return self._publish(*what)


def test_a_signature_for_what_is_over_is_said_to_be_late():
    async def main():
        async with drafting(*three()) as made:
            ann, bob, _ = made
            draft = await ann.drafting.propose(*revoke(CYD))
            with pytest.raises(NoDraft, match="not yours"):
                await made[2].sign(draft)
            bob.drafting.book.put(draft, now_ms() // 1_000)
            assert await bob.sign(draft) is None
            with pytest.raises(NoDraft, match="over"):
                await bob.sign(draft)

    in_virtual_time(main)
