"""AUTH: two nodes prove to each other who they are, with the same bytes on every transport.

    I -> R   [HELLO_I, sig_I]   sig_I = sign("auth-i", [1, transport, mesh, R, leaf hash, HELLO_I])
    R -> I   [HELLO_R, sig_R]   sig_R = sign("auth-r", [1, transport, H(HELLO_I || sig_I), HELLO_R])

The transport has shown that the responder holds the key of its leaf (mesh/leaf.py), and nothing
about the initiator. I looks at the leaf before it says a word; R keeps nothing of a caller but a
nonce, and that only when every check has passed. What a peer may do is for the roster to say: the
certificate shown only proves that the device is its user's.

Whoever is refused as a stranger learns nothing but that; a member learns the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import NamedTuple, Self

from core import codec, limits
from core.crypto import Entropy, SigningKey, system_entropy, verify
from core.device_cert import DeviceCert
from core.errors import FormatError, IntegrityError
from core.hashing import digest
from core.ids import MeshId, NodeId
from core.labels import Label, SignLabel
from mesh import addresses
from mesh.errors import NotTrusted
from mesh.leaf import leaf_hash, node_of_untrusted
from mesh.nonces import Nonces
from mesh.roster import Member, Roster
from mesh.wire import Address

_VERSION = 1
_FIELDS = 12
_NONCE_BYTES = 32
INCARNATION_BYTES = 16


class Engines(IntFlag):
    """The QUIC engines a node answers with; unknown bits are carried."""

    QH3 = 1
    AIOQUIC = 2


class Refusal(Enum):
    """Why a peer is not trusted, as a word for logs."""

    OTHER_MESH = "other_mesh"
    ITSELF = "itself"
    WRONG_NODE = "wrong_node"
    BAD_SIGNATURE = "bad_signature"
    NOT_MEMBER = "not_member"
    CLOCK = "clock"
    BAD_CERT = "bad_cert"
    REPLAYED = "replayed"

    @property
    def told(self) -> str:
        """What the peer may know: the reason only if it has proved to be a member."""
        return self.value if self in _TOLD else "refused"


_TOLD = {Refusal.CLOCK, Refusal.BAD_CERT, Refusal.REPLAYED}
_WORDS = {
    Refusal.OTHER_MESH: "it belongs to another mesh",
    Refusal.ITSELF: "it is this very node",
    Refusal.WRONG_NODE: "another node answers there",
    Refusal.BAD_SIGNATURE: "its proof does not fit this connection",
    Refusal.NOT_MEMBER: "it is not a member of this mesh",
    Refusal.CLOCK: "its clock and ours are more than a day apart",
    Refusal.BAD_CERT: "its certificate is not its user's",
    Refusal.REPLAYED: "it says what was said before",
}


class Refused(NotTrusted):
    """The peer may not connect."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(_WORDS[reason])
        self.reason = reason


class News(NamedTuple):
    """What a node knows of the membership, for whoever syncs it; only carried here."""

    heads: tuple[bytes, ...] = ()
    vector: bytes = bytes(limits.HASH_BYTES)
    epoch: int = 0


class Said(NamedTuple):
    """What a node says on one link."""

    news: News = News()
    kem: bytes = b""  # towards a key that outlives broken curves; may be empty
    seen: Address | None = None  # where the one who speaks sees the other


@dataclass(frozen=True, slots=True)
class Speaker:
    """What a process says of its node on every link."""

    key: SigningKey
    cert: bytes
    engines: Engines
    host: bytes  # host_tag
    incarnation: bytes  # random, new at every start; the session of its datagrams

    @property
    def node(self) -> NodeId:
        """Who speaks."""
        return NodeId(self.key.public)


