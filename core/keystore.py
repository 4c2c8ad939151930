"""The file that keeps a device's keys, and the slots that open it (core/SPEC.md, Keystore).

    "PTKS" | u8 version=1 | u16 header_len | header | payload
    header  = [keystore_id(16), user_pk, node_pk, slots[[slot_id(8), type, params[], wrapped]...]]
    wrapped = envelope(KEY_SLOT) of the DEK under the slot's KEK; aad = [keystore_id, slot_id, type,
              params] encoded
    payload = envelope(KEYSTORE_PAYLOAD) under the DEK; aad = every byte before it
    plain   = [1, sign_seed, box_secret, wireguard_secret, device_cert,
               vaults[[vault_id, epoch, master]...], extras[[name, value]...]]

Any slot opens the file. A slot of an unknown type is carried along untouched: it was made by a
newer Portal, and the payload's seal covers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from core import codec, envelope, files, limits
from core.crypto import Entropy, check_argon2_untrusted, system_entropy
from core.device_cert import DeviceCert
from core.errors import (
    FormatError,
    IntegrityError,
    KeystoreError,
    LimitExceeded,
    NewerFormat,
    PortalError,
    Unavailable,
    WrongKey,
)
from core.ids import NodeId, UserId, VaultId
from core.keys import DeviceKeys
from core.labels import EnvelopeKind
from core.secret import Secret
from core.slots import OFFLINE_TYPES, Provider, SlotType

_MAGIC = b"PTKS"
_VERSION = 1
_PREFIX_BYTES = 7
_PAYLOAD_VERSION = 1
_PAYLOAD_FIELDS = 7
_ID_BYTES = 16
_SLOT_ID_BYTES = 8
_CERT_BYTES_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Slot:
    """One way to open the file, as it stands in the header."""

    slot_id: bytes
    type: int
    params: codec.Row
    wrapped: bytes = field(repr=False)

    def aad(self, keystore_id: bytes) -> bytes:
        """What the wrap is bound to: this slot of this keystore with these parameters."""
        return codec.encode([keystore_id, self.slot_id, self.type, self.params])


@dataclass(frozen=True, slots=True)
class Header:
    """What can be known without a key."""

    keystore_id: bytes
    user: UserId
    node: NodeId
    slots: tuple[Slot, ...]

    def encoded(self) -> bytes:
        """Everything that stands before the payload."""
        slots = [[s.slot_id, s.type, s.params, s.wrapped] for s in self.slots]
        body = codec.encode([self.keystore_id, self.user, self.node, slots])
        if len(body) > limits.KEYSTORE_HEADER_BYTES_MAX:
            raise KeystoreError("the slots no longer fit the keystore's header")
        return _MAGIC + bytes([_VERSION]) + len(body).to_bytes(2) + body


@dataclass(frozen=True, slots=True)
class Contents:
    """The keys themselves."""

    device: DeviceKeys
    cert: bytes
    vaults: dict[tuple[VaultId, int], Secret] = field(default_factory=dict)
    extras: dict[str, Secret] = field(default_factory=dict)


class Keystore:
    """An open keystore: its contents, and the power to change its slots."""

    def __init__(self, header: Header, dek: Secret, contents: Contents) -> None:
        self.header = header
        self.contents = contents
        self._dek = dek

    @classmethod
    def create(
        cls, contents: Contents, providers: Sequence[Provider], entropy: Entropy = system_entropy
    ) -> Self:
        """A new keystore that each of these providers opens; one of them must work offline."""
        cert = DeviceCert.open_untrusted(contents.cert)
        header = Header(entropy(_ID_BYTES), cert.user, cert.node, ())
        keystore = cls(header, Secret(entropy(limits.KEY_BYTES)), contents)
        for provider in providers:
            keystore.add_slot(provider, entropy)
        keystore.check_slots()
        return keystore

    @classmethod
    def open_untrusted(cls, data: bytes, providers: Sequence[Provider]) -> Self:
        """Open with the first provider that fits a slot."""
        header, payload_at = _split_untrusted(data)
        dek = _unwrap_untrusted(header, providers)
        kind = EnvelopeKind.KEYSTORE_PAYLOAD
        plain = envelope.open_untrusted(dek, kind, data[payload_at:], aad=data[:payload_at])
        contents = _contents_untrusted(codec.decode_untrusted(plain))
        cert = DeviceCert.open_untrusted(contents.cert)
        nodes = {header.node, cert.node, contents.device.node_id()}
        if len(nodes) != 1 or cert.user != header.user:
            raise IntegrityError("the keystore's header and keys belong to different devices")
        return cls(header, dek, contents)

    def sealed(self, entropy: Entropy = system_entropy) -> bytes:
        """The whole file, freshly sealed."""
        self.check_slots()
        header = self.header.encoded()
        plain = codec.encode(_contents_row(self.contents))
        kind = EnvelopeKind.KEYSTORE_PAYLOAD
        data = header + envelope.seal(self._dek, kind, plain, aad=header, entropy=entropy)
        if len(data) > limits.KEYSTORE_FILE_BYTES_MAX:
            raise KeystoreError("the keystore would grow beyond its limit")
        # What a reader would refuse never replaces a file that can be read.
        _split_untrusted(data)
        _contents_untrusted(codec.decode_untrusted(plain))
        return data

    def add_slot(self, provider: Provider, entropy: Entropy = system_entropy) -> Slot:
        """One more way to open the file."""
        if len(self.header.slots) >= limits.KEYSTORE_SLOTS_MAX:
            raise KeystoreError(f"a keystore has at most {limits.KEYSTORE_SLOTS_MAX} slots")
        params = provider.new_params()
        bare = Slot(entropy(_SLOT_ID_BYTES), int(provider.slot_type), params, b"")
        wrapped = provider.wrap(params, self._dek, bare.aad(self.header.keystore_id))
        assert len(wrapped) <= limits.KEYSTORE_WRAPPED_BYTES_MAX
        slot = Slot(bare.slot_id, bare.type, params, wrapped)
        self._set_slots((*self.header.slots, slot))
        return slot

    def remove_slot(self, slot_id: bytes) -> None:
        """Take a way to open the file away; the last one that works offline stays."""
        kept = tuple(s for s in self.header.slots if s.slot_id != slot_id)
        if len(kept) == len(self.header.slots):
            raise KeystoreError("there is no such slot")
        before = self.header.slots
        self._set_slots(kept)
        try:
            self.check_slots()
        except KeystoreError:
            self._set_slots(before)
            raise

    def rekey(self, providers: Sequence[Provider], entropy: Entropy = system_entropy) -> Self:
        """A copy under a new DEK: after a passphrase was seen, old file copies open nothing new."""
        return type(self).create(self.contents, providers, entropy)

    def check_slots(self) -> None:
        """Refuse a keystore that only a service or a running desktop could open."""
        if not any(slot.type in OFFLINE_TYPES for slot in self.header.slots):
            raise KeystoreError(
                "the last slot that opens without a service cannot go",
                hint="add a passphrase first",
            )

    def _set_slots(self, slots: tuple[Slot, ...]) -> None:
        old = self.header
        self.header = Header(old.keystore_id, old.user, old.node, slots)

    def __repr__(self) -> str:
        return f"<keystore of {self.header.node!r}, {len(self.header.slots)} slots>"


def load(path: Path, providers: Sequence[Provider]) -> Keystore:
    """Open the keystore file at `path`; every error names it."""
    try:
        return Keystore.open_untrusted(
            files.read_bounded(path, limits.KEYSTORE_FILE_BYTES_MAX), providers
        )
    except PortalError as e:
        raise e.at(str(path)) from e.__cause__


def save(path: Path, keystore: Keystore) -> None:
    """Replace the file at `path`, whole or not at all, readable by its owner only."""
    files.write_private(path, keystore.sealed())


def inspect_untrusted(data: bytes) -> Header:
    """The header, for listing slots; nothing in it is proved before the file is opened."""
    return _split_untrusted(data)[0]


# --- reading ------------------------------------------------------------------------------------


def _split_untrusted(data: bytes) -> tuple[Header, int]:
    if len(data) > limits.KEYSTORE_FILE_BYTES_MAX:
        raise LimitExceeded("too large for a keystore")
    if len(data) < _PREFIX_BYTES or data[:4] != _MAGIC:
        raise FormatError("not a keystore")
    if data[4] > _VERSION:
        raise NewerFormat(f"a keystore of version {data[4]}; this Portal reads {_VERSION}")
    if data[4] != _VERSION:
        raise FormatError(f"a keystore of version {data[4]}, which never existed")
    payload_at = _PREFIX_BYTES + int.from_bytes(data[5:7])
    if payload_at > len(data):
        raise FormatError("the keystore is cut short")
    row = codec.decode_untrusted(data[_PREFIX_BYTES:payload_at])
    row = codec.as_row(row, 4, "the keystore header")
    slots = codec.as_rows(row[3], limits.KEYSTORE_SLOTS_MAX, "the list of slots")
    header = Header(
        codec.as_bytes(row[0], "the keystore id", size=_ID_BYTES),
        UserId.read_untrusted(row[1]),
        NodeId.read_untrusted(row[2]),
        tuple(_slot_untrusted(slot) for slot in slots),
    )
    return header, payload_at


def _slot_untrusted(value: object) -> Slot:
    slot_id, kind, params, wrapped = codec.as_row(value, 4, "a slot")
    slot = Slot(
        codec.as_bytes(slot_id, "a slot's id", size=_SLOT_ID_BYTES),
        codec.as_uint(kind, 8, "a slot's type"),
        codec.as_rows(params, limits.KEYSTORE_PARAMS_FIELDS_MAX, "a slot's parameters"),
        codec.as_bytes(wrapped, "a wrapped key", size_max=limits.KEYSTORE_WRAPPED_BYTES_MAX),
    )
    if slot.type == SlotType.PASSPHRASE:
        _, memory, passes, lanes = codec.as_row(slot.params, 4, "a passphrase slot")
        check_argon2_untrusted(
            codec.as_uint(memory, 32, "Argon2id memory"),
            codec.as_uint(passes, 32, "Argon2id passes"),
            codec.as_uint(lanes, 32, "Argon2id lanes"),
        )
    return slot


def _unwrap_untrusted(header: Header, providers: Sequence[Provider]) -> Secret:
    """The DEK, by the first pair of provider and slot that fits; else why not."""
    absent: Unavailable | None = None
    tried = False
    for provider in providers:
        for slot in header.slots:
            if slot.type != provider.slot_type:
                continue
            try:
                return provider.unwrap(slot.params, slot.wrapped, slot.aad(header.keystore_id))
            except WrongKey:
                tried = True
            except Unavailable as e:
                absent = e
    if absent is not None and not tried:
        raise absent
    raise WrongKey(
        "no slot of the keystore opens with what was given",
        hint="check the passphrase, or use the recovery phrase",
    )


def _contents_untrusted(row: codec.Row) -> Contents:
    row = codec.as_versioned_row(row, _PAYLOAD_VERSION, _PAYLOAD_FIELDS, "the keystore's contents")
    device = (
        Secret(codec.as_bytes(key, "a device key", size=limits.KEY_BYTES)) for key in row[1:4]
    )
    cert = codec.as_bytes(row[4], "the device certificate", size_max=_CERT_BYTES_MAX)
    contents = Contents(DeviceKeys(*device), cert)
    for entry in codec.as_rows(row[5], limits.KEYSTORE_VAULTS_MAX, "the list of vaults"):
        vault, epoch, master = codec.as_row(entry, 3, "a vault")
        key = VaultId.read_untrusted(vault), codec.as_uint(epoch, 32, "a vault's epoch")
        value = codec.as_bytes(master, "a vault master", size=limits.KEY_BYTES)
        if key in contents.vaults:
            raise FormatError("a vault is listed twice")
        contents.vaults[key] = Secret(value)
    for entry in codec.as_rows(row[6], limits.KEYSTORE_EXTRAS_MAX, "the list of extras"):
        name_field, value_field = codec.as_row(entry, 2, "an extra")
        name = codec.as_text(name_field, limits.KEYSTORE_EXTRA_NAME_BYTES_MAX, "an extra's name")
        size_max = limits.KEYSTORE_EXTRA_VALUE_BYTES_MAX
        if name in contents.extras:
            raise FormatError("an extra is listed twice")
        contents.extras[name] = Secret(
            codec.as_bytes(value_field, "an extra's value", size_max=size_max)
        )
    return contents


def _contents_row(contents: Contents) -> list[object]:
    device = contents.device
    vaults = [
        [vault, epoch, master.reveal()]
        for (vault, epoch), master in sorted(contents.vaults.items(), key=lambda item: item[0])
    ]
    extras = [
        [name, value.reveal()]
        for name, value in sorted(contents.extras.items(), key=lambda item: item[0])
    ]
    return [
        _PAYLOAD_VERSION,
        device.sign_seed.reveal(),
        device.box_secret.reveal(),
        device.wireguard_secret.reveal(),
        contents.cert,
        vaults,
        extras,
    ]
