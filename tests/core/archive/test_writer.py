import fcntl
import os

import pytest

from core.archive.keys import KeyFileOpener, PassphraseOpener
from core.archive.reader import ArchiveReader
from core.errors import FormatError, IntegrityError, UsageError, WrongKey
from core.secret import Secret
from tests.support.archives import KEY_FILE, begin, finish, make, read_all
from tests.support.entropy import fixed_entropy
from tests.support.identity import CHEAP

SOME = fixed_entropy("writer")
CONTENTS = {b"a": SOME(40), b"b": b"text " * 400, b"large": SOME(4500), b"empty": b""}
CHUNKS = 7  # "text text..." is one piece twice
OPENERS = pytest.mark.parametrize("opener", [None, KEY_FILE], ids=["plain", "locked"])
JOURNAL_HEAD_BYTES = 48


def interrupted(path, opener, contents=CONTENTS):
    """What a run leaves behind that was killed before its end."""
    writer, _, _ = begin(path, contents, opener)
    writer.close()
    return path.with_name("a.warp.partial"), path.with_name("a.warp.journal")


def resumed(path, opener, contents=CONTENTS):
    """How many chunks had to be made again; the archive is checked whole."""
    writer, builder, new = begin(path, contents, opener, resume=True)
    finish(writer, builder)
    assert read_all(path.read_bytes()) == contents
    assert [p.name for p in path.parent.iterdir()] == ["a.warp"]
    return new


