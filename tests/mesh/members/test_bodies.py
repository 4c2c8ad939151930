from dataclasses import replace

import pytest

from core import codec
from core.device_cert import DeviceCert
from core.errors import FormatError, IntegrityError, PortalError
from core.ids import MeshId
from core.labels import SignLabel
from mesh.members import bodies
from mesh.members.bodies import (
    AddDevice,
    Admit,
    Approve,
    Checkpoint,
    CloseInvite,
    Context,
    Drop,
    Genesis,
    Grant,
    Kind,
    Numbered,
    Policy,
    Reason,
    RevokeDevice,
    RevokeUser,
    SuspendDevice,
    Unknown,
    UserRole,
)
from mesh.members.joining import Join, Recover
from tests.support.memberships import found, join_of, person, recover_of, seeded_key, terms

F, A = person("F"), person("A")
MESH = found(F).membership
CONTEXT = Context(MESH.mesh_id, F.node)
VOUCHER = seeded_key("voucher")
JOIN, RECOVER = join_of(MESH, A, VOUCHER), recover_of(MESH, A, A.devices[0])
CERT = F.devices[0].cert


def signed_by_user(body):
    signature = A.key.sign(SignLabel.MEMBER_DEVICE, body.words(MESH.mesh_id))
    return replace(body, by_user=signature)


BODIES = {
    Kind.GENESIS: Genesis("home", bytes(32), CERT, DeviceCert.open_untrusted(CERT), F.kem),
    Kind.INVITE: terms(VOUCHER).signed(VOUCHER, CONTEXT),
    Kind.CLOSE_INVITE: CloseInvite(VOUCHER.public),
    Kind.ADMIT: Admit(*JOIN, Join.open_untrusted(*JOIN)),
    Kind.APPROVE: Approve(bytes(32)),
    Kind.ADD_DEVICE: AddDevice(*RECOVER, Recover.open_untrusted(*RECOVER)),
    Kind.SUSPEND_DEVICE: signed_by_user(SuspendDevice(A.user, A.node, bytes(32))),
    Kind.REVOKE_DEVICE: signed_by_user(RevokeDevice(A.user, A.node, bytes(32), b"")),
    Kind.REVOKE_USER: RevokeUser(A.user, Reason.LEFT, b""),
    Kind.GRANT: Grant(A.user, UserRole.ADMIN),
    Kind.DROP: Drop(A.user, UserRole.ADMITTER),
    Kind.POLICY: Policy(UserRole.MEMBER, UserRole.ADMIN, 7),
    Kind.EPOCH: Numbered(3, bytes(32)),
    Kind.COMMITTEE: Numbered(1, b"who"),
    Kind.DEDUP_EPOCH: Numbered(2, b"what"),
    Kind.CHECKPOINT: Checkpoint(bytes(32)),
}


def reread(kind, row, context=CONTEXT):
    return bodies.read_untrusted(kind, codec.decode_untrusted(codec.encode(row)), context)


def test_every_type_has_a_body():
    assert set(BODIES) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
def test_round_trip(kind):
    assert reread(kind, BODIES[kind].row()) == BODIES[kind]


@pytest.mark.parametrize("kind", Kind)
def test_a_field_too_few_too_many_or_of_another_type_is_refused(kind):
    row = BODIES[kind].row()
    bad = [row[:-1], (*row, 0), ()]
    bad += [(*row[:n], ("nothing",), *row[n + 1 :]) for n in range(len(row))]
    for each in bad:
        with pytest.raises(PortalError) as caught:
            reread(kind, each)
        assert isinstance(caught.value, FormatError | IntegrityError)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Kind.INVITE, terms(VOUCHER, role=UserRole.ADMIN).signed(VOUCHER, CONTEXT).row()),
        (Kind.GRANT, (A.user, 3)),
        (Kind.DROP, (A.user, 0)),
        (Kind.REVOKE_USER, (A.user, 3, b"")),
        (Kind.REVOKE_USER, (A.user, 0, bytes(31))),
        (Kind.EPOCH, (2**32, b"")),
        (Kind.EPOCH, (1, bytes(1_025))),
        (Kind.POLICY, (0, 4, 0)),
        (Kind.GENESIS, ("\n", *BODIES[Kind.GENESIS].row()[1:])),
    ],
)
def test_what_can_mean_nothing_is_refused(kind, row):
    with pytest.raises(FormatError):
        reread(kind, row)


def test_signatures_inside_are_tied_to_the_mesh_and_the_author():
    other_mesh = Context(MeshId(bytes(32)), F.node)
    other_author = Context(MESH.mesh_id, A.node)
    for kind in (Kind.INVITE, Kind.SUSPEND_DEVICE, Kind.REVOKE_DEVICE):
        with pytest.raises(IntegrityError):
            reread(kind, BODIES[kind].row(), other_mesh)
    for kind in (Kind.ADMIT, Kind.ADD_DEVICE):
        with pytest.raises(FormatError, match="another mesh"):
            reread(kind, BODIES[kind].row(), other_mesh)
    with pytest.raises(IntegrityError):
        reread(Kind.INVITE, BODIES[Kind.INVITE].row(), other_author)
    with pytest.raises(FormatError, match="another device"):
        reread(Kind.GENESIS, BODIES[Kind.GENESIS].row(), other_author)


def test_nobody_but_the_voucher_sets_its_terms():
    row = list(BODIES[Kind.INVITE].row())
    for field, value in ((1, 1), (2, True), (3, 2**40), (4, 0), (5, "mine")):
        changed = [*row[:field], value, *row[field + 1 :]]
        with pytest.raises(IntegrityError):
            reread(Kind.INVITE, changed)


def test_what_a_user_key_says_of_one_device_holds_for_that_one():
    for kind in (Kind.SUSPEND_DEVICE, Kind.REVOKE_DEVICE):
        body = BODIES[kind]
        changed = [replace(body, user=F.user), replace(body, node=F.node)]
        changed.append(
            replace(body, lifts=b"") if kind == Kind.SUSPEND_DEVICE else replace(body, cut=b"")
        )
        for each in changed:
            with pytest.raises(IntegrityError):
                reread(kind, each.row())


def test_an_unknown_type_carries_any_fields():
    assert reread(99, (1, "two", (b"three",))) == Unknown((1, "two", (b"three",)))
    assert bodies.cert_of(Unknown(())) is None


def test_certificates_inside():
    for kind in Kind:
        expected = kind in {Kind.GENESIS, Kind.ADMIT, Kind.ADD_DEVICE}
        assert (bodies.cert_of(BODIES[kind]) is not None) == expected
