"""A thousand members: how long until all of them know an operation, and until all cut one off.

Real lists of members and real gossip in virtual time; the links are light ones, between the
neighbours that nodes choose (tests/support/village.py). The same scene is played by forty whole
nodes with QUIC, AUTH and everything on a simulated network, as a check of the light links.
`python -m tests.bench.members_many [MEMBERS]` runs this alone.
"""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import trio

from core import limits
from mesh.members.authoring import Author
from mesh.members.bodies import Reason
from mesh.members.membership import Changes
from tests.bench.table import Row, show
from tests.support.hop import Path
from tests.support.light_links import Terrain
from tests.support.memberships import NOW_MS, seeded_key, terms
from tests.support.meshes import Town, a_town
from tests.support.simnet import SimNet, simulate
from tests.support.village import Village, Villager, pass_time, play, until

MEMBERS = 1_000
TERRAIN = Terrain()
GOAL_OPERATION_S, GOAL_REVOCATION_S = 6, 10
AWAY_SHARE = 0.1
WHOLE_NODES, WHOLE_KEPT, WHOLE_RINGS = 40, 12, 4  # so few keep so few links
TOWN_DEADLINE_S = 120


@dataclass
class Found:
    """Seconds of virtual time, and what was said meanwhile."""

    members: int = 0
    links: int = 0
    operation_s: float = 0
    operation_notices: int = 0
    operation_bytes: int = 0
    most_bytes: int = 0  # of one node, both directions
    known_s: float = 0  # a revocation, by all
    cut_s: float = 0
    of_writer_s: float = 0  # the same of somebody on whose operations others hang
    present_s: float = 0  # an operation, with some away
    back_s: float = 0  # by those, once their links stand again
    took_s: float = 0
    peak_bytes: int = 0


def an_invite(seed: str, author: Author) -> Changes:
    """An operation."""
    voucher = seeded_key(seed)
    return author.invite(voucher, terms(voucher), NOW_MS)


