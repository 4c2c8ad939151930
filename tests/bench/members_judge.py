"""Ten thousand operations judged, and random lives of meshes in which order never matters.

Signatures are told apart: they are libsodium's work, once for each operation that comes.
`python -m tests.bench.members_judge` runs this alone.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mesh.members.bodies import Reason
from mesh.members.evaluate import Evaluation
from mesh.members.membership import Membership
from mesh.members.operation import Operation
from mesh.members.opset import OpSet
from mesh.members.state import state_of
from tests.bench.table import Row, show
from tests.support.member_histories import World, random_history, shuffled
from tests.support.memberships import Replica, a_large_mesh, person

OPERATIONS = 10_000
LIVES_SECONDS = 30
LIVES_WANTED = 10_000  # the deep test judges so many
ORDERS = 2
GOAL_S = 2

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What came of it, and the seconds it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def judged(ops: Sequence[Operation]) -> Membership:
    """All of them, as a node does that has read its file, less the signatures."""
    found = Membership(ops[0])
    new = [i for op in ops[1:] for i in found.set.add_untrusted(op)]
    assert not found._judge(new, []).refused
    return found


# --- random lives ---------------------------------------------------------------------------------


def verdicts(ops: Sequence[Operation], share: float, seed: int) -> object:
    """What is decided if they come in this order, looked at in between or not."""
    rng = random.Random(seed)
    genesis = next(op for op in ops if not op.before)
    replica = OpSet(genesis)
    evaluation = Evaluation(replica)
    new: list[int] = []
    for op in ops:
        new += replica.add_untrusted(op)
        if rng.random() < share:
            evaluation.add(new)
            new = []
    evaluation.add(new)
    decided = {op.id: evaluation.why_void(i) for i, op in enumerate(replica.ops)}
    tied = {replica.ops[i].id for i in evaluation.tied}
    return decided, tied, state_of(evaluation).hash()


def order_never_matters(world: World) -> bool:
    """Whether all orders end in the same."""
    expected = verdicts(shuffled(world, 0), 0.0, 0)
    return all(
        verdicts(shuffled(world, n), (1.0, 0.2)[n % 2], n) == expected for n in range(1, 1 + ORDERS)
    )


def lives(seconds: float) -> tuple[int, int]:
    """How many were lived in this time, and how many were the same in every order."""
    count = same = 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        world = random_history(1_000_000 + count, steps=30, fierce=bool(count % 2))
        same += order_never_matters(world)
        count += 1
    return count, same


def rows() -> Iterator[Row]:
    """Goals of the list of members."""
    data = a_large_mesh(OPERATIONS)
    genesis = Operation.open_untrusted(data[0], None)
    opened, opened_s = timed(
        lambda: [Operation.open_untrusted(one, genesis.mesh) for one in data[1:]]
    )
    found, took_s = timed(lambda: judged([genesis, *opened]))
    size = sum(map(len, data)) / 1e6
    yield Row(
        f"{OPERATIONS:,} operations ({size:.1f} MB) judged",
        f"{took_s:.2f} s",
        f"{len(found.state.members):,} members; signatures and parsing {opened_s:.1f} s more",
        f"{took_s / GOAL_S:.2f}x",
        f"<= {GOAL_S} s",
        took_s <= GOAL_S,
    )
    mesh = Replica(person("founder"), found)
    members = [m for m in found.members() if m.is_active]
    busy = next(m for m in members if m.user_role and m.user != mesh.who.user)
    quiet = next(m for m in members if not found.set.last_of(m.node))
    for what, member in (("of a guest", quiet), ("of who admitted others", busy)):
        author = mesh.author
        _, one_s = timed(lambda: author.revoke_user(member.user, Reason.REMOVED, 1))  # noqa: B023 - called at once
        yield Row(f"  one more: the removal {what}", f"{one_s * 1e3:.0f} ms", "", "", "", None)
    count, same = lives(LIVES_SECONDS)
    yield Row(
        f"random lives, each in {1 + ORDERS} orders, for {LIVES_SECONDS} s",
        f"{same:,} of {count:,} the same",
        f"{LIVES_WANTED:,} in the deep test",
        "",
        "all",
        same == count,
    )


if __name__ == "__main__":
    show("judging operations", rows())
