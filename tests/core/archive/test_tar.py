import tarfile
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.archive.tar import TarReader, path_untrusted
from core.errors import FormatError, LimitExceeded
from core.tree.content import Extent
from core.tree.entry import EntryType
from tests.support.tars import CUT, block, member, tar_of

FORMATS = pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["u", "gnu", "pax"]
)


def members_of(data):
    """Every member and its content."""
    reader = TarReader(BytesIO(data).read)
    found = []
    for one in reader.members_untrusted():
        size = sum(extent.length for extent in one.extents)
        found.append((one, reader.content_untrusted(size)))
    return found


def only(data):
    ((one, content),) = members_of(data)
    return one, content


@FORMATS
def test_what_another_program_wrote(form):
    data = tar_of(
        member("d", type=tarfile.DIRTYPE, mode=0o1755),
        (member("d/file", mtime=1_700_000_000, uid=7, gid=8, uname="ann", gname="all"), b"abc"),
        (member("d/" + "long" * 30 if form else "d/" + "l" * 90), b"x" * 512),
        member("link", type=tarfile.SYMTYPE, linkname="d/file"),
        member("again", type=tarfile.LNKTYPE, linkname="./d/file"),
        member("pipe", type=tarfile.FIFOTYPE),
        member("tty", type=tarfile.CHRTYPE, devmajor=5, devminor=1),
        member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=300),
        form=form,
    )
    (folder, _), (file, content), (_, long), (link, _), (again, _), *others = members_of(data)
    assert (folder.entry.path, folder.entry.type) == (b"d", EntryType.DIRECTORY)
    assert folder.entry.mode == 0o1755
    assert content == b"abc"
    assert long == b"x" * 512
    entry = file.entry
    assert (entry.uid, entry.gid, entry.user, entry.group) == (7, 8, "ann", "all")
    assert (entry.mtime_ns, entry.size) == (1_700_000_000 * 10**9, 3)
    assert (link.entry.type, link.entry.target) == (EntryType.SYMLINK, b"d/file")
    assert (again.link, again.entry.size, again.extents) == (b"d/file", 0, ())
    assert [one.entry.type for one, _ in others] == [
        EntryType.FIFO,
        EntryType.CHARACTER,
        EntryType.BLOCK,
    ]
    assert [one.entry.rdev for one, _ in others] == [(0, 0), (5, 1), (8, 300)]


def test_long_names_and_large_numbers_of_both_kinds():
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        name, target = "/".join(["n" * 200] * 15), "t" * 2000
        one, _ = only(
            tar_of(member(name, type=tarfile.SYMTYPE, linkname=target, uid=3_000_000), form=form)
        )
        assert (one.entry.path, one.entry.target) == (name.encode(), target.encode())
        assert one.entry.uid == 3_000_000
    before = tar_of((member("old", mtime=-5), b""), form=tarfile.GNU_FORMAT)
    assert only(before)[0].entry.mtime_ns == -5 * 10**9


def test_a_prefix_counts_in_ustar_only():
    name = "p" * 100 + "/" + "n" * 90
    one, _ = only(tar_of(member(name), form=tarfile.USTAR_FORMAT))
    assert one.entry.path == name.encode()
    gnu = block(b"short", magic=b"ustar  \0", prefix=b"12345670123")  # there GNU keeps times
    assert only(gnu + CUT)[0].entry.path == b"short"


def test_names_of_any_bytes():
    one, _ = only(block(b"\xff\xfe new\nline") + CUT)
    assert one.entry.path == b"\xff\xfe new\nline"


@pytest.mark.parametrize("kind", [b"\0", b"0"])
def test_a_slash_at_the_end_is_a_directory_of_old(kind):
    one, _ = only(block(b"d/", kind=kind) + CUT)
    assert (one.entry.path, one.entry.type) == (b"d", EntryType.DIRECTORY)


def test_old_sparse_files():
    pieces = [(512 * n * 2, 1) for n in range(30)]
    fields = [b"%011o\0%011o\0" % piece for piece in pieces]
    more = [*fields[4:25], *[b""] * 0]
    first = b"".join(more).ljust(504, b"\0") + b"\1" + bytes(7)
    second = b"".join(fields[25:]).ljust(512, b"\0")
    sparse = b"".join(fields[:4]) + b"\1" + b"%011o\0" % 40_000
    data = block(b"s", kind=b"S", size=30, magic=b"ustar  \0", sparse=sparse)
    one, content = only(data + first + second + b"A" * 30 + bytes(482) + CUT)
    assert one.entry.size == 40_000
    assert one.extents == tuple(Extent(*piece) for piece in pieces)
    assert content == b"A" * 30


def test_a_sparse_map_before_the_content():
    count = 200  # more than a block of it
    lines = [b"%d" % count] + [b"%d\n10" % (1000 * n) for n in range(count)]
    text = b"\n".join(lines) + b"\n"
    text = text.ljust(-(-len(text) // 512) * 512, b"\0")
    content = text + b"0123456789" * count
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "real",
        "GNU.sparse.realsize": "300000",
    }
    one, data = only(tar_of((member("GNUSparseFile.1/real", pax=headers), content)))
    assert (one.entry.path, one.entry.size, len(one.extents)) == (b"real", 300_000, count)
    assert data == b"0123456789" * count


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "5,3,100,4"},
        {"GNU.sparse.map": "5,3,100,4,200,0"},
    ],
)
def test_a_sparse_map_in_the_header(headers):
    headers |= {"GNU.sparse.size": "200", "GNU.sparse.name": "real"}
    one, data = only(tar_of((member("other", pax=headers), b"abcdefg")))
    assert (one.entry.path, one.entry.size) == (b"real", 200)
    assert one.extents == (Extent(5, 3), Extent(100, 4))
    assert data == b"abcdefg"


