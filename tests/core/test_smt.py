# Golden vectors: PYTHONPATH=. python tests/core/test_smt.py > tests/vectors/smt.json

import json

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from core import smt
from core.errors import FormatError, IntegrityError, LimitExceeded
from tests.support.damage import assert_all_refused

# --- an independent reading of the specification --------------------------------------------------


def own_key(name):
    return blake3(b"", derive_key_context=f"portal-node 2026-11-21 {name} v1").digest()


PATH_KEY, LEAF_KEY, NODE_KEY = own_key("holdings"), own_key("smt leaf"), own_key("smt node")


def own_path(key):
    return blake3(key, key=PATH_KEY).digest()


def bits(path):
    return f"{int.from_bytes(path):0256b}"


def own_root(rows, depth=0):
    """The root of (path, value) rows, by the definition."""
    if not rows:
        return bytes(32)
    if len(rows) == 1:
        return blake3(rows[0][0] + rows[0][1], key=LEAF_KEY).digest()
    left = own_root([r for r in rows if bits(r[0])[depth] == "0"], depth + 1)
    right = own_root([r for r in rows if bits(r[0])[depth] == "1"], depth + 1)
    return blake3(left + right, key=NODE_KEY).digest()


def own_proof(rows, path, depth=0):
    """Siblings from the root down, and what lies at the end: nothing, or one (path, value)."""
    if len(rows) < 2:
        return [], rows
    near = [r for r in rows if bits(r[0])[depth] == bits(path)[depth]]
    far = [r for r in rows if bits(r[0])[depth] != bits(path)[depth]]
    siblings, end = own_proof(near, path, depth + 1)
    return [own_root(far, depth + 1), *siblings], end


