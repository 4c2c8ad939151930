"""AUTH over connections of both engines: everything a stranger, or a member gone wrong, may try."""

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from core import codec, limits
from mesh import frames
from mesh.errors import NotTrusted, Unreachable
from mesh.frames import FrameType
from mesh.hello import Initiator, Refused, Responder, Said
from mesh.link import Services, read_frame
from mesh.quic.endpoint import Endpoint
from mesh.quic.engine import Kind
from tests.support.linking import in_virtual_time
from tests.support.meeting import NOW_MS, TRANSPORT, Hand, Place, let_time_pass, settle, simple
from tests.support.nodes import OTHER_MESH, Node, a_node, a_roster
from tests.support.wires import Net, an_endpoint

EACH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
DAY_MS = 86_400_000
ANN, BOB, CYD = a_node("ann"), a_node("bob"), a_node("cyd")
BOTH = a_roster([ANN, BOB])


@dataclass
class Scene:
    """Bob at work, and an endpoint of whoever comes to him."""

    bob: Place
    caller: Endpoint
    nursery: trio.Nursery


@asynccontextmanager
async def bobs(services: Services | None = None):
    net = Net()
    async with trio.open_nursery() as nursery:
        bob = await settle(nursery, net.wire(), BOB, BOTH, services)
        caller = an_endpoint(net.wire())
        await nursery.start(caller.run)
        yield Scene(bob, caller, nursery)
        nursery.cancel_scope.cancel()


def refusals(caplog) -> list[tuple[int, str]]:
    """What the log says of peers that did not get in."""
    lines = [(r.levelno, r.getMessage()) for r in caplog.records if r.name == "mesh.links"]
    return [line for line in lines if "refused" in line[1] or "who it is" in line[1]]


async def word_of(hand: Hand) -> str:
    """What somebody is told who does not get in; then the connection ends by itself."""
    frame = await hand.hear()
    assert frame is not None
    assert frame.kind == FrameType.REFUSED
    (word,) = frame.row_untrusted(1)
    assert await hand.hear() is None
    await hand.connection.over.wait()
    assert hand.connection.closed.reason == "refused"
    return word


def refused(caplog, kind: Kind, level: int, why: str, told: str, **how: object) -> None:
    """A node that says this is turned away like this."""
    caplog.set_level(logging.DEBUG, "mesh")
    node, roster = how.pop("node", ANN), how.pop("roster", BOTH)

    async def main():
        async with bobs() as scene:
            hand = await Hand.dial(scene.caller, scene.bob, node, roster, kind, **how)
            began = trio.current_time()
            with trio.fail_after(limits.REFUSAL_SECONDS + 1):
                assert await word_of(hand) == told
            assert trio.current_time() - began <= limits.REFUSAL_SECONDS + 0.1
            assert scene.bob.links.all() == scene.bob.seen == []

    in_virtual_time(main)
    ((at, line),) = refusals(caplog)
    assert at == level
    assert why in line


@EACH
def test_two_members_learn_who_the_other_is(kind):
    async def main():
        async with bobs() as scene:
            hand = await Hand.dial(scene.caller, scene.bob, ANN, BOTH, kind)
            assert (await hand.hear()).kind == FrameType.HELLO
            link = await scene.bob.told(is_up=True)
            assert link.node == ANN.id
            assert link.peer.hello.incarnation == ANN.speaker.incarnation
            assert scene.bob.links.get(ANN.id) is link

    in_virtual_time(main)


@EACH
def test_strangers_are_told_nothing(caplog, kind):
    everyone = a_roster([ANN, BOB, CYD])
    refused(caplog, kind, logging.INFO, "not a member", "refused", node=CYD, roster=everyone)


@EACH
def test_members_of_another_mesh_are_told_nothing(caplog, kind):
    other = a_roster([ANN, BOB], OTHER_MESH)
    refused(caplog, kind, logging.INFO, "another mesh", "refused", roster=other)


@EACH
@pytest.mark.parametrize("off_ms", [-DAY_MS - 1_000, DAY_MS + 1_000])
def test_a_member_whose_clock_is_off_by_a_day_is_told_so(caplog, kind, off_ms):
    refused(caplog, kind, logging.WARNING, "clock", "clock", now_ms=NOW_MS + off_ms)


