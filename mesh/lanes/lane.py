"""A lane as its users see it, and what each kind of lane brings.

A lane is a trio stream that can be closed in one direction, the same for all kinds. It ends with
its link: `cut` closes it at once, without a word to the peer, and whoever is using it then gets a
trio.BrokenResourceError, as if the network had failed.

The end of a stream says that the peer has finished, not that all of a transfer has come: what is
spoken over lanes says itself where things end.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, NamedTuple, TypeVar

import trio

from core import limits
from mesh.lanes.offer import Kind, Way
from mesh.wire import Address

Buffer = bytes | bytearray | memoryview
Accepted = TypeVar("Accepted", bound=trio.abc.Stream)


class Raw(NamedTuple):
    """A stream, how to end it at once, and what one read of it fetches (None: as it comes)."""

    stream: trio.abc.HalfCloseableStream
    cut: Callable[[], None]
    read_bytes: int | None = None


class Door(ABC, Generic[Accepted]):
    """Where lanes of one kind come in."""

    kind: Kind

    @abstractmethod
    def listening(self) -> AbstractContextManager[Sequence[trio.abc.Listener[Accepted]]]:
        """Listen while the block runs; OSError or PortalError if that cannot be."""

    @abstractmethod
    def ways(self, addresses: Sequence[Address]) -> Sequence[Way]:
        """How a peer gets here, if ours are `addresses`."""

    @abstractmethod
    def source(self, stream: Accepted) -> str | None:
        """Whom they are counted as; None: as ours. NotTrusted if they may not even speak."""

    @abstractmethod
    async def secure(self, stream: Accepted) -> Raw:
        """What the lane runs over; trio.BrokenResourceError if they speak something else."""


class Held:
    """What ends with each link."""

    def __init__(self) -> None:
        self._cuts: dict[Hashable, dict[object, Callable[[], None]]] = {}

    def add(self, link: Hashable, cut: Callable[[], None]) -> Callable[[], None]:
        """Call `cut` when the link ends, unless what is returned was called before."""
        key = object()
        self._cuts.setdefault(link, {})[key] = cut

        def forget() -> None:
            cuts = self._cuts.get(link, {})
            if cuts.pop(key, None) and not cuts:
                del self._cuts[link]

        return forget

    def drop(self, link: Hashable) -> None:
        """The link has ended."""
        for cut in self._cuts.pop(link, {}).values():
            cut()

    def drop_all(self) -> None:
        """All links have."""
        for link in list(self._cuts):
            self.drop(link)

    def __len__(self) -> int:
        return sum(map(len, self._cuts.values()))


class Lane(trio.abc.HalfCloseableStream):
    """Bytes both ways between two nodes, until its link ends."""

    def __init__(self, lane_id: bytes, kind: Kind, raw: Raw) -> None:
        self.lane_id = lane_id
        self.kind = kind
        self._raw = raw
        self._was_cut = False
        self._forget: Callable[[], None] = _nothing
        self._ended = trio.Event()

    def hold(self, held: Held, link: Hashable) -> None:
        """End with this link."""
        self._forget = held.add(link, self.cut)

    def cut(self) -> None:
        """End at once."""
        self._was_cut = True
        self._over()
        self._raw.cut()

    async def send_all(self, data: Buffer) -> None:
        """Give all of it to the lane; the peer's not reading is waited for."""
        with self._blamed():
            await self._raw.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        with self._blamed():
            await self._raw.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Nothing more comes from here; what the peer sends can still be read."""
        with self._blamed():
            await self._raw.stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """What has come, at most so much; nothing when the peer has finished."""
        with self._blamed():
            size = self._raw.read_bytes if max_bytes is None else max_bytes
            return await self._raw.stream.receive_some(size)

    async def aclose(self) -> None:
        """Say goodbye if the peer listens, and end."""
        try:
            await self._raw.stream.aclose()
        finally:
            self._over()

    async def ended(self) -> None:
        """Wait until it is closed or cut on this side."""
        await self._ended.wait()

    def _over(self) -> None:
        self._forget()
        self._ended.set()

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Who closed it: the user, who should know, or the end of the link."""
        try:
            yield
        except trio.ClosedResourceError:
            if self._was_cut:
                raise trio.BrokenResourceError("the link of this lane has ended") from None
            raise

    def __repr__(self) -> str:
        return f"<{self.kind.word} lane {self.lane_id.hex()[:8]}>"


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """So many bytes and none behind them."""
    data = b""
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        if not part:
            raise trio.BrokenResourceError("it ended too early")
        data += part
    return data


def socket_raw(stream: trio.SocketStream) -> Raw:
    """A socket as it is."""
    return Raw(stream, stream.socket.close, limits.LANE_BATCH_BYTES)


def _nothing() -> None:
    pass
