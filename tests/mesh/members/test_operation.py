import json
from dataclasses import replace

import pytest
from blake3 import blake3
from nacl.signing import VerifyKey

from core import codec, limits
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat
from core.labels import SignLabel
from mesh.members.bodies import Grant, Kind, Unknown, UserRole
from mesh.members.membership import Membership
from mesh.members.operation import Operation, Place, Proposal, operation_id, signed
from tests.support.damage import assert_all_refused
from tests.support.memberships import NOW_MS, a_mesh, found, genesis_of, person

F, A, B = map(person, "FAB")
MESH = a_mesh(F, A, B)
GENESIS = MESH.membership.set.ops[0]
COSIGNED = next(op for op in MESH.membership.set.ops if op.cosigns)


def forged(row, key=F.device):
    payload = codec.encode(row)
    return codec.encode([payload, key.sign(SignLabel.MEMBER_OPERATION, payload)])


def row_of(data):
    payload, _ = codec.decode_untrusted(data)
    return list(codec.decode_untrusted(payload))


def test_round_trip():
    for op in MESH.membership.set.ops:
        again = Operation.open_untrusted(op.data, MESH.membership.mesh_id)
        assert again == op
        assert again.id == operation_id(op.data)


@pytest.mark.parametrize("op", [GENESIS, COSIGNED, MESH.membership.set.ops[2]])
def test_every_damage_is_refused(op):
    mesh = MESH.membership.mesh_id
    assert_all_refused(lambda data: Operation.open_untrusted(data, mesh), op.data, step=11)


def by_hand_signature(label, payload):
    name = label.encode()
    head = b"portal-node-sig-v1\x00" + bytes([len(name)]) + name
    return head + len(payload).to_bytes(8) + payload


def test_golden_and_by_hand_from_the_primitives(golden):
    # The file is frozen; the hashes and signatures in it are checked without our own code.
    vector = golden("membership.json")
    data = [bytes.fromhex(one) for one in vector["operations"]]
    context = "portal-node 2026-11-21 mesh id v1"
    mesh_id = blake3(data[0], derive_key_context=context).digest()
    assert mesh_id.hex() == vector["mesh id"]
    context = "portal-node 2026-11-21 member operation v1"
    key = blake3(b"", derive_key_context=context).digest()
    for one, op_id in zip(data, vector["ids"], strict=True):
        assert blake3(one, key=key).digest().hex() == op_id
        payload, signature = codec.decode_untrusted(one)
        author = codec.decode_untrusted(payload)[3]
        words = by_hand_signature("member-operation", payload)
        VerifyKey(author).verify(words, signature)
    row = codec.decode_untrusted(codec.decode_untrusted(data[-1])[0])
    words = codec.encode([1, mesh_id, row[2], row[6], row[9]])
    assert row[10]
    for user, node, signature in row[10]:
        VerifyKey(node or user).verify(by_hand_signature("member-cosign", words), signature)

    membership = Membership.begin_untrusted(data[0])
    assert not membership.receive_untrusted(data[1:]).refused
    assert membership.set.vector_hash().hex() == vector["vector hash"]
    assert membership.state.hash().hex() == vector["state hash"]
    member = membership.members()[0]
    assert [member.node.hex(), member.dht_id.hex(), member.overlay.hex()] == vector["member"]


def test_the_golden_mesh_is_made_again_to_the_bit(golden):
    vector = golden("membership.json")
    assert vector == json.loads(json.dumps(golden_mesh()))


def golden_mesh():
    mesh = a_mesh(person("F"), person("A"), person("B"))
    mesh.cosigned(Kind.GRANT, Grant(A.user, UserRole.ADMIN), [(A, A.device), (B, B.key)])
    membership = mesh.membership
    member = membership.members()[0]
    return {
        "note": "fixed seeds of tests/support/memberships.py; an operation per line, hex",
        "mesh id": membership.mesh_id.hex(),
        "operations": [op.data.hex() for op in membership.set.ops],
        "ids": [op.id.hex() for op in membership.set.ops],
        "vector hash": membership.set.vector_hash().hex(),
        "state hash": membership.state.hash().hex(),
        "member": [member.node.hex(), member.dht_id.hex(), member.overlay.hex()],
    }


