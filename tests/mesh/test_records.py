"""Records say where their own node is, until they end, and nothing about anybody else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, limits
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat
from core.labels import SignLabel
from mesh.hello import Engines
from mesh.records import Place, PlaceKind, Record, RecordBook, in_order, kept_places
from mesh.wire import Address
from tests.support.nodes import MESH, OTHER_MESH, a_node, a_roster

ANN, BOB, CYD = a_node("ann"), a_node("bob"), a_node("cyd")
NOW = 1_800_000_000_000
HOME = Place(PlaceKind.LOCAL, Address("192.168.1.5", 4_000))
OUTSIDE = Place(PlaceKind.SEEN, Address("203.0.113.5", 4_000))
SET = Place(PlaceKind.SET, Address("2001:db8::5", 4_000))
BOTH = Engines.QH3 | Engines.AIOQUIC


def record(node=ANN, places=(HOME,), mesh=MESH, now=NOW, last=0, offer=0):
    key = node.speaker.key
    return Record.make(key, mesh, places, BOTH, now_ms=now, last_seq=last, offer_bytes=offer)


def by_hand(signer=ANN, /, **changed):
    """A signed record with fields somebody chose."""
    row = {
        "version": 1,
        "mesh": MESH,
        "node": signer.id,
        "seq": NOW,
        "created": NOW,
        "ttl": 86_400,
        "engines": 3,
        "places": [],
        "offer": 0,
    }
    row.update(changed)
    payload = codec.encode(list(row.values()))
    key = signer.speaker.key
    return codec.encode([payload, key.sign(SignLabel.ADDRESS_RECORD, payload)])


def a_book():
    return RecordBook(a_roster([ANN, BOB]))


# --- one record -----------------------------------------------------------------------------------


def test_a_record_survives_its_journey():
    made = record(places=[HOME, OUTSIDE, SET])
    assert Record.open_untrusted(made.data) == made
    assert made.places == (SET, OUTSIDE, HOME)  # what the owner said comes first
    assert (made.seq, made.created_ms, made.engines) == (NOW, NOW, BOTH)
    assert made.ends_ms() == NOW + limits.RECORD_TTL_SECONDS * 1_000


def test_a_record_says_what_its_node_offers():
    assert record().offer_bytes == 0
    largest = record(
        places=[Place(PlaceKind.SEEN, Address(f"2001:db8::{n}", 9)) for n in range(9)],
        offer=limits.QUOTA_BYTES_MAX,
    )
    assert Record.open_untrusted(largest.data).offer_bytes == limits.QUOTA_BYTES_MAX
    assert len(largest.data) <= limits.RECORD_BYTES_MAX


def test_the_number_grows_even_if_the_clock_does_not():
    assert record(last=NOW + 5).seq == NOW + 6


def test_places_others_cannot_use_are_left_out():
    useless = [
        Place(PlaceKind.LOCAL, Address("fe80::1%3", 1)),
        Place(PlaceKind.SET, Address("example.net", 1)),
        Place(PlaceKind.SET, Address("192.0.2.1", 0)),
    ]
    assert record(places=[*useless, HOME]).places == (HOME,)
    twins = [Place(PlaceKind.SEEN, Address("::ffff:192.0.2.7", 1))] * 2
    assert kept_places(twins) == (Place(PlaceKind.SEEN, Address("192.0.2.7", 1)),)


def test_with_too_many_places_the_owners_word_stays():
    many = [Place(PlaceKind.LOCAL, Address(f"10.0.0.{n}", 1)) for n in range(20)]
    made = record(places=[*many, SET])
    assert len(made.places) == limits.RECORD_PLACES_MAX
    assert made.places[0] == SET
    assert len(made.data) <= limits.RECORD_BYTES_MAX


@given(st.binary(max_size=300) | st.integers(0, 400))
def test_only_one_thing_can_be_wrong_with_bytes(data):
    if isinstance(data, int):
        data = record().data[:data]
    with pytest.raises((FormatError, IntegrityError)):
        Record.open_untrusted(data + b"\x00")


@given(st.integers(0, len(record().data) - 1), st.integers(0, 7))
def test_a_changed_bit_is_seen(at, bit):
    bent = bytearray(record().data)
    bent[at] ^= 1 << bit
    with pytest.raises((FormatError, IntegrityError)):
        Record.open_untrusted(bytes(bent))


def test_nobody_speaks_for_another():
    with pytest.raises(IntegrityError):
        Record.open_untrusted(by_hand(ANN, node=BOB.id))


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("version", 2, NewerFormat),
        ("version", 0, FormatError),
        ("ttl", limits.RECORD_TTL_SECONDS_MAX + 1, LimitExceeded),
        ("seq", 1 << 63, FormatError),
        ("mesh", b"short", FormatError),
        ("places", [[1, b""]], FormatError),
        ("places", [[1, bytes(4) + b"\0\0"]], FormatError),
        ("places", [[1, b"\x7f\0\0\1\0\1"]] * 9, LimitExceeded),
        ("places", [[1]], FormatError),
        ("offer", 1 << 63, FormatError),
        ("offer", -1, FormatError),
        ("offer", True, FormatError),
    ],
)
def test_fields_have_bounds(field, value, error):
    with pytest.raises(error):
        Record.open_untrusted(by_hand(**{field: value}))


def test_what_a_newer_version_adds_is_left_alone():
    found = Record.open_untrusted(by_hand(engines=0xFF, places=[[77, b"\x7f\0\0\1\0\1"]]))
    assert found.places == ()
    assert found.engines == Engines(0xFF)


# --- the book -------------------------------------------------------------------------------------


def test_the_newest_counts_and_is_news_once():
    book = a_book()
    old, new = record(), record(places=[OUTSIDE], now=NOW + 1)
    assert book.take_untrusted(old.data, NOW) == old
    assert book.take_untrusted(old.data, NOW) is None
    assert book.take_untrusted(new.data, NOW) == new
    assert book.take_untrusted(old.data, NOW) is None
    assert book.of(ANN.id, NOW) == new
    assert len(book) == 1


def test_what_is_old_or_known_costs_no_signature(monkeypatch):
    book = a_book()
    old, new, foreign = record(), record(now=NOW + 1), record(CYD)
    book.take_untrusted(new.data, NOW)
    monkeypatch.setattr(Record, "check_untrusted", lambda _self: pytest.fail("looked at"))
    for data in (old.data, new.data, foreign.data):
        assert book.take_untrusted(data, NOW) is None


def test_it_ends_for_all_at_the_same_time():
    book = a_book()
    made = record()
    book.take_untrusted(made.data, NOW)
    end = made.ends_ms()
    assert book.of(ANN.id, end - 1)
    assert book.of(ANN.id, end) is None
    assert book.numbers(end) == []
    assert a_book().take_untrusted(made.data, end) is None


@pytest.mark.parametrize("field", ["seq", "created"])
def test_what_comes_from_the_future_waits(field):
    """It is no fault of who passes it on: our clock may be the one that is wrong."""
    late = NOW + limits.RECORD_EARLY_MS_MAX
    assert a_book().take_untrusted(by_hand(**{field: late + 1}), NOW) is None
    assert a_book().take_untrusted(by_hand(**{field: late}), NOW)


def test_records_of_others_are_not_kept():
    book = a_book()
    assert book.take_untrusted(record(CYD).data, NOW) is None
    with pytest.raises(FormatError, match="another mesh"):
        book.take_untrusted(record(mesh=OTHER_MESH).data, NOW)
    with pytest.raises(IntegrityError):
        book.take_untrusted(by_hand(ANN, node=BOB.id), NOW)
    assert book.take_untrusted(by_hand(version=2), NOW) is None
    assert len(book) == 0


def test_a_node_that_says_two_things_at_once_is_noted():
    book = a_book()
    one, other = record(), record(places=[SET])
    book.take_untrusted(one.data, NOW)
    assert book.take_untrusted(other.data, NOW) is None
    assert book.of(ANN.id, NOW) == one
    assert book.contradictions == {ANN.id: other.data}


def test_who_is_removed_is_nowhere():
    roster = a_roster([ANN, BOB])
    book = RecordBook(roster)
    book.take_untrusted(record(ANN).data, NOW)
    book.take_untrusted(record(BOB).data, NOW)
    roster.remove(ANN.id)
    assert book.of(ANN.id, NOW) is None
    assert book.newer_than_untrusted((), NOW) == [record(BOB).data]
    assert len(book) == 1


def test_a_peer_gets_what_it_misses_page_by_page():
    book = a_book()
    for node in (ANN, BOB):
        book.take_untrusted(record(node).data, NOW)
    first, last = sorted([ANN, BOB], key=lambda node: node.id)
    all_of_it = [record(first).data, record(last).data]
    assert book.newer_than_untrusted((), NOW) == all_of_it
    assert book.newer_than_untrusted(((first.id, NOW),), NOW) == all_of_it[1:]
    assert book.newer_than_untrusted(((first.id, NOW - 1),), NOW) == all_of_it
    assert book.newer_than_untrusted((), NOW, b"", first.id) == all_of_it[:1]
    assert book.newer_than_untrusted((), NOW, first.id) == all_of_it[1:]
    with pytest.raises(LimitExceeded):
        book.newer_than_untrusted(((ANN.id, 1),) * (limits.RECORD_NUMBERS_MAX + 1), NOW)
    with pytest.raises(FormatError):
        book.newer_than_untrusted(((1, 1),), NOW)


def test_the_file_is_believed_no_more_than_a_peer():
    book = a_book()
    for node in (ANN, BOB):
        book.take_untrusted(record(node).data, NOW)
    data = book.dump(NOW)
    again = a_book()
    again.load_untrusted(data, NOW)
    assert again.numbers(NOW) == book.numbers(NOW)
    spoiled = codec.encode([1, [by_hand(ANN, node=BOB.id), b"?", record(ANN).data]])
    again = a_book()
    again.load_untrusted(spoiled, NOW)
    assert [node for node, _ in again.numbers(NOW)] == [ANN.id]
    for junk in (b"", b"\x90", data[:-1]):
        with pytest.raises(FormatError):
            a_book().load_untrusted(junk, NOW)


# --- what to try first ----------------------------------------------------------------------------


def test_what_worked_comes_first_then_near_then_public():
    far = Place(PlaceKind.LOCAL, Address("10.1.1.1", 1))
    v4 = Place(PlaceKind.SEEN, Address("8.8.4.4", 1))
    v6 = Place(PlaceKind.SEEN, Address("2001:4860::1", 1))
    near = Place(PlaceKind.LOCAL, Address("192.168.1.77", 1))
    places = [far, v4, v6, near, near]
    own = [Address("192.168.1.5", 4_000)]
    assert in_order(places, own, None) == [p.address for p in (near, v6, v4, far)]
    assert in_order(places, own, v4.address)[0] == v4.address
    assert in_order(places, [], None)[0] == v6.address


def test_near_is_the_same_network_however_it_is_written():
    near = Place(PlaceKind.LOCAL, Address("fd00::aa:1", 1))
    far = Place(PlaceKind.LOCAL, Address("fd00:0:0:1::1", 1))
    own = [Address("fd00::1%2", 1), Address("a name", 1)]
    assert in_order([far, near], own, None) == [near.address, far.address]
