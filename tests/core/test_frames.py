import itertools
import random
import struct

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from core import frames, limits
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat, WrongKey
from core.frames import FRAME_OVERHEAD_BYTES, HEADER_BYTES, Compression, Decryptor, Encryptor
from core.secret import Secret
from tests.support.damage import assert_all_refused
from tests.support.entropy import fixed_entropy
from tests.support.pattern import pattern
from tests.support.stream_stranger import COMPRESSED, ENCRYPTED, FINAL, open_stream, seal_frame

RAW_KEY = bytes(range(32))
KEY = Secret(RAW_KEY)
CHUNK = limits.STREAM_CHUNK_SIZES_BYTES[0]
NOISE = random.Random(5).randbytes(3 * CHUNK + 5)
TEXT = b"".join(b"line %d of a text\n" % (n * n) for n in range(12_000))


def encryptor(seed="a", **options):
    return Encryptor(KEY, **({"chunk_bytes": CHUNK} | options), entropy=fixed_entropy(seed))


def short_stream(pieces=(b"first", b"second", b"third", b""), seed="a", **options):
    """The header, then one frame per piece, the last of them final."""
    engine = encryptor(seed, **options)
    parts = [engine.start()]
    parts += [engine.feed(piece) + engine.flush() for piece in pieces[:-1]]
    engine.feed(pieces[-1])
    return [b"".join(part) for part in [*parts, engine.finish()]]


def whole(data, **options):
    engine = encryptor(**options)
    return b"".join([*engine.start(), *engine.feed(data), *engine.finish()])


def opened(stream, key=KEY):
    """Everything, or the error; nothing of a stream that is not whole."""
    engine = Decryptor(key)
    plain = b"".join(engine.receive_untrusted(stream))
    engine.eof()
    return plain


def opened_until_refused(stream, step=None):
    """What came out before the error, and the error."""
    engine, out = Decryptor(KEY), []
    try:
        for start in range(0, len(stream), step or len(stream)):
            out += map(bytes, engine.receive_untrusted(stream[start:][: step or len(stream)]))
        engine.eof()
    except (FormatError, IntegrityError) as e:
        return out, e
    return out, None


def forged(*payloads_and_flags):
    """A stream of frames that only somebody with the key could make."""
    header = short_stream()[0]
    sealed = [seal_frame(RAW_KEY, header, n, *pf) for n, pf in enumerate(payloads_and_flags)]
    return b"".join([header, *sealed])


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5])
def test_what_was_sealed_comes_back(size, compression):
    for data in (NOISE[:size], TEXT[:size], bytes(size)):
        stream = whole(data, compression=compression)
        assert opened(stream) == data
        assert b"".join(open_stream(RAW_KEY, stream)) == data


@pytest.mark.parametrize("chunk_bytes", limits.STREAM_CHUNK_SIZES_BYTES)
def test_every_chunk_size_makes_frames_of_that_size(chunk_bytes):
    data = (NOISE * 12)[: 2 * chunk_bytes + 9]
    stream = whole(data, chunk_bytes=chunk_bytes)
    assert len(stream) == HEADER_BYTES + len(data) + 3 * FRAME_OVERHEAD_BYTES
    assert list(map(len, open_stream(RAW_KEY, stream))) == [chunk_bytes, chunk_bytes, 9]
    assert opened(stream) == data


def test_an_empty_stream_is_a_header_and_a_final_frame():
    stream = whole(b"")
    assert len(stream) == HEADER_BYTES + FRAME_OVERHEAD_BYTES
    assert opened(stream) == b""


def test_a_flush_sends_what_there_is_and_nothing_when_there_is_nothing():
    engine = encryptor()
    engine.start()
    assert engine.flush() == []
    assert engine.feed(b"ab") == []
    assert engine.feed(b"c") == []
    assert len(b"".join(engine.flush())) == 3 + FRAME_OVERHEAD_BYTES
    assert engine.flush() == []


