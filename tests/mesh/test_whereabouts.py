"""Where nodes are reaches everybody who belongs, soon, once, and from nobody but themselves."""

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio

from core import codec, limits
from core.labels import SignLabel
from mesh.hello import Engines
from mesh.links import Way
from mesh.quic.engine import Kind
from mesh.records import Place, PlaceKind, Record
from mesh.whereabouts import NOTICE, REQUEST, Hints, Whereabouts, own_addresses
from mesh.wire import Address
from tests.support.neighbours import (
    NOW_MS,
    Neighbour,
    a_neighbour,
    now_ms,
    pass_time,
    start,
    until,
)
from tests.support.nodes import MESH, a_node, a_roster
from tests.support.wires import Net, in_virtual_time

NODES = [a_node(f"node {n}") for n in range(30)]
ANN, BOB, CYD, DOT = NODES[:4]
BOTH = Engines.QH3 | Engines.AIOQUIC


@dataclass
class Walker:
    """A node that may move."""

    place: Neighbour
    at: list[Place]
    about: Whereabouts = field(init=False)
    files: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def id(self):
        return self.place.id

    async def save(self, data):
        self.files.append((trio.current_time(), data))

    def knows(self, other, address):
        record = self.about.book.of(other.id, self.place.context.now_ms())
        return record is not None and address in {place.address for place in record.places}


def local(host, port=4_000):
    return Place(PlaceKind.LOCAL, Address(host, port))


def a_walker(net, n, node, roster, clock=now_ms, hints=None):
    host = f"10.0.0.{n}"
    place = a_neighbour(net.wire(host, 4_000), node, roster, clock=clock)
    walker = Walker(place, [local(host)])
    walker.about = Whereabouts(
        place.links, place.context, walker.save, lambda: walker.at, hints or Hints()
    )
    return walker


@asynccontextmanager
async def walking(nodes, roster=None):
    net, roster = Net(delay_s=0.02), roster or a_roster(nodes)
    async with trio.open_nursery() as nursery:
        walkers = [a_walker(net, n, node, roster) for n, node in enumerate(nodes, 1)]
        for walker in walkers:
            await start(nursery, walker.place, walker.about)
        yield walkers
        nursery.cancel_scope.cancel()


async def join_up(walkers, pairs):
    for one, other in pairs:
        await walkers[one].place.meet(walkers[other].place)


def a_record(node, number, places=(), now=NOW_MS):
    """The record of this number, as its node may make it."""
    key = node.speaker.key
    return Record.make(key, MESH, places, BOTH, now_ms=now, last_seq=number - 1)


# --- reaching everybody ---------------------------------------------------------------------------


def test_all_know_of_all_and_of_every_move():
    async def main():
        async with walking([ANN, BOB, CYD, DOT]) as walkers:
            await join_up(walkers, pairwise(range(4)))
            await until(lambda: all(len(one.about.book) == 4 for one in walkers))
            await pass_time(3)
            ann, *others = walkers
            ann.at[:] = [local("10.7.7.7")]
            ann.about.refresh()
            there = Address("10.7.7.7", 4_000)
            began = trio.current_time()
            when = await until(lambda: all(one.knows(ann, there) for one in others))
            assert when - began < 1
            assert Way(there) in others[2].about.ways(ann.id)

    in_virtual_time(main)


@pytest.mark.slow
def test_in_a_mesh_of_thirty_a_move_is_known_within_seconds():
    async def main():
        async with walking(NODES) as walkers:
            await join_up(walkers, pairwise(range(30)))
            await join_up(walkers, [(n, (n + 10) % 30) for n in range(0, 30, 3)])
            await until(lambda: all(len(one.about.book) == 30 for one in walkers))
            mover = walkers[7]
            mover.at[:] = [local("10.9.9.9")]
            mover.about.refresh()
            began = trio.current_time()
            there = Address("10.9.9.9", 4_000)
            when = await until(lambda: all(one.knows(mover, there) for one in walkers))
            assert when - began < 5

    in_virtual_time(main)


