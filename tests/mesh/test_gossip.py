"""Operations reach everybody, are told only once kept, and put out whom they put out at once."""

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio

from core import codec, limits
from core.errors import PortalError, Unavailable
from mesh import frames
from mesh.frames import FrameType
from mesh.gossip import NOTICE, Gossip
from mesh.hello import News
from mesh.link import Link
from mesh.members import sync
from mesh.members.bodies import Kind, Numbered, Reason
from mesh.members.membership import Changes, Membership
from mesh.members.opset import SHORT_ID_BYTES
from mesh.recollection import Recollection
from tests.support.memberships import NOW_MS, Replica, a_mesh, person, seeded_key
from tests.support.neighbours import Neighbour, a_neighbour, node_of, pass_time, start, until
from tests.support.wires import Net, in_virtual_time

ANN, BOB, CYD, DOT = (person(name) for name in ("ann", "bob", "cyd", "dot"))
OTHERS = [person(f"member {n}") for n in range(50)]


@dataclass
class Speaker:
    """A node that gossips."""

    replica: Replica
    place: Neighbour
    gossip: Gossip
    kept: list[bytes] = field(default_factory=list)  # ids on its disk, in order
    told: list[Changes] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)

    @property
    def members(self) -> Membership:
        return self.replica.membership

    async def write(self, number: int = 1) -> bytes:
        """Something new of its own, whatever it is worth; its id."""
        changes = self.author(number)
        await self.gossip.publish(changes)
        return changes.added[0].id

    def author(self, number: int, size: int = 32) -> Changes:
        """An operation that only this node knows."""
        body = Numbered(number, bytes(size))
        return self.members.receive_untrusted([self.replica.author.next(Kind.EPOCH, body, NOW_MS)])

    def link(self, other: "Speaker") -> Link:
        found = self.place.links.get(other.place.id)
        assert found
        return found


class Disk:
    """Where operations are kept."""

    def __init__(self):
        self.fails = None
        self.slow_s = 0.0
        self.open = None  # an event: writing waits for it

    async def save(self, speaker, changes):
        if self.open is not None:
            await self.open.wait()
        await pass_time(self.slow_s)
        if self.fails:
            raise self.fails
        speaker.kept += [op.id for op in changes.added]


@asynccontextmanager
async def gossiping(replica, people, disks=(), copies=None):
    """Nodes of these people, each with a copy of all that is known; or of what was, once.

    `copies` says of some whether their files are as they left them, and what those hold.
    """
    copies = copies or {}
    net = Net()
    speakers = []
    disks = dict(disks)
    async with trio.open_nursery() as nursery:
        for n, who in enumerate(people, 1):
            own, past = replica.of(who), None
            if who.name in copies:
                is_whole, old = copies[who.name]
                own = old.of(who)
                past = Recollection(own.membership, who.node, is_whole=is_whole)
            members, disk = own.membership, disks.get(who.name, Disk())
            wire = net.wire(f"10.0.{n // 250}.{n % 250 + 1}")
            place = a_neighbour(wire, node_of(who), members.roster(), news=members.news)

            async def save(changes, disk=disk, n=n):
                await disk.save(speakers[n - 1], changes)

            speaker = Speaker(own, place, Gossip(place.links, members, save, past=past))
            speaker.gossip.watch(speaker.told.append)
            speakers.append(speaker)
            await start(nursery, place, Guarded(speaker))
        yield speakers
        nursery.cancel_scope.cancel()


class Guarded:
    """Runs the gossip of a node; its failure is kept to look at."""

    def __init__(self, speaker):
        self.speaker = speaker

    async def run(self, *, task_status):
        try:
            await self.speaker.gossip.run(task_status=task_status)
        except PortalError as e:
            self.speaker.failed.append(e)


async def join_up(speakers, pairs):
    for one, other in pairs:
        await speakers[one].place.meet(speakers[other].place)


def agree(speakers):
    return len({speaker.members.set.vector_hash() for speaker in speakers}) == 1


def a_trio():
    replica = a_mesh(ANN)
    for who in (BOB, CYD):
        replica.bring(who)
    return replica, [ANN, BOB, CYD]


# --- becoming equal -------------------------------------------------------------------------------


def test_what_is_written_is_told_to_all_and_kept_by_all_first():
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, cyd):
            await join_up([ann, bob, cyd], [(0, 1), (1, 2)])
            op_id = await ann.write()
            assert ann.kept == [op_id]
            await until(lambda: cyd.told)
            assert bob.kept == cyd.kept == [op_id]
            assert [op.id for op in cyd.told[0].added] == [op_id]
            assert agree([ann, bob, cyd])

    in_virtual_time(main)


