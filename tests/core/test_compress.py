import contextlib
import random
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from core import compress, limits
from core.compress import Codec, Mode, decompress_untrusted, sample_entropy_mbits
from core.errors import FormatError, LimitExceeded, NewerFormat
from tests.support.damage import damaged

BLOCK = limits.COMPRESSION_BLOCK_BYTES
TEXT = b"".join(b"line %d of a text that says little\n" % (n * n) for n in range(6_000))
NOISE = random.Random(1).randbytes(300_000)
# Six to eight bits per byte, yet full of repeats: what LZ4 and zstd see differently.
MIXED = b"".join(NOISE[n : n + 200] + TEXT[n : n + 200] for n in range(0, 100_000, 200))
COMPRESSED = [Codec.ZSTD, Codec.LZ4, Codec.ZSTD_BLOCKS, Codec.LZ4_BLOCKS]


def squeezed(codec, data):
    level = compress._LZ4 if codec in (Codec.LZ4, Codec.LZ4_BLOCKS) else compress._LEVEL
    blocks = codec in (Codec.ZSTD_BLOCKS, Codec.LZ4_BLOCKS)
    return (compress._compress_blocks if blocks else compress._compress_one)(data, level)


def opened(codec, data, plain_len):
    return bytes(decompress_untrusted(data, codec, plain_len))


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"x" * 31, b"x" * 32, b"x" * BLOCK, b"x" * (BLOCK + 1), TEXT, NOISE, MIXED],
    ids=len,
)
def test_what_was_compressed_comes_back(mode, blocks, data):
    codec, packed = compress.compress(data, mode, blocks=blocks)
    assert opened(codec, packed, len(data)) == data
    assert len(packed) < len(data) or codec is Codec.RAW


@given(st.binary(max_size=3_000).map(lambda part: part * 40), st.sampled_from(COMPRESSED))
def test_every_codec_reads_what_it_wrote(data, codec):
    packed = squeezed(codec, data)
    if len(packed) < len(data):
        assert opened(codec, packed, len(data)) == data


def test_views_are_as_good_as_bytes():
    for data in (TEXT, NOISE):
        codec, packed = compress.compress(memoryview(bytearray(data)))
        assert opened(codec, memoryview(packed), len(data)) == data


# --- the choice -----------------------------------------------------------------------------------


def test_entropy_of_known_distributions():
    assert sample_entropy_mbits(b"") == 0
    assert sample_entropy_mbits(bytes(100_000)) == 0
    assert sample_entropy_mbits(b"ab" * 500) == 1_000
    assert sample_entropy_mbits(bytes(range(256))) == 8_000
    assert sample_entropy_mbits(bytes(range(256)) * 400) == 8_000
    assert 7_930 < sample_entropy_mbits(NOISE) < 7_980
    assert sample_entropy_mbits(memoryview(TEXT)) == sample_entropy_mbits(TEXT)


def test_a_quiet_beginning_does_not_hide_what_follows():
    assert sample_entropy_mbits(bytes(4_096) + NOISE) > 7_000


@pytest.mark.parametrize(
    ("mode", "data", "codec"),
    [
        (Mode.AUTO, NOISE, Codec.RAW),
        (Mode.FAST, NOISE, Codec.RAW),
        (Mode.AUTO, MIXED, Codec.ZSTD),
        (Mode.FAST, MIXED, Codec.LZ4),
        (Mode.AUTO, TEXT, Codec.ZSTD),
        (Mode.FAST, TEXT, Codec.ZSTD),
        (Mode.OFF, TEXT, Codec.RAW),
        (Mode.LZ4, TEXT, Codec.LZ4),
        (Mode.LZ4, NOISE, Codec.RAW),
        (Mode.LZ4, NOISE[:30_000] * 3, Codec.LZ4),
        (Mode.SMALLEST, NOISE[:70_000] * 3, Codec.ZSTD),
        (Mode.AUTO, NOISE[:70_000] * 3, Codec.RAW),  # the price of not trying
    ],
)
def test_the_sample_decides(mode, data, codec):
    assert compress.compress(data, mode)[0] is codec