def test_who_changes_all_the_time_is_passed_on_once_a_second_and_the_last_word_arrives():
    async def main():
        async with walking([ANN, BOB, CYD]) as walkers:
            ann, bob, cyd = walkers
            await join_up(walkers, [(0, 1), (1, 2)])
            await pass_time(3)
            heard = []
            take = cyd.about.book.take_untrusted
            cyd.about.book.take_untrusted = lambda data, now: heard.append(data) or take(data, now)
            for n in range(100):
                ann.at[:] = [local(f"10.5.0.{n + 1}")]
                ann.about.refresh()
                await pass_time(0.05)
            for n in range(4):  # more than may ever be told at once: the last one has to wait
                ann.at[:] = [local(f"10.6.0.{n + 1}")]
                ann.about.refresh()
            await until(lambda: cyd.knows(ann, Address("10.6.0.4", 4_000)), 4)
            assert len(heard) <= 5 + 3 + 3  # a second each, and what may come at once
            assert bob.knows(ann, Address("10.6.0.4", 4_000))

    in_virtual_time(main)


def test_a_slow_link_gets_the_newest_once():
    async def main():
        async with walking([ANN, BOB]) as walkers:
            ann, bob = walkers
            await join_up(walkers, [(0, 1)])
            await pass_time(3)
            link = ann.place.links.get(bob.id)
            talk = ann.about._talks[link]
            told = []

            async def slow(_name, data):
                told.append(Record.open_untrusted(data))
                await pass_time(10)

            link.notify = slow
            for n in range(30):
                ann.at[:] = [local(f"10.5.0.{n + 1}")]
                ann.about.refresh()
                await pass_time(1)
            assert len(talk.owed) <= 1
            await pass_time(20)
            assert len(told) <= 6
            assert local("10.5.0.30") in told[-1].places

    in_virtual_time(main)


def test_records_do_not_go_back_where_they_came_from():
    async def main():
        async with walking([ANN, BOB, CYD]) as walkers:
            ann, bob, cyd = walkers
            await join_up(walkers, [(0, 1), (1, 2)])
            await pass_time(3)
            told = []
            for one, other in ((bob, ann), (cyd, bob)):
                one.place.links.get(other.id).notify = lambda *word: told.append(word)
            ann.at[:] = [local("10.5.0.1")]
            ann.about.refresh()
            await pass_time(3)
            assert cyd.knows(ann, Address("10.5.0.1", 4_000))
            assert told == []

    in_virtual_time(main)


def test_our_own_record_is_made_anew_before_it_ends(monkeypatch):
    monkeypatch.setattr(limits, "RECORD_TTL_SECONDS", 600)

    async def main():
        async with walking([ANN, BOB]) as walkers:
            ann, bob = walkers
            await join_up(walkers, [(0, 1)])
            ann.place.links.keep(bob.id, [bob.place.way()])
            await pass_time(3)
            before = bob.about.book.of(ann.id, now_ms())
            await pass_time(limits.RECORD_TTL_SECONDS / 3 + 5)
            after = bob.about.book.of(ann.id, now_ms())
            assert after.seq > before.seq
            assert after.places == before.places

    in_virtual_time(main)


# --- files and clocks -----------------------------------------------------------------------------


def test_after_its_file_was_lost_a_node_learns_all_again():
    async def main():
        net, roster = Net(), a_roster([ANN, BOB, CYD])
        async with trio.open_nursery() as nursery:
            walkers = [a_walker(net, n, node, roster) for n, node in enumerate([ANN, BOB, CYD], 1)]
            for walker in walkers:
                await start(nursery, walker.place, walker.about)
            await join_up(walkers, [(0, 1), (1, 2)])
            await until(lambda: len(walkers[0].about.book) == 3)
            walkers[0].place.scope.cancel()
            await pass_time(1)
            again = a_walker(net, 1, ANN.restarted(), roster)
            await start(nursery, again.place, again.about)
            assert len(again.about.book) == 1
            await again.place.meet(walkers[1].place)
            await until(lambda: len(again.about.book) == 3)
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


