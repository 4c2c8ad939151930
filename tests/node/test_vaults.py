import os
from pathlib import Path

import pytest

from core.ids import VaultId
from node import vaults

ONE, TWO = VaultId(b"\1" * 16), VaultId(b"\2" * 16)


def test_places_are_remembered_and_a_vault_that_moved_has_one(tmp_path):
    home = tmp_path / "home"
    assert vaults.remembered(home) == {}
    home.mkdir()
    vaults.remember(home, TWO, tmp_path / "b")
    vaults.remember(home, ONE, tmp_path / "a")
    assert vaults.remembered(home) == {ONE: tmp_path / "a", TWO: tmp_path / "b"}
    vaults.remember(home, ONE, tmp_path / "c")
    assert vaults.remembered(home)[ONE] == tmp_path / "c"
    assert (home / "vaults").stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in (home / "vaults").iterdir()} == {0o600}


def test_what_is_known_is_not_written_again(tmp_path):
    vaults.remember(tmp_path, ONE, tmp_path / "a")
    file = tmp_path / "vaults" / ONE.hex()
    before = file.stat().st_ino
    vaults.remember(tmp_path, ONE, tmp_path / "a")
    assert file.stat().st_ino == before


@pytest.mark.parametrize("name", [b"a b\n$(x)", b"\xff\xfe", "ü".encode()])
def test_any_path_is_remembered_as_it_is(tmp_path, name):
    place = tmp_path / os.fsdecode(name)
    vaults.remember(tmp_path, ONE, place)
    assert vaults.remembered(tmp_path) == {ONE: place}


def test_a_relative_path_is_remembered_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vaults.remember(tmp_path, ONE, Path("a"))
    assert vaults.remembered(tmp_path) == {ONE: tmp_path / "a"}


def test_other_things_in_the_folder_are_left_alone(tmp_path):
    vaults.remember(tmp_path, ONE, tmp_path / "a")
    folder = tmp_path / "vaults"
    (folder / "notes.txt").write_text("mine")
    (folder / "abcd").write_text("/too/short/a/name")
    (folder / TWO.hex()).mkdir()
    assert vaults.remembered(tmp_path) == {ONE: tmp_path / "a"}
