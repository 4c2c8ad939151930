"""What a backup does to the disk, and doing something to the disk while it is at it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from core.errors import PortalError
from core.native import Kernel, open_kernel
from core.tree import read_batch
from core.tree.listing import Listing, list_directory
from core.tree.paths import shown
from portal.head import Snapshot
from portal.manifest import Node
from portal.vault import Vault
from tests.support.vaults import LATER_NS, contents_in, nodes_in, try_back_up

T = TypeVar("T")

_watched: list[list[str]] = []
_installed: list[bool] = []


def _hook(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and _watched:
        path, _, flags = args
        if isinstance(flags, int) and not flags & os.O_DIRECTORY and isinstance(path, str | bytes):
            _watched[-1].append(shown(os.fsencode(path)))


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """The names of all files that are opened meanwhile, without directories."""
    if not _installed:
        sys.addaudithook(_hook)  # stays as long as the process
        _installed.append(True)
    names: list[str] = []
    _watched.append(names)
    # What the compiled kernel opens, no hook sees; its twin in Python opens the same.
    with patch.object(read_batch, "kernel", _python_kernel):
        try:
            yield names
        finally:
            _watched.remove(names)


@cache
def _python_kernel() -> Kernel:
    return open_kernel("python")


class Listings:
    """Stands in for `list_directory`: lists, then does what was asked for this directory."""

    def __init__(self) -> None:
        self._after: dict[Path, list[Callable[[], object]]] = {}
        self._change: dict[Path, Callable[[Listing], Listing]] = {}

    def after(self, folder: Path, act: Callable[[], object]) -> None:
        """Do this once, as soon as the directory has been listed."""
        self._after.setdefault(folder.resolve(), []).append(act)

    def change(self, folder: Path, change: Callable[[Listing], Listing]) -> None:
        """Let this directory look otherwise."""
        self._change[folder.resolve()] = change

    def __call__(self, fd: int) -> Listing:
        """What a scan calls."""
        path = Path(f"/proc/self/fd/{fd}").resolve()
        listing = list_directory(fd)
        change = self._change.get(path)
        if change is not None:
            listing = change(listing)
        for act in self._after.pop(path, []):
            act()
        return listing


class Run:
    """Backups of the same sources, a second apart, long after their files were written."""

    def __init__(self, vault: Vault, *paths: Path, first_s: int = 1) -> None:
        self.vault = vault
        self.paths = paths
        self.opened: list[str] = []
        self.faults: list[tuple[bytes, PortalError | OSError]] = []
        self._base = bytes(paths[0]).lstrip(b"/")
        self._seconds = count(first_s)

    def __call__(self, **options: Any) -> Snapshot:
        """Once more; `opened`, `faults`, `made` and `progress` tell of it."""
        now_ns = options.pop("now_ns", LATER_NS + next(self._seconds) * 10**9)
        with files_opened() as self.opened:
            self.made, self.faults = try_back_up(self.vault, *self.paths, now_ns=now_ns, **options)
        self.progress = self.made.progress
        assert self.made.snapshot is not None
        return self.made.snapshot

    def contents(self, snapshot: Snapshot | None = None) -> dict[str, bytes]:
        """The files of the last snapshot, or of this one, by their paths in the first source."""
        return self._below(contents_in(self.vault, snapshot or self._snapshot()))

    def nodes(self, snapshot: Snapshot | None = None) -> dict[str, Node]:
        """The same for everything."""
        return self._below(nodes_in(self.vault, snapshot or self._snapshot()))

    def _snapshot(self) -> Snapshot:
        assert self.made.snapshot is not None
        return self.made.snapshot

    def _below(self, found: dict[bytes, T]) -> dict[str, T]:
        return {
            path[len(self._base) :].lstrip(b"/").decode(errors="backslashreplace"): value
            for path, value in found.items()
            if path.startswith(self._base + b"/")
        }


def grown(folder: Path) -> dict[str, bytes]:
    """Put some files into some directories; what each of them holds."""
    files = {p: p.encode() for p in ("a", "b/c", "b/d/e", "b/d/f", "g/h", "i/j/k/l")}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "empty" / "emptier").mkdir(parents=True)
    return files
