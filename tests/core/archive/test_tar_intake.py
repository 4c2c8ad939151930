import tarfile
from io import BytesIO

import pytest

from core.archive.table import Stored
from core.archive.tar_intake import TarIntake, bare
from core.errors import FormatError
from core.tree.entry import EntryType, Incomplete, Skipped
from core.tree.walk import nothing
from tests.support.tars import CUT, block, member, tar_of
from tests.support.trees import Reports

FOLDER = {"type": tarfile.DIRTYPE}


def taken(data, exclude=nothing):
    reports = Reports()
    intake = TarIntake(BytesIO(data).read, exclude, reports)
    found = {}
    for one in intake.members_untrusted():
        size = sum(extent.length for extent in one.extents)
        found[one.entry.path] = one, intake.content(one).read_at(0, size)
    return found, reports


def link(name, to):
    return member(name, type=tarfile.LNKTYPE, linkname=to)


def test_the_top_is_no_entry_and_names_are_made_plain():
    found, reports = taken(
        tar_of(member(".", **FOLDER), member("./d/", **FOLDER), (member("./d//f"), b"abc"))
    )
    assert list(found) == [b"d", b"d/f"]
    assert found[b"d/f"][1] == b"abc"
    assert not reports.all


def test_a_directory_may_come_twice_and_nothing_else():
    again = tar_of(member("d", **FOLDER), (member("d/f"), b"1"), member("d", **FOLDER, mode=0o700))
    found, reports = taken(again)
    assert list(found) == [b"d", b"d/f"]
    assert not reports.all
    for second in (member("d", **FOLDER), member("d"), link("d", "d")):
        with pytest.raises(FormatError, match="twice"):
            taken(tar_of((member("d"), b"1"), second))


def test_links_lead_to_first_names():
    found, reports = taken(
        tar_of((member("a"), b"1"), link("b", "a"), link("c", "./b"), link("d", "c"))
    )
    assert [one.link for one, _ in found.values()] == [None, b"a", b"a", b"a"]
    assert not reports.all


@pytest.mark.parametrize("to", ["missing", "../a", "d", "z"])
def test_links_to_what_is_not_there_are_told(to):
    data = tar_of(member("d", **FOLDER), (member("a"), b"1"), link("b", to), link("z", "a"))
    found, reports = taken(data)
    assert list(found) == [b"d", b"a", b"z"]
    assert [(path, type(e)) for path, e in reports.all] == [(b"b", Incomplete)]


def test_what_is_left_out_is_neither_taken_nor_linked_to():
    data = tar_of((member("a"), b"1"), (member("b"), b"2"), link("c", "a"))
    found, reports = taken(data, lambda path, _is_directory: path == b"a")
    assert list(found) == [b"b"]
    assert found[b"b"][1] == b"2"
    assert [path for path, _ in reports.all] == [b"c"]


def test_what_cannot_be_kept_is_told():
    acl = member("f", pax={"SCHILY.acl.access": "user::rwx"})
    found, reports = taken(block(b"odd", kind=b"Q") + tar_of((acl, b"")))
    assert list(found) == [b"f"]
    assert [(path, type(e)) for path, e in reports.all] == [(b"odd", Skipped), (b"f", Incomplete)]
    _, reports = taken(block(b"odd", kind=b"Q") + CUT)
    assert len(reports.all) == 1


def test_what_needs_no_content():
    data = tar_of(member("d", **FOLDER), (member("f"), b"1"), link("l", "f"))
    found, _ = taken(data)
    folder, file, second = (bare(one) for one, _ in found.values())
    assert isinstance(folder, Stored)
    assert folder.entry.type is EntryType.DIRECTORY
    assert file is None
    assert second is not None
    assert second.link == b"f"
