import errno
import os
import shutil
import stat

import pytest
import trio

from core import codec, limits
from core.errors import FormatError, LimitExceeded, NewerFormat, PortalError
from mesh.members.bodies import Kind, Numbered
from mesh.members.membership import Changes
from mesh.wire import Address
from node import mesh_files
from node.mesh_files import Damaged, Entrance, MeshFiles, Unusable
from tests.support.memberships import found, person

ANN, BOB, CYD = person("ann"), person("bob"), person("cyd")


@pytest.fixture
def kept(tmp_path):
    """Files that hold a mesh of Ann's."""
    replica = found(ANN)
    files = MeshFiles(tmp_path)
    files.begin(replica.membership, ANN.node)
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
    assert len(set(synced)) == 2
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
        known = files.take_up(ANN.node).membership
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
    assert files.take_up(ANN.node).is_whole
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


def test_drafts_are_replaced(kept):
    files, _, members = kept
    assert files.drafts() is None
    for data in (b"two of them", b"none"):
        trio.run(files.save_drafts, data)
        assert files.drafts() == data
    assert stat.S_IMODE((members.parent / "drafts").stat().st_mode) == 0o600


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


# --- whether all is there that we wrote -----------------------------------------------------------


def put_back(home, place):
    """The home is lost, and comes back as a backup had it, times included."""
    copy = place / "a backup"
    shutil.copytree(home, copy, symlinks=True)
    shutil.rmtree(home)
    shutil.copytree(copy, home, symlinks=True)


def is_whole(home, own=ANN.node):
    return MeshFiles(home).take_up(own).is_whole


@pytest.fixture
def home(tmp_path):
    """A home of Ann's, in which she has founded a mesh."""
    place = tmp_path / "home"
    place.mkdir()
    MeshFiles(place).begin(found(ANN).membership, ANN.node)
    return place


def test_a_home_is_whole_until_it_comes_back_from_a_copy(home, tmp_path):
    assert is_whole(home)
    assert is_whole(home)
    home = home.rename(home.with_name("moved"))  # it is the same
    assert is_whole(home)
    put_back(home, tmp_path)
    assert not is_whole(home)
    assert not is_whole(home)


def test_a_copy_is_whole_again_once_somebody_says_so(home, tmp_path):
    put_back(home, tmp_path)
    files = MeshFiles(home)
    assert not files.take_up(ANN.node).is_whole
    trio.run(files.vouch)
    assert is_whole(home)
    put_back(home, tmp_path / "again")
    assert not is_whole(home)


def test_without_the_file_or_with_another_nothing_is_whole(home):
    own = home / "mesh" / "own"
    kept = own.read_bytes()
    for harm in (b"", b"nonsense", kept[:-1], codec.encode([1, 5, 1]), codec.encode([2, 5, 1])):
        own.write_bytes(harm)
        assert not is_whole(home)
    own.write_bytes(kept)
    assert is_whole(home)
    (anchor,) = (home / "mesh").glob("anchor-*")
    anchor.unlink()
    assert not is_whole(home)
    anchor.touch()
    assert not is_whole(home)


def test_an_operation_of_ours_that_is_missing_is_found_out(home):
    replica, members = found(ANN), home / "mesh" / "members"
    before = members.read_bytes()
    files = MeshFiles(home)
    files.take_up(ANN.node)
    save(files, news(replica, BOB))
    assert is_whole(home)
    after = members.read_bytes()
    members.write_bytes(before)
    assert not is_whole(home)
    members.write_bytes(after)
    assert is_whole(home)
    guest = replica.of(BOB)
    guest.force(Kind.EPOCH, Numbered(1, bytes(32)))
    members.write_bytes(guest.membership.dump())
    assert is_whole(home)
    members.write_bytes(after)  # an operation of another is missing
    assert is_whole(home)


def test_what_was_appended_before_the_end_of_a_process_counts_from_the_next_start_on(
    home, monkeypatch
):
    own, files = home / "mesh" / "own", MeshFiles(home)
    behind = own.read_bytes()
    files.take_up(ANN.node)
    monkeypatch.setattr(files, "_vouch", lambda: None)  # killed between the two: nobody was told
    save(files, news(found(ANN), BOB))
    assert own.read_bytes() == behind
    assert is_whole(home)
    assert own.read_bytes() != behind


