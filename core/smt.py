"""A set with proofs that a key is in it, or is not (core/SPEC.md, Sparse Merkle trees).

A binary tree of 256 levels over the hashes of the keys, in which an empty subtree is 32 zero bytes
and a subtree with one item is that item's leaf. The root depends on the items alone, never on the
order they came in. Walking down from a root along the bits of one key meets exactly one end: the
leaf of that key, another leaf, or nothing. So no root, not even a forged one, lets a key be shown
both inside and outside.
"""

from array import array
from bisect import bisect_left
from collections.abc import Mapping

from core import limits
from core.errors import FormatError, IntegrityError, LimitExceeded
from core.hashing import constant_key, digest, keyed
from core.labels import Label

EMPTY = bytes(limits.HASH_BYTES)

_HASH = limits.HASH_BYTES
_ROW = 2 * _HASH  # path || value
_DEPTH_BYTES = 2
_PROOF_BYTES_MAX = (
    _DEPTH_BYTES + limits.SPARSE_DEPTH_MAX // 8 + limits.SPARSE_DEPTH_MAX * _HASH + _ROW
)
_NONE, _LEAF = -2, -1  # a subtree that is no split: empty, or one item


def path_of(key: bytes) -> bytes:
    """Where a key lies: its bits, highest first, choose left (0) or right (1)."""
    return digest(Label.HOLDINGS, key)


def _bit(path: bytes, depth: int) -> int:
    return path[depth >> 3] >> (7 - (depth & 7)) & 1


def _shared_bits(a: bytes, b: bytes) -> int:
    """How many leading bits two paths have in common."""
    return 8 * _HASH - (int.from_bytes(a) ^ int.from_bytes(b)).bit_length()


def _node(left: bytes, right: bytes) -> bytes:
    return keyed(constant_key(Label.SMT_NODE), left + right)


def _leaf(row: bytes) -> bytes:
    return keyed(constant_key(Label.SMT_LEAF), row)


class SparseTree:
    """The tree over a mapping from keys to 32-byte values.

    Sorted by path, two neighbours part at one bit, and every inner node that has items on both
    sides is the parting of exactly one pair of neighbours. So the tree is kept as flat tables with
    a row per item and a row per parting, about 140 bytes an item; nodes with an empty side are
    hashed again when a proof needs them.
    """

    __slots__ = ("_depths", "_hashes", "_lefts", "_rights", "_rows", "_top", "count", "root")

    def __init__(self, items: Mapping[bytes, bytes]) -> None:
        assert all(len(value) == _HASH for value in items.values())
        rows = sorted(path_of(key) + value for key, value in items.items())
        self.count = len(rows)
        partings = max(0, self.count - 1)
        self._rows = b"".join(rows)
        self._depths = array("H", bytes(2 * partings))
        self._lefts = array("i", [_LEAF]) * partings
        self._rights = array("i", [_LEAF]) * partings
        self._hashes = bytearray(partings * _HASH)
        self._top = _NONE
        self.root = self._build(rows) if rows else EMPTY

    def _build(self, rows: list[bytes]) -> bytes:
        # Partings whose left side is finished and whose right side is still growing. Each lies
        # deeper than the one below it: a shallower parting ends the right sides of deeper ones.
        open_partings: list[tuple[int, int, bytes, int]] = []
        subtree, node = _LEAF, EMPTY
        for i, row in enumerate(rows):
            subtree, node = _LEAF, _leaf(row)
            is_last = i + 1 == len(rows)
            depth = -1 if is_last else _shared_bits(row[:_HASH], rows[i + 1][:_HASH])
            while open_partings and open_partings[-1][0] > depth:
                at, parting, left_node, left = open_partings.pop()
                node = self._close(at, parting, (left, left_node), (subtree, node))
                subtree = parting
            if not is_last:
                open_partings.append((depth, i, node, subtree))
        self._top = subtree
        return self._lifted(subtree, node, 0)

    def _close(
        self, depth: int, parting: int, left: tuple[int, bytes], right: tuple[int, bytes]
    ) -> bytes:
        """Join two finished sides; `parting` is the place of the last item on the left."""
        self._depths[parting] = depth
        self._lefts[parting], left_node = left
        self._rights[parting], right_node = right
        node = _node(
            self._lifted(left[0], left_node, depth + 1),
            self._lifted(right[0], right_node, depth + 1),
        )
        self._hashes[parting * _HASH : (parting + 1) * _HASH] = node
        return node

    def _lifted(self, subtree: int, node: bytes, depth: int) -> bytes:
        """The hash of a subtree at `depth`, through empty siblings if it parts further down."""
        if subtree >= 0:
            path = self._path(subtree)
            for d in range(self._depths[subtree] - 1, depth - 1, -1):
                node = _node(EMPTY, node) if _bit(path, d) else _node(node, EMPTY)
        return node

    def _path(self, i: int) -> bytes:
        return self._rows[i * _ROW : i * _ROW + _HASH]

    def _row(self, i: int) -> bytes:
        return self._rows[i * _ROW : (i + 1) * _ROW]

    def __len__(self) -> int:
        return self.count

    def __contains__(self, key: bytes) -> bool:
        path = path_of(key)
        i = bisect_left(range(self.count), path, key=self._path)
        return i < self.count and self._path(i) == path

    def _hash_at(self, subtree: int, item: int, depth: int) -> bytes:
        """The hash at `depth` of a subtree that parts, or of the one `item` it is."""
        if subtree == _LEAF:
            return _leaf(self._row(item))
        node = bytes(self._hashes[subtree * _HASH : (subtree + 1) * _HASH])
        return self._lifted(subtree, node, depth)

    def prove(self, key: bytes) -> bytes:
        """The proof that `key` is in the set, or that it is not, whichever is true."""
        path = path_of(key)
        siblings: list[bytes] = []
        subtree, item = self._top, 0
        while subtree >= 0:
            depth = self._depths[subtree]
            shared = _shared_bits(path, self._path(subtree))
            if shared < depth:  # the key leaves before the items of this subtree part
                siblings += [EMPTY] * (shared - len(siblings))
                siblings.append(self._hash_at(subtree, item, shared + 1))
                return _proof(siblings)
            siblings += [EMPTY] * (depth - len(siblings))
            left = (self._lefts[subtree], subtree)
            right = (self._rights[subtree], subtree + 1)
            near, far = (right, left) if _bit(path, depth) else (left, right)
            siblings.append(self._hash_at(*far, depth + 1))
            subtree, item = near
        if subtree == _NONE or self._path(item) == path:
            return _proof(siblings)
        return _proof(siblings) + self._row(item)


