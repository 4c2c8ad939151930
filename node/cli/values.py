"""Sizes, times, places and names as people type them, on a command line or in the configuration."""

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from core.errors import FormatError, UsageError

if TYPE_CHECKING:
    from mesh.wire import Address

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s?(?:([kmgtpe])(i?b)?|b)?", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,9})\s?(s|min|h|d)")
_WITH_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]*)\]|([^:\[\]]*))(?::([0-9]{1,5}))?", re.ASCII)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(
    rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*(?=.*[a-z]){_LABEL}\.?", re.IGNORECASE | re.ASCII
)
_POWERS = " kmgtpe"
_SECONDS_OF = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}


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


def parse_endpoint(text: str) -> "Address":
    """Where a node may be found: `HOST`, `HOST:PORT`, `[2001:db8::1]:PORT`, or IPv6 alone."""
    from mesh.wire import Address
    from node.config import DEFAULT_PORT

    plain = text.strip()
    host, port = plain, ""
    if found := _WITH_PORT.fullmatch(plain):
        host, port = found[1] or found[2] or "", found[3] or ""
    number = int(port) if port else DEFAULT_PORT
    if not 0 < number < 65_536 or not (_is_ip(host) or _HOST.fullmatch(host)):
        hint = "for example 192.0.2.5:27272, [2001:db8::5]:27272 or nas.example.org"
        raise UsageError(f"{text!r} is no address of a node", hint=hint)
    return Address(host, number)


def _is_ip(host: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_seconds(text: str) -> int:
    """Seconds: `90s`, `10min`, `2h`, `7d`. A bare number has no unit, so it says nothing."""
    found = _SECONDS.fullmatch(text.strip())
    if not found or not int(found[1]):
        raise UsageError(f"{text!r} is no time", hint="for example 90s, 10min, 2h or 7d")
    return int(found[1]) * _SECONDS_OF[found[2]]


def parse_name(text: str) -> str:
    """What a machine is to be called: a certificate holds it, and `portal peers` shows it."""
    from core import codec, limits

    try:
        codec.as_text(text, limits.DEVICE_NAME_BYTES_MAX, "it")
    except FormatError as e:
        raise UsageError(f"{text[:80]!r} is no name for a machine: {e.what}") from None
    if not text or text != text.strip():  # nobody could type it to `portal revoke`
        raise UsageError(f"{text!r} is no name for a machine: it is empty, or has blanks around it")
    return text
