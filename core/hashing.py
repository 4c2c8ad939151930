"""BLAKE3, always with a purpose (core/SPEC.md, Hashing). The only module that imports blake3.

DK(name, ikm, n)   derive(label, ikm, n)        a key for a purpose
CK(name)           constant_key(label)          a public key for a purpose
KH(key, data, n)   keyed(key, data, n)          a keyed hash
H(name, data, n)   digest(label, data, n)       a hash for a purpose
"""

from collections.abc import Iterable
from functools import cache
from itertools import repeat

from blake3 import blake3

from core import limits
from core.labels import Label

_CONTEXT = "portal-node 2026-11-21 {} v1"

# One byte in front puts the rest off BLAKE3's lanes; below this, copying both together is faster.
_COPY_BYTES_MAX = 256 * limits.KIB
_ONE_BYTE = [bytes([n]) for n in range(256)]


def derive(label: Label, material: bytes, size: int = limits.KEY_BYTES) -> bytes:
    """A key of `size` bytes for one purpose from secret material (BLAKE3 derive_key)."""
    context = _CONTEXT.format(label.value)
    return blake3(material, derive_key_context=context).digest(length=size)


@cache
def constant_key(label: Label) -> bytes:
    """The public 32-byte key that stands for a purpose in keyed hashes."""
    return derive(label, b"")


def keyed(key: bytes, data: bytes | memoryview, size: int = limits.HASH_BYTES) -> bytes:
    """BLAKE3 in keyed mode."""
    return blake3(data, key=key).digest(length=size)


def tag(kind: int, data: bytes | bytearray | memoryview) -> bytes:
    """The name of some content: KH(CK("content tag"), u8 kind || data), so kinds never meet."""
    key = constant_key(Label.CONTENT_TAG)
    if len(data) < _COPY_BYTES_MAX:
        return blake3(b"".join((_ONE_BYTE[kind], data)), key=key).digest()
    return blake3(_ONE_BYTE[kind], key=key).update(data).digest()


def tags(kind: int, contents: Iterable[bytes | bytearray | memoryview]) -> list[bytes]:
    """`tag` of each of many small contents, without a hasher for each."""
    first = repeat(_ONE_BYTE[kind])
    return digest_each(Label.CONTENT_TAG, map(b"".join, zip(first, contents, strict=False)))


def digest(label: Label, data: bytes | memoryview, size: int = limits.HASH_BYTES) -> bytes:
    """An unkeyed hash, kept apart from every other purpose by its label."""
    return blake3(data, key=constant_key(label)).digest(length=size)


def digest_each(label: Label, items: Iterable[bytes | memoryview]) -> list[bytes]:
    """`digest` of each of many short items, a third faster than one by one."""
    hasher = blake3(key=constant_key(label))
    update, finish, reset = hasher.update, hasher.digest, hasher.reset
    hashes = []
    for item in items:
        update(item)
        hashes.append(finish())
        reset()
    return hashes
