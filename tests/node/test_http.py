import socket
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from core import limits
from node.http import Gone, Server
from node.log import Level, Log, Sink


class Said:
    """An application that answers with what it was asked, and a server around it."""

    def __init__(self, place, *, may_speak=lambda _: True, app=None):
        self.place = place
        self.lines = []
        log = Log(Sink(self.lines.append, level=Level.DEBUG), "http")
        self.server = Server(app or self.answer, log, may_speak)
        self.asked = []

    async def answer(self, scope, receive, send):
        if scope["path"] == "/fault":
            raise KeyError("a fault of ours")
        body = b""
        while (part := await receive())["more_body"]:
            body += part["body"]
        self.asked.append((scope["method"], scope["path"], scope["query_string"], body))
        text = f"{scope['method']} {scope['path']} {len(body)}".encode()
        headers = [(b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    @asynccontextmanager
    async def running(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.place / "s"))
        listener.listen()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.run, [listener])
            yield
            self.server.stop()
        (self.place / "s").unlink()

    async def open(self):
        return await trio.open_unix_socket(str(self.place / "s"))

    async def ask(self, *parts):
        """All that the server says on one connection, until it closes it."""
        async with await self.open() as stream:
            for part in parts:
                try:
                    await stream.send_all(part)
                except trio.BrokenResourceError:
                    break  # it refused early
            return await everything(stream)


async def everything(stream):
    said = b""
    try:
        while part := await stream.receive_some():
            said += part
    except trio.BrokenResourceError:
        pass  # closed with something unread
    return said


def serve(place, work, clock=None, **options):
    said = Said(place, **options)

    async def main():
        async with said.running():
            await work(said)

    trio.run(main, clock=clock)
    return said


END = b"Host: a\r\nConnection: close\r\n\r\n"


def test_questions_and_answers(tmp_path):
    async def work(said):
        answer = await said.ask(b"GET /a%20b?x=1 HTTP/1.1\r\n" + END)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nGET /a b 0")
        post = b"POST /p HTTP/1.1\r\nContent-Length: 5\r\n" + END
        assert (await said.ask(post + b"he", b"llo")).endswith(b"POST /p 5")
        chunked = b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + END
        answer = await said.ask(chunked, b"3\r\nabc\r\n", b"1\r\nd\r\n0\r\n\r\n")
        assert answer.endswith(b"POST /p 4")
        head = await said.ask(b"HEAD /h HTTP/1.1\r\n" + END)
        assert b"content-length: 9\r\n" in head.lower()
        assert head.endswith(b"\r\n\r\n")

    assert serve(tmp_path, work).asked[0] == ("GET", "/a b", b"x=1", b"")


def test_a_connection_takes_one_question_after_the_other_even_at_once(tmp_path):
    async def work(said):
        one = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
        answer = await said.ask(one % 1 + one % 2, b"GET /3 HTTP/1.1\r\n" + END)
        assert [path for _, path, _, _ in said.asked] == ["/1", "/2", "/3"]
        assert answer.count(b"HTTP/1.1 200") == 3

    serve(tmp_path, work)


def test_who_waits_for_leave_gets_it(tmp_path):
    async def work(said):
        async with await said.open() as stream:
            question = b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n" + END
            await stream.send_all(question)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await stream.send_all(b"hi")
            assert (await everything(stream)).endswith(b"POST / 2")

    serve(tmp_path, work)


@pytest.mark.parametrize(
    "question",
    [
        b"GET /\xff HTTP/1.1\r\n" + END,
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * limits.HTTP_HEAD_BYTES_MAX * 2 + b"\r\n\r\n",
    ],
)
def test_what_is_not_understood_is_refused_and_the_next_one_served(tmp_path, question):
    async def work(said):
        assert (await said.ask(question)).startswith((b"HTTP/1.1 4", b"HTTP/1.1 505"))
        assert (await said.ask(b"GET / HTTP/1.1\r\n" + END)).endswith(b"GET / 0")

    serve(tmp_path, work)


def test_an_upgrade_is_an_ordinary_question(tmp_path):
    # With settings of a wrong length this ends a hypercorn and all that it runs in.
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade, close\r\n"

    async def work(said):
        answer = await said.ask(upgrade + b"HTTP2-Settings: AAAA\r\n\r\n")
        assert answer.endswith(b"GET / 0")

    serve(tmp_path, work)


@settings(max_examples=150)
@given(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            [
                *(b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n"),
                *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: h2c\r\n"),
                *(b"Connection: upgrade\r\n", b"HTTP2-Settings: AA\r\n", b"abc", b"3\r\n"),
                *(b"Expect: 100-continue\r\n", b"GET /fault HTTP/1.0\r\n", b"\0", b" "),
            ]
        ),
        max_size=12,
    ),
)
def test_no_bytes_end_the_server(tmp_path_factory, noise, parts):
    async def work(said):
        async with await said.open() as stream:
            try:
                await stream.send_all(b"".join(parts) + noise)
                await stream.send_eof()
            except trio.BrokenResourceError:
                pass
            await everything(stream)
        assert (await said.ask(b"GET /ok HTTP/1.1\r\n" + END)).endswith(b"GET /ok 0")

    serve(tmp_path_factory.mktemp("http"), work)


