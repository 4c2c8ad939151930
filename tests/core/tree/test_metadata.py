import os
import stat

import pytest

from core.tree import metadata as metadata_module
from core.tree.entry import Entry, EntryType, Incomplete
from core.tree.metadata import Metadata, Owners
from tests.support.privileges import NOBODY
from tests.support.strange_trees import ACL_ACCESS, CAPABILITY, acl, can_set_xattr
from tests.support.trees import IS_ROOT

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may give files away")
ME = (os.geteuid(), os.getegid())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def entry(**known):
    uid, gid = ME
    return Entry(b"a/file", EntryType.FILE, **{"uid": uid, "gid": gid, "mtime_ns": 7} | known)


def apply(fd, given, reports, owners=Owners.NUMBERS, *, privileged=True, **how):
    Metadata(owners, reports, privileged=privileged).apply(fd, given, **how)
    found = os.fstat(fd)
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns


@needs_root
def test_setuid_survives_the_change_of_owner(file, reports):
    given = entry(mode=0o6751, uid=12, gid=34, mtime_ns=-5)
    assert apply(file, given, reports) == (0o6751, 12, 34, -5)
    assert reports.lines == []


@needs_root
def test_capabilities_and_attributes_of_read_only_files_survive(file, reports, tmp_path):
    if not can_set_xattr(tmp_path, "security.capability", CAPABILITY):
        pytest.skip("this file system has no capabilities")
    xattrs = ((b"security.capability", CAPABILITY), (b"user.a", b"1"))
    given = entry(mode=0o400, uid=12, xattrs=xattrs)
    assert apply(file, given, reports)[:2] == (0o400, 12)
    assert {(os.fsencode(n), os.getxattr(file, n)) for n in os.listxattr(file)} == set(xattrs)
    assert reports.lines == []


def test_an_acl_and_the_mode_agree(file, reports, tmp_path):
    if not can_set_xattr(tmp_path, ACL_ACCESS, acl()):
        pytest.skip("this file system has no ACLs")
    given = entry(mode=0o774, xattrs=((ACL_ACCESS.encode(), acl()),))
    assert apply(file, given, reports)[0] == 0o774
    assert os.getxattr(file, ACL_ACCESS) == acl()
    assert apply(file, entry(mode=0o640), reports, drop_acls=True)[0] == 0o640
    assert os.listxattr(file) == []
    assert reports.lines == []


@needs_root
def test_owners_may_go_by_name(file, reports, monkeypatch):
    monkeypatch.setattr(metadata_module, "user_id", {"ann": 1001}.get)
    monkeypatch.setattr(metadata_module, "group_id", {"staff": 1002}.get)
    known = entry(uid=5, gid=6, user="ann", group="staff")
    assert apply(file, known, reports, Owners.NAMES)[1:3] == (1001, 1002)
    assert apply(file, known, reports, Owners.NUMBERS)[1:3] == (5, 6)
    unknown = entry(uid=5, gid=6, user="bob", group="")
    assert apply(file, unknown, reports, Owners.NAMES)[1:3] == (5, 6)
    assert apply(file, entry(uid=7, gid=8), reports, Owners.MINE)[1:3] == (5, 6)


def test_rights_of_someone_else_are_not_lent_by_a_file_of_mine(file, reports):
    uid, gid = ME
    stranger = entry(mode=0o6755, uid=uid + 1, gid=gid + 1)
    assert apply(file, stranger, reports, Owners.MINE)[0] == 0o755
    assert apply(file, entry(mode=0o6755), reports, Owners.MINE)[0] == 0o6755


