import os

import pytest

from core.errors import FormatError, UsageError
from core.tree.source import Root, Source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "docs" / "inner").mkdir(parents=True)
    (tmp_path / "docs" / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("docs")
    monkeypatch.chdir(tmp_path)
    return os.fsencode(tmp_path.resolve())


def same(source, path, disk):
    holder, name = source.place(path)
    return os.path.samestat(os.stat(name, dir_fd=holder, follow_symlinks=False), os.lstat(disk))


@pytest.mark.parametrize(
    ("given", "disk", "name"),
    [
        ("docs", b"docs", b"docs"),
        (b"docs/inner", b"docs/inner", b"inner"),
        ("docs/", b"docs", b"docs"),
        ("link", b"link", b"link"),
        ("link/", b"docs", b"link"),
        ("link/inner", b"docs/inner", b"inner"),
        ("docs/inner/..", b"docs", b"docs"),
        ("./docs/./file", b"docs/file", b"file"),
    ],
)
def test_a_root_is_called_by_its_last_name(folder, given, disk, name):
    assert Root.of(given) == (folder + b"/" + disk, name, False)


def test_a_root_may_be_called_otherwise(folder):
    assert Root.of(".", b"") == (folder, b"", False)
    assert Root.of("docs", b"a/b").name == b"a/b"
    assert Root.of("/").name == b""
    absolute = Root.absolute("link/inner")
    assert absolute.disk == folder + b"/docs/inner"
    assert absolute.name == folder[1:] + b"/link/inner"


def test_places_are_found_under_their_names(folder, reports):
    roots = [Root.of("docs", b"x/docs"), Root.of("docs/file"), Root.of("link")]
    with Source(roots, reports) as source:
        assert same(source, b"x/docs", b"docs")
        assert same(source, b"x/docs/inner", b"docs/inner")
        assert same(source, b"file", b"docs/file")
        assert same(source, b"link", b"link")
        with pytest.raises(NotADirectoryError):
            source.open(b"link")
        with pytest.raises(FormatError):
            source.place(b"x/other")
    with Source([Root.of("docs", b"")], reports) as source:
        assert same(source, b"", b"docs")
        assert same(source, b"inner", b"docs/inner")


def test_a_root_moved_by_chdir_stays_where_it_was(folder, reports, monkeypatch):
    root = Root.of("docs")
    monkeypatch.chdir("/")
    with Source([root], reports) as source:
        assert same(source, b"docs/file", folder + b"/docs/file")


def test_directories_above_are_given_where_asked_for(folder, reports):
    with Source([Root.absolute("link/inner"), Root.absolute("docs/file")], reports) as source:
        above = folder[1:].split(b"/")
        names = [b"/".join(above[: n + 1]) for n in range(len(above))]
        assert source.tops() == [
            *names,
            names[-1] + b"/docs",
            names[-1] + b"/docs/file",
            names[-1] + b"/link",
            names[-1] + b"/link/inner",
        ]
        # What is a link on the disk is a directory in the archive: something is inside it.
        assert same(source, names[-1] + b"/link", b"docs")


def test_what_is_named_twice_is_given_once(folder, reports):
    roots = [Root.of("docs/inner", b"docs/inner"), Root.of("docs"), Root.of("docs/")]
    with Source(roots, reports) as source:
        assert source.tops() == [b"docs"]
    with Source([Root.of(".", b""), Root.of("docs")], reports) as source:
        assert source.tops() == [b""]


def test_two_things_of_one_name_are_refused(folder, reports):
    for roots in (
        [Root.of("docs"), Root.of("docs/inner", b"docs")],
        [Root.of("docs", b"x"), Root.of("link", b"x/y")],
        [Root.of("docs", b""), Root.of("link")],
    ):
        with pytest.raises(UsageError, match="would both hold"):
            Source(roots, reports)
    with pytest.raises(FormatError):
        Source([Root.of("docs", b"../x")], reports)


def test_a_root_behind_a_directory_that_may_only_be_passed_through(unprivileged, reports):
    if not hasattr(os, "O_PATH"):
        pytest.skip("this system opens no directory without reading it")
    mine = unprivileged / "passage" / "mine"
    mine.mkdir(parents=True)
    root = Root(os.fsencode(mine), b"mine")
    (unprivileged / "passage").chmod(0o100)
    try:
        with Source([root], reports) as s:
            assert os.fstat(s.open(b"mine")).st_ino == mine.stat().st_ino
    finally:
        (unprivileged / "passage").chmod(0o700)
