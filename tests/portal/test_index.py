import random
from dataclasses import replace

import pytest
import trio

from core import codec, envelope, limits
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat
from core.keys import VaultKeys
from core.labels import EnvelopeKind
from core.pieces import Chunk, Kind
from core.pipeline import open_packer
from core.secret import Secret
from portal.index import Index, PackFacts, open_delta_untrusted, seal_delta
from portal.session import Session
from tests.support.damage import assert_all_refused
from tests.support.vaults import NOW_NS, a_vault, back_up, fixed, opened

KEYS = VaultKeys.from_master(Secret(bytes(range(32))))
FACTS = PackFacts(b"n" * 32, b"s" * 32, 1 << 20, b"an index")


def put(vault, *contents, flush=True):
    """Each content a pack of its own; the tags."""

    async def bring():
        chunks = [Chunk.of_piece(Kind.SMALL_FILE, content) for content in contents]
        with Session(vault) as session:
            for chunk in chunks:
                assert not session.known(Kind.SMALL_FILE, chunk.tag)
                async with open_packer(session.pack_keys, session.deliver, threads=1) as packer:
                    await packer.put(chunk)
            if flush:
                session.flush()
        return [chunk.tag for chunk in chunks]

    return trio.run(bring)


def an_index(vault, **options):
    index = Index(vault.store, vault.keys, vault.cache)
    index.refresh(vault.store.pack_names(), **options)
    return index


def answers(vault, tags, **options):
    index = an_index(vault, **options)
    places = [index.find(Kind.SMALL_FILE, tag) for tag in tags]
    index.close()
    return places


def tables(vault):
    return sorted(vault.cache.glob("*.index"))


# --- deltas -------------------------------------------------------------------------------------


def test_a_delta_round_trips():
    facts = [FACTS, replace(FACTS, name=b"m" * 32)]
    assert open_delta_untrusted(seal_delta(KEYS, facts), KEYS) == facts
    assert open_delta_untrusted(seal_delta(KEYS, []), KEYS) == []


def test_any_damage_to_a_delta_is_noticed():
    assert_all_refused(lambda data: open_delta_untrusted(data, KEYS), seal_delta(KEYS, [FACTS]))


def sealed(row):
    return envelope.seal(KEYS.meta, EnvelopeKind.VAULT_INDEX, codec.encode(row))


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ((2, "?"), NewerFormat),
        ((0,), FormatError),
        ((), FormatError),
        ((1, ()), FormatError),
        ((1, (b"n" * 31, b"s" * 32, 1, b"")), FormatError),
        ((1, (b"n" * 32, b"s" * 31, 1, b"")), FormatError),
        ((1, (b"n" * 32, b"s" * 32, -1, b"")), FormatError),
        ((1, (b"n" * 32, b"s" * 32, 1 << 32, b"")), FormatError),
        ((1, (b"n" * 32, b"s" * 32, 1, "text")), FormatError),
        ((1, *[()] * 65_537), LimitExceeded),
    ],
)
def test_hostile_deltas_are_refused(row, error):
    with pytest.raises(error):
        open_delta_untrusted(sealed(row), KEYS)


# --- the same answers from everywhere -------------------------------------------------------------


def test_pieces_are_found_where_they_lie(tmp_path):
    vault = a_vault(tmp_path)
    tags = put(vault, b"one", b"three")
    index = an_index(vault)
    one, three = (index.find(Kind.SMALL_FILE, tag) for tag in tags)
    assert (one.length, three.length) == (3, 5)
    assert {one.pack, three.pack} == vault.store.pack_names()
    assert index.find(Kind.CUT, tags[0]) is None  # another kind is another piece
    assert index.find(Kind.SMALL_FILE, bytes(32)) is None
    assert index.find_key(index.key(Kind.SMALL_FILE, tags[0])) == one
    assert list(index.find_all(Kind.SMALL_FILE, tags[1])) == [three]


@pytest.mark.parametrize("how", ["kept", "deleted", "cut", "flipped", "foreign", "unwritable"])
def test_whatever_happens_to_the_cache_the_answers_are_the_same(tmp_path, how):
    vault = a_vault(tmp_path)
    tags = put(vault, *(b"%d" % n for n in range(5))) + put(vault, b"more")
    expected = answers(vault, tags, trust_cache=False)
    assert None not in expected
    found = tables(vault)
    assert found
    for path in found:
        data = path.read_bytes()
        if how == "deleted":
            path.unlink()
        elif how == "cut":
            path.write_bytes(data[:-1])
        elif how == "flipped":
            path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
        elif how == "foreign":
            path.write_bytes(b"PTVT\x02" + data[5:])
    if how == "unwritable":
        for path in found:
            path.unlink()
        vault.cache.rmdir()
        vault.cache.write_bytes(b"a file in the way")
    assert answers(vault, tags) == expected
    vault.cache = None
    assert answers(vault, tags) == expected


