"""The kernel in pure Python: the same answers as the compiled one, slowly.

It is also the readable statement of the rules. Gear is a plain loop, some 15 MB/s. SeqCDC compares
thousands of positions at once inside one big integer, which reaches some 100 MB/s.
"""

from functools import cache

from core.native.rules import LOOKBACK_BYTES, RISES, Buffer, GearRule, Scan, SeqCdcRule

_MASK64 = (1 << 64) - 1

SAMPLE_BYTES = 4_096
_STRIPS = 16
_STRIP_BYTES = 256
_FRACTION_BITS = 16


# --- Gear ----------------------------------------------------------------------------------------


def gear(rule: GearRule) -> Scan:
    """A scan by a rolling hash."""
    table = rule.table()

    def chunk_end(data: memoryview, size: int, final: bool) -> int:  # noqa: FBT001
        if size <= rule.min_bytes:
            return size if final or size == rule.max_bytes else 0
        end = min(size, rule.max_bytes)
        middle = min(end, rule.normal_bytes)
        value = 0
        for byte in data[rule.min_bytes - LOOKBACK_BYTES : rule.min_bytes]:
            value = ((value << 1) + table[byte]) & _MASK64
        at = rule.min_bytes
        for stop, limit in ((middle, rule.strict_limit), (end, rule.loose_limit)):
            for byte in data[at:stop]:
                if value < limit:
                    return at
                value = ((value << 1) + table[byte]) & _MASK64
                at += 1
        undecided = size < rule.max_bytes and not final
        return 0 if undecided else end

    def scan(data: Buffer, final: bool) -> list[int]:  # noqa: FBT001
        cuts: list[int] = []
        at = 0
        with memoryview(data) as view:
            while at < len(view):
                with view[at:] as rest:
                    length = chunk_end(rest, len(rest), final)
                if length == 0:
                    break
                at += length
                cuts.append(at)
        return cuts

    return scan


# --- SeqCDC --------------------------------------------------------------------------------------

# Positions looked at in one go: big enough that the cost of a Python step does not matter, small
# enough that the integers stay in the cache. A multiple of 4.
_BLOCK = 8_192


@cache
def _lanes(value: int) -> int:
    """`value` in each 32-bit lane of an integer that covers a block and what it looks back at."""
    return int.from_bytes(value.to_bytes(4, "little") * (_BLOCK // 4 + 8), "little")


def _rises(data: bytes, first: int, second: int) -> int:
    """Bit 8 t: the value of the four bytes from t on is greater than the one before (t >= 1).

    The value of a window is first * u16 + second * next u16 modulo 2^16, as a signed number; the
    u16 are little-endian. Windows of equal t modulo 4 do not overlap, so all of them are computed
    at once, each in a lane of 32 bits; then the four families are compared with each other.
    """
    low, one, sign = _lanes(0xFFFF), _lanes(1), _lanes(0x8000)
    whole = int.from_bytes(data, "little")
    values = []
    for shift in (0, 8, 16, 24):
        shifted = whole >> shift
        added = ((shifted & low) * first & low) + ((shifted >> 16 & low) * second & low)
        # Flipping the sign bit makes signed order the order of unsigned lanes.
        values.append(added & low ^ sign)
    rises = 0
    before = values[3] << 32
    for family, value in enumerate(values):
        # 17 bits: the topmost is set where value - before > 0. The first lane of all has nothing
        # before it and is not asked for.
        rises |= ((value + low - (before & low)) >> 16 & one) << 8 * family
        before = value
    return rises


def _candidates(data: memoryview, begin: int, end: int, first: int, second: int) -> list[int]:
    """The positions of [begin, end) where values have risen RISES times in a row, and not more."""
    # A window of four bytes ends at each position; RISES + 2 windows tell about one position.
    base = begin - RISES - 5
    rises = _rises(bytes(data[base : end - 1]), first, second)
    runs = rises
    for back in range(1, RISES):
        runs &= rises << 8 * back
    runs &= ~(rises << 8 * RISES)
    flags = runs.to_bytes(4 * (_BLOCK // 4 + 8) + RISES, "little")
    found = []
    t = flags.find(1, RISES + 1)
    while 0 <= t < end - 4 - base:
        found.append(base + t + 4)
        t = flags.find(1, t + 1)
    return found


def seqcdc(rule: SeqCdcRule) -> Scan:
    """A scan by runs of rising values."""
    first, second, start, multipliers = rule.numbers()

    def rank(window: memoryview) -> int:
        value = start
        for i, multiplier in enumerate(multipliers):
            value ^= int.from_bytes(window[8 * i : 8 * i + 8], "little")
            value = value * multiplier & _MASK64
            value ^= value >> 32
        return value

    def chunk_end(data: memoryview, size: int) -> int:
        if size <= rule.min_bytes:
            return size
        cut = end = min(size, rule.max_bytes)
        least = _MASK64
        for begin in range(rule.min_bytes, end, _BLOCK):
            stop = min(begin + _BLOCK, end)
            for at in _candidates(data, begin, stop, first, second):
                found = rank(data[at - 32 : at])
                if found < least:
                    least, cut = found, at
        return cut

    def scan(data: Buffer, final: bool) -> list[int]:  # noqa: FBT001
        cuts: list[int] = []
        at = 0
        with memoryview(data) as view:
            while at < len(view) and (final or len(view) - at >= rule.max_bytes):
                with view[at:] as rest:
                    at += chunk_end(rest, len(rest))
                cuts.append(at)
        return cuts

    return scan


# --- entropy -------------------------------------------------------------------------------------


@cache
def _log2_fixed(n: int) -> int:
    """Whole part of log2(n) * 2^16, by squaring a number in [1, 2)."""
    result = n.bit_length() - 1
    mantissa = n << 31 - result
    for _ in range(_FRACTION_BITS):
        mantissa = mantissa * mantissa >> 31
        carry = mantissa >> 32
        mantissa >>= carry
        result = result << 1 | carry
    return result


def sample(data: Buffer) -> bytes:
    """The bytes looked at: short data whole, else 16 strips of 256 bytes at equal distances."""
    if len(data) <= SAMPLE_BYTES:
        return bytes(data)
    step = (len(data) - _STRIP_BYTES) // (_STRIPS - 1)
    with memoryview(data) as view:
        return b"".join(view[i * step :][:_STRIP_BYTES] for i in range(_STRIPS))


def entropy_mbits(data: Buffer) -> int:
    """Shannon entropy of the sample's byte values, in thousandths of a bit per byte."""
    sampled = sample(data)
    size = len(sampled)
    if size == 0:
        return 0
    bits = size * _log2_fixed(size)
    for value in set(sampled):
        count = sampled.count(value)
        bits -= count * _log2_fixed(count)
    return (bits * 1000 // size) >> _FRACTION_BITS
