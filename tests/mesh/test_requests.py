import random

from mesh.datagrams import Message
from mesh.messages import Mtu, MtuOk, Ping, Pong
from mesh.requests import Requests
from tests.support.entropy import fixed_entropy
from tests.support.nodes import a_node

ANN, BOB = a_node("ann").id, a_node("bob").id
NOW = 1_800_000_000_000
PONG = Pong(None)


def some(**how):
    return Requests(entropy=fixed_entropy("requests"), **how)


def said(txid, body=PONG, sender=ANN, sent_ms=NOW):
    return Message(sender, txid, sent_ms, body, 100)


def test_an_answer_finds_its_question_once_and_tells_two_clocks_apart():
    requests = some()
    txid = requests.ask(ANN, Ping, 3, NOW, 10.0)
    found = requests.answered(said(txid, sent_ms=NOW + 5_050), NOW + 100, 10.1)
    assert found is not None
    assert found.asked.to == ANN
    assert abs(found.rtt_s - 0.1) < 1e-9
    assert found.offset_ms == 5_000
    assert requests.answered(said(txid), NOW + 100, 10.1) is None
    assert len(requests) == 0


def test_what_answers_something_else_is_no_answer_and_does_no_harm():
    requests = some()
    txid = requests.ask(ANN, Ping, 3, NOW, 10.0)
    assert requests.answered(said(bytes(8)), NOW, 10.0) is None
    assert requests.answered(said(txid, sender=BOB), NOW, 10.0) is None
    assert requests.answered(said(txid, MtuOk(1_350)), NOW, 10.0) is None
    assert requests.answered(said(txid, Ping()), NOW, 10.0) is None
    assert requests.answered(said(txid), NOW, 10.0) is not None
    probe = requests.ask(ANN, Mtu, 3, NOW, 10.0)
    assert requests.answered(said(probe), NOW, 10.0) is None
    assert requests.answered(said(probe, MtuOk(1_350)), NOW, 10.0) is not None


def test_who_answers_late_is_not_heard():
    requests = some()
    one = requests.ask(ANN, Ping, 3, NOW, 10.0)
    assert requests.answered(said(one), NOW, 13.5) is None
    two = requests.ask(ANN, Ping, 3, NOW, 10.0)
    assert [asked.to for asked in requests.expire(13.0)] == [ANN]
    assert requests.answered(said(two), NOW, 12.0) is None
    assert requests.expire(99.0) == []


def test_deadlines_come_in_order_and_only_of_what_waits():
    requests = some()
    assert requests.deadline() is None
    long, short = (requests.ask(ANN, Ping, wait, NOW, 10.0) for wait in (9, 1))
    assert requests.deadline() == 11.0
    requests.answered(said(short), NOW, 10.5)
    assert requests.deadline() == 19.0
    requests.answered(said(long), NOW, 10.5)
    assert requests.deadline() is None


def test_too_many_are_not_asked():
    requests = some(count_max=2)
    assert requests.ask(ANN, Ping, 1, NOW, 0.0)
    assert requests.ask(BOB, Ping, 1, NOW, 0.0)
    assert requests.ask(BOB, Ping, 1, NOW, 0.0) is None
    assert len(requests.expire(1.0)) == 2
    assert requests.ask(BOB, Ping, 1, NOW, 1.0)


def test_nothing_is_lost_and_nothing_piles_up():
    requests, rng = some(count_max=8), random.Random(1)
    asked = answered = expired = 0
    for step in range(3_000):
        txid = requests.ask(ANN, Ping, 100 + rng.random(), NOW, float(step))
        asked += txid is not None
        if txid is not None and rng.random() < 0.99:
            answered += requests.answered(said(txid), NOW, float(step)) is not None
        expired += len(requests.expire(float(step)))
        assert len(requests._deadlines) <= 17
    assert asked == answered + expired + len(requests)
    assert expired > 5
