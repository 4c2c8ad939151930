from dataclasses import replace
from functools import partial

import pytest

from core.device_cert import DeviceCert, Role
from core.errors import IntegrityError, NewerFormat, PortalError, UsageError, WrongKey
from core.ids import VaultId
from core.keys import DeviceKeys
from portal.errors import NotOurs, NoVault
from portal.head import Head, Record, Snapshot, Totals, head_hash
from portal.manifest import Content, Form
from portal.store import Store
from portal.vault import Author, Vault, live_set_root, read_name
from tests.support.entropy import fixed_entropy
from tests.support.identity import a_person
from tests.support.mortal import Killed, MortalDisk
from tests.support.privileges import unprivileged
from tests.support.vaults import NOW_NS, VAULT, a_vault, an_author, back_up, contents_in, opened


def a_snapshot(host="host"):
    return Snapshot.of(
        Record(
            time_ns=5,
            end_ns=6,
            host=host,
            user="ann",
            paths=(b"/x",),
            parent=b"",
            root=Content(Form.PARTS, b""),
            totals=Totals(),
        )
    )


def adding(*snapshots):
    return lambda head: head.with_snapshots([*head.snapshots, *snapshots])


def test_a_new_vault_is_empty_and_opens_again(tmp_path):
    vault = a_vault(tmp_path)
    assert vault.head() == Head(vault=VAULT, user=an_author().user, device=an_author().node)
    again = opened(tmp_path)
    assert (again.id, again.config) == (VAULT, vault.config)
    assert again.cache == tmp_path / "cache" / VAULT.hex()
    with pytest.raises(UsageError):
        a_vault(tmp_path)


def test_whose_vault_it_is_stands_in_clear(tmp_path):
    a_vault(tmp_path)
    name = read_name(tmp_path / "vault")
    assert (name.vault, name.node) == (VAULT, an_author().node)
    with pytest.raises(NoVault):
        read_name(tmp_path)
    (tmp_path / "vault" / "config").write_bytes(b"?")
    with pytest.raises(PortalError, match="config"):
        read_name(tmp_path / "vault")


def test_another_devices_vault_is_refused_with_the_next_command(tmp_path):
    a_vault(tmp_path)
    with pytest.raises(NotOurs, match="portal vault adopt") as caught:
        opened(tmp_path, seed="stranger")
    assert caught.value.exit_code == 12


def test_wrong_keys_are_told(tmp_path):
    a_vault(tmp_path)
    master_of = a_person("stranger").vault_master
    with pytest.raises(WrongKey, match="config"):
        Vault.open(tmp_path / "vault", an_author(), master_of, cache=None)


# --- heads ----------------------------------------------------------------------------------------


def test_every_change_is_a_new_head_that_names_the_one_before(tmp_path):
    vault = a_vault(tmp_path)
    one = vault.change(adding(a_snapshot("one")))
    data = vault.store.read_head((0, 1))
    two = vault.change(adding(a_snapshot("two")))
    assert (one.place, two.place) == ((0, 1), (0, 2))
    assert two.prev == head_hash(data)
    assert vault.head() == two == opened(tmp_path).head()
    assert len(two.snapshots) == 2


def test_a_change_says_which_packs_there_are_only_if_told(tmp_path):
    vault = a_vault(tmp_path)
    root = live_set_root({b"a" * 32, b"b" * 32})
    assert live_set_root({b"b" * 32, b"a" * 32}) == root != live_set_root({b"a" * 32})
    with vault.store.commit_lock():
        assert vault.change_locked(lambda h: h, packs={b"a" * 32, b"b" * 32}).live_set_root == root
    assert vault.change(lambda h: h).live_set_root == root


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    vault = a_vault(tmp_path)
    before = vault.change(adding(a_snapshot()))
    for bad in (
        adding(replace(a_snapshot(), tags=("t" * 2_000,))),
        adding(replace(a_snapshot(), tags=("\x1b[2J",))),
        adding(replace(a_snapshot(), encoded=b"\x90")),
        adding(replace(a_snapshot(), forgotten_s=1 << 63)),
    ):
        with pytest.raises(PortalError):
            vault.change(bad)
    assert vault.store.head_places() == [(0, 1)]
    assert opened(tmp_path).head() == before


