"""Copies of trees, and what two trees have not in common. (strange_trees.py builds some.)

`look` and `differences` know nothing of core.tree: they judge it. Paths are bytes.
"""

# ruff: noqa: PTH208 - it lists by descriptor, and descriptors

import gc
import hashlib
import os
import shutil
import stat
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from core.errors import PortalError
from core.tree.content import open_file, read_small, read_xattrs
from core.tree.entry import Entry, EntryType, Report
from core.tree.restore import Options, Target
from core.tree.source import Root, Source
from core.tree.stretch import Stretch
from core.tree.walk import Exclude, LinkGroups, nothing, walk

IS_ROOT = os.geteuid() == 0
_BLOCK = 4096
_SLACK_BYTES = 1 << 20  # allocation may differ so much before a sparse file counts as filled


# --- looking ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """Everything that must be the same in a copy, and how much room it takes."""

    type: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    content: str = ""
    target: bytes = b""
    rdev: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    names: frozenset[bytes] = frozenset()  # all hard links of it
    allocated: int = field(default=0, compare=False)


def look(root: Path | bytes | str, *, xattrs: bool = True) -> dict[bytes, Facts]:
    """The facts of everything below a directory, and of itself under the empty path."""
    found: dict[bytes, Facts] = {}
    links: dict[tuple[int, int], set[bytes]] = defaultdict(set)
    groups: dict[bytes, tuple[int, int]] = {}

    def visit(holder: int | None, name: bytes, path: bytes) -> None:
        facts = os.stat(name, dir_fd=holder, follow_symlinks=False)
        found[path] = _facts(holder, name, facts, xattrs=xattrs)
        if stat.S_ISDIR(facts.st_mode):
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=holder)
            try:
                for child in map(os.fsencode, os.listdir(fd)):
                    visit(fd, child, path + b"/" + child if path else child)
            finally:
                os.close(fd)
        elif facts.st_nlink > 1:
            groups[path] = (facts.st_dev, facts.st_ino)
            links[groups[path]].add(path)

    visit(None, os.fsencode(root), b"")
    for path, group in groups.items():
        known = {f.name: getattr(found[path], f.name) for f in fields(Facts)}
        found[path] = Facts(**known | {"names": frozenset(links[group])})
    return found


def differences(
    one: Path | bytes | str, other: Path | bytes | str, *, xattrs: bool = True, top: bool = True
) -> list[str]:
    """What differs between two trees, one line each; nothing if the second is an exact copy."""
    a, b = look(one, xattrs=xattrs), look(other, xattrs=xattrs)
    lines = [f"missing: {path!r}" for path in sorted(a.keys() - b.keys())]
    lines += [f"too much: {path!r}" for path in sorted(b.keys() - a.keys())]
    for path in sorted(a.keys() & b.keys()):
        if path or top:
            lines += _differences(path, a[path], b[path])
    return lines


def _differences(path: bytes, a: Facts, b: Facts) -> Iterator[str]:
    for name in (f.name for f in fields(Facts) if f.compare):
        if getattr(a, name) != getattr(b, name):
            yield f"{path!r}: {name} {getattr(a, name)!r} became {getattr(b, name)!r}"
    if b.allocated > a.allocated + _SLACK_BYTES:
        yield f"{path!r}: takes {b.allocated} bytes on the disk instead of {a.allocated}"


def _facts(holder: int | None, name: bytes, found: os.stat_result, *, xattrs: bool) -> Facts:
    kind = stat.S_IFMT(found.st_mode)
    is_file, is_link = kind == stat.S_IFREG, kind == stat.S_IFLNK
    device = kind in {stat.S_IFCHR, stat.S_IFBLK}
    return Facts(
        type=kind,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        mtime_ns=found.st_mtime_ns,
        size=found.st_size if is_file else 0,
        content=_digest(holder, name, found.st_size) if is_file else "",
        target=os.readlink(name, dir_fd=holder) if is_link else b"",
        rdev=found.st_rdev if device else 0,
        xattrs=_xattrs(holder, name) if xattrs else (),
        allocated=found.st_blocks * 512 if is_file else 0,
    )


