from core.hashing import constant_key
from core.labels import EnvelopeKind, Label, SignLabel

# Frozen: a line may be added, never changed. A label renamed is every key under it lost.
FROZEN = """
archive chunk|archive entry|archive header|archive index|archive journal|archive key
archive key file|archive passphrase|archive subkeys|archive vault
audit tickets|cap locator|cap read|cdc gear|chunk key|chunk root|chunk subkeys|content index
content tag|dedup private|holdings|lease secret|merkle leaf|merkle node|meta aead|meta subkeys
pack key|pack name|pack padding|pack subkeys|root|root passphrase|share kem seed|shard descriptor
shard hash|shard name|slot key file|slot os keyring|slot passphrase|slot recovery
slot systemd credential|smt leaf|smt node|stream epoch|stream subkeys|text check
user identity ed25519|vault cache|vault head cap|vault head hash|vault looks|vault rules
vault master
datagram|hello|host|lane|leaf hash|link rings|retry token
dht id|invite signing key|member draft|member operation|member state|member vector|mesh id|sas
ula host|ula subnet
"""
RESERVED = {"cap locator", "cap read"}
FROZEN_SIGNED = {"device-cert", "vault-head", "auth-i", "auth-r", "address-record"} | {
    *("invite-terms", "member-cosign", "member-device", "member-operation"),
    *("member-draft", "member-draft-end"),
    *("pair-join", "pair-knock", "pair-recover", "pair-return"),
}
FROZEN_KINDS = {
    "KEYSTORE_PAYLOAD": 0x10,
    "KEY_SLOT": 0x11,
    "ARCHIVE_JOURNAL": 0x12,
    "VAULT_CONFIG": 0x13,
    "VAULT_HEAD": 0x14,
    "VAULT_INDEX": 0x15,
}


def test_every_label_is_in_the_frozen_list_and_the_other_way_round():
    frozen = {name for line in FROZEN.split("\n") for name in line.split("|") if name}
    assert {label.value for label in Label} == frozen - RESERVED


def test_every_purpose_of_signatures_and_envelopes_is_frozen_too():
    assert {label.value for label in SignLabel} == FROZEN_SIGNED
    assert {kind.name: kind.value for kind in EnvelopeKind} == FROZEN_KINDS


def test_no_two_purposes_share_a_key():
    assert len({constant_key(label) for label in Label}) == len(Label)


def test_a_name_is_used_once_in_the_whole_table():
    names = [label.value for label in Label] + [label.value for label in SignLabel]
    assert len(names) == len(set(names))
    assert len({kind.value for kind in EnvelopeKind}) == len(EnvelopeKind)


def test_names_survive_their_length_byte():
    assert all(len(label.value.encode()) < 256 for label in SignLabel)
