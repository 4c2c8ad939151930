"""Snapshot records and the signed head that lists them (portal/SPEC.md, Heads).

    file    = [payload (bin), signature (bin 64) by the device]
    payload = [2, vault_id, user, device, incarnation u32, seq u64, prev (32), live_set_root (32),
               trash_gen u64, body: envelope(K_meta, 0x14, aad = the fields before)]
    body    = [1, DeviceCert (bin), codec u8, plain_len u32, data]      plain = [1, row...]
    row     = [record (bin), tags[], pinned, forgotten_s u64, forgotten_gen u64]

Each head is complete: it alone says which snapshots there are. `prev` is the hash of the file
before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from core import codec, envelope, hashing, limits
from core.compress import compress, decompress_untrusted
from core.crypto import Entropy, SigningKey, system_entropy, verify
from core.device_cert import DeviceCert
from core.errors import FormatError, IntegrityError, LimitExceeded, UsageError
from core.ids import NodeId, UserId, VaultId
from core.keys import VaultKeys
from core.labels import EnvelopeKind, Label, SignLabel
from core.pieces import Kind
from core.smt import EMPTY
from portal.manifest import Content, Form

_VERSION = 2
_PAYLOAD_FIELDS = 10
_BODY_FIELDS = 5
_RECORD_VERSION = 1
_RECORD_FIELDS = 13
_ROW_FIELDS = 5
_CERT_BYTES_MAX = 1_024
_TEXT_MAX = limits.SNAPSHOT_TEXT_BYTES_MAX
ID_CHARS_SHORT = 8


@dataclass(frozen=True, slots=True)
class Totals:
    """What a snapshot holds, and what making it cost."""

    files: int = 0
    directories: int = 0
    others: int = 0
    content_bytes: int = 0
    files_new: int = 0
    files_changed: int = 0
    new_bytes: int = 0  # of pieces that were not there before

    def row(self) -> tuple[int, ...]:
        """As a row of a record."""
        sizes = (self.files, self.directories, self.others, self.content_bytes)
        return (*sizes, self.files_new, self.files_changed, self.new_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A snapshot as it was made; never changed afterwards."""

    time_ns: int
    end_ns: int
    host: str
    user: str
    paths: tuple[bytes, ...]
    parent: bytes  # id of the snapshot it was compared with, or empty
    root: Content  # the directory above all absolute paths
    totals: Totals
    errors_count: int = 0
    errors: tuple[tuple[bytes, str], ...] = ()  # the first of them: path, what happened
    rules: bytes = b""  # which exclusion rules applied: equal means equal
    program: str = ""

    def encoded(self) -> bytes:
        """The record in bytes: what is stored, and what its id is the tag of."""
        return codec.encode(
            (
                _RECORD_VERSION,
                self.time_ns,
                self.end_ns,
                self.host,
                self.user,
                self.paths,
                self.parent,
                (int(self.root.form), self.root.data),
                self.totals.row(),
                self.errors_count,
                self.errors,
                self.rules,
                self.program,
            )
        )

    @classmethod
    def decode_untrusted(cls, data: bytes) -> Self:
        """A record, every field within its bounds."""
        row = codec.decode_untrusted(data, bytes_max=limits.SNAPSHOT_RECORD_BYTES_MAX)
        row = codec.as_versioned_row(row, _RECORD_VERSION, _RECORD_FIELDS, "a snapshot")
        form_field, content = codec.as_row(row[7], 2, "the root of a snapshot")
        form = codec.as_uint(form_field, 8, "its form")
        if form not in {Form.PARTS, Form.PART_LISTS}:
            raise FormatError("the root of a snapshot is no directory")
        size_max = limits.SNAPSHOT_CONTENT_BYTES_MAX
        numbers = codec.as_row(row[8], len(Totals().row()), "the totals of a snapshot")
        return cls(
            time_ns=codec.as_uint(row[1], 63, "a time"),
            end_ns=codec.as_uint(row[2], 63, "a time"),
            host=codec.as_text(row[3], _TEXT_MAX, "the name of a host"),
            user=codec.as_text(row[4], _TEXT_MAX, "the name of a user"),
            paths=tuple(
                codec.as_bytes(path, "a path", size_max=limits.PATH_BYTES_MAX)
                for path in codec.as_rows(row[5], limits.SNAPSHOT_PATHS_MAX, "the paths")
            ),
            parent=_id_or_empty_untrusted(row[6]),
            root=Content(Form(form), codec.as_bytes(content, "its content", size_max=size_max)),
            totals=Totals(*(codec.as_uint(n, 63, "a total") for n in numbers)),
            errors_count=codec.as_uint(row[9], 63, "a count of errors"),
            errors=_errors_untrusted(row[10]),
            rules=codec.as_bytes(row[11], "the rules", size_max=limits.HASH_BYTES),
            program=codec.as_text(row[12], _TEXT_MAX, "a version"),
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of the vault: the record, and what its owner thinks of it."""

    id: bytes
    record: Record
    tags: tuple[str, ...] = ()
    pinned: bool = False
    forgotten_s: int = 0  # 0: not forgotten
    forgotten_gen: int = 0
    encoded: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, record: Record, tags: Sequence[str] = (), *, pinned: bool = False) -> Self:
        """A new snapshot."""
        data = record.encoded()
        return cls(snapshot_id(data), record, tuple(tags), pinned, encoded=data)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.id.hex()[:ID_CHARS_SHORT]

    @property
    def is_live(self) -> bool:
        """Whether it was not forgotten."""
        return not self.forgotten_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The state of a vault at one moment."""

    vault: VaultId
    user: UserId
    device: NodeId
    incarnation: int = 0
    seq: int = 0
    prev: bytes = bytes(limits.HASH_BYTES)
    live_set_root: bytes = EMPTY
    trash_gen: int = 0
    snapshots: tuple[Snapshot, ...] = ()  # all of them, by time; forgotten ones too

    @property
    def place(self) -> tuple[int, int]:
        """Its rank in the chain: later ones are greater."""
        return self.incarnation, self.seq

    @property
    def live(self) -> list[Snapshot]:
        """The snapshots that were not forgotten, oldest first."""
        return [snapshot for snapshot in self.snapshots if snapshot.is_live]

    def with_snapshots(self, snapshots: Sequence[Snapshot]) -> Self:
        """The same with other snapshots, in the order of their times.

        Of two with one id, made by a clock that stands still, the later one in the list stays.
        """
        by_id = {snapshot.id: snapshot for snapshot in snapshots}
        ordered = sorted(by_id.values(), key=lambda s: (s.record.time_ns, s.id))
        return replace(self, snapshots=tuple(ordered))

    def signed(
        self, keys: VaultKeys, signing: SigningKey, cert: bytes, entropy: Entropy = system_entropy
    ) -> bytes:
        """The file of this head."""
        assert signing.public == self.device
        if len(self.snapshots) > limits.SNAPSHOTS_MAX:
            raise UsageError(
                f"a vault holds at most {limits.SNAPSHOTS_MAX} snapshots",
                hint="portal forget, then portal gc, makes room",
            )
        fields = (
            _VERSION,
            self.vault,
            self.user,
            self.device,
            self.incarnation,
            self.seq,
            self.prev,
            self.live_set_root,
            self.trash_gen,
        )
        plain = codec.encode((1, *(_row(snapshot) for snapshot in self.snapshots)))
        how, data = compress(plain)
        body = codec.encode((1, cert, int(how), len(plain), bytes(data)))
        aad = codec.encode(fields)
        sealed = envelope.seal(keys.meta, EnvelopeKind.VAULT_HEAD, body, aad=aad, entropy=entropy)
        payload = codec.encode((*fields, sealed))
        return codec.encode((payload, signing.sign(SignLabel.VAULT_HEAD, payload)))

    @classmethod
    def open_untrusted(cls, data: bytes, keys: VaultKeys, vault: VaultId, user: UserId) -> Self:
        """A head of this vault by a device of this user; IntegrityError for anybody else's."""
        size_max = limits.HEAD_BYTES_MAX
        outer = codec.as_row(codec.decode_untrusted(data, bytes_max=size_max), 2, "a head")
        payload = codec.as_bytes(outer[0], "its payload", size_max=size_max)
        signature = codec.as_bytes(outer[1], "a signature", size=limits.SIGNATURE_BYTES)
        row = codec.decode_untrusted(payload, bytes_max=size_max)
        device = NodeId.read_untrusted(row[3] if len(row) > 3 else None)
        # Before its version is looked at: a flipped bit must not pass for a newer Portal.
        verify(device, SignLabel.VAULT_HEAD, payload, signature)
        row = codec.as_versioned_row(row, _VERSION, _PAYLOAD_FIELDS, "a head")
        if (row[1], row[2]) != (vault, user):
            raise IntegrityError("a head of another vault or user than it is said to be")
        sealed = codec.as_bytes(row[9], "its body", size_max=size_max)
        kind = EnvelopeKind.VAULT_HEAD
        body = envelope.open_untrusted(keys.meta, kind, sealed, aad=codec.encode(row[:9]))
        cert, snapshots = _body_untrusted(body)
        if (cert.user, cert.node) != (user, device):
            raise IntegrityError("a head by a device of somebody else")
        return cls(
            vault=vault,
            user=user,
            device=device,
            incarnation=codec.as_uint(row[4], 32, "an incarnation"),
            seq=codec.as_uint(row[5], 64, "a sequence number"),
            prev=codec.as_bytes(row[6], "a hash", size=limits.HASH_BYTES),
            live_set_root=codec.as_bytes(row[7], "a root", size=limits.HASH_BYTES),
            trash_gen=codec.as_uint(row[8], 64, "a generation"),
            snapshots=snapshots,
        )


def head_hash(data: bytes) -> bytes:
    """What the next head calls the file of this one."""
    return hashing.digest(Label.HEAD_HASH, data)


def snapshot_id(record: bytes) -> bytes:
    """The name of a snapshot: the tag of its record."""
    return hashing.tag(Kind.SNAPSHOT, record)


def _row(snapshot: Snapshot) -> tuple[object, ...]:
    times = (snapshot.forgotten_s, snapshot.forgotten_gen)
    return (snapshot.encoded, snapshot.tags, snapshot.pinned, *times)


def _body_untrusted(body: bytes) -> tuple[DeviceCert, tuple[Snapshot, ...]]:
    row = codec.decode_untrusted(body)
    row = codec.as_versioned_row(row, 1, _BODY_FIELDS, "the body of a head")
    cert = codec.as_bytes(row[1], "a certificate", size_max=_CERT_BYTES_MAX)
    how = codec.as_uint(row[2], 8, "a codec")
    size = codec.as_uint(row[3], 32, "a length")
    if size > limits.HEAD_BYTES_MAX:
        raise LimitExceeded(f"a head of {size} bytes")
    packed = codec.as_bytes(row[4], "a body", size_max=limits.HEAD_BYTES_MAX)
    rows = codec.decode_untrusted(bytes(decompress_untrusted(packed, how, size)))
    codec.as_versioned_row(rows[:1], 1, 1, "the list of snapshots")
    found = codec.as_rows(rows[1:], limits.SNAPSHOTS_MAX, "the list of snapshots")
    return DeviceCert.open_untrusted(cert), tuple(_snapshot_untrusted(item) for item in found)


def _snapshot_untrusted(value: object) -> Snapshot:
    record, tags, pinned, forgotten_s, forgotten_gen = codec.as_row(
        value, _ROW_FIELDS, "a snapshot"
    )
    size_max = limits.SNAPSHOT_RECORD_BYTES_MAX
    data = codec.as_bytes(record, "its record", size_max=size_max)
    if type(pinned) is not bool:
        raise FormatError("a snapshot is pinned or not")
    return Snapshot(
        snapshot_id(data),
        Record.decode_untrusted(data),
        tuple(
            codec.as_text(tag, _TEXT_MAX, "a tag")
            for tag in codec.as_rows(tags, limits.SNAPSHOT_TAGS_MAX, "the tags")
        ),
        pinned,
        codec.as_uint(forgotten_s, 63, "a time"),
        codec.as_uint(forgotten_gen, 64, "a generation"),
        data,
    )


def _errors_untrusted(value: object) -> tuple[tuple[bytes, str], ...]:
    found = []
    for item in codec.as_rows(value, limits.SNAPSHOT_ERRORS_MAX, "the errors"):
        path, text = codec.as_row(item, 2, "an error")
        path = codec.as_bytes(path, "a path", size_max=limits.PATH_BYTES_MAX)
        found.append((path, codec.as_text(text, _TEXT_MAX, "an error")))
    return tuple(found)


def _id_or_empty_untrusted(value: object) -> bytes:
    found = codec.as_bytes(value, "the id of a snapshot", size_max=limits.HASH_BYTES)
    if len(found) not in {0, limits.HASH_BYTES}:
        raise FormatError("the id of a snapshot has another length")
    return found
