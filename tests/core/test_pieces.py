import random

import pytest

from core import hashing, limits
from core.errors import IntegrityError, NewerFormat
from core.labels import Label
from core.pieces import (
    NO_PIECES,
    Bundler,
    Chunk,
    Domain,
    Kind,
    Piece,
    Pieces,
    check_tag_untrusted,
    index_key,
)
from core.secret import Secret


def test_a_tag_is_the_keyed_hash_of_kind_and_data():
    key = hashing.constant_key(Label.CONTENT_TAG)
    for size in (0, 1, 1_000, 256 * limits.KIB - 1, 256 * limits.KIB, 256 * limits.KIB + 1):
        data = bytes(n % 251 for n in range(size))
        for form in (data, bytearray(data), memoryview(data)):
            assert hashing.tag(Kind.CUT, form) == hashing.keyed(key, b"\x01" + data)


def test_tags_of_different_kinds_never_meet():
    tags = {hashing.tag(kind, b"same") for kind in Kind}
    assert len(tags) == len(Kind)
    # Neither does moving the kind into the data make one look like another.
    assert hashing.tag(1, b"\x02same") != hashing.tag(2, b"same")


def test_kinds_and_domains_are_frozen():
    assert {kind.name: kind.value for kind in Kind} == {
        "CUT": 1,
        "SMALL_FILE": 2,
        "BUNDLE": 3,
        "DIRECTORY": 4,
        "SNAPSHOT": 5,
        "CUT_LIST": 6,
        "FILE_TABLE": 7,
    }
    assert {domain.name: domain.value for domain in Domain} == {"PRIVATE": 1, "MESH": 2}


@pytest.mark.parametrize("number", [0, 8, 255])
def test_what_is_not_known_is_of_a_newer_portal(number):
    with pytest.raises(NewerFormat):
        Kind.read_untrusted(number)
    with pytest.raises(NewerFormat):
        Domain.read_untrusted(number)


def test_a_tag_is_checked_with_its_kind():
    tag = hashing.tag(Kind.SMALL_FILE, b"content")
    check_tag_untrusted(Kind.SMALL_FILE, tag, b"content")
    for kind, data in [(Kind.CUT, b"content"), (Kind.SMALL_FILE, b"Content")]:
        with pytest.raises(IntegrityError):
            check_tag_untrusted(kind, tag, data)


def test_local_index_keys_depend_on_all_they_are_made_of():
    def key(secret=b"k", kind=Kind.CUT, domain=Domain.PRIVATE, epoch=0, tag=bytes(32)):
        return index_key(Secret(secret * 32), kind, domain, epoch, tag)

    assert key() == hashing.keyed(b"k" * 32, b"\x01\x01" + bytes(4) + bytes(32))
    others = [
        key(secret=b"K"),
        key(kind=Kind.BUNDLE),
        key(domain=Domain.MESH),
        key(epoch=1),
        key(tag=bytes(31) + b"\x01"),
    ]
    assert len({key(), *others}) == 6


def test_a_chunk_of_one_piece_is_that_piece():
    chunk = Chunk.of_piece(Kind.DIRECTORY, b"entries")
    assert (chunk.kind, chunk.pieces) == (Kind.DIRECTORY, NO_PIECES)
    assert chunk.tag == hashing.tag(Kind.DIRECTORY, b"entries")
    assert Chunk.of_piece(Kind.CUT, b"", b"t" * 32).tag == b"t" * 32


def test_a_bundle_keeps_the_order_and_the_names_of_its_pieces():
    files = [b"one", b"", b"three" * 100]
    bundler = Bundler()
    pieces = [bundler.add(Kind.SMALL_FILE, data) for data in files]
    pieces.append(bundler.add(Kind.DIRECTORY, b"dir", hashing.tag(Kind.DIRECTORY, b"dir")))
    chunk = bundler.take()
    assert chunk.data == b"".join(files) + b"dir"
    assert list(chunk.pieces) == pieces
    assert chunk.tag == hashing.tag(Kind.BUNDLE, chunk.data)
    assert pieces[0] == Piece(hashing.tag(Kind.SMALL_FILE, b"one"), Kind.SMALL_FILE, 3)
    assert bundler.take() is None


def test_a_lone_piece_is_not_wrapped_in_a_bundle():
    bundler = Bundler()
    piece = bundler.add(Kind.SNAPSHOT, b"snapshot")
    chunk = bundler.take()
    assert (chunk.kind, chunk.tag, chunk.pieces) == (Kind.SNAPSHOT, piece.tag, NO_PIECES)


def test_the_pieces_of_a_bundle_are_a_sequence():
    made = [Piece(bytes([n]) * 32, Kind.SMALL_FILE, n * 1_000) for n in range(5)]
    pieces = Pieces.of(made)
    assert (list(pieces), pieces[-1], pieces[1:3], len(pieces.rows)) == (
        made,
        made[4],
        made[1:3],
        180,
    )
    for outside in (5, -6):
        with pytest.raises(IndexError):
            pieces[outside]


def test_bundles_close_at_their_target_and_take_any_first_piece():
    bundler = Bundler(bytes_target=1_000)
    assert bundler.fits(limits.CHUNK_PLAIN_BYTES_MAX)
    bundler.add(Kind.SMALL_FILE, bytes(600))
    assert bundler.fits(400)
    assert not bundler.fits(401)
    bundler.take()
    bundler.add(Kind.DIRECTORY, bytes(5_000))
    assert not bundler.fits(0)


def test_bundles_close_at_their_greatest_number_of_pieces(monkeypatch):
    monkeypatch.setattr(limits, "BUNDLE_PIECES_MAX", 3)
    bundler = Bundler()
    for _ in range(3):
        assert bundler.fits(0)
        bundler.add(Kind.SMALL_FILE, b"")
    assert not bundler.fits(0)


def test_bundles_of_many_sizes_lose_nothing():
    rng = random.Random(3)
    files = [rng.randbytes(rng.randrange(20_000)) for _ in range(60)]
    bundler, chunks = Bundler(bytes_target=50_000), []
    for data in files:
        if not bundler.fits(len(data)):
            chunks.append(bundler.take())
        bundler.add(Kind.SMALL_FILE, data)
    chunks.append(bundler.take())
    assert b"".join(chunk.data for chunk in chunks) == b"".join(files)
    assert all(len(chunk.data) <= 50_000 for chunk in chunks)
    assert len(chunks) < 2 + sum(map(len, files)) / 30_000


def test_a_bundle_that_does_not_add_up_is_our_own_mistake():
    with pytest.raises(AssertionError):
        Chunk.of_bundle(b"abc", [Piece(bytes(32), Kind.SMALL_FILE, 2)])


def test_content_is_not_shown():
    assert "secret" not in repr(Chunk.of_piece(Kind.CUT, b"secret"))
