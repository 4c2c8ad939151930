# Golden vectors: PYTHONPATH=. python tests/core/test_erasure.py > tests/vectors/erasure.json

import json
import math
import threading
from functools import cache
from itertools import combinations, islice

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from pyeclib.ec_iface import ECDriver

from core import erasure, limits, shards
from core.erasure import Code, Codec
from core.errors import FormatError, LimitExceeded, NewerFormat, NotEnoughShards, Unavailable
from tests.support.pattern import pattern

CODES = sorted({*erasure.DEFAULTS, *erasure.PRESETS}, key=lambda code: (code.n, code.k))
HEADER_BYTES = 80  # what PyECLib puts before each of its fragments
every_code = pytest.mark.parametrize("code", CODES, ids=str)


# --- an independent reading of the specification --------------------------------------------------


def times(a, b):
    """Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = a << 1 ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


@cache
def table(factor):
    return bytes(times(factor, x) for x in range(256))


@cache
def inverse(a):
    return next(x for x in range(1, 256) if times(a, x) == 1)


def own_encode(data, k, n):
    size = math.ceil(math.ceil(len(data) / k) / 64) * 64
    padded = data + bytes(k * size - len(data))
    made = [padded[i * size : (i + 1) * size] for i in range(k)]
    if k == 1:
        return made * n
    for i in range(k, n):
        row = 0
        for j in range(k):
            row ^= int.from_bytes(made[j].translate(table(inverse(i ^ j))))
        made.append(row.to_bytes(size))
    return made


def by_index(made, indexes):
    return {i: made[i] for i in indexes}


# --- which code -----------------------------------------------------------------------------------


def test_the_default_code_follows_the_number_of_peers():
    expected = {
        1: "1/1", 2: "1/2", 3: "1/2", 4: "1/3", 5: "1/3", 6: "2/5", 7: "2/5", 8: "3/7", 9: "4/8",
        10: "4/8", 11: "5/10", 12: "5/10", 13: "7/12", 16: "7/12", 17: "10/16", 26: "10/16",
        27: "16/26", 1000: "16/26",
    }  # fmt: skip
    assert {peers: str(erasure.default_code(peers)) for peers in expected} == expected
    for peers in range(2, 200):
        assert erasure.default_code(peers).n < peers or peers == 2


@every_code
def test_codes_are_read_back_from_their_numbers(code):
    assert Code.read_untrusted(int(code.codec), code.k, code.n) == code
    assert code.codec == (Codec.COPIES if code.k == 1 else Codec.CAUCHY)
    assert code.spare == code.n - code.k


@pytest.mark.parametrize(
    "numbers",
    [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 2, 3), (1, 1, 2), (1, 2, 2), (1, 5, 4), (1, 2, 33),
     (0, 1, 33), (1, 0, 5), (1, 255, 255), (1, -1, 5)],
)  # fmt: skip
def test_codes_that_do_not_exist_are_refused(numbers):
    with pytest.raises(FormatError):
        Code.read_untrusted(*numbers)


@pytest.mark.parametrize("codec", [2, 255, -1])
def test_codecs_of_a_later_portal_are_named_as_such(codec):
    with pytest.raises(NewerFormat):
        Code.read_untrusted(codec, 2, 3)


@given(st.integers(1, limits.OBJECT_BYTES_MAX), st.integers(1, 31))
def test_shards_are_as_short_as_they_can_be(size, k):
    shard_len = Code(k, k + 1).shard_len(size)
    assert shard_len % 64 == 0
    assert k * shard_len >= size > k * (shard_len - 64)


# --- the bytes ------------------------------------------------------------------------------------


@every_code
@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 4096, 9999])
def test_shards_are_those_of_the_definition(code, size):
    data = pattern(size)
    assert erasure.encode(data, code) == own_encode(data, code.k, code.n)


@pytest.mark.parametrize("code", [code for code in CODES if code.k > 1], ids=str)
@pytest.mark.parametrize("size", [1, 640, 70_001])
def test_shards_are_those_of_pyeclib(code, size):
    data = pattern(size)
    driver = ECDriver(k=code.k, m=code.spare, ec_type="isa_l_rs_cauchy")
    padded = data + bytes(code.k * code.shard_len(size) - size)
    fragments = [fragment[HEADER_BYTES:] for fragment in driver.encode(padded)]
    assert erasure.encode(data, code) == fragments


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_taken_and_none_is_kept_that_may_change(kind):
    data, code = pattern(5000), Code(3, 7)
    buffer = kind(data)
    made = erasure.encode(buffer, code)
    if kind is bytearray:
        buffer[:] = bytes(5000)
    assert made == own_encode(data, 3, 7)
    assert all(shard.readonly for shard in made)
    taken = {i: kind(shard) for i, shard in enumerate(made) if i > 3}
    assert erasure.decode(taken, code, 5000) == data


@pytest.mark.parametrize("size", [0, limits.OBJECT_BYTES_MAX + 1])
def test_objects_have_a_length_within_bounds(size):
    with pytest.raises(LimitExceeded):
        erasure.encode(bytes(size), Code(2, 5))
    with pytest.raises(LimitExceeded):
        erasure.decode({}, Code(2, 5), size)


# --- back again -----------------------------------------------------------------------------------


def check_subsets(code, every=1):
    size = 64 * code.k - 7
    data = pattern(size)
    made = [bytes(shard) for shard in erasure.encode(data, code)]
    assert len(made[0]) == 64
    for chosen in islice(combinations(range(code.n), code.k), 0, None, every):
        assert erasure.decode(by_index(made, chosen), code, size) == data


small_codes = [code for code in CODES if math.comb(code.n, code.k) <= 1001]


@pytest.mark.parametrize("code", small_codes, ids=str)
def test_every_choice_of_k_shards_gives_the_object(code):
    check_subsets(code)


@pytest.mark.slow
@pytest.mark.parametrize("code", [Code(10, 16), Code(16, 20)], ids=str)
def test_every_choice_of_k_shards_gives_the_object_in_larger_codes(code):
    check_subsets(code)


@pytest.mark.slow
def test_many_choices_of_sixteen_from_twenty_six_give_the_object():
    check_subsets(Code(16, 26), every=1777)


@pytest.mark.deep
def test_every_choice_of_sixteen_from_twenty_six_gives_the_object():
    check_subsets(Code(16, 26))


def test_together_that_is_every_code():
    assert {*small_codes, Code(10, 16), Code(16, 20), Code(16, 26)} == set(CODES)


@every_code
@pytest.mark.parametrize("size", [1, 100, 20_000])
def test_every_shard_can_be_rebuilt_from_the_last_k(code, size):
    made = erasure.encode(pattern(size), code)
    given_shards = by_index(made, range(code.n - code.k, code.n))
    rebuilt = erasure.rebuild(given_shards, code, range(code.n))
    assert [rebuilt[i] for i in range(code.n)] == made
    for i in range(code.n):
        assert erasure.rebuild(given_shards, code, [i]) == {i: made[i]}
    assert erasure.rebuild(given_shards, code, []) == {}
    assert erasure.decode(given_shards, code, size) == pattern(size)


@given(st.sampled_from(CODES), st.integers(1, 3000), st.randoms())
def test_any_shards_in_any_order_will_do(code, size, chance):
    data = pattern(size)
    made = erasure.encode(data, code)
    indexes = chance.sample(range(code.n), chance.randint(code.k, code.n))
    wanted = chance.sample(range(code.n), chance.randint(0, code.n))
    assert erasure.decode(by_index(made, indexes), code, size) == data
    assert erasure.rebuild(by_index(made, indexes), code, wanted) == by_index(made, wanted)


@every_code
def test_too_few_shards_are_said_to_be_too_few(code):
    made = erasure.encode(pattern(1000), code)
    for few in (range(code.k - 1), range(code.n - code.k + 1, code.n)):
        with pytest.raises(NotEnoughShards):
            erasure.decode(by_index(made, few), code, 1000)
        with pytest.raises(NotEnoughShards):
            erasure.rebuild(by_index(made, few), code, [])


@every_code
def test_shards_that_cannot_be_are_refused(code):
    made = dict(enumerate(erasure.encode(pattern(1000), code)))
    size = len(made[0])
    for bad in (
        {**made, -1: made[0]},
        {**made, code.n: made[0]},
        {**made, 0: made[0][:-1]},
        {**made, 0: made[0][:-64]},
        {**made, code.n - 1: bytes(size + 64)},
        {**made, 0: b""},
        dict.fromkeys(made, bytes(size + 64)),
        dict.fromkeys(made, bytes(size - 1)),
        dict.fromkeys(made, b""),
    ):
        with pytest.raises(FormatError):
            erasure.decode(bad, code, 1000)
    for bad in (
        {**made, -1: made[0]},
        {**made, 0: made[0][:-1]},
        {**made, 0: bytes(size + 64), 1: bytes(size)},  # the library would read past the shorter
        dict.fromkeys(made, b""),
    ):
        with pytest.raises(FormatError):
            erasure.rebuild(bad, code, [0])
    for index in (-1, code.n, 1 << 40):
        with pytest.raises(FormatError):
            erasure.rebuild(made, code, [index])


def test_threads_do_not_disturb_each_other():
    data, code = pattern(40_000), Code(7, 12)
    made = erasure.encode(data, code)
    wrong = []

    def work(lost):
        for turn in range(40):
            few = by_index(made, [i for i in range(12) if (i + turn) % 12 >= lost])
            if erasure.decode(few, code, 40_000) != data or erasure.encode(data, code) != made:
                wrong.append((lost, turn))

    threads = [threading.Thread(target=work, args=[lost]) for lost in (1, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- the library ----------------------------------------------------------------------------------


@pytest.fixture
def library_anew():
    erasure._isal.cache_clear()
    yield
    erasure._isal.cache_clear()


@pytest.mark.usefixtures("library_anew")
def test_a_missing_library_is_said_to_be_missing(monkeypatch):
    monkeypatch.setattr(erasure, "_library_names", lambda: ["/nowhere/libisal.so", "libm.so.6"])
    with pytest.raises(Unavailable):
        erasure.encode(b"data", Code(2, 5))


@pytest.mark.usefixtures("library_anew")
def test_a_library_that_computes_wrongly_is_not_used(monkeypatch):
    real = erasure._isal()

    class Wrong:
        gf_gen_cauchy1_matrix = real.gf_gen_rs_matrix  # the other matrix: not every choice works
        ec_init_tables = real.ec_init_tables
        ec_encode_data = real.ec_encode_data

    class Idle:
        gf_gen_cauchy1_matrix = real.gf_gen_cauchy1_matrix
        ec_init_tables = real.ec_init_tables

        @staticmethod
        def ec_encode_data(*_arguments):
            """Compute nothing."""

    assert erasure._answers_rightly(real)
    assert not erasure._answers_rightly(Wrong)
    assert not erasure._answers_rightly(Idle)
    erasure._isal.cache_clear()
    monkeypatch.setattr(erasure, "_answers_rightly", lambda _library: False)
    with pytest.raises(Unavailable):
        erasure.encode(b"data", Code(2, 5))


# --- golden ---------------------------------------------------------------------------------------


def vectors():
    rows = []
    for code in CODES:
        small, large = (shards.make(pattern(size), code) for size in (700, 70_001))
        rows.append(
            {
                "code": [code.k, code.n],
                "object_len": 700,
                "shards": [shard.hex() for shard in small[1][code.k :]],
                "description": small[0].to_bytes().hex(),
                "root": small[0].root.hex(),
                "names": [small[0].shard_name(i).hex() for i in (0, code.n - 1)],
                "large_object_len": 70_001,
                "large_shards_blake3": [blake3(shard).hexdigest() for shard in large[1]],
                "large_root": large[0].root.hex(),
            }
        )
    return {
        "about": (
            "Objects of tests/support/pattern.py. 'shards' are those after the first k, which hold"
            " the zero-padded object; 'names' are those of the first and the last shard."
        ),
        "objects": rows,
    }


def test_golden(golden):
    frozen = golden("erasure.json")
    assert frozen == vectors()
    assert [tuple(row["code"]) for row in frozen["objects"]] == [(c.k, c.n) for c in CODES]
    for row in frozen["objects"]:
        k, n = row["code"]
        own = own_encode(pattern(row["object_len"]), k, n)
        assert [bytes.fromhex(shard) for shard in row["shards"]] == own[k:]
        large = own_encode(pattern(row["large_object_len"]), k, n)
        assert row["large_shards_blake3"] == [blake3(shard).hexdigest() for shard in large]
        chosen = {i: bytes.fromhex(s) for i, s in enumerate(row["shards"], k)}
        chosen |= {i: own[i] for i in range(max(0, k - len(chosen)))}
        assert erasure.decode(chosen, Code(k, n), row["object_len"]) == pattern(row["object_len"])


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
