"""The bytes of a vault are what portal/SPEC.md says: frozen values, and a reader of nothing else.

A test that fails here is a format break, or the specification does not say what the code does.
"""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from core import codec, envelope
from core.ids import VaultId
from core.keys import VaultKeys
from core.labels import EnvelopeKind
from core.pieces import Kind
from core.secret import Secret
from core.tree.entry import TIME_NS_MIN, Entry, EntryType
from portal.config import VaultConfig
from portal.forget import forget
from portal.head import Head, Record, Snapshot, Totals, head_hash
from portal.index import PackFacts, open_delta_untrusted, seal_delta
from portal.manifest import (
    HOLE,
    NO_CONTENT,
    Content,
    Extent,
    Form,
    encode_extents,
    encode_part,
    extents_untrusted,
    node_untrusted,
    row_of,
    rows_untrusted,
    split_parts,
)
from portal.vault import Vault, live_set_root
from tests.support import stranger_vault as stranger
from tests.support.entropy import fixed_entropy
from tests.support.identity import a_person
from tests.support.keeping import run_gc
from tests.support.snapshots import a_shelf, directory_row, file_row
from tests.support.strange_trees import ODD_NAMES, can_set_xattr
from tests.support.stranger_keys import fields
from tests.support.stranger_vault import Node, StrangerVault
from tests.support.trees import Facts, look
from tests.support.vaults import NOW_NS, VAULT, a_vault, an_author, back_up, fixed

GOLDEN = "vault.json"
MASTER = bytes(range(32))
KEYS = VaultKeys.from_master(Secret(MASTER))
TIME_NS = 1_795_000_000_123_456_789
TAGS = [fixed(f"tag {n}", 32) for n in range(8)]


# --- frozen values --------------------------------------------------------------------------------


def golden_config() -> VaultConfig:
    return VaultConfig.new(VAULT, an_author().node, 1_795_000_000)


def golden_rows():
    def file(name: bytes, size: int, content: Content, **more):
        link = more.pop("link", b"")
        recent = more.pop("recent", False)
        entry = Entry(name, EntryType.FILE, 0o644, 1000, 100, "ann", "users", TIME_NS, size)
        entry = entry._replace(ino=4_242, ctime_ns=TIME_NS + 5, **more)
        return row_of(entry, content, link=link, recent=recent)

    def other(name: bytes, kind: EntryType, **more):
        content = more.pop("content", NO_CONTENT)
        return row_of(Entry(name, kind, 0o4755, mtime_ns=-1, **more), content)

    holes = [Extent(700_000, TAGS[1]), Extent(1 << 33, HOLE), Extent(3, TAGS[2])]
    lists = [Extent(1 << 40, TAGS[3]), Extent(5, TAGS[4])]
    xattrs = ((b"user.note", b"\0\1"), (b"user.other", b""))
    return [
        file(b"a small file", 300, Content(Form.SMALL, TAGS[0])),
        file(b"an empty file", 0, NO_CONTENT, mtime_ns=TIME_NS_MIN),
        other(b"block", EntryType.BLOCK, rdev=(8, 1)),
        other(b"character", EntryType.CHARACTER, rdev=(1, 3)),
        file(b"cuts", (1 << 33) + 700_003, Content(Form.CUTS, encode_extents(holes))),
        other(b"d", EntryType.DIRECTORY, content=Content(Form.PARTS, TAGS[5] + TAGS[6])),
        other(b"e", EntryType.DIRECTORY, content=Content(Form.PARTS, b"")),
        other(b"fifo", EntryType.FIFO),
        file(b"linked", 1, Content(Form.SMALL, TAGS[0]), link=bytes(range(16))),
        file(b"lists", (1 << 40) + 5, Content(Form.CUT_LISTS, encode_extents(lists))),
        other(b"long", EntryType.DIRECTORY, content=Content(Form.PART_LISTS, TAGS[7])),
        file(b"recent", 9, Content(Form.SMALL, TAGS[0]), recent=True),
        other(b"symlink", EntryType.SYMLINK, target=b"../\xff"),
        file(b"\xffattributes", 2, Content(Form.SMALL, TAGS[0]), xattrs=xattrs),
    ]


