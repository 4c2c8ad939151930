import errno
import gc
import os
import struct
import tracemalloc
import weakref
from dataclasses import replace

import pytest
import zstandard

from core import limits
from core.archive.header import Body, Head
from core.archive.index import Index
from core.archive.keys import KeyFileOpener, PassphraseOpener, VaultOpener
from core.archive.reader import ArchiveReader, verify_entry_untrusted
from core.archive.table import HOLE, Extent, Stored
from core.archive.writer import ArchiveWriter
from core.compress import Codec, Mode
from core.errors import FormatError, IntegrityError, WrongKey
from core.pieces import Kind
from core.seal import Frame
from core.secret import Secret
from core.tree.entry import Entry, EntryType
from tests.support.archives import KEY_FILE, file_entry, make, make_by_hand, read_all
from tests.support.damage import damaged
from tests.support.entropy import fixed_entropy
from tests.support.identity import CHEAP

SOME = fixed_entropy("reader")
CONTENTS = {b"a": b"some text " * 20, b"sub/b": SOME(60), b"large": SOME(2100), b"empty": b""}
OPENERS = pytest.mark.parametrize("opener", [None, KEY_FILE], ids=["plain", "locked"])
REFUSED = (FormatError, IntegrityError)


def opened(data, opener=KEY_FILE):
    return ArchiveReader.open_untrusted(memoryview(data), [opener])


def resealed(data, index, **body_changes):
    """A plain archive with another index, all hashes made to fit: the work of its owner."""
    head = Head.read_untrusted(data)
    body = Body.open_untrusted(data, head, None)
    raw = b"".join(entry.to_bytes() for entry in index)
    changes = {"root": Index(raw).tree().root, "index_hash": Index(raw).hash()}
    header = replace(body, **changes | body_changes).sealed(head, None)
    return header + data[len(header) : body.index_off] + raw


def index_of(data):
    reader = opened(data)
    return [reader.index.entry_untrusted(n) for n in range(len(reader.index))]


@pytest.mark.parametrize(
    "opener",
    [None, KEY_FILE, VaultOpener(Secret(bytes(32))), PassphraseOpener(Secret(b"horse"), CHEAP)],
    ids=["plain", "key file", "vault", "passphrase"],
)
@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.OFF, Mode.LZ4])
def test_what_was_put_in_comes_out(tmp_path, opener, mode):
    path = make(tmp_path / "a", CONTENTS, opener, mode=mode)
    assert read_all(path.read_bytes(), [opener] if opener else []) == CONTENTS
    reader = ArchiveReader.open_file(path, [opener] if opener else [])
    assert reader.index.tree().root == reader.body.root
    assert reader.body.entry_count == len(CONTENTS)
    assert reader.body.content_bytes == sum(map(len, CONTENTS.values()))


@pytest.mark.slow
@OPENERS
def test_every_damage_is_refused_or_harmless(tmp_path, opener):
    data = make(tmp_path / "a", CONTENTS, opener).read_bytes()
    assert len(data) < 5000
    for how, bad in damaged(data):
        try:
            found = read_all(bad)
        except REFUSED:
            continue
        except Exception as e:  # noqa: BLE001 - any other exception is the finding
            pytest.fail(f"{how}: {type(e).__name__}: {e}")
        assert found == CONTENTS, how


@OPENERS
def test_every_file_but_the_damaged_ones_is_still_there(tmp_path, opener):
    data = bytearray(make(tmp_path / "a", CONTENTS, opener).read_bytes())
    data[256 + 100] ^= 1
    reader = opened(data)
    lost = []
    for stored in reader.entries_untrusted():
        for extent in stored.extents:
            try:
                reader.extent_untrusted(extent)
            except REFUSED:
                lost.append(stored.entry.path)
    assert 0 < len(set(lost)) < 3


@OPENERS
def test_chunks_that_change_places_are_refused(tmp_path, opener):
    contents = {b"large": SOME(3000)}
    data = bytearray(make(tmp_path / "a", contents, opener, mode=Mode.OFF).read_bytes())
    one, other = index_of(bytes(data))[:2]
    assert one.stored_len == other.stored_len
    size, (a, b) = one.stored_len, (one.offset, other.offset)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    reader = opened(data)
    for number in (0, 1):
        with pytest.raises(REFUSED):
            reader.chunk_untrusted(number)
    reader.chunk_untrusted(2)