def test_a_clock_that_was_put_back_does_not_make_a_node_fall_behind_itself():
    """Others hold a record of higher number; it hears of it from them and goes beyond."""

    async def main():
        net, roster = Net(), a_roster([ANN, BOB])
        async with trio.open_nursery() as nursery:
            back = 3_600_000
            ann = a_walker(net, 1, ANN, roster, clock=lambda: now_ms() - back)
            bob = a_walker(net, 2, BOB, roster)
            old = a_record(ANN, NOW_MS, [local("10.99.0.1")])
            assert bob.about.book.take_untrusted(old.data, NOW_MS)
            for walker in (ann, bob):
                await start(nursery, walker.place, walker.about)
            await ann.place.meet(bob.place)
            await until(lambda: bob.knows(ann, Address("10.0.0.1", 4_000)))
            assert bob.about.book.of(ANN.id, NOW_MS).seq > old.seq
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


def test_what_the_file_held_is_known_at_once():
    async def main():
        async with walking([ANN, BOB]) as walkers:
            await join_up(walkers, [(0, 1)])
            await until(lambda: len(walkers[0].about.book) == 2)
            await pass_time(limits.RECORDS_SAVE_SECONDS)
            _, data = walkers[0].files[-1]
            again = a_walker(Net(), 1, ANN, a_roster([ANN, BOB]))
            again.about.book.load_untrusted(data, now_ms())
            assert again.about.ways(BOB.id)[0].address == Address("10.0.0.2", 4_000)
            again.about._renew()
            assert again.about._record.seq > walkers[0].about._record.seq

    in_virtual_time(main)


def test_however_many_records_come_the_file_is_written_seldom():
    async def main():
        async with walking([ANN, BOB, CYD]) as walkers:
            ann, _, cyd = walkers
            await join_up(walkers, [(0, 1), (1, 2)])
            for n in range(400):
                ann.at[:] = [local(f"10.5.{n // 200}.{n % 200 + 1}")]
                ann.about.refresh()
                await pass_time(0.05)
            await pass_time(10)
            for walker in walkers:
                times = [at for at, _ in walker.files]
                assert all(b - a >= limits.RECORDS_SAVE_SECONDS for a, b in pairwise(times))
            assert len(cyd.files) > 3
            last = a_walker(Net(), 1, CYD, a_roster([ANN, BOB, CYD]))
            last.about.book.load_untrusted(cyd.files[-1][1], now_ms())
            assert last.knows(ann, Address("10.5.1.200", 4_000))

    in_virtual_time(main)


def test_a_disk_that_is_full_costs_the_file_and_nothing_else(caplog):
    async def main():
        async with walking([ANN, BOB]) as walkers:
            ann, bob = walkers

            async def fails(_data):
                raise OSError(28, "No space left on device")

            ann.about._save = fails
            await join_up(walkers, [(0, 1)])
            await pass_time(30)
            assert ann.knows(bob, Address("10.0.0.2", 4_000))

    with caplog.at_level(logging.WARNING):
        in_virtual_time(main)
    assert "No space left" in caplog.text


# --- what others say of us ------------------------------------------------------------------------


