"""Ways to unlock a keystore: one provider per kind of slot (core/SPEC.md, Keystore).

A slot keeps the keystore's data key (DEK) wrapped under a key-encryption key (KEK) that somebody
else keeps: a file, a passphrase, the OS keyring, systemd, the recovery phrase. What a provider
needs to find its KEK again stands in the slot's `params`, in clear and authenticated by the wrap.
A key service that never hands out its KEK is a provider too: it wraps and unwraps by itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Protocol

from core import codec, envelope, limits
from core.crypto import Entropy, argon2id, check_argon2_untrusted, system_entropy
from core.errors import FormatError, KeystoreError, Unavailable
from core.files import create_private, read_bounded, read_private
from core.hashing import derive
from core.keys import Root, normalised
from core.labels import EnvelopeKind, Label
from core.secret import Secret


class SlotType(IntEnum):
    """What the second field of a slot says."""

    PASSPHRASE = 1
    OS_KEYRING = 2
    KEY_FILE = 3
    KMS = 4
    PKCS11 = 5  # reserved
    RECOVERY = 6
    SYSTEMD_CREDENTIAL = 7


# These open with what the owner has at hand; a keystore never loses the last of them.
OFFLINE_TYPES = {SlotType.PASSPHRASE, SlotType.KEY_FILE, SlotType.RECOVERY}


class Provider(Protocol):
    """One way to lock and unlock: the seam for key services, too."""

    slot_type: ClassVar[SlotType]

    def new_params(self) -> codec.Row:
        """What will stand in the slot; called once, before `wrap`."""
        ...

    def wrap(self, params: codec.Row, dek: Secret, aad: bytes) -> bytes:
        """The DEK, wrapped; at most limits.KEYSTORE_WRAPPED_BYTES_MAX."""
        ...

    def unwrap(self, params: codec.Row, wrapped: bytes, aad: bytes) -> Secret:
        """The DEK again, or WrongKey, IntegrityError, Unavailable."""
        ...


class _LocalProvider:
    """A provider that holds its KEK in memory for a moment and seals with the envelope."""

    def __init__(self, entropy: Entropy = system_entropy) -> None:
        self._entropy = entropy

    def _kek_untrusted(self, params: codec.Row) -> Secret:
        raise NotImplementedError

    def wrap(self, params: codec.Row, dek: Secret, aad: bytes) -> bytes:
        """Seal the DEK under this provider's KEK."""
        kek = self._kek_untrusted(params)
        kind = EnvelopeKind.KEY_SLOT
        return envelope.seal(kek, kind, dek.reveal(), aad=aad, entropy=self._entropy)

    def unwrap(self, params: codec.Row, wrapped: bytes, aad: bytes) -> Secret:
        """Open it again."""
        kind = EnvelopeKind.KEY_SLOT
        envelope.check_untrusted(kind, wrapped)  # before a slow KEK is computed for nothing
        dek = envelope.open_untrusted(self._kek_untrusted(params), kind, wrapped, aad=aad)
        if len(dek) != limits.KEY_BYTES:
            raise FormatError("a slot holds a data key of the wrong size")
        return Secret(dek)


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """How hard a passphrase is to guess."""

    memory_kib: int
    passes: int
    lanes: int

    def __post_init__(self) -> None:
        check_argon2_untrusted(self.memory_kib, self.passes, self.lanes)


ARGON2_PHONE = Argon2Cost(64 * limits.KIB, 3, 4)  # RFC 9106, second recommended option
ARGON2_DEFAULT = Argon2Cost(256 * limits.KIB, 3, 4)
ARGON2_ADMIN = Argon2Cost(1 * limits.MIB, 4, 4)


class PassphraseProvider(_LocalProvider):
    """A passphrase through Argon2id; params [salt, m_kib, passes, lanes]."""

    slot_type: ClassVar[SlotType] = SlotType.PASSPHRASE

    def __init__(
        self,
        passphrase: Secret,
        cost: Argon2Cost = ARGON2_DEFAULT,
        entropy: Entropy = system_entropy,
    ) -> None:
        super().__init__(entropy)
        self._passphrase = normalised(passphrase)
        if not len(self._passphrase):
            raise KeystoreError("an empty passphrase protects nothing")
        self._cost = cost

    def new_params(self) -> codec.Row:
        """A fresh salt and the cost."""
        cost = self._cost
        salt = self._entropy(limits.ARGON2_SALT_BYTES)
        return (salt, cost.memory_kib, cost.passes, cost.lanes)

    def _kek_untrusted(self, params: codec.Row) -> Secret:
        salt, memory, passes, lanes = codec.as_row(params, 4, "a passphrase slot")
        slow = argon2id(
            self._passphrase,
            codec.as_bytes(salt, "the salt", size=limits.ARGON2_SALT_BYTES),
            memory_kib=codec.as_uint(memory, 32, "Argon2id memory"),
            passes=codec.as_uint(passes, 32, "Argon2id passes"),
            lanes=codec.as_uint(lanes, 32, "Argon2id lanes"),
        )
        return Secret(derive(Label.SLOT_PASSPHRASE, slow.reveal()))