def test_owners_that_cannot_be_set_are_reported_once_and_lend_nothing(unprivileged, reports):
    me = (os.geteuid(), os.getegid())
    metadata = Metadata(Owners.NUMBERS, reports, privileged=True)
    for number in range(3):
        path = unprivileged / str(number)
        path.touch()
        fd = os.open(path, os.O_RDWR)
        metadata.apply(fd, entry(mode=0o6755, uid=1, gid=2))
        found = os.fstat(fd)
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o755, *me)
        assert found.st_mtime_ns == 7
        metadata.apply(fd, entry(mode=0o6755, uid=me[0], gid=me[1]))
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o6755
        os.close(fd)
    ((path, error),) = reports.all
    assert path == b"a/file"
    assert isinstance(error, Incomplete)
    assert "owners cannot be set" in str(error)


@needs_root
def test_the_group_is_kept_where_only_the_owner_cannot_be(file, reports, monkeypatch):
    real = os.chown

    def chown(handle, uid, gid):
        if uid != -1:
            raise PermissionError(1, "Operation not permitted")
        real(handle, uid, gid)

    monkeypatch.setattr(os, "chown", chown)
    given = entry(mode=0o6755, uid=NOBODY, gid=77)
    assert apply(file, given, reports)[:3] == (0o2755, os.geteuid(), 77)


def test_attributes_that_cannot_be_set_are_reported_once_each(unprivileged, reports):
    metadata = Metadata(Owners.MINE, reports, privileged=True)
    xattrs = ((b"security.selinux", b"x"), (b"trusted.a", b"1"), (b"user.a", b"kept"))
    for number in range(3):
        path = unprivileged / str(number)
        path.touch()
        fd = os.open(path, os.O_RDWR)
        metadata.apply(fd, entry(xattrs=xattrs))
        if os.listxattr(fd):
            assert os.getxattr(fd, "user.a") == b"kept"
        os.close(fd)
    refused = [str(error) for _, error in reports.all]
    assert len([line for line in refused if "security.selinux" in line]) <= 1
    assert len([line for line in refused if "trusted.a" in line]) == 1


def test_attributes_can_be_set_whatever_the_mode(unprivileged, reports):
    if not can_set_xattr(unprivileged, "user.x"):
        pytest.skip("this file system has no attributes")
    given = entry(mode=0o400, xattrs=((b"user.a", b"1"),))
    (unprivileged / "file").touch()
    (unprivileged / "folder").mkdir()
    for name, wanted in {"file": given, "folder": given._replace(type=EntryType.DIRECTORY)}.items():
        fd = os.open(unprivileged / name, os.O_RDONLY)
        os.fchmod(fd, 0)
        Metadata(Owners.MINE, reports, privileged=True).apply(fd, wanted)
        assert os.getxattr(fd, "user.a") == b"1"
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o400
        os.close(fd)
    assert reports.lines == []


def test_strangers_give_no_rights(file, reports, tmp_path):
    given = entry(mode=0o7755, xattrs=((b"trusted.a", b"1"), (b"user.a", b"1")))
    assert apply(file, given, reports, privileged=False)[0] == 0o755
    names = os.listxattr(file)
    assert names in ([], ["user.a"])
    if can_set_xattr(tmp_path, "user.x"):
        assert names == ["user.a"]
    assert reports.lines == []  # it was asked for


def test_what_is_refused_is_reported_and_the_rest_is_done(file, reports, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    apply(file, entry(), reports)
    said = "a/file: mode or time cannot be set: Operation not permitted (said once)"
    assert reports.lines == [said]


def test_things_that_cannot_be_opened_are_reached_by_name(tmp_path, reports):
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    at = {"dir_fd": fd, "follow_symlinks": False}
    metadata = Metadata(Owners.NUMBERS, reports, privileged=True)
    link = entry()._replace(type=EntryType.SYMLINK, target=b"nowhere")
    metadata.apply(b"link", link, at=at)
    assert (tmp_path / "link").lstat().st_mtime_ns == 7
    assert reports.lines == []
    metadata.apply(b"link", link._replace(xattrs=((b"user.a", b""),)), at=at)
    assert "attributes cannot be set on this system" in reports.lines[0]
    os.close(fd)
