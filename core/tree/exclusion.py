"""What a backup leaves out, decided directory by directory.

    --exclude, --iexclude     patterns on absolute paths; `!` keeps, and overrules all files below
    .portalignore, .gitignore patterns for what is below them; the deeper file decides
    CACHEDIR.TAG, markers     a directory that says itself that its content is not worth keeping
    --exclude-larger-than     files

The content of a file comes through a function that is passed in: this opens nothing. A rule that
cannot be read leaves nothing out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from core import codec, limits
from core.errors import UsageError
from core.tree.paths import shown
from core.tree.patterns import NameRules, Patterns, anywhere

CACHE_TAG_NAME = b"CACHEDIR.TAG"
CACHE_TAG_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
PORTAL_IGNORE = b".portalignore"
GIT_IGNORE = b".gitignore"
GIT_DIRECTORY = b".git"
_ENGINE = 1  # in the fingerprint: another one when the same options come to mean something else

ReadSmall = Callable[[bytes], bytes | None]  # name in the directory -> the content of that file


@dataclass(frozen=True, slots=True)
class Marker:
    """A file whose presence says that its directory is not to be kept, perhaps by how it begins."""

    name: bytes
    header: bytes = b""

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """NAME or NAME:HEADER."""
        name, _, header = text.partition(b":")
        if name in {b"", b".", b".."} or b"/" in name or b"\0" in name:
            raise UsageError(f"{shown(text)} names no file that could mark a directory")
        return cls(name, header)


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asked for."""

    exclude: tuple[bytes, ...] = ()
    iexclude: tuple[bytes, ...] = ()
    caches: bool = False
    if_present: tuple[Marker, ...] = ()
    larger_than: int | None = None  # bytes
    gitignore: bool = False


@dataclass(frozen=True, slots=True)
class _IgnoreFile:
    """Patterns found in the tree, and where they stand."""

    directory: bytes
    content: bytes
    patterns: Patterns

    def below(self, directory: bytes) -> NameRules:
        return self.patterns.below(_relative(self.directory, directory))


@dataclass(frozen=True, slots=True)
class _InForce:
    """The files of patterns that count in a directory, the deepest first."""

    portal: tuple[_IgnoreFile, ...] = ()
    git: tuple[_IgnoreFile, ...] = ()


_NONE = _InForce()


class DirectoryRules:
    """What of one directory is left out."""

    __slots__ = ("_asked", "_found", "_in_force", "_larger_than", "_only", "is_trivial", "unread")

    def __init__(
        self,
        asked: Sequence[NameRules],
        directory: bytes,
        in_force: _InForce,
        options: Options,
        found: tuple[bytes | None, tuple[bytes, ...]] = (None, ()),
    ) -> None:
        """`found`: the marker that alone is kept, if any, and what rules could not be read."""
        self._asked = [rules for rules in asked if rules.has_rules]
        files = [file.below(directory) for file in in_force.portal + in_force.git]
        self._found = [rules for rules in files if rules.has_rules]
        self._in_force = in_force
        self._larger_than = options.larger_than
        self._only, self.unread = found
        self.is_trivial = not (
            self._asked or self._found or self._larger_than is not None or self._only is not None
        )

    def excludes(self, name: bytes, is_directory: bool, size: int) -> bool:  # noqa: FBT001
        """Whether to leave this name out, and all that is below it. Only files have a size."""
        if self._only is not None and name != self._only:
            return True
        if self._larger_than is not None and size > self._larger_than and not is_directory:
            return True
        kept = False
        for rules in self._asked:
            verdict = rules.verdict(name, is_directory=is_directory)
            if verdict:
                return True
            kept = kept or verdict is False
        if kept:
            return False
        for rules in self._found:
            verdict = rules.verdict(name, is_directory=is_directory)
            if verdict is not None:
                return verdict
        return False

    @property
    def fingerprint(self) -> bytes:
        """What was found on the way and counts here, to be hashed: b"" if nothing was.

        When it changes, a directory that itself did not change may have other things left out.
        """
        if self._in_force is _NONE and self._only is None:
            return b""
        both = (self._in_force.portal, self._in_force.git)
        return codec.encode(
            [self._only, *([[f.directory, f.content] for f in files] for files in both)]
        )


