import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, limits
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat
from core.tree.entry import Entry, EntryType
from portal.manifest import (
    HOLE,
    NO_CONTENT,
    Content,
    Extent,
    Form,
    Parts,
    encode_extents,
    encode_part,
    extents_untrusted,
    node_untrusted,
    row_of,
    rows_untrusted,
    split_parts,
    tags_untrusted,
)
from tests.support.damage import damaged

TAG = bytes(range(32))
SMALL = Content(Form.SMALL, TAG)
FILE = Entry(
    b"a/name",
    EntryType.FILE,
    mode=0o4755,
    uid=1,
    gid=2,
    user="ann",
    group="staff",
    mtime_ns=-5,
    size=7,
    xattrs=((b"user.x", b"1"),),
    ino=99,
    ctime_ns=123,
)
DIRECTORY = Entry(b"d", EntryType.DIRECTORY, mode=0o755)


def a_row(**changed):
    """A good row, with fields put in by their number."""
    row = list(row_of(FILE, SMALL))
    for number, value in changed.items():
        row[int(number[1:])] = value
    return tuple(row)


def nodes(data):
    return [node_untrusted(row, b"above") for row in rows_untrusted(data)]


@pytest.mark.parametrize(
    ("entry", "content", "link"),
    [
        (FILE, SMALL, b""),
        (FILE, SMALL, b"l" * 16),
        (FILE._replace(size=0, xattrs=()), NO_CONTENT, b""),
        (FILE._replace(size=30), Content(Form.CUTS, encode_extents([Extent(30, TAG)])), b""),
        (FILE._replace(size=30), Content(Form.CUT_LISTS, encode_extents([Extent(30, TAG)])), b""),
        (DIRECTORY, Content(Form.PARTS, TAG * 3), b""),
        (DIRECTORY, Content(Form.PART_LISTS, TAG), b""),
        (Entry(b"s", EntryType.SYMLINK, target=b"\xff/.."), NO_CONTENT, b""),
        (Entry(b"c", EntryType.CHARACTER, rdev=(1, 3)), NO_CONTENT, b""),
        (Entry(b"f", EntryType.FIFO), NO_CONTENT, b"m" * 16),
        (Entry(b"\xff" * 255, EntryType.FIFO), NO_CONTENT, b""),
    ],
)
def test_round_trip(entry, content, link):
    row = row_of(entry, content, link=link)
    assert rows_untrusted(encode_part([row])) == (row,)
    node = node_untrusted(row, b"above/it")
    assert node == (
        entry._replace(
            path=b"above/it/" + entry.path.rpartition(b"/")[2], nlink=2 if link else 1, dev=0
        ),
        content,
        link,
    )
    assert node_untrusted(row, b"").entry.path == entry.path.rpartition(b"/")[2]


def test_what_is_recent_proves_nothing_next_time():
    row = row_of(FILE, SMALL, recent=True)
    node = node_untrusted(row, b"")
    assert (node.entry.ino, node.entry.ctime_ns) == (0, 0)
    assert node.entry.mtime_ns == FILE.mtime_ns


@pytest.mark.slow
@given(st.lists(st.binary(min_size=1, max_size=9).filter(lambda n: b"/" not in n), max_size=4))
def test_damage_gives_other_rows_or_a_typed_error(names):
    # A piece is checked by its tag before; this is for who can write tags, too.
    names = sorted({n for n in names if n not in {b".", b".."} and b"\0" not in n})
    data = encode_part([row_of(FILE._replace(path=name), SMALL) for name in names])
    for how, bad in damaged(data):
        try:
            found = nodes(bad)
        except (FormatError, IntegrityError):
            continue
        assert bad != data, how
        assert [n.entry.path for n in found] == sorted({n.entry.path for n in found}), how


@given(st.binary(max_size=100))
def test_any_bytes_are_rows_or_a_typed_error(data):
    try:
        nodes(data)
    except (FormatError, IntegrityError):
        return


def test_newer_versions_say_so():
    with pytest.raises(NewerFormat):
        rows_untrusted(codec.encode((2, "whatever they mean")))
    with pytest.raises(FormatError):
        rows_untrusted(codec.encode((0,)))
    with pytest.raises(FormatError):
        rows_untrusted(codec.encode(()))


@pytest.mark.parametrize(
    "names", [[b"b", b"a"], [b"a", b"a"], [b""], ["text"], [None], [b"a", b"c", b"b"]]
)
def test_names_out_of_order_or_twice_are_refused(names):
    with pytest.raises(FormatError, match="not in order"):
        rows_untrusted(encode_part([a_row(_0=name) for name in names]))


@pytest.mark.parametrize("item", [(), (b"a",), a_row()[:-1], (*a_row(), 1), b"a", 5])
def test_what_is_no_row_is_refused(item):
    with pytest.raises(FormatError):
        rows_untrusted(codec.encode((1, item)))


