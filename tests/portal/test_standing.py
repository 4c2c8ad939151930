import os

import pytest

from core.tree.entry import AlreadyThere, Entry, EntryType
from core.tree.listing import list_directory
from core.tree.metadata import Owners
from core.tree.source import Root, Source
from portal.manifest import NO_CONTENT, Node
from portal.standing import Deed, Found, Manners, Overwrite, Standing
from tests.support.trees import IS_ROOT, Reports
from tests.support.vaults import NOW_NS, a_vault


def found_in(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return Found(list_directory(fd))
    finally:
        os.close(fd)


def test_names_are_asked_for_in_order_and_the_others_are_nobodys(tmp_path):
    for name in "acdf":
        (tmp_path / name).write_bytes(name.encode())
    found = found_in(tmp_path)
    assert found.find(b"a").size == 1
    assert found.find(b"b") is None
    assert found.find(b"d").ino == (tmp_path / "d").stat().st_ino
    assert found.find(b"e") is None
    assert list(found.rest()) == [b"c", b"f"]
    assert Found(None).find(b"a") is None
    assert list(Found(None).rest()) == []


@pytest.fixture
def there(tmp_path):
    """Asks what would become of an entry where something stands."""
    root = tmp_path / "root"
    root.mkdir()
    with (
        a_vault(tmp_path).reader() as reader,
        Source([Root.of(str(root), b"")], Reports()) as source,
    ):

        def ask(entry, overwrite=Overwrite.IF_CHANGED, owners=Owners.NUMBERS, **more):
            manners = Manners(overwrite, False, owners, True, more.get("clears", False))
            standing = Standing(reader, source, manners)
            row = standing.look_into(b"").find(entry.path)
            node = Node(entry, NO_CONTENT, b"")
            if entry.is_directory:
                return standing.of_directory(node, row, is_source=more.get("is_source", True))
            return standing.of_other(node, row)

        yield root, ask


def entry_like(path, **fields):
    facts = path.lstat()
    known = {
        "mode": facts.st_mode & 0o7777,
        "uid": facts.st_uid,
        "gid": facts.st_gid,
        "mtime_ns": facts.st_mtime_ns,
    }
    return Entry(os.fsencode(path.name), EntryType.FILE)._replace(**known | fields)


def test_what_is_the_same_stays_and_what_differs_in_anything_is_corrected(there):
    root, ask = there
    path = root / "f"
    path.write_bytes(b"")
    os.setxattr(path, "user.a", b"1")
    same = entry_like(path, xattrs=((b"user.a", b"1"),))
    assert ask(same) is Deed.KEPT
    assert ask(same._replace(mode=same.mode ^ 0o100)) is Deed.CORRECTED
    assert ask(same._replace(xattrs=((b"user.a", b"2"),))) is Deed.CORRECTED
    assert ask(same._replace(uid=same.uid + 1)) is Deed.CORRECTED
    assert ask(same._replace(uid=same.uid + 1), owners=Owners.MINE) is Deed.KEPT
    assert ask(same._replace(uid=9, user="nobody-here"), owners=Owners.NAMES) is Deed.CORRECTED
    assert ask(same._replace(size=1)) is Deed.REPLACED
    assert ask(same._replace(mtime_ns=NOW_NS)) is Deed.REPLACED
    assert ask(same._replace(type=EntryType.FIFO)) is Deed.REPLACED


def test_links_and_fifos_are_compared_by_what_they_are(there):
    root, ask = there
    (root / "l").symlink_to("target")
    os.mkfifo(root / "p")
    link = entry_like(root / "l", type=EntryType.SYMLINK, target=b"target")
    assert ask(link) is Deed.KEPT
    assert ask(link._replace(mode=0o600)) is Deed.KEPT  # a link has no mode of its own
    assert ask(link._replace(target=b"other")) is Deed.REPLACED
    assert ask(entry_like(root / "p", type=EntryType.FIFO)) is Deed.KEPT


@pytest.mark.skipif(not IS_ROOT, reason="only root may do this")
def test_devices_are_compared_by_their_numbers(there):
    root, ask = there
    try:
        os.mknod(root / "d", 0o020600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    null = entry_like(root / "d", type=EntryType.CHARACTER, rdev=(1, 3))
    assert ask(null) is Deed.KEPT
    assert ask(null._replace(rdev=(1, 5))) is Deed.REPLACED


def test_directories_are_taken_as_they_are_and_links_to_them_are_not_followed(there):
    root, ask = there
    (root / "d").mkdir()
    (root / "l").symlink_to("d")
    (root / "f").write_bytes(b"")

    def directory(name):
        return Entry(name, EntryType.DIRECTORY)

    assert ask(directory(b"none")) is Deed.CREATED
    assert ask(directory(b"d"), Overwrite.REFUSE) is None
    assert ask(directory(b"l")) is Deed.REPLACED
    assert ask(directory(b"f"), Overwrite.NEVER) is Deed.KEPT
    with pytest.raises(AlreadyThere, match="the link leads to"):
        ask(directory(b"l"), Overwrite.ALWAYS, is_source=False)
    with pytest.raises(AlreadyThere, match="--overwrite"):
        ask(directory(b"f"), Overwrite.REFUSE)
    with pytest.raises(AlreadyThere, match="a directory is in the way"):
        ask(Entry(b"d", EntryType.FILE), Overwrite.ALWAYS)
    assert ask(Entry(b"d", EntryType.FILE), Overwrite.ALWAYS, clears=True) is Deed.REPLACED
