import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import limits
from core.errors import FormatError, LimitExceeded
from core.tree.paths import check_name_untrusted, check_path_untrusted, order, shown

HOSTILE = [
    b"",
    b"/",
    b"/etc/passwd",
    b"//x",
    b".",
    b"..",
    b"../x",
    b"a/..",
    b"a/../b",
    b"a/./b",
    b"./a",
    b"a//b",
    b"a/",
    b"a\0b",
    b"\0",
    b"a/b\0/c",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_paths_that_could_lead_elsewhere_are_refused_by_name(path):
    with pytest.raises(FormatError) as e:
        check_path_untrusted(path)
    assert e.value.where == shown(path)


@pytest.mark.parametrize(
    "path",
    [b"a", b"...", b"..a", b"a..", b"a/.b/..c", b"\xff\xfe", b"new\nline", b"~", b"C:\\x", b" "],
)
def test_any_other_byte_may_stand_in_a_name(path):
    check_path_untrusted(path)


def test_an_absolute_path_is_called_so():
    with pytest.raises(FormatError, match="absolute"):
        check_path_untrusted(b"/etc/passwd")


def test_long_paths_names_and_deep_nesting_are_refused():
    check_path_untrusted(b"/".join([b"d"] * limits.PATH_DEPTH_MAX))
    check_path_untrusted(b"n" * limits.NAME_BYTES_MAX)
    longest = b"/".join([b"n" * 1000] * 2000)[: limits.PATH_BYTES_MAX]
    check_path_untrusted(longest)
    for path in (
        b"/".join([b"d"] * (limits.PATH_DEPTH_MAX + 1)),
        b"n" * (limits.NAME_BYTES_MAX + 1),
        longest + b"n",
    ):
        with pytest.raises(LimitExceeded):
            check_path_untrusted(path)


def test_a_name_is_a_path_of_one():
    for name in (*(p for p in HOSTILE if b"/" not in p), b"a/b"):
        with pytest.raises(FormatError):
            check_name_untrusted(name, b"x/" + name)
    check_name_untrusted(b"name", b"x/name")


@given(st.lists(st.sampled_from([b"a", b"..", b".", b"", b"\0", b"b c", b"/", b"\xff"])))
@example([b"a", b"b c"])
def test_what_passes_stays_below_where_it_is_resolved(parts):
    path = b"/".join(parts)
    try:
        check_path_untrusted(path)
    except FormatError:
        return
    assert os.path.normpath(b"/target/" + path) == b"/target/" + path
    assert b"\0" not in path


@given(st.lists(st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=4), max_size=20))
def test_the_order_is_that_of_names_from_the_root(paths):
    clean = [[n.replace(b"\0", b"0").replace(b"/", b"1") for n in path] for path in paths]
    assert sorted(clean) == [
        p.split(b"/") for p in sorted((b"/".join(c) for c in clean), key=order)
    ]


def test_what_is_shown_is_one_harmless_line():
    assert shown(b"plain name/\xc3\xa9") == "plain name/\u00e9"
    assert shown(b"a\nb\x1b[2J\xff\xe2\x80\xae") == "a\\nb\\x1b[2J\\xff\\u202e"


@given(st.binary())
def test_anything_can_be_shown(path):
    assert shown(path).isprintable()
