import pytest

from core import codec, limits
from core.errors import FormatError, IntegrityError, NewerFormat
from core.labels import SignLabel
from mesh.members.joining import Join, Recover
from tests.support.damage import assert_all_refused
from tests.support.memberships import found, join_of, person, recover_of, seeded_key

A, B = person("A"), person("B")
VOUCHER = seeded_key("voucher")
MESH = found(person("F")).membership
JOIN = join_of(MESH, A, VOUCHER)
RECOVER = recover_of(MESH, A, A.devices[0])


def test_round_trip():
    join = Join.open_untrusted(*JOIN)
    assert (join.mesh, join.invite, join.cert.user) == (MESH.mesh_id, VOUCHER.public, A.user)
    assert join.encoded() == JOIN[0]
    recover = Recover.open_untrusted(*RECOVER)
    assert (recover.mesh, recover.cert.node) == (MESH.mesh_id, A.node)
    assert recover.encoded() == RECOVER[0]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_damage_is_refused(which):
    for cls, whole in ((Join, JOIN), (Recover, RECOVER)):

        def read(data, cls=cls, whole=whole):
            parts = list(whole)
            parts[which] = data
            return cls.open_untrusted(*parts)

        assert_all_refused(read, whole[which], step=7 if which == 0 else 3)


def test_signatures_of_others_are_none():
    data, by_voucher, by_device = JOIN
    label = SignLabel.PAIR_JOIN
    for bad in (
        (data, seeded_key("other").sign(label, data), by_device),
        (data, by_voucher, B.device.sign(label, data)),
        (data, VOUCHER.sign(SignLabel.PAIR_RECOVER, data), by_device),
        (data, by_device, by_voucher),
    ):
        with pytest.raises(IntegrityError):
            Join.open_untrusted(*bad)
    data, by_user, by_device = RECOVER
    with pytest.raises(IntegrityError):
        Recover.open_untrusted(data, B.key.sign(SignLabel.PAIR_RECOVER, data), by_device)
    with pytest.raises(IntegrityError):
        Recover.open_untrusted(data, by_user, B.device.sign(SignLabel.PAIR_RECOVER, data))


def signed_row(row):
    data = codec.encode(row)
    label = SignLabel.PAIR_JOIN
    return data, VOUCHER.sign(label, data), A.device.sign(label, data)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        (0, 2, NewerFormat),
        (1, bytes(31), FormatError),
        (2, bytes(31), FormatError),
        (2, bytes(32), FormatError),  # a key under which anybody signs
        (3, bytes(limits.CERT_BYTES_MAX + 1), FormatError),
        (4, bytes(1_215), FormatError),
        (5, bytes(15), FormatError),
        (6, bytes(63), FormatError),
        (7, -1, FormatError),
    ],
)
def test_nonsense_is_refused_whoever_signs_it(field, value, error):
    row = list(codec.decode_untrusted(JOIN[0]))
    row[field] = value
    with pytest.raises(error):
        Join.open_untrusted(*signed_row(row))