def test_a_mesh_begins_with_its_genesis():
    mesh = MESH.membership.mesh_id
    other = genesis_of(A)
    with pytest.raises(FormatError, match="another mesh"):
        Operation.open_untrusted(other, mesh)
    with pytest.raises(FormatError, match="does not begin"):
        Operation.open_untrusted(COSIGNED.data, None)
    assert Operation.open_untrusted(other, None).mesh != mesh


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        (0, 2, NewerFormat),
        (0, 0, FormatError),
        (1, bytes(32), FormatError),
        (1, b"", FormatError),
        (2, 2**16, FormatError),
        (4, 0, FormatError),  # with an operation before it
        (4, 2**32, FormatError),
        (5, bytes(31), FormatError),
        (6, (bytes(31),), FormatError),
        (6, (b"b" * 32, b"a" * 32), FormatError),
        (6, (b"a" * 32, b"a" * 32), FormatError),
        (6, tuple(bytes([n]) * 32 for n in range(9)), LimitExceeded),
        (7, -1, FormatError),
        (8, None, FormatError),
        (9, (1, 2), FormatError),
        (10, ((F.user, b"", bytes(64)),), IntegrityError),
        (10, ((F.user, b"", bytes(64)),) * 17, LimitExceeded),
        (10, ((F.user, bytes(31), bytes(64)),), FormatError),
    ],
)
def test_even_the_author_cannot_sign_nonsense(field, value, error):
    mesh = found(F)
    mesh.bring(A)
    data = mesh.author.next(Kind.GRANT, Grant(A.user, UserRole.ADMITTER), NOW_MS)
    row = row_of(data)
    Operation.open_untrusted(forged(row), mesh.membership.mesh_id)
    row[field] = value
    with pytest.raises(error):
        Operation.open_untrusted(forged(row), mesh.membership.mesh_id)


def test_sizes_are_bounded_by_type():
    mesh = found(F)
    big = Unknown((bytes(limits.OPERATION_BYTES_MAX),))
    with pytest.raises(LimitExceeded):
        Operation.open_untrusted(mesh.author.next(99, big, NOW_MS), mesh.membership.mesh_id)
    fits = Unknown((bytes(limits.OPERATION_BYTES_MAX - 400),))
    Operation.open_untrusted(mesh.author.next(99, fits, NOW_MS), mesh.membership.mesh_id)
    huge = bytes(1 << 20)
    with pytest.raises(LimitExceeded):
        Operation.open_untrusted(huge, mesh.membership.mesh_id)


def test_an_admission_fits_with_eight_parents_and_a_long_name():
    assert all(len(op.data) <= limits.ADMISSION_BYTES_MAX - 500 for op in MESH.membership.set.ops)


def test_only_the_genesis_hangs_on_nothing():
    mesh = MESH.membership.mesh_id
    body = Grant(F.user, UserRole.ADMIN)
    with pytest.raises(FormatError, match="genesis"):
        Operation.open_untrusted(signed(F.device, mesh, Kind.GRANT, body, Place()), mesh)


def test_the_author_signs_the_cosignatures_so_that_nobody_strips_them():
    row = row_of(COSIGNED.data)
    payload = codec.encode([*row[:10], ()])
    _, signature = codec.decode_untrusted(COSIGNED.data)
    with pytest.raises(IntegrityError):
        Operation.open_untrusted(codec.encode([payload, signature]), MESH.membership.mesh_id)


def test_a_proposal_travels():
    proposal = MESH.author.propose(Kind.GRANT, Grant(A.user, UserRole.ADMIN))
    again = Proposal.open_untrusted(proposal.encoded(), MESH.membership.mesh_id)
    assert again == proposal
    with pytest.raises(FormatError, match="another mesh"):
        other = found(A).membership.mesh_id
        Proposal.open_untrusted(proposal.encoded(), other)
    assert replace(proposal, parents=()).encoded() != proposal.encoded()
