"""What a long command says while it works: a status line on a terminal, JSON lines on request.

Nothing ticks: whoever works calls `update`, and it prints when enough time has passed.
"""

import sys
import time
from typing import Any

_LINE_EVERY_S = 0.1
_JSON_EVERY_S = 1.0
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size: float) -> str:
    """Bytes for people: 1.5 GiB."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def time_text(seconds: float) -> str:
    """A duration for people: 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def since_text(then_s: float) -> str:
    """How long ago that was, for people: 3 h 12 min."""
    seconds = max(0, round(time.time() - then_s))
    days, hours, minutes = seconds // 86_400, seconds // 3_600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


class Status:
    """Progress of one command; on stderr for people, on stdout as JSON."""

    def __init__(self, *, as_json: bool, quiet: bool = False) -> None:
        self._json = as_json
        self._quiet = quiet
        self._shows = not quiet and (as_json or sys.stderr.isatty())
        self._every_s = _JSON_EVERY_S if as_json else _LINE_EVERY_S
        self._began = time.monotonic()
        self._next = self._began + self._every_s
        self._line = ""

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self._began

    @property
    def is_due(self) -> bool:
        """Whether `update` would say something now: for who has to gather what to say first."""
        return self._shows and time.monotonic() >= self._next

    def update(self, done_bytes: int, total_bytes: int, files: int, now: str = "") -> None:
        """Say how far it is, if it is time to; a total of 0 is not known."""
        if not self.is_due:
            return
        self._next = time.monotonic() + self._every_s
        rate = done_bytes / max(self.seconds, 1e-6)
        left_s = (total_bytes - done_bytes) / rate if total_bytes > done_bytes and rate else None
        if self._json:
            facts: dict[str, Any] = {"bytes": done_bytes, "files": files, "rate": round(rate)}
            if total_bytes:
                facts |= {"total_bytes": total_bytes, "seconds_left": left_s and round(left_s)}
            self.event("status", **facts)
            return
        share = f" {min(done_bytes / total_bytes, 1):.1%}" if total_bytes else ""
        eta = f" ETA {time_text(left_s)}" if left_s is not None else ""
        self._show(
            f"[{time_text(self.seconds)}]{share}  {files} files {size_text(done_bytes)}, "
            f"{size_text(rate)}/s{eta}  {now}"
        )

    def event(self, kind: str, **facts: Any) -> None:
        """A JSON line, where they are wanted."""
        if self._json:
            import json

            print(json.dumps({"v": 1, "message_type": kind, **facts}), flush=True)

    def say(self, text: str) -> None:
        """A line for people that stays."""
        if not self._json:
            self.clear()
            print(text, file=sys.stderr)

    def summary(self, text: str) -> None:
        """A closing line, for who did not ask for quiet."""
        if not self._quiet:
            self.say(text)

    def clear(self) -> None:
        """Take the status line away."""
        if self._line:
            print("\r" + " " * len(self._line) + "\r", end="", file=sys.stderr, flush=True)
            self._line = ""

    def _show(self, line: str) -> None:
        import shutil

        width = shutil.get_terminal_size().columns - 1
        shown = line[:width]
        print("\r" + shown.ljust(len(self._line)), end="", file=sys.stderr, flush=True)
        self._line = shown
