"""Whether a row of the snapshot before still holds (portal/SPEC.md, What did not change).

By length, times and inode: ctime moves with every write and cannot be set back. What was touched
moments before a run may be touched again without its times showing it; such rows are written
without inode and ctime, and never hold.
"""

from collections.abc import Callable
from dataclasses import dataclass

from core import limits
from core.errors import FormatError
from core.native.rows import Row as Found
from core.pieces import Kind
from core.tree.entry import Entry, EntryType, Xattrs
from portal.manifest import HOLE, Content, Form, Row, extents_untrusted

Held = Callable[[Kind, bytes], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The rule of one run."""

    now_ns: int
    force: bool = False  # nothing holds: read everything again
    ignore_ctime: bool = False
    ignore_inode: bool = False
    held: Held | None = None  # asked for every piece, where the vault has lost some

    @property
    def recent_from_ns(self) -> int:
        """What has a time from here on may change without a trace after we looked at it."""
        return self.now_ns - limits.RECENT_NS

    def is_recent(self, found: Found | Entry) -> bool:
        """Whether it has such a time."""
        return max(found.ctime_ns, found.mtime_ns) >= self.recent_from_ns

    def row_holds(self, row: Row, kind: EntryType, found: Found) -> bool:
        """Whether everything the row says is as it was; content and attributes too."""
        return (
            row[8] == found.ctime_ns
            and row[9] == found.ino
            and row[7] == found.mtime_ns
            and row[10] == found.size
            and row[1] == kind
            and not self.force
            and found.ino != 0
            and (self.held is None or self._is_held(row))
        )

    def content_holds(self, row: Row, kind: EntryType, found: Found) -> bool:
        """Whether its content does, by what the person says is enough."""
        return (
            (self.ignore_ctime or row[8] == found.ctime_ns)
            and (self.ignore_inode or row[9] == found.ino)
            and row[7] == found.mtime_ns
            and row[10] == found.size
            and row[1] == kind == EntryType.FILE
            and not self.force
            and row[8] != 0
            and (self.held is None or self._is_held(row))
        )

    def _is_held(self, row: Row) -> bool:
        """Whether the vault has the pieces of a file; lists of cuts are not looked into."""
        assert self.held is not None
        form, data = row[11], row[12]
        assert isinstance(data, bytes)
        if form == Form.SMALL:
            return self.held(Kind.SMALL_FILE, data)
        if form == Form.CUTS:
            try:
                tags = [extent.tag for extent in extents_untrusted(data)]
            except FormatError:
                return False
            return all(tag == HOLE or self.held(Kind.CUT, tag) for tag in tags)
        return form == Form.NOTHING


def content_of(row: Row) -> Content:
    """The content a row names."""
    return Content(Form(row[11]), row[12])  # type: ignore[arg-type]  # a row that was compared


def xattrs_of(row: Row) -> Xattrs:
    """The attributes a row has."""
    extra = row[13]
    return extra[2] if extra else ()  # type: ignore[index]  # a row that was compared