def test_a_link_that_comes_up_brings_both_what_they_miss():
    async def main():
        replica, people = a_trio()
        async with gossiping(replica, people) as (ann, bob, _):
            await ann.write()
            await bob.write()
            await join_up([ann, bob], [(0, 1)])
            await until(lambda: agree([ann, bob]))
            await pass_time(1)
            assert len(ann.kept) == len(bob.kept) == 2

    in_virtual_time(main)


def test_several_bring_the_same_and_it_is_kept_once():
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, cyd):
            await join_up([ann, bob, cyd], [(0, 1), (1, 2), (0, 2)])
            op_id = await ann.write()
            await pass_time(1)
            assert ann.kept == bob.kept == cyd.kept == [op_id]
            assert [len(one.told) for one in (ann, bob, cyd)] == [1, 1, 1]

    in_virtual_time(main)


def test_links_that_were_there_before_are_talked_to_as_well():
    async def main():
        replica, people = a_trio()
        net = Net()
        async with trio.open_nursery() as nursery:
            places = []
            for n, who in enumerate(people[:2]):
                members = replica.of(who).membership
                wire = net.wire(f"10.0.0.{n + 1}")
                places.append((a_neighbour(wire, node_of(who), members.roster()), members))
                await start(nursery, places[-1][0])
            await places[0][0].meet(places[1][0])
            replica.bring(DOT)
            places[0][1].receive_untrusted([op.data for op in replica.membership.set.ops])

            async def save(_changes):
                pass

            for place, members in places:
                await nursery.start(Gossip(place.links, members, save).run)
            place, members = places[0]
            news = sync.tell_frame(members)
            await place.links.all()[0].notify(NOTICE, news)
            await until(lambda: places[1][1].member(DOT.node))
            nursery.cancel_scope.cancel()

    in_virtual_time(main)


@pytest.mark.slow
def test_a_push_that_was_lost_is_made_good_within_a_minute():
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            ann.place.links.keep(bob.place.id, [bob.place.way()])
            # Known here, and never told: as if the push had been lost.
            ann.author(1)
            await until(lambda: agree([ann, bob]), limits.GOSSIP_SECONDS + 1)
            assert len(bob.kept) == 1

    in_virtual_time(main)


def test_telling_does_not_keep_a_link_that_nobody_wants():
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            link = ann.link(bob)
            await pass_time(limits.LINK_UNUSED_SECONDS + limits.GOSSIP_SECONDS)
            assert link.over.is_set()
            assert link.word == "unused"

    in_virtual_time(main)


@pytest.mark.slow
def test_two_that_send_each_other_megabytes_do_not_wait_in_a_circle():
    async def main():
        replica = a_mesh(ANN)
        replica.bring(BOB)
        async with gossiping(replica, [ANN, BOB]) as (ann, bob):
            for one, count in ((ann, 1_500), (bob, 1_500)):
                for number in range(1, count + 1):
                    one.author(number, 900)
            await join_up([ann, bob], [(0, 1)])
            await until(lambda: agree([ann, bob]), 30)
            assert len(ann.members.set) == 3_000 + len(replica.membership.set)
            assert ann.link(bob)  # the same link still

    in_virtual_time(main)


# --- what is kept, and what is told ---------------------------------------------------------------


def test_nothing_is_told_before_it_is_on_disk():
    async def main():
        disk = Disk()
        replica, people = a_trio()
        async with gossiping(replica, people, {"ann": disk}.items()) as (ann, bob, cyd):
            await join_up([ann, bob, cyd], [(0, 1), (0, 2)])
            disk.open = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ann.write)
                await pass_time(1)
                # Cyd asks for everything in between, and waits for the disk as well.
                ask = codec.encode([1, int(sync.Message.WANT), []])
                cyd.gossip._talks[cyd.link(ann)].exchange._asked = sync.Message.WANT
                await cyd.link(ann).notify(NOTICE, ask)
                await pass_time(3)
                assert bob.kept == cyd.kept == ann.kept == []
                assert len(cyd.members.set) == len(replica.membership.set)
                assert not ann.told
                disk.open.set()
            await until(lambda: bob.kept and cyd.kept)

    in_virtual_time(main)


def test_a_full_disk_ends_it_with_one_clear_error_and_nothing_was_told():
    async def main():
        disk = Disk()
        async with gossiping(*a_trio(), {"bob": disk}.items()) as (ann, bob, cyd):
            await join_up([ann, bob, cyd], [(0, 1), (1, 2)])
            disk.fails = OSError(28, "No space left on device", "/somewhere/members")
            await ann.write()
            await until(lambda: bob.failed)
            (error,) = bob.failed
            assert str(error) == (
                "/somewhere/members: the list of members cannot be written: No space left on "
                "device (make room, or see to the disk, and start again)"
            )
            await pass_time(2 * limits.GOSSIP_SECONDS)
            assert cyd.kept == [] and not cyd.told and not bob.told  # noqa: PT018 - one thought
            with pytest.raises(PortalError, match="cannot be written"):
                await bob.write(2)

    in_virtual_time(main)


