"""What every wire does, the socket (mesh/udp.py) and the simulated one (tests/support/simnet.py).

Each behaviour is an async function of `bind`, which makes a wire at a port of the one machine or
network there is; 0 is any port. Run all of BEHAVIOURS on each.
"""

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from core import limits
from mesh.wire import Address, Arrival, Wire

Bind = Callable[[int], Wire]
TOO_LARGE_BYTES = 65_508  # more than a datagram can be over IPv4
NOBODY = 9  # the port for what is to be thrown away: nobody listens


def datagrams(arrivals: list[Arrival]) -> list[tuple[bytes, Address]]:
    """One by one, as they were sent."""
    found = []
    for data, size, source in arrivals:
        assert size >= 1
        starts = range(0, len(data), size) if data else [0]
        found += [(data[start : start + size], source) for start in starts]
    return found


async def receive(wire: Wire, count: int) -> list[tuple[bytes, Address]]:
    """So many of them; fails if they do not come."""
    found: list[tuple[bytes, Address]] = []
    with trio.fail_after(10):
        while len(found) < count:
            found += datagrams(await wire.receive())
    return found


async def send(wire: Wire, what: list[bytes], to: Address) -> None:
    """All of them, as the endpoint does."""
    with trio.fail_after(10):
        while what := what[wire.send(what, to) :]:
            await wire.writable()


async def datagrams_keep_their_bounds_their_order_and_their_sender(bind: Bind) -> None:
    one, other = bind(0), bind(0)
    sent = [b"a" * size for size in (1, 1_200, 1_200, 1_200, 7, 1_350, 3, 3)] + [b"b" * 1_200]
    await send(one, sent, other.local)
    assert await receive(other, len(sent)) == [(data, one.local) for data in sent]


async def an_answer_goes_where_it_came_from(bind: Bind) -> None:
    one, other = bind(0), bind(0)
    await send(one, [b"hello"], other.local)
    [(_, source)] = await receive(other, 1)
    await send(other, [b"and hello"], source)
    assert await receive(one, 1) == [(b"and hello", other.local)]


async def long_trains_arrive_whole_in_bounded_batches(bind: Bind) -> None:
    one, other = bind(0), bind(0)
    sent = [number.to_bytes(2) * 600 for number in range(300)]
    found: list[tuple[bytes, Address]] = []
    for start in range(0, len(sent), 100):
        await send(one, sent[start : start + 100], other.local)
        with trio.fail_after(10):
            while len(found) < start + 100:
                arrivals = await other.receive()
                assert 0 < len(arrivals) <= limits.UDP_BATCH_ARRIVALS_MAX
                assert all(len(a.data) <= limits.UDP_TRAIN_BYTES_MAX + 600 for a in arrivals)
                found += datagrams(arrivals)
    assert [data for data, _ in found] == sent


async def what_is_too_large_counts_as_taken_and_is_lost(bind: Bind) -> None:
    one, other = bind(0), bind(0)
    assert one.send([bytes(TOO_LARGE_BYTES)], other.local) == 1
    assert one.send([b"before", bytes(TOO_LARGE_BYTES), b"after"], other.local) == 3
    assert [data for data, _ in await receive(other, 2)] == [b"before", b"after"]


async def nothing_to_send_is_taken(bind: Bind) -> None:
    one, other = bind(0), bind(0)
    assert one.send([], other.local) == 0


async def an_empty_datagram_is_one(bind: Bind) -> None:
    one, other = bind(0), bind(0)
    await send(one, [b"", b"x"], other.local)
    assert [data for data, _ in await receive(other, 2)] == [b"", b"x"]


async def what_nobody_takes_disturbs_nobody(bind: Bind) -> None:
    one, other = bind(0), bind(0)
    nobody = Address(other.local.host, NOBODY)
    for _ in range(3):
        assert one.send([b"anybody?", b"no?"], nobody) == 2
    await send(other, [b"yes"], one.local)
    assert await receive(one, 1) == [(b"yes", other.local)]
    await send(one, [b"fine"], other.local)
    assert await receive(other, 1) == [(b"fine", one.local)]


async def two_senders_are_told_apart(bind: Bind) -> None:
    one, two, other = bind(0), bind(0), bind(0)
    for wire in (one, two, one):
        await send(wire, [b"x" * 100], other.local)
    found = await receive(other, 3)
    assert sorted(found) == sorted([(b"x" * 100, wire.local) for wire in (one, two, one)])


async def there_is_room_at_first(bind: Bind) -> None:
    wire = bind(0)
    with trio.fail_after(10):
        await wire.writable()


async def closing_ends_who_waits(bind: Bind) -> None:
    wire = bind(0)
    ended = []

    async def wait() -> None:
        try:
            await wire.receive()
        except trio.ClosedResourceError:
            ended.append(True)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            wire.close()
    assert ended


async def closing_twice_is_closing(bind: Bind) -> None:
    wire = bind(0)
    wire.close()
    wire.close()


async def a_closed_port_is_free_again(bind: Bind) -> None:
    first, other = bind(0), bind(0)
    first.close()
    again = bind(first.local.port)
    assert again.local == first.local
    await send(other, [b"who?"], again.local)
    assert await receive(again, 1) == [(b"who?", other.local)]


async def a_taken_port_is_not(bind: Bind) -> None:
    wire = bind(0)
    try:
        bind(wire.local.port)
    except OSError:
        return
    raise AssertionError("two wires at one address")


BEHAVIOURS: list[Callable[[Bind], Awaitable[None]]] = [
    datagrams_keep_their_bounds_their_order_and_their_sender,
    an_answer_goes_where_it_came_from,
    long_trains_arrive_whole_in_bounded_batches,
    what_is_too_large_counts_as_taken_and_is_lost,
    nothing_to_send_is_taken,
    an_empty_datagram_is_one,
    what_nobody_takes_disturbs_nobody,
    two_senders_are_told_apart,
    there_is_room_at_first,
    closing_ends_who_waits,
    closing_twice_is_closing,
    a_closed_port_is_free_again,
    a_taken_port_is_not,
]
