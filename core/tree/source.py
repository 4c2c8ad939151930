"""What is to be read: where it lies on the disk, and what it is called in the archive."""

# ruff: noqa: PTH100, PTH118, PTH119 - paths are bytes; pathlib's are text

import os
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

from core.errors import UsageError
from core.tree.directories import Directories
from core.tree.entry import Report
from core.tree.paths import check_path_untrusted, order, shown

# A directory that may only be passed through is enough to hold a root, where O_PATH exists.
_HOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class Root(NamedTuple):
    """A place on the disk and its path in the archive.

    An empty name stands for the content of a directory without the directory itself.
    """

    disk: bytes
    name: bytes
    with_above: bool = False  # the directories above it on the disk are given too

    @classmethod
    def of(cls, path: bytes | str, name: bytes | None = None) -> Self:
        """What a person names on a command line, called by its last name unless told otherwise.

        A link stands for itself, as in tar; with a slash at its end for the directory it leads to.
        """
        given = os.fsencode(path)
        disk = _resolved(given)
        if name is None:
            name = os.path.basename(os.path.abspath(given))
        return cls(disk, name)

    @classmethod
    def absolute(cls, path: bytes | str) -> Self:
        """The same, called by its whole path; the directories above are given for their modes."""
        given = os.fsencode(path)
        return cls(_resolved(given), os.path.abspath(given).lstrip(b"/"), with_above=True)


def _resolved(path: bytes) -> bytes:
    """An absolute path whose links are resolved, but for its last name."""
    above, name = os.path.split(path)
    if name in {b"", b".", b".."}:
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(above), name)


class Source:
    """The trees to read, by their paths in the archive. One thread at a time; make more of them."""

    def __init__(self, roots: Iterable[Root], report: Report) -> None:
        self.report = report
        self.roots = _without_overlap(roots)
        self.above = _above(self.roots)
        self._disks = self.above | {name: root.disk for name, root in self.roots.items()}
        self._directories = Directories(self._anchor)
        self.place = self._directories.place
        self.open = self._directories.open
        self.held = self._directories.get  # a directory that is open already, if it is

    def tops(self) -> list[bytes]:
        """The roots and what is given with them, in the order of a walk."""
        return sorted(self._disks, key=order)

    def close(self) -> None:
        """Close what is open; it opens again when asked."""
        self._directories.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self.close()

    def _anchor(self, path: bytes) -> tuple[int, bytes] | None:
        disk = self._disks.get(path)
        if disk is None:
            return None
        above, name = os.path.split(disk)
        key = b"/" + above  # no path in an archive begins with a slash
        holder = self._directories.get(key)
        if holder is None:
            holder = os.open(above, _HOLDER_FLAGS)
            self._directories.keep(key, holder)
        return holder, name or b"."


def _without_overlap(roots: Iterable[Root]) -> dict[bytes, Root]:
    """Roots by name; what lies in another one anyway is left out, what would collide refused."""
    kept: dict[bytes, Root] = {}
    for root in sorted(roots, key=lambda root: order(root.name)):
        if root.name:
            check_path_untrusted(root.name)
        outer = _outer(kept, root.name)
        if outer is None:
            kept[root.name] = root
            continue
        rest = root.name[len(outer.name) :].lstrip(b"/")
        if root.disk != (os.path.join(outer.disk, rest) if rest else outer.disk):
            raise UsageError(
                f"{shown(outer.disk)} and {shown(root.disk)} would both hold {shown(root.name)}",
                hint="put them into archives of their own",
            )
    return kept


def _outer(kept: dict[bytes, Root], name: bytes) -> Root | None:
    while name and name not in kept:
        name = name.rpartition(b"/")[0]
    return kept.get(name)


def _above(roots: dict[bytes, Root]) -> dict[bytes, bytes]:
    """The directories above the roots that want them, and where they really are."""
    above: dict[bytes, bytes] = {}
    for root in roots.values():
        name = root.name.rpartition(b"/")[0] if root.with_above else b""
        while name and name not in above:
            above[name] = os.path.realpath(b"/" + name)
            name = name.rpartition(b"/")[0]
    return above