def test_where_peers_see_us_is_told_and_a_liar_does_not_speak_for_all():
    async def main():
        async with walking(NODES[:8]) as walkers:
            ann, *others = walkers
            await join_up(walkers, [(n, 0) for n in range(1, 8)])
            links = [ann.place.links.get(other.id) for other in others]
            true = Address("203.0.113.1", 4_000)
            for link in links[:4]:
                ann.about.saw(link, true)
            for n in range(50):
                ann.about.saw(links[5], Address("198.51.100.1", n + 1))
            seen = {p.address for p in ann.about._record.places if p.kind == PlaceKind.SEEN}
            assert true in seen
            assert len(seen) <= limits.RECORD_SEEN_MAX
            assert len([a for a in seen if a.host == "198.51.100.1"]) == 1
            links[5].close("gone")
            await pass_time(1)
            assert links[5] not in ann.about._seen

    in_virtual_time(main)


def test_the_kernel_knows_which_address_it_would_send_from():
    for address in own_addresses(4_000):
        assert address.port == 4_000
        assert Record.make(
            ANN.speaker.key, MESH, [Place(PlaceKind.LOCAL, address)], BOTH, now_ms=1
        ).places


def test_what_is_offered_is_known_everywhere_and_told_once():
    async def main():
        async with walking([ANN, BOB, CYD]) as walkers:
            ann, _, cyd = walkers
            await join_up(walkers, pairwise(range(3)))
            await until(lambda: all(len(one.about.book) == 3 for one in walkers))
            assert cyd.about.book.of(ann.id, now_ms()).offer_bytes == 0
            await pass_time(3)
            ann.about.offer(10**12)
            await until(lambda: cyd.about.book.of(ann.id, now_ms()).offer_bytes == 10**12)
            before = ann.about._record
            ann.about.offer(10**12)
            ann.about.refresh()
            assert ann.about._record is before
            ann.at[:] = [local("10.7.7.7")]
            ann.about.refresh()  # and another place changes nothing of it
            assert ann.about._record.offer_bytes == 10**12

    in_virtual_time(main)


# --- what to dial ---------------------------------------------------------------------------------


def test_the_address_that_worked_is_tried_first_until_its_node_has_moved():
    async def main():
        async with walking([ANN, BOB]) as walkers:
            ann, bob = walkers
            bob.at[:] = [local("10.0.0.9"), local("10.0.0.2")]
            bob.about.refresh()
            await join_up(walkers, [(0, 1)])
            await until(lambda: len(ann.about.book) == 2)
            ways = [way.address.host for way in ann.about.ways(BOB.id)]
            assert ways == ["10.0.0.2", "10.0.0.9"]
            bob.at[:] = [local("10.0.0.9")]
            bob.about._seen.clear()
            bob.about.refresh()
            await pass_time(3)
            ways = [way.address.host for way in ann.about.ways(BOB.id)]
            assert ways == ["10.0.0.9"]

    in_virtual_time(main)


def test_hints_count_where_nothing_else_is_known():
    async def main():
        async with walking([ANN, BOB]) as (ann, bob):
            assert ann.about.ways(BOB.id) == []
            ann.about.hint(BOB.id, [Address("10.0.0.2", 4_000)])
            link = await ann.place.links.reach(BOB.id, ann.about.ways(BOB.id))
            assert link.node == bob.id

    in_virtual_time(main)


def test_what_was_measured_decides_how_to_dial():
    async def main():
        there, other = Address("10.0.0.2", 4_000), Address("10.0.0.3", 4_000)
        kinds, sizes = {}, {}
        hints = Hints(kinds.get, sizes.get)
        ann = a_walker(Net(), 1, ANN, a_roster([ANN, BOB]), hints=hints)
        ann.about.hint(BOB.id, [there, other])
        assert ann.about.ways(BOB.id) == [Way(there), Way(other)]
        kinds[BOB.id], sizes[there] = Kind.AIOQUIC, 1_472
        assert ann.about.ways(BOB.id) == [
            Way(there, Kind.AIOQUIC, 1_472), Way(other, Kind.AIOQUIC), Way(there, Kind.AIOQUIC)
        ]  # fmt: skip
        key, now = BOB.speaker.key, now_ms()
        only = Record.make(key, MESH, [], Engines.QH3, now_ms=now)
        ann.about.book.take_untrusted(only.data, now)
        assert {way.kind for way in ann.about.ways(BOB.id)} == {Kind.QH3}
        only = Record.make(key, MESH, [], Engines.AIOQUIC, now_ms=now + 1)
        ann.about.book.take_untrusted(only.data, now + 1)
        kinds.clear()
        assert {way.kind for way in ann.about.ways(BOB.id)} == {Kind.AIOQUIC}
        sizes.update({Address(f"10.0.1.{n}", 1): 1_472 for n in range(20)})
        ann.about.hint(BOB.id, list(sizes))
        assert len(ann.about.ways(BOB.id)) <= limits.DIAL_WAYS_MAX

    in_virtual_time(main)


