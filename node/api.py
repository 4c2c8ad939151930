"""What the node tells and is asked over its control socket, as types; all that a screen may see.

JSON over HTTP/1.1 on a Unix socket (node/SPEC.md, The control API). Paths begin with the version of
the API. An answer may gain fields, so readers pass over those they do not know; a question with an
unknown field is refused. Times are seconds since 1970, sizes are bytes, ids are their full text.
"""

from typing import Any

import msgspec

VERSION = 1
STATUS = "/v1/status"
HEALTH = "/v1/health"
METRICS = "/v1/metrics"
EVENTS = "/v1/events"
STOP = "/v1/stop"
RELOAD = "/v1/reload"
INDEX = "/v1"
LINES = "application/x-ndjson"  # one JSON object per line
JSON = "application/json"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what the node tells."""


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what the node is asked, in the body of a POST."""


class Done(Answer, frozen=True):
    """What was asked for was done, or has begun; nothing more to tell."""


class ServiceStatus(Answer, frozen=True):
    """One part of the node."""

    name: str
    state: str  # starting, running, stopping, stopped or failed
    since_s: float
    complaint: str | None = None  # why it is not well, in one line


class Status(Answer, frozen=True):
    """The node as a whole."""

    version: str
    pid: int
    home: str
    node: str
    user: str
    state: str  # starting, running or stopping
    started_s: float
    services: list[ServiceStatus]
    log_level: str
    metrics: str | None  # the address that answers /metrics, if there is one
    memory_bytes: int | None  # resident; None where the system does not tell
    cpu_s: float
    listeners: int  # of events


class Health(Answer, frozen=True):
    """Whether everything works that should."""

    ok: bool
    complaints: list[str]


class Fault(Answer, frozen=True):
    """Why a question was refused; the body of every answer with a status of 400 and above."""

    kind: str  # the class of the error, for programs
    what: str
    where: str | None = None
    hint: str | None = None
    exit_code: int = 1  # of the command that asked


class Route(Answer, frozen=True):
    """One thing that can be asked."""

    method: str
    path: str
    what: str


class EventKind(Answer, frozen=True):
    """One kind of event that may be told."""

    kind: str
    what: str


class Index(Answer, frozen=True):
    """What this node can be asked and what it tells by itself."""

    version: int
    routes: list[Route]
    events: list[EventKind]


class Event(Answer, frozen=True):
    """Something happened; one line of the stream."""

    seq: int  # counts all events of this process: a gap is an event that was not sent
    at_s: float
    kind: str
    data: msgspec.Raw

    def facts(self) -> dict[str, Any]:
        """Its data as plain values."""
        found: dict[str, Any] = msgspec.json.decode(self.data)
        return found


# --- kinds of events the frame itself has; services bring their own -------------------------------


class StreamOpened(Answer, frozen=True):
    """The first line of a stream: what happens from now on is told."""


class StreamClosed(Answer, frozen=True):
    """The last line of a stream, and why it ends: `slow` (events were missed) or `stopping`."""

    why: str


class ServiceChanged(Answer, frozen=True):
    """A part of the node is in another state."""

    service: str
    state: str


class ConfigReloaded(Answer, frozen=True):
    """The configuration was read again."""

    changed: list[str]  # what is in force now
    waiting: list[str]  # what needs a new start


# --- the mesh -------------------------------------------------------------------------------------

MESH = "/v1/mesh"
JOIN = "/v1/mesh/join"
INVITES = "/v1/mesh/invites"
INVITE = "/v1/mesh/invites/{voucher}"
PEERS = "/v1/mesh/peers"
APPROVE = "/v1/mesh/approve"
REVOKE = "/v1/mesh/revoke"
SUSPEND = "/v1/mesh/suspend"
UNSUSPEND = "/v1/mesh/unsuspend"
GRANT = "/v1/mesh/grant"
DROP = "/v1/mesh/drop"
SIGN = "/v1/mesh/sign"
LEAVE = "/v1/mesh/leave"
ENTER = "/v1/mesh/enter"
DEVICE = "/v1/mesh/device"
PROCEED = "/v1/mesh/proceed"
KIT = "/v1/mesh/kit"
DRAFTS = "/v1/mesh/drafts"
DRAFT = "/v1/mesh/drafts/{draft}"
COSIGN = "/v1/mesh/cosign"


class NewMesh(Question, frozen=True):
    """Begin a mesh."""

    name: str


class JoinMesh(Question, frozen=True):
    """Come into somebody else's, by an invite."""

    invite: str


class NewInvite(Question, frozen=True):
    """Let somebody in."""

    label: str = ""
    quota_bytes: int = 0
    lifetime_s: int = 86_400
    approve: bool = False
    admitter: bool = False  # may invite others


class Who(Question, frozen=True):
    """A member: the name of a device, or the beginning of an id."""

    who: str


class Signed(Question, frozen=True):
    """A member, and what the phrase of its person has signed (SIGN), where that is needed."""

    who: str
    signatures: list[str] = []


class NewRole(Question, frozen=True):
    """A role for a person."""

    who: str
    role: str  # admin or admitter


class Sign(Question, frozen=True):
    """What would have to be signed for an act: revoke, unsuspend or leave."""

    act: str
    who: str = ""  # of leave: oneself


class Leave(Question, frozen=True):
    """End our own membership; what was signed knew of these operations."""

    parents: list[str] = []
    signatures: list[str] = []
    quietly: bool = False  # tell nobody: we are out already, or nobody would hear


