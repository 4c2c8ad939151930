import functools
import threading

import pytest
import trio

from core import limits, pipeline
from core.compress import Mode
from core.errors import PortalError
from core.flow import Flow
from core.intake import bundle_small
from core.pack import PackKeys, PackReader, reader_of
from core.pieces import Chunk, Kind
from core.pipeline import Budget, open_packer
from core.secret import Secret
from tests.support.entropy import fixed_entropy

KEYS = PackKeys(Secret(bytes(range(32))), Secret(bytes(range(32, 64))))


def noise(size, seed="noise"):
    return fixed_entropy(seed)(size)


def run(work, *args, **options):
    """Run on trio, but never for longer than a hung pipeline deserves."""

    async def bounded():
        with trio.fail_after(60):
            return await functools.partial(work, *args, **options)()

    return trio.run(bounded)


def contents(packs):
    """Everything in the packs, by kind and tag, read with nothing but the keys."""
    found = {}
    for data in packs:
        reader = PackReader.open_untrusted(reader_of(data), len(data), KEYS)
        reader.verify_whole_untrusted(len(data))
        for place in reader.index.all_pieces():
            found[place.kind, place.tag] = bytes(reader.piece_untrusted(place))
    return found


async def packed(chunks, **options):
    packs = []

    async def deliver(pack):
        packs.append(bytes(pack.data))

    async with open_packer(KEYS, deliver, **options) as packer:
        for chunk in chunks:
            await packer.put(chunk)
    return packs, packer


def some_chunks():
    text = b"all work and no play makes jack a dull boy\n" * 20_000
    chunks = [Chunk.of_piece(Kind.CUT, noise(1 << 20, f"cut {n}")) for n in range(20)]
    chunks += [Chunk.of_piece(Kind.CUT, text + bytes([n])) for n in range(8)]
    for batch in bundle_small((Kind.SMALL_FILE, noise(900, f"file {n}")) for n in range(2_000)):
        chunks += batch
    return chunks


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_everything_put_in_comes_out_once(threads):
    chunks = some_chunks()
    packs, packer = run(packed, chunks, threads=threads)
    wanted = {(c.kind, c.tag): bytes(c.data) for c in chunks if not c.pieces}
    for chunk in chunks:
        start = 0
        for piece in chunk.pieces:
            wanted[piece.kind, piece.tag] = bytes(chunk.data[start : start + piece.length])
            start += piece.length
    assert contents(packs) == wanted
    assert {len(data) for data in packs} <= set(limits.PACK_SIZES_BYTES)
    assert packer.budget.bytes_used == 0
    assert packer.budget.bytes_used_peak <= limits.PIPELINE_BYTES_MAX


def test_nothing_in_nothing_out():
    assert run(packed, [])[0] == []


def test_one_small_chunk_makes_one_small_pack():
    packs, _ = run(packed, [Chunk.of_piece(Kind.SNAPSHOT, b"hello")])
    assert [len(data) for data in packs] == [limits.PACK_SIZES_BYTES[0]]


@pytest.mark.slow
def test_a_slow_reader_slows_the_producer_and_memory_stays_bounded(monkeypatch):
    async def work():
        must_wait = trio.Event()
        accepted, accepted_before_waiting = 0, None
        take = Budget.take

        async def watched(budget, size):
            nonlocal accepted_before_waiting
            if budget.bytes_used + size > budget.bytes_max and not must_wait.is_set():
                accepted_before_waiting = accepted
                must_wait.set()
            await take(budget, size)

        async def deliver(_pack):
            await must_wait.wait()  # the first pack goes nowhere until the producer is stopped

        monkeypatch.setattr(Budget, "take", watched)
        data = noise(2 << 20)
        async with open_packer(KEYS, deliver, bytes_max=64 << 20, threads=2) as packer:
            for n in range(60):
                await packer.put(Chunk.of_piece(Kind.CUT, data, bytes([n]) * 32))
                accepted += 1
        assert accepted == 60
        assert 28 <= accepted_before_waiting <= 34
        assert packer.budget.bytes_used == 0
        assert packer.budget.bytes_used_peak <= 64 << 20

    run(work)


@pytest.mark.slow
def test_packs_are_delivered_one_at_a_time_and_their_bytes_end_with_the_delivery():
    async def work():
        inside, kept = 0, []

        async def deliver(pack):
            nonlocal inside
            inside += 1
            assert inside == 1
            kept.append(pack)
            await trio.lowlevel.checkpoint()
            assert len(pack.data) in limits.PACK_SIZES_BYTES
            inside -= 1

        async with open_packer(KEYS, deliver, threads=2) as packer:
            for n in range(50):
                await packer.put(Chunk.of_piece(Kind.CUT, noise(1 << 20, str(n))))
        assert len(kept) >= 3
        for pack in kept:
            with pytest.raises(ValueError, match="released"):
                bytes(pack.data)

    run(work)


class Full(PortalError):
    """The disk is full."""


@pytest.mark.slow
def test_a_failing_delivery_ends_the_run_and_every_task():
    async def work():
        async def deliver(_pack):
            raise Full

        async with open_packer(KEYS, deliver, threads=2) as packer:
            for n in range(200):
                await packer.put(Chunk.of_piece(Kind.CUT, noise(1 << 20, str(n % 7)), bytes(32)))
        pytest.fail("the run went on")

    with pytest.raises(BaseExceptionGroup) as caught:
        run(work)
    assert caught.group_contains(Full)


