from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, limits
from core.errors import FormatError, LimitExceeded, NewerFormat
from core.ids import NodeId
from core.secret import Secret
from mesh.errors import LinkError
from mesh.lanes.offer import (
    Kind,
    MemoryWay,
    Offer,
    Offers,
    Refusal,
    TcpWay,
    UnixWay,
)
from mesh.wire import Address
from tests.support.entropy import fixed_entropy
from tests.support.lanes import travelled
from tests.support.stranger import dk

TCP = TcpWay(Address("192.0.2.1", 443), b"h" * 32)
UNIX = UnixWay("/run/user/1000/portal/lanes.sock")
MEMORY = MemoryWay(NodeId(b"n" * 32))


def an_offer(*ways, name="an offer"):
    return Offer.make(ways or (TCP,), fixed_entropy(name))


# --- what travels ---------------------------------------------------------------------------------


def test_an_offer_arrives_as_it_was_made_nearest_way_first():
    offer = an_offer(TCP, UNIX, MEMORY)
    read = travelled(offer)
    assert read.ways == (MEMORY, UNIX, TCP)
    assert read.preface() == offer.preface() == offer.lane_id + offer.token.reveal()
    assert read.lifetime_s == 10


def test_its_bytes_are_what_the_specification_says():
    offer = Offer(b"i" * 16, Secret(b"t" * 32), 10, (MEMORY, UNIX, TCP))
    ways = (
        (3, b"n" * 32),
        (2, b"/run/user/1000/portal/lanes.sock"),
        (1, bytes([192, 0, 2, 1]) + (443).to_bytes(2), b"h" * 32),
    )
    assert offer.row() == (1, b"i" * 16, b"t" * 32, 10, ways)
    assert offer.answer() == dk("lane", b"t" * 32 + b"i" * 16)


def test_the_token_is_shown_nowhere():
    assert b"t" * 8 not in repr(Offer(b"i" * 16, Secret(b"t" * 32), 10, (TCP,))).encode()


def test_more_ways_than_travel_are_left_out_farthest_first():
    places = [TcpWay(Address("192.0.2.1", port), b"h" * 32) for port in range(1, 30)]
    assert travelled(an_offer(*places, UNIX)).ways == (UNIX, *places[:15])


def test_ways_of_unknown_kinds_are_left_out():
    _, lane_id, token, lifetime, _ = an_offer().row()
    row = (1, lane_id, token, lifetime, ((9, "who knows"), TCP.row(), (4,)))
    assert Offer.read_untrusted(row).ways == (TCP,)


def test_a_newer_offer_says_so():
    with pytest.raises(NewerFormat):
        Offer.read_untrusted((2, *an_offer().row()[1:]))


@pytest.mark.parametrize(
    ("at", "bad"),
    [
        (1, b"i" * 15),
        (2, b"t" * 33),
        (3, 0),
        (3, 11),
        (3, -1),
        (4, None),
        (4, (None,)),
        (4, ((),)),
        (4, ((-1,),)),
    ],
)
def test_a_bad_field_is_refused(at, bad):
    row = list(an_offer().row())
    row[at] = bad
    with pytest.raises(FormatError):
        Offer.read_untrusted(tuple(row))


def test_too_many_ways_are_refused_unread():
    row = an_offer().row()
    with pytest.raises(LimitExceeded):
        Offer.read_untrusted((*row[:4], ((9,),) * (limits.LANE_WAYS_MAX + 1)))


@pytest.mark.parametrize(
    "place",
    [
        b"",
        bytes(6),
        bytes([192, 0, 2, 1, 0, 0]),
        bytes([224, 0, 0, 1, 1, 1]),
        bytes([255, 255, 255, 255, 1, 1]),
        bytes(16) + b"\1\1",
        bytes([0xFE, 0x80, *bytes(13), 1, 1, 1]),
        bytes([0xFF, 0x02, *bytes(13), 1, 1, 1]),
        bytes(10) + b"\xff\xff\xc0\0\2\1\1\1",
    ],
)
def test_an_address_nobody_can_have_is_refused(place):
    with pytest.raises(FormatError):
        TcpWay.read_untrusted((1, place, b"h" * 32))


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"lanes.sock",
        b"/run/docker.sock",
        b"/run/user/1000/gnupg/S.gpg-agent",
        b"/run/lanes.sock/",
        b"/run/../lanes.sock",
        b"/run//lanes.sock",
        b"/run/\0/lanes.sock",
        b"\0/run/lanes.sock",
        b"/run/lanes.sock.d",
        b"/" + b"x" * 100 + b"/lanes.sock",
    ],
)
def test_a_peer_cannot_name_any_socket_but_those_of_lanes(path):
    with pytest.raises(FormatError):
        UnixWay.read_untrusted((2, path))


