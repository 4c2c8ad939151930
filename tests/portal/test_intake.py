import io
import os

import pytest

from core import limits
from core.chunking import DEFAULT_VAULT, Chunker, params_untrusted
from core.errors import LimitExceeded
from core.keys import VaultKeys
from core.pieces import Kind
from core.secret import Secret
from core.tree.entry import Changed, EntryType, entry_of
from core.tree.source import Root, Source
from portal import intake as module
from portal.gather import Gather
from portal.intake import Intake, link_mark
from portal.manifest import HOLE, Form, extents_untrusted, node_untrusted
from tests.support.trees import Reports
from tests.support.vaults import fixed

KEYS = VaultKeys.from_master(Secret(bytes(range(32))))


class Bench:
    """A directory, an intake on it, and everything that came out."""

    def __init__(self, folder, *, recent=False):
        self.folder = folder
        self.pieces = {}
        self.asked = set()
        self.reports = Reports()
        self.source = Source([Root(bytes(folder), b"s")], self.reports)
        chunker = Chunker(params_untrusted(DEFAULT_VAULT), KEYS.gear)
        self.gather = Gather(self._known, chunker)
        self.intake = Intake(self.source, self.gather, self.reports, lambda _entry: recent)

    def _known(self, kind, tag):
        known = (kind, tag) in self.asked
        self.asked.add((kind, tag))
        return known

    def entry(self, name):
        found = (self.folder / name).lstat()
        return entry_of(b"s/" + name.encode(), found)

    def finished(self, steps):
        """Drive a generator; what it returns, as a node."""
        while True:
            try:
                self._take(next(steps))
            except StopIteration as stop:
                self._take(self.gather.finish())
                return node_untrusted(stop.value, b"s")

    def file(self, name, entry=None):
        return self.finished(self.intake.file(entry or self.entry(name)))

    def _take(self, chunks):
        for chunk in chunks:
            at = 0
            for tag, kind, length in chunk.pieces or [(chunk.tag, chunk.kind, len(chunk.data))]:
                self.pieces[kind, tag] = bytes(chunk.data[at : at + length])
                at += length

    def content(self, node):
        form, data = node.content
        if form is Form.NOTHING:
            return b""
        if form is Form.SMALL:
            return self.pieces[Kind.SMALL_FILE, data]
        if form is Form.CUT_LISTS:
            lists = extents_untrusted(data)
            data = b"".join(self.pieces[Kind.CUT_LIST, extent.tag] for extent in lists)
        parts = (
            bytes(length) if tag == HOLE else self.pieces[Kind.CUT, tag]
            for length, tag in extents_untrusted(data)
        )
        return b"".join(parts)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


LARGE = limits.SMALL_FILE_BYTES_MAX + 1


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, LARGE + 1, 5_000_000])
def test_files_of_any_size(bench, size):
    data = fixed("data", size) if size else b""
    (bench.folder / "f").write_bytes(data)
    os.setxattr(bench.folder / "f", "user.x", b"1")
    node = bench.file("f")
    assert bench.content(node) == data
    assert node.entry.size == size
    expected = Form.NOTHING if not size else Form.SMALL if size < LARGE else Form.CUTS
    assert node.content.form is expected
    assert node.entry.xattrs == ((b"user.x", b"1"),)
    assert (node.entry.ino, node.entry.ctime_ns) != (0, 0)
    assert bench.intake.progress.read_bytes == size
    assert bench.intake.progress.now == b"s/f"
    assert bench.reports.all == []


def test_what_is_recent_is_said_to_be(tmp_path):
    bench = Bench(tmp_path, recent=True)
    for name, size in (("small", 5), ("large", LARGE)):
        (tmp_path / name).write_bytes(fixed(name, size))
        node = bench.file(name)
        assert (node.entry.ino, node.entry.ctime_ns) == (0, 0)


@pytest.mark.slow
def test_holes_stay_holes(bench):
    mib = 1 << 20
    with (bench.folder / "f").open("wb") as file:
        for at, data in ((3 * mib, b"island"), (9 * mib, fixed("cut", 3 * mib))):
            file.seek(at)
            file.write(data)
        file.truncate(100 * mib)
    node = bench.file("f")
    assert bench.content(node) == (bench.folder / "f").read_bytes()
    extents = extents_untrusted(node.content.data)
    assert sum(e.length for e in extents if e.tag == HOLE) > 90 * mib
    assert bench.intake.progress.read_bytes < 5 * mib