async def scene(found: Found, village: Village) -> None:
    """Everything that is measured."""
    found.members, found.links = len(village.villagers), len(village.wanted)
    op_id, at = await village.write(village.founder, partial(an_invite, "first"))
    found.operation_s = await village.until_known(op_id, at)
    await pass_time(5)
    found.operation_notices, found.operation_bytes, found.most_bytes = village.counts()

    quiet = [one for one in village.villagers.values() if not written(one)]
    found.cut_s, found.known_s = await put_out(village, quiet[len(quiet) // 2])

    there = sorted(set(village.villagers) - {village.founder})
    away = set(Random(3).sample(there, round(len(there) * AWAY_SHARE)))
    village.away(away)
    await pass_time(1)
    op_id, at = await village.write(village.founder, partial(an_invite, "second"))
    found.present_s = await village.until_known(op_id, at, set(village.villagers) - away)
    at = trio.current_time()
    village.back(away)
    found.back_s = await village.until_known(op_id, at, away)


def written(one: Villager) -> int:
    """How many operations somebody wrote."""
    return sum(op.author == one.node for op in one.membership.set.ops)


async def put_out(village: Village, victim: Villager) -> tuple[float, float]:
    """Revoke somebody: when the last link to them was cut, and when the last member knew."""
    node = victim.node

    def revoke(author: Author) -> Changes:
        return author.revoke_user(victim.who.user, Reason.COMPROMISED, NOW_MS)

    others = [one for one in village.villagers.values() if one is not victim]
    op_id, at = await village.write(village.founder, revoke)
    await until(lambda: all(one.links.get(node) is None for one in others))
    cut_s = trio.current_time() - at
    known_s = await village.until_known(op_id, at, [one.node for one in others])
    assert not any(one.membership.roster().member(node) for one in others)
    assert sum(one.links.get(node) is not None for one in others) == 0
    del village.villagers[node]
    return cut_s, known_s


def simulated(members: int = MEMBERS) -> Found:
    """All of it."""
    found, began = Found(), time.perf_counter()
    play(members, partial(scene, found), terrain=TERRAIN)
    found.took_s = time.perf_counter() - began
    found.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


# --- whole nodes, to compare with -----------------------------------------------------------------


@contextmanager
def few_links() -> Iterator[None]:
    """So that forty nodes have to choose."""
    kept, rings = limits.LINKS_KEPT_MAX, limits.LINK_RINGS
    vars(limits).update(LINKS_KEPT_MAX=WHOLE_KEPT, LINK_RINGS=WHOLE_RINGS)
    try:
        yield
    finally:
        vars(limits).update(LINKS_KEPT_MAX=kept, LINK_RINGS=rings)


async def town_scene(found: Found, town: Town) -> None:
    """An operation and a revocation among whole nodes."""
    seats = town.seats
    for one in seats:
        for other in seats:
            one.mesh.whereabouts.hint(other.node, [other.mesh.local])
        one.mesh.keep_links()
    # Who learned of others by the first one lets go of it, as it is not a neighbour of all.
    wanted = {one.node: set(one.mesh._wanted()) for one in seats}
    await town.until(
        lambda: all(wanted[one.node] <= one.linked() for one in seats), TOWN_DEADLINE_S
    )
    await pass_time(limits.LINK_UNUSED_SECONDS + 2 * limits.LINK_REST_SECONDS)
    found.members, found.links = len(seats), sum(len(one.linked()) for one in seats) // 2
    first, victim = seats[0], seats[-1]
    at = trio.current_time()
    changes = an_invite("first", first.replica().author)
    await first.mesh.gossip.publish(changes)
    (op_id,) = [op.id for op in changes.added]
    await town.until(lambda: all(op_id in one.mesh.membership.set for one in seats))
    found.operation_s = trio.current_time() - at
    at = trio.current_time()
    changes = first.replica().author.revoke_user(victim.who.user, Reason.COMPROMISED, NOW_MS)
    await first.mesh.gossip.publish(changes)
    others = seats[:-1]
    await town.until(lambda: not any(victim.node in one.linked() for one in others))
    found.cut_s = trio.current_time() - at
    await town.until(lambda: all(changes.added[0].id in o.mesh.membership.set for o in others))
    found.known_s = trio.current_time() - at


async def _town(found: Found, net: SimNet) -> None:
    names = [f"whole {n}" for n in range(WHOLE_NODES)]

    async def set_scene(town: Town) -> None:
        for n, one in enumerate(town.seats):
            for other in town.seats[:n]:
                delay_s = net.rng.uniform(*TERRAIN.one_way_s)
                path = Path(delay_s=delay_s, jitter_s=TERRAIN.jitter_s, loss=TERRAIN.loss)
                net.link(one.host, other.host, path)
        await town_scene(found, town)

    await a_town(net, names, set_scene)


def whole(seed: int = 1) -> Found:
    """The same by whole nodes."""
    found, began = Found(), time.perf_counter()
    with few_links():
        simulate(partial(_town, found), seed)
    found.took_s = time.perf_counter() - began
    return found


def light() -> Found:
    """As few, with as few links, by light ones."""
    found = Found()
    with few_links():
        play(WHOLE_NODES, partial(scene, found), terrain=TERRAIN)
    return found


# --- what is shown --------------------------------------------------------------------------------


def rows(members: int = MEMBERS) -> Iterator[Row]:
    """Goals of a large mesh."""
    found = simulated(members)
    each = found.operation_notices / found.members
    yield Row(
        f"{found.members:,} members, {found.links:,} links: an operation at all of them",
        f"{found.operation_s:.2f} s",
        f"{each:.0f} notices and {found.operation_bytes / found.members / 1e3:.1f} kB a node",
        f"{found.operation_s / GOAL_OPERATION_S:.2f}x",
        f"<= {GOAL_OPERATION_S} s",
        found.operation_s <= GOAL_OPERATION_S,
    )
    yield Row(
        "  a revocation: known to all, every link cut",
        f"{found.known_s:.2f} s, {found.cut_s:.2f} s",
        f"most of one node {found.most_bytes / 1e3:.0f} kB an operation",
        f"{max(found.known_s, found.cut_s) / GOAL_REVOCATION_S:.2f}x",
        f"<= {GOAL_REVOCATION_S} s",
        max(found.known_s, found.cut_s) <= GOAL_REVOCATION_S,
    )
    yield Row(
        f"  with {AWAY_SHARE:.0%} away: an operation at the others",
        f"{found.present_s:.2f} s",
        f"those, once linked again: {found.back_s:.2f} s",
        f"{found.present_s / GOAL_OPERATION_S:.2f}x",
        f"<= {GOAL_OPERATION_S} s",
        found.present_s <= GOAL_OPERATION_S,
    )
    yield Row(
        "  the simulation",
        f"{found.took_s:.0f} s",
        f"{found.peak_bytes / 1e9:.1f} GB",
        "",
        "",
        None,
    )
    real, model = whole(), light()
    yield Row(
        f"{real.members} whole nodes with QUIC, {real.links} links: an operation; cut",
        f"{real.operation_s:.2f} s; {real.cut_s:.2f} s",
        f"light links, {model.links}: {model.operation_s:.2f} s; {model.cut_s:.2f} s",
        f"{real.operation_s / model.operation_s:.1f}x",
        "",
        None,
    )


if __name__ == "__main__":
    show("many members", rows(int(sys.argv[1]) if len(sys.argv) > 1 else MEMBERS))
