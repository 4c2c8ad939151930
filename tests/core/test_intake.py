import io

import pytest

from core import limits
from core.chunking import DEFAULT_VAULT, Chunker, FixedParams, params_untrusted
from core.hashing import tag
from core.intake import bundle_small, cut_large
from core.pieces import Kind
from core.secret import Secret
from tests.support.entropy import fixed_entropy

KEY = Secret(bytes(range(32)))
TINY = Chunker(FixedParams("tiny", 1000), KEY)


def flat(batches):
    return [chunk for batch in batches for chunk in batch]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5_500_000])
def test_cuts_are_the_stream_in_order(size):
    data = fixed_entropy("stream")(size)
    chunks = flat(cut_large(io.BytesIO(data).readinto, TINY))
    assert b"".join(chunk.data for chunk in chunks) == data
    assert all(chunk.tag == tag(Kind.CUT, chunk.data) for chunk in chunks)
    assert all(chunk.kind is Kind.CUT and not chunk.pieces for chunk in chunks)


@pytest.mark.slow
def test_short_reads_and_batches_do_not_change_the_cuts():
    chunker = Chunker(params_untrusted(DEFAULT_VAULT), KEY)
    data = fixed_entropy("large")(30 << 20)
    stream = io.BytesIO(data)
    batches = list(cut_large(lambda view: stream.readinto(view[:777_777]), chunker))
    whole = flat(cut_large(io.BytesIO(data).readinto, chunker))
    assert [c.tag for c in flat(batches)] == [c.tag for c in whole]
    assert b"".join(c.data for c in whole) == data
    sizes = [sum(len(c.data) for c in batch) for batch in batches]
    assert all(size >= limits.THREAD_HOP_BYTES for size in sizes[:-1])
    assert max(sizes) < limits.THREAD_HOP_BYTES + chunker.params.max_bytes


def test_known_cuts_are_skipped_and_asked_once():
    data = fixed_entropy("known")(10_000)
    pieces = [data[i : i + 1000] for i in range(0, 10_000, 1000)]
    stored = {tag(Kind.CUT, piece) for piece in pieces[::2]}
    asked = []

    def known(kind, name):
        asked.append((kind, name))
        return name in stored

    chunks = flat(cut_large(io.BytesIO(data).readinto, TINY, known=known))
    assert [bytes(c.data) for c in chunks] == pieces[1::2]
    assert asked == [(Kind.CUT, tag(Kind.CUT, piece)) for piece in pieces]


def test_small_files_are_bundled_in_order_and_keep_their_tags():
    files = [fixed_entropy(f"file {n}")(n % 5_000) for n in range(1, 1_500)]
    chunks = flat(bundle_small((Kind.SMALL_FILE, data) for data in files))
    assert b"".join(bytes(c.data) for c in chunks) == b"".join(files)
    pieces = [piece for c in chunks for piece in c.pieces]
    assert [p.tag for p in pieces] == [tag(Kind.SMALL_FILE, data) for data in files]
    assert all(len(c.data) <= limits.BUNDLE_BYTES_TARGET for c in chunks)
    assert len(chunks) == -(-sum(map(len, files)) // limits.BUNDLE_BYTES_TARGET)


def test_known_small_files_are_skipped():
    files = [bytes([n]) * 10 for n in range(10)]
    stored = {tag(Kind.SMALL_FILE, data) for data in files[:9]}
    pieces = [(Kind.SMALL_FILE, data) for data in files]
    chunks = flat(bundle_small(pieces, known=lambda _kind, name: name in stored))
    assert [bytes(c.data) for c in chunks] == [files[9]]
    assert flat(bundle_small(pieces[:9], known=lambda _kind, name: name in stored)) == []
    assert flat(bundle_small([])) == []
