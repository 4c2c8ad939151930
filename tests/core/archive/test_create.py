import errno
import os
import tarfile
from io import BytesIO

import pytest

from core import limits
from core.archive import create
from core.archive.builder import Builder
from core.archive.create import Creation, Options
from core.archive.extract import Extraction
from core.archive.reader import ArchiveReader
from core.archive.table import HOLE
from core.archive.writer import ArchiveWriter
from core.compress import Mode
from core.errors import FormatError
from core.native.rows import ROW
from core.tree import restore
from core.tree.content import OpenFile
from core.tree.entry import Changed, EntryType, entry_of_row
from core.tree.read_batch import Plain
from core.tree.restore import Target
from core.tree.source import Root
from core.tree.walk import LinkGroups
from tests.support.archives import KEY_FILE, read_all, small_chunker
from tests.support.entropy import fixed_entropy
from tests.support.strange_trees import can_set_xattr, strange_tree
from tests.support.tars import block, member, tar_of
from tests.support.trees import Reports, differences

SOME = fixed_entropy("create")


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    return root


@pytest.fixture
def small_cuts(monkeypatch):
    """Files of 2000 bytes are large and cut every 1000."""
    monkeypatch.setattr(create, "LARGE_FILE_BYTES", 2000)
    monkeypatch.setattr(create, "_chunker", lambda writer: small_chunker(writer.chunker_key))


def archived(path, *roots, reports=None, **options):
    reports = Reports() if reports is None else reports
    path.unlink(missing_ok=True)
    creation = Creation(Options(**options), reports)
    made = creation.create(path, [Root.of(str(r), b"") for r in roots])
    assert made.archive_bytes == path.stat().st_size
    return made, creation, reports


def opened(path):
    return ArchiveReader.open_file(path, [KEY_FILE])


def entries_of(path):
    return {stored.entry.path: stored for stored in opened(path).entries_untrusted()}


def restored(path, to):
    reports = Reports()
    to.mkdir()
    with Target(to, restore.Options(), reports) as target:
        Extraction(opened(path), target, reports).extract()
    return reports


@pytest.mark.slow
@pytest.mark.parametrize("opener", [None, KEY_FILE], ids=["plain", "locked"])
def test_a_strange_tree_comes_back_as_it_was(tmp_path, opener):
    strange_tree(tmp_path / "tree")
    _, _, reports = archived(tmp_path / "a", tmp_path / "tree", opener=opener)
    assert all("socket" in line for line in reports.lines)
    assert not restored(tmp_path / "a", tmp_path / "back").lines
    missing = differences(tmp_path / "tree", tmp_path / "back", top=False)
    assert all(line.startswith("missing") and "socket" in line for line in missing)
    assert (tmp_path / "a").stat().st_size < 20 * limits.MIB


def test_each_kind_of_entry(tmp_path, tree, small_cuts):
    (tree / "a").write_bytes(b"content")
    os.link(tree / "a", tree / "b")
    (tree / "d").mkdir()
    (tree / "e").write_bytes(b"")
    os.mkfifo(tree / "f")
    (tree / "g").symlink_to("/nowhere")
    (tree / "h").write_bytes(SOME(2500))
    (tree / os.fsdecode(b"\xff\nodd")).mkdir()
    made, creation, reports = archived(tmp_path / "x", tree)
    assert not reports.all
    entries = entries_of(tmp_path / "x")
    assert list(entries) == [b"a", b"b", b"d", b"e", b"f", b"g", b"h", b"\xff\nodd"]
    types = [stored.entry.type for stored in entries.values()]
    assert types == [1, 1, 2, 1, 5, 3, 1, 2]
    assert entries[b"b"].link == b"a"
    assert entries[b"g"].entry.target == b"/nowhere"
    assert [extent.length for extent in entries[b"h"].extents] == [1000, 1000, 500]
    assert entries[b"e"].extents == ()
    assert made.totals.entries == creation.progress.files == 8
    assert made.totals.content_bytes == creation.progress.read_bytes == 7 + 2500
    assert read_all((tmp_path / "x").read_bytes())[b"h"] == (tree / "h").read_bytes()


