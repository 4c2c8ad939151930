import os

import pytest

from core.errors import IntegrityError
from core.pieces import Kind
from portal.browse import Selection, lookup
from portal.compare import Changes, Comparison, Difference
from portal.manifest import Content, Extent, Form, encode_extents
from tests.support.snapshots import a_shelf, by_hand, directory_row, file_row
from tests.support.trees import Reports
from tests.support.vaults import NOW_NS, a_vault, back_up

OLD = {
    b"gone": {b"f": b"12345"},
    b"same": {b"deep": {b"f": b"1"}},
    b"swap": b"file",
    b"text": b"one",
}
NEW = {
    b"new": {b"g": b"123"},
    b"same": {b"deep": {b"f": b"1"}},
    b"swap": {b"h": b""},
    b"text": b"other",
}


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


def told(changes):
    return [(change.difference.value, change.path) for change in changes]


def test_every_name_that_differs_is_told_in_order(vault):
    old, new = by_hand(vault, OLD), by_hand(vault, NEW, time_ns=NOW_NS + 1)
    with vault.reader() as reader:
        comparison = Comparison(reader)
        assert told(comparison.of_snapshots(old, new)) == [
            ("-", b"gone"),
            ("-", b"gone/f"),
            ("+", b"new"),
            ("+", b"new/g"),
            ("T", b"swap"),
            ("+", b"swap/h"),
            ("M", b"text"),
        ]
        assert comparison.totals == Changes(3, 2, 1, 0, 1, 3 + 5, 5 + 4 + 3)
        assert told(Comparison(reader).of_snapshots(old, old)) == []
        swapped = told(Comparison(reader).of_snapshots(new, old))
        assert swapped[:2] == [("+", b"gone"), ("+", b"gone/f")]
        only = Comparison(reader, select=Selection([b"new"]))
        assert told(only.of_snapshots(old, new)) == [("+", b"new"), ("+", b"new/g")]
        below = Comparison(reader).of_snapshots(old, new, b"same")
        assert told(below) == []


def test_what_is_the_same_is_not_read(vault):
    old, new = by_hand(vault, OLD), by_hand(vault, NEW, time_ns=NOW_NS + 1)
    with vault.reader() as reader:
        read = []
        real = reader.part_tags_untrusted
        same = lookup(reader, old, b"same").content
        reader.part_tags_untrusted = lambda content: (read.append(content), real(content))[1]
        list(Comparison(reader).of_snapshots(old, new))
        assert same not in read
        assert len(read) == 2 + 3  # both roots, and what is on one side only


def test_metadata_alone_is_told_as_such(vault):
    with a_shelf(vault) as shelf:
        row = shelf.file(b"f", b"1")
        old = shelf.commit(shelf.directory([row]))
    with a_shelf(vault) as shelf:
        rows = [shelf.file(b"f", b"1", mode=0o600, xattrs=((b"user.a", b"1"),))]
        new = shelf.commit(shelf.directory(rows), time_ns=5)
    with vault.reader() as reader:
        comparison = Comparison(reader)
        changes = list(comparison.of_snapshots(old, new))
        assert [c.difference for c in changes] == [Difference.METADATA]
        assert comparison.totals.metadata == 1


def test_of_a_long_file_only_the_pieces_that_differ_are_counted(vault):
    with a_shelf(vault) as shelf:
        tags = [shelf.put(Kind.CUT, b"%d" % n * 100) for n in range(4)]

        def of(numbers):
            data = encode_extents([Extent(100, tags[n]) for n in numbers])
            return shelf.directory([file_row(b"f", Content(Form.CUTS, data), 100 * len(numbers))])

        old = shelf.commit(of([0, 1, 2]))
    with a_shelf(vault) as shelf:
        new = shelf.commit(of([0, 3, 2, 0]), time_ns=5)
    with vault.reader() as reader:
        comparison = Comparison(reader)
        assert told(comparison.of_snapshots(old, new)) == [("M", b"f")]
        assert (comparison.totals.added_bytes, comparison.totals.removed_bytes) == (100, 100)


