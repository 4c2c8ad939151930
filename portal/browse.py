"""Looking into snapshots: which one is meant, what is in it (portal/SPEC.md, Reading snapshots).

    40dc1520   latest   latest~2   @2026-08-01T12:00      each with :path/inside behind it

Directories are read piece by piece as they are walked, so memory is bounded by depth, not by how
much a snapshot holds. What is damaged takes away what is below it and nothing else.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Self

from core.errors import FormatError, IntegrityError, PortalError, UsageError
from core.pieces import Kind
from core.tree.entry import Entry, EntryType, Report
from core.tree.matching import matching
from core.tree.paths import check_path_untrusted, shown
from portal.errors import NoSnapshot
from portal.head import Head, Record, Snapshot
from portal.manifest import Content, Node, Row, node_untrusted, rows_untrusted
from portal.reader import Reader

_ID_CHARS_MIN = 4
_CANDIDATES_SHOWN = 5
_SEE = "portal snapshots shows which there are"
_HEX = re.compile(r"[0-9a-f]+")
_LATEST = re.compile(r"latest(?:~([0-9]{1,6}))?")
_AT = re.compile(r"@([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?))?")
_UNREADABLE = (FormatError, IntegrityError, OSError)
_WILD = re.compile(rb"[*?\[]")


# --- which snapshot -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which snapshots `latest` and dates speak of; nothing said means all."""

    hosts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()  # all of them
    paths: tuple[bytes, ...] = ()  # all of them, absolute

    def takes(self, snapshot: Snapshot) -> bool:
        """Whether this one counts."""
        record = snapshot.record
        held = {path.strip(b"/") for path in record.paths}
        return (
            (not self.hosts or record.host in self.hosts)
            and set(self.tags) <= set(snapshot.tags)
            and {path.strip(b"/") for path in self.paths} <= held
        )


def select_snapshot(
    head: Head,
    text: str,
    zone: tzinfo,
    only: Filter = Filter(),
) -> tuple[Snapshot, bytes]:
    """The snapshot that is meant, and the path inside it (no slash at either end; may be empty)."""
    is_date = text.startswith("@")
    match = _AT.match(text) if is_date else None
    name, colon, inside = text.partition(":")
    if is_date:
        if match is None or text[match.end() : match.end() + 1] not in {"", ":"}:
            raise UsageError(f"{text}: a date is @2026-08-01 or @2026-08-01T12:00")
        name, colon, inside = match[0], text[match.end() :][:1], text[match.end() + 1 :]
    path = inside.encode("utf-8", "surrogateescape").strip(b"/") if colon else b""
    if path:
        check_path_untrusted(path)
    if match is not None:
        return _newest_at(head, match, zone, only), path
    if (latest := _LATEST.fullmatch(name)) is not None:
        return _nth_latest(head, int(latest[1] or 0), only), path
    return _by_id(head, name), path


def _by_id(head: Head, name: str) -> Snapshot:
    wanted = name.lower()
    if not _HEX.fullmatch(wanted) or len(wanted) < _ID_CHARS_MIN:
        what = f"{name!r} names no snapshot: {_ID_CHARS_MIN} digits of its id at least, or latest"
        raise NoSnapshot(what, hint=_SEE)
    found = [s for s in head.snapshots if s.id.hex().startswith(wanted)]
    live = [s for s in found if s.is_live]
    if not live and found:
        what = f"the snapshot {wanted} was forgotten"
        raise NoSnapshot(what, hint=f"portal undelete {wanted} brings it back")
    if not live:
        raise NoSnapshot(f"no snapshot is called {wanted}", hint=_SEE)
    if len(live) > 1:
        names = ", ".join(s.id.hex()[: len(wanted) + 4] for s in live[:_CANDIDATES_SHOWN])
        more = " and others" if len(live) > _CANDIDATES_SHOWN else ""
        raise NoSnapshot(f"{len(live)} snapshots begin with {wanted}: {names}{more}")
    return live[0]


