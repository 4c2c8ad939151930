"""A hundred members who keep links to a few of the others: what one writes, all soon know."""

from functools import partial
from random import Random

import pytest

from mesh.members import operation
from mesh.members.bodies import Reason
from tests.support.copies import copy_of
from tests.support.light_links import Terrain
from tests.support.memberships import NOW_MS, Replica, a_mesh, person, seeded_key, terms
from tests.support.village import Village, history, pass_time, play, until

MEMBERS = 100
OPERATION_SECONDS, REVOCATION_SECONDS = 6, 10

pytestmark = pytest.mark.slow


def scene_of(work):
    """Play it; that it was played to its end is not left to chance."""
    played = []

    async def scene(village: Village) -> None:
        await work(village)
        played.append(village)

    play(MEMBERS, scene, terrain=Terrain())
    assert played


def an_invite(seed, author):
    voucher = seeded_key(seed)
    return author.invite(voucher, terms(voucher), NOW_MS)


def revocation_of(villager):
    return lambda author: author.revoke_user(villager.who.user, Reason.COMPROMISED, NOW_MS)


def wrote(villager):
    return any(op.author == villager.node for op in villager.membership.set.ops)


def all_agree(village, without=()):
    return {
        (one.membership.set.vector_hash(), one.membership.state.hash())
        for one in village.villagers.values()
        if one not in without
    }


def test_an_operation_reaches_everybody_and_costs_each_one_signature(monkeypatch):
    verified = []
    verify = operation.verify
    monkeypatch.setattr(
        operation, "verify", lambda *said: (verified.append(said), verify(*said))[1]
    )

    async def work(village):
        assert len(village.villagers) == MEMBERS
        verified.clear()
        op_id, at = await village.write(village.founder, partial(an_invite, "a voucher"))
        assert await village.until_known(op_id, at) <= OPERATION_SECONDS
        await pass_time(5)
        sent, _, _ = village.counts()
        assert sent > 10 * MEMBERS  # it came by many ways
        assert len(verified) == MEMBERS
        assert len(all_agree(village)) == 1

    scene_of(work)


@pytest.mark.parametrize("busy", [False, True], ids=["a guest", "an admitter"])
def test_who_is_put_out_loses_every_link_and_finds_none(busy):
    async def work(village):
        victim = next(
            one
            for one in village.villagers.values()
            if wrote(one) is busy and one.node != village.founder
        )
        others = [one for one in village.villagers.values() if one is not victim]
        assert victim.links.all()
        op_id, at = await village.write(village.founder, revocation_of(victim))
        them = [one.node for one in others]
        assert await village.until_known(op_id, at, them) <= REVOCATION_SECONDS
        await until(lambda: not victim.links.all(), REVOCATION_SECONDS)
        assert not any(one.links.get(victim.node) for one in others)
        assert not any(one.membership.roster().member(victim.node) for one in others)
        await pass_time(120)  # nobody tells it anything more
        assert len(all_agree(village, without=[victim])) == 1

    scene_of(work)


def test_who_was_away_learns_it_when_it_is_back():
    async def work(village):
        nodes = sorted(set(village.villagers) - {village.founder})
        away = set(Random(2).sample(nodes, MEMBERS // 2))
        village.away(away)
        op_id, at = await village.write(village.founder, partial(an_invite, "a voucher"))
        there = set(village.villagers) - away
        assert await village.until_known(op_id, at, there) <= OPERATION_SECONDS
        assert not any(op_id in village.villagers[node].heard_at for node in away)
        village.back(away)
        assert await village.until_known(op_id, at, away) <= OPERATION_SECONDS
        assert len(all_agree(village)) == 1

    scene_of(work)


# --- what this is played with ---------------------------------------------------------------------


def test_a_copy_of_a_membership_goes_its_own_way():
    first = a_mesh(*map(person, ("ann", "bob")))
    membership = first.membership
    before = membership.dump(), membership.state.hash()
    other = Replica(first.who, copy_of(membership), vouchers=100)
    assert other.membership.state is membership.state  # what never changes is there once
    other.bring(person("cyd"))
    other.author.revoke_user(person("cyd").user, Reason.REMOVED, NOW_MS)
    assert (membership.dump(), membership.state.hash()) == before
    anew, _ = type(membership).load_untrusted(other.membership.dump())
    assert other.membership.state.hash() == anew.state.hash()
    first.bring(person("dot"))
    assert not other.membership.member(person("dot").node)
    first.meet(other)
    assert membership.state.hash() == other.membership.state.hash() != before[1]


def test_the_life_before_leaves_so_many():
    membership, people = history(MEMBERS)
    active = [member.node for member in membership.members() if member.is_active]
    assert sorted(one.node for one in people) == active
    assert len(active) == MEMBERS
    assert len(active) < len(membership.members())  # some were put out before
