"""A stranger's tree through `warp archive` and back, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.strange_trees import strange_tree
from tests.support.trees import differences, rsync_differences

WARP = Path(sys.executable).parent / "warp"
HUGE_BYTES = (4 << 30) + 12_345  # beyond every 32-bit length


def warp(*argv):
    done = subprocess.run(
        [WARP, "archive", *map(str, argv)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def stranger(tmp_path):
    root = tmp_path / "tree"
    strange_tree(root)
    huge = root / "huge"
    with huge.open("wb") as file:  # data at both ends and in the middle, holes between
        for offset in (0, 2 << 30, HUGE_BYTES - 700_000):
            file.seek(offset)
            file.write(os.urandom(700_000))
    assert huge.stat().st_size == HUGE_BYTES
    return root


@pytest.mark.slow
@pytest.mark.parametrize("lock", [[], ["--key-file"]])
def test_a_strangers_tree_survives_byte_and_metadata_exact(tmp_path, lock):
    root = stranger(tmp_path)
    if lock:
        key = tmp_path / "key"
        key.write_bytes(os.urandom(32).hex().encode())
        key.chmod(0o600)
        lock = [*lock, key]
    before = (root / "huge").stat().st_blocks
    warp("create", root, "-o", tmp_path / "a.warp", *lock)
    warp("verify", tmp_path / "a.warp", *lock)
    out = tmp_path / "out"
    warp("extract", tmp_path / "a.warp", "-o", out, *lock)
    assert differences(root, out / "tree") == []
    assert (out / "tree" / "huge").stat().st_blocks <= before * 1.1  # the holes are holes again
    found = rsync_differences(root, out / "tree")
    if found is None:
        pytest.skip("rsync is not installed: compared without it")
    assert found == ""


@pytest.mark.slow
def test_the_middle_of_a_huge_file_is_read_without_the_rest(tmp_path):
    root = stranger(tmp_path)
    warp("create", root / "huge", "-o", tmp_path / "a.warp")
    assert (tmp_path / "a.warp").stat().st_size < 4 << 20
    with (root / "huge").open("rb") as file:
        beginning = file.read(700_000)
    argv = [WARP, "archive", "cat", tmp_path / "a.warp", "huge"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as reader:
        assert reader.stdout.read(700_000) == beginning
        reader.stdout.close()  # a reader that has enough
    assert reader.returncode == 0
