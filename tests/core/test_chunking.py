# Golden vectors: PYTHONPATH=. python tests/core/test_chunking.py > tests/vectors/chunking.json

import contextlib
import io
import itertools
import json
import struct
import threading
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import chunking, limits, native
from core.chunking import Chunker, FixedParams, GearParams, SeqCdcParams
from core.errors import FormatError, NewerFormat, Unavailable
from core.secret import Secret
from tests.support.cuttable import cuttable, random_bytes

KIB, MIB = limits.KIB, limits.MIB
KEY = Secret(bytes(range(32)))
OTHER_KEY = Secret(bytes(range(1, 33)))

# The registered algorithms at a size that makes thousands of chunks of little data.
TINY = [
    SeqCdcParams("tiny seqcdc", 1 * KIB, 7 * KIB),
    GearParams("tiny gear", 1 * KIB, 3 * KIB, 16 * KIB, 16 * KIB, 1 * KIB),
    FixedParams("tiny fixed", 4 * KIB),
]
BY_CONTENT = TINY[:2]
REGISTERED = list(chunking.PARAMS.values())


def name_of(value):
    return getattr(value, "name", None)


def pieces(chunker, data):
    ends = chunker.cuts(data, final=True)
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


# --- parameter sets ------------------------------------------------------------------------------


def test_the_registered_sets_are_frozen():
    assert [
        SeqCdcParams("seqcdc-1m-1", 524_288, 1_572_864),
        SeqCdcParams("seqcdc-4m-1", 2_097_152, 6_291_456),
        GearParams("gear-1m-1", 262_144, 864_256, 4_128_768, 4_194_304, 262_144),
        GearParams("gear-4m-1", 1_048_576, 3_457_024, 16_777_216, 16_777_216, 1_048_576),
        FixedParams("fixed-1m-1", 1_048_576),
    ] == REGISTERED


@pytest.mark.parametrize("params", REGISTERED, ids=name_of)
def test_every_chunk_fits_where_it_goes(params):
    assert 256 * KIB <= params.min_bytes <= params.max_bytes
    vault = "-1m-" in params.name
    assert params.max_bytes <= (limits.CHUNK_PLAIN_BYTES_MAX if vault else 16 * MIB)
    assert chunking.params_untrusted(params.name) is params
    assert chunking.PARAMS[params.name] is params


def test_the_defaults_exist():
    assert {chunking.DEFAULT_VAULT, chunking.DEFAULT_ARCHIVE} <= set(chunking.PARAMS)


@pytest.mark.parametrize("name", ["seqcdc-1m-2", "", "GEAR-1M-1"])
def test_an_unknown_set_is_named_beside_the_known_ones(name):
    with pytest.raises(NewerFormat) as caught:
        chunking.params_untrusted(name)
    for known in (name, *chunking.PARAMS):
        assert known in str(caught.value)


@pytest.mark.parametrize("name", ["gear\n-1m-1", "\x1b[31m", "x" * 65])
def test_what_cannot_be_a_name_is_not_repeated(name):
    with pytest.raises(FormatError) as caught:
        chunking.params_untrusted(name)
    assert name not in str(caught.value)


@pytest.mark.parametrize(
    "params",
    [
        replace(TINY[0], min_bytes=63),
        replace(TINY[0], max_bytes=1023),
        replace(TINY[0], max_bytes=limits.CHUNKER_BYTES_MAX + 1),
        replace(TINY[1], normal_bytes=17 * KIB),
        replace(TINY[1], loose_distance_bytes=32 * KIB),
        replace(TINY[1], loose_distance_bytes=1),
        replace(TINY[1], strict_distance_bytes=0),
        replace(TINY[1], strict_distance_bytes=-1),
        replace(TINY[2], size_bytes=0),
        replace(TINY[2], size_bytes=-1),
        replace(TINY[2], size_bytes=limits.CHUNKER_BYTES_MAX + 1),
    ],
)
def test_sizes_that_would_harm_are_refused(params):
    with pytest.raises(FormatError):
        Chunker(params, KEY)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_is_refused(size):
    with pytest.raises(FormatError):
        Chunker(TINY[0], Secret(bytes(size)))


