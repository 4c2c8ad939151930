"""What somebody signs to come in: JOIN with a voucher, RECOVER with the user key.

    JOIN    = [1, mesh_id, invite_pk, DeviceCert, kem_pk, nonce (16), binding (64), time_s]
              signed by the voucher and by the device ("pair-join")
    RECOVER = [1, mesh_id, DeviceCert, kem_pk, nonce (16), binding (64), time_s]
              signed by the user key and by the device ("pair-recover")

`binding` is leaf_hash || nonce of the member who was spoken to, so neither can be said again
elsewhere. Both travel inside the operations that follow from them: everyone can verify them for
ever. What binding and time were worth is for the member who admits to check, once.
"""

from dataclasses import dataclass
from typing import Self

from core import codec, limits
from core.crypto import SigningKey, check_public_key_untrusted, verify
from core.device_cert import DeviceCert
from core.ids import MeshId
from core.labels import SignLabel

_VERSION = 1
_JOIN_FIELDS = 8
_RECOVER_FIELDS = 7
NONCE_BYTES = 16
BINDING_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A stranger with a voucher asks to be admitted."""

    mesh: MeshId
    invite: bytes  # the public half of the voucher key
    cert_bytes: bytes
    cert: DeviceCert
    kem: bytes  # what the secrets of the mesh are sealed to
    nonce: bytes
    binding: bytes
    time_s: int

    def encoded(self) -> bytes:
        """The bytes that are signed."""
        return codec.encode(
            [
                _VERSION,
                self.mesh,
                self.invite,
                self.cert_bytes,
                self.kem,
                self.nonce,
                self.binding,
                self.time_s,
            ]
        )

    @classmethod
    def open_untrusted(cls, data: bytes, by_voucher: bytes, by_device: bytes) -> Self:
        """A JOIN that its voucher and its device have signed."""
        row = codec.decode_untrusted(data, bytes_max=limits.ADMISSION_BYTES_MAX)
        row = codec.as_versioned_row(row, _VERSION, _JOIN_FIELDS, "a JOIN")
        invite = codec.as_bytes(row[2], "the voucher", size=limits.KEY_BYTES)
        check_public_key_untrusted(invite)
        verify(invite, SignLabel.PAIR_JOIN, data, by_voucher)
        cert_bytes, cert = _cert_untrusted(row[3])
        verify(cert.node, SignLabel.PAIR_JOIN, data, by_device)
        return cls(
            mesh=MeshId.read_untrusted(row[1]),
            invite=invite,
            cert_bytes=cert_bytes,
            cert=cert,
            kem=codec.as_bytes(row[4], "the KEM key", size=limits.KEM_PUBLIC_BYTES),
            nonce=codec.as_bytes(row[5], "the nonce", size=NONCE_BYTES),
            binding=codec.as_bytes(row[6], "the binding", size=BINDING_BYTES),
            time_s=codec.as_uint(row[7], 63, "the time"),
        )

    def signed(self, voucher: SigningKey, device: SigningKey) -> tuple[bytes, bytes, bytes]:
        """The bytes, and the signatures of both."""
        assert (voucher.public, device.public) == (self.invite, self.cert.node)
        data = self.encoded()
        label = SignLabel.PAIR_JOIN
        return data, voucher.sign(label, data), device.sign(label, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recover:
    """A member comes with a new device, or with new words about an old one."""

    mesh: MeshId
    cert_bytes: bytes
    cert: DeviceCert
    kem: bytes
    nonce: bytes
    binding: bytes
    time_s: int

    def encoded(self) -> bytes:
        """The bytes that are signed."""
        return codec.encode(
            [
                _VERSION,
                self.mesh,
                self.cert_bytes,
                self.kem,
                self.nonce,
                self.binding,
                self.time_s,
            ]
        )

    @classmethod
    def open_untrusted(cls, data: bytes, by_user: bytes, by_device: bytes) -> Self:
        """A RECOVER that the user key and the device have signed."""
        row = codec.decode_untrusted(data, bytes_max=limits.ADMISSION_BYTES_MAX)
        row = codec.as_versioned_row(row, _VERSION, _RECOVER_FIELDS, "a RECOVER")
        cert_bytes, cert = _cert_untrusted(row[2])
        verify(cert.user, SignLabel.PAIR_RECOVER, data, by_user)
        verify(cert.node, SignLabel.PAIR_RECOVER, data, by_device)
        return cls(
            mesh=MeshId.read_untrusted(row[1]),
            cert_bytes=cert_bytes,
            cert=cert,
            kem=codec.as_bytes(row[3], "the KEM key", size=limits.KEM_PUBLIC_BYTES),
            nonce=codec.as_bytes(row[4], "the nonce", size=NONCE_BYTES),
            binding=codec.as_bytes(row[5], "the binding", size=BINDING_BYTES),
            time_s=codec.as_uint(row[6], 63, "the time"),
        )

    def signed(self, user: SigningKey, device: SigningKey) -> tuple[bytes, bytes, bytes]:
        """The bytes, and the signatures of both."""
        assert (user.public, device.public) == (self.cert.user, self.cert.node)
        data = self.encoded()
        label = SignLabel.PAIR_RECOVER
        return data, user.sign(label, data), device.sign(label, data)


def _cert_untrusted(value: object) -> tuple[bytes, DeviceCert]:
    data = codec.as_bytes(value, "the certificate", size_max=limits.CERT_BYTES_MAX)
    return data, DeviceCert.open_untrusted(data)