def test_chunks_of_another_archive_under_the_same_key_are_refused(tmp_path):
    data = [
        bytearray(make(tmp_path / s, {b"f": b"x" * 50}, KEY_FILE, seed=s).read_bytes())
        for s in ("a", "b")
    ]
    one, other = index_of(bytes(data[0]))[0], index_of(bytes(data[1]))[0]
    assert one == other
    span = slice(one.offset, one.offset + one.stored_len)
    assert data[0][span] != data[1][span]
    data[0][span] = data[1][span]
    with pytest.raises(IntegrityError):
        opened(data[0]).chunk_untrusted(0)


@OPENERS
def test_index_entries_that_change_places_are_refused(tmp_path, opener):
    data = bytearray(make(tmp_path / "a", CONTENTS, opener).read_bytes())
    at = opened(bytes(data)).body.index_off + (44 if opener else 0)
    data[at : at + 56], data[at + 56 : at + 112] = data[at + 56 : at + 112], data[at : at + 56]
    with pytest.raises(IntegrityError):
        opened(data)


def test_an_index_that_points_elsewhere_is_refused(tmp_path):
    data = make(tmp_path / "a", CONTENTS, mode=Mode.OFF).read_bytes()
    index = index_of(data)
    first = index[0]
    for bad in (
        first._replace(offset=0),
        first._replace(offset=255),
        first._replace(offset=2**64 - 1),
        first._replace(offset=len(data)),
        first._replace(stored_len=first.stored_len + 1),
        first._replace(stored_len=0),
        first._replace(plain_len=first.plain_len + 1),
        first._replace(kind=Kind.SMALL_FILE),
        first._replace(tag=bytes(32)),
    ):
        reader = opened(resealed(data, [bad, *index[1:]]))
        with pytest.raises(REFUSED):
            reader.chunk_untrusted(0)
        reader.chunk_untrusted(1)
    for number in (len(index), 2**32 - 2):
        with pytest.raises(FormatError):
            opened(data).extent_untrusted(Extent(number, 0, 1))


def test_a_table_that_is_not_where_the_header_says_is_refused(tmp_path):
    data = make(tmp_path / "a", CONTENTS).read_bytes()
    index = index_of(data)
    for changes, words in (
        ({"table_chunks": 2}, "elsewhere"),
        ({"table_chunks": 0}, "as long as"),
        ({"entry_count": 3}, "as long as"),
    ):
        with pytest.raises(FormatError, match=words):
            read_all(resealed(data, index, **changes))
    assert read_all(resealed(data, index)) == CONTENTS


# --- files ------------------------------------------------------------------------------------


@OPENERS
def test_parts_of_files_and_holes(tmp_path, opener):
    extents = (Extent(0, 2, 3), Extent(HOLE, 0, 4), Extent(1, 0, 2))
    stored = Stored(file_entry(b"f", 9), extents)
    data = make_by_hand(tmp_path / "a", [b"abcdefg", b"xyz"], [stored], opener).read_bytes()
    assert read_all(data) == {b"f": b"cde\0\0\0\0xy"}
    for bad in (Extent(0, 5, 3), Extent(0, 8, 0), Extent(1, 2**32 - 1, 1), Extent(0, 0, 2**32 - 1)):
        with pytest.raises(FormatError):
            opened(data).extent_untrusted(bad)


def test_part_of_a_large_file_is_read_without_the_rest(tmp_path):
    data = bytearray(make(tmp_path / "a", {b"f": SOME(5000)}, mode=Mode.OFF).read_bytes())
    for entry in index_of(bytes(data))[:5]:
        if entry.offset != 256:
            data[entry.offset + 50] ^= 1
    reader = opened(data)
    (stored,) = reader.entries_untrusted()
    assert len(reader.extent_untrusted(stored.extents[0])) == 1000


def test_a_file_is_found_by_each_of_its_names(tmp_path):
    stored = [
        Stored(file_entry(b"f", 3), (Extent(0, 0, 3),)),
        Stored(file_entry(b"name"), (), b"f"),
        Stored(Entry(b"dir", EntryType.DIRECTORY)),
        Stored(file_entry(b"dir link"), (), b"dir"),
        Stored(file_entry(b"ring 1"), (), b"ring 2"),
        Stored(file_entry(b"ring 2"), (), b"ring 1"),
        Stored(file_entry(b"itself"), (), b"itself"),
        Stored(file_entry(b"nowhere"), (), b"none"),
        Stored(file_entry(b"far"), (), b"name"),
    ]
    reader = opened(make_by_hand(tmp_path / "a", [b"abc"], stored).read_bytes())
    assert reader.find_untrusted(b"f") == reader.find_untrusted(b"name") == stored[0]
    assert [reader.find_untrusted(p) for p in (b"dir", b"dir link", b"", b"F")] == [None] * 4
    for path in (b"ring 1", b"itself", b"nowhere", b"far"):
        with pytest.raises(FormatError, match="hard link"):
            reader.find_untrusted(path)


