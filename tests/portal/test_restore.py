import os
import stat
from pathlib import Path

import pytest

from core import limits
from core.errors import UsageError
from core.pieces import Kind
from core.tree.entry import EntryType
from portal import restore as restoring
from portal.browse import Selection, lookup
from portal.errors import NoSnapshot
from portal.manifest import NO_CONTENT, Content, Form
from portal.standing import Overwrite
from tests.support.restores import restore
from tests.support.snapshots import a_shelf, by_hand, damage_chunks_of, directory_row, file_row
from tests.support.strange_trees import strange_tree
from tests.support.trees import differences, open_descriptors
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed

TREE = {
    b"home": {b"ann": {b"docs": {b"a.txt": b"aa", b"b": {b"c.txt": b"ccc"}}, b"x": b"x"}},
    b"home.txt": b"h",
}


@pytest.fixture
def vault(tmp_path):
    return a_vault(tmp_path)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def inside(out: Path, original: Path) -> Path:
    return out / str(original)[1:]


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


# --- everything comes back ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_a_strangers_tree_comes_back_byte_and_metadata_exact(vault, tmp_path, out, threads):
    root = tmp_path / "tree"
    strange_tree(root)
    large = root / "large"
    large.write_bytes(fixed("large", 700_000) * 7)
    with (root / "huge").open("wb") as file:
        for offset in (0, 1 << 30, (4 << 30) + 5):
            file.seek(offset)
            file.write(fixed(f"at {offset}", 700_000))
    snapshot = back_up(vault, root)
    before = open_descriptors()
    ran = restore(vault, snapshot, out, verify=True)
    assert ran.lines == []
    assert differences(root, inside(out, root)) == []
    progress = ran.progress
    assert (
        progress.files == progress.verified == progress.files_total == snapshot.record.totals.files
    )
    assert len(open_descriptors()) == len(before)


@pytest.mark.slow
def test_a_window_may_be_as_small_as_it_likes(vault, tmp_path, out, monkeypatch):
    root = tmp_path / "tree"
    strange_tree(root)
    snapshot = back_up(vault, root)
    monkeypatch.setattr(limits, "RESTORE_WINDOW_ENTRIES", 3)
    assert restore(vault, snapshot, out).lines == []
    assert differences(root, inside(out, root)) == []


def test_a_directory_of_a_snapshot_becomes_the_target_itself(vault, out):
    snapshot = by_hand(vault, TREE)
    restore(vault, snapshot, out, under=b"home/ann/docs")
    assert contents(out) == {"a.txt": b"aa", "b/c.txt": b"ccc"}


def test_a_file_of_a_snapshot_is_put_into_the_target(vault, out):
    snapshot = by_hand(vault, TREE)
    ran = restore(vault, snapshot, out, under=b"home/ann/docs/a.txt", verify=True)
    assert contents(out) == {"a.txt": b"aa"}
    assert ran.said == [("restored", b"home/ann/docs/a.txt")]
    assert ran.progress.verified == 1
    with pytest.raises(NoSnapshot, match="is not in the snapshot"):
        restore(vault, snapshot, out, under=b"home/bob")


def test_directories_on_the_way_to_what_is_selected_get_their_modes(vault, out):
    snapshot = by_hand(vault, TREE)
    ran = restore(vault, snapshot, out, select=Selection([b"*.txt"], [b"home/ann/docs/b"]))
    assert contents(out) == {"home.txt": b"h", "home/ann/docs/a.txt": b"aa"}
    assert stat.S_IMODE((out / "home/ann").stat().st_mode) == 0o755
    assert (out / "home/ann/docs").stat().st_mtime_ns == NOW_NS
    assert ran.progress.files_total is None


def test_patterns_speak_of_paths_in_the_snapshot(vault, out):
    snapshot = by_hand(vault, TREE)
    select = Selection([b"/home/ann/docs/b"])
    restore(vault, snapshot, out, under=b"home/ann", select=select)
    assert contents(out) == {"docs/b/c.txt": b"ccc"}


