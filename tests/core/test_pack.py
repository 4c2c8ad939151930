import random
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from core import hashing, limits, pack, seal
from core.compress import Mode
from core.errors import FormatError, IntegrityError, NewerFormat, WrongKey
from core.keys import VaultKeys
from core.labels import Label
from core.pack import MeshPlace, PackKeys, PackReader, PackWriter, reader_of
from core.pieces import Bundler, Chunk, Kind
from core.secret import Secret
from tests.support import stranger
from tests.support.damage import damaged
from tests.support.entropy import fixed_entropy
from tests.support.pattern import pattern

SMALLEST, ONE, FOUR, FULL = limits.PACK_SIZES_BYTES
KEYS = PackKeys(Secret(b"D" * 32), Secret(b"P" * 32), epoch=4)
NOISE = random.Random(5).randbytes(60_000)
CUTS = [NOISE[:20_000], b"", b"a text that repeats " * 900, NOISE[20_000:40_000]]
FILES = [b"first", b"", NOISE[:3_000], b"of many " * 50]


def bundle(files=FILES):
    bundler = Bundler()
    for data in files:
        bundler.add(Kind.SMALL_FILE, data)
    return bundler.take()


def chunks():
    return [*(Chunk.of_piece(Kind.CUT, data) for data in CUTS), bundle()]


def packed(content=None, *, size=SMALLEST, keys=KEYS, seed="salt", mode=Mode.AUTO):
    writer = PackWriter(keys, size, entropy=fixed_entropy(seed))
    for chunk in chunks() if content is None else content:
        writer.add(seal.prepare(chunk, mode))
    return writer.finish()


def reader(data, keys=KEYS, **options):
    return PackReader.open_untrusted(reader_of(data), len(data), keys, **options)


def verify(data, keys=KEYS):
    reader(data, keys).verify_whole_untrusted(len(data))


def rejected(data):
    with pytest.raises((FormatError, IntegrityError)):
        verify(data)


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", limits.PACK_SIZES_BYTES)
def test_what_was_packed_comes_back(size):
    done = packed(size=size)
    assert len(done.data) == size
    opened = reader(done.data, name=done.name)
    assert (opened.salt, opened.name) == (done.salt, done.name)
    assert opened.index.data == done.index.data
    assert [opened.chunk_untrusted(n) for n in range(5)] == [*CUTS, b"".join(FILES)]
    pieces = [opened.piece_untrusted(location) for location in opened.index.all_pieces()]
    assert pieces == [*CUTS, *FILES]
    opened.verify_whole_untrusted(size)


def test_an_empty_pack_is_a_pack():
    verify(packed([]).data)


@given(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=6), max_size=6))
def test_any_pieces_come_back(groups):
    opened = reader(packed([bundle(group) for group in groups]).data)
    found = [bytes(opened.piece_untrusted(where)) for where in opened.index.all_pieces()]
    assert found == [data for group in groups for data in group]


def test_a_pack_takes_exactly_what_fits():
    writer = PackWriter(KEYS, SMALLEST)
    data = random.Random(6).randbytes(SMALLEST)
    frame = seal.prepare(
        Chunk.of_piece(Kind.CUT, data[: writer.room_bytes - pack.cost_bytes(tiny())])
    )
    assert pack.cost_bytes(frame) == writer.room_bytes == pack.room_bytes(SMALLEST)
    assert writer.fits(pack.cost_bytes(frame))
    assert not writer.fits(pack.cost_bytes(frame) + 1)
    writer.add(frame)
    assert writer.room_bytes == 0
    verify(writer.finish().data)


def tiny():
    return seal.prepare(Chunk.of_piece(Kind.CUT, b""))


def test_the_largest_chunks_fit_a_pack_of_four_mebibytes():
    room = pack.room_bytes(FOUR)
    assert limits.CHUNK_PLAIN_BYTES_MAX + pack.cost_bytes(tiny()) <= room
    rows = limits.BUNDLE_PIECES_MAX * pack.PIECE_ROW_BYTES
    assert limits.BUNDLE_BYTES_TARGET + rows + pack.cost_bytes(tiny()) <= room


