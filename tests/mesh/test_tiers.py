import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import limits
from mesh.tiers import Lane, Path, Route, Tier, Tiers
from mesh.wire import Address

RELAY = Path(Tier.RELAY, None, "hub")
DIRECT = Path(Tier.DIRECT, Address("1.2.3.4", 1))
OTHER = Path(Tier.DIRECT, Address("5.6.7.8", 1))
LAN = Path(Tier.LAN, Address("10.0.0.9", 1))
WIRED = Path(Tier.WIREGUARD, Address("fd00::1", 1))
UNIX = Path(Tier.UNIX, None, "/run/portal")
INPROC = Path(Tier.INPROC)


class Peer:
    """Pings every path each second, and answers as the test says."""

    def __init__(self, **how):
        self.tiers = Tiers(**how)
        self.now = 1_000.0
        self.seen = []

    def second(self, rtts, times=1):
        """One ping on each path; None: no answer."""
        for _ in range(times):
            for path, rtt in rtts.items():
                assert self.tiers.offer(path)
                self.tiers.asked(path, self.now)
                if rtt is None:
                    self.tiers.missed(path, self.now + 0.9)
                else:
                    self.tiers.answered(path, rtt, self.now + rtt)
            self.now += 1.0
            self.seen.append(self.tiers.control(self.now))
        return self.seen[-1]

    def move(self, rates, times=1):
        for _ in range(times):
            for route, rate in rates.items():
                self.tiers.moved(route, rate, 1.0, self.now, was_bottleneck=True)
            self.now += 1.0
        return self.tiers.bulk(self.now)


def lanes(peer, *routes, rtt=0.05):
    peer.second({route.path: rtt for route in routes})
    for route in routes:
        peer.tiers.add_lane(route)


# --- control --------------------------------------------------------------------------------------


def test_without_an_answer_there_is_no_path():
    tiers = Tiers()
    assert tiers.control(0.0) is None
    assert tiers.bulk(0.0) is None
    tiers.offer(DIRECT)
    assert tiers.control(0.0) is None
    assert tiers.explain(0.0) == "direct 1.2.3.4:1, spare, never answered"


def test_when_equal_the_kinds_have_an_order():
    order = [INPROC, UNIX, LAN, DIRECT, WIRED, RELAY]
    while order:
        peer = Peer()
        # Without the bonuses of their addresses, which is another test.
        rtts = {Path(path.tier, None, path.via or "x"): 0.02 for path in reversed(order)}
        found = peer.second(rtts)
        for _ in range(100):
            found = peer.second(rtts)
        assert found.tier is order.pop(0).tier


def test_a_path_that_is_better_by_a_fifth_takes_over_after_the_dwell():
    peer = Peer()
    peer.second({DIRECT: 0.005}, 5)
    peer.second({DIRECT: 0.005, OTHER: 0.0041}, 60)
    assert peer.seen[-1] == DIRECT
    peer.second({DIRECT: 0.005, OTHER: 0.0030}, 60)
    assert peer.seen[-1] == OTHER
    assert peer.tiers.switches == 1


def test_ten_milliseconds_are_enough_on_slow_paths():
    peer = Peer()
    peer.second({DIRECT: 0.200}, 40)
    assert peer.second({DIRECT: 0.200, OTHER: 0.191}, 60) == DIRECT
    peer = Peer()
    peer.second({DIRECT: 0.200}, 40)
    assert peer.second({DIRECT: 0.200, OTHER: 0.189}, 5) == DIRECT  # it may vary, as yet
    assert peer.second({DIRECT: 0.200, OTHER: 0.189}, 15) == OTHER


def test_nothing_changes_within_the_dwell_unless_trust_is_lost():
    peer = Peer()
    peer.second({DIRECT: 0.100, OTHER: 0.100}, 3)
    first = peer.seen[-1]
    other = OTHER if first == DIRECT else DIRECT
    peer.second({first: 0.100, other: 0.010}, 25)
    assert peer.seen[-1] == first
    peer.second({first: 0.100, other: 0.010}, 5)
    assert peer.seen[-1] == other


def test_a_path_that_does_not_answer_is_left_after_six_and_a_half_seconds():
    peer = Peer()
    peer.second({DIRECT: 0.01, RELAY: 0.2}, 3)
    assert peer.second({DIRECT: None, RELAY: 0.2}, 6) == DIRECT
    assert peer.second({DIRECT: None, RELAY: 0.2}, 1) == RELAY


