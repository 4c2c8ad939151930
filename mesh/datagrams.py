"""Sealed datagrams: small messages between members, on the socket that QUIC uses.

     0  1  0x13              bit 0x40 is clear, so it is never taken for QUIC
     1  1  'p'
     2  1  version = 1
     3 32  sender
    35 16  session           random, new at every start of the sender
    51  8  counter           u64, each value once in a session
    59  n  ciphertext || 16-byte tag   of [type, txid, t_ms, body]

    key = DK("datagram", X25519(box keys) || mesh || sender || recipient || session)
    ChaCha20-Poly1305(key, nonce = 4 zero bytes || counter, aad = the 59 bytes before)

The box keys never change, so the session in the key is what lets a process start counting anew.
Who is no member gets no answer, no memory and no cryptography. A replay is refused by counters
within a session; between sessions, by the sender's clock: a new session must have been used later
than the last one, and what was sent before this process started is not for it.

Datagrams of a session that is known are counted against their sender, those with a new session
against a smaller budget: a stranger who borrows a member's name cannot guess its session, and so
cannot spend what the member needs.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from enum import Enum
from struct import Struct
from typing import NamedTuple

from core import codec, limits
from core.crypto import Entropy, aead_open, aead_seal, system_entropy, x25519_shared
from core.errors import FormatError, IntegrityError, LimitExceeded
from core.hashing import derive
from core.ids import NodeId
from core.keys import DeviceKeys
from core.labels import Label
from core.secret import Secret
from mesh.budget import Budget
from mesh.errors import NotTrusted
from mesh.hello import INCARNATION_BYTES, Peer
from mesh.messages import TXID_BYTES, TYPES, Body, Mtu
from mesh.roster import Member, Roster
from mesh.window import Window

FIRST_BYTE = 0x13
_PREFIX = bytes([FIRST_BYTE]) + b"p\x01"
_HEADER = Struct(">3s32s16sQ")
_NONCE_ZEROS = bytes(4)
_PAD_HEADER_BYTES = 3  # of an MTU probe: from 256 bytes on, bytes begin with three more

OVERHEAD_BYTES = _HEADER.size + limits.AEAD_TAG_BYTES


class Drop(Enum):
    """Why a datagram came to nothing, as a word for metrics."""

    SHAPE = "shape"
    STRANGER = "stranger"
    ITSELF = "itself"
    REPLAYED = "replayed"
    OLD_SESSION = "old_session"
    TOO_MANY = "too_many"
    FORGED = "forged"
    MALFORMED = "malformed"
    CLOCK = "clock"
    BEFORE_START = "before_start"


class Message(NamedTuple):
    """What a member said."""

    sender: NodeId
    txid: bytes
    sent_ms: int  # on the sender's clock
    body: Body
    size_bytes: int  # of the datagram


class _Sender:
    """What is kept of a member that sends datagrams; as many as there are members."""

    __slots__ = ("budget", "ended", "fresh", "latest_ms", "offset_ms", "session", "window")

    def __init__(self, now: float) -> None:
        self.session = b""  # none as yet
        self.window = Window()
        self.latest_ms = -1  # of all that was accepted, on its clock
        self.offset_ms = 0  # its clock less ours, as far as is known
        self.ended: deque[bytes] = deque(maxlen=limits.DATAGRAM_SESSIONS_ENDED_KEPT)
        self.budget = Budget(limits.DATAGRAMS_PER_SECOND_SENDER_MAX, now)
        self.fresh = Budget(limits.DATAGRAM_SESSIONS_PER_SECOND_SENDER_MAX, now)

    def turn_to(self, session: bytes) -> None:
        """Listen to another process of this member from now on."""
        if self.session:
            self.ended.append(self.session)
        self.session = session
        self.window = Window()


class Datagrams:
    """Seals and opens the datagrams of one process."""

    def __init__(
        self,
        device: DeviceKeys,
        roster: Roster,
        now_ms: int,
        now: float,
        *,
        types: Iterable[type[Body]] = TYPES,
        entropy: Entropy = system_entropy,
    ) -> None:
        self.session = entropy(INCARNATION_BYTES)  # of this process; said in its HELLOs too
        self.opened = 0
        self.dropped: Counter[Drop] = Counter()
        self._own = device.node_id()
        self._roster = roster
        self._keys = _Keys(self._own, device.box_secret, roster)
        self._types = _by_number(types)
        self._counter = 0  # one for all recipients: forgetting one of them repeats nothing
        self._senders: dict[NodeId, _Sender] = {}
        self._started_ms, self._started = now_ms, now
        self._all = Budget(limits.DATAGRAMS_PER_SECOND_MAX, now)
        self._fresh = Budget(limits.DATAGRAM_SESSIONS_PER_SECOND_MAX, now)

    # --- sending ----------------------------------------------------------------------------------

    def seal(self, to: NodeId, body: Body, txid: bytes, now_ms: int) -> bytes:
        """A datagram for a member. What does not fit in one goes over a link."""
        assert self._types.get(body.TYPE) is type(body)
        assert len(txid) == TXID_BYTES
        payload = codec.encode([body.TYPE, txid, now_ms, body.row()])
        size = OVERHEAD_BYTES + len(payload)
        if size > body.BYTES_MAX:
            raise LimitExceeded(f"a datagram of {size} bytes where {body.BYTES_MAX} are allowed")
        member = self._roster.member(to)
        if member is None or to == self._own:
            raise NotTrusted(f"{to.short()} is not a member one could write to")
        self._counter += 1
        header = _HEADER.pack(_PREFIX, self._own, self.session, self._counter)
        key = self._keys.to(member, self.session)
        return header + aead_seal(key, _nonce(self._counter), payload, header)

    def seal_probe(self, to: NodeId, size_bytes: int, txid: bytes, now_ms: int) -> bytes:
        """A datagram of exactly this size, to learn whether it arrives."""
        assert limits.DATAGRAM_BYTES_MAX <= size_bytes <= limits.DATAGRAM_PROBE_BYTES_MAX
        unpadded = codec.encode([Mtu.TYPE, txid, now_ms, [None]])
        pad_bytes = size_bytes - OVERHEAD_BYTES - (len(unpadded) - 1) - _PAD_HEADER_BYTES
        return self.seal(to, Mtu(bytes(pad_bytes)), txid, now_ms)

    # --- receiving --------------------------------------------------------------------------------

    def open_untrusted(self, data: bytes, now_ms: int, now: float) -> Message | None:
        """What a member says; or nothing, and `dropped` tells why."""
        found = self._open_untrusted(data, now_ms, now)
        if isinstance(found, Drop):
            self.dropped[found] += 1
            return None
        self.opened += 1
        return found

    def met(self, peer: Peer) -> None:
        """A link has shown which process of a member is the living one, and what its clock says."""
        sender = self._senders.setdefault(peer.node, _Sender(self._started))
        sender.offset_ms = peer.offset_ms
        if sender.session == peer.hello.incarnation:
            sender.latest_ms = max(peer.hello.time_ms, sender.latest_ms)
        else:
            sender.turn_to(peer.hello.incarnation)
            sender.latest_ms = peer.hello.time_ms  # even if its clock was put back

    def clock_is(self, node: NodeId, offset_ms: int) -> None:
        """How far a member's clock is ahead of ours, as far as is known now."""
        if node in self._senders:
            self._senders[node].offset_ms = offset_ms

    def _open_untrusted(self, data: bytes, now_ms: int, now: float) -> Message | Drop:
        size = len(data)
        if not OVERHEAD_BYTES < size <= limits.DATAGRAM_PROBE_BYTES_MAX or data[:3] != _PREFIX:
            return Drop.SHAPE
        _, name, session, counter = _HEADER.unpack_from(data)
        member = self._roster.member(NodeId(name))
        if member is None or name == self._own:
            return Drop.STRANGER if member is None else Drop.ITSELF
        sender = self._senders.get(member.node)
        if sender is None:
            sender = self._senders[member.node] = _Sender(now)
        refusal = self._refusal(sender, session, counter, now)
        if refusal is not None:
            return refusal
        try:
            header, sealed = data[: _HEADER.size], data[_HEADER.size :]
            key = self._keys.of(member, session, keep=session == sender.session)
            payload = aead_open(key, _nonce(counter), sealed, header)
        except IntegrityError:
            return Drop.FORGED
        try:
            message = self._read_untrusted(member.node, payload, size)
        except FormatError:
            return Drop.MALFORMED
        return self._accepted(sender, session, counter, message, (now_ms, now))

    def _refusal(self, sender: _Sender, session: bytes, counter: int, now: float) -> Drop | None:
        """What needs no key: cheap, and before any budget is spent on it."""
        if session == sender.session:
            if not sender.window.is_new(counter):
                return Drop.REPLAYED
            affordable = sender.budget.take(now) and self._all.take(now)
        elif session in sender.ended:
            return Drop.OLD_SESSION
        else:
            affordable = sender.fresh.take(now) and self._fresh.take(now) and self._all.take(now)
        return None if affordable else Drop.TOO_MANY

    def _read_untrusted(self, sender: NodeId, payload: bytes, size: int) -> Message:
        row = codec.decode_untrusted(payload, bytes_max=limits.DATAGRAM_PROBE_BYTES_MAX)
        number, txid, sent_ms, body = codec.as_row(row, 4, "a datagram")
        kind = self._types.get(codec.as_uint(number, 16, "the type"))
        if kind is None:
            raise FormatError("a type of datagram that is not known here")
        if size > kind.BYTES_MAX:
            raise LimitExceeded(f"a datagram of {size} bytes where {kind.BYTES_MAX} are allowed")
        if not isinstance(body, tuple):
            raise FormatError("the body is not an array")
        return Message(
            sender,
            codec.as_bytes(txid, "the txid", size=TXID_BYTES),
            codec.as_uint(sent_ms, 63, "the time"),
            kind.read_untrusted(body),
            size,
        )

    def _accepted(
        self,
        sender: _Sender,
        session: bytes,
        counter: int,
        message: Message,
        clocks: tuple[int, float],
    ) -> Message | Drop:
        """Whether what is authentic is also of now; only then is anything of it remembered."""
        now_ms, now = clocks
        sent_here_ms = message.sent_ms - sender.offset_ms
        if abs(sent_here_ms - now_ms) > limits.DATAGRAM_CLOCK_OFF_MS_MAX:
            return Drop.CLOCK
        # By the monotonic clock: if ours was put right since, the start moves along.
        if sent_here_ms < now_ms - (now - self._started) * 1_000:
            return Drop.BEFORE_START
        if session != sender.session:
            if message.sent_ms <= sender.latest_ms:
                return Drop.OLD_SESSION
            sender.turn_to(session)
        sender.window.accept(counter)
        sender.latest_ms = max(message.sent_ms, sender.latest_ms)
        return message