@EACH
def test_a_hello_that_was_heard_before_is_refused(caplog, kind):
    caplog.set_level(logging.DEBUG, "mesh")

    async def main():
        async with bobs() as scene:
            connection = await scene.caller.dial(scene.bob.address, kind)
            hello = Initiator(ANN.speaker, BOTH, BOB.id, TRANSPORT).hello_untrusted(
                connection.leaf, Said(), NOW_MS
            )
            first = Hand(connection, await connection.open_stream())
            await first.say(FrameType.HELLO, hello)
            assert (await first.hear()).kind == FrameType.HELLO
            link = await scene.bob.told(is_up=True)

            again = await scene.caller.dial(scene.bob.address, kind)
            second = Hand(again, await again.open_stream())
            await second.say(FrameType.HELLO, hello)
            assert await word_of(second) == "replayed"
            assert scene.bob.links.all() == [link]  # and the true one lives on

    in_virtual_time(main)
    assert [level for level, _ in refusals(caplog)] == [logging.WARNING]


@EACH
def test_a_hello_for_another_node_or_another_leaf_proves_nothing(caplog, kind):
    caplog.set_level(logging.DEBUG, "mesh")
    everyone = a_roster([ANN, BOB, CYD])

    async def main():
        async with bobs() as scene:
            for to, leaf in ((CYD, CYD.leaf), (BOB, BOB.restarted().leaf)):
                asked = Initiator(ANN.speaker, everyone, to.id, TRANSPORT)
                hello = asked.hello_untrusted(leaf.der, Said(), NOW_MS)
                connection = await scene.caller.dial(scene.bob.address, kind)
                hand = Hand(connection, await connection.open_stream())
                await hand.say(FrameType.HELLO, hello)
                assert await word_of(hand) == "refused"

    in_virtual_time(main)
    assert [level for level, _ in refusals(caplog)] == [logging.INFO] * 2


@EACH
def test_what_bob_said_himself_does_not_get_anybody_in(caplog, kind):
    caplog.set_level(logging.DEBUG, "mesh")

    async def main():
        async with bobs() as scene:
            hand = await Hand.dial(scene.caller, scene.bob, ANN, BOTH, kind)
            answer = await hand.hear()
            connection = await scene.caller.dial(scene.bob.address, kind)
            mirror = Hand(connection, await connection.open_stream())
            await mirror.say(FrameType.HELLO, answer.body)
            assert await word_of(mirror) == "refused"

    in_virtual_time(main)
    assert [level for level, _ in refusals(caplog)] == [logging.INFO]