# --- cuts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", TINY, ids=name_of)
@given(data=cuttable(60_000))
@example(data=random_bytes(60_000))
@example(data=bytes(60_000))
def test_chunks_keep_to_min_and_max_and_lose_nothing(params, data):
    found = pieces(Chunker(params, KEY), data)
    assert b"".join(found) == data
    assert all(params.min_bytes <= len(piece) for piece in found[:-1])
    assert all(0 < len(piece) <= params.max_bytes for piece in found)


@pytest.mark.parametrize("params", TINY, ids=name_of)
@given(data=cuttable(60_000), sizes=st.lists(st.integers(300, 20_000), min_size=1, max_size=9))
@example(data=random_bytes(60_000), sizes=[1_500])
def test_however_a_stream_is_fed_its_cuts_are_the_same(params, data, sizes):
    chunker = Chunker(params, KEY)
    cuts, tail, start, rest = [], b"", 0, data
    for size in itertools.cycle(sizes):
        tail, rest = tail + rest[:size], rest[size:]
        ends = chunker.cuts(tail, final=not rest)
        cuts += [start + end for end in ends]
        if ends:
            start, tail = start + ends[-1], tail[ends[-1] :]
        assert len(tail) < params.max_bytes
        if not rest:
            break
    assert cuts == chunker.cuts(data, final=True)


@pytest.mark.parametrize("params", TINY, ids=name_of)
def test_what_is_decided_early_stays_decided(params):
    chunker = Chunker(params, KEY)
    data = random_bytes(9_000) + bytes(20_000) + random_bytes(9_000)
    whole = chunker.cuts(data, final=True)
    for known in range(0, len(data), 61):
        early = chunker.cuts(data[:known], final=False)
        assert early == whole[: len(early)]


@pytest.mark.parametrize("params", BY_CONTENT, ids=name_of)
def test_cuts_begin_anew_at_each_boundary(params):
    chunker = Chunker(params, KEY)
    data = random_bytes(200_000)
    ends = chunker.cuts(data, final=True)
    for i in (0, 5, len(ends) - 2):
        rest = chunker.cuts(data[ends[i] :], final=True)
        assert [ends[i] + end for end in rest] == ends[i + 1 :]


@pytest.mark.parametrize("params", BY_CONTENT, ids=name_of)
@pytest.mark.parametrize("edit", ["insert a byte", "insert a lot", "delete", "change"])
def test_after_an_edit_the_old_cuts_come_back(params, edit):
    chunker = Chunker(params, KEY)
    data = random_bytes(400_000)
    at = 150_000
    new = {
        "insert a byte": data[:at] + b"!" + data[at:],
        "insert a lot": data[:at] + random_bytes(9_999, "inserted") + data[at:],
        "delete": data[:at] + data[at + 777 :],
        "change": data[:at] + bytes(100) + data[at + 100 :],
    }[edit]
    before, after = chunker.cuts(data, final=True), chunker.cuts(new, final=True)
    # SeqCDC chooses among all it sees up to max; whatever is chosen further away stays.
    far = at - params.max_bytes
    assert [end for end in before if end <= far] == [end for end in after if end <= far]
    # Counted from the end, the cuts agree again soon after the edit.
    tails = {len(data) - end for end in before}
    first_again = min(end for end in after if end > at and len(new) - end in tails)
    assert first_again - at < 30 * params.max_bytes // 7
    rest = [len(new) - end for end in after if end >= first_again]
    assert rest == [len(data) - end for end in before if len(data) - end <= rest[0]]


def test_fixed_pieces_do_not_come_back():
    chunker = Chunker(TINY[2], KEY)
    data = random_bytes(50_000)
    assert not set(pieces(chunker, data)) & set(pieces(chunker, b"!" + data))


@pytest.mark.parametrize("params", BY_CONTENT, ids=name_of)
def test_another_key_cuts_elsewhere(params):
    data = random_bytes(300_000)
    one = set(Chunker(params, KEY).cuts(data, final=True))
    two = set(Chunker(params, OTHER_KEY).cuts(data, final=True))
    assert len(one & two) < len(one) // 10