def own_encoding(rows, path):
    siblings, end = own_proof(rows, path)
    marks = "".join("0" if s == bytes(32) else "1" for s in siblings)
    padded = marks.ljust(-(-len(marks) // 8) * 8, "0")
    bitmap = bytes(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8))
    other = b"".join(end[0]) if end and end[0][0] != path else b""
    present = [s for s in siblings if s != bytes(32)]
    return len(siblings).to_bytes(2) + bitmap + b"".join(present) + other


def numbered(n):
    return {b"key %d" % i: own_path(b"value %d" % i) for i in range(n)}


def is_member(root, key, value, proof):
    try:
        smt.verify_membership_untrusted(root, key, value, proof)
    except (FormatError, IntegrityError):
        return False
    return True


def is_missing(root, key, proof):
    try:
        smt.verify_non_membership_untrusted(root, key, proof)
    except (FormatError, IntegrityError):
        return False
    return True


@pytest.fixture
def chosen_paths(monkeypatch):
    """Keys are paths themselves: trees of any shape can be made."""
    monkeypatch.setattr(smt, "path_of", lambda key: key)


# --- roots and proofs -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7, 30, 100])
def test_roots_and_proofs_are_those_of_the_definition(n):
    items = numbered(n)
    tree = smt.SparseTree(items)
    rows = [(own_path(key), value) for key, value in items.items()]
    assert tree.root == smt.root(items) == own_root(rows)
    assert len(tree) == n
    for key in [*list(items)[:20], b"absent", b"", b"key"]:
        assert tree.prove(key) == own_encoding(rows, own_path(key))
        assert (key in tree) == (key in items)


@given(st.dictionaries(st.binary(max_size=8), st.binary(min_size=32, max_size=32)), st.randoms())
def test_the_order_of_insertion_does_not_matter(items, chance):
    shuffled = list(items.items())
    chance.shuffle(shuffled)
    assert smt.root(dict(shuffled)) == smt.root(items)


@given(
    st.dictionaries(st.binary(max_size=2), st.binary(min_size=32, max_size=32), max_size=40),
    st.binary(max_size=2),
)
def test_every_key_is_shown_to_be_where_it_is_and_nowhere_else(items, probe):
    tree = smt.SparseTree(items)
    for key in [*items, probe]:
        proof = tree.prove(key)
        assert is_missing(tree.root, key, proof) == (key not in items)
        for value in {*items.values(), bytes(32), b"", bytes(31)}:
            assert is_member(tree.root, key, value, proof) == (items.get(key) == value)


@given(st.integers(1, 60), st.integers(0, 59), st.integers(0, 59))
def test_a_proof_for_one_key_says_nothing_of_another(n, i, j):
    items = numbered(n)
    tree = smt.SparseTree(items)
    mine, other = b"key %d" % (i % n), b"key %d" % (j % n)
    proof = tree.prove(other)
    assert not is_missing(tree.root, mine, proof)
    assert is_member(tree.root, mine, items[mine], proof) == (mine == other)
    absent = tree.prove(b"absent")
    assert not is_missing(tree.root, mine, absent)
    assert not is_member(tree.root, mine, items[mine], absent)


def test_a_changed_set_has_another_root():
    items = numbered(50)
    roots = {smt.root(items)}
    for key in items:
        roots.add(smt.root({k: v for k, v in items.items() if k != key}))
        roots.add(smt.root({**items, key: bytes(32)}))
    assert len(roots) == 101
    assert smt.root({}) == smt.EMPTY == bytes(32)


# --- damage and forgery ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_every_damage_to_a_proof_is_refused(n):
    items = numbered(n)
    tree = smt.SparseTree(items)
    key = b"key %d" % (n - 1)
    assert_all_refused(
        lambda proof: smt.verify_membership_untrusted(tree.root, key, items[key], proof),
        tree.prove(key),
    )
    for absent in (b"absent", b"nobody", b"nothing"):
        assert_all_refused(
            lambda proof, absent=absent: smt.verify_non_membership_untrusted(
                tree.root, absent, proof
            ),
            tree.prove(absent),
        )


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_proof(proof):
    items = numbered(5)
    root = smt.root(items)
    assert not is_missing(root, b"key 3", proof)
    assert not is_member(root, b"absent", bytes(32), proof)


def test_absurd_depths_are_refused_before_any_work():
    for depth in (257, 1000, 65_535):
        proof = depth.to_bytes(2) + b"\xff" * 8200
        with pytest.raises(LimitExceeded):
            smt.verify_membership_untrusted(bytes(32), b"k", bytes(32), proof)
    with pytest.raises(LimitExceeded):
        smt.verify_non_membership_untrusted(bytes(32), b"k", bytes(9000))


def test_a_proof_has_one_encoding():
    tree = smt.SparseTree(numbered(2))
    rows = tree.prove(b"key 0")
    depth = int.from_bytes(rows[:2])
    deeper = (depth + 1).to_bytes(2) + rows[2:]  # an empty sibling below the end
    spelled = (1).to_bytes(2) + b"\x80" + bytes(32)  # an empty sibling written out
    spare = rows[:2] + bytes([rows[2] | 1]) + rows[3:]  # a mark beyond the depth
    assert depth < 7
    for bad in (deeper, spelled, spare):
        with pytest.raises(FormatError):
            smt.verify_membership_untrusted(tree.root, b"key 0", numbered(1)[b"key 0"], bad)


def test_the_key_itself_is_no_witness_of_its_absence():
    # The place of a key holds the key: shown as "another leaf", it must not count as another.
    items = numbered(9)
    tree = smt.SparseTree(items)
    key = b"key 4"
    proof = tree.prove(key) + own_path(key) + items[key]
    with pytest.raises(FormatError):
        smt.verify_non_membership_untrusted(tree.root, key, proof)


def test_a_leaf_elsewhere_is_no_witness():
    # A true leaf of the tree, shown at the place of a key it shares too few bits with.
    items = numbered(64)
    tree = smt.SparseTree(items)
    members = list(items)
    for key in members[:16]:
        for other in members[16:32]:
            proof = tree.prove(other) + own_path(other) + items[other]
            assert not is_missing(tree.root, key, proof)


@pytest.mark.usefixtures("chosen_paths")
def test_no_forged_root_shows_a_key_inside_and_outside():
    # The forger puts one leaf at two places, too deep, and beside itself: an honest tree would
    # never look like this, but whoever commits to a root may have made it in any way.
    key = bytes([0b0100_0000]) + bytes(31)
    near = bytes([0b0110_0000]) + bytes(31)
    value = b"v" * 32
    leaf, other = (blake3(p + value, key=LEAF_KEY).digest() for p in (key, near))

    def node(left, right):
        return blake3(left + right, key=NODE_KEY).digest()

    ends = {b"": bytes(32), key + value: leaf, near + value: other}
    for end_row, end in ends.items():
        for sibling in (leaf, other, b"s" * 32):
            # Depth 2 on the path 01: the end on the right of the left half.
            inner = node(sibling, end)
            root = node(inner, leaf)
            proof = b"\0\2\xc0" + leaf + sibling
            inside = is_member(root, key, value, proof)
            outside = [is_missing(root, key, proof + row) for row in ends]
            assert inside == (end_row == key + value)
            assert sum(outside) + inside == 1


@pytest.mark.usefixtures("chosen_paths")
def test_a_leaf_that_lies_where_it_does_not_belong_is_no_witness():
    # The root may be forged: a leaf of the right half, put into the left half.
    stray = b"\xff" * 32 + b"v" * 32
    leaf = blake3(stray, key=LEAF_KEY).digest()
    sibling = b"s" * 32
    root = blake3(leaf + sibling, key=NODE_KEY).digest()
    proof = b"\0\1\x80" + sibling + stray
    with pytest.raises(FormatError):
        smt.verify_non_membership_untrusted(root, bytes(32), proof)


# --- shapes that hashes never make ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("chosen_paths")
@settings(max_examples=120)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=12), st.integers(0, 255))
def test_deep_and_lopsided_trees(ends, shared):
    # Paths that agree in `shared` bits and then differ in eight, or run to the last bit.
    def path(end):
        shift = max(0, 248 - shared)
        return ((end << shift) & ((1 << 256) - 1)).to_bytes(32)

    items = {path(end): bytes([end]) * 32 for end in ends}
    rows = list(items.items())
    tree = smt.SparseTree(items)
    assert tree.root == own_root(rows)
    for key in [*items, bytes(32), b"\xff" * 32, path(shared), b"\0" * 31 + b"\1"]:
        proof = tree.prove(key)
        assert proof == own_encoding(rows, key)
        assert len(proof) <= 2 + 32 + 256 * 32 + 64
        if key in items:
            smt.verify_membership_untrusted(tree.root, key, items[key], proof)
        else:
            smt.verify_non_membership_untrusted(tree.root, key, proof)


