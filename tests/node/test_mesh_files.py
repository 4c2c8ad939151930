import errno
import os
import stat

import pytest
import trio

from core import limits
from core.errors import FormatError, LimitExceeded, NewerFormat, PortalError
from mesh.members.membership import Changes
from mesh.wire import Address
from node.mesh_files import Entrance, MeshFiles
from tests.support.memberships import found, person

ANN, BOB, CYD = person("ann"), person("bob"), person("cyd")


@pytest.fixture
def kept(tmp_path):
    """Files that hold a mesh of Ann's."""
    replica = found(ANN)
    files = MeshFiles(tmp_path)
    files.begin(replica.membership)
    return files, replica, tmp_path / "mesh" / "members"


def news(replica, who):
    """What it takes to bring somebody in."""
    before = len(replica.membership.set.ops)
    replica.bring(who)
    return Changes(added=tuple(replica.membership.set.ops[before:]))


def save(files, changes):
    trio.run(files.save_members, changes)


def test_a_home_without_a_mesh_has_none_and_is_left_alone(tmp_path):
    files = MeshFiles(tmp_path)
    assert files.load() is None
    assert files.records() is None
    assert list(tmp_path.iterdir()) == []


def test_what_was_begun_is_there_again_and_private(tmp_path, kept):
    _, replica, members = kept
    assert MeshFiles(tmp_path).load().dump() == replica.membership.dump()
    assert stat.S_IMODE(members.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(members.stat().st_mode) == 0o600


def test_a_mesh_is_never_replaced_by_another(kept):
    files, replica, _ = kept
    with pytest.raises(PortalError, match="in a mesh already"):
        files.begin(found(BOB).membership)
    assert files.load().mesh_id == replica.membership.mesh_id


def test_what_is_saved_is_appended_and_synced_before_it_returns(kept, monkeypatch):
    files, replica, members = kept
    before, real, synced = members.read_bytes(), os.fsync, []

    def fsync(fd):
        real(fd)
        synced.append(members.read_bytes())

    monkeypatch.setattr(os, "fsync", fsync)
    save(files, news(replica, BOB))
    save(files, news(replica, CYD))
    assert synced[-1] == members.read_bytes() == replica.membership.dump()
    assert len(synced) == 2
    assert synced[0].startswith(before)
    assert files.load().can(CYD.node, 0)


def test_wherever_an_append_was_torn_the_rest_is_read_and_goes_on(kept):
    files, replica, members = kept
    whole = members.read_bytes()
    changes = news(replica, BOB)
    save(files, changes)
    full = members.read_bytes()
    first = len(whole) + 4 + len(changes.added[0].data)
    for size in range(len(whole), len(full), 7):
        members.write_bytes(full[:size])
        known = files.load()
        left = whole if size < first else full[:first]
        assert members.read_bytes() == left == known.dump()
        known.receive_untrusted(op.data for op in changes.added)  # from a peer
        missing = changes.added[1:] if size >= first else changes.added
        save(files, Changes(added=missing))
        assert members.read_bytes() == full


def test_what_a_disk_left_empty_behind_the_records_is_cut_off(kept):
    files, _, members = kept
    whole = members.read_bytes()
    members.write_bytes(whole + bytes(4_096))
    files.load()
    assert members.read_bytes() == whole


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_told_and_leaves_the_file_as_it_was(kept, monkeypatch, call):
    files, replica, members = kept
    before, real, changes = members.read_bytes(), getattr(os, call), news(replica, BOB)

    def full(fd, *data):
        if call == "write":
            real(fd, data[0][:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, call, full)
        save(files, changes)
    assert members.read_bytes() == before
    save(files, changes)
    assert members.read_bytes() == replica.membership.dump()


def test_a_short_write_is_gone_on_with(kept, monkeypatch):
    files, replica, members = kept
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:11]))
    save(files, news(replica, BOB))
    assert members.read_bytes() == replica.membership.dump()


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (lambda data: b"", FormatError, "not a list of members"),
        (lambda data: b"NONE" + data[4:], FormatError, "not a list of members"),
        (lambda data: data[:4] + b"\x02" + data[5:], NewerFormat, "newer Portal"),
        (lambda data: data[:5], FormatError, "empty"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), PortalError, "."),
    ],
)
def test_a_damaged_file_is_named_and_left_alone(kept, harm, error, message):
    files, _, members = kept
    harmed = harm(members.read_bytes())
    members.write_bytes(harmed)
    with pytest.raises(error, match=message) as raised:
        files.load()
    assert raised.value.where == str(members)
    assert members.read_bytes() == harmed


def test_a_file_that_has_no_end_is_refused(kept, monkeypatch):
    files, _, members = kept
    monkeypatch.setattr(limits, "MEMBERS_FILE_BYTES_MAX", members.stat().st_size - 1)
    with pytest.raises(LimitExceeded):
        files.load()


def test_a_link_in_the_place_of_the_file_is_not_followed(kept, tmp_path):
    files, replica, members = kept
    elsewhere = members.rename(tmp_path / "elsewhere")
    members.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(OSError, match="symbolic links"):
        save(files, news(replica, BOB))
    assert elsewhere.read_bytes() == before


def test_records_are_replaced(kept):
    files, _, members = kept
    for data in (b"long ago", b"now"):
        trio.run(files.save_records, data)
        assert files.records() == data
    assert stat.S_IMODE((members.parent / "records").stat().st_mode) == 0o600


def test_absences_are_replaced(kept):
    files, _, members = kept
    assert files.presence() is None
    for data in (b"long ago", b"now"):
        trio.run(files.save_presence, data)
        assert files.presence() == data
    assert stat.S_IMODE((members.parent / "presence").stat().st_mode) == 0o600


@pytest.mark.parametrize("at", [Address("192.0.2.1", 9), Address("2001:db8::1", 27272)])
def test_who_let_us_in_is_remembered(tmp_path, at):
    files = MeshFiles(tmp_path)
    assert files.entrance() is None
    files.save_entrance(Entrance(BOB.node, at))
    assert files.entrance() == (BOB.node, at)


def test_a_door_that_is_none_is_refused(tmp_path):
    files = MeshFiles(tmp_path)
    files.save_entrance(Entrance(BOB.node, Address("192.0.2.1", 9)))
    door = tmp_path / "mesh" / "door"
    whole = door.read_bytes()
    for damaged in (b"", whole[:31], whole[:32], whole[:37], whole + b"x"):
        door.write_bytes(damaged)
        with pytest.raises(FormatError):
            files.entrance()
