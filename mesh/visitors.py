"""The newcomer's side of mesh/pairing.py: with an invite, or with the phrase. Trusts no network.

    Joiner       KNOCK, JOIN      a stranger with an invite
    Returner     RETURN           a member with the phrase that looks which mesh this is
    Recoverer    RECOVER          a member with the phrase and a device the mesh does not know

What a member shows is believed only if it is in order, names that very member as active, and holds
what only the true mesh can hold: the invite, the id on the kit, or an admission of our own user.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core import codec, crypto, limits
from core.crypto import Entropy, SigningKey, system_entropy
from core.device_cert import DeviceCert
from core.errors import FormatError, LimitExceeded
from core.ids import MeshId, NodeId, UserId
from core.labels import SignLabel
from core.secret import Secret
from mesh.errors import NotTrusted
from mesh.invite import Invitation
from mesh.leaf import leaf_hash, node_of_untrusted
from mesh.members.bodies import AddDevice, Admit
from mesh.members.joining import NONCE_BYTES, Join, Recover
from mesh.members.membership import Membership
from mesh.members.opset import OpSet
from mesh.pairing import (
    HAIL_NONCE_BYTES,
    VERSION,
    JoinRefused,
    Message,
    Refusal,
    message,
    opened_untrusted,
    operations_untrusted,
    welcome_info,
)


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
    host: NodeId | None = None  # then: who let us in
    is_new: bool = False  # then: the mesh has never known this device before


class _Visitor(ABC):
    """What all ways in have in common."""

    # If M says nothing; who asks too often is not told so either.
    hint = "it may have been asked too often: wait a minute. Is it of your mesh, the phrase yours?"

    def __init__(self, who: Newcomer, leaf: bytes, entropy: Entropy) -> None:
        self._who = who
        self._entropy = entropy
        self._host = node_of_untrusted(leaf)
        self._leaf_hash = leaf_hash(leaf)
        self._binding = b""
        self._membership: Membership | None = None
        self._operations = 0
        self._asked = b""  # the JOIN or RECOVER we signed

    def receive_untrusted(self, data: bytes, now_s: int) -> Progress:
        """Answer one message of the member: its hail by our first word, then as each way has it."""
        if self._binding:
            return self._answered_untrusted(data, now_s)
        _, row = opened_untrusted(data, {Message.HAIL: 1})
        nonce = codec.as_bytes(row[0], "the nonce", size=HAIL_NONCE_BYTES)
        self._binding = self._leaf_hash + nonce
        return Progress((self._first_word(now_s),))

    @abstractmethod
    def _first_word(self, now_s: int) -> bytes:
        """What is said to a member that has hailed us."""

    @abstractmethod
    def _answered_untrusted(self, data: bytes, now_s: int) -> Progress:
        """Go on, with what the member has answered."""

    def _log_untrusted(self, row: codec.Row, mesh_prefix: bytes) -> Membership | None:
        """Take operations; the whole membership once all are there."""
        more, operations = row[0], operations_untrusted(row[1])
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
        info = welcome_info(membership.mesh_id, self._who.node, operation)
        opened = crypto.hpke_open(self._who.kem_seed, sealed, info)
        return Progress(
            membership=membership,
            secrets=Secret(opened),
            host=self._host,
            is_new=self._is_new(membership.set),
        )

    def _is_new(self, ops: OpSet) -> bool:
        """Whether what we asked for now is all that ever brought this device."""
        brought = [ops.ops[i].body for i in ops.introduced(self._who.node)]
        said = [body.join_bytes for body in brought if isinstance(body, Admit)]
        said += [body.recover_bytes for body in brought if isinstance(body, AddDevice)]
        return said == [self._asked]


def _raise_refused_untrusted(row: codec.Row) -> None:
    try:
        reason = Refusal(codec.as_text(row[0], 64, "the reason"))
    except ValueError:  # a word of a later version
        reason = Refusal.NOT_ACCEPTED
    raise JoinRefused(reason)


class Joiner(_Visitor):
    """The side of somebody with an invite, on one connection."""

    hint = "is the invite of this mesh, and was it typed right?"

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

    def _answered_untrusted(self, data: bytes, now_s: int) -> Progress:
        answers = {Message.LOG: 2, Message.REFUSED: 1}
        if self._asked:
            answers |= {Message.WELCOME: 2, Message.WAIT: 1}
        kind, row = opened_untrusted(data, answers)
        if kind == Message.LOG:
            membership = self._log_untrusted(row, self._invitation.mesh_prefix)
            if membership is None or self._asked:
                return Progress()
            return Progress((self._ask(membership, now_s),))
        if kind == Message.WELCOME:
            return self._welcomed_untrusted(row)
        if kind == Message.WAIT:
            return Progress(waiting=self._asked)
        _raise_refused_untrusted(row)
        return Progress()

    def _first_word(self, now_s: int) -> bytes:
        if self._invitation.expired(now_s):
            raise JoinRefused(Refusal.EXPIRED)
        prefix, voucher = self._invitation.mesh_prefix, self._voucher
        payload = codec.encode([VERSION, prefix, voucher.public, self._who.node, self._binding])
        label = SignLabel.PAIR_KNOCK
        signatures = voucher.sign(label, payload), self._who.device.sign(label, payload)
        return message(Message.KNOCK, payload, *signatures)

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
        self._asked = signed[0]
        return message(Message.JOIN, *signed)


class Returner(_Visitor):
    """Shows the phrase's key and is shown a mesh, on one connection; nobody comes in by that.

    `mesh` is the one that is meant, where that is known: words alone do not say it.
    """

    def __init__(
        self,
        mesh: MeshId | None,
        user: SigningKey,
        who: Newcomer,
        leaf: bytes,
        entropy: Entropy = system_entropy,
    ) -> None:
        super().__init__(who, leaf, entropy)
        self._mesh = mesh or b""
        self._user = user

    def _answered_untrusted(self, data: bytes, _now_s: int) -> Progress:
        _, row = opened_untrusted(data, {Message.LOG: 2})
        membership = self._log_untrusted(row, self._mesh)
        if membership is None:
            return Progress()
        if UserId(self._user.public) not in membership.state.users:
            # Our own signatures are in every mesh we are in: nobody else's can pass for it.
            raise NotTrusted("whoever answers there shows a mesh that you do not belong to")
        return Progress(membership=membership, host=self._host)

    def _first_word(self, _now_s: int) -> bytes:
        row = [VERSION, self._user.public, self._who.node, self._binding]
        payload = codec.encode(row)
        label = SignLabel.PAIR_RETURN
        signatures = self._user.sign(label, payload), self._who.device.sign(label, payload)
        return message(Message.RETURN, payload, *signatures)


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
        # From RECOVER on the mesh may know this device, whatever it answers, if anything.
        self.before_asking: Callable[[], None] = lambda: None

    def _answered_untrusted(self, data: bytes, _now_s: int) -> Progress:
        answers = {Message.LOG: 2, Message.WELCOME: 2, Message.REFUSED: 1}
        kind, row = opened_untrusted(data, answers)
        if kind == Message.LOG:
            self._log_untrusted(row, self._mesh)
            return Progress()
        if kind == Message.WELCOME:
            return self._welcomed_untrusted(row)
        _raise_refused_untrusted(row)
        return Progress()

    def _first_word(self, now_s: int) -> bytes:
        recover = Recover(
            mesh=self._mesh,
            cert_bytes=self._who.cert_bytes,
            cert=DeviceCert.open_untrusted(self._who.cert_bytes),
            kem=crypto.hpke_public(self._who.kem_seed),
            nonce=self._entropy(NONCE_BYTES),
            binding=self._binding,
            time_s=now_s,
        )
        signed = recover.signed(self._user, self._who.device)
        self._asked = signed[0]
        self.before_asking()
        return message(Message.RECOVER, *signed)
