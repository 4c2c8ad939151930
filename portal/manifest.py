"""What a directory of a snapshot is, in bytes (portal/SPEC.md, Directories).

A directory is one or several pieces, each an array of rows in the order of their names. A row
holds everything about one name, content by tags and never by place, so a row that did not change
is taken over as it is.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum, unique
from functools import lru_cache
from typing import Any, NamedTuple

from core import codec, hashing, limits
from core.errors import FormatError, LimitExceeded
from core.pieces import Kind
from core.tree.entry import (
    MODE_MAX,
    TIME_NS_MAX,
    TIME_NS_MIN,
    Entry,
    EntryType,
    check_entry_untrusted,
)
from core.tree.paths import check_name_untrusted

_VERSION = 1
_FIELDS = 14
_EXTENT = struct.Struct(">Q32s")
EXTENT_BYTES = _EXTENT.size
HOLE = bytes(limits.HASH_BYTES)
_NAME_TEXT_BYTES_MAX = limits.OWNER_NAME_BYTES_MAX
_ROW_COST_BYTES = 128  # of a row without what varies; parts of a directory are measured by it

Row = tuple[object, ...]


@unique
class Form(IntEnum):
    """How a row names its content."""

    NOTHING = 0  # an empty file, or what has no content
    SMALL = 1  # one piece of kind SMALL_FILE: its tag
    CUTS = 2  # extents: u64 length || tag of a CUT, or zeros for a hole
    CUT_LISTS = 3  # extents whose tags are CUT_LISTs, each of them extents again
    PARTS = 4  # of a directory: tags of its pieces
    PART_LISTS = 5  # of a very large one: tags of CUT_LISTs that are such tags


class Content(NamedTuple):
    """Where the bytes of a file, or the rows of a directory, are to be found."""

    form: Form
    data: bytes


class Extent(NamedTuple):
    """A stretch of a file and the tag of what lies there; HOLE stands for zeros."""

    length: int
    tag: bytes


class Node(NamedTuple):
    """One name in a snapshot: what is known about it, and where its content is."""

    entry: Entry  # its path is the whole path; ino and ctime are 0 when they prove nothing
    content: Content
    link: bytes  # equal for all names of one file that has several; else empty


NO_CONTENT = Content(Form.NOTHING, b"")
_PLAIN_TYPES = (bytes, *[int] * 4, str, str, *[int] * 5, bytes, tuple)
_PLAIN_KINDS = {kind.value: kind for kind in (EntryType.FILE, EntryType.DIRECTORY)}
_PLAIN_CONTENTS = {
    EntryType.FILE.value: {(0, 0), (1, limits.HASH_BYTES)},
    EntryType.DIRECTORY.value: {(4, n * limits.HASH_BYTES) for n in range(4)},
}
_PLAIN_PATH_BYTES_MAX = 4_096
_FORMS = {form.value: form for form in Form}
_ID_MAX = 0xFFFF_FFFE  # the one above means "leave it" to the system
_FORMS_OF = {
    EntryType.FILE: {Form.NOTHING, Form.SMALL, Form.CUTS, Form.CUT_LISTS},
    EntryType.DIRECTORY: {Form.PARTS, Form.PART_LISTS},
}
_FORMS_OF_OTHERS = {Form.NOTHING}


def row_of(entry: Entry, content: Content, *, link: bytes = b"", recent: bool = False) -> Row:
    """The row of an entry. `recent`: it may change without its times showing it.

    Then ino and ctime are not written, and the next backup reads it again.
    """
    extra: tuple[object, ...] = ()
    if entry.target or entry.xattrs or link or entry.rdev != (0, 0):
        extra = (entry.target, entry.rdev, entry.xattrs, link)
    return (
        entry.path.rpartition(b"/")[2],
        int(entry.type),
        entry.mode,
        entry.uid,
        entry.gid,
        entry.user,
        entry.group,
        entry.mtime_ns,
        0 if recent else entry.ctime_ns,
        0 if recent else entry.ino,
        entry.size,
        int(content.form),
        content.data,
        extra,
    )


def encode_part(rows: Sequence[Row]) -> bytes:
    """One piece of a directory."""
    return codec.encode((_VERSION, *rows))


def rows_untrusted(data: bytes) -> tuple[Row, ...]:
    """The rows of one piece: well-formed, in order, every name fit to be used."""
    row = codec.decode_untrusted(bytes(data))
    codec.as_versioned_row(row[:1], _VERSION, 1, "a directory")
    last = b""
    for item in row[1:]:
        if not isinstance(item, tuple) or len(item) != _FIELDS:
            raise FormatError(f"an entry of a directory is not an array of {_FIELDS} fields")
        name = item[0]
        if not isinstance(name, bytes) or name <= last:
            raise FormatError("the names of a directory are not in order")
        last = name
    return row[1:]  # type: ignore[return-value]  # every item was seen to be a tuple


def node_untrusted(row: Row, above: bytes) -> Node:
    """The meaning of a row in the directory `above`, every field within its bounds."""
    plain = _plain_node_untrusted(row, above)
    if plain is not None:
        return plain
    return _any_node_untrusted(row, above)


def _plain_node_untrusted(row: Row, above: bytes) -> Node | None:
    """The same for nearly all rows: files and directories with nothing special about them.

    Nothing if the row is anything else, or wrong: then the long way says what it is. A restore
    takes half its time deciding, and this is most of it.
    """
    if row[13] != () or tuple(map(type, row)) != _PLAIN_TYPES:
        return None
    fields: tuple[Any, ...] = row  # of these types
    name, kind, mode, uid, gid, user, group, mtime_ns, ctime_ns, ino, size, form, data, _ = fields
    if not (
        kind in _PLAIN_KINDS
        and (form, len(data)) in _PLAIN_CONTENTS[kind]
        and 0 <= mode <= MODE_MAX
        and 0 <= uid <= _ID_MAX
        and 0 <= gid <= _ID_MAX
        and TIME_NS_MIN <= mtime_ns <= TIME_NS_MAX
        and TIME_NS_MIN <= ctime_ns <= TIME_NS_MAX
        and 0 <= ino < 1 << 64
        and 0 <= size < 1 << 63
        and bool(size) == (form == Form.SMALL)
    ):
        return None
    check_name_untrusted(name, name)
    path = above + b"/" + name if above else name
    if len(path) > _PLAIN_PATH_BYTES_MAX:
        return None
    owners = _owner_untrusted(user), _owner_untrusted(group)
    entry = Entry(path, _PLAIN_KINDS[kind], mode, uid, gid, *owners, mtime_ns, size)
    entry = entry._replace(ino=ino, ctime_ns=ctime_ns)
    return Node(entry, Content(_FORMS[form], data), b"")


@lru_cache(maxsize=limits.TREE_OWNERS_CACHED_MAX)
def _owner_untrusted(name: str) -> str:
    return codec.as_text(name, _NAME_TEXT_BYTES_MAX, "the name of an owner")


def _any_node_untrusted(row: Row, above: bytes) -> Node:
    name = codec.as_bytes(row[0], "a name", size_max=limits.NAME_BYTES_MAX)
    check_name_untrusted(name, name)
    try:
        kind = EntryType(codec.as_uint(row[1], 8, "the type of an entry"))
        form = Form(codec.as_uint(row[11], 8, "the form of a content"))
    except ValueError as e:
        raise FormatError("an entry of a type that never existed") from e
    target, rdev, xattrs, link = _extra_untrusted(row[13])
    entry = Entry(
        path=above + b"/" + name if above else name,
        type=kind,
        mode=codec.as_uint(row[2], 32, "a mode"),
        uid=codec.as_uint(row[3], 32, "an owner"),
        gid=codec.as_uint(row[4], 32, "a group"),
        user=codec.as_text(row[5], _NAME_TEXT_BYTES_MAX, "the name of an owner"),
        group=codec.as_text(row[6], _NAME_TEXT_BYTES_MAX, "the name of a group"),
        mtime_ns=_as_int(row[7]),
        size=codec.as_uint(row[10], 63, "a size"),
        target=target,
        rdev=rdev,
        xattrs=xattrs,
        ino=codec.as_uint(row[9], 64, "an inode number"),
        nlink=2 if link else 1,
        ctime_ns=_as_int(row[8]),
    )
    check_entry_untrusted(entry)
    data = codec.as_bytes(row[12], "the content", size_max=limits.SNAPSHOT_CONTENT_BYTES_MAX)
    content = Content(form, data)
    _check_content_untrusted(entry, content)
    return Node(entry, content, link)


def extents_untrusted(data: bytes) -> list[Extent]:
    """The stretches of a CUTS or CUT_LISTS content, or of a CUT_LIST piece."""
    if len(data) % EXTENT_BYTES:
        raise FormatError("a list of cuts is cut short")
    extents = [Extent(length, tag) for length, tag in _EXTENT.iter_unpack(data)]
    if not all(extent.length for extent in extents):
        raise FormatError("a cut of no length")
    return extents


def encode_extents(extents: Iterable[Extent]) -> bytes:
    """Such a list in bytes."""
    return b"".join([_EXTENT.pack(length, tag) for length, tag in extents])


def tags_untrusted(data: bytes) -> list[bytes]:
    """The tags of a PARTS or PART_LISTS content, or of a CUT_LIST piece below one."""
    if len(data) % limits.HASH_BYTES:
        raise FormatError("a list of tags is cut short")
    return [data[i : i + limits.HASH_BYTES] for i in range(0, len(data), limits.HASH_BYTES)]


class Parts:
    """Groups rows into pieces, so that one name more or less changes one piece or two.

    A long directory is cut after a name whose hash says so, whatever stands around it.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._bytes = 0

    def add(self, row: Row) -> list[Row] | None:
        """One more row; gives a group that is complete now."""
        self._rows.append(row)
        self._bytes += _cost_bytes(row)
        if self._bytes < limits.DIRECTORY_PART_BYTES_MIN:
            return None
        cut_here = hashing.tag(Kind.DIRECTORY, row[0])[0] < 16  # type: ignore[arg-type]  # a name
        if cut_here or self._bytes >= limits.DIRECTORY_PART_BYTES_MAX:
            return self.finish()
        return None

    def finish(self) -> list[Row]:
        """The last group; it may be empty."""
        rows, self._rows, self._bytes = self._rows, [], 0
        return rows


