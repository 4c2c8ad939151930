"""What a person prints and keeps: enough to get everything back (core/SPEC.md, Recovery kit).

    text  = "pnk1-" + base32(body || 4-byte check)
    body  = [1, entropy, user_pk, created_s, mesh_id | empty, endpoints[[address, node_pk]...]]
    check = H("text check", "recovery kit" || body, 4)

The text goes into the QR code; the page around it is for people. Both are as secret as the phrase.
With a passphrase on top of the phrase the kit alone opens nothing; that it exists is not written.
"""

from dataclasses import dataclass
from typing import Self

from core import codec, limits
from core.errors import FormatError, LimitExceeded
from core.hashing import digest
from core.ids import MeshId, NodeId, UserId, from_base32_untrusted, to_base32
from core.labels import Label
from core.phrase import to_words
from core.secret import Secret

_PREFIX = "pnk1-"
_VERSION = 1
_FIELDS = 6
_CHECK_BYTES = 4


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a member of the mesh was last seen."""

    address: str
    node: NodeId


@dataclass(frozen=True, slots=True)
class RecoveryKit:
    """The contents of the kit."""

    entropy: Secret
    user: UserId
    created_s: int
    mesh: MeshId | None = None
    endpoints: tuple[Endpoint, ...] = ()

    def text(self) -> Secret:
        """The one line a QR code carries."""
        endpoints = [[e.address, e.node] for e in self.endpoints]
        row = [
            _VERSION,
            self.entropy.reveal(),
            self.user,
            self.created_s,
            self.mesh or b"",
            endpoints,
        ]
        body = codec.encode(row)
        text = _PREFIX + to_base32(body + _check(body))
        if len(text) > limits.KIT_TEXT_CHARS_MAX:
            raise LimitExceeded("too much for a recovery kit")
        self.parse_untrusted(text)  # a kit that cannot be read is found out before it is printed
        return Secret(text.encode())

    @classmethod
    def parse_untrusted(cls, text: str) -> Self:
        """A kit as scanned or typed; case, blanks and line breaks do not matter."""
        if len(text) > 2 * limits.KIT_TEXT_CHARS_MAX:
            raise LimitExceeded("too long for a recovery kit")
        plain = "".join(text.split())
        if plain[: len(_PREFIX)].lower() != _PREFIX:
            raise FormatError("not a recovery kit: one begins with pnk1-")
        data = from_base32_untrusted(plain[len(_PREFIX) :], "this recovery kit")
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if check != _check(body):
            raise FormatError("a recovery kit with a typing error")
        row = codec.decode_untrusted(body)
        row = codec.as_versioned_row(row, _VERSION, _FIELDS, "the recovery kit")
        endpoints = codec.as_rows(row[5], limits.KIT_ENDPOINTS_MAX, "the list of endpoints")
        return cls(
            Secret(codec.as_bytes(row[1], "the entropy", size=limits.PHRASE_ENTROPY_BYTES)),
            UserId.read_untrusted(row[2]),
            codec.as_uint(row[3], 64, "the date"),
            None if row[4] == b"" else MeshId.read_untrusted(row[4]),
            tuple(_endpoint_untrusted(endpoint) for endpoint in endpoints),
        )

    def page(self, date: str) -> Secret:
        """The kit as a page of text: words in four columns, who, where, what to do."""
        words = to_words(self.entropy).reveal().decode().split()
        numbered = [f"{n:2d} {word:<10}" for n, word in enumerate(words, 1)]
        rows = [" ".join(numbered[i::6]).rstrip() for i in range(6)]
        lines = ["PORTAL RECOVERY KIT", "", *rows, "", f"user   {self.user.text()}"]
        if self.mesh is not None:
            lines.append(f"mesh   {self.mesh.text()}")
        for endpoint in self.endpoints:
            lines += [f"member {endpoint.address}", f"       {endpoint.node.text()}"]
        lines += [
            f"made   {date}",
            "",
            "Whoever holds this page can read everything. Keep it on paper, away from the machine.",
            "To get your files back, on any machine: portal recover",
            "These are not a wallet's words: only the list of words is the same.",
        ]
        return Secret("\n".join(lines).encode())


def _endpoint_untrusted(value: object) -> Endpoint:
    address, node = codec.as_row(value, 2, "an endpoint")
    text = codec.as_text(address, limits.KIT_ENDPOINT_BYTES_MAX, "an endpoint's address")
    return Endpoint(text, NodeId.read_untrusted(node))


def _check(body: bytes) -> bytes:
    return digest(Label.TEXT_CHECK, b"recovery kit" + body, _CHECK_BYTES)
