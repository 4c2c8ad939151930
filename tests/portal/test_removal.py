import os
import socket

import pytest

from core.tree.source import Root, Source
from portal.browse import EVERYTHING, Selection
from portal.removal import Removal
from tests.support.trees import IS_ROOT, Reports


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for name in ["x/a", "x/y/b", "x/y/z/c", "beside"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")
    return root


def remove(root, name=b"x", *, select=EVERYTHING, protected=()):
    reports, gone = Reports(), []
    ids = frozenset((p.stat().st_dev, p.stat().st_ino) for p in protected)
    with Source([Root.of(str(root), b"")], reports) as source:
        whole = Removal(source, select, ids, reports, gone.append).remove(name)
    return whole, gone, reports.lines


def left(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def test_everything_below_goes_and_nothing_beside(tree):
    whole, gone, lines = remove(tree)
    assert (whole, lines) == (True, [])
    assert gone == [b"x/a", b"x/y/b", b"x/y/z/c", b"x/y/z", b"x/y", b"x"]
    assert left(tree) == ["beside"]
    assert remove(tree, b"beside")[:2] == (True, [b"beside"])
    assert remove(tree, b"never there") == (True, [], [])


def test_links_go_and_what_they_lead_to_stays(tree, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"1")
    (tree / "x" / "link").symlink_to(outside)
    (tree / "top").symlink_to(outside)
    assert remove(tree)[0]
    assert remove(tree, b"top")[0]
    assert left(outside) == ["precious"]
    assert left(tree) == ["beside"]


def test_what_is_protected_stays_and_so_do_the_directories_above(tree):
    whole, _, lines = remove(tree, protected=[tree / "x" / "y" / "z"])
    assert not whole
    assert left(tree) == ["beside", "x", "x/y", "x/y/z", "x/y/z/c"]
    assert lines == ["x/y/z: x/y/z: holds backups or keys and stays"]


def test_what_is_not_selected_stays(tree):
    whole, _, lines = remove(tree, select=Selection(exclude=[b"x/y/b"]))
    assert (whole, lines) == (False, [])
    assert left(tree) == ["beside", "x", "x/y", "x/y/b"]
    assert remove(tree, select=Selection([b"x/y"]))[1] == [b"x/y/b", b"x/y"]
    assert left(tree) == ["beside", "x"]


def test_sockets_belong_to_running_programs(tree, monkeypatch):
    monkeypatch.chdir(tree / "x")  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        assert not remove(tree)[0]
    assert left(tree) == ["beside", "x", "x/s"]


@pytest.mark.slow
def test_a_deep_tree_goes(tree):
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    whole, gone, lines = remove(tree, b"d")
    assert (whole, len(gone), lines) == (True, 400, [])


@pytest.mark.skipif(not IS_ROOT, reason="only root may do this")
def test_nothing_is_taken_from_what_is_mounted(tree):
    import subprocess

    place = tree / "x" / "y"
    argv = ["mount", "-t", "tmpfs", "none", str(place)]
    if subprocess.run(argv, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (place / "mounted").write_bytes(b"1")
        whole, _, lines = remove(tree)
        assert not whole
        assert (place / "mounted").exists()
        assert lines == ["x/y: x/y: something is mounted here; it stays"]
    finally:
        subprocess.run(["umount", place], check=True)