class Exclusion:
    """The rules of one backup.

    A directory is begun before what is below it: the rules it holds are remembered until it is
    begun again. Directories of different trees may come in any order, from any thread.
    """

    def __init__(self, options: Options) -> None:
        if options.larger_than is not None and options.larger_than < 0:
            raise UsageError("a size cannot be negative", where="exclude-larger-than")
        self._options = options
        given = ((options.exclude, False), (options.iexclude, True))
        self._asked = [
            Patterns(map(anywhere, patterns), ignore_case=ignore_case)
            for patterns, ignore_case in given
            if patterns
        ]
        self._in_force: dict[bytes, _InForce] = {}  # of directories that differ from those above

    @property
    def fingerprint(self) -> bytes:
        """The rules themselves, to be hashed: when they change, nothing may be skipped unseen."""
        options = self._options
        return codec.encode(
            [
                _ENGINE,
                list(options.exclude),
                list(options.iexclude),
                options.caches,
                [[marker.name, marker.header] for marker in options.if_present],
                options.larger_than,
                options.gitignore,
            ]
        )

    def begin(
        self, directory_path: bytes, names: Sequence[bytes], read_small: ReadSmall
    ) -> DirectoryRules:
        """The rules for the names of one directory, given by its absolute path.

        `read_small` gives the content of a regular file of this directory by its name: at least
        its first IGNORE_FILE_BYTES_MAX + 1 bytes, or nothing if it cannot be read. It is asked for
        files that hold rules only. A directory a person named is just begun: whether it is itself
        left out is nobody's question.
        """
        unread: list[bytes] = []

        def read(name: bytes) -> bytes | None:
            content = read_small(name)
            if content is None:
                unread.append(name)
            return content

        in_force = self._begin_files(directory_path, names, read, unread)
        only = self._marker(names, read)
        below = directory_path.strip(b"/")
        asked = [patterns.below(below) for patterns in self._asked]
        found = (only, tuple(unread))
        return DirectoryRules(asked, directory_path, in_force, self._options, found)

    def _begin_files(
        self,
        directory: bytes,
        names: Sequence[bytes],
        read: ReadSmall,
        unread: list[bytes],
    ) -> _InForce:
        """The files of patterns that count here: those of this directory and of those above."""
        self._in_force.pop(directory, None)
        above = self._above(directory)

        def with_own(name: bytes, inherited: tuple[_IgnoreFile, ...]) -> tuple[_IgnoreFile, ...]:
            content = read(name) if name in names else None
            if content is None:
                return inherited
            if len(content) > limits.IGNORE_FILE_BYTES_MAX:
                unread.append(name)
                return inherited
            return (_IgnoreFile(directory, content, Patterns.of_file(content)), *inherited)

        portal = with_own(PORTAL_IGNORE, above.portal)
        git = above.git
        if self._options.gitignore:
            # Another repository begins: git would not look beyond it either.
            git = with_own(GIT_IGNORE, () if git and GIT_DIRECTORY in names else git)
        if portal is above.portal and git is above.git:
            return above
        here = self._in_force[directory] = _InForce(portal, git) if portal or git else _NONE
        return here

    def _above(self, directory: bytes) -> _InForce:
        while self._in_force and directory not in {b"", b"/"}:
            directory = directory.rpartition(b"/")[0] or b"/"
            found = self._in_force.get(directory)
            if found is not None:
                return found
        return _NONE

    def _marker(self, names: Sequence[bytes], read: ReadSmall) -> bytes | None:
        """The one name of this directory that is kept, if it says that the others need not be."""
        for marker in self._markers():
            if marker.name not in names:
                continue
            if not marker.header or (read(marker.name) or b"").startswith(marker.header):
                return marker.name
        return None

    def _markers(self) -> Iterable[Marker]:
        if self._options.caches:
            yield Marker(CACHE_TAG_NAME, CACHE_TAG_SIGNATURE)
        yield from self._options.if_present


def _relative(base: bytes, directory: bytes) -> bytes:
    return directory[len(base) :].strip(b"/")