def test_a_file_of_nothing_but_a_hole(bench):
    with (bench.folder / "f").open("wb") as file:
        file.truncate(1 << 40)
    node = bench.file("f")
    assert extents_untrusted(node.content.data) == [(1 << 40, HOLE)]
    assert bench.pieces == {}


def test_chunks_come_while_a_file_is_read(bench):
    (bench.folder / "f").write_bytes(fixed("f", 20_000_000))
    batches = list(bench.intake.file(bench.entry("f")))
    assert len(batches) >= 3
    assert max(sum(len(c.data) for c in batch) for batch in batches) < 9_000_000


def test_very_many_cuts_go_into_lists(bench, monkeypatch):
    (bench.folder / "f").write_bytes(fixed("f", 9_000_000))
    monkeypatch.setattr(limits, "CUT_LIST_EXTENTS_MAX", 3)
    node = bench.file("f")
    assert node.content.form is Form.CUT_LISTS
    assert bench.content(node) == fixed("f", 9_000_000)


def test_more_pieces_than_a_snapshot_can_name_are_refused(bench, monkeypatch):
    (bench.folder / "f").write_bytes(fixed("f", 9_000_000))
    monkeypatch.setattr(module, "_EXTENTS_MAX", 0)
    with pytest.raises(LimitExceeded):
        bench.file("f")


# --- changing under our eyes ----------------------------------------------------------------------


def torn(bench):
    return [path for path, error in bench.reports.all if isinstance(error, Changed)]


@pytest.mark.parametrize("size", [100, 2_000_000])
def test_a_file_written_to_all_the_time_is_told_and_read_again_next_time(bench, monkeypatch, size):
    path = bench.folder / "f"
    path.write_bytes(fixed("f", size))
    real = {name: getattr(os, name) for name in ("read", "preadv")}

    def busy(name):
        def read(*args):
            data = real[name](*args)
            with path.open("ab") as file:
                file.write(b"more")
            return data

        return read

    entry = bench.entry("f")
    for name in real:
        monkeypatch.setattr(os, name, busy(name))
    monkeypatch.setattr(limits, "TREE_SMALL_FILE_BYTES_MAX", 10_000)
    node = bench.finished(bounded(bench.intake.file(entry), real, monkeypatch))
    assert torn(bench) == [b"s/f"]
    assert (node.entry.ino, node.entry.ctime_ns) == (0, 0)
    assert bench.content(node).startswith(fixed("f", size))
    assert len(bench.content(node)) == node.entry.size


def bounded(steps, real, monkeypatch):
    """The same; after twenty reads the writer stops."""
    reads = []
    for name in real:
        busy = getattr(os, name)

        def read(*args, busy=busy, quiet=real[name]):
            reads.append(args)
            return busy(*args) if len(reads) < 20 else quiet(*args)

        monkeypatch.setattr(os, name, read)
    return steps


def test_a_large_file_that_shrinks_ends_early(bench, monkeypatch):
    path = bench.folder / "f"
    data = fixed("f", 3_000_000)
    path.write_bytes(data)
    real = os.preadv

    def shrinking(fd, views, at):
        os.truncate(path, 1_000_000)
        return real(fd, views, at)

    entry = bench.entry("f")
    monkeypatch.setattr(os, "preadv", shrinking)
    node = bench.file("f", entry)
    assert torn(bench) == [b"s/f"]
    assert bench.content(node) == data[:1_000_000]
    assert node.entry.size == 1_000_000


def test_a_file_emptied_since_it_was_listed(bench):
    path = bench.folder / "f"
    for size in (100, 2_000_000):
        path.write_bytes(fixed("f", size))
        entry = bench.entry("f")
        path.write_bytes(b"")
        node = bench.file("f", entry)
        assert (bench.content(node), node.entry.size) == (b"", 0)


