"""Every way a few bytes can be damaged, for the properties all formats share."""

from collections.abc import Callable, Iterator

import pytest

from core.errors import FormatError, IntegrityError


def damaged(data: bytes, *, step: int = 1) -> Iterator[tuple[str, bytes]]:
    """Flips of one bit (every bit position, byte by byte), cuts, and additions."""
    for i in range(0, len(data), step):
        flipped = bytearray(data)
        flipped[i] ^= 1 << (i % 8)
        yield f"bit {i % 8} of byte {i} flipped", bytes(flipped)
    for i in range(0, len(data), step):
        yield f"cut to {i} bytes", data[:i]
    yield "one byte added", data + b"\0"
    yield "doubled", data + data
    yield "first byte lost", data[1:]


def assert_all_refused(
    read: Callable[[bytes], object],
    data: bytes,
    *,
    step: int = 1,
    errors: tuple[type[Exception], ...] = (FormatError, IntegrityError),
) -> None:
    """`read` takes the whole bytes and refuses every damaged form of them with a typed error."""
    read(data)
    for how, bad in damaged(data, step=step):
        try:
            read(bad)
        except errors:
            continue
        except Exception as e:  # noqa: BLE001 - any other exception is the finding
            pytest.fail(f"{how}: {type(e).__name__}: {e}")
        pytest.fail(f"{how}: accepted")
