# Golden vectors of roots, descriptions and names: tests/core/test_erasure.py.

from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from core import erasure, limits, shards
from core.erasure import Code
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat, NotEnoughShards
from core.shards import Description, Descriptor, Profile
from tests.support.damage import assert_all_refused
from tests.support.pattern import pattern

CODES = [Code(1, 1), Code(1, 3), Code(2, 5), Code(4, 6), Code(7, 12), Code(16, 26)]
every_code = pytest.mark.parametrize("code", CODES, ids=str)


def own_hash(name, data):
    key = blake3(b"", derive_key_context=f"portal-node 2026-11-21 {name} v1").digest()
    return blake3(data, key=key).digest()


def own_tree(hashes):
    if len(hashes) == 1:
        return hashes[0]
    half = 1
    while half * 2 < len(hashes):
        half *= 2
    return own_hash("merkle node", own_tree(hashes[:half]) + own_tree(hashes[half:]))


def profile_with(**fields):
    values = {"version": 1, "codec": 1, "k": 2, "n": 5, "size": 700, "block": 4096, "rest": 0}
    values |= fields
    sizes = {"version": 1, "codec": 1, "k": 1, "n": 1, "size": 4, "block": 4, "rest": 4}
    return b"".join(values[name].to_bytes(size) for name, size in sizes.items())


# --- layouts --------------------------------------------------------------------------------------


@every_code
def test_the_description_is_that_of_the_specification(code):
    data = pattern(30_000)
    described, made = shards.make(data, code)
    codec = 0 if code.k == 1 else 1
    profile = bytes([1, codec, code.k, code.n]) + (30_000).to_bytes(4) + (4096).to_bytes(4)
    profile += bytes(4)
    rows = []
    for i, shard in enumerate(made):
        blocks = [shard[at : at + 4096] for at in range(0, len(shard), 4096)]
        block_root = own_tree([own_hash("merkle leaf", block) for block in blocks])
        head = i.to_bytes(2) + len(shard).to_bytes(4)
        rows.append(head + own_hash("shard hash", shard) + block_root)
    top = own_tree([own_hash("shard descriptor", row) for row in rows])
    root = own_hash("chunk root", profile + top)
    assert described.to_bytes() == profile + b"".join(rows)
    assert described.root == root
    assert described.shard_name(1) == shards.shard_name(root, 1)
    assert shards.shard_name(root, 1) == own_hash("shard name", root + b"\0\1")
    assert Description.read_untrusted(described.to_bytes(), root) == described
    assert made == erasure.encode(data, code)


@pytest.mark.parametrize("size", [1, 700, limits.OBJECT_BYTES_MAX])
def test_profiles_are_read_back(size):
    profile = Profile(Code(2, 5), size)
    assert profile.to_bytes() == profile_with(size=size)
    assert Profile.read_untrusted(profile.to_bytes()) == profile


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"version": 0}, FormatError),
        ({"version": 2}, NewerFormat),
        ({"codec": 2}, NewerFormat),
        ({"codec": 0}, FormatError),
        ({"k": 0}, FormatError),
        ({"k": 1}, FormatError),
        ({"k": 5}, FormatError),
        ({"n": 33}, FormatError),
        ({"size": 0}, LimitExceeded),
        ({"size": limits.OBJECT_BYTES_MAX + 1}, LimitExceeded),
        ({"size": 0xFFFF_FFFF}, LimitExceeded),
        ({"block": 4095}, FormatError),
        ({"block": 0}, FormatError),
        ({"rest": 1}, FormatError),
    ],
)
def test_profiles_that_cannot_be_are_refused(fields, error):
    Profile.read_untrusted(profile_with())
    with pytest.raises(error):
        Profile.read_untrusted(profile_with(**fields))


@pytest.mark.parametrize(
    ("index", "size"), [(32, 64), (65_535, 64), (0, 0), (0, 63), (0, 65), (0, 0xFFFF_FFC0)]
)
def test_descriptors_that_cannot_be_are_refused(index, size):
    Descriptor.read_untrusted((31).to_bytes(2) + (64).to_bytes(4) + bytes(64))
    with pytest.raises(FormatError):
        Descriptor.read_untrusted(index.to_bytes(2) + size.to_bytes(4) + bytes(64))
    with pytest.raises(FormatError):
        Descriptor.read_untrusted(index.to_bytes(2) + size.to_bytes(4) + bytes(63))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_description(data):
    for read in (
        Profile.read_untrusted,
        Descriptor.read_untrusted,
        lambda data: Description.read_untrusted(data, bytes(32)),
    ):
        try:
            read(data)
        except (FormatError, IntegrityError):
            continue


@every_code
def test_every_damage_to_a_description_is_refused(code):
    described, _made = shards.make(pattern(1000), code)
    root = described.root
    assert_all_refused(
        lambda data: Description.read_untrusted(data, root), described.to_bytes(), step=3
    )
    assert_all_refused(
        lambda root: Description.read_untrusted(described.to_bytes(), root), described.root
    )


