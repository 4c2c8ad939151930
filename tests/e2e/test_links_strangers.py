"""Floods, forged tokens and spoofed addresses, in virtual time, against both engines."""

import pytest
import trio

from core import limits
from mesh.errors import Unreachable
from mesh.quic.engine import Kind
from mesh.quic.header import first_packet_untrusted
from mesh.wire import Address
from tests.support.engines import EACH, a_dial
from tests.support.hostile_peer import renamed
from tests.support.memory import resident_bytes
from tests.support.wires import (
    MemoryWire,
    Net,
    a_pair,
    an_endpoint,
    assert_empty,
    in_virtual_time,
    lapse,
    talks,
)

SPOOFED = Address("203.0.113.1", 1)
FLOOD = 10_000


def half_open(net: Net, wire: MemoryWire, kind: Kind, number: int) -> None:
    """The first flight of a dialler that never says more, from an address of its own."""
    source = Address(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 4_433)
    for data in a_dial(kind)[1]:
        net.deliver(data, source, wire.local)


@EACH
@pytest.mark.slow
def test_ten_thousand_half_open_handshakes_are_bounded(kind):
    async def main():
        net = Net(delay_s=0.0)
        wire = net.wire("192.0.2.1", 1)
        endpoint = an_endpoint(wire)
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.run)
            first = a_dial(kind)[1]
            for number in range(200):
                half_open(net, wire, kind, number)
            await lapse(0.001)
            before = resident_bytes()
            for number in range(200, FLOOD):
                source = Address(f"10.1.{number >> 8}.{number & 255}", 4_433)
                for data in first:
                    net.deliver(renamed(data, number.to_bytes(8)), source, wire.local)
                if number % 100 == 0:
                    await trio.testing.wait_all_tasks_blocked()
                    assert len(endpoint._alive) <= limits.HANDSHAKES_FREE_MAX
            await lapse(0.001)
            assert len(endpoint._alive) <= limits.HANDSHAKES_FREE_MAX
            assert resident_bytes() - before < 8 * limits.MIB
            assert endpoint.counters.retries_sent > FLOOD - 1_000

            friend = an_endpoint(net.wire("198.51.100.1", 5))
            await nursery.start(friend.run)
            async with trio.open_nursery() as both:
                both.start_soon(endpoint.accept)
                connection = await friend.dial(wire.local, kind)
            assert connection.alpn
            assert endpoint.counters.tokens_refused == 0
            connection.close()
            await lapse(60)
            assert_empty(endpoint)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@EACH
def test_noise_that_looks_like_first_packets_costs_nobody_a_place(kind):
    async def main():
        async with a_pair(kind) as pair:
            await lapse(1)
            spoiled = [bytearray(data) for data in a_dial(kind)[1]]
            sends = pair.far_wire.sends
            for number in range(1_000):
                for data in spoiled:
                    data[200 + number % 50] ^= 1 + number % 255
                    pair.net.deliver(bytes(data), SPOOFED, pair.far_wire.local)
            await lapse(0.05)
            assert pair.far_wire.sends == sends, "it is not even asked for its address"
            assert pair.far_end.counters.strangers_dropped == 1_000 * len(spoiled)
            await pair.near_end.dial(pair.far_wire.local, kind)
            assert pair.far_end.counters.retries_sent == 0

    in_virtual_time(main)


@EACH
def test_real_peers_get_in_by_retry(kind):
    async def main():
        async with a_pair(kind) as pair:
            for number in range(limits.HANDSHAKES_FREE_MAX):
                half_open(pair.net, pair.far_wire, kind, number)
            await lapse(0.01)
            assert len(pair.far_end._admission) == limits.HANDSHAKES_FREE_MAX
            pair.near = await pair.near_end.dial(pair.far_wire.local, kind)
            pair.far = await pair.far_end.accept()
            assert pair.far_end.counters.retries_sent > 0
            await talks(pair)

    in_virtual_time(main)


@EACH
def test_a_token_used_elsewhere_opens_nothing(kind):
    async def main():
        async with a_pair(kind) as pair:
            for number in range(limits.HANDSHAKES_FREE_MAX):
                half_open(pair.net, pair.far_wire, kind, number)
            await lapse(0.01)
            far = pair.far_wire.local
            stolen = []

            def steal(data, source, to):
                packet = first_packet_untrusted(data)
                if to == far and packet is not None and packet.token:
                    stolen.append(data)
                    return []
                return [(data, source)]

            pair.net.hook = steal
            with pytest.raises(Unreachable):
                await pair.near_end.dial(far, kind)
            assert stolen
            await lapse(limits.HANDSHAKE_SECONDS)
            alive = len(pair.far_end._alive)
            refused = pair.far_end.counters.tokens_refused
            sends = pair.far_wire.sends
            pair.net.deliver(stolen[0], Address("10.0.0.77", 1_000), far)
            await lapse(0.1)
            assert pair.far_end.counters.tokens_refused == refused + 1
            await lapse(20)
            pair.net.deliver(stolen[0], pair.near_wire.local, far)  # too old
            await lapse(0.1)
            assert pair.far_end.counters.tokens_refused == refused + 2
            assert len(pair.far_end._alive) <= alive
            assert pair.far_wire.sends == sends

    in_virtual_time(main)


@EACH
def test_a_handshake_that_takes_too_long_is_given_up(kind):
    async def main():
        net = Net()
        endpoint = an_endpoint(wire := net.wire())
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.run)
            half_open(net, wire, kind, 1)
            await lapse(limits.HANDSHAKE_SECONDS - 0.1)
            assert len(endpoint._alive) == 1
            await lapse(10)
            assert_empty(endpoint)
            assert endpoint.counters.handshakes_failed == 1
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@EACH
def test_a_spoofed_first_packet_is_not_amplified(kind):
    async def main():
        net = Net()
        net.seen = []
        endpoint = an_endpoint(wire := net.wire())
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.run)
            first = a_dial(kind)[1]
            for data in first:
                net.deliver(data, SPOOFED, wire.local)
            await lapse(60)
            sent = sum(len(data) for data, _, to in net.seen if to == SPOOFED)
            assert 0 < sent <= 3 * sum(len(data) for data in first)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@EACH
def test_no_more_connections_than_there_is_room_for(kind, monkeypatch):
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 1)

    async def main():
        async with a_pair(kind) as pair:
            other = an_endpoint(pair.net.wire("10.0.0.3"))
            await pair.nursery.start(other.run)
            with pytest.raises(Unreachable):
                await other.dial(pair.far_wire.local, kind)
            assert pair.far_end.counters.refused_busy > 0
            pair.near.close()
            await lapse(5)
            await other.dial(pair.far_wire.local, kind)

    in_virtual_time(main)


@EACH
def test_when_nobody_accepts_the_rest_is_refused(kind, monkeypatch):
    monkeypatch.setattr(limits, "HANDSHAKES_MAX", 2)

    async def main():
        async with a_pair(kind) as pair:
            dialled = [await pair.near_end.dial(pair.far_wire.local, kind) for _ in range(3)]
            await dialled[2].over.wait()
            assert dialled[2].closed.reason == "busy"
            assert [one.closed for one in dialled[:2]] == [None, None]

    in_virtual_time(main)
