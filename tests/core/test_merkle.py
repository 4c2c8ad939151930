# Golden vectors: PYTHONPATH=. python tests/core/test_merkle.py > tests/vectors/merkle.json

import json

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from core import merkle
from core.errors import FormatError, IntegrityError, LimitExceeded
from core.labels import Label
from tests.support.damage import assert_all_refused
from tests.support.pattern import pattern

BLOCK = 4096
SIZES = [1, 64, 4095, 4096, 4097, 8192, 20_480, 26_000, 65_536, 300_001]


# --- an independent reading of RFC 9162, 2.1, with our keys ---------------------------------------


def own_key(name):
    return blake3(b"", derive_key_context=f"portal-node 2026-11-21 {name} v1").digest()


LEAF_KEY, NODE_KEY = own_key("merkle leaf"), own_key("merkle node")


def rfc_split(n):
    half = 1
    while half * 2 < n:
        half *= 2
    return half


def rfc_root(leaves):
    if not leaves:
        return blake3(b"", key=NODE_KEY).digest()
    if len(leaves) == 1:
        return leaves[0]
    half = rfc_split(len(leaves))
    both = rfc_root(leaves[:half]) + rfc_root(leaves[half:])
    return blake3(both, key=NODE_KEY).digest()


def rfc_path(index, leaves):
    if len(leaves) == 1:
        return []
    half = rfc_split(len(leaves))
    if index < half:
        return [*rfc_path(index, leaves[:half]), rfc_root(leaves[half:])]
    return [*rfc_path(index - half, leaves[half:]), rfc_root(leaves[:half])]


def rfc_turns(index, n):
    """Left or right at each step: all that a proof's verification depends on besides hashes."""
    if n == 1:
        return ""
    half = rfc_split(n)
    if index < half:
        return rfc_turns(index, half) + "r"
    return rfc_turns(index - half, n - half) + "l"


def rfc_blocks(data):
    starts = range(0, len(data), BLOCK)
    return [blake3(data[i : i + BLOCK], key=LEAF_KEY).digest() for i in starts]


def numbered(n):
    return [i.to_bytes(32) for i in range(n)]


def refused(root, n, index, leaf, proof):
    try:
        merkle.verify_proof_untrusted(root, n, index, leaf, proof)
    except (FormatError, IntegrityError):
        return True
    return False


# --- shape and proofs -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*range(35), 100, 129])
def test_the_shape_is_that_of_the_rfc(n):
    leaves = numbered(n)
    tree = merkle.Tree(leaves)
    assert tree.root == rfc_root(leaves)
    assert tree.count == n
    for i in range(n):
        assert tree.proof(i) == b"".join(rfc_path(i, leaves))


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_hashed_under_their_own_key(size):
    data = pattern(size)
    assert merkle.block_root(data) == rfc_root(rfc_blocks(data))
    assert merkle.block_root(memoryview(data)) == merkle.block_root(bytearray(data))
    assert merkle.block_count(size) == len(rfc_blocks(data))


def check_every_proof(n):
    leaves = numbered(n)
    tree = merkle.Tree(leaves)
    for i, leaf in enumerate(leaves):
        proof = tree.proof(i)
        merkle.verify_proof_untrusted(tree.root, n, i, leaf, proof)
        for other in {i ^ 1, i + 1, i - 1, n - 1 - i, (i * 7 + 3) % n, n, -1} - {i}:
            assert refused(tree.root, n, other, leaf, proof)
        assert refused(tree.root, n, i, leaf, proof + bytes(32))
        assert refused(tree.root, n, i, leaf, proof + b"\0")
        assert refused(tree.root, n, i, leaf, bytes(32) + proof)
        if proof:
            assert refused(tree.root, n, i, leaf, proof[32:])
            assert refused(tree.root, n, i, leaf, proof[:-32])
            assert refused(tree.root, n, i, leaf, proof[:-1])
        for wrong in {n - 1, n + 1, 2 * n, 2 * n + 1, n + 64, rfc_split(n)} - {n}:
            same = i < wrong and rfc_turns(i, wrong) == rfc_turns(i, n)
            assert refused(tree.root, wrong, i, leaf, proof) != same
            assert not same or i < n - 1  # the last leaf gives a wrong count away


@pytest.mark.parametrize("n", range(1, 25))
def test_a_proof_holds_for_its_place_only(n):
    check_every_proof(n)


@pytest.mark.slow
def test_a_proof_holds_for_its_place_only_up_to_300():
    for n in range(25, 301):
        check_every_proof(n)


@given(st.integers(1, 300), st.data())
def test_another_count_is_refused_where_the_way_up_differs(n, data):
    wrong = data.draw(st.integers(1, 600))
    i = data.draw(st.integers(0, n - 1))
    leaves = numbered(n)
    tree = merkle.Tree(leaves)
    same = i < wrong and rfc_turns(i, wrong) == rfc_turns(i, n)
    assert refused(tree.root, wrong, i, leaves[i], tree.proof(i)) != same


