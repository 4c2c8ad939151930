import os
import stat

import pytest

from core import limits
from core.errors import FormatError
from core.tree.entry import AlreadyThere, Entry, EntryType
from core.tree.folders import Folders
from core.tree.occupancy import Occupancy, Overwrite
from tests.support.folding import fold_names
from tests.support.strange_trees import ACL_DEFAULT, acl
from tests.support.trees import IS_ROOT, look


@pytest.fixture
def target(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "outside").mkdir()
    return tmp_path / "target"


@pytest.fixture
def make(tmp_path):
    made = []

    def make(overwrite=Overwrite.REFUSE, where=tmp_path / "target"):
        root = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
        folders = Folders(root, Occupancy(overwrite), has_proc=True)
        made.append((folders, root))
        return folders

    yield make
    for folders, root in made:
        folders.close()
        os.close(root)


def directory(path, **known):
    return Entry(path, EntryType.DIRECTORY, 0o755, **known)


def test_what_is_missing_on_the_way_is_made_private(target, make):
    folders = make()
    holder, name = folders.place(b"a/b/c/file")
    assert name == b"file"
    assert os.path.samestat(os.fstat(holder), (target / "a" / "b" / "c").stat())
    for path in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((target / path).stat().st_mode) == 0o700
    assert folders.entered == dict.fromkeys([b"", b"a", b"a/b", b"a/b/c"])


@pytest.mark.parametrize(
    "path",
    [
        *(b"", b"/", b"/x", b"//x", b"a/", b"/a/x", b"../x", b"a/../x", b"..", b"a//x", b"a\0/x"),
        *(b"a/.", b"./a", b"x" * 1021, b"a/" * 5000 + b"x"),
    ],
)
def test_hostile_paths_are_refused_before_anything_is_made(target, make, path):
    folders = make()
    folders.place(b"a/x")  # so that a directory they begin with is known
    before = look(target)
    for call in (folders.place, lambda path: folders.claim(directory(path))):
        with pytest.raises(FormatError):
            call(path)
    assert look(target) == before


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("leads_to", ["directory", "file", "nowhere", "itself"])
def test_a_planted_link_is_not_followed_at_any_depth(target, make, tmp_path, depth, leads_to):
    names = [b"a", b"b", b"c", b"d"]
    parent = target.joinpath(*map(os.fsdecode, names[:depth]))
    parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "outside" / "file").touch()
    outside = {
        "directory": tmp_path / "outside",
        "file": tmp_path / "outside" / "file",
        "nowhere": tmp_path / "outside" / "new",
        "itself": names[depth].decode(),
    }
    (parent / names[depth].decode()).symlink_to(outside[leads_to])
    before = look(tmp_path)
    folders = make(Overwrite.REPLACE)
    for _ in range(2):
        with pytest.raises(AlreadyThere, match="directory is needed"):
            folders.place(b"/".join([*names, b"file"]))
    assert look(tmp_path) == before


@pytest.mark.parametrize("planted", ["link", "file"])
def test_a_link_planted_just_after_a_directory_was_made_is_not_followed(
    target, make, tmp_path, monkeypatch, planted
):
    real = os.mkdir

    def mkdir(name, mode, *, dir_fd):
        real(name, mode, dir_fd=dir_fd)
        if name == b"b":
            os.rmdir(name, dir_fd=dir_fd)
            if planted == "link":
                os.symlink(tmp_path / "outside", name, dir_fd=dir_fd)
            else:
                os.close(os.open(name, os.O_CREAT, dir_fd=dir_fd))

    monkeypatch.setattr(os, "mkdir", mkdir)
    folders = make(Overwrite.REPLACE)
    with pytest.raises(AlreadyThere):
        folders.place(b"a/b/c/file")
    assert folders.claim(directory(b"x/b"))
    with pytest.raises(AlreadyThere):
        folders.place(b"x/b/file")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_directory_moved_away_is_still_the_one_that_was_opened(target, make, tmp_path):
    folders = make()
    holder, _ = folders.place(b"a/file")
    (target / "a").rename(target / "moved")
    (target / "a").symlink_to(tmp_path / "outside")
    assert folders.place(b"a/file")[0] == holder
    assert os.path.samestat(os.fstat(holder), (target / "moved").stat())


