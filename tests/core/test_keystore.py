import resource

import pytest
from mnemonic import Mnemonic

from core import codec, envelope, keystore, limits
from core.errors import (
    FormatError,
    IntegrityError,
    KeystoreError,
    LimitExceeded,
    NewerFormat,
    PortalError,
    Unavailable,
    WrongKey,
)
from core.keystore import Keystore
from core.labels import EnvelopeKind
from core.phrase import to_words
from core.secret import Secret
from core.slots import KeyFileProvider, PassphraseProvider, RecoveryProvider, SlotType
from tests.support import stranger_keys
from tests.support.damage import assert_all_refused
from tests.support.entropy import fixed_entropy
from tests.support.identity import CHEAP, a_person, keystore_contents


class Kms:
    """A key service: wraps by itself and never hands out its key."""

    slot_type = SlotType.KMS

    def __init__(self, reachable=True):
        self._key, self._reachable = Secret(bytes(range(32))), reachable

    def new_params(self):
        return ("vault.example", "transit/portal")

    def wrap(self, params, dek, aad):
        return b"remote:" + envelope.seal(self._key, EnvelopeKind.KEY_SLOT, dek.reveal(), aad=aad)

    def unwrap(self, params, wrapped, aad):
        if not self._reachable:
            raise Unavailable("the key service does not answer")
        sealed = wrapped.removeprefix(b"remote:")
        return Secret(envelope.open_untrusted(self._key, EnvelopeKind.KEY_SLOT, sealed, aad=aad))


@pytest.fixture
def recovery():
    return RecoveryProvider(a_person(), fixed_entropy("slot"))


@pytest.fixture
def passphrase():
    return PassphraseProvider(Secret(b"horse"), CHEAP, fixed_entropy("salt"))


def revealed(contents):
    return codec.encode(keystore._contents_row(contents))


def test_any_slot_opens_it(tmp_path, recovery, passphrase):
    key_file = KeyFileProvider(tmp_path / "device.key")
    key_file.create()
    contents = keystore_contents()
    providers = [recovery, passphrase, key_file, Kms()]
    data = Keystore.create(contents, providers).sealed()
    for provider in providers:
        opened = Keystore.open_untrusted(data, [provider])
        assert revealed(opened.contents) == revealed(contents)
    assert [s.type for s in keystore.inspect_untrusted(data).slots] == [6, 1, 3, 4]


def test_golden(golden, recovery):
    contents = keystore_contents()
    store = Keystore.create(contents, [recovery], fixed_entropy("keystore"))
    data = store.sealed(fixed_entropy("seal"))
    assert data.hex() == golden("keys.json")["keystore"]
    assert revealed(Keystore.open_untrusted(data, [recovery]).contents) == revealed(contents)


def test_every_byte_counts(recovery):
    data = Keystore.create(keystore_contents(), [recovery]).sealed()
    assert_all_refused(lambda b: Keystore.open_untrusted(b, [recovery]), data)


def test_a_slot_nobody_used_is_still_covered(recovery, passphrase):
    store = Keystore.create(keystore_contents(), [recovery, passphrase])
    data = store.sealed()
    wrapped = store.header.slots[1].wrapped
    at = data.index(wrapped)
    for i in range(0, len(wrapped), 7):
        bad = bytearray(data)
        bad[at + i] ^= 1
        with pytest.raises(IntegrityError):
            Keystore.open_untrusted(bytes(bad), [recovery])


def test_slots_of_two_keystores_cannot_be_exchanged(recovery):
    a, b = (Keystore.create(keystore_contents(), [recovery]) for _ in "ab")
    data = a.sealed().replace(a.header.slots[0].wrapped, b.header.slots[0].wrapped)
    with pytest.raises(IntegrityError):
        Keystore.open_untrusted(data, [recovery])


def test_slots_are_added_and_removed_but_never_the_last_offline_one(recovery, passphrase):
    store = Keystore.create(keystore_contents(), [recovery])
    store.add_slot(Kms())
    added = store.add_slot(passphrase)
    store = Keystore.open_untrusted(store.sealed(), [passphrase])
    first = store.header.slots[0]
    store.remove_slot(first.slot_id)
    with pytest.raises(WrongKey):
        Keystore.open_untrusted(store.sealed(), [recovery])
    with pytest.raises(KeystoreError, match="passphrase first"):
        store.remove_slot(added.slot_id)
    assert len(store.header.slots) == 2
    with pytest.raises(KeystoreError, match="no such slot"):
        store.remove_slot(bytes(8))
    with pytest.raises(KeystoreError):
        Keystore.create(keystore_contents(), [Kms()])


