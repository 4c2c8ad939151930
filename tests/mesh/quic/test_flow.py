from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.errors import FormatError, LimitExceeded
from mesh.quic import flow
from mesh.quic.flow import Grants, ReceiveCredit, SendCredit, grant

WINDOW = limits.STREAM_WINDOW_BYTES


def test_a_record_is_twelve_bytes():
    assert grant(4, 524_288) == bytes.fromhex("0000000000000004 00080000")
    assert Grants().feed_untrusted(grant(4, 9) + grant(8, 1)) == [(4, 9), (8, 1)]


@given(
    st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**32 - 1)), max_size=20),
    st.lists(st.integers(0, 240), max_size=20),
)
def test_records_may_come_in_any_pieces(records, cuts):
    data = b"".join(grant(*record) for record in records)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    grants = Grants()
    found = []
    for start, end in pairwise(edges):
        found += grants.feed_untrusted(data[start:end])
    assert found == records
    assert len(grants._rest) < 12


def test_a_grant_of_nothing_is_malformed():
    with pytest.raises(FormatError):
        Grants().feed_untrusted(grant(4, 0))


def test_a_sender_has_one_window_and_what_is_given_back():
    credit = SendCredit()
    assert credit.left == WINDOW
    with pytest.raises(LimitExceeded):
        credit.raise_untrusted(1)
    credit.left -= 10
    credit.raise_untrusted(10)
    assert credit.left == WINDOW


def test_a_reader_counts_what_comes_and_gives_back_in_portions():
    credit = ReceiveCredit()
    credit.arrived_untrusted(WINDOW)
    with pytest.raises(LimitExceeded):
        credit.arrived_untrusted(1)
    portion = flow._GRANT_BYTES
    assert credit.consumed(portion - 1) == 0
    assert credit.consumed(1) == portion
    credit.arrived_untrusted(portion)
    with pytest.raises(LimitExceeded):
        credit.arrived_untrusted(1)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, WINDOW)), max_size=100))
def test_both_sides_agree_whatever_the_order(steps):
    sender, reader = SendCredit(), ReceiveCredit()
    unread = under_way = 0
    for sends, size in steps:
        if sends:
            part = min(size, sender.left)
            sender.left -= part
            reader.arrived_untrusted(part)
            unread += part
        else:
            part = min(size, unread)
            unread -= part
            under_way = reader.consumed(part)
            if under_way:
                sender.raise_untrusted(under_way)
        assert unread <= WINDOW
        assert sender.left == reader.left
    assert sender.left + unread > WINDOW - flow._GRANT_BYTES, "nobody starves"
