"""Two replicas become equal: what each says, and what it answers.

    HELLO    heads (<= 8), hash of the vector, epoch                    (mesh/hello.py, `News`)
    TELL     [1, 1, news]                                               after something changed
    WANT     [1, 2, vector[[author, seq, id]...]]                       the ends of all chains held
    WANT ALL [1, 3, ids (bin, 7 bytes each)]                            every operation held
    OPS      [1, 4, flag, operations[bin...], news | nil]               flag: 0 pushed, 1 answer,
                                                                        2 end of the answer
    news     [heads[...], hash of the vector, epoch]

Whoever does not know the heads another has asks; whoever knows them all and has more, tells. The
operations of an answer come after those they hang on, in frames of bounded size. If heads are
still unknown at its end, somebody has forked their chain, and the next question names every
operation. What is new is pushed at once to every link; whoever missed it sees unknown heads in
the next HELLO or TELL. A question that brought nothing is not asked again until the news change.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from core import codec, limits
from core.errors import FormatError
from core.ids import NodeId
from mesh.hello import News
from mesh.members.membership import Changes, Membership
from mesh.members.opset import SHORT_ID_BYTES, Tip

_VERSION = 1
_FRAME_BYTES_MAX = limits.LINK_FRAME_BYTES_MAX
_VECTOR_TIPS_MAX = 3_000  # in one frame; instead of a larger vector, all operations are named
_OPS_MAX = 8_192  # in one frame
_BYTES_AROUND_OP = 5


class Message(IntEnum):
    """What the peers of an exchange say."""

    TELL = 1
    WANT = 2
    WANT_ALL = 3
    OPS = 4


class Flag(IntEnum):
    """Why operations come."""

    PUSHED = 0
    ANSWER = 1
    END = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What to do after a message: frames to send back, and what changed here."""

    frames: tuple[bytes, ...] = ()
    changes: Changes = field(default_factory=Changes)