@pytest.mark.parametrize("how", ["flipped", "empty", "of another place", "of another vault"])
def test_a_damaged_head_is_told_and_the_one_before_is_used(tmp_path, how):
    vault = a_vault(tmp_path)
    one = vault.change(adding(a_snapshot()))
    vault.change(lambda head: head.with_snapshots([]))
    path = vault.store.head_path((0, 2))
    data = path.read_bytes()
    if how == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "of another place":
        path.write_bytes(vault.store.read_head((0, 1)))
    else:
        other = Head(vault=VaultId(b"another vault!!!"), user=one.user, device=one.device, seq=2)
        author = vault.author
        path.write_bytes(other.signed(vault.keys, author.signing, author.cert))
    read = vault.read_head()
    assert read.head == one
    assert list(read.damaged) == [str(path)]
    # And what comes next is above the damaged one, so that it can never win again.
    three = vault.change(adding(a_snapshot("new")))
    assert three.place == (0, 3)
    assert len(vault.head().snapshots) == 2


def test_a_newer_head_stops_everything(tmp_path):
    from core import codec
    from core.labels import SignLabel

    vault = a_vault(tmp_path)
    vault.change(lambda head: head)
    payload, _ = codec.decode_untrusted(vault.store.read_head((0, 1)))
    payload = codec.encode((3, *codec.decode_untrusted(payload)[1:]))
    signature = vault.author.signing.sign(SignLabel.VAULT_HEAD, payload)
    vault.store.put_head((0, 2), codec.encode((payload, signature)))
    with pytest.raises(NewerFormat, match="0000000000000002"):
        vault.head()
    with pytest.raises(NewerFormat):
        vault.change(lambda head: head)
    assert vault.store.head_places()[0] == (0, 2)


def test_a_head_cleared_meanwhile_is_passed_over(tmp_path, monkeypatch):
    vault = a_vault(tmp_path)
    one = vault.change(adding(a_snapshot()))
    monkeypatch.setattr(vault.store, "head_places", lambda: [(0, 2), (0, 1)])
    read = vault.read_head()
    assert (read.head, read.damaged) == (one, {})


@pytest.mark.parametrize("count", [1, 70])
def test_planted_heads_hide_no_snapshot_and_push_no_head_out(tmp_path, count):
    vault = a_vault(tmp_path)
    vault.change(adding(a_snapshot("one")))
    planted = [(0, (1 << 62) - n) for n in range(count)]
    assert vault.store.head_path(planted[0]).name == "00000000-4000000000000000"
    for place in planted:
        vault.store.head_path(place).write_bytes(b"junk")
    two = opened(tmp_path).change(adding(a_snapshot("two")))
    three = opened(tmp_path).change(adding(a_snapshot("three")))
    assert (two.place, three.place) == ((0, 2), (0, 3))
    read = opened(tmp_path).read_head()
    assert read.head == three
    assert {one.record.host for one in read.head.live} == {"one", "two", "three"}
    assert len(read.damaged) == count
    assert vault.store.head_places() == [*planted, (0, 3), (0, 2), (0, 1)]


@pytest.mark.slow
def test_a_change_killed_anywhere_is_done_or_not(tmp_path):
    for dies_at in range(20):
        place = tmp_path / str(dies_at)
        place.mkdir()
        before = a_vault(place).change(adding(a_snapshot("one")))
        disk = MortalDisk(dies_at)
        try:
            after = opened(place, disk=disk).change(adding(a_snapshot("two")))
        except Killed:
            found = opened(place).head()
            assert found == before or len(found.snapshots) == 2
            assert opened(place).change(adding(a_snapshot("three"))).seq == found.seq + 1
            continue
        assert opened(place).head() == after
        break
    assert dies_at >= 5


# --- at work --------------------------------------------------------------------------------------