def test_a_second_run_finds_everything_as_it_should_be(vault, tmp_path, out):
    root = tmp_path / "tree"
    strange_tree(root)
    snapshot = back_up(vault, root)
    restore(vault, snapshot, out)
    inodes = {p: p.lstat().st_ino for p in out.rglob("*")}
    ran = restore(vault, snapshot, out, overwrite=Overwrite.IF_CHANGED)
    assert ran.lines == []
    assert {p: p.lstat().st_ino for p in out.rglob("*")} == inodes
    assert {deed for deed, _ in ran.said} == {"kept"}
    assert not any((out / os.fsdecode(path)).is_dir() for _, path in ran.said if b"to " not in path)
    assert differences(root, inside(out, root)) == []


def test_zeros_become_holes_when_that_is_wanted(vault, tmp_path, out):
    root = tmp_path / "tree"
    root.mkdir()
    data = fixed("data", 70_000) + bytes(3_000_000) + b"end"
    (root / "large").write_bytes(data)
    (root / "small").write_bytes(bytes(400_000))
    snapshot = back_up(vault, root)
    restore(vault, snapshot, out, sparse=True)
    found = inside(out, root)
    assert (found / "large").read_bytes() == data
    assert (found / "small").read_bytes() == bytes(400_000)
    assert (found / "large").stat().st_blocks * 512 < 400_000
    assert (found / "small").stat().st_blocks == 0


# --- what is there already ------------------------------------------------------------------------

POLICIES = {
    # what stands there: missing, same, other content, newer, older
    Overwrite.ALWAYS: ["restored", "replaced", "replaced", "replaced", "replaced"],
    Overwrite.IF_CHANGED: ["restored", "kept", "replaced", "replaced", "replaced"],
    Overwrite.IF_NEWER: ["restored", "kept", "kept", "kept", "replaced"],
    Overwrite.NEVER: ["restored", "kept", "kept", "kept", "kept"],
    Overwrite.REFUSE: ["restored", None, None, None, None],
}
CASES = ["missing", "same", "other", "newer", "older"]


def stand(out: Path) -> None:
    out.mkdir()
    for name, data, mtime_ns in [
        ("same", b"data", NOW_NS),
        ("other", b"other length", NOW_NS),
        ("newer", b"DATA", NOW_NS + 1),
        ("older", b"DATA", NOW_NS - 1),
    ]:
        (out / name).write_bytes(data)
        (out / name).chmod(0o644)
        os.utime(out / name, ns=(mtime_ns, mtime_ns))


def of_mine(vault, names):
    """Files of this user, so that owners need no correction."""
    with a_shelf(vault) as shelf:
        ids = {"uid": os.getuid(), "gid": os.getgid()}
        rows = [shelf.file(name.encode(), b"data", **ids) for name in sorted(names)]
        return shelf.commit(shelf.directory(rows))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_decides_about_what_is_there(vault, out, policy):
    snapshot = of_mine(vault, CASES)
    stand(out)
    before = contents(out)
    ran = restore(vault, snapshot, out, overwrite=policy)
    expected = dict(zip(CASES, POLICIES[policy], strict=True))
    assert ran.deeds() == {k.encode(): v for k, v in expected.items() if v}
    for name, deed in expected.items():
        assert contents(out)[name] == (
            b"data" if deed in {"restored", "replaced"} else before[name]
        )
    refused = [name for name, deed in expected.items() if deed is None]
    assert sorted(path.decode() for path, _ in ran.reports.all) == sorted(refused)


def test_what_the_policy_left_alone_is_not_verified_and_all_else_is(vault, out):
    snapshot = by_hand(vault, {b"d": {b"mine": b"1", b"new": b"2"}, b"f": b"3"})
    (out / "d").mkdir(parents=True)
    (out / "d" / "mine").write_bytes(b"other")
    (out / "f").mkdir()
    ran = restore(vault, snapshot, out, overwrite=Overwrite.NEVER, verify=True)
    assert ran.lines == []
    assert ran.deeds() == {b"d/mine": "kept", b"d/new": "restored", b"f": "kept"}
    assert (ran.progress.verified, ran.progress.kept) == (1, 2)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_dry_run_says_what_the_real_one_does_and_writes_nothing(vault, tmp_path, out, policy):
    snapshot = of_mine(vault, CASES)
    stand(out)
    (out / "extra").write_bytes(b"")
    before = contents(out)
    how = {"overwrite": policy, "delete": True}
    dry = restore(vault, snapshot, out, dry_run=True, **how)
    assert contents(out) == before
    real = restore(vault, snapshot, out, **how)
    assert dry.deeds().items() >= real.deeds().items()
    assert dry.progress.content_bytes == real.progress.content_bytes
    assert dry.lines == [line for line in real.lines if "stays" not in line]
    restore(vault, snapshot, tmp_path / "nowhere", dry_run=True)
    assert not (tmp_path / "nowhere").exists()


