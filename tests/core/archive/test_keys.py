import pytest

from core.archive.keys import ArchiveKeys, KeyFileOpener, Lock, PassphraseOpener, VaultOpener
from core.errors import FormatError, KeystoreError
from core.secret import Secret
from tests.support.identity import CHEAP

SALT = bytes(range(32))
RAW = Secret(bytes(range(32)))


def test_the_same_bytes_used_in_three_ways_make_three_keys():
    openers = [KeyFileOpener(RAW), VaultOpener(RAW), PassphraseOpener(Secret(b"horse"), CHEAP)]
    secrets = {o.secret_untrusted(SALT, o.cost).reveal() for o in openers}
    assert len(secrets) == 3
    assert [o.lock for o in openers] == [Lock.KEY_FILE, Lock.VAULT, Lock.PASSPHRASE]


def test_every_archive_has_keys_of_its_own():
    a, b = ArchiveKeys.derive(RAW, SALT), ArchiveKeys.derive(RAW, bytes(32))
    found = [
        secret.reveal()
        for keys in (a, b)
        for secret in (
            *(keys.header.encrypt, keys.header.nonce, keys.index.encrypt, keys.index.nonce),
            *(keys.dedup, keys.journal),
        )
    ]
    assert len(found) == len(set(found)) == 12
    assert found[0].hex()[:16] not in repr(a)


def test_passphrases():
    opener = PassphraseOpener(Secret(b"horse"), CHEAP)
    again = PassphraseOpener(Secret(b"horse"))  # the cost of an old archive comes from its header
    first = opener.secret_untrusted(SALT, CHEAP).reveal()
    assert again.secret_untrusted(SALT, CHEAP).reveal() == first
    assert again.secret_untrusted(bytes(32), CHEAP).reveal() != first
    with pytest.raises(FormatError):
        opener.secret_untrusted(SALT, None)
    with pytest.raises(KeystoreError):
        PassphraseOpener(Secret(b""))


def test_golden(golden):
    case = golden("archive.json")["keys"]
    keys = ArchiveKeys.derive(Secret(bytes.fromhex(case["opener"])), bytes.fromhex(case["salt"]))
    assert keys.dedup.reveal().hex() == case["dedup"]
    assert keys.journal.reveal().hex() == case["journal"]
    assert keys.header.encrypt.reveal().hex() == case["header encrypt"]
    assert keys.index.commitment.hex() == case["index commitment"]
    for name, opener in (("key file", KeyFileOpener(RAW)), ("vault", VaultOpener(RAW))):
        assert opener.secret_untrusted(SALT, None).reveal().hex() == case[name]
