"""The tree of keys under the recovery phrase (core/SPEC.md, Keys).

    E (24 words) [+ passphrase P] -> Root -> user identity, vault masters, sharing seeds
    VaultKeys                             -> the keys one vault is sealed, named and cut with
    DeviceKeys                               random, certified, never derived, never leave

Everything is derived when asked for and nothing is kept: a `Root` exists only while an identity is
made or recovered.
"""

import unicodedata
from dataclasses import dataclass
from typing import Self

from core import limits
from core.crypto import Entropy, SigningKey, argon2id, system_entropy, x25519_public
from core.errors import FormatError, LimitExceeded
from core.hashing import derive, digest
from core.ids import NodeId, UserId, VaultId
from core.labels import Label
from core.secret import Secret

# The passphrase on top of the phrase is typed once in years: it may cost seconds.
ROOT_ARGON2 = {"memory_kib": 1 * limits.MIB, "passes": 4, "lanes": 4}  # 1 GiB


@dataclass(frozen=True, slots=True)
class Root:
    """R, from which everything of one person grows; kept in memory for moments only."""

    secret: Secret

    @classmethod
    def from_entropy(cls, entropy: Secret) -> Self:
        """R of a phrase without a passphrase: DK("root", E)."""
        return cls(Secret(derive(Label.ROOT, entropy.reveal())))

    @classmethod
    def from_entropy_and_passphrase(
        cls, entropy: Secret, passphrase: Secret, cost: dict[str, int] | None = None
    ) -> Self:
        """R of a phrase with a passphrase; `cost` is changed by tests only."""
        raw = entropy.reveal()
        salt = digest(Label.ROOT_PASSPHRASE, raw, limits.ARGON2_SALT_BYTES)
        slow = argon2id(normalised(passphrase), salt, **(cost or ROOT_ARGON2))
        return cls(Secret(derive(Label.ROOT_PASSPHRASE, raw + slow.reveal())))

    def user_identity(self) -> SigningKey:
        """UIK: certifies devices; its public half is the UserId."""
        return SigningKey(Secret(derive(Label.USER_IDENTITY, self.secret.reveal())))

    def user_id(self) -> UserId:
        """The public name of this person."""
        return UserId(self.user_identity().public)

    def vault_master(self, vault: VaultId, epoch: int) -> Secret:
        """VMS[e] of one vault: DK("vault master", R || vault_id || u32 e)."""
        material = self.secret.reveal() + vault + epoch.to_bytes(4)
        return Secret(derive(Label.VAULT_MASTER, material))

    def share_seed(self, epoch: int) -> Secret:
        """96 bytes: an X25519 secret and an ML-KEM-768 seed for what others share with us."""
        material = self.secret.reveal() + epoch.to_bytes(4)
        return Secret(derive(Label.SHARE_KEM_SEED, material, 96))

    def recovery_slot_key(self) -> Secret:
        """What opens the keystore's recovery slot."""
        return Secret(derive(Label.SLOT_RECOVERY, self.secret.reveal()))


@dataclass(frozen=True, slots=True)
class VaultKeys:
    """The keys of one epoch of one vault."""

    dedup: Secret  # K_priv: content keys of the private domain
    meta: Secret  # K_meta: configuration, heads, settings
    index: Secret  # K_idx: local index keys
    gear: Secret  # K_cdc: the chunker's secret input
    head_cap: Secret  # W: write capability of the vault head
    audit: Secret  # K_aud: whole-shard audit tickets
    lease: Secret  # names of leases at peers
    pack: Secret  # K_pack: pack headers, indexes and padding

    @classmethod
    def from_master(cls, master: Secret) -> Self:
        """All of them from VMS[e]."""
        raw = master.reveal()

        def key(label: Label) -> Secret:
            return Secret(derive(label, raw))

        return cls(
            dedup=key(Label.DEDUP_PRIVATE),
            meta=key(Label.META_AEAD),
            index=key(Label.CONTENT_INDEX),
            gear=key(Label.CDC_GEAR),
            head_cap=key(Label.VAULT_HEAD_CAP),
            audit=key(Label.AUDIT_TICKETS),
            lease=key(Label.LEASE_SECRET),
            pack=key(Label.PACK_KEY),
        )


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """One machine's own keys: random, so that a stolen phrase does not imitate a device."""

    sign_seed: Secret
    box_secret: Secret
    wireguard_secret: Secret

    @classmethod
    def generate(cls, entropy: Entropy = system_entropy) -> Self:
        """New keys for this machine."""
        return cls(*(Secret(entropy(limits.KEY_BYTES), limits.KEY_BYTES) for _ in range(3)))

    def signing_key(self) -> SigningKey:
        """DIK: signs records, audits and the node's certificate."""
        return SigningKey(self.sign_seed)

    def node_id(self) -> NodeId:
        """The public name of this machine."""
        return NodeId(self.signing_key().public)

    def box_public(self) -> bytes:
        """The X25519 key others seal datagrams to."""
        return x25519_public(self.box_secret)


def normalised(passphrase: Secret) -> Secret:
    """NFKD, so that a passphrase typed on another keyboard gives the same bytes."""
    if len(passphrase) > limits.PASSPHRASE_BYTES_MAX:
        raise LimitExceeded(f"a passphrase has at most {limits.PASSPHRASE_BYTES_MAX} bytes")
    try:
        text = passphrase.reveal().decode()
    except UnicodeDecodeError:  # it holds the passphrase: not a word of it goes on
        raise FormatError("the passphrase is not UTF-8 text") from None
    return Secret(unicodedata.normalize("NFKD", text).encode())
