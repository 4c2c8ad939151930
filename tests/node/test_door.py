import json
import os
import stat
from contextlib import suppress

import msgspec
import pytest
import trio
from trio.testing import MockClock

from core import limits
from core.errors import FormatError, IntegrityError, PortalError, Unavailable, UsageError
from node import api
from node.control import Control, NotRunning, Refused
from node.door import Door
from node.events import Events
from node.log import Log, Sink


class Quota(api.Question, frozen=True):
    """How much a peer may keep here."""

    peer: str
    size_bytes: int


class Granted(api.Answer, frozen=True):
    """What was granted."""

    text: str


class Opened:
    """A door in a temporary place, its log, and commands that ask through it."""

    def __init__(self, place):
        self.lines = []
        self.events = Events()
        self.path = place / "node.sock"
        self.door = Door(self.path, self.events, Log(Sink(self.lines.append)))
        self.control = Control(place)

    async def ask(self, call, *args):
        return await trio.to_thread.run_sync(call, *args)

    async def raw(self, *parts):
        async with await trio.open_unix_socket(str(self.path)) as stream:
            for part in parts:
                try:
                    await stream.send_all(part)
                except trio.BrokenResourceError:
                    break
            said = b""
            try:
                while part := await stream.receive_some():
                    said += part
            except trio.BrokenResourceError:
                pass
        head, _, body = said.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


def with_door(place, work, *, prepare=lambda _: None, clock=None):
    opened = Opened(place)
    prepare(opened.door)

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(opened.door.run)
            await work(opened)
            opened.door.stop()

    trio.run(main, clock=clock)
    return opened


def request(method, path, body=b""):
    head = f"{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def add_quota(door):
    async def grant(call):
        """Let a peer keep more."""
        quota = call.body
        return Granted(
            text=f"{quota.peer} {quota.size_bytes} {dict(call.params)} {dict(call.query)}"
        )

    async def tell(call):
        return Granted(text=call.params["peer"])

    door.post("/v1/peers/{peer}/quota", grant, Quota)
    door.get("/v1/peers/{peer}", tell)
    door.delete("/v1/peers/{peer}", tell)


def test_the_socket_is_its_owners_and_goes_with_the_door(tmp_path):
    async def work(opened):
        assert stat.S_IMODE(opened.path.stat().st_mode) == 0o600

    opened = with_door(tmp_path, work)
    assert not opened.path.exists()
    with pytest.raises(NotRunning):
        opened.control.index()


def test_the_socket_of_another_is_left_alone(tmp_path):
    async def work(opened):
        opened.path.unlink()
        opened.path.write_text("somebody else's")

    assert with_door(tmp_path, work).path.read_text() == "somebody else's"


def test_strangers_are_refused(tmp_path, monkeypatch):
    from node import unix_socket

    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    monkeypatch.setattr(unix_socket, "peer_uid", lambda _: 999)

    async def work(opened):
        async with await trio.open_unix_socket(str(opened.path)) as stream:
            await stream.send_all(request("GET", "/v1"))
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""

    assert any("stranger refused" in line for line in with_door(tmp_path, work).lines)


def test_parts_add_what_can_be_asked(tmp_path):
    async def work(opened):
        ask, control = opened.ask, opened.control
        quota = Quota(peer="ann", size_bytes=5)
        path = "/v1/peers/bob%20b/quota?dry=1"
        granted = await ask(control.post, path, Granted, quota)
        assert granted.text == "ann 5 {'peer': 'bob b'} {'dry': '1'}"
        assert (await ask(control.get, "/v1/peers/x", Granted)).text == "x"
        assert (await ask(control.delete, "/v1/peers/y", Granted)).text == "y"
        index = await ask(control.index)
        assert index.version == 1
        assert [(one.method, one.path) for one in index.routes] == [
            ("GET", "/v1"),
            ("GET", "/v1/events"),
            ("DELETE", "/v1/peers/{peer}"),
            ("GET", "/v1/peers/{peer}"),
            ("POST", "/v1/peers/{peer}/quota"),
        ]
        assert index.routes[-1].what == "Let a peer keep more."
        assert "service.changed" in {one.kind for one in index.events}

    with_door(tmp_path, work, prepare=add_quota)


def test_nothing_is_added_twice(tmp_path):
    door = Opened(tmp_path).door
    add_quota(door)
    with pytest.raises(AssertionError):
        add_quota(door)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", b"", 404),
        ("GET", "/", b"", 404),
        ("GET", "/v1/", b"", 404),
        ("POST", "/v1", b"", 405),
        ("POST", "/v1/events", b"", 405),
        ("GET", "/v1", b"{}", 400),
        ("POST", "/v1/peers/x/quota", b"", 400),
        ("POST", "/v1/peers/x/quota", b"\xff\xfe", 400),
        ("POST", "/v1/peers/x/quota", b'{"peer": "ann"}', 400),
        ("POST", "/v1/peers/x/quota", b'{"peer": "ann", "size_bytes": "5"}', 400),
        ("POST", "/v1/peers/x/quota", b'{"peer": "ann", "size_bytes": 5, "more": 1}', 400),
        ("POST", "/v1/peers/x/quota", b"[" * 100_000, 400),
        ("POST", "/v1/peers/x/quota", b" " * (limits.HTTP_BODY_BYTES_MAX + 1), 413),
    ],
)
def test_what_is_asked_wrongly_is_refused_with_a_reason(tmp_path, method, path, body, status):
    async def work(opened):
        found, answer = await opened.raw(request(method, path, body))
        assert found == status
        if status not in {405, 413}:
            fault = msgspec.json.decode(answer, type=api.Fault)
            assert fault.kind in {"FormatError", "NoSuchPath"}
            assert fault.what

    with_door(tmp_path, work, prepare=add_quota)


