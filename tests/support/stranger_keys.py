"""A reader of ids, envelopes, certificates, keystores and kits written from core/SPEC.md alone.

It shares no code with core, only libraries anybody has. What it cannot read, the specification does
not say.
"""

import hashlib
import unicodedata

import msgpack
import nacl.signing
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_SIZES = {"node": 32, "user": 32, "vault": 16, "mesh": 32}


def dk(name: str, material: bytes, size: int = 32) -> bytes:
    context = f"portal-node 2026-11-21 {name} v1"
    return blake3(material, derive_key_context=context).digest(length=size)


def h(name: str, data: bytes, size: int = 32) -> bytes:
    return blake3(data, key=dk(name, b"")).digest(length=size)


def slow(passphrase: str, salt: bytes, memory_kib: int, passes: int, lanes: int) -> bytes:
    kdf = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return kdf.derive(unicodedata.normalize("NFKD", passphrase).encode())


def fields(data: bytes) -> list[object]:
    row = msgpack.unpackb(data)
    assert isinstance(row, list)
    assert msgpack.packb(row) == data
    return row


# --- texts ----------------------------------------------------------------------------------------


def base32(text: str) -> bytes:
    alike = str.maketrans("ilo", "110")
    bits = "".join(f"{_BASE32.index(c):05b}" for c in text.lower().translate(alike))
    size, spare = divmod(len(bits), 8)
    assert spare < 5
    assert "1" not in bits[8 * size :]
    return int(bits[: 8 * size], 2).to_bytes(size)


def read_id(kind: str, text: str) -> bytes:
    data = base32("".join(text.replace("-", "").split()))
    version, value, check = data[0], data[1:-3], data[-3:]
    assert (version, len(value)) == (1, _SIZES[kind])
    name = kind.encode()
    assert check == h("text check", bytes([len(name)]) + name + b"\1" + value, 3)
    return value


def read_kit(text: str) -> list[object]:
    prefix, _, rest = "".join(text.split()).lower().partition("-")
    data = base32(rest)
    assert prefix == "pnk1"
    assert data[-4:] == h("text check", b"recovery kit" + data[:-4], 4)
    row = fields(data[:-4])
    assert row[0] == 1
    return row


def read_phrase(words: list[str], word_list: list[str]) -> bytes:
    bits = "".join(f"{word_list.index(word):011b}" for word in words)
    data = int(bits, 2).to_bytes(33)
    assert data[32] == hashlib.sha256(data[:32]).digest()[0]
    return data[:32]


# --- keys and what they open ----------------------------------------------------------------------


def root(entropy: bytes) -> bytes:
    return dk("root", entropy)


def root_with_passphrase(entropy: bytes, passphrase: str, cost: tuple[int, int, int]) -> bytes:
    salt = h("root passphrase", entropy, 16)
    return dk("root passphrase", entropy + slow(passphrase, salt, *cost))


def user_id(top: bytes) -> bytes:
    return bytes(nacl.signing.SigningKey(dk("user identity ed25519", top)).verify_key)


def vault_keys(top: bytes, vault: bytes, epoch: int) -> list[bytes]:
    """K_priv, K_meta, K_idx, K_cdc, W, K_aud, lease, K_pack."""
    master = dk("vault master", top + vault + epoch.to_bytes(4))
    names = "dedup private,meta aead,content index,cdc gear,vault head cap,audit tickets"
    return [dk(name, master) for name in [*names.split(","), "lease secret", "pack key"]]


def open_envelope(key: bytes, kind: int, sealed: bytes, around: bytes) -> bytes:
    header, body = sealed[:64], sealed[64:]
    assert header[:6] == b"PNM1\1" + bytes([kind])
    sub = dk("meta subkeys", key + header[8:32] + bytes([kind]), 64)
    assert sub[32:] == header[32:]
    return ChaCha20Poly1305(sub[:32]).decrypt(bytes(12), body, header + around)


def read_cert(data: bytes) -> list[object]:
    payload, signature = fields(data)
    assert isinstance(payload, bytes)
    assert isinstance(signature, bytes)
    row = fields(payload)
    assert row[0] == 1
    user, context = row[1], b"device-cert"
    assert isinstance(user, bytes)
    framed = b"portal-node-sig-v1\0" + bytes([len(context)]) + context
    framed += len(payload).to_bytes(8) + payload
    nacl.signing.VerifyKey(user).verify(framed, signature)
    return row


def open_keystore(data: bytes, slot_type: int, kek: bytes) -> list[object]:
    """The plain contents, by the first slot of this type."""
    assert data[:5] == b"PTKS\1"
    payload_at = 7 + int.from_bytes(data[5:7])
    keystore_id, user, node, slots = fields(data[7:payload_at])
    assert isinstance(slots, list)
    slot_id, _, params, wrapped = next(slot for slot in slots if slot[1] == slot_type)
    around = msgpack.packb([keystore_id, slot_id, slot_type, params])
    dek = open_envelope(kek, 0x11, wrapped, around)
    row = fields(open_envelope(dek, 0x10, data[payload_at:], data[:payload_at]))
    seed, cert = row[1], row[4]
    assert isinstance(seed, bytes)
    assert isinstance(cert, bytes)
    certified = read_cert(cert)
    assert (row[0], certified[1]) == (1, user)
    assert node == certified[2] == bytes(nacl.signing.SigningKey(seed).verify_key)
    return row
