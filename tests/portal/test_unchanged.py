import stat

import pytest

from core import limits
from core.native.rows import Row as Found
from core.pieces import Kind
from core.tree.entry import Entry, EntryType
from portal.manifest import HOLE, NO_CONTENT, Content, Extent, Form, encode_extents, row_of
from portal.unchanged import Unchanged, content_of, xattrs_of

NOW_NS = 10**18
OLD_NS = NOW_NS - 10 * limits.RECENT_NS
TAG = bytes(range(32))
FILE = EntryType.FILE


def entry(**changed):
    known = Entry(b"f", FILE, size=7, mtime_ns=OLD_NS, ctime_ns=OLD_NS + 1, ino=5)
    return known._replace(**changed)


def found(**changed):
    row = Found(5, 7, OLD_NS, OLD_NS + 1, stat.S_IFREG | 0o600, 0, 0, 1, 0, 0, 0)
    return row._replace(**changed)


ROW = row_of(entry(), Content(Form.SMALL, TAG))


def rule(**options):
    return Unchanged(now_ns=NOW_NS, **options)


def test_what_is_as_it_was_holds():
    assert rule().row_holds(ROW, FILE, found())
    assert rule().content_holds(ROW, FILE, found())


@pytest.mark.parametrize(
    "changed", [{"ino": 6}, {"size": 8}, {"mtime_ns": OLD_NS - 1}, {"ctime_ns": OLD_NS}]
)
def test_any_difference_counts(changed):
    assert not rule().row_holds(ROW, FILE, found(**changed))
    assert not rule().content_holds(ROW, FILE, found(**changed))


def test_another_kind_of_thing_never_holds():
    assert not rule().row_holds(ROW, EntryType.FIFO, found())
    fifo = row_of(entry(type=EntryType.FIFO, size=0), NO_CONTENT)
    assert rule().row_holds(fifo, EntryType.FIFO, found(size=0))
    assert not rule().content_holds(fifo, EntryType.FIFO, found(size=0))


def test_what_may_be_ignored_is_ignored_for_the_content_only():
    no_ctime, no_ino = rule(ignore_ctime=True), rule(ignore_inode=True)
    assert no_ctime.content_holds(ROW, FILE, found(ctime_ns=1))
    assert not no_ctime.content_holds(ROW, FILE, found(ino=1))
    assert no_ino.content_holds(ROW, FILE, found(ino=1))
    assert not no_ino.content_holds(ROW, FILE, found(ctime_ns=1))
    assert not no_ctime.row_holds(ROW, FILE, found(ctime_ns=1))  # mode and attributes are read
    assert not no_ino.row_holds(ROW, FILE, found(ino=1))
    for one in (no_ctime, no_ino):
        assert not one.content_holds(ROW, FILE, found(size=8))
        assert not one.content_holds(ROW, FILE, found(mtime_ns=1))


def test_a_recent_row_never_holds_whatever_is_ignored():
    recent = row_of(entry(), Content(Form.SMALL, TAG), recent=True)
    everything = rule(ignore_ctime=True, ignore_inode=True)
    for one in (rule(), everything):
        assert not one.row_holds(recent, FILE, found())
        assert not one.row_holds(recent, FILE, found(ino=0, ctime_ns=0))
        assert not one.content_holds(recent, FILE, found())
        assert not one.content_holds(recent, FILE, found(ino=0, ctime_ns=0))


def test_force_believes_nothing():
    assert not rule(force=True).row_holds(ROW, FILE, found())
    assert not rule(force=True, ignore_ctime=True).content_holds(ROW, FILE, found())


@pytest.mark.parametrize("which", ["ctime_ns", "mtime_ns"])
def test_recent_is_what_was_touched_shortly_before_or_after(which):
    edge = NOW_NS - limits.RECENT_NS
    assert rule().is_recent(found(**{which: edge}))
    assert rule().is_recent(found(**{which: NOW_NS + 1}))
    assert not rule().is_recent(found(**{which: edge - 1}))


def holds(content, *held):
    row = row_of(entry(), content)
    asked = rule(held=lambda kind, tag: (kind, tag) in held)
    assert asked.row_holds(row, FILE, found()) == asked.content_holds(row, FILE, found())
    return asked.row_holds(row, FILE, found())


def test_where_pieces_were_lost_each_is_asked_for():
    cuts = encode_extents([Extent(3, TAG), Extent(2, HOLE), Extent(2, TAG[::-1])])
    assert holds(Content(Form.SMALL, TAG), (Kind.SMALL_FILE, TAG))
    assert not holds(Content(Form.SMALL, TAG), (Kind.CUT, TAG))
    assert holds(Content(Form.CUTS, cuts), (Kind.CUT, TAG), (Kind.CUT, TAG[::-1]))
    assert not holds(Content(Form.CUTS, cuts), (Kind.CUT, TAG))
    assert not holds(Content(Form.CUTS, cuts[:-1]), (Kind.CUT, TAG), (Kind.CUT, TAG[::-1]))
    assert not holds(Content(Form.CUT_LISTS, cuts), (Kind.CUT_LIST, TAG))
    assert holds(NO_CONTENT)


def test_what_a_row_says():
    assert content_of(ROW) == (Form.SMALL, TAG)
    assert xattrs_of(ROW) == ()
    pairs = ((b"user.a", b"1"),)
    assert xattrs_of(row_of(entry(xattrs=pairs), NO_CONTENT)) == pairs