def test_swapped_and_foreign_descriptors_are_refused():
    described, _made = shards.make(pattern(1000), Code(2, 5))
    other, _made = shards.make(pattern(1001), Code(2, 5))
    data, rows = described.to_bytes(), list(described.descriptors)
    swapped = data[:16] + data[86:156] + data[16:86] + data[156:]
    renumbered = [replace(rows[1], index=0), replace(rows[0], index=1), *rows[2:]]
    mixed = [*rows[:4], other.descriptors[4]]
    for bad in (
        swapped,
        Description(described.profile, tuple(renumbered)).to_bytes(),
        Description(described.profile, tuple(mixed)).to_bytes(),
        other.to_bytes(),
        replace(described.profile, object_len=999).to_bytes() + data[16:],
    ):
        with pytest.raises((FormatError, IntegrityError)):
            Description.read_untrusted(bad, described.root)


def test_descriptors_that_do_not_fit_are_refused_even_if_the_root_says_so():
    # Whoever made the object may have hashed anything.
    described, _made = shards.make(pattern(1000), Code(2, 5))
    rows = list(described.descriptors)
    for bad in (
        [rows[1], rows[0], *rows[2:]],
        [replace(rows[0], index=1), *rows[1:]],
        [replace(rows[0], shard_len=rows[0].shard_len + 64), *rows[1:]],
    ):
        made_so = Description(described.profile, tuple(bad))
        with pytest.raises(FormatError):
            Description.read_untrusted(made_so.to_bytes(), made_so.root)
    longer = replace(rows[0], shard_len=rows[0].shard_len + 64)
    made_so = Description(described.profile, (longer, *rows[1:]))
    with pytest.raises(FormatError):
        shards.verify_descriptor_untrusted(made_so.root, made_so.profile, longer, made_so.prove(0))


# --- single descriptors ---------------------------------------------------------------------------


@every_code
def test_one_descriptor_proves_that_it_belongs_to_the_object(code):
    described, _made = shards.make(pattern(1000), code)
    root, profile = described.root, described.profile
    for i, descriptor in enumerate(described.descriptors):
        proof = described.prove(i)
        shards.verify_descriptor_untrusted(root, profile, descriptor, proof)

        def read(data, proof=proof):
            row = Descriptor.read_untrusted(data)
            shards.verify_descriptor_untrusted(root, profile, row, proof)

        if i % 5 == 0:
            assert_all_refused(read, descriptor.to_bytes(), step=7)
        if proof:
            assert_all_refused(
                lambda proof, d=descriptor: shards.verify_descriptor_untrusted(
                    root, profile, d, proof
                ),
                proof,
                step=13,
            )
        for other in (replace(profile, object_len=999), replace(profile, code=Code(3, 7))):
            with pytest.raises((FormatError, IntegrityError)):
                shards.verify_descriptor_untrusted(root, other, descriptor, proof)
        with pytest.raises((FormatError, IntegrityError)):
            shards.verify_descriptor_untrusted(bytes(32), profile, descriptor, proof)


# --- shards from outside --------------------------------------------------------------------------


def test_every_damage_to_a_shard_is_seen():
    described, made = shards.make(pattern(1000), Code(4, 6))
    for descriptor, shard in zip(described.descriptors, made, strict=True):
        for check in (shards.check_shard_untrusted, shards.check_new_shard_untrusted):
            assert_all_refused(
                lambda data, check=check, d=descriptor: check(data, d), bytes(shard), step=17
            )
    with pytest.raises(IntegrityError):
        shards.check_shard_untrusted(made[0], described.descriptors[1])
    for wrong in (made[0][:-1], bytes(made[0]) + b"\0", b""):
        with pytest.raises(FormatError):
            shards.check_shard_untrusted(wrong, described.descriptors[0])


def test_a_shard_that_would_fail_its_audits_is_not_taken_in():
    described, made = shards.make(pattern(1000), Code(4, 6))
    trap = replace(described.descriptors[2], block_root=bytes(32))
    shards.check_shard_untrusted(made[2], trap)
    with pytest.raises(IntegrityError):
        shards.check_new_shard_untrusted(made[2], trap)
    rows = list(described.descriptors)
    rows[2] = trap
    wrong = Description(described.profile, tuple(rows))
    few = {i: made[i] for i in (0, 1, 3, 4)}
    assert shards.recover(wrong.root, wrong, few).data == pattern(1000)
    with pytest.raises(IntegrityError):
        shards.repair(wrong.root, wrong, few, [2])


@every_code
def test_an_object_comes_back_from_any_end(code):
    data = pattern(5000)
    described, made = shards.make(data, code)
    for indexes in (range(code.k), range(code.n - code.k, code.n), range(code.n)):
        few = {i: made[i] for i in indexes}
        assert shards.recover(described.root, described, few) == shards.Recovered(data, {})
        rebuilt = shards.repair(described.root, described, few, range(code.n))
        assert rebuilt == dict(enumerate(made))


def flip(data, at):
    changed = bytearray(data)
    changed[at % len(data)] ^= 1 << at % 8
    return bytes(changed)


