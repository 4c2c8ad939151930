"""A link in both engines: requests, notices, streams, and whether anybody is there."""

import logging
from contextlib import suppress

import pytest
import trio
from trio.testing import memory_stream_pair

from core import codec, limits
from core.errors import FormatError, IntegrityError, PortalError
from mesh import frames
from mesh.errors import LinkClosed
from mesh.frames import FrameType
from mesh.link import Link, PeerFailed, Services
from mesh.quic.engine import Kind
from tests.support.linking import by_hand, gone, in_virtual_time, linked
from tests.support.meeting import count_bytes, echo, let_time_pass

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
BIG = bytes(250_000)  # as much as fits a frame, and some room


# --- requests -------------------------------------------------------------------------------------


@EACH
def test_answers_find_their_questions_in_any_order(kind):
    turns = [trio.Event() for _ in range(10)]

    async def wait(_link, arguments):
        await turns[arguments[0]].wait()
        return arguments

    async def main():
        answers = []
        async with linked(kind, Services({"wait": wait})) as scene, trio.open_nursery() as nursery:

            async def ask(number):
                assert await scene.link.request("wait", number) == (number,)
                answers.append(number)
                if number:
                    turns[number - 1].set()

            for number in range(10):
                nursery.start_soon(ask, number)
            turns[9].set()
        assert answers == list(range(10))[::-1]

    in_virtual_time(main)


@EACH
def test_both_sides_ask(kind):
    async def main():
        async with linked(kind) as scene:
            for link in (scene.link, scene.there):
                assert await link.request("echo", 1, b"x", "y", (True, None)) == (
                    *(1, b"x", "y", (True, None)),
                )
                assert await link.request("echo") == ()

    in_virtual_time(main)


@EACH
def test_a_question_nobody_waits_for_any_more_harms_nobody(kind):
    let = trio.Event()

    async def slow(_link, _arguments):
        await let.wait()
        return ("late",)

    async def main():
        async with linked(kind, Services({"slow": slow, "echo": echo})) as scene:
            with trio.move_on_after(1) as patience:
                await scene.link.request("slow")
            assert patience.cancelled_caught
            assert not scene.link._waiting
            let.set()
            assert await scene.link.request("echo", 2) == (2,)
            assert not scene.link.is_used

    in_virtual_time(main)


@EACH
def test_what_nobody_serves_is_unknown(kind):
    async def main():
        async with linked(kind) as scene:
            with pytest.raises(PeerFailed, match="unknown"):
                await scene.link.request("nonsense")
            assert await scene.link.request("echo", 1) == (1,)

    in_virtual_time(main)


def failing(error):
    async def fail(_link, _arguments):
        await trio.lowlevel.checkpoint()
        raise error

    return fail


@EACH
@pytest.mark.parametrize(
    ("error", "word", "level"),
    [
        (PeerFailed("not today"), "not today", None),
        (FormatError("no such field"), "malformed", logging.WARNING),
        (IntegrityError(), "failed", logging.WARNING),
        (LinkClosed(), "failed", logging.WARNING),
        (OSError(28, "No space left"), "failed", logging.WARNING),
        (trio.BrokenResourceError(), "failed", logging.DEBUG),
        (trio.TooSlowError(), "failed", logging.DEBUG),
        (ExceptionGroup("two", [trio.ClosedResourceError(), PortalError()]), "failed", 30),
        (ExceptionGroup("one", [ExceptionGroup("in", [PeerFailed("no")])]), "no", None),
    ],
    ids=repr,
)
def test_a_service_that_fails_says_so_and_ends_nothing_else(caplog, kind, error, word, level):
    caplog.set_level(logging.DEBUG, "mesh.link")

    async def main():
        async with linked(kind, Services({"do": failing(error), "echo": echo})) as scene:
            with pytest.raises(PeerFailed) as told:
                await scene.link.request("do")
            assert told.value.word == word
            assert await scene.link.request("echo", 1) == (1,)

    in_virtual_time(main)
    levels = [r.levelno for r in caplog.records if "asked for do" in r.getMessage()]
    assert (max(levels) if levels else None) == level


@EACH
def test_an_answer_too_long_for_a_frame_is_our_failure_and_not_the_end(kind):
    async def much(_link, _arguments):
        await trio.lowlevel.checkpoint()
        return (bytes(limits.LINK_FRAME_BYTES_MAX),)

    async def main():
        async with linked(kind, Services({"much": much, "echo": echo})) as scene:
            with pytest.raises(PeerFailed, match="failed"):
                await scene.link.request("much")
            with pytest.raises(FormatError):
                await scene.link.request("echo", bytes(limits.LINK_FRAME_BYTES_MAX))
            assert await scene.link.request("echo", BIG) == (BIG,)

    in_virtual_time(main)


