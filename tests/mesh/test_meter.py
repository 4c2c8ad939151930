"""What is taken for a measure of a way, and what is not."""

import pytest
import trio
from trio.testing import memory_stream_pair

from core import limits
from mesh.meter import MeteredStream, Slices
from tests.support.wires import in_virtual_time

MUCH = limits.LANE_SAMPLE_BYTES_MIN


def slices():
    told = []
    return Slices(lambda *one: told.append(one)), told


def test_a_slice_is_told_when_a_second_is_over():
    meter, told = slices()
    meter.add(MUCH, 10.0, 10.4)
    meter.add(MUCH, 10.4, 10.9)
    assert told == []
    meter.add(MUCH, 10.9, 11.1)
    assert told == [(3 * MUCH, pytest.approx(1.1), True)]
    meter.end()
    assert len(told) == 1


def test_the_way_was_the_bottleneck_only_if_it_was_waited_for():
    meter, told = slices()
    meter.add(MUCH, 10.0, 10.1)
    meter.add(MUCH, 10.6, 10.7)  # in between the sender had nothing
    meter.end()
    assert told == [(2 * MUCH, pytest.approx(0.7), False)]


def test_small_talk_tells_nothing():
    meter, told = slices()
    meter.add(MUCH - 1, 10.0, 11.5)
    meter.end()
    assert told == []


def test_a_pause_begins_anew():
    meter, told = slices()
    meter.add(MUCH, 10.0, 10.1)
    meter.add(MUCH, 100.0, 100.6)
    meter.end()
    assert told == [(MUCH, pytest.approx(0.6), True)]


class Slow(trio.abc.HalfCloseableStream):
    """Takes and gives a block each half second; then it breaks."""

    def __init__(self):
        self.said = []

    async def _wait(self, what):
        self.said.append(what)
        with trio.move_on_after(0.5):
            await trio.sleep_forever()

    async def send_all(self, data):
        await self._wait(len(data))

    async def receive_some(self, max_bytes=None):
        await self._wait(max_bytes)
        return bytes(MUCH)

    async def wait_send_all_might_not_block(self):
        raise trio.BrokenResourceError

    async def send_eof(self):
        await self._wait("eof")

    async def aclose(self):
        await self._wait("closed")


def test_a_stream_tells_both_directions_and_its_end_once():
    async def main():
        sent, received, over, slow = [], [], [], Slow()
        stream = MeteredStream(
            slow, lambda *one: sent.append(one), lambda *one: received.append(one), over.append
        )
        for _ in range(3):
            await stream.send_all(memoryview(bytes(MUCH)))
        await stream.receive_some(7)
        await stream.send_eof()
        assert sent == [(2 * MUCH, pytest.approx(1.0), True)]
        await stream.aclose()
        assert sent[1:] == [(MUCH, pytest.approx(0.5), True)]
        assert received == [(MUCH, pytest.approx(0.5), True)]
        await stream.aclose()
        assert over == [False]
        assert slow.said == [MUCH, MUCH, MUCH, 7, "eof", "closed", "closed"]

    in_virtual_time(main)


def test_waiting_for_a_peer_with_nothing_to_say_is_no_measure():
    async def main():
        near, far = memory_stream_pair()
        received = []
        stream = MeteredStream(near, lambda *_: None, lambda *one: received.append(one), print)

        async def late():
            with trio.move_on_after(600):
                await trio.sleep_forever()
            await far.send_all(bytes(2 * MUCH))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(late)
            got = 0
            while got < 2 * MUCH:
                got += len(await stream.receive_some(MUCH))
        await trio.aclose_forcefully(stream)
        assert received == [(MUCH, 0.0, False)]

    in_virtual_time(main)


def test_it_tells_when_it_broke():
    async def main():
        over = []
        stream = MeteredStream(Slow(), print, print, over.append)
        with pytest.raises(trio.BrokenResourceError):
            await stream.wait_send_all_might_not_block()
        await stream.aclose()
        assert over == [True]

    in_virtual_time(main)
