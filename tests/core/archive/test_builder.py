from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.archive.builder import Builder
from core.archive.table import HOLE, HOLE_BYTES_MAX, Extent, Segment, Stored
from core.hashing import tag
from core.native.rows import ROW
from core.pieces import Kind
from core.secret import Secret
from core.tree.entry import entry_of_row
from core.tree.read_batch import Plain
from tests.support.archives import CUT_BYTES, file_entry, numbered, put, small_chunker
from tests.support.entropy import fixed_entropy

SOME = fixed_entropy("builder")


def builder_of(known=None):
    return Builder(small_chunker(Secret(bytes(32))), {} if known is None else known)


def put_in(contents, known=None):
    builder = builder_of(known)
    put(builder, contents)
    builder.finish()
    jobs = builder.take_jobs()
    chunks = numbered(builder, jobs)
    builder.whole_table()
    return builder, chunks


def entries_of(builder):
    return [
        stored
        for chunk in builder.table
        for stored in Segment.decode_untrusted(bytes(chunk.data)).entries_untrusted()
    ]


def contents_of(builder, chunks):
    chunks = {number: bytes(chunk.data) for number, chunk in chunks.items()}
    return {
        stored.entry.path: b"".join(chunks[e.chunk][e.offset :][: e.length] for e in stored.extents)
        for stored in entries_of(builder)
    }


def test_every_file_is_found_where_the_table_says():
    contents = {b"%d" % n: SOME(n * 37) for n in range(200)}
    builder, chunks = put_in(contents)
    assert contents_of(builder, chunks) == contents
    assert list(chunks) == list(range(len(chunks)))
    assert all(chunk.tag == tag(chunk.kind, chunk.data) for chunk in chunks.values())
    assert builder.totals.entries == 200
    assert builder.totals.content_bytes == sum(map(len, contents.values()))


def test_equal_small_files_lie_in_one_place():
    data = SOME(100)
    builder, chunks = put_in({b"a": data, b"b": SOME(50), b"c": data})
    a, b, c = entries_of(builder)
    assert a.extents == c.extents != b.extents
    assert len(chunks) == 1
    assert len(chunks[0].data) == builder.totals.new_bytes == 150


def test_equal_large_files_and_equal_parts_are_made_once():
    one, other = SOME(5 * CUT_BYTES), SOME(2 * CUT_BYTES + 1)
    builder, chunks = put_in({b"a": one, b"b": one + other, b"c": one})
    assert len(chunks) == 5 + 3
    assert builder.totals.new_bytes == len(one) + len(other)
    a, b, c = entries_of(builder)
    assert a.extents == c.extents == b.extents[:5]
    assert contents_of(builder, chunks) == {b"a": one, b"b": one + other, b"c": one}


def test_a_small_file_equal_to_a_cut_stays_a_kind_of_its_own():
    data = SOME(CUT_BYTES)
    _, chunks = put_in({b"large": data * 2, b"small": data})
    assert {chunk.kind for chunk in chunks.values()} == {Kind.CUT, Kind.SMALL_FILE}