def test_what_the_cache_says_of_deltas_that_are_gone_does_not_count(tmp_path):
    vault = a_vault(tmp_path)
    tags = put(vault, b"one")
    old = [(path, path.read_bytes()) for path in tables(vault)]
    vault.store.remove_deltas(vault.store.delta_names())
    (pack,) = vault.store.pack_names()
    vault.store.move_to_trash([pack], 1, 1)
    assert answers(vault, tags) == [None]
    assert not tables(vault)
    for path, data in old:  # as if it had come back from a backup of the cache
        path.write_bytes(data)
    assert answers(vault, tags) == [None]


def test_lost_deltas_are_made_up_for_by_the_packs(tmp_path):
    vault = a_vault(tmp_path)
    tags = put(vault, b"one", b"two")
    expected = answers(vault, tags)
    vault.store.remove_deltas(vault.store.delta_names())
    index = an_index(vault)
    assert index.unlisted == vault.store.pack_names()
    assert [index.find(Kind.SMALL_FILE, tag) for tag in tags] == expected
    with Session(vault) as session:
        assert session.is_whole
        session.flush()
    index = an_index(vault)
    assert not index.unlisted
    assert index.listed == vault.store.pack_names()


def test_a_pack_killed_before_its_delta_is_used(tmp_path):
    vault = a_vault(tmp_path)
    tags = put(vault, b"one", flush=False)
    assert not vault.store.delta_names()
    assert None not in answers(vault, tags)
    with Session(opened(tmp_path)) as session:
        assert session.known(Kind.SMALL_FILE, tags[0])


@pytest.mark.parametrize("how", ["flipped", "cut", "a fifo's"])
def test_damaged_deltas_are_told_and_made_up_for(tmp_path, how):
    vault = a_vault(tmp_path)
    tags = put(vault, b"one")
    (name,) = vault.store.delta_names()
    path = vault.store.path / "index" / name
    data = path.read_bytes()
    path.unlink()
    if how == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "cut":
        path.write_bytes(data[:10])
    else:
        path.mkdir()
    index = an_index(vault, trust_cache=False)
    assert str(path) in str(index.damaged[name])
    assert index.find(Kind.SMALL_FILE, tags[0]) is not None


def test_damaged_and_unlisted_packs_are_told(tmp_path):
    vault = a_vault(tmp_path)
    tags = put(vault, b"one", flush=False)
    (pack,) = vault.store.pack_names()
    path = vault.store.path / "packs" / pack.hex()
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    index = an_index(vault)
    assert isinstance(index.damaged[pack.hex()], (FormatError, IntegrityError))
    assert index.find(Kind.SMALL_FILE, tags[0]) is None
    with Session(vault) as session:
        assert not session.is_whole
        assert not session.known(Kind.SMALL_FILE, tags[0])


def test_packs_that_may_not_be_used_hold_nothing(tmp_path):
    vault = a_vault(tmp_path)
    tags = put(vault, b"one", b"two")
    packs = vault.store.pack_names()
    for trust in (True, False):
        index = an_index(vault, trust_cache=trust)
        gone = index.find(Kind.SMALL_FILE, tags[0]).pack
        index.refresh(packs - {gone}, trust_cache=trust)
        assert index.find(Kind.SMALL_FILE, tags[0]) is None
        assert index.find(Kind.SMALL_FILE, tags[1]) is not None
        assert index.listed == packs  # and so it is known that something is missing


def test_a_piece_in_several_packs_is_found_in_one_that_is_there(tmp_path):
    vault = a_vault(tmp_path)
    (tag,) = put(vault, b"same")
    (first,) = vault.store.pack_names()
    vault.store.move_to_trash([first], 1, 1)
    assert put(vault, b"same") == [tag]
    vault.store.take_back([first])
    index = an_index(vault)
    assert {p.pack for p in index.find_all(Kind.SMALL_FILE, tag)} == vault.store.pack_names()
    (second,) = vault.store.pack_names() - {first}
    index.refresh({second})
    assert index.find(Kind.SMALL_FILE, tag).pack == second


# --- others at work -------------------------------------------------------------------------------


