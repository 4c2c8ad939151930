import os

import pytest

from core.errors import FormatError
from core.tree.entry import Entry, EntryType
from core.tree.writer import FileWriter, write_all


class Log:
    def __init__(self, answer=True):
        self.calls = []
        self.answer = answer

    def publish(self, fd):
        self.calls.append(("publish", os.fstat(fd).st_size))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def discard(self):
        self.calls.append("discard")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def writer(path, size, log):
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    return FileWriter(fd, Entry(b"a/file", EntryType.FILE, size=size), log.publish, log.discard)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_bytes_go_where_they_belong_in_any_order(path):
    log = Log()
    with writer(path, 10, log) as out:
        fd = out.fd
        out.write_at(6, memoryview(b"end"))
        out.write_at(0, b"be")
        out.write_at(4, b"")
    assert out.published
    assert path.read_bytes() == b"be\0\0\0\0end\0"
    assert log.calls == [("publish", 10)]
    assert not is_open(fd)


def test_what_is_never_written_is_a_hole(path):
    size = 32 << 20
    with writer(path, size, Log()) as out:
        out.write_at(16 << 20, b"island")
    assert path.stat().st_size == size
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(("offset", "data"), [(9, b"xy"), (-1, b"x"), (11, b""), (0, b"x" * 11)])
def test_nothing_is_written_beyond_the_announced_size(path, offset, data):
    log = Log()
    with pytest.raises(FormatError, match="more than its size"), writer(path, 10, log) as out:
        out.write_at(offset, data)
    assert path.stat().st_size == 0
    assert log.calls == ["discard"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_failure_discards(path, error):
    log = Log()
    out = writer(path, 10, log)
    fd = out.fd
    with pytest.raises(type(error)), out:
        raise error
    assert log.calls == ["discard"]
    assert not is_open(fd)
    log = Log(answer=error)
    out = writer(path, 10, log)
    fd = out.fd
    with pytest.raises(type(error)), out:
        pass
    assert log.calls == [("publish", 10), "discard"]
    assert not out.published
    assert not is_open(fd)


def test_it_is_published_or_discarded_once(path):
    log = Log(answer=False)
    with writer(path, 0, log) as out:
        assert not out.publish()
    out.discard()
    assert log.calls == [("publish", 0)]
    log = Log()
    with writer(path, 0, log) as out:
        out.discard()
    assert log.calls == ["discard"]


def test_a_system_that_takes_little_at_a_time_gets_it_all(path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
    with path.open("wb") as file:
        write_all(file.fileno(), b"0123456789", 2)
    assert path.read_bytes() == b"\0\x000123456789"
