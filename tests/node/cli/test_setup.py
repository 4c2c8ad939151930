import json
from dataclasses import replace

import pytest

from core.ids import MeshId
from core.phrase import to_words
from node import identity
from tests.support.home import PASSPHRASE, Terminal, cheap_passphrases, modes
from tests.support.keeping import assert_whole
from tests.support.program import Machine, one_line


@pytest.fixture
def machine(tmp_path, monkeypatch):
    cheap_passphrases(monkeypatch)
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a").write_bytes(b"a" * 1000)
    return folder


@pytest.fixture
def disk(tmp_path):
    """Where a vault lies that several machines can reach."""
    return tmp_path / "disk" / "vault"


def kit_of(machine, tmp_path, home=None):
    page = tmp_path / f"kit of {(home or machine.home).name}.txt"
    machine.here("recovery-kit", "-o", page, home=home)
    return page


# --- init -----------------------------------------------------------------------------------------


def test_init_makes_keys_and_a_vault_once(machine, docs):
    made = machine.here("init")
    assert made.stdout == ""
    vault = machine.vault()
    assert f"vault {vault.id.short()} made in {machine.home / 'vault'}\n" in made.stderr
    assert "portal recovery-kit" in made.stderr
    kept = modes(machine.home)
    assert kept["keystore"] == kept["device.key"] == 0o600
    assert kept["vault"] == 0o700
    before = (machine.home / "vault" / "config").read_bytes()
    one_line(machine.here("init", code=2), "there is a vault already")
    assert (machine.home / "vault" / "config").read_bytes() == before
    assert "made a vault" not in machine.here("backup", docs).stderr
    assert len(machine.snapshots()) == 1


def test_a_machine_is_called_as_it_is_told(machine, disk, tmp_path):
    machine.here("init", "--name", "Ann's laptop")
    assert identity.open(machine.home).cert.name == "Ann's laptop"
    machine.here("init", "-r", disk, "--name", "Ann's laptop")
    told = one_line(machine.here("init", "-r", tmp_path / "x", "--name", "nas", code=2))
    assert 'this machine is called "Ann\'s laptop" already' in told
    new, kit = tmp_path / "new", kit_of(machine, tmp_path)
    argv = ("recover", "-r", disk, "--kit-file", kit, "--name")
    one_line(machine.here(*argv, "n" * 65, code=2, home=new), "no name for a machine", "64 bytes")
    assert not new.exists()
    machine.here(*argv, "nas", home=new)
    assert identity.open(new).cert.name == "nas"
    machine.here(*argv, "nas", home=new)
    one_line(machine.here(*argv, "box", home=new, code=2), "is called 'nas' already")


def test_a_bad_name_makes_nothing(machine):
    for name in ("", " ", "a\tb"):
        one_line(machine.here("init", "--name", name, code=2), "is no name for a machine")
    assert not machine.home.exists()


def test_a_second_vault_has_the_same_owner_and_other_keys(machine, disk):
    machine.here("init")
    machine.here("init", "-r", disk)
    mine = identity.open(machine.home)
    first, second = mine.vaults
    assert mine.vault_master(first).reveal() != mine.vault_master(second).reveal()


def test_a_directory_with_something_in_it_does_not_become_a_vault(machine, docs):
    one_line(machine.here("init", "-r", docs, code=2), "is not empty", str(docs))
    assert sorted(path.name for path in docs.iterdir()) == ["a"]


def test_a_new_vault_when_the_phrase_is_on_paper_only(machine, disk, tmp_path):
    machine.here("init")
    kit = kit_of(machine, tmp_path)
    identity.open(machine.home).forget_phrase()
    done = machine.here("init", "-r", disk, code=2)
    assert "no terminal to ask for the recovery phrase (--kit-file FILE)" in done.stderr
    assert not disk.exists()
    machine.here("init", "-r", disk, "--kit-file", kit)
    machine.here("snapshots", "-r", disk)
    assert not identity.open(machine.home).has_phrase


def test_options_of_init_that_cannot_be_had(machine, tmp_path):
    one_line(machine.here("init", "--no-key-file", code=2), "there must be a passphrase")
    one_line(machine.here("init", "--passphrase", code=2), "no terminal to ask")
    assert not machine.home.exists()
    machine.here("init")
    (tmp_path / "secret").write_bytes(PASSPHRASE)
    again = ["init", "--passphrase", "--passphrase-file", tmp_path / "secret"]
    told = one_line(machine.here(*again, "-r", tmp_path / "v", code=2), "these keys exist already")
    assert "portal key add" in told  # else a person would believe that they are locked now


# --- a new machine --------------------------------------------------------------------------------


def test_a_lost_machine_comes_back_from_the_kit_and_the_vault(machine, docs, disk, tmp_path):
    machine.here("init", "-r", disk)
    first = machine.back_up(docs, "-r", disk)
    kit, new = kit_of(machine, tmp_path), tmp_path / "new"
    told = one_line(machine.here("snapshots", "-r", disk, home=new, code=10), "no keys")
    assert "portal recover" in told
    done = machine.here("recover", "-r", disk, "--kit-file", kit, home=new)
    assert done.stdout == ""
    assert done.stderr.endswith("is yours; snapshots: 1\n")
    rows = json.loads(machine.here("snapshots", "-r", disk, "--json", home=new).stdout)
    assert [row["id"] for row in rows] == [first["snapshot"]]
    out = tmp_path / "out"
    machine.here("restore", f"latest:{docs}", "--target", out, "-r", disk, home=new)
    assert (out / "a").read_bytes() == b"a" * 1000
    machine.here("backup", docs, "-r", disk, home=new)
    # The machine that was lost and found again must not write to it any more.
    one_line(machine.here("backup", docs, "-r", disk, code=12), "belongs to the device")
    assert identity.open(new).node != identity.open(machine.home).node
    assert identity.open(new).user == identity.open(machine.home).user


