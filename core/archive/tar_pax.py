"""What pax headers in a tar stream say about the member that follows them.

A record is its own length in decimal, a blank, a keyword, `=`, a value and a newline. Attributes
stand in SCHILY.xattr.NAME, with `=` and `%` in names as %3D and %25; sparse files in GNU.sparse.*,
in the three ways GNU tar has had since 2004.
"""

from functools import lru_cache

from core import limits
from core.errors import FormatError, LimitExceeded
from core.tree.content import Extent
from core.tree.entry import TIME_NS_MAX, TIME_NS_MIN, Xattrs

_XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."
_KNOWN = frozenset((b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"uname", b"gname"))
_ACLS = (b"SCHILY.acl.", b"LIBARCHIVE.xattr.", b"RHT.security.")
_SECOND_NS = 1_000_000_000
_DIGITS_MAX = 40


class Pax:
    """The records that count for the next member."""

    def __init__(self) -> None:
        self._for_all: dict[bytes, bytes] = {}
        self.forget()

    def forget(self) -> None:
        """The member they were about has come."""
        self._own: dict[bytes, bytes] = {}
        self._xattrs: dict[bytes, bytes] = {}
        self._parts: list[int] = []  # offset, length, offset... of the oldest of the three ways
        self.kept_out = ""

    def take_untrusted(self, data: bytes, *, for_all: bool) -> None:
        """Take in the records of one header."""
        at = 0
        while at < len(data):
            length, blank, _ = data[at : at + 12].partition(b" ")
            end = at + decimal_untrusted(length, "a pax record's length")
            record = data[at + len(length) + 1 : end]
            keyword, equals, value = record.partition(b"=")
            if not blank or end > len(data) or not equals or not value.endswith(b"\n"):
                raise FormatError("a pax header in the tar stream is damaged")
            self._record_untrusted(keyword, value[:-1], for_all=for_all)
            at = end

    def _record_untrusted(self, keyword: bytes, value: bytes, *, for_all: bool) -> None:
        if for_all:
            if keyword in _KNOWN:  # nothing else makes sense for every member, or grows
                self._for_all[keyword] = value
        elif keyword.startswith(_XATTR):
            name = keyword[len(_XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")
            self._xattrs[name] = value
        elif keyword in {_SPARSE + b"offset", _SPARSE + b"numbytes"}:
            if (len(self._parts) % 2 == 0) != keyword.endswith(b"offset"):
                raise FormatError("a sparse file's map in the tar stream is damaged")
            self._parts.append(decimal_untrusted(value, "a sparse file's map"))
            if len(self._parts) > 2 * limits.TREE_EXTENTS_MAX:
                raise LimitExceeded("a sparse file of very many parts")
        elif keyword in _KNOWN or keyword.startswith(_SPARSE):
            self._own[keyword] = value
        elif keyword.startswith(_ACLS):
            self.kept_out = f"{keyword[:80].decode('ascii', 'backslashreplace')} is not kept"

    # --- what they say --------------------------------------------------------------------------

    def value(self, keyword: bytes) -> bytes | None:
        """A value; an empty one takes back what was said for all."""
        return self._own.get(keyword, self._for_all.get(keyword)) or None

    @property
    def name(self) -> bytes | None:
        """The member's name; a sparse file's stands in a place of its own."""
        return self._own.get(_SPARSE + b"name") or self.value(b"path")

    def number_untrusted(self, keyword: bytes, otherwise: int) -> int:
        """A whole number."""
        value = self.value(keyword)
        return otherwise if value is None else decimal_untrusted(value, "a number")

    def mtime_ns_untrusted(self, otherwise_s: int) -> int:
        """Its time, to the nanosecond; what no entry can hold is moved to the end."""
        value, time_ns = self.value(b"mtime"), otherwise_s * _SECOND_NS
        if value is not None:
            whole, _, rest = value.partition(b".")
            sign = -1 if whole.startswith(b"-") else 1
            seconds = decimal_untrusted(whole.removeprefix(b"-") or b"0", "a time")
            decimal_untrusted(rest or b"0", "a time")
            time_ns = sign * (seconds * _SECOND_NS + int(rest[:9].ljust(9, b"0")))
        return min(max(time_ns, TIME_NS_MIN), TIME_NS_MAX)

    def owner(self, keyword: bytes, otherwise: bytes) -> str:
        """The name of a user or group; empty if it is none that can be kept."""
        return _printable(self.value(keyword) or otherwise)

    def xattrs_untrusted(self) -> Xattrs:
        """Its attributes, in the order of their names."""
        return tuple(sorted(self._xattrs.items()))

    # --- sparse files ---------------------------------------------------------------------------

    @property
    def is_sparse(self) -> bool:
        """Whether it has holes that the stream leaves out."""
        return bool(self._parts) or any(key.startswith(_SPARSE) for key in self._own)

    @property
    def is_map_in_content(self) -> bool:
        """Whether where its parts belong stands before its content."""
        return self._own.get(_SPARSE + b"major") == b"1"

    def real_size_untrusted(self) -> int:
        """How long it is with its holes."""
        size = self._own.get(_SPARSE + b"realsize", self._own.get(_SPARSE + b"size"))
        if size is None:
            raise FormatError("a sparse file of unknown size in the tar stream")
        return decimal_untrusted(size, "a size")

    def map_untrusted(self) -> list[Extent]:
        """Where its parts belong, in the two ways that say it in the header."""
        numbers = self._parts
        if (text := self._own.get(_SPARSE + b"map")) is not None:
            count_max = 2 * limits.TREE_EXTENTS_MAX
            parts = text.split(b",", count_max) if text else []
            if len(parts) > count_max:
                raise LimitExceeded("a sparse file of very many parts")
            numbers = [decimal_untrusted(part, "a sparse file's map") for part in parts]
        if len(numbers) % 2:
            raise FormatError("a sparse file's map in the tar stream is damaged")
        return [Extent(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


@lru_cache(maxsize=limits.TREE_OWNERS_CACHED_MAX)
def _printable(name: bytes) -> str:
    if len(name) > limits.OWNER_NAME_BYTES_MAX:
        return ""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""


def decimal_untrusted(digits: bytes, name: str) -> int:
    """A number of decimal digits, not very many of them."""
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        raise FormatError(f"{name} in the tar stream that is no number")
    return int(digits)