@pytest.mark.parametrize(
    "sparse_map", ["5,3,6,4", "5,3,100,5", "5,3,100,3", "5,3,197,4", "5", "x,7", "-1,7"]
)
def test_a_sparse_map_that_does_not_fit(sparse_map):
    headers = {"GNU.sparse.map": sparse_map, "GNU.sparse.size": "200"}
    with pytest.raises(FormatError):
        only(tar_of((member("f", pax=headers), b"abcdefg")))


def test_kinds_unknown_are_named_and_passed_by():
    data = block(b"odd", kind=b"Q", size=5) + b"12345".ljust(512, b"\0") + block(b"f") + CUT
    reader = TarReader(BytesIO(data).read)
    assert [one.entry.path for one in reader.members_untrusted()] == [b"f"]
    assert reader.skipped[0][0] == b"odd"


def test_content_that_is_not_read_is_passed_by():
    data = tar_of((member("a"), b"x" * 5000), (member("b"), b"y" * 512))
    reader = TarReader(BytesIO(data).read)
    names = []
    for one in reader.members_untrusted():
        names.append(one.entry.path)
        reader.content_untrusted(1)
    assert names == [b"a", b"b"]


# --- streams that mean harm -------------------------------------------------------------------


def test_every_cut_is_noticed():
    data = tar_of(
        member("d", type=tarfile.DIRTYPE),
        (member("d/" + "n" * 200, pax={"SCHILY.xattr.user.a": "b"}), b"x" * 700),
        (member("e"), b""),
        form=tarfile.PAX_FORMAT,
    )
    end = data.rstrip(b"\0")
    whole = -(-len(end) // 512) * 512
    assert len(members_of(data[: whole + 512])) == 3  # one block of zeros is an end
    for size in range(0, whole + 512, 64):
        with pytest.raises(FormatError):
            members_of(data[:size])


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"\x28\xb5\x2f\xfd" + bytes(600), "not a tar stream"),
        (b"", "not a tar stream"),
        (b"text" * 300, "not a tar stream"),
        (block(b"a") + b"damage" * 100, "damaged"),
        (block(b"/etc/passwd") + CUT, "absolute"),
        (block(b"a/../../b") + CUT, r"\.\."),
        (block(b"f", kind=b"M") + CUT, "volume"),
        (block(b"") + CUT, "without a name"),
        (block(b"l", kind=b"2") + CUT, "target"),
        (block(b"l", kind=b"2", link=b"") + CUT, "target"),
        (block(b"x", kind=b"L", size=3) + b"abc".ljust(512, b"\0") + CUT, "about"),
        (block(b"f", mode=b"9999999\0") + CUT, "no number"),
        (block(b"f", uid=b"\x80" + b"\xff" * 7) + CUT, "owner"),
        (block(b"f", raw_size=b"\xff" * 12) + CUT, "size"),
        (block(b"f", raw_size=b"\x80" + b"\xff" * 11) + CUT, "size"),
    ],
)
def test_what_makes_no_sense_is_refused(stream, words):
    with pytest.raises(FormatError, match=words):
        members_of(stream)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_headers_are_bounded_before_they_are_read(kind):
    asked = []

    def read(size):
        asked.append(size)
        return block(b"h", kind=kind, size=2 << 30) if len(asked) == 1 else bytes(size)

    with pytest.raises(LimitExceeded):
        list(TarReader(read).members_untrusted())
    assert max(asked) <= 512


def test_headers_in_a_row_are_bounded():
    one = block(b"h", kind=b"L", size=1) + b"n".ljust(512, b"\0")
    assert members_of(one * limits.TAR_HEADERS_MAX + block(b"f") + CUT)
    with pytest.raises(LimitExceeded):
        members_of(one * (limits.TAR_HEADERS_MAX + 1) + block(b"f") + CUT)


def test_sparse_parts_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "TREE_EXTENTS_MAX", 30)
    more = (b"%011o\0%011o\0" % (0, 0) * 21).ljust(504, b"\0") + b"\1" + bytes(7)
    endless = block(b"s", kind=b"S", magic=b"ustar  \0", sparse=bytes(96) + b"\1") + more * 3 + CUT
    with pytest.raises(LimitExceeded):
        members_of(endless)
    headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "9", "GNU.sparse.minor": "0"}
    with pytest.raises(LimitExceeded):
        members_of(tar_of((member("f", pax=headers), b"99999999\n".ljust(512, b"\0"))))


@given(st.binary(max_size=2000), st.integers(0, 3000), st.integers(0, 255))
def test_damage_is_a_format_error_or_nothing(noise, at, byte):
    data = bytearray(
        tar_of(
            (
                member("d/" + "n" * 120, pax={"GNU.sparse.map": "0,3", "GNU.sparse.size": "9"}),
                b"abc",
            )
        )
    )
    data[at] = byte
    for stream in (bytes(data), bytes(data[:512]) + noise, noise):
        try:
            members_of(stream)
        except FormatError:
            continue


@given(st.binary(max_size=200))
def test_paths_never_lead_outside(name):
    try:
        path = path_untrusted(name)
    except FormatError:
        assert name.startswith(b"/")
    else:
        assert not path.startswith(b"/")
        assert b"" not in path.split(b"/") or not path
