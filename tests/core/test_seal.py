import random
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from core import compress, crypto, hashing, limits, seal
from core.compress import Codec, Mode
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat, WrongKey
from core.labels import Label
from core.pieces import Chunk, Domain, Kind
from core.seal import ChunkSeal, Frame, open_chunk_untrusted, prepare, seal_chunk_into
from core.secret import Secret
from tests.support.damage import assert_all_refused

DEDUP = Secret(b"D" * 32)
SALT = b"s" * 32
TEXT = b"".join(b"line %d of a text\n" % (n * n) for n in range(400))
NOISE = random.Random(2).randbytes(5_000)


def sealed(frame, keys, *, pad=0):
    out = bytearray(frame.sealed_len + pad)
    seal_chunk_into(memoryview(out), frame, keys)
    return bytes(out)


def private(data, kind=Kind.CUT, salt=SALT, mode=Mode.AUTO):
    """Keys, tag and sealed bytes of some content in the private domain."""
    chunk = Chunk.of_piece(kind, data)
    keys = ChunkSeal.private(DEDUP, chunk.tag, salt)
    return keys, chunk.tag, sealed(prepare(chunk, mode), keys)


def sealed_plain(keys, kind, plain):
    """Any bytes under the seal of a chunk: what only someone with the keys could make."""
    out = bytearray(len(plain) + seal.SEAL_BYTES)
    seal.seal_into(memoryview(out), keys.keys, keys.purpose(kind), (plain,))
    return bytes(out)


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("data", [b"", b"x", TEXT, NOISE, bytes(300_000)], ids=len)
def test_what_was_sealed_comes_back(kind, data):
    keys, tag, out = private(data, kind)
    assert open_chunk_untrusted(out, keys, kind, tag) == data
    assert open_chunk_untrusted(memoryview(out), keys, kind, tag) == data


@pytest.mark.parametrize("codec", list(Codec))
def test_every_codec_goes_through_the_seal(codec):
    blocks = codec in (Codec.ZSTD_BLOCKS, Codec.LZ4_BLOCKS)
    level = compress._LZ4 if codec in (Codec.LZ4, Codec.LZ4_BLOCKS) else compress._LEVEL
    squeeze = compress._compress_blocks if blocks else compress._compress_one
    data = TEXT * 20
    packed = data if codec is Codec.RAW else squeeze(data, level)
    tag = hashing.tag(Kind.CUT, data)
    keys = ChunkSeal.private(DEDUP, tag, SALT)
    out = sealed(Frame(Kind.CUT, tag, codec, len(data), packed), keys)
    assert open_chunk_untrusted(out, keys, Kind.CUT, tag) == data


@pytest.mark.slow
def test_the_largest_chunk_comes_back():
    data = random.Random(4).randbytes(limits.CHUNK_PLAIN_BYTES_MAX)
    keys, tag, out = private(data)
    assert len(out) == len(data) + seal.CHUNK_OVERHEAD_BYTES
    assert open_chunk_untrusted(out, keys, Kind.CUT, tag) == data


def test_the_sealed_length_is_known_before_sealing():
    for data in (b"", TEXT, NOISE):
        frame = prepare(Chunk.of_piece(Kind.CUT, data))
        keys = ChunkSeal.private(DEDUP, frame.tag, SALT)
        assert len(sealed(frame, keys)) == frame.sealed_len == len(frame.data) + 72


# --- what repeats and what must not ---------------------------------------------------------------


def windows(data, size=8):
    return {data[n : n + size] for n in range(len(data) - size + 1)}


def test_private_chunks_share_nothing_between_packs():
    first, again, other = private(NOISE)[2], private(NOISE)[2], private(NOISE, salt=b"t" * 32)[2]
    assert first == again
    assert not windows(first) & windows(other)


def test_mesh_chunks_are_the_same_for_everyone():
    frame = prepare(Chunk.of_piece(Kind.CUT, NOISE), Mode.OFF)
    outs = {sealed(frame, ChunkSeal.mesh(Secret(b"M" * 32)), pad=100) for _ in range(3)}
    assert len(outs) == 1
    out = outs.pop()
    keys = ChunkSeal.mesh(Secret(b"M" * 32))
    assert open_chunk_untrusted(out, keys, Kind.CUT, frame.tag) == NOISE


