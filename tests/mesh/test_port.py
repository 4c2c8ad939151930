"""Questions by sealed datagram: answered once, by whom they were put to, and forgotten in time."""

import math

import pytest
import trio

from core import limits
from core.ids import NodeId
from mesh.clocks import Clocks
from mesh.messages import Ping, Pong
from mesh.quic.header import is_quic
from mesh.wire import Address
from tests.support.neighbours import a_neighbour, pass_time, start
from tests.support.nodes import a_node, a_roster
from tests.support.wires import Net, in_virtual_time

ANN, BOB, CYD = a_node("ann"), a_node("bob"), a_node("cyd")


def among(test, hook=None):
    """Run `test(net, ann, bob, cyd)`."""

    async def main():
        net = Net(hook=hook) if hook else Net()
        roster = a_roster([ANN, BOB, CYD])
        async with trio.open_nursery() as nursery:
            three = [
                await start(nursery, a_neighbour(net.wire(f"10.0.0.{n}"), node, roster))
                for n, node in enumerate([ANN, BOB, CYD], 1)
            ]
            await test(net, *three)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


def test_a_ping_is_answered_with_what_the_other_sees():
    async def test(_net, ann, bob, _cyd):
        answered = await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1)
        assert answered.message.body == Pong(ann.endpoint.local)
        assert answered.message.sender == bob.id
        assert answered.rtt_s == pytest.approx(0.002)
        assert not ann.port._waiting
        assert not ann.port._requests._waiting

    among(test)


def test_what_nobody_answers_ends_in_time_and_leaves_nothing():
    async def test(net, ann, bob, _cyd):
        net.hook = lambda *_: []
        assert await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 2.5) is None
        assert trio.current_time() == pytest.approx(2.5)
        await pass_time(0.01)
        assert not ann.port._waiting
        assert len(ann.port._requests) == 0

    among(test)


def test_an_answer_that_comes_late_is_nobodys():
    async def test(net, ann, bob, _cyd):
        net.delay_s = 0.6
        assert await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1) is None
        await pass_time(5)
        assert ann.datagrams.opened == 1  # it came
        assert len(ann.port._requests) == 0

    among(test)


def test_only_who_was_asked_can_answer_but_from_anywhere():
    """An address proves nothing, and a node with several answers from any of them."""
    found = []

    async def test(net, ann, bob, cyd):
        def hook(data, source, to):
            if is_quic(data) or to != ann.endpoint.local:
                return [(data, source)]
            found.append(data)
            return [(data, Address("10.9.9.9", 9))]

        net.hook = hook
        answered = await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1)
        assert answered.message.sender == bob.id
        # Cyd hears the question and answers it herself, with the right txid.
        net.hook = lambda *_: []
        asked = {}

        async def ask():
            asked["answer"] = await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            (txid,) = ann.port._waiting
            forged = cyd.datagrams.seal(ann.id, Pong(None), txid, ann.context.now_ms())
            ann.port.arrived(forged, bob.endpoint.local)
        assert asked == {"answer": None}
        assert ann.datagrams.opened == 2

    among(test)
    assert found


def test_an_answer_counts_once_and_a_word_of_another_kind_never():
    async def test(net, ann, bob, _cyd):
        net.seen = []
        assert await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1)
        assert not await ann.port.ask(bob.id, Address("10.0.0.77", 1), Ping(), 1)
        assert ann.datagrams.opened == 1
        answer = next(data for data, source, _ in net.seen if source == bob.endpoint.local)
        ann.port.arrived(answer, bob.endpoint.local)
        assert ann.datagrams.opened == 1

    among(test)


def test_a_question_nobody_waits_for_leaves_nothing_when_its_time_is_over():
    async def test(net, ann, bob, _cyd):
        net.hook = lambda *_: []
        with trio.move_on_after(0.5):
            await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 3)
        assert not ann.port._waiting
        assert len(ann.port._requests) == 1
        await pass_time(2.6)
        assert len(ann.port._requests) == 0

    among(test)


@pytest.mark.slow
def test_ten_thousand_questions_are_not_too_many():
    async def test(net, ann, bob, _cyd):
        net.hook = lambda *_: []
        answers = []

        async def ask():
            answers.append(await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 2))

        async with trio.open_nursery() as nursery:
            for _ in range(10_000):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert len(answers) == 10_000 - limits.REQUESTS_MAX
            assert len(ann.port._waiting) == len(ann.port._requests) == limits.REQUESTS_MAX
        assert answers == [None] * 10_000
        await pass_time(0.01)
        assert len(ann.port._requests) == 0
        assert not ann.port._requests._deadlines

    among(test)


def test_a_member_that_is_removed_is_not_asked_and_not_heard():
    async def test(net, ann, bob, _cyd):
        roster = ann.context.roster
        asked = {}

        async def ask():
            asked["answer"] = await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1)

        net.delay_s = 0.1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await pass_time(0.15)  # the answer is on its way
            roster.remove(bob.id)
        assert asked == {"answer": None}
        net.seen = []
        assert await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1) is None
        assert not ann.port.tell(bob.id, bob.endpoint.local, Ping())
        assert net.seen == []
        assert trio.current_time() == pytest.approx(1)  # at once: it cannot be asked at all

    among(test)


