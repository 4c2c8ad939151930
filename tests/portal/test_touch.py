import os
import stat

import pytest

from core.tree.entry import Changed, Entry, EntryType
from core.tree.metadata import Owners
from core.tree.source import Root, Source
from portal.touch import Touch
from tests.support.trees import Reports
from tests.support.vaults import NOW_NS


@pytest.fixture
def touch(tmp_path):
    reports = Reports()
    with Source([Root.of(str(tmp_path), b"")], reports) as source:
        yield Touch(source, Owners.MINE, reports, privileged=True)
    assert reports.all == []


def file(path, mode=0o640):
    return Entry(path, EntryType.FILE, mode, mtime_ns=NOW_NS, xattrs=((b"user.a", b"1"),))


def test_metadata_changes_and_content_does_not(touch, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"content")
    path.chmod(0)
    touch.correct(file(b"f"))
    facts = path.stat()
    assert (stat.S_IMODE(facts.st_mode), facts.st_mtime_ns) == (0o640, NOW_NS)
    assert os.getxattr(path, "user.a") == b"1"
    assert path.read_bytes() == b"content"


def test_a_link_planted_in_its_place_is_not_followed(touch, tmp_path):
    (tmp_path / "other").write_bytes(b"")
    before = (tmp_path / "other").stat()
    (tmp_path / "f").symlink_to("other")
    with pytest.raises(Changed):
        touch.correct(file(b"f"))
    assert (tmp_path / "other").stat() == before


def test_a_name_becomes_another_name_of_what_is_there(touch, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "d" / "two").write_bytes(b"2")
    for _ in range(2):  # the second time it is one already
        touch.link(file(b"d/two"), b"one")
        assert (tmp_path / "d" / "two").read_bytes() == b"1"
        assert (tmp_path / "one").stat().st_nlink == 2
    assert os.listdir(tmp_path / "d") == ["two"]  # noqa: PTH208
    touch.link(file(b"three"), b"one")
    assert (tmp_path / "three").stat().st_nlink == 3
