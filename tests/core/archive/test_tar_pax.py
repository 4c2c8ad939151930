import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.archive.tar_pax import Pax, decimal_untrusted
from core.errors import FormatError, LimitExceeded
from core.tree.content import Extent
from core.tree.entry import TIME_NS_MAX, TIME_NS_MIN


def record(keyword, value):
    body = b" %b=%b\n" % (keyword, value)
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d%b" % (length, body)


def pax_of(*records, for_all=False):
    pax = Pax()
    pax.take_untrusted(b"".join(record(*one) for one in records), for_all=for_all)
    return pax


def test_values_of_any_bytes():
    pax = pax_of((b"path", b"new\nline=\xff"), (b"size", b"9" * 15), (b"comment", b"nothing"))
    assert pax.name == b"new\nline=\xff"
    assert pax.number_untrusted(b"size", 1) == int("9" * 15)
    assert pax.number_untrusted(b"uid", 7) == 7
    pax.forget()
    assert pax.name is None


def test_what_is_said_for_all_counts_until_it_is_taken_back():
    pax = pax_of((b"uname", b"ann"), (b"SCHILY.xattr.user.a", b"b"), for_all=True)
    assert pax.owner(b"uname", b"bob") == "ann"
    assert not pax.xattrs_untrusted()  # of every file there could never be one alike
    pax.take_untrusted(record(b"uname", b"eve"), for_all=False)
    assert pax.owner(b"uname", b"bob") == "eve"
    pax.forget()
    pax.take_untrusted(record(b"uname", b""), for_all=False)
    assert pax.owner(b"uname", b"bob") == "bob"


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        (b"1", 10**9),
        (b"1.000000001", 10**9 + 1),
        (b"1.5", 1_500_000_000),
        (b"1.1234567899", 1_123_456_789),
        (b"-1.25", -1_250_000_000),
        (b"-0.25", -250_000_000),
        (b"9" * 20, TIME_NS_MAX),
        (b"-" + b"9" * 20, TIME_NS_MIN),
    ],
)
def test_times(text, time_ns):
    assert pax_of((b"mtime", text)).mtime_ns_untrusted(5) == time_ns


def test_attributes():
    pax = pax_of((b"SCHILY.xattr.user.b%3D%25c", b"\0\xff\n="), (b"SCHILY.xattr.user.a", b""))
    assert pax.xattrs_untrusted() == ((b"user.a", b""), (b"user.b=%c", b"\0\xff\n="))
    escaped = pax_of((b"SCHILY.xattr.user.%253D", b"1"))
    assert escaped.xattrs_untrusted() == ((b"user.%3D", b"1"),)
    assert not pax.kept_out
    assert "SCHILY.acl.access" in pax_of((b"SCHILY.acl.access", b"user::rwx")).kept_out


def test_owners_that_no_entry_may_have():
    for name in (b"\xff", b"a\nb", b"x" * (limits.OWNER_NAME_BYTES_MAX + 1)):
        assert pax_of((b"uname", name)).owner(b"uname", b"") == ""


def test_the_oldest_sparse_map():
    rows = [(b"GNU.sparse.offset", b"5"), (b"GNU.sparse.numbytes", b"3")]
    pax = pax_of((b"GNU.sparse.size", b"99"), *rows, (b"GNU.sparse.offset", b"20"), rows[1])
    assert pax.is_sparse
    assert not pax.is_map_in_content
    assert pax.real_size_untrusted() == 99
    assert pax.map_untrusted() == [Extent(5, 3), Extent(20, 3)]
    with pytest.raises(FormatError):
        pax_of(rows[0], rows[0])
    with pytest.raises(FormatError):
        pax_of(rows[0]).map_untrusted()
    with pytest.raises(FormatError):
        pax_of(*rows).real_size_untrusted()


def test_sparse_parts_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "TREE_EXTENTS_MAX", 2)
    rows = [(b"GNU.sparse.offset", b"5"), (b"GNU.sparse.numbytes", b"0")]
    assert len(pax_of(*rows * 2).map_untrusted()) == 2
    with pytest.raises(LimitExceeded):
        pax_of(*rows * 3)
    assert len(pax_of((b"GNU.sparse.map", b"0,1,2,3")).map_untrusted()) == 2
    with pytest.raises(LimitExceeded):
        pax_of((b"GNU.sparse.map", b"0,1,2,3,4,5")).map_untrusted()


@pytest.mark.parametrize(
    "data",
    [
        b"5",
        b"5 a=",
        b"999 path=x\n",
        b"0 path=x\n",
        b"x path=x\n",
        b"8 pathx\n",
        b"9 path=xy",
        b"\0",
    ],
)
def test_records_that_make_no_sense(data):
    with pytest.raises(FormatError):
        Pax().take_untrusted(data, for_all=False)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_format_error_or_records(data):
    pax = Pax()
    try:
        pax.take_untrusted(data, for_all=False)
        pax.mtime_ns_untrusted(0)
        pax.map_untrusted()
    except FormatError:
        return


@given(st.dictionaries(st.sampled_from([b"path", b"linkpath", b"uname"]), st.binary(max_size=200)))
def test_what_was_written_is_read(values):
    pax = pax_of(*values.items())
    assert all(pax.value(keyword) == (value or None) for keyword, value in values.items())


def test_numbers():
    assert decimal_untrusted(b"0012", "it") == 12
    for digits in (b"", b"-1", b"1_0", b" 1", "\u0663".encode(), b"1" * 41):
        with pytest.raises(FormatError):
            decimal_untrusted(digits, "it")
