from mesh.wire import Address


def test_an_address_is_written_as_people_know_it():
    assert str(Address("192.0.2.1", 80)) == "192.0.2.1:80"
    assert str(Address("2001:db8::1", 80)) == "[2001:db8::1]:80"
    assert str(Address("fe80::1%3", 80)) == "[fe80::1%3]:80"
    assert Address("192.0.2.1", 80) == ("192.0.2.1", 80)


def test_some_addresses_mean_something_in_their_network_only():
    for host in ("192.168.0.1", "10.0.0.1", "127.0.0.1", "::1", "fd00::1", "fe80::1%3"):
        assert Address(host, 1).is_private, host
    for host in ("8.8.8.8", "2001:4860::1", "a name", ""):
        assert not Address(host, 1).is_private, host