def test_a_reader_is_seen_at_work_and_then_not(tmp_path):
    vault = a_vault(tmp_path)
    with vault.store.commit_lock():
        vault.change_locked(lambda head: replace(head, trash_gen=4))
    with vault.reader(), vault.store.commit_lock():
        assert vault.store.live_generations() == [4]
    with vault.store.commit_lock():
        assert vault.store.live_generations() == []


def test_a_vault_that_may_only_be_read_can_be_read(tmp_path):
    with unprivileged(tmp_path) as folder:
        vault = a_vault(folder)
        (folder / "docs").mkdir()
        (folder / "docs" / "a").write_bytes(b"content")
        snapshot = back_up(vault, folder / "docs", now_ns=NOW_NS)
        places = [vault.store.path, *vault.store.path.rglob("*")]
        for path in places:
            path.chmod(0o500 if path.is_dir() else 0o400)
        assert vault._begin_or_none() is None
        with vault.reader() as reader:
            assert reader.nodes_untrusted(snapshot.record.root, b"")
        assert list(contents_in(vault, snapshot).values()) == [b"content"]
        for path in places:
            path.chmod(0o700)


# --- another device -------------------------------------------------------------------------------


def another_device():
    """A second device of the same person."""
    device = DeviceKeys.generate(fixed_entropy("a second device"))
    cert = DeviceCert(
        user=a_person().user_id(),
        node=device.node_id(),
        box_public=device.box_public(),
        name="desktop",
        roles=Role.laptop(),
        created_s=1_795_000_000,
        not_after_s=0,
        serial=bytes(8),
        epoch=0,
    )
    signed = cert.signed_by(a_person().user_identity())
    return Author(a_person().user_id(), device.node_id(), device.signing_key(), signed)


def test_adopting_begins_a_new_incarnation_and_keeps_the_history(tmp_path):
    vault = a_vault(tmp_path)
    before = vault.change(adding(a_snapshot()))
    author, place = another_device(), tmp_path / "vault"
    with pytest.raises(NotOurs):
        Vault.open(place, author, a_person().vault_master, cache=None)
    adopted = Vault.adopt(place, author, a_person().vault_master, cache=None)
    head = adopted.head()
    assert (head.device, head.incarnation, head.seq) == (author.node, 1, 2)
    assert head.snapshots == before.snapshots
    assert head.prev == head_hash(vault.store.read_head((0, 1)))
    assert adopted.change(lambda h: h).place == (1, 3)
    again = Vault.open(place, author, a_person().vault_master, cache=None)
    assert (again.head().place, again.config.chunker) == ((1, 3), vault.config.chunker)
    with pytest.raises(NotOurs):
        opened(tmp_path)


@pytest.mark.slow
def test_an_adoption_killed_anywhere_can_be_done_again(tmp_path, monkeypatch):
    from portal import vault as module

    for dies_at in range(30):
        place = tmp_path / str(dies_at)
        place.mkdir()
        before = a_vault(place).change(adding(a_snapshot()))
        disk = MortalDisk(dies_at)
        adopt = partial(
            Vault.adopt, place / "vault", another_device(), a_person().vault_master, cache=None
        )
        monkeypatch.setattr(module, "Store", lambda path, made=disk: Store(path, made))
        try:
            adopt()
        except Killed:
            monkeypatch.setattr(module, "Store", Store)
            assert adopt().head().snapshots == before.snapshots
            continue
        break
    assert dies_at >= 10


def test_a_planted_incarnation_does_not_keep_a_vault_from_being_adopted(tmp_path):
    vault = a_vault(tmp_path)
    before = vault.change(adding(a_snapshot()))
    vault.store.head_path((0xFFFF_FFFF, 9)).write_bytes(b"junk")
    author = another_device()
    adopted = Vault.adopt(tmp_path / "vault", author, a_person().vault_master, cache=None)
    assert adopted.head().place == (1, 2)
    assert adopted.head().snapshots == before.snapshots


def test_adopting_takes_the_keys(tmp_path):
    a_vault(tmp_path)
    with pytest.raises(IntegrityError):
        Vault.adopt(
            tmp_path / "vault", an_author("stranger"), a_person("stranger").vault_master, cache=None
        )
    assert opened(tmp_path).config == opened(tmp_path).config