def merged_by_another(vault):
    names = vault.store.delta_names()
    facts = [f for n in names for f in open_delta_untrusted(vault.store.read_delta(n), vault.keys)]
    new = vault.store.put_delta(seal_delta(vault.keys, facts))
    vault.store.remove_deltas(names)
    return new


def test_deltas_merged_while_they_are_read_are_found_again(tmp_path, monkeypatch):
    vault = a_vault(tmp_path)
    tags = [tag for n in range(4) for tag in put(vault, b"%d" % n)]
    read, others = vault.store.read_delta, opened(tmp_path)
    seen = []

    def read_after_a_merge(name):
        if len(seen) == 1:
            seen.append(merged_by_another(others))
        seen.append(name)
        return read(name)

    monkeypatch.setattr(vault.store, "read_delta", read_after_a_merge)
    index = an_index(vault, trust_cache=False)
    assert None not in [index.find(Kind.SMALL_FILE, tag) for tag in tags]
    assert index.listed == vault.store.pack_names()
    assert not index.damaged
    assert not index.unlisted


def test_a_name_that_leads_nowhere_is_not_waited_for(tmp_path):
    vault = a_vault(tmp_path)
    tags = put(vault, b"one")
    (vault.store.path / "index" / ("0" * 32)).symlink_to("nowhere")
    assert None not in answers(vault, tags, trust_cache=False)


def test_a_table_cleared_by_another_process_as_soon_as_it_is_there_costs_nothing(
    tmp_path, monkeypatch
):
    from portal import index as module

    vault = a_vault(tmp_path)
    write = module.write_table

    def write_and_lose(path, *args):
        write(path, *args)
        path.unlink()

    monkeypatch.setattr(module, "write_table", write_and_lose)
    tags = put(vault, b"one")
    assert None not in answers(vault, tags)


def test_tables_of_several_processes_go_together(tmp_path):
    one, two = a_vault(tmp_path), opened(tmp_path)
    with Session(one), Session(two):
        tags = put(one, b"by one") + put(two, b"by two")
    assert len(tables(one)) == 2
    index = an_index(one)
    assert len(index._tables) == 2
    assert index.pending_count == 0
    assert None not in [index.find(Kind.SMALL_FILE, tag) for tag in tags]


# --- much -----------------------------------------------------------------------------------------


def test_many_pieces_go_to_tables_as_they_are_read(tmp_path, monkeypatch):
    vault = a_vault(tmp_path)
    tags = [tag for n in range(6) for tag in put(vault, b"%d" % n, b"%d!" % n)]
    expected = answers(vault, tags)
    monkeypatch.setattr(limits, "TABLE_ROWS_PENDING_MAX", 3)
    for path in tables(vault):
        path.unlink()
    index = an_index(vault)
    assert len(index._tables) == 3
    assert index.pending_count == 0
    assert [index.find(Kind.SMALL_FILE, tag) for tag in tags] == expected
    assert answers(vault, tags) == expected


def test_very_many_unlisted_packs_are_listed_in_deltas_of_bounded_length(tmp_path, monkeypatch):
    vault = a_vault(tmp_path)
    tags = put(vault, *(b"%d" % n for n in range(7)), flush=False)
    monkeypatch.setattr(limits, "DELTA_BYTES_TARGET", 300)
    with Session(vault) as session:
        session.flush()
    counts = [
        len(open_delta_untrusted(vault.store.read_delta(name), vault.keys))
        for name in vault.store.delta_names()
    ]
    assert sorted(counts) == [1, 3, 3]
    vault.cache = None
    assert None not in answers(vault, tags)


@pytest.mark.slow
def test_a_thousand_files_are_found_through_any_mix_of_tables_and_deltas(tmp_path):
    rng = random.Random(5)
    vault = a_vault(tmp_path)
    docs = tmp_path / "docs"
    docs.mkdir()
    for run in range(6):
        for n in range(150):
            (docs / f"{run}-{n}").write_bytes(fixed(f"{run}-{n}", rng.randrange(1, 2000)))
        back_up(vault, docs, now_ns=NOW_NS + run)
        for path in tables(vault):
            if rng.random() < 0.4:
                path.unlink()
    tags = [
        piece.tag
        for name in vault.store.delta_names()
        for facts in open_delta_untrusted(vault.store.read_delta(name), vault.keys)
        for piece in facts.decoded_untrusted().all_pieces()
        if piece.kind is Kind.SMALL_FILE
    ]
    assert len(tags) == 900
    expected = answers(vault, tags, trust_cache=False)
    assert None not in expected
    assert answers(vault, tags) == expected