class OwnDevice(Question, frozen=True):
    """What our phrase says of this device: a RECOVER and both its signatures, in hexadecimal."""

    recover: str
    by_user: str
    by_device: str


class ToSign(Answer, frozen=True):
    """What an act is about, and whether somebody has to type the phrase for it.

    The one who signs makes the bytes from these fields (mesh/SPEC.md, Membership).
    """

    act: str
    needs_phrase: bool
    is_own: bool  # it is about ourselves, or a device of ours
    name: str
    mesh: str
    user: str
    node: str
    devices: list[str]  # of that person, which are not out; by name
    lifts: list[str]
    parents: list[str]
    is_only_admin: bool  # nobody would be left to administer


class Endpoint(Answer, frozen=True):
    """Where a member was last."""

    address: str
    node: str


class KitPlaces(Answer, frozen=True):
    """What a recovery kit says of the mesh; empty where we are out."""

    mesh: str
    endpoints: list[Endpoint]


class Named(Answer, frozen=True):
    """Somebody by id; a name is what its owner chose, and may be anything."""

    id: str
    name: str


class Draft(Answer, frozen=True):
    """What several admins must sign, and who has.

    The one who signs makes the bytes from these fields (mesh/SPEC.md, Membership).
    """

    draft: str  # its id
    act: str  # revoke, grant, drop, suspend or unsuspend
    name: str  # of a device of the person it is about; of suspend and unsuspend: of that device
    devices: list[str]  # of that person, which are not out; by name
    mesh: str
    user: str
    node: str  # of suspend and unsuspend
    role: int  # of grant and drop: 1 admitter, 2 admin
    reason: int  # of revoke
    cut: str  # of revoke: the last operation of theirs that counts, or empty: all that was known
    lifts: str  # of unsuspend: the suspension
    parents: list[str]  # what it knows of the mesh
    since: int  # so much the subject did that it does not know of: that may not count then
    admitted: int  # of those, where they let somebody in
    by: Named  # the device that began it
    made_s: int
    until_s: int
    signed_by: list[Named]  # persons, by a device of theirs
    needed: int  # so many admins
    is_ours: bool  # this machine began it
    is_signed: bool  # by our person
    may_sign: bool  # our person's signature would count
    needs_phrase: bool  # this machine may not sign it in the name of our person


class Drafts(Answer, frozen=True):
    """All that wait, the oldest first."""

    drafts: list[Draft]


class Asked(Answer, frozen=True):
    """An act was done; or others must sign it too, and are asked to."""

    draft: Draft | None = None


class Cosign(Question, frozen=True):
    """Sign a draft: with this machine, or with what the phrase of our person has signed."""

    draft: str
    signature: str = ""


class DraftsChanged(Answer, frozen=True):
    """A draft has come, was signed, or is gone."""

    waiting: int  # for the signature of our person


class Left(Answer, frozen=True):
    """We are in no mesh any more."""

    name: str
    files: str  # where those of the mesh are now
    heard: bool  # a peer has taken note


class Mesh(Answer, frozen=True):
    """The mesh this node is in."""

    name: str
    mesh: str
    user: str
    node: str
    role: str
    members: int  # devices that may connect
    linked: int
    listens_at: str
    offer_bytes: int = 0  # what this node would keep for others
    administers: bool = False  # whether this machine may act as an admin
    complaint: str | None = None  # what is wrong with our part in it, in one line
    to_sign: int = 0  # drafts that wait for the signature of our person


class Invited(Answer, frozen=True):
    """An invite, with the text that lets somebody in: show it to nobody else."""

    invite: str
    voucher: str
    expires_s: int
    is_local: bool = False  # it names no address that another machine could reach


class InviteState(Answer, frozen=True):
    """An invite and what became of it."""

    voucher: str
    label: str
    state: str
    expires_s: int
    quota_bytes: int
    approve: bool
    came: list[str]  # names of devices


class Invites(Answer, frozen=True):
    """All of them; those that are good the longest come last."""

    invites: list[InviteState]


class Peer(Answer, frozen=True):
    """A device of the mesh."""

    name: str
    node: str
    user: str
    standing: str
    role: str
    is_self: bool
    linked: bool
    address: str | None = None
    rtt_ms: float | None = None
    ways: str = ""  # a line for each way, as measured
    words: str = ""  # to compare by voice, of a device that waits for approval
    offer_bytes: int | None = None  # what it says it would keep for others, if that is known
    looks: str = "unknown"  # from here: alive, suspect or dead
    presence: str = "present"  # or away, or lost: gone for longer than its habits explain
    seen_s: float | None = None  # when it was heard last, where it is not linked


class Peers(Answer, frozen=True):
    """All devices, ours among them."""

    peers: list[Peer]


class LinkChanged(Answer, frozen=True):
    """A link to a peer has come or gone."""

    node: str
    name: str
    is_up: bool
    why: str = ""


class PeerChanged(Answer, frozen=True):
    """A peer has come to life, answers no more, or is away for longer than its habits explain."""

    node: str
    name: str
    looks: str
    presence: str


class MembersChanged(Answer, frozen=True):
    """The list of members has changed: who came, who is out, or what it says of invites."""

    came: list[str]
    barred: list[str]


class JoinWaits(Answer, frozen=True):
    """A member has to approve us first; both compare these words."""

    words: str