def test_contents_are_compared_when_times_are_not_to_be_believed(vault, out):
    snapshot = of_mine(vault, ["changed", "touched"])
    out.mkdir()
    (out / "changed").write_bytes(b"DATA")  # same length and time, another content
    (out / "touched").write_bytes(b"data")
    os.utime(out / "changed", ns=(NOW_NS, NOW_NS))
    inode = (out / "touched").stat().st_ino
    ran = restore(vault, snapshot, out, overwrite=Overwrite.IF_CHANGED, content=True)
    assert ran.deeds() == {b"changed": "replaced", b"touched": "corrected"}
    assert contents(out) == {"changed": b"data", "touched": b"data"}
    assert (out / "touched").stat().st_ino == inode
    assert (out / "touched").stat().st_mtime_ns == NOW_NS


def test_metadata_of_what_is_the_same_is_corrected(vault, out):
    snapshot = of_mine(vault, ["same"])
    stand(out)
    (out / "same").chmod(0o600)
    inode = (out / "same").stat().st_ino
    ran = restore(vault, snapshot, out, overwrite=Overwrite.IF_CHANGED)
    assert ran.deeds() == {b"same": "corrected"}
    assert (out / "same").stat().st_ino == inode
    assert stat.S_IMODE((out / "same").stat().st_mode) == 0o644


@pytest.mark.parametrize("delete", [False, True])
def test_a_directory_in_the_way_of_a_file_goes_only_when_deleting(vault, out, delete):
    snapshot = by_hand(vault, {b"file": b"data"})
    (out / "file" / "deep").mkdir(parents=True)
    (out / "file" / "deep" / "precious").write_bytes(b"1")
    ran = restore(vault, snapshot, out, overwrite=Overwrite.ALWAYS, delete=delete)
    if delete:
        assert contents(out) == {"file": b"data"}
        assert ran.lines == []
    else:
        assert contents(out) == {"file/deep/precious": b"1"}
        assert ran.lines == ["file: file: a directory is in the way"]


def test_a_file_in_the_way_of_a_directory_is_replaced_by_policy(vault, out):
    snapshot = by_hand(vault, {b"d": {b"f": b"1"}, b"e": b"2"})
    out.mkdir()
    (out / "d").write_bytes(b"file")
    ran = restore(vault, snapshot, out)
    assert contents(out) == {"d": b"file", "e": b"2"}
    assert len(ran.lines) == 1  # for the directory, not for each file of it
    ran = restore(vault, snapshot, out, overwrite=Overwrite.NEVER)
    assert ran.deeds() == {b"d": "kept", b"e": "kept"}
    ran = restore(vault, snapshot, out, overwrite=Overwrite.IF_CHANGED, verify=True)
    assert contents(out) == {"d/f": b"1", "e": b"2"}
    assert ran.progress.verified == 2


# --- links ----------------------------------------------------------------------------------------


def linked(vault, names, **more):
    with a_shelf(vault) as shelf:
        ids = {"uid": os.getuid(), "gid": os.getgid()}
        rows = [shelf.file(name, b"shared", link=b"L" * 16, **ids) for name in names]
        rows += [shelf.file(name, data) for name, data in more.items()]
        return shelf.commit(shelf.directory(sorted(rows)))


def test_hard_links_are_hard_links_again(vault, out):
    snapshot = linked(vault, [b"a", b"b", b"c"])
    ran = restore(vault, snapshot, out, verify=True)
    assert ran.lines == []
    assert len({(out / name).stat().st_ino for name in "abc"}) == 1
    assert (out / "a").read_bytes() == b"shared"


def test_the_first_name_that_is_selected_brings_the_content(vault, out):
    snapshot = linked(vault, [b"a", b"b", b"c"])
    restore(vault, snapshot, out, select=Selection(exclude=[b"a"]))
    assert contents(out) == {"b": b"shared", "c": b"shared"}
    assert (out / "b").stat().st_nlink == 2


