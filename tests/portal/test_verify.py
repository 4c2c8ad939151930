import trio

from core.tree.entry import EntryType
from portal.browse import EVERYTHING, Scope, Selection, root_of
from portal.manifest import NO_CONTENT
from portal.plan import What
from portal.verify import verify_restored
from portal.writing import Account
from tests.support.restores import restore
from tests.support.snapshots import a_shelf, by_hand, directory_row, file_row
from tests.support.trees import Reports
from tests.support.vaults import a_vault

TREE = {b"d": {b"e": {b"deep": b"4"}, b"f": b"12"}, b"g": b"3", b"h": b"", b"i": b"five!"}


def verified(vault, snapshot, out, *, not_ours=(), select=EVERYTHING):
    reports = Reports()
    account = Account(b"", reports, lambda _deed, _path: None, lambda: None, kept_unseen=False)
    account.not_ours |= set(not_ours)
    what = What(
        top=root_of(snapshot.record),
        scope=Scope(snapshot.record),
        select=select,
        deletes=False,
        spared=frozenset(),
        protected=frozenset(),
    )
    with vault.reader() as reader:
        trio.run(verify_restored, reader, bytes(out), what, account)
    return account.progress.verified, sorted(path for path, _ in reports.all)


def test_every_file_that_is_not_as_it_should_be_is_told(tmp_path):
    vault, out = a_vault(tmp_path), tmp_path / "out"
    snapshot = by_hand(vault, TREE)
    restore(vault, snapshot, out)
    assert verified(vault, snapshot, out) == (5, [])
    (out / "d" / "f").write_bytes(b"1x")
    (out / "g").unlink()
    (out / "h").unlink()
    (out / "h").symlink_to("i")
    (out / "i").write_bytes(b"five! and more")
    assert verified(vault, snapshot, out) == (1, [b"d/f", b"g", b"h", b"i"])
    assert verified(vault, snapshot, out, select=Selection([b"d"])) == (1, [b"d/f"])


def test_what_is_known_not_to_be_of_the_snapshot_is_left_alone(tmp_path):
    vault, out = a_vault(tmp_path), tmp_path / "out"
    snapshot = by_hand(vault, TREE)
    restore(vault, snapshot, out)
    (out / "d" / "e" / "deep").write_bytes(b"x")
    assert verified(vault, snapshot, out, not_ours=[b"d", b"g"]) == (2, [])


def test_links_and_fifos_have_nothing_to_verify(tmp_path):
    vault, out = a_vault(tmp_path), tmp_path / "out"
    with a_shelf(vault) as shelf:
        rows = [
            directory_row(b"d", shelf.tree({b"f": b"1"})),
            file_row(b"l", NO_CONTENT, 0, type=EntryType.SYMLINK, target=b"x"),
        ]
        snapshot = shelf.commit(shelf.directory(rows))
    restore(vault, snapshot, out)
    assert verified(vault, snapshot, out) == (1, [])