@EACH
@pytest.mark.parametrize(
    "said",
    [
        frames.encode(FrameType.HELLO, b"garbage"),
        frames.encode(FrameType.HELLO, b"x" * 3_000, bytes(64)),
        frames.encode(FrameType.REQUEST, 1, "echo", ()),
        bytes([0, 0, 0, 3, 1, 1, 0x90]),
        bytes([0, 0, 0, 1, 1]),
        (5_000).to_bytes(4) + b"\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["fields", "bytes", "frame", "flags", "short", "long", "http"],
)
def test_garbage_is_refused(caplog, kind, said):
    caplog.set_level(logging.DEBUG, "mesh")

    async def main():
        async with bobs() as scene:
            connection = await scene.caller.dial(scene.bob.address, kind)
            hand = Hand(connection, await connection.open_stream())
            await hand.control.send_all(said)
            assert await word_of(hand) == "refused"

    in_virtual_time(main)
    assert [level for level, _ in refusals(caplog)] == [logging.INFO]


@EACH
@pytest.mark.parametrize("says", [b"", b"\0\0"], ids=["nothing", "half"])
def test_a_peer_that_never_says_hello_is_given_up(caplog, kind, says):
    caplog.set_level(logging.DEBUG, "mesh")

    async def main():
        async with bobs() as scene:
            connection = await scene.caller.dial(scene.bob.address, kind)
            if says:
                await (await connection.open_stream()).send_all(says)
            began = trio.current_time()
            with trio.fail_after(limits.HANDSHAKE_SECONDS + 1):
                await connection.over.wait()
            assert trio.current_time() - began > limits.HANDSHAKE_SECONDS - 1

    in_virtual_time(main)
    assert [level for level, _ in refusals(caplog)] == [logging.DEBUG]


@EACH
def test_a_refused_peer_that_does_not_listen_is_cut_off_in_time(caplog, kind):
    caplog.set_level(logging.DEBUG, "mesh")

    async def main():
        async with bobs() as scene:
            everyone = a_roster([ANN, BOB, CYD])
            hand = await Hand.dial(scene.caller, scene.bob, CYD, everyone, kind)
            await hand.control.aclose()  # it does not even let itself be told
            with trio.fail_after(limits.REFUSAL_SECONDS + 1):
                await hand.connection.over.wait()

    in_virtual_time(main)
    assert [level for level, _ in refusals(caplog)] == [logging.INFO]


@EACH
def test_a_stranger_makes_us_hold_little(kind):
    async def main():
        async with bobs() as scene:
            connection = await scene.caller.dial(scene.bob.address, kind)
            for _ in range(limits.STREAMS_MAX):
                stream = await connection.open_stream()
                await stream.send_all(bytes([0, 0, 8]) + bytes(limits.STRANGER_BYTES_MAX // 10))
            with trio.fail_after(1):
                await connection.over.wait()
            assert "stranger" in connection.closed.reason

    in_virtual_time(main)


@EACH
def test_streams_before_auth_are_served_after_it_or_never(kind):
    served = trio.Event()

    async def serve(_link, _arguments, _stream):
        served.set()
        await trio.lowlevel.checkpoint()

    async def main():
        async with bobs(Services({}, {}, {"early": serve})) as scene:
            for node in (CYD, ANN):
                connection = await scene.caller.dial(scene.bob.address, kind)
                control = await connection.open_stream()
                early = await connection.open_stream()
                await control.send_all(b"\0")  # streams exist in the order of their bytes
                await early.send_all(frames.encode(FrameType.OPEN, "early", ()))
                with trio.move_on_after(1):
                    await served.wait()
                assert not served.is_set()
                asked = Initiator(node.speaker, a_roster([ANN, BOB, CYD]), BOB.id, TRANSPORT)
                hello = asked.hello_untrusted(connection.leaf, Said(), NOW_MS)
                await control.send_all(frames.encode_raw(FrameType.HELLO, hello)[1:])
                if node is CYD:
                    await connection.over.wait()
                    assert not served.is_set()
            await served.wait()

    in_virtual_time(main)


@EACH
def test_when_too_many_say_nothing_whoever_was_slowest_makes_room(kind, monkeypatch):
    monkeypatch.setattr(limits, "STRANGERS_MAX", 8)

    async def main():
        async with bobs() as scene:
            silent = [await scene.caller.dial(scene.bob.address, kind) for _ in range(8)]
            hand = await Hand.dial(scene.caller, scene.bob, ANN, BOTH, kind)
            assert (await hand.hear()).kind == FrameType.HELLO
            with trio.fail_after(1):
                await silent[0].over.wait()
            assert silent[0].closed.reason == "busy"
            assert not any(connection.over.is_set() for connection in silent[1:])

    in_virtual_time(main)


# --- the side that dials --------------------------------------------------------------------------


@dataclass
class Answer:
    """What comes back to a HELLO, on this connection."""

    control: object
    body: bytes
    connection: object


async def honest(answer: Answer) -> None:
    responder = Responder(BOB.speaker, BOTH, BOB.leaf.der)
    body, _ = responder.answer_untrusted(answer.body, TRANSPORT, lambda _: Said(), NOW_MS)
    await answer.control.send_all(frames.encode_raw(FrameType.HELLO, body))


async def reflecting(answer: Answer) -> None:
    await answer.control.send_all(frames.encode_raw(FrameType.HELLO, answer.body))


async def refusing(answer: Answer) -> None:
    await answer.control.send_all(frames.encode(FrameType.REFUSED, "clock"))


async def refusing_in_binary(answer: Answer) -> None:
    await answer.control.send_all(frames.encode(FrameType.REFUSED, "\x1b[31m"))


async def babbling(answer: Answer) -> None:
    await answer.control.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def ending(answer: Answer) -> None:
    await answer.control.send_eof()


async def closing(answer: Answer) -> None:
    answer.connection.close(0, "")


async def silent(_answer: Answer) -> None:
    pass


async def bent(answer: Answer) -> None:
    responder = Responder(BOB.speaker, BOTH, BOB.leaf.der)
    body, _ = responder.answer_untrusted(answer.body, TRANSPORT, lambda _: Said(), NOW_MS)
    hello, proof = codec.decode_untrusted(body)
    body = codec.encode([hello, bytes([proof[0] ^ 1]) + proof[1:]])
    await answer.control.send_all(frames.encode_raw(FrameType.HELLO, body))


async def of_another(answer: Answer) -> None:
    cyd = Responder(CYD.speaker, a_roster([ANN, CYD]), BOB.leaf.der)
    asked = Initiator(ANN.speaker, a_roster([ANN, CYD]), CYD.id, TRANSPORT)
    hello = asked.hello_untrusted(CYD.leaf.der, Said(), NOW_MS)
    cyd = Responder(CYD.speaker, a_roster([ANN, CYD]), CYD.leaf.der)
    body, _ = cyd.answer_untrusted(hello, TRANSPORT, lambda _: Said(), NOW_MS)
    await answer.control.send_all(frames.encode_raw(FrameType.HELLO, body))


@EACH
@pytest.mark.parametrize(
    ("answering", "error", "says"),
    [
        (honest, None, ""),
        (reflecting, NotTrusted, "another node"),
        (refusing, NotTrusted, "clock"),
        (refusing_in_binary, NotTrusted, "does not speak as a node"),
        (babbling, NotTrusted, "does not speak as a node"),
        (ending, NotTrusted, "does not speak as a node"),
        (bent, NotTrusted, "proof"),
        (of_another, NotTrusted, "another node"),
        (closing, Unreachable, "closed"),
        (silent, Unreachable, "does not answer"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_dialler_makes_of_the_answer(kind, answering, error, says):
    from mesh import greeting

    async def main():
        net = Net()
        async with trio.open_nursery() as nursery:
            dialler, far = an_endpoint(net.wire()), endpoint_of(BOB, net)
            await nursery.start(dialler.run)
            await nursery.start(far.run)

            async def answer():
                connection = await far.accept()
                control = await connection.accept_stream()
                frame = await read_frame(control)
                await answering(Answer(control, frame.body, connection))

            nursery.start_soon(answer)
            connection = await dialler.dial(far.local, kind)
            asked = Initiator(ANN.speaker, BOTH, BOB.id, TRANSPORT)
            with trio.fail_after(limits.HANDSHAKE_SECONDS + 1):
                if error is None:
                    _, peer = await greeting.introduce(connection, asked, Said(), NOW_MS)
                    assert peer.node == BOB.id
                else:
                    with pytest.raises(error, match=says):
                        await greeting.introduce(connection, asked, Said(), NOW_MS)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


def endpoint_of(node: Node, net: Net) -> Endpoint:
    from mesh.quic.endpoint import Setup

    return Endpoint(net.wire("10.0.0.2"), Setup(node.leaf), lambda _data, _source: None)


@EACH
def test_nothing_is_said_to_a_node_that_was_not_meant(kind):
    async def main():
        async with bobs() as scene:
            ann = await settle(scene.nursery, Net().wire(), ANN, BOTH)
            del ann
            connection = await scene.caller.dial(scene.bob.address, kind)
            from mesh import greeting

            asked = Initiator(ANN.speaker, a_roster([ANN, CYD]), CYD.id, TRANSPORT)
            with pytest.raises(Refused, match="another node"):
                await greeting.introduce(connection, asked, Said(), NOW_MS)
            assert connection.streams_open == 0

    in_virtual_time(main)


@EACH
def test_a_link_knows_how_far_the_clocks_are_apart(kind):
    async def main():
        net = Net(delay_s=0.1)
        async with trio.open_nursery() as nursery:

            def clock(ahead_ms):
                return lambda: NOW_MS + ahead_ms + int(trio.current_time() * 1000)

            bob = await settle(nursery, net.wire(), BOB, BOTH, simple(), clock(5_000))
            ann = await settle(nursery, net.wire(), ANN, BOTH, simple(), clock(0))
            link = await ann.links.reach(BOB.id, [bob.way(kind)])
            there = await bob.told(is_up=True)
            assert abs(link.peer.offset_ms - 5_000) <= 2
            assert abs(there.peer.offset_ms + 5_100) <= 2  # it cannot know how long it took
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@EACH
def test_a_hello_that_comes_late_does_not_make_a_clock_seem_wrong(kind):
    def clock():
        return NOW_MS + int(trio.current_time() * 1000)

    async def main():
        net = Net()
        async with trio.open_nursery() as nursery:
            bob = await settle(nursery, net.wire(), BOB, BOTH, None, clock)
            caller = an_endpoint(net.wire())
            await nursery.start(caller.run)
            connection = await caller.dial(bob.address, kind)
            control = await connection.open_stream()
            await control.send_all(b"\0")
            await let_time_pass(3)
            asked = Initiator(ANN.speaker, BOTH, BOB.id, TRANSPORT)
            hello = asked.hello_untrusted(connection.leaf, Said(), clock())
            await control.send_all(frames.encode_raw(FrameType.HELLO, hello)[1:])
            assert abs((await bob.told(is_up=True)).peer.offset_ms) <= 10
            nursery.cancel_scope.cancel()

    in_virtual_time(main)
