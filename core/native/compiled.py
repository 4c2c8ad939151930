"""The kernel in C, through ctypes: it has no Python API, so calls run without the GIL.

`load` finds the library that was built beside this file, or says why there is none. The structures
mirror kernel.h.
"""

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

from core.errors import PortalError, Unavailable
from core.native.rules import Buffer, GearRule, Scan, SeqCdcRule

VERSION: Final = 3
PATHS: Final = {"avx2": 1, "neon": 2, "scalar": 0}  # fastest first; the numbers are kernel.h's
_REFUSED: Final = ctypes.c_size_t(-1).value
_PYBUF_SIMPLE: Final = 0


class _PyBuffer(ctypes.Structure):
    """Python's view of any object's memory; part of its stable interface since 3.11."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


class _Gear(ctypes.Structure):
    _fields_ = (
        ("min", ctypes.c_uint64),
        ("normal", ctypes.c_uint64),
        ("max", ctypes.c_uint64),
        ("strict_limit", ctypes.c_uint64),
        ("loose_limit", ctypes.c_uint64),
        ("table", ctypes.c_uint64 * 256),
    )


class _SeqCdc(ctypes.Structure):
    _fields_ = (
        ("min", ctypes.c_uint64),
        ("max", ctypes.c_uint64),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
        ("start", ctypes.c_uint64),
        ("multiplier", ctypes.c_uint64 * 4),
    )


class Borrowed:
    """The address of a buffer, read-only ones too, held still for the length of a `with`."""

    __slots__ = ("_data", "_view")

    def __init__(self, data: Buffer) -> None:
        self._data = data
        self._view = _PyBuffer()

    def __enter__(self) -> tuple[int | None, int]:
        ctypes.pythonapi.PyObject_GetBuffer(
            ctypes.py_object(self._data), ctypes.byref(self._view), _PYBUF_SIMPLE
        )
        return self._view.buf, self._view.len

    def __exit__(self, *_exc: object) -> None:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(self._view))


class Library:
    """The loaded library with one path chosen."""

    def __init__(self, library: ctypes.CDLL, path: int) -> None:
        self._library = library
        self._path = path

    def gear(self, rule: GearRule) -> Scan:
        """A scan by a rolling hash."""
        numbers = (rule.min_bytes, rule.normal_bytes, rule.max_bytes)
        c_rule = _Gear(
            *numbers, rule.strict_limit, rule.loose_limit, (ctypes.c_uint64 * 256)(*rule.table())
        )
        call = self._library.portal_gear_cuts

        def scan(data: Buffer, final: bool) -> list[int]:  # noqa: FBT001
            with Borrowed(data) as (address, size):
                room = size // rule.min_bytes + 1
                cuts = (ctypes.c_uint64 * room)()
                count = call(address, size, final, ctypes.byref(c_rule), cuts, room)
            return _taken(cuts, count)

        return scan

    def seqcdc(self, rule: SeqCdcRule) -> Scan:
        """A scan by runs of rising values."""
        first, second, start, multipliers = rule.numbers()
        c_rule = _SeqCdc(
            rule.min_bytes,
            rule.max_bytes,
            first,
            second,
            start,
            (ctypes.c_uint64 * 4)(*multipliers),
        )
        call, path = self._library.portal_seqcdc_cuts, self._path

        def scan(data: Buffer, final: bool) -> list[int]:  # noqa: FBT001
            with Borrowed(data) as (address, size):
                room = size // rule.min_bytes + 1
                cuts = (ctypes.c_uint64 * room)()
                count = call(address, size, final, ctypes.byref(c_rule), path, cuts, room)
            return _taken(cuts, count)

        return scan

    def entropy_mbits(self, data: Buffer) -> int:
        """Shannon entropy of a sample of the byte values, in thousandths of a bit per byte."""
        with Borrowed(data) as (address, size):
            found: int = self._library.portal_entropy_mbits(address, size)
        return found


def _taken(cuts: "ctypes.Array[ctypes.c_uint64]", count: int) -> list[int]:
    if count == _REFUSED:  # cannot happen: rules are checked before, and room is enough
        raise PortalError("the compiled kernel refuses a chunker's sizes")
    return cuts[:count]


def find(folder: Path) -> Path | None:
    """The library in `folder` that fits this interpreter's platform."""
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"_kernel{suffix}"
        if path.exists():
            return path
    return None


def load(folder: Path) -> ctypes.CDLL:
    """The library, with its functions described; Unavailable says why there is none."""
    path = find(folder)
    if path is None:
        raise Unavailable("it was not built")
    try:
        library = ctypes.CDLL(str(path))
        version = library.portal_kernel_version()
    except (OSError, AttributeError) as e:
        raise Unavailable("it cannot be loaded") from e
    if version != VERSION:
        raise Unavailable(f"it has version {version} where {VERSION} is needed")
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.portal_path_works.argtypes = [ctypes.c_int]
    library.portal_gear_cuts.argtypes = [pointer, size, ctypes.c_int, pointer, pointer, size]
    library.portal_gear_cuts.restype = size
    library.portal_seqcdc_cuts.argtypes = [
        *(pointer, size, ctypes.c_int),
        *(pointer, ctypes.c_int, pointer, size),
    ]
    library.portal_seqcdc_cuts.restype = size
    library.portal_entropy_mbits.argtypes = [pointer, size]
    library.portal_entropy_mbits.restype = ctypes.c_uint32
    return library


def paths(library: ctypes.CDLL) -> list[str]:
    """The paths this processor can take, fastest first."""
    return [name for name, number in PATHS.items() if library.portal_path_works(number)]