def test_a_small_file_that_became_large_since_it_was_listed(bench):
    path = bench.folder / "f"
    path.write_bytes(b"small")
    entry = bench.entry("f")
    path.write_bytes(fixed("f", 2_000_000))
    node = bench.file("f", entry)
    assert bench.content(node) == fixed("f", 2_000_000)


def test_what_is_gone_or_no_file_any_more_is_an_error(bench):
    (bench.folder / "f").write_bytes(b"x")
    (bench.folder / "large").write_bytes(bytes(LARGE))
    entries = [bench.entry("f"), bench.entry("large")]
    for entry in entries:
        (bench.folder / entry.path[2:].decode()).unlink()
        with pytest.raises(FileNotFoundError):
            bench.file("", entry)
        os.mkfifo(bench.folder / entry.path[2:].decode())
        with pytest.raises(Changed):
            bench.file("", entry)


# --- others ---------------------------------------------------------------------------------------


def test_what_has_no_content(bench):
    (bench.folder / "link").symlink_to("target")
    os.mkfifo(bench.folder / "fifo")
    for name in ("link", "fifo"):
        entry = bench.entry(name)
        if name == "link":
            entry = entry._replace(target=b"target")
        node = node_untrusted(bench.intake.other(entry), b"s")
        assert node.content.form is Form.NOTHING
        assert node.entry.target == entry.target
        assert node.entry.type is entry.type


def test_a_file_with_several_names_is_read_once(bench):
    for size in (10, 2_000_000):
        name = str(size)
        (bench.folder / name).write_bytes(fixed(name, size))
        os.link(bench.folder / name, bench.folder / f"{name} again")
        os.link(bench.folder / name, bench.folder / f"{name} and again")
        before = bench.intake.progress.read_bytes
        nodes = [bench.file(n) for n in (name, f"{name} again", f"{name} and again")]
        assert bench.intake.progress.read_bytes - before == size
        assert len({node.content for node in nodes}) == 1
        assert {node.link for node in nodes} == {link_mark(bench.entry(name))}
        assert bench.content(nodes[2]) == fixed(name, size)
    assert bench.intake._linked == {}  # every name came: nothing is remembered


def test_names_that_never_come_are_remembered_within_bounds(bench, monkeypatch):
    monkeypatch.setattr(limits, "TREE_OWNERS_CACHED_MAX", 2)
    for n in range(4):
        (bench.folder / f"{n}").write_bytes(b"%d" % n)
        os.link(bench.folder / f"{n}", bench.folder / f"{n}'")
        bench.file(f"{n}")
    assert len(bench.intake._linked) == 2
    assert bench.content(bench.file("3'")) == b"3"


def test_a_file_changed_between_its_names_is_read_again(bench):
    (bench.folder / "f").write_bytes(b"one")
    os.link(bench.folder / "f", bench.folder / "g")
    bench.file("f")
    (bench.folder / "f").write_bytes(b"changed")
    assert bench.content(bench.file("g")) == b"changed"


def test_a_mark_is_what_all_names_have_in_common_and_nothing_else_has(bench):
    for name in ("a", "b"):
        (bench.folder / name).write_bytes(b"")
        assert link_mark(bench.entry(name)) == b""
        os.link(bench.folder / name, bench.folder / f"{name}2")
    a, b = bench.entry("a"), bench.entry("b")
    assert link_mark(a) == link_mark(bench.entry("a2")) != link_mark(b)
    assert len(link_mark(a)) == limits.LINK_MARK_BYTES
    assert link_mark(a._replace(type=EntryType.DIRECTORY)) == b""
    assert link_mark(a._replace(dev=a.dev + 1)) != link_mark(a)


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 600_000, 6_000_000])
def test_a_stream_of_any_length(bench, size):
    data = fixed("stream", size) if size else b""
    (bench.folder / "owner").write_bytes(b"")
    entry = bench.entry("owner")._replace(path=b"s/stream")
    node = bench.finished(bench.intake.stream(entry, io.BytesIO(data).read))
    assert bench.content(node) == data
    assert (node.entry.size, node.entry.ino) == (size, 0)
    progress = bench.intake.progress
    assert (progress.files, progress.content_bytes, progress.read_bytes) == (1, size, size)
