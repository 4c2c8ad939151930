import pytest
import trio
import trio.testing

from core import limits
from core.errors import PortalError
from mesh.errors import Unreachable
from mesh.lanes.memory import Hall, MemoryDoor, connect, memory_pair
from mesh.lanes.offer import MemoryWay
from tests.support.lanes import NODE


def test_bytes_are_handed_over_and_not_copied():
    async def main():
        one, other = memory_pair()
        sent = bytes(limits.MIB)
        await one.send_all(sent)
        assert await other.receive_some() is sent

    trio.run(main)


def test_what_its_sender_may_still_change_is_copied():
    async def main():
        one, other = memory_pair()
        sent = bytearray(b"before")
        await one.send_all(sent)
        await one.send_all(memoryview(sent))
        sent[:] = b"after!"
        assert await other.receive_some() == b"before"
        assert await other.receive_some() == b"before"

    trio.run(main)


def test_a_sender_waits_by_bytes_and_not_by_pieces():
    async def main():
        one, other = memory_pair()
        await one.send_all(bytes(limits.LANE_MEMORY_BYTES - 10))
        for _ in range(10):
            await one.send_all(b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send_all, b"y")
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            await other.receive_some(1)
        assert other._receives._unread_bytes == limits.LANE_MEMORY_BYTES

    trio.run(main)


def test_what_nobody_will_read_is_not_kept():
    async def main():
        one, other = memory_pair()
        await one.send_all(bytes(1000))
        await other.aclose()
        assert not other._receives._chunks
        with pytest.raises(trio.BrokenResourceError):
            await one.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await other.send_eof()

    trio.run(main)


def test_an_end_does_not_cross_what_is_being_sent():
    async def main():
        one, _ = memory_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send_all, bytes(2 * limits.LANE_MEMORY_BYTES))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await one.send_eof()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_hall_knows_who_is_there():
    async def main():
        hall = Hall()
        way = MemoryWay(NODE)
        with pytest.raises(Unreachable):
            connect(way, hall)
        with MemoryDoor(hall, NODE).listening() as (listener,):
            with pytest.raises(PortalError, match="already"), hall.listening(NODE):
                pass
            here = connect(way, hall).stream
            there = await listener.accept()
            await here.send_all(b"hello")
            assert await there.receive_some() == b"hello"
            waiting = connect(way, hall).stream
        assert await waiting.receive_some() == b""
        with pytest.raises(Unreachable):
            connect(way, hall)

    trio.run(main)


def test_a_hall_has_so_many_places_to_wait():
    hall = Hall()

    async def main():
        with hall.listening(NODE):
            for _ in range(limits.LANE_BACKLOG_MAX):
                hall.connect(NODE)
            with pytest.raises(Unreachable):
                hall.connect(NODE)

    trio.run(main)
