import gc
import io
import threading

from core import limits
from core.buffers import Buffers, Joined, filled_by, is_looked_at


def test_what_is_looked_at_is_never_handed_out_again():
    buffers = Buffers(1_000)
    kept = []
    for number in range(30):  # more than are kept for another time
        view = buffers.take(600)
        view[:] = bytes([number]) * 600
        kept.append(view.toreadonly()[100:200])
    del view
    assert [bytes(part) for part in kept] == [bytes([n]) * 100 for n in range(30)]


def test_what_nobody_looks_at_is_used_again():
    buffers = Buffers(1_000)
    seen = set()
    for _ in range(100):
        view = buffers.take(900)
        seen.add(id(view.obj))
        del view
    assert len(seen) == 1 or len(seen) == 2, "the one in use and the one before"


def test_small_parts_share_a_buffer():
    buffers = Buffers(1_000)
    parts = [buffers.take(100) for _ in range(7)]
    assert len({id(part.obj) for part in parts}) == 1
    for number, part in enumerate(parts):
        part[:] = bytes([number]) * 100
    assert [part[0] for part in parts] == [part[99] for part in parts] == list(range(7))


def test_a_part_of_a_part_keeps_the_whole():
    buffers = Buffers(1_000)
    part = buffers.take(1_000)[10:20]
    others = [buffers.take(1_000) for _ in range(limits.READ_BUFFERS_KEPT_MAX)]
    assert all(other.obj is not part.obj for other in others)


def test_threads_get_different_parts():
    buffers = Buffers(4_096)
    wrong = []

    def work(number):
        for _ in range(500):
            view = buffers.take(700)
            view[:] = bytes([number]) * 700
            if bytes(view) != bytes([number]) * 700:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_larger_than_a_buffer_has_one_of_its_own():
    buffers = Buffers(10)
    assert [len(buffers.take(size)) for size in (11, 0, 10)] == [11, 0, 10]


def test_a_stream_that_gives_bytes():
    fill = filled_by(io.BytesIO(b"abcde").read)
    room = memoryview(bytearray(3))
    assert (fill(room), bytes(room)) == (3, b"abc")
    assert (fill(room), bytes(room)) == (2, b"dec")
    assert fill(room) == 0


def test_a_buffer_is_looked_at_while_there_is_a_view():
    buffer = bytearray(b"12")
    assert not is_looked_at(buffer)
    view = memoryview(buffer)[:1]
    assert is_looked_at(buffer)
    view.release()
    gc.collect()
    assert not is_looked_at(buffer)
    assert len(buffer) == 2


def test_pieces_are_joined_and_what_they_lay_in_is_free():
    sources = Buffers(1_000)
    joined = Joined(Buffers(100), 100)
    wholes = []
    for number in range(40):
        source = sources.take(1_000)
        source[:30] = bytes([number]) * 30
        joined.add(source[:30])
        buffer = source.obj
        del source
        assert not is_looked_at(buffer), "a small piece must not keep a large buffer"
        if joined.count == 3:
            assert joined.size == 90
            wholes.append((number, joined.take()))
            assert (joined.count, joined.size) == (0, 0)
    for number, whole in wholes:
        assert whole.readonly
        assert whole == b"".join(bytes([n]) * 30 for n in range(number - 2, number + 1))


def test_more_than_was_meant_is_joined_too():
    joined = Joined(Buffers(10), 10)
    for piece in (b"", b"abc", b"", b"d" * 20, b"e" * 5):
        joined.add(piece)
    assert (joined.count, joined.size) == (5, 28)
    assert joined.take() == b"abc" + b"d" * 20 + b"e" * 5
    assert joined.take() == b""