class KeyFileProvider(_LocalProvider):
    """32 random bytes in a 0600 file beside the keystore; params [].

    For scheduled backups and the daemon. It protects nothing on a stolen, unencrypted disk.
    """

    slot_type: ClassVar[SlotType] = SlotType.KEY_FILE

    def __init__(self, path: Path, entropy: Entropy = system_entropy) -> None:
        super().__init__(entropy)
        self._path = path

    def create(self) -> None:
        """Make the file; an existing one is kept, since another slot may lean on it."""
        create_private(self._path, self._entropy(limits.KEY_BYTES))

    def new_params(self) -> codec.Row:
        """Nothing: the slot needs no hint."""
        return ()

    def _kek_untrusted(self, params: codec.Row) -> Secret:
        codec.as_row(params, 0, "a key file slot")
        try:
            data = read_private(self._path, limits.KEY_FILE_BYTES_MAX, "the device key file")
        except FileNotFoundError as e:
            raise Unavailable("the device key file is missing", where=str(self._path)) from e
        if len(data) != limits.KEY_BYTES:
            raise FormatError("the device key file is damaged", where=str(self._path))
        return Secret(derive(Label.SLOT_KEY_FILE, data))


class SystemdCredentialProvider(_LocalProvider):
    """A credential that systemd hands to the service; params [name].

    `credentials` is $CREDENTIALS_DIRECTORY, passed in by whoever may read the environment.
    """

    slot_type: ClassVar[SlotType] = SlotType.SYSTEMD_CREDENTIAL

    def __init__(
        self,
        credentials: Path | None,
        name: str = "portal-key",
        entropy: Entropy = system_entropy,
    ) -> None:
        super().__init__(entropy)
        self._credentials = credentials
        self._name = name

    def new_params(self) -> codec.Row:
        """The credential's name."""
        return (self._name,)

    def _kek_untrusted(self, params: codec.Row) -> Secret:
        (field,) = codec.as_row(params, 1, "a systemd credential slot")
        name = codec.as_text(field, 64, "the credential's name")
        if not name or "/" in name or name.startswith("."):
            raise FormatError("a systemd credential slot names a path")
        if self._credentials is None:
            raise Unavailable("no systemd credentials here", hint=f"LoadCredentialEncrypted={name}")
        try:
            data = read_bounded(self._credentials / name, limits.KEY_FILE_BYTES_MAX)
        except FileNotFoundError as e:
            raise Unavailable(f"systemd gave no credential {name!r}") from e
        if len(data) < limits.KEY_BYTES:
            raise KeystoreError(f"the credential {name!r} is shorter than {limits.KEY_BYTES} bytes")
        return Secret(derive(Label.SLOT_SYSTEMD, data))


@contextmanager
def _keyring() -> Iterator[ModuleType]:
    """The desktop's keyring, its many failures turned into one of ours."""
    try:
        import keyring  # noqa: PLC0415 - optional, and slow to import
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError as e:
        raise Unavailable("the OS keyring needs the package keyring") from e
    try:
        yield keyring
    except KeyringError as e:
        raise Unavailable("the OS keyring is locked or not running") from e


class OsKeyringProvider(_LocalProvider):
    """A random key kept by the desktop's keyring; params [service, account]."""

    slot_type: ClassVar[SlotType] = SlotType.OS_KEYRING
    _SERVICE = "portal"

    def __init__(self, account: str, entropy: Entropy = system_entropy) -> None:
        super().__init__(entropy)
        self._account = account

    def new_params(self) -> codec.Row:
        """Where in the keyring it lies; the entry is made here if there is none."""
        with _keyring() as keyring:
            if keyring.get_password(self._SERVICE, self._account) is None:
                fresh = self._entropy(limits.KEY_BYTES).hex()
                keyring.set_password(self._SERVICE, self._account, fresh)
        return (self._SERVICE, self._account)

    def _kek_untrusted(self, params: codec.Row) -> Secret:
        service_field, account_field = codec.as_row(params, 2, "an OS keyring slot")
        service = codec.as_text(service_field, 64, "the keyring service")
        account = codec.as_text(account_field, 64, "the keyring account")
        with _keyring() as keyring:
            kept = keyring.get_password(service, account)
        if kept is None:
            raise Unavailable(f"the OS keyring has no entry {service}/{account}")
        return Secret(derive(Label.SLOT_OS_KEYRING, kept.encode()))


class RecoveryProvider(_LocalProvider):
    """The recovery phrase itself opens this slot; params []."""

    slot_type: ClassVar[SlotType] = SlotType.RECOVERY

    def __init__(self, root: Root, entropy: Entropy = system_entropy) -> None:
        super().__init__(entropy)
        self._root = root

    def new_params(self) -> codec.Row:
        """Nothing: the slot needs no hint."""
        return ()

    def _kek_untrusted(self, params: codec.Row) -> Secret:
        codec.as_row(params, 0, "a recovery slot")
        return self._root.recovery_slot_key()