@EACH
def test_so_many_are_asked_at_once_and_the_rest_wait(kind):
    here, most = 0, 0
    full = trio.Event()

    async def meet(_link, _arguments):
        nonlocal here, most
        here += 1
        most = max(most, here)
        if here == limits.LINK_REQUESTS_MAX:
            full.set()
        await full.wait()
        here -= 1
        return ()

    async def main():
        async with linked(kind, Services({"meet": meet})) as scene, trio.open_nursery() as nursery:
            for _ in range(2 * limits.LINK_REQUESTS_MAX):
                nursery.start_soon(scene.link.request, "meet")
        assert most == limits.LINK_REQUESTS_MAX

    in_virtual_time(main)


@EACH
def test_who_asks_more_than_is_allowed_is_told_that_we_are_busy(kind):
    async def forever(_link, _arguments):
        await trio.sleep_forever()

    async def main():
        async with by_hand(kind, Services({"forever": forever})) as (hand, _, link):
            for number in range(limits.LINK_SERVED_MAX + 3):
                await hand.say(FrameType.REQUEST, codec.encode([number, "forever", []]))
            for number in range(limits.LINK_SERVED_MAX, limits.LINK_SERVED_MAX + 3):
                frame = await hand.hear()
                assert frame.kind == FrameType.FAILURE
                assert frame.row_untrusted(2) == (number, "busy")
            assert link._answering == limits.LINK_SERVED_MAX
            hand.connection.close()
            await link.over.wait()

    in_virtual_time(main)


@EACH
def test_streams_take_no_room_from_requests(kind):
    async def forever(_link, _arguments, _stream):
        await trio.sleep_forever()

    async def main():
        services = Services({"echo": echo}, {}, {"forever": forever})
        async with linked(kind, services) as scene, trio.open_nursery() as nursery:
            for _ in range(limits.STREAMS_MAX - 1):  # one is the control stream
                await scene.link.open_stream("forever")
            for number in range(limits.LINK_REQUESTS_MAX):
                nursery.start_soon(scene.link.request, "echo", number)

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_two_that_ask_each_other_much_do_not_wait_for_each_other(kind):
    async def main():
        async with linked(kind) as scene, trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + limits.LINK_SILENCE_SECONDS
            for link in (scene.link, scene.there):
                for _ in range(limits.LINK_REQUESTS_MAX):
                    nursery.start_soon(link.request, "echo", BIG)
        assert not nursery.cancel_scope.cancelled_caught

    in_virtual_time(main)


@EACH
def test_questions_under_way_end_with_the_link(kind):
    async def forever(_link, _arguments):
        await trio.sleep_forever()

    async def main():
        async with linked(kind, Services({"forever": forever})) as scene:
            async with trio.open_nursery() as nursery:

                async def ask():
                    with pytest.raises(LinkClosed):
                        await scene.link.request("forever")

                for _ in range(limits.LINK_REQUESTS_MAX + 5):
                    nursery.start_soon(ask)
                await let_time_pass(1)
                assert scene.there._answering == limits.LINK_SERVED_MAX
                scene.there.close("enough")
            assert scene.link.word == scene.there.word == "enough"
            await gone(scene.ann)
            await gone(scene.bob)
            scene.nothing_is_left()
            for try_it in (scene.link.request, scene.link.notify, scene.link.open_stream):
                with pytest.raises(LinkClosed):
                    await try_it("echo")

    in_virtual_time(main)


# --- notices --------------------------------------------------------------------------------------


@EACH
def test_notices_come_in_order_and_unknown_or_failing_ones_end_nothing(caplog, kind):
    heard = []

    async def note(_link, arguments):
        await trio.lowlevel.checkpoint()
        heard.append(arguments)

    async def main():
        notices = {"note": note, "fail": failing(IntegrityError()), "odd": failing(FormatError())}
        async with linked(kind, Services({"echo": echo}, notices)) as scene:
            for number in range(100):
                await scene.link.notify("note", number)
                await scene.link.notify("nobody cares")
            await scene.link.notify("fail")
            await scene.link.notify("odd")
            await scene.link.request("echo")  # it comes behind them

    in_virtual_time(main)
    assert heard == [(number,) for number in range(100)]
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert ["told fail" in line for line in told] == [True, False]


# --- streams --------------------------------------------------------------------------------------


@EACH
@pytest.mark.slow
def test_a_stream_is_served_by_its_kind(kind):
    async def main():
        async with linked(kind) as scene:
            stream = await scene.link.open_stream("count")
            await stream.send_all(bytes(3 * limits.STREAM_WINDOW_BYTES))
            await stream.send_eof()
            assert int.from_bytes(await stream.receive_some()) == 3 * limits.STREAM_WINDOW_BYTES
            assert await stream.receive_some() == b""
            await stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert not scene.link.is_used

    in_virtual_time(main)


