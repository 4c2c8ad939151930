"""What the node says while it runs: one line per event, for people, for journald, for machines.

    2026-11-21T14:56:51.123Z info control: door opened path=/home/ann/portal/node.sock
    <6>control: door opened path=/home/ann/portal/node.sock                          under systemd
    {"v":1,"at":"2026-11-21T14:56:51.123Z","level":"info","part":"control","event":"door ...}

An event is a few fixed words, its facts are named values. Only values of known kinds are shown:
bytes by their length, everything unknown by its type, so that no key gets into a line by accident;
texts lose what looks like an invite or a recovery kit. Of one kind of event so many lines a minute
are written and the rest is counted, so nobody can fill the disk by knocking.
"""

import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from enum import Enum, IntEnum, StrEnum, unique
from pathlib import PurePath

from core import limits
from core.errors import PortalError
from core.ids import Id

_RESERVED = frozenset({"v", "at", "level", "part", "event"})
_PLAIN = re.compile(r"[\w./:@+,%~*-]+")
_BEARERS = re.compile(r"\b(pn[a-z]1-)[0-9a-z-]+", re.IGNORECASE)  # who has the text has the right
_SECRET_NAMES = frozenset({"code", "invite", "key", "passphrase", "password", "phrase", "secret"})
_SECRET_NAMES |= {"token", "voucher"}
_HIDDEN = "<hidden>"
_WINDOW_S = 60.0
_FRAMES_MAX = 8


@unique
class Level(IntEnum):
    """How much it matters, with the numbers of the standard library."""

    DEBUG = 10  # for those who look for a fault
    INFO = 20  # what the owner would tell a friend
    WARNING = 30  # someone should look
    ERROR = 40  # data or duty at risk

    @property
    def word(self) -> str:
        """As it is written."""
        return self.name.lower()


LEVELS = {level.word: level for level in Level}
_SYSLOG = {Level.DEBUG: 7, Level.INFO: 6, Level.WARNING: 4, Level.ERROR: 3}


@unique
class Form(StrEnum):
    """What a line looks like."""

    TEXT = "text"
    JOURNAL = "journal"  # which adds time and name by itself, and wants the level as a number
    JSON = "json"


class Sink:
    """Where the lines of all parts go. May be used from any thread."""

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        form: Form = Form.TEXT,
        level: Level = Level.INFO,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.level = level
        self.counts = dict.fromkeys(Level, 0)  # of all events, written or not
        self.form = form
        self._write = write
        self._now = now
        self._limiter = Limiter()
        self._lock = threading.Lock()

    def tell(
        self, level: Level, part: str, event: str, facts: Mapping[str, object], kind: str = ""
    ) -> None:
        """One line, unless there were too many of its kind; debugging lines are never held back."""
        with self._lock:
            self.counts[level] += 1
            if level < self.level:
                return
            now = self._now()
            if level > Level.DEBUG:
                admitted, held_back = self._limiter.admit(f"{part}: {kind or event}", now)
                for what, count in held_back:
                    self._line(now, Level.WARNING, "log", "lines held back", what=what, count=count)
                if not admitted:
                    return
            self._line(now, level, part, event, **facts)

    def close(self) -> None:
        """Tell what was held back so far."""
        with self._lock:
            for what, count in self._limiter.finish():
                now = self._now()
                self._line(now, Level.WARNING, "log", "lines held back", what=what, count=count)

    def _line(self, now: float, level: Level, part: str, event: str, **facts: object) -> None:
        with suppress(OSError, ValueError):  # nobody reads any more: that must not end the node
            self._write(line(self.form, now, level, part, event, facts))


class Log:
    """What one part of the node writes to."""

    __slots__ = ("_part", "sink")

    def __init__(self, sink: Sink, part: str = "node") -> None:
        self.sink = sink
        self._part = part

    def part(self, name: str) -> "Log":
        """The log of another part."""
        return Log(self.sink, name)

    def debug(self, event: str, /, **facts: object) -> None:
        """For those who look for a fault."""
        self.sink.tell(Level.DEBUG, self._part, event, facts)

    def info(self, event: str, /, **facts: object) -> None:
        """What the owner would tell a friend."""
        self.sink.tell(Level.INFO, self._part, event, facts)

    def warning(self, event: str, /, **facts: object) -> None:
        """Someone should look."""
        self.sink.tell(Level.WARNING, self._part, event, facts)

    def error(self, event: str, /, **facts: object) -> None:
        """Data or duty at risk."""
        self.sink.tell(Level.ERROR, self._part, event, facts)