def root(items: Mapping[bytes, bytes]) -> bytes:
    """The hash that stands for all keys and their values."""
    return SparseTree(items).root


# --- proofs ---------------------------------------------------------------------------------------


def _proof(siblings: list[bytes]) -> bytes:
    """u16 depth || a bit per sibling, root first: is it non-empty || the non-empty ones."""
    depth = len(siblings)
    bits = 0
    for sibling in siblings:
        bits = bits << 1 | (sibling != EMPTY)
    bitmap_bytes = -(-depth // 8)
    bitmap = (bits << (8 * bitmap_bytes - depth)).to_bytes(bitmap_bytes)
    present = [sibling for sibling in siblings if sibling != EMPTY]
    return b"".join((depth.to_bytes(_DEPTH_BYTES), bitmap, *present))


def _read_proof_untrusted(proof: bytes) -> tuple[list[bytes], bytes]:
    """The siblings, root first, and what follows them."""
    if len(proof) > _PROOF_BYTES_MAX:
        raise LimitExceeded(f"a proof of {len(proof)} bytes where {_PROOF_BYTES_MAX} are allowed")
    depth = int.from_bytes(proof[:_DEPTH_BYTES])
    if depth > limits.SPARSE_DEPTH_MAX:
        raise LimitExceeded(f"a proof {depth} levels deep")
    start = _DEPTH_BYTES + -(-depth // 8)
    bitmap = proof[_DEPTH_BYTES:start]
    if len(proof) < start or int.from_bytes(bitmap) & ((1 << (8 * len(bitmap) - depth)) - 1):
        raise FormatError("the proof is cut short, or marks siblings it has no room for")
    present = [d for d in range(depth) if _bit(bitmap, d)]
    # The lowest sibling of an end is never empty: the end would lie higher.
    if depth and (not present or present[-1] != depth - 1):
        raise FormatError("the proof goes deeper than its set does")
    end = start + len(present) * _HASH
    if len(proof) < end:
        raise FormatError("the proof is cut short")
    siblings = [EMPTY] * depth
    for place, d in enumerate(present):
        siblings[d] = proof[start + place * _HASH : start + (place + 1) * _HASH]
        if siblings[d] == EMPTY:
            raise FormatError("the proof spells out an empty sibling")
    return siblings, proof[end:]


def _check_root_untrusted(root: bytes, path: bytes, siblings: list[bytes], end: bytes) -> None:
    node = end
    for depth in range(len(siblings) - 1, -1, -1):
        sibling = siblings[depth]
        node = _node(sibling, node) if _bit(path, depth) else _node(node, sibling)
    if node != root:
        raise IntegrityError("the proof does not lead to the root of the set")


def verify_membership_untrusted(root: bytes, key: bytes, value: bytes, proof: bytes) -> None:
    """Pass if `key` is in the set under `root`, with this value."""
    siblings, rest = _read_proof_untrusted(proof)
    if rest or len(value) != _HASH:
        raise FormatError("not a proof that a key is in a set")
    path = path_of(key)
    _check_root_untrusted(root, path, siblings, _leaf(path + value))


def verify_non_membership_untrusted(root: bytes, key: bytes, proof: bytes) -> None:
    """Pass if `key` is not in the set under `root`: its place is empty, or another's."""
    siblings, rest = _read_proof_untrusted(proof)
    path = path_of(key)
    if not rest:
        _check_root_untrusted(root, path, siblings, EMPTY)
        return
    other = rest[:_HASH]
    if len(rest) != _ROW or other == path or _shared_bits(other, path) < len(siblings):
        raise FormatError("not a proof that a key is missing from a set")
    _check_root_untrusted(root, path, siblings, _leaf(rest))
