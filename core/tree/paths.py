"""Paths inside a tree: bytes, relative, joined by '/', without '.', '..' or empty names.

Any other byte may stand in a name, newlines and broken UTF-8 too; `shown` makes it safe to print.
"""

from core import limits
from core.errors import FormatError, LimitExceeded

_NOT_NAMES = frozenset((b"", b".", b".."))
_DOT_OR_SLASH, _SLASH = b"./", ord("/")


def check_path_untrusted(path: bytes) -> None:
    """Pass if this path can only lie inside the tree it is resolved in."""
    if _is_plainly_good(path):
        return
    if len(path) > limits.PATH_BYTES_MAX:
        raise LimitExceeded(f"a path of {len(path)} bytes", where=shown(path[:80]) + "...")
    if path.startswith(b"/"):
        raise FormatError("an absolute path", where=shown(path))
    names = path.split(b"/")
    if len(names) > limits.PATH_DEPTH_MAX:
        raise LimitExceeded(f"a path of {len(names)} names", where=shown(path[:80]) + "...")
    for name in names:
        check_name_untrusted(name, path)


def _is_plainly_good(path: bytes) -> bool:
    """Whether a few searches show that nothing is wrong: quicker than a look at every name.

    Names that begin with a dot are looked at one by one.
    """
    if not 0 < len(path) <= limits.NAME_BYTES_MAX or path.count(b"/") >= limits.PATH_DEPTH_MAX:
        return False
    odd_ends = path[0] in _DOT_OR_SLASH or path[-1] == _SLASH
    return not (odd_ends or b"//" in path or b"/." in path or b"\0" in path)


def check_name_untrusted(name: bytes, path: bytes) -> None:
    """Pass if this can be the name of something in a directory; `path` is for the message."""
    if name in _NOT_NAMES:
        found = shown(name) if name else "an empty name"
        raise FormatError(f"a path with {found} in it", where=shown(path))
    if b"\0" in name or b"/" in name:
        raise FormatError("a name with a NUL or a slash in it", where=shown(path))
    if len(name) > limits.NAME_BYTES_MAX:
        raise LimitExceeded(f"a name of {len(name)} bytes", where=shown(path))


def order(path: bytes) -> bytes:
    """What paths are sorted by: names as bytes, a directory directly before what it holds."""
    return path.replace(b"/", b"\0")


def shown(path: bytes) -> str:
    """A path for people: one line, nothing that a terminal obeys, broken UTF-8 in hexadecimal."""
    text = path.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