@given(st.integers(1, 70), st.data())
def test_swapped_siblings_and_other_leaves_are_refused(n, data):
    leaves = numbered(n)
    tree = merkle.Tree(leaves)
    i, j = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    proof = tree.proof(i)
    swapped = proof[32:64] + proof[:32] + proof[64:]
    if i != j:
        assert refused(tree.root, n, i, leaves[j], proof)
        assert refused(tree.root, n, j, leaves[i], proof)
    if swapped != proof:
        assert refused(tree.root, n, i, leaves[i], swapped)


def test_every_damage_to_a_proof_is_refused():
    leaves = numbered(11)
    tree = merkle.Tree(leaves)
    for i in (0, 5, 10):
        assert_all_refused(
            lambda proof, i=i: merkle.verify_proof_untrusted(tree.root, 11, i, leaves[i], proof),
            tree.proof(i),
        )


def test_an_inner_node_is_no_leaf():
    # Two leaves' concatenation shown as a block would give the node's hash, were the keys one.
    leaves = numbered(2)
    tree = merkle.Tree(leaves)
    assert merkle.block_root(leaves[0] + leaves[1]) != tree.root


def test_nothing_and_one_empty_item_differ():
    nothing = merkle.block_root(b"")
    assert nothing == rfc_root([])
    assert merkle.block_count(0) == 0
    assert merkle.Tree.over_items(Label.SHARD_DESCRIPTOR, []).root == nothing
    assert merkle.Tree.over_items(Label.MERKLE_LEAF, [b""]).root != nothing
    with pytest.raises(FormatError):
        merkle.verify_block_untrusted(nothing, 0, 0, b"", b"")


def test_items_are_hashed_under_the_label_of_their_kind():
    items = [b"a", b"bc", b""]
    tree = merkle.Tree.over_items(Label.SHARD_DESCRIPTOR, items)
    key = own_key("shard descriptor")
    assert tree.root == rfc_root([blake3(item, key=key).digest() for item in items])
    assert tree.root != merkle.Tree.over_items(Label.MERKLE_LEAF, items).root


@pytest.mark.parametrize("count", [0, -1, 1 << 33, 1 << 4000])
def test_absurd_counts_are_refused_before_any_work(count):
    with pytest.raises(FormatError):
        merkle.verify_proof_untrusted(bytes(32), count, 0, bytes(32), b"")
    with pytest.raises(LimitExceeded):
        merkle.verify_proof_untrusted(bytes(32), 1 << 33, 0, bytes(32), b"")


# --- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4096, 4097, 26_000])
def test_blocks_prove_themselves(size):
    data = pattern(size)
    tree = merkle.Tree.over_blocks(data)
    blocks = [data[i : i + BLOCK] for i in range(0, size, BLOCK)]
    for i, block in enumerate(blocks):
        proof = tree.proof(i)
        merkle.verify_block_untrusted(tree.root, size, i, block, proof)
        with pytest.raises(IntegrityError):
            merkle.verify_block_untrusted(tree.root, size, i, bytes(len(block)), proof)
        for wrong in (block[:-1], block + b"\0", b"", block * 2):
            with pytest.raises(FormatError):
                merkle.verify_block_untrusted(tree.root, size, i, wrong, proof)
        for wrong in (i + 1, i - 1, -1, len(blocks), 1 << 70):
            with pytest.raises((FormatError, IntegrityError)):
                merkle.verify_block_untrusted(tree.root, size, wrong, block, proof)


@given(st.integers(0, 4095), st.integers(0, 7))
def test_any_flipped_bit_of_a_block_is_seen(at, bit):
    data = pattern(3 * BLOCK)
    tree = merkle.Tree.over_blocks(data)
    block = bytearray(data[BLOCK : 2 * BLOCK])
    block[at] ^= 1 << bit
    with pytest.raises(IntegrityError):
        merkle.verify_block_untrusted(tree.root, len(data), 1, block, tree.proof(1))


# --- golden ---------------------------------------------------------------------------------------


def vectors():
    rows = []
    for size in [0, *SIZES]:
        tree = merkle.Tree.over_blocks(pattern(size))
        places = sorted({0, tree.count // 2, tree.count - 1}) if tree.count else []
        proofs = [[i, tree.proof(i).hex()] for i in places]
        rows.append({"size": size, "root": tree.root.hex(), "proofs": proofs})
    return {
        "about": "Roots over 4 KiB blocks of tests/support/pattern.py, and [index, proof] of some.",
        "trees": rows,
    }


def test_golden(golden):
    frozen = golden("merkle.json")
    assert frozen == vectors()
    for row in frozen["trees"]:
        root, size = bytes.fromhex(row["root"]), row["size"]
        assert root == rfc_root(rfc_blocks(pattern(size)))
        for i, proof in row["proofs"]:
            block = pattern(size)[i * BLOCK : (i + 1) * BLOCK]
            merkle.verify_block_untrusted(root, size, i, block, bytes.fromhex(proof))


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