def test_strangers_get_no_answer():
    async def test(net, ann, bob, _cyd):
        ann.context.roster.remove(bob.id)
        net.seen = []
        bob.context.roster.add(ANN.member)
        data = bob.datagrams.seal(ann.id, Ping(), bytes(8), bob.context.now_ms())
        ann.port.arrived(data, bob.endpoint.local)
        ann.port.arrived(b"\x13p\x01" + bytes(100), bob.endpoint.local)
        assert net.seen == []

    among(test)


def test_probes_tell_which_sizes_arrive():
    async def test(net, ann, bob, _cyd):
        net.hook = lambda data, source, _to: [(data, source)] if len(data) <= 1_400 else []
        assert await ann.port.probe(bob.id, bob.endpoint.local, 1_372, 1)
        assert not await ann.port.probe(bob.id, bob.endpoint.local, 1_444, 1)

    among(test)


def test_nothing_wakes_up_while_nobody_asks():
    class Count(trio.abc.Instrument):
        steps = 0

        def before_task_step(self, task):
            self.steps += "Port.run" in task.name

    async def test(_net, ann, bob, _cyd):
        await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1)
        await pass_time(2)
        assert ann.port._scope.deadline == math.inf
        count = Count()
        trio.lowlevel.add_instrument(count)
        await pass_time(86_400)
        trio.lowlevel.remove_instrument(count)
        assert count.steps == 0

    among(test)


def test_the_clock_of_who_answers_is_learned():
    async def main():
        net, roster = Net(), a_roster([ANN, BOB])
        async with trio.open_nursery() as nursery:
            ann = await start(nursery, a_neighbour(net.wire("10.0.0.1"), ANN, roster))
            ahead_ms = 60_000
            ahead = a_neighbour(
                net.wire("10.0.0.2"), BOB, roster, clock=lambda: ann.context.now_ms() + ahead_ms
            )
            bob = await start(nursery, ahead)
            await ann.meet(bob)  # else what Ann says seems to come from before Bob's start
            assert await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1)
            assert ann.port.clocks.offset_ms(bob.id) == pytest.approx(60_000, abs=2)
            # A clock may be put right more than once; whoever asks now and then follows.
            await pass_time(1_000)
            for _ in range(2):
                ahead_ms += 100_000
                for _ in range(limits.CLOCK_SAMPLES_KEPT):
                    assert await ann.port.ask(bob.id, bob.endpoint.local, Ping(), 1)
                    assert await bob.port.ask(ann.id, ann.endpoint.local, Ping(), 1)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)
    assert Clocks().offset_ms(NodeId(bytes(32))) == 0


def test_other_rooms_have_words_of_their_own():
    async def test(_net, ann, bob, _cyd):
        heard = []
        bob.port._handlers.pop(Ping)
        bob.port.on(Ping, lambda message, source: heard.append((message.sender, source)))
        assert ann.port.tell(bob.id, bob.endpoint.local, Ping())
        await pass_time(0.01)
        assert heard == [(ann.id, ann.endpoint.local)]
        with pytest.raises(AssertionError):
            bob.port.on(Ping, lambda *_: None)

    among(test)


def test_one_question_may_be_put_in_several_ways_and_is_answered_once():
    async def test(net, ann, bob, _cyd):
        net.seen = []
        with ann.port.question(bob.id, Ping, 1) as question:
            assert not await question.wait(0.1)
            for at in (Address("10.0.0.77", 1), bob.endpoint.local, bob.endpoint.local):
                ann.port.tell(bob.id, at, Ping(), question.txid)
            assert await question.wait(1)
            assert question.answered.message.body == Pong(ann.endpoint.local)
            await pass_time(1)
        assert not ann.port._waiting
        assert len(ann.port._requests) == 0

    among(test)


def test_an_answer_may_come_in_the_hands_of_another():
    async def test(net, ann, bob, cyd):
        net.hook = lambda *_: []
        with ann.port.question(bob.id, Ping, 1) as question:
            sealed = bob.port.sealed(ann.id, Pong(None), question.txid)
            ann.port.arrived(sealed, cyd.endpoint.local)
            assert await question.wait(1)
        assert bob.port.sealed(bob.id, Pong(None), question.txid) is None
        stranger = NodeId(bytes(32))
        assert bob.port.sealed(stranger, Pong(None), question.txid) is None

    among(test)


def test_a_question_too_many_is_none(monkeypatch):
    async def test(_net, ann, bob, _cyd):
        ann.port._requests._count_max = 1
        with ann.port.question(bob.id, Ping, 1) as one, ann.port.question(bob.id, Ping, 1) as two:
            assert one is not None
            assert two is None
        assert not ann.port._waiting

    among(test)


def test_whoever_says_something_is_heard_but_answers_only_when_somebody_waits():
    async def test(_net, ann, bob, cyd):
        heard = []
        ann.port.listen(heard.append)
        assert await bob.port.ask(ann.id, ann.endpoint.local, Ping(), 1)
        assert await ann.port.ask(cyd.id, cyd.endpoint.local, Ping(), 1)
        assert heard == [bob.id, cyd.id]
        ann.port.arrived(bob.port.sealed(ann.id, Pong(None), b"nobody's"), bob.endpoint.local)
        assert heard == [bob.id, cyd.id]
        assert ann.datagrams.opened == 3

    among(test)
