"""How a command asks the node of this PORTAL_HOME: one question, one answer, or a stream of events.

    with Control(portal_home()) as node:
        print(node.status().state)

Waits for nothing but the answer; where no node runs it says so (NotRunning) and what to do. Leans
on h11 and the standard library only, so that a command that asks is as quick as one that does not.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self, TypeVar

import h11
import msgspec

from core import limits
from core.errors import FormatError, PortalError, Unavailable
from node import api, instance, unix_socket

SOCKET = "node.sock"
_RECEIVE_BYTES = 64 * limits.KIB

Wanted = TypeVar("Wanted")


class NotRunning(PortalError):
    """No node runs here."""

    exit_code = 15


class Refused(PortalError):
    """The node refused; `kind` is the class of its error, for programs."""

    def __init__(self, fault: api.Fault) -> None:
        super().__init__(fault.what, where=fault.where, hint=fault.hint)
        self.kind = fault.kind
        self.exit_code = fault.exit_code  # type: ignore[misc]  # as if the command had failed itself


class Control:
    """Asks the node of one home. Each question has a connection of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = instance.control_socket(home) or home / SOCKET

    # --- what every node answers ------------------------------------------------------------------

    def status(self) -> api.Status:
        """The node as a whole."""
        return self.get(api.STATUS, api.Status)

    def health(self) -> api.Health:
        """Whether everything works that should."""
        return self.get(api.HEALTH, api.Health)

    def index(self) -> api.Index:
        """What this node can be asked."""
        return self.get(api.INDEX, api.Index)

    def stop(self) -> None:
        """Ask it to end; it answers before it does."""
        self.post(api.STOP, api.Done)

    def reload(self) -> api.ConfigReloaded:
        """Have it read its configuration again."""
        return self.post(api.RELOAD, api.ConfigReloaded)

    def events(self) -> Iterator[api.Event]:
        """What happens from now on, until the node ends; the first says that it listens."""
        with _Question(self._connect()) as question:
            question.ask("GET", api.EVENTS, b"")
            question.wait_for_ever()
            rest = b""
            for part in question.answer():
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > 2 * limits.EVENT_BYTES_MAX:
                    raise FormatError("this event has no end")
                yield from (_decoded(line, api.Event) for line in lines)

    # --- any question -----------------------------------------------------------------------------

    def get(self, path: str, wanted: type[Wanted]) -> Wanted:
        """Ask."""
        return self._ask("GET", path, b"", wanted)

    def post(
        self,
        path: str,
        wanted: type[Wanted],
        question: api.Question | None = None,
        *,
        patient: bool = False,
    ) -> Wanted:
        """Ask for something to be done; `patient` waits however long that takes."""
        body = b"" if question is None else msgspec.json.encode(question)
        return self._ask("POST", path, body, wanted, patient=patient)

    def delete(self, path: str, wanted: type[Wanted]) -> Wanted:
        """Ask for something to be taken away."""
        return self._ask("DELETE", path, b"", wanted)

    def _ask(
        self, method: str, path: str, body: bytes, wanted: type[Wanted], *, patient: bool = False
    ) -> Wanted:
        with _Question(self._connect()) as question:
            question.ask(method, path, body)
            if patient:
                question.wait_for_ever()
            answer = bytearray()
            for part in question.answer():
                answer += part
                if len(answer) > limits.CONTROL_ANSWER_BYTES_MAX:
                    raise FormatError("the answer of the node has no end")
        return _decoded(bytes(answer), wanted)

    def _connect(self) -> socket.socket:
        try:
            return unix_socket.connect(self._path, limits.CONTROL_ANSWER_SECONDS)
        except unix_socket.NobodyListens:
            raise NotRunning(where=str(self._home), hint="portal-node run") from None
        except TimeoutError:
            raise _no_answer() from None


class _Question:
    """One question on its connection."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def ask(self, method: str, path: str, body: bytes) -> None:
        """Send it; a body is JSON."""
        headers = [("host", "node"), ("content-length", str(len(body))), ("connection", "close")]
        if body:
            headers.append(("content-type", api.JSON))
        events: list[h11.Event] = [h11.Request(method=method, target=path, headers=headers)]
        events += [h11.Data(data=body)] if body else []
        sent = b"".join(self._http.send(event) or b"" for event in [*events, h11.EndOfMessage()])
        try:
            self._stream.sendall(sent)
        except TimeoutError:
            raise _no_answer() from None
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have answered all the same

    def wait_for_ever(self) -> None:
        """Events may be far between."""
        self._stream.settimeout(None)

    def answer(self) -> Iterator[bytes]:
        """The body, part by part; Refused if the answer is a fault."""
        status = 0
        fault = bytearray()
        while True:
            event = self._next()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data) and status < 400:
                yield bytes(event.data)
            elif isinstance(event, h11.Data):
                fault += event.data
                if len(fault) > limits.EVENT_BYTES_MAX:
                    raise FormatError("the answer of the node has no end")
            elif isinstance(event, h11.EndOfMessage):
                break
        if status >= 400:
            raise Refused(_fault_untrusted(status, bytes(fault)))

    def _next(self) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(self._stream.recv(_RECEIVE_BYTES))
                    continue
            except TimeoutError:
                raise _no_answer() from None
            except (h11.RemoteProtocolError, ConnectionResetError):
                raise Unavailable("the node ended while it was asked") from None
            assert isinstance(event, h11.Event)
            return event


def _fault_untrusted(status: int, body: bytes) -> api.Fault:
    try:
        return msgspec.json.decode(body, type=api.Fault)
    except (msgspec.DecodeError, UnicodeDecodeError):
        hint = "it may be of another version: portal-node stop, then portal-node run"
        return api.Fault(kind="Fault", what=f"the node refused ({status})", hint=hint)


def _decoded(data: bytes, wanted: type[Wanted]) -> Wanted:
    try:
        return msgspec.json.decode(data, type=wanted)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise FormatError(
            f"the node answers something else than was expected: {e}",
            hint="it may be of another version: portal-node stop, then portal-node run",
        ) from None


def _no_answer() -> Unavailable:
    return Unavailable(
        f"the node does not answer within {limits.CONTROL_ANSWER_SECONDS} s",
        hint="portal-node stop",
    )
