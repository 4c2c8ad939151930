# Restoring many files leaves what restoring each of them leaves.

import os
import random
import stat

import pytest

from core import limits
from core.errors import FormatError
from core.native import open_kernel
from core.tree import write_batch
from core.tree.entry import AlreadyThere, Entry, EntryType, Incomplete
from core.tree.metadata import Owners
from core.tree.occupancy import Overwrite
from core.tree.restore import Options, Sync, Target
from core.tree.staging import Staging
from core.tree.write_batch import WriteBatch
from tests.support.strange_trees import ACL_DEFAULT, ODD_NAMES, acl, can_set_xattr
from tests.support.trees import IS_ROOT, Reports, differences, look, open_descriptors


@pytest.fixture(params=["compiled", "python"])
def out(request, tmp_path, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(write_batch, "kernel", lambda: open_kernel("python"))
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def one_by_one(monkeypatch):
    """The paths that were not written together with others."""
    paths = []
    real = Target.small_file

    def small_file(target, entry, data):
        paths.append(entry.path)
        return real(target, entry, data)

    monkeypatch.setattr(Target, "small_file", small_file)
    return paths


@pytest.fixture
def nameless(out, reports):
    """Skips where the system has no files without a name: there nothing is written together."""
    with Target(out, Options(), reports) as target:
        os.close(target._staging.create(target._root)[0])
        if not target._staging.unnamed:
            pytest.skip("no files without a name here")


def file(path, data=b"", **known):
    me = {"uid": os.geteuid(), "gid": os.getegid(), "mtime_ns": 10**18 + 1}
    return Entry(path, EntryType.FILE, size=len(data), **me | known), data


def written(out, files, report=None, **options):
    report = report or Reports()
    with Target(out, Options(**options), report) as target:
        found = list(target.small_files(files))
        target.finish()
    return found


def of_every_kind():
    rng = random.Random(5)
    owners = [(0, 0), (1234, 4321)] if IS_ROOT else [(os.geteuid(), os.getegid())]
    for number in range(120):
        folder = b"".join(b"%d/" % rng.randrange(3) for _ in range(rng.randrange(4)))
        uid, gid = rng.choice(owners)
        yield file(
            folder + b"file %d" % number,
            rng.randbytes(rng.choice([0, 1, 4096, 70_000])),
            mode=rng.choice([0, 0o400, 0o644, 0o777, 0o1755]),
            mtime_ns=rng.choice([0, -1, -(10**18), 10**18 + 123_456_789]),
            uid=uid,
            gid=gid,
        )


@pytest.mark.usefixtures("nameless")
def test_plain_files_are_written_together(tmp_path, out, one_by_one):
    files = list(of_every_kind())
    assert written(out, files) == [True] * len(files)
    assert one_by_one == []
    (tmp_path / "alone").mkdir()
    with Target(tmp_path / "alone", Options(), Reports()) as target:
        for entry, data in files:
            assert target.small_file(entry, data)
        target.finish()
    told = differences(tmp_path / "alone", out, top=False)
    assert [line for line in told if "file" in line] == []
    for entry, data in files:
        path = out / os.fsdecode(entry.path)
        found = path.lstat()
        assert path.read_bytes() == data
        assert (found.st_mtime_ns, stat.S_IMODE(found.st_mode)) == (entry.mtime_ns, entry.mode)
        assert (found.st_uid, found.st_gid) == (entry.uid, entry.gid)


@pytest.mark.usefixtures("nameless")
def test_any_bytes_make_a_name(out, one_by_one):
    names = {*ODD_NAMES, b"y" * 255, b"\xff" * 255}
    assert all(written(out, [file(name, name) for name in sorted(names)]))
    assert {path: facts.size for path, facts in look(out).items() if path} == {
        name: len(name) for name in names
    }
    assert one_by_one == []


@pytest.mark.usefixtures("nameless")
def test_any_buffer_is_written_where_it_lies(out):
    data = bytearray(b"abcdef")
    files = [(file(b"a", b"xx")[0], memoryview(data)[2:4]), (file(b"b", b"xxx")[0], data[:3])]
    assert written(out, files) == [True, True]
    assert (out / "a").read_bytes() == b"cd"
    assert (out / "b").read_bytes() == b"abc"
    del files
    data.append(1)  # BufferError while anyone still holds it


@pytest.mark.parametrize("path", [b"", b"/etc/x", b"../x", b"a/../../x", b"a//x", b"a/", b"a\0b"])
def test_hostile_paths_are_refused_among_others(tmp_path, out, path):
    first, error, last = written(out, [file(b"a", b"1"), file(path, b"x"), file(b"b", b"2")])
    assert (first, last) == (True, True)
    assert isinstance(error, FormatError)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "out"]


