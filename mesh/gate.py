"""The gate of a mesh: where strangers with an invite, or with a phrase, come in over the network.

    stranger --- connection on ALPN portal-pair/1 --->  member
             <-- stream the member opens: frames PAIR, both ways (mesh/pairing.py says what)

The member writes what it has admitted, and tells its other peers, before it answers. Who waits for
somebody's approval keeps the connection open with a PING now and then; how long it is heard, how
often, and from how many, is bounded. A stranger that proves nothing is closed without a word.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from core import codec, limits
from core.crypto import Entropy, system_entropy
from core.errors import FormatError, IntegrityError, PortalError
from mesh import frames
from mesh.doorkeeper import Doorkeeper
from mesh.errors import LinkError, NotTrusted, Unreachable
from mesh.frames import FrameType
from mesh.gossip import Gossip
from mesh.link import read_frame
from mesh.members.authoring import Author
from mesh.pairing import Greeter, Outcome, Stranger
from mesh.quic.connection import Connection
from mesh.quic.endpoint import ALPN_PAIR, Endpoint
from mesh.quic.engine import Kind
from mesh.quic.stream import QuicStream
from mesh.recollection import Forgetful
from mesh.visitors import Progress
from mesh.wire import Address

_log = logging.getLogger(__name__)
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel)


class Visitor(Protocol):
    """The newcomer's side: mesh.visitors' Joiner, Returner or Recoverer."""

    hint: str  # what may be wrong if the member says nothing

    def receive_untrusted(self, data: bytes, now_s: int) -> Progress:
        """Answer one message of the member."""


class Gate:
    """The member's side."""

    def __init__(
        self,
        author: Author,
        leaf: bytes,
        gossip: Gossip,
        now_ms: Callable[[], int],
        entropy: Entropy = system_entropy,
    ) -> None:
        self._author = author
        self._leaf = leaf
        self._gossip = gossip
        self._now_ms = now_ms
        self._entropy = entropy
        self._keeper = Doorkeeper()
        self._visits: dict[Connection, _Visit] = {}
        gossip.watch(lambda _changes: self._look_again())

    async def serve(self, connection: Connection) -> None:
        """One stranger, from hail to farewell."""
        peer = connection.peer
        host = peer.host if peer is not None else ""
        if not self._keeper.admits(host, trio.current_time()):
            _log.info("a stranger at %s tries too often", host)
            return
        with suppress(Forgetful):  # then another member may admit, which the greeter tells
            await self._gossip.until_sure()
        greeter = Greeter(self._author, self._leaf, _secrets, self._entropy)
        visit = self._visits[connection] = _Visit(greeter)
        try:
            with trio.move_on_after(limits.PAIR_SECONDS_MAX):
                stream = await connection.open_stream()
                await _say(stream, greeter.hail())
                await self._listen(stream, visit)
                await connection.over.wait()  # the newcomer has read all, and closes
        except (Stranger, FormatError, IntegrityError) as e:
            self._keeper.failed(trio.current_time())
            _log.info("a stranger at %s was not let in: %s", host, e)
        except (*_BROKEN, LinkError):
            _log.debug("a stranger at %s went away", host)
        finally:
            del self._visits[connection]

    async def _listen(self, stream: QuicStream, visit: "_Visit") -> None:
        """Hear the stranger, and answer late if the answer depends on others."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_later, stream, visit, nursery.cancel_scope)
            try:
                await self._hear(stream, visit)
            except (Stranger, FormatError, IntegrityError, LinkError, *_BROKEN) as e:
                failure = e  # out of the nursery, which would wrap it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _hear(self, stream: QuicStream, visit: "_Visit") -> None:
        while (frame := await read_frame(stream, limits.PAIR_STRANGER_BYTES_MAX)) is not None:
            if frame.kind != FrameType.PAIR:
                continue  # a PING: the packet alone has kept the connection alive
            async with visit.turn:
                outcome = visit.greeter.receive_untrusted(frame.body, self._now_ms())
                if await self._settle(stream, outcome):
                    return

    async def _tell_later(
        self, stream: QuicStream, visit: "_Visit", done: trio.CancelScope
    ) -> None:
        """When the membership has changed, there may be an answer to who waits."""
        with suppress(*_BROKEN):  # whoever hears sees it as well
            while True:
                await visit.changed.wait()
                visit.changed = trio.Event()
                async with visit.turn:
                    if await self._settle(stream, visit.greeter.on_change()):
                        done.cancel()

    async def _settle(self, stream: QuicStream, outcome: Outcome) -> bool:
        """Write, tell the others, answer; whether that was all."""
        await self._gossip.publish(outcome.changes)
        if outcome.arrived is not None and outcome.changes.added:
            name, standing = outcome.arrived.name, outcome.arrived.standing
            _log.info("%s (%s) has come in: %s", outcome.arrived.node.short(), name, standing)
        for message in outcome.messages:
            await _say(stream, message)
        return outcome.finished

    def _look_again(self) -> None:
        for visit in self._visits.values():
            visit.changed.set()


class _Visit:
    """One stranger."""

    def __init__(self, greeter: Greeter) -> None:
        self.greeter = greeter
        self.changed = trio.Event()
        self.turn = trio.Lock()  # of answering: what was said first is answered first


async def come_in(
    endpoint: Endpoint,
    places: Sequence[Address],
    visitor: Callable[[bytes], Visitor],
    now_ms: Callable[[], int],
    waiting: Callable[[bytes], None],
) -> tuple[Progress, Address]:
    """Join the mesh of whoever answers at one of these; what came of it, and where.

    `visitor` makes the newcomer's side for the leaf that answers; `waiting` is told the JOIN if
    somebody must approve. LinkError if nobody lets us in; what else is raised, the mesh has said.
    """
    left = list(places)
    tried = ", ".join(str(at) for at in left)
    hint = f"tried {tried}: does a node run there, is its UDP port open?" if left else None
    failure: LinkError = Unreachable("nobody answers at any of these addresses", hint=hint)
    while left:
        found = await _reach(endpoint, left)
        if found is None:
            break
        connection, at = found
        try:
            return await _talk(connection, visitor, now_ms, waiting), at
        except LinkError as e:
            failure = e.at(str(at))
            left.remove(at)
    raise failure


async def _reach(
    endpoint: Endpoint, places: Sequence[Address]
) -> tuple[Connection, Address] | None:
    """The first connection that can be had: by the fast engine, then by the other, each place."""
    found: list[tuple[Connection, Address]] = []

    async def attempt(at: Address, kind: Kind, delay_s: float, others: trio.CancelScope) -> None:
        with trio.move_on_after(delay_s):
            await trio.sleep_forever()
        with suppress(Unreachable):
            found.append((await endpoint.dial(at, kind, ALPN_PAIR), at))
            others.cancel()

    async with trio.open_nursery() as nursery:
        ways = [(at, kind) for kind in (Kind.QH3, Kind.AIOQUIC) for at in places]
        for number, (at, kind) in enumerate(ways):
            delay_s = number * limits.DIAL_STAGGER_SECONDS
            nursery.start_soon(attempt, at, kind, delay_s, nursery.cancel_scope)
    for connection, _ in found[1:]:
        connection.close(0, "")
    return found[0] if found else None


async def _talk(
    connection: Connection,
    visitor: Callable[[bytes], Visitor],
    now_ms: Callable[[], int],
    waiting: Callable[[bytes], None],
) -> Progress:
    hint = None
    try:
        newcomer = visitor(connection.leaf)
        hint = newcomer.hint
        with trio.fail_after(limits.PAIR_SECONDS_MAX):
            stream = await connection.accept_stream()
            turn = trio.Lock()  # of sending: a PING may be due while we say something
            talk = _converse(stream, turn, newcomer, now_ms, waiting)
            return await _stay_for(stream, turn, talk)
    except trio.TooSlowError as e:
        raise Unreachable("nobody has answered in time") from e
    except FormatError as e:
        raise NotTrusted(f"what answers does not speak as a member: {e.what}") from e
    except (*_BROKEN, LinkError) as e:
        if isinstance(e, NotTrusted):
            raise
        raise Unreachable("the member has closed without a word", hint=hint) from e
    finally:
        connection.close(0, "")


async def _converse(
    stream: QuicStream,
    turn: trio.Lock,
    newcomer: Visitor,
    now_ms: Callable[[], int],
    waiting: Callable[[bytes], None],
) -> Progress:
    while True:
        frame = await read_frame(stream)
        if frame is None:
            raise Unreachable("it ended before we were in")
        if frame.kind != FrameType.PAIR:
            raise FormatError("a frame that has no place here")
        progress = newcomer.receive_untrusted(frame.body, now_ms() // 1_000)
        if progress.waiting:
            waiting(progress.waiting)
        async with turn:
            for message in progress.messages:
                await _say(stream, message)
        if progress.membership is not None:
            return progress


async def _stay_for(stream: QuicStream, turn: trio.Lock, talk: Awaitable[Progress]) -> Progress:
    """What comes of the talk; the connection is kept while somebody thinks about us."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stay, stream, turn)
        try:
            found: Progress | Exception = await talk
        except (PortalError, *_BROKEN) as e:
            found = e  # out of the nursery, which would wrap it
        nursery.cancel_scope.cancel()
    if isinstance(found, Exception):
        raise found
    return found


async def _stay(stream: QuicStream, turn: trio.Lock) -> None:
    with suppress(*_BROKEN):  # whoever talks sees it as well
        while True:
            with trio.move_on_after(limits.LINK_SILENCE_SECONDS):
                await trio.sleep_forever()
            async with turn:
                await stream.send_all(frames.encode(FrameType.PING, True))


async def _say(stream: QuicStream, message: bytes) -> None:
    await stream.send_all(frames.encode_raw(FrameType.PAIR, message))


def _secrets() -> bytes:
    """What newcomers are given beside the list of members; there is nothing yet."""
    return codec.encode([1])
