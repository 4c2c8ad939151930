import json
import os
import sys

import click
import pytest
from click.testing import CliRunner

from core import process
from core.errors import KeystoreError
from core.phrase import to_words
from core.recovery_kit import RecoveryKit
from core.secret import Secret
from core.slots import SlotType
from node import identity
from node.cli import keys, run
from node.mesh_files import MeshFiles
from tests.support.home import (
    NOW_S,
    PASSPHRASE,
    Terminal,
    cheap_passphrases,
    modes,
    somebody,
)
from tests.support.memberships import Device, Person, found


@click.group()
def portal():
    """What these commands are going to be part of."""


portal.add_command(keys.key)
portal.add_command(keys.recovery_kit)


class _Program:
    """`portal` with its exit codes, in the shape the test runner wants."""

    name = "portal"

    def main(self, **_):
        run.run(portal, "portal")


def run_portal(*argv, code=0):
    before, sys.argv = sys.argv, ["portal", *map(str, argv)]
    try:
        result = CliRunner().invoke(_Program(), [])
    finally:
        sys.argv = before
    assert result.exit_code == code, result.output
    assert not code or result.stderr.count("\n") == 1, result.stderr
    return result


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("PORTAL_PASSPHRASE") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PORTAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(process, "forbid_core_dumps", lambda: None)  # would last for all tests
    cheap_passphrases(monkeypatch)
    return tmp_path / "home"


@pytest.fixture
def new(tmp_path):
    (tmp_path / "new").write_bytes(b"battery staple\n")
    return tmp_path / "new"


def words_of(mine):
    return to_words(mine.recovery_kit().entropy).reveal().decode().split()


# --- slots ----------------------------------------------------------------------------------------


def test_list_needs_no_key_and_shows_none(home):
    mine = somebody(home, passphrase=True)
    (home / "device.key").unlink()
    rows = json.loads(run_portal("key", "list", "--json").stdout)
    assert [(r["id"], r["kind"], r["offline"]) for r in rows] == [
        (slot.slot_id.hex(), kind, True)
        for slot, kind in zip(
            mine.slots, ["key-file", "passphrase", "recovery-phrase"], strict=True
        )
    ]
    assert [r["detail"] for r in rows] == [str(home / "device.key"), "Argon2id, 19 MiB", ""]
    assert set(rows[0]) == {"id", "type", "kind", "detail", "offline"}
    lines = run_portal("key", "list").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[r["id"], r["kind"]] for r in rows]
    salt = mine.slots[1].params[0]
    assert salt.hex() not in "".join(lines) + json.dumps(rows)


def test_without_an_identity_every_command_says_what_to_do(home):
    for argv in (["key", "list"], ["key", "passwd"], ["recovery-kit"]):
        assert "portal init" in run_portal(*argv, code=10).stderr
    assert not home.exists()


def test_a_passphrase_is_added_changed_and_removed(home, tmp_path, new):
    mine = somebody(home)
    first = tmp_path / "first"
    first.write_bytes(PASSPHRASE)
    assert "portal key add" in run_portal("key", "passwd", code=1).stderr
    added = run_portal("key", "add", "--passphrase", "--new-passphrase-file", first)
    slot_id = added.stderr.split()[1]
    run_portal("key", "remove", mine.slots[0].slot_id.hex()[:6], "--yes")
    (home / "device.key").unlink()
    assert identity.open(home, lambda: Secret(PASSPHRASE)).node == mine.node

    changed = ["key", "passwd", "--new-passphrase-file", new, "--passphrase-file"]
    wrong = run_portal(*changed, new, code=12).stderr
    assert "horse" not in wrong
    assert "battery" not in wrong
    run_portal(*changed, first)
    run_portal(*changed, first, code=12)
    rows = json.loads(run_portal("key", "list", "--json").stdout)
    assert [row["kind"] for row in rows] == ["recovery-phrase", "passphrase"]
    assert rows[1]["id"] != slot_id
    refused = run_portal("key", "remove", slot_id, "--yes", "--passphrase-file", new, code=2)
    assert "no slot is called" in refused.stderr

    run_portal("key", "remove", rows[0]["id"], "--yes", "--passphrase-file", new)
    last = run_portal("key", "remove", rows[1]["id"], "--yes", "--passphrase-file", new, code=1)
    assert "add a passphrase first" in last.stderr
    assert identity.open(home, lambda: Secret(b"battery staple")).node == mine.node


