"""DeviceCert: a person says "this machine is mine, and may do this" (core/SPEC.md, DeviceCert).

    payload = [1, user_pk, node_pk, box_pk, name, roles, created_s, not_after_s, serial, epoch]
    cert    = [payload bytes, signature by user_pk over SIG("device-cert", payload)]

The signature is checked over the bytes as received, before any field but the version and the user's
key is looked at. A certificate says what its owner once granted; whether it still holds is for the
membership to say.
"""

from dataclasses import dataclass
from enum import IntFlag
from typing import Self

from core import codec, limits
from core.crypto import SigningKey, check_public_key_untrusted, verify
from core.errors import FormatError
from core.ids import NodeId, UserId
from core.labels import SignLabel

_VERSION = 1
_FIELDS = 10
_SERIAL_BYTES = 8
_CERT_BYTES_MAX = 1_024


class Role(IntFlag):
    """What a device may do in the name of its user."""

    STORE = 1
    BACKUP_WRITE = 2
    RESTORE = 4
    DELETE = 8
    AUDIT = 16
    INVITE = 32
    ADMIN = 64
    COMMITTEE = 128

    @classmethod
    def laptop(cls) -> Self:
        """The default: everything but deleting history and administration (ransomware)."""
        return cls(cls.STORE | cls.BACKUP_WRITE | cls.RESTORE | cls.AUDIT | cls.INVITE | 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCert:
    """The contents of a certificate; `sealed` is the form that travels and is stored."""

    user: UserId
    node: NodeId
    box_public: bytes
    name: str
    roles: Role
    created_s: int
    not_after_s: int  # 0: does not expire
    serial: bytes
    epoch: int

    def signed_by(self, identity: SigningKey) -> bytes:
        """The certificate's bytes."""
        assert identity.public == self.user
        payload = codec.encode(
            [
                _VERSION,
                self.user,
                self.node,
                self.box_public,
                self.name,
                int(self.roles),
                self.created_s,
                self.not_after_s,
                self.serial,
                self.epoch,
            ]
        )
        cert = codec.encode([payload, identity.sign(SignLabel.DEVICE_CERT, payload)])
        reread = DeviceCert.open_untrusted(cert)  # refuses, for one, a name nobody could read
        assert reread == self
        return cert

    @classmethod
    def open_untrusted(cls, data: bytes) -> Self:
        """A certificate whose signature holds, under the user key it names.

        Whether that user is the one expected is the caller's question.
        """
        outer = codec.decode_untrusted(data, bytes_max=_CERT_BYTES_MAX)
        payload_field, signature_field = codec.as_row(outer, 2, "a device certificate")
        payload = codec.as_bytes(payload_field, "its payload", size_max=_CERT_BYTES_MAX)
        signature = codec.as_bytes(signature_field, "its signature", size=limits.SIGNATURE_BYTES)
        row = codec.decode_untrusted(payload)
        row = codec.as_versioned_row(row, _VERSION, _FIELDS, "a device certificate")
        user = UserId.read_untrusted(row[1])
        verify(user, SignLabel.DEVICE_CERT, payload, signature)
        return cls._from_row_untrusted(user, row)

    @classmethod
    def _from_row_untrusted(cls, user: UserId, row: codec.Row) -> Self:
        node = NodeId.read_untrusted(row[2])
        check_public_key_untrusted(node)
        name = codec.as_text(row[4], limits.DEVICE_NAME_BYTES_MAX, "the device name")
        if not name:
            raise FormatError("the device name is empty")
        return cls(
            user=user,
            node=node,
            box_public=codec.as_bytes(row[3], "the box key", size=limits.KEY_BYTES),
            name=name,
            roles=Role(codec.as_uint(row[5], 32, "roles")),
            created_s=codec.as_uint(row[6], 64, "the creation time"),
            not_after_s=codec.as_uint(row[7], 64, "the expiry time"),
            serial=codec.as_bytes(row[8], "the serial", size=_SERIAL_BYTES),
            epoch=codec.as_uint(row[9], 32, "the epoch"),
        )