# --- hostile members ------------------------------------------------------------------------------


def test_who_passes_on_what_its_node_has_not_signed_is_cut_off():
    async def main():
        async with walking([ANN, BOB, CYD]) as walkers:
            ann, bob, _ = walkers
            await join_up(walkers, [(0, 1)])
            link = ann.place.links.get(bob.id)
            payload, _ = codec.decode_untrusted(a_record(CYD, NOW_MS + 5).data)
            forged = BOB.speaker.key.sign(SignLabel.ADDRESS_RECORD, payload)
            await bob.place.links.get(ann.id).notify(NOTICE, codec.encode([payload, forged]))
            await until(link.over.is_set)
            assert link.word == "forged"
            assert len(ann.about.book) == 2

    in_virtual_time(main)


def test_what_no_good_record_is_harms_nobody():
    async def main():
        async with walking([ANN, BOB, CYD]) as walkers:
            ann, bob, cyd = walkers
            await join_up(walkers, [(0, 1)])
            await pass_time(3)
            link = bob.place.links.get(ann.id)
            future = a_record(CYD, 1, now=NOW_MS + limits.RECORD_EARLY_MS_MAX + 60_000).data
            over = a_record(CYD, 1, now=NOW_MS - limits.RECORD_TTL_SECONDS * 1_000).data
            stranger = a_record(a_node("nobody"), 1).data
            for word in (b"", b"x" * 2_000, future, over, stranger, 7):
                await link.notify(NOTICE, word)
            await link.notify(NOTICE)
            await pass_time(1)
            assert len(ann.about.book) == 2
            assert ann.place.links.get(bob.id)
            good = a_record(CYD, 1, [local("10.0.0.3")]).data
            await link.notify(NOTICE, good)
            await until(lambda: ann.knows(cyd, Address("10.0.0.3", 4_000)))

    in_virtual_time(main)


def test_one_bad_record_in_an_answer_does_not_hide_the_others():
    async def main():
        async with walking([ANN, BOB, CYD]) as walkers:
            ann, bob, cyd = walkers
            early = a_record(DOT, 1, now=NOW_MS + limits.RECORD_EARLY_MS_MAX + 60_000).data
            good = a_record(CYD, 1, [local("10.0.0.3")]).data

            async def answer(_link, _arguments):
                return ([early, good],)

            bob.place.links.services.requests[REQUEST] = answer
            await join_up(walkers, [(0, 1)])
            await until(lambda: ann.knows(cyd, Address("10.0.0.3", 4_000)))

    in_virtual_time(main)


@pytest.mark.slow
def test_a_flood_of_new_records_is_read_slowly_and_passed_on_seldom():
    async def main():
        async with walking([ANN, BOB, CYD]) as walkers:
            ann, bob, cyd = walkers
            await join_up(walkers, [(0, 1), (0, 2)])
            await pass_time(3)
            link, count = bob.place.links.get(ann.id), 3 * limits.RECORDS_CHECKED_PER_SECOND
            flood = [a_record(BOB, NOW_MS + 5_000 + n).data for n in range(count)]
            heard = []
            take = cyd.about.book.take_untrusted
            cyd.about.book.take_untrusted = lambda data, now: heard.append(data) or take(data, now)
            began = trio.current_time()
            for data in flood:
                await link.notify(NOTICE, data)
            last = flood[-1]
            when = await until(lambda: ann.about.book.of(BOB.id, now_ms()).data == last)
            assert when - began >= 1 - 0.1  # two seconds' worth are read at once, no more
            await until(lambda: heard and heard[-1] == last)
            assert len(heard) <= 5
            assert len(ann.files) <= 3

    in_virtual_time(main)


