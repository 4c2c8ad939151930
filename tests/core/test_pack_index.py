import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import hashing, limits, pack_index
from core.errors import FormatError, LimitExceeded, NewerFormat
from core.pack_index import ChunkRow, Location, MeshPlace, PackIndex, chunk_row
from core.pieces import Domain, Kind, Piece, Pieces
from core.secret import Secret
from tests.support.damage import damaged

AT = 108


def tag(name):
    return hashing.tag(Kind.CUT, name.encode())


def row(kind=Kind.CUT, sealed_len=500, plain_len=400, pieces=(), mesh=None, epoch=0, name="a"):
    fields = (0, sealed_len, plain_len, kind, tag(name), epoch, 0, len(pieces), mesh)
    return chunk_row(ChunkRow(*fields)), Pieces.of(pieces).rows


def encoded(*rows):
    return pack_index.encode([chunk for chunk, _ in rows], [pieces for _, pieces in rows])


FILES = [Piece(tag("x"), Kind.SMALL_FILE, 300), Piece(tag("y"), Kind.DIRECTORY, 100)]
MORE = [Piece(tag("z"), Kind.SMALL_FILE, 0), Piece(tag("w"), Kind.SNAPSHOT, 7)]
PLACE = MeshPlace(3, Secret(b"k" * 32), b"r" * 32)
EXAMPLE = encoded(
    row(Kind.CUT, sealed_len=600, name="a", epoch=5),
    row(Kind.BUNDLE, pieces=FILES, name="b"),
    row(Kind.CUT, sealed_len=72, plain_len=0, mesh=PLACE, epoch=3, name="c"),
    row(Kind.BUNDLE, plain_len=7, pieces=MORE, name="d"),
)


def test_what_was_written_is_read():
    index = PackIndex.decode_untrusted(EXAMPLE, AT)
    assert index.data == EXAMPLE
    assert [chunk.offset for chunk in index.chunks] == [108, 708, 1208, 1280]
    assert index.chunks_end == 1780
    assert [chunk.domain for chunk in index.chunks] == [1, 1, 2, 1]
    assert [chunk.epoch for chunk in index.chunks] == [5, 0, 3, 0]
    mesh = index.chunks[2].mesh
    assert (mesh.epoch, mesh.chunk_key.reveal(), mesh.root) == (3, b"k" * 32, b"r" * 32)
    assert index.piece_count == 6
    assert list(index.all_pieces()) == [
        Location(tag("a"), Kind.CUT, 0, 0, 400),
        Location(tag("x"), Kind.SMALL_FILE, 1, 0, 300),
        Location(tag("y"), Kind.DIRECTORY, 1, 300, 100),
        Location(tag("c"), Kind.CUT, 2, 0, 0),
        Location(tag("z"), Kind.SMALL_FILE, 3, 0, 0),
        Location(tag("w"), Kind.SNAPSHOT, 3, 0, 7),
    ]


def test_an_empty_index():
    index = PackIndex.decode_untrusted(encoded(), AT)
    assert (index.chunks, index.chunks_end, index.piece_count) == ((), AT, 0)
    assert list(index.all_pieces()) == []


def test_sizes_of_rows_are_fixed():
    sizes = pack_index.INDEX_HEAD_BYTES, pack_index.CHUNK_ROW_BYTES, pack_index.PIECE_ROW_BYTES
    assert sizes == (12, 116, 36)
    assert len(EXAMPLE) == 12 + 4 * 116 + 4 * 36


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(sorted(set(Kind) - {Kind.BUNDLE})), st.integers(0, 1 << 12)),
            max_size=5,
        ),
        max_size=6,
    )
)
def test_any_chunks_come_back(chunks):
    rows, expected = [], []
    for number, lengths in enumerate(chunks):
        pieces = [Piece(tag(f"{number} {n}"), kind, size) for n, (kind, size) in enumerate(lengths)]
        plain_len = sum(piece.length for piece in pieces)
        kind = Kind.BUNDLE if pieces else Kind.CUT
        rows.append(row(kind, 72 + number, plain_len, pieces, name=str(number)))
        if not pieces:
            expected.append(Location(tag(str(number)), Kind.CUT, number, 0, 0))
        for n, piece in enumerate(pieces):
            offset = sum(before.length for before in pieces[:n])
            expected.append(Location(piece.tag, piece.kind, number, offset, piece.length))
    index = PackIndex.decode_untrusted(encoded(*rows), AT)
    assert list(index.all_pieces()) == expected
    assert index.piece_count == len(expected)