class Sleeping(PortalError):
    """The peer sleeps."""

    retryable = True
    exit_code = 9


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (UsageError("no such size", hint="5GB"), 400, "UsageError"),
        (FormatError("torn"), 400, "FormatError"),
        (Unavailable("no radio"), 503, "Unavailable"),
        (Sleeping(where="ann"), 503, "Sleeping"),
        (IntegrityError("changed"), 422, "IntegrityError"),
        (FileNotFoundError(2, "No such file", "/x"), 500, "FileNotFoundError"),
        (KeyError("a secret thing"), 500, "Fault"),
    ],
)
def test_errors_arrive_with_all_that_a_person_may_be_told(tmp_path, error, status, kind):
    async def fail(_call):
        raise error

    async def work(opened):
        assert (await opened.raw(request("GET", "/v1/fail")))[0] == status
        with pytest.raises(Refused) as raised:
            await opened.ask(opened.control.get, "/v1/fail", api.Done)
        assert raised.value.kind == kind
        if isinstance(error, PortalError):
            assert str(raised.value) == str(error)
            assert raised.value.exit_code == error.exit_code
        assert "secret" not in str(raised.value)

    opened = with_door(tmp_path, work, prepare=lambda door: door.get("/v1/fail", fail))
    assert any("request failed path=/v1/fail" in one for one in opened.lines) == (kind == "Fault")


def test_events_are_lines(tmp_path):
    async def work(opened):
        heard = []

        def listen():
            for event in opened.control.events():
                heard.append(event)
                trio.from_thread.run_sync(after, event)

        def after(event):
            if event.kind == "stream.opened":
                opened.events.publish(api.ServiceChanged(service="mesh", state="running"))
            elif event.kind == "service.changed":
                opened.events.close()

        await trio.to_thread.run_sync(listen)
        assert [one.kind for one in heard] == ["stream.opened", "service.changed", "stream.closed"]
        assert heard[1].facts() == {"service": "mesh", "state": "running"}
        assert heard[2].facts() == {"why": "stopping"}

    with_door(tmp_path, work)


def test_a_listener_who_leaves_is_forgotten(tmp_path):
    async def work(opened):
        async with await trio.open_unix_socket(str(opened.path)) as stream:
            await stream.send_all(request("GET", "/v1/events"))
            while b"stream.opened" not in await stream.receive_some():
                pass
            assert len(opened.events) == 1
        while len(opened.events):
            await trio.testing.wait_all_tasks_blocked()

    with_door(tmp_path, work)


def test_a_slow_listener_is_dropped_with_a_notice(tmp_path):
    async def work(opened):
        async with await trio.open_unix_socket(str(opened.path)) as stream:
            await stream.send_all(request("GET", "/v1/events"))
            said = b""
            while b"stream.opened" not in said:
                said += await stream.receive_some()
            while not opened.events.dropped:  # its socket fills up, then its queue
                opened.events.publish(api.ServiceChanged(service="x" * 4_000, state="running"))
                await trio.lowlevel.checkpoint()
            assert len(opened.events) == 0
            while part := await stream.receive_some():
                said += part
        lines = [json.loads(one) for one in said.split(b"\n") if one.startswith(b'{"seq"')]
        assert lines[-1]["data"] == {"why": "slow"}
        numbers = [one["seq"] for one in lines[:-1]]
        assert numbers == list(range(len(numbers)))  # no gap before the end

    with_door(tmp_path, work)


def test_a_listener_that_stopped_reading_does_not_keep_the_door_from_closing(tmp_path):
    async def work(opened):
        async with await trio.open_unix_socket(str(opened.path)) as stream:
            await stream.send_all(request("GET", "/v1/events"))
            while not opened.events.dropped:
                opened.events.publish(api.ServiceChanged(service="x" * 4_000, state="running"))
                await trio.lowlevel.checkpoint()
            began = trio.current_time()
            opened.door.stop()
            while opened.path.exists():
                with trio.move_on_after(0.1):
                    await trio.Event().wait()
            assert trio.current_time() - began <= limits.HTTP_CLOSE_SECONDS + 0.2

    with_door(tmp_path, work, clock=MockClock(autojump_threshold=0.01))


def test_too_many_listeners_are_told(tmp_path):
    async def work(opened):
        listening = [opened.events.listen() for _ in range(limits.EVENT_LISTENERS_MAX)]
        for one in listening:
            one.__enter__()
        status, body = await opened.raw(request("GET", "/v1/events"))
        assert status == 400
        assert b"listen already" in body

    with_door(tmp_path, work)
