"""One connection in both engines: streams of both sides, credit on the wire, strangers, its end."""

import pytest
import trio

from core import limits
from mesh.errors import LinkClosed
from mesh.quic import flow
from mesh.quic.connection import VIOLATION, Connection
from mesh.quic.engine import Closed
from tests.support.engines import EACH, NEAR
from tests.support.hostile_peer import Hostile, stream_frame, varint
from tests.support.wires import a_pair, in_virtual_time, read_all, streams

WINDOW = limits.STREAM_WINDOW_BYTES
GRANTS = 2  # the number of the dialler's first one-way stream


def a_victim(kind) -> tuple[Hostile, Connection]:
    """A connection whose peer says what it likes."""
    hostile = Hostile(kind)
    connection = Connection(hostile.far, lambda _: None, dialled=False)
    connection.handle()
    assert connection.alpn == "portal/1"
    return hostile, connection


def say(hostile: Hostile, connection: Connection, payload: bytes) -> Closed | None:
    """What becomes of the connection then."""
    hostile.say(payload)
    connection.handle()
    return connection.closed


@EACH
def test_who_dialled_and_who_is_at_the_other_end(kind):
    async def main():
        async with a_pair(kind) as pair:
            assert (pair.near.dialled, pair.far.dialled) == (True, False)
            assert pair.near.peer == pair.far_wire.local
            assert pair.far.peer == pair.near_wire.local
            assert pair.near.alpn == pair.far.alpn == "portal/1"
            assert pair.near.leaf == pair.far_end._setup.leaf.der
            assert pair.far.leaf == b""
            assert pair.near.figures().rtt_s > 0

    in_virtual_time(main)


@EACH
def test_both_sides_open_streams(kind):
    async def main():
        async with a_pair(kind) as pair:
            for one, other in ((pair.near, pair.far), (pair.far, pair.near)):
                for word in (b"first", b"second"):
                    stream = await one.open_stream()
                    await stream.send_all(word)
                    await stream.send_eof()
                    taken = await other.accept_stream()
                    assert taken.number == stream.number
                    assert await read_all(taken) == word

    in_virtual_time(main)


@EACH
def test_too_many_streams_of_ours_wait_for_room(kind):
    async def main():
        async with a_pair(kind) as pair:
            both = [await streams(pair) for _ in range(limits.STREAMS_MAX)]
            with trio.move_on_after(1) as patience:
                await pair.near.open_stream()
            assert patience.cancelled_caught
            async with trio.open_nursery() as nursery:
                nursery.start_soon(streams, pair)
                await both[0][0].aclose()
                await both[0][1].aclose()
            assert pair.near._ours == limits.STREAMS_MAX

    in_virtual_time(main)


@EACH
@pytest.mark.parametrize("stream", [0, 36])
def test_a_peer_that_opens_too_many_is_cut_off(kind, stream):
    hostile, connection = a_victim(kind)
    most = 2 * limits.STREAMS_MAX
    assert say(hostile, connection, stream_frame(4 * (most - 1), 0, b"x")) is None
    assert len(connection._streams) == most
    end = say(hostile, connection, stream_frame(4 * most + stream, 0, b"x"))
    assert end is not None
    assert end.code == VIOLATION
    assert connection._streams == {}


@EACH
def test_a_peer_that_sends_without_credit_is_cut_off(kind):
    hostile, connection = a_victim(kind)
    piece = 1_000
    for at in range(0, WINDOW - piece, piece):
        assert say(hostile, connection, stream_frame(0, at, bytes(piece))) is None
        hostile.answers(0.0001) if at % 50_000 == 0 else None
    end = None
    for at in range(WINDOW - WINDOW % piece - piece, WINDOW + piece, piece):
        end = say(hostile, connection, stream_frame(0, at, bytes(piece)))
    assert end == Closed(VIOLATION, "the peer sends more than it may")


@EACH
@pytest.mark.parametrize(
    "records",
    [
        flow.grant(1, 1),  # beyond the window: nothing of it was used
        flow.grant(1, 0),
        flow.grant(1, 2**32 - 1),
    ],
)
def test_credit_that_cannot_be_is_a_violation(kind, records):
    async def main():
        hostile, connection = a_victim(kind)
        await connection.open_stream()
        end = say(hostile, connection, stream_frame(GRANTS, 0, records))
        assert end is not None
        assert end.code == VIOLATION

    trio.run(main)


