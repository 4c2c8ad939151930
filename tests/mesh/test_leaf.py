import datetime as dt
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.errors import FormatError, LimitExceeded
from mesh.leaf import Leaf, leaf_hash, node_of_untrusted
from tests.support.damage import assert_all_refused
from tests.support.entropy import fixed_entropy
from tests.support.nodes import a_node
from tests.support.stranger_keys import h

ANN = a_node("ann")


def test_a_leaf_names_its_node_and_nobody_else():
    assert node_of_untrusted(ANN.leaf.der) == ANN.id
    certificate = x509.load_der_x509_certificate(ANN.leaf.der)
    assert not list(certificate.subject)
    assert not list(certificate.issuer)
    assert not list(certificate.extensions)


def test_a_leaf_is_fresh_at_every_start():
    seed = ANN.device.sign_seed
    one, two = Leaf.make(seed), Leaf.make(seed)
    assert one.hash != two.hash
    assert node_of_untrusted(one.der) == node_of_untrusted(two.der) == ANN.id
    again = [Leaf.make(seed, fixed_entropy("same")).der for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x80"])
def test_any_serial_is_a_lawful_one(fill):
    leaf = Leaf.make(ANN.device.sign_seed, lambda size: fill * size)
    serial = x509.load_der_x509_certificate(leaf.der).serial_number
    assert 0 < serial < 1 << 127
    assert node_of_untrusted(leaf.der) == ANN.id


def test_its_hash_is_what_the_notation_says():
    assert ANN.leaf.hash == leaf_hash(ANN.leaf.der) == h("leaf hash", ANN.leaf.der)


def test_the_forms_engines_take_are_the_same_leaf():
    from_text = x509.load_pem_x509_certificate(ANN.leaf.pem)
    certificate, key = ANN.leaf.objects()
    assert from_text == certificate
    assert certificate.public_bytes(serialization.Encoding.DER) == ANN.leaf.der
    assert key.public_key().public_bytes_raw() == ANN.id
    assert certificate.not_valid_before_utc.year == 2020
    assert certificate.not_valid_after_utc.year == 2049


def test_no_byte_of_a_leaf_can_be_bent():
    assert_all_refused(node_of_untrusted, ANN.leaf.der, errors=(FormatError,))


@given(st.binary(max_size=300))
def test_any_bytes_are_no_leaf(data):
    with pytest.raises(FormatError):
        node_of_untrusted(data)


def builder(public_key):
    nobody = x509.Name([])
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder().subject_name(nobody).issuer_name(nobody)
    made = made.public_key(public_key).serial_number(1)
    return made.not_valid_before(day).not_valid_after(day)


def der(certificate):
    return certificate.public_bytes(serialization.Encoding.DER)


def test_a_certificate_of_another_kind_of_key_is_refused():
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(FormatError, match="not a node's"):
        node_of_untrusted(der(builder(key.public_key()).sign(key, hashes.SHA256())))


def test_a_certificate_signed_by_somebody_else_is_refused():
    mine, theirs = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    with pytest.raises(FormatError, match="signed by its own key"):
        node_of_untrusted(der(builder(mine.public_key()).sign(theirs, None)))


def test_an_oversized_leaf_is_refused_unread():
    with pytest.raises(LimitExceeded):
        node_of_untrusted(bytes(limits.LEAF_BYTES_MAX + 1))


def test_a_leaf_does_not_show_its_key():
    key = ANN.leaf.key.reveal()
    assert key not in repr(ANN.leaf).encode()
    assert repr(replace(ANN.leaf)) == repr(ANN.leaf)
