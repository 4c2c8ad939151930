import os
import shutil
import subprocess
import tarfile
import zipfile
from io import BytesIO

import pytest

from core.pieces import Kind
from core.tree.entry import EntryType
from portal.browse import Selection
from portal.dump import dump_tar, dump_zip
from portal.manifest import NO_CONTENT, Content, Extent, Form, encode_extents
from tests.support.snapshots import a_shelf, by_hand, damage_chunks_of, directory_row, file_row
from tests.support.strange_trees import strange_tree
from tests.support.trees import IS_ROOT, Reports, differences
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed

TREE = {b"home": {b"ann": {b"a.txt": b"aa", b"empty": b"", b"d": {b"b.txt": b"bbb"}}}}


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


def dumped(dump, vault, snapshot, under=b"", **how):
    out, reports = bytearray(), Reports()
    with vault.reader() as reader:
        count = dump(reader, snapshot, under, out.extend, reports, **how)
    return bytes(out), reports, count


def test_a_directory_is_a_tar_of_what_is_below_it(vault):
    snapshot = by_hand(vault, TREE)
    data, reports, count = dumped(dump_tar, vault, snapshot, b"home/ann")
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        assert tar.getnames() == ["a.txt", "d", "d/b.txt", "empty"]
        assert tar.extractfile("d/b.txt").read() == b"bbb"
    assert (reports.all, count) == ([], 4)
    data, _, _ = dumped(dump_tar, vault, snapshot, b"home/ann/a.txt")
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        assert tar.getnames() == ["a.txt"]
    data, _, _ = dumped(dump_tar, vault, snapshot, b"home", select=Selection([b"*/b.txt"]))
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        assert tar.getnames() == ["ann/d/b.txt"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tar") or not IS_ROOT, reason="GNU tar as root is the judge")
def test_gnu_tar_finds_a_strangers_tree_in_it(vault, tmp_path):
    root, out = tmp_path / "tree", tmp_path / "out"
    strange_tree(root)
    (root / "large").write_bytes(fixed("large", 3_000_000))
    for number, mtime_ns in enumerate([-1, -1_500_000_000, 1, 10**18 + 7]):
        path = root / f"time {number}"
        path.write_bytes(b"")
        os.utime(path, ns=(mtime_ns, mtime_ns))
    out.mkdir()
    snapshot = back_up(vault, root)
    argv = ["tar", "-xpf", "-", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", out]
    reports = Reports()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as tar:
        with vault.reader() as reader:
            under = os.fsencode(root).lstrip(b"/")
            dump_tar(reader, snapshot, under, tar.stdin.write, reports)
        tar.stdin.close()
        complaints = tar.stderr.read()
    assert tar.returncode == 0, complaints
    assert reports.all == []
    assert differences(root, out, top=False) == []


def test_a_large_file_is_streamed_and_one_with_holes_stays_sparse(vault, tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    (root / "large").write_bytes(fixed("large", 2_000_000))
    with (root / "sparse").open("wb") as file:
        file.seek(3 << 30)
        file.write(b"end")
        file.truncate((3 << 30) + 100_000)
    snapshot = back_up(vault, root)
    data, _, _ = dumped(dump_tar, vault, snapshot, os.fsencode(root).lstrip(b"/"))
    assert len(data) < 3_000_000
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        assert tar.extractfile("large").read() == fixed("large", 2_000_000)
        member = tar.getmember("sparse")
        assert member.size == (3 << 30) + 100_000
        file = tar.extractfile(member)
        file.seek(3 << 30)
        assert file.read(100) == b"end" + bytes(97)


def test_files_that_had_one_inode_one_after_the_other_are_not_mixed_up(vault):
    names = {"a": b"first", "b": b"second", "c": b"first", "d": b"second"}
    with a_shelf(vault) as shelf:
        rows = [shelf.file(name.encode(), data, link=b"L" * 16) for name, data in names.items()]
        snapshot = shelf.commit(shelf.directory(rows))
    data, _, _ = dumped(dump_tar, vault, snapshot)
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        assert {name: tar.extractfile(name).read() for name in names} == names
        assert {m.name: m.linkname for m in tar if m.islnk()} == {"c": "a", "d": "b"}


def test_a_damaged_small_file_is_left_out_a_long_one_filled_up(vault):
    with a_shelf(vault) as shelf:
        small = shelf.put(Kind.SMALL_FILE, b"small" * 9)
        cuts = [shelf.put(Kind.CUT, bytes([n]) * 400_000) for n in range(1, 4)]
        extents = encode_extents([Extent(400_000, tag) for tag in cuts])
        rows = [
            shelf.file(b"fine", b"1"),
            file_row(b"long", Content(Form.CUTS, extents), 1_200_000),
            file_row(b"small", Content(Form.SMALL, small), 45),
            shelf.file(b"z", b"2"),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    damage_chunks_of(vault, Kind.SMALL_FILE, small)
    damage_chunks_of(vault, Kind.CUT, cuts[1])
    whole = b"\1" * 400_000 + bytes(800_000)
    data, reports, count = dumped(dump_tar, vault, snapshot)
    assert [path for path, _ in reports.all] == [b"long", b"small"]
    assert "the rest of it is zeros" in reports.lines[0]
    assert count == 3
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        assert tar.getnames() == ["fine", "long", "z"]
        assert tar.extractfile("long").read() == whole
    data, reports, count = dumped(dump_zip, vault, snapshot)
    assert [path for path, _ in reports.all] == [b"long", b"small"]
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert archive.namelist() == ["fine", "long", "z"]
        assert archive.read("long") == whole
        assert archive.testzip() is None


def special(vault):
    with a_shelf(vault) as shelf:
        rows = [
            file_row(b"\xff", NO_CONTENT, 0),
            directory_row(b"d", shelf.tree({b"f": b"1" * 1_000}), mode=0o750),
            shelf.file(b"e.sh", b"run", mode=0o4755),
            file_row(b"fifo", NO_CONTENT, 0, type=EntryType.FIFO),
            file_row(b"link", NO_CONTENT, 0, type=EntryType.SYMLINK, target=b"d/f"),
            file_row(b"old", NO_CONTENT, 0, mtime_ns=-5 * 10**9),
        ]
        return shelf.commit(shelf.directory(sorted(rows)))


def test_a_zip_keeps_what_zip_can_and_says_what_it_cannot(vault, tmp_path):
    data, reports, count = dumped(dump_zip, vault, special(vault))
    assert [path for path, _ in reports.all] == [b"fifo", b"\xff"]
    assert count == 6
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["d/", "d/f", "e.sh", "link", "old", "\\xff"]
        modes = {i.filename: oct(i.external_attr >> 16) for i in archive.infolist()}
        assert modes["link"] == "0o120644"
        assert modes["d/"] == "0o40750"
        assert modes["e.sh"] == "0o104755"
        assert archive.read("link") == b"d/f"
    if not shutil.which("unzip"):
        pytest.skip("unzip is not installed: read without it")
    (tmp_path / "a.zip").write_bytes(data)
    out = tmp_path / "out"
    done = subprocess.run(
        ["unzip", "-q", tmp_path / "a.zip", "-d", out], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (out / "link").readlink().as_posix() == "d/f"
    assert (out / "d" / "f").read_bytes() == b"1" * 1_000
    assert (out / "e.sh").stat().st_mtime == NOW_NS // 10**9  # to the second, in any time zone
