import random
from contextlib import suppress

import pytest

from core import limits
from core.errors import FormatError, LimitExceeded
from mesh.members.bodies import Grant, Kind, Unknown, UserRole
from mesh.members.operation import Operation, Place, signed
from mesh.members.opset import SHORT_ID_BYTES, OpSet
from tests.support.member_histories import random_history, shuffled
from tests.support.memberships import NOW_MS, a_mesh, found, person

F, A, B = map(person, "FAB")


def a_set(data):
    genesis = Operation.open_untrusted(data[0], None)
    return OpSet(genesis), [Operation.open_untrusted(one, genesis.mesh) for one in data[1:]]


def data_of(replica):
    return [op.data for op in replica.membership.set.ops]


def chain(length):
    """An author that writes so many operations by itself."""
    mesh = found(F)
    for _ in range(length):
        data = mesh.author.next(99, Unknown(()), NOW_MS)
        mesh.membership.set.add_untrusted(Operation.open_untrusted(data, mesh.membership.mesh_id))
    return [op.data for op in mesh.membership.set.ops]


def test_the_order_of_coming_does_not_matter():
    data = data_of(a_mesh(F, A, B))
    expected, ops = a_set(data)
    for op in ops:
        expected.add_untrusted(op)
    for seed in range(10):
        replica, ops = a_set(data)
        random.Random(seed).shuffle(ops)
        added = [i for op in ops for i in replica.add_untrusted(op)]
        assert added == list(range(1, len(data)))
        assert replica.vector_hash() == expected.vector_hash()
        assert {op.id for op in replica.heads} == {op.id for op in expected.heads}
        assert not replica.wanted
        assert [o[:2] for o in replica.order] == [o[:2] for o in expected.order]


def test_the_hash_tells_any_two_sets_apart():
    data = chain(6)
    hashes = set()
    for size in range(len(data)):
        replica, ops = a_set(data[: size + 1])
        for op in ops:
            replica.add_untrusted(op)
        hashes.add(replica.vector_hash())
    assert len(hashes) == len(data)


def test_the_past_is_what_an_operation_hangs_on():
    mesh = a_mesh(F, A)
    ops = mesh.membership.set
    for i, op in enumerate(ops.ops):
        assert not ops.known[i] >> i & 1
        for before in op.before:
            assert ops.known[i] & ops.upto(ops.index[before]) == ops.upto(ops.index[before])


def test_a_cosigned_operation_knows_no_more_than_was_signed():
    mesh = a_mesh(F, A)
    proposal = mesh.author.propose(Kind.GRANT, Grant(A.user, UserRole.ADMIN))
    mesh.invite()
    newest = mesh.membership.set.index[mesh.membership.set.heads[0].id]
    cosign = proposal.cosigned(A.device, A.user)
    mesh.take(mesh.author.next(proposal.kind, proposal.body, NOW_MS, proposal, [cosign]))
    ops = mesh.membership.set
    assert ops.known[-1] >> newest & 1
    assert not ops.past[-1] >> newest & 1


def test_a_false_place_is_refused_at_once_and_also_after_waiting():
    mesh = found(F)
    mesh.invite()
    mesh_id, ops = mesh.membership.mesh_id, mesh.membership.set
    first, last = ops.ops[0].id, ops.ops[1].id
    wrong = [
        Place(seq=2, prev=last, parents=(last,), lamport=3),  # too high
        Place(seq=3, prev=last, parents=(last,), lamport=2),  # a number is missing
        Place(seq=2, prev=first, parents=(last,), lamport=2),
    ]
    bad = [signed(F.device, mesh_id, 99, Unknown(()), place) for place in wrong]
    bad.append(signed(A.device, mesh_id, 99, Unknown(()), Place(parents=(last,), lamport=2)))
    for data in bad:
        op = Operation.open_untrusted(data, mesh_id)
        with pytest.raises(FormatError):
            ops.add_untrusted(op)
        fresh, (second,) = a_set(data_of(mesh))
        assert fresh.add_untrusted(op) == []  # parked: what it hangs on is not there
        assert fresh.add_untrusted(second) == [1]
        assert op.id not in fresh


def test_what_waits_is_bounded_and_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(limits, "OPERATIONS_PARKED_MAX", 3)
    replica, ops = a_set(chain(30))
    for op in reversed(ops[1:]):
        assert replica.add_untrusted(op) == []
    assert len(replica._parked) == 3
    assert len(replica._waiting) <= 4 * 3 + 1
    assert replica.add_untrusted(ops[0]) == [1, 2, 3, 4]
    for op in ops:  # what was dropped comes again with the next exchange
        replica.add_untrusted(op)
    assert len(replica) == 31