@EACH
def test_a_stream_nobody_serves_is_given_back(caplog, kind):
    caplog.set_level(logging.INFO, "mesh.link")

    async def main():
        async with linked(kind) as scene:
            for _ in range(2 * limits.STREAMS_MAX):
                stream = await scene.link.open_stream("nonsense")
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
                await stream.aclose()
            assert await scene.link.request("echo", 1) == (1,)

    in_virtual_time(main)
    assert "nobody serves: nonsense" in caplog.text


@EACH
@pytest.mark.parametrize(
    "error",
    [
        *(PeerFailed("no"), FormatError(), IntegrityError(), OSError(5, "Input/output error")),
        *(trio.BrokenResourceError(), ExceptionGroup("one", [trio.BrokenResourceError()])),
    ],
    ids=repr,
)
def test_a_stream_whose_service_fails_does_not_look_complete(kind, error):
    async def half(_link, _arguments, stream):
        await stream.send_all(b"half of")
        raise error

    async def main():
        services = Services({"echo": echo}, {}, {"half": half})
        async with linked(kind, services) as scene:
            stream = await scene.link.open_stream("half")
            with pytest.raises(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
            await stream.aclose()
            assert await scene.link.request("echo", 1) == (1,)

    in_virtual_time(main)


@EACH
@pytest.mark.parametrize(
    "opening",
    [b"", b"\0\0", frames.encode(FrameType.NOTICE, "count", ()), (9_999).to_bytes(4), b"GET / HT"],
    ids=["nothing", "half", "other", "long", "garbage"],
)
def test_a_stream_that_does_not_say_what_it_is_for_is_closed(kind, opening):
    async def main():
        async with by_hand(kind) as (hand, _, link):
            stream = await hand.connection.open_stream()
            later = await hand.connection.open_stream()  # so that the first one exists
            await later.send_all(frames.encode(FrameType.OPEN, "count", ()))
            await stream.send_all(opening)
            await let_time_pass(limits.HANDSHAKE_SECONDS + 1)
            assert link.connection.streams_open == 2  # the control stream and the later one
            if opening:  # of a stream without a byte the engine may not know yet
                with trio.fail_after(1), pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            await later.send_eof()
            assert await later.receive_some() == bytes(8)
            assert not link.over.is_set()

    in_virtual_time(main)


@EACH
def test_what_is_served_ends_with_the_link(kind):
    started, ended = [], []

    async def until_the_end(_link, _arguments, *_stream):
        started.append(1)
        try:
            await trio.sleep_forever()
        finally:
            ended.append(1)

    async def main():
        services = Services({"wait": until_the_end}, {}, {"wait": until_the_end})
        async with linked(kind, services) as scene, trio.open_nursery() as nursery:

            async def ask():
                with pytest.raises(LinkClosed):
                    await scene.link.request("wait")

            for _ in range(5):
                nursery.start_soon(ask)
                await scene.link.open_stream("wait")
            await let_time_pass(1)
            assert len(started) == 10
            assert scene.there.is_used
            scene.link.close("over")
            await gone(scene.bob)
            await gone(scene.ann)
            assert len(ended) == 10
            scene.nothing_is_left()

    in_virtual_time(main)


@EACH
def test_a_stream_whose_opening_was_cancelled_leaves_nothing_behind(kind):
    async def main():
        async with linked(kind) as scene:
            with trio.CancelScope() as scope:
                scope.cancel()
                await scene.link.open_stream("count")
            send_all = type(scene.link._control).send_all

            async def stuck(*_):
                await trio.sleep_forever()

            with trio.move_on_after(1), pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(scene.link._control), "send_all", stuck)
                await scene.link.open_stream("count")
            assert type(scene.link._control).send_all is send_all
            assert not scene.link.is_used
            assert scene.link.connection._ours == 1  # the control stream

    in_virtual_time(main)


# --- whether it is there, and whether anybody wants it --------------------------------------------


@EACH
def test_a_silent_peer_is_given_up_in_bounded_time(kind):
    async def main():
        async with linked(kind) as scene:
            scene.link.wanted = True
            scene.net.hook = lambda *_: []
            began = trio.current_time()
            took = await gone(scene.ann) - began
            assert scene.link.word == "silent"
            bound = limits.LINK_REST_SECONDS + limits.LINK_TRUST_SECONDS
            assert bound <= 32
            assert limits.LINK_TRUST_SECONDS < took <= bound + 0.1

    in_virtual_time(main)