def test_bundles_close_at_their_target(monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_BUNDLE_BYTES_TARGET", 1000)
    contents = {b"%d" % n: SOME(300) for n in range(10)}
    builder, chunks = put_in(contents)
    assert [len(chunk.data) for chunk in chunks.values()] == [900, 900, 900, 300]
    kinds = [chunk.kind for chunk in chunks.values()]
    assert kinds == [*[Kind.BUNDLE] * 3, Kind.SMALL_FILE]
    assert contents_of(builder, chunks) == contents


def test_jobs_are_there_before_the_end_and_only_once(monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_BUNDLE_BYTES_TARGET", 1000)
    builder = builder_of()
    builder.small(SOME(900))
    assert not builder.take_jobs()
    builder.small(SOME(900))
    assert builder.jobs_bytes == 900
    assert len(builder.take_jobs()) == 1
    assert builder.jobs_bytes == 0
    assert not builder.take_jobs()
    assert len(tuple(builder.large(BytesIO(SOME(3000)).readinto))) == 3
    assert len(builder.take_jobs()) == 3


def test_segments_are_cut_and_wait_for_the_numbers_in_them(monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_SEGMENT_ENTRIES_MAX", 4)
    monkeypatch.setattr(limits, "ARCHIVE_BUNDLE_BYTES_TARGET", 1000)
    builder = builder_of()
    contents = {b"%02d" % n: SOME(130) for n in range(18)}
    waiting, chunks = [], {}
    for path, data in contents.items():
        put(builder, {path: data})
        waiting.append((len(builder.table), len(chunks), len(builder.jobs)))
        chunks |= numbered(builder, builder.take_jobs())
    # The bundle closes at the eighth file, the second one at the fifteenth; what is in them has a
    # number from then on, and with the next full segment lines are final.
    assert waiting[6:9] == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]
    assert (waiting[11], waiting[14], waiting[15]) == ((1, 1, 0), (1, 1, 1), (3, 2, 0))
    builder.finish()
    chunks |= numbered(builder, builder.take_jobs())
    builder.whole_table()
    assert [len(Segment.decode_untrusted(bytes(c.data))) for c in builder.table] == [4, 4, 4, 4, 2]
    assert all(chunk.kind is Kind.FILE_TABLE for chunk in builder.table)
    assert contents_of(builder, chunks) == contents
    assert [stored.entry.path for stored in entries_of(builder)] == list(contents)


def test_a_segment_without_contents_is_final_at_once(monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_SEGMENT_ENTRIES_MAX", 2)
    builder = builder_of()
    put(builder, {b"a": b"", b"b": b"", b"c": SOME(10)})
    assert len(builder.table) == 1


def test_no_provisional_number_is_left(monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_SEGMENT_ENTRIES_MAX", 3)
    monkeypatch.setattr(limits, "ARCHIVE_BUNDLE_BYTES_TARGET", 700)
    contents = {b"%02d" % n: SOME(2500 if n % 3 else 200) for n in range(30)}
    builder, chunks = put_in(contents)
    numbers = {e.chunk for stored in entries_of(builder) for e in stored.extents}
    assert numbers == chunks.keys() == set(range(len(chunks)))


def test_holes_take_no_room_however_long():
    builder = builder_of()
    assert builder.hole(0) == []
    assert builder.hole(7) == [Extent(HOLE, 0, 7)]
    long = builder.hole(3 * HOLE_BYTES_MAX)
    assert [extent.length for extent in long] == [HOLE_BYTES_MAX] * 3
    long = builder.hole(2 * HOLE_BYTES_MAX + 9)
    builder.entry(Stored(file_entry(b"sparse", 2 * HOLE_BYTES_MAX + 9), tuple(long)))
    builder.finish()
    assert not builder.take_jobs()
    (stored,) = entries_of(builder)
    assert stored.extents == tuple(long)


def test_known_chunks_are_not_made_again():
    contents = {b"small %d" % n: SOME(100) for n in range(5)} | {b"large": SOME(7500)}
    first, chunks = put_in(contents)
    known = {chunk.tag: number for number, chunk in chunks.items()}
    again, none = put_in(contents, dict(known))
    assert not none
    assert [c.data for c in again.table] == [c.data for c in first.table]
    # With a part known the rest gets the next numbers and the contents are still found.
    old = {number - 2: chunks[number] for number in (2, 3, 4)}
    some = {chunk.tag: number for number, chunk in old.items()}
    builder, rest = put_in(contents, dict(some))
    assert {chunk.tag for chunk in rest.values()} == known.keys() - some.keys()
    assert list(rest) == list(range(3, len(chunks)))
    assert contents_of(builder, old | rest) == contents


def test_equal_chunks_that_are_prepared_at_the_same_time_get_one_number():
    builder = builder_of()
    put(builder, {b"a": SOME(CUT_BYTES) * 3})
    builder.finish()
    jobs = builder.take_jobs()
    assert len(jobs) == 3
    tags = [job.chunk().tag for job in jobs]
    assert not any(builder.is_known(tag) for tag in tags)  # so all of them are compressed
    numbers = [builder.number_of(*asked) for asked in zip(jobs, tags, strict=True)]
    assert numbers == [0, None, None]
    assert builder.is_known(tags[2])
    assert builder.whole_table() is builder.whole_table()
    assert builder.totals.new_bytes == CUT_BYTES


def test_the_table_is_not_whole_before_every_chunk_has_its_number():
    builder = builder_of()
    put(builder, {b"a": SOME(2 * CUT_BYTES), b"b": SOME(10)})
    builder.finish()
    *first, last = builder.take_jobs()
    for job in first:
        builder.number_of(job, job.chunk().tag)
    with pytest.raises(AssertionError):
        builder.whole_table()
    builder.number_of(last, last.chunk().tag)
    assert len(builder.whole_table()) == 1


def test_a_hard_link_counts_as_an_entry_and_not_as_content():
    builder = builder_of()
    builder.entry(Stored(file_entry(b"a", 10), (builder.small(SOME(10)),)))
    builder.entry(Stored(file_entry(b"b", 10), (), b"a"))
    builder.finish()
    numbered(builder, builder.take_jobs())
    builder.whole_table()
    assert (builder.totals.entries, builder.totals.content_bytes) == (2, 10)
    assert entries_of(builder)[1].link == b"a"


def test_nothing_at_all():
    builder, chunks = put_in({})
    assert not builder.table
    assert not chunks


# --- what is plain -------------------------------------------------------------------------------


def plain_of(*files):
    """Files and directories (no content) in one part, and the same one by one."""
    paths, rows, contents, stored = [], b"", [], []
    for number, (path, data) in enumerate(files):
        mode = (0o40000 if data is None else 0o100000) | 0o644 + number % 2 * 0o4000
        content = memoryview(data or b"")
        row = (7, len(content), -number, 1, mode, number % 3, number % 2, 1, 0, 0, 0)
        paths.append(path)
        rows += ROW.pack(*row)
        contents.append(content)
        stored.append((entry_of_row(path, row, 1), content))
    return Plain(paths, rows, contents), stored


def one_by_one(builder, stored):
    for entry, data in stored:
        builder.entry(Stored(entry, (builder.small(data),) if data else ()))


def finished(builder):
    """The contents and kinds of all chunks by number, and the table."""
    builder.finish()
    chunks = numbered(builder, builder.take_jobs())
    contents = {number: (chunk.kind, bytes(chunk.data)) for number, chunk in chunks.items()}
    return contents, [bytes(chunk.data) for chunk in builder.whole_table()]


PATHS_AND_CONTENTS = st.lists(
    st.tuples(st.binary(min_size=1, max_size=30), st.none() | st.binary(max_size=40)), max_size=30
)


@given(st.lists(PATHS_AND_CONTENTS, max_size=4))
def test_plain_parts_become_what_their_entries_would(parts):
    together, apart = builder_of(), builder_of()
    bounds = ("ARCHIVE_SEGMENT_ENTRIES_MAX", 7), ("ARCHIVE_SEGMENT_BYTES_TARGET", 500)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (*bounds, ("ARCHIVE_BUNDLE_BYTES_TARGET", 100)):
            patch.setattr(limits, name, value)
        for files in filter(None, parts):
            plain, stored = plain_of(*files)
            together.plain(plain)
            one_by_one(apart, stored)
        (one, other), (table, other_table) = zip(finished(together), finished(apart), strict=True)
    assert one == other
    assert table == other_table
    assert together.totals == apart.totals


def test_plain_parts_and_others_may_take_turns():
    plain, _ = plain_of((b"a", b"data"), (b"d", None), (b"d/e", b""), (b"d/f", b"data"))
    builder = builder_of()
    builder.plain(plain)
    builder.entry(Stored(file_entry(b"z", 4), (builder.small(b"data"),)))
    builder.finish()
    chunks = numbered(builder, builder.take_jobs())
    builder.whole_table()
    assert contents_of(builder, chunks) == {
        b"a": b"data",
        b"d": b"",
        b"d/e": b"",
        b"d/f": b"data",
        b"z": b"data",
    }
    types = [stored.entry.type for stored in entries_of(builder)]
    assert types == [1, 2, 1, 1, 1]
    assert builder.totals.new_bytes == 4
