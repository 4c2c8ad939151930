"""The data path in motion: chunks in, packs out, on every core. The only trio in core.

    put -> [compress, in threads] -> Packing -> [seal, in threads] -> deliver, one pack at a time

Every task lives in the nursery of `open_packer`. What is in flight is bounded in bytes: a chunk is
charged from `put` until the pack it went into is delivered, so a slow `deliver` slows the producer.
The order of packs and of chunks in them follows the order of `put` only roughly.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from core import limits
from core.buffers import is_looked_at
from core.compress import Mode
from core.flow import Flow, Stopped
from core.intake import Batches
from core.pack import Pack, PackKeys, PackWriter, Slot
from core.packing import Content, Packing
from core.pieces import Chunk
from core.process import cores
from core.seal import Frame, prepare

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
Deliver = Callable[[Pack], Awaitable[None]]

_FULL_BYTES = limits.PACK_SIZES_BYTES[-1]
# Packing may hold so much while it waits for more: a smaller budget would wait for itself.
_HELD_BYTES_MAX = _FULL_BYTES + limits.PACK_LOOKAHEAD_BYTES + limits.CHUNK_PLAIN_BYTES_MAX


class Budget:
    """Bytes in flight: `take` waits, first come first served, until there is room."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_used = 0
        self.bytes_used_peak = 0
        self._turn = trio.Lock()
        self._freed = trio.Event()

    async def take(self, size: int) -> None:
        """Wait for room and charge it."""
        assert size <= self.bytes_max
        async with self._turn:
            while self.bytes_used + size > self.bytes_max:
                self._freed = trio.Event()
                await self._freed.wait()
            self.bytes_used += size
            self.bytes_used_peak = max(self.bytes_used_peak, self.bytes_used)

    def give(self, size: int) -> None:
        """Return what was charged."""
        self.bytes_used -= size
        assert self.bytes_used >= 0
        self._freed.set()


