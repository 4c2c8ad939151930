"""The graph of kept links: even, connected for certain, short, and steady when members change."""

import random
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import limits
from core.hashing import digest
from core.ids import NodeId
from core.labels import Label
from mesh.neighbours import neighbours

Graph = dict[NodeId, set[NodeId]]
MOST = 2 * limits.LINK_RINGS


def people(count: int, seed: int = 1) -> dict[NodeId, bytes]:
    rng = random.Random(seed)
    return {NodeId(rng.randbytes(32)): rng.randbytes(20) for _ in range(count)}


def wanted(own: NodeId, members: Mapping[NodeId, bytes]) -> set[NodeId]:
    return neighbours(members[own], {n: name for n, name in members.items() if n != own})


def graph(members: Mapping[NodeId, bytes]) -> Graph:
    return {node: wanted(node, members) for node in members}


def whole_rings(members: Mapping[NodeId, bytes]) -> Graph:
    """The same graph by putting everybody on rings: for many, and to compare with."""
    links: Graph = {node: set() for node in members}
    names = {n: digest(Label.LINK_RINGS, d, 8 * limits.LINK_RINGS) for n, d in members.items()}
    for at in range(0, 8 * limits.LINK_RINGS, 8):
        ring = sorted(members, key=lambda node: names[node][at : at + 8])
        for one, other in zip(ring, [*ring[1:], ring[0]], strict=True):
            links[one].add(other)
            links[other].add(one)
    return links


def distances(links: Graph, start: NodeId, alive: Iterable[NodeId] | None = None) -> dict:
    """How many links away everybody is that can be reached."""
    left = set(links if alive is None else alive)
    found, ring, distance = {}, {start}, 0
    while ring:
        found |= dict.fromkeys(ring, distance)
        left -= ring
        ring = {other for node in ring for other in links[node]} & left
        distance += 1
    return found


def edges(links: Graph) -> set[frozenset[NodeId]]:
    return {frozenset((one, other)) for one, others in links.items() for other in others}


def test_as_long_as_they_are_few_all_are_kept():
    members = people(limits.LINKS_KEPT_MAX + 1)
    for node in members:
        assert wanted(node, members) == set(members) - {node}
    assert neighbours(b"", {}) == set()


@settings(max_examples=10)
@given(st.integers(limits.LINKS_KEPT_MAX + 2, 120), st.integers(0, 1 << 32))
def test_both_ends_want_the_same_links_and_nobody_wants_many(count, seed):
    members = people(count, seed)
    links = graph(members)
    assert all(node in links[other] for node, others in links.items() for other in others)
    assert all(node not in others for node, others in links.items())
    assert all(limits.LINK_RINGS <= len(others) <= MOST for others in links.values())
    assert len(distances(links, next(iter(members)))) == count


def test_everybody_finds_the_same_in_whatever_order_members_are_known():
    members = people(100)
    own = next(iter(members))
    mixed = list(members.items())
    random.Random(2).shuffle(mixed)
    assert wanted(own, dict(mixed)) == wanted(own, members)


def test_everybody_stands_between_the_same_two_on_every_ring():
    members = people(150)
    assert graph(members) == whole_rings(members)


def test_one_ring_alone_goes_once_around_everybody(monkeypatch):
    monkeypatch.setattr(limits, "LINK_RINGS", 1)
    members = people(100)
    links = graph(members)
    assert {len(others) for others in links.values()} == {2}
    assert max(distances(links, next(iter(members))).values()) == 50


def test_where_one_stands_hangs_on_the_dht_id_and_not_on_the_key():
    members = people(100)
    keys = dict(zip(members, people(100, seed=2), strict=True))
    renamed = {keys[node]: dht_id for node, dht_id in members.items()}
    for node in members:
        assert wanted(keys[node], renamed) == {keys[other] for other in wanted(node, members)}


@settings(max_examples=5)
@given(st.integers(0, 1 << 32))
def test_who_comes_or_goes_changes_few_links_and_only_next_to_it(seed):
    members = people(120, seed)
    new = next(iter(members))
    before = graph({node: name for node, name in members.items() if node != new})
    after = graph(members)
    came, went = edges(after) - edges(before), edges(before) - edges(after)
    assert all(new in edge for edge in came)
    assert len(came) <= MOST
    assert len(went) <= limits.LINK_RINGS
    assert all(edge <= after[new] for edge in went)  # between those it stepped in between


@pytest.mark.slow
@pytest.mark.parametrize(("count", "farthest"), [(1_000, 3), (10_000, 4)])
def test_ways_are_short_and_half_of_the_members_stay_connected(count, farthest):
    members = people(count)
    links = whole_rings(members)
    assert sum(map(len, links.values())) / count > 0.95 * MOST
    rng, names = random.Random(3), sorted(members)
    found = distances(links, names[0])
    assert len(found) == count
    assert max(found.values()) <= farthest
    for _ in range(5):
        alive = rng.sample(names, count // 2)
        assert len(distances(links, alive[0], alive)) == count // 2
