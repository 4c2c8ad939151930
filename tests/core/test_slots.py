import os

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

from core import codec
from core.errors import (
    FormatError,
    IntegrityError,
    KeystoreError,
    LimitExceeded,
    PortalError,
    Unavailable,
    WrongKey,
)
from core.secret import Secret
from core.slots import (
    ARGON2_ADMIN,
    ARGON2_DEFAULT,
    ARGON2_PHONE,
    Argon2Cost,
    KeyFileProvider,
    OsKeyringProvider,
    PassphraseProvider,
    RecoveryProvider,
    SlotType,
    SystemdCredentialProvider,
)
from tests.support.damage import assert_all_refused
from tests.support.identity import CHEAP, a_person

DEK = Secret(bytes(range(32)))
AAD = b"this slot"


class MemoryKeyring(KeyringBackend):
    """A keyring of the real package, kept in memory."""

    priority = 1

    def __init__(self):
        self.kept = {}
        self.locked = False

    def get_password(self, service, username):
        if self.locked:
            raise KeyringLocked
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password


@pytest.fixture
def desktop():
    before, ours = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(ours)
    yield ours
    keyring.set_keyring(before)


@pytest.fixture
def providers(tmp_path, desktop):
    key_file = KeyFileProvider(tmp_path / "device.key")
    key_file.create()
    (tmp_path / "portal-key").write_bytes(b"systemd hands this over, decrypted")
    return {
        SlotType.PASSPHRASE: PassphraseProvider(Secret(b"horse"), CHEAP),
        SlotType.KEY_FILE: key_file,
        SlotType.OS_KEYRING: OsKeyringProvider("node"),
        SlotType.RECOVERY: RecoveryProvider(a_person()),
        SlotType.SYSTEMD_CREDENTIAL: SystemdCredentialProvider(tmp_path),
    }


LOCAL = [t for t in SlotType if t not in {SlotType.KMS, SlotType.PKCS11}]


@pytest.mark.parametrize("kind", LOCAL)
def test_every_provider_opens_what_it_closed(providers, kind):
    provider = providers[kind]
    assert provider.slot_type == kind
    params = provider.new_params()
    assert codec.decode_untrusted(codec.encode(params)) == params
    wrapped = provider.wrap(params, DEK, AAD)
    assert provider.unwrap(params, wrapped, AAD).reveal() == DEK.reveal()
    with pytest.raises(IntegrityError):
        provider.unwrap(params, wrapped, b"another slot")


@pytest.mark.parametrize("kind", LOCAL)
def test_every_damage_to_a_wrapped_key_is_refused(providers, kind):
    provider = providers[kind]
    params = provider.new_params()
    wrapped = provider.wrap(params, DEK, AAD)
    step = 13 if kind == SlotType.PASSPHRASE else 1
    assert_all_refused(lambda b: provider.unwrap(params, b, AAD), wrapped, step=step)


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize(
    "params", [(None,), (1, 2), ("a/b",), ("..",), ("x" * 99,), (b"s" * 15, 1, 2, 3), ("a", 5)]
)
def test_hostile_parameters_are_format_errors(providers, kind, params):
    provider = providers[kind]
    wrapped = provider.wrap(provider.new_params(), DEK, AAD)
    with pytest.raises(FormatError):
        provider.unwrap(params, wrapped, AAD)


def test_no_two_kinds_of_slot_share_a_key(tmp_path, desktop):
    # The same 32 bytes in a key file, a credential and the keyring make three different KEKs.
    (tmp_path / "portal-key").write_bytes(b"k" * 32)
    (tmp_path / "portal-key").chmod(0o600)
    key_file = KeyFileProvider(tmp_path / "portal-key")
    systemd = SystemdCredentialProvider(tmp_path)
    desktop.kept["portal", "node"] = "k" * 32
    ring = OsKeyringProvider("node")
    wrapped = key_file.wrap((), DEK, AAD)
    for other, params in ((systemd, ("portal-key",)), (ring, ("portal", "node"))):
        with pytest.raises(WrongKey):
            other.unwrap(params, wrapped, AAD)