@OPENERS
def test_an_archive_gets_its_name_when_it_is_whole(tmp_path, opener):
    path = tmp_path / "a.warp"
    writer, builder, new = begin(path, CONTENTS, opener)
    assert new == CHUNKS
    assert {p.name for p in tmp_path.iterdir()} == {"a.warp.partial", "a.warp.journal"}
    unfinished = (tmp_path / "a.warp.partial").read_bytes()
    assert unfinished[:256] == bytes(256)
    with pytest.raises(FormatError, match="never finished"):
        ArchiveReader.open_untrusted(memoryview(unfinished), [KEY_FILE])
    finish(writer, builder)
    assert [p.name for p in tmp_path.iterdir()] == ["a.warp"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_all(path.read_bytes()) == CONTENTS


@OPENERS
def test_the_header_is_written_after_everything_else_is_on_the_disk(tmp_path, opener, monkeypatch):
    path, seen = tmp_path / "a.warp", []
    partial = tmp_path / "a.warp.partial"

    def fsync(fd):
        if partial.exists() and os.path.sameopenfile(fd, writer._file):
            data = partial.read_bytes()
            seen.append((data[:4], len(data)))

    writer, builder, _ = begin(path, CONTENTS, opener)
    monkeypatch.setattr(os, "fsync", fsync)
    finish(writer, builder)
    size = path.stat().st_size
    assert seen == [(bytes(4), size), (b"WARP", size)]


def test_the_same_contents_and_salt_make_the_same_archive(tmp_path):
    first = make(tmp_path / "a", CONTENTS, KEY_FILE).read_bytes()
    assert make(tmp_path / "b", CONTENTS, KEY_FILE).read_bytes() == first
    other = make(tmp_path / "c", CONTENTS, KEY_FILE, seed="other").read_bytes()
    assert other[48:] != first[48:]


@OPENERS
def test_a_new_start_gives_up_what_was_there(tmp_path, opener):
    path = tmp_path / "a.warp"
    interrupted(path, opener, CONTENTS | {b"more": SOME(9000)})
    writer, builder, new = begin(path, CONTENTS, opener)
    assert new == CHUNKS
    finish(writer, builder)
    make(tmp_path / "fresh", CONTENTS, opener)
    assert path.read_bytes() == (tmp_path / "fresh").read_bytes()


@OPENERS
def test_resume_makes_nothing_twice(tmp_path, opener):
    path = tmp_path / "a.warp"
    interrupted(path, opener)
    assert resumed(path, opener) == 0
    make(tmp_path / "b", CONTENTS, opener)
    assert path.read_bytes() == (tmp_path / "b").read_bytes()


@OPENERS
def test_resume_without_anything_to_resume_begins(tmp_path, opener):
    path = tmp_path / "a.warp"
    assert resumed(path, opener) == CHUNKS
    for lost in (0, 1):
        interrupted(path, opener)[lost].unlink()
        path.unlink()
        assert resumed(path, opener) == CHUNKS


@OPENERS
def test_resume_goes_on_with_other_files(tmp_path, opener):
    path = tmp_path / "a.warp"
    interrupted(path, opener)
    changed = CONTENTS | {b"large": CONTENTS[b"large"][:3000] + SOME(2500), b"c": SOME(7)}
    assert 0 < resumed(path, opener, changed) < CHUNKS


@pytest.mark.slow
@OPENERS
def test_resume_after_an_interruption_at_any_place(tmp_path, opener):
    path = tmp_path / "a.warp"
    partial, journal = interrupted(path, opener)
    data, records = partial.read_bytes(), journal.read_bytes()
    record = (len(records) - JOURNAL_HEAD_BYTES) // CHUNKS
    again = []
    for size in range(0, len(records) + 1, 11):
        partial.write_bytes(data)
        journal.write_bytes(records[:size])
        whole = max(size - JOURNAL_HEAD_BYTES, 0) // record
        again.append(resumed(path, opener))
        path.unlink()
        assert again[-1] == CHUNKS - whole
    assert set(again) >= set(range(1, CHUNKS + 1))
    again.clear()
    for size in range(0, len(data), 97):  # the journal ahead of the data: a power failure
        partial.write_bytes(data[:size])
        journal.write_bytes(records)
        again.append(resumed(path, opener))
        path.unlink()
    assert again == sorted(again, reverse=True)
    assert len(set(again)) > 4


@OPENERS
def test_resume_leaves_nothing_of_what_it_could_not_use(tmp_path, opener):
    path = tmp_path / "a.warp"
    _, journal = interrupted(path, opener, {b"large": SOME(50_000)})
    journal.write_bytes(journal.read_bytes()[:300])
    assert resumed(path, opener) > 0  # and the archive ends where its header says


@OPENERS
def test_an_interrupted_resume_is_resumed(tmp_path, opener):
    path = tmp_path / "a.warp"
    _, journal = interrupted(path, opener)
    journal.write_bytes(journal.read_bytes()[:-5])  # the last record is torn
    more = CONTENTS | {b"new": SOME(3000)}
    writer, _, new = begin(path, more, opener, resume=True)
    writer.close()
    assert new == 4
    assert resumed(path, opener, more) == 0


@OPENERS
def test_resume_while_the_end_was_being_written(tmp_path, opener, monkeypatch):
    path = tmp_path / "a.warp"
    writer, builder, _ = begin(path, CONTENTS, opener)
    monkeypatch.setattr(type(path), "rename", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finish(writer, builder)
    writer.close()
    monkeypatch.undo()
    assert resumed(path, opener) == 0


@pytest.mark.slow
@OPENERS
def test_damage_to_what_is_resumed_costs_chunks_and_never_contents(tmp_path, opener):
    path = tmp_path / "a.warp"
    partial, journal = interrupted(path, opener)
    data, records = partial.read_bytes(), journal.read_bytes()
    again, refused = set(), 0
    for place in range(256, len(data), 101):
        bad = bytearray(data)
        bad[place] ^= 1 << (place % 8)
        partial.write_bytes(bad)
        journal.write_bytes(records)
        again.add(resumed(path, opener))
        path.unlink()
    for place in range(len(records)):
        bad = bytearray(records)
        bad[place] ^= 1 << (place % 8)
        partial.write_bytes(data)
        journal.write_bytes(bad)
        try:
            again.add(resumed(path, opener))
        except (UsageError, WrongKey):  # locked in another way, by the look of it
            refused += 1
            continue
        path.unlink()
    assert again == set(range(1, CHUNKS + 1)) | ({0} if opener is None else set())
    first_lock_and_salt = 1 + 32
    assert refused <= first_lock_and_salt + 64


def test_a_journal_of_someone_else_makes_no_wrong_archive(tmp_path):
    path = tmp_path / "a.warp"
    partial, journal = interrupted(path, None)
    data, records = partial.read_bytes(), journal.read_bytes()
    head, rows = records[:JOURNAL_HEAD_BYTES], records[JOURNAL_HEAD_BYTES:]
    first = rows[:56]
    far = first[:32] + b"\xff" * 8 + first[40:]
    beyond = first[:32] + (2**62).to_bytes(8) + first[40:]
    twice = first + rows[:-56]
    for strange in (twice, rows + first, far + rows, rows + beyond, rows[56:] + first):
        partial.write_bytes(data)
        journal.write_bytes(head + strange)
        resumed(path, None)
        path.unlink()


def test_resume_asks_for_the_same_lock_and_key(tmp_path):
    path = tmp_path / "a.warp"
    for first, other, error in (
        (None, KEY_FILE, UsageError),
        (KEY_FILE, None, UsageError),
        (KEY_FILE, PassphraseOpener(Secret(b"horse"), CHEAP), UsageError),
        (KEY_FILE, KeyFileOpener(Secret(bytes(32))), WrongKey),
    ):
        partial, journal = interrupted(path, first)
        before = partial.read_bytes(), journal.read_bytes()
        with pytest.raises(error):
            begin(path, CONTENTS, other, resume=True)
        assert (partial.read_bytes(), journal.read_bytes()) == before
        assert resumed(path, first) == 0
        path.unlink()


@pytest.mark.slow
def test_resume_under_a_passphrase(tmp_path):
    path = tmp_path / "a.warp"
    opener = PassphraseOpener(Secret(b"horse"), CHEAP)
    interrupted(path, opener)
    with pytest.raises(WrongKey):
        begin(path, CONTENTS, PassphraseOpener(Secret(b"house"), CHEAP), resume=True)
    writer, builder, new = begin(path, CONTENTS, opener, resume=True)
    assert new == 0
    finish(writer, builder)
    assert read_all(path.read_bytes(), [opener]) == CONTENTS


def test_the_journal_of_a_locked_archive_shows_no_tag(tmp_path):
    _, journal = interrupted(tmp_path / "a.warp", None)
    plain = journal.read_bytes()[JOURNAL_HEAD_BYTES:]
    _, journal = interrupted(tmp_path / "a.warp", KEY_FILE)
    locked = journal.read_bytes()
    for at in range(0, len(plain), 56):
        assert plain[at : at + 32] not in locked


def test_discard_leaves_nothing(tmp_path):
    writer, _, _ = begin(tmp_path / "a.warp", CONTENTS)
    writer.discard()
    assert not list(tmp_path.iterdir())
    writer.discard()


def test_every_byte_is_written_however_few_the_system_takes(tmp_path, monkeypatch):
    real = os.pwritev

    def a_few(fd, buffers, offset):
        return real(fd, [memoryview(buffers[0])[:33]], offset)

    monkeypatch.setattr(os, "pwritev", a_few)
    path = make(tmp_path / "a.warp", CONTENTS)
    assert read_all(path.read_bytes()) == CONTENTS


def test_a_damaged_whole_archive_is_not_taken_for_one_to_resume(tmp_path):
    path = make(tmp_path / "a.warp", CONTENTS)
    before = path.read_bytes()
    writer, _, new = begin(path, CONTENTS, resume=True)
    assert new == CHUNKS
    writer.close()
    assert path.read_bytes() == before  # until the new one is whole
    with pytest.raises((FormatError, IntegrityError)):
        read_all(before[:-1])


def test_two_processes_never_write_one_archive(tmp_path):
    path = tmp_path / "a.warp"
    writer, builder, new = begin(path, CONTENTS, None)
    before = (tmp_path / "a.warp.partial").read_bytes()
    for resume in (False, True):
        with pytest.raises(UsageError, match="another process"):
            begin(path, {b"other": b"content"}, None, resume=resume)
    assert (tmp_path / "a.warp.partial").read_bytes() == before
    finish(writer, builder)
    assert read_all(path.read_bytes()) == CONTENTS
    assert new


def test_a_file_that_was_finished_meanwhile_is_not_begun_again(tmp_path, monkeypatch):
    # Opened as the partial file, renamed by whoever finished it, and only then locked.
    path = tmp_path / "a.warp"
    writer, builder, _ = begin(path, CONTENTS, None)
    lock = fcntl.flock

    def late(fd, how):
        finish(writer, builder)
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UsageError, match="another process"):
        begin(path, {b"other": b"content"}, None)
    assert read_all(path.read_bytes()) == CONTENTS


def test_a_name_taken_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "a.warp"
    writer, builder, _ = begin(path, CONTENTS, None)
    path.write_bytes(b"somebody else's")
    with pytest.raises(UsageError, match="exists by now"):
        finish(writer, builder)
    assert path.read_bytes() == b"somebody else's"
    writer.close()
    path.unlink()
    resumed, builder, new = begin(path, CONTENTS, None, resume=True)
    assert (tmp_path / "a.warp.partial").read_bytes()[:256] == bytes(256)
    finish(resumed, builder)
    assert read_all(path.read_bytes()) == CONTENTS
    assert not new