FIELDS = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.binary(max_size=60) | st.text(),
    lambda inner: st.lists(inner, max_size=6).map(tuple),
    max_leaves=12,
)


@pytest.mark.slow
@given(FIELDS | st.tuples(st.just(1), FIELDS, FIELDS, FIELDS, FIELDS))
def test_any_value_is_an_offer_or_a_typed_error(value):
    with suppress(FormatError):
        Offer.read_untrusted(value)


@pytest.mark.slow
@given(st.data())
def test_any_way_is_one_or_a_typed_error(data):
    way = data.draw(st.sampled_from([TCP, UNIX, MEMORY]))
    row = list(way.row())
    row[data.draw(st.integers(0, len(row) - 1))] = data.draw(FIELDS)
    offer = (*an_offer().row()[:4], (tuple(row),))
    try:
        Offer.read_untrusted(offer)
    except FormatError:
        pass
    else:
        codec.encode(Offer.read_untrusted(offer).row())


# --- the table ------------------------------------------------------------------------------------


def test_a_token_works_once():
    offers, offer = Offers(), an_offer()
    offers.add("link", offer, 0.0)
    assert offers.take(offer.preface(), Kind.TCP, 9.9) == ("link", offer)
    assert offers.take(offer.preface(), Kind.TCP, 9.9) is Refusal.WRONG_TOKEN
    assert len(offers) == 0


def test_a_token_in_time_or_never():
    offers, offer = Offers(), an_offer()
    offers.add("link", offer, 0.0)
    assert not offers.wants(Kind.TCP, 10.0)
    assert offers.take(offer.preface(), Kind.TCP, 10.0) is Refusal.EXPIRED
    assert offers.take(offer.preface(), Kind.TCP, 0.0) is Refusal.WRONG_TOKEN


def test_a_wrong_token_spoils_nothing():
    offers, offer, other = Offers(), an_offer(), an_offer(name="another")
    offers.add("link", offer, 0.0)
    offers.add("another link", other, 0.0)
    crossed = offer.lane_id + other.token.reveal()
    for preface in (crossed, bytes(48), offer.lane_id + bytes(32), offer.preface()[:-1]):
        assert offers.take(preface, Kind.TCP, 0.0) is Refusal.WRONG_TOKEN
    assert offers.take(offer.preface(), Kind.TCP, 0.0) == ("link", offer)


def test_no_lane_was_offered_under_zeros():
    assert Offers().take(bytes(48), Kind.TCP, 0.0) is Refusal.WRONG_TOKEN


def test_a_lane_comes_by_a_way_that_was_offered():
    offers, offer = Offers(), an_offer(UNIX)
    offers.add("link", offer, 0.0)
    assert offers.take(offer.preface(), Kind.TCP, 0.0) is Refusal.WRONG_TOKEN
    assert offers.wants(Kind.UNIX, 0.0)
    assert not offers.wants(Kind.TCP, 0.0)


def test_what_a_link_offered_ends_with_it():
    offers = Offers()
    mine, theirs = an_offer(), an_offer(name="another")
    offers.add("link", mine, 0.0)
    offers.add("another link", theirs, 0.0)
    offers.drop("link")
    assert offers.take(mine.preface(), Kind.TCP, 0.0) is Refusal.WRONG_TOKEN
    assert offers.take(theirs.preface(), Kind.TCP, 0.0) == ("another link", theirs)


def test_a_withdrawn_offer_is_gone():
    offers, offer = Offers(), an_offer()
    offers.add("link", offer, 0.0)
    offers.withdraw(offer.lane_id)
    offers.withdraw(offer.lane_id)
    assert offers.take(offer.preface(), Kind.TCP, 0.0) is Refusal.WRONG_TOKEN


def test_a_link_has_so_many_offers_and_no_more_until_they_expire():
    offers = Offers()
    for n in range(limits.LANE_OFFERS_MAX):
        offers.add("link", an_offer(name=str(n)), 0.0)
    with pytest.raises(LinkError):
        offers.add("link", an_offer(), 0.0)
    offers.add("another link", an_offer(), 0.0)
    offers.add("link", an_offer(name="later"), 21.0)
    assert len(offers) == 1
