"""The bytes golden vectors are made over: a formula, so that a vector file need not hold them."""


def pattern(size: int) -> bytes:
    """Byte i is 167 i + 13 (i >> 8) + 31 (i >> 16) + 5, modulo 256."""
    return bytes((i * 167 + (i >> 8) * 13 + (i >> 16) * 31 + 5) & 0xFF for i in range(size))
