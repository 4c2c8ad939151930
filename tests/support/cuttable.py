"""Bytes that are hard on a chunker: random, constant, rising and periodic stretches, in a row."""

from hypothesis import strategies as st

from core.hashing import keyed


def random_bytes(size: int, seed: str = "") -> bytes:
    """The same bytes for the same seed, on every machine."""
    return keyed(bytes(32), f"portal chunking vector{seed}".encode(), size)


def _stretch(kind: str, size: int, seed: int) -> bytes:
    match kind:
        case "random":
            return random_bytes(size, f" {seed}")
        case "constant":
            return bytes([seed & 255]) * size
        case "ramp":
            return bytes((i * (seed | 1)) & 255 for i in range(size))
        case _:
            pattern = random_bytes(2 + seed % 9, f" {seed}")
            return (pattern * (size // len(pattern) + 1))[:size]


def cuttable(size_max: int) -> st.SearchStrategy[bytes]:
    """Up to `size_max` bytes in stretches whose ends fall on, before and behind block borders."""
    lengths = st.one_of(
        st.sampled_from([1, 4, 5, 59, 60, 63, 64, 65, 127, 128, 129, 255, 256]),
        st.integers(1, size_max),
    )
    kinds = st.sampled_from(["random", "random", "constant", "ramp", "period"])
    stretch = st.builds(_stretch, kinds, lengths, st.integers(0, 2**16))
    return st.lists(stretch, max_size=8).map(lambda parts: b"".join(parts)[:size_max])
