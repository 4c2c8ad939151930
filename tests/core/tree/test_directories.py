import os

import pytest

from core import limits
from core.errors import FormatError
from core.tree.directories import Directories
from tests.support.strange_trees import deep_tree
from tests.support.trees import open_descriptors

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@pytest.fixture
def directories(tmp_path):
    root = os.open(tmp_path, DIRECTORY)
    found = Directories(lambda path: None if path else (root, b"."))
    yield found
    found.close()
    os.close(root)


def test_a_place_is_a_directory_and_a_name_in_it(tmp_path, directories):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"here")
    holder, name = directories.place(b"a/b/file")
    assert name == b"file"
    assert os.stat(name, dir_fd=holder).st_size == 4
    assert os.path.samestat(os.fstat(holder), (tmp_path / "a" / "b").stat())
    assert os.path.samestat(os.fstat(directories.open(b"")), tmp_path.stat())
    assert directories.place(b"top")[1] == b"top"


def test_links_and_files_are_not_entered(tmp_path, directories):
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").write_bytes(b"")
    for path in (b"link", b"link/inner", b"file", b"file/x"):
        with pytest.raises(NotADirectoryError):
            directories.open(path)
    with pytest.raises(FileNotFoundError):
        directories.open(b"real/nothing")


def test_few_are_open_however_many_there_are(tmp_path, directories):
    before = open_descriptors()
    for number in range(2 * limits.TREE_OPEN_DIRECTORIES_MAX):
        (tmp_path / str(number)).mkdir()
        directories.open(b"%d" % number)
    assert len(open_descriptors() - before) <= limits.TREE_OPEN_DIRECTORIES_MAX
    for number in (0, 127, 5):  # closed ones open again
        fd = directories.open(b"%d" % number)
        assert os.path.samestat(os.fstat(fd), (tmp_path / str(number)).stat())
    directories.close()
    assert open_descriptors() <= before


def test_the_least_recently_used_is_closed(tmp_path, directories, monkeypatch):
    for number in range(limits.TREE_OPEN_DIRECTORIES_MAX + 10):
        (tmp_path / str(number)).mkdir()
    directories.open(b"0")
    for number in range(1, limits.TREE_OPEN_DIRECTORIES_MAX + 10):
        directories.open(b"%d" % number)
        directories.open(b"0")
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    directories.open(b"0")
    assert opened == []
    directories.open(b"1")
    assert len(opened) == 1


def test_paths_too_long_for_the_system_are_found(tmp_path, directories):
    deepest = deep_tree(tmp_path, 100)
    assert len(deepest) > 4096
    holder, name = directories.place(deepest + b"/z")
    fd = os.open(name, os.O_RDONLY, dir_fd=holder)
    assert os.read(fd, 100) == b"level 99"
    os.close(fd)
    assert directories.open(deepest[:-201])  # one level up, closed long ago


def test_a_path_outside_of_all_trees_is_refused(tmp_path):
    fd = os.open(tmp_path, DIRECTORY)
    directories = Directories({b"a/b": (fd, b".")}.get)
    assert os.path.samestat(os.fstat(directories.open(b"a/b")), tmp_path.stat())
    for path in (b"a", b"x/y", b""):
        with pytest.raises(FormatError, match="none of the trees"):
            directories.open(path)
    directories.close()
    os.close(fd)


def test_what_is_missing_may_be_made_on_the_way(tmp_path):
    entered = []

    def enter(holder, name, path):
        entered.append(path)
        if path:
            os.mkdir(name, dir_fd=holder)
        return os.open(name, DIRECTORY, dir_fd=holder)

    root = os.open(tmp_path, DIRECTORY)
    directories = Directories(lambda path: None if path else (root, b"."), enter)
    directories.open(b"x/y/z")
    assert entered == [b"", b"x", b"x/y", b"x/y/z"]
    assert (tmp_path / "x" / "y" / "z").is_dir()
    directories.close()
    os.close(root)


def test_a_failure_on_the_way_leaks_nothing(tmp_path, directories):
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        directories.open(b"a/b/c/d")
    directories.close()
    assert open_descriptors() <= before