def test_other_frames_of_the_same_content_never_meet_one_nonce():
    # Two versions of a compressor: one key, two frames.
    nonces = {private(TEXT, mode=mode)[2][:12] for mode in (Mode.AUTO, Mode.SMALLEST, Mode.OFF)}
    assert len(nonces) == 3


def test_equal_bytes_of_two_kinds_share_nothing():
    assert not windows(private(NOISE)[2]) & windows(private(NOISE, Kind.SMALL_FILE)[2])


def test_old_content_of_the_scratch_buffer_is_not_sealed():
    private(NOISE)
    keys, tag, out = private(b"short")
    frame = seal.unseal_untrusted(out, keys.keys, keys.purpose(Kind.CUT))
    assert frame.endswith(b"short")
    mesh = ChunkSeal.mesh(Secret(b"M" * 32))
    padded = sealed(prepare(Chunk.of_piece(Kind.CUT, b"short")), mesh, pad=50)
    assert open_chunk_untrusted(padded, mesh, Kind.CUT, tag) == b"short"


def test_the_scratch_buffer_grows_by_as_little_as_needed():
    def sizes_in_turn():
        for size in (5_000, 5_001, 5_000, 7_000):
            keys, tag, out = private(NOISE[:1] * size, mode=Mode.OFF)
            assert open_chunk_untrusted(out, keys, Kind.CUT, tag) == NOISE[:1] * size

    with ThreadPoolExecutor(1) as pool:  # a thread that has no buffer yet
        pool.submit(sizes_in_turn).result()


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", TEXT[:300]], ids=len)
def test_any_damage_is_refused(data):
    keys, tag, out = private(data)
    assert_all_refused(lambda bad: open_chunk_untrusted(bad, keys, Kind.CUT, tag), out)


def test_what_is_too_short_was_never_sealed():
    keys, tag, out = private(TEXT)
    for size in (0, 43, 44, seal.SEAL_BYTES - 1):
        with pytest.raises(FormatError):
            open_chunk_untrusted(out[:size], keys, Kind.CUT, tag)


def test_other_content_kinds_domains_and_packs_are_refused():
    keys, tag, out = private(TEXT)
    other_tag = hashing.tag(Kind.CUT, b"other")
    ckey = seal.private_chunk_key(DEDUP, tag)
    wrong = [
        (keys, Kind.SMALL_FILE, tag),
        (keys, Kind.CUT, other_tag),
        (ChunkSeal.private(DEDUP, other_tag, SALT), Kind.CUT, other_tag),
        (ChunkSeal.private(DEDUP, tag, b"t" * 32), Kind.CUT, tag),
        (ChunkSeal.private(Secret(b"E" * 32), tag, SALT), Kind.CUT, tag),
        (ChunkSeal.mesh(ckey), Kind.CUT, tag),
        (ChunkSeal(Domain.MESH, keys.keys), Kind.CUT, tag),
    ]
    for other, kind, its_tag in wrong:
        with pytest.raises(IntegrityError):
            open_chunk_untrusted(out, other, kind, its_tag)


def test_a_wrong_key_is_told_by_the_commitment_before_anything_is_decrypted(monkeypatch):
    _, tag, out = private(TEXT)
    wrong = ChunkSeal.private(Secret(b"E" * 32), tag, SALT)

    def decrypts(*_):
        pytest.fail("decrypted under a key that was not committed to")

    monkeypatch.setattr(seal, "aead_open", decrypts)
    with pytest.raises(WrongKey):
        open_chunk_untrusted(out, wrong, Kind.CUT, tag)