def test_a_failing_source_ends_the_run():
    def source():
        yield [Chunk.of_piece(Kind.CUT, b"x")]
        raise Full

    async def deliver(_pack):
        pytest.fail("delivered after a failure")

    async def work():
        async with open_packer(KEYS, deliver) as packer:
            await packer.pump(source())

    with pytest.raises(BaseExceptionGroup) as caught:
        run(work)
    assert caught.group_contains(Full)


@pytest.mark.slow
def test_cancelling_at_any_moment_is_clean():
    chunks = [Chunk.of_piece(Kind.CUT, noise(1 << 20, str(n))) for n in range(8)] * 8

    async def work(after):
        puts = 0

        async def deliver(_pack):
            await trio.lowlevel.checkpoint()

        with trio.CancelScope() as scope:
            async with open_packer(KEYS, deliver, threads=2) as packer:
                for chunk in chunks:
                    if puts == after:
                        scope.cancel()
                    await packer.put(chunk)
                    puts += 1
        assert scope.cancelled_caught
        assert puts == after

    for after in (0, 1, 5, 17, 33, 60):
        run(work, after)


def test_budget_is_first_come_first_served():
    async def work():
        budget, order = Budget(10), []

        async def taker(name, size):
            await budget.take(size)
            order.append(name)

        await budget.take(8)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(taker, "large", 9)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(taker, "small", 1)  # fits, but must not overtake for ever
            await trio.testing.wait_all_tasks_blocked()
            assert order == []
            budget.give(8)
        assert order == ["large", "small"]
        assert budget.bytes_used == budget.bytes_used_peak == 10

    import trio.testing

    run(work)


def test_a_budget_that_would_wait_for_itself_is_refused():
    with pytest.raises(AssertionError):
        run(packed, [], bytes_max=limits.PACK_SIZES_BYTES[-1])


def test_the_mode_reaches_the_compressor():
    text = b"the same line again and again\n" * 40_000
    stored, _ = run(packed, [Chunk.of_piece(Kind.CUT, text)], mode=Mode.OFF)
    small, _ = run(packed, [Chunk.of_piece(Kind.CUT, text)], mode=Mode.AUTO)
    assert sum(map(len, small)) < sum(map(len, stored))


@pytest.mark.slow
def test_a_part_of_a_pack_that_is_kept_does_not_become_another_pack():
    async def work():
        kept = []

        async def deliver(pack):
            part = pack.data[:1_000]
            kept.append((part, bytes(part)))

        async with open_packer(KEYS, deliver, threads=2) as packer:
            for n in range(80):
                await packer.put(Chunk.of_piece(Kind.CUT, noise(1 << 20, str(n % 5)), bytes(32)))
        assert len(kept) >= 4
        for part, seen in kept:
            assert bytes(part) == seen

    run(work)


def test_the_smallest_budget_and_chunks_of_every_size_do_not_wait_for_themselves():
    sizes = [0, 1, limits.CHUNK_PLAIN_BYTES_MAX] * 8
    chunks = [Chunk.of_piece(Kind.CUT, noise(n, str(i)), bytes(32)) for i, n in enumerate(sizes)]
    packs, packer = run(packed, chunks, bytes_max=pipeline._HELD_BYTES_MAX, threads=1)
    assert len(packs) >= 2
    assert packer.budget.bytes_used == 0


def test_a_chunk_no_pack_can_hold_is_refused_at_once():
    chunk = Chunk.of_piece(Kind.CUT, bytes(limits.CHUNK_PLAIN_BYTES_MAX + 1), bytes(32))
    with pytest.raises(BaseExceptionGroup) as caught:
        run(packed, [chunk])
    assert caught.group_contains(AssertionError)


# --- flow -----------------------------------------------------------------------------------------


def flowing(source, work=lambda item: item, sink=lambda _result: None, **options):
    options = {"size_of": lambda _item: 1, "threads": 3} | options
    run(pipeline.flow, iter(source), work, sink, **options)


def test_everything_flows_beside_other_tasks():
    out = []
    flowing(([n, n + 1] for n in range(0, 60, 2)), lambda n: -n, out.append, bytes_max=4)
    assert out == [-n for n in range(60)]


@pytest.mark.parametrize("stage", ["source", "work", "sink"])
def test_a_failure_in_any_stage_ends_the_flow(stage):
    def fail(item):
        if item == 30:
            raise Full
        return item

    stages = {name: lambda item: item for name in ("source", "work", "sink")}
    stages[stage] = fail
    out = []
    with pytest.raises(BaseExceptionGroup) as caught:
        flowing(
            ([stages["source"](n)] for n in range(100)),
            stages["work"],
            lambda n: out.append(stages["sink"](n)),
        )
    assert caught.group_contains(Full)
    assert out == list(range(len(out)))
    assert len(out) <= 30


@pytest.mark.parametrize("stage", ["source", "work", "sink"])
def test_a_flow_is_cancelled_at_any_stage(stage, monkeypatch):
    out, stopped = [], threading.Event()
    stop = Flow.stop

    def noted(self):
        stop(self)
        stopped.set()

    monkeypatch.setattr(Flow, "stop", noted)

    async def work():
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()

            def cancel(item):
                if item == 20:
                    trio.from_thread.run_sync(scope.cancel, trio_token=token)
                    assert stopped.wait(30)
                return item

            stages = {name: lambda item: item for name in ("source", "work", "sink")}
            stages[stage] = cancel
            await pipeline.flow(
                ([stages["source"](n)] for n in range(1_000)),
                stages["work"],
                lambda n: out.append(stages["sink"](n)),
                size_of=lambda _item: 1,
                bytes_max=8,
                threads=2,
            )
            pytest.fail("it looks done")
        assert scope.cancelled_caught

    run(work)
    assert out == list(range(len(out)))
    assert len(out) < 100
