"""What can go wrong with a vault, beyond what core/errors.py says."""

from typing import ClassVar

from core.errors import IntegrityError, PortalError


class NoVault(PortalError):
    """There is no vault here."""

    exit_code: ClassVar[int] = 10


class NotOurs(PortalError):
    """This vault belongs to another device."""

    exit_code: ClassVar[int] = 12


class NoSnapshot(PortalError):
    """No snapshot is called so."""


class Missing(IntegrityError):
    """Something the vault should hold is not there."""


class Moved(PortalError):
    """The vault was changed underneath; what was being done has to be done again."""

    retryable = True
