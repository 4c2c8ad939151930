"""Addresses that change and paths that lose, in virtual time, with both engines."""

from random import Random

import pytest
import trio

from mesh.wire import Address, Arrival
from tests.support.engines import EACH
from tests.support.wires import (
    Net,
    a_pair,
    in_virtual_time,
    lapse,
    read_all,
    streams,
    talks,
)

SPOOFED = Address("203.0.113.1", 1)


@EACH
@pytest.mark.slow
def test_a_dialler_whose_address_changes_goes_on(kind):
    async def main():
        async with a_pair(kind) as pair:
            near, far = await streams(pair)
            net, new = pair.net, Address("10.9.9.9", 9_999)
            size = 1_500_000
            async with trio.open_nursery() as nursery:

                async def send():
                    await near.send_all(bytes(size))
                    pair.near_wire.moves(*new)
                    await near.send_all(bytes(size))
                    await near.send_eof()

                nursery.start_soon(send)
                assert len(await read_all(far)) == 2 * size
            await far.send_all(b"back to the new place")
            assert await near.receive_some() == b"back to the new place"
            assert pair.far.peer == new
            assert pair.near.closed is pair.far.closed is None
            net.seen = []
            await talks(pair)
            assert {to for _, source, to in net.seen if source != new} == {new}

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_a_stranger_who_repeats_packets_does_not_draw_the_connection_away(kind):
    """Copies from another address, ahead of the packets themselves: nothing is lost."""

    async def main():
        async with a_pair(kind) as pair:
            near, far = await streams(pair)
            spoofed_bytes = [0, 0]

            def copied(data, source, to):
                if SPOOFED in {source, to}:
                    return []
                if to == pair.far_wire.local and not data[0] & 0x80:
                    spoofed_bytes[0] += len(data)
                    return [(data, SPOOFED), (data, source)]  # the copy is first
                return [(data, source)]

            pair.net.hook = copied
            pair.net.seen = []
            async with trio.open_nursery() as nursery:

                async def send():
                    await near.send_all(bytes(100_000))
                    await lapse(5)
                    pair.net.hook = lambda data, source, to: [(data, source)]
                    await near.send_all(bytes(100_000))
                    await near.send_eof()

                nursery.start_soon(send)
                assert len(await read_all(far)) == 200_000
            sent = sum(len(data) for data, _, to in pair.net.seen if to == SPOOFED)
            assert sent <= 3 * spoofed_bytes[0]
            await lapse(5)
            await talks(pair)
            assert pair.far.peer == pair.near_wire.local

    in_virtual_time(main)


@EACH
def test_packets_find_their_connection_under_every_name_it_has(kind):
    async def main():
        async with a_pair(kind) as pair:
            names = set(pair.far.cids)
            for _ in range(4):
                pair.near.machine._quic.change_connection_id()
                await talks(pair, 3_000)
            assert pair.far.cids != names
            owned = {cid for cid, one in pair.far_end._by_cid.items() if one is pair.far}
            assert owned == pair.far.cids
            assert len(owned) <= 10

    in_virtual_time(main)


@EACH
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["lost", "doubled", "late"])
def test_a_bad_path_delivers_all_the_same(kind, fault):
    async def main():
        net, rng = Net(), Random(8)
        async with a_pair(kind, net) as pair:

            def faulty(data, source, to):
                if rng.random() > 0.05:
                    return [(data, source)]
                if fault == "late":
                    if to in net.wires:
                        net.wires[to].put(Arrival(data, len(data), source), 0.02)
                    return []
                return [] if fault == "lost" else [(data, source)] * 2

            net.hook = faulty
            await talks(pair, 300_000)
            assert pair.near.closed is pair.far.closed is None

    in_virtual_time(main)
