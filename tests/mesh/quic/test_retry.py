import pytest

from core import limits
from core.errors import FormatError
from mesh.quic.retry import RetryTokens
from mesh.wire import Address
from tests.support.damage import assert_all_refused
from tests.support.entropy import fixed_entropy

HERE = Address("192.0.2.1", 1_000)
ORIGINAL = b"original"
NOW = 1_000.0


@pytest.fixture
def tokens():
    return RetryTokens(fixed_entropy("tokens"))


def test_a_token_brings_back_what_was_asked(tokens):
    retry_cid, token = tokens.issue(HERE, ORIGINAL, NOW)
    assert len(retry_cid) == 8
    assert len(token) <= limits.RETRY_TOKEN_BYTES_MAX
    assert tokens.original_cid_untrusted(token, HERE, retry_cid, NOW) == ORIGINAL
    longest = bytes(range(20))
    retry_cid, token = tokens.issue(HERE, longest, NOW)
    assert len(token) <= limits.RETRY_TOKEN_BYTES_MAX
    assert tokens.original_cid_untrusted(token, HERE, retry_cid, NOW) == longest


def test_a_token_is_good_for_its_address_and_connection_only(tokens):
    retry_cid, token = tokens.issue(HERE, ORIGINAL, NOW)

    def original(source=HERE, cid=retry_cid, at=NOW, of=tokens):
        return of.original_cid_untrusted(token, source, cid, at)

    assert original() == ORIGINAL
    assert original(source=Address("192.0.2.2", 1_000)) is None
    assert original(source=Address("192.0.2.1", 1_001)) is None
    assert original(cid=b"12345678") is None
    assert original(of=RetryTokens(fixed_entropy("another start"))) is None


def test_a_token_grows_old(tokens):
    retry_cid, token = tokens.issue(HERE, ORIGINAL, NOW)
    assert tokens.original_cid_untrusted(token, HERE, retry_cid, NOW + 10) == ORIGINAL
    assert tokens.original_cid_untrusted(token, HERE, retry_cid, NOW + 10.001) is None
    assert tokens.original_cid_untrusted(token, HERE, retry_cid, NOW - 0.001) is None


def test_every_damaged_token_is_refused(tokens):
    retry_cid, token = tokens.issue(HERE, ORIGINAL, NOW)

    def read(data):
        if tokens.original_cid_untrusted(data, HERE, retry_cid, NOW) is None:
            raise FormatError("no token")

    assert_all_refused(read, token)


def test_two_starts_and_two_issues_share_nothing():
    one, two = RetryTokens(), RetryTokens()
    assert one.issue(HERE, ORIGINAL, NOW) != two.issue(HERE, ORIGINAL, NOW)
    assert one.issue(HERE, ORIGINAL, NOW)[0] != one.issue(HERE, ORIGINAL, NOW)[0]