def golden_record() -> Record:
    return Record(
        time_ns=TIME_NS,
        end_ns=TIME_NS + 1_500_000_000,
        host="h\u00f4te",
        user="ann",
        paths=(b"/home/ann/docs", b"/srv/\xff"),
        parent=TAGS[0],
        root=Content(Form.PARTS, TAGS[1]),
        totals=Totals(1, 2, 3, 4_000_000_000, 5, 6, 7),
        errors_count=201,
        errors=((b"home/ann/docs/x", "Permission denied"),),
        rules=TAGS[2],
        program="0.1.0",
    )


def golden_head(*snapshots: Snapshot, seq: int = 1, prev: bytes = bytes(32)) -> Head:
    author = an_author()
    head = Head(vault=VAULT, user=author.user, device=author.node)
    head = replace(head, incarnation=0, seq=seq, prev=prev, trash_gen=3)
    return replace(head, live_set_root=live_set_root({*TAGS})).with_snapshots(snapshots)


def signed(head: Head) -> bytes:
    author = an_author()
    return head.signed(KEYS, author.signing, author.cert, fixed_entropy("head"))


def golden_heads() -> tuple[bytes, bytes]:
    """An empty one, and the next with a snapshot that its owner has said something about."""
    first = signed(golden_head())
    one = Snapshot.of(golden_record(), ("tax", "2026"), pinned=True)
    return first, signed(golden_head(one, seq=2, prev=head_hash(first)))


def many_snapshots() -> list[Snapshot]:
    """So alike that they are worth compressing."""
    records = [replace(golden_record(), time_ns=TIME_NS + n) for n in range(20)]
    snapshots = [Snapshot.of(record) for record in records]
    return [replace(s, forgotten_s=n and 77, forgotten_gen=n) for n, s in enumerate(snapshots)]


def golden_facts(golden) -> list[PackFacts]:
    """The pack of core's own vectors."""
    name, salt, index = (bytes.fromhex(golden("pack.json")[k]) for k in ("name", "salt", "index"))
    return [PackFacts(name, salt, 256 << 10, index)]


def name_byte(name: bytes) -> int:
    """What decides whether a part may end after a name."""
    return stranger.tag_of(4, name)[0]


def long_directories() -> dict[str, list[bytes]]:
    """Names of which some may end a part, few may, and none may."""
    names = [b"name %04d" % n for n in range(6_000)]
    return {
        "any": names[:3_000],
        "only 15 and above": [name for name in names if name_byte(name) >= 15],
        "only 16 and above": [name for name in names if name_byte(name) >= 16],
    }


def first_names(names: list[bytes]) -> list[str]:
    """Of the parts of a directory; every row of it counts as 232 bytes."""
    content = Content(Form.SMALL, TAGS[0])
    rows = [row_of(Entry(name, EntryType.FILE, size=1), content) for name in names]
    return [part[0][0].decode() for part in split_parts(rows)]


def hexes(data) -> bytes:
    return bytes.fromhex("".join(data))


def test_a_config_is_the_frozen_bytes(golden):
    config = golden_config()
    data = config.sealed(KEYS, fixed_entropy("config"))
    assert data == hexes(golden(GOLDEN)["config"])
    assert VaultConfig.open_untrusted(data, KEYS) == config
    read = stranger.read_config(data, stranger.keys_of(MASTER))
    assert read == (VAULT, config.name.node, 0, "seqcdc-1m-1", 1_795_000_000)


