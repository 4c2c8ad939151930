"""Trees over blocks and rows, and proofs of one of them (core/SPEC.md, Merkle trees).

The shape is RFC 9162's: a tree over n leaves splits at the largest power of two below n. Built
level by level that means: neighbours are joined, a last one without a neighbour moves up as it is.
Leaves and inner nodes are hashed under different keys, so neither can be shown as the other.

A root does not say how many leaves are below it: who checks a proof takes the count from where the
root came from (a descriptor, a header), never from where the proof came from.
"""

from collections.abc import Iterable
from typing import Self

from core import limits
from core.crypto import Buffer
from core.errors import FormatError, IntegrityError, LimitExceeded
from core.hashing import constant_key, digest, digest_each, keyed
from core.labels import Label

_HASH = limits.HASH_BYTES
_BLOCK = limits.MERKLE_BLOCK_BYTES


def block_count(size: int) -> int:
    """How many blocks `size` bytes are; the last one may be shorter, nothing has none."""
    return -(-size // _BLOCK)


def block_root(data: Buffer) -> bytes:
    """The root over the blocks of `data`."""
    return Tree.over_blocks(data).root


class Tree:
    """All levels of one tree, for its root and any number of proofs."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: list[bytes]) -> None:
        self._levels = [leaves]
        while len(self._levels[-1]) > 1:
            self._levels.append(_joined(self._levels[-1]))

    @classmethod
    def over_blocks(cls, data: Buffer) -> Self:
        """The tree over the 4 KiB blocks of `data`."""
        view = memoryview(data)
        blocks = (view[i : i + _BLOCK] for i in range(0, view.nbytes, _BLOCK))
        return cls(digest_each(Label.MERKLE_LEAF, blocks))

    @classmethod
    def over_items(cls, label: Label, items: Iterable[bytes | memoryview]) -> Self:
        """The tree over short items, each hashed under its own label."""
        return cls(digest_each(label, items))

    @property
    def count(self) -> int:
        """The number of leaves."""
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """The hash that stands for all leaves and their order."""
        top = self._levels[-1]
        return top[0] if top else keyed(constant_key(Label.MERKLE_NODE), b"")

    def proof(self, index: int) -> bytes:
        """The siblings from leaf `index` up to the root, 32 bytes each."""
        assert 0 <= index < self.count
        siblings = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                siblings.append(level[index ^ 1])
            index >>= 1
        return b"".join(siblings)


def _joined(level: list[bytes]) -> list[bytes]:
    pairs = zip(level[::2], level[1::2], strict=False)
    above = digest_each(Label.MERKLE_NODE, (left + right for left, right in pairs))
    if len(level) % 2:
        above.append(level[-1])
    return above


def _turns_untrusted(count: int, index: int) -> list[bool]:
    """On the way up from leaf `index`, for each sibling: whether it stands on the left."""
    if count > limits.MERKLE_LEAVES_MAX:
        raise LimitExceeded(
            f"a tree of {count} leaves where {limits.MERKLE_LEAVES_MAX} are allowed"
        )
    if not 0 <= index < count:
        raise FormatError(f"a proof for leaf {index} of a tree of {count}")
    turns = []
    while count > 1:
        if index ^ 1 < count:
            turns.append(index % 2 == 1)
        index, count = index >> 1, (count + 1) >> 1
    return turns


def root_of_proof_untrusted(count: int, index: int, leaf: bytes, proof: bytes) -> bytes:
    """The root that `proof` leads to from the hash of leaf `index` of `count`."""
    turns = _turns_untrusted(count, index)
    if len(proof) != len(turns) * _HASH:
        raise FormatError(f"a proof of {len(proof)} bytes instead of {len(turns) * _HASH}")
    key, node = constant_key(Label.MERKLE_NODE), leaf
    for place, sibling_is_left in enumerate(turns):
        sibling = proof[place * _HASH : (place + 1) * _HASH]
        node = keyed(key, sibling + node if sibling_is_left else node + sibling)
    return node


def verify_proof_untrusted(root: bytes, count: int, index: int, leaf: bytes, proof: bytes) -> None:
    """Pass if the hash `leaf` is leaf `index` of the tree of `count` leaves under `root`."""
    if root_of_proof_untrusted(count, index, leaf, proof) != root:
        raise IntegrityError(f"the proof for leaf {index} does not lead to the root")


def verify_block_untrusted(root: bytes, size: int, index: int, block: Buffer, proof: bytes) -> None:
    """Pass if `block` is block `index` of the `size` bytes under `root`."""
    if not 0 <= index < block_count(size):
        raise FormatError(f"a proof for block {index} of {size} bytes")
    view = memoryview(block)
    expected = min(_BLOCK, size - index * _BLOCK)
    if view.nbytes != expected:
        raise FormatError(f"block {index} has {view.nbytes} bytes instead of {expected}")
    leaf = digest(Label.MERKLE_LEAF, view)
    verify_proof_untrusted(root, block_count(size), index, leaf, proof)
