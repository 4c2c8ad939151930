"""A part of a snapshot as a tar or zip stream (portal/SPEC.md, Reading snapshots).

Written front to back, so that it may go into a pipe. tar (PAX) keeps everything: nanoseconds,
attributes, hard links, holes, names of any bytes. zip keeps what zip can: files, directories,
links, modes and times; what it cannot is reported.

A small file is read and checked before anything is said about it. A long one whose content turns
out to be damaged on the way is filled up with zeros and reported, since its length was said before.
"""

import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from io import RawIOBase
from typing import Any

from core import limits
from core.crypto import Buffer
from core.errors import IntegrityError, PortalError
from core.tree.entry import Entry, EntryType, Incomplete, Report
from core.tree.nodes import DEVICES
from core.tree.paths import shown
from portal.browse import EVERYTHING, Selection, lookup, walk_below
from portal.content import FileContent, open_file
from portal.head import Snapshot
from portal.manifest import Node
from portal.reader import Reader

Write = Callable[[Buffer], object]

_FORMATS = {
    EntryType.FILE: stat.S_IFREG,
    EntryType.DIRECTORY: stat.S_IFDIR,
    EntryType.SYMLINK: stat.S_IFLNK,
}
_TAR_TYPES = {
    EntryType.DIRECTORY: tarfile.DIRTYPE,
    EntryType.SYMLINK: tarfile.SYMTYPE,
    EntryType.FIFO: tarfile.FIFOTYPE,
    EntryType.CHARACTER: tarfile.CHRTYPE,
    EntryType.BLOCK: tarfile.BLKTYPE,
}
_NS = 1_000_000_000
_DOS_YEARS = (1980, 2107)
_EXTENDED_TIME = 0x5455  # the extra field of Info-ZIP
_HIGHEST_TIME_S = (1 << 31) - 1
_ZEROS = bytes(1 << 16)


