import os

import pytest

from core.keys import VaultKeys
from core.secret import Secret
from core.tree.listing import list_directory
from portal.baseline import Before, Looks, RowsBefore
from portal.manifest import Content, Form
from portal.reader import Reader
from tests.support.vaults import NOW_NS, a_vault, back_up

KEYS = VaultKeys.from_master(Secret(bytes(range(32))))
PARENT, RULES = b"p" * 32, b"r" * 32


def listing_of(folder):
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return list_directory(fd)
    finally:
        os.close(fd)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    made.mkdir()
    (made / "a").write_bytes(b"a")
    (made / "below").mkdir()
    return made


def look_of(folder, path=b"folder", rules=b""):
    return Looks(KEYS, None, b"", RULES).of(path, listing_of(folder), rules)


def saved(cache, looks, parent=PARENT, rules=RULES):
    made = Looks(KEYS, cache, b"", rules)
    for path, look in looks:
        made.remember(path, look)
    made.save(parent)


# --- looks ----------------------------------------------------------------------------------------


def test_a_directory_that_did_not_change_looks_the_same(folder):
    assert look_of(folder) == look_of(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "a").write_bytes(b"b"),
        lambda f: (f / "a").chmod(0o123),
        lambda f: (f / "b").write_bytes(b""),
        lambda f: (f / "a").unlink(),
        lambda f: (f / "a").rename(f / "c"),
        lambda f: (f / "below" / "new").write_bytes(b""),
        lambda f: (f / "below").chmod(0o123),
        lambda f: os.link(f / "a", f / "c"),
        lambda f: os.utime(f / "a", ns=(1, 1)),
    ],
)
def test_whatever_changes_in_it_shows(folder, change):
    os.utime(folder / "a", ns=(5, 5))
    before = look_of(folder)
    change(folder)
    assert look_of(folder) != before


def test_rules_and_paths_are_part_of_a_look(folder):
    looks = {look_of(folder), look_of(folder, rules=b"x"), look_of(folder, path=b"other")}
    assert len(looks) == 3


def test_the_device_counts_only_where_files_have_several_names(folder):
    listing = listing_of(folder)
    looks = Looks(KEYS, None, b"", RULES)
    before = looks.of(b"f", listing, b"")
    listing.dev += 1
    assert looks.of(b"f", listing, b"") == before
    os.link(folder / "a", folder / "b")
    listing = listing_of(folder)
    before = looks.of(b"f", listing, b"")
    listing.dev += 1
    assert looks.of(b"f", listing, b"") != before


def test_looks_are_kept_with_their_snapshot_and_rules(tmp_path):
    saved(tmp_path, [(b"b", b"2" * 32), (b"a", b"1" * 32), (b"a", b"3" * 32)])
    looks = Looks(KEYS, tmp_path, PARENT, RULES)
    assert looks.is_known(b"a", b"1" * 32)
    assert looks.is_known(b"a", b"3" * 32)
    assert looks.is_known(b"b", b"2" * 32)
    assert not looks.is_known(b"b", b"1" * 32)
    assert not looks.is_known(b"c", b"1" * 32)
    looks.close()
    assert not looks.is_known(b"a", b"1" * 32)
    for other in (
        Looks(KEYS, tmp_path, b"q" * 32, RULES),
        Looks(KEYS, tmp_path, PARENT, b"other rules"),
        Looks(KEYS, tmp_path, b"", RULES),
        Looks(KEYS, None, PARENT, RULES),
        Looks(VaultKeys.from_master(Secret(b"x" * 32)), tmp_path, PARENT, RULES),
    ):
        assert not other.is_known(b"a", b"1" * 32)


def test_looks_of_another_snapshot_under_this_name_do_not_count(tmp_path):
    saved(tmp_path, [(b"a", b"1" * 32)], parent=PARENT[:16] + b"x" * 16)
    assert not Looks(KEYS, tmp_path, PARENT, RULES).is_known(b"a", b"1" * 32)


def test_damaged_looks_do_not_count(tmp_path):
    saved(tmp_path, [(b"a", b"1" * 32)])
    (path,) = tmp_path.glob("*.tree")
    data = path.read_bytes()
    for bad in (b"", data[:-1], data[:30] + b"?" + data[31:]):
        path.write_bytes(bad)
        assert not Looks(KEYS, tmp_path, PARENT, RULES).is_known(b"a", b"1" * 32)


def test_few_tables_are_kept_the_newest(tmp_path):
    for n in range(12):
        saved(tmp_path, [(b"a", b"1" * 32)], parent=bytes([n]) * 32)
        os.utime(tmp_path / f"{bytes([n]).hex() * 16}.tree", ns=(n, n))
    kept = {path.name[:2] for path in tmp_path.glob("*.tree")}
    assert kept == {f"{n:02x}" for n in range(4, 12)}


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path):
    (tmp_path / "cache").write_bytes(b"a file in the way")
    saved(tmp_path / "cache", [(b"a", b"1" * 32)])
    saved(None, [(b"a", b"1" * 32)])


# --- before ---------------------------------------------------------------------------------------


@pytest.fixture
def before(tmp_path):
    vault = a_vault(tmp_path)
    docs = tmp_path / "docs"
    (docs / "below" / "deep").mkdir(parents=True)
    for name in ("a", "c", "e"):
        (docs / name).write_bytes(name.encode())
    (docs / "below" / "deep" / "x").write_bytes(b"x")
    snapshot = back_up(vault, docs, now_ns=NOW_NS)
    with Reader(vault.store, vault.keys, vault.cache) as reader:
        at = Before(reader, snapshot.record.root)
        for name in bytes(docs).strip(b"/").split(b"/"):
            at = at.below(name)
        yield at


def test_rows_are_found_by_the_way_to_them(before):
    assert [row[0] for row in before.rows_untrusted()] == [b"a", b"below", b"c", b"e"]
    deep = before.below(b"below").below(b"deep")
    assert [row[0] for row in deep.rows_untrusted()] == [b"x"]
    assert set(before.directories_untrusted()) == {b"below"}
    assert before.below(b"below").content_untrusted() == before.directories_untrusted()[b"below"]


def test_what_was_not_there_or_no_directory_has_no_rows(before):
    for name in (b"nothing", b"a"):
        below = before.below(name)
        assert below.content_untrusted() is None
        assert list(below.rows_untrusted()) == []
        assert list(below.below(b"x").rows_untrusted()) == []


def test_rows_are_taken_in_order(before):
    rows = RowsBefore(before)
    names = [b"0", b"a", b"b", b"c", b"d", b"e", b"f"]
    found = [rows.take(name) for name in names]
    assert [row and row[0] for row in found] == [None, b"a", None, b"c", None, b"e", None]
    assert RowsBefore(None).take(b"a") is None


def test_rows_that_were_lost_count_as_never_written(before):
    kept = before.content_untrusted()
    lost = Before(before._reader, Content(Form.PARTS, kept.data + bytes(32)))
    rows = RowsBefore(lost)
    assert rows.take(b"a")[0] == b"a"
    assert rows.take(b"e")[0] == b"e"
    assert rows.take(b"f") is None
    assert RowsBefore(Before(before._reader, Content(Form.PARTS, bytes(32)))).take(b"a") is None