def test_a_planted_link_is_not_written_through(tmp_path, out):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"safe")
    (out / "way").symlink_to(tmp_path / "outside")
    (out / "name").symlink_to(tmp_path / "outside" / "file")
    (out / "dangling").symlink_to(tmp_path / "outside" / "new")
    files = [file(name, b"x", mode=0o777) for name in (b"way/file", b"name", b"dangling")]
    before = look(tmp_path / "outside")
    assert [type(e) for e in written(out, files)] == [AlreadyThere] * 3
    replaced = written(out, files, overwrite=Overwrite.REPLACE)
    assert [type(e) for e in replaced] == [AlreadyThere, bool, bool]
    assert look(tmp_path / "outside") == before
    assert not (out / "name").is_symlink()


@pytest.mark.parametrize("overwrite", list(Overwrite))
def test_the_policy_holds(out, overwrite):
    (out / "old").write_bytes(b"old")
    os.utime(out / "old", ns=(100, 100))
    (out / "folder").mkdir()
    names = [b"a", b"old", b"folder", b"z"]
    found = written(out, [file(n, b"new", mtime_ns=100) for n in names], overwrite=overwrite)
    expected = {Overwrite.REFUSE: AlreadyThere, Overwrite.REPLACE: True}.get(overwrite, False)
    assert (found[0], found[3]) == (True, True)
    assert found[1] is expected if isinstance(expected, bool) else isinstance(found[1], expected)
    assert isinstance(found[2], AlreadyThere)
    assert (out / "old").read_bytes() == (b"new" if expected is True else b"old")
    assert sorted(p.name for p in out.iterdir()) == ["a", "folder", "old", "z"]


def test_a_name_twice_is_the_first_one(out):
    first, second = written(out, [file(b"d/a", b"first"), file(b"d/a", b"second")])
    assert first is True
    assert isinstance(second, AlreadyThere)
    assert (out / "d" / "a").read_bytes() == b"first"


def test_a_name_that_appears_before_the_files_get_theirs(tmp_path, out):
    secret = tmp_path / "secret"
    secret.write_bytes(b"safe")

    def files():
        yield file(b"d/a", b"a")
        yield file(b"d/b", b"b")
        (out / "d" / "a").symlink_to(secret)

    found = written(out, files())
    assert isinstance(found[0], AlreadyThere)
    assert found[1] is True
    assert secret.read_bytes() == b"safe"


def test_a_content_of_another_length_is_refused(out):
    entry, _ = file(b"a", b"12345")
    (error,) = written(out, [(entry, b"123")])
    assert isinstance(error, FormatError)
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("nameless")
def test_what_is_not_plain_is_restored_by_itself(out, one_by_one, monkeypatch):
    monkeypatch.setattr(limits, "TREE_BATCH_FILE_BYTES_MAX", 10)
    special = [file(b"long", b"12345678901"), file(b"setuid", b"x", mode=0o4755)]
    if can_set_xattr(out, "user.test"):
        special.append(file(b"attributes", b"x", xattrs=((b"user.test", b"value"),)))
    (out / "probe of attributes").unlink(missing_ok=True)
    assert all(written(out, [file(b"plain", b"x"), *special]))
    assert one_by_one == [entry.path for entry, _ in special]
    assert stat.S_IMODE((out / "setuid").stat().st_mode) == 0o4755
    if len(special) == 3:
        assert os.getxattr(out / "attributes", "user.test") == b"value"


def test_rights_are_not_lent_to_strangers(out):
    assert written(out, [file(b"a", b"x", mode=0o7755)], privileged=False) == [True]
    assert stat.S_IMODE((out / "a").stat().st_mode) == 0o755


def test_nothing_is_inherited_from_the_directory_that_was_there(out):
    try:
        os.setxattr(out, ACL_DEFAULT, acl())
    except OSError:
        pytest.skip("this file system has no ACLs")
    assert written(out, [file(b"a", b"x", mode=0o640), file(b"d/b", b"x", mode=0o640)])
    for path in (b"a", b"d/b"):
        assert look(out)[path].xattrs == ()
        assert stat.S_IMODE(look(out)[path].mode) == 0o640


def test_the_umask_does_not_matter(out):
    before = os.umask(0o777)
    try:
        assert written(out, [file(b"d/a", b"x", mode=0o666)]) == [True]
    finally:
        os.umask(before)
    assert stat.S_IMODE((out / "d" / "a").stat().st_mode) == 0o666


def test_files_are_on_the_disk_before_their_name_if_that_is_asked_for(out, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_nlink))
    with Target(out, Options(sync=Sync.FILE), Reports()) as target:
        assert list(target.small_files([file(b"a", b"x"), file(b"b", b"y")])) == [True, True]
    assert len(synced) == 2


