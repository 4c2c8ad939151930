# Trees walked, read and restored: what comes out is what went in, by two independent judges.

import os
from pathlib import Path

import pytest

from core import limits
from core.tree.occupancy import Overwrite
from core.tree.restore import Options
from core.tree.source import Root
from tests.support.privileges import unprivileged
from tests.support.strange_trees import deep_tree, strange_tree
from tests.support.trees import IS_ROOT, copy, differences, rsync_differences


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def assert_exact_copy(one, other):
    assert differences(one, other) == []
    found = rsync_differences(one, other)
    if found is not None:
        assert found == ""


@pytest.mark.slow  # rsync reads both trees
def test_a_strange_tree_survives_exactly(tmp_path, out):
    refused = strange_tree(tmp_path / "tree")
    if IS_ROOT:
        assert not [what for what in refused if what.startswith(("owner", "null", "block"))]
    assert copy([Root.of(tmp_path / "tree")], out).lines == []
    assert_exact_copy(tmp_path / "tree", out / "tree")


@pytest.mark.slow
def test_a_strange_tree_survives_without_privileges(tmp_path):
    with unprivileged(tmp_path) as folder:
        strange_tree(folder / "tree")
        (folder / "out").mkdir()
        assert copy([Root.of(folder / "tree")], folder / "out").lines == []
        assert_exact_copy(folder / "tree", folder / "out" / "tree")


def test_a_strange_tree_survives_on_simpler_systems(tmp_path, out, monkeypatch):
    # No files without a name, no descriptors by path, few of them, and a hostile umask.
    monkeypatch.setattr(limits, "TREE_OPEN_DIRECTORIES_MAX", 2)
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    strange_tree(tmp_path / "tree")
    before = os.umask(0o777)
    try:
        said = copy([Root.of(tmp_path / "tree")], out).lines
    finally:
        os.umask(before)
    # What cannot be opened gets no mode and no attributes there: said, and nothing else is lost.
    assert all("cannot be set" in line for line in said)
    special = ("special/", "links/fifo", "links/far/same fifo", "attributes/link")
    different = differences(tmp_path / "tree", out / "tree")
    assert [
        line for line in different if not line.startswith(tuple(f"b'{s}" for s in special))
    ] == []
    assert all(": mode " in line or ": xattrs " in line for line in different)


@pytest.mark.slow
def test_a_second_run_replaces_everything_by_the_same(tmp_path, out):
    strange_tree(tmp_path / "tree")
    for overwrite in (Overwrite.REFUSE, Overwrite.REPLACE, Overwrite.IF_NEWER, Overwrite.SKIP):
        options = Options(overwrite=overwrite)
        assert copy([Root.of(tmp_path / "tree")], out, options=options).lines == []
        assert differences(tmp_path / "tree", out / "tree") == []


@pytest.mark.slow
def test_a_file_of_more_than_4_gib_survives(tmp_path, out):
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree" / "large").open("wb") as large:
        for at in (0, (4 << 30) - 3, 5 << 30):
            large.seek(at)
            large.write(b"island at %d" % at)
    assert copy([Root.of(tmp_path / "tree")], out).lines == []
    assert differences(tmp_path / "tree", out / "tree") == []
    assert (out / "tree" / "large").stat().st_size > 5 << 30


@pytest.mark.slow
def test_a_tree_deeper_than_paths_can_be_long_survives(tmp_path, out):
    (tmp_path / "tree").mkdir()
    deep_tree(tmp_path / "tree", 500)
    assert copy([Root.of(tmp_path / "tree")], out).lines == []
    assert differences(tmp_path / "tree", out / "tree") == []


@pytest.mark.slow
def test_a_wide_tree_survives(tmp_path, out):
    for number in range(1500):
        path = tmp_path / "tree" / f"{number % 100}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    assert copy([Root.of(tmp_path / "tree")], out).lines == []
    assert differences(tmp_path / "tree", out / "tree") == []


@pytest.mark.slow
def test_the_judge_sees_every_kind_of_difference(tmp_path, out):
    strange_tree(tmp_path / "tree")
    copy([Root.of(tmp_path / "tree")], out)
    copied = out / "tree"

    def swap_bytes(path, ns):
        data = bytearray(path.read_bytes())
        data[50] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(ns, ns))

    def fill(path):
        found = path.stat()
        path.write_bytes(bytes(found.st_size))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    def exchange(path, make):
        found = path.lstat()
        path.unlink()
        make(path)
        os.utime(path, ns=(0, found.st_mtime_ns), follow_symlinks=False)

    changes = {
        "content": lambda: swap_bytes(copied / "file 2", (copied / "file 2").stat().st_mtime_ns),
        "mode": lambda: (copied / "file 3").chmod(0o640),
        "mtime_ns": lambda: os.utime(copied / "file 4", ns=(0, 1)),
        "target": lambda: exchange(copied / "links" / "loop", lambda p: p.symlink_to("other")),
        "type": lambda: exchange(copied / "special" / "fifo", Path.touch),
        "names": lambda: exchange(copied / "links" / "far" / "away", Path.touch),
        "missing": (copied / "empty" / "emptier" / "emptiest").rmdir,
        "too much": (copied / "another").touch,
        "takes": lambda: fill(copied / "sparse" / "hole only"),
    }
    for kind, change in changes.items():
        before = set(differences(tmp_path / "tree", copied))
        change()
        new = set(differences(tmp_path / "tree", copied)) - before
        assert [line for line in new if kind in line], (kind, new)
