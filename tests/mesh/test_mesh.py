from functools import partial

import pytest
import trio

from core import limits
from mesh.members.bodies import Reason
from tests.support.hop import Path
from tests.support.memberships import NOW_MS, join_of, person, seeded_key, terms
from tests.support.meshes import a_town, meet
from tests.support.simnet import simulate

NAMES = ["ann", "bob", "cyd", "dan"]
LINE = Path(delay_s=0.02, jitter_s=0.005, loss=0.01)


def play(scene, names=NAMES, seed=1, path=LINE):
    simulate(partial(a_town, names=names, scene=scene), seed, path)


async def pass_on(seconds):
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


def everybody_is_linked(town):
    nodes = {seat.node for seat in town.seats}
    return all(seat.linked() == nodes - {seat.node} for seat in town.seats)


@pytest.mark.slow
def test_who_knows_one_member_is_soon_linked_with_all():
    async def scene(town):
        await town.until(lambda: everybody_is_linked(town), within_s=30)

    play(scene)


@pytest.mark.slow
def test_a_revoked_user_is_out_everywhere_within_a_second_and_stays_out():
    async def scene(town):
        await town.until(lambda: everybody_is_linked(town))
        ann, *others, dan = town.seats
        changes = ann.replica().author.revoke_user(dan.who.user, Reason.COMPROMISED, NOW_MS)
        await ann.mesh.gossip.publish(changes)
        took_s = await town.until(lambda: not any(dan.node in s.linked() for s in [ann, *others]))
        assert took_s <= 1
        with trio.move_on_after(200):  # it dials on, in vain
            await trio.sleep_forever()
        assert not any(dan.node in seat.linked() for seat in [ann, *others])
        kept = [change for seat in others for change in seat.files.members]
        assert [c.barred for c in kept] == [(dan.node,)] * len(others)

    play(scene)


@pytest.mark.slow
def test_a_new_member_is_let_in_by_those_who_did_not_admit_it():
    async def scene(town):
        await town.until(lambda: everybody_is_linked(town))
        ann, bob = town.seats[0], town.seats[1]
        voucher, eve = seeded_key("a voucher"), person("eve")
        invited = ann.replica().author.invite(voucher, terms(voucher), NOW_MS)
        await ann.mesh.gossip.publish(invited)
        await town.until(lambda: bob.mesh.membership.invite(voucher.public) is not None)
        ann.scope.cancel()
        town.seats.remove(ann)

        writer = bob.replica()
        join = join_of(writer.membership, eve, voucher)
        await bob.mesh.gossip.publish(writer.author.admit(join, NOW_MS))
        new = await town.settle(eve, writer.of(eve).membership)
        meet(bob, [new])
        await town.until(lambda: everybody_is_linked(town))

    play(scene)


@pytest.mark.slow
def test_who_moves_is_found_again():
    async def scene(town):
        await town.until(lambda: everybody_is_linked(town))
        bob = town.seats[1]
        bob.host.move("10.9.9.9")
        with trio.move_on_after(120):
            await trio.sleep_forever()
        bob.mesh.whereabouts.refresh()
        bob.mesh.links.nudge()
        await town.until(lambda: everybody_is_linked(town), within_s=200)
        ways = town.seats[2].mesh.whereabouts.ways(bob.node)
        assert "10.9.9.9" in {way.address.host for way in ways}

    play(scene)


@pytest.mark.slow
def test_of_many_members_only_neighbours_are_kept_and_both_ends_want_it(monkeypatch):
    monkeypatch.setattr(limits, "LINKS_KEPT_MAX", 2)
    monkeypatch.setattr(limits, "LINK_RINGS", 1)

    async def scene(town):
        def is_a_ring():
            linked = {seat.node: seat.linked() for seat in town.seats}
            return all(len(others) == 2 for others in linked.values())

        await pass_on(10)  # who knows no neighbour's place asks whom it can reach
        for seat in town.seats:
            seat.mesh.keep_links()
            assert len(seat.mesh._kept) == 2
        for seat in town.seats:
            kept_by = {other.node for other in town.seats if seat.node in other.mesh._kept}
            assert seat.mesh._kept == kept_by
        await town.until(is_a_ring, within_s=3 * limits.LINK_UNUSED_SECONDS)

    play(scene, names=[*NAMES, "eve"])


@pytest.mark.slow
def test_the_end_of_a_node_is_told_to_its_peers_and_leaves_nothing():
    async def scene(town):
        await town.until(lambda: everybody_is_linked(town))
        ann = town.seats.pop(0)
        ann.scope.cancel()
        took_s = await town.until(lambda: not any(ann.node in s.linked() for s in town.seats))
        assert took_s < 1
        assert ann.mesh.links.all() == []

    play(scene)
