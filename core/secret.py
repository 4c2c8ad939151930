"""A wrapper that keeps key material out of prints, logs, pickles and comparisons.

It does not wipe memory (Python cannot); it makes the accident of showing a key impossible and the
intent to use one visible: search the tree for `reveal`.
"""

from typing import NoReturn, Self

from core.errors import PortalError


class Secret:
    """Bytes that must not be shown. Two secrets are never equal; use core.crypto.equal."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # a set of secrets would compare them

    def __init__(self, value: bytes, size: int | None = None) -> None:
        if size is not None and len(value) != size:
            raise PortalError(f"a secret of {size} bytes was expected, not {len(value)}")
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves, for the primitive that needs them."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"<secret, {len(self._value)} bytes>"

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __eq__(self, _other: object) -> NoReturn:
        raise TypeError("secrets are compared with core.crypto.equal")

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets are not pickled")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, object]) -> Self:
        return self
