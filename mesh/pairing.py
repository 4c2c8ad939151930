"""How a stranger becomes a member: what is said on ALPN `portal-pair/1`, by either side.

    M -> J   HAIL    [1, 1, nonce (32)]
    J -> M   KNOCK   [1, 2, payload (bin), signature by the voucher, signature by the device]
                     payload = [1, mesh_id[0:16], voucher, node, binding (64)]     ("pair-knock")
    M -> J   LOG     [1, 3, more bool, operations[bin...]]
    J -> M   JOIN    [1, 4, join (bin), signature by the voucher, signature by the device]
    M -> J   LOG (what is new), then
             WELCOME [1, 5, admitting operation, sealed (bin)]
           | WAIT    [1, 6, admitting operation]             until somebody approves
           | REFUSED [1, 7, word]

With the phrase instead of a voucher:

    J -> M   RETURN  [1, 9, payload (bin), signature by the user key, signature by the device]
                     payload = [1, user, node, binding (64)]                       ("pair-return")
    M -> J   LOG                             J may leave it at that, having seen which mesh it is
    J -> M   RECOVER [1, 8, recover (bin), signature by the user key, signature by the device]
    M -> J   LOG, WELCOME | REFUSED

RETURN is for words alone, which name no mesh, and for who wants to look before it comes in. J
believes what it is shown only if M is an active member there, and J's own user as well.

`binding` is H("leaf hash", leaf of M) || nonce, so nothing said here is worth anything elsewhere.
M answers only who proves to hold a voucher the mesh knows, or the key of a member: to all others
it closes without a word. J believes M only if the operations begin with the genesis its invite
names, say that M is an active member, and hold its own invite: so it needs to trust no network.

`sealed` is HPKE to the KEM key of the JOIN, with info ["welcome", mesh_id, node, operation]: only
the newcomer reads the secrets of the mesh, whoever carries them.

Both sides are pure (the newcomer's is mesh/visitors.py): messages and `now` in, messages and what
happened out. The driver writes
`changes` to disk before it sends a single message of the same outcome.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum

from core import codec, crypto, limits
from core.crypto import Entropy, system_entropy, verify
from core.device_cert import DeviceCert
from core.errors import FormatError, LimitExceeded, PortalError
from core.ids import MeshId, NodeId, UserId
from core.labels import SignLabel
from mesh.errors import NotTrusted
from mesh.invite import MESH_PREFIX_BYTES
from mesh.leaf import leaf_hash
from mesh.members.authoring import Author, NotAllowed
from mesh.members.bodies import cert_of
from mesh.members.joining import Join, Recover
from mesh.members.membership import Changes, Membership
from mesh.members.rules import Void
from mesh.members.state import InviteState, InviteView, Member, Standing

ALPN = "portal-pair/1"
VERSION = 1
HAIL_NONCE_BYTES = 32
_OPS_MAX = 8_192
_FRAME_BYTES_MAX = limits.LINK_FRAME_BYTES_MAX


class Message(IntEnum):
    """What is said."""

    HAIL = 1
    KNOCK = 2
    LOG = 3
    JOIN = 4
    WELCOME = 5
    WAIT = 6
    REFUSED = 7
    RECOVER = 8
    RETURN = 9


class Refusal(StrEnum):
    """Why somebody with a voucher, or a member's phrase, is not let in; the word that is sent."""

    EXPIRED = "expired"
    SPENT = "spent"
    CLOSED = "closed"
    FULL = "full"
    ELSEWHERE = "elsewhere"
    NOT_ACCEPTED = "not_accepted"


_SENTENCES = {
    Refusal.EXPIRED: "this invite has expired; ask for a new one",
    Refusal.SPENT: "this invite was used already; every invite is good for one device",
    Refusal.CLOSED: "this invite was taken back by whoever made it",
    Refusal.FULL: "the mesh takes no more members",
    Refusal.ELSEWHERE: "this member may not admit anybody; another one may",
    Refusal.NOT_ACCEPTED: "the mesh does not accept this device",
}
_HINTS = {
    Refusal.NOT_ACCEPTED: "one that was put out comes back with new keys: in an empty PORTAL_HOME",
}


