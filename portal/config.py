"""The file `config` of a vault: whose it is, and what never changes about it.

    "PTVC" | u8 version=1 | vault_id 16 | node 32 | u32 epoch | envelope(K_meta, 0x13, plain,
    aad = all bytes before)            plain = [1, chunker (text), created_s u64]

What stands in clear is what one must know to look for the keys: which vault, of which device.
"""

from dataclasses import dataclass
from typing import Self

from core import codec, envelope, limits
from core.chunking import DEFAULT_VAULT, params_untrusted
from core.crypto import Entropy, system_entropy
from core.errors import FormatError, NewerFormat
from core.ids import NodeId, VaultId
from core.keys import VaultKeys
from core.labels import EnvelopeKind

_MAGIC = b"PTVC"
_VERSION = 1
_FIELDS = 3
_PREFIX_BYTES = 4 + 1 + 16 + 32 + 4
_CHUNKER_BYTES_MAX = 64


@dataclass(frozen=True, slots=True)
class VaultName:
    """What the file says to anybody: enough to find the keys or to refuse politely."""

    vault: VaultId
    node: NodeId
    epoch: int

    def prefix(self) -> bytes:
        """The bytes in clear."""
        return _MAGIC + bytes([_VERSION]) + self.vault + self.node + self.epoch.to_bytes(4)


@dataclass(frozen=True, slots=True)
class VaultConfig:
    """What is fixed for the life of a vault."""

    name: VaultName
    chunker: str
    created_s: int

    @classmethod
    def new(cls, vault: VaultId, node: NodeId, created_s: int) -> Self:
        """Of a vault that is being made."""
        return cls(VaultName(vault, node, 0), DEFAULT_VAULT, created_s)

    def sealed(self, keys: VaultKeys, entropy: Entropy = system_entropy) -> bytes:
        """The file."""
        prefix = self.name.prefix()
        plain = codec.encode((1, self.chunker, self.created_s))
        kind = EnvelopeKind.VAULT_CONFIG
        return prefix + envelope.seal(keys.meta, kind, plain, aad=prefix, entropy=entropy)

    @classmethod
    def open_untrusted(cls, data: bytes, keys: VaultKeys) -> Self:
        """The file, read with the keys of the vault it names."""
        name = name_untrusted(data)
        prefix = data[:_PREFIX_BYTES]
        kind = EnvelopeKind.VAULT_CONFIG
        plain = envelope.open_untrusted(keys.meta, kind, data[_PREFIX_BYTES:], aad=prefix)
        row = codec.decode_untrusted(plain, bytes_max=limits.VAULT_CONFIG_BYTES_MAX)
        row = codec.as_versioned_row(row, 1, _FIELDS, "the configuration of a vault")
        chunker = codec.as_text(row[1], _CHUNKER_BYTES_MAX, "the name of its chunker")
        params_untrusted(chunker)
        return cls(name, chunker, codec.as_uint(row[2], 64, "its time"))


def name_untrusted(data: bytes) -> VaultName:
    """Whose vault it says it is; nothing is proved until it is opened."""
    if len(data) < 5 or data[:4] != _MAGIC:
        raise FormatError("not the configuration of a vault")
    if data[4] > _VERSION:
        raise NewerFormat(f"a vault of version {data[4]}; this Portal knows {_VERSION}")
    if data[4] != _VERSION or len(data) < _PREFIX_BYTES:
        raise FormatError("the configuration of a vault is damaged")
    vault, node = data[5:21], data[21:53]
    return VaultName(VaultId(vault), NodeId(node), int.from_bytes(data[53:57]))
