import errno
import os

import pytest

from core import limits
from core.archive.create import Creation
from core.archive.create import Options as Making
from core.archive.extract import Extraction
from core.archive.reader import ArchiveReader
from core.archive.table import HOLE, Extent, Stored
from core.compress import Mode
from core.errors import FormatError, IntegrityError
from core.tree.entry import AlreadyThere, Entry, EntryType
from core.tree.matching import everything, matching
from core.tree.occupancy import Overwrite
from core.tree.restore import Options, Target
from core.tree.source import Root
from core.tree.writer import FileWriter
from tests.support.archives import KEY_FILE, file_entry, make, make_by_hand
from tests.support.entropy import fixed_entropy
from tests.support.trees import Reports, differences

SOME = fixed_entropy("extract")
LOCKS = pytest.mark.parametrize("opener", [None, KEY_FILE], ids=["plain", "locked"])
ABC = Extent(0, 0, 3)


@pytest.fixture
def to(tmp_path):
    """The target, beside a file that is none of an archive's business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_bytes(b"precious")
    target = tmp_path / "outside" / "target"
    target.mkdir()
    yield target
    assert sorted(p.name for p in target.parent.iterdir()) == ["precious", "target"]
    assert (target.parent / "precious").read_bytes() == b"precious"
    assert (target.parent / "precious").stat().st_nlink == 1


def extracted(path, to, select=everything, *, watch=lambda: None, **options):
    reports = Reports()
    reader = ArchiveReader.open_file(path, [KEY_FILE])
    extraction = Extraction(reader, Target(to, Options(**options), reports), reports, select, watch)
    with extraction._target:
        extraction.extract()
    return extraction.restored, reports


def files_of(to):
    return {
        p.relative_to(to).as_posix(): p.read_bytes()
        for p in sorted(to.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


def directory(path, mode=0o755):
    return Stored(Entry(path, EntryType.DIRECTORY, mode))


def symlink(path, target):
    return Stored(Entry(path, EntryType.SYMLINK, target=target))


def abc(path, *, size=3, extents=(ABC,)):
    return Stored(file_entry(path, size), tuple(extents))


def link(path, first):
    return Stored(file_entry(path), (), first)


def unfriendly(tmp_path, to, stored, chunks=(b"abc",), **options):
    """What is reported when this table is restored."""
    path = make_by_hand(tmp_path / "a.warp", chunks, stored)
    restored, reports = extracted(path, to, **options)
    return restored, [(where, type(error)) for where, error in reports.all]


# --- what was put in --------------------------------------------------------------------------


@LOCKS
def test_a_tree_comes_back_with_everything(tmp_path, to, opener):
    tree = tmp_path / "tree"
    (tree / "d" / "deep").mkdir(parents=True)
    (tree / "d" / "file").write_bytes(b"content")
    (tree / "d" / "same").write_bytes(b"content")
    (tree / "d" / "large").write_bytes(SOME(700_000))
    (tree / "empty").touch(mode=0o600)
    os.link(tree / "d" / "file", tree / "a link before its file")
    (tree / "to").symlink_to("d/file")
    os.mkfifo(tree / "fifo", 0o640)
    with (tree / "sparse").open("wb") as file:
        file.truncate(3 * limits.MIB)
        file.seek(limits.MIB)
        file.write(b"island")
    os.utime(tree / "d", ns=(5, 10**18 + 7))
    (tree / "d").chmod(0o500)
    reports = Reports()
    creation = Creation(Making(opener=opener), reports)
    creation.create(tmp_path / "a.warp", [Root.of(str(tree), b"")])
    seen = []
    restored, reports = extracted(tmp_path / "a.warp", to, watch=lambda: seen.append(1))
    assert not reports.all
    assert not differences(tree, to, top=False)
    assert restored.entries == 10
    assert len(seen) >= 9  # once for each part; the link comes after them
    (tree / "d").chmod(0o700)


@LOCKS
def test_many_small_files_in_many_chunks(tmp_path, to, opener, monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_BUNDLE_BYTES_TARGET", 1000)
    monkeypatch.setattr(limits, "ARCHIVE_SEGMENT_ENTRIES_MAX", 50)
    contents = {b"%03d" % n: SOME(17 * (n % 40)) for n in range(180)} | {b"large": SOME(9999)}
    path = make(tmp_path / "a.warp", contents, opener)
    restored, reports = extracted(path, to)
    assert not reports.all
    assert {os.fsencode(name): data for name, data in files_of(to).items()} == contents
    assert restored.entries == len(contents)
    assert restored.content_bytes == sum(map(len, contents.values()))


def test_what_is_there_wins_or_loses_as_told(tmp_path, to):
    path = make(tmp_path / "a.warp", {b"f": b"from the archive", b"large": SOME(3000)})
    (to / "f").write_bytes(b"mine")
    (to / "large").write_bytes(b"mine too")
    restored, reports = extracted(path, to)
    assert {type(error) for _, error in reports.all} == {AlreadyThere}
    assert restored.entries == 0
    _, reports = extracted(path, to, overwrite=Overwrite.SKIP)
    assert not reports.all
    assert files_of(to) == {"f": b"mine", "large": b"mine too"}
    _, reports = extracted(path, to, overwrite=Overwrite.REPLACE)
    assert not reports.all
    assert files_of(to)["f"] == b"from the archive"


# --- selecting --------------------------------------------------------------------------------


def test_only_what_is_selected_is_restored_and_read(tmp_path, to):
    contents = {b"d/a": SOME(2500), b"d/b": b"b", b"c": SOME(2000)}
    data = bytearray(make(tmp_path / "a.warp", contents, mode=Mode.OFF).read_bytes())
    reader = ArchiveReader.open_untrusted(memoryview(bytes(data)))
    for stored in reader.entries_untrusted():
        if stored.entry.path == b"c":
            data[reader.index.entry_untrusted(stored.extents[0].chunk).offset + 30] ^= 1
    (tmp_path / "a.warp").write_bytes(data)
    restored, reports = extracted(tmp_path / "a.warp", to, matching((b"d",)))
    assert not reports.all
    assert files_of(to) == {"d/a": contents[b"d/a"], "d/b": b"b"}
    assert restored.entries == 2


def test_a_selected_hard_link_without_its_first_name_is_a_copy(tmp_path, to):
    large = Extent(1, 0, 5)
    stored = [
        abc(b"small"),
        abc(b"long", size=12, extents=[ABC, Extent(HOLE, 0, 4), large]),
        abc(b"empty", size=0, extents=[]),
        link(b"x/1", b"small"),
        link(b"x/2", b"long"),
        link(b"x/3", b"empty"),
    ]
    path = make_by_hand(tmp_path / "a.warp", [b"abc", b"vwxyz"], stored)
    restored, reports = extracted(path, to, matching((b"x",)))
    assert not reports.all
    assert files_of(to) == {"x/1": b"abc", "x/2": b"abc\0\0\0\0vwxyz", "x/3": b""}
    assert restored.entries == 3


def test_a_hard_link_is_a_link_even_before_its_file(tmp_path, to):
    stored = [link(b"a", b"z"), abc(b"z"), link(b"zz", b"z")]
    _, reports = extracted(make_by_hand(tmp_path / "a.warp", [b"abc"], stored), to)
    assert not reports.all
    assert (to / "z").stat().st_nlink == 3
    assert (to / "a").read_bytes() == b"abc"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_where_nothing_can_be_linked_the_content_is_restored_again(
    tmp_path, to, monkeypatch, number
):
    def refuse(*_):
        raise OSError(number, "no links here")

    monkeypatch.setattr(Target, "link", refuse)
    stored = [abc(b"a"), link(b"b", b"a")]
    restored, reports = extracted(make_by_hand(tmp_path / "a.warp", [b"abc"], stored), to)
    assert not reports.all
    assert files_of(to) == {"a": b"abc", "b": b"abc"}
    assert (to / "a").stat().st_nlink == 1
    assert restored.entries == 2


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.slow
@LOCKS
def test_a_damaged_chunk_loses_only_the_files_in_it(tmp_path, to, opener, monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_BUNDLE_BYTES_TARGET", 300)
    contents = {b"%02d" % n: SOME(100) for n in range(12)}
    contents |= {b"large %d" % n: SOME(4500) for n in range(3)}
    whole = make(tmp_path / "a.warp", contents, opener).read_bytes()
    reader = ArchiveReader.open_untrusted(memoryview(whole), [KEY_FILE])
    files = list(reader.entries_untrusted())
    chunks = reader.body.chunk_count - reader.body.table_chunks
    assert chunks == 4 + 15
    for number in range(chunks):
        data = bytearray(whole)
        data[reader.index.entry_untrusted(number).offset + 60] ^= 1
        (tmp_path / "a.warp").write_bytes(data)
        lost = {s.entry.path for s in files if number in {e.chunk for e in s.extents}}
        target = to / str(number)
        target.mkdir()
        restored, reports = extracted(tmp_path / "a.warp", target)
        assert sorted(path for path, _ in reports.all) == sorted(lost)
        assert all(isinstance(e, FormatError | IntegrityError) for _, e in reports.all)
        kept = {os.fsdecode(p): data for p, data in contents.items() if p not in lost}
        assert files_of(target) == kept
        assert restored.entries == len(kept)
        assert sorted(p.name for p in target.iterdir()) == sorted(kept)  # nothing half-made


def test_a_damaged_table_ends_the_run(tmp_path, to):
    data = bytearray(make(tmp_path / "a.warp", {b"f": b"x"}).read_bytes())
    reader = ArchiveReader.open_untrusted(memoryview(bytes(data)))
    data[reader.body.table_off + 20] ^= 1
    (tmp_path / "a.warp").write_bytes(data)
    with pytest.raises((FormatError, IntegrityError)):
        extracted(tmp_path / "a.warp", to)


@pytest.mark.parametrize("broken", [(Target, "small_files_later"), (FileWriter, "write_at")])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_ends_the_run_and_leaves_nothing_half_made(
    tmp_path, to, monkeypatch, broken, number
):
    def fail(*_):
        raise OSError(number, "no more")

    def fail_each(_, files):
        return (OSError(number, "no more") for _ in files)

    monkeypatch.setattr(*broken, fail_each if broken[0] is Target else fail)
    large = SOME(3000)
    path = make(tmp_path / "a.warp", {b"small": b"x", b"large": large})
    with pytest.raises(OSError, match="no more"):
        extracted(path, to)
    assert files_of(to).items() <= {"small": b"x", "large": large}.items()
    assert len(list(to.iterdir())) == len(files_of(to))


def test_after_a_failure_nothing_is_written_when_directories_get_their_times(
    tmp_path, to, monkeypatch
):
    later, finish, order = Target.small_files_later, Target.finish, []

    def noted(self, files):
        yield from later(self, files)
        order.append("drawn")

    def fail(*_):
        raise OSError(errno.EIO, "no more")

    monkeypatch.setattr(Target, "small_files_later", noted)
    monkeypatch.setattr(Target, "finish", lambda self: order.append("finish") or finish(self))
    monkeypatch.setattr(FileWriter, "write_at", fail)
    path = make(tmp_path / "a.warp", {b"small": b"x", b"large": SOME(30_000)})
    with pytest.raises(OSError, match="no more"):
        extracted(path, to)
    assert order == ["drawn", "finish"]


def test_what_is_being_written_is_there_before_links_and_the_end(tmp_path, to, monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_BUNDLE_BYTES_TARGET", 1000)
    later, link_, finish = Target.small_files_later, Target.link, Target.finish
    order = []

    def written_later(self, files):
        files = list(files)
        order.append("begun")
        yield from later(self, files)
        order.append("drawn")

    def noted(name, method):
        return lambda self, *args: order.append(name) or method(self, *args)

    monkeypatch.setattr(Target, "small_files_later", written_later)
    monkeypatch.setattr(Target, "link", noted("link", link_))
    monkeypatch.setattr(Target, "finish", noted("finish", finish))
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(30):
        (tree / f"{number:02}").write_bytes(b"%03d" % number * 130)
    os.link(tree / "29", tree / "link")
    Creation(Making(), Reports()).create(tmp_path / "a", [Root.of(str(tree), b"")])
    restored, reports = extracted(tmp_path / "a", to)
    assert not reports.all
    assert restored.entries == 31
    assert order[-2:] == ["link", "finish"]
    chunks = order.count("drawn")
    assert chunks == order.count("begun") > limits.RESTORE_JOBS_WRITTEN_MAX + 2


def test_an_error_of_one_file_is_reported_and_the_rest_goes_on(tmp_path, to):
    long = b"b" * 300  # allowed in an archive, too long for the file systems of this system
    path = make(tmp_path / "a.warp", {b"a": b"a", long: b"b", b"c": b"c"})
    restored, reports = extracted(path, to)
    assert [(where, error.errno) for where, error in reports.all] == [(long, errno.ENAMETOOLONG)]
    assert files_of(to) == {"a": b"a", "c": b"c"}
    assert (restored.entries, restored.content_bytes) == (2, 3)


# --- archives that mean harm ------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"/etc/x", b"../x", b"a/../../x", b"..", b"a/./x", b"a//x", b""])
def test_paths_that_lead_outside_end_the_run(tmp_path, to, path):
    stored = [abc(b"x")]

    def change(segment):
        segment.paths[0] = path

    archive = make_by_hand(tmp_path / "a.warp", [b"abc"], stored, change=change)
    with pytest.raises(FormatError):
        extracted(archive, to)
    assert not list(to.iterdir())


def test_nothing_is_written_through_a_planted_link(tmp_path, to):
    outside = os.fsencode(to.parent)
    for target in (outside, b"..", b"/"):
        stored = [
            symlink(b"way", target),
            abc(b"way/precious"),
            abc(b"way/large", size=6, extents=[ABC, ABC]),
            directory(b"way/new"),
            symlink(b"way/link", b"x"),
            link(b"way/name", b"ok"),
            abc(b"ok"),
        ]
        _, reported = unfriendly(tmp_path, to, stored, overwrite=Overwrite.REPLACE)
        assert files_of(to)["ok"] == b"abc"
        assert len(reported) in {1, 5}  # the link, or all that wanted to go through it
        for found in sorted(to.rglob("*"), reverse=True):
            found.rmdir() if found.is_dir() and not found.is_symlink() else found.unlink()


def test_a_link_that_was_there_before_is_not_followed(tmp_path, to):
    (to / "way").symlink_to("..")
    stored = [abc(b"way/precious"), abc(b"ok")]
    for overwrite in Overwrite:
        _, reported = unfriendly(tmp_path, to, stored, overwrite=overwrite)
        assert b"way/precious" in {path for path, _ in reported}
    assert (to / "ok").read_bytes() == b"abc"


@pytest.mark.parametrize("first", [b"unknown", b"link", b"name", b"dir"])
def test_hard_links_lead_to_files_of_the_archive_only(tmp_path, to, first):
    (to / "unknown").write_bytes(b"mine")
    (to / "way").symlink_to(to.parent)
    stored = [
        directory(b"dir"),
        symlink(b"to outside", b"../precious"),
        link(b"link", b"unknown"),
        link(b"name", first),
        link(b"through", b"way/precious"),
    ]
    _, reported = unfriendly(tmp_path, to, stored)
    expected = {b"link", b"through"} | ({b"name"} if first != b"dir" else set())
    assert {path for path, _ in reported} >= expected
    assert all(issubclass(kind, FormatError) for path, kind in reported if path in expected)
    assert (to / "unknown").stat().st_nlink == 1
    assert not (to / "name").is_file()


def test_a_hard_link_to_a_hard_link_is_none(tmp_path, to):
    stored = [abc(b"f"), link(b"y", b"f"), link(b"x", b"y"), link(b"self", b"self")]
    path = make_by_hand(tmp_path / "a.warp", [b"abc"], stored)
    _, reports = extracted(path, to, matching((b"x", b"self")))
    assert [(where, type(error)) for where, error in reports.all] == [
        (b"x", FormatError),
        (b"self", FormatError),
    ]
    assert not list(to.iterdir())


def test_a_hard_link_to_a_symlink_stays_a_symlink(tmp_path, to):
    stored = [symlink(b"s", b"../precious"), link(b"t", b"s")]
    _, reported = unfriendly(tmp_path, to, stored)
    assert not reported
    assert (to / "t").is_symlink()


def test_paths_that_come_twice_are_reported(tmp_path, to):
    stored = [abc(b"f"), abc(b"f", size=2, extents=[Extent(0, 1, 2)]), directory(b"f")]
    _, reported = unfriendly(tmp_path, to, stored)
    assert [path for path, _ in reported] == [b"f", b"f"]
    assert {kind for _, kind in reported} == {AlreadyThere}


@pytest.mark.parametrize(
    "extents",
    [
        [Extent(0, 2, 2)],
        [Extent(0, 9, 0), ABC],
        [Extent(9, 0, 3)],
        [Extent(9, 0, 3), ABC],
        [ABC, Extent(0, 1, 3), ABC],
        [ABC, Extent(9, 0, 3), ABC],
        [ABC, Extent(HOLE, 0, 9), Extent(0, 3, 1)],
        [Extent(HOLE, 0, 9), Extent(0, 0, 4), Extent(HOLE, 0, 1), ABC],
        [Extent(1, 0, 3)],  # the table itself, as a content it is not
    ],
)
def test_parts_outside_of_their_chunk_lose_the_file_and_no_other(tmp_path, to, extents):
    size = sum(extent.length for extent in extents)
    stored = [
        abc(b"bad", size=size, extents=extents),
        abc(b"good"),
        abc(b"l", size=6, extents=[ABC] * 2),
    ]
    restored, reported = unfriendly(tmp_path, to, stored)
    if extents == [Extent(1, 0, 3)]:
        assert not reported
        return
    assert [path for path, _ in reported] == [b"bad"]
    assert issubclass(reported[0][1], FormatError)
    assert files_of(to) == {"good": b"abc", "l": b"abcabc"}
    assert restored.entries == 2


def test_sizes_that_are_not_those_of_the_parts_end_the_run(tmp_path, to):
    for size in (2, 4, 2**40):
        path = make_by_hand(tmp_path / "a.warp", [b"abc"], [abc(b"f", size=size)])
        with pytest.raises(FormatError):
            extracted(path, to)
    assert not list(to.iterdir())


def test_a_hole_of_terabytes_takes_no_room(tmp_path, to):
    size = 3 * 0xFFFF_FFFF
    stored = [abc(b"f", size=size, extents=[Extent(HOLE, 0, 0xFFFF_FFFF)] * 3)]
    _, reported = unfriendly(tmp_path, to, stored)
    assert not reported
    found = (to / "f").stat()
    assert found.st_size == size
    assert found.st_blocks * 512 < limits.MIB


def test_parts_of_nothing_and_entries_with_parts(tmp_path, to):
    nothing = Extent(0, 1, 0)
    stored = [
        abc(b"empty", size=0, extents=[nothing]),
        abc(b"empty too", size=0, extents=[nothing, nothing]),
        abc(b"padded", extents=[nothing, ABC, nothing]),
        Stored(Entry(b"d", EntryType.DIRECTORY, 0o755), (nothing,)),
    ]
    _, reported = unfriendly(tmp_path, to, stored)
    assert not reported
    assert files_of(to) == {"empty": b"", "empty too": b"", "padded": b"abc"}
    assert (to / "d").is_dir()