@given(
    st.lists(st.integers(0, 2 * CHUNK) | st.just("flush"), max_size=8),
    st.lists(st.integers(1, 3 * CHUNK), max_size=8),
    st.sampled_from(Compression),
)
def test_any_feeds_and_any_receives_carry_the_same_bytes(steps, cuts, compression):
    engine, parts, expected = encryptor(compression=compression), [], b""
    parts += engine.start()
    for step in steps:
        if step == "flush":
            parts += engine.flush()
        else:
            data = (TEXT if len(parts) % 2 else NOISE)[:step]
            expected += data
            parts += engine.feed(data)
    stream = b"".join([*parts, *engine.finish()])
    reader, plain = Decryptor(KEY), []
    for size in itertools.chain(cuts, [len(stream)]):
        received, stream = stream[:size], stream[size:]
        plain += reader.receive_untrusted(received)
    reader.eof()
    assert b"".join(plain) == expected


def test_a_stream_may_come_byte_by_byte():
    stream = b"".join(short_stream())
    assert opened_until_refused(stream, step=1) == ([b"first", b"second", b"third"], None)


def test_buffers_may_be_overwritten_as_soon_as_a_verb_has_returned():
    engine, parts = encryptor(), []
    parts += engine.start()
    buffer = bytearray(CHUNK // 2)
    for n in range(5):
        buffer[:] = bytes([n]) * len(buffer)
        parts += engine.feed(buffer)
    stream = b"".join([*parts, *engine.finish()])
    expected = b"".join(bytes([n]) * len(buffer) for n in range(5))
    assert opened(stream) == expected
    reader, plain = Decryptor(KEY), []
    for start in range(0, len(stream), 1000):
        part = bytearray(stream[start : start + 1000])
        plain += reader.receive_untrusted(part)
        part[:] = bytes(len(part))
    assert b"".join(plain) == expected


def test_compression_is_used_where_it_helps_and_said_frame_by_frame():
    for compression in (Compression.LZ4, Compression.ZSTD):
        engine = encryptor(compression=compression)
        engine.start()
        for data, shrinks in [(TEXT[:CHUNK], True), (NOISE[:CHUNK], False), (TEXT[:CHUNK], True)]:
            head, sealed = engine.feed(data)
            flags = struct.unpack(">QIHH", head)[2]
            assert bool(flags & COMPRESSED) == shrinks
            assert (len(sealed) < CHUNK) == shrinks
            assert len(sealed) <= CHUNK + limits.AEAD_TAG_BYTES


def test_verbs_out_of_order_are_refused():
    engine = encryptor()
    for verb in (lambda: engine.feed(b"x"), engine.flush, engine.finish):
        with pytest.raises(AssertionError):
            verb()
    engine.start()
    engine.finish()
    for verb in (lambda: engine.feed(b"x"), engine.flush, engine.finish):
        with pytest.raises(AssertionError):
            verb()
    with pytest.raises(AssertionError):
        encryptor(chunk_bytes=CHUNK + 1)


def test_plaintexts_left_behind_are_noticed():
    reader = Decryptor(KEY)
    next(reader.receive_untrusted(b"".join(short_stream())))
    with pytest.raises(AssertionError):
        reader.receive_untrusted(b"more")
    with pytest.raises(AssertionError):
        reader.eof()


# --- keys and nonces ------------------------------------------------------------------------------


def recorded(monkeypatch):
    """Every (key, nonce) that seals from here on."""
    used = []
    seal = frames.aead_seal

    def recording(key, nonce, data, aad):
        used.append((key, nonce))
        return seal(key, nonce, data, aad)

    monkeypatch.setattr(frames, "aead_seal", recording)
    return used


def test_no_key_ever_meets_a_nonce_twice(monkeypatch):
    used = recorded(monkeypatch)
    for seed in ("a", "b", "c"):
        short_stream([b"same"] * 50, seed=seed)
    assert len(set(used)) == 150
    assert len({key for key, _ in used}) == len({nonce[:4] for _, nonce in used}) == 3
    assert [int.from_bytes(nonce[4:]) for _, nonce in used] == list(range(50)) * 3


def test_the_same_bytes_are_never_sealed_to_the_same_bytes():
    sealed = []
    for seed in ("a", "b"):
        parts = short_stream([NOISE[:100]] * 3, seed=seed)
        sealed += [parts[0][8:], *(part[16:] for part in parts[1:])]
    windows = [{part[n : n + 8] for n in range(len(part) - 7)} for part in sealed]
    assert len(set.union(*windows)) == sum(map(len, windows))


def test_keys_change_with_the_number_of_frames(monkeypatch):
    monkeypatch.setattr(limits, "STREAM_EPOCH_FRAMES_MAX", 3)
    used = recorded(monkeypatch)
    pieces = [b"%d" % n for n in range(10)]
    parts = short_stream(pieces)
    assert opened_until_refused(b"".join(parts)) == (pieces, None)
    keys = [key for key, _ in used]
    assert [len(list(group)) for _, group in itertools.groupby(keys)] == [3, 3, 3, 1]
    assert len(set(keys)) == 4
    for number in range(9):
        expected = seal_frame(
            RAW_KEY, parts[0], number, pieces[number], ENCRYPTED, epoch=number // 3
        )
        assert parts[1 + number] == expected


def test_keys_change_with_the_number_of_bytes(monkeypatch):
    monkeypatch.setattr(limits, "STREAM_EPOCH_BYTES_MAX", 100)
    used = recorded(monkeypatch)
    pieces = [b"x" * size for size in (50, 49, 1, 100, 99, 200, 1, 99, 7)]
    assert opened_until_refused(b"".join(short_stream(pieces))) == (pieces, None)
    keys = [key for key, _ in used]
    assert [len(list(group)) for _, group in itertools.groupby(keys)] == [3, 1, 2, 2, 1]


def test_keys_change_long_before_a_counter_wraps():
    assert limits.STREAM_EPOCH_FRAMES_MAX < limits.STREAM_FRAMES_MAX < 1 << 63
    assert limits.STREAM_EPOCH_BYTES_MAX < limits.CHUNK_PLAIN_BYTES_MAX << 32


def test_a_stream_ends_before_its_numbers_do(monkeypatch):
    monkeypatch.setattr(limits, "STREAM_FRAMES_MAX", 3)
    short_stream([b"x"] * 3)
    with pytest.raises(LimitExceeded):
        short_stream([b"x"] * 4)


def test_a_wrong_key_is_told_before_anything_is_decrypted(monkeypatch):
    def decrypts(*_):
        pytest.fail("decrypted under a key that was not committed to")

    monkeypatch.setattr(frames, "aead_open", decrypts)
    parts = short_stream()
    for at in (8, 31, 32, 63):  # salt and commitment
        header = bytearray(parts[0])
        header[at] ^= 1
        with pytest.raises(WrongKey):
            opened(bytes(header) + parts[1])
    with pytest.raises(WrongKey):
        opened(b"".join(parts), Secret(b"other key" + bytes(23)))


def test_keys_are_not_shown():
    shown = repr(vars(encryptor())) + repr(vars(Decryptor(KEY)))
    assert RAW_KEY.hex() not in shown
    assert repr(RAW_KEY)[2:-1] not in shown


# --- what is refused, and the word for it ---------------------------------------------------------


def test_any_damage_is_refused():
    assert_all_refused(opened, b"".join(short_stream()))
    assert_all_refused(opened, whole(b""))
    assert_all_refused(
        opened, b"".join(short_stream([b"ab" * 99, b"c"], compression=Compression.LZ4))
    )


@pytest.mark.parametrize("step", [None, 1, 7])
def test_every_cut_is_called_one_and_gives_whole_frames_only(step):
    parts = short_stream()
    stream = b"".join(parts)
    ends = list(itertools.accumulate(map(len, parts)))
    for size in range(1, len(stream)):
        out, error = opened_until_refused(stream[:size], step)
        assert isinstance(error, IntegrityError)
        assert "cut short" in str(error)
        complete = sum(end <= size for end in ends) - 1
        assert out == [b"first", b"second", b"third"][: max(0, complete)]
    inside = opened_until_refused(stream[: ends[1] + 20])[1]
    assert "ends inside frame 1," in str(inside)
    assert "ends before frame 2," in str(opened_until_refused(stream[: ends[2]])[1])


def test_something_else_is_not_called_a_stream():
    for other in (b"", b"hello\n", b"hello\n" * 20, bytes(500), b"PTWX" + bytes(90)):
        with pytest.raises(FormatError, match="not an encrypted stream") as caught:
            opened(other)
        assert not isinstance(caught.value, NewerFormat)


SOME = 5  # frames, the last of them final


def rearranged():
    header, *f = short_stream([b"frame %d" % n for n in range(SOME)])
    other_header, *o = short_stream([b"other %d" % n for n in range(SOME)], seed="b")
    return {
        "frames swapped": ([header, f[0], f[2], f[1], *f[3:]], "missing or out of order"),
        "first frame moved": ([header, *f[1:4], f[0], f[4]], "frame 1 came where frame 0 was due"),
        "all reversed": ([header, *f[::-1]], "missing or out of order"),
        "one moved back": ([header, f[0], f[1], f[0]], "repeated or out of order"),
        "repeated": ([header, f[0], f[1], f[1], *f[2:]], "frame 1 came where frame 2 was due"),
        "final frame repeated": ([header, *f, f[-1]], "something follows the end"),
        "one dropped": ([header, f[0], *f[2:]], "frame 2 came where frame 1 was due"),
        "final frame dropped": ([header, *f[:-1]], "cut short"),
        "frame of another stream": ([header, f[0], o[1], *f[2:]], "from another stream"),
        "rest of another stream": ([header, f[0], f[1], *o[2:]], "from another stream"),
        "final frame of another stream": ([header, *f[:-1], o[-1]], "from another stream"),
        "under another header": ([other_header, *f], "from another stream"),
        "streams joined": ([header, *f[:2], other_header, *o], "another stream begins"),
        "one stream after another": ([header, *f, other_header, *o], "something follows the end"),
        "header twice": ([header, header, *f], "another stream begins"),
        "something behind the end": ([header, *f, b"\0"], "something follows the end"),
        "something between frames": ([header, f[0], b"\0", *f[1:]], "frame"),
        "nonsense for a frame": ([header, f[0], b"\xff" * 99], "is no frame"),
    }


@pytest.mark.parametrize("step", [None, 1, 50])
@pytest.mark.parametrize("how", list(rearranged()))
def test_what_was_rearranged_is_refused_by_name(how, step):
    parts, message = rearranged()[how]
    out, error = opened_until_refused(b"".join(parts), step)
    assert isinstance(error, FormatError | IntegrityError)
    assert message in str(error)
    assert out == [b"frame %d" % n for n in range(len(out))]  # never of the other stream


def test_nothing_unverified_ever_comes_out():
    pieces = [b"frame %d" % n for n in range(4)]
    parts = short_stream(pieces)
    stream = b"".join(parts)
    ends = list(itertools.accumulate(map(len, parts)))
    for at in range(HEADER_BYTES, len(stream)):
        flipped = bytearray(stream)
        flipped[at] ^= 0x40
        out, error = opened_until_refused(bytes(flipped))
        assert error
        assert out == pieces[: sum(end <= at for end in ends) - 1]


def test_after_a_failure_nothing_more_is_read():
    header, first, second, *rest = short_stream()
    reader = Decryptor(KEY)
    assert list(reader.receive_untrusted(header + first)) == [b"first"]
    with pytest.raises(IntegrityError, match="frame 1 was changed") as failure:
        list(reader.receive_untrusted(second[:-1] + bytes([second[-1] ^ 1])))
    for retry in (lambda: list(reader.receive_untrusted(b"".join([second, *rest]))), reader.eof):
        with pytest.raises(IntegrityError) as again:
            retry()
        assert again.value is failure.value


def test_after_the_end_only_nothing_may_come():
    reader = Decryptor(KEY)
    list(reader.receive_untrusted(b"".join(short_stream())))
    reader.eof()
    assert list(reader.receive_untrusted(b"")) == []
    with pytest.raises(IntegrityError, match="follows the end"):
        list(reader.receive_untrusted(b"\0"))


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, 0x51, FormatError),
        (4, 0, FormatError),
        (4, 2, NewerFormat),
        (5, 0, FormatError),
        (5, 2, NewerFormat),
        (6, 15, FormatError),
        (6, 17, FormatError),
        (6, 21, FormatError),
        (6, 255, FormatError),
        (6, 20, IntegrityError),  # a size that exists: the first frame disagrees
        (7, 1, FormatError),
    ],
)
def test_the_header_is_read_strictly(at, value, error):
    parts = short_stream()
    header = bytearray(parts[0])
    header[at] = value
    with pytest.raises(error) as caught:
        opened(bytes(header) + b"".join(parts[1:]))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"flags": 0}, FormatError),
        ({"flags": FINAL}, FormatError),
        ({"flags": ENCRYPTED | 8}, FormatError),
        ({"flags": ENCRYPTED | 0x8000}, FormatError),
        ({"zero": 1}, FormatError),
        ({"sequence": 1 << 48}, FormatError),
        ({"sequence": 1}, IntegrityError),
        ({"payload": b""}, FormatError),
        ({"length": CHUNK + 1}, LimitExceeded),
        ({"length": (1 << 32) - 1}, LimitExceeded),
        ({"flags": ENCRYPTED | COMPRESSED, "payload": b""}, FormatError),
    ],
)
def test_frame_headers_are_read_strictly_even_from_who_has_the_key(change, error):
    header = short_stream()[0]
    made = {"sequence": 0, "payload": b"abc", "flags": ENCRYPTED}
    reader = Decryptor(KEY)
    assert list(reader.receive_untrusted(header + seal_frame(RAW_KEY, header, **made))) == [b"abc"]
    with pytest.raises(error):
        opened(header + seal_frame(RAW_KEY, header, **(made | change)))


