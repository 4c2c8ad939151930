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

    J -> M   RECOVER [1, 8, recover (bin), signature by the user key, signature by the device]
    M -> J   LOG, WELCOME | REFUSED

`binding` is H("leaf hash", leaf of M) || nonce, so nothing said here is worth anything elsewhere.
M answers only who proves to hold a voucher the mesh knows, or the key of a member: to all others
it closes without a word. J believes M only if the operations begin with the genesis its invite
names, say that M is an active member, and hold its own invite: so it needs to trust no network.

`sealed` is HPKE to the KEM key of the JOIN, with info ["welcome", mesh_id, node, operation]: only
the newcomer reads the secrets of the mesh, whoever carries them.

Both sides are pure: messages and `now` in, messages and what happened out. The driver writes
`changes` to disk before it sends a single message of the same outcome.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum

from core import codec, crypto, limits
from core.crypto import Entropy, SigningKey, system_entropy, verify
from core.device_cert import DeviceCert
from core.errors import FormatError, LimitExceeded, PortalError
from core.ids import MeshId, NodeId
from core.labels import SignLabel
from core.secret import Secret
from mesh.errors import NotTrusted
from mesh.invite import MESH_PREFIX_BYTES, Invitation
from mesh.leaf import leaf_hash, node_of_untrusted
from mesh.members.authoring import Author, NotAllowed
from mesh.members.joining import NONCE_BYTES, Join, Recover
from mesh.members.membership import Changes, Membership
from mesh.members.rules import Void
from mesh.members.state import InviteState, InviteView, Member, Standing

ALPN = "portal-pair/1"
_VERSION = 1
_HAIL_NONCE_BYTES = 32
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


_WAITING = {Standing.PENDING, Standing.DISPUTED}
_EXPECTED = {Standing.ACTIVE, *_WAITING}
_OURS = {Void.AUTHOR, Void.NO_INVITE_ROLE, Void.NO_USER_ROLE}  # what we may not, not the stranger


class JoinRefused(PortalError):
    """The mesh did not let us in."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(_SENTENCES[reason])
        self.reason = reason


class Stranger(NotTrusted):
    """Whoever this is has shown no reason to be answered."""


# --- both sides -----------------------------------------------------------------------------------


def _message(kind: Message, *fields: object) -> bytes:
    return codec.encode([_VERSION, int(kind), *fields])


def _opened_untrusted(data: bytes, fields: dict[Message, int]) -> tuple[Message, codec.Row]:
    """A message of a kind that may come now, with as many fields as it has."""
    row = codec.decode_untrusted(data, bytes_max=_FRAME_BYTES_MAX)
    if len(row) < 2 or row[0] != _VERSION:
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


def _operations_untrusted(value: object) -> list[bytes]:
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


def _welcome_info(mesh: MeshId, node: NodeId, operation: bytes) -> bytes:
    return codec.encode([_VERSION, "welcome", mesh, node, operation])


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
        self._nonce = entropy(_HAIL_NONCE_BYTES)
        self._binding = leaf_hash(leaf) + self._nonce
        self._heard_bytes = 0
        self._knocked: tuple[bytes, NodeId] | None = None  # voucher and node
        self._waiting: NodeId | None = None
        self._kem = b""
        self._told = 0  # how many operations the stranger has been sent

    def hail(self) -> bytes:
        """What to say first."""
        return _message(Message.HAIL, self._nonce)

    def receive_untrusted(self, data: bytes, now_ms: int) -> Outcome:
        """Answer one message of the stranger."""
        self._heard_bytes += len(data)
        if self._heard_bytes > limits.PAIR_STRANGER_BYTES_MAX:
            raise LimitExceeded("a stranger says too much")
        if self._knocked is not None:
            _, row = _opened_untrusted(data, {Message.JOIN: 3})
            return self._join_untrusted(_signed_untrusted(row), now_ms)
        kind, row = _opened_untrusted(data, {Message.KNOCK: 3, Message.RECOVER: 3})
        if kind == Message.RECOVER:
            return self._recover_untrusted(_signed_untrusted(row), now_ms)
        return self._knock_untrusted(*_signed_untrusted(row), now_ms // 1000)

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
        if (row[0], row[1], row[4]) != (_VERSION, mesh, self._binding):
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
        return tuple(_message(Message.LOG, n < last, frame) for n, frame in enumerate(frames))

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

    def _recover_untrusted(self, signed: tuple[bytes, bytes, bytes], now_ms: int) -> Outcome:
        recover = Recover.open_untrusted(*signed)
        if (recover.mesh, recover.binding) != (self._membership.mesh_id, self._binding):
            raise Stranger
        if recover.cert.user not in self._membership.state.users:
            raise Stranger
        self._kem = recover.kem
        member = self._membership.member(recover.cert.node)
        if member is not None and member.is_active:
            return self._answer(member.node, Changes())
        return self._write(recover.cert, lambda: self._author.add_device(signed, now_ms), now_ms)

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
            messages = (*self._log(), _message(Message.WAIT, member.operation))
            return Outcome(changes, messages, arrived=member)
        self._waiting = None
        if member is None or not member.is_active:
            return replace(_refused(Refusal.NOT_ACCEPTED), changes=changes)
        secrets = self._secrets()
        assert len(secrets) <= limits.PAIR_SECRETS_BYTES_MAX
        info = _welcome_info(self._membership.mesh_id, node, member.operation)
        try:
            sealed = crypto.hpke_seal(self._kem, secrets, info)
        except FormatError:  # a KEM key that is none: nothing could ever be told to this device
            return replace(_refused(Refusal.NOT_ACCEPTED), changes=changes)
        messages = (*self._log(), _message(Message.WELCOME, member.operation, sealed))
        return Outcome(changes, messages, finished=True, arrived=member)


def _refused(reason: Refusal) -> Outcome:
    return Outcome(messages=(_message(Message.REFUSED, reason.value),), finished=True)


# --- the newcomer ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Who asks to come in."""

    device: SigningKey
    cert_bytes: bytes
    kem_seed: Secret  # 96 bytes; its public half is what WELCOME is sealed to

    @property
    def node(self) -> NodeId:
        """Its name."""
        return NodeId(self.device.public)