def test_the_rule_at_its_edges(monkeypatch):
    expected = {
        7_901: (compress._STORE, compress._STORE),
        7_900: (compress._LZ4, compress._LEVEL),
        6_001: (compress._LZ4, compress._LEVEL),
        6_000: (compress._LEVEL, compress._LEVEL),
        4_000: (compress._LEVEL, compress._LEVEL),
        3_999: (compress._LEVEL_HARDER, compress._LEVEL_HARDER),
    }
    for entropy_mbits, levels in expected.items():
        monkeypatch.setattr(compress, "sample_entropy_mbits", lambda _, e=entropy_mbits: e)
        found = tuple(compress._level(TEXT, mode) for mode in (Mode.FAST, Mode.AUTO))
        assert found == levels, entropy_mbits


def test_a_result_that_saves_too_little_is_thrown_away(monkeypatch):
    monkeypatch.setattr(compress, "sample_entropy_mbits", lambda _: 5_000)
    data = NOISE[:6_400]
    for saved, kept in [(99, False), (100, False), (101, True), (6_399, True)]:
        result = bytes(len(data) - saved)
        monkeypatch.setattr(compress, "_compress_one", lambda *_, r=result: r)
        assert (compress.compress(data)[1] is result) == kept


def test_two_threads_compress_as_one_does():
    datas = [TEXT[n:] for n in range(40)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(compress.compress, datas)) == list(map(compress.compress, datas))


def test_incompressible_blocks_among_others_are_stored_as_they_are():
    data = TEXT[:BLOCK] + NOISE[:BLOCK] + TEXT[:100]
    packed = squeezed(Codec.ZSTD_BLOCKS, data)
    table = struct.unpack_from(">3I", packed)
    assert [entry >> 31 for entry in table] == [0, 1, 0]
    assert packed[12 + table[0] :][:BLOCK] == NOISE[:BLOCK]
    assert opened(Codec.ZSTD_BLOCKS, packed, len(data)) == data


# --- hostile bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", COMPRESSED)
def test_another_recorded_length_is_refused(codec):
    packed = squeezed(codec, TEXT)
    for wrong in (0, 1, len(packed), len(TEXT) - 1, len(TEXT) + 1, len(TEXT) + BLOCK, 1 << 30):
        with pytest.raises(FormatError):
            opened(codec, packed, wrong)


@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.parametrize("data", [TEXT[:700], (TEXT + MIXED)[-BLOCK - 900 :]], ids=len)
def test_damaged_bytes_give_a_format_error_or_as_many_bytes_as_recorded(codec, data):
    packed = squeezed(codec, data)
    refused = 0
    for _, bad in damaged(packed, step=1 + len(packed) // 300):
        try:
            assert len(opened(codec, bad, len(data))) == len(data)
        except FormatError:
            refused += 1
    assert refused > 100


@given(st.binary(max_size=400), st.sampled_from(COMPRESSED), st.integers(0, 3 * BLOCK))
def test_nonsense_gives_a_format_error_or_as_many_bytes_as_recorded(nonsense, codec, plain_len):
    with contextlib.suppress(FormatError):
        assert len(opened(codec, nonsense, plain_len)) == plain_len


@pytest.mark.parametrize("codec", COMPRESSED)
def test_what_is_not_shorter_would_have_been_stored(codec):
    data = NOISE[:500]
    packed = squeezed(codec, data)
    assert len(packed) > len(data)
    with pytest.raises(FormatError):
        opened(codec, packed, len(data))


def test_raw_is_as_long_as_recorded():
    for wrong in (2, 4):
        with pytest.raises(FormatError):
            opened(Codec.RAW, b"abc", wrong)


@pytest.mark.parametrize("codec", [5, 255])
def test_unknown_codecs_are_of_a_newer_portal(codec):
    with pytest.raises(NewerFormat):
        opened(codec, b"abc", 100)


def test_one_zstd_frame_and_nothing_else():
    frame = zstandard.ZstdCompressor().compress(TEXT)
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"abcd"
    for bad in (frame + frame, frame + b"\0", skippable + frame, frame + skippable, skippable):
        with pytest.raises(FormatError):
            opened(Codec.ZSTD, bad, len(TEXT))


def test_frames_that_do_not_state_their_length_are_read_up_to_the_recorded_one():
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    assert opened(Codec.ZSTD, silent, len(TEXT)) == TEXT
    for wrong in (len(TEXT) - 1, len(TEXT) + 1):
        with pytest.raises(FormatError):
            opened(Codec.ZSTD, silent, wrong)


def test_a_frame_that_asks_for_a_huge_window_is_refused_before_it_gets_one():
    params = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=params).compressobj()
    greedy = stream.compress(TEXT) + stream.flush()
    assert zstandard.get_frame_parameters(greedy).window_size > limits.ZSTD_WINDOW_BYTES_MAX
    with pytest.raises(LimitExceeded):
        opened(Codec.ZSTD, greedy, len(TEXT))


