import statistics
from random import Random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mesh.errors import Unreachable
from mesh.quic.engine import Kind
from mesh.udp import UdpWire
from mesh.wire import Address
from tests.support import simnet
from tests.support.hop import Path
from tests.support.simnet import INBOX_BYTES, Corrupter, Datagram, Recorder, SimNet, simulate
from tests.support.wire_suite import BEHAVIOURS, datagrams, receive, send
from tests.support.wires import an_endpoint

KINDS = pytest.mark.parametrize("kind", list(Kind))


async def until(seconds: float) -> None:
    """Let this much virtual time pass."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


def arrived(wire) -> list[bytes]:
    """What waits in a wire."""
    return [data for data, _ in datagrams(wire._batch())] if wire._inbox else []


# --- a wire is a wire -----------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.__name__)
def test_a_simulated_wire_does_what_every_wire_does(behaviour):
    async def main(net: SimNet) -> None:
        await behaviour(net.host("10.0.0.1").wire)

    simulate(main, seed=1)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.__name__)
def test_the_socket_does_what_every_wire_does(behaviour):
    async def main() -> None:
        wires = []

        def bind(port):
            wires.append(UdpWire.bind("127.0.0.1", port))
            return wires[-1]

        try:
            await behaviour(bind)
        finally:
            for wire in wires:
                wire.close()

    trio.run(main)


def test_a_full_wire_takes_nothing_until_there_is_room():
    async def main(net: SimNet) -> None:
        one, other = net.wire("10.0.0.1"), net.wire("10.0.0.2")
        one.fill()
        assert one.send([b"x"], other.local) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, one, [b"x", b"y"], other.local)
            await wait_all_tasks_blocked()
            assert not one._net._under_way
            one.fill(full=False)
        assert [data for data, _ in await receive(other, 2)] == [b"x", b"y"]

    simulate(main, seed=1)


@pytest.mark.slow
def test_an_inbox_is_bounded_and_empties():
    async def main(net: SimNet) -> None:
        wire, source = net.wire("10.0.0.1"), Address("10.9.9.9", 9)
        for _ in range(3 * INBOX_BYTES // 60_000):
            net.inject(bytes(60_000), source, wire.local)
        for _ in range(INBOX_BYTES // 28):
            wire.put(Datagram(b"", source, wire.local))
        await until(0.001)
        assert wire.overflowed > INBOX_BYTES // 60_000
        assert wire._inbox_bytes <= INBOX_BYTES
        while wire._inbox:
            await wire.receive()
        assert wire._inbox_bytes == 0

    simulate(main, seed=1)


# --- paths ----------------------------------------------------------------------------------------


def test_datagrams_take_the_time_of_their_path():
    async def main(net: SimNet) -> list[float]:
        hosts = [net.host() for _ in range(3)]
        net.link(hosts[0], hosts[1], Path(delay_s=0.2), back=Path(delay_s=0.05))
        one, two, three = (host.wire() for host in hosts)
        took = []
        for wire, to in ((one, two), (two, one), (one, three)):
            began = trio.current_time()
            await send(wire, [b"x"], to.local)
            await receive(to, 1)
            took.append(trio.current_time() - began)
        return took

    took = simulate(main, seed=1, path=Path(delay_s=0.01))
    assert took == pytest.approx([0.2, 0.05, 0.01], abs=1e-5)


def test_a_slow_path_makes_a_queue_of_its_size():
    async def main(net: SimNet) -> tuple[float, int]:
        one, other = net.wire("10.0.0.1"), net.wire("10.0.0.2")
        await send(one, [bytes(972)] * 100, other.local)
        began = trio.current_time()
        await receive(other, 50)
        took = trio.current_time() - began
        await until(1)
        return took, len(arrived(other))

    path = Path(bits_per_s=80_000, queue_bytes=50_000)
    took, rest = simulate(main, seed=1, path=path)
    assert took == pytest.approx(5)
    assert rest == 0


def test_as_many_are_lost_as_was_said():
    async def main(net: SimNet) -> int:
        one, other = net.wire("10.0.0.1"), net.wire("10.0.0.2")
        found = 0
        for _ in range(20):
            await send(one, [b"x"] * 100, other.local)
            await until(0.1)
            while other._inbox:
                found += len(arrived(other))
        return found

    assert 1_720 <= simulate(main, seed=3, path=Path(loss=0.1)) <= 1_880


def test_what_is_larger_than_the_path_counts_as_taken_and_vanishes():
    async def main(net: SimNet) -> None:
        one, other = net.wire("10.0.0.1"), net.wire("10.0.0.2")
        assert one.send([bytes(1_401), bytes(1_400)], other.local) == 2
        assert [len(data) for data, _ in await receive(other, 1)] == [1_400]

    simulate(main, seed=1, path=Path(datagram_bytes_max=1_400))


# --- faults ---------------------------------------------------------------------------------------


def test_a_cut_parts_and_heals():
    async def main(net: SimNet) -> None:
        hosts = [net.host() for _ in range(3)]
        one, two, three = (host.wire() for host in hosts)
        net.cut(hosts[:1], hosts[1:2])
        for wire in (one, three):
            await send(wire, [b"to two"], two.local)
        await send(two, [b"to one"], one.local)
        await until(1)
        assert [source for _, source in datagrams(await two.receive())] == [three.local]
        assert not one._inbox
        net.isolate(hosts[2])
        await send(three, [b"x"], two.local)
        await until(1)
        assert not two._inbox
        net.heal()
        await send(one, [b"to two"], two.local)
        await send(three, [b"to two"], two.local)
        assert len(await receive(two, 2)) == 2

    simulate(main, seed=1)


def test_a_crash_frees_the_ports_and_ends_who_waits():
    async def main(net: SimNet) -> None:
        host, other = net.host(), net.wire("10.8.0.1")
        wire = host.wire(4_000)
        ended = trio.Event()

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await wire.receive()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await send(other, [b"under way"], wire.local)
            await wait_all_tasks_blocked()
            host.crash()
            await ended.wait()
        again = host.wire(4_000)
        assert await receive(again, 1) == [(b"under way", other.local)]  # as a kernel would

    simulate(main, seed=1)


def test_who_moves_is_seen_elsewhere_and_reached_there_only():
    async def main(net: SimNet) -> None:
        host, other = net.host("10.0.0.1"), net.wire("10.0.0.2")
        wire = host.wire(4_000)
        await send(other, [b"late"], wire.local)
        host.move("10.7.7.7")
        await send(wire, [b"hello"], other.local)
        [(_, source)] = await receive(other, 1)
        assert source == Address("10.7.7.7", 4_000)
        assert not wire._inbox
        await send(other, [b"found"], source)
        assert await receive(wire, 1) == [(b"found", other.local)]
        wire.rebind(5_000)
        await send(wire, [b"hello"], other.local)
        assert (await receive(other, 1))[0][1] == Address("10.7.7.7", 5_000)
        with pytest.raises(OSError, match="in use"):
            host.move("10.0.0.2")

    simulate(main, seed=1)


def test_every_host_has_a_clock_of_its_own():
    async def main(net: SimNet) -> tuple[int, int, int]:
        right, ahead, fast = (net.host() for _ in range(3))
        ahead.offset_s = 86_400
        fast.drift = 0.01
        began = right.now_ms()
        await until(1_000)
        now = right.now_ms()
        return now - began, ahead.now_ms() - now, fast.now_ms() - now

    assert simulate(main, seed=1) == (1_000_000, 86_400_000, 10_000)


# --- enemies --------------------------------------------------------------------------------------


def test_anybody_may_claim_to_be_anyone():
    async def main(net: SimNet) -> None:
        wire, nobody = net.wire("10.0.0.1"), Address("203.0.113.5", 77)
        net.inject(b"forged", nobody, wire.local, delay_s=0.5)
        assert await receive(wire, 1) == [(b"forged", nobody)]
        assert trio.current_time() == pytest.approx(0.5, abs=1e-5)

    simulate(main, seed=1)


def test_taps_hear_repeat_and_bend():
    async def main(net: SimNet) -> None:
        one, other = net.wire("10.0.0.1"), net.wire("10.0.0.2")
        recorder = Recorder(most=2)
        net.taps.append(recorder)
        await send(one, [b"one", b"two", b"three"], other.local)
        await receive(other, 3)
        assert [d.data for d in recorder.datagrams] == [b"two", b"three"]
        net.inject(*recorder.datagrams[0])
        assert await receive(other, 1) == [(b"two", one.local)]
        net.taps.append(corrupter := Corrupter(Random(1), chance=0.5))
        await send(one, [bytes(10)] * 200, other.local)
        bent = [data for data, _ in await receive(other, 200) if data != bytes(10)]
        assert len(bent) == corrupter.flipped
        assert 60 <= len(bent) <= 140
        assert all(sum(byte.bit_count() for byte in data) == 1 for data in bent)
        net.taps[:] = [lambda datagram: []]
        await send(one, [b"swallowed"], other.local)
        await until(1)
        assert not other._inbox

    simulate(main, seed=1)


def test_a_storm_is_an_error(monkeypatch):
    monkeypatch.setattr(simnet, "FLIGHT_MAX", 2_500)

    async def main(net: SimNet) -> None:
        net.taps.append(lambda datagram: [datagram] * 1_000)
        one, other = net.wire("10.0.0.1"), net.wire("10.0.0.2")
        one.send([b"x"] * 3, other.local)

    with pytest.raises(ExceptionGroup) as failure:
        simulate(main, seed=1)
    assert failure.group_contains(RuntimeError, match="storm")


# --- one seed, one story --------------------------------------------------------------------------


async def a_story(net: SimNet, kind: Kind, size: int = 200_000) -> str:
    """Two endpoints over a bad path: a transfer, a move under way, an end."""
    near_host, far_host = net.host("10.0.0.1"), net.host("10.0.0.2")
    near, far = an_endpoint(near_host.wire(4_000), "near"), an_endpoint(far_host.wire(4_000), "far")
    got = bytearray()
    async with trio.open_nursery() as nursery:
        await nursery.start(near.run)
        await nursery.start(far.run)
        dialled = await near.dial(far.local, kind)
        answered = await far.accept()

        async def read() -> None:
            stream = await answered.accept_stream()
            async for data in stream:
                got.extend(data)
                if len(got) > size // 2 and near_host.address == "10.0.0.1":
                    near_host.move("10.0.0.77")

        async with trio.open_nursery() as both:
            both.start_soon(read)
            stream = await dialled.open_stream()
            await stream.send_all(bytes(size))
            await stream.send_eof()
        assert len(got) == size
        assert near_host.address == "10.0.0.77"
        assert dialled.closed is None
        nursery.cancel_scope.cancel()
    return net.trace.digest


BAD = Path(0.02, 0.003, 0.02, 0.02, 0.02, 0.01, 20e6, 60_000, 1_400)


@KINDS
@pytest.mark.slow
def test_the_stack_works_and_one_seed_tells_one_story(kind):
    def story(seed: int) -> str:
        return simulate(lambda net: a_story(net, kind), seed, BAD)

    first = story(1)
    assert story(1) == first
    assert story(2) != first


@KINDS
def test_nobody_there_is_said_in_time(kind):
    async def main(net: SimNet) -> float:
        endpoint = an_endpoint(net.wire("10.0.0.1"), "near")
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.run)
            with pytest.raises(Unreachable):
                await endpoint.dial(Address("10.0.0.9", 1), kind)
            nursery.cancel_scope.cancel()
        return trio.current_time()

    assert simulate(main, seed=1) == pytest.approx(5, rel=0.1)


def test_scheduling_follows_the_seed():
    async def main(net: SimNet) -> str:
        order = []

        async def one(name: str) -> None:
            for _ in range(20):
                await trio.lowlevel.checkpoint()
                order.append(name)

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(one, name)
        return "".join(order)

    stories = [simulate(main, seed) for seed in (1, 1, 2)]
    assert stories[0] == stories[1] != stories[2]


def test_a_failure_tells_its_seed_and_what_happened_last():
    async def main(net: SimNet) -> None:
        one, other = net.wire("10.0.0.1", 1), net.wire("10.0.0.2", 2)
        await send(one, [b"xyz"], other.local)
        await receive(other, 1)
        raise ValueError("a made-up failure")

    with pytest.raises(ExceptionGroup) as failure:
        simulate(main, seed=4_711)
    notes = "".join(failure.value.__notes__)
    assert "seed=4711" in notes
    assert "arrives 10.0.0.1:1 -> 10.0.0.2:2 3" in notes


def test_the_default_delay_and_the_distance_of_many():
    async def main(net: SimNet) -> list[float]:
        middle = net.wire("10.1.0.1")
        times = []
        for _ in range(50):
            host = net.host()
            net.link(host, net.host("10.1.0.1"), Path(delay_s=net.rng.uniform(0.01, 0.1)))
            began = trio.current_time()
            await send(host.wire(), [b"x"], middle.local)
            await receive(middle, 1)
            times.append(trio.current_time() - began)
        return times

    times = simulate(main, seed=8)
    assert 0.01 <= min(times) <= max(times) <= 0.1
    assert statistics.stdev(times) > 0.01


def test_timers_of_the_simulation_are_late_and_never_early():
    async def main(net: SimNet) -> list[float]:
        late = []
        for number in range(1, 20):
            due = number / 10
            with trio.CancelScope(deadline=due):
                await trio.sleep_forever()
            late.append(trio.current_time() - due)
        return late

    assert all(0 < late < 0.001 for late in simulate(main, seed=1))
