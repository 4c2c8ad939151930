import os
import stat

import pytest

from core.errors import FormatError
from core.tree.entry import Changed, Entry, EntryType
from core.tree.metadata import Metadata, Owners
from core.tree.nodes import dress_node, make_node
from tests.support.trees import IS_ROOT

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may make devices")


@pytest.fixture
def holder(tmp_path):
    (tmp_path / "out").mkdir()
    fd = os.open(tmp_path / "out", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def dress(holder, reports):
    metadata = Metadata(Owners.NUMBERS, reports, privileged=True)

    def dress(entry, **how):
        dress_node(holder, b"x", entry, metadata, **{"has_proc": True, "drop_acls": False} | how)

    return dress


def node(kind, **known):
    me = {"uid": os.geteuid(), "gid": os.getegid(), "mtime_ns": -7}
    return Entry(b"a/x", kind, **me | known)


LINK = node(EntryType.SYMLINK, target=b"some/where", mode=0o777)
FIFO = node(EntryType.FIFO, mode=0o622)
NULL = node(EntryType.CHARACTER, rdev=(1, 3), mode=0o666)
BLOCK = node(EntryType.BLOCK, rdev=(4000, 1_000_000), mode=0o660)


@pytest.mark.parametrize(
    "entry",
    [LINK, FIFO, pytest.param(NULL, marks=needs_root), pytest.param(BLOCK, marks=needs_root)],
)
def test_it_is_made_and_dressed(tmp_path, holder, dress, reports, entry):
    before = os.umask(0o777)
    try:
        make_node(holder, b"x", entry)
        dress(entry)
    finally:
        os.umask(before)
    found = (tmp_path / "out" / "x").lstat()
    assert stat.S_IMODE(found.st_mode) == entry.mode
    assert found.st_mtime_ns == -7
    if entry.rdev != (0, 0):
        assert found.st_rdev == os.makedev(*entry.rdev)
    if entry is LINK:
        assert (tmp_path / "out" / "x").readlink().as_posix() == "some/where"
    assert reports.lines == []


@needs_root
def test_devices_are_private_until_they_are_dressed(tmp_path, holder):
    make_node(holder, b"x", NULL)
    assert stat.S_IMODE((tmp_path / "out" / "x").stat().st_mode) == 0o600


@pytest.mark.parametrize("entry", [FIFO, LINK, NULL])
@pytest.mark.parametrize("planted", ["symlink", "hard link", "fifo"])
def test_what_was_exchanged_gets_nothing(tmp_path, holder, dress, entry, planted):
    secret = tmp_path / "secret"
    secret.write_bytes(b"safe")
    secret.chmod(0o600)
    if planted == "symlink":
        (tmp_path / "out" / "x").symlink_to(secret)
    elif planted == "hard link":
        os.link(secret, tmp_path / "out" / "x")
    else:
        os.mkfifo(tmp_path / "out" / "x")
    before = secret.stat()
    if (entry, planted) in {(LINK, "symlink"), (FIFO, "fifo")}:
        dress(entry)  # of the same kind: it may have it, what it leads to may not
    else:
        with pytest.raises(Changed):
            dress(entry._replace(uid=1, mode=0o777))
    assert secret.stat() == before


@pytest.mark.parametrize("rdev", [(1, 0xFFFF_FFF3), (0xFFFF_FFFF, 0)])
def test_numbers_no_system_has_are_refused(holder, rdev):
    with pytest.raises(FormatError, match="no device"):
        make_node(holder, b"x", NULL._replace(rdev=rdev))


@needs_root
def test_a_number_that_did_not_fit_is_noticed(holder, dress):
    make_node(holder, b"x", NULL)
    with pytest.raises(Changed):
        dress(NULL._replace(rdev=(1, 5)))


def test_without_such_descriptors_it_goes_by_name(tmp_path, holder, dress, reports):
    secret = tmp_path / "secret"
    secret.write_bytes(b"safe")
    before = secret.stat()
    make_node(holder, b"x", LINK._replace(target=os.fsencode(secret)))
    dress(LINK, has_proc=False)
    assert (tmp_path / "out" / "x").lstat().st_mtime_ns == -7
    assert secret.stat() == before
    assert reports.lines == []
