"""The endpoint in virtual time: dialling, ends, a full socket, and what is left afterwards."""

import math

import pytest
import trio

from core import limits
from mesh.errors import LinkClosed, Unreachable
from mesh.quic.endpoint import ALPN_PAIR
from mesh.quic.engine import Closed, Kind
from mesh.wire import Address, Arrival
from tests.support.engines import EACH, a_dial
from tests.support.memory import resident_bytes
from tests.support.wires import (
    MemoryWire,
    Net,
    a_pair,
    an_endpoint,
    assert_empty,
    in_virtual_time,
    lapse,
    streams,
    talks,
)

SPOOFED = Address("203.0.113.1", 1)


# --- two engines on one socket --------------------------------------------------------------------


def test_both_engines_serve_on_one_wire_at_the_same_time():
    async def main():
        net = Net()
        async with a_pair(Kind.QH3, net) as pair:
            other = await pair.near_end.dial(pair.far_wire.local, Kind.AIOQUIC)
            far = await pair.far_end.accept()
            assert (other.machine.kind, far.machine.kind) == (Kind.AIOQUIC, Kind.AIOQUIC)
            await talks(pair)
            pair.near, pair.far = other, far
            await talks(pair)

    in_virtual_time(main)


@EACH
def test_an_engine_that_is_off_is_not_dialled_and_does_not_answer(kind):
    async def main():
        net = Net()
        near_wire, far_wire = net.wire(), net.wire()
        near = an_endpoint(near_wire)
        far = an_endpoint(far_wire, engines=frozenset(Kind) - {kind})
        async with trio.open_nursery() as nursery:
            await nursery.start(near.run)
            await nursery.start(far.run)
            with pytest.raises(Unreachable, match="no answer"):
                await near.dial(far_wire.local, kind)
            with pytest.raises(Unreachable, match="switched off"):
                await far.dial(near_wire.local, kind)
            assert far_wire.sends == 0
            assert far.counters.strangers_dropped > 0
            await lapse(60)
            assert_empty(near)
            assert_empty(far)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@EACH
def test_an_unknown_version_gets_no_answer(kind):
    async def main():
        net = Net()
        wire = net.wire()
        endpoint = an_endpoint(wire)
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.run)
            for version in (0, 2, 0x0A0A0A0A, 0xFF00001D, 0x709A50C4):
                for data in a_dial(kind)[1]:
                    bent = data[:1] + version.to_bytes(4) + data[5:]
                    net.deliver(bent, SPOOFED, wire.local)
            await lapse(10)
            assert wire.sends == 0
            assert_empty(endpoint)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


# --- dialling -------------------------------------------------------------------------------------


@EACH
def test_no_common_protocol_is_told_at_once(kind):
    async def main():
        net = Net()
        near, far = an_endpoint(net.wire()), an_endpoint(far_wire := net.wire())
        async with trio.open_nursery() as nursery:
            await nursery.start(near.run)
            await nursery.start(far.run)
            began = trio.current_time()
            with pytest.raises(Unreachable):
                await near.dial(far_wire.local, kind, ALPN_PAIR)
            assert trio.current_time() - began < 0.1
            await lapse(60)
            assert far.counters.handshakes_failed == 1
            assert_empty(near)
            assert_empty(far)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@EACH
def test_nobody_there(kind):
    async def main():
        net = Net()
        near = an_endpoint(net.wire())
        async with trio.open_nursery() as nursery:
            await nursery.start(near.run)
            began = trio.current_time()
            with pytest.raises(Unreachable, match="no answer"):
                await near.dial(Address("10.0.0.99", 1), kind)
            assert trio.current_time() - began == limits.HANDSHAKE_SECONDS
            with trio.move_on_after(1):
                await near.dial(Address("10.0.0.99", 1), kind)
            await lapse(60)
            assert_empty(near)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@EACH
@pytest.mark.parametrize(
    "to", [("example.org", 1), ("", 1), ("fe80::1%eth0", 1), ("10.0.0.1", 0), ("10.0.0.1", 65_536)]
)
def test_what_is_no_address_is_not_dialled(kind, to):
    async def main():
        endpoint = an_endpoint(wire := Net().wire())
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.run)
            with pytest.raises(Unreachable):
                await endpoint.dial(Address(*to), kind)
            assert wire.sends == 0
            assert_empty(endpoint)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@EACH