def test_heads_are_the_frozen_bytes(golden):
    author, keys = an_author(), stranger.keys_of(MASTER)
    first, second = (hexes(data) for data in golden(GOLDEN)["heads"])
    assert (first, second) == golden_heads()
    assert Head.open_untrusted(first, KEYS, VAULT, author.user) == golden_head()
    opened = Head.open_untrusted(second, KEYS, VAULT, author.user)
    assert opened.prev == head_hash(first) == stranger.head_hash(first)
    read = stranger.read_head(second, keys, VAULT)
    assert read[:5] == (author.user, author.node, (0, 2), opened.prev, opened.live_set_root)
    assert read.live_set_root == stranger.live_set_root({*TAGS}) != bytes(32)
    assert read.trash_gen == 3
    assert stranger.read_head(first, keys, VAULT).snapshots == []
    (found,) = read.snapshots
    (expected,) = opened.snapshots
    assert (found.id, found.tags, found.pinned) == (expected.id, ["tax", "2026"], True)
    assert (found.forgotten_s, found.forgotten_gen) == (0, 0)
    assert found.record == fields(golden_record().encoded())


def test_a_head_of_many_snapshots_is_read_from_its_frozen_bytes(golden):
    data = hexes(golden(GOLDEN)["compressed head"])
    snapshots = many_snapshots()
    opened = Head.open_untrusted(data, KEYS, VAULT, an_author().user)
    assert opened == golden_head(*snapshots)
    read = stranger.read_head(data, stranger.keys_of(MASTER), VAULT).snapshots
    assert [s.id for s in read] == [s.id for s in snapshots]
    assert [s.forgotten_s for s in read] == [0] + 19 * [77]
    assert [s.forgotten_gen for s in read] == list(range(20))
    assert len(data) < len(golden_record().encoded()) * 20  # it was worth it


def test_a_record_is_the_frozen_bytes(golden):
    record = golden_record()
    data = hexes(golden(GOLDEN)["record"])
    assert record.encoded() == data
    assert Record.decode_untrusted(data) == record
    assert stranger.tag_of(5, data) == Snapshot.of(record).id
    assert Snapshot.of(record).id.hex() == golden(GOLDEN)["record id"]


def test_a_delta_is_the_frozen_bytes(golden):
    data, facts = hexes(golden(GOLDEN)["delta"]), golden_facts(golden)
    assert open_delta_untrusted(data, KEYS) == facts
    plain = opened_delta(data)
    assert opened_delta(seal_delta(KEYS, facts)) == plain
    sealed = envelope.seal(
        KEYS.meta, EnvelopeKind.VAULT_INDEX, plain, entropy=fixed_entropy("delta")
    )
    assert sealed == data
    ((name, salt, size, index),) = stranger.read_delta(data, stranger.keys_of(MASTER))
    assert PackFacts(name, salt, size, index) == facts[0]


def opened_delta(data: bytes) -> bytes:
    return envelope.open_untrusted(KEYS.meta, EnvelopeKind.VAULT_INDEX, data)


def test_a_part_of_a_directory_is_the_frozen_bytes(golden):
    rows = golden_rows()
    data = hexes(golden(GOLDEN)["part"])
    assert encode_part(rows) == data
    assert list(rows_untrusted(data)) == rows
    assert {node_untrusted(row, b"").content.form for row in rows} == set(Form)
    read = stranger.read_part(data)
    assert read == fields(codec.encode((1, *rows)))[1:]
    assert stranger.tag_of(4, data).hex() == golden(GOLDEN)["part tag"]


def test_a_list_of_cuts_is_the_frozen_bytes(golden):
    extents = [Extent(1 << 20, TAGS[0]), Extent(1 << 50, HOLE), Extent(1, TAGS[1])]
    data = hexes(golden(GOLDEN)["cut list"])
    assert encode_extents(extents) == data
    assert extents_untrusted(data) == stranger.read_extents(data) == extents


def test_long_directories_are_cut_where_they_always_were(golden):
    frozen = golden(GOLDEN)["first names of parts"]
    for name, names in long_directories().items():
        assert first_names(names) == frozen[name] == as_the_page_says(names)
        assert len(frozen[name]) >= 2