def host_tag(boot_id: bytes, mesh: MeshId) -> bytes:
    """Equal for two nodes on one running system, and says nothing else about it."""
    return digest(Label.HOST, boot_id + mesh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Everything that is said, by either side."""

    mesh: MeshId
    node: NodeId
    nonce: bytes
    time_ms: int
    cert: bytes
    engines: Engines
    host: bytes
    incarnation: bytes
    news: News
    kem: bytes
    seen: Address | None

    @classmethod
    def of(cls, own: Speaker, mesh: MeshId, nonce: bytes, time_ms: int, said: Said) -> Self:
        """What `own` says now."""
        return cls(
            mesh=mesh,
            node=own.node,
            nonce=nonce,
            time_ms=time_ms,
            cert=own.cert,
            engines=own.engines,
            host=own.host,
            incarnation=own.incarnation,
            news=said.news,
            kem=said.kem,
            seen=said.seen,
        )

    def encoded(self) -> bytes:
        """The bytes that are signed."""
        return codec.encode(
            [
                _VERSION,
                self.mesh,
                self.node,
                self.nonce,
                self.time_ms,
                self.cert,
                int(self.engines),
                self.host,
                self.incarnation,
                self.news,
                self.kem,
                addresses.packed(self.seen),
            ]
        )

    @classmethod
    def read_untrusted(cls, data: bytes) -> Self:
        """What somebody says; nothing of it is proved."""
        row = codec.decode_untrusted(data, bytes_max=limits.HELLO_BYTES_MAX)
        row = codec.as_versioned_row(row, _VERSION, _FIELDS, "a HELLO")
        return cls(
            mesh=MeshId.read_untrusted(row[1]),
            node=NodeId.read_untrusted(row[2]),
            nonce=codec.as_bytes(row[3], "the nonce", size=_NONCE_BYTES),
            time_ms=codec.as_uint(row[4], 63, "the time"),
            cert=codec.as_bytes(row[5], "the certificate", size_max=limits.HELLO_CERT_BYTES_MAX),
            engines=Engines(codec.as_uint(row[6], 32, "the engines")),
            host=codec.as_bytes(row[7], "the host", size=limits.HASH_BYTES),
            incarnation=codec.as_bytes(row[8], "the incarnation", size=INCARNATION_BYTES),
            news=_news_untrusted(row[9]),
            kem=codec.as_bytes(row[10], "the key share", size_max=limits.HELLO_KEM_BYTES_MAX),
            seen=addresses.read_untrusted(row[11], "the address seen"),
        )


def _news_untrusted(value: object) -> News:
    heads, vector, epoch = codec.as_row(value, 3, "the news")
    return News(
        tuple(
            codec.as_bytes(head, "a head", size=limits.HASH_BYTES)
            for head in codec.as_rows(heads, limits.HELLO_HEADS_MAX, "the heads")
        ),
        codec.as_bytes(vector, "the vector", size=limits.HASH_BYTES),
        codec.as_uint(epoch, 64, "the epoch"),
    )


@dataclass(frozen=True, slots=True)
class Peer:
    """A member that has proved to be itself, on this very connection."""

    member: Member
    hello: Hello
    offset_ms: int  # its clock less ours, as far as one exchange tells
    transcript: bytes  # names everything both have said

    @property
    def node(self) -> NodeId:
        """Who it is."""
        return self.member.node


class Initiator:
    """The side that dialled, for one connection."""

    def __init__(
        self,
        own: Speaker,
        roster: Roster,
        to: NodeId,
        transport: str,
        entropy: Entropy = system_entropy,
    ) -> None:
        self._own = own
        self._roster = roster
        self._to = to
        self._transport = transport
        self._entropy = entropy
        self._first: tuple[bytes, int] | None = None  # HELLO_I || sig_I, and when

    def hello_untrusted(self, leaf: bytes, said: Said, now_ms: int) -> bytes:
        """What to send, once the leaf that answered is that of the node that was meant."""
        if self._to == self._own.node:
            raise Refused(Refusal.ITSELF)
        if node_of_untrusted(leaf) != self._to:
            raise Refused(Refusal.WRONG_NODE)
        if self._roster.member(self._to) is None:
            raise Refused(Refusal.NOT_MEMBER)
        mesh = self._roster.mesh_id
        hello = Hello.of(self._own, mesh, self._entropy(_NONCE_BYTES), now_ms, said).encoded()
        payload = _initiator_payload(self._transport, mesh, self._to, leaf_hash(leaf), hello)
        signature = self._own.key.sign(SignLabel.AUTH_INITIATOR, payload)
        self._first = (hello + signature, now_ms)
        return codec.encode([hello, signature])

    def finish_untrusted(self, frame: bytes, now_ms: int) -> Peer:
        """Who answered; tried once, whatever comes of it."""
        if self._first is None:
            raise FormatError("an answer where nothing was asked")
        (first, sent_ms), self._first = self._first, None
        data, signature = _frame_untrusted(frame)
        hello = Hello.read_untrusted(data)
        if hello.mesh != self._roster.mesh_id:
            raise Refused(Refusal.OTHER_MESH)
        if hello.node != self._to:
            raise Refused(Refusal.WRONG_NODE)
        payload = _responder_payload(self._transport, first, data)
        _check_signature(hello.node, SignLabel.AUTH_RESPONDER, payload, signature)
        member = _checked_member(hello, self._roster, now_ms)
        offset_ms = hello.time_ms - (sent_ms + now_ms) // 2
        return Peer(member, hello, offset_ms, _transcript(first, data + signature))


class Responder:
    """The side that was dialled: one for all connections under one leaf."""

    def __init__(
        self, own: Speaker, roster: Roster, leaf: bytes, entropy: Entropy = system_entropy
    ) -> None:
        self._own = own
        self._roster = roster
        self._leaf_hash = leaf_hash(leaf)
        self._entropy = entropy
        self._nonces = Nonces()

    def answer_untrusted(
        self, frame: bytes, transport: str, say: Callable[[Hello], Said], now_ms: int
    ) -> tuple[bytes, Peer]:
        """What to send back, and who called; `say` is asked only about callers that passed."""
        data, signature = _frame_untrusted(frame)
        hello = Hello.read_untrusted(data)
        mesh = self._roster.mesh_id
        if hello.mesh != mesh:
            raise Refused(Refusal.OTHER_MESH)
        if hello.node == self._own.node:
            raise Refused(Refusal.ITSELF)
        # The signature before the roster: no one can ask who is a member with a borrowed name.
        payload = _initiator_payload(transport, mesh, self._own.node, self._leaf_hash, data)
        _check_signature(hello.node, SignLabel.AUTH_INITIATOR, payload, signature)
        member = _checked_member(hello, self._roster, now_ms)
        if not self._nonces.is_new(hello.node, hello.nonce, hello.time_ms):
            raise Refused(Refusal.REPLAYED)

        first = data + signature
        nonce = self._entropy(_NONCE_BYTES)
        answer = Hello.of(self._own, mesh, nonce, now_ms, say(hello)).encoded()
        payload = _responder_payload(transport, first, answer)
        proof = self._own.key.sign(SignLabel.AUTH_RESPONDER, payload)
        peer = Peer(member, hello, hello.time_ms - now_ms, _transcript(first, answer + proof))
        return codec.encode([answer, proof]), peer


def _frame_untrusted(frame: bytes) -> tuple[bytes, bytes]:
    row = codec.decode_untrusted(frame, bytes_max=limits.HELLO_BYTES_MAX)
    hello, signature = codec.as_row(row, 2, "a HELLO with its proof")
    return (
        codec.as_bytes(hello, "a HELLO", size_max=limits.HELLO_BYTES_MAX),
        codec.as_bytes(signature, "its proof", size=limits.SIGNATURE_BYTES),
    )


def _initiator_payload(
    transport: str, mesh: MeshId, to: NodeId, leaf: bytes, hello: bytes
) -> bytes:
    return codec.encode([_VERSION, transport, mesh, to, leaf, hello])


def _responder_payload(transport: str, first: bytes, hello: bytes) -> bytes:
    return codec.encode([_VERSION, transport, digest(Label.HELLO, first), hello])


def _transcript(first: bytes, second: bytes) -> bytes:
    return digest(Label.HELLO, first + second)


def _check_signature(node: NodeId, label: SignLabel, payload: bytes, signature: bytes) -> None:
    try:
        verify(node, label, payload, signature)
    except IntegrityError as e:
        raise Refused(Refusal.BAD_SIGNATURE) from e


def _checked_member(hello: Hello, roster: Roster, now_ms: int) -> Member:
    """The member whose signature this was, if it may connect."""
    member = roster.member(hello.node)
    if member is None:
        raise Refused(Refusal.NOT_MEMBER)
    if abs(hello.time_ms - now_ms) > limits.HELLO_CLOCK_OFF_MS_MAX:
        raise Refused(Refusal.CLOCK)
    try:
        cert = DeviceCert.open_untrusted(hello.cert)
    except (FormatError, IntegrityError) as e:
        raise Refused(Refusal.BAD_CERT) from e
    if (cert.node, cert.user) != (hello.node, member.user):
        raise Refused(Refusal.BAD_CERT)
    return member
