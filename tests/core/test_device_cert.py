from dataclasses import replace

import pytest

from core import codec
from core.crypto import SigningKey
from core.device_cert import DeviceCert, Role
from core.errors import FormatError, IntegrityError, NewerFormat, PortalError
from core.ids import NodeId, UserId
from core.keys import DeviceKeys
from core.labels import SignLabel
from core.secret import Secret
from tests.support.damage import assert_all_refused
from tests.support.entropy import fixed_entropy

IDENTITY = SigningKey(Secret(bytes(range(32))))
DEVICE = DeviceKeys.generate(fixed_entropy("cert"))
CERT = DeviceCert(
    user=UserId(IDENTITY.public),
    node=DEVICE.node_id(),
    box_public=DEVICE.box_public(),
    name="laptop",
    roles=Role.laptop(),
    created_s=1_795_000_000,
    not_after_s=0,
    serial=bytes(range(8)),
    epoch=0,
)


def forged(row):
    payload = codec.encode(row)
    return codec.encode([payload, IDENTITY.sign(SignLabel.DEVICE_CERT, payload)])


def row_of(cert):
    payload, _ = codec.decode_untrusted(cert)
    return list(codec.decode_untrusted(payload))


def test_round_trip_and_golden(golden):
    sealed = CERT.signed_by(IDENTITY)
    assert DeviceCert.open_untrusted(sealed) == CERT
    assert sealed.hex() == golden("keys.json")["device cert"]


def test_every_damage_is_refused():
    assert_all_refused(DeviceCert.open_untrusted, CERT.signed_by(IDENTITY))


def test_a_laptop_cannot_delete_history_or_administer():
    assert Role.DELETE not in Role.laptop()
    assert Role.ADMIN not in Role.laptop()
    assert int(Role.laptop()) == 1 + 2 + 4 + 16 + 32 + 128


def test_the_signature_is_checked_before_the_fields_are_believed():
    payload, signature = codec.decode_untrusted(CERT.signed_by(IDENTITY))
    row = list(codec.decode_untrusted(payload))
    row[5] = 255  # every role
    with pytest.raises(IntegrityError):
        DeviceCert.open_untrusted(codec.encode([codec.encode(row), signature]))


def test_a_certificate_by_somebody_else_names_somebody_else():
    stranger = SigningKey(Secret(bytes(32)))
    own = replace(CERT, user=UserId(stranger.public)).signed_by(stranger)
    assert DeviceCert.open_untrusted(own).user != CERT.user


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (2, bytes([1]) + bytes(31)),  # the identity as node key
        (2, bytes(31)),
        (3, bytes(31)),
        (4, ""),
        (4, "x" * 65),
        (4, "\x1b[2J"),
        (4, b"laptop"),
        (5, 2**32),
        (6, -1),
        (7, 2**64 - 1 + 0.5),
        (8, bytes(7)),
        (9, None),
    ],
)
def test_even_the_owner_cannot_sign_nonsense(field, value):
    row = row_of(CERT.signed_by(IDENTITY))
    row[field] = value
    with pytest.raises(PortalError) as caught:
        DeviceCert.open_untrusted(forged(row))
    assert isinstance(caught.value, FormatError)


def test_versions():
    row = row_of(CERT.signed_by(IDENTITY))
    with pytest.raises(NewerFormat):
        DeviceCert.open_untrusted(forged([2, *row[1:], "new field"]))
    for bad in ([0, *row[1:]], row[:-1], [*row, 1]):
        with pytest.raises(FormatError):
            DeviceCert.open_untrusted(forged(bad))


def test_unknown_role_bits_are_carried():
    cert = replace(CERT, roles=Role(1 << 20 | 1))
    assert DeviceCert.open_untrusted(cert.signed_by(IDENTITY)).roles == cert.roles


def test_the_node_of_a_certificate_is_a_node():
    assert isinstance(DeviceCert.open_untrusted(CERT.signed_by(IDENTITY)).node, NodeId)


def test_a_certificate_that_could_not_be_read_is_not_made():
    with pytest.raises(FormatError, match="device name"):
        replace(CERT, name="my\nlaptop").signed_by(IDENTITY)
