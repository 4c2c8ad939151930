r"""Patterns that say which names to leave out: those of .gitignore, to the letter.

    *  ?  [a-z]   within one name, byte by byte      **/x  x  a/**/x  a/**   across directories
    /x  a/x       from where the pattern stands      x/    directories only
    !x            keep it after all                  \x    the byte itself

The last pattern that matches decides. A pattern is taken apart once: a test for the directory and
a test for the name in it. So what cannot match in a directory costs nothing there, and no name is
ever joined to a path. The regular expressions inside cannot run away: every star but the last of
a name takes the first chance it gets and never gives it back.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from core import limits
from core.errors import UsageError
from core.tree.paths import shown

_SPECIAL = b"*?[\\"
_ANY = b"[^/]"
_CLASSES: dict[bytes, Callable[[bytes], bool]] = {
    b"alnum": bytes.isalnum,
    b"alpha": bytes.isalpha,
    b"blank": lambda c: c in b" \t",
    b"cntrl": lambda c: c < b" " or c == b"\x7f",
    b"digit": bytes.isdigit,
    b"graph": lambda c: b" " < c < b"\x7f",
    b"lower": bytes.islower,
    b"print": lambda c: b" " <= c < b"\x7f",
    b"punct": lambda c: b" " < c < b"\x7f" and not c.isalnum(),
    b"space": lambda c: c in b" \t\n\v\f\r",
    b"upper": bytes.isupper,
    b"xdigit": lambda c: c in b"0123456789abcdefABCDEF",
}
_BYTES = [bytes((value,)) for value in range(256)]


class _BadPattern(ValueError):
    """The pattern can never match; the message says why."""


@dataclass(frozen=True, slots=True)
class _Token:
    """One step of a pattern."""

    kind: str  # "one" byte of a set, "slash", "star", "deep" or "deep slash"
    regex: bytes = b""
    literal: bytes = b""  # the byte, where there is one only


_SLASH = _Token("slash", b"/", b"/")
_STAR = _Token("star")
_DEEP = _Token("deep")  # any number of bytes, slashes among them
_DEEP_SLASH = _Token("deep slash")  # any number of whole names, none included


@dataclass(frozen=True, slots=True)
class _Test:
    """Whether a directory, or a name, is meant: an equal one, or one a regular expression fits."""

    literal: bytes | None
    regex: bytes
    ending: bytes = b""  # of `*.txt` and the like: all there is to be looked at in a name


@dataclass(frozen=True, slots=True)
class _Rule:
    """One pattern, or one reading of it."""

    rank: int  # the highest that matches decides
    negated: bool
    directories_only: bool
    directory: _Test | None  # of the path from where the patterns stand, with a slash at its end
    name: _Test


class NameRules:
    """The patterns that can match in one directory."""

    __slots__ = ("_folds", "_kinds", "has_rules")

    def __init__(self, rules: Sequence[_Rule], *, folds: bool) -> None:
        self.has_rules = bool(rules)
        self._folds = folds
        files = [rule for rule in rules if not rule.directories_only]
        self._kinds = (_Choice(files, folds=folds), _Choice(rules, folds=folds))

    def verdict(self, name: bytes, *, is_directory: bool) -> bool | None:
        """True: leave it out. False: a pattern with `!` keeps it. None: no pattern matches."""
        return self._kinds[is_directory].verdict(fold(name) if self._folds else name)


class _Choice:
    """Of several rules, the last that fits a name.

    Whole names and endings are looked up in tables, the other rules are one regular expression.
    """

    __slots__ = ("_endings", "_exact", "_negated", "_ranks", "_regex")

    def __init__(self, rules: Sequence[_Rule], *, folds: bool) -> None:
        self._exact: dict[bytes, int] = {}
        self._endings: dict[int, dict[bytes, int]] = {}  # by their length
        self._negated = {rule.rank: rule.negated for rule in rules}
        wild = []
        for rule in sorted(rules, key=lambda rule: rule.rank):
            if rule.name.literal is not None:
                self._exact[rule.name.literal] = rule.rank
            elif rule.name.ending:
                ending = rule.name.ending
                self._endings.setdefault(len(ending), {})[ending] = rule.rank
            else:
                wild.append(rule)
        wild.reverse()  # of alternatives, the first that fits is taken
        self._ranks = [rule.rank for rule in wild]
        together = b"|".join(b"(" + rule.name.regex + b")" for rule in wild)
        self._regex = re.compile(together, _flags(folds=folds)) if wild else None

    def verdict(self, name: bytes) -> bool | None:
        rank = self._exact.get(name, -1)
        for size, endings in self._endings.items():
            rank = max(rank, endings.get(name[-size:], -1))
        if self._regex is not None and (found := self._regex.fullmatch(name)) is not None:
            rank = max(rank, self._ranks[(found.lastindex or 1) - 1])
        return None if rank < 0 else not self._negated[rank]


class Patterns:
    """Patterns that stand in one place, ready to be asked about every directory below it."""

    def __init__(
        self, patterns: Iterable[bytes], *, ignore_case: bool = False, strict: bool = True
    ) -> None:
        """With `strict`, a pattern that can never match is refused; without, it never matches."""
        rules: list[_Rule] = []
        for rank, pattern in enumerate(patterns):
            try:
                rules += _rules(fold(pattern) if ignore_case else pattern, rank)
            except _BadPattern as e:
                if strict:
                    raise UsageError(f"the pattern {shown(pattern)} never matches: {e}") from None
        self._folds = ignore_case
        self._everywhere = [rule for rule in rules if rule.directory is None]
        self._in_one: dict[bytes, list[_Rule]] = {}
        self._in_some: list[tuple[re.Pattern[bytes], _Rule]] = []
        for rule in rules:
            if rule.directory is None:
                continue
            if rule.directory.literal is not None:
                self._in_one.setdefault(rule.directory.literal, []).append(rule)
            else:
                regex = re.compile(rule.directory.regex, _flags(folds=ignore_case))
                self._in_some.append((regex, rule))
        self._made: dict[tuple[int, ...], NameRules] = {}

    @classmethod
    def of_file(cls, content: bytes) -> "Patterns":
        """The patterns of a .gitignore; as in git, a line that makes no sense matches nothing."""
        return cls(lines(content), strict=False)

    def below(self, directory: bytes) -> NameRules:
        """What can match in this directory: its path from where the patterns stand, b"" for that.

        Directories with the same patterns share one answer.
        """
        text = directory + b"/" if directory else b""
        if self._folds:
            text = fold(text)
        here = self._in_one.get(text, ())
        found = [*here, *(rule for regex, rule in self._in_some if regex.fullmatch(text))]
        key = tuple(map(id, found))  # rules live as long as this does
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= limits.PATTERN_SETS_CACHED_MAX:
                self._made.clear()
            made = self._made[key] = NameRules([*self._everywhere, *found], folds=self._folds)
        return made

    def verdict(self, path: bytes, *, is_directory: bool) -> bool | None:
        """The same for one path; a scan asks `below` once per directory instead."""
        directory, _, name = path.rpartition(b"/")
        return self.below(directory).verdict(name, is_directory=is_directory)


def lines(content: bytes) -> list[bytes]:
    """The patterns of a file of patterns: without comments, empty lines and blanks at the end."""
    found = []
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        pattern = _without_blanks_at_end(line.removesuffix(b"\r"))
        if pattern and not pattern.startswith(b"#"):
            found.append(pattern)
    return found


def anywhere(pattern: bytes) -> bytes:
    """A pattern of the command line: what does not begin with a slash may begin at any depth.

    Only `a/b` needs a change; git would look for it in one place.
    """
    negation, bare = (b"!", pattern[1:]) if pattern.startswith(b"!") else (b"", pattern)
    if bare.startswith((b"/", b"**/")) or b"/" not in bare.rstrip(b"/"):
        return pattern
    return negation + b"**/" + bare


def fold(text: bytes) -> bytes:
    """The same for names that differ in case only; broken UTF-8 stays as it is."""
    if text.isascii():
        return text.lower()
    return text.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")


def _flags(*, folds: bool) -> int:
    return re.DOTALL | re.IGNORECASE if folds else re.DOTALL


def _without_blanks_at_end(line: bytes) -> bytes:
    """Blanks go, unless a backslash before the first of them says that they belong to the name."""
    end = at = 0
    while at < len(line):
        if line[at : at + 1] == b"\\":
            at += 1
            end = at + 1
        elif line[at : at + 1] != b" ":
            end = at + 1
        at += 1
    return line[:end]


def _rules(pattern: bytes, rank: int) -> list[_Rule]:
    """What one pattern means."""
    if len(pattern) > limits.PATTERN_BYTES_MAX:
        raise _BadPattern(f"it has more than {limits.PATTERN_BYTES_MAX} bytes")
    if b"\0" in pattern:
        raise _BadPattern("no name has a NUL in it")
    negated = pattern.startswith(b"!")
    bare = pattern[1:] if negated else pattern
    directories_only = bare.endswith(b"/")
    bare = bare.removesuffix(b"/")
    in_place = b"/" in bare
    tokens = _tokens(bare.removeprefix(b"/"), crosses=in_place)
    if not tokens:
        raise _BadPattern("it names nothing")
    if not in_place:
        return [_Rule(rank, negated, directories_only, None, _test(tokens))]
    rules = []
    for reading in _readings(tokens):
        above, last = _cut(reading)
        if last:
            directory = None if above == [_DEEP_SLASH] else _test(above)
            rules.append(_Rule(rank, negated, directories_only, directory, _test(last)))
    if not rules:
        raise _BadPattern("it names nothing")
    return rules


def _cut(tokens: list[_Token]) -> tuple[list[_Token], list[_Token]]:
    """What a pattern says of the directory, and of the name: cut behind its last slash."""
    if tokens[-1] == _DEEP:  # a/** is anything, at any depth below a
        return [*tokens[:-1], _DEEP_SLASH], [_STAR]
    ends = (i + 1 for i, token in enumerate(tokens) if token in {_SLASH, _DEEP_SLASH})
    end = max(ends, default=0)
    return tokens[:end], tokens[end:]


def _readings(tokens: list[_Token]) -> list[list[_Token]]:
    """Patterns in which `**` follows a name directly, as in `a/b**/c`, as two without.

    git takes a literal beginning off a pattern before it looks for stars. What is left begins
    with `**/`, so that names none, too: `a/b**/c` is `a/bc` or `a/b*/c` or deeper.
    """
    for i, token in enumerate(tokens):
        if not (i and _reaches_far(token) and tokens[i - 1] not in {_SLASH, _DEEP_SLASH}):
            continue
        before, after = tokens[:i], tokens[i + 1 :]
        if token == _DEEP_SLASH:
            return [*_readings(before + after), [*before, _DEEP, _SLASH, *after]]
        if not after:
            return [[*before, _STAR], [*before, _DEEP, _SLASH, _DEEP_SLASH, _STAR]]
    return [tokens]


def _reaches_far(token: _Token) -> bool:
    return token in {_DEEP, _DEEP_SLASH}


def _tokens(pattern: bytes, *, crosses: bool) -> list[_Token]:
    """The steps of a pattern; `**` means more than `*` only where `crosses` is set."""
    tokens: list[_Token] = []
    first_special = min((i for i, c in enumerate(pattern) if c in _SPECIAL), default=-1)
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        if byte == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            opens = at == first_special or pattern[at - 1 : at] == b"/"
            closes = end == len(pattern) or pattern[end:].startswith((b"/", b"\\/"))
            if not (crosses and end - at > 1 and opens and closes):
                tokens.append(_STAR)
            elif pattern[end : end + 1] == b"/":
                tokens.append(_DEEP_SLASH)
                end += 1
            else:
                tokens.append(_DEEP)
            at = end
        elif byte == b"[":
            allowed, at = _bracket(pattern, at + 1)
            tokens.append(_Token("one", _one_of(allowed - {b"/"})))
        elif byte == b"?":
            tokens.append(_Token("one", _ANY))
            at += 1
        else:
            byte, at = _plain(pattern, at)
            tokens.append(_SLASH if byte == b"/" else _Token("one", re.escape(byte), byte))
    return tokens


def _bracket(pattern: bytes, at: int) -> tuple[set[bytes], int]:
    """The bytes between brackets, and where the pattern goes on. A `]` may stand first."""
    negated = pattern[at : at + 1] in {b"!", b"^"}
    start = at = at + negated
    allowed: set[bytes] = set()
    previous = b""  # what a range may begin with
    while True:
        byte = pattern[at : at + 1]
        if not byte:
            raise _BadPattern("a bracket is not closed")
        if byte == b"]" and at > start:
            break
        if byte == b"-" and previous and pattern[at + 1 : at + 2] not in {b"", b"]"}:
            last, at = _plain(pattern, at + 1)
            allowed |= {c for c in _BYTES if previous <= c <= last}
            previous = b""
        elif pattern[at : at + 2] == b"[:" and (named := _class_name(pattern, at + 2)) is not None:
            if named not in _CLASSES:
                raise _BadPattern(f"there is no class [:{shown(named)}:]")
            allowed |= {c for c in _BYTES if c < b"\x80" and _CLASSES[named](c)}
            previous = b""
            at += len(named) + 4
        else:
            previous, at = _plain(pattern, at)
            allowed.add(previous)
    return (set(_BYTES) - allowed if negated else allowed), at + 1


def _plain(pattern: bytes, at: int) -> tuple[bytes, int]:
    """A byte that stands for itself, perhaps behind a backslash, and where the pattern goes on."""
    if pattern[at : at + 1] == b"\\":
        at += 1
    if at >= len(pattern):
        raise _BadPattern("it ends too early")
    return pattern[at : at + 1], at + 1


def _class_name(pattern: bytes, at: int) -> bytes | None:
    """The name of a [:class:]; nothing if what stands there is none."""
    end = pattern.find(b"]", at)
    if end < 0:
        raise _BadPattern("a bracket is not closed")
    return pattern[at : end - 1] if end > at and pattern[end - 1 : end] == b":" else None


def _one_of(allowed: set[bytes]) -> bytes:
    if not allowed:
        return b"(?!)"
    return b"[" + b"".join(re.escape(c) for c in sorted(allowed)) + b"]"


def _test(tokens: Sequence[_Token]) -> _Test:
    if all(token.literal for token in tokens):
        return _Test(b"".join(token.literal for token in tokens), b"")
    literals = [token.literal for token in tokens[1:]]
    ending = b"".join(literals) if tokens[0] == _STAR and all(literals) else b""
    return _Test(None, _regex(tokens), ending)


def _regex(tokens: Sequence[_Token]) -> bytes:
    """The regular expression of these steps.

    Stars are grouped with what follows them, up to the next star of the same reach. Each such
    group may take its first chance and keep it (an atomic group): between two `**` stands a fixed
    number of slashes, between two `*` of a name anything, so an earlier end leaves the rest more.
    """
    parts: list[list[_Token]] = [[]]
    for token in tokens:
        if _reaches_far(token):
            parts.append([])
        parts[-1].append(token)
    texts = [_names(part) for part in parts]
    kept = [b"(?>" + text + b")" if i else text for i, text in enumerate(texts[:-1])]
    return b"".join([*kept, texts[-1]])


def _names(tokens: Sequence[_Token]) -> bytes:
    """Steps with at most one `**`, at their start."""
    deep = {"deep": b".*?", "deep slash": b"(?:.*?/)??"}
    made = b"".join(deep.get(token.kind, b"") for token in tokens[:1])
    rest = tokens[1:] if made else tokens
    group: list[_Token] = []
    for token in [*rest, _SLASH]:
        group.append(token)
        if token == _SLASH:
            made += _name(group)
            group = []
    return made.removesuffix(b"/")


def _name(tokens: Sequence[_Token]) -> bytes:
    """The steps of one name, with the slash behind it."""
    stars = [i for i, token in enumerate(tokens) if token == _STAR]
    if not stars:
        return b"".join(token.regex for token in tokens)
    made = b"".join(token.regex for token in tokens[: stars[0]])
    for start, end in zip(stars, [*stars[1:], len(tokens)], strict=True):
        text = _ANY + b"*?" + b"".join(token.regex for token in tokens[start + 1 : end])
        made += b"(?>" + text + b")" if end < len(tokens) else text
    return made
