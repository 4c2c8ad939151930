import pytest

from core.errors import FormatError, IntegrityError, UsageError
from core.pieces import Kind
from core.tree.entry import entry_of
from core.tree.source import Root, Source
from portal.browse import lookup
from portal.content import cat, extents_of, is_same_on_disk, open_file
from portal.manifest import HOLE, Content, Extent, Form, encode_extents
from tests.support.snapshots import a_shelf, damage_chunks_of, directory_row, file_row
from tests.support.vaults import a_vault, fixed

DATA = fixed("content", 3_000)
CUTS = [DATA[:1_000], DATA[1_000:2_000], DATA[2_000:]]
SPARSE = bytes(5_000) + DATA[:1_000] + bytes(2_000_000) + DATA[1_000:2_000] + bytes(7)


@pytest.fixture
def stored(tmp_path):
    """A vault and the nodes of a few files in it, by name."""
    vault = a_vault(tmp_path)
    with a_shelf(vault) as shelf:
        tags = [shelf.put(Kind.CUT, cut) for cut in CUTS]
        cuts = encode_extents([Extent(1_000, tag) for tag in tags])
        short = encode_extents([Extent(999, tags[0])])
        holes = encode_extents(
            [
                Extent(5_000, HOLE),
                Extent(1_000, tags[0]),
                Extent(2_000_000, HOLE),
                Extent(1_000, tags[1]),
                Extent(7, HOLE),
            ]
        )
        lists = [
            Extent(
                2_000, shelf.put(Kind.CUT_LIST, encode_extents([Extent(1_000, t) for t in part]))
            )
            for part in (tags[:2], [tags[2], tags[0]])
        ]
        wrong = [Extent(2_001, lists[0].tag), Extent(999, lists[1].tag)]
        rows = [
            file_row(b"cuts", Content(Form.CUTS, cuts), 3_000),
            directory_row(b"dir", shelf.tree({})),
            file_row(b"empty", Content(Form.NOTHING, b""), 0),
            file_row(b"lists", Content(Form.CUT_LISTS, encode_extents(lists)), 4_000),
            shelf.file(b"small", DATA[:500]),
            file_row(b"sparse", Content(Form.CUTS, holes), len(SPARSE)),
            file_row(b"wrong", Content(Form.CUT_LISTS, encode_extents(wrong)), 3_000),
            file_row(b"wrong length", Content(Form.CUTS, short), 999),
            file_row(b"wrong sum", Content(Form.CUT_LISTS, encode_extents(lists)), 4_001),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    with vault.reader() as reader:
        yield vault, reader, lambda name: lookup(reader, snapshot, name)


CONTENTS = {
    b"cuts": DATA,
    b"empty": b"",
    b"lists": DATA + DATA[:1_000],
    b"small": DATA[:500],
    b"sparse": SPARSE,
}


@pytest.mark.parametrize("name", CONTENTS)
def test_any_stretch_of_a_file_can_be_read(stored, name):
    _, reader, node = stored
    content, data = open_file(reader, node(name)), CONTENTS[name]
    assert content.size == len(data)
    assert b"".join(content.chunks()) == data
    for start in (0, 1, 499, 500, 999, 1_000, 1_001, 2_500, 4_999, 5_000, 6_000, 2_006_001):
        for size in (0, 1, 2, 999, 1_000, 1_001, 2_500, 3_000_000):
            assert content.read_at(start, size) == data[start : start + size], (start, size)


def test_only_the_chunks_of_the_stretch_are_opened(stored):
    vault, reader, node = stored
    found = node(b"cuts")
    damage_chunks_of(vault, Kind.CUT, extents_of_list(reader, found)[1].tag)
    content = open_file(reader, found)
    assert content.read_at(0, 1_000) == DATA[:1_000]
    assert content.read_at(2_000, 1_000) == DATA[2_000:]
    with pytest.raises(IntegrityError):
        content.read_at(999, 2)


def extents_of_list(reader, node):
    return list(extents_of(reader, node.content))


def test_holes_are_known(stored):
    _, reader, node = stored
    assert list(open_file(reader, node(b"sparse")).data_extents()) == [
        (5_000, 1_000),
        (2_006_000, 1_000),
    ]
    assert list(open_file(reader, node(b"lists")).data_extents()) == [(0, 4_000)]
    assert list(open_file(reader, node(b"empty")).data_extents()) == []


def test_what_is_no_file_or_does_not_add_up_is_refused(stored):
    _, reader, node = stored
    with pytest.raises(UsageError, match="/dir: is a directory"):
        open_file(reader, node(b"dir"))
    with pytest.raises(FormatError, match="add up"):
        open_file(reader, node(b"wrong")).read_at(0, 10)
    with pytest.raises(FormatError, match="add up"):
        open_file(reader, node(b"wrong sum"))
    with pytest.raises(IntegrityError, match="not as long"):
        open_file(reader, node(b"wrong length")).read_at(0, 10)


def test_cat_gives_a_stretch_to_a_writer(stored):
    _, reader, node = stored
    out = bytearray()
    assert cat(reader, node(b"lists"), out.extend, start=900, end=2_100) == 1_200
    assert out == DATA[900:2_100]


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_on_the_disk_is_compared_by_its_content(stored, tmp_path, name):
    _, reader, node = stored
    root, data = tmp_path / "disk", CONTENTS[name]
    root.mkdir()
    other = bytearray(data)
    if other:
        other[-1] ^= 1
    (root / "same").write_bytes(data)
    (root / "other").write_bytes(other)
    (root / "longer").write_bytes(data + b"x")
    found = {}
    with Source([Root.of(str(root), b"")], lambda _path, e: found.update(error=e)) as source:
        for path in (b"same", b"other", b"longer"):
            entry = entry_of(path, (root / path.decode()).stat())
            found[path] = is_same_on_disk(reader, node(name), source, entry)
    assert found == {b"same": True, b"other": not data, b"longer": False}