def test_who_was_removed_is_nowhere_any_more():
    async def main():
        roster = a_roster([ANN, BOB, CYD])
        async with walking([ANN, BOB, CYD], roster) as walkers:
            ann, bob, cyd = walkers
            await join_up(walkers, [(0, 1), (1, 2)])
            await until(lambda: ann.knows(cyd, Address("10.0.0.3", 4_000)))
            roster.remove(CYD.id)
            for walker in (ann, bob):
                walker.place.links.drop(CYD.id, "revoked")
                assert walker.about.ways(CYD.id) == []
            await pass_time(1)
            again = a_record(CYD, NOW_MS + 60_000, [local("10.0.0.3")])
            await bob.place.links.get(ann.id).notify(NOTICE, again.data)
            await pass_time(1)
            assert ann.about.book.of(CYD.id, now_ms()) is None
            assert again.data not in ann.about.book.dump(now_ms())

    in_virtual_time(main)


@pytest.mark.parametrize("arguments", [(), (b"", b""), (b"", b"", 1), (b"", bytes(33), ())])
def test_questions_that_are_none_get_no_answer(arguments):
    async def main():
        async with walking([ANN, BOB]) as walkers:
            ann, bob = walkers
            link = await ann.place.meet(bob.place)
            with pytest.raises(Exception, match="malformed"):
                await link.request(REQUEST, *arguments)

    in_virtual_time(main)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_large_mesh_questions_and_answers_still_fit(monkeypatch):
    """With small pages here; the bounds themselves are checked below."""
    monkeypatch.setattr(limits, "RECORD_NUMBERS_MAX", 20)
    monkeypatch.setattr(limits, "RECORDS_TOLD_MAX", 7)
    many = [a_node(f"far {n}") for n in range(100)]

    async def main():
        roster = a_roster([ANN, BOB, *many])
        async with walking([ANN, BOB], roster) as walkers:
            ann, bob = walkers
            for n, node in enumerate(many):
                knows = [(ann,), (bob,), (ann, bob)][n % 3]
                for walker in knows:
                    walker.about.book.take_untrusted(a_record(node, 1).data, now_ms())
            await join_up(walkers, [(0, 1)])
            await until(lambda: len(ann.about.book) == len(bob.about.book) == 102)

    in_virtual_time(main)


def test_the_largest_question_and_answer_fit_a_frame():
    around = 64
    numbers = [(bytes(32), (1 << 63) - 1)] * limits.RECORD_NUMBERS_MAX
    question = codec.encode([1 << 62, REQUEST, [bytes(32), bytes(32), numbers]])
    assert len(question) + around <= limits.LINK_FRAME_BYTES_MAX
    records = [bytes(limits.RECORD_BYTES_MAX)] * limits.RECORDS_TOLD_MAX
    answer = codec.encode([1 << 62, [records]])
    assert len(answer) + around <= limits.LINK_FRAME_BYTES_MAX


def test_watchers_hear_of_every_move_of_others():
    async def main():
        async with walking([ANN, BOB]) as walkers:
            ann, bob = walkers
            heard = []
            ann.about.watch(heard.append)
            await join_up(walkers, [(0, 1)])
            await pass_time(3)
            heard.clear()
            bob.at[:] = [local("10.9.9.9")]
            bob.about.refresh()
            await pass_time(3)
            ann.about.refresh()
            assert heard == [BOB.id]

    in_virtual_time(main)