def test_a_fault_of_ours_costs_one_question(tmp_path):
    async def work(said):
        answer = await said.ask(b"GET /fault HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b'{"kind":"Fault"' in answer
        assert (await said.ask(b"GET / HTTP/1.1\r\n" + END)).endswith(b"GET / 0")

    (told,) = serve(tmp_path, work).lines
    assert "error http: request failed method=GET error=\"KeyError: 'a fault of ours'\"" in told
    assert "test_http.py:" in told


def test_an_answer_that_breaks_its_promise_is_cut_off(tmp_path):
    async def lies(_scope, _receive, send):
        headers = [(b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"too long"})

    async def work(said):
        assert not (await said.ask(b"GET / HTTP/1.1\r\n" + END)).endswith(b"long")

    assert "LocalProtocolError" in serve(tmp_path, work, app=lies).lines[0]


def test_strangers_hear_nothing(tmp_path):
    async def work(said):
        assert await said.ask(b"GET / HTTP/1.1\r\n" + END) == b""

    said = serve(tmp_path, work, may_speak=lambda _: False)
    assert said.asked == []
    assert "warning http: stranger refused" in said.lines[0]


def test_there_is_a_limit_to_connections(tmp_path):
    async def work(said):
        many = [await said.open() for _ in range(limits.HTTP_CONNECTIONS_MAX)]
        for one in many:  # each is served once it has answered
            await one.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await one.receive_some()
        assert await said.ask(b"GET / HTTP/1.1\r\n" + END) == b""
        await many.pop().aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await said.ask(b"GET / HTTP/1.1\r\n" + END)).endswith(b"GET / 0")
        for one in many:
            await one.aclose()

    assert any("too many connections" in line for line in serve(tmp_path, work).lines)


@pytest.mark.parametrize("begun", [b"", b"GET / HTT"])
def test_who_says_nothing_is_not_waited_for(tmp_path, begun):
    async def work(said):
        assert await said.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", begun) != b""

    serve(tmp_path, work, clock=MockClock(autojump_threshold=0.01))


async def endless(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    with pytest.raises(Gone):
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
    raise Gone


def test_who_takes_nothing_is_not_waited_for(tmp_path):
    async def work(said):
        async with await said.open() as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n" + END)
            await trio.testing.wait_all_tasks_blocked(0.005)
            start = trio.current_time()
            while said.server._connections:  # the mock clock jumps while everybody waits
                with trio.move_on_after(1):
                    await trio.Event().wait()
            assert trio.current_time() - start <= limits.HTTP_SEND_SECONDS + 1

    serve(tmp_path, work, app=endless, clock=MockClock(autojump_threshold=0.01))


def test_the_end_waits_a_moment_for_answers_and_for_nobody_else(tmp_path):
    reached, go_on = trio.Event(), trio.Event()

    async def slow(scope, _receive, send):
        if scope["path"] == "/for-ever":
            await trio.Event().wait()
        if scope["path"] == "/slow":
            reached.set()
            await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def main():
        said = Said(tmp_path, app=slow)
        async with trio.open_nursery() as nursery:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            await nursery.start(said.server.run, [listener])
            idle, stuck, busy = streams = [await said.open() for _ in range(3)]
            await stuck.send_all(b"GET /for-ever HTTP/1.1\r\nHost: a\r\n\r\n")
            await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            await reached.wait()
            said.server.stop()
            assert await everything(idle) == b""
            go_on.set()
            answer = await everything(busy)
            assert b"done" in answer
            assert trio.current_time() < limits.HTTP_CLOSE_SECONDS
            assert await everything(stuck) == b""
            with pytest.raises(OSError, match="refused"):
                await said.open()
            for one in streams:
                await one.aclose()
            return trio.current_time()

    ended = trio.run(main, clock=MockClock(autojump_threshold=0.01))
    assert ended <= limits.HTTP_CLOSE_SECONDS + 1


def test_who_still_sends_hears_the_answer_all_the_same(tmp_path):
    # Over TCP, closing with something unread takes back what was answered.
    async def hasty(_scope, _receive, send):
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"no"})

    async def main():
        said = Said(tmp_path, app=hasty)
        listener = socket.create_server(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            await nursery.start(said.server.run, [listener])
            stream = await trio.open_tcp_stream(*listener.getsockname())
            async with stream:
                head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n"
                await stream.send_all(head + b"x" * 8_000_000)
                assert (await everything(stream)).endswith(b"\r\n\r\nno")
            said.server.stop()

    trio.run(main)
