import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits, pack, packing
from core.compress import Codec
from core.pieces import Kind, Piece, Pieces
from core.seal import CHUNK_OVERHEAD_BYTES, Frame

SMALLEST, ONE, FOUR, FULL = limits.PACK_SIZES_BYTES
ROOM = pack.room_bytes(FULL)
KIB, MIB = limits.KIB, limits.MIB
COST_MAX = pack.room_bytes(FOUR)
ZEROS = memoryview(bytes(FOUR))


def chunk_sizes(seed, total):
    """Costs like those of cuts and bundles, of which about half compress."""
    rng = random.Random(seed)
    sizes = []
    while sum(sizes) < total:
        size = min(limits.CHUNK_PLAIN_BYTES_MAX, 256 * KIB + int(rng.expovariate(1 / (768 * KIB))))
        sizes.append(int(size * rng.choice([1, 1, rng.uniform(0.2, 0.9)])))
    return sizes


def frame(size):
    """A frame of this cost whose bytes do not matter."""
    size -= CHUNK_OVERHEAD_BYTES + pack.CHUNK_ROW_BYTES
    return Frame(Kind.CUT, bytes(32), Codec.RAW, size, ZEROS[:size])


# --- full packs -----------------------------------------------------------------------------------


@given(st.lists(st.integers(1, COST_MAX), max_size=60))
def test_a_full_pack_holds_what_fits_and_the_oldest_first(costs):
    chosen = packing.choose_full(costs)
    assert sorted(set(chosen)) == sorted(chosen)
    assert sum(costs[i] for i in chosen) <= ROOM
    if costs:
        assert 0 in chosen
    if sum(costs) <= ROOM:
        assert chosen == list(range(len(costs)))


def test_full_packs_waste_little():
    waiting, wasted, packs = [], 0, 0
    for size in chunk_sizes(7, 600 * MIB):
        waiting.append(size)
        if sum(waiting) >= FULL + limits.PACK_LOOKAHEAD_BYTES:
            chosen = packing.choose_full(waiting)
            wasted += ROOM - sum(waiting[i] for i in chosen)
            packs += 1
            waiting = [size for i, size in enumerate(waiting) if i not in set(chosen)]
    assert packs > 30
    assert wasted < 0.01 * packs * FULL


class Counted(list):
    """Counts how often its elements are looked at."""

    looks = 0

    def __getitem__(self, place):
        self.looks += 1
        return super().__getitem__(place)


def test_the_search_is_bounded_whatever_the_sizes():
    # Equal sizes that fill the gap badly: millions of combinations, one as good as the other.
    costs = Counted([3_900 * KIB] * 5 + [300 * KIB] * 100)
    assert sum(list(costs)[i] for i in packing.choose_full(costs)) <= ROOM
    assert costs.looks < 100_000


def test_chunks_may_be_tiny():
    assert len(packing.choose_full([300] * 100_000)) >= (ROOM - 8 * KIB) // 300


# --- the end of a run -----------------------------------------------------------------------------


@given(st.lists(st.integers(1, COST_MAX), max_size=80))
def test_the_tail_is_spread_over_packs_it_fits(costs):
    while sum(costs) > ROOM:
        costs.pop()
    plans = packing.plan_tail(costs)
    placed = sorted(i for plan in plans for i in plan.chunks)
    assert placed == list(range(len(costs)))
    for plan in plans:
        assert plan.chunks
        assert sum(costs[i] for i in plan.chunks) <= pack.room_bytes(plan.pack_bytes)
    assert sum(plan.pack_bytes for plan in plans) <= FULL


@pytest.mark.parametrize(
    ("costs", "sizes"),
    [
        ([], []),
        ([1], [SMALLEST]),
        ([pack.room_bytes(SMALLEST)], [SMALLEST]),
        ([pack.room_bytes(SMALLEST) + 1], [ONE]),
        ([limits.BUNDLE_BYTES_TARGET + 50_000], [ONE]),
        ([limits.CHUNK_PLAIN_BYTES_MAX + 300], [FOUR]),
        ([900 * KIB, 200 * KIB], [ONE, SMALLEST]),
        ([900 * KIB] * 3, [ONE] * 3),
        ([4_000 * KIB] * 4, [FULL]),
        ([4_000 * KIB] * 3 + [900 * KIB], [FOUR] * 3 + [ONE]),
        ([ROOM], [FULL]),
    ],
)
def test_the_sizes_that_a_tail_gets(costs, sizes):
    assert [plan.pack_bytes for plan in packing.plan_tail(costs)] == sizes


def test_a_run_of_ordinary_chunks_wastes_about_two_percent():
    for seed in range(5):
        costs = chunk_sizes(seed, 100 * MIB)
        queue, used = packing.Packing(), 0
        for cost in costs:
            used += sum(size for size, _ in queue.add(frame(cost)))
        used += sum(size for size, _ in queue.finish())
        assert used <= 1.025 * sum(costs)


# --- both together --------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [0, 1, 3 * MIB, 15 * MIB, 16 * MIB, 21 * MIB, 70 * MIB])
def test_every_chunk_goes_into_exactly_one_pack(total):
    frames = [frame(max(200, size)) for size in chunk_sizes(total, total)]
    queue = packing.Packing()
    packs = [content for one in frames for content in queue.add(one)]
    packs += queue.finish()
    packed = [id(one) for _, content in packs for one in content]
    assert sorted(packed) == sorted(map(id, frames))
    for size, content in packs:
        assert sum(map(pack.cost_bytes, content)) <= pack.room_bytes(size)
    assert queue.finish() == []


def test_very_many_small_pieces_do_not_wait_for_a_full_pack():
    piece = Piece(bytes(32), Kind.SMALL_FILE, 10)
    rows = Pieces.of([piece] * 16_000)
    bundle = Frame(Kind.BUNDLE, bytes(32), Codec.RAW, 160_000, bytes(160_000), rows)
    queue = packing.Packing()
    made = [content for _ in range(12) for content in queue.add(bundle)]
    waiting = [content for _, frames in queue.finish() for content in frames]
    assert sum(len(frames) for _, frames in made) + len(waiting) == 12
    for size, frames in made:
        assert sum(len(one.pieces) for one in frames) < limits.PACK_PIECES_TARGET + 16_000
        assert sum(map(pack.cost_bytes, frames)) <= pack.room_bytes(size) < FULL
    assert len(waiting) == 2


def test_little_waits_in_memory():
    queue = packing.Packing()
    for size in chunk_sizes(9, 80 * MIB):
        queue.add(frame(size))
        assert queue._bytes < FULL + limits.PACK_LOOKAHEAD_BYTES + 4 * MIB
