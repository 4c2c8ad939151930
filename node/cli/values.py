"""Sizes and spans of time as people type them, on a command line or in the configuration."""

import re
from fractions import Fraction

from core.errors import UsageError

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s?(?:([kmgtpe])(i?b)?|b)?", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,9})\s?(s|min|h)")
_POWERS = " kmgtpe"
_SECONDS_OF = {"s": 1, "min": 60, "h": 3600}


def parse_size(text: str) -> int:
    """Bytes: `16MiB`, `5M` (the same unit, as in restic), `5MB` (a million each), `1.5G`, `700`."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is no size", hint="for example 16MiB, 5M or 700")
    number, unit, ending = found.groups()
    step = 1000 if (ending or "").lower() == "b" else 1024
    size = Fraction(number) * step ** _POWERS.index((unit or " ").lower())
    if size.denominator != 1 and not unit:
        raise UsageError(f"{text!r} is no whole number of bytes")
    return int(size)


def parse_seconds(text: str) -> int:
    """Seconds: `90s`, `10min`, `2h`. A bare number has no unit, so it says nothing."""
    found = _SECONDS.fullmatch(text.strip())
    if not found or not int(found[1]):
        raise UsageError(f"{text!r} is no time", hint="for example 90s, 10min or 2h")
    return int(found[1]) * _SECONDS_OF[found[2]]