def test_a_wrong_passphrase_is_a_wrong_key(providers):
    provider = providers[SlotType.PASSPHRASE]
    params = provider.new_params()
    wrapped = provider.wrap(params, DEK, AAD)
    with pytest.raises(WrongKey):
        PassphraseProvider(Secret(b"Horse"), CHEAP).unwrap(params, wrapped, AAD)
    with pytest.raises(KeystoreError):
        PassphraseProvider(Secret(b""))


def test_argon2_costs():
    for cost in (ARGON2_PHONE, ARGON2_DEFAULT, ARGON2_ADMIN):
        assert cost.memory_kib >= 64 * 1024
    with pytest.raises(LimitExceeded):
        Argon2Cost(1024, 3, 4)  # a weaker slot cannot be written
    provider = PassphraseProvider(Secret(b"x"), CHEAP)
    wrapped = provider.wrap(provider.new_params(), DEK, AAD)
    with pytest.raises(LimitExceeded):
        provider.unwrap((bytes(16), 2**32 - 1, 3, 4), wrapped, AAD)


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "device.key"
    provider = KeyFileProvider(path)
    with pytest.raises(Unavailable, match=r"device\.key"):
        provider.wrap((), DEK, AAD)
    provider.create()
    assert path.stat().st_mode & 0o777 == 0o600
    first = path.read_bytes()
    provider.create()
    assert path.read_bytes() == first  # another slot may lean on it
    path.chmod(0o644)
    with pytest.raises(KeystoreError, match="chmod 600"):
        provider.wrap((), DEK, AAD)
    path.chmod(0o600)
    path.write_bytes(first[:-1])
    with pytest.raises(FormatError, match="damaged"):
        provider.wrap((), DEK, AAD)


def test_systemd_credentials(tmp_path):
    with pytest.raises(Unavailable, match="LoadCredentialEncrypted"):
        SystemdCredentialProvider(None).wrap(("portal-key",), DEK, AAD)
    with pytest.raises(Unavailable, match="portal-key"):
        SystemdCredentialProvider(tmp_path).wrap(("portal-key",), DEK, AAD)
    (tmp_path / "portal-key").write_bytes(b"short")
    with pytest.raises(KeystoreError, match="shorter"):
        SystemdCredentialProvider(tmp_path).wrap(("portal-key",), DEK, AAD)


def test_the_keyring_entry_is_made_once_and_its_faults_are_ours(desktop):
    provider = OsKeyringProvider("node")
    params = provider.new_params()
    kept = dict(desktop.kept)
    assert provider.new_params() == params
    assert desktop.kept == kept
    wrapped = provider.wrap(params, DEK, AAD)
    desktop.locked = True
    with pytest.raises(Unavailable, match="locked"):
        provider.unwrap(params, wrapped, AAD)
    desktop.locked = False
    desktop.kept.clear()
    with pytest.raises(Unavailable, match="no entry"):
        provider.unwrap(params, wrapped, AAD)


def test_without_the_keyring_package_the_error_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "keyring", None)
    with pytest.raises(Unavailable, match="keyring"):
        OsKeyringProvider("node").new_params()


def test_another_persons_phrase_does_not_open_the_recovery_slot():
    wrapped = RecoveryProvider(a_person()).wrap((), DEK, AAD)
    with pytest.raises(WrongKey):
        RecoveryProvider(a_person("other")).unwrap((), wrapped, AAD)


def test_nothing_of_it_shows(providers):
    for provider in providers.values():
        assert "horse" not in repr(provider)
        assert "horse" not in str(PortalError(repr(vars(provider))))


def test_of_two_processes_that_make_the_key_file_both_use_the_same(tmp_path, monkeypatch):
    path = tmp_path / "device.key"
    ours, link = KeyFileProvider(path), os.link

    def overtaken(*names):
        monkeypatch.setattr(os, "link", link)
        KeyFileProvider(path).create()
        link(*names)

    monkeypatch.setattr(os, "link", overtaken)
    ours.create()
    wrapped = ours.wrap((), DEK, AAD)
    assert KeyFileProvider(path).unwrap((), wrapped, AAD).reveal() == DEK.reveal()
    assert list(tmp_path.iterdir()) == [path]
