"""A reader of packs written from core/SPEC.md alone: it shares no code with core.

What it cannot read, the specification does not say.
"""

import struct

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


def dk(name: str, material: bytes, size: int = 32) -> bytes:
    context = f"portal-node 2026-11-21 {name} v1"
    return blake3(material, derive_key_context=context).digest(length=size)


def kh(key: bytes, message: bytes) -> bytes:
    return blake3(message, key=key).digest()


def unseal(sealed: bytes, subkeys: bytes, purpose: bytes) -> bytes:
    assert sealed[12:44] == subkeys[64:]
    aad = purpose + sealed[:44]
    plain = ChaCha20Poly1305(subkeys[:32]).decrypt(sealed[:12], sealed[44:], aad)
    assert kh(subkeys[32:64], plain)[:12] == sealed[:12]
    return plain


def read_pack(data: bytes, k_priv: bytes, k_pack: bytes) -> list[tuple[int, bytes]]:
    """Kind and content of every piece of a pack whose chunks are private and not compressed."""
    salt = data[:32]
    subkeys = dk("pack subkeys", k_pack + salt, 192)
    header = unseal(data[32:108], subkeys[:96], b"portal pack 2 header")
    pack_len, index_off, index_len, version = struct.unpack(">IIII", header)
    assert (pack_len, version) == (len(data), 1)
    end = index_off + index_len
    index = unseal(data[index_off:end], subkeys[96:], b"portal pack 2 index")
    assert data[end:] == dk("pack padding", k_pack + salt, pack_len - end)
    version, chunk_count, piece_count = struct.unpack(">BxxxII", index[:12])
    assert version == 1
    pieces_at = 12 + 116 * chunk_count
    rows = [index[at : at + 36] for at in range(pieces_at, pieces_at + 36 * piece_count, 36)]
    found, offset = [], 108
    for at in range(12, pieces_at, 116):
        sealed_len, plain_len, count, _, kind, domain = struct.unpack(
            ">IIIIBBxx", index[at : at + 20]
        )
        assert domain == 1
        tag = index[at + 20 : at + 52]
        sealed = data[offset : offset + sealed_len]
        offset += sealed_len
        chunk_keys = dk("chunk subkeys", dk("chunk key", k_priv + tag) + salt, 96)
        frame = unseal(sealed, chunk_keys, b"portal chunk 2" + bytes((1, kind, domain)))
        assert frame[:12] == struct.pack(">BBBBII", 2, 0, kind, 0, plain_len, plain_len)
        parts = [(row[32], int.from_bytes(row[33:]), row[:32]) for row in rows[:count]]
        rows = rows[count:]
        start = 12
        for part_kind, length, part_tag in parts or [(kind, plain_len, tag)]:
            content = frame[start : start + length]
            start += length
            assert kh(dk("content tag", b""), bytes([part_kind]) + content) == part_tag
            found.append((part_kind, content))
        assert start == len(frame)
    assert (offset, rows) == (index_off, [])
    return found