@dataclass(frozen=True, slots=True)
class Progress:
    """What came of a message: what to send, and what is known by now."""

    messages: tuple[bytes, ...] = ()
    waiting: bytes = b""  # the JOIN somebody has to approve: compare four_words of it
    membership: Membership | None = None  # we are in
    secrets: Secret | None = None


class _Visitor:
    """What both ways in have in common."""

    def __init__(self, who: Newcomer, leaf: bytes, entropy: Entropy) -> None:
        self._who = who
        self._entropy = entropy
        self._host = node_of_untrusted(leaf)
        self._leaf_hash = leaf_hash(leaf)
        self._binding = b""
        self._membership: Membership | None = None
        self._operations = 0

    def _hailed_untrusted(self, data: bytes) -> None:
        _, row = _opened_untrusted(data, {Message.HAIL: 1})
        nonce = codec.as_bytes(row[0], "the nonce", size=_HAIL_NONCE_BYTES)
        self._binding = self._leaf_hash + nonce

    def _log_untrusted(self, row: codec.Row, mesh_prefix: bytes) -> Membership | None:
        """Take operations; the whole membership once all are there."""
        more, operations = row[0], _operations_untrusted(row[1])
        if type(more) is not bool:
            raise FormatError("whether more follows is yes or no")
        self._operations += len(operations)
        if self._operations > limits.OPERATIONS_MAX:
            raise LimitExceeded("a mesh of more operations than there may be")
        if self._membership is None:
            if not operations:
                raise FormatError("a mesh without a beginning")
            self._membership = Membership.begin_untrusted(operations.pop(0))
            if self._membership.mesh_id[: len(mesh_prefix)] != mesh_prefix:
                raise NotTrusted("whoever answers there belongs to another mesh")
        self._take(operations)
        if more:
            return None
        if not self._host_is_member():
            raise NotTrusted("whoever answers there is not a member of the mesh")
        return self._membership

    def _take(self, operations: Sequence[bytes]) -> None:
        assert self._membership is not None
        changes = self._membership.receive_untrusted(operations)
        if changes.refused:
            raise NotTrusted(f"the list of members is not in order: {changes.refused[0]}")

    def _host_is_member(self) -> bool:
        assert self._membership is not None
        host = self._membership.member(self._host)
        return host is not None and host.is_active

    def _welcomed_untrusted(self, row: codec.Row) -> Progress:
        operation = codec.as_bytes(row[0], "an operation", size=limits.HASH_BYTES)
        size_max = limits.PAIR_SECRETS_BYTES_MAX + 2 * limits.KEM_PUBLIC_BYTES
        sealed = codec.as_bytes(row[1], "the secrets", size_max=size_max)
        membership = self._membership
        if membership is None:
            raise FormatError("a WELCOME to nowhere")
        own = membership.member(self._who.node)
        if own is None or not own.is_active:
            raise NotTrusted("we are welcome, and yet no member")
        info = _welcome_info(membership.mesh_id, self._who.node, operation)
        opened = crypto.hpke_open(self._who.kem_seed, sealed, info)
        return Progress(membership=membership, secrets=Secret(opened))