def one_time_key(key, nonce):
    stream = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), None).encryptor().update(bytes(32))
    r = int.from_bytes(stream[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    return r, int.from_bytes(stream[16:], "little")


def ciphertext_of_two_keys(keys, nonce, aad):
    """16-byte blocks that ChaCha20-Poly1305 accepts under both keys, with their common tag.

    The authenticators are polynomials in r; one block is solved for so that both give one tag.
    """
    p = 2**130 - 5
    padded = aad + bytes(-len(aad) % 16)
    (r1, s1), (r2, s2) = (one_time_key(key, nonce) for key in keys)
    for attempt in range(1_000):
        first = attempt.to_bytes(16, "little")
        lengths = struct.pack("<QQ", len(aad), 32)

        def poly(r, second, first=first, lengths=lengths):
            total = 0
            blocks = padded + first + second + lengths
            for n in range(0, len(blocks), 16):
                total = (total + int.from_bytes(blocks[n : n + 16] + b"\x01", "little")) * r % p
            return total

        # With the second block c, each polynomial is poly(r, 0) + c * r^2. Ask for equal tags.
        gap = (poly(r2, bytes(16)) + s2) - (poly(r1, bytes(16)) + s1)
        c = gap * pow((r1 * r1 - r2 * r2) % p, -1, p) % p
        second = (c % 2**128).to_bytes(16, "little")
        tags = {(poly(r, second) + s) % 2**128 for r, s in ((r1, s1), (r2, s2))}
        if len(tags) == 1:
            return first + second + tags.pop().to_bytes(16, "little")
    pytest.fail("no ciphertext of two keys was found")


def test_a_ciphertext_made_for_two_keys_opens_under_none_but_the_committed_one(monkeypatch):
    pair = [ChunkSeal.mesh(Secret(key * 32)) for key in (b"A", b"B")]
    raw = [keys.keys.encrypt.reveal() for keys in pair]
    nonce = b"n" * 12
    prefix = nonce + pair[0].keys.commitment
    aad = pair[0].purpose(Kind.CUT) + prefix
    attack = ciphertext_of_two_keys(raw, nonce, aad)
    plains = {ChaCha20Poly1305(key).decrypt(nonce, attack, aad) for key in raw}
    assert len(plains) == 2  # the cipher alone lets both readers see something else

    def decrypts(*_):
        pytest.fail("decrypted under a key that was not committed to")

    monkeypatch.setattr(seal, "aead_open", decrypts)
    with pytest.raises(WrongKey):
        open_chunk_untrusted(prefix + attack, pair[1], Kind.CUT, bytes(32))
    monkeypatch.undo()
    with pytest.raises(IntegrityError, match="nonce"):
        open_chunk_untrusted(prefix + attack, pair[0], Kind.CUT, bytes(32))


def test_a_nonce_that_is_not_the_hash_of_the_frame_is_refused():
    keys, tag, out = private(TEXT)
    subkeys, purpose = keys.keys, keys.purpose(Kind.CUT)
    plain = seal.unseal_untrusted(out, subkeys, purpose)
    nonce = bytes(12)
    prefix = nonce + subkeys.commitment
    forged = prefix + crypto.aead_seal(subkeys.encrypt.reveal(), nonce, plain, purpose + prefix)
    with pytest.raises(IntegrityError, match="nonce"):
        open_chunk_untrusted(forged, keys, Kind.CUT, tag)


# --- frames only a holder of the keys could make --------------------------------------------------


def head(version=2, codec=0, kind=1, flags=0, plain_len=3, comp_len=3):
    return struct.pack(">BBBBII", version, codec, kind, flags, plain_len, comp_len)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (b"", FormatError),
        (head()[:-1], FormatError),
        (head() + b"ab", FormatError),
        (head() + b"abcd", FormatError),
        (head() + b"abc\0", FormatError),
        (head(version=1) + b"abc", FormatError),
        (head(version=3) + b"abc", NewerFormat),
        (head(codec=9) + b"abc", FormatError),
        (head(codec=9, plain_len=9) + b"abc", NewerFormat),
        (head(kind=2) + b"abc", FormatError),
        (head(flags=1) + b"abc", FormatError),
        (head(plain_len=4) + b"abc", FormatError),
        (head(comp_len=2) + b"abc", FormatError),
        (head(comp_len=1 << 31) + b"abc", FormatError),
        (head(plain_len=(1 << 32) - 1) + b"abc", LimitExceeded),
        (head(codec=1, plain_len=limits.CHUNK_PLAIN_BYTES_MAX + 1) + b"abc", LimitExceeded),
        (head() + b"abd", IntegrityError),
    ],
)
def test_frames_are_read_strictly(frame, error):
    tag = hashing.tag(Kind.CUT, b"abc")
    keys = ChunkSeal.private(DEDUP, tag, SALT)
    assert open_chunk_untrusted(sealed_plain(keys, Kind.CUT, head() + b"abc"), keys, Kind.CUT, tag)
    with pytest.raises(error):
        open_chunk_untrusted(sealed_plain(keys, Kind.CUT, frame), keys, Kind.CUT, tag)


