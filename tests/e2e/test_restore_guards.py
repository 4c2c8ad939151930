"""A restore that deletes, aimed at what must stay: vaults, keys, mounts, what nobody could read."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import UsageError
from portal.head import Snapshot
from portal.standing import Overwrite
from tests.support.restores import restore
from tests.support.snapshots import by_hand
from tests.support.trees import IS_ROOT
from tests.support.vaults import a_vault

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


def everything(top: Path) -> dict[str, bytes]:
    return {str(p.relative_to(top)): b"" if p.is_dir() else p.read_bytes() for p in top.rglob("*")}


TARGETS = ["vault", "vault/packs", "vault/new", "home", "home/sub", "to the vault", "to home/sub"]


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_restored_over_backups_and_keys(vault, tmp_path, target, delete):
    snapshot = by_hand(vault, {b"packs": {}, b"f": b"1"})
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (home / "keys").write_bytes(b"keys")
    (home / "sub" / "more").write_bytes(b"keys")
    (tmp_path / "to the vault").symlink_to(tmp_path / "vault")
    (tmp_path / "to home").symlink_to(home)
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="holds backups or keys"):
        restore(
            vault, snapshot, tmp_path / target, overwrite=Overwrite.ALWAYS, delete=delete,
            protected=(vault.store.path, home),
        )  # fmt: skip
    assert everything(tmp_path) == before


def test_beside_them_it_is(vault, tmp_path):
    snapshot = by_hand(vault, {b"f": b"1"})
    restore(vault, snapshot, tmp_path / "vault 2", protected=(vault.store.path,))
    assert everything(tmp_path / "vault 2") == {"f": b"1"}


# --- mounts ---------------------------------------------------------------------------------------

MOUNTED = """
import json, subprocess, sys
from pathlib import Path
from portal.standing import Overwrite
from tests.support.restores import restore
from tests.support.vaults import opened
place = Path(sys.argv[1])
there = place / "out" / "mnt"
if subprocess.run(["mount", "-t", "tmpfs", "none", there], stderr=subprocess.DEVNULL).returncode:
    sys.exit(77)
(there / "deep").mkdir()
(there / "deep" / "f").write_bytes(b"2")
(there / "precious").write_bytes(b"1")
vault = opened(place)
(snapshot,) = vault.head().live
ran = restore(vault, snapshot, place / "out", overwrite=Overwrite.IF_CHANGED, delete=True)
left = sorted(str(p.relative_to(place / "out")) for p in (place / "out").rglob("*"))
print(json.dumps([left, ran.lines]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not IS_ROOT or sys.platform != "linux", reason="only root may mount")
def test_what_is_mounted_where_a_directory_was_empty_stays(vault, tmp_path):
    by_hand(vault, {b"mnt": {}, b"empty": {}})
    for name in ("mnt", "empty"):
        (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / "empty" / "extra").write_bytes(b"")
    argv = ["unshare", "--mount", sys.executable, "-c", MOUNTED, tmp_path]
    try:
        child = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if child.returncode == 77 or "unshare" in child.stderr.partition(":")[0]:
        pytest.skip("nothing may be mounted here")
    assert child.returncode == 0, child.stderr
    left, lines = json.loads(child.stdout)
    assert left == ["empty", "mnt", "mnt/deep", "mnt/deep/f", "mnt/precious"]
    assert lines == ["mnt: mnt: something is mounted here; it stays"]


# --- what could not be read -----------------------------------------------------------------------


def test_what_could_not_be_read_and_is_not_told_forbids_deleting(vault, tmp_path):
    whole = by_hand(vault, {b"f": b"1"}, errors=((b"/home/a", "no"),))
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_bytes(b"1")
    how = {"overwrite": Overwrite.ALWAYS, "delete": True}
    torn = Snapshot.of(replace(whole.record, errors_count=2))
    with pytest.raises(UsageError, match="could not be read"):
        restore(vault, torn, out, **how)
    assert everything(out) == {"precious": b"1"}
    restore(vault, torn, out)  # without deleting it is as good as any
    assert everything(out) == {"f": b"1", "precious": b"1"}
    restore(vault, whole, out, **how)  # told one by one it is known what to spare
    assert everything(out) == {"f": b"1"}


@pytest.mark.parametrize("path", [b"/home/d", b"home/d", b"/home/d/"])
def test_a_directory_that_could_not_be_read_is_spared_when_it_is_the_one_asked_for(
    vault, tmp_path, path
):
    snapshot = by_hand(vault, {b"home": {b"d": {}, b"dd": {}}}, errors=((path, "no"),))
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_bytes(b"1")
    how = {"overwrite": Overwrite.IF_CHANGED, "delete": True}
    restore(vault, snapshot, out, under=b"home/d", **how)
    assert everything(out) == {"precious": b"1"}
    restore(vault, snapshot, out, under=b"home/dd", **how)
    assert everything(out) == {}