def split_parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """The same for rows that are all there."""
    parts = Parts()
    for row in rows:
        if part := parts.add(row):
            yield part
    if part := parts.finish():
        yield part


def _cost_bytes(row: Row) -> int:
    name, user, group, content, extra = row[0], row[5], row[6], row[12], row[13]
    assert isinstance(name, bytes)
    assert isinstance(user, str)
    assert isinstance(group, str)
    assert isinstance(content, bytes)
    assert isinstance(extra, tuple)
    owners = user + group
    cost = _ROW_COST_BYTES + len(name) + len(content)
    cost += len(owners) if owners.isascii() else len(owners.encode())
    if extra:
        cost += len(extra[0]) + sum(len(name) + len(value) for name, value in extra[2])
    return cost


def _check_content_untrusted(entry: Entry, content: Content) -> None:
    form, data = content
    if form not in _FORMS_OF.get(entry.type, _FORMS_OF_OTHERS):
        raise FormatError("an entry with a content of another type")
    if form is Form.NOTHING and (data or entry.size):
        raise FormatError("an entry without content that says it has some")
    if form is Form.SMALL and (len(data) != limits.HASH_BYTES or not entry.size):
        raise FormatError("a small file is named by one tag")
    is_cut = form in {Form.CUTS, Form.CUT_LISTS}
    if is_cut and sum(e.length for e in extents_untrusted(data)) != entry.size:
        raise FormatError("the cuts of a file do not add up to it")