def test_a_link_planted_where_a_directory_was_closed_is_not_followed(
    target, make, tmp_path, monkeypatch
):
    monkeypatch.setattr(limits, "TREE_OPEN_DIRECTORIES_MAX", 2)
    folders = make()
    folders.place(b"a/file")
    folders.place(b"b/c/d/file")
    (target / "a").rename(target / "moved")
    (target / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(AlreadyThere):
        folders.place(b"a/file")


@pytest.mark.parametrize("overwrite", list(Overwrite))
def test_a_directory_that_is_there_is_kept_with_what_is_in_it(target, make, overwrite):
    (target / "a" / "inner").mkdir(parents=True)
    (target / "a").chmod(0o711)
    entry = directory(b"a")
    folders = make(overwrite)
    changes = overwrite in {Overwrite.REPLACE, Overwrite.IF_NEWER}
    assert folders.claim(entry) is changes
    assert folders.entered[b"a"] == (entry if changes else None)
    assert (target / "a" / "inner").is_dir()
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o711


def test_a_directory_made_on_the_way_gets_its_entry_later(target, make):
    folders = make()
    folders.place(b"a/b/file")
    assert folders.claim(directory(b"a/b"))
    assert folders.claim(directory(b"a"))
    assert folders.entered[b"a/b"] == directory(b"a/b")


@pytest.mark.parametrize("there", ["file", "link"])
def test_what_is_no_directory_is_replaced_only_if_it_may(target, make, tmp_path, there):
    path = target / "a"

    def plant():
        path.unlink(missing_ok=True)
        if there == "file":
            path.write_bytes(b"content")
        else:
            path.symlink_to(tmp_path / "outside")
        os.utime(path, ns=(100, 100), follow_symlinks=False)

    plant()
    with pytest.raises(AlreadyThere):
        make().claim(directory(b"a"))
    assert not make(Overwrite.SKIP).claim(directory(b"a"))
    assert not make(Overwrite.IF_NEWER).claim(directory(b"a", mtime_ns=100))
    assert not path.is_dir() or path.is_symlink()
    assert make(Overwrite.IF_NEWER).claim(directory(b"a", mtime_ns=101))
    assert path.is_dir()
    assert not path.is_symlink()
    path.rmdir()
    plant()
    folders = make(Overwrite.REPLACE)
    assert folders.claim(directory(b"a"))
    folders.place(b"a/b/c")
    assert list((tmp_path / "outside").iterdir()) == []


def test_two_spellings_of_one_directory_are_not_mixed(target, make, monkeypatch):
    fold_names(monkeypatch)
    folders = make(Overwrite.REPLACE)
    assert folders.claim(directory(b"Folder"))
    folders.place(b"Folder/file")
    folders.place(b"other/file")
    for call in (
        lambda: folders.claim(directory(b"folder")),
        lambda: folders.place(b"folder/file"),
        lambda: folders.place(b"OTHER/deeper/file"),
    ):
        for _ in range(2):
            with pytest.raises(AlreadyThere, match="another name"):
                call()
    assert sorted(p.name for p in target.rglob("*")) == ["Folder", "other"]
    assert make(Overwrite.REPLACE).claim(directory(b"Folder"))  # a second run of the same


def test_a_umask_locks_nobody_out(unprivileged, make):
    before = os.umask(0o777)
    try:
        folders = make(Overwrite.REFUSE, unprivileged)
        holder, _ = folders.place(b"a/b/file")
        os.close(os.open(b"file", os.O_CREAT, 0o600, dir_fd=holder))
        assert folders.claim(directory(b"c"))
        folders.place(b"c/file")
    finally:
        os.umask(before)
    for path in ("a", "a/b", "c"):
        assert stat.S_IMODE((unprivileged / path).stat().st_mode) == 0o700


def test_a_locked_directory_opens_for_its_own_entry_only(unprivileged, make):
    for name in ("named", "on the way"):
        (unprivileged / name).mkdir(mode=0o700)
        (unprivileged / name).chmod(0o000)
    folders = make(Overwrite.REPLACE, unprivileged)
    assert folders.claim(directory(b"named"))
    folders.place(b"named/inner/file")
    with pytest.raises(PermissionError):
        folders.place(b"on the way/file")
    assert stat.S_IMODE((unprivileged / "on the way").stat().st_mode) == 0
    (unprivileged / "on the way").chmod(0o700)


@pytest.mark.skipif(not IS_ROOT, reason="needs a directory of someone else")
def test_a_locked_directory_of_someone_else_stays_as_it_is(unprivileged, make):
    os.seteuid(0)
    (unprivileged / "theirs").mkdir()
    (unprivileged / "theirs").chmod(0o500)
    os.seteuid(65_534)
    assert make(Overwrite.REPLACE, unprivileged).claim(directory(b"theirs"))
    assert stat.S_IMODE((unprivileged / "theirs").stat().st_mode) == 0o500


def test_what_hands_down_its_acl_is_known(target, make):
    (target / "old").mkdir()
    try:
        os.setxattr(target / "old", ACL_DEFAULT, acl())
    except OSError:
        pytest.skip("this file system has no ACLs")
    folders = make(Overwrite.REPLACE)
    folders.place(b"old/new/newer/file")
    folders.place(b"other/file")
    assert folders.hands_down_acl(b"old/file")
    assert folders.hands_down_acl(b"old/new/newer/file")
    assert not folders.hands_down_acl(b"old")
    assert not folders.hands_down_acl(b"other/file")
