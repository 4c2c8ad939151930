"""What a chunker must know to cut: bounds and numbers from the key, the same for every kernel.

The layouts of `material` are those of core/SPEC.md, "Chunking". Bounds are checked here, once,
before a kernel walks over memory by them.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from core import limits
from core.errors import FormatError
from core.secret import Secret

Buffer = bytes | bytearray | memoryview

# Cuts a buffer that starts where a chunk starts: the chunks' end offsets. Without the second
# argument, `final`, a tail that could still become longer is left out.
Scan = Callable[[Buffer, bool], list[int]]

LOOKBACK_BYTES = 64  # how far a decision looks back; no chunk is shorter, the last one excepted
RISES = 5  # a run of so many rising values is a candidate of SeqCDC
GEAR_MATERIAL_BYTES = 2_048
SEQCDC_MATERIAL_BYTES = 48


def check_bounds(*ascending: int) -> None:
    """Refuse sizes that are out of order or that nothing here is made for."""
    bounds = (LOOKBACK_BYTES, *ascending, limits.CHUNKER_BYTES_MAX)
    if list(bounds) != sorted(bounds):
        raise FormatError("a chunker's sizes are not in order or out of bounds")


@dataclass(frozen=True, slots=True)
class GearRule:
    """Gear with normalised cuts (FastCDC): cut where a rolling hash falls below a limit."""

    min_bytes: int
    normal_bytes: int  # up to here the strict limit holds, from here on the loose one
    max_bytes: int
    strict_limit: int
    loose_limit: int
    material: Secret

    def __post_init__(self) -> None:
        check_bounds(self.min_bytes, self.normal_bytes, self.max_bytes)
        if not 0 <= self.strict_limit <= self.loose_limit < 1 << 64:
            raise FormatError("a chunker's limits are not in order or out of bounds")
        if len(self.material) != GEAR_MATERIAL_BYTES:
            raise FormatError("a gear table has 2048 bytes")

    def table(self) -> tuple[int, ...]:
        """What each byte value adds to the hash."""
        return struct.unpack("<256Q", self.material.reveal())


@dataclass(frozen=True, slots=True)
class SeqCdcRule:
    """SeqCDC, keyed: among the runs of rising values, cut at the one of least rank."""

    min_bytes: int
    max_bytes: int
    material: Secret

    def __post_init__(self) -> None:
        check_bounds(self.min_bytes, self.max_bytes)
        if len(self.material) != SEQCDC_MATERIAL_BYTES:
            raise FormatError("the key of SeqCDC has 48 bytes")

    def numbers(self) -> tuple[int, int, int, tuple[int, int, int, int]]:
        """The two factors of a value, the start of a rank and its four multipliers."""
        first, second, start, a, b, c, d = struct.unpack("<HH4xQ4Q", self.material.reveal())
        return first | 1, second | 1, start, (a | 1, b | 1, c | 1, d | 1)
