import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import keystore
from core.device_cert import Role
from core.errors import (
    FormatError,
    IntegrityError,
    KeystoreError,
    PortalError,
    Unavailable,
    WrongKey,
)
from core.ids import VaultId
from core.keys import Root
from core.phrase import to_words
from core.recovery_kit import RecoveryKit
from core.secret import Secret
from core.slots import KeyFileProvider, PassphraseProvider, RecoveryProvider, SlotType
from node import identity
from tests.support.entropy import fixed_entropy
from tests.support.home import NOW_S, PASSPHRASE, cheap_passphrases, modes, somebody
from tests.support.identity import a_person

VAULT, OTHER = VaultId(b"v" * 16), VaultId(b"w" * 16)
REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def home(tmp_path, monkeypatch):
    cheap_passphrases(monkeypatch)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return tmp_path / "deep" / "home"


def given(passphrase=PASSPHRASE):
    return lambda: Secret(passphrase)


def root_of(mine):
    return Root.from_entropy(mine.recovery_kit().entropy)


def kinds(mine):
    return [slot.type for slot in mine.slots]


# --- making one -----------------------------------------------------------------------------------


def test_a_new_identity_is_private_complete_and_opens_without_typing(home):
    made = somebody(home, passphrase=True)
    assert made.created
    assert modes(home) == {"device.key": 0o600, "keystore": 0o600}
    assert home.stat().st_mode & 0o777 == home.parent.stat().st_mode & 0o777 == 0o700
    assert kinds(made) == [SlotType.KEY_FILE, SlotType.PASSPHRASE, SlotType.RECOVERY]
    found = identity.open(home)
    assert not found.created
    assert (found.user, found.node, found.cert) == (made.user, made.node, made.cert)
    assert found.user == root_of(made).user_id()
    assert found.cert.roles == Role.laptop()
    assert (found.cert.name, found.cert.created_s) == ("laptop", NOW_S)
    assert found.device.node_id() == found.node
    assert found.device.box_public() == found.cert.box_public


def test_the_same_entropy_makes_the_same_person(home, tmp_path):
    one, two = (
        identity.create(
            place, name="a", passphrase=None, now_s=1, entropy=fixed_entropy("somebody")
        )
        for place in (home, tmp_path / "two")
    )
    assert (one.user, one.node, one.cert_bytes) == (two.user, two.node, two.cert_bytes)


def test_without_a_key_file_only_the_passphrase_opens_it(home):
    somebody(home, passphrase=True, device_key=False)
    assert set(modes(home)) == {"keystore"}
    assert kinds(identity.open(home, given())) == [SlotType.PASSPHRASE, SlotType.RECOVERY]
    with pytest.raises(WrongKey, match="nothing at hand"):
        identity.open(home)
    with pytest.raises(WrongKey, match="keystore") as wrong:
        identity.open(home, given(b"wrong horse"))
    assert wrong.value.exit_code == 12
    assert "horse" not in str(wrong.value)


def test_what_cannot_be_opened_again_is_not_made(home):
    with pytest.raises(KeystoreError, match="a passphrase is needed"):
        somebody(home, device_key=False)
    with pytest.raises(KeystoreError, match="empty passphrase"):
        identity.create(home, name="a", passphrase=Secret(b""), now_s=1)
    with pytest.raises(FormatError, match="name"):
        identity.create(home, name="", passphrase=None, now_s=1)
    assert not home.exists()
    home.mkdir(parents=True)
    home.chmod(0o777)
    with pytest.raises(KeystoreError, match="chmod go-w"):
        somebody(home)
    assert not list(home.iterdir())


def test_creating_again_opens_what_is_there(home):
    first = somebody(home)
    before = (home / "keystore").read_bytes()
    again = somebody(home, passphrase=True)
    assert (again.node, again.created) == (first.node, False)
    assert (home / "keystore").read_bytes() == before