class _Keys:
    """The keys of datagrams, made when first needed; the least used are forgotten."""

    def __init__(self, own: NodeId, box_secret: Secret, roster: Roster) -> None:
        self._own = own
        self._box_secret = box_secret
        self._roster = roster
        self._shared: OrderedDict[bytes, Secret] = OrderedDict()
        self._keys: OrderedDict[tuple[bytes, NodeId, NodeId, bytes], bytes] = OrderedDict()

    def to(self, member: Member, session: bytes) -> bytes:
        """What we seal for a member with."""
        return self._key((member.box_public, self._own, member.node, session), keep=True)

    def of(self, member: Member, session: bytes, *, keep: bool) -> bytes:
        """What a member's datagrams for us are opened with; kept once the session has proved real.

        Else whoever makes up sessions would fill the cache.
        """
        return self._key((member.box_public, member.node, self._own, session), keep=keep)

    def _key(self, name: tuple[bytes, NodeId, NodeId, bytes], *, keep: bool) -> bytes:
        key = self._keys.get(name)
        if key is not None:
            self._keys.move_to_end(name)
            return key
        public, sender, recipient, session = name
        shared = self._shared_with(public).reveal()
        mesh = self._roster.mesh_id
        key = derive(Label.DATAGRAM, b"".join((shared, mesh, sender, recipient, session)))
        if keep:
            self._keys[name] = key
            if len(self._keys) > limits.DATAGRAM_KEYS_CACHED_MAX:
                self._keys.popitem(last=False)
        return key

    def _shared_with(self, public: bytes) -> Secret:
        shared = self._shared.get(public)
        if shared is None:
            shared = self._shared[public] = x25519_shared(self._box_secret, public)
            if len(self._shared) > limits.DATAGRAM_KEYS_CACHED_MAX:
                self._shared.popitem(last=False)
        else:
            self._shared.move_to_end(public)
        return shared


def _nonce(counter: int) -> bytes:
    return _NONCE_ZEROS + counter.to_bytes(8)


def _by_number(types: Iterable[type[Body]]) -> dict[int, type[Body]]:
    found: dict[int, type[Body]] = {}
    for kind in types:
        assert kind.TYPE not in found, f"two types of datagrams with number {kind.TYPE}"
        found[kind.TYPE] = kind
    return found