def test_anything_direct_is_taken_before_a_relay_at_once_and_kept():
    for path in (DIRECT, LAN, WIRED):
        peer = Peer()
        peer.second({RELAY: 0.005}, 2)
        assert peer.second({RELAY: 0.005, path: 0.5}) == path
        assert peer.second({RELAY: 0.005, path: 0.5}, 200) == path
        assert peer.tiers.switches == 1


def test_on_the_same_host_the_socket_is_taken_at_once_and_kept():
    peer = Peer()
    peer.second({LAN: 0.001}, 2)
    assert peer.second({LAN: 0.001, UNIX: 0.002}) == UNIX
    assert peer.second({LAN: 0.0001, UNIX: 0.002}, 100) == UNIX


def test_a_path_that_comes_and_goes_waits_longer_each_time():
    peer, rtts = Peer(), {DIRECT: 0.01, RELAY: 0.05}
    peer.second(rtts, 3)
    for wait in (30, 60, 120, 240, 480, 480):
        peer.second({DIRECT: None, RELAY: 0.05}, 8)
        lost = peer.now
        while peer.second(rtts) == RELAY:
            pass
        assert wait - 3 <= peer.now - lost <= wait + 3
    peer.second(rtts, 700)  # and is forgiven
    peer.second({DIRECT: None, RELAY: 0.05}, 8)
    assert peer.second(rtts, 31) == DIRECT


def test_a_path_on_hold_is_better_than_none():
    peer = Peer()
    peer.second({DIRECT: 0.01, RELAY: 0.05}, 3)
    peer.second({DIRECT: None, RELAY: 0.05}, 8)
    assert peer.second({DIRECT: 0.01, RELAY: 0.05}, 3) == RELAY
    assert peer.second({DIRECT: 0.01, RELAY: None}, 8) == DIRECT


def test_when_nothing_answers_the_last_path_stays():
    peer = Peer()
    peer.second({DIRECT: 0.01}, 3)
    assert peer.second({DIRECT: None}, 100) == DIRECT
    assert "does not answer" in peer.tiers.explain(peer.now)


def test_a_path_that_is_gone_is_left():
    peer = Peer()
    peer.second({DIRECT: 0.01, RELAY: 0.1}, 3)
    peer.tiers.withdraw(DIRECT)
    peer.tiers.withdraw(OTHER)
    assert peer.tiers.control(peer.now) == RELAY
    for late in (DIRECT, OTHER):
        peer.tiers.asked(late, peer.now)
        peer.tiers.answered(late, 0.01, peer.now)
        peer.tiers.missed(late, peer.now)
    assert peer.tiers.control(peer.now) == RELAY


@pytest.mark.parametrize(
    ("host", "bonus"),
    [("127.0.0.1", 0.5), ("10.1.2.3", 0.2), ("2606:4700::1", 0.1), ("::1", 0.6), ("fd00::1", 0.3)],
)
def test_addresses_that_are_likely_to_stay_good_have_a_bonus(host, bonus):
    near, far = Path(Tier.DIRECT, Address(host, 1)), Path(Tier.DIRECT, Address("8.8.8.8", 1))
    for factor, takes in ((0.98, True), (1.02, False)):
        peer = Peer()
        peer.second({far: 0.004}, 40)
        rtt = 0.8 * 0.004 * (1 + bonus) * factor
        assert (peer.second({far: 0.004, near: rtt}, 60) == near) == takes


def test_paths_are_bounded():
    tiers = Tiers()
    many = [Path(Tier.DIRECT, Address("192.0.2.1", port)) for port in range(limits.PATHS_MAX)]
    assert all(tiers.offer(path) for path in many)
    assert not tiers.offer(DIRECT)
    assert tiers.offer(many[0])
    tiers.withdraw(many[1])
    assert tiers.offer(DIRECT)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(0.001, 0.3), st.sampled_from([0.05, 0.3, 1.0]))
def test_noise_makes_paths_not_take_turns(seed, rtt, spread):
    # Two paths with the same distribution of round trips, an hour of pings, some lost.
    rng, peer = random.Random(seed), Peer()
    for _ in range(3_600):
        rtts = {
            path: rtt * (1 + rng.random() * spread) if rng.random() > 0.05 else None
            for path in (DIRECT, OTHER)
        }
        peer.second(rtts)
    assert peer.tiers.switches <= 1


# --- bulk -----------------------------------------------------------------------------------------


def test_the_first_lane_is_the_cheapest_of_the_preferred_path():
    peer = Peer()
    lanes(peer, *(Route(path, lane) for path in (RELAY, DIRECT) for lane in (Lane.QH3, Lane.TCP)))
    assert peer.tiers.bulk(peer.now) == Route(DIRECT, Lane.TCP)
    assert set(peer.tiers.untried(peer.now)) == {
        Route(DIRECT, Lane.TCP),
        Route(DIRECT, Lane.QH3),
    } | {
        Route(RELAY, Lane.TCP),
        Route(RELAY, Lane.QH3),
    }