class Packer:
    """Takes chunks and makes packs of them; see `open_packer`."""

    def __init__(
        self, keys: PackKeys, deliver: Deliver, mode: Mode, bytes_max: int, threads: int
    ) -> None:
        assert bytes_max >= _HELD_BYTES_MAX
        self.budget = Budget(bytes_max)
        self._keys = keys
        self._deliver = deliver
        self._delivering = trio.Lock()
        self._mode = mode
        self._threads = threads
        self._cpu = trio.CapacityLimiter(threads)
        self._packing = Packing()
        self._spare_buffers: list[bytearray] = []
        self._chunks_in, self._chunks_out = trio.open_memory_channel[Chunk](
            limits.PIPELINE_QUEUE_CHUNKS_MAX
        )
        self._packs_in, self._packs_out = trio.open_memory_channel[Content](0)

    async def put(self, chunk: Chunk) -> None:
        """Hand a chunk over; waits while too much is in flight."""
        assert len(chunk.data) <= limits.CHUNK_PLAIN_BYTES_MAX  # a larger one might wait for ever
        await self.budget.take(len(chunk.data))
        await self._chunks_in.send(chunk)

    async def pump(self, batches: Batches) -> None:
        """Draw a whole source through; each batch is made in a thread."""
        while (batch := await trio.to_thread.run_sync(next, batches, None)) is not None:
            for chunk in batch:
                await self.put(chunk)

    def close(self) -> None:
        """No more chunks will come."""
        self._chunks_in.close()

    async def run(self) -> None:
        """The stages; returns when `close` was called and everything is delivered."""
        async with trio.open_nursery() as sealers:
            for _ in range(limits.PIPELINE_PACKS_MAX):
                sealers.start_soon(self._seal_packs)
            async with self._packs_in, trio.open_nursery() as compressors:
                for _ in range(self._threads):
                    compressors.start_soon(self._compress_chunks)
        for content in self._packing.finish():
            await self._seal_pack(*content)

    async def _compress_chunks(self) -> None:
        async for first in self._chunks_out:
            batch = [first, *self._more_chunks(len(first.data))]
            frames = await self._in_thread(partial(self._prepare, batch))
            for chunk, frame in zip(batch, frames, strict=True):
                self.budget.give(len(chunk.data) - len(frame.data))
                # No await inside `add`: the content of a pack leaves Packing in one step.
                for content in self._packing.add(frame):
                    await self._packs_in.send(content)

    def _prepare(self, batch: Sequence[Chunk]) -> list[Frame]:
        return [prepare(chunk, self._mode) for chunk in batch]

    def _more_chunks(self, size: int) -> list[Chunk]:
        """What else is waiting, up to what one trip to a thread should carry."""
        more: list[Chunk] = []
        while size < limits.THREAD_HOP_BYTES:
            try:
                more.append(self._chunks_out.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            size += len(more[-1].data)
        return more

    async def _seal_packs(self) -> None:
        async for content in self._packs_out:
            await self._seal_pack(*content)

    async def _seal_pack(self, size: int, frames: Sequence[Frame]) -> None:
        buffer = self._spare_buffers.pop() if size == _FULL_BYTES and self._spare_buffers else None
        buffer = bytearray(size) if buffer is None else buffer
        pack = await self._sealed(frames, buffer)
        async with self._delivering:
            await self._deliver(pack)
        self.budget.give(sum(len(frame.data) for frame in frames))
        # Whoever kept the bytes without copying them gets an error now, not another pack; a part of
        # them that somebody still looks at is left alone.
        pack.data.release()
        if size == _FULL_BYTES and not is_looked_at(buffer):
            self._spare_buffers.append(buffer)

    async def _sealed(self, frames: Sequence[Frame], buffer: bytearray) -> Pack:
        writer = PackWriter(self._keys, len(buffer), buffer=buffer)
        async with trio.open_nursery() as nursery:
            for share in _shares(frames):
                slots = [writer.reserve(frame) for frame in share]
                nursery.start_soon(self._in_thread, partial(_seal, slots))
        return await self._in_thread(writer.finish)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._cpu)


async def flow(
    source: Iterator[Sequence[A]],
    work: Callable[[A], B],
    sink: Callable[[B], None],
    *,
    size_of: Callable[[A], int],
    bytes_max: int | None = None,
    threads: int | None = None,
) -> None:
    """A `Flow` beside other tasks; cancelled, it ends when its stages have come to rest."""
    flowing = Flow(source, work, sink, size_of=size_of, bytes_max=bytes_max, threads=threads)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_when_cancelled, flowing)
        try:
            await trio.to_thread.run_sync(flowing.run)
        except Stopped:
            await trio.sleep_forever()  # which who is cancelled does not do
        nursery.cancel_scope.cancel()


async def _stop_when_cancelled(flowing: Flow[A, B]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        flowing.stop()


def _shares(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    """Frames grouped so that one trip to a thread is worth it, and several can go at once."""
    share, size = list[Frame](), 0
    for frame in frames:
        share.append(frame)
        size += frame.sealed_len
        if size >= limits.THREAD_HOP_BYTES:
            yield share
            share, size = [], 0
    if share:
        yield share


def _seal(slots: Sequence[Slot]) -> None:
    for slot in slots:
        slot.seal()


@asynccontextmanager
async def open_packer(
    keys: PackKeys,
    deliver: Deliver,
    *,
    mode: Mode = Mode.AUTO,
    bytes_max: int = limits.PIPELINE_BYTES_MAX,
    threads: int | None = None,
) -> AsyncIterator[Packer]:
    """A running packer; when the block ends well, every chunk put in has been delivered.

    `deliver` gets one pack at a time; its bytes may be used until it returns, and not after.
    """
    packer = Packer(keys, deliver, mode, bytes_max, threads or cores())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(packer.run)
        yield packer
        packer.close()
