import errno
import os

import pytest

from core import limits
from core.errors import IntegrityError
from core.hashing import tag as tag_of
from core.pieces import Kind
from core.tree.entry import Entry, EntryType
from core.tree.metadata import Owners
from core.tree.restore import Options, Target
from core.tree.source import Root, Source
from portal.browse import EVERYTHING
from portal.errors import Missing
from portal.index import Place
from portal.manifest import NO_CONTENT, Node
from portal.plan import Job, Part, Task
from portal.removal import Removal
from portal.standing import Deed
from portal.touch import Touch
from portal.writing import Account, Writing, opened
from tests.support.snapshots import by_hand, damage_chunks_of
from tests.support.trees import Reports
from tests.support.vaults import a_vault

PLACE = Place(bytes(32), 0, 0, 0)


@pytest.fixture
def written(tmp_path):
    """A target, what writes into it and what is told."""
    vault, root, reports = a_vault(tmp_path), tmp_path / "root", Reports()
    root.mkdir()
    account = Account(b"above", reports, lambda _deed, _path: None, lambda: None, False)
    with (
        vault.reader() as reader,
        Target(root, Options(owners=Owners.MINE), account.report) as target,
        Source([Root.of(str(root), b"")], account.report) as source,
    ):
        touch = Touch(source, Owners.MINE, account.report, privileged=True)
        removal = Removal(source, EVERYTHING, frozenset(), account.report, account.removed)
        yield root, Writing(reader, target, touch, removal, account), account, reports, target


def node(path, size):
    return Node(Entry(path, EntryType.FILE, 0o644, size=size), NO_CONTENT, b"")


def cut(path, size, offset, *, first=False, last=False):
    return Part(Task.CUT, node(path, size), Deed.CREATED, PLACE, b"", 0, offset, first, last)


def job(*parts_and_data):
    parts = [part for part, _ in parts_and_data]
    pieces = [memoryview(d) if isinstance(d, bytes) else d for _, d in parts_and_data]
    return Job((bytes(32), 0), parts, 0, pieces)


def test_a_piece_that_is_damaged_takes_its_file_away_and_no_other(written):
    root, writing, account, reports, _ = written
    whole = [Part(Task.WHOLE, node(name, 2), Deed.CREATED, PLACE) for name in (b"a", b"b", b"c")]
    writing.write(job((whole[0], b"aa"), (whole[1], IntegrityError("bad")), (whole[2], b"cc")))
    writing.write(job((cut(b"long", 4, 0, first=True), b"12")))
    writing.write(job((cut(b"long", 4, 2), IntegrityError("bad"))))
    writing.write(job((cut(b"long", 4, 4, last=True), b"")))
    writing.end()
    assert sorted(p.name for p in root.iterdir()) == ["a", "c"]
    assert reports.lines == ["above/b: bad", "above/long: bad"]
    assert account.progress.files == 2
    assert account.troubled == {b""}


def test_what_was_not_finished_has_no_name(written):
    root, writing, _, _, _ = written
    writing.write(job((cut(b"long", 4, 0, first=True), b"12")))
    writing.end()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_is_full_ends_the_run(written, monkeypatch, code):
    _, writing, _, reports, target = written

    def full(files):
        return [OSError(code, os.strerror(code)) for _ in files]

    monkeypatch.setattr(target, "small_files_later", full)
    part = Part(Task.WHOLE, node(b"a", 2), Deed.CREATED, PLACE)
    with pytest.raises(OSError, match=os.strerror(code)):  # soon, if not at once
        for _ in range(limits.RESTORE_JOBS_WRITTEN_MAX + 1):
            writing.write(job((part, b"aa")))
    with pytest.raises(OSError, match=os.strerror(code)):
        writing.end()
    assert reports.all == []


def test_a_fault_of_one_small_file_is_reported(written, monkeypatch):
    _, writing, _, reports, target = written
    monkeypatch.setattr(
        target, "small_files_later", lambda files: [OSError(errno.EACCES, "no") for _ in files]
    )
    part = Part(Task.WHOLE, node(b"a", 2), Deed.CREATED, PLACE)
    writing.write(job((part, b"aa")))
    writing.end()
    assert len(reports.all) == 1


def test_zeros_of_a_sparse_file_are_not_written(written):
    root, writing, _, _, _ = written
    writing.sparse = True
    data = bytes(200_000) + b"x" + bytes(200_000)
    whole = Part(Task.WHOLE, node(b"f", len(data)), Deed.CREATED, PLACE)
    writing.write(job((whole, data)))
    writing.end()
    assert (root / "f").read_bytes() == data
    assert 0 < (root / "f").stat().st_blocks * 512 <= 65_536


def parts_of(place, tag):
    return [
        Part(Task.WHOLE, node(b"f", 7), Deed.CREATED, place, tag, 7),
        Part(Task.WHOLE, node(b"g", 7), Deed.CREATED, place, bytes(32), 7),
        Part(Task.WHOLE, node(b"h", 8), Deed.CREATED, place, tag, 8),
    ]


def test_pieces_are_checked_when_their_chunk_is_opened(tmp_path):
    vault = a_vault(tmp_path)
    by_hand(vault, {b"f": b"content"})
    tag = tag_of(Kind.SMALL_FILE, b"content")
    with vault.reader() as reader:
        place = reader.place_untrusted(Kind.SMALL_FILE, tag)
        chunk = (place.pack, place.chunk)
        done = opened(reader, Job(chunk, parts_of(place, tag)))
        assert done.pieces[0] == b"content"
        assert [type(piece) for piece in done.pieces[1:]] == [Missing, IntegrityError]
        assert opened(reader, Job(None, [])).pieces == []
    damage_chunks_of(vault, Kind.SMALL_FILE, tag)
    with vault.reader() as reader:
        done = opened(reader, Job(chunk, parts_of(place, tag)))
        assert [type(piece) for piece in done.pieces] == [IntegrityError, Missing, IntegrityError]


def test_a_place_that_is_wrong_is_looked_for_again(tmp_path):
    vault = a_vault(tmp_path)
    by_hand(vault, {b"f": b"content"})
    tag = tag_of(Kind.SMALL_FILE, b"content")
    with vault.reader() as reader:
        place = reader.place_untrusted(Kind.SMALL_FILE, tag)
        for wrong in [
            place._replace(chunk=99),
            place._replace(pack=bytes(32)),
            place._replace(offset=place.offset + 1),
            place._replace(length=3),
        ]:
            done = opened(reader, Job((wrong.pack, wrong.chunk), parts_of(wrong, tag)[:1]))
            assert done.pieces == [b"content"], wrong
