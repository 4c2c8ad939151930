"""The TLS certificate of a node: self-signed by the node's own key, fresh at every start.

    key          the node's Ed25519 key, so the dialler reads in it who answers
    names        none        validity   2020 to 2049, for machines without a clock
    serial       random      so leaf_hash is new at every start, and what is signed over it too

That is all TLS proves here; who may do what is for mesh/hello.py, the same on every transport.
The only module of this room that imports cryptography.
"""

import datetime as dt
from dataclasses import dataclass
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import SignatureAlgorithmOID

from core import limits
from core.crypto import Entropy, signature_is_valid, system_entropy
from core.errors import FormatError, LimitExceeded
from core.hashing import digest
from core.ids import NodeId
from core.labels import Label
from core.secret import Secret

_FROM = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_UNTIL = dt.datetime(2049, 12, 31, tzinfo=dt.UTC)
_SERIAL_BYTES = 16


@dataclass(frozen=True)
class Leaf:
    """A certificate and its key, in the forms the engines take."""

    der: bytes
    key: Secret  # PKCS8, PEM

    @classmethod
    def make(cls, seed: Secret, entropy: Entropy = system_entropy) -> "Leaf":
        """A new certificate of the key that grows from `seed`."""
        key = Ed25519PrivateKey.from_private_bytes(seed.reveal())
        nobody = x509.Name([])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(nobody)
            .issuer_name(nobody)
            .public_key(key.public_key())
            .serial_number(int.from_bytes(entropy(_SERIAL_BYTES)) >> 1 | 1)
            .not_valid_before(_FROM)
            .not_valid_after(_UNTIL)
            .sign(key, None)
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return cls(certificate.public_bytes(serialization.Encoding.DER), Secret(pem))

    @cached_property
    def hash(self) -> bytes:
        """What the HELLOs on a connection are bound to."""
        return leaf_hash(self.der)

    @cached_property
    def pem(self) -> bytes:
        """The certificate as text."""
        loaded = x509.load_der_x509_certificate(self.der)
        return loaded.public_bytes(serialization.Encoding.PEM)

    def objects(self) -> tuple[x509.Certificate, Ed25519PrivateKey]:
        """As the library's own objects, for an engine that takes those."""
        key = serialization.load_pem_private_key(self.key.reveal(), None)
        assert isinstance(key, Ed25519PrivateKey)
        return x509.load_der_x509_certificate(self.der), key


def leaf_hash(der: bytes) -> bytes:
    """The name of a certificate."""
    return digest(Label.LEAF_HASH, der)


def der_of(certificate: x509.Certificate) -> bytes:
    """The bytes of a certificate an engine holds as the library's object."""
    return certificate.public_bytes(serialization.Encoding.DER)


def node_of_untrusted(der: bytes) -> NodeId:
    """Whose certificate this is: the key in it, and nothing else of it matters.

    The engine has checked that the peer holds the key; the signature of the certificate over
    itself is checked here, so that no byte of it can be bent.
    """
    if len(der) > limits.LEAF_BYTES_MAX:
        raise LimitExceeded(f"a certificate of {len(der)} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        signed, signature = certificate.tbs_certificate_bytes, certificate.signature
        algorithm = certificate.signature_algorithm_oid
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise FormatError("not a certificate") from e
    if not isinstance(key, Ed25519PublicKey) or algorithm != SignatureAlgorithmOID.ED25519:
        raise FormatError("a certificate whose key is not a node's")
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    if not signature_is_valid(raw, signed, signature):
        raise FormatError("a certificate that is not signed by its own key")
    return NodeId(raw)