def test_without_nameless_files_they_are_restored_all_the_same(out, one_by_one, monkeypatch):
    monkeypatch.setattr("core.tree.restore.Staging", Named)
    assert written(out, [file(b"a", b"x"), file(b"b", b"y")]) == [True, True]
    assert one_by_one == [b"a", b"b"]
    assert sorted(p.name for p in out.iterdir()) == ["a", "b"]


class Named(Staging):
    def __init__(self, occupancy, *, has_proc):
        super().__init__(occupancy, has_proc=has_proc)
        self.unnamed = False


@pytest.fixture
def called(monkeypatch):
    """The names of the files of each call."""
    real, calls = write_batch.kernel(), []

    class Noting:
        @staticmethod
        def write_files(given, names, data):
            calls.append(list(names))
            return real.write_files(given, names, data)

    monkeypatch.setattr(write_batch, "kernel", Noting)
    return calls


@pytest.mark.usefixtures("nameless")
def test_where_something_may_be_replaced_nothing_is_written_twice(out, called):
    (out / "old").mkdir()
    files = [file(b"a", b"x"), file(b"new/b", b"x"), file(b"old/c", b"x"), file(b"new/d", b"x")]
    assert written(out, files, overwrite=Overwrite.REPLACE) == [True] * 4
    assert called == [[b"b", b"d"]]


@pytest.mark.usefixtures("nameless")
def test_owners_that_cannot_be_set_are_reported_once_and_not_tried_again(
    unprivileged, reports, one_by_one, called, monkeypatch
):
    monkeypatch.setattr(limits, "TREE_BATCH_FILES_MAX", 2)
    files = [file(b"%d" % n, b"x", uid=1, gid=1) for n in range(8)]
    assert written(unprivileged, files, reports) == [True] * 8
    # The first two batches were filled before the first refusal; nothing is tried after it.
    assert called == [[b"0", b"1"], [b"2", b"3"], [], []]
    assert [(path, type(error)) for path, error in reports.all] == [(b"0", Incomplete)]
    assert one_by_one == [entry.path for entry, _ in files]
    mine = [file(b"mine", b"x", uid=1, gid=1)]
    assert written(unprivileged, mine, owners=Owners.MINE) == [True]
    assert one_by_one == [entry.path for entry, _ in files]


def test_hard_links_lead_to_files_written_together(out, reports):
    with Target(out, Options(), reports) as target:
        assert list(target.small_files([file(b"a", b"x", nlink=2)])) == [True]
        assert target.link(file(b"b", b"x")[0], b"a")
    assert (out / "b").samefile(out / "a")


def test_batches_are_bounded_and_leave_nothing_open(out, monkeypatch):
    monkeypatch.setattr(limits, "TREE_BATCH_DIRECTORIES_MAX", 3)
    monkeypatch.setattr(limits, "TREE_OPEN_DIRECTORIES_MAX", 3)
    monkeypatch.setattr(limits, "TREE_BATCH_FILES_MAX", 5)
    monkeypatch.setattr(limits, "TREE_BATCH_BYTES_MAX", 10_000)
    real, calls = write_batch.kernel(), []
    before = open_descriptors()

    class Counting:
        @staticmethod
        def write_files(given, names, data):
            calls.append((len(names), len(data), len(open_descriptors() - before)))
            return real.write_files(given, names, data)

    monkeypatch.setattr(write_batch, "kernel", Counting)
    files = [
        file(b"%d/%d" % (n // 2 if n < 20 else 0, n), b"%d" % n * (3000 if n % 9 == 0 else 1))
        for n in range(40)
    ]
    assert all(written(out, files))
    assert {entry.path: (out / os.fsdecode(entry.path)).read_bytes() for entry, _ in files} == {
        entry.path: data for entry, data in files
    }
    assert max(count for count, _, _ in calls) == 5
    assert max(size for _, size, _ in calls) <= 10_000
    assert max(held for _, _, held in calls) <= 3 * 3 + 2  # root and listing
    assert open_descriptors() == before


def test_a_run_that_ends_early_leaves_nothing_open(out, reports):
    with Target(out, Options(), reports) as target:
        target.directory(Entry(b"d", EntryType.DIRECTORY, 0o755))
        target.small_file(*file(b"d/first", b"x"))
        before = open_descriptors()

        def files():
            yield file(b"d/a", b"x")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(target.small_files(files()))
        assert open_descriptors() == before
    assert [p.name for p in (out / "d").iterdir()] == ["first"]


def test_no_files_are_no_batch():
    batch = WriteBatch()
    assert batch.fits(1 << 40)
    batch.run()
    assert list(batch.outcome()) == []