def _digest(holder: int | None, name: bytes, size: int) -> str:
    """A hash of everything in a file that is not zero, and of where it is."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=holder)
    digest = hashlib.sha256(size.to_bytes(8))
    zeros = bytes(_BLOCK)
    try:
        at = 0
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA) // _BLOCK * _BLOCK
            except OSError:
                break  # only a hole is left
            for offset in range(at, min(at + (1 << 20), size), _BLOCK):
                block = os.pread(fd, _BLOCK, offset)
                if block != zeros[: len(block)]:
                    digest.update(offset.to_bytes(8) + block)
            at += 1 << 20
    finally:
        os.close(fd)
    return digest.hexdigest()


def _xattrs(holder: int | None, name: bytes) -> tuple[tuple[str, bytes], ...]:
    path = name if holder is None else b"/proc/self/fd/%d/%b" % (holder, name)
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
    except OSError:
        return ()
    return tuple((n, os.getxattr(path, n, follow_symlinks=False)) for n in names)


def rsync_differences(one: Path, other: Path) -> str | None:
    """What rsync would do to make the second tree the first; None where rsync is missing."""
    if not shutil.which("rsync"):
        return None
    flags = ["-aHAXn", "--checksum", "--delete", "--itemize-changes", "--modify-window=-1"]
    command = ["rsync", *flags, "--numeric-ids", f"{one}/", f"{other}/"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def open_descriptors() -> set[str]:
    """The numbers of this process's descriptors, with that of the listing itself.

    What earlier tests have left in cycles is gone first.
    """
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


# --- copying ---------------------------------------------------------------------------------


@dataclass
class Reports:
    """Collects what is reported; calling it is reporting."""

    all: list[tuple[bytes, PortalError | OSError]] = field(default_factory=list)

    def __call__(self, path: bytes, error: PortalError | OSError) -> None:
        self.all.append((path, error))

    @property
    def lines(self) -> list[str]:
        """For people, and for comparing with what is expected."""
        return [f"{path.decode(errors='replace')}: {error}" for path, error in self.all]


def entries_of(found: Iterable[Stretch | Entry]) -> Iterator[Entry]:
    """What a walk gives, one by one."""
    for part in found:
        if isinstance(part, Stretch):
            yield from part.entries()
        else:
            yield part


def copy(
    roots: list[Root],
    to: Path | bytes | str,
    *,
    options: Options | None = None,
    report: Report | None = None,
    exclude: Exclude = nothing,
) -> Reports:
    """Walk, read and restore in one simple loop, reporting what goes wrong with single entries."""
    reports = Reports()
    report = report or reports
    links = LinkGroups()
    with Source(roots, report) as source, Target(to, options or Options(), report) as target:
        for entry in entries_of(walk(source, exclude=exclude)):
            try:
                put(source, target, links, entry)
            except (PortalError, OSError) as e:
                report(entry.path, e)
        target.finish()
    return reports


def put(source: Source, target: Target, links: LinkGroups, entry: Entry) -> None:
    """Copy one entry."""
    first = links.first_of(entry)
    if first is not None:
        target.link(entry, first)
    elif entry.type is not EntryType.FILE:
        entry = entry._replace(xattrs=read_xattrs(source, entry))
        make = {
            EntryType.DIRECTORY: target.directory,
            EntryType.SYMLINK: target.symlink,
        }.get(entry.type, target.special)
        make(entry)
    elif entry.size < 1 << 20:
        small = read_small(source, entry)
        target.small_file(small.entry, small.data)
    else:
        with open_file(source, entry) as file:
            writer = target.file(file.entry)
            if writer is None:
                return
            with writer:
                for offset, length in file.extents():
                    for at in range(offset, offset + length, 1 << 20):
                        size = min(1 << 20, offset + length - at)
                        writer.write_at(at, file.read_at(at, size))