@EACH
def test_asked_at_once_it_is_given_up_sooner(kind):
    async def main():
        async with linked(kind) as scene:
            scene.link.wanted = True
            scene.net.hook = lambda *_: []
            began = trio.current_time()
            scene.link.ask()
            took = await gone(scene.ann) - began
            assert scene.link.word == "silent"
            assert took == pytest.approx(limits.LINK_TRUST_SECONDS)

    in_virtual_time(main)


@EACH
def test_a_peer_that_never_writes_is_given_up(kind):
    async def main():
        async with by_hand(kind) as (hand, bob, link):
            asked = []

            async def hear():
                with pytest.raises(trio.BrokenResourceError):
                    while frame := await hand.hear():
                        asked.append(frame.kind)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear)
                await gone(bob)
            assert link.word == "silent"
            assert set(asked) == {FrameType.PING}
            assert 1 < len(asked) < 10  # asked more than once, as the first may get lost

    in_virtual_time(main)


@EACH
def test_a_link_nobody_wants_is_closed_after_a_while_and_not_before(kind):
    async def main():
        async with linked(kind) as scene:
            await scene.link.request("echo")
            began = trio.current_time()
            took = await gone(scene.ann) - began
            assert scene.link.word == scene.there.word == "unused"
            late = limits.LINK_UNUSED_SECONDS + 2 * limits.LINK_SILENCE_SECONDS
            assert limits.LINK_UNUSED_SECONDS < took <= late
            await gone(scene.bob)
            scene.nothing_is_left()

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_it_is_kept_while_one_side_wants_it_and_let_go_when_none_does(kind):
    async def main():
        for who in ("link", "there"):
            async with linked(kind) as scene:
                wanting: Link = getattr(scene, who)
                wanting.wanted = True
                with trio.move_on_after(10 * limits.LINK_UNUSED_SECONDS) as patience:
                    await scene.link.over.wait()
                assert patience.cancelled_caught
                wanting.wanted = False
                with trio.fail_after(2 * limits.LINK_UNUSED_SECONDS):
                    await scene.link.over.wait()
                assert scene.link.word == "unused"

    in_virtual_time(main)


@EACH
@pytest.mark.slow
def test_use_keeps_it_and_rest_counts_from_the_last_use(kind):
    async def main():
        async with linked(kind, Services({"echo": echo}, {}, {"count": count_bytes})) as scene:
            stream = await scene.link.open_stream("count")
            with trio.move_on_after(3 * limits.LINK_UNUSED_SECONDS) as patience:
                await scene.link.over.wait()
            assert patience.cancelled_caught  # an open stream is use
            await stream.send_eof()
            assert await stream.receive_some() == bytes(8)
            await stream.aclose()
            for _ in range(50):  # never silent for long, each use over at once
                await scene.link.request("echo")
                with trio.move_on_after(limits.LINK_SILENCE_SECONDS / 2):
                    await scene.link.over.wait()
            rested = trio.current_time()
            await scene.link.over.wait()
            assert trio.current_time() - rested > limits.LINK_UNUSED_SECONDS / 2

    in_virtual_time(main)


@EACH
@pytest.mark.parametrize("wanted", [True, False])
def test_a_peer_that_is_asked_says_whether_it_wants_the_link(kind, wanted):
    async def main():
        async with by_hand(kind) as (hand, _, link), trio.open_nursery() as nursery:

            async def answer():
                with suppress(trio.BrokenResourceError):
                    while frame := await hand.hear():
                        assert frame.kind == FrameType.PING
                        await hand.say(FrameType.PONG, codec.encode([wanted]))

            nursery.start_soon(answer)
            await let_time_pass(5 * limits.LINK_UNUSED_SECONDS)
            assert link.over.is_set() is not wanted
            hand.connection.close()

    in_virtual_time(main)


@EACH
def test_a_lane_beside_the_link_keeps_it(kind):
    async def main():
        async with linked(kind) as scene, trio.open_nursery() as nursery:
            near, far = memory_stream_pair()
            nursery.start_soon(scene.there.serve_stream, "count", (), far)
            with trio.move_on_after(5 * limits.LINK_UNUSED_SECONDS) as patience:
                await scene.link.over.wait()
            assert patience.cancelled_caught
            await near.send_all(b"four")
            await near.send_eof()
            assert int.from_bytes(await near.receive_some()) == 4
            with trio.fail_after(2 * limits.LINK_UNUSED_SECONDS):
                await scene.link.over.wait()

    in_virtual_time(main)


@EACH
def test_who_closes_says_why(kind):
    async def main():
        async with linked(kind) as scene:
            scene.link.close("going for a walk")
            await gone(scene.bob)
            assert scene.link.word == scene.there.word == "going for a walk"
            scene.link.close("again")
            assert scene.link.word == "going for a walk"
            await gone(scene.ann)
            scene.nothing_is_left()

    in_virtual_time(main)