def test_who_publishes_is_told_that_it_was_not_kept():
    async def main():
        disk = Disk()
        async with gossiping(*a_trio(), {"ann": disk}.items()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            disk.fails = PortalError("no")
            with pytest.raises(PortalError, match="no"):
                await ann.write()
            await pass_time(1)
            assert ann.failed == [disk.fails]
            assert bob.kept == []

    in_virtual_time(main)


def test_after_the_end_nothing_is_taken():
    async def main():
        async with gossiping(*a_trio()) as (ann, _bob, _cyd):
            ann.place.scope.cancel()
            await pass_time(0.1)
            with pytest.raises(Unavailable):
                await ann.write()

    in_virtual_time(main)


def test_a_link_that_ends_while_the_disk_is_slow_loses_nothing():
    async def main():
        disk = Disk()
        async with gossiping(*a_trio(), {"bob": disk}.items()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            disk.open = trio.Event()
            first = await ann.write(1)
            second = await ann.write(2)
            await until(lambda: len(bob.members.set) == len(ann.members.set))
            ann.link(bob).close("gone")
            await pass_time(1)
            disk.open.set()
            await pass_time(1)
            assert bob.kept == [first, second]

    in_virtual_time(main)


def test_links_are_not_read_while_the_disk_is_far_behind():
    async def main():
        disk = Disk()
        async with gossiping(*a_trio(), {"bob": disk}.items()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            disk.open = trio.Event()
            for number in range(1, 2 * limits.GOSSIP_WRITES_MAX):
                await ann.write(number)
            await pass_time(1)
            waiting = bob.gossip._to_write.statistics().current_buffer_used
            assert waiting == limits.GOSSIP_WRITES_MAX + 1
            disk.open.set()
            await until(lambda: len(bob.kept) == len(ann.kept))
            assert bob.kept == ann.kept

    in_virtual_time(main)


# --- putting out ----------------------------------------------------------------------------------


def test_who_is_barred_loses_the_link_before_the_disk_is_written():
    async def main():
        disk = Disk()
        async with gossiping(*a_trio(), {"bob": disk}.items()) as (ann, bob, cyd):
            await join_up([ann, bob, cyd], [(0, 1), (1, 2)])
            disk.open = trio.Event()
            link = bob.link(cyd)
            changes = ann.replica.author.revoke_user(CYD.user, Reason.REMOVED, NOW_MS)
            await ann.gossip.publish(changes)
            await until(lambda: bob.members.roster().member(CYD.node) is None)
            assert link.over.is_set()  # in the same turn
            assert bob.kept == []
            with pytest.raises(PortalError):
                await cyd.place.links.reach(bob.place.id, [bob.place.way()])

    in_virtual_time(main)


def test_who_tells_of_its_own_removal_is_put_out_too():
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, cyd):
            await join_up([ann, bob, cyd], [(0, 1)])
            removal = ann.replica.author.revoke_user(CYD.user, Reason.REMOVED, NOW_MS)
            cyd.replica.take(removal.added[0].data)
            await cyd.place.meet(bob.place)
            link = bob.link(cyd)
            data = sync.push_frames(removal)[0]
            await cyd.link(bob).notify(NOTICE, data)
            await until(link.over.is_set)
            assert bob.place.links.get(cyd.place.id) is None
            assert link.word == "revoked"

    in_virtual_time(main)


@pytest.mark.slow
def test_a_removal_reaches_fifty_nodes_within_a_second():
    """Each has few links, as in a real mesh; 20 ms from one to the next."""

    async def main():
        replica = a_mesh(ANN)
        for who in OTHERS:
            replica.bring(who)
        people = [ANN, *OTHERS]
        async with gossiping(replica, people) as speakers:
            count = len(speakers)
            pairs = set(pairwise(range(count)))
            pairs |= {(n, (n * 7 + 3) % count) for n in range(count) if (n * 7 + 3) % count > n}
            await join_up(speakers, sorted(pairs))
            speakers[0].place.wire._net.delay_s = 0.02
            victim = OTHERS[25]
            linked = [one for one in speakers if one.place.links.get(victim.node)]
            assert len(linked) >= 2
            began = trio.current_time()
            changes = replica.of(ANN).author.revoke_user(victim.user, Reason.REMOVED, NOW_MS)
            own = speakers[0].members.receive_untrusted([changes.added[0].data])
            await speakers[0].gossip.publish(own)
            others = [one for one in speakers if one.place.id != victim.node]
            reached = await until(
                lambda: (
                    all(one.kept for one in others)
                    and not any(one.place.links.get(victim.node) for one in others)
                )
            )
            assert reached - began <= 1
            assert all(one.place.links.get(victim.node) is None for one in linked)

    in_virtual_time(main)


# --- hostile members ------------------------------------------------------------------------------


def test_who_asks_again_without_waiting_is_cut_off():
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            link, there = ann.link(bob), bob.link(ann)
            ask = codec.encode([1, int(sync.Message.WANT_ALL), b""])
            for _ in range(3):
                await there.notify(NOTICE, ask)
            await until(link.over.is_set)
            assert link.word == "asks too much"

    in_virtual_time(main)


@pytest.mark.slow
def test_who_asks_for_everything_again_and_again_waits_for_it():
    """And what it costs us is bounded: one answer at a time, one in a second."""

    async def main():
        async with gossiping(*a_trio()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            link, there = ann.link(bob), bob.link(ann)
            ask = codec.encode([1, int(sync.Message.WANT), []])
            answers, began = 0, trio.current_time()
            exchange = bob.gossip._talks[there].exchange
            for _ in range(20):
                exchange._asked = sync.Message.WANT_ALL  # so that what comes is taken
                await there.notify(NOTICE, ask)
                await until(lambda: exchange._asked is None)
                answers += 1
            assert answers == 20
            assert trio.current_time() - began >= 17  # two at once, then one in a second
            assert not link.over.is_set()

    in_virtual_time(main)


def test_who_does_not_read_is_let_go_when_its_box_is_full():
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            link = ann.link(bob)
            talk = ann.gossip._talks[link]
            for _ in range(3 * limits.GOSSIP_FRAMES_MAX):
                ann.gossip._put(talk, (bytes(200_000),))
            assert link.over.is_set()
            assert link.word == "too slow"
            await pass_time(0.1)
            assert not ann.gossip._talks

    in_virtual_time(main)


@pytest.mark.parametrize(
    "word", [b"", b"\x91\x01", codec.encode([1, 9, 0]), codec.encode([1, 4, 1, [], None]), "text"]
)
def test_what_is_not_understood_harms_nobody(word, caplog):
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            await bob.link(ann).notify(NOTICE, word)
            await pass_time(1)
            await ann.write()
            await until(lambda: bob.kept)

    with caplog.at_level(logging.WARNING):
        in_virtual_time(main)
    assert "not understood" in caplog.text


def test_a_question_that_is_not_understood_ends_the_link():
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            link = ann.link(bob)
            await bob.link(ann).notify(NOTICE, codec.encode([1, 2, [[1]]]))
            await until(link.over.is_set)
            assert link.word == "malformed"

    in_virtual_time(main)


def test_who_passes_on_what_nobody_signed_is_cut_off():
    async def main():
        async with gossiping(*a_trio()) as (ann, bob, _):
            await join_up([ann, bob], [(0, 1)])
            link = ann.link(bob)
            data = bytearray(ann.replica.author.next(Kind.EPOCH, Numbered(1, bytes(32)), NOW_MS))
            data[-1] ^= 1
            frame = codec.encode([1, 4, 0, [bytes(data)], None])
            await bob.link(ann).notify(NOTICE, frame)
            await until(link.over.is_set)
            assert link.word == "forged"
            assert ann.kept == []

    in_virtual_time(main)


# --- sizes ----------------------------------------------------------------------------------------


def fits(frame):
    return frames.encode(FrameType.NOTICE, NOTICE, (frame,))


def test_every_word_fits_a_frame_of_the_link_at_the_bounds():
    key = seeded_key("somebody")
    tip = (key.public, 2**32 - 1, bytes(32))
    fits(codec.encode([1, 2, [tip] * sync._VECTOR_TIPS_MAX]))
    fits(codec.encode([1, 3, bytes(SHORT_ID_BYTES * limits.OPERATIONS_MAX)]))
    news = News((bytes(32),) * limits.HELLO_HEADS_MAX, bytes(32), 2**64 - 1)
    fits(codec.encode([1, 1, news]))
    most = limits.ADMISSION_BYTES_MAX + limits.OPERATION_COSIGNS_MAX * (
        limits.OPERATION_COSIGN_BYTES_MAX
    )
    for size in (1, 40, 255, 256, 2_048, most):
        for frame in sync._frames([bytes(size)] * (400_000 // size)):
            fits(sync._ops_frame(sync.Flag.END, frame, news))