def test_a_path_without_lanes_carries_no_bulk():
    peer = Peer()
    lanes(peer, Route(RELAY, Lane.QH3))
    peer.second({RELAY: 0.05, DIRECT: 0.01})
    assert peer.tiers.control(peer.now) == DIRECT
    assert peer.tiers.bulk(peer.now) == Route(RELAY, Lane.QH3)


def test_a_lane_that_is_faster_by_a_fifth_takes_over():
    tcp, quic = Route(DIRECT, Lane.TCP), Route(DIRECT, Lane.QH3)
    peer = Peer()
    lanes(peer, tcp, quic)
    assert peer.move({tcp: 100, quic: 119}, 60) == tcp
    assert peer.move({tcp: 100, quic: 150}, 60) == quic
    assert peer.tiers.switches == 1


def test_a_cheaper_lane_takes_over_when_it_is_about_as_fast():
    tcp, quic = Route(DIRECT, Lane.TCP), Route(DIRECT, Lane.QH3)
    peer = Peer()
    lanes(peer, quic)
    assert peer.move({quic: 100}, 5) == quic
    peer.tiers.add_lane(tcp)
    assert peer.tiers.untried(peer.now) == [tcp]
    assert peer.move({quic: 100, tcp: 85}, 60) == quic
    assert peer.move({quic: 100, tcp: 96}, 60) == tcp


def test_what_others_did_before_counts_against_a_lane_that_gets_slow():
    tcp, quic = Route(DIRECT, Lane.TCP), Route(DIRECT, Lane.QH3)
    peer = Peer()
    lanes(peer, tcp, quic)
    peer.move({tcp: 100, quic: 90})
    assert peer.move({tcp: 100}, 40) == tcp
    assert peer.move({tcp: 20}, 40) == quic


def test_more_than_is_wanted_is_not_better():
    tcp, quic = Route(OTHER, Lane.QH3), Route(DIRECT, Lane.QH3)
    peer = Peer(cap_bytes_per_s=100)
    lanes(peer, tcp, quic)
    held = peer.tiers.bulk(peer.now)
    other = tcp if held == quic else quic
    assert peer.move({held: 100, other: 5_000}, 60) == held


def test_a_lane_that_is_closed_is_left():
    tcp, quic = Route(DIRECT, Lane.TCP), Route(DIRECT, Lane.QH3)
    peer = Peer()
    lanes(peer, tcp, quic)
    assert peer.tiers.bulk(peer.now) == tcp
    peer.tiers.remove_lane(tcp)
    assert peer.tiers.bulk(peer.now) == quic
    peer.tiers.withdraw(DIRECT)
    assert peer.tiers.bulk(peer.now) is None
    peer.tiers.add_lane(quic)
    peer.tiers.moved(quic, 1, 1.0, peer.now, was_bottleneck=True)
    assert peer.tiers.bulk(peer.now) is None


@pytest.mark.slow
@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_noise_makes_lanes_not_take_turns(seed):
    rng, peer = random.Random(seed), Peer()
    routes = [Route(path, lane) for path in (DIRECT, WIRED) for lane in (Lane.TCP, Lane.QH3)]
    lanes(peer, *routes)
    for _ in range(3_600):
        peer.move({route: rng.uniform(80, 120) for route in routes if rng.random() < 0.5})
    assert peer.tiers.switches <= 4


# --- for people -----------------------------------------------------------------------------------


def test_it_says_what_is_used_and_why():
    peer = Peer()
    lanes(peer, Route(DIRECT, Lane.QH3), rtt=0.0123)
    peer.move({Route(DIRECT, Lane.QH3): 50_000_000})
    peer.second({DIRECT: 0.0123, RELAY: None}, 8)
    assert peer.tiers.explain(peer.now).split("\n") == [
        "direct 1.2.3.4:1, control and bulk by qh3, 12.3 ms ± 0.6, qh3 400 Mbit/s",
        "relay hub, spare, never answered",
    ]
    peer.second({DIRECT: None, RELAY: 0.1}, 8)
    peer.second({DIRECT: 0.0123, RELAY: 0.1}, 4)
    control, spare = peer.tiers.explain(peer.now).split("\n")
    assert control.startswith("direct 1.2.3.4:1, bulk by qh3, ")
    assert "of pings lost" in control
    assert control.endswith("answers again, but was lost lately")
    assert spare.startswith("relay hub, control, 100.0 ms")
