"""Who can open an archive, and the keys inside it (core/SPEC.md, Archive keys).

A  32 bytes from a passphrase, a key file or a vault
K  DK("archive key", A || salt)
"""

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import ClassVar, Protocol, Self

from core import limits
from core.crypto import argon2id
from core.errors import FormatError, KeystoreError
from core.hashing import derive
from core.keys import normalised
from core.labels import Label
from core.seal import SUBKEYS_BYTES, SealKeys
from core.secret import Secret
from core.slots import ARGON2_DEFAULT, Argon2Cost


@unique
class Lock(IntEnum):
    """How an archive is closed: in clear, so that a reader knows what to ask for."""

    NONE = 0
    PASSPHRASE = 1
    KEY_FILE = 2
    VAULT = 3


@dataclass(frozen=True, slots=True)
class ArchiveKeys:
    """What one archive is sealed with."""

    header: SealKeys
    index: SealKeys
    dedup: Secret
    journal: Secret
    chunker: Secret

    @classmethod
    def derive(cls, opener: Secret, salt: bytes) -> Self:
        """From A and the salt in the header."""
        key = derive(Label.ARCHIVE_KEY, opener.reveal() + salt)
        subkeys = derive(Label.ARCHIVE_SUBKEYS, key, 2 * SUBKEYS_BYTES)
        return cls(
            header=SealKeys.split(subkeys[:SUBKEYS_BYTES]),
            index=SealKeys.split(subkeys[SUBKEYS_BYTES:]),
            dedup=Secret(derive(Label.ARCHIVE_CHUNK, key)),
            journal=Secret(derive(Label.ARCHIVE_JOURNAL, key)),
            chunker=Secret(derive(Label.CDC_GEAR, key)),
        )


class Opener(Protocol):
    """A way to close an archive and to open it again."""

    lock: ClassVar[Lock]

    @property
    def cost(self) -> Argon2Cost | None:
        """What a new archive's header says about Argon2id."""
        ...

    def secret_untrusted(self, salt: bytes, cost: Argon2Cost | None) -> Secret:
        """A, for the salt and cost in a header."""
        ...


class PassphraseOpener:
    """A passphrase through Argon2id; the salt is the first half of the archive's."""

    lock: ClassVar[Lock] = Lock.PASSPHRASE

    def __init__(self, passphrase: Secret, cost: Argon2Cost = ARGON2_DEFAULT) -> None:
        self._passphrase = normalised(passphrase)
        if not len(self._passphrase):
            raise KeystoreError("an empty passphrase protects nothing")
        self.cost = cost

    def secret_untrusted(self, salt: bytes, cost: Argon2Cost | None) -> Secret:
        """DK("archive passphrase", Argon2id(passphrase))."""
        if cost is None:
            raise FormatError("an archive under a passphrase without Argon2id parameters")
        slow = argon2id(
            self._passphrase,
            salt[: limits.ARGON2_SALT_BYTES],
            memory_kib=cost.memory_kib,
            passes=cost.passes,
            lanes=cost.lanes,
        )
        return Secret(derive(Label.ARCHIVE_PASSPHRASE, slow.reveal()))


class KeyFileOpener:
    """The 32 bytes of a key file."""

    lock: ClassVar[Lock] = Lock.KEY_FILE
    cost: Argon2Cost | None = None

    def __init__(self, key: Secret) -> None:
        self._key = key

    def secret_untrusted(self, _salt: bytes, _cost: Argon2Cost | None) -> Secret:
        """DK("archive key file", key)."""
        return Secret(derive(Label.ARCHIVE_KEY_FILE, self._key.reveal()))


class VaultOpener:
    """A key that whoever holds the vault's master has, too."""

    lock: ClassVar[Lock] = Lock.VAULT
    cost: Argon2Cost | None = None

    def __init__(self, master: Secret) -> None:
        self._master = master

    def secret_untrusted(self, _salt: bytes, _cost: Argon2Cost | None) -> Secret:
        """DK("archive vault", VMS)."""
        return Secret(derive(Label.ARCHIVE_VAULT, self._master.reveal()))