class Limiter:
    """So many of one kind in a minute; counts the others. Of bounded size, and without a clock.

    A minute begins with the first of a kind. What was held back in it is told by the first event
    of any kind after it.
    """

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}  # the oldest first

    def admit(self, kind: str, now: float) -> tuple[bool, list[tuple[str, int]]]:
        """Whether to write this one; and what is to be told of earlier ones first."""
        told = self._expire(now)
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= limits.LOG_KINDS_MAX:
                told += self._drop(next(iter(self._windows)))
            window = self._windows[kind] = _Window(now)
        window.count += 1
        return window.count <= limits.LOG_LINES_MAX, told

    def finish(self) -> list[tuple[str, int]]:
        """What was held back and not told yet."""
        return [one for kind in list(self._windows) for one in self._drop(kind)]

    def _expire(self, now: float) -> list[tuple[str, int]]:
        told: list[tuple[str, int]] = []
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if abs(now - window.began) < _WINDOW_S:  # a clock that is set back ends it, too
                break
            told += self._drop(kind)
        return told

    def _drop(self, kind: str) -> list[tuple[str, int]]:
        held_back = self._windows.pop(kind).count - limits.LOG_LINES_MAX
        return [(kind, held_back)] if held_back > 0 else []


class _Window:
    __slots__ = ("began", "count")

    def __init__(self, began: float) -> None:
        self.began = began
        self.count = 0


# --- lines ----------------------------------------------------------------------------------------


def line(
    form: Form, now: float, level: Level, part: str, event: str, facts: Mapping[str, object]
) -> str:
    """One line with its end; nothing in it can begin another or move a cursor."""
    shown = {
        f"{name}_" if name in _RESERVED else name: _shown(name, value)
        for name, value in facts.items()
        if value is not None
    }
    if form is Form.JSON:
        head = {"v": 1, "at": _time(now), "level": level.word, "part": part, "event": event}
        return json.dumps(head | shown, separators=(",", ":")) + "\n"
    start = f"<{_SYSLOG[level]}>" if form is Form.JOURNAL else f"{_time(now)} {level.word} "
    rest = "".join(f" {name}={_word(value)}" for name, value in shown.items())
    return f"{start}{part}: {event}{rest}\n"


def _time(now: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{whole}.{int(now * 1000) % 1000:03}Z"


def _shown(name: str, value: object) -> bool | float | str:
    if name in _SECRET_NAMES:
        return _HIDDEN
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool | int | float):
        return value
    text = _BEARERS.sub(rf"\1{_HIDDEN}", _text(value))
    if len(text) > limits.LOG_VALUE_CHARS_MAX:
        text = f"{text[: limits.LOG_VALUE_CHARS_MAX]}... ({len(text)} characters)"
    return text


def _text(value: object) -> str:  # noqa: PLR0911 - a table of kinds
    """A value of a kind that is known to hold no secret; of all others, their type."""
    match value:
        case str():
            return value
        case Id():
            return value.short()
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case PurePath():
            return str(value)
        case BaseException():
            return error_text(value)
        case bool() | int() | float() | None:
            return str(value)
        case Mapping():
            return ",".join(f"{_text(k)}:{_shown(_text(k), v)}" for k, v in value.items())
        case Sequence() | AbstractSet():
            return ",".join(str(_shown("", one)) for one in value)
    return f"<{type(value).__name__}>"


def error_text(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(error_text(one) for one in error.exceptions)
    if isinstance(error, PortalError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def place(error: BaseException) -> str | None:
    """Where a fault of ours happened, the innermost frame first; nothing for what is no fault."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PortalError | OSError):
        return None
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
    return " < ".join(
        f"{'/'.join(PurePath(f.filename).parts[-2:])}:{f.lineno}" for f in reversed(frames)
    )


def _word(value: bool | float | str) -> str:  # noqa: FBT001 - a fact may be one
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if _PLAIN.fullmatch(value) and value.isprintable():
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in quoted)


# --- what libraries say ---------------------------------------------------------------------------


class _Bridge(logging.Handler):
    """Lines of the standard library's logging; what libraries call information is debugging."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = Level.ERROR if record.levelno >= logging.ERROR else Level.WARNING
        if record.levelno < logging.WARNING:
            level = Level.DEBUG
        error = record.exc_info[1] if record.exc_info else None
        try:
            text = record.getMessage()
        except (TypeError, ValueError, LookupError):
            text = str(record.msg)  # its arguments do not fit
        facts = {"library": record.name, "text": text, "error": error}
        # Of one kind is what comes from one line of code, whatever a stranger put into it.
        kind = f"{record.name} {record.filename}:{record.lineno}"
        self._log.sink.tell(level, "library", "said", facts, kind)


@contextmanager
def routed(log: Log) -> Iterator[None]:
    """Let everything that libraries log, and Python warns of, come out as lines of ours."""
    root = logging.getLogger()
    handlers, level, complains = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers = [_Bridge(log)]
    root.setLevel(logging.INFO)  # debugging of libraries may show what they handle
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers, logging.raiseExceptions = handlers, complains
        root.setLevel(level)


def to_stderr(text: str) -> None:
    """Write a line where people and journald look for it."""
    if sys.stderr:  # None when the caller closed it
        sys.stderr.write(text)
        sys.stderr.flush()


def usual_form(environment: Mapping[str, str], stderr: tuple[int, int] | None) -> Form:
    """What stderr, given by its device and inode, wants: journald says which stream is its own."""
    if stderr and environment.get("JOURNAL_STREAM") == f"{stderr[0]}:{stderr[1]}":
        return Form.JOURNAL
    return Form.TEXT
