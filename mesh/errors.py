"""What can go wrong between two nodes, beside malformed bytes (core/errors.py).

    LinkError                   a connection to a node cannot be made or kept    retry later
    |- Unreachable              nobody answers at these addresses
    |- LinkClosed               it was open and has ended; says by whom and why
    '- NotTrusted               what answers is not who was meant, or may not    do not retry
     '- TurnedAway            it is who was meant, and does not let us in    a person should know

Each class is a decision of the caller: dial again later, or tell a person.
"""

from core.errors import PortalError


class LinkError(PortalError):
    """The connection to this node failed."""

    retryable = True


class Unreachable(LinkError):
    """Nobody answers at this address."""


class LinkClosed(LinkError):
    """The connection has ended."""


class NotTrusted(LinkError):
    """What answers is not the node that was meant, or may not connect."""

    retryable = False


class TurnedAway(NotTrusted):
    """The node that was meant does not let this one in."""

    def __init__(self, word: str) -> None:
        super().__init__(f"the peer does not let this node in: {word}")
        self.word = word