def test_the_end_of_an_endpoint_ends_everything(kind):
    async def main():
        net = Net()
        async with a_pair(kind, net) as pair:
            other = an_endpoint(net.wire())
            async with trio.open_nursery() as nursery:
                await nursery.start(other.run)
                near = await other.dial(pair.far_wire.local, kind)
                far = await pair.far_end.accept()

                async def still_dialling():
                    with pytest.raises(Unreachable):
                        await other.dial(Address("10.0.0.99", 1), kind)

                async def still_accepting():
                    with pytest.raises(trio.EndOfChannel):
                        await other.accept()

                pair.nursery.start_soon(still_dialling)
                pair.nursery.start_soon(still_accepting)
                await lapse(1)
                nursery.cancel_scope.cancel()
            await far.over.wait()
            assert far.closed == Closed(0, "this node is going away")
            assert near.closed is not None
            assert_empty(other)
            with pytest.raises(Unreachable):
                await other.dial(pair.far_wire.local, kind)
            with pytest.raises(LinkClosed):
                await near.open_stream()

    in_virtual_time(main)


# --- ends -----------------------------------------------------------------------------------------


@EACH
def test_a_close_is_seen_by_the_peer_at_once_and_leaves_nothing(kind):
    async def main():
        async with a_pair(kind) as pair:
            await talks(pair)
            began = trio.current_time()
            pair.near.close(0x101, "enough")
            await pair.far.over.wait()
            assert trio.current_time() - began <= 2 * pair.net.delay_s
            assert pair.far.closed == Closed(0x101, "enough")
            await lapse(60)
            assert_empty(pair.near_end)
            assert_empty(pair.far_end)

    in_virtual_time(main)


@EACH
def test_an_idle_connection_ends_on_both_sides(kind):
    async def main():
        async with a_pair(kind, idle_s=20) as pair:
            await talks(pair)
            began = trio.current_time()
            await pair.near.over.wait()
            await pair.far.over.wait()
            assert 19 < trio.current_time() - began < 25
            await lapse(60)
            assert_empty(pair.near_end)
            assert_empty(pair.far_end)

    in_virtual_time(main)


@EACH
def test_a_peer_that_is_killed_ends_it_by_the_idle_time(kind):
    async def main():
        async with a_pair(kind, idle_s=20) as pair:
            near, _ = await streams(pair)
            pair.net.hook = lambda *_: []
            await near.send_all(b"into the void")
            began = trio.current_time()
            with pytest.raises(trio.BrokenResourceError, match="dle timeout"):
                await near.receive_some()
            assert trio.current_time() - began < 25
            await lapse(60)
            assert_empty(pair.near_end)

    in_virtual_time(main)


@EACH
def test_a_peer_that_has_forgotten_us_is_not_answered(kind):
    """After a restart old packets find nobody, and no reply tells that there is somebody."""

    async def main():
        async with a_pair(kind, idle_s=20) as pair:
            near, _ = await streams(pair)
            del pair.net.wires[pair.far_wire.local]
            fresh = MemoryWire(pair.net, pair.far_wire.local)
            pair.net.wires[fresh.local] = fresh
            again = an_endpoint(fresh, "again")
            await pair.nursery.start(again.run)
            await near.send_all(b"do you remember")
            await pair.near.over.wait()
            assert fresh.sends == 0
            assert again.counters.strangers_dropped > 0
            await pair.near_end.dial(fresh.local, kind)

    in_virtual_time(main)


# --- datagrams beside the connections -------------------------------------------------------------


def test_what_is_no_quic_goes_to_whoever_takes_it():
    async def main():
        async with a_pair(Kind.QH3) as pair:
            sealed = b"\x13p\x01" + bytes(50)
            pair.near_end.send_datagram(sealed, pair.far_wire.local)
            await lapse(0.01)
            assert pair.far_end.heard == [(sealed, pair.near_wire.local)]

    in_virtual_time(main)