def test_a_frame_that_states_another_length_is_refused_without_being_read(monkeypatch):
    frame = zstandard.ZstdCompressor().compress(TEXT)
    monkeypatch.setattr(compress, "_contexts", None)
    with pytest.raises(FormatError, match="length"):
        opened(Codec.ZSTD, frame, len(TEXT) + 1)


@pytest.mark.parametrize("codec", [Codec.ZSTD_BLOCKS, Codec.LZ4_BLOCKS])
def test_blocks_end_where_the_data_end(codec):
    data = TEXT[: BLOCK + 500]
    packed = squeezed(codec, data)
    for bad in (packed + b"\0", packed[:-1]):
        with pytest.raises(FormatError):
            opened(codec, bad, len(data))


def test_a_block_longer_than_its_content_is_refused():
    grown = lz4.block.compress(NOISE[:500], store_size=False)
    first = lz4.block.compress(TEXT[:BLOCK], store_size=False)
    packed = struct.pack(">2I", len(first), len(grown)) + first + grown
    assert len(grown) > 500
    with pytest.raises(FormatError, match="impossible"):
        opened(Codec.LZ4_BLOCKS, packed, BLOCK + 500)


@pytest.mark.parametrize("codec", [Codec.ZSTD_BLOCKS, Codec.LZ4_BLOCKS])
def test_block_tables_are_read_strictly(codec):
    data = TEXT[: BLOCK + 500]
    packed = squeezed(codec, data)
    one, two = struct.unpack_from(">2I", packed)
    body = packed[8:]
    raw = 1 << 31
    tables = {
        "shifted": (one - 1, two + 1),
        "raw but short": (one | raw, two),
        "full but not raw": (BLOCK, two),
        "too long": (BLOCK + 1, two),
        "past the end": (one, two + 1),
        "before the end": (one, two - 1),
        "empty": (0, one + two),
    }
    for what, table in tables.items():
        with pytest.raises(FormatError):
            opened(codec, struct.pack(">2I", *table) + body, len(data))
            pytest.fail(what)
    for cut in (0, 3, 7):
        with pytest.raises(FormatError):
            opened(codec, packed[:cut], len(data))


BOMBS = """
import resource, struct, sys
import lz4.block, zstandard
from core.compress import decompress_untrusted
from core.errors import FormatError
ZEROS = bytes(32 << 20)
silent = zstandard.ZstdCompressor(write_content_size=False).compress(ZEROS * 8)
tiny = bytes.fromhex("28b52ffd") + b"\\xe0" + struct.pack("<Q", 1 << 32) + b"\\x03\\0\\0"
lz4_bomb = lz4.block.compress(ZEROS, store_size=False)
block = zstandard.ZstdCompressor(write_content_size=False).compress(ZEROS)
table = struct.pack(">2I", len(block), len(block)) + block + block
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), resource.RLIM_INFINITY))
def honest(work):
    try:
        work()
    except MemoryError:
        return
    sys.exit("this bomb does not go off: the test proves nothing")
honest(lambda: zstandard.ZstdDecompressor().decompress(tiny))
honest(lambda: zstandard.ZstdDecompressor().decompress(silent, max_output_size=256 << 20))
honest(lambda: lz4.block.decompress(lz4_bomb, uncompressed_size=32 << 20))
for codec, bomb, plain_len in [
    (1, silent, 1 << 20), (1, tiny, 1 << 20), (2, lz4_bomb, 1 << 20), (3, table, 100_000),
]:
    try:
        decompress_untrusted(bomb, codec, plain_len)
    except FormatError:
        print("refused")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its memory by what /proc says")
def test_decompression_bombs_stop_at_the_recorded_length_within_a_few_megabytes():
    done = subprocess.run(
        [sys.executable, "-c", BOMBS], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "refused\n" * 4), done.stderr


def test_lz4_that_says_more_than_recorded_is_refused():
    with pytest.raises(FormatError):
        opened(Codec.LZ4, lz4.block.compress(bytes(100_000), store_size=False), 1_000)