def as_the_page_says(names: list[bytes]) -> list[str]:
    first, size, found = True, 0, list[str]()
    for name in names:
        if first:
            found.append(name.decode())
        size += 128 + len(name) + 32
        first = size >= 96 << 10 and (size >= 640 << 10 or name_byte(name) < 16)
        size = 0 if first else size
    return found


# --- whole vaults ---------------------------------------------------------------------------------


def a_tree(place: Path) -> Path:
    """Something of every type and every form that a backup makes of it."""
    place.mkdir()
    (place / "small").write_bytes(b"small\n" * 100)
    (place / "same").write_bytes(b"small\n" * 100)
    (place / "empty").touch()
    (place / "large").write_bytes(fixed("large", 2_500_000))
    with (place / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(fixed("island", 10_000))
        file.seek(9 << 20)
        file.write(fixed("long island", 1_300_000))
        file.truncate(20 << 20)
    os.link(place / "large", place / "large again")
    (place / "link").symlink_to("../\udcff nowhere")
    os.mkfifo(place / "fifo", 0o640)
    (place / "no names").mkdir(mode=0o700)
    names = place / "names"
    names.mkdir()
    for name in ODD_NAMES:
        Path(os.fsdecode(os.fsencode(names) + b"/" + name)).write_bytes(name)
    many = place / "many"
    many.mkdir()
    for number in range(1_000):
        (many / f"{number:05}").touch()
    if can_set_xattr(place, "user.note"):
        os.setxattr(place / "small", "user.note", b"\0binary")
        os.setxattr(names, "user.empty", b"")
    return place


def master(seed: str = "person", vault: VaultId = VAULT) -> bytes:
    return a_person(seed).vault_master(vault, 0).reveal()


def assert_reads(read: StrangerVault, number: int, source: Path) -> None:
    """The stranger finds what lies there, and the way to it, and nothing else."""
    tree = read.tree(read.head.snapshots[number])
    above = os.fsencode(source).lstrip(b"/")
    ways = {above.rsplit(b"/", n)[0] for n in range(1, above.count(b"/") + 1)}
    wanted = {above + b"/" + path if path else above: f for path, f in look(source).items()}
    assert tree.keys() == wanted.keys() | ways
    names: dict[bytes, set[bytes]] = {}
    for path, node in tree.items():
        if node.link:
            names.setdefault(node.link, set()).add(path[len(above) + 1 :])
    for path, facts in wanted.items():
        node = tree[path]
        assert facts_of(node, frozenset(names.get(node.link, ()))) == replace(facts, content="")
        if stat.S_ISREG(facts.type):
            assert read.content(node) == Path("/", os.fsdecode(path)).read_bytes()


_FORMATS = {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFLNK, 5: stat.S_IFIFO}


def facts_of(node: Node, names: frozenset[bytes]) -> Facts:
    assert node.rdev == (0, 0)
    return Facts(
        type=_FORMATS[node.type],
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        mtime_ns=node.mtime,
        size=node.size,
        target=node.target,
        xattrs=tuple((os.fsdecode(name), value) for name, value in node.xattrs),
        names=names,
    )


@pytest.mark.slow
def test_a_stranger_reads_a_vault_that_backups_made(tmp_path):
    vault, source = a_vault(tmp_path), a_tree(tmp_path / "tree")
    first = back_up(vault, source)
    before = StrangerVault(vault.store.path, master())
    assert_reads(before, 0, source)
    assert before.live_set_root_holds()

    (source / "empty").write_bytes(b"not any more")
    (source / "many" / "00500").unlink()
    second = back_up(vault, source, now_ns=NOW_NS + 10**9, tags=("later",))
    third = back_up(vault, source, now_ns=NOW_NS + 2 * 10**9)
    for by_deltas in (True, False):
        read = StrangerVault(vault.store.path, master(), by_deltas=by_deltas)
        assert [s.id for s in read.head.snapshots] == [first.id, second.id, third.id]
        assert [s.tags for s in read.head.snapshots] == [[], ["later"], []]
        assert read.live_set_root_holds()
        assert_reads(read, 1, source)
        assert_reads(read, 2, source)
        old = read.tree(read.head.snapshots[0])
        assert old.keys() == before.tree(before.head.snapshots[0]).keys()


def test_a_run_without_changes_writes_one_small_head_and_nothing_else(tmp_path):
    vault, source = a_vault(tmp_path), tmp_path / "tree"
    source.mkdir()
    (source / "file").write_bytes(b"x")
    back_up(vault, source)
    before = files_of(vault)
    again = back_up(vault, source, now_ns=NOW_NS + 10**9)
    new = files_of(vault) - before
    assert new == {b"heads/00000000-0000000000000002"}
    read = StrangerVault(vault.store.path, master())
    assert read.head.snapshots[1].id == again.id
    assert read.head.snapshots[1].record[6] == read.head.snapshots[0].id
    assert read.records() == {read.head.snapshots[0].id}


def files_of(vault: Vault) -> set[bytes]:
    top = os.fsencode(vault.store.path)
    return {
        os.path.join(folder, name)[len(top) + 1 :]  # noqa: PTH118 - names are bytes
        for folder, _, names in os.walk(top)
        for name in names
    }


def test_a_stranger_reads_lists_of_lists(tmp_path):
    """Forms that only files and directories of a size no test has come to."""
    vault = a_vault(tmp_path)
    parts, data = [b"one", b"two" * 50, b"three"], b"onetwo" + b"two" * 49 + bytes(70) + b"three"
    with a_shelf(vault) as shelf:
        cuts = [Extent(len(part), shelf.put(Kind.CUT, part)) for part in parts]
        lists = [[cuts[0], cuts[1]], [Extent(70, HOLE), cuts[2]]]
        uppers = [
            Extent(sum(e.length for e in below), shelf.put(Kind.CUT_LIST, encode_extents(below)))
            for below in lists
        ]
        content = Content(Form.CUT_LISTS, encode_extents(uppers))
        rows = [[file_row(b"a", content, len(data))], [file_row(b"b", NO_CONTENT, 0)]]
        tags = b"".join(shelf.put(Kind.DIRECTORY, encode_part(part)) for part in rows)
        folder = Content(Form.PART_LISTS, shelf.put(Kind.CUT_LIST, tags))
        shelf.commit(shelf.directory([directory_row(b"d", folder)]))
    read = StrangerVault(vault.store.path, master())
    tree = read.tree(read.head.snapshots[0])
    assert list(tree) == [b"d", b"d/a", b"d/b"]
    assert read.content(tree[b"d/a"]) == data
    assert read.content(tree[b"d/b"]) == b""


def test_a_stranger_reads_what_a_collection_left(tmp_path):
    vault, source = a_vault(tmp_path), tmp_path / "tree"
    source.mkdir()
    (source / "kept").write_bytes(fixed("kept", 300_000))
    (source / "gone").write_bytes(fixed("gone", 300_000))
    first = back_up(vault, source)
    (source / "gone").unlink()
    back_up(vault, source, now_ns=NOW_NS + 10**9)
    forget(vault, {first.id}, NOW_NS // 10**9)
    done = run_gc(vault)
    assert done.trashed_packs
    read = StrangerVault(vault.store.path, master())
    assert [s.forgotten_s for s in read.head.snapshots] == [NOW_NS // 10**9, 0]
    assert read.head.trash_gen == 1
    assert read.live_set_root_holds()
    assert_reads(read, 1, source)
    (folder,) = (vault.store.path / "trash").iterdir()
    assert folder.name == f"{1:016x}-{NOW_NS // 10**9:012x}"
