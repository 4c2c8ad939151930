import json

import pytest
import trio

from core import limits
from core.errors import LimitExceeded
from node import api
from node.events import SLOW, STOPPING, Events


class PeerSeen(api.Answer, frozen=True):
    """A peer was seen."""

    peer: str


def events():
    made = Events(now=lambda: 12.3456)
    made.add_kind("peer.seen", PeerSeen)
    return made


async def told(listener):
    return [json.loads(line) async for line in listener.lines]


def test_listeners_hear_what_happens_while_they_listen():
    async def main():
        happening = events()
        happening.publish(PeerSeen(peer="before"))
        with happening.listen() as listener, happening.listen() as other:
            happening.publish(PeerSeen(peer="ann"))
            happening.close()
            heard = await told(listener)
            assert heard == await told(other)
        return heard

    opened, seen = trio.run(main)
    assert opened == {"seq": 1, "at_s": 12.346, "kind": "stream.opened", "data": {}}
    assert seen == {"seq": 2, "at_s": 12.346, "kind": "peer.seen", "data": {"peer": "ann"}}


def test_a_slow_listener_is_dropped_and_costs_the_others_nothing():
    async def main():
        happening = events()
        with happening.listen() as slow, happening.listen() as quick:
            lines = quick.lines
            await lines.receive()
            for n in range(limits.EVENTS_QUEUED_MAX * 3):
                happening.publish(PeerSeen(peer=str(n)))
                assert json.loads(await lines.receive())["data"]["peer"] == str(n)
            assert len(happening) == 1
            heard = await told(slow)
            assert slow.why_closed == SLOW
            assert happening.last_line(slow).count(b'{"why":"slow"}') == 1
        return happening, heard

    happening, heard = trio.run(main)
    # Everything that was queued, without a gap in it, and then no more.
    assert [one["seq"] for one in heard] == [0, *range(1, limits.EVENTS_QUEUED_MAX)]
    assert (happening.dropped, len(happening)) == (1, 0)
    assert happening.published == limits.EVENTS_QUEUED_MAX * 3


def test_nobody_can_listen_too_often_or_too_late():
    async def main():
        happening = events()
        many = [happening.listen() for _ in range(limits.EVENT_LISTENERS_MAX)]
        for one in many:
            one.__enter__()
        with pytest.raises(LimitExceeded), happening.listen():
            pass
        many[0].__exit__(None, None, None)
        with happening.listen():
            pass
        happening.close()
        with happening.listen() as late:
            assert [one["kind"] for one in await told(late)] == ["stream.opened"]
            assert late.why_closed == STOPPING

    trio.run(main)


def test_kinds_are_known_before_they_are_told_and_only_once():
    happening = events()
    with pytest.raises(AssertionError):
        happening.add_kind("peer.seen", api.Done)
    with pytest.raises(AssertionError):
        happening.add_kind("peer.again", PeerSeen)
    with pytest.raises(KeyError):
        happening.publish(api.Done())
    assert api.EventKind(kind="peer.seen", what="A peer was seen.") in happening.kinds
