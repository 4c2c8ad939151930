import os
from pathlib import Path

import click
import pytest

from core.errors import FormatError, KeystoreError
from node import identity, vaults
from node.cli import opening
from node.config import Settings
from node.identity import NoIdentity
from portal.errors import NotOurs, NoVault
from tests.support.home import somebody
from tests.support.program import Machine

NOTHING = {"repo": None, "profile": None, "passphrase_file": None}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def test_option_before_environment_before_profile_before_the_usual_place(
    machine, tmp_path, monkeypatch
):
    def place(**asked):
        return opening.vault_path(opening.settings_of(NOTHING | asked))

    assert place() == machine.home / "vault"
    machine.configure('vault = "/top"\n[profile.disk]\nvault = "/of/disk"\n')
    assert place() == Path("/top")
    assert place(profile="disk") == Path("/of/disk")
    monkeypatch.setenv("PORTAL_VAULT", "/of/environment")
    assert place(profile="disk") == Path("/of/environment")
    monkeypatch.chdir(tmp_path)
    assert place(profile="disk", repo=Path("mine")) == tmp_path / "mine"
    assert not list(machine.home.glob("vault*"))


def test_a_missing_vault_is_told_before_missing_keys(machine):
    with pytest.raises(NoVault):
        opening.open_vault(NOTHING)
    somebody(machine.home)
    with pytest.raises(NoVault):
        opening.open_vault(NOTHING)


def test_missing_keys_are_told_with_the_way_to_get_them(machine, tmp_path, monkeypatch):
    opening.make_vault(tmp_path / "v", somebody(machine.home))
    monkeypatch.setenv("PORTAL_HOME", str(tmp_path / "other"))
    with pytest.raises(NoIdentity) as caught:
        opening.open_vault(NOTHING | {"repo": tmp_path / "v"})
    assert "portal recover" in str(caught.value)


def test_what_is_opened_is_remembered(machine, tmp_path):
    mine = somebody(machine.home)
    made = opening.make_vault(tmp_path / "v", mine)
    assert vaults.remembered(machine.home) == {made.id: tmp_path / "v"}
    (tmp_path / "v").rename(tmp_path / "w")
    assert opening.open_vault(NOTHING | {"repo": tmp_path / "w"}).id == made.id
    assert vaults.remembered(machine.home) == {made.id: tmp_path / "w"}
    assert made.cache == machine.home / "cache" / made.id.hex()


def test_keys_of_a_vault_grow_from_the_phrase_while_it_is_here(machine, tmp_path):
    mine = somebody(machine.home)
    made = opening.make_vault(tmp_path / "v", mine)
    master = mine.vault_master(made.id).reveal()
    mine.remove_vault(made.id)
    assert opening.open_vault_at(tmp_path / "v", mine).id == made.id
    assert identity.open(machine.home).vault_master(made.id).reveal() == master
    mine.remove_vault(made.id)
    mine.forget_phrase()
    with pytest.raises(KeystoreError):
        opening.open_vault_at(tmp_path / "v", mine)


def test_the_vault_of_another_device_is_refused(machine, tmp_path):
    opening.make_vault(tmp_path / "v", somebody(machine.home))
    with pytest.raises(NotOurs):
        opening.open_vault_at(tmp_path / "v", somebody(tmp_path / "other"))


def test_opening_keys_forbids_core_dumps(machine, monkeypatch):
    from core import process

    done = []
    monkeypatch.setattr(process, "forbid_core_dumps", lambda: done.append(True))
    somebody(machine.home)
    opening.open_identity(NOTHING)
    assert done == [True]


def test_errors_and_paths_in_a_few_words():
    assert opening.told(FormatError("is cut short")) == "is cut short"
    assert opening.told(PermissionError(13, "Permission denied", "x")) == "Permission denied"
    assert opening.told(OSError("odd")) == "odd"
    odd = Path(os.fsdecode(b"a\n\x1b[2J\xff \xc3\xa4"))
    assert opening.shown_path(odd) == "a\\n\\x1b[2J\\xff ä"


def test_options_together_keep_their_order():
    @click.command()
    @opening.together(click.argument("first"), click.argument("second"), click.option("--third"))
    def command(**_):
        pass

    assert [parameter.name for parameter in command.params] == ["first", "second", "third"]
    assert opening.vault_path(Settings(vault=Path("/x"))) == Path("/x")
