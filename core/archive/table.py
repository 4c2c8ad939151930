"""The table of files, in columns (core/SPEC.md, Archive table).

A segment holds up to 65,536 entries as MessagePack of whole columns: a million names are split in a
few calls instead of a million. The columns of numbers are big-endian; what few entries have (link
targets, attributes, device numbers) stands in a list of its own.

    [1, count, paths, types, modes, owners, owner_of, mtimes, sizes, extent_counts,
     chunks, offsets, lengths, extras]

    paths          from the archive's root, joined by NUL
    types modes    u8, u16                    owners    [[uid, gid, user, group]...]
    mtimes         i64, ns                    owner_of  u16 into owners
    sizes          u64                        extent_counts  u32
    chunks offsets lengths         u32 per extent; chunk 2^32-1 is a hole
    extras         [[entry, kind, value]...]   1 symlink target, 2 hard link to this path,
                                               3 [major, minor], 4 [[name, value]...] attributes
"""

import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import NamedTuple, Self

from core import codec, limits
from core.errors import FormatError, LimitExceeded, NewerFormat
from core.native.rows import GIDS, MODES, MTIMES, SIZES, UIDS, column
from core.tree.entry import (
    MODE_MAX,
    Entry,
    EntryType,
    check_entry_untrusted,
    group_name,
    types_of,
    user_name,
)
from core.tree.paths import check_path_untrusted

HARD_LINK = 4  # in the column of types, beside the numbers of EntryType
HOLE = 0xFFFF_FFFF
HOLE_BYTES_MAX = 0xFFFF_FFFF
_VERSION = 1
_FIELDS = 14
_ENTRY_BYTES, _EXTENT_BYTES = 32, 12  # what one takes in the columns, about
_Owner = tuple[int, int, str, str]


@unique
class _Extra(IntEnum):
    SYMLINK = 1
    HARD_LINK = 2
    DEVICE = 3
    XATTRS = 4


Numbers = tuple[int, int, int]  # of an extent, where there are very many of them


class Extent(NamedTuple):
    """A run of a file's bytes: where they lie, or that they are zeros."""

    chunk: int
    offset: int
    length: int

    @property
    def is_hole(self) -> bool:
        """Whether it is zeros that lie nowhere."""
        return self.chunk == HOLE


class Stored(NamedTuple):
    """One entry and where its content lies."""

    entry: Entry
    extents: tuple[Extent, ...] = ()
    link: bytes | None = None  # a hard link: the path under which this file came first


def _column(code: str, data: bytes, count: int, name: str) -> "array[int]":
    """Numbers out of a column, every one of them there."""
    numbers = array(code)
    if len(data) != count * numbers.itemsize:
        raise FormatError(f"the archive's table has a column {name} of the wrong length")
    numbers.frombytes(data)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _bytes(numbers: "array[int]") -> bytes:
    if sys.byteorder == "little":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