def _nth_latest(head: Head, back: int, only: Filter) -> Snapshot:
    found = [s for s in head.live if only.takes(s)]
    if back < len(found):
        return found[-1 - back]
    if not found:
        what = "there is no such snapshot" if head.live else "there is no snapshot yet"
        raise NoSnapshot(what, hint=_SEE if head.live else "portal backup makes one")
    raise NoSnapshot(f"there are only {len(found)} of them", hint=_SEE)


def _newest_at(head: Head, match: re.Match[str], zone: tzinfo, only: Filter) -> Snapshot:
    """The newest at that minute or before; a day without a time means the end of the day."""
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00'}").replace(tzinfo=zone)
        if match[2] is None:
            moment += timedelta(days=1)
        limit_ns = int(moment.timestamp()) * 1_000_000_000
    except (ValueError, OverflowError) as e:
        raise UsageError(f"{match[0]}: there is no such date") from e
    including = 0 if match[2] is None else 1
    found = [s for s in head.live if only.takes(s) and s.record.time_ns < limit_ns + including]
    if not found:
        raise NoSnapshot(f"no snapshot is as old as {match[0]}", hint=_SEE)
    return found[-1]


# --- which names ----------------------------------------------------------------------------------


class Selection:
    """Which paths of a snapshot are meant. Patterns mean what they mean for `warp archive`.

    A path is taken if it is named, lies below what is named, or matches a pattern, where a star
    goes across slashes; unless the same is true of an exclusion.
    """

    def __init__(
        self,
        include: Sequence[bytes] = (),
        exclude: Sequence[bytes] = (),
        *,
        above: bytes = b"",
    ) -> None:
        """`above`: what stands before every path that will be asked about."""
        self.is_everything = not include and not exclude
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._above = above + b"/" if above else b""
        self._included = matching(self._include)
        self._excluded = matching(self._exclude) if exclude else None
        self._starts = [_literal_start(pattern) for pattern in include]

    def below(self, above: bytes) -> Self:
        """The same for paths from which `above/` was taken off."""
        return type(self)(self._include, self._exclude, above=above)

    def takes(self, path: bytes) -> bool:
        """Whether this one is meant."""
        if self.is_everything:
            return True
        path = self._above + path
        return self._included(path) and not (self._excluded and self._excluded(path))

    def may_hold(self, directory: bytes) -> bool:
        """Whether anything below this directory can be meant."""
        if self.is_everything:
            return True
        path = self._above + directory
        if self._excluded and self._excluded(path):
            return False  # then everything below it is, too
        inside = path.rstrip(b"/") + b"/" if path else b""
        return not self._starts or any(
            inside.startswith(start) or start.startswith(inside) for start in self._starts
        )


EVERYTHING = Selection()


def _literal_start(pattern: bytes) -> bytes:
    """What every match, and everything below a match, begins with."""
    text = pattern.strip(b"/")
    wild = _WILD.search(text)
    return text + b"/" if wild is None else text[: wild.start()]


class Scope:
    """What a snapshot speaks of: its sources and what is below them.

    The directories above are in it for their modes; what else they held, nobody looked at.
    """

    def __init__(self, record: Record, *, under: bytes = b"") -> None:
        """`under`: what stands before every path that will be asked about."""
        self._sources = tuple(path.strip(b"/") + b"/" for path in record.paths)
        self._above = under + b"/" if under else b""

    def covers(self, path: bytes) -> bool:
        """Whether everything in this directory was looked at."""
        inside = (self._above + path).rstrip(b"/") + b"/"
        return any(source == b"/" or inside.startswith(source) for source in self._sources)


# --- walking --------------------------------------------------------------------------------------


def nowhere(path: bytes, error: PortalError | OSError) -> None:  # noqa: ARG001 - it is a Report
    """The report of who wants to be stopped: raises."""
    raise error


