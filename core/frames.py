"""Streams: any bytes, sealed frame by frame while they pass (core/SPEC.md, Streams).

    stream   "PTWS" | u8 version = 1 | u8 suite = 1 | u8 chunk | u8 0 | salt 24 | commitment 32
    frame    u64 sequence | u32 length | u16 flags | u16 0 | payload | tag 16

An engine without IO: bytes go in, bytes to write come out, and who calls it reads, writes and knows
the time. Frames are numbered and only the last one is FINAL, so a stream that was cut, reordered,
repeated, joined with another or continued is refused, and the error says which. A plaintext leaves
the Decryptor only after its frame was verified; that more of the stream follows is known at its end
alone, which `eof` checks.
"""

import struct
from collections.abc import Iterator
from enum import Enum, IntFlag, unique

from core import limits
from core.compress import Codec, Mode, compress, decompress_untrusted
from core.crypto import Buffer, Entropy, aead_open, aead_seal, equal, system_entropy
from core.errors import (
    FormatError,
    IntegrityError,
    LimitExceeded,
    NewerFormat,
    PortalError,
    WrongKey,
)
from core.hashing import derive
from core.labels import Label
from core.secret import Secret

_MAGIC = b"PTWS"
_VERSION = 1
_SUITE = 1  # ChaCha20-Poly1305, keys and commitment by BLAKE3
_PREFIX = struct.Struct(">4sBBBB")
_SALT_BYTES = 24
_SALT_END = _PREFIX.size + _SALT_BYTES
HEADER_BYTES = _SALT_END + limits.COMMITMENT_BYTES

_FRAME = struct.Struct(">QIHH")
_SQUEEZED = struct.Struct(">BI")
FRAME_OVERHEAD_BYTES = _FRAME.size + limits.AEAD_TAG_BYTES

_NONCE_PREFIX_BYTES = 4  # the other eight bytes are the frame's number
_CODECS = (Codec.ZSTD, Codec.LZ4)


class _Flag(IntFlag):
    COMPRESSED = 1
    ENCRYPTED = 2  # of every frame in this suite
    FINAL = 4


# An int: the complement of an IntFlag knows its own bits only.
_KNOWN_FLAGS = int(_Flag.COMPRESSED | _Flag.ENCRYPTED | _Flag.FINAL)


@unique
class Compression(Enum):
    """What the sender asks for; each frame says what was done."""

    NONE = "none"
    LZ4 = "lz4"
    ZSTD = "zstd"


_MODES = {
    Compression.NONE: Mode.OFF,
    Compression.LZ4: Mode.LZ4,
    Compression.ZSTD: Mode.AUTO,
}


# --- keys -----------------------------------------------------------------------------------------


def _subkeys(key: Secret, salt: bytes) -> tuple[Secret, bytes]:
    """The secret of one stream, and the commitment to it."""
    sub = derive(Label.STREAM_SUBKEYS, key.reveal() + salt, 64)
    return Secret(sub[:32]), sub[32:]


class _Schedule:
    """Which key and nonce each frame gets. Both ends count alike, so nothing about it is sent.

    A nonce is a prefix that belongs to the key, and the number of the frame in the whole stream.
    """

    __slots__ = ("_bytes", "_epoch", "_frames", "_prefix", "_secret", "key", "sequence")

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self.sequence = 0
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        material = self._secret.reveal() + epoch.to_bytes(8)
        keys = derive(Label.STREAM_EPOCH, material, limits.KEY_BYTES + _NONCE_PREFIX_BYTES)
        self.key = Secret(keys[: limits.KEY_BYTES])
        self._prefix = keys[limits.KEY_BYTES :]
        self._epoch, self._frames, self._bytes = epoch, 0, 0

    def nonce(self) -> bytes:
        """Of the frame that is due."""
        return self._prefix + self.sequence.to_bytes(8)

    def advance(self, payload_bytes: int) -> None:
        """A frame with that payload was sealed or opened: on to the next, maybe under a new key."""
        self.sequence += 1
        self._frames += 1
        self._bytes += payload_bytes
        worn = self._bytes >= limits.STREAM_EPOCH_BYTES_MAX
        if worn or self._frames >= limits.STREAM_EPOCH_FRAMES_MAX:
            self._begin(self._epoch + 1)


# --- sealing --------------------------------------------------------------------------------------


