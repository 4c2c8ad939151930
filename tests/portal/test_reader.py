from concurrent.futures import ThreadPoolExecutor

import pytest

from core import limits
from core.errors import FormatError, IntegrityError, PortalError
from core.hashing import tag as tag_of
from core.pieces import Kind
from portal.errors import Missing
from portal.manifest import Content, Extent, Form, encode_extents, encode_part
from portal.reader import Reader
from tests.support.trees import open_descriptors
from tests.support.vaults import NOW_NS, a_vault, back_up, contents_in, fixed, opened

CUT_LIST = Kind.CUT_LIST


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


def a_reader(vault):
    return Reader(vault.store, vault.keys, vault.cache)


def three_packs(vault, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for n in range(3):
        (docs / f"{n}").write_bytes(b"file %d" % n)
        snapshot = back_up(vault, docs, now_ns=NOW_NS + n)
    return snapshot


def test_pieces_come_out_as_they_went_in(vault, tmp_path):
    three_packs(vault, tmp_path)
    with a_reader(vault) as reader:
        for n in range(3):
            content = b"file %d" % n
            tag = tag_of(Kind.SMALL_FILE, content)
            assert reader.piece_untrusted(Kind.SMALL_FILE, tag) == content
        with pytest.raises(Missing, match="small_file"):
            reader.piece_untrusted(Kind.SMALL_FILE, bytes(32))


def test_several_threads_may_read_at_once(vault, tmp_path):
    three_packs(vault, tmp_path)
    tags = {b"file %d" % n: tag_of(Kind.SMALL_FILE, b"file %d" % n) for n in range(3)}
    with a_reader(vault) as reader, ThreadPoolExecutor(8) as threads:

        def read(content):
            return bytes(reader.piece_untrusted(Kind.SMALL_FILE, tags[content])) == content

        assert all(threads.map(read, list(tags) * 100))


def test_few_packs_are_open_and_none_afterwards(vault, tmp_path, monkeypatch):
    snapshot = three_packs(vault, tmp_path)
    monkeypatch.setattr(limits, "PACKS_OPEN_MAX", 2)
    before = len(open_descriptors())
    with a_reader(vault) as reader:
        tables = len(open_descriptors())
        packs = sorted(vault.store.pack_names())
        for pack in packs * 3:
            reader.chunk_untrusted(pack, 0, keep=False)
            assert len(open_descriptors()) <= tables + 2  # without waiting for a collection
        assert reader.nodes_untrusted(snapshot.record.root, b"")
    assert len(open_descriptors()) == before


def test_what_cannot_be_opened_leaves_nothing_open(vault, tmp_path):
    three_packs(vault, tmp_path)
    name = max(vault.store.pack_names())
    path = vault.store.path / "packs" / name.hex()
    data = path.read_bytes()
    with a_reader(vault) as reader:
        before = len(open_descriptors())
        for bad in (b"", data[:10], bytes([data[0] ^ 1]) + data[1:]):
            path.write_bytes(bad)
            with pytest.raises((FormatError, IntegrityError), match=name.hex()):
                reader.pack_untrusted(name)
        path.unlink()
        with pytest.raises(Missing):
            reader.pack_untrusted(name)
        assert len(open_descriptors()) == before


def test_the_chunks_at_hand_are_bounded(vault, tmp_path, monkeypatch):
    big = tmp_path / "big"
    big.write_bytes(fixed("big", 6_000_000))
    back_up(vault, big)
    monkeypatch.setattr(limits, "CHUNKS_CACHED_BYTES_MAX", 2_000_000)
    with a_reader(vault) as reader:
        for pack in vault.store.pack_names():
            for number in range(len(reader.pack_untrusted(pack).index.chunks)):
                reader.chunk_untrusted(pack, number)
                kept = sum(map(len, reader._chunks.values()))
                assert kept == reader._chunks_bytes
                assert kept <= 2_000_000 or len(reader._chunks) == 1
        pack, number = next(reversed(reader._chunks))
        assert reader.chunk_untrusted(pack, number) is reader.chunk_untrusted(pack, number)


# --- when the cache lies --------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(-32, 0))
def test_a_damaged_row_of_the_cache_changes_no_answer(vault, tmp_path, at):
    snapshot = back_up(vault, make(tmp_path / "docs", a=b"a", b=b"b"))
    for path in vault.cache.glob("*.index"):
        data = bytearray(path.read_bytes())
        for row in range(4):
            data[at - 32 * row] ^= 0x41
        path.write_bytes(data)
    with a_reader(vault) as reader:
        (root,) = reader.nodes_untrusted(snapshot.record.root, b"")
        assert root.entry.is_directory
        for content in (b"a", b"b"):
            tag = tag_of(Kind.SMALL_FILE, content)
            assert reader.piece_untrusted(Kind.SMALL_FILE, tag) == content


def make(place, **contents):
    place.mkdir()
    for name, data in contents.items():
        (place / name).write_bytes(data)
    return place


def test_what_others_bring_meanwhile_is_found(vault, tmp_path):
    docs = make(tmp_path / "docs", a=b"a")
    back_up(vault, docs)
    with a_reader(vault) as reader:
        (docs / "b").write_bytes(b"b")
        back_up(opened(tmp_path), docs, now_ns=NOW_NS + 1)
        assert reader.piece_untrusted(Kind.SMALL_FILE, tag_of(Kind.SMALL_FILE, b"b")) == b"b"


def test_packs_in_the_trash_are_read_from_there(vault, tmp_path):
    snapshot = back_up(vault, make(tmp_path / "docs", a=b"a"))
    vault.store.move_to_trash(vault.store.pack_names(), 1, 1)
    assert list(contents_in(vault, snapshot).values()) == [b"a"]


def test_packs_taken_back_while_they_are_listed_are_known(vault, tmp_path, monkeypatch):
    snapshot = back_up(vault, make(tmp_path / "docs", a=b"a"))
    packs = vault.store.pack_names()
    vault.store.move_to_trash(packs, 1, 1)
    make(tmp_path / "more", b=b"b")
    back_up(vault, tmp_path / "more", now_ns=NOW_NS + 1)
    vault.store.move_to_trash(vault.store.pack_names(), 2, 2)
    listed = vault.store.trashed

    def taken_back_first():
        opened(tmp_path).store.take_back(packs)
        return listed()

    monkeypatch.setattr(vault.store, "trashed", taken_back_first)
    assert list(contents_in(vault, snapshot).values()) == [b"a"]


# --- lists ----------------------------------------------------------------------------------------


class Pieces(Reader):
    """A reader of pieces that are given to it."""

    def __init__(self, *pieces):
        self.pieces = {}
        for kind, data in pieces:
            self.pieces[kind, tag_of(kind, data)] = data

    def piece_untrusted(self, kind, tag):
        if (kind, tag) not in self.pieces:
            raise Missing
        return memoryview(self.pieces[kind, tag])


LIST = encode_extents([Extent(5, b"a" * 32), Extent(6, bytes(32))])
LIST_TAG = tag_of(CUT_LIST, LIST)


def test_lists_of_cuts_are_followed():
    reader = Pieces((CUT_LIST, LIST))
    content = Content(Form.CUT_LISTS, encode_extents([Extent(11, LIST_TAG)] * 2))
    assert reader.extents_untrusted(content) == [(5, b"a" * 32), (6, bytes(32))] * 2
    assert reader.extents_untrusted(Content(Form.CUTS, LIST)) == [(5, b"a" * 32), (6, bytes(32))]


@pytest.mark.parametrize("length", [1, 10, 12, (1 << 64) - 1])
def test_lists_of_cuts_that_lie_are_refused(length):
    reader = Pieces((CUT_LIST, LIST))
    content = Content(Form.CUT_LISTS, encode_extents([Extent(length, LIST_TAG)]))
    with pytest.raises(FormatError, match="add up"):
        reader.extents_untrusted(content)


@pytest.mark.parametrize("bad", [LIST[:-1], b"x", LIST + b"x"])
def test_lists_cut_short_are_refused(bad):
    reader = Pieces((CUT_LIST, bad))
    tag = tag_of(CUT_LIST, bad)
    for form in (Form.CUT_LISTS, Form.PART_LISTS):
        data = encode_extents([Extent(11, tag)]) if form is Form.CUT_LISTS else tag
        with pytest.raises(PortalError):
            if form is Form.CUT_LISTS:
                reader.extents_untrusted(Content(form, data))
            else:
                reader.part_tags_untrusted(Content(form, data))


def rows(vault, tmp_path):
    snapshot = back_up(vault, make(tmp_path / "docs", a=b"a", b=b"b", c=b""))
    with a_reader(vault) as reader:
        found = []
        content = snapshot.record.root
        while content:
            nodes = reader.nodes_untrusted(content, b"")
            found = reader.rows_untrusted(content)
            content = nodes[0].content if nodes[0].entry.is_directory else None
        return found


def test_the_parts_of_a_directory_are_joined_in_order(vault, tmp_path):
    a, b, c = rows(vault, tmp_path)
    parts = [encode_part([a]), encode_part([b, c])]
    tags = [tag_of(Kind.DIRECTORY, part) for part in parts]
    upper = b"".join(tags)
    reader = Pieces(*((Kind.DIRECTORY, part) for part in parts), (CUT_LIST, upper))
    content = Content(Form.PARTS, upper)
    assert reader.rows_untrusted(content) == [a, b, c]
    assert reader.rows_untrusted(Content(Form.PART_LISTS, tag_of(CUT_LIST, upper))) == [a, b, c]
    assert [n.entry.path for n in reader.nodes_untrusted(content, b"x")] == [b"x/a", b"x/b", b"x/c"]
    for wrong in (tags[::-1], [tags[0], tags[0]]):
        with pytest.raises(FormatError, match="not in order"):
            reader.rows_untrusted(Content(Form.PARTS, b"".join(wrong)))
    with pytest.raises(Missing, match="x/y"):
        reader.nodes_untrusted(Content(Form.PARTS, bytes(32)), b"x/y")


def test_a_vault_is_closed_by_its_reader(vault, tmp_path):
    back_up(vault, make(tmp_path / "docs", a=b"a"))
    before = len(open_descriptors())
    for _ in range(5):
        with vault.reader() as reader:
            assert reader.piece_untrusted(Kind.SMALL_FILE, tag_of(Kind.SMALL_FILE, b"a"))
    assert len(open_descriptors()) == before