def dump_tar(
    reader: Reader,
    snapshot: Snapshot,
    under: bytes,
    write: Write,
    report: Report,
    select: Selection = EVERYTHING,
) -> int:
    """What is below a path, or the file it names, as a tar stream; gives the number of entries."""
    count = 0
    with tarfile.open(
        fileobj=_Out(write), mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as tar:
        links: dict[bytes, str] = {}
        for node in _nodes(reader, snapshot, under, report, select):
            count += _each(node, report, lambda node: _add_to_tar(tar, reader, node, links, report))
    return count


def dump_zip(
    reader: Reader,
    snapshot: Snapshot,
    under: bytes,
    write: Write,
    report: Report,
    select: Selection = EVERYTHING,
) -> int:
    """The same as a zip stream."""
    count = 0
    with zipfile.ZipFile(_Out(write), "w", zipfile.ZIP_DEFLATED) as archive:
        for node in _nodes(reader, snapshot, under, report, select):
            count += _each(node, report, lambda node: _add_to_zip(archive, reader, node, report))
    return count


def _nodes(
    reader: Reader, snapshot: Snapshot, under: bytes, report: Report, select: Selection
) -> Iterator[Node]:
    """The nodes below a path, by their paths from there."""
    top = lookup(reader, snapshot, under)
    if top.entry.is_directory:
        top = top._replace(entry=top.entry._replace(path=b""))
        yield from walk_below(reader, top, select=select.below(under), report=report)
    else:
        yield top._replace(entry=top.entry._replace(path=under.rpartition(b"/")[2]))


def _each(node: Node, report: Report, add: Callable[[Node], bool]) -> int:
    try:
        return int(add(node))
    except PortalError as e:
        report(node.entry.path, e)
        return 0


class _Out(RawIOBase):
    """What tarfile and zipfile write to: bytes go on, nothing comes back."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """All of it."""
        self._write(data)
        return len(data)


class _In:
    """A stream of a known length, whatever happens to what it is made of."""

    def __init__(
        self, parts: Iterator[Buffer], size: int, failed: Callable[[Exception], None]
    ) -> None:
        self._parts = parts
        self._left = size
        self._failed = failed
        self._rest = memoryview(b"")

    def read(self, size: int) -> Buffer:
        """The next bytes, fewer than asked for only at the end."""
        wanted = min(size, self._left)
        found = list[Buffer]()
        while wanted:
            if not self._rest:
                self._rest = self._next()
            part, self._rest = self._rest[:wanted], self._rest[wanted:]
            found.append(part)
            wanted -= len(part)
            self._left -= len(part)
        return found[0] if len(found) == 1 else b"".join(found)

    def _next(self) -> memoryview:
        try:
            part = next(self._parts, None)
        except (PortalError, OSError) as e:
            self._failed(e)
            self._parts = iter(())
            part = None
        return memoryview(_ZEROS if part is None else part)


# --- tar ------------------------------------------------------------------------------------------


def _add_to_tar(
    tar: tarfile.TarFile, reader: Reader, node: Node, links: dict[bytes, str], report: Report
) -> bool:
    entry = node.entry
    info = _tar_info(entry, report)
    mark = node.link + node.content.data  # two files of one run may have had one inode
    first = links.get(mark) if node.link else None
    if first is not None:
        info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
        tar.addfile(info)
    elif entry.type is EntryType.FILE:
        _add_file_to_tar(tar, info, open_file(reader, node), _failing(entry, report))
    else:
        tar.addfile(info)
    if node.link:
        links.setdefault(mark, info.name)
    return True


def _tar_info(entry: Entry, report: Report) -> tarfile.TarInfo:
    info = tarfile.TarInfo(_text(entry.path))
    info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
    info.uname, info.gname = entry.user, entry.group
    info.type = _TAR_TYPES.get(entry.type, tarfile.REGTYPE)
    info.linkname = _text(entry.target)
    if entry.type in DEVICES:
        info.devmajor, info.devminor = entry.rdev
    headers = dict[str, str]()
    seconds, ns = divmod(entry.mtime_ns, _NS)
    info.mtime = seconds
    if ns:
        whole = f"{seconds}" if seconds >= 0 else f"-{-(seconds + 1)}"
        digits = ns if seconds >= 0 else _NS - ns
        headers["mtime"] = f"{whole}.{digits:09d}"
    for name, value in entry.xattrs:
        try:
            key = name.decode().replace("%", "%25").replace("=", "%3D")
        except UnicodeDecodeError:
            report(entry.path, Incomplete(f"attribute {shown(name)} does not fit into a tar"))
            continue
        headers[f"SCHILY.xattr.{key}"] = _text(value)
    info.pax_headers = headers
    return info


def _add_file_to_tar(
    tar: tarfile.TarFile,
    info: tarfile.TarInfo,
    content: FileContent,
    failed: Callable[[Exception], None],
) -> None:
    if content.size <= limits.SMALL_FILE_BYTES_MAX:
        data = content.read_at(0, content.size)  # raises before anything is written
        info.size = len(data)
        tar.addfile(info, _In(iter((data,)), len(data), failed))  # type: ignore[arg-type]  # it reads
        return
    stretches = list(content.data_extents())
    if sum(length for _, length in stretches) == content.size:
        info.size = content.size
        tar.addfile(info, _In(content.chunks(), content.size, failed))  # type: ignore[arg-type]
        return
    sparse_map = _sparse_map(stretches, content.size)
    info.pax_headers = {
        **info.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str(content.size),
    }
    above, slash, name = info.name.rpartition("/")
    info.name = f"{above}{slash}GNUSparseFile.0/{name}"
    info.size = len(sparse_map) + sum(length for _, length in stretches)
    tar.addfile(info, _In(_sparse_parts(sparse_map, stretches, content), info.size, failed))  # type: ignore[arg-type]


def _sparse_map(stretches: list[tuple[int, int]], size: int) -> bytes:
    """Where data lie, as GNU tar's sparse format 1.0 wants it: numbers, then padding."""
    if not stretches or sum(stretches[-1]) < size:
        stretches = [*stretches, (size, 0)]
    numbers = [len(stretches), *(number for stretch in stretches for number in stretch)]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + bytes(-len(text) % tarfile.BLOCKSIZE)


def _sparse_parts(
    sparse_map: bytes, stretches: list[tuple[int, int]], content: FileContent
) -> Iterator[Buffer]:
    yield sparse_map
    for start, length in stretches:
        yield from content.chunks(start, start + length)


# --- zip ------------------------------------------------------------------------------------------


def _add_to_zip(archive: zipfile.ZipFile, reader: Reader, node: Node, report: Report) -> bool:
    entry = node.entry
    if entry.type not in _FORMATS:
        raise Incomplete("is no file, directory or link: a zip has no place for it")
    info = _zip_info(entry, report)
    if entry.type is EntryType.FILE:
        content = open_file(reader, node)
        parts: Iterator[Buffer] = content.chunks()
        if content.size <= limits.SMALL_FILE_BYTES_MAX:
            parts = iter((content.read_at(0, content.size),))  # raises before anything is written
        stream = _In(parts, content.size, _failing(entry, report))
    else:
        stream = _In(iter((entry.target,)), len(entry.target), _failing(entry, report))
    info.file_size = entry.size or len(entry.target)
    with archive.open(info, "w") as out:
        while data := stream.read(limits.MIB):
            out.write(data)
    return True


def _zip_info(entry: Entry, report: Report) -> zipfile.ZipInfo:
    try:
        name = entry.path.decode()
    except UnicodeDecodeError:
        name = shown(entry.path)
        report(entry.path, Incomplete(f"is called {name} in the zip, which takes UTF-8 only"))
    seconds = min(max(entry.mtime_ns // _NS, 0), _HIGHEST_TIME_S)
    moment = time.gmtime(seconds)[:6]
    if not _DOS_YEARS[0] <= moment[0] <= _DOS_YEARS[1]:
        moment = (_DOS_YEARS[0], 1, 1, 0, 0, 0)
    is_directory = entry.type is EntryType.DIRECTORY
    info = zipfile.ZipInfo(name + "/" if is_directory else name, moment)
    info.create_system = 3  # Unix: the upper half of the attributes is the mode
    info.external_attr = (_FORMATS[entry.type] | entry.mode) << 16 | (0x10 if is_directory else 0)
    info.extra = struct.pack("<HHBl", _EXTENDED_TIME, 5, 1, seconds)
    info.compress_type = zipfile.ZIP_STORED if is_directory else zipfile.ZIP_DEFLATED
    return info


# --- both -----------------------------------------------------------------------------------------


def _failing(entry: Entry, report: Report) -> Callable[[Exception], None]:
    """What to do when the content of a long file turns out to be damaged."""

    def failed(error: Exception) -> None:
        what = f"the rest of it is zeros: {error}"
        report(entry.path, IntegrityError(what, where=shown(entry.path)))

    return failed


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
