"""Peers that do not play by the rules of a link: each is bounded, none harms anybody else."""

import logging

import pytest
import trio

from core import codec, limits
from mesh import frames
from mesh.frames import FrameType
from mesh.quic.engine import Kind
from tests.support.linking import by_hand, gone, in_virtual_time
from tests.support.meeting import Hand

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
BIG = bytes(250_000)  # as much as fits a frame, and some room


@EACH
@pytest.mark.parametrize(
    "data",
    [
        frames.encode(FrameType.REQUEST, 1, "echo"),
        frames.encode(FrameType.REQUEST, -1, "echo", ()),
        frames.encode(FrameType.REQUEST, 1, "\x1b[0m", ()),
        frames.encode(FrameType.REQUEST, 1, "x" * 65, ()),
        frames.encode(FrameType.REQUEST, 1, "echo", 5),
        frames.encode(FrameType.ANSWER, 1, "text"),
        frames.encode(FrameType.FAILURE, 1, ()),
        frames.encode(FrameType.NOTICE, b"name", ()),
        frames.encode(FrameType.PING, 1),
        frames.encode(FrameType.PONG, "yes"),
        frames.encode_raw(FrameType.PING, b"\x93\xc1"),
        bytes([0, 0, 0, 3, 0x14, 1, 0x90]),
        bytes([0, 0, 0, 0]),
        (limits.LINK_FRAME_BYTES_MAX + 1).to_bytes(4),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_who_sends_what_is_not_understood_is_cut_off(caplog, kind, data):
    async def main():
        async with by_hand(kind) as (hand, bob, link):
            await hand.control.send_all(data)
            with trio.fail_after(1):
                await hand.connection.over.wait()
            assert hand.connection.closed.reason == link.word == "malformed"
            await gone(bob)

    in_virtual_time(main)
    assert [r.levelno for r in caplog.records if "cut off" in r.getMessage()] == [logging.WARNING]


@EACH
def test_what_a_newer_version_may_say_is_skipped(kind):
    async def main():
        async with by_hand(kind) as (hand, _, _link):
            for unknown in (0x00, 0x05, 0x16, 0x7F, 0xFF):
                await hand.say(unknown, b"\xc1 anything at all")
            await hand.say(FrameType.HELLO, b"once is enough")
            await hand.say(FrameType.ANSWER, codec.encode([99, []]))
            await hand.say(FrameType.FAILURE, codec.encode([99, "nobody asked"]))
            await hand.say(FrameType.REQUEST, codec.encode([5, "echo", [1]]))
            assert (await hand.hear()).row_untrusted(2) == (5, (1,))

    in_virtual_time(main)


@EACH
def test_who_ends_the_control_stream_ends_the_link(kind):
    async def main():
        for how in (Hand.__name__, "eof", "close"):
            async with by_hand(kind) as (hand, bob, link):
                if how == "eof":
                    await hand.control.send_eof()
                elif how == "close":
                    await trio.aclose_forcefully(hand.control)
                else:
                    hand.connection.close(7, "b\x1bye" * 100)
                with trio.fail_after(1):
                    await gone(bob)
                assert link.word
                assert link.word.isprintable()

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_who_never_reads_fills_one_window_and_is_given_up(kind):
    async def main():
        async with by_hand(kind) as (hand, bob, link):

            async def ask():
                number = 0
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        number += 1
                        await hand.say(FrameType.REQUEST, codec.encode([number, "echo", [BIG]]))

            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                with trio.fail_after(limits.LINK_SILENCE_SECONDS + limits.LINK_TRUST_SECONDS + 5):
                    await link.over.wait()
            assert link.word == "silent"
            assert trio.current_time() - began > limits.LINK_SILENCE_SECONDS
            await gone(bob)

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_while_a_peer_does_not_read_callers_can_still_leave(kind):
    async def main():
        async with by_hand(kind) as (hand, bob, link):
            told = 0
            for _ in range(20):
                with trio.move_on_after(0.1) as patience:
                    await link.notify("news", BIG)
                    told += 1
                await hand.say(FrameType.NOTICE, codec.encode(["still here", []]))
            assert patience.cancelled_caught
            assert told == limits.STREAM_WINDOW_BYTES // len(BIG)
            for _ in range(told):  # what was cancelled has not left half a frame
                frame = await hand.hear()
                assert frame.row_untrusted(2) == ("news", (BIG,))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.notify, "news", b"whole")
                assert (await hand.hear()).row_untrusted(2) == ("news", (b"whole",))
            assert bob.links.all() == [link]

    in_virtual_time(main)


@EACH
def test_many_pings_are_answered_by_few_pongs(kind):
    async def main():
        async with by_hand(kind) as (hand, _, link):
            link.wanted = True
            for _ in range(1_000):
                await hand.say(FrameType.PING, codec.encode([False]))
            await hand.say(FrameType.REQUEST, codec.encode([1, "echo", []]))
            pongs = 0
            while (frame := await hand.hear()).kind == FrameType.PONG:
                assert frame.row_untrusted(1) == (True,)
                pongs += 1
            assert 1 <= pongs <= 1_000
            assert not link._owes_pong

    in_virtual_time(main)
