import pytest

from core import limits
from core.errors import IntegrityError
from core.tree.entry import EntryType
from portal.find import Finder, Wanted
from portal.manifest import Content, Form
from tests.support.snapshots import a_shelf, by_hand, directory_row
from tests.support.trees import Reports
from tests.support.vaults import NOW_NS, a_vault, paths_of

TREE = {
    b"home": {
        b"ann": {b"a.txt": b"a" * 10, b"docs": {b"B.TXT": b"b" * 20, b"notes": b""}},
        b"bob": {b"a.txt": b"a" * 30},
    },
}


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


def found(vault, snapshots, under=b"", **wanted):
    with vault.reader() as reader:
        finder = Finder(reader, Wanted(**wanted))
        return [(s.id, paths_of(nodes)) for s, nodes in finder.find(snapshots, under)]


def test_names_and_paths_sizes_times_and_types(vault):
    one = by_hand(vault, TREE)

    def paths(**wanted):
        return [path for _, paths in found(vault, [one], **wanted) for path in paths]

    assert paths(patterns=(b"*.txt",)) == [b"home/ann/a.txt", b"home/bob/a.txt"]
    assert paths(patterns=(b"b.txt",), ignore_case=True) == [b"home/ann/docs/B.TXT"]
    assert paths(patterns=(b"/home/bob/*",)) == [b"home/bob/a.txt"]
    assert paths(patterns=(b"notes", b"bob")) == [b"home/ann/docs/notes", b"home/bob"]
    assert paths(patterns=(b"ann/a.txt",)) == []
    assert paths(size_min=20) == [b"home/ann/docs/B.TXT", b"home/bob/a.txt"]
    assert paths(size_min=5, size_max=20) == [b"home/ann/a.txt", b"home/ann/docs/B.TXT"]
    assert paths(newer_ns=NOW_NS + 1) == []
    assert len(paths(newer_ns=NOW_NS, older_ns=NOW_NS)) == 8
    assert paths(types=frozenset({EntryType.DIRECTORY}), patterns=(b"*n*",)) == [b"home/ann"]
    assert found(vault, [one], under=b"home/bob", patterns=(b"bob", b"a*")) == [
        (one.id, [b"home/bob", b"home/bob/a.txt"])
    ]
    assert found(vault, [one], under=b"nowhere", patterns=(b"*",)) == []


def test_what_snapshots_share_is_looked_through_once(vault):
    snapshots = [by_hand(vault, {**TREE, b"n%d" % n: b"x"}, time_ns=NOW_NS + n) for n in range(5)]
    with vault.reader() as reader:
        finder = Finder(reader, Wanted(patterns=(b"*.txt", b"n3")))
        results = [(s.id, paths_of(nodes)) for s, nodes in finder.find(snapshots)]
        assert finder.directories_read == 5 + 4  # five roots, and the rest once
    both = [b"home/ann/a.txt", b"home/bob/a.txt"]
    more = {3: [*both, b"n3"]}
    assert results == [(s.id, more.get(n, both)) for n, s in enumerate(snapshots)]


def test_what_is_remembered_is_bounded_and_never_wrong(vault, monkeypatch):
    monkeypatch.setattr(limits, "FIND_CACHE_NODES_MAX", 1)
    monkeypatch.setattr(limits, "FIND_CACHE_ENTRIES", 2)
    snapshots = [by_hand(vault, TREE, time_ns=NOW_NS + n) for n in range(3)]
    results = found(vault, snapshots, patterns=(b"*.txt",))
    assert [paths for _, paths in results] == [[b"home/ann/a.txt", b"home/bob/a.txt"]] * 3


def test_the_same_directory_elsewhere_is_called_otherwise(vault):
    inner = {b"a.txt": b"1"}
    one = by_hand(vault, {b"x": inner, b"y": inner})
    assert found(vault, [one], patterns=(b"*.txt",)) == [(one.id, [b"x/a.txt", b"y/a.txt"])]


def test_damage_is_reported_for_every_snapshot_it_is_in(vault):
    with a_shelf(vault) as shelf:
        rows = [directory_row(b"bad", Content(Form.PARTS, bytes(32))), shelf.file(b"f", b"1")]
        root = shelf.directory(rows)
        one = shelf.commit(root)
    with a_shelf(vault) as shelf:
        two = shelf.commit(root, time_ns=5)
    reports = Reports()
    with vault.reader() as reader:
        results = list(Finder(reader, Wanted(patterns=(b"*",)), reports).find([one, two]))
        assert [paths_of(nodes) for _, nodes in results] == [[b"bad", b"f"]] * 2
        assert [path for path, _ in reports.all] == [b"bad", b"bad"]
        with pytest.raises(IntegrityError):
            list(Finder(reader, Wanted()).find([one]))