@dataclass(slots=True)
class Segment:
    """Consecutive entries, column by column."""

    paths: list[bytes] = field(default_factory=list)
    types: bytearray = field(default_factory=bytearray)
    modes: "array[int]" = field(default_factory=lambda: array("H"))
    owners: list[_Owner] = field(default_factory=list)
    owner_of: "array[int]" = field(default_factory=lambda: array("H"))
    mtimes: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    extent_counts: "array[int]" = field(default_factory=lambda: array("I"))
    chunks: "array[int]" = field(default_factory=lambda: array("I"))
    offsets: "array[int]" = field(default_factory=lambda: array("I"))
    lengths: "array[int]" = field(default_factory=lambda: array("I"))
    extras: dict[int, list[tuple[int, object]]] = field(default_factory=dict)
    bytes_held: int = 0
    _owner_numbers: dict[_Owner, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def full(self) -> bool:
        """Whether it is time for the next one."""
        many = len(self.paths) >= limits.ARCHIVE_SEGMENT_ENTRIES_MAX
        return many or self.bytes_held >= limits.ARCHIVE_SEGMENT_BYTES_TARGET

    def add(self, stored: Stored) -> None:
        """Append an entry."""
        entry, extents, link = stored
        # Taken apart at once: asking a named tuple for each field takes twice as long.
        path, kind, mode, uid, gid, user, group, mtime_ns, size, *_ = entry
        number = HARD_LINK if link is not None else kind
        self._add_columns(
            [path],
            bytes((number,)),
            [mode],
            [self._owner_number((uid, gid, user, group))],
            [mtime_ns],
            [size if link is None else 0],
            [len(extents)],
            extents,
        )
        if kind is not EntryType.FILE or entry.xattrs or link is not None:
            self._add_extras(entry, link)

    def add_rows(self, paths: list[bytes], rows: bytes, extents: Sequence[Numbers]) -> None:
        """Append files and directories by their rows; each has its content in one of the extents.

        Those that are empty have none.
        """
        owners = list(zip(column(rows, UIDS), column(rows, GIDS), strict=True))
        numbers = {
            (uid, gid): self._owner_number((uid, gid, user_name(uid), group_name(gid)))
            for uid, gid in dict.fromkeys(owners)
        }
        sizes = column(rows, SIZES)
        self._add_columns(
            paths,
            types_of(rows),
            [mode & MODE_MAX for mode in column(rows, MODES)],
            [numbers[owner] for owner in owners],
            column(rows, MTIMES),
            sizes,
            [1 if size else 0 for size in sizes],
            extents,
        )

    def has_room_for(self, paths: Sequence[bytes]) -> bool:
        """Whether so many files with a content in one place would not make it full."""
        size = sum(map(len, paths)) + len(paths) * (_ENTRY_BYTES + _EXTENT_BYTES)
        few = len(self.paths) + len(paths) < limits.ARCHIVE_SEGMENT_ENTRIES_MAX
        return few and self.bytes_held + size < limits.ARCHIVE_SEGMENT_BYTES_TARGET

    def _add_columns(  # noqa: PLR0913, PLR0917 - they are the columns
        self,
        paths: list[bytes],
        types: bytes,
        modes: list[int],
        owners: list[int],
        mtimes: list[int],
        sizes: list[int],
        extent_counts: list[int],
        extents: Sequence[Numbers],
    ) -> None:
        self.paths += paths
        self.types += types
        self.modes.extend(modes)
        self.owner_of.extend(owners)
        self.mtimes.extend(mtimes)
        self.sizes.extend(sizes)
        self.extent_counts.extend(extent_counts)
        if extents:
            chunks, offsets, lengths = zip(*extents, strict=True)
            self.chunks.extend(chunks)
            self.offsets.extend(offsets)
            self.lengths.extend(lengths)
        names = sum(map(len, paths))
        self.bytes_held += names + len(paths) * _ENTRY_BYTES + len(extents) * _EXTENT_BYTES

    def _owner_number(self, owner: _Owner) -> int:
        number = self._owner_numbers.setdefault(owner, len(self.owners))
        if number == len(self.owners):
            self.owners.append(owner)
        return number

    def _add_extras(self, entry: Entry, link: bytes | None) -> None:
        extras = list[tuple[int, object]]()
        if link is not None:
            extras.append((_Extra.HARD_LINK, link))
        elif entry.type is EntryType.SYMLINK:
            extras.append((_Extra.SYMLINK, entry.target))
        elif entry.type in {EntryType.CHARACTER, EntryType.BLOCK}:
            extras.append((_Extra.DEVICE, entry.rdev))
        if entry.xattrs and link is None:
            extras.append((_Extra.XATTRS, entry.xattrs))
        if extras:
            self.extras[len(self.paths) - 1] = extras
            self.bytes_held += len(entry.target) + sum(len(n) + len(v) for n, v in entry.xattrs)

    def encode(self) -> bytes:
        """The segment's bytes."""
        extras = [[i, kind, value] for i, all_of in self.extras.items() for kind, value in all_of]
        return codec.encode(
            [
                _VERSION,
                len(self.paths),
                b"\0".join(self.paths),
                bytes(self.types),
                _bytes(self.modes),
                self.owners,
                *(_bytes(c) for c in (self.owner_of, self.mtimes, self.sizes, self.extent_counts)),
                *(_bytes(c) for c in (self.chunks, self.offsets, self.lengths)),
                extras,
            ]
        )

    @classmethod
    def decode_untrusted(cls, data: bytes) -> Self:
        """A segment all of whose columns fit together; extents are checked when they are used."""
        row = codec.decode_untrusted(data, bytes_max=limits.ARCHIVE_CHUNK_BYTES_MAX)
        row = codec.as_versioned_row(row, _VERSION, _FIELDS, "the archive's table")
        count = codec.as_uint(row[1], 32, "the number of entries")
        if not 0 < count <= limits.ARCHIVE_SEGMENT_ENTRIES_MAX:
            raise LimitExceeded(f"a part of the archive's table with {count} entries")
        most = limits.ARCHIVE_CHUNK_BYTES_MAX

        def raw(place: int, name: str) -> bytes:
            return codec.as_bytes(row[place], f"the column {name}", size_max=most)

        paths, types = raw(2, "paths").split(b"\0"), raw(3, "types")
        if len(paths) != count or len(types) != count:
            raise FormatError("the archive's table has columns of different lengths")
        if not set(types) <= {*EntryType, HARD_LINK}:
            raise NewerFormat("the archive holds a type of file unknown to this warp")
        extent_counts = _column("I", raw(9, "extents"), count, "extents")
        extents = sum(extent_counts)
        segment = cls(
            paths=paths,
            types=bytearray(types),
            modes=_column("H", raw(4, "modes"), count, "modes"),
            owners=[_owner_untrusted(o) for o in codec.as_rows(row[5], count, "owners")],
            owner_of=_column("H", raw(6, "owner_of"), count, "owner_of"),
            mtimes=_column("q", raw(7, "mtimes"), count, "mtimes"),
            sizes=_column("Q", raw(8, "sizes"), count, "sizes"),
            extent_counts=extent_counts,
            chunks=_column("I", raw(10, "chunks"), extents, "chunks"),
            offsets=_column("I", raw(11, "offsets"), extents, "offsets"),
            lengths=_column("I", raw(12, "lengths"), extents, "lengths"),
        )
        if max(segment.owner_of) >= len(segment.owners) or max(segment.modes) > 0o7777:
            raise FormatError("the archive's table has an owner or a mode out of bounds")
        segment._read_extras_untrusted(row[13])
        return segment

    def _read_extras_untrusted(self, value: object) -> None:
        for extra in codec.as_rows(value, 4 * len(self.paths), "the list of extras"):
            index, kind, content = codec.as_row(extra, 3, "an extra")
            number = codec.as_uint(index, 32, "an extra's entry")
            if number >= len(self.paths):
                raise FormatError("the archive's table has an extra of no entry")
            found = self.extras.setdefault(number, [])
            found.append((codec.as_uint(kind, 8, "an extra's kind"), content))

    def link_targets(self) -> Iterator[bytes]:
        """The first names of what hard links in this segment lead to."""
        for extras in self.extras.values():
            for kind, value in extras:
                if kind == _Extra.HARD_LINK and isinstance(value, bytes):
                    yield value

    def entries_untrusted(self) -> Iterator[Stored]:
        """Every entry; FormatError at the first that makes no sense."""
        at = 0
        for index in range(len(self.paths)):
            end = at + self.extent_counts[index]
            yield self._entry_untrusted(index, at, end)
            at = end

    def entry_untrusted(self, index: int) -> Stored:
        """One entry."""
        first = sum(self.extent_counts[:index])
        return self._entry_untrusted(index, first, first + self.extent_counts[index])

    def _entry_untrusted(self, index: int, first: int, end: int) -> Stored:
        columns = (self.chunks[first:end], self.offsets[first:end], self.lengths[first:end])
        number, size = self.types[index], self.sizes[index]
        if sum(columns[2]) != size or (size and number != EntryType.FILE):
            raise FormatError("a file in the archive is not as long as its parts")
        kind = EntryType.FILE if number == HARD_LINK else EntryType(number)
        uid, gid, user, group = self.owners[self.owner_of[index]]
        entry = Entry(
            self.paths[index],
            kind,
            self.modes[index],
            uid,
            gid,
            user,
            group,
            self.mtimes[index],
            size,
        )
        link = None
        if index in self.extras:
            entry, link = _with_extras_untrusted(entry, self.extras[index])
        if (link is None) == (number == HARD_LINK):
            raise FormatError("a hard link in the archive without its target")
        check_entry_untrusted(entry)
        return Stored(entry, tuple(map(Extent, *columns)), link)


def _with_extras_untrusted(
    entry: Entry, extras: Sequence[tuple[int, object]]
) -> tuple[Entry, bytes | None]:
    link = None
    for kind, value in extras:
        if kind == _Extra.SYMLINK:
            target = codec.as_bytes(value, "a link's target", size_max=limits.LINK_TARGET_BYTES_MAX)
            entry = entry._replace(target=target)
        elif kind == _Extra.HARD_LINK:
            link = codec.as_bytes(value, "a hard link's target", size_max=limits.PATH_BYTES_MAX)
            check_path_untrusted(link)
        elif kind == _Extra.DEVICE:
            major, minor = codec.as_row(value, 2, "a device number")
            numbers = codec.as_uint(major, 32, "a major"), codec.as_uint(minor, 32, "a minor")
            entry = entry._replace(rdev=numbers)
        elif kind == _Extra.XATTRS:
            pairs = codec.as_rows(value, limits.XATTRS_MAX, "the attributes")
            entry = entry._replace(xattrs=tuple(map(_xattr_untrusted, pairs)))
        else:
            raise NewerFormat("the archive holds something about a file unknown to this warp")
    return entry, link


def _xattr_untrusted(pair: object) -> tuple[bytes, bytes]:
    name, value = codec.as_row(pair, 2, "an attribute")
    return (
        codec.as_bytes(name, "an attribute's name", size_max=limits.XATTR_NAME_BYTES_MAX),
        codec.as_bytes(value, "an attribute's value", size_max=limits.XATTR_VALUE_BYTES_MAX),
    )


def _owner_untrusted(value: object) -> _Owner:
    uid, gid, user, group = codec.as_row(value, 4, "an owner")
    return (
        codec.as_uint(uid, 32, "a user id"),
        codec.as_uint(gid, 32, "a group id"),
        codec.as_text(user, limits.OWNER_NAME_BYTES_MAX, "a user's name"),
        codec.as_text(group, limits.OWNER_NAME_BYTES_MAX, "a group's name"),
    )
