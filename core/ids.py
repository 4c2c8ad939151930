"""Names of things: fixed-size bytes with a readable form that catches typing errors.

An id is `bytes`, so it is packed, hashed and compared as such; its class keeps one kind from being
taken for another by the type checker, and gives the text people copy:

    text = Crockford base32 of (u8 version=1 || id || 3-byte check), lower case, groups of 7

The check is the start of BLAKE3 over kind, version and id, so a node's text is not a user's.
"""

from typing import ClassVar, Self

from core.errors import FormatError
from core.hashing import digest
from core.labels import Label

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford: no i, l, o, u
_VALUES = {c: n for n, c in enumerate(_ALPHABET)} | {"i": 1, "l": 1, "o": 0}
_VALUES |= {c.upper(): n for c, n in _VALUES.items()}  # lower() knows more of K than ASCII does
_VERSION = 1
_CHECK_BYTES = 3
_GROUP = 7
_TEXT_CHARS_MAX = 256


def to_base32(data: bytes) -> str:
    """Crockford base32, lower case, zero bits at the end."""
    bits = len(data) * 8
    length = -(-bits // 5)
    number = int.from_bytes(data) << (length * 5 - bits)
    return "".join(_ALPHABET[number >> (5 * i) & 31] for i in reversed(range(length)))


def from_base32_untrusted(text: str, name: str = "this text") -> bytes:
    """The bytes of Crockford base32; hyphens, blanks and case do not matter, spare bits do.

    `name` says in errors what is being read. The caller bounds the length.
    """
    plain = "".join(text.split()).replace("-", "")
    number = 0
    for c in plain:
        value = _VALUES.get(c)
        if value is None:
            raise FormatError(f"{name} holds a character that is not used in such text")
        number = number << 5 | value
    size, spare = divmod(len(plain) * 5, 8)
    if spare >= 5 or number & ((1 << spare) - 1):
        raise FormatError(f"{name} is cut short or mistyped")
    return (number >> spare).to_bytes(size)


class Id(bytes):
    """Base of every name; `SIZE` bytes."""

    SIZE: ClassVar[int]
    KIND: ClassVar[str]

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        """Wrap bytes whose length is known to be right; outside bytes come by `read_untrusted`."""
        assert len(value) == cls.SIZE
        return super().__new__(cls, value)

    @classmethod
    def read_untrusted(cls, value: object) -> Self:
        """An id out of a decoded field."""
        if not isinstance(value, bytes) or len(value) != cls.SIZE:
            raise FormatError(f"a {cls.KIND} id has {cls.SIZE} bytes")
        return cls(value)

    @classmethod
    def parse_untrusted(cls, text: str) -> Self:
        """An id as a person typed it."""
        if len(text) > _TEXT_CHARS_MAX:
            raise FormatError(f"too long for a {cls.KIND} id")
        data = from_base32_untrusted(text, f"this {cls.KIND} id")
        if len(data) != 1 + cls.SIZE + _CHECK_BYTES or data[0] != _VERSION:
            raise FormatError(f"not a {cls.KIND} id")
        value = data[1:-_CHECK_BYTES]
        if data[-_CHECK_BYTES:] != cls._check(value):
            raise FormatError(f"a {cls.KIND} id with a typing error, or an id of another kind")
        return cls(value)

    @classmethod
    def _check(cls, value: bytes) -> bytes:
        kind = cls.KIND.encode()
        body = bytes([len(kind)]) + kind + bytes([_VERSION]) + value
        return digest(Label.TEXT_CHECK, body, _CHECK_BYTES)

    def text(self) -> str:
        """The form people copy."""
        chars = to_base32(bytes([_VERSION]) + self + self._check(self))
        return "-".join(chars[i : i + _GROUP] for i in range(0, len(chars), _GROUP))

    def short(self) -> str:
        """Enough of it to recognise, for logs and tables; not enough to parse."""
        return to_base32(self)[:8]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.short()})"

    __str__ = text


class NodeId(Id):
    """A device: its Ed25519 public key."""

    SIZE = 32
    KIND = "node"
    __slots__ = ()


class UserId(Id):
    """A person: the Ed25519 public key that certifies their devices."""

    SIZE = 32
    KIND = "user"
    __slots__ = ()


class VaultId(Id):
    """A vault: sixteen random bytes."""

    SIZE = 16
    KIND = "vault"
    __slots__ = ()


class MeshId(Id):
    """A mesh: the hash of its genesis."""

    SIZE = 32
    KIND = "mesh"
    __slots__ = ()
