import os
from pathlib import Path

import pytest

from core.native.rows import OTHER_DEVICE, ROW, Listed
from core.tree.entry import entry_of, entry_of_row
from core.tree.listing import Listing, list_directory


@pytest.fixture
def listing_of():
    def of(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return list_directory(fd)
        finally:
            os.close(fd)

    return of


def test_names_and_rows_stand_in_the_same_order(tmp_path, listing_of):
    for size, name in enumerate(["b", "a", "ä", "B"]):
        (tmp_path / name).write_bytes(bytes(size))
    listing = listing_of(tmp_path)
    assert len(listing) == 4
    assert listing.names == [b"B", b"a", b"b", "ä".encode()]
    assert listing.joined_names == b"B\0a\0b\0\xc3\xa4\0"
    assert [listing.row(index).size for index in range(4)] == [3, 1, 0, 2]
    assert list(listing.every_row()) == [listing.row(index) for index in range(4)]
    assert listing.dev == listing.dev_of(2) == tmp_path.stat().st_dev


def test_an_empty_directory(tmp_path, listing_of):
    listing = listing_of(tmp_path)
    assert (len(listing), listing.names, listing.rows) == (0, [], b"")


def test_rows_are_the_same_until_something_changes(tmp_path, listing_of):
    (tmp_path / "a").write_bytes(b"1")
    before = listing_of(tmp_path)
    assert listing_of(tmp_path).rows == before.rows
    with (tmp_path / "a").open("ab") as file:
        file.write(b"2")
    assert listing_of(tmp_path).rows != before.rows


def test_reading_leaves_rows_as_they_are(tmp_path, listing_of):
    (tmp_path / "a").write_bytes(b"1")
    os.utime(tmp_path / "a", (1, 1))  # an old time of reading, which a reader moves
    before = listing_of(tmp_path)
    (tmp_path / "a").read_bytes()
    assert listing_of(tmp_path).rows == before.rows


def test_an_entry_of_a_row_is_that_of_a_stat(tmp_path, listing_of):
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("x")
    for folder in (tmp_path, Path("/dev")):
        listing = listing_of(folder)
        for index, name in enumerate(map(os.fsdecode, listing.names)):
            if folder == tmp_path or name in {"null", "zero"}:
                expected = entry_of(b"path", (folder / name).lstat(), b"x")
                row = listing.row(index)
                assert entry_of_row(b"path", row, listing.dev_of(index), b"x") == expected


def test_what_lies_on_another_device_says_on_which():
    rows = ROW.pack(1, 0, 0, 0, 0o40755, 0, 0, 2, 0, 0, 0)
    rows += ROW.pack(1, 0, 0, 0, 0o40755, 0, 0, 2, 0, OTHER_DEVICE, 0)
    listing = Listing(Listed(7, b"here\0mounted\0", rows, (7, 8)))
    assert [listing.dev_of(0), listing.dev_of(1)] == [7, 8]


def test_a_directory_that_cannot_be_read_is_an_error(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    (tmp_path / "file").touch()
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        list_directory(fd)
