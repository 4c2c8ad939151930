"""The batches of file system calls in C, through ctypes. The structures mirror files.h."""

import ctypes
import errno
import os
from collections.abc import Callable, Sequence

from core.native.compiled import Borrowed
from core.native.rows import FOLDER, ROW, Listed
from core.native.rules import Buffer

_bytes_at: Callable[[int, int], bytes] = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t
)(("PyBytes_FromStringAndSize", ctypes.pythonapi))


class _Listing(ctypes.Structure):
    _fields_ = (
        ("dev", ctypes.c_int64),
        ("count", ctypes.c_uint64),
        ("names_size", ctypes.c_uint64),
        ("elsewhere", ctypes.c_uint64),
        ("names", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("devs", ctypes.c_void_p),
    )


class Files:
    """The calls of a loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer = ctypes.c_void_p
        self._list: Callable[..., int] = library.portal_list
        library.portal_list.argtypes = [ctypes.c_int, pointer]
        self._listing_free: Callable[..., None] = library.portal_listing_free
        library.portal_listing_free.argtypes = [pointer]
        library.portal_listing_free.restype = None
        size = ctypes.c_uint64
        self._read: Callable[..., int] = library.portal_read_files
        library.portal_read_files.argtypes = [
            *(pointer, size, pointer, size),  # folders, rows
            *(pointer, pointer, size, pointer),  # names, room, results
        ]
        self._write: Callable[..., int] = library.portal_write_files
        library.portal_write_files.argtypes = [pointer, size, *[pointer] * 2, size, pointer]

    def list_directory(self, fd: int) -> Listed:
        """The names of an open directory, and a row for each."""
        found = _Listing()
        reference = ctypes.byref(found)
        error = self._list(fd, reference)
        _check(error)
        try:
            devs: tuple[int, ...] = ()
            if found.elsewhere:
                devs = tuple((ctypes.c_int64 * found.count).from_address(found.devs))
            return Listed(
                found.dev,
                _bytes_at(found.names, found.names_size),
                _bytes_at(found.rows, found.count * ROW.size),
                devs,
            )
        finally:
            self._listing_free(reference)

    def read_files(
        self, folders: Buffer, rows: bytes, names: Sequence[bytes], room: memoryview
    ) -> bytearray:
        """What became of each file; `room` takes the contents of all, and needs a byte more."""
        results = bytearray(len(names))
        _check(errno.EINVAL if len(rows) != len(names) * ROW.size else 0)
        if names:
            with Borrowed(folders) as (requests, size):
                error = self._read(
                    *(requests, size // FOLDER.size, rows, len(names), _joined(names)),
                    *(_start(room), len(room), _start(results)),
                )
            _check(error)
        return results

    def write_files(self, given: Buffer, names: Sequence[bytes], data: bytes) -> bytearray:
        """What became of each file; `data` is the contents of all."""
        results = bytearray(len(names))
        if names:
            with Borrowed(given) as (requests, _):
                error = self._write(
                    *(requests, len(names), _joined(names)), *(data, len(data), _start(results))
                )
            _check(error)
        return results


def _joined(names: Sequence[bytes]) -> bytes:
    return b"\0".join((*names, b""))


def _start(room: bytearray | memoryview) -> object:
    """Where a buffer begins that is not empty; it cannot grow or shrink meanwhile."""
    return ctypes.byref(ctypes.c_char.from_buffer(room))


def _check(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))