def test_a_lost_key_file_is_made_again(home, new):
    somebody(home, passphrase=True)
    (home / "device.key").unlink()
    new.write_bytes(PASSPHRASE)
    missing = run_portal("key", "add", "--key-file", code=12).stderr
    assert "key file is missing" in missing
    added = run_portal("key", "add", "--key-file", "--passphrase-file", new)
    assert "key file is missing" in added.stderr  # why the passphrase was needed
    assert modes(home)["device.key"] == 0o600
    assert not identity.open(home).skipped


def test_a_systemd_credential(home, tmp_path, monkeypatch):
    mine = somebody(home)
    add = ["key", "add", "--systemd-credential", "portal-key"]
    assert "LoadCredentialEncrypted" in run_portal(*add, code=1).stderr
    (tmp_path / "portal-key").write_bytes(b"c" * 32)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    run_portal(*add)
    row = json.loads(run_portal("key", "list", "--json").stdout)[-1]
    assert (row["kind"], row["detail"], row["offline"]) == (
        "systemd-credential",
        "portal-key",
        False,
    )
    (home / "device.key").unlink()
    assert identity.open(home).node == mine.node


def test_the_keyring(home, monkeypatch):
    import keyring
    from keyring.backend import KeyringBackend

    class Memory(KeyringBackend):
        priority = 1

        def __init__(self):
            self.kept = {}

        def get_password(self, service, username):
            return self.kept.get((service, username))

        def set_password(self, service, username, password):
            self.kept[service, username] = password

    mine = somebody(home)
    before = keyring.get_keyring()
    keyring.set_keyring(Memory())
    try:
        run_portal("key", "add", "--keyring")
        row = json.loads(run_portal("key", "list", "--json").stdout)[-1]
        assert (row["kind"], row["detail"]) == ("keyring", f"portal/{mine.node.short()}")
        (home / "device.key").unlink()
        assert identity.open(home).node == mine.node
    finally:
        keyring.set_keyring(before)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["add"], "one kind of slot"),
        (["add", "--key-file", "--keyring"], "one kind of slot"),
        (["add", "--key-file", "--new-passphrase-file", "x"], "goes with --passphrase"),
        (["add", "--passphrase"], "--new-passphrase-file FILE"),
        (["remove", "abc"], "no slot is called abc"),
        (["passwd", "SECOND"], "is no passphrase but a recovery-phrase"),
    ],
)
def test_wrong_usage_is_one_line_and_changes_nothing(home, argv, words):
    mine = somebody(home)
    before = (home / "keystore").read_bytes()
    argv = [mine.slots[1].slot_id.hex() if a == "SECOND" else a for a in argv]
    assert words in run_portal("key", *argv, code=2).stderr
    assert (home / "keystore").read_bytes() == before


def test_of_several_passphrases_one_is_named(home, new):
    mine = somebody(home, passphrase=True)
    run_portal("key", "add", "--passphrase", "--new-passphrase-file", new)
    assert "several" in run_portal("key", "passwd", "--new-passphrase-file", new, code=2).stderr
    run_portal("key", "passwd", mine.slots[1].slot_id.hex(), "--new-passphrase-file", new)
    kinds = [slot.type for slot in identity.open(home).slots]
    assert kinds == [SlotType.KEY_FILE, SlotType.RECOVERY, SlotType.PASSPHRASE, SlotType.PASSPHRASE]


def test_nobody_to_ask_is_no_consent(home):
    mine = somebody(home, passphrase=True)
    assert "--yes" in run_portal("key", "remove", mine.slots[1].slot_id.hex(), code=2).stderr
    assert len(identity.open(home).slots) == 3


@pytest.mark.slow
def test_removing_asks_and_warns(home):
    mine = somebody(home)
    screen = Terminal("node.cli.keys.key", home, "remove", mine.slots[0].slot_id.hex())
    screen.answer("[y/N]:", "n")
    assert screen.close() == 1
    assert "(key-file); then every command needs the 24 words" in screen.screen
    assert len(identity.open(home).slots) == 2


# --- the recovery kit -----------------------------------------------------------------------------


def test_the_kit_is_printed_as_words_and_as_text(home):
    mine = somebody(home)
    printed = run_portal("recovery-kit").stdout
    assert [f"{n:2d} {word}" in printed for n, word in enumerate(words_of(mine), 1)] == [True] * 24
    assert mine.user.text() in printed
    assert max(len(line) for line in printed.splitlines()) <= 100
    kit = RecoveryKit.parse_untrusted(printed[printed.index("pnk1-") :])
    assert kit.entropy.reveal() == mine.recovery_kit().entropy.reveal()
    assert identity.open(home).has_phrase  # printing is not confirming