def test_what_is_wanted_is_what_nothing_parked_brings():
    replica, ops = a_set(chain(4))
    replica.add_untrusted(ops[3])
    assert replica.wanted == [ops[2].id]
    replica.add_untrusted(ops[2])
    assert replica.wanted == [ops[1].id]


def test_an_author_cannot_flood_the_mesh(monkeypatch):
    data = chain(6)
    monkeypatch.setattr(limits, "OPERATIONS_PER_AUTHOR_MAX", 4)
    replica, ops = a_set(data)
    for op in ops[:3]:
        replica.add_untrusted(op)
    with pytest.raises(LimitExceeded):
        replica.add_untrusted(ops[3])
    assert len(replica) == 4


def test_but_what_others_have_built_on_is_taken_so_that_nobody_is_cut_off(monkeypatch):
    mesh = found(F)
    mesh.bring(A)
    for _ in range(5):
        mesh.force(99, Unknown(()))
    theirs = mesh.of(A)
    theirs.force(99, Unknown((1,)))
    data = data_of(theirs)
    monkeypatch.setattr(limits, "OPERATIONS_PER_AUTHOR_MAX", 4)
    replica, ops = a_set(data)
    for op in ops[:-1]:
        with suppress(LimitExceeded):
            replica.add_untrusted(op)
    assert len(replica) == 4
    replica.add_untrusted(ops[-1])
    assert len(replica) == len(data)
    assert replica.vector_hash() == theirs.membership.set.vector_hash()


def test_the_whole_is_bounded(monkeypatch):
    replica, ops = a_set(chain(3))
    monkeypatch.setattr(limits, "OPERATIONS_MAX", 2)
    replica.add_untrusted(ops[0])
    with pytest.raises(LimitExceeded):
        replica.add_untrusted(ops[1])


def test_a_fork_is_seen_whatever_comes_first():
    mesh = found(F)
    one, other = mesh.of(F), mesh.of(F)
    one.force(99, Unknown((1,)))
    other.force(99, Unknown((2,)))
    hashes = set()
    for order in ((one, other), (other, one)):
        replica = mesh.of(F)
        for each in order:
            each.tell(replica)
        ops = replica.membership.set
        assert list(ops.forks) == [F.node]
        assert list(ops.forks[F.node]) == [1]
        assert len(ops.vector()) == 2
        hashes.add(ops.vector_hash())
    assert len(hashes) == 1


@pytest.mark.parametrize("seed", range(6))
def test_what_another_lacks_is_what_is_sent(seed):
    world = random_history(seed, steps=15)
    whole = world.replicas[0]
    for op in shuffled(world, 0):
        whole.add_untrusted(op)
    for replica in world.replicas[1:]:
        lacking = {op.id for op in whole.ops} - {op.id for op in replica.ops}
        sent = whole.missing_from_ids({op.id[:SHORT_ID_BYTES] for op in replica.ops})
        assert {op.id for op in sent} == lacking
        sent = whole.missing_from(replica.vector())
        assert {op.id for op in sent} == lacking  # all its ends are known here
        for op in sent:
            replica.add_untrusted(op)
        assert replica.vector_hash() == whole.vector_hash()


def test_who_is_ahead_is_not_sent_what_it_has():
    data = chain(5)
    behind, ops = a_set(data[:4])
    for op in ops:
        behind.add_untrusted(op)
    ahead, ops = a_set(data)
    for op in ops:
        ahead.add_untrusted(op)
    assert behind.missing_from(ahead.vector()) == []
    assert [op.data for op in ahead.missing_from(behind.vector())] == data[4:]
    assert len(ahead.missing_from([])) == 6


def test_giving_back_leaves_no_trace():
    mesh = a_mesh(F, A)
    ops = mesh.membership.set
    before = ops.vector_hash(), [op.id for op in ops.heads], list(ops.order), len(ops)
    data = mesh.author.next(99, Unknown(()), NOW_MS)
    ops.add_untrusted(Operation.open_untrusted(data, ops.mesh))
    ops.give_back_last()
    assert (ops.vector_hash(), [op.id for op in ops.heads], list(ops.order), len(ops)) == before
    assert mesh.author.next(99, Unknown(()), NOW_MS) == data