@EACH
def test_credit_for_streams_that_are_not_there_is_nothing(kind):
    hostile, connection = a_victim(kind)
    records = flow.grant(1, 5) + flow.grant(2**63, 5) + flow.grant(0, 7)[:5]
    assert say(hostile, connection, stream_frame(GRANTS, 0, records)) is None
    assert say(hostile, connection, stream_frame(GRANTS, len(records), b"", fin=True)) is None


@EACH
def test_other_one_way_streams_mean_nothing_here(kind):
    hostile, connection = a_victim(kind)
    end = say(hostile, connection, stream_frame(GRANTS + 4, 0, b"x"))
    assert end is not None
    assert end.code == VIOLATION


@EACH
def test_a_peer_may_refuse_our_credit_and_hurts_only_itself(kind):
    async def main():
        hostile, connection = a_victim(kind)
        assert say(hostile, connection, stream_frame(0, 0, bytes(1_000))) is None
        stream = await connection.accept_stream()
        connection.grant(0, 9)
        hostile.answers()
        hostile.say(b"\x05" + varint(3) + varint(0))  # STOP_SENDING of the stream our grants use
        connection.grant(0, 9)
        connection.handle()
        connection.grant(0, 9)
        assert connection.closed is None
        assert len(await stream.receive_some()) == 1_000

    trio.run(main)


@EACH
@pytest.mark.parametrize(
    "frame", [b"\x04\0\0\0", b"\x05\0\0", b"\x04\x02\0\0", b"\x05\x03\0", b"\x04\x04\0\0"]
)
def test_ends_of_streams_nobody_knew(kind, frame):
    hostile, connection = a_victim(kind)
    connection.grant(0, 9)
    say(hostile, connection, frame)
    assert connection.closed is None or connection.closed.code != VIOLATION


@EACH
def test_a_stranger_may_send_so_much_and_no_more(kind):
    hostile, connection = a_victim(kind)
    connection.limit_received(5_000)
    assert say(hostile, connection, stream_frame(0, 0, bytes(1_000))) is None
    for _ in range(limits.STRANGER_DATAGRAMS_BYTES_MAX // 1_000):
        connection.receive_untrusted(b"\x40" + bytes(999), 1_200, NEAR, hostile.now)
    assert connection.closed is None
    connection.receive_untrusted(b"\x40" + bytes(999), 1_200, NEAR, hostile.now)
    assert connection.closed is not None
    assert connection.closed.code == VIOLATION
    hostile, talker = a_victim(kind)
    talker.limit_received(5_000)
    assert say(hostile, talker, stream_frame(0, 0, bytes(1_200))) is None
    for at in range(1_200, 6_000, 1_200):
        say(hostile, talker, stream_frame(0, at, bytes(1_200)))
    assert talker.closed is not None
    _, friend = a_victim(kind)
    friend.limit_received(5_000)
    friend.limit_received(None)
    friend.receive_untrusted(b"\x40" + bytes(1_000_000), 1_200, NEAR, hostile.now)
    assert friend.closed is None


@EACH
def test_after_the_end_nothing_opens(kind):
    async def main():
        async with a_pair(kind) as pair:
            near, _ = await streams(pair)
            async with trio.open_nursery() as nursery:

                async def refused(call):
                    with pytest.raises(LinkClosed, match="good night"):
                        await call()

                nursery.start_soon(refused, pair.far.accept_stream)
                pair.near.close(0x123, "good night")
            assert pair.far.closed == Closed(0x123, "good night")
            assert pair.near.closed == Closed(0x123, "good night")
            assert pair.near.over.is_set()
            await refused(pair.far.open_stream)
            await refused(pair.near.open_stream)
            await refused(pair.near.accept_stream)
            pair.near.close(1, "again")
            assert pair.near.closed.code == 0x123
            with pytest.raises(trio.BrokenResourceError):
                await near.send_all(b"x")

    in_virtual_time(main)


@EACH
def test_who_waits_for_room_hears_of_the_end(kind):
    async def main():
        async with a_pair(kind) as pair:
            kept = [await streams(pair) for _ in range(limits.STREAMS_MAX)]
            async with trio.open_nursery() as nursery:

                async def refused():
                    with pytest.raises(LinkClosed):
                        await pair.near.open_stream()

                nursery.start_soon(refused)
                nursery.start_soon(refused)
                await trio.testing.wait_all_tasks_blocked()
                pair.far.close()
            assert kept

    in_virtual_time(main)
