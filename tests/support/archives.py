"""Small archives for tests: made of contents, or put together by someone who means harm."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

from core.archive.builder import Builder, Job
from core.archive.keys import KeyFileOpener, Opener
from core.archive.reader import ArchiveReader
from core.archive.table import Extent, Segment, Stored
from core.archive.writer import ArchiveWriter
from core.chunking import Chunker, FixedParams
from core.compress import Mode
from core.pieces import Chunk, Kind
from core.seal import prepare
from core.secret import Secret
from core.tree.entry import Entry, EntryType
from tests.support.entropy import fixed_entropy

KEY_FILE = KeyFileOpener(Secret(bytes(range(32))))
CUT_BYTES = 1000  # of a file of 2000 bytes and more
Contents = Mapping[bytes, bytes]


def small_chunker(key: Secret) -> Chunker:
    """Cuts every thousand bytes."""
    return Chunker(FixedParams("tests-1", CUT_BYTES), key)


def file_entry(path: bytes, size: int = 0) -> Entry:
    """A file that belongs to whoever runs the tests to read."""
    return Entry(path, EntryType.FILE, 0o644, mtime_ns=1_795_000_000_123_456_789, size=size)


def put(builder: Builder, contents: Contents) -> None:
    """The files, small ones bundled and large ones cut."""
    for path, data in contents.items():
        extents: tuple[Extent, ...] = ()
        if len(data) >= 2 * CUT_BYTES:
            extents = tuple(builder.large(BytesIO(data).readinto))
        elif data:
            extents = (builder.small(data),)
        builder.entry(Stored(file_entry(path, len(data)), extents))


def begin(
    path: Path,
    contents: Contents,
    opener: Opener | None = None,
    *,
    mode: Mode = Mode.AUTO,
    resume: bool = False,
    seed: str = "archive",
) -> tuple[ArchiveWriter, Builder, int]:
    """Everything but the end: chunks are written, the table is not. And how many were new."""
    writer = ArchiveWriter(path, opener, mode, fixed_entropy(seed))
    known = writer.resume(opener) if resume else writer.begin()
    builder = Builder(small_chunker(writer.chunker_key), known)
    put(builder, contents)
    builder.finish()
    new = numbered(builder, builder.take_jobs())
    for number, chunk in new.items():
        frame = writer.frame(chunk)
        writer.write(number, frame, writer.stored(frame))
    return writer, builder, len(new)


def numbered(builder: Builder, jobs: Sequence[Job]) -> dict[int, Chunk]:
    """The chunks that are to be written, by their numbers."""
    found: dict[int, Chunk] = {}
    for job in jobs:
        chunk = job.chunk()
        number = builder.number_of(job, chunk.tag)
        if number is not None:
            found[number] = chunk
    return found


def finish(writer: ArchiveWriter, builder: Builder) -> None:
    """The rest."""
    table = [writer.frame(chunk) for chunk in builder.whole_table()]
    writer.finish(table, builder.totals.entries, builder.totals.content_bytes)


def make(
    path: Path,
    contents: Contents,
    opener: Opener | None = None,
    *,
    mode: Mode = Mode.AUTO,
    seed: str = "archive",
) -> Path:
    """A whole archive, in place of an older one."""
    path.unlink(missing_ok=True)
    writer, builder, _ = begin(path, contents, opener, mode=mode, seed=seed)
    finish(writer, builder)
    return path


def make_by_hand(
    path: Path,
    chunks: Sequence[bytes],
    stored: Sequence[Stored],
    opener: Opener | None = None,
    change: Callable[[Segment], None] = lambda _: None,
) -> Path:
    """An archive with this table, whatever it says, in place of an older one."""
    path.unlink(missing_ok=True)
    writer = ArchiveWriter(path, opener, Mode.OFF, fixed_entropy("by hand"))
    writer.begin()
    for number, data in enumerate(chunks):
        frame = prepare(Chunk.of_piece(Kind.CUT, data), Mode.OFF)
        writer.write(number, frame, writer.stored(frame))
    segment = Segment()
    for one in stored:
        segment.add(one)
    change(segment)
    table = writer.frame(Chunk.of_piece(Kind.FILE_TABLE, segment.encode()))
    writer.finish([table], len(segment), sum(one.entry.size for one in stored))
    return path


def read_all(data: bytes, openers: Sequence[Opener] = (KEY_FILE,)) -> dict[bytes, bytes]:
    """The contents of all files by their paths; links lead to the content of their file."""
    reader = ArchiveReader.open_untrusted(memoryview(data), openers)
    found: dict[bytes, bytes] = {}
    for stored in reader.entries_untrusted():
        if stored.link is not None:
            found[stored.entry.path] = found[stored.link]
            continue
        parts = list(reader.content_untrusted(stored))
        found[stored.entry.path] = b"".join(parts)
    return found
