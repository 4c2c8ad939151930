"""What can go wrong, said once: whose fault, whether to retry, what to do.

    PortalError                  anything a person may be told in one line
    |- UsageError                the command was not understood             exit 2
    |- FormatError               outside bytes are malformed                exit 1
    |  |- LimitExceeded          they pass a bound in core/limits.py
    |  '- NewerFormat            made by a newer Portal                     exit 13
    |- IntegrityError            well-formed, but a hash, seal or signature disagrees
    |  '- WrongKey               no key given opens it                      exit 12
    |- NotEnoughShards           fewer than k pieces survive                exit 6
    |- KeystoreError             a slot cannot be added, used or removed
    '- Unavailable               a library or service this needs is not here

A class exists when a caller decides by it; everything else is a message. The docstring is the
message when no better one is given. Names of files and next commands go in `where` and `hint`;
secrets go nowhere.
"""

from typing import ClassVar, Self


class PortalError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(
        self, what: str | None = None, *, where: str | None = None, hint: str | None = None
    ) -> None:
        self.what = what or (type(self).__doc__ or "").partition("\n")[0].rstrip(".")
        self.where = where
        self.hint = hint
        super().__init__(self.what)

    def at(self, where: str) -> Self:
        """Name the place, at the first caller who knows it, and hand the error on."""
        self.where = self.where or where
        return self

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.what}{hint}"


class UsageError(PortalError):
    """The command was not understood."""

    exit_code = 2


class FormatError(PortalError):
    """These bytes are not what they should be."""


class LimitExceeded(FormatError):
    """These bytes ask for more than is allowed."""


class NewerFormat(FormatError):
    """This was made by a newer Portal; update this one to read it."""

    exit_code = 13


class IntegrityError(PortalError):
    """The bytes were changed since they were sealed."""


class WrongKey(IntegrityError):
    """No key given here opens this."""

    exit_code = 12


class NotEnoughShards(PortalError):
    """Too few shards survive to rebuild the data."""

    exit_code = 6


class KeystoreError(PortalError):
    """The keystore cannot do this."""


class Unavailable(PortalError):
    """Something this needs is not installed or not running."""