def test_the_two_algorithms_use_the_key_apart():
    seqcdc = chunking._expand(KEY, b"seqcdc", 48).reveal()
    assert seqcdc != chunking._expand(KEY, b"gear", 48).reveal()
    assert chunking._expand(KEY, b"gear", 2048).reveal()[:48] != seqcdc


@pytest.mark.parametrize("params", TINY, ids=name_of)
def test_the_average_is_as_promised(params):
    data = random_bytes(2 * MIB)
    mean = len(data) / len(Chunker(params, KEY).cuts(data, final=True))
    assert 3_700 < mean < 4_500  # a thousandth of the 1 MiB and 4 MiB sets, more or less


@pytest.mark.parametrize("name", ["seqcdc-1m-1", "gear-1m-1"])
def test_the_average_of_a_registered_set_is_near_its_name(name):
    data = random_bytes(64 * MIB)
    mean = len(data) / len(Chunker(chunking.PARAMS[name], KEY).cuts(data, final=True))
    assert 0.85 * MIB < mean < 1.2 * MIB


@pytest.mark.parametrize("params", BY_CONTENT, ids=name_of)
def test_a_file_of_zeros_is_cut_at_max(params):
    ends = Chunker(params, KEY).cuts(bytes(10 * params.max_bytes), final=True)
    assert ends == [params.max_bytes * i for i in range(1, 11)]


def test_counters_are_cut_by_content():
    # Rising bytes, as SeqCDC compares them unkeyed, never occur in such a table.
    data = struct.pack("<100000I", *range(100_000))
    sizes = {len(piece) for piece in pieces(Chunker(TINY[0], KEY), data)}
    assert len(sizes) > 20


# --- streams -------------------------------------------------------------------------------------


class Stingy(io.BytesIO):
    """Gives less than asked, as pipes do."""

    def readinto(self, view):
        return super().readinto(view[:100_001])


@pytest.mark.parametrize("file", [io.BytesIO, Stingy])
@pytest.mark.parametrize("size", [0, 1, 1024, 9 * MIB, 8 * MIB, 17 * MIB + 5])
def test_a_stream_gives_the_same_chunks(file, size):
    chunker = Chunker(SeqCdcParams("large", 64 * KIB, 448 * KIB), KEY)
    data = random_bytes(size)
    found = chunker.split(file(data).readinto)
    assert [bytes(piece) for piece in found] == pieces(chunker, data)
    found = chunker.split(file(data).readinto, size)
    assert [bytes(piece) for piece in found] == pieces(chunker, data)


@pytest.mark.parametrize("size", [0, 1, 20_000, 9 * MIB, 30 * MIB])
def test_a_stream_of_known_length_is_read_that_far_or_to_its_end(size):
    chunker = Chunker(TINY[0], KEY)
    data = random_bytes(9 * MIB)
    stream = io.BytesIO(data)
    found = b"".join(chunker.split(stream.readinto, size))
    assert found == data[:size]
    assert stream.tell() == len(found)


def test_many_short_streams_take_little_memory():
    chunker = Chunker(SeqCdcParams("large", 512 * KIB, 1536 * KIB), KEY)
    data = random_bytes(600 * KIB)
    kept = [list(chunker.split(io.BytesIO(data).readinto, len(data))) for _ in range(24)]
    assert len({id(pieces[0].obj) for pieces in kept}) <= 3
    assert all(b"".join(pieces) == data for pieces in kept)


def test_chunks_of_a_stream_stay_what_they_are():
    chunker = Chunker(TINY[0], KEY)
    data = random_bytes(9 * MIB)
    kept = list(chunker.split(io.BytesIO(data).readinto))
    assert all(piece.readonly for piece in kept)
    assert b"".join(kept) == data