def test_when_the_first_name_fails_the_next_one_brings_the_content(vault, out):
    snapshot = linked(vault, [b"a", b"b", b"c"])
    (out / "a").mkdir(parents=True)
    ran = restore(vault, snapshot, out)
    assert [path for path, _ in ran.reports.all] == [b"a"]
    assert (out / "b").stat().st_ino == (out / "c").stat().st_ino
    assert (out / "c").read_bytes() == b"shared"


def test_names_that_are_right_become_links_of_what_stays(vault, out):
    snapshot = linked(vault, [b"a", b"b", b"c"])
    restore(vault, snapshot, out)
    inode = (out / "a").stat().st_ino
    (out / "b").unlink()
    (out / "b").write_bytes(b"shared")
    os.utime(out / "b", ns=(NOW_NS, NOW_NS))
    ran = restore(vault, snapshot, out, overwrite=Overwrite.IF_CHANGED)
    assert ran.deeds() == {b"a": "kept", b"b": "replaced", b"c": "kept"}
    assert {(out / name).stat().st_ino for name in "abc"} == {inode}
    assert sorted(p.name for p in out.iterdir()) == ["a", "b", "c"]


def test_files_that_had_one_inode_one_after_the_other_are_not_mixed_up(vault, out):
    names = {"a": b"first", "b": b"second", "c": b"first", "d": b"second"}
    with a_shelf(vault) as shelf:
        ids = {"uid": os.getuid(), "gid": os.getgid(), "link": b"L" * 16}
        rows = [shelf.file(name.encode(), data, **ids) for name, data in names.items()]
        snapshot = shelf.commit(shelf.directory(rows))
    assert restore(vault, snapshot, out, verify=True).lines == []
    inodes = {name: (out / name).stat().st_ino for name in names}
    assert contents(out) == names
    assert inodes["a"] == inodes["c"] != inodes["b"] == inodes["d"]
    ran = restore(vault, snapshot, out, overwrite=Overwrite.IF_CHANGED)
    assert set(ran.deeds().values()) == {"kept"}


