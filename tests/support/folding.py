"""A file system that takes several spellings for one name, as most outside of Linux do."""

import os
from collections.abc import Callable

import pytest


def fold_names(patch: pytest.MonkeyPatch) -> None:
    """Let calls that take a directory and a name find what is there in any case.

    Names keep the case they were made with, and that is what a listing shows.
    """
    for name in ("open", "mkdir", "stat", "unlink", "mkfifo", "mknod", "readlink"):
        patch.setattr(os, name, _folded(getattr(os, name), (0, "dir_fd")))
    patch.setattr(os, "symlink", _folded(os.symlink, (1, "dir_fd")))
    for name in ("link", "rename"):
        both = ((0, "src_dir_fd"), (1, "dst_dir_fd"))
        patch.setattr(os, name, _folded(getattr(os, name), *both))


def _folded(real: Callable[..., object], *places: tuple[int, str]) -> Callable[..., object]:
    def call(*args: object, **how: object) -> object:
        given = list(args)
        for position, key in places:
            name, holder = given[position], how.get(key)
            if isinstance(name, bytes) and isinstance(holder, int):
                given[position] = _stored(name, holder)
        return real(*given, **how)

    return call


def _stored(name: bytes, holder: int) -> bytes:
    for existing in map(os.fsencode, os.listdir(holder)):
        if existing.lower() == name.lower():
            return existing
    return name
