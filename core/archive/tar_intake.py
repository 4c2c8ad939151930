"""Which members of a tar stream an archive takes, and what it says about the others.

An archive holds each name once, and a hard link leads to a file before it. What a tar stream may
hold beyond that is refused or reported, never silently resolved: which of two files of one name is
wanted, nobody here can know.
"""

from collections.abc import Callable, Iterator

from core.archive.table import Stored
from core.archive.tar import Member, TarReader
from core.buffers import filled_by
from core.errors import FormatError
from core.tree.entry import Entry, EntryType, Incomplete, Report, Skipped
from core.tree.paths import shown

Exclude = Callable[[bytes, bool], bool]


class TarIntake:
    """A tar stream as what goes into an archive. It remembers every name: some 150 bytes each."""

    def __init__(self, read: Callable[[int], bytes], exclude: Exclude, report: Report) -> None:
        self._tar = TarReader(read)
        self._exclude = exclude
        self._report = report
        self._kinds: dict[bytes, EntryType] = {}
        self._first_names: dict[bytes, bytes] = {}  # by hard link

    def members_untrusted(self) -> Iterator[Member]:
        """Every member the archive takes; its content is to be read before the next."""
        for member in self._tar.members_untrusted():
            self._tell_skipped()
            path, is_directory = member.entry.path, member.entry.is_directory
            if not path or self._exclude(path, is_directory) or self._is_repeated(member):
                continue
            kept = member if member.link is None else self._linked(member, member.link)
            if kept is None:
                continue
            if member.kept_out:
                self._report(path, Incomplete(member.kept_out))
            self._kinds[path] = member.entry.type
            yield kept
        self._tell_skipped()

    def content(self, member: Member) -> "TarContent":
        """The content of a member."""
        return TarContent(member.entry, self._tar.content_untrusted)

    def _tell_skipped(self) -> None:
        for name, what in self._tar.skipped:
            self._report(name, Skipped(what))
        self._tar.skipped.clear()

    def _is_repeated(self, member: Member) -> bool:
        """Whether this directory was there; a file that comes twice ends the run."""
        path = member.entry.path
        known = self._kinds.get(path)
        if known is EntryType.DIRECTORY and member.entry.is_directory:
            return True
        if known is not None:
            hint = "tar -r appends new versions, and names on its command line may overlap"
            raise FormatError("comes twice in the tar stream", where=shown(path), hint=hint)
        return False

    def _linked(self, member: Member, link: bytes) -> Member | None:
        first = self._first_names.get(link, link)
        kind = self._kinds.get(first)
        if kind is None or kind is EntryType.DIRECTORY:
            what = f"a hard link to {shown(link)}, which is not in the archive"
            self._report(member.entry.path, Incomplete(what))
            return None
        self._first_names[member.entry.path] = first
        return member._replace(link=first)


class TarContent:
    """The content of one member, read from its beginning to its end."""

    def __init__(self, entry: Entry, read: Callable[[int], bytes]) -> None:
        self.entry = entry
        self._read = read

    def read_at(self, _offset: int, size: int) -> bytes:
        """The next bytes: they come in the order of their offsets."""
        return self._read(size)

    def read_into(self, _offset: int, view: memoryview) -> int:
        """The next bytes."""
        return filled_by(self._read)(view)


def bare(member: Member) -> Stored | None:
    """What goes into the table, where there is no content to read."""
    if member.link is not None:
        return Stored(member.entry, (), member.link)
    return Stored(member.entry) if member.entry.type is not EntryType.FILE else None
