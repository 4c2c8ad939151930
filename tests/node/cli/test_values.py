import pytest

from core.errors import UsageError
from node.cli.values import parse_seconds, parse_size

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


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10min", 600), ("2h", 7200)])
def test_seconds(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "10m", "0s", "-1s", "1d", "1.5h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="is no time"):
        parse_seconds(text)
