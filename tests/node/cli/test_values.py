import pytest

from core.errors import UsageError
from mesh.wire import Address
from node.cli.values import parse_endpoint, parse_name, parse_seconds, parse_size

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("700", 700),
        ("700B", 700),
        ("5M", 5 * MIB),
        ("5m", 5 * MIB),
        ("16MiB", 16 * MIB),
        ("16 mib", 16 * MIB),
        ("5MB", 5_000_000),
        ("1.5GiB", 1536 * MIB),
        ("0.1K", 102),
        ("2T", 2 << 40),
        (" 3k ", 3072),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "1,5G", "1X", "1.5", "1.M", "5MiBs", "\u0665", "1e3"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10min", 600), ("2h", 7200), ("7d", 604_800)]
)
def test_seconds(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "10m", "0s", "-1s", "1w", "1.5h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="is no time"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.5", "192.0.2.5", 27272),
        ("192.0.2.5:9", "192.0.2.5", 9),
        ("[2001:db8::5]:65535", "2001:db8::5", 65_535),
        ("[2001:db8::5]", "2001:db8::5", 27272),
        ("2001:db8::5", "2001:db8::5", 27272),
        ("::1", "::1", 27272),
        (" nas ", "nas", 27272),
        ("nas.example.org.:27272", "nas.example.org.", 27272),
        ("xn--nas-5na.example:1", "xn--nas-5na.example", 1),
        ("3com.example", "3com.example", 27272),
    ],
)
def test_where_a_node_is(text, host, port):
    assert parse_endpoint(text) == Address(host, port)
    assert parse_endpoint(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":9", "nas:", "nas:0", "nas:65536", "nas:-1", "nas:nine", "nas:9:9", "1.2.3:9"),
        *("[::1", "::1]:9", "[nas]:9", "[]:9", "a b", "a_b", "-nas", "nas-", "a..b", "x" * 64),
        *(
            "http://nas",
            "ann@nas",
            "nas/9",
            "n\u00e4s",
            "nas\n:9",
            "9",
            "256.1.1.1",
            "[::1]:\u0665",
        ),
        ".".join(["abc"] * 70),
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="is no address of a node"):
        parse_endpoint(text)


@pytest.mark.parametrize("text", ["nas", "Ann's laptop", "Büro 2", "n" * 64])
def test_what_a_machine_may_be_called(text):
    assert parse_name(text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" ", "blanks"),
        (" nas", "blanks"),
        ("nas\n", "printable"),
        ("\x1b[31mnas", "printable"),
        ("n\u202eas", "printable"),
        ("n" * 65, "longer than 64 bytes"),
        ("ü" * 33, "longer than 64 bytes"),
    ],
)
def test_what_no_machine_is_called(text, why):
    with pytest.raises(UsageError, match=why) as raised:
        parse_name(text)
    assert str(raised.value).isprintable()