def test_slots_may_be_sealed_on_threads_in_any_order():
    expected = packed()
    writer = PackWriter(KEYS, SMALLEST, entropy=fixed_entropy("salt"))
    slots = [writer.reserve(seal.prepare(chunk)) for chunk in chunks()]
    assert [slot.chunk for slot in slots] == [0, 1, 2, 3, 4]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(pack.Slot.seal, reversed(slots)))
    assert writer.finish().data == expected.data


def test_a_pack_is_not_finished_while_a_place_is_empty():
    writer = PackWriter(KEYS, SMALLEST)
    writer.reserve(tiny())
    with pytest.raises(AssertionError):
        writer.finish()


def test_a_used_buffer_leaves_no_trace():
    buffer = bytearray(b"\xa5" * SMALLEST)
    writer = PackWriter(KEYS, SMALLEST, entropy=fixed_entropy("salt"), buffer=buffer)
    for chunk in chunks():
        writer.add(seal.prepare(chunk))
    assert writer.finish().data == packed().data == buffer


def test_a_pack_is_rebuilt_bit_for_bit_from_salt_index_and_chunks():
    done = packed()
    opened = reader(done.data)
    sealed = [bytes(opened.sealed_chunk_untrusted(n)) for n in range(5)]
    assert pack.rebuild(KEYS, SMALLEST, done.salt, opened.index, sealed) == done.data


def test_a_lost_index_comes_back_from_the_packs_and_the_vault_master_alone():
    def keys():
        vault = VaultKeys.from_master(Secret(b"M" * 32))
        return PackKeys(vault.dedup, vault.pack)

    done = packed(keys=keys())
    found = {where.tag for where in reader(done.data, keys()).index.all_pieces()}
    kinds = [(Kind.CUT, data) for data in CUTS] + [(Kind.SMALL_FILE, data) for data in FILES]
    assert found == {hashing.tag(kind, data) for kind, data in kinds}


# --- reading only what is asked for ---------------------------------------------------------------


def test_a_piece_is_read_without_touching_the_rest():
    done = packed()
    reads = []

    def read_at(offset, size):
        reads.append((offset, size))
        return done.data[offset : offset + size]

    opened = PackReader.open_untrusted(read_at, SMALLEST, KEYS)
    index_off = done.index.chunks_end
    assert reads == [(0, 108), (index_off, len(done.index.data) + 60)]
    reads.clear()
    where = list(opened.index.all_pieces())[3]
    assert opened.piece_untrusted(where) == CUTS[3]
    assert reads == [(opened.index.chunks[3].offset, opened.index.chunks[3].sealed_len)]


def test_a_kept_index_spares_reading_it():
    done = packed()
    opened = PackReader(reader_of(done.data), KEYS, done.salt, done.index)
    assert opened.chunk_untrusted(0) == CUTS[0]


@pytest.mark.parametrize("short_by", [1, 50])
def test_a_reader_that_gives_less_than_asked_for_is_told(short_by):
    data = packed().data
    with pytest.raises(FormatError):
        PackReader.open_untrusted(lambda at, size: data[at : at + size - short_by], SMALLEST, KEYS)


def test_stale_locations_never_give_other_bytes():
    opened = reader(packed().data)
    lone, bundled = (list(opened.index.all_pieces())[n] for n in (0, 4))
    for where in (
        lone._replace(chunk=99),
        lone._replace(chunk=-1),
        lone._replace(chunk=3),
        lone._replace(length=5),
        lone._replace(offset=1),
        lone._replace(kind=Kind.SMALL_FILE),
        bundled._replace(offset=1),
        bundled._replace(length=4),
        bundled._replace(chunk=0),
        bundled._replace(tag=lone.tag),
    ):
        with pytest.raises(IntegrityError):
            opened.piece_untrusted(where)


# --- no byte in clear, nothing twice --------------------------------------------------------------


def windows(data, size=8):
    data = bytes(data)
    return {data[n : n + size] for n in range(len(data) - size + 1)}


@pytest.mark.slow
def test_two_packs_of_the_same_chunks_have_no_run_in_common():
    # Of 2^20 windows in each pack, chance would make 8 equal bytes once in 2^24 such pairs.
    content = [Chunk.of_piece(Kind.CUT, bytes(n) + NOISE) for n in range(15)] + chunks()
    first, second = (packed(content, size=ONE, seed=seed).data for seed in ("one", "two"))
    assert first[:ONE] != second[:ONE]
    assert not windows(first) & windows(second)


