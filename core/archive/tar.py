"""Reading a tar stream, member by member: v7, ustar, GNU and pax, sparse files too.

The stream is hostile: every length is bounded before it is read, and a stream without the zeros
that end one was cut short, however well the last member looks. What the forms have in common is
taken from the 512 bytes of a header; what pax and GNU headers say before it wins.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from core import limits
from core.archive.tar_pax import Pax, decimal_untrusted
from core.errors import FormatError, LimitExceeded
from core.tree.content import Extent
from core.tree.entry import MODE_MAX, Entry, EntryType, Xattrs, check_entry_untrusted
from core.tree.paths import shown

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_USTAR, _GNU = b"ustar\x00", b"ustar  "
_TYPES = {
    b"\0": EntryType.FILE,
    b"0": EntryType.FILE,
    b"7": EntryType.FILE,  # contiguous, once
    b"S": EntryType.FILE,  # sparse, as GNU did it first
    b"1": EntryType.FILE,  # a hard link
    b"2": EntryType.SYMLINK,
    b"3": EntryType.CHARACTER,
    b"4": EntryType.BLOCK,
    b"5": EntryType.DIRECTORY,
    b"6": EntryType.FIFO,
    b"D": EntryType.DIRECTORY,  # with a list of names behind it
}
_WITH_CONTENT = frozenset((b"\0", b"0", b"7", b"S", b"D"))
_SPARSE_FIRST, _SPARSE_MORE = 4, 21  # pieces in a header, and in each block behind it
_SPARSE_HEAD, _SPARSE_EXTENDED, _SPARSE_SIZE, _SPARSE_MORE_FLAG = 386, 482, 483, 504
_NUMBER = 12


class Member(NamedTuple):
    """One name in the stream; its content is to be read before the next one is asked for."""

    entry: Entry
    link: bytes | None  # a hard link: the name under which this file came before
    extents: tuple[Extent, ...]  # where the content belongs in the file; between them are holes
    kept_out: str = ""  # what the stream says about it that cannot be kept


class TarReader:
    """A tar stream. `read` gives so many bytes, fewer only at its end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.skipped: list[tuple[bytes, str]] = []  # names of a kind that no archive holds
        self._read = read
        self._left = 0  # of the content of the member that was given last
        self._padding = 0
        self._began = False
        self._pax = Pax()
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None

    # --- content --------------------------------------------------------------------------------

    def content_untrusted(self, size: int) -> bytes:
        """The next bytes of the member's content, exactly as many as asked for or are left."""
        data = self._exactly(min(size, self._left))
        self._left -= len(data)
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._read(size) if size else b""
        if len(data) != size:
            raise FormatError("the tar stream is cut short")
        return data

    def _pass_by(self) -> None:
        """Go on behind the content of the last member."""
        left, self._left = self._left + self._padding, 0
        self._padding = 0
        while left:
            left -= len(self._exactly(min(left, limits.MIB)))

    def _announce(self, size: int) -> None:
        self._left, self._padding = size, -size % _BLOCK

    # --- members --------------------------------------------------------------------------------

    def members_untrusted(self) -> Iterator[Member]:
        """Every member; ends at the zeros that end a stream, whatever follows them."""
        in_a_row = 0
        while (header := self._header_untrusted()) is not None:
            if self._is_about_the_next_untrusted(header):
                in_a_row += 1
                if in_a_row > limits.TAR_HEADERS_MAX:
                    raise LimitExceeded("a tar member with very many headers")
                continue
            in_a_row = 0
            member = self._member_untrusted(header)
            self._pax.forget()
            self._long_name = self._long_link = None
            if member is not None:
                yield member
        if in_a_row:
            raise FormatError("the tar stream ends before the file its last header is about")

    def _header_untrusted(self) -> bytes | None:
        self._pass_by()
        header = self._read(_BLOCK)
        if not self._began and (not header or not _is_header(header)) and header != _ZEROS:
            hint = "unpack it first if it is compressed: zstd -d, gzip -d"
            raise FormatError("not a tar stream", hint=hint if header else None)
        self._began = True
        if len(header) != _BLOCK:
            raise FormatError("the tar stream is cut short")
        if header == _ZEROS:
            return None
        if not _is_header(header):
            raise FormatError("a header in the tar stream is damaged")
        return header

    def _is_about_the_next_untrusted(self, header: bytes) -> bool:
        """Whether this header only says something about what follows; it is taken in then."""
        kind, size = header[156:157], _number_untrusted(header[124:136], "a size")
        if kind in {b"x", b"X", b"g"}:
            data = self._extra_untrusted(size, limits.TAR_HEADER_BYTES_MAX)
            self._pax.take_untrusted(data, for_all=kind == b"g")
        elif kind == b"L":
            self._long_name = _text(self._extra_untrusted(size, limits.PATH_BYTES_MAX + 1))
        elif kind == b"K":
            self._long_link = _text(self._extra_untrusted(size, limits.PATH_BYTES_MAX + 1))
        elif kind == b"V":  # the label of a tape
            self._announce(size)
        else:
            return False
        return True

    def _extra_untrusted(self, size: int, size_max: int) -> bytes:
        if not 0 <= size <= size_max:
            raise LimitExceeded(f"a tar header of {size} bytes")
        self._announce(size)
        return self.content_untrusted(size)

    def _member_untrusted(self, header: bytes) -> Member | None:
        pax, kind = self._pax, header[156:157]
        name = self._name_untrusted(header)
        size = pax.number_untrusted(b"size", _number_untrusted(header[124:136], "a size"))
        if not 0 <= size <= limits.TAR_MEMBER_BYTES_MAX:
            raise LimitExceeded(f"a size of {size} bytes in the tar stream", where=shown(name))
        if kind not in _TYPES:
            self._announce(size)
            if kind == b"M":
                raise FormatError("the second volume of a tar archive; all of it is needed")
            self.skipped.append((name, f"a tar member of a kind unknown here: {kind!r}"))
            return None
        type_ = _TYPES[kind]
        if type_ is EntryType.FILE and name.endswith(b"/") and kind in {b"\0", b"0"}:
            type_ = EntryType.DIRECTORY  # as tar said it in 1979
        self._announce(size if kind in _WITH_CONTENT else 0)
        path = path_untrusted(name)
        link, target = None, b""
        if kind in {b"1", b"2"}:
            target = pax.value(b"linkpath") or self._long_link or _text(header[157:257])
        if kind == b"1":
            link, target = path_untrusted(target), b""
        is_whole = type_ is EntryType.FILE and link is None
        size, extents = self._layout_untrusted(header, path) if is_whole else (0, ())
        entry = self._entry_untrusted(header, path, type_)._replace(size=size, target=target)
        if path:  # the top itself is no entry of an archive
            check_entry_untrusted(entry)
        return Member(entry, link, extents, pax.kept_out)

    def _name_untrusted(self, header: bytes) -> bytes:
        name = self._pax.name or self._long_name
        if name is None:
            name = _text(header[:100])
            if header[257:263] == _USTAR and (prefix := _text(header[345:500])):
                name = prefix + b"/" + name
        if not name:
            raise FormatError("a tar member without a name")
        return name

    def _entry_untrusted(self, header: bytes, path: bytes, type_: EntryType) -> Entry:
        pax = self._pax
        is_new = header[257:262] == _USTAR[:5]
        user, group = (_text(header[265:297]), _text(header[297:329])) if is_new else (b"", b"")
        rdev = (0, 0)
        if type_ in {EntryType.CHARACTER, EntryType.BLOCK}:
            rdev = (
                _number_untrusted(header[329:337], "a major"),
                _number_untrusted(header[337:345], "a minor"),
            )
        return Entry(
            path,
            type_,
            _number_untrusted(header[100:108], "a mode") & MODE_MAX,
            pax.number_untrusted(b"uid", _number_untrusted(header[108:116], "a user id")),
            pax.number_untrusted(b"gid", _number_untrusted(header[116:124], "a group id")),
            pax.owner(b"uname", user),
            pax.owner(b"gname", group),
            pax.mtime_ns_untrusted(_number_untrusted(header[136:148], "a time")),
            rdev=rdev,
            xattrs=pax.xattrs_untrusted() if path else Xattrs(),
        )

    # --- sparse files ---------------------------------------------------------------------------

    def _layout_untrusted(self, header: bytes, path: bytes) -> tuple[int, tuple[Extent, ...]]:
        """How long the file is and where the bytes that follow belong."""
        size = self._left
        if header[156:157] == b"S":
            size = _number_untrusted(header[_SPARSE_SIZE:][:_NUMBER], "a size")
            extents = self._old_map_untrusted(header)
        elif self._pax.is_map_in_content:
            size = self._pax.real_size_untrusted()
            extents = self._map_before_content_untrusted()
        elif self._pax.is_sparse:
            size = self._pax.real_size_untrusted()
            extents = self._pax.map_untrusted()
        else:
            return size, (Extent(0, size),) if size else ()
        at = total = 0
        for offset, length in extents:
            if offset < at or length < 0 or offset + length > size:
                raise FormatError("a sparse file whose parts do not fit it", where=shown(path))
            at, total = offset + length, total + length
        if total != self._left or size > limits.TAR_MEMBER_BYTES_MAX:
            raise FormatError("a sparse file whose parts do not fit it", where=shown(path))
        return size, tuple(extent for extent in extents if extent.length)

    def _old_map_untrusted(self, header: bytes) -> list[Extent]:
        """In the header and, if that is too short, in blocks behind it."""
        extents = _pieces_untrusted(header[_SPARSE_HEAD:_SPARSE_EXTENDED], _SPARSE_FIRST)
        more = header[_SPARSE_EXTENDED]
        while more:
            block = self._exactly(_BLOCK)
            extents += _pieces_untrusted(block, _SPARSE_MORE)
            _check_count_untrusted(len(extents))
            more = block[_SPARSE_MORE_FLAG]
        return extents

    def _map_before_content_untrusted(self) -> list[Extent]:
        """Decimal lines in the first blocks of the content: how many, then offset and length."""
        data = self.content_untrusted(_BLOCK)
        first, newline, _ = data.partition(b"\n")
        if not newline:
            raise FormatError("a sparse file without its map")
        count = decimal_untrusted(first, "a sparse file's map")
        _check_count_untrusted(count)
        wanted, blocks = 1 + 2 * count, [data]
        there, room = data.count(b"\n"), limits.TAR_HEADER_BYTES_MAX
        while there < wanted:
            blocks.append(self.content_untrusted(_BLOCK))
            there += blocks[-1].count(b"\n")
            room -= _BLOCK
            if len(blocks[-1]) < _BLOCK or room < 0:
                raise FormatError("a sparse file without its map")
        lines = b"".join(blocks).split(b"\n", wanted)[1:wanted]
        numbers = [decimal_untrusted(line, "a sparse file's map") for line in lines]
        return [Extent(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


def path_untrusted(name: bytes) -> bytes:
    """What a member is called in the archive: without what leads nowhere; empty for the top."""
    if name.startswith(b"/"):
        hint = "tar writes such names only with -P"
        raise FormatError("an absolute path in the tar stream", where=shown(name[:80]), hint=hint)
    names = [part for part in name.split(b"/") if part not in {b"", b"."}]
    return b"/".join(names)


def _is_header(block: bytes) -> bool:
    """Whether its checksum fits; some programs added signed bytes."""
    if len(block) != _BLOCK:
        return False
    try:
        wanted = _number_untrusted(block[148:156], "a checksum")
    except FormatError:
        return False
    others = block[:148] + block[156:]
    plain = sum(others) + 8 * 0x20
    return wanted == plain or wanted == plain - 256 * sum(byte > 0x7F for byte in others)


def _number_untrusted(field: bytes, name: str) -> int:
    """Octal digits, or a binary number where the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    if field[0] == 0xFF:
        return int.from_bytes(field, signed=True)
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.translate(None, b"01234567"):
        raise FormatError(f"{name} in the tar stream that is no number")
    return int(digits or b"0", 8)


def _pieces_untrusted(fields: bytes, count: int) -> list[Extent]:
    pieces = list[Extent]()
    for at in range(0, 2 * _NUMBER * count, 2 * _NUMBER):
        offset, length = fields[at : at + _NUMBER], fields[at + _NUMBER : at + 2 * _NUMBER]
        if offset[0] and length[0]:
            pieces.append(
                Extent(
                    _number_untrusted(offset, "an offset"), _number_untrusted(length, "a length")
                )
            )
    return pieces


def _check_count_untrusted(count: int) -> None:
    if count > limits.TREE_EXTENTS_MAX:
        raise LimitExceeded(f"a sparse file of {count} parts")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
