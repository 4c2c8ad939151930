"""Operations judged in many orders: what must be the same in all of them."""

import random
from collections.abc import Sequence

from mesh.members.bodies import Genesis
from mesh.members.evaluate import Evaluation
from mesh.members.operation import Operation
from mesh.members.opset import OpSet
from mesh.members.rules import Void
from mesh.members.state import state_of
from tests.support.member_histories import World, shuffled
from tests.support.memberships import Replica


def judged(ops: Sequence[Operation], seed: int, share: float = 0.0) -> Evaluation:
    """Everything in this order, judged in bits as it comes with some chance, and at the end."""
    rng = random.Random(seed)
    replica = OpSet(next(op for op in ops if isinstance(op.body, Genesis)))
    evaluation = Evaluation(replica)
    new: list[int] = []
    for op in ops:
        new += replica.add_untrusted(op)
        if rng.random() < share:
            evaluation.add(new)
            new = []
    evaluation.add(new)
    return evaluation


def verdicts(evaluation: Evaluation) -> tuple[dict[bytes, Void | None], bytes]:
    """Of every operation; and what they amount to."""
    ops = evaluation.set.ops
    return {op.id: evaluation.why_void(i) for i, op in enumerate(ops)}, state_of(evaluation).hash()


def assert_order_never_matters(world: World, orders: int = 2) -> Evaluation:
    """Judge them in several orders, looked at in between or not."""
    ops = shuffled(world, 0)
    expected = judged(ops, 0)
    assert len(expected.set) == len(ops)
    for n in range(1, orders + 1):
        other = judged(shuffled(world, n), n, share=(1.0, 0.2, 0.5)[n % 3])
        assert verdicts(other) == verdicts(expected)
        assert {other.set.ops[i].id for i in other.tied} == {
            expected.set.ops[i].id for i in expected.tied
        }
    return expected


def assert_verdicts_agree_with_the_rules(evaluation: Evaluation) -> None:
    """Nothing was settled too early: under the final tables every rule says what was decided.

    But for removals that excluded each other, and for what would be void if it counted.
    """
    for i in range(len(evaluation.set)):
        if i in evaluation.weighed:
            continue
        as_decided = evaluation.counts(i) == (evaluation.rules.why_void(i) is None)
        assert as_decided == (evaluation.counts(i) == (evaluation._lenient.why_void(i) is None))
        if not as_decided:
            assert i in evaluation.unsettled
            assert not evaluation.counts(i)
            assert not counts_if_it_counts(evaluation, i)


def counts_if_it_counts(evaluation: Evaluation, i: int) -> bool:
    """Whether the rules agree that something unsettled counts, and the rest of it as they say."""
    certain, possible = evaluation._certain, evaluation._possible
    before = bytes(certain), bytes(possible)
    rest = [other for _, _, other in evaluation.set.order if other in evaluation.unsettled - {i}]
    for other in rest:
        possible[other] = 1
    certain[i] = possible[i] = 1
    evaluation._settle(rest)
    answer = evaluation.rules.why_void(i) is None
    certain[:], possible[:] = before
    return answer


def all_of(replica: Replica) -> World:
    """The operations one knows, to be shuffled."""
    ops = {op.id: op for op in replica.membership.set.ops}
    return World(random.Random(0), [], ops)