def test_holes_are_not_read(tmp_path, tree, small_cuts):
    mib = limits.MIB
    with (tree / "sparse").open("wb") as file:
        file.truncate(40 * mib)
        file.seek(8 * mib)
        file.write(b"x" * 4096)
        file.seek(20 * mib)
        file.write(b"y" * 100)
    if (tree / "sparse").stat().st_blocks * 512 > mib:
        pytest.skip("this file system knows no holes")
    (tree / "hole").touch()
    os.truncate(tree / "hole", 6 << 30)
    _, creation, reports = archived(tmp_path / "a", tree)
    assert not reports.all
    assert creation.progress.read_bytes < mib
    entries = entries_of(tmp_path / "a")
    chunks = [extent.chunk for extent in entries[b"sparse"].extents]
    assert chunks[0] == chunks[-1] == HOLE != chunks[1]
    assert {extent.chunk for extent in entries[b"hole"].extents} == {HOLE}
    assert not restored(tmp_path / "a", tmp_path / "back").lines
    assert not differences(tree, tmp_path / "back", top=False)


def test_equal_contents_are_stored_once(tmp_path, tree, small_cuts):
    small, large = SOME(500), SOME(6000)
    for n in range(5):
        (tree / f"small {n}").write_bytes(small)
        (tree / f"large {n}").write_bytes(large + b"%d" % n)
    made, _, _ = archived(tmp_path / "a", tree, mode=Mode.OFF)
    assert made.totals.new_bytes == 500 + 6000 + 5 * 1
    assert made.archive_bytes < 10_000


@pytest.mark.slow
def test_large_files_are_cut_by_content(tmp_path, tree):
    content = SOME(12 * limits.MIB)
    (tree / "before").write_bytes(content)
    (tree / "edited").write_bytes(content[:50] + b"an edit" + content[50:])
    made, _, _ = archived(tmp_path / "a", tree, opener=KEY_FILE)
    assert made.totals.new_bytes < 12 * limits.MIB + 7 * limits.MIB
    assert len(entries_of(tmp_path / "a")[b"before"].extents) >= 2
    assert read_all((tmp_path / "a").read_bytes())[b"before"] == content


def test_attributes_are_kept(tmp_path, tree):
    if not can_set_xattr(tmp_path, "user.test"):
        pytest.skip("no attributes on this file system")
    (tree / "f").write_bytes(b"x")
    (tree / "d").mkdir()
    for name in ("f", "d"):
        os.setxattr(tree / name, "user.test", name.encode())
    archived(tmp_path / "a", tree)
    entries = entries_of(tmp_path / "a")
    for name in (b"f", b"d"):
        assert entries[name].entry.xattrs == ((b"user.test", name),)


def test_what_is_excluded_is_left_out(tmp_path, tree):
    for name in ("keep", "drop"):
        (tree / name).mkdir()
        (tree / name / "file").touch()

    def exclude(path, is_directory):
        return is_directory and path == b"drop"

    archived(tmp_path / "a", tree, exclude=exclude)
    assert list(entries_of(tmp_path / "a")) == [b"keep", b"keep/file"]


def test_one_file_system_is_asked_of_the_walk(tmp_path, tree, monkeypatch):
    asked = []
    real = create.walk

    def walk(source, **options):
        asked.append(options["one_file_system"])
        return real(source, **options)

    monkeypatch.setattr(create, "walk", walk)
    for wanted in (False, True):
        archived(tmp_path / "a", tree, one_file_system=wanted)
    assert asked == [False, True]


def failing(name, error, real):
    def call(source, entry):
        if entry.path == name:
            raise error
        return real(source, entry)

    return call