class Encryptor:
    """Seals one stream. Each verb returns what is to be written, in that order.

    `start` once, `feed` as data come, `flush` when they must not wait for a full frame, `finish`
    once. What was fed may be overwritten as soon as `feed` has returned.
    """

    def __init__(
        self,
        key: Secret,
        *,
        chunk_bytes: int = limits.STREAM_CHUNK_SIZES_BYTES[-1],
        compression: Compression = Compression.NONE,
        entropy: Entropy = system_entropy,
    ) -> None:
        assert chunk_bytes in limits.STREAM_CHUNK_SIZES_BYTES
        salt = entropy(_SALT_BYTES)
        assert len(salt) == _SALT_BYTES
        secret, commitment = _subkeys(key, salt)
        prefix = _PREFIX.pack(_MAGIC, _VERSION, _SUITE, chunk_bytes.bit_length() - 1, 0)
        self._header = prefix + salt + commitment
        self._schedule = _Schedule(secret)
        self._chunk_bytes = chunk_bytes
        self._compression = compression
        self._pending = bytearray()  # always shorter than a chunk
        self._open = False

    def start(self) -> list[Buffer]:
        """The beginning of the stream: with it the other end knows whether it has the key."""
        assert not self._open
        self._open = True
        return [self._header]

    def feed(self, data: Buffer) -> list[Buffer]:
        """Every chunk that is now full, as a frame; the rest waits for more."""
        assert self._open
        view = memoryview(data)
        out: list[Buffer] = []
        if self._pending:
            room = self._chunk_bytes - len(self._pending)
            self._pending += view[:room]
            view = view[room:]
            if len(self._pending) < self._chunk_bytes:
                return out
            out += self.flush()
        while len(view) >= self._chunk_bytes:
            out += self._seal(view[: self._chunk_bytes], _Flag.ENCRYPTED)
            view = view[self._chunk_bytes :]
        self._pending += view
        return out

    def flush(self) -> list[Buffer]:
        """What waits, as a frame of its own; nothing if nothing waits."""
        assert self._open
        if not self._pending:
            return []
        out = self._seal(self._pending, _Flag.ENCRYPTED)
        self._pending = bytearray()
        return out

    def finish(self) -> list[Buffer]:
        """The final frame, with what still waited."""
        assert self._open
        self._open = False
        return self._seal(self._pending, _Flag.ENCRYPTED | _Flag.FINAL)

    def _seal(self, plain: Buffer, flags: _Flag) -> list[Buffer]:
        schedule = self._schedule
        if schedule.sequence >= limits.STREAM_FRAMES_MAX:
            raise LimitExceeded(f"a stream ends after {limits.STREAM_FRAMES_MAX} frames")
        payload = plain
        if squeezed := _squeezed(plain, self._compression):
            payload, flags = squeezed, flags | _Flag.COMPRESSED
        head = _FRAME.pack(schedule.sequence, len(payload), flags, 0)
        sealed = aead_seal(schedule.key.reveal(), schedule.nonce(), payload, self._header + head)
        schedule.advance(len(payload))
        return [head, sealed]


def _squeezed(plain: Buffer, compression: Compression) -> bytes | None:
    """A compressed payload, if that is shorter."""
    codec, data = compress(plain, _MODES[compression])
    if codec is Codec.RAW or len(data) + _SQUEEZED.size >= len(plain):
        return None
    return b"".join((_SQUEEZED.pack(codec, len(plain)), data))


# --- opening --------------------------------------------------------------------------------------