def test_other_things_may_have_several_names_too(vault, out):
    with a_shelf(vault) as shelf:
        rows = [
            file_row(name, NO_CONTENT, 0, type=EntryType.SYMLINK, target=b"x", link=b"S" * 16)
            for name in (b"one", b"two")
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    assert restore(vault, snapshot, out).lines == []
    assert (out / "one").lstat().st_ino == (out / "two").lstat().st_ino


# --- what cannot be restored ----------------------------------------------------------------------


def test_a_damaged_chunk_names_every_file_it_takes_away(vault, out):
    with a_shelf(vault) as shelf:
        lone = shelf.put(Kind.SMALL_FILE, b"in a chunk of its own")
        cut = shelf.put(Kind.CUT, b"cut" * 100)
        rows = [
            file_row(b"lost", Content(Form.SMALL, lone), 21),
            file_row(b"lost too", Content(Form.SMALL, lone), 21),
            shelf.file(b"safe", b"in another"),
            file_row(b"torn", Content(Form.CUTS, (300).to_bytes(8) + cut), 300),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    damage_chunks_of(vault, Kind.SMALL_FILE, lone)
    damage_chunks_of(vault, Kind.CUT, cut)
    ran = restore(vault, snapshot, out)
    assert sorted(path for path, _ in ran.reports.all) == [b"lost", b"lost too", b"torn"]
    assert contents(out) == {"safe": b"in another"}  # nothing half written under its name


def test_a_missing_piece_takes_away_its_files_only(vault, out):
    with a_shelf(vault) as shelf:
        there = shelf.put(Kind.CUT, b"cut" * 100)
        extents = (300).to_bytes(8) + there + (300).to_bytes(8) + bytes(31) + b"1"
        rows = [
            file_row(b"cut", Content(Form.CUTS, extents), 600),
            shelf.file(b"safe", b"safe"),
            file_row(b"small", Content(Form.SMALL, bytes(31) + b"1"), 5),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    ran = restore(vault, snapshot, out)
    assert sorted(path for path, _ in ran.reports.all) == [b"cut", b"small"]
    assert all("missing" in line for line in ran.lines)
    assert contents(out) == {"safe": b"safe"}


def test_lengths_that_do_not_agree_are_refused(vault, out):
    with a_shelf(vault) as shelf:
        tag = shelf.put(Kind.CUT, b"x" * 10)
        row = shelf.file(b"b", b"12345")
        rows = [
            file_row(b"a", Content(Form.CUTS, (11).to_bytes(8) + tag), 11),
            (*row[:10], 6, *row[11:]),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    ran = restore(vault, snapshot, out)
    assert sorted(path for path, _ in ran.reports.all) == [b"a", b"b"]
    assert contents(out) == {}


# --- never outside --------------------------------------------------------------------------------


def test_nothing_is_written_through_a_planted_link(vault, tmp_path, out):
    snapshot = by_hand(vault, {b"d": {b"f": b"evil", b"link": {b"g": b"evil"}}})
    outside = tmp_path / "outside"
    outside.mkdir()
    out.mkdir()
    for policy in Overwrite:
        (out / "d").symlink_to(outside)
        restore(vault, snapshot, out, overwrite=policy, delete=True)
        assert list(outside.iterdir()) == []
        if (out / "d").is_symlink():
            (out / "d").unlink()
            (out / "d").mkdir()
        (out / "d" / "link").is_dir() and (out / "d" / "link" / "g").unlink()
        (out / "d" / "link").is_dir() and (out / "d" / "link").rmdir()
        (out / "d" / "link").symlink_to(outside)
        restore(vault, snapshot, out, overwrite=policy, delete=True)
        assert list(outside.iterdir()) == []
        restore(vault, by_hand(vault, {}), out, overwrite=Overwrite.ALWAYS, delete=True)
        assert list(out.iterdir()) == []


def test_a_link_on_the_way_to_the_sources_is_not_replaced(vault, tmp_path, out):
    snapshot = by_hand(vault, TREE, paths=(b"/home/ann/docs",))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    (out / "home").symlink_to(elsewhere)
    ran = restore(vault, snapshot, out, overwrite=Overwrite.ALWAYS)
    assert (out / "home").is_symlink()
    assert "a link is where a directory is needed" in ran.lines[0]
    assert contents(out) == {"home.txt": b"h"}


def test_names_that_lead_outside_are_reported_and_nothing_is_made_of_them(vault, tmp_path, out):
    with a_shelf(vault) as shelf:
        row = shelf.file(b"x", b"evil")
        names = [b"../up", b"..", b"/abs", b"a/b"]
        rows = [(name, *row[1:]) for name in sorted(names)]
        hostile = shelf.directory([*rows, shelf.file(b"safe", b"1")])
        snapshot = shelf.commit(shelf.directory([directory_row(b"d", hostile)]))
    before = sorted(p.name for p in tmp_path.iterdir())
    ran = restore(vault, snapshot, out)
    assert contents(out) == {"d/safe": b"1"}
    assert [path for path, _ in ran.reports.all] == [b"d"] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "out"])


# --- deleting -------------------------------------------------------------------------------------


def full(out: Path) -> None:
    for name in ["home/ann/docs/extra", "home/ann/extra", "home/bob/his", "etc/passwd"]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"1")


def test_only_below_the_sources_is_anything_deleted(vault, out):
    snapshot = by_hand(vault, TREE, paths=(b"/home/ann/docs", b"/home.txt"))
    full(out)
    ran = restore(vault, snapshot, out, overwrite=Overwrite.ALWAYS, delete=True)
    assert contents(out) == {
        "etc/passwd": b"1",
        "home/ann/docs/a.txt": b"aa",
        "home/ann/docs/b/c.txt": b"ccc",
        "home/ann/extra": b"1",
        "home/ann/x": b"x",
        "home/bob/his": b"1",
        "home.txt": b"h",
    }
    assert [said for said in ran.said if said[0] == "removed"] == [
        ("removed", b"home/ann/docs/extra")
    ]
    assert ran.progress.removed == 1


def test_directories_that_were_there_on_the_way_keep_their_modes(vault, out):
    snapshot = by_hand(vault, TREE, paths=(b"/home/ann/docs",))
    (out / "home").mkdir(parents=True)
    (out / "home").chmod(0o711)
    restore(vault, snapshot, out, overwrite=Overwrite.ALWAYS)
    assert stat.S_IMODE((out / "home").stat().st_mode) == 0o711
    assert stat.S_IMODE((out / "home/ann").stat().st_mode) == 0o755


def test_what_is_protected_or_not_selected_or_was_unreadable_stays(vault, out):
    errors = ((b"/home/unreadable", "no"), (b"/locked", "no"))
    snapshot = by_hand(vault, {**TREE, b"locked": {}}, errors=errors)
    full(out)
    (out / "locked").mkdir()
    (out / "locked/f").write_bytes(b"1")
    (out / "home/unreadable").mkdir()
    (out / "home/unreadable/f").write_bytes(b"1")
    (out / "home/bob/vault").mkdir()
    (out / "home/bob/vault/pack").write_bytes(b"1")
    select = Selection([b"home", b"locked"], [b"home/ann/extra"])
    protected = (out / "home/bob/vault", out / "not there")
    ran = restore(
        vault, snapshot, out, select=select, overwrite=Overwrite.ALWAYS, delete=True,
        protected=protected,
    )  # fmt: skip
    left = contents(out)
    for name in ["etc/passwd", "home/ann/extra", "home/unreadable/f", "home/bob/vault/pack"]:
        assert name in left
    assert "locked/f" in left
    assert "home/bob/his" not in left
    assert "home/ann/docs/extra" not in left
    assert ran.lines == [
        "home/bob/vault: home/bob/vault: holds backups or keys and stays",
    ]


def test_nothing_is_restored_into_what_is_protected(vault, out):
    snapshot = by_hand(vault, {b"v": {b"f": b"1"}})
    (out / "v").mkdir(parents=True)
    ran = restore(vault, snapshot, out, overwrite=Overwrite.ALWAYS, protected=(out / "v",))
    assert "holds backups or keys" in ran.lines[0]
    assert contents(out) == {}


def test_where_something_failed_nothing_is_deleted(vault, out):
    with a_shelf(vault) as shelf:
        rows = [
            shelf.file(b"fine", b"1"),
            directory_row(b"lost", Content(Form.PARTS, bytes(32))),
            file_row(b"missing", Content(Form.SMALL, bytes(32)), 5),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    (out / "lost").mkdir(parents=True)
    (out / "lost" / "mine").write_bytes(b"1")
    (out / "old").write_bytes(b"1")
    ran = restore(vault, snapshot, out, overwrite=Overwrite.ALWAYS, delete=True)
    assert contents(out) == {"fine": b"1", "lost/mine": b"1", "old": b"1"}
    assert any(line.startswith("old: old: stays") for line in ran.lines)


def test_deleting_everywhere_or_by_a_torn_snapshot_is_refused(vault, tmp_path, monkeypatch):
    top = tmp_path / "top"  # never the real one: without the guard it would be emptied
    (top / "bin").mkdir(parents=True)
    assert restoring.TOP == b"/"
    monkeypatch.setattr(restoring, "TOP", os.fsencode(top))
    whole = by_hand(vault, TREE)
    with pytest.raises(UsageError, match="--include"):
        restore(vault, whole, top, delete=True, overwrite=Overwrite.ALWAYS)
    assert [p.name for p in top.iterdir()] == ["bin"]
    errors = tuple((b"/%d" % n, "no") for n in range(limits.SNAPSHOT_ERRORS_MAX))
    torn = by_hand(vault, TREE, errors=errors, time_ns=5)
    with pytest.raises(UsageError, match="could not be read"):
        restore(vault, torn, tmp_path / "out", delete=True)
    assert not (tmp_path / "out").exists()


def test_in_place_only_what_differs_is_written(vault, tmp_path):
    root = tmp_path / "tree"
    strange_tree(root)
    snapshot = back_up(vault, root)
    copy = tmp_path / "copy"
    restore(vault, snapshot, copy)
    before = {p: p.lstat().st_ino for p in root.rglob("*")}
    (root / "file 3").unlink()
    (root / "file 4").write_bytes(b"changed")
    (root / "new").write_bytes(b"")
    under = os.fsencode(root).lstrip(b"/")
    with vault.reader() as reader:
        assert lookup(reader, snapshot, under).entry.is_directory
    ran = restore(
        vault,
        snapshot,
        tmp_path,
        under=under.rpartition(b"/")[0],
        select=Selection([under]),
        overwrite=Overwrite.IF_CHANGED,
        delete=True,
    )
    assert ran.lines == []
    assert differences(inside(copy, root), root) == []
    after = {p: p.lstat().st_ino for p in root.rglob("*")}
    changed = sorted(p.name for p in before if after[p] != before[p])
    assert set(changed) <= {"file 3", "file 4"}
    assert changed
