"""AUTH on a connection: who dialled says who it is, who was dialled answers or refuses.

    dialler   --- HELLO ---->   responder     the first frame on the first stream, each way;
              <-- HELLO ----                  the stream is the link's control stream from then on
              <-- REFUSED --                  instead: a word, and the connection ends

mesh/hello.py decides; this moves the bytes, in bounded time and memory. What goes wrong at the
dialler is one of two errors: Unreachable (try again, or elsewhere) or NotTrusted (do not).
"""

from contextlib import suppress

import trio

from core import codec, limits
from core.errors import FormatError
from mesh import frames
from mesh.errors import LinkClosed, LinkError, NotTrusted, TurnedAway, Unreachable
from mesh.frames import FrameType
from mesh.hello import Initiator, Peer, Refused, Responder, Said
from mesh.link import read_frame
from mesh.quic.connection import Connection
from mesh.quic.endpoint import ALPN_LINK
from mesh.quic.stream import QuicStream

TRANSPORT = f"quic {ALPN_LINK}"
STRANGER = "refused"  # all that is told to who has not proved to be a member
_WORD_BYTES_MAX = 64
_FRAME_BYTES_MAX = limits.HELLO_BYTES_MAX + 2
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel, LinkClosed)


async def introduce(
    connection: Connection, asked: Initiator, said: Said, now_ms: int
) -> tuple[QuicStream, Peer]:
    """Say who we are, and learn that the peer is who was meant."""
    where = str(connection.peer)
    began = trio.current_time()
    try:
        hello = asked.hello_untrusted(connection.leaf, said, now_ms)
        with trio.fail_after(limits.HANDSHAKE_SECONDS):
            control = await connection.open_stream()
            await control.send_all(frames.encode_raw(FrameType.HELLO, hello))
            body = await _answer_untrusted(control)
        return control, asked.finish_untrusted(body, now_ms + _since_ms(began))
    except FormatError as e:
        raise NotTrusted(f"what answers does not speak as a node: {e.what}", where=where) from e
    except trio.TooSlowError as e:
        raise Unreachable("it does not answer to our HELLO", where=where) from e
    except _BROKEN as e:
        raise Unreachable("it closed the connection", where=where) from e


async def greet(
    connection: Connection, responder: Responder, said: Said, now_ms: int
) -> tuple[QuicStream, Peer]:
    """Learn who called, and answer; whoever may not connect is told as little as is fair."""
    began = trio.current_time()
    connection.limit_received(limits.STRANGER_BYTES_MAX)
    try:
        with trio.fail_after(limits.HANDSHAKE_SECONDS):
            control = await connection.accept_stream()
            try:
                body = await _hello_untrusted(control)
                now_ms += _since_ms(began)
                answer, peer = responder.answer_untrusted(body, TRANSPORT, lambda _: said, now_ms)
            except (Refused, FormatError) as e:
                told = e.reason.told if isinstance(e, Refused) else STRANGER
                with suppress(*_BROKEN):  # whoever does not listen is refused all the same
                    await control.send_all(frames.encode(FrameType.REFUSED, told))
                    await control.send_eof()
                raise
            connection.limit_received(None)
            await control.send_all(frames.encode_raw(FrameType.HELLO, answer))
            return control, peer
    except trio.TooSlowError as e:
        raise LinkError("it does not say who it is") from e
    except _BROKEN as e:
        raise LinkError("it went away before it said who it is") from e


async def _hello_untrusted(control: QuicStream) -> bytes:
    frame = await read_frame(control, _FRAME_BYTES_MAX)
    if frame is None or frame.kind != FrameType.HELLO:
        raise FormatError("it does not begin with a HELLO")
    return frame.body


async def _answer_untrusted(control: QuicStream) -> bytes:
    frame = await read_frame(control, _FRAME_BYTES_MAX)
    if frame is not None and frame.kind == FrameType.REFUSED:
        (word,) = frame.row_untrusted(1)
        word = codec.as_text(word, _WORD_BYTES_MAX, "the word")
        raise TurnedAway(word)
    if frame is None or frame.kind != FrameType.HELLO:
        raise FormatError("it does not answer with a HELLO")
    return frame.body


def _since_ms(began: float) -> int:
    return int((trio.current_time() - began) * 1000)
