import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec
from core.errors import FormatError
from mesh.messages import TYPES, Mtu, MtuOk, Ping, Pong
from mesh.wire import Address

BODIES = [Ping(), Pong(None, 0), Pong(Address("192.0.2.1", 9), 100), Mtu(b"x" * 900), MtuOk(1_452)]


@pytest.mark.parametrize("body", BODIES)
def test_bodies_round_trip(body):
    row = codec.decode_untrusted(codec.encode(body.row()))
    assert type(body).read_untrusted(row) == body


def test_each_type_has_a_number_of_its_own_and_answers_one_other():
    assert [kind.TYPE for kind in TYPES] == [1, 2, 3, 4]
    assert {kind: kind.ANSWERS for kind in TYPES} == {
        Ping: None,
        Pong: Ping,
        Mtu: None,
        MtuOk: Mtu,
    }


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Ping, (1,)),
        (Pong, ()),
        (Pong, (b"", 101)),
        (Pong, (b"1", 1)),
        (Pong, (None, 1)),
        (Mtu, ()),
        (Mtu, ("x",)),
        (Mtu, (bytes(8_973),)),
        (MtuOk, (-1,)),
        (MtuOk, (65_536,)),
    ],
)
def test_nonsense_is_refused(kind, row):
    with pytest.raises(FormatError):
        kind.read_untrusted(row)


VALUES = st.recursive(
    st.none() | st.integers(0, 300) | st.binary(max_size=20) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(st.sampled_from(TYPES), st.lists(VALUES, max_size=3).map(tuple))
def test_any_row_is_a_body_or_a_format_error(kind, row):
    try:
        body = kind.read_untrusted(row)
    except FormatError:
        return
    assert tuple(body.row()) == row