class Decryptor:
    """Opens one stream. After an error it stays failed: nothing behind the damage is ever read."""

    def __init__(self, key: Secret) -> None:
        self._key = key
        self._header = b""
        self._chunk_bytes = 0
        self._schedule: _Schedule | None = None  # there is none before the stream's header
        self._head = b""  # of the frame whose body is due
        self._length = 0
        self._flags = _Flag(0)
        self._finished = False
        self._failure: PortalError | None = None
        self._unread = memoryview(b"")
        self._held = bytearray(HEADER_BYTES)  # a part that came in pieces
        self._held_bytes = 0

    def receive_untrusted(self, data: Buffer) -> Iterator[Buffer]:
        """The plaintexts of the frames that are now whole, each opened when it is asked for.

        Take them all before the next call and before `data` is overwritten. One by one, because a
        few compressed bytes may be many plain ones.
        """
        self._take_in(data)
        return self._plaintexts_untrusted()

    def eof(self) -> None:
        """Nothing more comes: refuse a stream without its final frame."""
        self._check_alive()
        if self._finished:
            return
        if self._schedule is None:
            start = bytes(self._held[: self._held_bytes])
            if not start or start[:4] != _MAGIC[: len(start)]:
                raise FormatError("this is not an encrypted stream")
            raise IntegrityError("the stream is cut short: it ends inside its header")
        inside = bool(self._head) or self._held_bytes > 0
        where = "inside" if inside else "before"
        number = self._schedule.sequence
        raise IntegrityError(
            f"the stream is cut short: it ends {where} frame {number}, without a final frame"
        )

    def _check_alive(self) -> None:
        assert not self._unread, "take every plaintext before the next call"
        if self._failure:
            raise self._failure

    def _take_in(self, data: Buffer) -> None:
        self._check_alive()
        self._unread = memoryview(data)

    def _plaintexts_untrusted(self) -> Iterator[Buffer]:
        try:
            while not self._finished:
                if self._schedule is None:
                    if (part := self._part(HEADER_BYTES)) is None:
                        return
                    self._schedule = self._open_stream_untrusted(bytes(part))
                elif not self._head:
                    if (part := self._part(_FRAME.size)) is None:
                        return
                    self._head = self._check_head_untrusted(bytes(part), self._schedule.sequence)
                else:
                    if (part := self._part(self._length + limits.AEAD_TAG_BYTES)) is None:
                        return
                    if plain := self._open_frame_untrusted(part, self._schedule):
                        yield plain
            if self._unread:
                raise IntegrityError("something follows the end of the stream")
        except PortalError as e:
            self._failure = e
            self._unread = memoryview(b"")
            raise

    def _part(self, size: int) -> memoryview | None:
        """The next `size` bytes: as they lie in the input if they do, else gathered."""
        if not self._held_bytes and len(self._unread) >= size:
            part, self._unread = self._unread[:size], self._unread[size:]
            return part
        taken = self._unread[: size - self._held_bytes]
        self._unread = self._unread[len(taken) :]
        end = self._held_bytes + len(taken)
        self._held[self._held_bytes : end] = taken
        self._held_bytes = end
        if end < size:
            return None
        self._held_bytes = 0
        return memoryview(self._held)[:size]

    def _open_stream_untrusted(self, header: bytes) -> _Schedule:
        magic, version, suite, chunk, zero = _PREFIX.unpack_from(header)
        if magic != _MAGIC:
            raise FormatError("this is not an encrypted stream")
        if version > _VERSION or suite > _SUITE:
            raise NewerFormat(f"a stream of version {version}, suite {suite}")
        chunk_bytes = 1 << chunk
        sizes = limits.STREAM_CHUNK_SIZES_BYTES
        if (version, suite, zero) != (_VERSION, _SUITE, 0) or chunk_bytes not in sizes:
            raise FormatError("the header of the stream is malformed")
        secret, commitment = _subkeys(self._key, header[_PREFIX.size : _SALT_END])
        if not equal(commitment, header[_SALT_END:]):
            raise WrongKey("this key does not open the stream")
        self._header = header
        self._chunk_bytes = chunk_bytes
        self._held = bytearray(chunk_bytes + limits.AEAD_TAG_BYTES)
        return _Schedule(secret)

    def _check_head_untrusted(self, head: bytes, due: int) -> bytes:
        """Refuse what cannot be the frame that is due before room is made or waited for it."""
        sequence, length, flags, zero = _FRAME.unpack(head)
        if head.startswith(_MAGIC):
            raise IntegrityError(f"another stream begins where frame {due} was due")
        odd = flags & ~_KNOWN_FLAGS or not flags & _Flag.ENCRYPTED or zero
        if odd or sequence >= limits.STREAM_FRAMES_MAX:
            raise FormatError(f"what stands where frame {due} was due is no frame")
        if sequence != due:
            what = "missing" if sequence > due else "repeated"
            raise IntegrityError(
                f"frame {sequence} came where frame {due} was due:"
                f" frames are {what} or out of order"
            )
        if length > self._chunk_bytes:
            raise LimitExceeded(f"frame {due} has {length} bytes, over {self._chunk_bytes}")
        if not length and not flags & _Flag.FINAL:
            raise FormatError(f"frame {due} is empty and not the last")
        self._length, self._flags = length, _Flag(flags)
        return head

    def _open_frame_untrusted(self, body: memoryview, schedule: _Schedule) -> Buffer:
        number = schedule.sequence
        aad = self._header + self._head
        try:
            plain: Buffer = aead_open(schedule.key.reveal(), schedule.nonce(), body, aad)
        except IntegrityError as e:
            raise IntegrityError(f"frame {number} was changed, or comes from another stream") from e
        schedule.advance(self._length)
        if self._flags & _Flag.COMPRESSED:
            plain = self._expanded_untrusted(memoryview(plain), number)
        self._head = b""
        self._finished = bool(self._flags & _Flag.FINAL)
        return plain

    def _expanded_untrusted(self, payload: memoryview, number: int) -> Buffer:
        if len(payload) <= _SQUEEZED.size:
            raise FormatError(f"frame {number} is too short to be compressed")
        codec, plain_len = _SQUEEZED.unpack_from(payload)
        if codec not in _CODECS:
            raise NewerFormat(f"frame {number} is compressed with codec {codec}")
        if plain_len > self._chunk_bytes:
            raise LimitExceeded(f"frame {number} expands to {plain_len} bytes")
        return decompress_untrusted(payload[_SQUEEZED.size :], codec, plain_len)
