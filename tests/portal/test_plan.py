import pytest

from core import limits
from core.pieces import Kind
from core.tree.entry import EntryType
from portal.browse import EVERYTHING, Scope, Selection, root_of
from portal.manifest import HOLE, NO_CONTENT, Content, Extent, Form, encode_extents
from portal.plan import Plan, Task, What
from tests.support.snapshots import a_shelf, by_hand, directory_row, file_row
from tests.support.trees import Reports
from tests.support.vaults import a_vault


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


def jobs_of(vault, snapshot, select=EVERYTHING):
    what = What(
        top=root_of(snapshot.record),
        scope=Scope(snapshot.record),
        select=select,
        deletes=True,
        spared=frozenset(),
        protected=frozenset(),
    )
    reports = Reports()
    with vault.reader() as reader:
        jobs = [job for batch in Plan(reader, None, what, reports).jobs() for job in batch]
    assert reports.all == []
    return jobs


def parts_of(jobs):
    return [(part.task, part.node.entry.path) for job in jobs for part in job.parts]


def test_every_chunk_is_opened_once_and_directories_come_first(vault):
    tree = {b"d%d" % d: {b"f%02d" % n: b"%d %d" % (d, n) for n in range(30)} for d in range(3)}
    jobs = jobs_of(vault, by_hand(vault, tree))
    chunks = [job.chunk for job in jobs if job.chunk]
    assert len(chunks) == len(set(chunks)) == 1
    tasks = [task for task, _ in parts_of(jobs)]
    assert tasks == [Task.BARE] * 3 + [Task.WHOLE] * 90


def test_equal_files_are_opened_together(vault):
    jobs = jobs_of(vault, by_hand(vault, {b"a": {b"x": b"same"}, b"b": {b"y": b"same"}}))
    (job,) = [job for job in jobs if job.chunk]
    assert [part.node.entry.path for part in job.parts] == [b"a/x", b"b/y"]


def test_a_window_bounds_what_is_planned_at_once(vault, monkeypatch):
    monkeypatch.setattr(limits, "RESTORE_WINDOW_ENTRIES", 4)
    jobs = jobs_of(vault, by_hand(vault, {b"d": {b"%02d" % n: b"%d" % n for n in range(11)}}))
    assert [len(job.parts) for job in jobs if job.chunk] == [3, 4, 4]
    assert parts_of(jobs)[0] == (Task.BARE, b"d")


def test_large_files_come_cut_by_cut_without_their_holes(vault):
    with a_shelf(vault) as shelf:
        tags = [shelf.put(Kind.CUT, bytes([n]) * 100) for n in range(2)]
        extents = [Extent(50, HOLE), Extent(100, tags[0]), Extent(9, HOLE), Extent(100, tags[1])]
        rows = [
            file_row(b"holes", Content(Form.CUTS, encode_extents(extents)), 259),
            file_row(b"nothing", Content(Form.CUTS, encode_extents([Extent(77, HOLE)])), 77),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    found = [
        (part.node.entry.path, part.offset, part.first, part.last)
        for job in jobs_of(vault, snapshot)
        for part in job.parts
    ]
    assert found == [
        (b"holes", 50, True, False),
        (b"holes", 159, False, False),
        (b"holes", 259, False, True),
        (b"nothing", 77, True, True),
    ]


def test_further_names_come_after_what_they_are_names_of(vault):
    with a_shelf(vault) as shelf:
        tag = shelf.put(Kind.CUT, b"x" * 100)
        content = Content(Form.CUTS, encode_extents([Extent(100, tag)]))
        rows = [file_row(name, content, 100, link=b"L" * 16) for name in (b"a", b"b", b"c")]
        snapshot = shelf.commit(shelf.directory(rows))
    assert parts_of(jobs_of(vault, snapshot)) == [
        (Task.CUT, b"a"),
        (Task.CUT, b"a"),
        (Task.LINK, b"b"),
        (Task.LINK, b"c"),
    ]


def test_only_directories_on_the_way_to_something_are_made(vault):
    tree = {b"a": {b"b": {b"c.txt": b"1"}, b"empty": {}}, b"d": {b"e": b"2"}}
    select = Selection([b"*.txt"])
    assert parts_of(jobs_of(vault, by_hand(vault, tree), select)) == [
        (Task.BARE, b"a"),
        (Task.BARE, b"a/b"),
        (Task.WHOLE, b"a/b/c.txt"),
    ]


def test_what_has_no_content_needs_no_chunk(vault):
    with a_shelf(vault) as shelf:
        rows = [
            directory_row(b"d", shelf.tree({})),
            file_row(b"empty", NO_CONTENT, 0),
            file_row(b"fifo", NO_CONTENT, 0, type=EntryType.FIFO),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    jobs = jobs_of(vault, snapshot)
    assert {job.chunk for job in jobs} == {None}
    assert {task for task, _ in parts_of(jobs)} == {Task.BARE}
