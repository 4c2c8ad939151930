import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import codec, limits
from core.archive.table import HARD_LINK, HOLE, Extent, Segment, Stored
from core.errors import FormatError, LimitExceeded, NewerFormat
from core.tree.entry import Entry, EntryType
from tests.support.damage import damaged

U32 = st.integers(0, 2**32 - 1)
NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: not set(name) & {0, ord("/")} and name not in {b".", b".."}
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
WORDS = st.text(max_size=5).filter(str.isprintable)
OWNERS = st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2), WORDS, WORDS)
XATTRS = st.lists(
    st.tuples(st.binary(min_size=1, max_size=8).filter(lambda n: 0 not in n), st.binary()),
    max_size=3,
).map(tuple)
EXTENTS = st.lists(st.builds(Extent, U32, U32, U32), max_size=4).map(tuple)


@st.composite
def stored_entries(draw):
    kind = draw(st.sampled_from([*EntryType, HARD_LINK]))
    extents = draw(EXTENTS) if kind == EntryType.FILE else ()
    link = draw(PATHS) if kind == HARD_LINK else None
    is_link, is_device = kind == EntryType.SYMLINK, kind in {EntryType.CHARACTER, EntryType.BLOCK}
    entry = Entry(
        draw(PATHS),
        EntryType.FILE if kind == HARD_LINK else kind,
        draw(st.integers(0, 0o7777)),
        *draw(OWNERS),
        draw(st.integers(-(2**63), 2**63 - 1)),
        sum(extent.length for extent in extents),
        draw(st.binary(min_size=1, max_size=20).filter(lambda t: 0 not in t)) if is_link else b"",
        draw(st.tuples(U32, U32)) if is_device else (0, 0),
        draw(XATTRS) if kind != HARD_LINK else (),
    )
    return Stored(entry, extents, link)


FILE = Entry(b"dir/file", EntryType.FILE, 0o640, 1, 2, "me", "us", -5, 30)
EVERY_KIND = [
    Stored(FILE, (Extent(0, 5, 10), Extent(HOLE, 0, 20))),
    Stored(Entry(b"dir/name", EntryType.FILE), (), b"dir/file"),
    Stored(Entry(b"dir", EntryType.DIRECTORY, 0o7755, xattrs=((b"user.a", b"\0"), (b"b", b"")))),
    Stored(Entry(b"link", EntryType.SYMLINK, target=b"/etc/\xff")),
    Stored(Entry(b"fifo", EntryType.FIFO)),
    Stored(Entry(b"null", EntryType.CHARACTER, rdev=(1, 3), xattrs=((b"user.a", b"x"),))),
    Stored(Entry(b"disk", EntryType.BLOCK, rdev=(259, 2**20))),
]


def segment_of(entries):
    segment = Segment()
    for stored in entries:
        segment.add(stored)
    return segment


def entries_of(data):
    return list(Segment.decode_untrusted(data).entries_untrusted())


def changed(place, value, entries=EVERY_KIND):
    row = list(codec.decode_untrusted(segment_of(entries).encode()))
    row[place] = value
    return codec.encode(row)


@pytest.mark.slow
@given(st.lists(stored_entries(), min_size=1, max_size=20))
def test_what_was_put_in_comes_out(entries):
    data = segment_of(entries).encode()
    assert entries_of(data) == entries
    assert segment_of(entries_of(data)).encode() == data


def test_every_kind_of_entry_comes_out():
    segment = Segment.decode_untrusted(segment_of(EVERY_KIND).encode())
    assert list(segment.entries_untrusted()) == EVERY_KIND
    assert list(segment.link_targets()) == [b"dir/file"]
    assert len(segment) == len(EVERY_KIND)