def test_what_leaves_alone_what_looks_the_same_makes_no_whole_of_a_copy(home, tmp_path):
    replica, files, copy = found(ANN), MeshFiles(home), tmp_path / "a backup"
    shutil.copytree(home, copy, symlinks=True)
    files.take_up(ANN.node)
    save(files, news(replica, BOB))
    assert is_whole(home)
    for file in (copy / "mesh").iterdir():  # as rsync does: size and time of the anchors are equal
        there = home / "mesh" / file.name
        if not there.exists() or there.read_bytes() != file.read_bytes():
            shutil.copy2(file, there)
    assert not is_whole(home)


def test_of_ours_that_was_counted_nothing_may_be_missing(home):
    replica, members = found(ANN), home / "mesh" / "members"
    files, before = MeshFiles(home), members.read_bytes()
    files.take_up(ANN.node)
    save(files, news(replica, BOB))
    members.write_bytes(before)
    assert not is_whole(home)


def test_a_copy_does_not_vouch_for_itself_by_what_others_bring(home, tmp_path):
    replica = found(ANN)
    put_back(home, tmp_path)
    files = MeshFiles(home)
    files.take_up(ANN.node)
    save(files, news(replica, BOB))  # ours, and we had forgotten them
    assert not is_whole(home)


def test_who_came_in_where_it_may_have_been_before_is_not_whole(tmp_path):
    files = MeshFiles(tmp_path)
    files.begin(found(ANN).membership)
    assert not files.take_up(ANN.node).is_whole
    assert not files.are_whole(ANN.node)


# --- damage ---------------------------------------------------------------------------------------


def test_a_damaged_list_is_mended_and_kept_beside(kept):
    files, replica, members = kept
    whole = members.read_bytes()
    save(files, news(replica, BOB))
    save(files, news(replica, CYD))
    full = members.read_bytes()
    at = len(whole) + 60
    damaged = full[:at] + bytes([full[at] ^ 1]) + full[at + 1 :]
    for number in (1, 2):
        members.write_bytes(damaged)
        found_there = files.take_up(ANN.node)
        assert not found_there.is_whole
        assert "of 5 entries 4 are lost" in str(found_there.harm)
        assert f"members.damaged-{number}" in str(found_there.harm)
        assert members.with_name(f"members.damaged-{number}").read_bytes() == damaged
        assert members.read_bytes() == whole
        assert stat.S_IMODE(members.stat().st_mode) == 0o600
        assert files.take_up(ANN.node).harm is None


@pytest.mark.parametrize(
    ("harm", "error", "words"),
    [
        (lambda data: b"", Damaged, ("not a list of members", "portal recover ADDRESS")),
        (lambda data: data[:5], Damaged, ("is empty", "portal leave --quietly")),
        (lambda data: data[:80] + b"X" + data[81:], Damaged, ("is damaged: ",)),
        (lambda data: data[:4] + b"\x02" + data[5:], NewerFormat, ("newer Portal",)),
    ],
)
def test_a_list_that_cannot_be_used_is_left_alone_and_says_what_to_do(kept, harm, error, words):
    files, _, members = kept
    harmed = harm(members.read_bytes())
    members.write_bytes(harmed)
    with pytest.raises(error) as raised:
        files.take_up(ANN.node)
    with pytest.raises(error):
        files.are_whole(ANN.node)
    for word in (str(members), *words):
        assert word in str(raised.value)
    assert [file.name for file in members.parent.glob("members*")] == ["members"]
    assert members.read_bytes() == harmed


def test_a_list_that_cannot_be_read_says_what_to_do(kept, monkeypatch):
    files, _, members = kept

    def refuse(path, _size_max):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(mesh_files, "read_bounded", refuse)
    with pytest.raises(Unusable, match="cannot be read: Permission denied") as raised:
        files.take_up(ANN.node)
    assert "chmod u+rw" in raised.value.hint
    assert raised.value.where == str(members)


def test_files_that_are_set_aside_leave_room(kept):
    files, replica, members = kept
    whole = members.read_bytes()
    aside = files.set_aside("old")
    assert aside.name.startswith("mesh.old-")
    assert (aside / "members").read_bytes() == whole
    assert not files.are_there
    files.begin(replica.membership, ANN.node)
