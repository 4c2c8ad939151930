"""A node that may have forgotten what it wrote writes nothing before it knows."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from mesh.members.bodies import Kind, Numbered
from mesh.members.bodies import Reason as Why
from mesh.recollection import Forgetful, Recollection
from tests.mesh.test_gossip import a_trio, agree, gossiping, join_up
from tests.support.memberships import NOW_MS, concerns, found, person
from tests.support.neighbours import pass_time, until
from tests.support.wires import in_virtual_time

ANN, BOB, CYD, DOT = (person(name) for name in ("ann", "bob", "cyd", "dot"))


def a_mesh(*others):
    mesh = found(ANN)
    for who in others:
        mesh.bring(who)
    return mesh


def past_of(mesh, *, is_whole=False, **more):
    return Recollection(mesh.membership, ANN.node, is_whole=is_whole, **more)


def why(past):
    with pytest.raises(Forgetful) as raised:
        past.check()
    return str(raised.value)


def test_two_operations_with_one_number_are_what_it_is_all_about():
    mesh = a_mesh(BOB)
    copy = mesh.of(ANN)
    mesh.author.next_epoch(bytes(32), NOW_MS)
    copy.author.set_policy(copy.membership.state.policy, NOW_MS)
    mesh.meet(copy)
    assert not mesh.membership.member(ANN.node).is_active
    assert concerns(mesh) == ["two operations with one number"]


def test_a_copy_writes_once_everybody_has_been_heard():
    past = past_of(a_mesh(BOB, CYD))
    assert f"(not heard yet: {', '.join(names_by_node(BOB, CYD))}; " in why(past)
    past.heard(BOB.node)
    past.waited()  # that alone is not enough
    assert "(not heard yet: cyd; " in why(past)
    assert "cyd" in past.complaint()
    past.heard(DOT.node)  # no member
    assert not past.is_sure
    past.heard(CYD.node)
    past.check()
    assert past.is_sure
    assert past.complaint() is None


def names_by_node(*people):
    return [who.name for who in sorted(people, key=lambda who: who.node)]


def test_whoever_it_learns_of_meanwhile_is_heard_as_well():
    mesh = a_mesh(BOB)
    past = past_of(mesh)
    mesh.bring(CYD)
    past.heard(BOB.node)
    assert "not heard yet: cyd" in why(past)
    past.heard(CYD.node)
    past.check()


def test_who_is_put_out_need_not_be_heard():
    mesh = a_mesh(BOB, CYD)
    past = past_of(mesh)
    past.heard(BOB.node)
    mesh.author.revoke_user(CYD.user, Why.REMOVED, NOW_MS)
    past.check()


def test_a_copy_that_knows_nobody_says_where_to_go():
    past = past_of(a_mesh())
    past.waited()
    assert "portal recover ADDRESS" in why(past)
    assert "portal mesh proceed" in past.complaint()


def test_a_person_may_say_that_nobody_comes_who_knows_more():
    past = past_of(a_mesh(BOB, CYD))
    assert "portal mesh proceed" in why(past)
    past.insist()
    past.check()
    assert past.complaint() is None


def test_what_is_whole_listens_for_a_moment():
    past = past_of(a_mesh(BOB), is_whole=True)
    assert "have not said yet" in why(past)
    assert past.complaint() is None  # nothing is wrong
    past.waited()
    past.check()
    past = past_of(a_mesh(BOB), is_whole=True)
    past.heard(BOB.node)
    past.check()
    past_of(a_mesh(), is_whole=True).check()


def test_what_is_sure_stays_so():
    mesh = a_mesh(BOB)
    past = past_of(mesh)
    past.heard(BOB.node)
    past.check()
    mesh.bring(CYD)
    past.check()


def test_of_very_many_most_of_the_near_ones_are_enough(monkeypatch):
    monkeypatch.setattr(limits, "LINKS_KEPT_MAX", 2)
    near = [BOB.node, CYD.node, DOT.node]
    past = past_of(a_mesh(BOB, CYD, DOT), near=lambda: near)
    past.heard(BOB.node)
    assert not past.look()
    past.heard(DOT.node)
    past.check()


def test_many_names_are_cut():
    people = [person(f"p{n}") for n in range(7)]
    assert "and 3 more" in why(past_of(a_mesh(*people)))


@given(st.data())
def test_no_order_of_events_makes_a_copy_write_too_early(data):
    """However it comes about: once it writes, it knows all that any member ever heard of it."""
    mesh = a_mesh(BOB, CYD)
    copy = mesh.of(ANN)
    others = {who.node: mesh.of(who) for who in (BOB, CYD)}
    for number in range(1, data.draw(st.integers(1, 3)) + 1):
        mesh.author.write(Kind.EPOCH, Numbered(number, bytes(32)), NOW_MS)
        heard_by = data.draw(st.sets(st.sampled_from(sorted(others)), max_size=2))
        for node in heard_by:
            mesh.tell(others[node])
    past = past_of(copy)
    for node in data.draw(st.lists(st.sampled_from(sorted(others)), max_size=5)):
        others[node].tell(copy)
        past.heard(node)
    past.waited()
    if not past.look():
        return
    copy.author.set_policy(copy.membership.state.policy, NOW_MS)
    for other in others.values():
        copy.meet(other)
        assert other.membership.set.forks == {}


# --- among others ---------------------------------------------------------------------------------


def forgotten():
    """A mesh in which Ann has written something, and how it was before."""
    replica, people = a_trio()
    old = replica.of(ANN)
    replica.author.next_epoch(bytes(32), NOW_MS)
    return replica, people, old


def test_a_copy_writes_nothing_before_all_have_told_what_it_wrote():
    async def main():
        replica, people, old = forgotten()
        async with gossiping(replica, people, copies={"ann": (False, old)}) as speakers:
            ann, bob, cyd = speakers
            began = trio.current_time()
            with pytest.raises(Forgetful):
                await ann.gossip.until_sure()
            assert trio.current_time() - began == limits.RECOLLECTION_SECONDS
            await join_up(speakers, [(0, 1)])
            await until(lambda: agree([ann, bob]))
            await pass_time(2 * limits.GOSSIP_SECONDS)
            with pytest.raises(Forgetful, match="put back from a copy"):
                await ann.gossip.until_sure()
            await join_up(speakers, [(0, 2)])
            await ann.gossip.remembers.wait()
            await ann.gossip.until_sure()
            await ann.write(2)
            await until(lambda: agree([ann, bob, cyd]))
            assert cyd.members.set.forks == {}

    in_virtual_time(main)


def test_who_is_whole_listens_to_those_there_are_and_goes_on_alone():
    async def main():
        replica, people, old = forgotten()
        copies = {"ann": (True, old), "cyd": (True, replica)}
        async with gossiping(replica, people, copies=copies) as speakers:
            ann, bob, cyd = speakers
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cyd.gossip.until_sure)
                await join_up(speakers, [(0, 1)])
                await ann.gossip.until_sure()  # as if the whole disk had been put back
            assert trio.current_time() - began <= limits.RECOLLECTION_SECONDS
            assert agree([ann, bob])
            await ann.write(2)
            assert ann.members.set.forks == {}

    in_virtual_time(main)


def test_a_member_is_heard_when_it_has_said_all_and_not_before():
    async def main():
        replica, agreed = a_mesh(BOB), []
        old = replica.of(ANN)
        replica.author.next_epoch(bytes(32), NOW_MS)
        people = [ANN, BOB]
        async with gossiping(replica, people, copies={"ann": (False, old)}) as speakers:

            async def look():
                await speakers[0].gossip.remembers.wait()
                agreed.append(agree(speakers))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(look)
                await join_up(speakers, [(0, 1)])
            assert agreed == [True]

    in_virtual_time(main)