def test_the_kit_of_somebody_else_makes_nobody(machine, disk, tmp_path):
    machine.here("init", "-r", disk)
    machine.here("init", home=tmp_path / "stranger")
    wrong, right = kit_of(machine, tmp_path, tmp_path / "stranger"), kit_of(machine, tmp_path)
    new = tmp_path / "new"
    refused = machine.here("recover", "-r", disk, "--kit-file", wrong, home=new, code=12)
    one_line(refused, "does not open this vault", str(disk))
    assert not new.exists()
    machine.here("recover", "-r", disk, "--kit-file", right, home=new)
    absent = machine.here("recover", "-r", tmp_path / "gone", "--kit-file", right, code=10)
    one_line(absent, "there is no vault")


@pytest.mark.slow
def test_the_words_typed_on_a_terminal(machine, docs, disk, tmp_path):
    machine.here("init", "-r", disk)
    machine.back_up(docs, "-r", disk)
    words = to_words(identity.open(machine.home).recovery_kit().entropy).reveal().decode()
    new = tmp_path / "new"
    typist = Terminal("node.cli.portal.portal", new, "recover", "-r", str(disk))
    typist.answer("word 1:", words)
    assert typist.close() == 0
    assert typist.screen.endswith("is yours; snapshots: 1\n")


# --- vaults of several devices --------------------------------------------------------------------


def test_vaults_are_listed_with_those_that_are_away(machine, docs, disk):
    assert machine.here("vault", "list").output == ""
    assert json.loads(machine.here("vault", "list", "--json").stdout) == []
    machine.here("init")
    machine.here("init", "-r", disk)
    rows = json.loads(machine.here("vault", "list", "--json").stdout)
    assert {(row["path"], row["present"]) for row in rows} == {
        (str(machine.home / "vault"), True),
        (str(disk), True),
    }
    disk.rename(disk.with_name("moved"))
    lines = machine.here("vault", "list").stdout.splitlines()
    assert [line for line in lines if line.endswith(f"{disk}   (not there now)")]
    machine.here("snapshots", "-r", disk.with_name("moved"))  # found again, it is remembered so
    rows = json.loads(machine.here("vault", "list", "--json").stdout)
    assert sorted(row["path"] for row in rows) == sorted(
        [str(machine.home / "vault"), str(disk.with_name("moved"))]
    )


def test_a_vault_is_adopted_to_and_fro(machine, docs, disk, tmp_path):
    machine.here("init", "-r", disk)
    machine.back_up(docs, "-r", disk)
    kit, other = kit_of(machine, tmp_path), tmp_path / "other"
    mine = machine.here("vault", "adopt", disk)
    assert mine.stderr == f"{disk} is this machine's already\n"
    machine.here("recover", "-r", disk, "--kit-file", kit, home=other)
    machine.here("backup", docs, "-r", disk, home=other)
    one_line(machine.here("vault", "adopt", disk, code=2), "no terminal to ask", "--yes")
    machine.here("snapshots", "-r", disk, code=12)
    done = machine.here("vault", "adopt", disk, "--yes")
    assert done.stderr.endswith("is yours; snapshots: 2\n")
    machine.here("snapshots", "-r", disk, home=other, code=12)
    machine.back_up(docs, "-r", disk)
    rows = machine.snapshots("-r", disk)
    assert len(rows) == 3
    assert rows[2]["parent"] == rows[1]["id"]


def test_adopting_what_is_not_mine_or_not_there(machine, disk, tmp_path):
    machine.here("init", "-r", disk, home=tmp_path / "stranger")
    machine.here("init")
    refused = machine.here("vault", "adopt", disk, "--yes", code=12)
    one_line(refused, "another person's", str(disk))
    one_line(machine.here("vault", "adopt", tmp_path / "gone", "--yes", code=10), "no vault")
    machine.here("snapshots", "-r", disk, home=tmp_path / "stranger")


def test_what_is_adopted_is_whole(machine, docs, disk, tmp_path, monkeypatch):
    machine.here("init", "-r", disk)
    machine.back_up(docs, "-r", disk)
    other = tmp_path / "other"
    machine.here("recover", "-r", disk, "--kit-file", kit_of(machine, tmp_path), home=other)
    monkeypatch.setenv("PORTAL_HOME", str(other))
    monkeypatch.setenv("PORTAL_VAULT", str(disk))
    assert len(assert_whole(machine.vault())) == 1


def test_a_kit_that_names_a_mesh_says_so_beside_the_vault(machine, disk, tmp_path):
    machine.here("init", "-r", disk)
    made = identity.open(machine.home).recovery_kit()
    named = replace(made, mesh=MeshId(bytes(32)))
    page = tmp_path / "kit"
    page.write_bytes(named.text().reveal())
    new = tmp_path / "new"
    done = machine.here("recover", "-r", disk, "--kit-file", page, home=new)
    assert "portal recover --mesh goes back to it" in done.stderr
    assert "is yours; snapshots: 0" in done.stderr
    done = machine.here("recover", "--mesh", "-r", disk, "--kit-file", page, home=new, code=2)
    one_line(done, "a vault or the mesh")
    assert not (new / "mesh").exists()
