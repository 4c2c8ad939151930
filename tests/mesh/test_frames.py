"""Frames: what is taken, what is not, and that no peer makes us hold more than one."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_one_way_pair

from core import codec, limits
from core.errors import FormatError, LimitExceeded
from mesh import frames
from mesh.frames import Frame, FrameType
from mesh.link import read_frame

BYTES_MAX = 1_000


def read(data: bytes, bytes_max: int = BYTES_MAX) -> list[Frame]:
    """All frames in these bytes, as a stream brings them."""

    async def main():
        send, receive = memory_stream_one_way_pair()
        await send.send_all(data)
        await send.send_eof() if hasattr(send, "send_eof") else await send.aclose()
        found = []
        while (frame := await read_frame(receive, bytes_max)) is not None:
            found.append(frame)
        return found

    return trio.run(main)


def test_a_frame_has_these_bytes_and_no_others():
    data = frames.encode(FrameType.REQUEST, 7, "ops.want", (b"x",))
    body = codec.encode([7, "ops.want", [b"x"]])
    assert data == (2 + len(body)).to_bytes(4) + b"\x10\x00" + body
    assert read(data) == [Frame(FrameType.REQUEST, body)]
    assert read(data)[0].row_untrusted(3) == (7, "ops.want", (b"x",))


def test_the_types_keep_their_numbers():
    assert {kind.name: int(kind) for kind in FrameType} == {
        "HELLO": 0x01,
        "REFUSED": 0x02,
        "OPEN": 0x03,
        "PAIR": 0x04,
        "REQUEST": 0x10,
        "ANSWER": 0x11,
        "FAILURE": 0x12,
        "NOTICE": 0x13,
        "PING": 0x14,
        "PONG": 0x15,
    }


def test_frames_follow_each_other_and_the_end_is_no_fault():
    data = frames.encode(FrameType.PING, True) + frames.encode(FrameType.NOTICE, "a", ())
    assert [frame.kind for frame in read(data)] == [FrameType.PING, FrameType.NOTICE]
    assert read(b"") == []


@given(st.integers(min_value=1, max_value=200))
def test_a_frame_that_is_cut_short_is_a_fault(cut):
    data = frames.encode(FrameType.NOTICE, "name", (bytes(180),))
    with pytest.raises(FormatError, match=r"middle of a frame|without"):
        read(data[: cut % (len(data) - 1) + 1])


def test_a_length_with_nothing_behind_it_is_a_fault():
    with pytest.raises(FormatError):
        read(bytes([0, 0, 0, 5]))


@pytest.mark.parametrize("length", [0, 1])
def test_a_frame_has_a_type_and_flags(length):
    with pytest.raises(FormatError, match="without a type"):
        frames.length_untrusted(length.to_bytes(4), BYTES_MAX)
    with pytest.raises(FormatError, match="without a type"):
        frames.read_untrusted(bytes(length))


@pytest.mark.parametrize("length", [BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_length_above_the_limit_is_refused_before_anything_is_read(length):
    class Greedy(trio.abc.ReceiveStream):
        asked = 0

        async def receive_some(self, max_bytes=None):
            await trio.lowlevel.checkpoint()
            Greedy.asked += max_bytes
            return length.to_bytes(4)

        async def aclose(self):
            pass

    with pytest.raises(LimitExceeded):
        trio.run(read_frame, Greedy(), BYTES_MAX)
    assert Greedy.asked == 4


def test_the_largest_frame_passes_and_no_larger_one_is_made():
    overhead = len(frames.encode(FrameType.ANSWER, 1, (bytes(65_536),))) - 4 - 65_536
    largest = frames.encode(FrameType.ANSWER, 1, (bytes(limits.LINK_FRAME_BYTES_MAX - overhead),))
    assert len(largest) == 4 + limits.LINK_FRAME_BYTES_MAX
    assert read(largest, limits.LINK_FRAME_BYTES_MAX)[0].row_untrusted(2)[0] == 1
    with pytest.raises(LimitExceeded):
        frames.encode(FrameType.ANSWER, 1, (bytes(limits.LINK_FRAME_BYTES_MAX - overhead + 1),))


@pytest.mark.parametrize("flags", [1, 0x80, 0xFF])
def test_flags_nobody_knows_are_refused(flags):
    data = bytearray(frames.encode(FrameType.PING, True))
    data[5] = flags
    with pytest.raises(FormatError, match="flags"):
        read(bytes(data))


def test_types_nobody_knows_are_handed_on_for_the_reader_to_skip():
    assert read(frames.encode(99, "news from tomorrow"))[0].kind == 99  # type: ignore[arg-type]


@given(st.binary(max_size=80))
def test_whatever_comes_is_a_frame_or_a_fault(data):
    try:
        for frame in read(data):
            frame.row_untrusted(2)
    except FormatError:
        pass


@given(st.binary(max_size=40), st.integers(0, 5))
def test_a_body_that_is_no_array_of_that_many_fields_is_refused(body, fields):
    frame = Frame(FrameType.NOTICE, body)
    try:
        row = frame.row_untrusted(fields)
    except FormatError:
        return
    assert codec.encode(row) == body
    assert len(row) == fields
