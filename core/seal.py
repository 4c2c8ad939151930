"""One seal for chunks, pack headers and pack indexes (core/SPEC.md, Sealing).

    nonce 12 | commitment 32 | ciphertext | tag 16

The nonce is a keyed hash of exactly what is sealed, so a key that meets two plaintexts never meets
one nonce twice. The commitment is a third subkey: it is compared before anything is decrypted, and
makes a ciphertext open under one key only. What is sealed as a chunk is a frame:

    u8 version = 2 | u8 codec | u8 kind | u8 flags = 0 | u32 plain_len | u32 comp_len | data | zeros

The zeros pad a chunk of the mesh domain to its size class; in the private domain there are none.
"""

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from core import limits
from core.compress import Codec, Mode, compress, decompress_untrusted
from core.crypto import Buffer, aead_open, aead_seal_into, equal
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat, WrongKey
from core.hashing import derive, keyed
from core.labels import Label
from core.pieces import NO_PIECES, Chunk, Domain, Kind, Pieces, check_tag_untrusted
from core.secret import Secret

_SUITE = 1  # ChaCha20-Poly1305, nonce and commitment by BLAKE3
_PREFIX_BYTES = limits.AEAD_NONCE_BYTES + limits.COMMITMENT_BYTES
SEAL_BYTES = _PREFIX_BYTES + limits.AEAD_TAG_BYTES
SUBKEYS_BYTES = 3 * limits.KEY_BYTES

_CHUNK_PURPOSE = b"portal chunk 2"
_FRAME_VERSION = 2
_FRAME_HEAD = struct.Struct(">BBBBII")
FRAME_HEAD_BYTES = _FRAME_HEAD.size
CHUNK_OVERHEAD_BYTES = SEAL_BYTES + FRAME_HEAD_BYTES


# --- the seal -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SealKeys:
    """The three subkeys of one seal."""

    encrypt: Secret
    nonce: Secret
    commitment: bytes

    @classmethod
    def split(cls, subkeys: bytes) -> Self:
        """From 96 derived bytes."""
        assert len(subkeys) == SUBKEYS_BYTES
        return cls(Secret(subkeys[:32]), Secret(subkeys[32:64]), subkeys[64:])


class _Scratch(threading.local):
    """A buffer per thread in which plaintext is put together; made anew only to grow."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def gather(self, parts: Sequence[Buffer], size: int) -> memoryview:
        """The parts one after the other, then zeros up to `size`."""
        if len(self.buffer) < size:
            self.buffer = bytearray(size)
        view = memoryview(self.buffer)[:size]
        at = 0
        for part in parts:
            view[at : at + len(part)] = part
            at += len(part)
        view[at:] = bytes(size - at)
        return view


_scratch = _Scratch()


def seal_into(out: memoryview, keys: SealKeys, purpose: bytes, parts: Sequence[Buffer]) -> None:
    """Fill `out` with the sealed parts; what it has room for beyond them is sealed as zeros."""
    plain = _scratch.gather(parts, len(out) - SEAL_BYTES)
    nonce = keyed(keys.nonce.reveal(), plain)[: limits.AEAD_NONCE_BYTES]
    prefix = nonce + keys.commitment
    out[:_PREFIX_BYTES] = prefix
    aead_seal_into(keys.encrypt.reveal(), nonce, plain, purpose + prefix, out[_PREFIX_BYTES:])


def unseal_untrusted(sealed: Buffer, keys: SealKeys, purpose: bytes) -> bytes:
    """What was sealed; WrongKey if under other keys, IntegrityError if changed since."""
    if len(sealed) < SEAL_BYTES:
        raise FormatError("too short to be sealed")
    view = memoryview(sealed)
    prefix = bytes(view[:_PREFIX_BYTES])
    nonce = prefix[: limits.AEAD_NONCE_BYTES]
    if not equal(prefix[limits.AEAD_NONCE_BYTES :], keys.commitment):
        raise WrongKey
    plain = aead_open(keys.encrypt.reveal(), nonce, view[_PREFIX_BYTES:], purpose + prefix)
    if not equal(keyed(keys.nonce.reveal(), plain)[: limits.AEAD_NONCE_BYTES], nonce):
        raise IntegrityError("sealed under a nonce that is not its own")
    return plain


# --- chunks ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Frame:
    """A chunk compressed and ready to be sealed, not yet tied to a pack."""

    kind: Kind
    tag: bytes
    codec: Codec
    plain_len: int
    data: Buffer
    pieces: Pieces = NO_PIECES

    @property
    def sealed_len(self) -> int:
        """What it takes on disk."""
        return CHUNK_OVERHEAD_BYTES + len(self.data)

    def head(self) -> bytes:
        """What stands before the data, sealed or not."""
        numbers = (self.codec, self.kind, 0, self.plain_len, len(self.data))
        return _FRAME_HEAD.pack(_FRAME_VERSION, *numbers)


@dataclass(frozen=True, slots=True)
class ChunkSeal:
    """The keys of one chunk in one place."""

    domain: Domain
    keys: SealKeys

    @classmethod
    def private(cls, dedup: Secret, tag: bytes, pack_salt: bytes) -> Self:
        """In the private domain: by the pack's salt, so that no ciphertext is ever seen twice."""
        assert len(pack_salt) == limits.PACK_SALT_BYTES
        return cls(Domain.PRIVATE, _chunk_subkeys(private_chunk_key(dedup, tag), pack_salt))

    @classmethod
    def mesh(cls, chunk_key: Secret) -> Self:
        """In the mesh domain: by the content alone, so that equal chunks are one object."""
        return cls(Domain.MESH, _chunk_subkeys(chunk_key, b""))

    def purpose(self, kind: Kind) -> bytes:
        """What is authenticated besides the ciphertext, its nonce and its commitment."""
        return _CHUNK_PURPOSE + bytes((_SUITE, kind, self.domain))


