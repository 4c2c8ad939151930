import pytest

from core import limits
from mesh.quic.admission import Admission, Admit, Challenge, Counters, neighbourhood
from mesh.quic.engine import VERSION_1, FirstPacket
from mesh.wire import Address
from tests.support.entropy import fixed_entropy

HERE = Address("192.0.2.1", 1_000)
FIRST = FirstPacket(VERSION_1, b"original", b"source", b"")


@pytest.fixture
def counters():
    return Counters()


@pytest.fixture
def admission(counters):
    return Admission(fixed_entropy("admission"), counters)


def proved(admission: Admission, source: Address, now: float = 1.0) -> Admit | Challenge | None:
    """Somebody who brings back the token of a Retry."""
    retry_cid, token = admission._tokens.issue(source, FIRST.destination, now)
    return admission.judge_untrusted(FirstPacket(VERSION_1, retry_cid, b"", token), source, now)


def busy(admission: Admission) -> None:
    for number in range(limits.HANDSHAKES_FREE_MAX):
        verdict = admission.judge_untrusted(FIRST, Address(f"10.0.0.{number}", 1), 1.0)
        assert verdict == Admit(b"original", None)
        assert admission.began(number, verdict, HERE, 1.0) == 1.0 + limits.HANDSHAKE_SECONDS


def test_in_quiet_times_strangers_are_let_in(admission, counters):
    assert admission.judge_untrusted(FIRST, HERE, 1.0) == Admit(b"original", None)
    assert counters == Counters()


def test_when_many_are_under_way_strangers_prove_their_address(admission, counters):
    busy(admission)
    verdict = admission.judge_untrusted(FIRST, HERE, 1.0)
    assert isinstance(verdict, Challenge)
    assert counters.retries_sent == 1
    again = FirstPacket(VERSION_1, verdict.retry_cid, b"source", verdict.token)
    assert admission.judge_untrusted(again, HERE, 1.1) == Admit(b"original", verdict.retry_cid)
    elsewhere = Address("192.0.2.9", 1_000)
    assert admission.judge_untrusted(again, elsewhere, 1.1) is None
    assert admission.judge_untrusted(again, HERE, 12.0) is None
    assert counters.tokens_refused == 2
    assert admission.ended(0)
    assert isinstance(admission.judge_untrusted(FIRST, HERE, 1.0), Admit), "quiet again"


def test_a_flood_of_first_packets_is_no_quiet_time(admission):
    verdicts = [admission.judge_untrusted(FIRST, HERE, 1.0) for _ in range(1_000)]
    let_in = sum(isinstance(verdict, Admit) for verdict in verdicts)
    assert let_in == 2 * limits.HANDSHAKES_FREE_PER_SECOND_MAX
    assert all(isinstance(verdict, Challenge) for verdict in verdicts[let_in:])
    assert isinstance(admission.judge_untrusted(FIRST, HERE, 2.0), Admit)


def test_one_neighbourhood_does_not_take_all_places(admission, counters):
    busy(admission)
    number = 1_000
    for port in range(limits.HANDSHAKES_NEIGHBOURS_MAX):
        near = Address(f"2001:db8:1:2::{port:x}", port + 1)
        verdict = proved(admission, near)
        assert isinstance(verdict, Admit)
        admission.began(number + port, verdict, near, 1.0)
    assert proved(admission, Address("2001:db8:1:2:ffff::1", 9)) is None
    assert counters.refused_busy == 1
    assert isinstance(proved(admission, Address("2001:db8:1:3::1", 9)), Admit)
    assert admission.ended(number)
    assert isinstance(proved(admission, Address("2001:db8:1:2:ffff::1", 9)), Admit)


def test_beyond_the_last_place_nothing_is_answered(admission, counters):
    busy(admission)
    for number in range(limits.HANDSHAKES_FREE_MAX, limits.HANDSHAKES_MAX):
        source = Address(f"10.0.{number}.1", 1)
        verdict = proved(admission, source)
        assert isinstance(verdict, Admit)
        admission.began(number, verdict, source, 1.0)
    assert len(admission) == limits.HANDSHAKES_MAX
    assert proved(admission, HERE) is None
    assert admission.judge_untrusted(FIRST, HERE, 1.0) is None
    assert counters.refused_busy == 2
    for number in range(limits.HANDSHAKES_MAX):
        assert admission.until(number) == 1.0 + limits.HANDSHAKE_SECONDS
        assert admission.ended(number)
        assert not admission.ended(number)
        assert admission.until(number) is None
    assert len(admission) == 0
    assert not admission._crowds
    assert not admission._proved


def test_neighbourhoods():
    def same(one, other):
        return neighbourhood(Address(one, 1)) == neighbourhood(Address(other, 2))

    assert same("192.0.2.1", "192.0.2.1")
    assert not same("192.0.2.1", "192.0.2.2")
    assert same("2001:db8::1", "2001:db8::ffff:1")
    assert not same("2001:db8::1", "2001:db8:0:1::1")
    assert same("fe80::1%3", "fe80::2%4")
    assert not same("carol", "dave")
