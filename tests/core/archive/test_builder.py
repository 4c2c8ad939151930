from dataclasses import replace
from io import BytesIO

from core import limits
from core.archive.builder import Builder
from core.archive.table import HOLE, HOLE_BYTES_MAX, Extent, Segment, Stored
from core.hashing import tag
from core.pieces import Kind
from core.secret import Secret
from tests.support.archives import CUT_BYTES, file_entry, put, small_chunker
from tests.support.entropy import fixed_entropy

SOME = fixed_entropy("builder")


def builder_of(known=None):
    return Builder(small_chunker(Secret(bytes(32))), {} if known is None else known)


def put_in(contents, known=None):
    builder = builder_of(known)
    put(builder, contents)
    builder.finish()
    return builder, builder.take_jobs()


def entries_of(builder):
    return [
        stored
        for chunk in builder.table
        for stored in Segment.decode_untrusted(bytes(chunk.data)).entries_untrusted()
    ]


def contents_of(builder, jobs):
    chunks = {job.number: bytes(job.chunk().data) for job in jobs}
    return {
        stored.entry.path: b"".join(chunks[e.chunk][e.offset :][: e.length] for e in stored.extents)
        for stored in entries_of(builder)
    }


def test_every_file_is_found_where_the_table_says():
    contents = {b"%d" % n: SOME(n * 37) for n in range(200)}
    builder, jobs = put_in(contents)
    assert contents_of(builder, jobs) == contents
    assert [job.number for job in jobs] == list(range(len(jobs)))
    assert all(job.chunk().tag == tag(job.chunk().kind, job.chunk().data) for job in jobs)
    assert builder.totals.entries == 200
    assert builder.totals.content_bytes == sum(map(len, contents.values()))


def test_equal_small_files_lie_in_one_place():
    data = SOME(100)
    builder, jobs = put_in({b"a": data, b"b": SOME(50), b"c": data})
    a, b, c = entries_of(builder)
    assert a.extents == c.extents != b.extents
    assert len(jobs) == 1
    assert len(jobs[0].data) == builder.totals.new_bytes == 150


def test_equal_large_files_and_equal_parts_are_made_once():
    one, other = SOME(5 * CUT_BYTES), SOME(2 * CUT_BYTES + 1)
    builder, jobs = put_in({b"a": one, b"b": one + other, b"c": one})
    assert len(jobs) == 5 + 3
    assert builder.totals.new_bytes == len(one) + len(other)
    a, b, c = entries_of(builder)
    assert a.extents == c.extents == b.extents[:5]
    assert contents_of(builder, jobs) == {b"a": one, b"b": one + other, b"c": one}


def test_a_small_file_equal_to_a_cut_stays_a_kind_of_its_own():
    data = SOME(CUT_BYTES)
    _, jobs = put_in({b"large": data * 2, b"small": data})
    assert {job.chunk().kind for job in jobs} == {Kind.CUT, Kind.SMALL_FILE}


def test_bundles_close_at_their_target(monkeypatch):
    monkeypatch.setattr(limits, "ARCHIVE_BUNDLE_BYTES_TARGET", 1000)
    contents = {b"%d" % n: SOME(300) for n in range(10)}
    builder, jobs = put_in(contents)
    assert [len(job.chunk().data) for job in jobs] == [900, 900, 900, 300]
    assert [job.chunk().kind for job in jobs] == [*[Kind.BUNDLE] * 3, Kind.SMALL_FILE]
    assert contents_of(builder, jobs) == contents


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
    waiting = []
    for path, data in contents.items():
        put(builder, {path: data})
        waiting.append((len(builder.table), len(builder.jobs)))
    # The bundle closes at the eighth file: until then no line of the first segment is final.
    assert waiting[6] == (0, 0)
    assert (waiting[7], waiting[11], waiting[15]) == ((1, 1), (1, 1), (3, 2))
    builder.finish()
    assert [len(Segment.decode_untrusted(bytes(c.data))) for c in builder.table] == [4, 4, 4, 4, 2]
    assert all(chunk.kind is Kind.FILE_TABLE for chunk in builder.table)
    assert contents_of(builder, builder.take_jobs()) == contents
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
    builder, jobs = put_in(contents)
    numbers = {e.chunk for stored in entries_of(builder) for e in stored.extents}
    assert numbers == {job.number for job in jobs} == set(range(len(jobs)))


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
    first, jobs = put_in(contents)
    known = {job.chunk().tag: job.number for job in jobs}
    again, none = put_in(contents, dict(known))
    assert not none
    assert [c.data for c in again.table] == [c.data for c in first.table]
    # With a part known the rest gets the next numbers and the contents are still found.
    some = {job.chunk().tag: number for number, job in enumerate(jobs[2:5])}
    builder, rest = put_in(contents, dict(some))
    assert {job.chunk().tag for job in rest} == known.keys() - some.keys()
    assert [job.number for job in rest] == list(range(3, len(jobs)))
    old = [replace(job, number=some[job.chunk().tag]) for job in jobs[2:5]]
    assert contents_of(builder, old + rest) == contents


def test_a_hard_link_counts_as_an_entry_and_not_as_content():
    builder = builder_of()
    builder.entry(Stored(file_entry(b"a", 10), (builder.small(SOME(10)),)))
    builder.entry(Stored(file_entry(b"b", 10), (), b"a"))
    builder.finish()
    assert (builder.totals.entries, builder.totals.content_bytes) == (2, 10)
    assert entries_of(builder)[1].link == b"a"


def test_nothing_at_all():
    builder, jobs = put_in({})
    assert not builder.table
    assert not jobs
