"""The text that is handed to somebody who is to join: what it holds, and how it is read.

    body  = [1, flags u8, expires_min u32, s (16), mesh_id[0:16], endpoints[<= 4]]
    flags : 1 = somebody must approve
    endpoint = ip || u16 port (bin 6 or 18) | [DNS name, u16 port]
    check = H("text check", "invite" || body, 4)
    text  = "pnj1-" + Crockford base32 of (body || check), in groups of 5
    voucher key = Ed25519 seed DK("invite signing key", s)

Whoever has the text can come in once: only the public half of the voucher key is known to the
mesh. What the text says of flags and expiry is for the person who reads it; the operation decides.
"""

from dataclasses import dataclass
from typing import Self

from core import codec, limits
from core.crypto import Entropy, SigningKey, argon2id, system_entropy
from core.errors import FormatError, LimitExceeded, NewerFormat
from core.hashing import derive, digest
from core.ids import MeshId, from_base32_untrusted, to_base32
from core.labels import Label
from core.phrase import check_words
from core.secret import Secret
from mesh import addresses
from mesh.wire import Address

_FAMILY = "pnj"
_PREFIX = "pnj1"
_LOOKALIKES = str.maketrans("li", "11")
_VERSION = 1
_FIELDS = 6
_CHECK_BYTES = 4
_GROUP = 5
_NEEDS_APPROVAL = 1
MESH_PREFIX_BYTES = 16
_MINUTE_SECONDS = 60
_FOUR = 4
# As slow as an invite can bear: words that fit cannot be searched for while two people talk.
_WORDS_ARGON2 = {"memory_kib": 64 * limits.KIB, "passes": 3, "lanes": 4}

_NOT_ONE = "this is not an invite: one begins with pnj1-"
_MISTYPED = "this invite is mistyped or not complete"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an invite's text holds."""

    secret: Secret
    mesh_prefix: bytes
    expires_s: int  # whole minutes
    approve: bool = False
    endpoints: tuple[Address, ...] = ()  # where members may be found; hosts or DNS names

    @classmethod
    def new(
        cls,
        mesh: MeshId,
        expires_s: int,
        *,
        approve: bool = False,
        endpoints: tuple[Address, ...] = (),
        entropy: Entropy = system_entropy,
    ) -> Self:
        """A fresh one. The mesh has to be told of its voucher before it is handed out."""
        secret = Secret(entropy(limits.INVITE_SECRET_BYTES), limits.INVITE_SECRET_BYTES)
        minutes = -(-expires_s // _MINUTE_SECONDS)
        prefix = mesh[:MESH_PREFIX_BYTES]
        chosen = endpoints[: limits.INVITE_ENDPOINTS_MAX]
        return cls(secret, prefix, minutes * _MINUTE_SECONDS, approve, chosen)

    def voucher(self) -> SigningKey:
        """The key whose public half the mesh knows."""
        return SigningKey(Secret(derive(Label.INVITE_SIGNING_KEY, self.secret.reveal())))

    def expired(self, now_s: int) -> bool:
        """Whether it is too late, by this machine's clock."""
        return now_s >= self.expires_s

    def text(self) -> Secret:
        """What is handed over: a secret until it was used."""
        body = codec.encode(
            [
                _VERSION,
                _NEEDS_APPROVAL if self.approve else 0,
                self.expires_s // _MINUTE_SECONDS,
                self.secret.reveal(),
                self.mesh_prefix,
                [_endpoint(endpoint) for endpoint in self.endpoints],
            ]
        )
        chars = to_base32(body + _check(body))
        groups = "-".join(chars[i : i + _GROUP] for i in range(0, len(chars), _GROUP))
        found = Secret(f"{_PREFIX}-{groups}".encode())
        self.parse_untrusted(found.reveal().decode())  # what cannot be read is not handed out
        return found

    @classmethod
    def parse_untrusted(cls, text: str) -> Self:
        """An invite as somebody pasted or typed it; case, blanks and hyphens do not matter."""
        plain = "".join(text.split()).replace("-", "").lower()
        version = plain[len(_FAMILY) : len(_PREFIX)].translate(_LOOKALIKES)
        if not plain.startswith(_FAMILY) or not (version.isascii() and version.isdigit()):
            raise FormatError(_NOT_ONE)
        if version != str(_VERSION):
            raise NewerFormat("this invite was made by a newer Portal")
        if len(plain) > limits.INVITE_TEXT_CHARS_MAX:
            raise LimitExceeded("this is too long for an invite")
        try:
            data = from_base32_untrusted(plain[len(_PREFIX) :], "this invite")
        except FormatError as e:
            raise FormatError(_MISTYPED) from e
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if check != _check(body):
            raise FormatError(_MISTYPED)
        row = codec.decode_untrusted(body)
        row = codec.as_versioned_row(row, _VERSION, _FIELDS, "this invite")
        endpoints = codec.as_rows(row[5], limits.INVITE_ENDPOINTS_MAX, "the list of endpoints")
        return cls(
            Secret(codec.as_bytes(row[3], "the secret", size=limits.INVITE_SECRET_BYTES)),
            codec.as_bytes(row[4], "the mesh", size=MESH_PREFIX_BYTES),
            codec.as_uint(row[2], 32, "the expiry") * _MINUTE_SECONDS,
            bool(codec.as_uint(row[1], 8, "the flags") & _NEEDS_APPROVAL),
            tuple(_endpoint_untrusted(endpoint) for endpoint in endpoints),
        )


def four_words(join: bytes) -> tuple[str, ...]:
    """What two people compare by voice before one of them approves the JOIN of the other.

    Slow: a fifth of a second and 64 MiB, in a thread.
    """
    salt = digest(Label.FOUR_WORDS, join, limits.ARGON2_SALT_BYTES)
    return check_words(argon2id(Secret(join), salt, **_WORDS_ARGON2).reveal(), _FOUR)


def _check(body: bytes) -> bytes:
    return digest(Label.TEXT_CHECK, b"invite" + body, _CHECK_BYTES)


def _endpoint(endpoint: Address) -> object:
    return addresses.packed(endpoint) or (endpoint.host, endpoint.port)


def _endpoint_untrusted(value: object) -> Address:
    if isinstance(value, bytes):
        found = addresses.read_untrusted(value, "an endpoint")
        if found is None:
            raise FormatError("an endpoint is empty")
        return found
    host, port = codec.as_row(value, 2, "an endpoint")
    name = codec.as_text(host, limits.INVITE_ENDPOINT_BYTES_MAX, "the name of an endpoint")
    if not name or not name.isascii() or any(c in " /@?#:[]\\" for c in name):
        raise FormatError("an endpoint has no name")
    return Address(name, codec.as_uint(port, 16, "the port of an endpoint"))
