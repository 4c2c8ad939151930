import pytest

from core import codec, envelope
from core.chunking import DEFAULT_VAULT
from core.errors import FormatError, IntegrityError, NewerFormat, WrongKey
from core.keys import VaultKeys
from core.labels import EnvelopeKind
from core.secret import Secret
from portal.config import VaultConfig, name_untrusted
from tests.support.damage import assert_all_refused
from tests.support.vaults import VAULT, an_author

KEYS = VaultKeys.from_master(Secret(bytes(range(32))))
CONFIG = VaultConfig.new(VAULT, an_author().node, 1_800_000_000)


def sealed(plain):
    prefix = CONFIG.name.prefix()
    row = codec.encode(plain)
    return prefix + envelope.seal(KEYS.meta, EnvelopeKind.VAULT_CONFIG, row, aad=prefix)


def test_round_trip():
    data = CONFIG.sealed(KEYS)
    assert VaultConfig.open_untrusted(data, KEYS) == CONFIG
    assert name_untrusted(data) == CONFIG.name
    assert (CONFIG.name.vault, CONFIG.name.epoch, CONFIG.chunker) == (VAULT, 0, DEFAULT_VAULT)


def test_any_damage_is_noticed_in_the_clear_part_too():
    assert_all_refused(lambda data: VaultConfig.open_untrusted(data, KEYS), CONFIG.sealed(KEYS))


def test_other_keys_do_not_open_it():
    with pytest.raises(WrongKey):
        VaultConfig.open_untrusted(
            CONFIG.sealed(KEYS), VaultKeys.from_master(Secret(b"other" * 6 + b"!!"))
        )


def test_newer_versions_say_so():
    data = bytearray(CONFIG.sealed(KEYS))
    data[4] = 2
    with pytest.raises(NewerFormat) as caught:
        name_untrusted(bytes(data))
    assert caught.value.exit_code == 13
    with pytest.raises(NewerFormat):
        VaultConfig.open_untrusted(sealed((2, DEFAULT_VAULT, 1, "more")), KEYS)
    data[4] = 0
    with pytest.raises(FormatError, match="damaged"):
        name_untrusted(bytes(data))


@pytest.mark.parametrize("data", [b"", b"PTVC", b"PTVC\x01", b"PTVC\x01" + bytes(51), b"X" * 500])
def test_what_is_too_short_or_something_else_is_refused(data):
    with pytest.raises(FormatError):
        name_untrusted(data)


@pytest.mark.parametrize(
    "plain",
    [
        (1, DEFAULT_VAULT),
        (1, "a chunker nobody knows", 1),
        (1, DEFAULT_VAULT, -1),
        (1, DEFAULT_VAULT, "soon"),
        (1, b"bytes", 1),
        (1, "x" * 65, 1),
        (0, DEFAULT_VAULT, 1),
    ],
)
def test_fields_out_of_bounds_are_refused(plain):
    with pytest.raises((FormatError, IntegrityError)):
        VaultConfig.open_untrusted(sealed(plain), KEYS)