def test_a_segment_is_full_by_entries_or_by_bytes(monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_SEGMENT_ENTRIES_MAX", 3)
    segment = Segment()
    for expected in (False, False, True):
        segment.add(Stored(Entry(b"name", EntryType.FILE)))
        assert segment.full is expected
    monkeypatch.undo()
    monkeypatch.setattr(limits, "ARCHIVE_SEGMENT_BYTES_TARGET", 1000)
    for long in (
        Entry(b"n" * 1000, EntryType.FILE),
        Entry(b"a", EntryType.DIRECTORY, xattrs=((b"user.x", b"v" * 1000),)),
        Entry(b"l", EntryType.SYMLINK, target=b"t" * 1000),
    ):
        assert segment_of([Stored(long)]).full
    extents = tuple(Extent(0, 0, 0) for _ in range(100))
    assert segment_of([Stored(Entry(b"a", EntryType.FILE), extents)]).full


def test_every_damage_is_refused_or_makes_another_sound_segment():
    accepted = 0
    for how, bad in damaged(segment_of(EVERY_KIND).encode()):
        try:
            entries = entries_of(bad)
        except FormatError:
            continue
        except Exception as e:  # noqa: BLE001 - any other exception is the finding
            pytest.fail(f"{how}: {type(e).__name__}: {e}")
        assert entries != EVERY_KIND or how.startswith("bit"), how
        assert entries_of(segment_of(entries).encode()) == entries, how
        accepted += 1
    assert accepted > 20  # names and times may be anything: no hash is checked here


@pytest.mark.slow
@settings(max_examples=300)
@given(st.data())
def test_no_field_of_any_value_raises_anything_else(data):
    scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 300), st.binary(max_size=60))
    values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
    place = data.draw(st.integers(0, 13))
    try:
        entries_of(changed(place, data.draw(values)))
    except FormatError:
        return


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (0, 2, NewerFormat, "version 2"),
        (1, 0, LimitExceeded, "0 entries"),
        (1, limits.ARCHIVE_SEGMENT_ENTRIES_MAX + 1, LimitExceeded, "entries"),
        (1, 6, FormatError, "different lengths"),
        (2, b"one\0two", FormatError, "different lengths"),
        (3, bytes([1, 4, 2, 3, 5, 6, 8]), NewerFormat, "type of file"),
        (3, bytes([1, 1, 2, 3, 5, 6, 7]), FormatError, "without its target"),
        (3, bytes([1, 4, 4, 3, 5, 6, 7]), FormatError, "without its target"),
        (3, bytes([2, 4, 2, 3, 5, 6, 7]), FormatError, "not as long as its parts"),
        (4, b"\xff" * 14, FormatError, "out of bounds"),
        (4, bytes(13), FormatError, "modes of the wrong length"),
        (5, [], FormatError, "out of bounds"),
        (5, [[2**32 - 1, 0, "", ""]] * 2, FormatError, "owner"),
        (6, b"\0\x09" * 7, FormatError, "out of bounds"),
        (7, bytes(55), FormatError, "mtimes"),
        (8, bytes(56), FormatError, "not as long as its parts"),
        (8, bytes(48) + b"\xff" * 8, FormatError, "not as long as its parts"),
        (9, b"\xff" * 28, FormatError, "chunks of the wrong length"),
        (9, bytes(28), FormatError, "chunks of the wrong length"),
        (10, b"", FormatError, "chunks"),
        (11, bytes(4), FormatError, "offsets"),
        (12, bytes(8), FormatError, "not as long as its parts"),
        (13, [[7, 1, b"x"]], FormatError, "no entry"),
        (13, [[0, 9, b"x"]], NewerFormat, "unknown"),
        (13, [[1, 2, b"/etc/passwd"]], FormatError, "absolute"),
        (13, [[1, 2, b"a/../b"]], FormatError, ".."),
        (13, [[1, 2, b"a"], [3, 1, b""]], FormatError, "target of a link"),
        (13, [[0, 1, b"a file's"]], FormatError, "target of a link"),
        (13, [[1, 2, b"a"], [3, 1, b"a"], [5, 3, [1, 2**32]]], FormatError, "minor"),
        (13, [[0, 4, [[b"", b"value"]]]], FormatError, "attribute"),
        (13, [[0, 4, [[b"a\0b", b"value"]]]], FormatError, "attribute"),
    ],
)
def test_columns_that_do_not_fit_are_refused(place, value, error, words):
    with pytest.raises(error, match=words):
        entries_of(changed(place, value))


@pytest.mark.parametrize("path", [b"/etc", b"..", b"a/../b", b"a//b", b"", b"a/", b"./a"])
def test_paths_that_could_lead_elsewhere_are_refused(path):
    segment = segment_of([Stored(Entry(b"ok", EntryType.FILE))])
    segment.paths[0] = path
    with pytest.raises(FormatError):
        entries_of(segment.encode())


def test_a_few_bytes_cannot_claim_much():
    # A column is there with all its bytes or refused; nothing is made for what is only claimed.
    with pytest.raises(LimitExceeded):
        Segment.decode_untrusted(bytes(limits.ARCHIVE_CHUNK_BYTES_MAX + 1))
    with pytest.raises(FormatError):
        entries_of(changed(9, b"\xff\xff\xff\xff" * 7))


def test_golden(golden):
    case = golden("archive.json")["table"]
    assert segment_of(EVERY_KIND).encode().hex() == case
    assert entries_of(bytes.fromhex(case)) == EVERY_KIND