def test_the_number_of_slots_is_bounded(recovery):
    store = Keystore.create(keystore_contents(), [recovery] * limits.KEYSTORE_SLOTS_MAX)
    with pytest.raises(KeystoreError, match="16 slots"):
        store.add_slot(recovery)
    assert len(Keystore.open_untrusted(store.sealed(), [recovery]).header.slots) == 16


def test_a_key_service_that_is_down_does_not_lock_the_owner_out(recovery):
    data = Keystore.create(keystore_contents(), [Kms(), recovery]).sealed()
    Keystore.open_untrusted(data, [Kms(reachable=False), recovery])
    with pytest.raises(Unavailable, match="does not answer"):
        Keystore.open_untrusted(data, [Kms(reachable=False)])
    with pytest.raises(WrongKey):
        Keystore.open_untrusted(data, [])


def test_a_new_data_key_leaves_old_copies_of_the_file_behind(recovery):
    old = Keystore.create(keystore_contents(), [recovery])
    new = old.rekey([recovery])
    assert revealed(new.contents) == revealed(old.contents)
    assert new._dek.reveal() != old._dek.reveal()
    mixed = new.header.encoded() + old.sealed()[len(old.header.encoded()) :]
    with pytest.raises(IntegrityError):
        Keystore.open_untrusted(mixed, [recovery])


def with_header(row):
    body = codec.encode(row)
    return b"PTKS\x01" + len(body).to_bytes(2) + body + bytes(200)


def test_hostile_headers_meet_limits_before_memory():
    slot = [bytes(8), 1, [bytes(16), 2**32 - 1, 3, 4], bytes(100)]  # asks for 4 TiB
    claims_2_60_slots = b"PTKS\x01\x00\x20" + b"\x94\xc4\x10" + bytes(16) + b"\xdf" + b"\xff" * 12
    header = [bytes(16), bytes(32), bytes(32)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (
        claims_2_60_slots,
        b"PTKS\x01\xff\xff" + bytes(200),
        with_header([*header, [slot]]),
        with_header([*header, [[bytes(8), 6, [], b""]] * 17]),
        with_header([*header, [[bytes(8), 6, [], bytes(5_000)]]]),
        with_header([*header, [[bytes(8), 6, [0] * 17, b""]]]),
        with_header([*header, [[bytes(7), 6, [], b""]]]),
        with_header([bytes(16), bytes(31), bytes(32), []]),
        with_header(header),
        b"PTKS\x00" + bytes(100),
        b"PTKT" + bytes(100),
        bytes(limits.KEYSTORE_FILE_BYTES_MAX + 1),
        b"",
    ):
        for read in (keystore.inspect_untrusted, lambda d: Keystore.open_untrusted(d, [])):
            with pytest.raises(FormatError):
                read(data)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 50 * 1024
    with pytest.raises(NewerFormat):
        keystore.inspect_untrusted(b"PTKS\x02" + bytes(100))


def test_slots_of_a_newer_portal_are_carried(recovery):
    store = Keystore.create(keystore_contents(), [recovery])
    newer = keystore.Slot(bytes(8), 99, ("something", 7), b"wrapped by a newer Portal")
    store._set_slots((*store.header.slots, newer))
    reopened = Keystore.open_untrusted(store.sealed(), [recovery])
    assert Keystore.open_untrusted(reopened.sealed(), [recovery]).header.slots[1] == newer


def resealed(store, change):
    row = keystore._contents_row(store.contents)
    change(row)
    header = store.header.encoded()
    kind = EnvelopeKind.KEYSTORE_PAYLOAD
    return header + envelope.seal(store._dek, kind, codec.encode(row), aad=header)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop(),
        lambda row: row.append(1),
        lambda row: row.__setitem__(1, bytes(31)),
        lambda row: row.__setitem__(4, b"not a certificate"),
        lambda row: row[5].append(row[5][0]),
        lambda row: row[5].append([bytes(15), 0, bytes(32)]),
        lambda row: row[6].append(row[6][0]),
        lambda row: row[6].append(["name", bytes(5_000)]),
        lambda row: row[6].append(["a\nb", b""]),
        lambda row: row[6].extend([f"{n}", b""] for n in range(limits.KEYSTORE_EXTRAS_MAX)),
    ],
)
def test_contents_of_another_shape_are_format_errors(recovery, change):
    store = Keystore.create(keystore_contents(), [recovery])
    with pytest.raises(FormatError):
        Keystore.open_untrusted(resealed(store, change), [recovery])


