"""Whether this node remembers all it ever wrote: only then may it write (mesh/SPEC.md, Sync).

Operations are numbered by their author, and two of one number suspend the device that signed them.
A node that has forgotten some, as its files came back from a copy or were damaged, would write just
such a second one with the next thing it says. So it looks back before the first:

    whole     the files are as this node left them: it listens to whoever can be reached at once,
              and writes after a moment even if nobody can (a disk that was put back as a whole
              passes for whole)
    else      it writes nothing before it knows all that every member knows

From then on it remembers what it writes for as long as it runs.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar

from core import limits
from core.errors import PortalError
from core.ids import NodeId
from mesh.members.authoring import NotAllowed
from mesh.members.membership import Membership
from mesh.members.rules import Void

_NAMES_TOLD = 4


class Forgetful(NotAllowed):
    """This node may have forgotten what it wrote: to others, it is as if it might not write."""

    retryable: ClassVar[bool] = True

    def __init__(self, what: str, hint: str) -> None:
        PortalError.__init__(self, what, hint=hint)
        self.reason = Void.AUTHOR


class Recollection:
    """What one process of a node knows of its own past."""

    def __init__(
        self,
        membership: Membership,
        own: NodeId,
        *,
        is_whole: bool = True,
        near: Callable[[], Iterable[NodeId]] | None = None,
    ) -> None:
        self.is_whole = is_whole
        self.is_sure = False  # and stays so
        self._membership = membership
        self._own = own
        self._near = near or self._others
        self._heard: set[NodeId] = set()

    @property
    def has_heard(self) -> bool:
        """Whether anybody has told all it knows."""
        return bool(self._heard)

    def heard(self, node: NodeId) -> None:
        """All that this member knows is known here."""
        self._heard.add(node)
        self.look()

    def waited(self) -> None:
        """Whoever can be reached has had the time to say something."""
        if self.is_whole:
            self.is_sure = True

    def insist(self) -> None:
        """A person says that who has not been heard never will be: the risk is this device's."""
        self.is_sure = True

    def look(self) -> bool:
        """Whether all is remembered by now; to be asked again when members have changed."""
        if not self.is_sure:
            others = self._others()
            missing = self._missing()
            if len(others) > limits.LINKS_KEPT_MAX:  # what one of so many has heard, most have
                self.is_sure = 2 * len(missing) < len(set(self._near()))
            elif others or self.is_whole:
                self.is_sure = not missing
        return self.is_sure

    def check(self) -> None:
        """Forgetful, unless it may write."""
        if not self.look():
            raise Forgetful(self._what(), self._hint())

    def complaint(self) -> str | None:
        """What should be told to people for as long as it lasts."""
        if self.is_whole or self.look():
            return None
        return f"{self._what()} ({self._hint()})"

    def _others(self) -> list[NodeId]:
        active = (one.node for one in self._membership.members() if one.is_active)
        return [node for node in active if node != self._own]

    def _missing(self) -> list[NodeId]:
        active = set(self._others())
        return sorted(set(self._near()) & active - self._heard)

    def _what(self) -> str:
        if self.is_whole:
            return "the others have not said yet what they know of this machine"
        return (
            "its files here were put back from a copy, moved or damaged:"
            " this machine decides nothing before the others have told what it wrote"
        )

    def _hint(self) -> str:
        if not self._others():
            return (
                "it knows nobody it could ask; if nobody can have joined since:"
                " portal mesh proceed; else portal recover ADDRESS"
            )
        missing = [self._membership.member(node) for node in self._missing()]
        names = [one.name for one in missing if one is not None]
        more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
        told = ", ".join(names[:_NAMES_TOLD])
        return f"not heard yet: {told}{more}; if they are gone for good: portal mesh proceed"