def test_a_keystore_on_a_disk_that_is_not_plugged_in_is_not_replaced(home):
    home.mkdir(parents=True)
    (home / "keystore").symlink_to(home / "unplugged" / "keystore")
    with pytest.raises(FileNotFoundError):
        somebody(home)
    assert [path.name for path in home.iterdir()] == ["keystore"]


def failing_at(fatal, real):
    calls = []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == fatal:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")
        return real(*args, **options)

    return failing


@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "link"])
def test_a_full_disk_at_any_step_leaves_a_home_that_a_rerun_completes(home, monkeypatch, call):
    real = getattr(os, call)
    for fatal in range(1, 20):
        place = home / str(fatal)
        monkeypatch.setattr(os, call, failing_at(fatal, real))
        try:
            somebody(place)
            failed = False
        except OSError:
            failed = True
        monkeypatch.setattr(os, call, real)
        made = somebody(place)
        assert identity.open(place).node == made.node
        assert modes(place) == {"device.key": 0o600, "keystore": 0o600}
        if not failed:
            assert fatal > 1
            return
    pytest.fail("it never came to an end")


KILLED = """
import os, sys
from pathlib import Path
from node import identity
call, fatal, real = sys.argv[2], int(sys.argv[3]), getattr(os, sys.argv[2])
def deadly(*args, **options):
    global fatal
    fatal -= 1
    if not fatal:
        os._exit(99)
    return real(*args, **options)
setattr(os, call, deadly)
identity.create(Path(sys.argv[1]), name="laptop", passphrase=None, now_s=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("call", "fatal"), [("link", 1), ("link", 2), ("fsync", 5), ("unlink", 2)])
def test_a_process_killed_at_any_step_blocks_no_rerun(home, call, fatal):
    argv = [sys.executable, "-c", KILLED, str(home), call, str(fatal)]
    assert subprocess.run(argv, cwd=REPOSITORY, check=False).returncode == 99
    placed = (home / "keystore").exists()
    made = somebody(home)
    assert made.created is not placed
    assert identity.open(home).node == made.node


def overtaken(home, monkeypatch):
    """Somebody else makes an identity right before ours gets its name."""
    link, quicker = os.link, []

    def slow(source, target, **options):
        if Path(target).name == "keystore" and not quicker:
            quicker.append(None)
            quicker[0] = somebody(home)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", slow)
    return quicker


def test_of_two_that_create_at_once_the_slower_opens_what_the_quicker_made(home, monkeypatch):
    quicker = overtaken(home, monkeypatch)
    slower = somebody(home)
    assert (slower.node, slower.created) == (quicker[0].node, False)
    assert quicker[0].created
    assert identity.open(home).node == slower.node
    assert modes(home) == {"device.key": 0o600, "keystore": 0o600}


AT_ONCE = """
import sys
from pathlib import Path
from core.ids import VaultId
from node import identity
sys.stdin.read(1)
mine = identity.create(Path(sys.argv[1]), name="laptop", passphrase=None, now_s=1)
for n in range(int(sys.argv[3])):
    mine.add_vault(VaultId(bytes([int(sys.argv[2]), n]) * 8))