def test_a_length_is_judged_before_its_bytes_are_waited_for():
    header = short_stream()[0]
    reader = Decryptor(KEY)
    with pytest.raises(LimitExceeded):
        list(reader.receive_untrusted(header + struct.pack(">QIHH", 0, CHUNK + 1, ENCRYPTED, 0)))
    assert len(reader._held) == CHUNK + limits.AEAD_TAG_BYTES


@pytest.mark.parametrize("flags", [ENCRYPTED | FINAL, ENCRYPTED | COMPRESSED, 0])
def test_flags_are_authenticated(flags):
    header, first, *rest = short_stream()
    changed = first[:12] + flags.to_bytes(2) + first[14:]
    with pytest.raises((FormatError, IntegrityError)):
        opened(b"".join([header, changed, *rest]))
    assert "changed" in str(opened_until_refused(header + changed)[1]) or not flags


# --- bombs, made by someone who has the key -------------------------------------------------------

ZEROS = bytes(CHUNK + 1)


def squeezed(codec, plain_len, data):
    return struct.pack(">BI", codec, plain_len) + data


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (squeezed(1, CHUNK + 1, zstandard.compress(ZEROS)), LimitExceeded),
        (squeezed(1, (1 << 32) - 1, zstandard.compress(ZEROS)), LimitExceeded),
        (squeezed(1, CHUNK, zstandard.compress(ZEROS)), FormatError),
        (squeezed(1, 9, zstandard.compress(bytes(1 << 24))), FormatError),
        (squeezed(2, CHUNK, lz4.block.compress(ZEROS, store_size=False)), FormatError),
        (squeezed(2, CHUNK + 1, lz4.block.compress(ZEROS, store_size=False)), LimitExceeded),
        (squeezed(2, CHUNK, lz4.block.compress(ZEROS[:-2], store_size=False)), FormatError),
        (squeezed(1, 100, b"not zstd"), FormatError),
        (squeezed(2, 100, b"not LZ4"), FormatError),
        (squeezed(0, 3, b"abc"), NewerFormat),
        (squeezed(3, 100, b"blocks"), NewerFormat),
        (squeezed(9, 100, b"later"), NewerFormat),
        (squeezed(1, 0, b"x"), FormatError),
        (squeezed(1, 5, b""), FormatError),
        (b"\x01", FormatError),
        (b"", FormatError),
    ],
)
def test_what_expands_otherwise_than_it_says_is_refused(payload, error):
    with pytest.raises(error):
        opened(forged((payload, ENCRYPTED | COMPRESSED | FINAL)))