def test_sealed_datagrams_that_came_as_a_train_are_handed_over_one_by_one():
    async def main():
        async with a_pair(Kind.QH3) as pair:
            sealed = [b"\x13p\x01" + bytes(50) + bytes([i]) for i in range(5)]
            size = len(sealed[0])
            pair.far_wire.put(Arrival(b"".join(sealed)[:-7], size, SPOOFED))
            await lapse(0.01)
            heard = [*sealed[:4], sealed[4][:-7]]
            assert pair.far_end.heard == [(data, SPOOFED) for data in heard]

    in_virtual_time(main)


# --- a full socket --------------------------------------------------------------------------------


@EACH
@pytest.mark.slow
def test_a_full_socket_loses_nothing_and_is_not_asked_again_and_again(kind):
    async def main():
        async with a_pair(kind) as pair:
            near, far = await streams(pair)
            wire = pair.near_wire
            wire.room = 0
            sends, waits = wire.sends, wire.waits
            lost = pair.near.figures().lost

            async def send():
                await near.send_all(bytes(400_000))
                await near.send_eof()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked()
                assert wire.sends == sends + 1, "one try, then it waits"
                assert wire.waits == waits + 1
                other, _ = await pair.near.open_stream(), None
                nursery.start_soon(other.send_all, b"others wait, too")
                await trio.testing.wait_all_tasks_blocked()
                assert wire.sends == sends + 1
                turns = Turns()
                trio.lowlevel.add_instrument(turns)
                await lapse(5)
                trio.lowlevel.remove_instrument(turns)
                assert turns.count < 50, "what is due, but cannot be sent, is not tried meanwhile"
                got = bytearray()

                async def read():
                    while data := await far.receive_some():
                        got.extend(data)

                nursery.start_soon(read)
                while len(got) < 400_000:
                    wire.empty(7)
                    await lapse(0.0005)
                    assert sum(len(datagrams) for datagrams, _ in pair.near_end._stuck) <= 600
                wire.empty(math.inf)
            await pair.far.accept_stream()
            assert pair.near.figures().lost == lost, "in order, and nothing twice"
            assert pair.near_end._stuck == []
            await talks(pair)

    in_virtual_time(main)


# --- nothing polls --------------------------------------------------------------------------------


@EACH
def test_idle_connections_wake_nobody(kind):
    async def main():
        net = Net()
        async with a_pair(kind, net, idle_s=100_000) as pair:
            for _ in range(4):
                await pair.near_end.dial(pair.far_wire.local, kind)
                await pair.far_end.accept()
            await talks(pair)
            await lapse(60)
            wakes = pair.near_wire.wakes, pair.far_wire.wakes
            turns = Turns()
            trio.lowlevel.add_instrument(turns)
            await lapse(3_600)
            trio.lowlevel.remove_instrument(turns)
            assert (pair.near_wire.wakes, pair.far_wire.wakes) == wakes
            assert turns.count <= 8, "but the one who watches"

    in_virtual_time(main)


class Turns(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task) -> None:
        self.count += "init" not in task.name


@EACH
@pytest.mark.slow
def test_a_busy_connection_leaves_no_heap_of_timers(kind):
    async def main():
        async with a_pair(kind) as pair:
            near, far = await streams(pair)
            for _ in range(300):
                await near.send_all(bytes(100))
                await far.receive_some()
                await lapse(0.05)
            assert len(pair.near_end._timers._heap) <= 70
            assert len(pair.far_end._timers._heap) <= 70

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_many_connections_come_and_go_without_a_trace(kind):
    async def main():
        async with a_pair(kind, idle_s=100_000) as pair:
            first = resident = 0
            for number in range(150):
                near = await pair.near_end.dial(pair.far_wire.local, kind)
                far = await pair.far_end.accept()
                stream = await near.open_stream()
                await stream.send_all(b"x")
                (near if number % 2 else far).close()
                await lapse(5)
                if number == 50:
                    resident = resident_bytes()
                    first = len(pair.near_end._by_cid)
            assert len(pair.near_end._by_cid) == first
            assert resident_bytes() - resident < 8 * limits.MIB
            assert list(pair.near_end._alive.values()) == [pair.near]
            assert list(pair.far_end._alive.values()) == [pair.far]
            pair.near.close()
            await lapse(60)
            assert_empty(pair.near_end)
            assert_empty(pair.far_end)

    in_virtual_time(main)
