"""Which compression a chunk gets, and how its bytes are made and read (core/SPEC.md, Compression).

    0 raw   1 zstd frame   2 LZ4 block   3 zstd in 64 KiB blocks   4 LZ4 in 64 KiB blocks

A sample of 4 KiB decides before any work is done, and a result that saves too little is thrown
away. Whatever the data say, reading never produces more than the length recorded beside them.
Nothing depends on two machines compressing alike: the seal covers the bytes as they came out.
"""

import struct
import threading
from enum import Enum, IntEnum, unique

import lz4.block  # type: ignore[import-untyped]  # the package ships no types
import zstandard

from core import limits, native
from core.crypto import Buffer
from core.errors import FormatError, LimitExceeded, NewerFormat

# Thousandths of a bit per byte. Random bytes give about 7,955 in a sample of this size.
_STORE_ABOVE_MBITS = 7_900
_LZ4_ABOVE_MBITS = 6_000
_HARDER_BELOW_MBITS = 4_000

_LEVEL = 3
_LEVEL_HARDER = 6
_LEVEL_SMALLEST = 12
_LEVELS = (_LEVEL, _LEVEL_HARDER, _LEVEL_SMALLEST)
_STORE = -1
_LZ4 = 0

_SMALLEST_GAIN = 64  # keep a result only if it saves a 64th
_TRY_BYTES_MIN = 32  # nothing shorter was ever made shorter
_RAW_BLOCK = 1 << 31


@unique
class Codec(IntEnum):
    """How the bytes in a frame are compressed; the numbers are part of the format."""

    RAW = 0
    ZSTD = 1
    LZ4 = 2
    ZSTD_BLOCKS = 3
    LZ4_BLOCKS = 4


@unique
class Mode(Enum):
    """What the user prefers. The measures behind AUTO are in core/SPEC.md, Decisions."""

    OFF = "off"
    FAST = "fast"  # LZ4 where a sample says that little can be gained
    AUTO = "auto"  # zstd everywhere, except for what is compressed already
    SMALLEST = "smallest"  # zstd at a high level, always tried
    ZSTD = "zstd"  # zstd, always tried
    LZ4 = "lz4"  # LZ4, always tried: it gives up on dense data by itself, quickly


class _PerThread(threading.local):
    """zstd contexts are expensive to make and must not be shared between threads."""

    def __init__(self) -> None:
        self.compressors = {level: zstandard.ZstdCompressor(level=level) for level in _LEVELS}
        window_max = limits.ZSTD_WINDOW_BYTES_MAX
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=window_max)


_contexts = _PerThread()


def sample_entropy_mbits(data: Buffer) -> int:
    """Entropy of the bytes in a sample of the data, in thousandths of a bit per byte."""
    return native.kernel().entropy_mbits(data)


def compress(data: Buffer, mode: Mode = Mode.AUTO, *, blocks: bool = False) -> tuple[Codec, Buffer]:
    """The codec that suits, and the bytes in it; the data themselves when nothing is gained.

    `blocks` cuts into independent blocks of 64 KiB, which a GPU can write and read.
    """
    level = _level(data, mode)
    if level == _STORE:
        return Codec.RAW, data
    squeezed = _compress_blocks(data, level) if blocks else _compress_one(data, level)
    if len(squeezed) > len(data) - len(data) // _SMALLEST_GAIN - 1:
        return Codec.RAW, data
    if level == _LZ4:
        return Codec.LZ4_BLOCKS if blocks else Codec.LZ4, squeezed
    return Codec.ZSTD_BLOCKS if blocks else Codec.ZSTD, squeezed


def decompress_untrusted(data: Buffer, codec: int, plain_len: int) -> Buffer:
    """Exactly `plain_len` bytes, or FormatError; the caller has bounded `plain_len`."""
    if codec == Codec.RAW:
        if len(data) != plain_len:
            raise FormatError("stored data are not as long as recorded")
        return data
    if len(data) >= plain_len:
        raise FormatError("compressed data are not shorter than what they stand for")
    if codec == Codec.ZSTD:
        return _unzstd_untrusted(data, plain_len)
    if codec == Codec.LZ4:
        return _unlz4_untrusted(data, plain_len)
    if codec in (Codec.ZSTD_BLOCKS, Codec.LZ4_BLOCKS):
        return _decompress_blocks_untrusted(data, Codec(codec), plain_len)
    raise NewerFormat(f"compressed with codec {codec}, which this Portal does not know")


