"""Numbers: each of them by a vault where it is known beforehand."""

from portal.forget import forget
from portal.stats import stats
from tests.support.keeping import DAY_S, NOW_S, files, run_gc
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed


def test_an_empty_vault_has_no_numbers(tmp_path):
    found = stats(a_vault(tmp_path))
    assert (found.snapshots, found.pieces, found.pack_bytes, found.missing) == ((), 0, 0, 0)
    assert (found.dedup_ratio, found.compression_ratio, found.total_ratio) == (1.0, 1.0, 1.0)


def test_numbers_of_two_snapshots(tmp_path):
    vault = a_vault(tmp_path)
    docs = files(tmp_path / "docs", a=fixed("a", 40_000), twin=fixed("a", 40_000), b=bytes(90_000))
    first = back_up(vault, docs)
    (docs / "b").unlink()
    files(docs, c=fixed("c", 10_000))
    second = back_up(vault, docs, now_ns=NOW_NS + 10**9)
    found = stats(vault)
    assert [one.snapshot.id for one in found.snapshots] == [first.id, second.id]
    assert [one.restore_bytes for one in found.snapshots] == [170_000, 90_000]
    # What is unique to each: its own file, and its directories.
    assert 90_000 < found.snapshots[0].unique_bytes < 96_000
    assert 10_000 < found.snapshots[1].unique_bytes < 16_000
    assert found.restore_bytes == 260_000
    assert 140_000 < found.piece_bytes < 150_000
    assert found.live_bytes < 60_000
    assert found.dedup_ratio == 260_000 / found.piece_bytes
    assert found.compression_ratio == found.piece_bytes / found.live_bytes
    assert found.packs == ((256 * 1024, 2),)
    assert found.pack_bytes == 512 * 1024
    assert (found.missing, found.unused_bytes, found.trash_packs) == (0, 0, 0)
    only = stats(vault, [second])
    assert only.snapshots == found.snapshots[1:]


def test_the_trash_says_when_it_frees_what(tmp_path):
    vault = a_vault(tmp_path)
    docs = files(tmp_path / "docs", a=fixed("a", 40_000))
    first = back_up(vault, docs)
    files(docs, a=fixed("b", 40_000))
    back_up(vault, docs, now_ns=NOW_NS + 10**9)
    forget(vault, [first.id], NOW_S)
    assert stats(vault).unused_bytes > 40_000
    assert stats(vault).forgotten == 1
    run_gc(vault, NOW_S + 5)
    found = stats(vault)
    assert found.trash_frees == ((NOW_S + 5 + 7 * DAY_S, 256 * 1024),)
    assert (found.trash_packs, found.trash_bytes, found.unused_bytes) == (1, 256 * 1024, 0)


def test_what_is_missing_is_counted(tmp_path):
    vault = a_vault(tmp_path)
    back_up(vault, files(tmp_path / "docs", a=fixed("a", 40_000)))
    (name,) = vault.store.pack_names()
    with vault.store.commit_lock():
        vault.store.move_to_trash([name], 0, NOW_S)
    found = stats(vault)
    assert found.missing == found.pieces > 0
