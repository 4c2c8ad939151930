"""What several admins are asked to sign, as a command shows it and signs it.

What a person signs is what that person was shown: the act is made from the fields that were told,
shown in words made from it, and signed as it is. Nobody signs bytes somebody has handed over.
"""

from typing import NamedTuple

from core.crypto import SigningKey
from core.errors import FormatError
from core.ids import MeshId, NodeId, UserId
from mesh.members import bodies
from mesh.members.bodies import (
    Context,
    Drop,
    Grant,
    Kind,
    Reason,
    RevokeUser,
    SuspendDevice,
    UserRole,
)
from mesh.members.operation import Proposal
from node import api

_KINDS = {
    "revoke": Kind.REVOKE_USER,
    "grant": Kind.GRANT,
    "drop": Kind.DROP,
    "suspend": Kind.SUSPEND_DEVICE,
    "unsuspend": Kind.SUSPEND_DEVICE,
}
_REASONS = {Reason.LEFT: "left", Reason.REMOVED: "removed", Reason.COMPROMISED: "compromised"}
_GROUPS_SHOWN = 3  # of an id: too many for anybody to find a second that begins the same
_ROLES = {
    UserRole.MEMBER: "a member again",
    UserRole.ADMITTER: "an admitter",
    UserRole.ADMIN: "an admin",
}


class Asked(NamedTuple):
    """An act, and what people are told beside it."""

    proposal: Proposal
    told: api.Draft

    @classmethod
    def read_untrusted(cls, told: api.Draft) -> "Asked":
        """What these fields say, and nothing else."""
        kind = _KINDS.get(told.act)
        if kind is None:
            raise FormatError(f"a draft of {told.act!r}, which this command does not know")
        user = UserId.parse_untrusted(told.user)
        row: tuple[object, ...] = (user, told.role)
        if kind == Kind.REVOKE_USER:
            row = (user, told.reason, _hex_untrusted(told.cut))
        elif kind == Kind.SUSPEND_DEVICE:
            lifts = _hex_untrusted(told.lifts)
            if bool(lifts) != (told.act == "unsuspend"):
                raise FormatError("a draft that says two things")
            row = (user, NodeId.parse_untrusted(told.node), lifts, b"")
        mesh = MeshId.parse_untrusted(told.mesh)
        nobody = NodeId(bytes(NodeId.SIZE))  # who will publish it plays no part
        body = bodies.read_untrusted(kind, row, Context(mesh, nobody))
        parents = tuple(_hex_untrusted(one) for one in told.parents)
        return cls(Proposal(mesh, kind, parents, body), told)

    def words(self) -> str:
        """What is signed, for people; the id says who that is, whatever machines are called."""
        body, told = self.proposal.body, self.told
        if isinstance(body, SuspendDevice):
            device = f"the device {named(body.node.text(), told.name)}"
            return f"let {device} back" if body.lifts else f"stop {device} for the time being"
        assert isinstance(body, RevokeUser | Grant | Drop)
        count = f" ({len(told.devices)} devices)" if len(told.devices) > 1 else ""
        whom = f"the person {named(body.user.text(), told.name)}{count}"
        if isinstance(body, Grant):
            return f"make {whom} {_ROLES[body.role]}"
        if isinstance(body, Drop):
            kept = "a plain member" if body.role == UserRole.ADMITTER else "no admin any more"
            return f"make {whom} {kept}"
        words = f"put {whom} out for good (reason: {_REASONS[body.reason]})"
        if not body.cut:
            return words
        return f"{words}; nothing they did after operation {body.cut.hex()[:8]} counts"

    def signed(self, key: SigningKey) -> bytes:
        """The signature of the user key."""
        return self.proposal.cosigned(key, UserId(key.public)).signature


def named(who: str, name: str) -> str:
    """Somebody in what people are to sign: by id, then the name, in quotes that it cannot end."""
    shown = "-".join(who.split("-")[:_GROUPS_SHOWN])
    plain = name.replace('"', "'")
    return f'{shown} "{plain}"'


def _hex_untrusted(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise FormatError("this is not hexadecimal") from None