def _as_int(value: object) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise FormatError("a time is not an i64")
    return value


def _extra_untrusted(
    value: object,
) -> tuple[bytes, tuple[int, int], tuple[tuple[bytes, bytes], ...], bytes]:
    if value == ():
        return b"", (0, 0), (), b""
    target, rdev, xattrs, link = codec.as_row(value, 4, "what else is known of an entry")
    major, minor = codec.as_row(rdev, 2, "a device number")
    pairs = []
    for item in codec.as_rows(xattrs, limits.XATTRS_MAX, "the attributes"):
        name, content = codec.as_row(item, 2, "an attribute")
        pairs.append(
            (
                codec.as_bytes(name, "its name", size_max=limits.XATTR_NAME_BYTES_MAX),
                codec.as_bytes(content, "its value", size_max=limits.XATTR_VALUE_BYTES_MAX),
            )
        )
    mark = codec.as_bytes(link, "the mark of a hard link", size_max=limits.LINK_MARK_BYTES)
    if len(mark) not in {0, limits.LINK_MARK_BYTES}:
        raise LimitExceeded("the mark of a hard link has another length")
    if not (target or pairs or mark or major or minor):
        raise FormatError("an entry that says nothing more, in so many words")
    return (
        codec.as_bytes(target, "a target", size_max=limits.LINK_TARGET_BYTES_MAX),
        (codec.as_uint(major, 32, "a device number"), codec.as_uint(minor, 32, "a device number")),
        tuple(pairs),
        mark,
    )