# --- proofs -----------------------------------------------------------------------------------


@OPENERS
def test_one_chunk_is_proved_by_the_root(tmp_path, opener):
    reader = opened(make(tmp_path / "a", CONTENTS, opener).read_bytes())
    root, count = reader.body.root, reader.body.chunk_count
    assert count > 3
    for number in range(count):
        raw, proof = reader.prove(number)
        entry = verify_entry_untrusted(root, count, number, raw, proof)
        assert entry == reader.index.entry_untrusted(number)
    raw, proof = reader.prove(1)
    for bad in (
        (root, count, 0, raw, proof),
        (root, count, count, raw, proof),
        (root, count, -1, raw, proof),
        (root, count * 2, 1, raw, proof),
        (root, 2, 1, raw, proof),
        (root, count, 1, raw[:-1] + b"\1", proof),
        (root, count, 1, bytes(56), proof),
        (root, count, 1, raw, proof[:-1]),
        (root, count, 1, raw, proof + bytes(32)),
        (root, count, 1, raw, bytes(len(proof))),
        (bytes(32), count, 1, raw, proof),
    ):
        with pytest.raises(REFUSED):
            verify_entry_untrusted(*bad)


# --- locks ------------------------------------------------------------------------------------


def test_a_locked_archive_shows_strangers_48_bytes_and_its_length(tmp_path):
    contents = {b"a secret name": b"a secret content " * 30, b"another one": b"a content"}
    plain = make(tmp_path / "a", contents, mode=Mode.OFF).read_bytes()
    locked = make(tmp_path / "b", contents, KEY_FILE, mode=Mode.OFF).read_bytes()
    body, index = opened(locked).body, index_of(locked)
    words = [b"secret", b"another", b"content", body.root, body.index_hash]
    words += [entry.tag for entry in index]
    words += [struct.pack(">Q", n) for n in (body.archive_len, body.index_off, body.table_off)]
    words += [struct.pack(">QQ", body.entry_count, body.content_bytes)]
    for word in words:
        assert word not in locked
    assert all(word in plain for word in words[:3])
    again = make(tmp_path / "c", contents, KEY_FILE, mode=Mode.OFF, seed="other").read_bytes()
    assert again[:16] == locked[:16]
    equal = sum(a == b for a, b in zip(again[16:], locked[16:], strict=True))
    assert equal < len(locked) / 50  # as many as chance gives


def test_a_wrong_key_is_told_apart_from_damage_and_says_what_is_needed(tmp_path):
    data = make(tmp_path / "a", CONTENTS, KEY_FILE).read_bytes()
    wrong = KeyFileOpener(Secret(bytes(32)))
    for openers in ([], [wrong], [VaultOpener(Secret(bytes(32)))], [wrong, wrong]):
        with pytest.raises(WrongKey) as caught:
            read_all(data, openers)
        assert "key file" in str(caught.value)
        assert "--key-file" in (caught.value.hint or "")
    assert read_all(data, [VaultOpener(Secret(bytes(32))), wrong, KEY_FILE]) == CONTENTS


def test_the_head_of_a_locked_archive_is_part_of_its_seal(tmp_path):
    data = bytearray(make(tmp_path / "a", {}, KEY_FILE).read_bytes())
    other = VaultOpener(Secret(bytes(32)))
    other.secret_untrusted = KEY_FILE.secret_untrusted
    data[5] = other.lock
    with pytest.raises(IntegrityError):
        opened(data, other)


# --- bombs ------------------------------------------------------------------------------------


def with_frame(path, frame, opener=None):
    writer = ArchiveWriter(path, opener, Mode.OFF, fixed_entropy("bomb"))
    writer.begin()
    writer.write(0, frame, writer.stored(frame))
    writer.finish([], 0, 0)
    return path.read_bytes()