print(mine.node.text(), mine.created)
"""


@pytest.mark.slow
def test_two_processes_make_one_identity_and_lose_no_change_of_each_other(home):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    argv = [sys.executable, "-c", AT_ONCE, str(home)]
    processes = [
        subprocess.Popen([*argv, str(n), "20"], cwd=REPOSITORY, text=True, **pipes)
        for n in range(2)
    ]
    for process in processes:
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({node for node, _ in said}) == 1
    assert sorted(created for _, created in said) == ["False", "True"]
    found = identity.open(home)
    assert found.node.text() == said[0][0]
    assert len(found.vaults) == 40


# --- opening one ----------------------------------------------------------------------------------


def test_where_there_is_none_the_error_says_what_to_do(home):
    with pytest.raises(identity.NoIdentity, match="portal init") as none:
        identity.open(home, given())
    assert none.value.exit_code == 10
    assert str(home) in str(none.value)


def test_a_key_file_that_is_lost_or_open_to_others_leaves_the_passphrase(home):
    made = somebody(home, passphrase=True)
    (home / "device.key").chmod(0o644)
    with pytest.raises(KeystoreError, match="chmod 600"):
        identity.open(home)
    found = identity.open(home, given())
    assert (found.node, [type(e) for e in found.skipped]) == (made.node, [KeystoreError])
    found.add_vault(VAULT)  # and it can be changed, too
    (home / "device.key").unlink()
    with pytest.raises(WrongKey, match="key file is missing"):
        identity.open(home)
    found = identity.open(home, given())
    assert [type(e) for e in found.skipped] == [Unavailable]
    assert found.vaults == (VAULT,)


def test_a_systemd_credential_opens_it(home, tmp_path, monkeypatch):
    from core.slots import SystemdCredentialProvider

    mine = somebody(home)
    (tmp_path / "portal-key").write_bytes(b"c" * 32)
    mine.add_slot(SystemdCredentialProvider(tmp_path))
    (home / "device.key").chmod(0o644)  # so that it is refused
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    found = identity.open(home)
    assert found.node == mine.node
    found.add_vault(VAULT)
    assert identity.open(home).vaults == (VAULT,)


def test_a_changed_keystore_is_not_called_a_wrong_key(home):
    somebody(home, passphrase=True)
    data = bytearray((home / "keystore").read_bytes())
    data[-1] ^= 1
    (home / "keystore").write_bytes(data)

    def never():
        raise AssertionError("no passphrase makes it good")

    with pytest.raises(IntegrityError) as changed:
        identity.open(home, never)
    assert not isinstance(changed.value, WrongKey)
    (home / "keystore").write_bytes(b"something else")
    with pytest.raises(FormatError, match="keystore"):
        identity.open(home, never)


# --- changing one ---------------------------------------------------------------------------------


def test_vaults_are_kept_with_keys_that_grow_from_the_phrase(home):
    mine = somebody(home)
    mine.add_vault(OTHER)
    mine.add_vault(VAULT)
    mine.add_vault(VAULT, epoch=1)
    mine.add_vault(VAULT)
    found = identity.open(home)
    assert found.vaults == mine.vaults == (VAULT, OTHER)
    for epoch in (0, 1):
        master = root_of(mine).vault_master(VAULT, epoch)
        assert found.vault_master(VAULT, epoch).reveal() == master.reveal()
    found.remove_vault(VAULT)
    assert identity.open(home).vaults == (OTHER,)
    for missing in (lambda: found.vault_master(VAULT), lambda: found.remove_vault(VAULT)):
        with pytest.raises(KeystoreError, match=f"vault {VAULT.short()} are not on this machine"):
            missing()


def test_two_that_opened_it_at_once_keep_each_others_changes(home):
    somebody(home)
    one, two = identity.open(home), identity.open(home)
    one.add_vault(VAULT)
    two.add_vault(OTHER)
    two.forget_phrase()
    with pytest.raises(KeystoreError, match="needs the recovery phrase"):
        one.add_vault(VaultId(bytes(16)))  # it is gone for all of them
    found = identity.open(home)
    assert found.vaults == two.vaults == (VAULT, OTHER)
    assert modes(home) == {"device.key": 0o600, "keystore": 0o600, "keystore.lock": 0o600}


def test_the_phrase_stays_until_it_is_forgotten(home):
    mine = somebody(home)
    kit = identity.open(home).recovery_kit()
    assert (kit.user, kit.created_s) == (mine.user, NOW_S)
    root = root_of(mine)
    mine.forget_phrase()
    mine.forget_phrase()
    found = identity.open(home)
    assert not found.has_phrase
    with pytest.raises(KeystoreError, match="printed kit"):
        found.recovery_kit()
    with pytest.raises(KeystoreError, match="needs the recovery phrase"):
        found.add_vault(VAULT)
    with pytest.raises(WrongKey, match="not the one"):
        found.add_vault(VAULT, a_person())
    assert found.vaults == ()
    found.add_vault(VAULT, root)
    assert found.vault_master(VAULT).reveal() == root.vault_master(VAULT, 0).reveal()


def test_slots_come_and_go_but_never_the_last_offline_one(home):
    mine = somebody(home)
    key_slot, recovery_slot = mine.slots
    added = mine.add_slot(PassphraseProvider(Secret(PASSPHRASE)))
    mine.remove_slot(key_slot.slot_id)
    mine.add_vault(VAULT)  # by the passphrase that was given a moment ago
    with pytest.raises(WrongKey):
        identity.open(home)
    mine.replace_slot(added.slot_id, PassphraseProvider(Secret(b"battery")))
    with pytest.raises(WrongKey):
        identity.open(home, given())
    found = identity.open(home, given(b"battery"))
    assert found.vaults == (VAULT,)
    found.remove_slot(recovery_slot.slot_id)
    with pytest.raises(KeystoreError, match="passphrase first"):
        found.remove_slot(found.slots[0].slot_id)
    assert kinds(identity.open(home, given(b"battery"))) == [SlotType.PASSPHRASE]


def test_a_change_that_fails_changes_nothing(home, monkeypatch):
    mine = somebody(home)
    before = (home / "keystore").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "no space", str(home))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            mine.add_vault(VAULT)
    assert mine.vaults == ()
    assert (home / "keystore").read_bytes() == before
    assert modes(home) == {"device.key": 0o600, "keystore": 0o600, "keystore.lock": 0o600}
    mine.add_vault(VAULT)  # the lock was let go


def test_an_identity_that_took_the_place_of_ours_is_not_changed(home, tmp_path):
    mine = somebody(home)
    theirs = somebody(tmp_path / "theirs")
    contents = theirs._keystore.contents
    store = keystore.Keystore.create(contents, [KeyFileProvider(home / "device.key")])
    keystore.save(home / "keystore", store)
    with pytest.raises(KeystoreError, match="another identity"):
        mine.add_vault(VAULT)
    assert identity.open(home).vaults == ()


# --- getting one back -----------------------------------------------------------------------------


def test_words_and_kit_bring_the_person_back_on_a_new_machine(home, tmp_path):
    lost = somebody(home)
    lost.add_vault(VAULT)
    kit = lost.recovery_kit()
    texts = [to_words(kit.entropy).reveal().decode().upper(), kit.text().reveal().decode()]
    for number, text in enumerate(texts):
        root = identity.root_untrusted(text)
        place = tmp_path / str(number)
        new = identity.recover(place, root, name="desk", passphrase=None, now_s=NOW_S + 1)
        assert new.created
        assert new.user == lost.user
        assert new.node != lost.node
        assert (new.cert.name, new.cert.user, new.has_phrase) == ("desk", lost.user, False)
        new.add_vault(VAULT, root)
        kept = identity.open(place).vault_master(VAULT)
        assert kept.reveal() == lost.vault_master(VAULT).reveal()
        assert modes(place)["keystore"] == 0o600


def test_another_person_is_not_recovered_over_this_one(home):
    mine = somebody(home)
    before = (home / "keystore").read_bytes()
    with pytest.raises(KeystoreError, match="another person"):
        identity.recover(home, a_person(), name="a", passphrase=None, now_s=1)
    assert (home / "keystore").read_bytes() == before
    assert identity.open(home).node == mine.node


def test_the_phrase_replaces_a_lost_key_file_and_a_forgotten_passphrase(home):
    mine = somebody(home, passphrase=True)
    mine.add_vault(VAULT)
    (home / "device.key").unlink()
    root = root_of(mine)
    for _ in range(2):  # the second time, nothing is left to do
        found = identity.recover(home, root, name="a", passphrase=Secret(b"new"), now_s=1)
        assert (found.node, found.vaults, found.created) == (mine.node, (VAULT,), False)
        assert sorted(kinds(found)) == [1, 1, 3, 3, 6]
    assert identity.open(home).node == mine.node
    (home / "device.key").unlink()
    assert identity.open(home, given(b"new")).node == mine.node


def test_a_kit_with_a_passphrase_on_top_wants_it(monkeypatch):
    from core import keys

    monkeypatch.setattr(keys, "ROOT_ARGON2", {"memory_kib": 19 * 1024, "passes": 2, "lanes": 1})
    entropy, on_top = Secret(fixed_entropy("kit")(32)), Secret(b"on top")
    root = Root.from_entropy_and_passphrase(entropy, on_top)
    text = RecoveryKit(entropy, root.user_id(), NOW_S).text().reveal().decode()
    assert identity.root_untrusted(f" {text.upper()}\n", on_top).user_id() == root.user_id()
    with pytest.raises(WrongKey, match="missing"):
        identity.root_untrusted(text)
    with pytest.raises(WrongKey, match="wrong"):
        identity.root_untrusted(text, Secret(b"beneath"))
    with pytest.raises(FormatError, match="24 words, not 2"):
        identity.root_untrusted("two words")


def test_nothing_secret_shows(home):
    mine = somebody(home, passphrase=True)
    mine.add_vault(VAULT)
    words = to_words(mine.recovery_kit().entropy).reveal().decode().split()
    shown = [repr(mine), repr(vars(mine)), repr(mine.slots), repr(mine.recovery_kit())]
    for wrong in (
        lambda: identity.open(home, given(b"wrong horse")),
        lambda: mine.vault_master(OTHER),
    ):
        (home / "device.key").unlink(missing_ok=True)
        with pytest.raises(PortalError) as error:
            wrong()
        shown += [str(error.value), repr(error.value)]
    secrets = [PASSPHRASE.decode(), "wrong horse", mine.vault_master(VAULT).reveal().hex()]
    secrets += [mine.device.sign_seed.reveal().hex(), " ".join(words[:2])]
    assert not [s for s in secrets for text in shown if s in text]
    assert RecoveryProvider(root_of(mine)).slot_type in kinds(mine)


# --- in a mesh ------------------------------------------------------------------------------------


def test_a_device_is_let_do_more_by_the_phrase_alone_and_for_good(home):
    mine = somebody(home)
    root, node, seed = root_of(mine), mine.node, mine.share_seed().reveal()
    assert seed == root.share_seed(0).reveal()
    mine.forget_phrase()
    with pytest.raises(KeystoreError, match="recovery phrase"):
        mine.add_roles(Role.ADMIN)
    with pytest.raises(WrongKey, match="not the one"):
        mine.add_roles(Role.ADMIN, a_person())
    assert Role.ADMIN not in identity.open(home).cert.roles
    mine.add_roles(Role.ADMIN, root)
    found = identity.open(home)
    assert found.cert.roles == mine.cert.roles == Role.laptop() | Role.ADMIN
    assert (found.node, found.share_seed().reveal()) == (node, seed)
    assert found.user_key(root).public == found.user


def test_a_newer_certificate_is_made_though_the_role_is_there(home):
    mine = somebody(home)
    mine.add_roles(Role.ADMIN)
    old = mine.cert
    mine.add_roles(Role.ADMIN)
    assert mine.cert == old
    mine.add_roles(Role.ADMIN, None, NOW_S + 9)
    assert (mine.cert.created_s, mine.cert.roles) == (NOW_S + 9, old.roles)
    mine.add_roles(Role.ADMIN, None, NOW_S)  # by a clock that was set back
    assert mine.cert.created_s == NOW_S + 10
    assert identity.open(home).cert == mine.cert


def test_what_others_do_while_changes_are_held_stays(home):
    mine, other = somebody(home), identity.open(home)
    vault = VaultId(bytes(16))
    mine.hold()
    mine.add_roles(Role.ADMIN, None, NOW_S + 9)
    held = mine.cert_bytes
    assert Role.ADMIN in mine.cert.roles
    assert Role.ADMIN not in identity.open(home).cert.roles
    other.add_vault(vault)
    mine.settle()
    again = identity.open(home)
    assert (again.cert_bytes, again.vaults) == (held, (vault,))


def test_a_draft_is_nowhere_until_it_is_kept(home):
    root = a_person("ann")
    mine = identity.draft(home, root, name="nas", now_s=NOW_S)
    mine.add_roles(Role.ADMIN, root)
    assert mine.share_seed().reveal() == root.share_seed(0).reveal()
    assert not home.exists()
    mine.keep()
    again = identity.open(home)
    assert (again.node, again.cert, again.user) == (mine.node, mine.cert, root.user_id())
    assert Role.ADMIN in again.cert.roles
    assert kinds(again) == [SlotType.RECOVERY, SlotType.KEY_FILE]
    assert modes(home) == {"keystore": 0o600, "device.key": 0o600}
    mine.add_slot(PassphraseProvider(Secret(PASSPHRASE)))  # it is one like any other
    assert len(identity.open(home).slots) == 3


def test_a_draft_takes_nobodys_place_and_no_key_file(home, monkeypatch):
    mine = identity.draft(home, a_person("ann"), name="nas", now_s=NOW_S)
    other = somebody(home)
    with pytest.raises(KeystoreError, match="took this place"):
        mine.keep()
    assert identity.open(home).node == other.node
    (home / "keystore").unlink()
    mine = identity.draft(home, a_person("ann"), name="nas", now_s=NOW_S)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "link", failing_at(1, os.link))
        mine.keep()
    assert modes(home) == {"device.key": 0o600}  # which was there before


def test_whoever_is_quicker_than_a_draft_keeps_the_key_file_it_leans_on(home, monkeypatch):
    mine = identity.draft(home, a_person("ann"), name="nas", now_s=NOW_S)
    quicker = overtaken(home, monkeypatch)
    with pytest.raises(KeystoreError, match="took this place"):
        mine.keep()
    assert identity.open(home).node == quicker[0].node


@pytest.mark.parametrize("has_home", [False, True])
@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "link"])
def test_a_draft_that_a_full_disk_stops_leaves_nothing(home, monkeypatch, call, has_home):
    real, root = getattr(os, call), a_person("ann")
    for fatal in range(1, 20):
        above = home / str(fatal)
        place = above / "home"
        if has_home:
            place.mkdir(parents=True, mode=0o700)
        mine = identity.draft(place, root, name="nas", now_s=NOW_S)
        monkeypatch.setattr(os, call, failing_at(fatal, real))
        try:
            mine.keep()
            failed = False
        except OSError:
            failed = True
        monkeypatch.setattr(os, call, real)
        if not failed:
            assert identity.open(place).node == mine.node
            assert fatal > 1 or (call, has_home) == ("mkdir", True)
            return
        assert above.exists() == has_home
        assert not has_home or not list(place.iterdir())
    pytest.fail("it never came to an end")


def test_a_keystore_goes_before_the_key_it_leans_on(home, monkeypatch):
    mine, unlinked = identity.draft(home, a_person("ann"), name="nas", now_s=NOW_S), []
    unlink, sync, fail = os.unlink, os.fsync, failing_at(1, os.fsync)
    monkeypatch.setattr(os, "unlink", lambda path: unlinked.append(path) or unlink(path))
    monkeypatch.setattr(
        os, "fsync", lambda fd: fail(fd) if (home / "keystore").exists() else sync(fd)
    )
    with pytest.raises(OSError, match="No space"):
        mine.keep()
    assert [p.name for p in unlinked if p.suffix != ".tmp"] == ["keystore", "device.key"]
    assert not home.exists()