def alone(*names, everything=False):
    """A `read_ahead` that leaves these to be read by themselves, as if they were not plain."""
    real = create.read_ahead

    def one_by_one(source, plain):
        dev = os.fstat(source.open(b"")).st_dev
        for at, path in enumerate(plain.paths):
            one = plain.part(at, at + 1)
            is_alone = everything or path in names
            yield entry_of_row(path, ROW.unpack(one.rows), dev) if is_alone else one

    def read_ahead(source, found):
        for part in real(source, found):
            yield from one_by_one(source, part) if isinstance(part, Plain) else [part]

    return read_ahead


@pytest.mark.slow
def test_what_goes_together_is_stored_as_it_is_one_by_one(tmp_path, tree, small_cuts, monkeypatch):
    strange_tree(tree / "strange")
    monkeypatch.setattr(limits, "ARCHIVE_SEGMENT_ENTRIES_MAX", 11)
    tables, contents = [], []
    for plain in (True, False):
        if not plain:
            monkeypatch.setattr(create, "read_ahead", alone(everything=True))
        made, _, _ = archived(tmp_path / "a", tree)
        tables.append((list(opened(tmp_path / "a").entries_untrusted()), made.totals))
        contents.append(read_all((tmp_path / "a").read_bytes()))
    assert contents[0] == contents[1]
    paths = [[stored.entry.path for stored in table] for table, _ in tables]
    assert paths[0] == paths[1]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "no"), FileNotFoundError(errno.ENOENT, "gone"), Changed("x")]
)
def test_what_cannot_be_read_is_reported_and_the_rest_is_kept(
    tmp_path, tree, small_cuts, monkeypatch, error
):
    for n in range(4):
        (tree / f"{n}").write_bytes(b"%d" % n * (3000 if n % 2 else 10))
    monkeypatch.setattr(create, "read_ahead", alone(b"0"))
    monkeypatch.setattr(create, "read_small", failing(b"0", error, create.read_small))
    monkeypatch.setattr(create, "open_file", failing(b"1", error, create.open_file))
    made, creation, reports = archived(tmp_path / "a", tree)
    assert reports.all == [(b"0", error), (b"1", error)]
    assert list(read_all((tmp_path / "a").read_bytes())) == [b"2", b"3"]
    assert made.totals.entries == creation.progress.files == 2


def test_when_the_first_name_fails_the_next_one_holds_the_content(tmp_path, tree, monkeypatch):
    (tree / "a").write_bytes(b"content")
    os.link(tree / "a", tree / "b")
    os.link(tree / "a", tree / "c")
    gone = FileNotFoundError(errno.ENOENT, "gone")
    monkeypatch.setattr(create, "read_small", failing(b"a", gone, create.read_small))
    _, _, reports = archived(tmp_path / "x", tree)
    assert [path for path, _ in reports.all] == [b"a"]
    assert read_all((tmp_path / "x").read_bytes()) == {b"b": b"content", b"c": b"content"}
    assert entries_of(tmp_path / "x")[b"c"].link == b"b"


def test_a_file_that_shrinks_while_it_is_read(tmp_path, tree, small_cuts, monkeypatch):
    (tree / "log").write_bytes(SOME(5000))
    kept = (tree / "log").read_bytes()[:2500]
    real = OpenFile.extents

    def shrinking(file):
        found = list(real(file))
        os.truncate(tree / "log", 2500)
        return found

    monkeypatch.setattr(OpenFile, "extents", shrinking)
    _, _, reports = archived(tmp_path / "a", tree)
    assert [(path, type(error)) for path, error in reports.all] == [(b"log", Changed)]
    assert entries_of(tmp_path / "a")[b"log"].entry.size == 2500
    assert read_all((tmp_path / "a").read_bytes()) == {b"log": kept}