def test_frames_expand_one_at_a_time(monkeypatch):
    # A thousand of these fit in one read: 64 MiB that must not exist at once.
    payload = squeezed(1, CHUNK, zstandard.compress(ZEROS[:CHUNK]))
    stream = forged(*[(payload, ENCRYPTED | COMPRESSED)] * 1000, (b"", ENCRYPTED | FINAL))
    assert len(stream) < limits.MIB
    expanded = []
    expand = frames.decompress_untrusted
    monkeypatch.setattr(
        frames, "decompress_untrusted", lambda *args: expanded.append(args) or expand(*args)
    )
    plains = Decryptor(KEY).receive_untrusted(stream)
    for count in range(1, 4):
        assert next(plains) == bytes(CHUNK)
        assert len(expanded) == count


@given(st.binary(max_size=300))
def test_any_bytes_at_all_give_a_typed_error(nonsense):
    header = short_stream()[0]
    for stream in (nonsense, header[:8] + nonsense, header + nonsense):
        with pytest.raises((FormatError, IntegrityError)):
            opened(stream)


@given(st.binary(max_size=60), st.integers(0, 7))
def test_any_payload_under_the_seal_gives_its_bytes_or_a_typed_error(payload, flags):
    try:
        plain = opened(forged((payload, flags | FINAL)))
    except (FormatError, IntegrityError):
        return
    assert flags & ENCRYPTED
    assert flags & COMPRESSED or plain == payload


