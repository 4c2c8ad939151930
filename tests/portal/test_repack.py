"""Pieces sealed again: only the wanted ones, all of them, in fewer and fuller chunks."""

from functools import partial

import pytest
import trio

from core import limits
from core.errors import IntegrityError
from core.pieces import Kind
from portal.index import namer
from portal.live import Catalogue
from portal.reader import Reader
from portal.repack import Bundles, pieces_again, repack
from portal.session import Session
from tests.support.keeping import files, flip, run_check
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed


def many_runs(tmp_path, runs):
    vault = a_vault(tmp_path)
    docs = tmp_path / "docs"
    for n in range(runs):
        files(docs, **{f"f{n}": fixed(str(n), 9_000)})
        back_up(vault, docs, now_ns=NOW_NS + n * 10**9)
    return vault


def run_repack(vault, packs, wanted):
    with Session(vault) as session, Reader(vault.store, vault.keys, None) as reader:
        work = partial(repack, session, reader, sorted(packs), wanted, namer(vault.keys))
        return trio.run(work)


def pieces_in(vault, packs):
    listed = Catalogue(vault.store, vault.keys).listed(packs)
    return [(kind, tag) for _, index in listed for tag, kind, *_ in index.all_pieces()]


def test_everything_again_comes_together(tmp_path):
    vault = many_runs(tmp_path, 6)
    old = vault.store.pack_names()
    assert len(old) == 6
    fresh, keys = run_repack(vault, old, lambda _pack, _piece: True)
    assert len(fresh) == 1
    assert vault.store.pack_names() == old | fresh
    assert sorted(pieces_in(vault, fresh)) == sorted(pieces_in(vault, old))
    assert keys == {namer(vault.keys)(kind, tag) for kind, tag in pieces_in(vault, old)}
    (listed,) = Catalogue(vault.store, vault.keys).listed(fresh)
    assert [row.kind for row in listed[1].chunks] == [Kind.BUNDLE, Kind.BUNDLE]
    assert run_check(vault).exit_code == 0
    assert run_check(vault).unlisted_packs == 0


def test_metadata_and_contents_are_bundled_apart(tmp_path):
    vault = many_runs(tmp_path, 4)
    fresh, _ = run_repack(vault, vault.store.pack_names(), lambda _pack, _piece: True)
    ((_, index),) = Catalogue(vault.store, vault.keys).listed(fresh)
    kinds = [{piece.kind for piece in index.pieces(chunk)} for chunk in range(2)]
    assert {Kind.SMALL_FILE} in kinds
    assert {Kind.DIRECTORY, Kind.SNAPSHOT} in kinds


def test_only_what_is_wanted(tmp_path):
    vault = many_runs(tmp_path, 4)
    old = vault.store.pack_names()
    fresh, _ = run_repack(vault, old, lambda _pack, piece: piece.kind is Kind.SMALL_FILE)
    assert {kind for kind, _ in pieces_in(vault, fresh)} == {Kind.SMALL_FILE}
    assert len(pieces_in(vault, fresh)) == 4
    assert run_repack(vault, old, lambda _pack, _piece: False) == (set(), set())


def test_damage_ends_it_before_it_is_sealed_as_whole(tmp_path):
    vault = many_runs(tmp_path, 1)
    (name,) = vault.store.pack_names()
    flip(vault.store.path / "packs" / name.hex(), 5_000)
    with Reader(vault.store, vault.keys, None) as reader, pytest.raises(IntegrityError):
        list(pieces_again(reader, [name], lambda _pack, _piece: True))


def test_bundles_close_when_full_and_large_pieces_go_alone():
    bundles, chunks = Bundles(), []
    small = [fixed(str(n), 300_000) for n in range(4)]
    large = fixed("large", limits.SMALL_FILE_BYTES_MAX + 1)
    for data in (*small, large):
        for batch in bundles.add(Kind.CUT, memoryview(data)):
            chunks += batch
    for batch in bundles.rest():
        chunks += batch
    assert [(chunk.kind, len(chunk.data)) for chunk in chunks] == [
        (Kind.BUNDLE, 900_000),
        (Kind.CUT, len(large)),
        (Kind.CUT, 300_000),
    ]
