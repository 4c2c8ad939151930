import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, limits
from core.errors import FormatError
from core.ids import NodeId
from mesh.messages import (
    TYPES,
    Behalf,
    Mtu,
    MtuOk,
    Ping,
    Pong,
    Probe,
    Probed,
    ProbeFor,
    ProbeOk,
    State,
    Told,
    View,
)
from mesh.wire import Address

NODE = NodeId(bytes(range(32)))
BEHALF = Behalf(NODE, b"question")
VIEWS = (View(NODE, State.SUSPECT), View(NODE, State.DEAD))
ALL_VIEWS = (View(NODE, State.ALIVE),) * limits.VIEWS_TOLD_MAX
BODIES = [
    *(Ping(), Pong(None), Pong(Address("192.0.2.1", 9)), Mtu(b"x" * 900), MtuOk(1_452)),
    *(Probe(), Probe(BEHALF, VIEWS), ProbeOk(), ProbeOk(bytes(256), VIEWS)),
    *(ProbeFor(BEHALF), ProbeFor(BEHALF, VIEWS), Probed(), Probed(b"proof", VIEWS)),
    *(Told(()), Told(VIEWS), Told(ALL_VIEWS)),
]


@pytest.mark.parametrize("body", BODIES)
def test_bodies_round_trip(body):
    row = codec.decode_untrusted(codec.encode(body.row()))
    assert type(body).read_untrusted(row) == body


def test_each_type_has_a_number_of_its_own_and_answers_one_other():
    assert [kind.TYPE for kind in TYPES] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert {kind: kind.ANSWERS for kind in TYPES} == {
        Ping: None,
        Pong: Ping,
        Mtu: None,
        MtuOk: Mtu,
        Probe: None,
        ProbeOk: Probe,
        ProbeFor: None,
        Probed: ProbeFor,
        Told: None,
    }


def test_states_that_are_not_known_here_are_passed_over():
    rows = ((NODE, 0), (NODE, 2), (NODE, 4), (NODE, 255))
    assert Told.read_untrusted((rows,)).views == (View(NODE, State.SUSPECT),)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Ping, (1,)),
        (Pong, ()),
        (Pong, (b"", 1)),
        (Pong, (b"1",)),
        (Pong, (None,)),
        (Mtu, ()),
        (Mtu, ("x",)),
        (Mtu, (bytes(8_973),)),
        (MtuOk, (-1,)),
        (MtuOk, (65_536,)),
        (Probe, ((),)),
        (Probe, (b"", ())),
        (Probe, ((NODE,), ())),
        (Probe, ((NODE, b"short"), ())),
        (Probe, ((NODE[1:], b"question"), ())),
        (ProbeOk, (bytes(257), ())),
        (ProbeOk, (None, ())),
        (ProbeFor, (NODE, b"question")),
        (ProbeFor, (NODE, "question", ())),
        (Probed, (True, ())),
        (Told, ()),
        (Told, (None,)),
        (Told, (((NODE, 1),) * (limits.VIEWS_TOLD_MAX + 1),)),
        (Told, (((NODE, 256),),)),
        (Told, (((NODE, -1),),)),
        (Told, (((NODE, 1, 1),),)),
        (Told, (((NODE[1:], 1),),)),
    ],
)
def test_nonsense_is_refused(kind, row):
    with pytest.raises(FormatError):
        kind.read_untrusted(row)


VALUES = st.recursive(
    st.none()
    | st.integers(0, 300)
    | st.binary(max_size=20)
    | st.text(max_size=5)
    | st.sampled_from([NODE, b"question", (NODE, 2), (NODE, 9), ((NODE, 1),), BEHALF]),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(st.sampled_from(TYPES), st.lists(VALUES, max_size=3).map(tuple))
def test_any_row_is_a_body_or_a_format_error(kind, row):
    try:
        body = kind.read_untrusted(row)
    except FormatError:
        return
    again = codec.decode_untrusted(codec.encode(body.row()))
    assert kind.read_untrusted(again) == body
