"""The one table of names that keep keys, hashes and signatures apart. One name, one purpose.

A `Label` feeds core.hashing (BLAKE3 derive_key); its whole context string is
"portal-node 2026-11-21 <name> v1". A `SignLabel` feeds core.crypto.sign. Both are frozen: a name
may be added, never changed or used for a second purpose (tests/core/test_labels.py holds the
list).
"""

from enum import Enum, unique


@unique
class Label(Enum):
    """Purposes of derived keys and domain-separated hashes."""

    # from the recovery phrase
    ROOT = "root"
    ROOT_PASSPHRASE = "root passphrase"
    USER_IDENTITY = "user identity ed25519"
    VAULT_MASTER = "vault master"
    SHARE_KEM_SEED = "share kem seed"

    # from a vault's master key
    DEDUP_PRIVATE = "dedup private"
    META_AEAD = "meta aead"
    CONTENT_INDEX = "content index"
    CDC_GEAR = "cdc gear"
    VAULT_HEAD_CAP = "vault head cap"
    AUDIT_TICKETS = "audit tickets"
    LEASE_SECRET = "lease secret"
    PACK_KEY = "pack key"

    # sealing
    META_SUBKEYS = "meta subkeys"
    CHUNK_KEY = "chunk key"
    CHUNK_SUBKEYS = "chunk subkeys"
    CONTENT_TAG = "content tag"
    PACK_PADDING = "pack padding"
    PACK_SUBKEYS = "pack subkeys"
    PACK_NAME = "pack name"

    # trees and shards
    MERKLE_LEAF = "merkle leaf"
    MERKLE_NODE = "merkle node"
    SHARD_HASH = "shard hash"
    SHARD_DESCRIPTOR = "shard descriptor"
    SHARD_NAME = "shard name"
    OBJECT_ROOT = "chunk root"
    SMT_LEAF = "smt leaf"
    SMT_NODE = "smt node"
    HOLDINGS = "holdings"

    # archives
    ARCHIVE_KEY = "archive key"
    ARCHIVE_SUBKEYS = "archive subkeys"
    ARCHIVE_CHUNK = "archive chunk"
    ARCHIVE_PASSPHRASE = "archive passphrase"
    ARCHIVE_KEY_FILE = "archive key file"
    ARCHIVE_VAULT = "archive vault"
    ARCHIVE_HEADER = "archive header"
    ARCHIVE_INDEX = "archive index"
    ARCHIVE_ENTRY = "archive entry"
    ARCHIVE_JOURNAL = "archive journal"

    # the vault's directory
    VAULT_CACHE = "vault cache"
    VAULT_LOOKS = "vault looks"
    VAULT_RULES = "vault rules"
    HEAD_HASH = "vault head hash"

    # streams
    STREAM_SUBKEYS = "stream subkeys"
    STREAM_EPOCH = "stream epoch"

    # links between nodes
    LEAF_HASH = "leaf hash"
    HELLO = "hello"
    HOST = "host"
    DATAGRAM = "datagram"
    RETRY = "retry token"
    LANE = "lane"
    LINK_RINGS = "link rings"

    # members of a mesh
    MESH_ID = "mesh id"
    MEMBER_OPERATION = "member operation"
    MEMBER_VECTOR = "member vector"
    MEMBER_STATE = "member state"
    MEMBER_DRAFT = "member draft"
    DHT_ID = "dht id"
    OVERLAY_MESH = "ula subnet"
    OVERLAY_NODE = "ula host"

    # invites
    INVITE_SIGNING_KEY = "invite signing key"
    FOUR_WORDS = "sas"

    # the keystore and texts people copy
    SLOT_KEY_FILE = "slot key file"
    SLOT_PASSPHRASE = "slot passphrase"
    SLOT_OS_KEYRING = "slot os keyring"
    SLOT_SYSTEMD = "slot systemd credential"
    SLOT_RECOVERY = "slot recovery"
    TEXT_CHECK = "text check"


@unique
class SignLabel(Enum):
    """Purposes of signatures: no structure verifies as another."""

    DEVICE_CERT = "device-cert"
    VAULT_HEAD = "vault-head"
    AUTH_INITIATOR = "auth-i"
    AUTH_RESPONDER = "auth-r"
    ADDRESS_RECORD = "address-record"
    MEMBER_OPERATION = "member-operation"
    MEMBER_COSIGN = "member-cosign"
    MEMBER_DEVICE = "member-device"
    MEMBER_DRAFT = "member-draft"
    MEMBER_DRAFT_END = "member-draft-end"
    INVITE_TERMS = "invite-terms"
    PAIR_KNOCK = "pair-knock"
    PAIR_JOIN = "pair-join"
    PAIR_RECOVER = "pair-recover"
    PAIR_RETURN = "pair-return"


@unique
class EnvelopeKind(Enum):
    """What a randomised envelope (core/envelope.py) holds; part of its key and of its header."""

    KEYSTORE_PAYLOAD = 0x10
    KEY_SLOT = 0x11
    ARCHIVE_JOURNAL = 0x12
    VAULT_CONFIG = 0x13
    VAULT_HEAD = 0x14
    VAULT_INDEX = 0x15