def test_a_file_that_changes_all_the_time_is_reported(tmp_path, tree, monkeypatch):
    (tree / "log").write_bytes(b"one")
    real = create.read_small
    monkeypatch.setattr(create, "read_ahead", alone(b"log"))
    monkeypatch.setattr(create, "read_small", lambda *a: real(*a)._replace(changed=True))
    _, _, reports = archived(tmp_path / "a", tree)
    assert [type(error) for _, error in reports.all] == [Changed]
    assert read_all((tmp_path / "a").read_bytes()) == {b"log": b"one"}


@pytest.mark.parametrize("opener", [None, KEY_FILE], ids=["plain", "locked"])
def test_an_interrupted_run_is_resumed(tmp_path, tree, small_cuts, monkeypatch, opener):
    monkeypatch.setattr(limits, "THREAD_HOP_BYTES", 1000)
    for n in range(6):
        (tree / f"{n}").write_bytes(SOME(3000))

    real, written = ArchiveWriter.write, []

    def write(writer, *args, **options):
        if len(written) == 9:
            raise OSError(errno.ENOSPC, "full")
        written.append(args)
        return real(writer, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ArchiveWriter, "write", write)
        with pytest.raises(OSError, match="full"):
            archived(tmp_path / "a", tree, opener=opener)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "a.partial").exists()
    made, creation, reports = archived(tmp_path / "a", tree, opener=opener, resume=True)
    assert not reports.all
    assert made.totals.content_bytes == 18_000
    assert made.totals.new_bytes == 9_000
    assert 9_000 < creation.progress.stored_bytes < 11_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "tree"]
    contents = {p.name.encode(): p.read_bytes() for p in tree.iterdir()}
    assert read_all((tmp_path / "a").read_bytes()) == contents


def test_more_files_than_are_looked_at_in_advance(tmp_path, tree, small_cuts, monkeypatch):
    monkeypatch.setattr(limits, "TREE_BATCH_FILES_MAX", 3)
    contents = {}
    for n in range(20):
        folder = tree / f"{n // 7}"
        folder.mkdir(exist_ok=True)
        content = contents[f"{n // 7}/{n}".encode()] = SOME(n * 150)
        (folder / f"{n}").write_bytes(content)
    os.link(tree / "0" / "1", tree / "2" / "second")
    made, creation, reports = archived(tmp_path / "a", tree)
    assert not reports.all
    assert made.totals.entries == creation.progress.files == 20 + 3 + 1
    assert creation.progress.read_bytes == sum(map(len, contents.values()))
    folders = {b"%d" % n: b"" for n in range(3)}
    expected = contents | folders | {b"2/second": contents[b"0/1"]}
    assert read_all((tmp_path / "a").read_bytes()) == expected


def test_nothing_and_several_roots(tmp_path, tree):
    made, _, _ = archived(tmp_path / "a")
    assert made.totals.entries == 0
    assert read_all((tmp_path / "a").read_bytes()) == {}
    (tree / "f").write_bytes(b"f")
    roots = [Root.of(str(tree)), Root.of(str(tree / "f"), b"again")]
    reports = Reports()
    Creation(Options(), reports).create(tmp_path / "b", roots)
    entries = entries_of(tmp_path / "b")
    assert set(entries) == {b"tree", b"tree/f", b"again"}
    assert entries[b"tree"].entry.type is EntryType.DIRECTORY


