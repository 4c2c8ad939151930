import os

import pytest

from core.native.rows import SIZES, column
from core.tree.entry import entry_of, types_of
from core.tree.listing import list_directory
from core.tree.stretch import Stretch


@pytest.fixture
def stretch(tmp_path):
    for size, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "e").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    listing = list_directory(fd)
    os.close(fd)
    sizes = column(listing.rows, SIZES)
    return Stretch(b"x/y/", listing.names, listing.rows, sizes, listing.dev, b"x/y/e")


def test_it_knows_what_its_names_are(tmp_path, stretch):
    assert (len(stretch), stretch.bytes) == (5, 0 + 1 + 2 + 3)
    assert stretch.paths == [b"x/y/a", b"x/y/b", b"x/y/c", b"x/y/d", b"x/y/e"]
    assert list(types_of(stretch.rows)) == [1, 1, 1, 1, 2]
    expected = [entry_of(b"x/y/%c" % name, (tmp_path / chr(name)).stat()) for name in b"abcde"]
    assert list(stretch.entries()) == expected


@pytest.mark.parametrize("count", [1, 2, 4])
def test_two_parts_are_the_whole(stretch, count):
    first, rest = stretch.split(count)
    assert (len(first), len(rest)) == (count, 5 - count)
    assert [*first.entries(), *rest.entries()] == list(stretch.entries())
    assert (first.sizes + rest.sizes, first.bytes + rest.bytes) == (stretch.sizes, stretch.bytes)
    assert (first.directory, rest.directory) == (None, b"x/y/e")
    assert first.prefix == rest.prefix == stretch.prefix