def root_of(record: Record) -> Node:
    """The directory above everything, as if it had a row."""
    return Node(Entry(b"", EntryType.DIRECTORY, 0o755), record.root, b"")


def children(
    reader: Reader, content: Content, above: bytes, report: Report = nowhere, shown_as: bytes = b""
) -> Iterator[Node]:
    """What a directory holds, in the order of names; what is damaged is reported, once a piece.

    `above` is its path for the nodes that come, `shown_as` in reports if that is another.
    """
    told = shown_as or above
    last = b""
    try:
        tags = reader.part_tags_untrusted(content)
    except _UNREADABLE as e:
        report(told, _placed(e, told))
        return
    for tag in tags:
        try:
            rows = _part_untrusted(reader, tag, last)
        except _UNREADABLE as e:
            report(told, _placed(e, told))
            continue
        for row in rows:
            last = row[0]  # type: ignore[assignment]  # a name
            try:
                node = node_untrusted(row, above)
            except FormatError as e:
                report(told, _placed(e, told))
                continue
            yield node


def _part_untrusted(reader: Reader, tag: bytes, last: bytes) -> tuple[Row, ...]:
    rows = rows_untrusted(bytes(reader.piece_untrusted(Kind.DIRECTORY, tag)))
    if rows and rows[0][0] <= last:  # type: ignore[operator]  # names
        raise FormatError("the parts of a directory are not in order")
    return rows


def walk(
    reader: Reader,
    snapshot: Snapshot,
    *,
    under: bytes = b"",
    select: Selection = EVERYTHING,
    report: Report = nowhere,
) -> Iterator[Node]:
    """What is below a path, or the file it names: depth first, names in the order of their bytes.

    Without a `report`, the first thing that is damaged ends it.
    """
    top = lookup(reader, snapshot, under)
    if not top.entry.is_directory:
        if select.takes(under):
            yield top
        return
    yield from walk_below(reader, top, select=select, report=report)


def walk_below(
    reader: Reader, top: Node, *, select: Selection = EVERYTHING, report: Report = nowhere
) -> Iterator[Node]:
    """The same below a directory that is at hand."""
    levels = [children(reader, top.content, top.entry.path, report)]
    while levels:
        for node in levels[-1]:
            entry = node.entry
            if select.takes(entry.path):
                yield node
            if entry.is_directory and select.may_hold(entry.path):
                levels.append(children(reader, node.content, entry.path, report))
                break
        else:
            levels.pop()


def lookup(reader: Reader, snapshot: Snapshot, path: bytes) -> Node:
    """The node of this path; one directory is read for each name in it."""
    node = root_of(snapshot.record)
    if not path:
        return node
    check_path_untrusted(path)
    for name in path.split(b"/"):
        above = node.entry.path
        if not node.entry.is_directory:
            raise _absent(snapshot, path, above, "is no directory")
        wanted = above + b"/" + name if above else name
        try:
            node = _named(reader, node, wanted)
        except KeyError:
            raise _absent(snapshot, path, above, "has nothing of this name") from None
    return node


def _named(reader: Reader, directory: Node, wanted: bytes) -> Node:
    damage: list[PortalError | OSError] = []
    found = children(
        reader, directory.content, directory.entry.path, lambda _path, e: damage.append(e)
    )
    for node in found:
        if node.entry.path == wanted:
            return node
        if node.entry.path > wanted:
            break
    if damage:
        raise damage[0]
    raise KeyError(wanted)


def _absent(snapshot: Snapshot, path: bytes, nearest: bytes, why: str) -> NoSnapshot:
    where = shown(nearest)
    return NoSnapshot(
        f"/{shown(path)} is not in the snapshot: /{where} {why}",
        where=snapshot.name,
        hint=f"portal ls {snapshot.name}:/{where}",
    )


def _placed(error: PortalError | OSError, path: bytes) -> PortalError | OSError:
    return error.at("/" + shown(path)) if isinstance(error, PortalError) else error