def private_chunk_key(dedup: Secret, tag: bytes) -> Secret:
    """CKEY of the private domain: DK("chunk key", K_priv || tag)."""
    return Secret(derive(Label.CHUNK_KEY, dedup.reveal() + tag))


def prepare(chunk: Chunk, mode: Mode = Mode.AUTO, *, blocks: bool = False) -> Frame:
    """Compress a chunk; from here on its sealed length is known."""
    codec, data = compress(chunk.data, mode, blocks=blocks)
    return Frame(chunk.kind, chunk.tag, codec, len(chunk.data), data, chunk.pieces)


def seal_chunk_into(out: memoryview, frame: Frame, seal: ChunkSeal) -> None:
    """Fill `out` with the sealed chunk; a longer `out` pads it, in the mesh domain only."""
    assert len(out) == frame.sealed_len or (
        seal.domain is Domain.MESH and len(out) > frame.sealed_len
    )
    seal_into(out, seal.keys, seal.purpose(frame.kind), (frame.head(), frame.data))


def open_chunk_untrusted(
    sealed: Buffer,
    seal: ChunkSeal,
    kind: Kind,
    tag: bytes,
    *,
    plain_bytes_max: int = limits.CHUNK_PLAIN_BYTES_MAX,
) -> memoryview:
    """The content of that kind and tag: every check there is has passed when it is returned."""
    frame = unseal_untrusted(sealed, seal.keys, seal.purpose(kind))
    return open_frame_untrusted(
        frame, kind, tag, domain=seal.domain, plain_bytes_max=plain_bytes_max
    )


def open_frame_untrusted(
    frame: Buffer,
    kind: Kind,
    tag: bytes,
    *,
    domain: Domain = Domain.PRIVATE,
    plain_bytes_max: int = limits.CHUNK_PLAIN_BYTES_MAX,
) -> memoryview:
    """The content of a frame of that kind and tag, unsealed already or never sealed."""
    codec, plain_len, data = _parse_frame_untrusted(frame, kind, domain)
    if plain_len > plain_bytes_max:
        raise LimitExceeded(f"a chunk of {plain_len} bytes where {plain_bytes_max} are allowed")
    plain = decompress_untrusted(data, codec, plain_len)
    check_tag_untrusted(kind, tag, plain)
    return memoryview(plain)


def _chunk_subkeys(chunk_key: Secret, salt: bytes) -> SealKeys:
    material = chunk_key.reveal() + salt
    return SealKeys.split(derive(Label.CHUNK_SUBKEYS, material, SUBKEYS_BYTES))


def _parse_frame_untrusted(
    frame: Buffer, kind_expected: Kind, domain: Domain
) -> tuple[int, int, memoryview]:
    if len(frame) < _FRAME_HEAD.size:
        raise FormatError("a frame is cut short")
    version, codec, kind, flags, plain_len, comp_len = _FRAME_HEAD.unpack_from(frame)
    if version > _FRAME_VERSION:
        raise NewerFormat
    if version != _FRAME_VERSION or flags or kind != kind_expected:
        raise FormatError("not a frame of this kind")
    body = memoryview(frame)[_FRAME_HEAD.size :]
    data, padding = body[:comp_len], body[comp_len:]
    if len(data) != comp_len or (padding and domain is not Domain.MESH):
        raise FormatError("a frame of another length than recorded")
    if bytes(padding) != bytes(len(padding)):
        raise FormatError("the padding of a frame is not zero")
    return codec, plain_len, data