# --- hostile bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (encoded(row(Kind.BUNDLE)), FormatError),
        (encoded(row(Kind.CUT, pieces=FILES)), FormatError),
        (encoded(row(Kind.BUNDLE, 500, 401, FILES)), FormatError),
        (encoded(row(Kind.BUNDLE, 500, 399, FILES)), FormatError),
        (encoded(row(sealed_len=71)), FormatError),
        (encoded(row(plain_len=limits.CHUNK_PLAIN_BYTES_MAX + 1)), LimitExceeded),
        (encoded(row(Kind.BUNDLE, 500, 9, [Piece(tag("x"), Kind.BUNDLE, 9)])), FormatError),
        (encoded((row()[0], row(pieces=FILES)[1])), FormatError),
        (encoded((row(Kind.BUNDLE, pieces=FILES)[0], b"")), FormatError),
        (struct.pack(">BBHII", 2, 0, 0, 0, 0), NewerFormat),
        (struct.pack(">BBHII", 0, 0, 0, 0, 0), FormatError),
        (struct.pack(">BBHII", 1, 1, 0, 0, 0), FormatError),
        (struct.pack(">BBHII", 1, 0, 1, 0, 0), FormatError),
        (struct.pack(">BBHII", 1, 0, 0, 1, 0), FormatError),
        (struct.pack(">BBHII", 1, 0, 0, 0, 1), FormatError),
        (struct.pack(">BBHII", 1, 0, 0, (1 << 32) - 1, (1 << 32) - 1), FormatError),
        (b"", FormatError),
    ],
)
def test_impossible_indexes_are_refused(bad, error):
    with pytest.raises(error):
        PackIndex.decode_untrusted(bad, AT)


def test_more_pieces_than_a_bundle_may_have_are_refused(monkeypatch):
    monkeypatch.setattr(limits, "BUNDLE_PIECES_MAX", 1)
    with pytest.raises(LimitExceeded):
        PackIndex.decode_untrusted(encoded(row(Kind.BUNDLE, pieces=FILES)), AT)


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (16, 0, NewerFormat),  # kind
        (16, 99, NewerFormat),
        (17, 0, NewerFormat),  # domain
        (17, 3, NewerFormat),
        (18, 1, FormatError),  # reserved
        (19, 1, FormatError),
        (52, 1, FormatError),  # the key of a chunk in the mesh domain
        (84, 1, FormatError),  # its root
    ],
)
def test_each_field_of_a_row_is_checked(at, value, error):
    data = bytearray(encoded(row()))
    data[12 + at] = value
    with pytest.raises(error):
        PackIndex.decode_untrusted(data, AT)


def test_unknown_kinds_of_pieces_are_of_a_newer_portal():
    data = bytearray(encoded(row(Kind.BUNDLE, pieces=FILES)))
    data[12 + 116 + 32] = 77
    with pytest.raises(NewerFormat):
        PackIndex.decode_untrusted(data, AT)


def test_damaged_indexes_are_refused_or_read_to_the_end_without_surprise():
    for _, bad in damaged(EXAMPLE):
        try:
            index = PackIndex.decode_untrusted(bad, AT)
        except FormatError:
            continue
        assert len(bad) == len(EXAMPLE)
        for location in index.all_pieces():
            assert location.offset + location.length <= index.chunks[location.chunk].plain_len


@given(st.binary(max_size=400))
def test_nonsense_is_refused_with_a_format_error(nonsense):
    with pytest.raises(FormatError):
        PackIndex.decode_untrusted(b"\x01\0\0\0" + nonsense + b"x" * 37, AT)


@pytest.mark.slow
def test_twenty_thousand_small_files_are_read_back():
    pieces = [Piece(n.to_bytes(32), Kind.SMALL_FILE, n % 1_000) for n in range(10_000)]
    total = sum(piece.length for piece in pieces) * 2
    assert total > limits.CHUNK_PLAIN_BYTES_MAX
    bundles = [row(Kind.BUNDLE, 500, total // 4, pieces[:5_000]) for _ in range(4)]
    index = PackIndex.decode_untrusted(encoded(*bundles), AT)
    assert index.piece_count == 20_000
    assert sum(location.length for location in index.all_pieces()) == total


def test_keys_of_the_mesh_domain_are_not_shown():
    index = PackIndex.decode_untrusted(EXAMPLE, AT)
    assert "kkk" not in repr(index.chunks) + repr(index)
    assert Domain.MESH in {chunk.domain for chunk in index.chunks}