_ALWAYS = {
    Mode.OFF: _STORE,
    Mode.LZ4: _LZ4,
    Mode.ZSTD: _LEVEL,
    Mode.SMALLEST: _LEVEL_SMALLEST,
}


def _level(data: Buffer, mode: Mode) -> int:
    """A zstd level, or one of the two ways not to use zstd."""
    if len(data) < _TRY_BYTES_MIN:
        return _STORE
    if mode in _ALWAYS:
        return _ALWAYS[mode]
    entropy_mbits = sample_entropy_mbits(data)
    if entropy_mbits > _STORE_ABOVE_MBITS:
        return _STORE
    if entropy_mbits > _LZ4_ABOVE_MBITS and mode is Mode.FAST:
        return _LZ4
    return _LEVEL_HARDER if entropy_mbits < _HARDER_BELOW_MBITS else _LEVEL


def _compress_one(data: Buffer, level: int) -> bytes:
    if level == _LZ4:
        squeezed: bytes = lz4.block.compress(data, store_size=False)
        return squeezed
    return _contexts.compressors[level].compress(data)


def _unzstd_untrusted(data: Buffer, plain_len: int) -> bytes:
    try:
        # A frame may state its length, and the library would believe it: look first.
        stated = zstandard.get_frame_parameters(data)
        if stated.content_size not in (plain_len, zstandard.CONTENTSIZE_UNKNOWN):
            raise FormatError("a zstd frame of another length than recorded")
        if stated.window_size > limits.ZSTD_WINDOW_BYTES_MAX:
            raise LimitExceeded(f"a zstd frame asks for a window of {stated.window_size} bytes")
        plain = _contexts.decompressor.decompress(
            data, max_output_size=plain_len, allow_extra_data=False
        )
    except zstandard.ZstdError as e:
        raise FormatError("not a well-formed zstd frame of the recorded length") from e
    if len(plain) != plain_len:
        raise FormatError("a zstd frame of another length than recorded")
    return plain


def _unlz4_untrusted(data: Buffer, plain_len: int) -> bytes:
    try:
        plain: bytes = lz4.block.decompress(data, uncompressed_size=plain_len)
    except lz4.block.LZ4BlockError as e:
        raise FormatError("not a well-formed LZ4 block of the recorded length") from e
    if len(plain) != plain_len:
        raise FormatError("an LZ4 block of another length than recorded")
    return plain


# --- independent blocks: a u32 for each (bit 31: stored as it is), then the blocks ----------------


def _compress_blocks(data: Buffer, level: int) -> bytes:
    view = memoryview(data)
    table: list[int] = []
    blocks: list[Buffer] = []
    for start in range(0, len(view), limits.COMPRESSION_BLOCK_BYTES):
        plain = view[start : start + limits.COMPRESSION_BLOCK_BYTES]
        squeezed = _compress_one(plain, level)
        if len(squeezed) < len(plain):
            table.append(len(squeezed))
            blocks.append(squeezed)
        else:
            table.append(len(plain) | _RAW_BLOCK)
            blocks.append(plain)
    return b"".join([struct.pack(f">{len(table)}I", *table), *blocks])


def _decompress_blocks_untrusted(data: Buffer, codec: Codec, plain_len: int) -> bytes:
    view = memoryview(data)
    count = -(-plain_len // limits.COMPRESSION_BLOCK_BYTES)
    if len(view) < 4 * count:
        raise FormatError("a table of blocks is cut short")
    unpack = _unzstd_untrusted if codec == Codec.ZSTD_BLOCKS else _unlz4_untrusted
    at = 4 * count
    plain: list[Buffer] = []
    for number, entry in enumerate(struct.unpack_from(f">{count}I", view)):
        length = entry & ~_RAW_BLOCK
        block = view[at : at + length]
        at += length
        room = plain_len - number * limits.COMPRESSION_BLOCK_BYTES
        block_len = min(room, limits.COMPRESSION_BLOCK_BYTES)
        if length > block_len or (length == block_len) != bool(entry >> 31):
            raise FormatError("a block of impossible length")
        plain.append(block if entry >> 31 else unpack(block, block_len))
    if at != len(view):
        raise FormatError("something follows the last block")
    return b"".join(plain)
