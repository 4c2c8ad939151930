import random

from hypothesis import given
from hypothesis import strategies as st

from core.ids import NodeId
from mesh.nonces import Nonces

ANN, BOB = NodeId(b"a" * 32), NodeId(b"b" * 32)
SAYINGS = st.lists(
    st.tuples(st.sampled_from([ANN, BOB]), st.binary(min_size=1, max_size=1), st.integers(0, 40))
)


def test_a_nonce_is_new_once_and_for_each_node():
    nonces = Nonces()
    assert nonces.is_new(ANN, b"1", 5)
    assert not nonces.is_new(ANN, b"1", 5)
    assert not nonces.is_new(ANN, b"1", 6)
    assert nonces.is_new(BOB, b"1", 5)
    assert nonces.is_new(ANN, b"2", 5)
    assert nonces.is_new(ANN, b"3", 1)


@given(SAYINGS, st.integers(1, 4))
def test_nothing_is_ever_accepted_twice_however_little_is_remembered(sayings, room):
    nonces = Nonces(room)
    accepted = [saying for saying in sayings if nonces.is_new(*saying)]
    assert len(accepted) == len(set(accepted))
    assert not any(nonces.is_new(*saying) for saying in sayings if saying in accepted)
    assert len(nonces._times) <= room


def test_later_times_are_always_heard():
    nonces = Nonces(4)
    rng = random.Random(1)
    for time_ms in range(1_000):
        assert nonces.is_new(rng.choice([ANN, BOB]), rng.randbytes(32), time_ms)


def test_who_speaks_much_takes_nothing_from_others():
    nonces = Nonces(4)
    assert nonces.is_new(ANN, b"1", 100)
    for n in range(50):
        assert nonces.is_new(BOB, bytes([n]), 10**12 + n)
    assert not nonces.is_new(ANN, b"1", 100)
    assert nonces.is_new(ANN, b"2", 101)