def test_a_page_is_written_for_its_owner_only_and_never_over_another_file(home, tmp_path):
    mine = somebody(home)
    for name, marks in (("kit.html", ["<svg", "<ol>"]), ("kit.txt", ["PORTAL RECOVERY KIT"])):
        path = tmp_path / name
        done = run_portal("recovery-kit", "--output", path)
        assert (done.stdout, path.stat().st_mode & 0o777) == ("", 0o600)
        page = path.read_text()
        text = mine.recovery_kit().text().reveal().decode()
        assert text in page.replace("\n", "")
        assert all(mark in page for mark in marks)
        assert words_of(mine)[23] in page
        assert "exists already" in run_portal("recovery-kit", "--output", path, code=1).stderr
        assert path.read_text() == page
    run_portal("recovery-kit", "-o", tmp_path / "kit.pdf", code=2)
    assert not (tmp_path / "kit.pdf").exists()


def test_when_the_phrase_is_gone_it_says_so(home):
    somebody(home).forget_phrase()
    assert "no longer on this machine" in run_portal("recovery-kit", code=1).stderr


def test_nobody_to_ask_confirms_nothing(home):
    somebody(home)
    assert "no terminal" in run_portal("recovery-kit", "--forget", code=2).stderr
    assert identity.open(home).has_phrase


def asked_word(screen, words):
    """The answer to the question the screen ends with."""
    return words[int(screen.rstrip().split()[-4]) - 1]


@pytest.mark.slow
def test_two_words_confirm_the_kit_and_then_the_phrase_may_go(home):
    words = words_of(somebody(home))
    screen = Terminal("node.cli.keys.recovery_kit", home, "--qr", "--confirm")
    screen.answer("cleared then", "")
    screen.answer("of your kit:", "wrong")
    screen.answer("of your kit:", lambda shown: asked_word(shown, words)[:4].upper())
    screen.answer("of your kit:", lambda shown: asked_word(shown, words))
    screen.answer("[y/N]:", "y")
    assert screen.close() == 0
    assert "is another one" in screen.screen
    assert "█▀▀▀▀▀" in screen.screen.replace("▄", "▀")
    assert not identity.open(home).has_phrase


@pytest.mark.slow
def test_wrong_words_keep_the_phrase_here(home):
    somebody(home)
    screen = Terminal("node.cli.keys.recovery_kit", home, "--forget")
    screen.answer("cleared then", "")
    for _ in range(3):
        screen.answer("of your kit:", "wrong")
    assert screen.close() == 1
    assert "not confirmed" in screen.screen
    assert identity.open(home).has_phrase


# --- getting back ---------------------------------------------------------------------------------


def test_a_kit_names_the_mesh_this_machine_is_in(home, tmp_path):
    mine = somebody(home)
    device = Device(mine.device, mine.device.signing_key(), mine.cert_bytes)
    mesh = found(Person("me", mine.user_key(), (device,)))
    files = MeshFiles(home)
    files.begin(mesh.membership)
    printed = run_portal("recovery-kit")
    kit = RecoveryKit.parse_untrusted(printed.stdout[printed.stdout.index("pnk1-") :])
    assert (kit.mesh, kit.endpoints) == (mesh.membership.mesh_id, ())
    assert f"mesh   {kit.mesh.text()}" in printed.stdout
    (files.folder / "members").write_bytes(b"nonsense")
    printed = run_portal("recovery-kit")
    assert "the kit names no mesh: " in printed.stderr
    assert "pnk1-" in printed.stdout


def test_recovering_from_a_saved_page(home, tmp_path, monkeypatch):
    lost = somebody(home)
    run_portal("recovery-kit", "--output", tmp_path / "kit.txt")
    (tmp_path / "words").write_text(" ".join(words_of(lost)))
    for number, name in enumerate(("kit.txt", "words")):
        monkeypatch.setenv("PORTAL_HOME", str(tmp_path / str(number)))
        mine, root = keys.recover_identity(
            tmp_path / name, with_passphrase=False, name="desk", now_s=NOW_S
        )
        assert (mine.user, mine.home) == (lost.user, tmp_path / str(number))
        assert root.user_id() == lost.user
    monkeypatch.setenv("PORTAL_HOME", str(home))
    theirs = somebody(tmp_path / "theirs")
    (tmp_path / "words").write_text(" ".join(words_of(theirs)))
    with pytest.raises(KeystoreError, match="another person"):
        keys.recover_identity(tmp_path / "words", with_passphrase=False, name="a", now_s=1)
