"""Randomness that repeats: the same bytes in every run."""

from core.crypto import Entropy
from core.hashing import keyed


def fixed_entropy(seed: str) -> Entropy:
    """A stream of bytes that depends on the seed and on what was taken before."""
    taken = 0

    def take(size: int) -> bytes:
        nonlocal taken
        taken += 1
        return keyed(b"portal tests: repeatable entropy", f"{seed} {taken}".encode(), size)

    return take