def test_padding_belongs_to_the_mesh_domain_and_is_zero():
    tag = hashing.tag(Kind.CUT, b"abc")
    keys = ChunkSeal.mesh(Secret(b"M" * 32))
    padded = sealed_plain(keys, Kind.CUT, head() + b"abc" + bytes(9))
    assert open_chunk_untrusted(padded, keys, Kind.CUT, tag) == b"abc"
    with pytest.raises(FormatError):
        bad = sealed_plain(keys, Kind.CUT, head() + b"abc" + bytes(8) + b"\x01")
        open_chunk_untrusted(bad, keys, Kind.CUT, tag)


def test_the_bound_of_the_caller_is_kept():
    keys, tag, out = private(TEXT)
    assert open_chunk_untrusted(out, keys, Kind.CUT, tag, plain_bytes_max=len(TEXT)) == TEXT
    with pytest.raises(LimitExceeded):
        open_chunk_untrusted(out, keys, Kind.CUT, tag, plain_bytes_max=len(TEXT) - 1)


@given(
    st.binary(max_size=60) | st.builds(lambda h, d: h + d, st.just(head()), st.binary(max_size=9)),
    st.sampled_from(Kind),
)
def test_any_frame_gives_its_content_or_a_typed_error(frame, kind):
    content = b"abc"
    tag = hashing.tag(kind, content)
    keys = ChunkSeal.private(DEDUP, tag, SALT)
    try:
        found = open_chunk_untrusted(sealed_plain(keys, kind, frame), keys, kind, tag)
    except (FormatError, IntegrityError):
        return
    assert found == content


@given(st.binary(max_size=200))
def test_any_bytes_at_all_give_a_typed_error(nonsense):
    keys = ChunkSeal.private(DEDUP, bytes(32), SALT)
    with pytest.raises((FormatError, IntegrityError)):
        open_chunk_untrusted(nonsense, keys, Kind.CUT, bytes(32))


# --- fixed values ---------------------------------------------------------------------------------


def test_keys_are_derived_as_written_down():
    tag = hashing.tag(Kind.CUT, TEXT)
    ckey = hashing.derive(Label.CHUNK_KEY, b"D" * 32 + tag)
    for keys, salt in [
        (ChunkSeal.private(DEDUP, tag, SALT), SALT),
        (ChunkSeal.mesh(Secret(ckey)), b""),
    ]:
        subkeys = hashing.derive(Label.CHUNK_SUBKEYS, ckey + salt, 96)
        found = keys.keys
        parts = found.encrypt.reveal(), found.nonce.reveal(), found.commitment
        assert b"".join(parts) == subkeys


def test_golden_chunks(golden):
    vectors = golden("seal.json")
    for vector in vectors["chunks"]:
        plain, frame = (bytes.fromhex(vector[name]) for name in ("plain", "frame"))
        kind, tag = Kind(vector["kind"]), bytes.fromhex(vector["tag"])
        assert hashing.tag(kind, plain) == tag
        if vector["domain"] == Domain.PRIVATE:
            salt = bytes.fromhex(vectors["salt"])
            keys = ChunkSeal.private(Secret(bytes.fromhex(vectors["dedup"])), tag, salt)
        else:
            keys = ChunkSeal.mesh(Secret(bytes.fromhex(vectors["mesh chunk key"])))
        # Compressors differ between versions, so the frame is given and only its sealing is ours.
        assert sealed_plain(keys, kind, frame).hex() == vector["sealed"]
        opened = open_chunk_untrusted(bytes.fromhex(vector["sealed"]), keys, kind, tag)
        assert opened == plain


def test_golden_chunks_cover_all_codecs_and_kinds(golden):
    chunks = golden("seal.json")["chunks"]
    assert {bytes.fromhex(vector["frame"])[1] for vector in chunks} == set(Codec)
    assert {vector["kind"] for vector in chunks} == set(Kind)
    assert {vector["domain"] for vector in chunks} == set(Domain)


def test_keys_and_content_are_not_shown():
    keys, _, _ = private(b"content")
    shown = repr(keys) + repr(prepare(Chunk.of_piece(Kind.CUT, b"content")))
    assert "content" not in shown
    for key in (keys.keys.encrypt, keys.keys.nonce):
        assert key.reveal().hex() not in shown
        assert repr(key.reveal()) not in shown
