"""The control socket: HTTP/JSON for this user's own programs (node/SPEC.md, The control API).

    get, post, delete     a part of the node adds what can be asked of it, before the door opens
    /v1/events            a stream of JSON lines, see node.events

A question's body is one JSON object of a type of node.api's, checked before anything is done; an
answer is another. What goes wrong is answered with a Fault, and its status says whose fault it is:
400 the question's, 404 and 405 there is no such question, 413 too long, 422 it cannot be done,
503 not now, 500 the node's.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from core import limits
from core.errors import FormatError, LimitExceeded, PortalError, Unavailable, UsageError
from node import api, unix_socket
from node.events import Events
from node.http import FAULTS, Gone, Server
from node.log import Log, error_text, place

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class Call(Generic[Body]):
    """A question: what the path names, what follows the question mark, and the body."""

    params: Mapping[str, str]
    query: Mapping[str, str]
    body: Body


class TooLong(LimitExceeded):
    """This question is too long."""


Handler = Callable[[Call[Any]], Awaitable[api.Answer]]
Render = Callable[[], Awaitable[bytes]]


class Door:
    """The service that answers on the control socket."""

    name = "control"

    def __init__(self, path: Path, events: Events, log: Log) -> None:
        self.path = path
        self._events = events
        self._log = log.part(self.name)
        self._index: list[api.Route] = []
        self._router = Router(default=_no_such_path, redirect_slashes=False)
        self._server = Server(self._router, self._log, unix_socket.is_ours)
        self.get(api.INDEX, self._tell_index)
        self._add("GET", api.EVENTS, _EventStream(events), "What happens, as JSON lines.")

    def get(self, path: str, handler: Callable[[Call[None]], Awaitable[api.Answer]]) -> None:
        """Answer GET; `{name}` in the path is a parameter. The handler's docstring is the index."""
        self._add("GET", path, _answering(handler, None, self._log), _what(handler))

    def post(
        self,
        path: str,
        handler: Callable[[Call[Body]], Awaitable[api.Answer]],
        body: type[Body] | None = None,
    ) -> None:
        """Answer POST, with a body of this type, or without one."""
        self._add("POST", path, _answering(handler, body, self._log), _what(handler))

    def delete(self, path: str, handler: Callable[[Call[None]], Awaitable[api.Answer]]) -> None:
        """Answer DELETE."""
        self._add("DELETE", path, _answering(handler, None, self._log), _what(handler))

    def text(self, path: str, render: Render, media_type: str) -> None:
        """Answer GET with bytes of another format."""

        async def answer(_request: Request) -> Response:
            return Response(await render(), headers={"content-type": media_type})

        self._add("GET", path, answer, _what(render))

    def _add(self, method: str, path: str, endpoint: Callable[..., Any], what: str) -> None:
        assert (method, path) not in {(one.method, one.path) for one in self._index}
        self._index.append(api.Route(method=method, path=path, what=what))
        self._router.routes.append(Route(path, endpoint, methods=[method]))

    async def _tell_index(self, _call: Call[None]) -> api.Index:
        """What can be asked here, and what kinds of events there are."""
        routes = sorted(self._index, key=lambda one: (one.path, one.method))
        return api.Index(version=api.VERSION, routes=routes, events=self._events.kinds)

    def stop(self) -> None:
        """Close: streams end, answers under way have a moment."""
        self._events.close()
        self._server.stop()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is stopped. The file of the socket goes with it."""
        listener = unix_socket.listen(self.path)
        ours = self.path.lstat().st_ino
        self._log.info("door opened", path=self.path)
        try:
            await self._server.run([listener], task_status=task_status)
        finally:
            if self.path.is_socket() and self.path.lstat().st_ino == ours:
                self.path.unlink()


class _EventStream:
    """Answers with lines until the listener has enough, is too slow, or the node ends."""

    def __init__(self, events: Events) -> None:
        self._events = events

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._events.listen() as listener:
                headers = [(b"content-type", api.LINES.encode()), (b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
                    try:
                        async for line in listener.lines:
                            await send(_body(line, more=True))
                        await send(_body(self._events.last_line(listener), more=False))
                    except Gone:
                        pass  # it took nothing for too long, or went away
                    nursery.cancel_scope.cancel()
        except LimitExceeded as e:
            await _refusal(e)({"type": "http"}, receive, send)


def _body(data: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # the body of a question that needs none
    scope.cancel()


def _what(handler: Callable[..., Any]) -> str:
    return (handler.__doc__ or "").partition("\n")[0]


def _answering(
    handler: Handler, body: type[Any] | None, log: Log
) -> Callable[[Request], Awaitable[Response]]:
    """What starlette calls for one route."""

    async def answer(request: Request) -> Response:
        try:
            given = await _read_untrusted(request, body)
            call = Call(request.path_params, request.query_params, given)
            return _json(200, await handler(call))
        except Gone:
            raise
        except (PortalError, OSError) as e:
            return _refusal(e)
        except FAULTS as e:
            facts = {"path": request.url.path, "error": e, "where": place(e)}
            log.error("request failed", **facts)  # noqa: TRY400 - a log of our own
            what = "a fault of the node itself; its log says more"
            return _json(500, api.Fault(kind="Fault", what=what))

    return answer


async def _read_untrusted(request: Request, wanted: type[Body] | None) -> Body | None:
    """The body of a question, as what it has to be."""
    data = bytearray()
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            data += part
            if len(data) > limits.HTTP_BODY_BYTES_MAX:
                raise TooLong(f"a question has at most {limits.HTTP_BODY_BYTES_MAX} bytes")
    if wanted is None:
        if data:
            raise FormatError("this question has no body")
        return None
    try:
        return msgspec.json.decode(data, type=wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise FormatError(f"this is not the body that is wanted: {e}") from None


def _json(status: int, answer: api.Answer) -> Response:
    encoded = msgspec.json.encode(answer)
    return Response(encoded, status, headers={"content-type": api.JSON})


def _refusal(error: PortalError | OSError) -> Response:
    """Whose fault it is, and all that a person may be told."""
    if isinstance(error, PortalError):
        fault = api.Fault(
            kind=type(error).__name__,
            what=error.what,
            where=error.where,
            hint=error.hint,
            exit_code=error.exit_code,
        )
        return _json(_status(error), fault)
    return _json(500, api.Fault(kind=type(error).__name__, what=error_text(error)))


def _status(error: PortalError) -> int:
    if isinstance(error, TooLong):
        return 413
    if isinstance(error, Unavailable) or error.retryable:
        return 503
    return 400 if isinstance(error, UsageError | FormatError) else 422


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    fault = api.Fault(
        kind="NoSuchPath", what="there is no such question", hint=f"GET {api.INDEX} lists them"
    )
    await _json(404, fault)(scope, receive, send)
