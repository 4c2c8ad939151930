"""Patterns that say which paths to take out of an archive or a snapshot."""

from collections.abc import Callable
from fnmatch import fnmatchcase

Select = Callable[[bytes], bool]


def everything(_path: bytes) -> bool:
    """Take all."""
    return True


def matching(patterns: tuple[bytes, ...]) -> Select:
    """Paths that are named, lie below what is named, or match a pattern with *, ? or []."""
    texts = [pattern.strip(b"/").decode("utf-8", "surrogateescape") for pattern in patterns]

    def select(path: bytes) -> bool:
        name = path.decode("utf-8", "surrogateescape")
        return any(
            name == text
            or name.startswith(text + "/")
            or fnmatchcase(name, text)
            or fnmatchcase(name, text + "/*")
            for text in texts
        )

    return select if texts else everything
