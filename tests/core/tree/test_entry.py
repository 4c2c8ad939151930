import grp
import os
import pwd
import socket
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.errors import FormatError, LimitExceeded
from core.native.rows import ROW, Row, row_of
from core.tree.entry import (
    TIME_NS_MAX,
    TIME_NS_MIN,
    TYPE_OF_FORMAT,
    Entry,
    EntryType,
    check_entry_untrusted,
    entry_of,
    entry_of_row,
    group_id,
    group_name,
    is_unchanged,
    row_of_file,
    types_of,
    user_id,
    user_name,
)

FILE = Entry(b"a/file", EntryType.FILE, 0o644, 1, 2, "u", "g", 3, 4)
LINK = Entry(b"link", EntryType.SYMLINK, target=b"../../anywhere")


def test_an_entry_says_what_stat_says(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    path.chmod(0o4751)
    os.utime(path, ns=(0, -1_500_000_001))
    found = path.stat()
    entry = entry_of(b"file", found)
    assert entry[:9] == (
        b"file",
        EntryType.FILE,
        0o4751,
        found.st_uid,
        found.st_gid,
        pwd.getpwuid(found.st_uid).pw_name,
        grp.getgrgid(found.st_gid).gr_name,
        -1_500_000_001,
        5,
    )
    assert (entry.dev, entry.ino, entry.nlink) == (found.st_dev, found.st_ino, 1)
    assert entry.hard_link is None
    os.link(path, tmp_path / "other")
    linked = entry_of(b"file", path.stat())
    assert linked.hard_link == (found.st_dev, found.st_ino)


def test_only_files_have_a_size_and_only_devices_a_number(tmp_path):
    (tmp_path / "link").symlink_to("somewhere")
    link = entry_of(b"link", (tmp_path / "link").lstat(), b"somewhere")
    assert (link.type, link.size, link.target) == (EntryType.SYMLINK, 0, b"somewhere")
    directory = entry_of(b"d", tmp_path.stat())
    assert (directory.type, directory.size, directory.rdev) == (EntryType.DIRECTORY, 0, (0, 0))
    assert directory.hard_link is None  # whatever its link count
    null = entry_of(b"null", Path("/dev/null").stat())
    assert (null.type, null.rdev) == (EntryType.CHARACTER, (1, 3))
    assert all(isinstance(kind, EntryType) for kind in TYPE_OF_FORMAT.values())


def test_a_socket_is_no_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert stat.S_IFMT(Path("socket").stat().st_mode) not in TYPE_OF_FORMAT


def test_what_is_written_or_exchanged_is_noticed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    copy = tmp_path / "copy"
    copy.write_bytes(b"one")
    os.utime(path, ns=(5, 5))
    os.utime(copy, ns=(5, 5))
    assert is_unchanged(entry_of(b"file", path.stat()), path.stat())
    for change in (
        lambda: path.write_bytes(b"twice"),
        lambda: os.utime(path, ns=(6, 6)),
        lambda: copy.rename(path),
    ):
        before = entry_of(b"file", path.stat())
        change()
        assert not is_unchanged(before, path.stat())
        assert entry_of(b"file", path.stat()).fingerprint != before.fingerprint


def test_times_beyond_the_years_that_fit_are_moved_to_their_ends():
    values = list(Path("/").stat())
    for ns, kept in [(TIME_NS_MAX + 1, TIME_NS_MAX), (TIME_NS_MIN - 1, TIME_NS_MIN)]:
        extra = dict.fromkeys(("st_atime_ns", "st_ctime_ns"), 0) | {
            "st_mtime_ns": ns,
            "st_rdev": 0,
        }
        assert entry_of(b"d", os.stat_result(values, extra)).mtime_ns == kept


@given(
    st.builds(
        Entry,
        path=st.sampled_from([b"a", b"a/b"]),
        type=st.just(EntryType.FILE),
        mode=st.integers(0, 0o7777),
        uid=st.integers(0, 0xFFFF_FFFE),
        gid=st.integers(0, 0xFFFF_FFFE),
        mtime_ns=st.integers(TIME_NS_MIN, TIME_NS_MAX),
        size=st.integers(0, TIME_NS_MAX),
        target=st.just(b""),
        rdev=st.tuples(st.integers(0, 0xFFFF_FFFF), st.just(0)),
        xattrs=st.sampled_from([(), ((b"user.a", b""), (b"user.b", b"1"))]),
    )
)
def test_entries_within_bounds_pass(entry):
    check_entry_untrusted(entry)
    check_entry_untrusted(LINK)


@pytest.mark.parametrize(
    "entry",
    [
        FILE._replace(path=b"/a"),
        FILE._replace(mode=0o10000),
        FILE._replace(mode=-1),
        FILE._replace(uid=0xFFFF_FFFF),
        FILE._replace(gid=-1),
        FILE._replace(mtime_ns=TIME_NS_MAX + 1),
        FILE._replace(mtime_ns=TIME_NS_MIN - 1),
        FILE._replace(size=-1),
        FILE._replace(size=TIME_NS_MAX + 1),
        FILE._replace(target=b"x"),
        FILE._replace(rdev=(-1, 0)),
        FILE._replace(rdev=(0, 1 << 32)),
        LINK._replace(target=b""),
        LINK._replace(target=b"a\0b"),
        LINK._replace(size=14),
        FILE._replace(type=EntryType.DIRECTORY),
        FILE._replace(xattrs=((b"", b""),)),
        FILE._replace(xattrs=((b"user.\0", b""),)),
        FILE._replace(xattrs=((b"n" * 256, b""),)),
    ],
)
def test_entries_out_of_bounds_are_refused(entry):
    with pytest.raises(FormatError):
        check_entry_untrusted(entry)


@pytest.mark.parametrize(
    "entry",
    [
        LINK._replace(target=b"t" * (limits.LINK_TARGET_BYTES_MAX + 1)),
        FILE._replace(xattrs=((b"user.a", b"v" * (limits.XATTR_VALUE_BYTES_MAX + 1)),)),
        FILE._replace(xattrs=((b"user.a", b""),) * (limits.XATTRS_MAX + 1)),
        FILE._replace(xattrs=tuple((b"user.%d" % n, b"v" * 65_536) for n in range(16))),
    ],
)
def test_entries_that_ask_for_too_much_are_refused(entry):
    with pytest.raises(LimitExceeded):
        check_entry_untrusted(entry)


def test_owners_have_names_where_the_system_knows_them():
    assert user_name(0) == "root"
    assert user_id("root") == 0
    assert group_id(group_name(0)) == 0
    assert user_name(0xFFFF_FFF0) == group_name(0xFFFF_FFF0) == ""
    assert user_id("no such user") is None
    assert group_id("no such group") is None
    assert user_id("\0") is None


def test_names_of_owners_are_printable_text(monkeypatch):
    class Record:
        pw_name = gr_name = "ro\x1bot"

    monkeypatch.setattr(pwd, "getpwuid", lambda _: Record)
    monkeypatch.setattr(grp, "getgrgid", lambda _: Record)
    user_name.cache_clear()
    group_name.cache_clear()
    try:
        assert user_name(0) == group_name(0) == ""
        Record.pw_name = "n" * 257
        user_name.cache_clear()
        assert user_name(0) == ""
    finally:
        user_name.cache_clear()
        group_name.cache_clear()


def test_the_types_of_rows_are_those_of_their_modes():
    modes = [*TYPE_OF_FORMAT, stat.S_IFSOCK, 0, 0o7777]
    rows = b"".join(ROW.pack(*[0] * 4, mode | 0o7777, *[0] * 6) for mode in modes)
    assert list(types_of(rows)) == [*TYPE_OF_FORMAT.values(), 0, 0, 0]
    assert types_of(b"") == b""


def test_the_row_of_a_file_says_what_its_entry_says(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    found = (tmp_path / "file").stat()
    entry = entry_of(b"file", found)
    assert row_of_file(entry) == row_of(found)
    row = Row._make(ROW.unpack(row_of_file(entry)))
    assert entry_of_row(b"file", row, found.st_dev) == entry
    with pytest.raises(struct.error):
        row_of_file(entry._replace(ctime_ns=1 << 63))