_WAITING = {Standing.PENDING, Standing.DISPUTED}
_EXPECTED = {Standing.ACTIVE, *_WAITING}
_OURS = {Void.AUTHOR, Void.NO_INVITE_ROLE, Void.NO_USER_ROLE}  # what we may not, not the stranger


class JoinRefused(PortalError):
    """The mesh did not let us in."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(_SENTENCES[reason], hint=_HINTS.get(reason))
        self.reason = reason


class Stranger(NotTrusted):
    """Whoever this is has shown no reason to be answered."""


# --- both sides -----------------------------------------------------------------------------------


def message(kind: Message, *fields: object) -> bytes:
    """A message as it is sent."""
    return codec.encode([VERSION, int(kind), *fields])


def opened_untrusted(data: bytes, fields: dict[Message, int]) -> tuple[Message, codec.Row]:
    """A message of a kind that may come now, with as many fields as it has."""
    row = codec.decode_untrusted(data, bytes_max=_FRAME_BYTES_MAX)
    if len(row) < 2 or row[0] != VERSION:
        raise FormatError("not a message about joining")
    for kind, count in fields.items():
        if row[1] == kind:
            return kind, codec.as_row(row, 2 + count, "a message about joining")[2:]
    raise FormatError("a message that has no place here")


def _signed_untrusted(row: codec.Row) -> tuple[bytes, bytes, bytes]:
    size = limits.SIGNATURE_BYTES
    return (
        codec.as_bytes(row[0], "what is signed", size_max=limits.ADMISSION_BYTES_MAX),
        codec.as_bytes(row[1], "a signature", size=size),
        codec.as_bytes(row[2], "a signature", size=size),
    )


def operations_untrusted(value: object) -> list[bytes]:
    """The operations in a LOG; whether they hold is not looked at."""
    rows = codec.as_rows(value, _OPS_MAX, "the operations")
    return [codec.as_bytes(row, "an operation", size_max=_FRAME_BYTES_MAX) for row in rows]


def _log_frames(operations: Iterable[bytes]) -> Iterator[list[bytes]]:
    frame: list[bytes] = []
    size = 0
    for data in operations:
        size += len(data) + 5
        if frame and (size > limits.OPERATIONS_FRAME_BYTES_MAX or len(frame) == _OPS_MAX):
            yield frame
            frame, size = [], len(data) + 5
        frame.append(data)
    yield frame


def welcome_info(mesh: MeshId, node: NodeId, operation: bytes) -> bytes:
    """What the secrets of a WELCOME are tied to."""
    return codec.encode([VERSION, "welcome", mesh, node, operation])


# --- the member -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a message: what to write, then what to send, and whether that was all."""

    changes: Changes = field(default_factory=Changes)
    messages: tuple[bytes, ...] = ()
    finished: bool = False
    arrived: Member | None = None  # let in, or waiting for somebody's yes