def test_damage_is_reported_and_the_rest_compared(vault):
    with a_shelf(vault) as shelf:
        bad = shelf.put(Kind.DIRECTORY, b"none")
        rows = [directory_row(b"bad", Content(Form.PARTS, bad)), shelf.file(b"f", b"1")]
        old = shelf.commit(shelf.directory(rows))
    new = by_hand(vault, {b"bad": {}, b"f": b"2"}, time_ns=5)
    reports = Reports()
    with vault.reader() as reader:
        changes = told(Comparison(reader, reports).of_snapshots(old, new))
    assert changes == [("M", b"f")]
    assert [path for path, _ in reports.all] == [b"bad"]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "d" / "e").mkdir(parents=True)
    for name in ["a", "b", "d/c", "d/e/f"]:
        (root / name).write_bytes(name.encode() * 10)
    (root / "link").symlink_to("a")
    return root


def change(root):
    (root / "a").write_bytes(b"longer than it was before")
    (root / "b").unlink()
    (root / "new").mkdir()
    (root / "new" / "file").write_bytes(b"1234")
    (root / "link").unlink()
    (root / "link").symlink_to("b")
    (root / "d" / "c").chmod(0o600)
    (root / "d" / "e" / "f").unlink()
    (root / "d" / "e" / "f").mkdir()


def test_a_snapshot_is_compared_with_the_disk(vault, tree):
    snapshot = back_up(vault, tree)
    name = os.fsencode(tree).lstrip(b"/")
    with vault.reader() as reader:
        for content in (False, True):
            comparison = Comparison(reader)
            assert (
                told(comparison.with_disk(snapshot, name, os.fsencode(tree), content=content)) == []
            )
            everywhere = comparison.with_disk(snapshot, b"", b"/", content=content)
            assert told(everywhere) == []  # what was never backed up is not "added"
        change(tree)
        comparison = Comparison(reader)
        found = told(comparison.with_disk(snapshot, name, os.fsencode(tree)))
        expected = {
            b"a": "M", b"b": "-", b"d/c": "U", b"d/e": "U", b"d/e/f": "T", b"link": "M",
            b"new": "+", b"new/file": "+",
        }  # fmt: skip
        assert {path[len(name) + 1 :]: letter for letter, path in found} == expected
        assert comparison.totals.added_bytes == 25 + 4
        assert comparison.totals.removed_bytes == 10 + 10 + 50


def test_the_content_on_the_disk_is_read_when_asked(vault, tree):
    snapshot = back_up(vault, tree)
    facts = (tree / "a").stat()
    (tree / "a").write_bytes(b"A" * 10)
    os.utime(tree / "a", ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    (tree / "b").touch()
    name = os.fsencode(tree).lstrip(b"/")
    with vault.reader() as reader:
        quick = told(Comparison(reader).with_disk(snapshot, name, os.fsencode(tree)))
        assert quick == [("M", name + b"/b")]
        sure = told(Comparison(reader).with_disk(snapshot, name, os.fsencode(tree), content=True))
        assert sure == [("M", name + b"/a"), ("U", name + b"/b")]
        one = Comparison(reader).with_disk(
            snapshot, name + b"/a", os.fsencode(tree / "a"), content=True
        )
        assert told(one) == [("M", name + b"/a")]


def test_damage_does_not_end_a_comparison_with_the_disk(vault, tmp_path):
    with a_shelf(vault) as shelf:
        cut = shelf.put(Kind.CUT_LIST, b"none")
        rows = [
            directory_row(b"bad", Content(Form.PARTS, bytes(32))),
            shelf.file(b"f", b"1"),
            file_row(b"long", Content(Form.CUT_LISTS, encode_extents([Extent(4, cut)])), 4),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    root = tmp_path / "root"
    (root / "bad").mkdir(parents=True)
    for name in ("bad/x", "f", "long"):
        (root / name).write_bytes(b"1234")
    reports = Reports()
    with vault.reader() as reader:
        comparison = Comparison(reader, reports, Selection(exclude=[b"bad"]))
        changes = told(comparison.with_disk(snapshot, b"", os.fsencode(root), content=True))
        assert changes == [("M", b"f"), ("U", b"long")]
        assert [path for path, _ in reports.all] == [b"long"]
        with pytest.raises(IntegrityError):
            list(Comparison(reader).with_disk(snapshot, b"", os.fsencode(root)))