DAMAGE = {
    "none": lambda shard, _at, _other: shard,
    "flip": lambda shard, at, _other: flip(shard, at),
    "cut": lambda shard, at, _other: shard[: at % len(shard)],
    "cut by a row": lambda shard, _at, _other: shard[:-64],
    "grown": lambda shard, at, _other: shard + bytes(at % 200 + 1),
    "swapped": lambda _shard, _at, other: other,
    "zeroed": lambda shard, _at, _other: bytes(len(shard)),
}


@given(
    st.sampled_from(CODES),
    st.integers(1, 4000),
    st.lists(st.tuples(st.sampled_from([*DAMAGE, "lost"]), st.integers(0, 1 << 20)), min_size=26),
)
def test_damaged_shards_are_named_and_never_used(code, size, harm):
    data = pattern(size)
    described, made = shards.make(data, code)
    made = [bytes(shard) for shard in made]
    arrived = {}
    for i, (shard, (kind, at)) in enumerate(zip(made, harm, strict=False)):
        if kind != "lost":
            arrived[i] = DAMAGE[kind](shard, at, made[at % code.n])
    wrong = {i for i, shard in arrived.items() if shard != made[i]}
    few = len(arrived) - len(wrong) < code.k
    for odd in (-1, code.n, 70_000):
        arrived[odd] = made[0]
    if few:
        with pytest.raises(NotEnoughShards):
            shards.recover(described.root, described, arrived)
        with pytest.raises(NotEnoughShards):
            shards.repair(described.root, described, arrived, [0])
        return
    recovered = shards.recover(described.root, described, arrived)
    assert recovered.data == data
    assert set(recovered.bad) == wrong | {-1, code.n, 70_000}
    rebuilt = shards.repair(described.root, described, arrived, range(code.n))
    assert rebuilt == dict(enumerate(made))


def test_a_description_of_another_object_is_not_believed():
    described, made = shards.make(pattern(1000), Code(2, 5))
    other, _made = shards.make(pattern(1001), Code(2, 5))
    for act in (shards.recover, lambda *what: shards.repair(*what, [0])):
        with pytest.raises(IntegrityError):
            act(other.root, described, dict(enumerate(made)))


def test_a_shard_that_does_not_exist_cannot_be_rebuilt():
    described, made = shards.make(pattern(1000), Code(2, 5))
    for index in (-1, 5):
        with pytest.raises(FormatError):
            shards.repair(described.root, described, dict(enumerate(made)), [index])


# --- objects that were described wrongly when they were made --------------------------------------


def made_wrongly(code, liars, size=2000):
    """An object whose shards `liars` fit their descriptors, but not the data."""
    described, made = shards.make(pattern(size), code)
    made = {i: flip(shard, 5) if i in liars else bytes(shard) for i, shard in enumerate(made)}
    rows = tuple(Descriptor.of(i, shard) for i, shard in made.items())
    return Description(described.profile, rows), made


@every_code
def test_a_lying_parity_shard_is_avoided(code):
    if code.spare < 2 or code.k == 1:
        return
    for liar in range(code.k, code.n):
        described, made = made_wrongly(code, {liar})
        some = {i: shard for i, shard in made.items() if i}  # without the first: parity is needed
        if code.spare > 5:
            some = {i: shard for i, shard in made.items() if i > 4}
        recovered = shards.recover(described.root, described, some)
        assert recovered == shards.Recovered(pattern(2000), {})


@every_code
def test_contradicting_shards_give_no_data_rather_than_wrong_data(code):
    if code.k == 1:
        return
    described, made = made_wrongly(code, {code.n - 1})
    few = {i: made[i] for i in range(code.n - code.k, code.n)}
    with pytest.raises(IntegrityError):
        shards.recover(described.root, described, few)
    with pytest.raises(IntegrityError):
        shards.repair(described.root, described, few, [0])
    # The liar itself cannot be rebuilt, from however many: the data says otherwise.
    with pytest.raises(IntegrityError):
        shards.repair(described.root, described, {i: made[i] for i in range(code.k)}, [code.n - 1])


def test_whichever_shards_come_the_data_is_that_of_the_root():
    # A malicious maker could otherwise show one person one file and another person another.
    described, made = made_wrongly(Code(4, 8), {1, 6})
    seen = set()
    for mask in range(256):
        some = {i: shard for i, shard in made.items() if mask >> i & 1}
        try:
            seen.add(shards.recover(described.root, described, some).data)
        except (NotEnoughShards, IntegrityError):
            continue
    assert len(seen) == 1


def test_the_search_for_a_fitting_choice_has_an_end(monkeypatch):
    described, made = made_wrongly(Code(10, 16), set(range(10, 16)))
    tried = []
    real = erasure.rebuild
    monkeypatch.setattr(erasure, "rebuild", lambda *what: tried.append(1) or real(*what))
    monkeypatch.setattr(limits, "RECOVER_ATTEMPTS_MAX", 7)
    with pytest.raises(IntegrityError):
        shards.recover(
            described.root, described, {i: shard for i, shard in made.items() if i not in {0, 3}}
        )
    assert len(tried) == 7