def peak_of(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bomb_of(plain_bytes, *, states_its_length=True):
    params = zstandard.ZstdCompressionParameters(
        write_content_size=states_its_length, window_log=17
    )
    return zstandard.ZstdCompressor(compression_params=params).compress(bytes(plain_bytes))


@OPENERS
@pytest.mark.parametrize(
    ("claimed", "data"),
    [
        (16 * limits.MIB, b"\x28\xb5\x2f\xfd\x04"),
        (16 * limits.MIB, b""),
        (1000, bomb_of(8 * limits.MIB)),
        (1000, bomb_of(8 * limits.MIB, states_its_length=False)),
        (2**32 - 1, b"tiny"),
        (16 * limits.MIB + 1, bomb_of(16 * limits.MIB + 1)),
    ],
)
def test_bombs_are_refused_before_they_take_memory(tmp_path, opener, claimed, data):
    frame = Frame(Kind.CUT, bytes(32), Codec.ZSTD, claimed, data)
    archive = with_frame(tmp_path / "a", frame, opener)
    reader = opened(archive)

    def attempt():
        with pytest.raises(FormatError):
            reader.chunk_untrusted(0)

    attempt()
    assert peak_of(attempt) < 17 * limits.MIB
    if claimed <= 1000:
        assert peak_of(attempt) < limits.MIB


def test_an_index_too_large_for_its_file_takes_no_memory(tmp_path):
    data = make(tmp_path / "a", CONTENTS).read_bytes()
    bad = resealed(data, index_of(data), chunk_count=2**40)

    def attempt():
        with pytest.raises(FormatError, match="too large"):
            opened(bad)

    assert peak_of(attempt) < limits.MIB


# --- files on the disk ------------------------------------------------------------------------


def test_errors_name_the_file(tmp_path):
    path = make(tmp_path / "archive", CONTENTS)
    data = path.read_bytes()
    for bad in (b"", b"W", data[:300], b"other" + bytes(1000), bytes(1000)):
        path.write_bytes(bad)
        with pytest.raises(FormatError) as caught:
            ArchiveReader.open_file(path)
        assert caught.value.where == str(path)
    with pytest.raises(FileNotFoundError):
        ArchiveReader.open_file(tmp_path / "none")


def test_a_chunk_can_be_read_again(tmp_path):
    content = SOME(300_000)
    stored = Stored(file_entry(b"f", 300_000), (Extent(0, 0, 300_000),))
    path = make_by_hand(tmp_path / "a", [content], [stored])
    reader = ArchiveReader.open_file(path)
    assert bytes(reader.chunk_untrusted(0)) == content
    assert bytes(reader.chunk_untrusted(0)) == content


def test_what_was_checked_is_what_is_used_even_if_the_file_changes_then(tmp_path):
    content = SOME(300_000)
    stored = Stored(file_entry(b"f", 300_000), (Extent(0, 0, 300_000),))
    path = make_by_hand(tmp_path / "a", [content], [stored])
    reader = ArchiveReader.open_file(path)
    found = reader.chunk_untrusted(0)
    with path.open("r+b") as file:
        file.seek(reader.index.entry_untrusted(0).offset)
        file.write(bytes(300_000))
    assert found == content
    with pytest.raises(REFUSED):
        reader.chunk_untrusted(0)


@pytest.mark.parametrize("most", [7, 0])
def test_a_read_may_give_less_but_not_nothing(tmp_path, monkeypatch, most):
    content = SOME(100)
    reader = ArchiveReader.open_file(make(tmp_path / "a", {b"f": content}))
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:most]], at))
    if most:
        assert reader.chunk_untrusted(0) == content
    else:
        with pytest.raises(FormatError, match="shorter"):
            reader.chunk_untrusted(0)


def test_a_bad_sector_costs_its_chunk(tmp_path, monkeypatch):
    reader = ArchiveReader.open_file(make(tmp_path / "a", {b"f": SOME(100)}))

    def bad(_fd, _views, _at):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", bad)
    with pytest.raises(IntegrityError, match="cannot be read: Input/output error"):
        reader.chunk_untrusted(0)


def test_an_empty_archive(tmp_path):
    for opener in (None, KEY_FILE):
        data = make(tmp_path / "a", {}, opener).read_bytes()
        assert read_all(data) == {}
        assert opened(data).body.root == Index(b"").tree().root


# --- golden -----------------------------------------------------------------------------------

GOLDEN = {b"notes.txt": b"notes " * 30, b"large": bytes(range(250)) * 9, b"empty": b""}


@pytest.mark.parametrize(("name", "opener"), [("plain", None), ("locked", KEY_FILE)])
def test_golden(golden, tmp_path, name, opener):
    data = bytes.fromhex(golden("archive.json")["archives"][name])
    assert read_all(data) == GOLDEN
    assert make(tmp_path / "a", GOLDEN, opener, mode=Mode.OFF).read_bytes() == data


def test_a_reader_is_gone_with_its_file_when_nobody_has_it(tmp_path):
    path = make(tmp_path / "a", {b"f": b"x"})
    reader = ArchiveReader.open_file(path)
    assert read_all(path.read_bytes()) == {b"f": b"x"}
    assert reader.extent_untrusted(Extent(0, 0, 1)) == b"x"
    gone = weakref.ref(reader)
    gc.disable()
    try:
        del reader
        assert gone() is None
    finally:
        gc.enable()