class Greeter:
    """The member's side of one connection.

    `secrets` is asked for what a newcomer is given: bytes that only the newcomer will read.
    Stranger, FormatError and IntegrityError end the connection without a word, and count.
    """

    def __init__(
        self,
        author: Author,
        leaf: bytes,
        secrets: Callable[[], bytes],
        entropy: Entropy = system_entropy,
    ) -> None:
        self._author = author
        self._membership: Membership = author.membership
        self._secrets = secrets
        self._nonce = entropy(HAIL_NONCE_BYTES)
        self._binding = leaf_hash(leaf) + self._nonce
        self._heard_bytes = 0
        self._knocked: tuple[bytes, NodeId] | None = None  # voucher and node
        self._returned: UserId | None = None
        self._waiting: NodeId | None = None
        self._kem = b""
        self._told = 0  # how many operations the stranger has been sent

    def hail(self) -> bytes:
        """What to say first."""
        return message(Message.HAIL, self._nonce)

    def receive_untrusted(self, data: bytes, now_ms: int) -> Outcome:
        """Answer one message of the stranger."""
        self._heard_bytes += len(data)
        if self._heard_bytes > limits.PAIR_STRANGER_BYTES_MAX:
            raise LimitExceeded("a stranger says too much")
        if self._knocked is not None:
            _, row = opened_untrusted(data, {Message.JOIN: 3})
            return self._join_untrusted(_signed_untrusted(row), now_ms)
        first = {Message.KNOCK: 3, Message.RETURN: 3} if self._returned is None else {}
        kind, row = opened_untrusted(data, first | {Message.RECOVER: 3})
        signed = _signed_untrusted(row)
        if kind == Message.RECOVER:
            return self._recover_untrusted(signed, now_ms)
        if kind == Message.RETURN:
            return self._return_untrusted(*signed)
        return self._knock_untrusted(*signed, now_ms // 1000)

    def on_change(self) -> Outcome:
        """After the membership has changed: the answer to who waits, if there is one now."""
        if self._waiting is None:
            return Outcome()
        member = self._membership.member(self._waiting)
        if member is None or member.standing in _WAITING:
            return Outcome()
        return self._answer(member.node, Changes())

    # --- by voucher -------------------------------------------------------------------------------

    def _knock_untrusted(
        self, payload: bytes, by_voucher: bytes, by_device: bytes, now_s: int
    ) -> Outcome:
        row = codec.as_row(codec.decode_untrusted(payload), 5, "a KNOCK")
        voucher = codec.as_bytes(row[2], "the voucher", size=limits.KEY_BYTES)
        node = NodeId.read_untrusted(row[3])
        verify(voucher, SignLabel.PAIR_KNOCK, payload, by_voucher)
        verify(node, SignLabel.PAIR_KNOCK, payload, by_device)
        mesh = self._membership.mesh_id[:MESH_PREFIX_BYTES]
        if (row[0], row[1], row[4]) != (VERSION, mesh, self._binding):
            raise Stranger
        invite = self._membership.invite(voucher)
        if invite is None:
            raise Stranger
        refusal = self._why_not(invite, node, now_s)
        if refusal is not None:
            return _refused(refusal)
        self._knocked = voucher, node
        return Outcome(messages=self._log())

    def _why_not(self, invite: InviteView, node: NodeId, now_s: int) -> Refusal | None:
        if invite.state == InviteState.CLOSED:
            return Refusal.CLOSED
        if invite.state != InviteState.OPEN:
            # Who was let in by it and lost the answer on the way asks again, however late.
            came = {op_id for op_id, _ in invite.admissions}
            member = self._membership.member(node)
            known = member if member is not None and member.operation in came else None
            return None if known and known.standing in _EXPECTED else Refusal.SPENT
        if now_s >= invite.expires_s:
            return Refusal.EXPIRED
        state = self._membership.state
        if state.policy.users_max and len(state.users) >= state.policy.users_max:
            return Refusal.FULL
        return None

    def _log(self) -> tuple[bytes, ...]:
        """The operations the stranger has not been sent."""
        ops = self._membership.set.ops
        frames = list(_log_frames(op.data for op in ops[self._told :]))
        self._told = len(ops)
        last = len(frames) - 1
        return tuple(message(Message.LOG, n < last, frame) for n, frame in enumerate(frames))

    def _join_untrusted(self, signed: tuple[bytes, bytes, bytes], now_ms: int) -> Outcome:
        join = Join.open_untrusted(*signed)
        said = (join.mesh, (join.invite, join.cert.node), join.binding)
        invite = self._membership.invite(join.invite)
        if said != (self._membership.mesh_id, self._knocked, self._binding) or invite is None:
            raise Stranger
        refusal = self._why_not(invite, join.cert.node, now_ms // 1000)
        if refusal is not None:
            return _refused(refusal)
        self._kem = join.kem
        if invite.state != InviteState.OPEN:  # let in before, and the answer was lost
            return self._answer(join.cert.node, Changes())
        return self._write(join.cert, lambda: self._author.admit(signed, now_ms), now_ms)

    # --- by phrase --------------------------------------------------------------------------------

    def _return_untrusted(self, payload: bytes, by_user: bytes, by_device: bytes) -> Outcome:
        row = codec.as_row(codec.decode_untrusted(payload), 4, "a RETURN")
        user, node = UserId.read_untrusted(row[1]), NodeId.read_untrusted(row[2])
        verify(user, SignLabel.PAIR_RETURN, payload, by_user)
        verify(node, SignLabel.PAIR_RETURN, payload, by_device)
        if (row[0], row[3]) != (VERSION, self._binding):
            raise Stranger
        if user not in self._membership.state.users:
            raise Stranger
        self._returned = user
        return Outcome(messages=self._log())

    def _recover_untrusted(self, signed: tuple[bytes, bytes, bytes], now_ms: int) -> Outcome:
        recover = Recover.open_untrusted(*signed)
        if (recover.mesh, recover.binding) != (self._membership.mesh_id, self._binding):
            raise Stranger
        user = recover.cert.user
        if user not in self._membership.state.users or self._returned not in {None, user}:
            raise Stranger
        self._kem = recover.kem
        member = self._membership.member(recover.cert.node)
        is_in = member is not None and member.is_active
        if is_in and not self._is_newer(recover.cert):
            return self._answer(recover.cert.node, Changes())
        outcome = self._write(recover.cert, lambda: self._author.add_device(signed, now_ms), now_ms)
        if is_in and not outcome.changes.added:  # it is welcome all the same
            return self._answer(recover.cert.node, Changes())
        return outcome

    def _is_newer(self, cert: DeviceCert) -> bool:
        ops = self._membership.set
        known = (cert_of(ops.ops[i].body) for i in ops.introduced(cert.node))
        return all(one is None or one.created_s < cert.created_s for one in known)

    # --- the answer -------------------------------------------------------------------------------

    def _write(self, cert: DeviceCert, write: Callable[[], Changes], now_ms: int) -> Outcome:
        if cert.not_after_s and now_ms // 1000 >= cert.not_after_s:
            return _refused(Refusal.NOT_ACCEPTED)
        try:
            changes = write()
        except NotAllowed as e:
            return _refused(Refusal.ELSEWHERE if e.reason in _OURS else Refusal.NOT_ACCEPTED)
        return self._answer(cert.node, changes)

    def _answer(self, node: NodeId, changes: Changes) -> Outcome:
        """What somebody who is in the set now is told."""
        member = self._membership.member(node)
        if member is not None and member.standing in _WAITING:
            self._waiting = node
            messages = (*self._log(), message(Message.WAIT, member.operation))
            return Outcome(changes, messages, arrived=member)
        self._waiting = None
        if member is None or not member.is_active:
            return replace(_refused(Refusal.NOT_ACCEPTED), changes=changes)
        secrets = self._secrets()
        assert len(secrets) <= limits.PAIR_SECRETS_BYTES_MAX
        info = welcome_info(self._membership.mesh_id, node, member.operation)
        try:
            sealed = crypto.hpke_seal(self._kem, secrets, info)
        except FormatError:  # a KEM key that is none: nothing could ever be told to this device
            return replace(_refused(Refusal.NOT_ACCEPTED), changes=changes)
        messages = (*self._log(), message(Message.WELCOME, member.operation, sealed))
        return Outcome(changes, messages, finished=True, arrived=member)


def _refused(reason: Refusal) -> Outcome:
    return Outcome(messages=(message(Message.REFUSED, reason.value),), finished=True)