@pytest.mark.usefixtures("chosen_paths")
def test_the_deepest_tree_there_can_be():
    paths = [(1 << i).to_bytes(32) for i in range(256)] + [bytes(32)]
    items = {path: path for path in paths}
    tree = smt.SparseTree(items)
    for path in paths:
        smt.verify_membership_untrusted(tree.root, path, path, tree.prove(path))
    assert len(tree.prove(bytes(32))) == 2 + 32 + 256 * 32
    assert_all_refused(
        lambda proof: smt.verify_membership_untrusted(tree.root, bytes(32), bytes(32), proof),
        tree.prove(bytes(32)),
        step=411,
    )


@pytest.mark.slow
def test_proofs_stay_small_in_a_large_set():
    items = {i.to_bytes(8): own_path(i.to_bytes(8)) for i in range(50_000)}
    tree = smt.SparseTree(items)
    for i in range(0, 100_000, 997):
        key = i.to_bytes(8)
        proof = tree.prove(key)
        assert len(proof) < 1200
        if i < 50_000:
            smt.verify_membership_untrusted(tree.root, key, items[key], proof)
        else:
            smt.verify_non_membership_untrusted(tree.root, key, proof)


# --- golden ---------------------------------------------------------------------------------------


def vectors():
    rows = []
    for n in (0, 1, 2, 3, 10, 1000):
        items = numbered(n)
        tree = smt.SparseTree(items)
        keys = [*(b"key %d" % i for i in {0, n // 2, n - 1} if 0 <= i < n), b"absent", b"nobody"]
        proofs = [[key.decode(), key in items, tree.prove(key).hex()] for key in sorted(keys)]
        rows.append({"items": n, "root": tree.root.hex(), "proofs": proofs})
    return {
        "about": (
            "Sets of n items: key 'key i', value H('holdings', 'value i'), i < n, i in decimal."
            " Proofs as [key, is it in the set, proof]."
        ),
        "sets": rows,
    }


def test_golden(golden):
    frozen = golden("smt.json")
    assert frozen == vectors()
    for row in frozen["sets"]:
        items, root = numbered(row["items"]), bytes.fromhex(row["root"])
        for text, inside, proof in row["proofs"]:
            key = text.encode()
            assert is_missing(root, key, bytes.fromhex(proof)) != inside
            assert is_member(root, key, items.get(key, b""), bytes.fromhex(proof)) == inside


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