def test_threads_may_share_a_chunker():
    chunker = Chunker(TINY[0], KEY)
    data = random_bytes(1 * MIB)
    expected, found = chunker.cuts(data, final=True), []
    threads = [
        threading.Thread(target=lambda: found.append(chunker.cuts(data, final=True)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


# --- golden vectors ------------------------------------------------------------------------------

# What is cut: `random` alone for the large sets, everything for the small ones.
SMALL = {
    "seqcdc": SeqCdcParams("s", 1024, 3072),
    "gear": GearParams("g", 512, 1500, 4096, 4096, 512),
}


def streams(size):
    quarter = size // 4
    ramp = bytes(range(256)) * (quarter // 256)
    counters = struct.pack(f"<{quarter // 4}I", *range(quarter // 4))
    return {
        "random": random_bytes(size),
        "mixed": random_bytes(quarter) + bytes(quarter) + ramp + counters,
    }


def cut_all(params, size, kernel):
    chunker = Chunker(params, KEY, kernel=kernel)
    return {
        name: {
            "final": chunker.cuts(data, final=True),
            "not final": len(chunker.cuts(data, final=False)),
        }
        for name, data in streams(size).items()
    }


def registered_size(params):
    return 6 * params.max_bytes if params.min_bytes < MIB else 4 * params.max_bytes


def vectors(kernel):
    entropy = {f"random, {n}": random_bytes(n) for n in (1, 255, 4096, 4097, 100_000)}
    entropy |= {"mixed, 100000": streams(100_000)["mixed"], "abracadabra": b"abracadabra"}
    first, second, start, multipliers = native.rules.SeqCdcRule(
        64, 64, chunking._expand(KEY, b"seqcdc", 48)
    ).numbers()
    table = native.rules.GearRule(64, 64, 64, 0, 0, chunking._expand(KEY, b"gear", 2048)).table()
    return {
        "about": [
            "key: K_cdc. random, n bytes: BLAKE3 keyed with 32 zero bytes over the ASCII text",
            "'portal chunking vector', n bytes of XOF. mixed, n bytes, in quarters: random, zeros,",
            "00 to ff over and over, u32 little-endian 0, 1, 2, ... Cuts are end offsets; 'not",
            "final' counts those that are decided without knowing that the stream ends.",
        ],
        "key": KEY.reveal().hex(),
        "seqcdc": {
            "first": first,
            "second": second,
            "start": f"{start:016x}",
            "multipliers": [f"{number:016x}" for number in multipliers],
            "sizes": [1024, 3072],
            "size": 16_384,
            "cuts": cut_all(SMALL["seqcdc"], 16_384, kernel),
        },
        "gear": {
            "table 0, 1, 255": [f"{table[i]:016x}" for i in (0, 1, 255)],
            "sizes": [512, 1500, 4096],
            "distances": [4096, 512],
            "size": 16_384,
            "cuts": cut_all(SMALL["gear"], 16_384, kernel),
        },
        "sets": {
            params.name: {
                "size": registered_size(params),
                "cuts": cut_all(params, registered_size(params), kernel),
            }
            for params in REGISTERED
        },
        "entropy, thousandths of a bit per byte": {
            name: kernel.entropy_mbits(data) for name, data in entropy.items()
        },
    }


def working_kernels():
    for name in native.NAMES:
        with contextlib.suppress(Unavailable):
            yield native.open_kernel(name)


@pytest.fixture(scope="session", params=working_kernels(), ids=name_of)
def any_kernel(request):
    return request.param


def test_small_vectors_are_as_ever(golden, any_kernel):
    frozen = golden("chunking.json")
    for name, params in SMALL.items():
        assert cut_all(params, frozen[name]["size"], any_kernel) == frozen[name]["cuts"]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(chunking.PARAMS))
def test_cuts_are_as_ever(golden, any_kernel, name):
    if any_kernel.name == "python" and name != "seqcdc-1m-1":
        pytest.skip("too many bytes for pure Python; the small vectors do it")
    params = chunking.PARAMS[name]
    frozen = golden("chunking.json")["sets"][name]
    assert cut_all(params, frozen["size"], any_kernel) == frozen["cuts"]


@pytest.mark.slow
def test_everything_else_in_the_vectors_is_as_ever(golden):
    assert json.loads(json.dumps(vectors(native.open_kernel()))) == golden("chunking.json")


if __name__ == "__main__":
    print(json.dumps(vectors(native.open_kernel()), indent=1))
