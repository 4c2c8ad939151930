"""Where large files are cut, so that an edit changes only what is near it (core/SPEC.md, Chunking).

A chunker is a named, versioned set of parameters and a secret key. Equal content behind a cut is
cut alike, whatever stands before it, so what did not change is found again. The key is a speed
bump: it keeps ready-made fingerprints of known files away, not someone who studies our sizes; packs
hide those. The work is done by core/native, in C or in Python with the same cuts.

A set never changes once released: other cuts are a new name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from core import limits, native
from core.buffers import Buffers
from core.errors import FormatError, NewerFormat
from core.hashing import keyed
from core.limits import KIB, MIB
from core.native import Kernel
from core.native.rules import (
    GEAR_MATERIAL_BYTES,
    SEQCDC_MATERIAL_BYTES,
    Buffer,
    GearRule,
    Scan,
    SeqCdcRule,
    check_bounds,
)
from core.secret import Secret

_NAME_CHARS_MAX = 64


class ChunkerParams(Protocol):
    """A parameter set. No chunk but the last of a stream is shorter than min, none above max."""

    @property
    def name(self) -> str:
        """What configs and archives record."""
        ...

    @property
    def min_bytes(self) -> int:
        """The shortest chunk, the last one excepted."""
        ...

    @property
    def max_bytes(self) -> int:
        """The longest chunk."""
        ...

    def scan(self, kernel: Kernel, key: Secret) -> Scan:
        """The function that finds the cuts."""
        ...


@dataclass(frozen=True, slots=True)
class SeqCdcParams:
    """Keyed SeqCDC without jumps: in [min, max), the run of rising values with the least rank."""

    name: str
    min_bytes: int
    max_bytes: int

    def scan(self, kernel: Kernel, key: Secret) -> Scan:
        """A scan at the speed of memory; the average is halfway between min and max."""
        material = _expand(key, b"seqcdc", SEQCDC_MATERIAL_BYTES)
        return kernel.seqcdc(SeqCdcRule(self.min_bytes, self.max_bytes, material))


@dataclass(frozen=True, slots=True)
class GearParams:
    """Keyed Gear with normalised cuts (FastCDC). Distances are what a limit means on average."""

    name: str
    min_bytes: int
    normal_bytes: int
    max_bytes: int
    strict_distance_bytes: int  # between cuts, up to normal
    loose_distance_bytes: int  # beyond

    def scan(self, kernel: Kernel, key: Secret) -> Scan:
        """A scan by rolling hash."""
        check_bounds(self.strict_distance_bytes)
        check_bounds(self.loose_distance_bytes)
        rule = GearRule(
            self.min_bytes,
            self.normal_bytes,
            self.max_bytes,
            (1 << 64) // self.strict_distance_bytes,
            (1 << 64) // self.loose_distance_bytes,
            _expand(key, b"gear", GEAR_MATERIAL_BYTES),
        )
        return kernel.gear(rule)


@dataclass(frozen=True, slots=True)
class FixedParams:
    """Pieces of one size, whatever the content: for data that only change in place."""

    name: str
    size_bytes: int

    @property
    def min_bytes(self) -> int:
        """The size."""
        return self.size_bytes

    @property
    def max_bytes(self) -> int:
        """The size."""
        return self.size_bytes

    def scan(self, _kernel: Kernel, _key: Secret) -> Scan:
        """A scan that does not look at the data."""
        check_bounds(self.size_bytes)

        def scan(data: Buffer, final: bool) -> list[int]:  # noqa: FBT001
            size = len(data)
            cuts = list(range(self.size_bytes, size + 1, self.size_bytes))
            if final and size % self.size_bytes:
                cuts.append(size)
            return cuts

        return scan


def _expand(key: Secret, purpose: bytes, size: int) -> Secret:
    return Secret(keyed(key.reveal(), purpose, size), size)


_SETS: tuple[ChunkerParams, ...] = (
    SeqCdcParams("seqcdc-1m-1", 512 * KIB, 1536 * KIB),
    SeqCdcParams("seqcdc-4m-1", 2 * MIB, 6 * MIB),
    GearParams("gear-1m-1", 256 * KIB, 844 * KIB, 4032 * KIB, 4 * MIB, 256 * KIB),
    GearParams("gear-4m-1", 1 * MIB, 3376 * KIB, 16 * MIB, 16 * MIB, 1 * MIB),
    FixedParams("fixed-1m-1", 1 * MIB),
)
PARAMS = {params.name: params for params in _SETS}

# The fastest sets whose dedup is at least 0.95 of FastCDC's: core/SPEC.md, Decisions.
DEFAULT_VAULT = "seqcdc-1m-1"
DEFAULT_ARCHIVE = "seqcdc-4m-1"


def params_untrusted(name: str) -> ChunkerParams:
    """The set a config or an archive names."""
    if len(name) > _NAME_CHARS_MAX or not name.isprintable():
        raise FormatError("not the name of a chunker")
    found = PARAMS.get(name)
    if found is None:
        raise NewerFormat(
            f"cut by the chunker {name!r}, unknown to this Portal",
            hint=f"it knows {', '.join(PARAMS)}",
        )
    return found


class Chunker:
    """A parameter set with its key. Threads may share one."""

    def __init__(self, params: ChunkerParams, key: Secret, *, kernel: Kernel | None = None) -> None:
        if len(key) != limits.KEY_BYTES:
            raise FormatError(f"the key of a chunker has {limits.KEY_BYTES} bytes")
        self.params = params
        self._scan = params.scan(kernel or native.kernel(), key)
        # What is read lies behind what was read before, so that a tail whose cut is not known yet
        # is copied only where a room ends; four times max, so that this is seldom.
        self._room_bytes = max(limits.READ_BUFFER_BYTES, 4 * params.max_bytes)
        self._buffers = Buffers(self._room_bytes)

    def cuts(self, data: Buffer, *, final: bool) -> list[int]:
        """The ends of the chunks in `data`, which must begin where a chunk begins.

        Unless `final`, a tail whose cut depends on bytes to come is left out: put it in front of
        the next buffer. A buffer longer than max always gives at least one chunk.
        """
        return self._scan(data, final)

    def split(
        self, read_into: Callable[[memoryview], int], size: int | None = None
    ) -> Iterator[memoryview]:
        """The chunks of a stream; `read_into(view)` says how much it has put in, 0 at the end.

        Of a stream that is `size` long no more is read. Each chunk may be kept or handed to a
        thread: what is looked at is not written to again.
        """
        room = memoryview(b"")
        start = end = 0  # of what is read and not cut yet, in the room
        missing = self._room_bytes if size is None else size
        final = False
        while not final:
            wanted = min(limits.THREAD_HOP_BYTES, missing)
            if end + wanted > len(room):
                tail = room[start:end]
                room = self._buffers.take(min(self._room_bytes, len(tail) + missing))
                room[: len(tail)] = tail
                start, end = 0, len(tail)
            count = _fill(room[end : end + wanted], read_into)
            end += count
            if size is not None:
                missing -= count
            final = count < wanted or missing == 0
            batch = room[start:end].toreadonly()
            at = 0
            for cut in self.cuts(batch, final=final):
                yield batch[at:cut]
                at = cut
            start += at


def _fill(view: memoryview, read_into: Callable[[memoryview], int]) -> int:
    """Read until it is full or nothing more comes; how much that was."""
    count = 0
    while count < len(view) and (more := read_into(view[count:])):
        count += more
    return count
