"""Looking for names in many snapshots (portal/SPEC.md, Reading snapshots).

Snapshots of the same sources share most of their directories. What was found below one is kept, so
that each is looked through once however many snapshots it is part of.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from re import IGNORECASE, Pattern
from re import compile as compile_regex

from core import limits
from core.errors import PortalError
from core.tree.entry import EntryType, Report
from portal.browse import children, lookup, nowhere
from portal.errors import NoSnapshot
from portal.head import Snapshot
from portal.manifest import Node
from portal.reader import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to look for: one of the patterns, and all of the rest."""

    patterns: tuple[bytes, ...] = ()  # with a slash in them for whole paths, else for names
    ignore_case: bool = False
    newer_ns: int | None = None
    older_ns: int | None = None
    size_min: int | None = None  # with a size, files only
    size_max: int | None = None
    types: frozenset[EntryType] = frozenset()


class _Test:
    """Whether a node is wanted."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        paths = [pattern for pattern in wanted.patterns if b"/" in pattern]
        names = [pattern for pattern in wanted.patterns if b"/" not in pattern]
        self._path = _regex([path.strip(b"/") for path in paths], wanted)
        self._name = _regex(names, wanted)
        self._sized = wanted.size_min is not None or wanted.size_max is not None

    def takes(self, node: Node) -> bool:
        return self._is_called(node.entry.path) and self._is_like(node)

    def _is_called(self, path: bytes) -> bool:
        if not self._wanted.patterns:
            return True
        text = path.decode("utf-8", "surrogateescape")
        if self._name is not None and self._name.fullmatch(text.rpartition("/")[2]):
            return True
        return self._path is not None and self._path.fullmatch(text) is not None

    def _is_like(self, node: Node) -> bool:
        entry, wanted = node.entry, self._wanted
        return (
            (not wanted.types or entry.type in wanted.types)
            and (wanted.newer_ns is None or entry.mtime_ns >= wanted.newer_ns)
            and (wanted.older_ns is None or entry.mtime_ns <= wanted.older_ns)
            and (not self._sized or entry.type is EntryType.FILE)
            and (wanted.size_min is None or entry.size >= wanted.size_min)
            and (wanted.size_max is None or entry.size <= wanted.size_max)
        )


def _regex(patterns: Sequence[bytes], wanted: Wanted) -> Pattern[str] | None:
    if not patterns:
        return None
    texts = (pattern.decode("utf-8", "surrogateescape") for pattern in patterns)
    flags = IGNORECASE if wanted.ignore_case else 0
    return compile_regex("|".join(f"(?:{translate(text)})" for text in texts), flags)


@dataclass(slots=True)
class _Level:
    """A directory that is being looked through."""

    key: tuple[bytes, bytes]
    nodes: Iterator[Node]
    found: list[Node] = field(default_factory=list)
    is_whole: bool = True  # what was found is all there is: it may be kept


class Finder:
    """Looks through snapshots, one after the other."""

    def __init__(self, reader: Reader, wanted: Wanted, report: Report = nowhere) -> None:
        self.directories_read = 0
        self._reader = reader
        self._test = _Test(wanted)
        self._report = report
        self._known: OrderedDict[tuple[bytes, bytes], tuple[Node, ...]] = OrderedDict()
        self._known_nodes = 0

    def find(
        self, snapshots: Iterable[Snapshot], under: bytes = b""
    ) -> Iterator[tuple[Snapshot, list[Node]]]:
        """What each snapshot has, in the order of paths; snapshots without any are left out."""
        for snapshot in snapshots:
            try:
                top = lookup(self._reader, snapshot, under)
            except NoSnapshot:
                continue
            found = self._below(top) if top.entry.is_directory else []
            if under and self._test.takes(top):
                found = [top, *found]
            if found:
                yield snapshot, found

    def _below(self, top: Node) -> list[Node]:
        if (known := self._recalled(top)) is not None:
            return list(known)
        levels = [self._enter(top)]
        while True:
            level = levels[-1]
            for node in level.nodes:
                if self._test.takes(node):
                    level.found.append(node)
                if not node.entry.is_directory:
                    continue
                known = self._recalled(node)
                if known is None:
                    levels.append(self._enter(node))
                    break
                level.found += known
            else:
                self._remember(level)
                levels.pop()
                if not levels:
                    return level.found
                levels[-1].found += level.found
                levels[-1].is_whole &= level.is_whole

    def _enter(self, node: Node) -> _Level:
        self.directories_read += 1
        level = _Level(_key(node), iter(()))

        def report(path: bytes, error: PortalError | OSError) -> None:
            level.is_whole = False
            self._report(path, error)

        level.nodes = children(self._reader, node.content, node.entry.path, report)
        return level

    def _recalled(self, node: Node) -> tuple[Node, ...] | None:
        known = self._known.get(_key(node))
        if known is not None:
            self._known.move_to_end(_key(node))
        return known

    def _remember(self, level: _Level) -> None:
        if not level.is_whole or len(level.found) > limits.FIND_CACHE_NODES_MAX:
            return
        self._known[level.key] = tuple(level.found)
        self._known_nodes += len(level.found)
        while (
            len(self._known) > limits.FIND_CACHE_ENTRIES
            or self._known_nodes > limits.FIND_CACHE_NODES_MAX
        ):
            self._known_nodes -= len(self._known.popitem(last=False)[1])


def _key(node: Node) -> tuple[bytes, bytes]:
    """Where, and what: patterns may look at the whole path."""
    return node.entry.path, node.content.data