class Exchange:
    """One peer's side of staying equal; lives as long as the link."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self.is_level = False  # all that the peer knew when it spoke last is known here
        self._asked: Message | None = None
        self._in_vain = b""  # the hash of a peer that had nothing for us after all

    def on_news(self, news: News) -> tuple[bytes, ...]:
        """What to send to a peer that said this of itself."""
        ops = self._membership.set
        self.is_level = news.vector in {ops.vector_hash(), self._in_vain} or self._knows_all(news)
        if news.vector == ops.vector_hash():
            return ()
        if self._knows_all(news):
            return (tell_frame(self._membership),)
        if self._asked is not None or news.vector == self._in_vain:
            return ()
        vector = ops.vector()
        if len(vector) > _VECTOR_TIPS_MAX:
            return (self._ask_all(),)
        self._asked = Message.WANT
        return (codec.encode([_VERSION, int(Message.WANT), vector]),)

    def on_frame_untrusted(self, data: bytes) -> Answer:
        """Answer one message of the peer."""
        row = codec.decode_untrusted(data, bytes_max=_FRAME_BYTES_MAX)
        if len(row) < 3 or row[0] != _VERSION:
            raise FormatError("not a message about members")
        ops = self._membership.set
        if row[1] == Message.TELL:
            return Answer(self.on_news(_news_untrusted(codec.as_row(row, 3, "news")[2])))
        if row[1] == Message.WANT:
            vector = _vector_untrusted(codec.as_row(row, 3, "a question")[2])
            return self._answer(op.data for op in ops.missing_from(vector))
        if row[1] == Message.WANT_ALL:
            ids = _ids_untrusted(codec.as_row(row, 3, "a question")[2])
            return self._answer(op.data for op in ops.missing_from_ids(ids))
        if row[1] == Message.OPS:
            return self._take_untrusted(codec.as_row(row, 5, "operations"))
        raise FormatError("not a message about members")

    def _knows_all(self, news: News) -> bool:
        complete = len(news.heads) < limits.HELLO_HEADS_MAX
        return complete and all(head in self._membership.set for head in news.heads)

    def _ask_all(self) -> bytes:
        self._asked = Message.WANT_ALL
        ids = sorted(op.id[:SHORT_ID_BYTES] for op in self._membership.set.ops)
        return codec.encode([_VERSION, int(Message.WANT_ALL), b"".join(ids)])

    def _answer(self, operations: Iterable[bytes]) -> Answer:
        frames = list(_frames(operations))
        last = frames.pop() if frames else []
        news = self._membership.news()
        sent = [_ops_frame(Flag.ANSWER, frame, None) for frame in frames]
        return Answer((*sent, _ops_frame(Flag.END, last, news)))

    def _take_untrusted(self, row: codec.Row) -> Answer:
        flag = codec.as_uint(row[2], 8, "why operations come")
        if flag > max(Flag):
            raise FormatError("operations come for no reason that exists")
        if flag != Flag.PUSHED and self._asked is None:
            raise FormatError("an answer to no question")
        found = codec.as_rows(row[3], _OPS_MAX, "the operations")
        operations = [codec.as_bytes(op, "it", size_max=_FRAME_BYTES_MAX) for op in found]
        changes = self._membership.receive_untrusted(operations)
        if flag != Flag.END:
            return Answer((), changes)
        return Answer(self._at_end(_news_untrusted(row[4])), changes)

    def _at_end(self, news: News) -> tuple[bytes, ...]:
        asked, self._asked = self._asked, None
        self.is_level = True
        if news.vector == self._membership.set.vector_hash():
            return ()
        if self._knows_all(news):
            return (tell_frame(self._membership),)
        if asked == Message.WANT:
            self.is_level = False
            return (self._ask_all(),)
        self._in_vain = news.vector
        return (tell_frame(self._membership),)


def tell_frame(membership: Membership) -> bytes:
    """The news, for a link that is open already."""
    return codec.encode([_VERSION, int(Message.TELL), membership.news()])


def push_frames(changes: Changes) -> list[bytes]:
    """What to send to every link but the one it came by."""
    data = (operation.data for operation in changes.added)
    return [_ops_frame(Flag.PUSHED, frame, None) for frame in _frames(data)]


def _ops_frame(flag: Flag, operations: list[bytes], news: News | None) -> bytes:
    return codec.encode([_VERSION, int(Message.OPS), int(flag), operations, news])


def _frames(operations: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Operations in the order given, as many at once as a frame takes."""
    frame: list[bytes] = []
    size = 0
    for data in operations:
        size += len(data) + _BYTES_AROUND_OP
        if frame and (size > limits.OPERATIONS_FRAME_BYTES_MAX or len(frame) == _OPS_MAX):
            yield frame
            frame, size = [], len(data) + _BYTES_AROUND_OP
        frame.append(data)
    if frame:
        yield frame


def _news_untrusted(value: object) -> News:
    heads, vector, epoch = codec.as_row(value, 3, "the news")
    size = limits.HASH_BYTES
    return News(
        tuple(
            codec.as_bytes(head, "a head", size=size)
            for head in codec.as_rows(heads, limits.HELLO_HEADS_MAX, "the heads")
        ),
        codec.as_bytes(vector, "the vector", size=size),
        codec.as_uint(epoch, 64, "the epoch"),
    )


def _vector_untrusted(value: object) -> list[Tip]:
    found = []
    for tip in codec.as_rows(value, _VECTOR_TIPS_MAX, "the vector"):
        author, seq, op_id = codec.as_row(tip, 3, "the end of a chain")
        op_id = codec.as_bytes(op_id, "an operation", size=limits.HASH_BYTES)
        found.append((NodeId.read_untrusted(author), codec.as_uint(seq, 32, "a number"), op_id))
    return found


def _ids_untrusted(value: object) -> set[bytes]:
    data = codec.as_bytes(value, "the ids", size_max=_FRAME_BYTES_MAX)
    if len(data) % SHORT_ID_BYTES:
        raise FormatError("the ids are cut short")
    return {data[i : i + SHORT_ID_BYTES] for i in range(0, len(data), SHORT_ID_BYTES)}
