import pytest

from core.errors import FormatError, LimitExceeded
from core.ids import VaultId
from core.keys import DeviceKeys, Root, VaultKeys, normalised
from core.secret import Secret
from tests.support.entropy import fixed_entropy

ENTROPY = Secret(bytes(range(32)))
CHEAP = {"memory_kib": 19 * 1024, "passes": 2, "lanes": 1}
VAULT = VaultId(bytes(range(16)))


def every_secret(root):
    masters = [root.vault_master(VAULT, 0), root.vault_master(VAULT, 1)]
    masters.append(root.vault_master(VaultId(bytes(16)), 0))
    yield root.secret
    yield root.share_seed(0)
    yield root.share_seed(1)
    yield root.recovery_slot_key()
    for master in masters:
        yield master
        keys = VaultKeys.from_master(master)
        yield from (getattr(keys, name) for name in keys.__slots__)


def test_golden_hierarchy(golden):
    case = golden("keys.json")["hierarchy"]
    root = Root.from_entropy(Secret(bytes.fromhex(case["entropy"])))
    vault = VaultId(bytes.fromhex(case["vault"]))
    assert root.secret.reveal().hex() == case["root"]
    assert root.user_id().hex() == case["user"]
    assert root.share_seed(3).reveal().hex() == case["share seed 3"]
    assert root.recovery_slot_key().reveal().hex() == case["recovery slot"]
    master = root.vault_master(vault, 1)
    assert master.reveal().hex() == case["vault master 1"]
    keys = VaultKeys.from_master(master)
    assert {name: getattr(keys, name).reveal().hex() for name in keys.__slots__} == case["vault"
        " keys"]  # fmt: skip


def test_golden_root_with_a_passphrase(golden):
    case = golden("keys.json")["root with passphrase"]
    root = Root.from_entropy_and_passphrase(
        Secret(bytes.fromhex(case["entropy"])), Secret(case["passphrase"].encode()), CHEAP
    )
    assert root.secret.reveal().hex() == case["root"]


def test_no_two_secrets_of_a_person_are_equal():
    found = [s.reveal()[:32] for s in every_secret(Root.from_entropy(ENTROPY))]
    assert len(found) == len(set(found)) == 31


def test_a_passphrase_gives_another_person_and_spelling_does_not_matter():
    plain = Root.from_entropy(ENTROPY)
    composed = Root.from_entropy_and_passphrase(ENTROPY, Secret("é".encode()), CHEAP)
    decomposed = Root.from_entropy_and_passphrase(ENTROPY, Secret("e\u0301".encode()), CHEAP)
    other = Root.from_entropy_and_passphrase(ENTROPY, Secret(b"e"), CHEAP)
    assert composed.secret.reveal() == decomposed.secret.reveal()
    assert len({r.secret.reveal() for r in (plain, composed, other)}) == 3
    assert normalised(Secret("\ufb01".encode())).reveal() == b"fi"
    with pytest.raises(LimitExceeded):
        normalised(Secret(b"x" * 5_000))


def test_device_keys_are_random_and_make_a_node():
    a, b = DeviceKeys.generate(), DeviceKeys.generate()
    assert a.node_id() != b.node_id()
    assert a.node_id() == a.signing_key().public
    assert len(a.box_public()) == 32
    repeated = DeviceKeys.generate(fixed_entropy("device"))
    secrets = {s.reveal() for s in (repeated.sign_seed, repeated.box_secret)}
    assert len(secrets | {repeated.wireguard_secret.reveal()}) == 3


def test_nothing_of_it_shows():
    root = Root.from_entropy(ENTROPY)
    shown = repr([root, VaultKeys.from_master(root.vault_master(VAULT, 0)), DeviceKeys.generate()])
    for secret in every_secret(root):
        assert secret.reveal().hex()[:16] not in shown
    assert "<secret" in shown


def test_a_passphrase_is_measured_in_bytes_and_no_error_holds_it():
    assert len(normalised(Secret("é".encode() * 2_048))) > 4_096  # as given, before NFKD
    with pytest.raises(LimitExceeded):
        normalised(Secret("é".encode() * 2_049))
    with pytest.raises(FormatError, match="UTF-8") as caught:
        normalised(Secret(b"correct horse\xff"))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