# --- fixed values ---------------------------------------------------------------------------------


def giving(salt):
    return lambda size: salt[:size]


def test_golden_streams(golden):
    vectors = golden("frames.json")
    key = Secret(bytes.fromhex(vectors["key"]))
    assert key.reveal() == RAW_KEY
    for vector in vectors["streams"]:
        stream = bytes.fromhex(vector["stream"])
        plains = [bytes.fromhex(plain) for plain in vector["frames"]]
        assert open_stream(RAW_KEY, stream) == plains
        assert opened(stream, key) == b"".join(plains)
        if vector["compression"] == "none":  # compressors differ between versions
            chunk_bytes = vector["chunk_bytes"]
            engine = Encryptor(key, chunk_bytes=chunk_bytes, entropy=giving(stream[8:32]))
            parts = engine.start()
            for plain in plains[:-1]:
                parts += engine.feed(plain) + engine.flush()
            engine.feed(plains[-1])
            assert b"".join(parts + engine.finish()) == stream


def test_golden_full_frames(golden):
    vector = golden("frames.json")["full frames"]
    data = pattern(vector["pattern_bytes"])
    salt = bytes.fromhex(vector["salt"])
    engine = Encryptor(KEY, chunk_bytes=vector["chunk_bytes"], entropy=giving(salt))
    engine.start()
    sealed = (engine.feed(data) + engine.finish())[1::2]
    assert [frame[-16:].hex() for frame in sealed] == vector["tags"]


def test_golden_streams_cover_what_there_is(golden):
    streams = golden("frames.json")["streams"]
    assert {vector["chunk_bytes"] for vector in streams} == set(limits.STREAM_CHUNK_SIZES_BYTES)
    assert {vector["compression"] for vector in streams} == {c.value for c in Compression}
    assert any(vector["frames"] == [""] for vector in streams)
