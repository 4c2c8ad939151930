"""HTTP/1.1 on sockets that listen already: h11 parses, trio carries, an ASGI application answers.

    accept -> may this one speak? -> [ head -> application -> answer ] again -> closed

Everything is bounded: connections, the head, the time for it, the time the other side may take to
accept a piece. One connection can end nothing but itself: what it sends is either understood by h11
or answered with 400, and a fault in the application costs that request. No upgrades, no HTTP/2, no
timers for who says nothing but one. (hypercorn, on the same parser, could not be taken: one request
that asks for an upgrade to h2c with settings of a wrong length ends all it runs in, and it shields
its sending from being cancelled, so one reader that stops reading keeps the node from ending.)
"""

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import unquote

import h11
import trio

from core import limits
from node.log import Log, place

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# What a fault in our own code raises. It costs the request, not the node; all else ends the node.
FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError),
    *(ValueError, ExceptionGroup),
)
_RECEIVE_BYTES = 16 * limits.KIB
_FAULT_ANSWER = b'{"kind":"Fault","what":"a fault of the node itself; its log says more"}'


class Gone(OSError):
    """The other side went away, or takes nothing any more."""


class Server:
    """Serves one application until it is stopped. `run` owns every connection."""

    def __init__(
        self, app: App, log: Log, may_speak: Callable[[trio.socket.SocketType], bool]
    ) -> None:
        self._app = app
        self._log = log
        self._may_speak = may_speak
        self._stopping = trio.Event()
        self._connections = set[_Connection]()

    def stop(self) -> None:
        """Take no more requests; those being answered have a moment."""
        self._stopping.set()

    async def run(
        self, listeners: list[socket.socket], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Until it is stopped. Closes the listeners."""
        doors = [_listener(one) for one in listeners]
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                serve = partial(trio.serve_listeners, handler_nursery=connections)
                await accepting.start(serve, self._serve, doors)
                task_status.started()
                await self._stopping.wait()
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + limits.HTTP_CLOSE_SECONDS
            for connection in self._connections:
                connection.finish()

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._connections) >= limits.HTTP_CONNECTIONS_MAX:
            self._log.warning("too many connections", limit=limits.HTTP_CONNECTIONS_MAX)
            return
        try:
            if not self._may_speak(stream.socket):
                self._log.warning("stranger refused")
                return
        except OSError:
            return  # it is gone
        connection = _Connection(stream, self._app, self._log)
        self._connections.add(connection)
        if self._stopping.is_set():
            connection.finish()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)


def _listener(bound: socket.socket) -> trio.SocketListener:
    bound.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


class _Connection:
    """One connection and the requests on it, one after the other."""

    def __init__(self, stream: trio.SocketStream, app: App, log: Log) -> None:
        self._stream = stream
        self._app = app
        self._log = log
        self._http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=limits.HTTP_HEAD_BYTES_MAX
        )
        self._idle = trio.CancelScope()
        self._is_last = False
        self._body_read = False
        self._answered = False  # its head is sent
        self._without_body = False

    def finish(self) -> None:
        """End after the request that is being answered, or now."""
        self._is_last = True
        self._idle.cancel()

    async def run(self) -> None:
        """Until one side has enough."""
        try:
            while not self._is_last:
                request = await self._next_request()
                if request is None:
                    return
                if request.http_version not in {b"1.0", b"1.1"}:
                    await self._refuse(505)
                    return
                await self._answer(request)
                if not self._is_at_end():
                    await self._let_it_read()
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as e:
            await self._refuse(e.error_status_hint)
            await self._let_it_read()
        except (Gone, trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _let_it_read(self) -> None:
        """Close so that our last words arrive: who still sends would hear only of the end."""
        with trio.move_on_after(limits.HTTP_CLOSE_SECONDS):
            try:
                await self._stream.send_eof()
                while await self._stream.receive_some(_RECEIVE_BYTES):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    def _is_at_end(self) -> bool:
        """Whether question and answer are whole, so that another may follow."""
        while self._http.their_state is h11.SEND_BODY:
            if self._http.next_event() is h11.NEED_DATA:
                return False  # the rest of a question that nobody wanted
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _next_request(self) -> h11.Request | None:
        with trio.CancelScope() as self._idle:
            self._idle.deadline = trio.current_time() + limits.HTTP_IDLE_SECONDS
            began = False
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None  # the other side is done
                if not began and self._http.trailing_data[0]:
                    began = True
                    self._idle.deadline = trio.current_time() + limits.HTTP_HEAD_SECONDS
                self._http.receive_data(await self._stream.receive_some(_RECEIVE_BYTES))
        return None

    async def _answer(self, request: h11.Request) -> None:
        self._body_read = self._answered = False
        self._without_body = request.method == b"HEAD"
        path, _, query = request.target.partition(b"?")
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": unquote(path.decode("ascii", "replace")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
            "client": None,
            "server": None,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except (*FAULTS, h11.LocalProtocolError) as e:
            self._log.error("request failed", method=scope["method"], error=e, where=place(e))
            await self._refuse(500)

    async def _receive(self) -> Message:
        """The next part of the question; after its end, that the other side went away."""
        if self._body_read:
            await self._until_gone()
            return {"type": "http.disconnect"}
        if self._http.they_are_waiting_for_100_continue:
            await self._write(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as e:
                await self._refuse(e.error_status_hint)
                raise Gone from None
            if event is h11.NEED_DATA:
                with trio.move_on_after(limits.HTTP_SEND_SECONDS) as waiting:
                    data = await self._stream.receive_some(_RECEIVE_BYTES)
                if waiting.cancelled_caught:
                    raise Gone
                self._http.receive_data(data)
            elif isinstance(event, h11.Data):
                return {"type": "http.request", "body": bytes(event.data), "more_body": True}
            elif isinstance(event, h11.EndOfMessage):
                self._body_read = True
                return {"type": "http.request", "body": b"", "more_body": False}
            else:
                self._body_read = True
                return {"type": "http.disconnect"}

    async def _until_gone(self) -> None:
        """Wait for the other side to close; a request that comes before its turn is kept."""
        try:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        if data:
            self._http.receive_data(data)
            await trio.sleep_forever()

    async def _send(self, message: Message) -> None:
        """A part of the answer."""
        if self._http.our_state not in {h11.SEND_RESPONSE, h11.SEND_BODY}:
            raise Gone  # it was refused already
        if message["type"] == "http.response.start":
            self._answered = True
            headers = [*message.get("headers", [])]
            if self._is_last:
                headers.append((b"connection", b"close"))
            await self._write(h11.Response(status_code=message["status"], headers=headers))
            return
        if message.get("body") and not self._without_body:
            await self._write(h11.Data(data=message["body"]))
        if not message.get("more_body", False):
            await self._write(h11.EndOfMessage())

    async def _refuse(self, status: int) -> None:
        """End the connection with an answer, if one is still due."""
        if self._answered or self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self._http.send_failed()
            return
        body = _FAULT_ANSWER if status == 500 else b""
        headers = [("content-length", str(len(body))), ("connection", "close")]
        if body:
            headers.append(("content-type", "application/json"))
        try:
            await self._write(h11.Response(status_code=status, headers=headers))
            if body and not self._without_body:
                await self._write(h11.Data(data=body))
            await self._write(h11.EndOfMessage())
        except (Gone, h11.LocalProtocolError):
            self._http.send_failed()

    async def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if not data:
            return
        with trio.move_on_after(limits.HTTP_SEND_SECONDS) as sending:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Gone from None
        if sending.cancelled_caught:
            raise Gone
