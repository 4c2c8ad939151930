"""The data path in motion: chunks in, packs out, on every core. The only trio in core.

    put -> [compress, in threads] -> Packing -> [seal, in threads] -> deliver, one pack at a time

Every task lives in the nursery of `open_packer`. What is in flight is bounded in bytes: a chunk is
charged from `put` until the pack it went into is delivered, so a slow `deliver` slows the producer.
The order of packs and of chunks in them follows the order of `put` only roughly.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Generic, NamedTuple, TypeVar

import trio

from core import limits
from core.buffers import is_looked_at
from core.compress import Mode
from core.intake import Batches
from core.pack import Pack, PackKeys, PackWriter, Slot
from core.packing import Content, Packing
from core.pieces import Chunk
from core.seal import Frame, prepare

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
Deliver = Callable[[Pack], Awaitable[None]]

_FULL_BYTES = limits.PACK_SIZES_BYTES[-1]
# Packing may hold so much while it waits for more: a smaller budget would wait for itself.
_HELD_BYTES_MAX = _FULL_BYTES + limits.PACK_LOOKAHEAD_BYTES + limits.CHUNK_PLAIN_BYTES_MAX


def cores() -> int:
    """How many threads can work at once here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Item(NamedTuple, Generic[T]):
    number: int
    size: int
    content: T


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
    bytes_max: int = limits.PIPELINE_BYTES_MAX,
    threads: int | None = None,
) -> None:
    """Source to work to sink, all in threads and all at once; the sink gets everything in order.

    `source` and `sink` run on one thread at a time, `work` on several. An item counts as in flight,
    with the size `size_of` gives it, from the source until the sink has taken its result; even an
    empty one counts a little, so that their number is bounded, too.
    """
    budget = Budget(bytes_max)
    cpu = trio.CapacityLimiter(threads or cores())
    queue_max = limits.PIPELINE_QUEUE_CHUNKS_MAX
    items_in, items_out = trio.open_memory_channel[_Item[A]](queue_max)
    done_in, done_out = trio.open_memory_channel[_Item[B]](queue_max)

    async def produce() -> None:
        numbers = count()
        async with items_in:
            while (batch := await trio.to_thread.run_sync(next, source, None)) is not None:
                for item in batch:
                    size = max(size_of(item), bytes_max // limits.PIPELINE_ITEMS_MAX)
                    await budget.take(size)
                    await items_in.send(_Item(next(numbers), size, item))

    async def transform(results: trio.MemorySendChannel[_Item[B]]) -> None:
        async with results:
            async for number, size, item in items_out:
                result = await trio.to_thread.run_sync(work, item, limiter=cpu)
                await results.send(_Item(number, size, result))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        async with done_in:
            for _ in range(int(cpu.total_tokens)):
                nursery.start_soon(transform, done_in.clone())
        # Results that came before their turn wait here. Items start in order, so the one that is
        # due is always under way, and what waits is within the budget.
        early: dict[int, _Item[B]] = {}
        due = 0
        async for done in done_out:
            early[done.number] = done
            while due in early:
                now = early.pop(due)
                await trio.to_thread.run_sync(sink, now.content)
                budget.give(now.size)
                due += 1


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