@pytest.mark.parametrize(
    "changed",
    [
        *({"_0": name} for name in (b".", b"..", b"a/b", b"/", b"a\0b", b"n" * 1021, "text")),
        *({"_1": kind} for kind in (0, 4, 8, -1, "1", True)),
        *({"_2": mode} for mode in (-1, 0o10000, 1 << 32)),
        *({"_3": uid} for uid in (-1, 0xFFFF_FFFF, 1 << 32)),
        {"_5": "esc\x1b[31m"},
        {"_5": "u" * 257},
        {"_6": b"bytes"},
        {"_7": 1 << 63},
        {"_7": -(1 << 63) - 1},
        {"_7": "now"},
        {"_8": 1 << 63},
        {"_9": -1},
        {"_10": -1},
        {"_10": 1 << 63},
        {"_10": 0},  # empty, and yet it names content
        *({"_11": form} for form in (0, 4, 5, 6, 255, "1")),
        *({"_12": data} for data in (b"", TAG + b"x", TAG[:-1], TAG * 2, "text", None)),
        *({"_13": extra} for extra in (None, (b"",), 1, (b"t", (0, 0), (), b""), b"")),
        {"_13": (b"", (0, 0), (), b"short")},
        {"_13": (b"", (0, 0), (), b"l" * 17)},
        {"_13": (b"", (0,), (), b"l" * 16)},
        {"_13": (b"", (-1, 0), (), b"l" * 16)},
        {"_13": (b"", (0, 0), ((b"user.x",),), b"")},
        {"_13": (b"", (0, 0), ((b"user.x", "text"),), b"")},
        {"_13": (b"", (0, 0), ((b"x" * 256, b""),), b"")},
    ],
)
def test_hostile_fields_are_refused(changed):
    with pytest.raises((FormatError, IntegrityError)):
        node_untrusted(a_row(**changed), b"above")


@pytest.mark.parametrize(
    ("form", "data"),
    [
        (Form.CUTS, encode_extents([Extent(6, TAG)])),
        (Form.CUTS, encode_extents([Extent(7, TAG)]) + b"x"),
        (Form.CUTS, encode_extents([Extent(7, TAG)])[:-1]),
        (Form.CUTS, encode_extents([Extent(7, TAG), Extent((1 << 64) - 7, HOLE)])),
        (Form.CUTS, encode_extents([Extent(7, TAG), Extent(0, HOLE)])),
        (Form.CUT_LISTS, encode_extents([Extent(8, TAG)])),
        (Form.CUT_LISTS, b""),
        (Form.NOTHING, b""),
        (Form.NOTHING, TAG),
    ],
)
def test_sums_that_do_not_add_up_are_refused(form, data):
    with pytest.raises(FormatError):
        node_untrusted(a_row(_11=int(form), _12=data), b"")


def test_a_content_is_bounded():
    data = bytes(limits.SNAPSHOT_CONTENT_BYTES_MAX + 1)
    with pytest.raises(LimitExceeded):
        node_untrusted(a_row(_12=data), b"")
    many = tuple((b"user.%d" % n, b"") for n in range(limits.XATTRS_MAX + 1))
    with pytest.raises(LimitExceeded):
        node_untrusted(a_row(_13=(b"", (0, 0), many, b"")), b"")


@pytest.mark.parametrize("kind", [EntryType.SYMLINK, EntryType.FIFO, EntryType.DIRECTORY])
def test_only_files_have_a_files_content(kind):
    with pytest.raises(FormatError):
        node_untrusted(a_row(_1=int(kind)), b"")


def test_lists_round_trip_and_their_lengths_are_checked():
    extents = [Extent(1, TAG), Extent((1 << 64) - 1, HOLE)]
    assert extents_untrusted(encode_extents(extents)) == extents
    assert tags_untrusted(TAG + HOLE) == [TAG, HOLE]
    assert tags_untrusted(b"") == extents_untrusted(b"") == []
    for cut in (1, 31, 33, 63):
        with pytest.raises(FormatError):
            tags_untrusted((TAG + HOLE)[:cut])
    for cut in (1, 39, 41):
        with pytest.raises(FormatError):
            extents_untrusted(encode_extents(extents)[:cut])


# --- parts ------------------------------------------------------------------------------------


def many_rows(count, skip=()):
    names = (b"file number %06d" % n for n in range(count) if n not in skip)
    return [row_of(FILE._replace(path=name), SMALL) for name in names]


def test_parts_hold_every_row_once_in_order_and_are_of_a_good_size():
    rows = many_rows(6_000)
    parts = list(split_parts(rows))
    assert [row for part in parts for row in part] == rows
    sizes = [len(encode_part(part)) for part in parts]
    assert len(parts) > 2
    assert max(sizes) < limits.DIRECTORY_PART_BYTES_MAX
    assert sum(sizes) / len(sizes) > 40_000


def test_one_name_more_or_less_changes_few_parts():
    before = {encode_part(part) for part in split_parts(many_rows(6_000))}
    after = {encode_part(part) for part in split_parts(many_rows(6_000, skip={1000}))}
    assert len(before - after) <= 2
    assert len(after - before) <= 2


def test_a_part_ends_even_where_no_hash_says_so():
    parts = Parts()
    name = next(n for n in range(1000) if not ends_a_part(b"%d" % n))
    row = row_of(FILE._replace(path=b"%d" % name), SMALL)
    groups = [group for _ in range(8_000) if (group := parts.add(row))]
    assert groups
    assert all(len(encode_part(g)) < limits.DIRECTORY_PART_BYTES_MAX for g in groups)
    assert sum(map(len, groups)) + len(parts.finish()) == 8_000
    assert parts.finish() == []


def ends_a_part(name):
    parts = Parts()
    row = row_of(FILE._replace(path=name), SMALL)
    return any(parts.add(row) for _ in range(limits.DIRECTORY_PART_BYTES_MIN // 100))


def test_large_attributes_and_contents_count():
    big = FILE._replace(xattrs=((b"user.big", bytes(60_000)),))
    rows = [row_of(big._replace(path=b"%03d" % n), SMALL) for n in range(100)]
    for part in split_parts(rows):
        assert len(encode_part(part)) < limits.DIRECTORY_PIECE_BYTES_MAX
