from core import limits
from mesh.doorkeeper import Doorkeeper


def test_five_tries_a_minute_from_one_address():
    door = Doorkeeper()
    assert [door.admits("192.0.2.1", n) for n in range(7)] == [True] * 5 + [False] * 2
    assert door.admits("192.0.2.2", 6)
    assert not door.admits("192.0.2.1", 59)
    assert door.admits("192.0.2.1", 60)
    assert not door.admits("192.0.2.1", 60)
    assert door.admits("192.0.2.1", 61)


def test_who_has_one_address_of_an_ipv6_network_has_them_all():
    door = Doorkeeper()
    assert all(door.admits(f"2001:db8::{n}", 0) for n in range(5))
    assert not door.admits("2001:db8::ffff", 0)
    assert door.admits("2001:db8:0:1::1", 0)
    assert all(door.admits("::ffff:192.0.2.1", 0) for _ in range(5))
    assert not door.admits("192.0.2.1", 0)
    assert door.admits("somewhere", 0)


def test_twenty_failures_close_the_door_for_an_hour():
    door = Doorkeeper()
    for n in range(limits.PAIR_FAILURES_MAX):
        assert not door.frozen(n)
        door.failed(n)
    assert door.frozen(20)
    assert not door.admits("192.0.2.1", 20)
    assert not door.admits("192.0.2.1", 19 + 3_599)
    assert door.admits("192.0.2.1", 19 + 3_600)


def test_failures_are_forgotten_after_an_hour():
    door = Doorkeeper()
    for n in range(100):
        door.failed(n * 190.0)
        assert not door.frozen(n * 190.0)
    door = Doorkeeper()
    for n in range(25):
        door.failed(n * 180.0)
    assert door.frozen(24 * 180.0)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "PAIR_ADDRESSES_MAX", 3)
    door = Doorkeeper()
    for n in range(50):
        door.admits(f"192.0.2.{n}", 0)
        door.failed(n * 10_000)
    assert len(door._tries) == 3
    assert len(door._failures) == 1