def _raise_refused_untrusted(row: codec.Row) -> None:
    try:
        reason = Refusal(codec.as_text(row[0], 64, "the reason"))
    except ValueError:  # a word of a later version
        reason = Refusal.NOT_ACCEPTED
    raise JoinRefused(reason)


class Joiner(_Visitor):
    """The side of somebody with an invite, on one connection."""

    def __init__(
        self,
        invitation: Invitation,
        who: Newcomer,
        leaf: bytes,
        entropy: Entropy = system_entropy,
    ) -> None:
        super().__init__(who, leaf, entropy)
        self._invitation = invitation
        self._voucher = invitation.voucher()
        self._join = b""

    def receive_untrusted(self, data: bytes, now_s: int) -> Progress:
        """Answer one message of the member."""
        if not self._binding:
            if self._invitation.expired(now_s):
                raise JoinRefused(Refusal.EXPIRED)
            self._hailed_untrusted(data)
            return Progress((self._knock(),))
        answers = {Message.LOG: 2, Message.REFUSED: 1}
        if self._join:
            answers |= {Message.WELCOME: 2, Message.WAIT: 1}
        kind, row = _opened_untrusted(data, answers)
        if kind == Message.LOG:
            membership = self._log_untrusted(row, self._invitation.mesh_prefix)
            if membership is None or self._join:
                return Progress()
            return Progress((self._ask(membership, now_s),))
        if kind == Message.WELCOME:
            return self._welcomed_untrusted(row)
        if kind == Message.WAIT:
            return Progress(waiting=self._join)
        _raise_refused_untrusted(row)
        return Progress()

    def _knock(self) -> bytes:
        prefix, voucher = self._invitation.mesh_prefix, self._voucher
        payload = codec.encode([_VERSION, prefix, voucher.public, self._who.node, self._binding])
        label = SignLabel.PAIR_KNOCK
        signatures = voucher.sign(label, payload), self._who.device.sign(label, payload)
        return _message(Message.KNOCK, payload, *signatures)

    def _ask(self, membership: Membership, now_s: int) -> bytes:
        if membership.invite(self._voucher.public) is None:
            # Without it an ex-member could show us the mesh of the day it was thrown out.
            raise NotTrusted("whoever answers there does not know this invite")
        join = Join(
            mesh=membership.mesh_id,
            invite=self._voucher.public,
            cert_bytes=self._who.cert_bytes,
            cert=DeviceCert.open_untrusted(self._who.cert_bytes),
            kem=crypto.hpke_public(self._who.kem_seed),
            nonce=self._entropy(NONCE_BYTES),
            binding=self._binding,
            time_s=now_s,
        )
        signed = join.signed(self._voucher, self._who.device)
        self._join = signed[0]
        return _message(Message.JOIN, *signed)


class Recoverer(_Visitor):
    """The side of a member with nothing left but the phrase, on one connection."""

    def __init__(
        self,
        mesh: MeshId,
        user: SigningKey,
        who: Newcomer,
        leaf: bytes,
        entropy: Entropy = system_entropy,
    ) -> None:
        super().__init__(who, leaf, entropy)
        self._mesh = mesh
        self._user = user

    def receive_untrusted(self, data: bytes, now_s: int) -> Progress:
        """Answer one message of the member."""
        if not self._binding:
            self._hailed_untrusted(data)
            return Progress((self._ask(now_s),))
        answers = {Message.LOG: 2, Message.WELCOME: 2, Message.REFUSED: 1}
        kind, row = _opened_untrusted(data, answers)
        if kind == Message.LOG:
            self._log_untrusted(row, self._mesh)
            return Progress()
        if kind == Message.WELCOME:
            return self._welcomed_untrusted(row)
        _raise_refused_untrusted(row)
        return Progress()

    def _ask(self, now_s: int) -> bytes:
        recover = Recover(
            mesh=self._mesh,
            cert_bytes=self._who.cert_bytes,
            cert=DeviceCert.open_untrusted(self._who.cert_bytes),
            kem=crypto.hpke_public(self._who.kem_seed),
            nonce=self._entropy(NONCE_BYTES),
            binding=self._binding,
            time_s=now_s,
        )
        return _message(Message.RECOVER, *recover.signed(self._user, self._who.device))
