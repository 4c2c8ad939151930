"""Who belongs to the mesh, as far as links need to know it.

Links ask a `Roster` and nobody else: what a peer shows of itself, a certificate for one, never
grants it anything. Behind it stands the membership, or a fixed list.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from core.device_cert import Role
from core.ids import MeshId, NodeId, UserId


@dataclass(frozen=True, slots=True)
class Member:
    """A device that may connect now."""

    node: NodeId
    user: UserId
    roles: Role  # those that hold now
    box_public: bytes
    name: str


class Roster(Protocol):
    """The members of one mesh. Asked for each datagram: an answer is a look-up."""

    @property
    def mesh_id(self) -> MeshId:
        """Which mesh."""

    def member(self, node: NodeId) -> Member | None:
        """A member, or nothing: unknown, suspended and removed devices are alike here."""


class StaticRoster:
    """A list that somebody keeps by hand."""

    def __init__(self, mesh_id: MeshId, members: Iterable[Member]) -> None:
        self.mesh_id = mesh_id
        self._members = {member.node: member for member in members}

    def member(self, node: NodeId) -> Member | None:
        """Whoever is on the list."""
        return self._members.get(node)

    def add(self, member: Member) -> None:
        """Put a device on the list, or say what holds of it from now on."""
        self._members[member.node] = member

    def remove(self, node: NodeId) -> None:
        """Take a device off the list."""
        self._members.pop(node, None)
