import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import FormatError
from mesh.addresses import packed, read_untrusted
from mesh.wire import Address

IPS = st.ip_addresses().map(str).filter(lambda ip: not ip.startswith("::ffff:"))


@given(IPS, st.integers(0, 65_535))
def test_addresses_round_trip(host, port):
    assert read_untrusted(packed(Address(host, port)), "it") == Address(host, port)


def test_what_has_no_address_says_nothing():
    assert packed(None) == packed(Address("a pipe", 0)) == b""
    assert read_untrusted(b"", "it") is None


def test_one_address_has_one_form():
    plain = packed(Address("192.0.2.1", 443))
    assert plain == bytes([192, 0, 2, 1, 1, 187])
    assert packed(Address("::ffff:192.0.2.1", 443)) == plain
    assert packed(Address("fe80::1%eth0", 443)) == packed(Address("fe80::1", 443))


@pytest.mark.parametrize(
    "bad", [None, 7, "::1", bytes(1), bytes(5), bytes(17), bytes(19), bytes(10) + b"\xff" * 8]
)
def test_what_is_no_address_is_refused(bad):
    with pytest.raises(FormatError, match="the place"):
        read_untrusted(bad, "the place")
