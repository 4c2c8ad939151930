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


class Invited(Answer, frozen=True):
    """An invite, with the text that lets somebody in: show it to nobody else."""

    invite: str
    voucher: str
    expires_s: int


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


class Peers(Answer, frozen=True):
    """All devices, ours among them."""

    peers: list[Peer]


class LinkChanged(Answer, frozen=True):
    """A link to a peer has come or gone."""

    node: str
    name: str
    is_up: bool
    why: str = ""


class MembersChanged(Answer, frozen=True):
    """The list of members has changed: who came, who is out, or what it says of invites."""

    came: list[str]
    barred: list[str]


class JoinWaits(Answer, frozen=True):
    """A member has to approve us first; both compare these words."""

    words: str