@pytest.mark.parametrize("content", [[], None], ids=["padding", "chunks"])
def test_nothing_in_a_pack_tells_it_from_chance(content):
    data = bytes(packed(content).data)
    assert len(windows(data)) == len(data) - 7  # no run occurs twice in it
    # Pearson's statistic over byte values has 255 degrees of freedom: 255 +- 23 for chance.
    expected = len(data) / 256
    assert 180 < sum((data.count(n) - expected) ** 2 / expected for n in range(256)) < 340
    # The places of header, index and padding look alike in every byte.
    packs = [packed(content, seed=str(n)).data for n in range(60)]
    assert all(len({data[at] for data in packs}) > 30 for at in [*range(120), -1, SMALLEST // 2])


def test_keys_and_content_are_not_shown():
    done = packed([Chunk.of_piece(Kind.CUT, b"content")])
    writer = PackWriter(KEYS, SMALLEST)
    shown = repr([KEYS, done, writer, writer.reserve(tiny()), reader(done.data)])
    assert "DDDD" not in shown
    assert "PPPP" not in shown
    assert "content" not in shown


# --- refusals -------------------------------------------------------------------------------------


def assert_flips_refused(data, places):
    for at in places:
        bad = bytearray(data)
        bad[at] ^= 1 << (at % 8)
        try:
            verify(bad)
        except (FormatError, IntegrityError):
            continue
        pytest.fail(f"byte {at} was changed and nobody noticed")


def test_a_flip_anywhere_is_noticed():
    done = packed()
    end = done.index.chunks_end + len(done.index.data) + 60
    edges = [n + d for c in done.index.chunks for n in (c.offset,) for d in (-1, 0, 11, 12, 44)]
    assert_flips_refused(done.data, [*range(0, 120, 5), *edges, *range(end - 3, end + 3)])
    assert_flips_refused(done.data, [*range(0, SMALLEST, 4_001), SMALLEST - 1])


@pytest.mark.deep
def test_a_flip_of_any_byte_is_noticed():
    assert_flips_refused(packed().data, range(SMALLEST))


def test_cut_and_lengthened_packs_are_refused():
    data = bytes(packed(size=ONE).data)
    for bad in (b"", data[:-1], data + b"\0", data[:SMALLEST], data + bytes(FOUR - ONE), data[1:]):
        rejected(bad)


def test_a_piece_is_read_whatever_happened_to_the_padding():
    bad = bytearray(packed().data)
    bad[-1] ^= 1
    assert reader(bad).chunk_untrusted(0) == CUTS[0]
    rejected(bad)


def test_a_damaged_chunk_leaves_the_others_readable():
    done = packed()
    bad = bytearray(done.data)
    bad[done.index.chunks[0].offset + 20] ^= 1
    with pytest.raises(IntegrityError) as caught:
        reader(bad).chunk_untrusted(0)
    assert not isinstance(caught.value, WrongKey)
    assert reader(bad).chunk_untrusted(3) == CUTS[3]


def place(data, row, sealed):
    out = bytearray(data)
    out[row.offset : row.offset + row.sealed_len] = sealed
    return out


def test_chunks_cannot_change_places():
    # Equal lengths, so that only the seal can tell.
    content = [Chunk.of_piece(Kind.CUT, NOISE[n : n + 9_000]) for n in (0, 10_000)]
    first, second = packed(content, seed="one"), packed(content, seed="two")
    a, b = first.index.chunks
    sealed = [
        bytes(reader(p.data).sealed_chunk_untrusted(n)) for p in (first, second) for n in (0, 1)
    ]
    swapped = place(place(first.data, a, sealed[1]), b, sealed[0])
    from_another_pack = place(first.data, a, sealed[2])
    for bad in (swapped, from_another_pack, place(first.data, b, sealed[0])):
        with pytest.raises(IntegrityError):
            verify(bad)


def test_parts_of_other_packs_are_refused():
    first, second = packed(seed="one"), packed(seed="two")
    at, end = first.index.chunks_end, first.index.chunks_end + len(first.index.data) + 60
    for start, stop in [(0, 32), (32, 108), (0, 108), (108, at), (at, end), (end, SMALLEST)]:
        bad = bytearray(first.data)
        bad[start:stop] = second.data[start:stop]
        rejected(bad)


def test_a_pack_under_the_name_of_another_is_refused():
    done, other = packed(), packed(seed="other")
    with pytest.raises(IntegrityError, match="name"):
        reader(done.data, name=other.name)


def test_keys_of_others_do_not_open_it():
    data = packed().data
    with pytest.raises(WrongKey):
        reader(data, PackKeys(KEYS.dedup, Secret(b"Q" * 32), KEYS.epoch))
    # Should only K_priv be wrong, then it is the chunk that does not open.
    with pytest.raises(IntegrityError):
        verify(data, PackKeys(Secret(b"Q" * 32), KEYS.pack, KEYS.epoch))
    with pytest.raises(FormatError, match="epoch"):
        reader(data, PackKeys(KEYS.dedup, KEYS.pack, KEYS.epoch + 1))


def with_header(done, *fields):
    out = bytearray(done.data)
    header_keys, _ = pack._pack_subkeys(KEYS.pack, done.salt)
    header = struct.pack(">IIII", *fields)
    seal.seal_into(memoryview(out)[32:108], header_keys, pack._HEADER_PURPOSE, (header,))
    return out


def test_headers_are_read_strictly():
    done = packed()
    at, size = done.index.chunks_end, len(done.index.data) + 60
    verify(with_header(done, SMALLEST, at, size, 1))
    for fields in [
        (ONE, at, size, 1),
        (SMALLEST, at, size, 0),
        (SMALLEST, 107, size, 1),
        (SMALLEST, at, SMALLEST - at + 1, 1),
        (SMALLEST, at, (1 << 32) - 1, 1),
        (SMALLEST, at, 0, 1),
        (SMALLEST, SMALLEST, 0, 1),
        (SMALLEST, at + 1, size, 1),
    ]:
        rejected(with_header(done, *fields))
    with pytest.raises(NewerFormat):
        verify(with_header(done, SMALLEST, at, size, 2))


def test_nothing_is_asked_for_that_a_pack_cannot_hold():
    # A hostile length must not become the size of a buffer.
    done = packed()
    for fields in [(100, 60), (200, SMALLEST), (SMALLEST, 60), ((1 << 32) - 1, (1 << 32) - 1)]:
        bad, reads = with_header(done, SMALLEST, *fields, 1), []

        def read_at(offset, size, bad=bad, reads=reads):
            reads.append((offset, size))
            return bad[offset : offset + size]

        with pytest.raises(FormatError, match="header"):
            PackReader.open_untrusted(read_at, SMALLEST, KEYS)
        assert reads == [(0, 108)]
    for wrong in (0, 1, SMALLEST - 1, 2 * ONE, 64 * ONE):
        with pytest.raises(FormatError, match="never"):
            PackReader.open_untrusted(lambda *_: pytest.fail("reads"), wrong, KEYS)


def test_a_chunk_of_another_length_than_the_index_says_is_refused():
    frame = seal.prepare(Chunk.of_piece(Kind.CUT, CUTS[2]))
    for longer in (1, -1):
        writer = PackWriter(KEYS, SMALLEST)
        slot = writer.reserve(replace(frame, plain_len=frame.plain_len + longer))
        slot._frame = frame
        slot.seal()
        with pytest.raises(FormatError):
            reader(writer.finish().data).chunk_untrusted(0)


def test_an_index_that_does_not_fit_its_pack_is_refused():
    done, short = packed(), packed([Chunk.of_piece(Kind.CUT, NOISE[:18_000])])
    out = bytearray(done.data)
    at, size = done.index.chunks_end, len(short.index.data) + 60
    _, index_keys = pack._pack_subkeys(KEYS.pack, done.salt)
    view = memoryview(out)[at : at + size]
    seal.seal_into(view, index_keys, pack._INDEX_PURPOSE, (short.index.data,))
    header_keys, _ = pack._pack_subkeys(KEYS.pack, done.salt)
    header = struct.pack(">IIII", SMALLEST, at, size, 1)
    seal.seal_into(memoryview(out)[32:108], header_keys, pack._HEADER_PURPOSE, (header,))
    with pytest.raises(FormatError, match="fit"):
        reader(out)


def test_a_piece_that_the_index_names_wrongly_is_noticed():
    chunk = bundle()
    wrong = [chunk.pieces[0]._replace(tag=bytes(32)), *chunk.pieces[1:]]
    data = packed([Chunk.of_bundle(chunk.data, wrong)]).data
    assert reader(data).chunk_untrusted(0) == chunk.data
    rejected(data)


@given(st.binary(max_size=500), st.integers(0, SMALLEST))
def test_nonsense_in_a_pack_is_refused(nonsense, at):
    data = bytearray(packed([]).data)
    before = bytes(data)
    data[at : at + len(nonsense)] = nonsense[: SMALLEST - at]
    if data != before:
        rejected(data)


def test_damaged_heads_are_refused():
    data = bytes(packed([]).data)
    for _, bad in damaged(data[:190], step=7):
        rejected(bad + data[190:])


# --- the mesh domain ------------------------------------------------------------------------------


def test_a_chunk_of_the_mesh_domain_lies_in_an_ordinary_pack_with_its_key():
    frame = seal.prepare(Chunk.of_piece(Kind.CUT, NOISE), Mode.OFF)
    sealed = bytearray(frame.sealed_len + 500)
    ckey = Secret(b"C" * 32)
    seal.seal_chunk_into(memoryview(sealed), frame, seal.ChunkSeal.mesh(ckey))
    writer = PackWriter(KEYS, SMALLEST)
    writer.add(tiny())
    assert writer.add_mesh(frame, sealed, MeshPlace(9, ckey, b"R" * 32)) == 1
    done = writer.finish()
    verify(done.data)
    opened = reader(done.data)
    assert opened.sealed_chunk_untrusted(1) == sealed
    assert opened.chunk_untrusted(1) == NOISE
    assert opened.index.chunks[1].mesh.root == b"R" * 32


# --- fixed values ---------------------------------------------------------------------------------


def golden_pack():
    bundler = Bundler()
    for size in (0, 1, 700):
        bundler.add(Kind.SMALL_FILE, pattern(size))
    bundler.add(Kind.DIRECTORY, pattern(90))
    content = [Chunk.of_piece(Kind.CUT, pattern(5_000)), bundler.take()]
    content.append(Chunk.of_piece(Kind.SNAPSHOT, pattern(40)))
    writer = PackWriter(
        PackKeys(Secret(bytes(range(32))), Secret(bytes(range(32, 64))), 7),
        SMALLEST,
        entropy=lambda size: bytes(range(64, 64 + size)),
    )
    for chunk in content:
        writer.add(seal.prepare(chunk, Mode.OFF))
    return writer.finish()


def test_the_golden_pack(golden):
    vector = golden("pack.json")
    done = golden_pack()
    assert done.salt.hex() == vector["salt"]
    assert done.name.hex() == vector["name"]
    assert done.data[:108].hex() == vector["head"]
    assert done.index.data.hex() == vector["index"]
    row = done.index.chunks[2]
    sealed = done.data[row.offset : row.offset + row.sealed_len]
    assert sealed.hex() == vector["last chunk"]
    assert done.data[-64:].hex() == vector["last padding"]
    assert blake3(done.data).hexdigest() == vector["blake3"]


def test_a_stranger_can_read_the_golden_pack():
    data = bytes(golden_pack().data)
    found = stranger.read_pack(data, bytes(range(32)), bytes(range(32, 64)))
    sizes = [(1, 5_000), (2, 0), (2, 1), (2, 700), (4, 90), (5, 40)]
    assert found == [(kind, pattern(size)) for kind, size in sizes]


def test_names_and_subkeys_are_derived_as_written_down():
    done = packed([])
    assert done.name == hashing.digest(Label.PACK_NAME, done.salt)
    assert Label.PACK_SUBKEYS.value == "pack subkeys"
    assert Label.PACK_PADDING.value == "pack padding"