def test_an_archive_that_lies_in_what_it_archives_leaves_itself_out(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    path = tree / "a.warp"
    creation = Creation(Options(), lambda path, e: pytest.fail(f"{path}: {e}"))
    creation.create(path, [Root.of(tree)])
    stored = ArchiveReader.open_file(path).entries_untrusted()
    assert [s.entry.path for s in stored] == [b"tree", b"tree/file"]


def test_a_file_of_too_many_parts_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_FILE_EXTENTS_MAX", 0)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(bytes(1 << 20) + b"x")
    (tree / "small").write_bytes(b"content")
    reports = []
    creation = Creation(Options(), lambda path, e: reports.append((path, str(e))))
    creation.create(tmp_path / "a.warp", [Root.of(tree)])
    assert reports == [(b"tree/large", "too long for one archive")]
    stored = ArchiveReader.open_file(tmp_path / "a.warp").entries_untrusted()
    assert [s.entry.path for s in stored] == [b"tree", b"tree/small"]


def test_the_total_is_known_when_everything_was_seen(tmp_path, tree, small_cuts, monkeypatch):
    monkeypatch.setattr(limits, "THREAD_HOP_BYTES", 1000)
    monkeypatch.setattr(create, "_FILES_PER_LOOK", 1)
    (tree / "a").write_bytes(SOME(700))
    (tree / "b").write_bytes(SOME(9000))
    os.link(tree / "b", tree / "c")
    with (tree / "d").open("wb") as file:
        file.truncate(limits.MIB)
    totals = []
    creation = Creation(Options(), Reports(), lambda: totals.append(creation.progress.total_bytes))
    creation.create(tmp_path / "a.warp", [Root.of(str(tree), b"")])
    assert totals[0] >= creation.progress.read_bytes  # a tree so small is seen before it is read
    assert totals[-1] == creation.progress.read_bytes + limits.MIB  # the hole was still to come
    assert creation.progress.read_bytes == 9700


def test_no_total_is_told_before_everything_was_seen(tmp_path, tree, monkeypatch):
    monkeypatch.setattr(limits, "TREE_BATCH_FILES_MAX", 10)
    for number in range(100):
        (tree / f"{number:03}").write_bytes(SOME(10))
    totals = []
    creation = Creation(Options(), Reports(), lambda: totals.append(creation.progress.total_bytes))
    creation.create(tmp_path / "a.warp", [Root.of(str(tree), b"")])
    assert totals[0] == 0
    assert totals[-1] == 1000


# --- tar streams ------------------------------------------------------------------------------


def archived_from_tar(path, data, **options):
    reports = Reports()
    creation = Creation(Options(**options), reports)
    made = creation.create_from_tar(path, BytesIO(data).read)
    return made, creation, reports


def test_a_tar_stream(tmp_path, small_cuts):
    large, small = SOME(7300), SOME(500)
    data = tar_of(
        member("d", type=tarfile.DIRTYPE, mode=0o750),
        (member("d/large", pax={"SCHILY.xattr.user.a": "b", "mtime": "5.000000007"}), large),
        (member("d/small"), small),
        (member("d/same"), small),
        member("d/empty"),
        member("link", type=tarfile.LNKTYPE, linkname="d/large"),
        member("to", type=tarfile.SYMTYPE, linkname="/anywhere"),
        (member("s", pax={"GNU.sparse.map": "9,3", "GNU.sparse.size": "50"}), b"abc"),
    )
    made, creation, reports = archived_from_tar(tmp_path / "a", data)
    assert not reports.all
    assert made.totals.entries == creation.progress.files == 8
    assert made.totals.content_bytes == 7300 + 2 * 500 + 50
    assert creation.progress.read_bytes == 7300 + 2 * 500 + 3
    entries = entries_of(tmp_path / "a")
    assert entries[b"d/large"].entry.mtime_ns == 5 * 10**9 + 7
    assert entries[b"d/large"].entry.xattrs == ((b"user.a", b"b"),)
    assert entries[b"d/small"].extents == entries[b"d/same"].extents
    assert entries[b"link"].link == b"d/large"
    assert entries[b"to"].entry.target == b"/anywhere"
    assert read_all((tmp_path / "a").read_bytes()) == {
        b"d": b"",
        b"to": b"",
        b"d/large": large,
        b"link": large,
        b"d/small": small,
        b"d/same": small,
        b"d/empty": b"",
        b"s": bytes(9) + b"abc" + bytes(38),
    }


@pytest.mark.parametrize("size", [600, 20_000, 70_000])
def test_a_tar_stream_that_ends_early_leaves_no_archive(tmp_path, small_cuts, size, monkeypatch):
    monkeypatch.setattr(limits, "THREAD_HOP_BYTES", 2000)
    data = tar_of(*((member(f"f{n}"), SOME(9000)) for n in range(10)))
    with pytest.raises(FormatError):
        archived_from_tar(tmp_path / "a", data[:size])
    assert not (tmp_path / "a").exists()
    left = {p.name for p in tmp_path.iterdir()}
    assert left in (set(), {"a.partial", "a.journal"})
    made, _, _ = archived_from_tar(tmp_path / "a", data, resume=True)
    assert made.totals.entries == 10
    assert len(read_all((tmp_path / "a").read_bytes())) == 10


def test_an_attempt_that_wrote_nothing_leaves_nothing(tmp_path):
    with pytest.raises(FormatError):
        archived_from_tar(tmp_path / "a", b"no tar" * 200)
    assert not list(tmp_path.iterdir())


def test_a_hole_that_no_archive_can_hold_is_refused(tmp_path):
    size = (limits.ARCHIVE_FILE_EXTENTS_MAX + 2) << 32
    data = tar_of(
        (member("s", pax={"GNU.sparse.map": "9,3", "GNU.sparse.size": str(size)}), b"abc")
    )
    with pytest.raises(FormatError):
        archived_from_tar(tmp_path / "a", data)


def test_a_tar_stream_takes_little_memory(tmp_path):
    """A file of 300 MiB, given by a source that never has more than it is asked for."""
    whole, most = 300 * limits.MIB, []
    header = block(b"f", raw_size=b"\x80" + whole.to_bytes(11))
    left = [header, *[b"1234567" * 50_000] * (whole // 350_000 + 2)]
    pending = bytearray()

    def read(size):
        most.append(size)
        while len(pending) < size and left:
            pending.extend(left.pop())
        data = bytes(pending[:size])
        del pending[:size]
        return data

    left.reverse()
    with pytest.raises(FormatError):  # it has no end, which is found at the end
        Creation(Options(), Reports()).create_from_tar(tmp_path / "a", read)
    assert max(most) <= limits.CHUNKER_BYTES_MAX


@pytest.mark.parametrize("size", [10, 3000])
def test_names_of_a_file_that_lost_its_first_one_are_no_links_to_what_came(
    tmp_path, tree, small_cuts, monkeypatch, size
):
    precious = SOME(size)
    (tree / "a").write_bytes(precious)
    os.link(tree / "a", tree / "b")
    os.link(tree / "a", tree / "c")
    first_of = LinkGroups.first_of

    def exchanged(links, entry):
        if entry.path == b"a":
            (tree / "new").write_bytes(b"saved by an editor")
            (tree / "new").rename(tree / "a")
        return first_of(links, entry)

    monkeypatch.setattr(LinkGroups, "first_of", exchanged)
    archived(tmp_path / "x", tree)
    contents = read_all((tmp_path / "x").read_bytes())
    assert contents == {b"a": b"saved by an editor", b"b": precious, b"c": precious}
    assert entries_of(tmp_path / "x")[b"c"].link == b"b"


def test_a_file_of_many_short_stretches_is_not_kept_in_memory(tmp_path, tree, monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_BUNDLE_BYTES_TARGET", 100_000)
    monkeypatch.setattr(limits, "THREAD_HOP_BYTES", 100_000)
    at = range(0, 100 << 20, 1 << 20)
    with (tree / "image").open("wb") as file:
        for offset in at:
            file.seek(offset)
            file.write(SOME(50_000))
    if (tree / "image").stat().st_blocks * 512 > 50 << 20:
        pytest.skip("this file system knows no holes")
    most, take_jobs = 0, Builder.take_jobs

    def counted(builder):
        nonlocal most
        most = max(most, builder.jobs_bytes)
        return take_jobs(builder)

    monkeypatch.setattr(Builder, "take_jobs", counted)
    archived(tmp_path / "x", tree)
    assert 100_000 <= most <= 300_000