def test_contents_of_another_device_or_version_are_refused(recovery):
    store = Keystore.create(keystore_contents(), [recovery])
    with pytest.raises(IntegrityError, match="different devices"):
        Keystore.open_untrusted(
            resealed(store, lambda row: row.__setitem__(1, bytes(32))), [recovery]
        )
    with pytest.raises(NewerFormat):
        Keystore.open_untrusted(resealed(store, lambda row: row.__setitem__(0, 2)), [recovery])


def test_files_are_private_and_errors_name_them(tmp_path, recovery):
    path = tmp_path / "keystore"
    store = Keystore.create(keystore_contents(), [recovery])
    keystore.save(path, store)
    assert path.stat().st_mode & 0o777 == 0o600
    assert keystore.load(path, [recovery]).header == store.header
    with pytest.raises(WrongKey) as caught:
        keystore.load(path, [])
    assert str(caught.value).startswith(f"{path}: ")
    assert "recovery phrase" in str(caught.value)
    path.write_bytes(bytes(limits.KEYSTORE_FILE_BYTES_MAX + 1))
    with pytest.raises(LimitExceeded, match="keystore"):
        keystore.load(path, [recovery])


def test_nothing_of_it_shows(recovery):
    store = Keystore.create(keystore_contents(), [recovery])
    shown = repr(store) + repr(store.contents) + repr(store.header) + str(PortalError(repr(store)))
    secrets = [store.contents.device.sign_seed, *store.contents.vaults.values(), store._dek]
    for secret in secrets:
        assert repr(secret.reveal())[2:30] not in shown
        assert secret.reveal().hex() not in shown


@pytest.mark.parametrize(
    "extras",
    [
        {"x" * 65: Secret(b"")},
        {"line\nbreak": Secret(b"")},
        {"large": Secret(bytes(5_000))},
        {str(n): Secret(b"") for n in range(limits.KEYSTORE_EXTRAS_MAX + 1)},
    ],
)
def test_what_a_reader_would_refuse_never_replaces_a_keystore(tmp_path, recovery, extras):
    path = tmp_path / "keystore"
    store = Keystore.create(keystore_contents(), [recovery])
    keystore.save(path, store)
    store.contents.extras.update(extras)
    with pytest.raises(FormatError):
        keystore.save(path, store)
    assert keystore.load(path, [recovery]).header == store.header


def test_a_stranger_reads_all_of_it_with_the_specification_alone(golden):
    vectors, entropy = golden("keys.json"), fixed_entropy("person")(32)
    top = stranger_keys.root(entropy)
    kek = stranger_keys.dk("slot recovery", top)
    _, seed, _, _, cert, vaults, extras = stranger_keys.open_keystore(
        bytes.fromhex(vectors["keystore"]), 6, kek
    )
    ours = keystore_contents()
    assert (seed, cert) == (ours.device.sign_seed.reveal(), ours.cert)
    assert vaults == [[*key, master.reveal()] for key, master in sorted(ours.vaults.items())]
    assert extras == [["share seed 0", stranger_keys.dk("share kem seed", top + bytes(4), 96)]]


def test_a_stranger_reads_the_other_texts_and_keys_too(golden):
    vectors, read = golden("keys.json"), bytes.fromhex
    for row in vectors["ids"]:
        assert stranger_keys.read_id(row["kind"], row["text"]) == read(row["id"])
    case = vectors["hierarchy"]
    entropy, top = read(case["entropy"]), read(case["root"])
    assert stranger_keys.root(entropy) == top
    assert stranger_keys.user_id(top) == read(case["user"])
    keys = stranger_keys.vault_keys(top, read(case["vault"]), 1)
    assert [key.hex() for key in keys] == list(case["vault keys"].values())
    words = to_words(Secret(entropy)).reveal().decode().split()
    assert stranger_keys.read_phrase(words, Mnemonic("english").wordlist) == entropy
    case = vectors["root with passphrase"]
    found = stranger_keys.root_with_passphrase(entropy, case["passphrase"], (19_456, 2, 1))
    assert found == read(case["root"])
    case = vectors["envelope"]
    key, sealed, aad = read(case["key"]), read(case["sealed"]), case["aad"].encode()
    assert stranger_keys.open_envelope(key, case["kind"], sealed, aad) == case["text"].encode()
    assert stranger_keys.read_cert(read(vectors["device cert"]))[4] == "laptop"
    version, found, _, created_s, mesh, endpoints = stranger_keys.read_kit(vectors["recovery kit"])
    assert (version, found, created_s) == (1, entropy, 1_795_000_000)
    assert (mesh, endpoints) == (b"", [])
