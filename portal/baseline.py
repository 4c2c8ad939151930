"""The snapshot before: what the next backup compares with (portal/SPEC.md, What did not change).

Two levels. The cache keeps a keyed hash of what each directory looked like, all its names with
their inodes, sizes and times: where it is the same, nothing below that directory but its own
directories is looked at, and no object is made for any file. Where it is not, the rows of the
snapshot say which of the names are as they were.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR

from core import codec, hashing, limits
from core.errors import FormatError, IntegrityError
from core.keys import VaultKeys
from core.labels import Label
from core.pieces import Kind
from core.tree.listing import Listing
from portal.manifest import Content, Form, Row, rows_untrusted
from portal.reader import Reader
from portal.table import KEY_BYTES, Table, write_table

_WORDS, _MODE_WORD, _NLINK_WORD = 16, 8, 11  # of 32 bits, in a row of a listing
_ROW_BYTES = KEY_BYTES + limits.HASH_BYTES
_TREES_KEPT = 8


class Looks:
    """What every directory looked like when a snapshot was made, and what they look like now."""

    def __init__(self, keys: VaultKeys, cache: Path | None, parent: bytes, rules: bytes) -> None:
        """`rules`: which names are left out; other rules make every look another one."""
        self._key = hashing.derive(Label.VAULT_LOOKS, keys.index.reveal())
        self._cache = cache
        self._rules = rules
        self._now: list[bytes] = []
        self._table = self._open(parent) if parent else None

    def of(self, path: bytes, listing: Listing, rules: bytes) -> bytes:
        """The look of a directory, seen by these rules.

        Its device is part of it only where a file has several names: rows mark such files by it.
        """
        rows = memoryview(listing.rows)
        links = rows.cast("I")[_NLINK_WORD::_WORDS]
        modes = rows.cast("I")[_MODE_WORD::_WORDS]
        linked = any(n > 1 and not S_ISDIR(m) for n, m in zip(links, modes, strict=True))
        device = str(listing.dev) if linked else ""
        header = codec.encode((path, listing.joined_names, rules, device))
        return hashing.keyed(self._key, header + listing.rows)

    def is_known(self, path: bytes, look: bytes) -> bool:
        """Whether the directory looked the same when the parent was made."""
        if self._table is None:
            return False
        return any(row[KEY_BYTES:] == look for row in self._table.find(self._path_key(path)))

    def remember(self, path: bytes, look: bytes) -> None:
        """For the next backup: to be called only when all of the directory went in well."""
        self._now.append(self._path_key(path) + look)

    def save(self, snapshot: bytes) -> None:
        """Keep the looks of now as those of this snapshot; a cache that cannot be written waits."""
        if self._cache is None:
            return
        self._now.sort()
        with suppress(OSError):
            note = codec.encode((snapshot, self._rules))
            write_table(self._path(snapshot), self._key, self._now, _ROW_BYTES, note)
            paths = sorted(self._cache.glob("*.tree"), key=lambda p: p.stat().st_mtime_ns)
            for old in paths[:-_TREES_KEPT]:
                old.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the table go."""
        if self._table is not None:
            self._table.close()
            self._table = None

    def _path_key(self, path: bytes) -> bytes:
        return hashing.keyed(self._key, path, KEY_BYTES)

    def _path(self, snapshot: bytes) -> Path:
        assert self._cache is not None
        return self._cache / f"{snapshot.hex()[:32]}.tree"

    def _open(self, parent: bytes) -> Table | None:
        if self._cache is None:
            return None
        try:
            table = Table(self._path(parent), self._key)
            snapshot, rules = codec.as_row(codec.decode_untrusted(table.note), 2, "a note")
        except (FormatError, OSError):
            return None
        if table.row_bytes != _ROW_BYTES or (snapshot, rules) != (parent, self._rules):
            table.close()
            return None
        return table


class Before:
    """A directory in the parent's snapshot; its rows are read when they are asked for."""

    def __init__(
        self, reader: Reader, content: Content | None, above: "tuple[Before, bytes] | None" = None
    ) -> None:
        """By its content; or by the directory that holds it and its name in there."""
        self._reader = reader
        self._content = content
        self._above = above
        self._below: dict[bytes, Content] | None = None

    def below(self, name: bytes) -> "Before":
        """What was a directory of this name in here, if anything was."""
        return Before(self._reader, None, (self, name))

    def rows_untrusted(self) -> Iterator[Row]:
        """Its rows in the order of names, piece by piece; IntegrityError where one is lost."""
        content = self.content_untrusted()
        if content is None:
            return
        for tag in self._reader.part_tags_untrusted(content):
            yield from rows_untrusted(bytes(self._reader.piece_untrusted(Kind.DIRECTORY, tag)))

    def content_untrusted(self) -> Content | None:
        """What names it in the parent; nothing if it was not there."""
        if self._content is None and self._above is not None:
            above, name = self._above
            self._content = above.directories_untrusted().get(name)
            self._above = None
        return self._content

    def directories_untrusted(self) -> dict[bytes, Content]:
        """What names each directory in here."""
        if self._below is None:
            below = {}
            for row in self.rows_untrusted():
                name, form, data = row[0], row[11], row[12]
                if form in {Form.PARTS, Form.PART_LISTS}:
                    below[name] = Content(Form(form), data)  # type: ignore[arg-type]  # of a row
            self._below = below  # type: ignore[assignment]  # names were seen to be bytes
        return self._below  # type: ignore[return-value]


class RowsBefore:
    """The rows of a directory asked for in the order of their names: none is kept.

    Rows the vault has lost count as never written: what they spoke of is read from the disk again.
    """

    def __init__(self, before: Before | None) -> None:
        self._rows = before.rows_untrusted() if before else iter(())
        self._next = self._following()

    def take(self, name: bytes) -> Row | None:
        """The row of this name, which comes after all names asked for before."""
        while self._next is not None and self._next[0] < name:  # type: ignore[operator]  # names
            self._next = self._following()
        if self._next is not None and self._next[0] == name:
            return self._next
        return None

    def _following(self) -> Row | None:
        try:
            return next(self._rows, None)
        except (FormatError, IntegrityError):
            self._rows = iter(())
            return None
