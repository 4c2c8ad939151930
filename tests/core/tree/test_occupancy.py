import os

import pytest

from core import limits
from core.tree.entry import AlreadyThere, Entry, EntryType
from core.tree.occupancy import Occupancy, Overwrite


@pytest.fixture
def holder(tmp_path):
    (tmp_path / "file").write_bytes(b"there")
    os.utime(tmp_path / "file", ns=(100, 100))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def entry(name, mtime_ns=100):
    return Entry(b"d/" + name, EntryType.FILE, mtime_ns=mtime_ns)


@pytest.mark.parametrize(
    ("overwrite", "older", "same", "newer"),
    [
        (Overwrite.REPLACE, True, True, True),
        (Overwrite.SKIP, False, False, False),
        (Overwrite.IF_NEWER, False, False, True),
    ],
)
def test_the_policy_decides(holder, overwrite, older, same, newer):
    occupancy = Occupancy(overwrite)
    for mtime_ns, expected in ((99, older), (100, same), (101, newer)):
        assert occupancy.may_replace(holder, b"file", entry(b"file", mtime_ns)) is expected
    assert occupancy.may_replace(holder, b"free", entry(b"free"))


def test_by_default_nothing_is_touched(holder):
    for name in (b"file", b"link", b"folder"):
        with pytest.raises(AlreadyThere) as e:
            Occupancy(Overwrite.REFUSE).may_replace(holder, name, entry(name))
        assert e.value.where == f"d/{name.decode()}"
    assert Occupancy(Overwrite.REFUSE).may_replace(holder, b"free", entry(b"free"))


@pytest.mark.parametrize("overwrite", list(Overwrite))
def test_a_directory_is_never_replaced(holder, overwrite):
    with pytest.raises(AlreadyThere, match="directory is in the way"):
        Occupancy(overwrite).may_replace(holder, b"folder", entry(b"folder", 1 << 60))


@pytest.mark.parametrize("overwrite", list(Overwrite))
def test_another_spelling_of_what_is_there_is_refused(holder, overwrite, monkeypatch):
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda name, **how: real(name.lower(), **how))
    for name in (b"FILE", b"Folder"):
        with pytest.raises(AlreadyThere, match="another name"):
            Occupancy(overwrite).may_replace(holder, name, entry(name, 1 << 60))
    assert Occupancy(Overwrite.REPLACE).may_replace(holder, b"file", entry(b"file"))


def test_a_directory_is_listed_once(holder, tmp_path, monkeypatch):
    listed = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda fd: listed.append(fd) or real(fd))
    occupancy = Occupancy(Overwrite.REPLACE)
    for number in range(50):
        occupancy.made(b"d/%d" % number)  # nothing is remembered before it is needed
    for name in (b"file", b"link") * 20:
        occupancy.may_replace(holder, name, entry(name))
    assert len(listed) == 1
    (tmp_path / "ours").touch()
    occupancy.made(b"d/ours")
    occupancy.may_replace(holder, b"ours", entry(b"ours"))
    assert len(listed) == 1
    (tmp_path / "not ours").touch()
    occupancy.may_replace(holder, b"not ours", entry(b"not ours"))
    assert len(listed) == 2


def test_few_listings_are_remembered(holder, monkeypatch):
    monkeypatch.setattr(limits, "TREE_OPEN_DIRECTORIES_MAX", 3)
    occupancy = Occupancy(Overwrite.REPLACE)
    for number in range(10):
        path = b"%d/file" % number
        occupancy.may_replace(holder, b"file", Entry(path, EntryType.FILE))
    assert list(occupancy._names) == [b"7", b"8", b"9"]
